//! The entries of a memtable as they lie in its arena, one behind the other.
//!
//! ```text
//! record := trailer u64 | value len u32 | key len u16 | key | value     not aligned
//! ```

use std::ptr;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use crate::base::key::KEY_LEN_MAX;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::prefetch::CACHE_LINE;
use crate::base::prefetch::prefetch_at;
use crate::memtable::arena::Arena;
use crate::memtable::arena::FreeChunks;

const _: () = assert!(KEY_LEN_MAX <= u16::MAX as usize, "the length of a key is kept in 16 bits");

#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Header {
    trailer: u64,
    value_len: u32,
    key_len: u16,
}

/// Header, key, and a short value.
const PREFETCH_LEN: usize = 3 * CACHE_LINE;

/// Where a record lies. Its bytes never change, and live as long as the arena.
#[derive(Clone, Copy)]
pub(super) struct Record(NonNull<u8>);

#[expect(unsafe_code, reason = "the pointer keeps Record from being Send by itself")]
// SAFETY: the bytes are immutable, so any thread may read them; they live as long as the arena.
unsafe impl Send for Record {}
#[expect(unsafe_code, reason = "the pointer keeps Record from being Sync by itself")]
// SAFETY: as for Send.
unsafe impl Sync for Record {}

impl Record {
    /// The record that [`Record::as_ptr`] said lies there.
    #[inline]
    pub(super) fn at(pointer: NonNull<u8>) -> Record {
        Record(pointer)
    }

    #[inline]
    pub(super) fn as_ptr(self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// Asks for the beginning of the record before it is needed.
    pub(super) fn prefetch(self) {
        prefetch_at(self.0.as_ptr(), PREFETCH_LEN);
    }

    #[expect(unsafe_code, reason = "reads arena memory")]
    #[inline]
    fn header(self) -> Header {
        // SAFETY: a record begins with its header, written before the Record was made.
        unsafe { self.0.cast::<Header>().read_unaligned() }
    }

    #[inline]
    pub(super) fn trailer(self) -> Trailer {
        Trailer(self.header().trailer)
    }

    /// Was it written before `other`?
    #[inline]
    pub(super) fn is_older_than(self, other: Record) -> bool {
        self.trailer() < other.trailer()
    }

    /// The key. The caller keeps the arena alive.
    #[expect(unsafe_code, reason = "reads arena memory")]
    #[inline]
    pub(super) fn key(&self) -> KeyRef<'_> {
        let header = self.header();
        // SAFETY: the key lies behind the header, in the same allocation.
        let key = unsafe { self.0.add(size_of::<Header>()) };
        // SAFETY: its bytes were initialized before the Record was made, never change, and live on
        // by the invariant of the arena.
        let key = unsafe { slice::from_raw_parts(key.as_ptr(), header.key_len.into()) };
        KeyRef::new(key, Trailer(header.trailer))
    }

    /// The value. The caller keeps the arena alive.
    #[expect(unsafe_code, reason = "reads arena memory")]
    #[inline]
    fn value(&self) -> &[u8] {
        let header = self.header();
        let before = size_of::<Header>() + usize::from(header.key_len);
        // SAFETY: the value lies behind the key, in the same allocation.
        let value = unsafe { self.0.add(before) };
        // SAFETY: as for the key.
        unsafe { slice::from_raw_parts(value.as_ptr(), header.value_len as usize) }
    }
}

/// The records of one memtable.
pub(super) struct Records(Arena);

impl Records {
    pub(super) fn new(free: Arc<FreeChunks>) -> Records {
        Records(Arena::new(free))
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Copies an entry into the arena. Requires: key and value within their limits.
    #[expect(unsafe_code, reason = "writes arena memory")]
    pub(super) fn store(&self, key: KeyRef<'_>, value: &[u8]) -> Record {
        debug_assert!(key.user.len() <= KEY_LEN_MAX);
        let header = Header {
            trailer: key.trailer.0,
            value_len: value.len() as u32,
            key_len: key.user.len() as u16,
        };
        let key_len = usize::from(header.key_len);
        let start = self.0.allocate(size_of::<Header>() + key_len + header.value_len as usize);
        // SAFETY: there is room for header, key and value, and nobody else knows of it.
        unsafe { start.cast::<Header>().write_unaligned(header) };
        // SAFETY: in the same allocation, as above.
        let bytes = unsafe { start.add(size_of::<Header>()) };
        // SAFETY: as above; the key has its place behind the header.
        unsafe { ptr::copy_nonoverlapping(key.user.as_ptr(), bytes.as_ptr(), key_len) };
        // SAFETY: in the same allocation, as above.
        let bytes = unsafe { bytes.add(key_len) };
        let value_len = header.value_len as usize;
        // SAFETY: as above; the value has its place behind the key.
        unsafe { ptr::copy_nonoverlapping(value.as_ptr(), bytes.as_ptr(), value_len) };
        Record(start)
    }

    /// The key of a record in this arena.
    #[expect(unsafe_code, reason = "reads arena memory")]
    #[expect(clippy::unused_self, reason = "the lifetime is what it is for")]
    #[inline]
    pub(super) fn key(&self, record: Record) -> KeyRef<'_> {
        let key = record.key();
        // SAFETY: by the invariant of the arena the record is in this one, which frees nothing
        // before it is dropped.
        let user = unsafe { slice::from_raw_parts(key.user.as_ptr(), key.user.len()) };
        KeyRef::new(user, key.trailer)
    }

    /// The value of a record in this arena.
    #[expect(unsafe_code, reason = "reads arena memory")]
    #[expect(clippy::unused_self, reason = "the lifetime is what it is for")]
    #[inline]
    pub(super) fn value(&self, record: Record) -> &[u8] {
        let value = record.value();
        // SAFETY: as for the key.
        unsafe { slice::from_raw_parts(value.as_ptr(), value.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn key(user: &[u8]) -> KeyRef<'_> {
        KeyRef::new(user, Trailer(user.len() as u64 + 7))
    }

    #[test]
    fn records_of_all_lengths_keep_their_bytes() {
        let records = Records::new(Arc::new(FreeChunks::new(0)));
        assert_eq!(records.bytes(), 0);
        let lens = [0, 1, 38, 1000, 4096, 70_000, 1 << 18, (1 << 20) + 1];
        let mut stored = Vec::new();
        for (i, len) in lens.into_iter().enumerate() {
            let fill = i as u8;
            stored.push(records.store(key(&vec![fill; len.min(KEY_LEN_MAX)]), &vec![!fill; len]));
        }
        for (i, len) in lens.into_iter().enumerate() {
            let fill = i as u8;
            assert_eq!(records.key(stored[i]), key(&vec![fill; len.min(KEY_LEN_MAX)]));
            assert_eq!(records.value(stored[i]), vec![!fill; len]);
        }
        let total: usize = lens.into_iter().map(|len| len + len.min(KEY_LEN_MAX)).sum();
        assert!(records.bytes() >= total);
    }

    #[test]
    fn threads_get_disjoint_space() {
        let records = Records::new(Arc::new(FreeChunks::new(0)));
        let per_thread = if cfg!(miri) { 50 } else { 5000 };
        thread::scope(|scope| {
            for t in 0..4_u8 {
                let records = &records;
                scope.spawn(move || {
                    let stored: Vec<Record> = (0..per_thread)
                        .map(|i| records.store(key(&[t; 9]), &vec![t; i % 100]))
                        .collect();
                    for (i, record) in stored.into_iter().enumerate() {
                        assert_eq!(records.key(record), key(&[t; 9]));
                        assert_eq!(records.value(record), vec![t; i % 100]);
                    }
                });
            }
        });
    }
}
