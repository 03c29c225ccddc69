//! Where a memtable keeps its bytes: memory that only grows and is freed all at once.
//!
//! Space is handed out from the front of the current chunk with one atomic addition; only the
//! change to a new chunk takes a lock. Chunks start small, so that a memtable with a few entries is
//! cheap, and double up to 1 MiB.
//!
//! *Invariant of the unsafe code.* A [`Stored`] is a pointer into an arena without its lifetime. It
//! never leaves the module `memtable`, and whoever keeps one there also keeps the arena: the
//! memtable's list of entries lies beside the arena, an iterator holds the memtable. The bytes
//! behind it were written before it was made and never change.

use std::mem::MaybeUninit;
use std::ptr;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::base::sync::Mutex;

const CHUNK_LEN_MIN: usize = 4 << 10;
const CHUNK_LEN_MAX: usize = 1 << 20;
/// Longer entries get a chunk of their own, lest they waste the rest of the current one.
const SHARED_LEN_MAX: usize = CHUNK_LEN_MAX / 4;

/// A key and, right behind it, its value.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    bytes: NonNull<u8>,
    key_len: u32,
    value_len: u32,
}

#[expect(unsafe_code, reason = "the pointer keeps Stored from being Send by itself")]
// SAFETY: the bytes are immutable, so any thread may read them; they live as long as the arena.
unsafe impl Send for Stored {}
#[expect(unsafe_code, reason = "the pointer keeps Stored from being Sync by itself")]
// SAFETY: as for Send.
unsafe impl Sync for Stored {}

impl Stored {
    /// A key that lies elsewhere, to search with. The caller drops it before the key.
    pub(super) fn borrowed(key: &[u8]) -> Stored {
        Stored { bytes: NonNull::from(key).cast(), key_len: key.len() as u32, value_len: 0 }
    }

    pub(super) fn key_len(&self) -> usize {
        self.key_len as usize
    }

    /// The key. The caller keeps the arena (or what was borrowed) alive.
    #[expect(unsafe_code, reason = "reads arena memory")]
    pub(super) fn key(&self) -> &[u8] {
        // SAFETY: `bytes` points to `key_len` bytes that were initialized before the Stored was
        // made, never change, and live on by the invariant of this module.
        unsafe { slice::from_raw_parts(self.bytes.as_ptr(), self.key_len as usize) }
    }

    /// The value. The caller keeps the arena alive.
    #[expect(unsafe_code, reason = "reads arena memory")]
    pub(super) fn value(&self) -> &[u8] {
        // SAFETY: the value lies behind the key, in the same allocation (a borrowed key has an
        // empty value, for which one past its end is a valid pointer).
        let start = unsafe { self.bytes.add(self.key_len as usize) };
        // SAFETY: as for the key, with `value_len` bytes from `start` on.
        unsafe { slice::from_raw_parts(start.as_ptr(), self.value_len as usize) }
    }
}

/// Memory that only grows.
pub(super) struct Arena {
    /// The chunk that space comes from; null before the first allocation.
    current: AtomicPtr<Chunk>,
    /// Bytes in all chunks but the current one.
    retired: AtomicUsize,
    chunks: Mutex<Chunks>,
}

/// Every chunk, to be freed with the arena.
#[derive(Default)]
struct Chunks(Vec<NonNull<Chunk>>);

#[expect(unsafe_code, reason = "the pointers keep Chunks from being Send by itself")]
// SAFETY: this list owns the chunks; what others see of them is atomic or written only once.
unsafe impl Send for Chunks {}

struct Chunk {
    data: NonNull<u8>,
    len: usize,
    /// Bytes handed out; beyond `len` once an allocation has failed.
    used: AtomicUsize,
}

impl Chunk {
    /// A chunk of `len` bytes, the first `used` of which are handed out already.
    fn new(len: usize, used: usize) -> Chunk {
        Chunk {
            data: NonNull::from(Box::leak(Box::<[u8]>::new_uninit_slice(len))).cast(),
            len,
            used: AtomicUsize::new(used),
        }
    }

    #[expect(unsafe_code, reason = "computes an address in the chunk")]
    fn take(&self, len: usize) -> Option<NonNull<u8>> {
        // `used` cannot overflow: each failure adds a quarter of a MiB at most.
        let start = self.used.fetch_add(len, Ordering::Relaxed);
        if start + len > self.len {
            return None;
        }
        // SAFETY: `start + len` bytes lie in the chunk.
        Some(unsafe { self.data.add(start) })
    }

    fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed).min(self.len)
    }
}

impl Arena {
    pub(super) fn new() -> Arena {
        Arena {
            current: AtomicPtr::default(),
            retired: AtomicUsize::new(0),
            chunks: Mutex::default(),
        }
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> usize {
        self.retired.load(Ordering::Relaxed) + self.current().map_or(0, Chunk::used)
    }

    /// Copies `key` and `value` into the arena.
    #[expect(unsafe_code, reason = "writes arena memory")]
    pub(super) fn store(&self, key: &[u8], value: &[u8]) -> Stored {
        let bytes = self.allocate(key.len() + value.len());
        // SAFETY: `bytes` points to as many bytes as key and value have, nobody else knows of them.
        unsafe { ptr::copy_nonoverlapping(key.as_ptr(), bytes.as_ptr(), key.len()) };
        // SAFETY: in the same allocation, as above.
        let rest = unsafe { bytes.add(key.len()) };
        // SAFETY: as above; the value has its place behind the key.
        unsafe { ptr::copy_nonoverlapping(value.as_ptr(), rest.as_ptr(), value.len()) };
        Stored { bytes, key_len: key.len() as u32, value_len: value.len() as u32 }
    }

    /// The key of an entry in this arena.
    pub(super) fn key(&self, stored: Stored) -> &[u8] {
        self.live(stored).0
    }

    /// The value of an entry in this arena.
    pub(super) fn value(&self, stored: Stored) -> &[u8] {
        self.live(stored).1
    }

    /// Gives the bytes the lifetime of the arena, which is what they live for.
    #[expect(unsafe_code, reason = "reads arena memory")]
    #[expect(clippy::unused_self, reason = "the lifetime is what it is for")]
    fn live(&self, stored: Stored) -> (&[u8], &[u8]) {
        let (key, value) = (stored.key(), stored.value());
        // SAFETY: by the invariant of this module the entry is in this arena, which frees nothing
        // before it is dropped.
        let key = unsafe { slice::from_raw_parts(key.as_ptr(), key.len()) };
        // SAFETY: as above.
        let value = unsafe { slice::from_raw_parts(value.as_ptr(), value.len()) };
        (key, value)
    }

    #[expect(unsafe_code, reason = "follows the pointer to the current chunk")]
    fn current(&self) -> Option<&Chunk> {
        // SAFETY: null, or a chunk that is freed with the arena; Acquire sees its fields written.
        unsafe { self.current.load(Ordering::Acquire).as_ref() }
    }

    fn allocate(&self, len: usize) -> NonNull<u8> {
        if len <= SHARED_LEN_MAX
            && let Some(bytes) = self.current().and_then(|chunk| chunk.take(len))
        {
            return bytes;
        }
        self.allocate_in_new_chunk(len)
    }

    #[cold]
    fn allocate_in_new_chunk(&self, len: usize) -> NonNull<u8> {
        let mut chunks = self.chunks.lock();
        if len > SHARED_LEN_MAX {
            let chunk = Chunk::new(len, len);
            let bytes = chunk.data;
            chunks.0.push(NonNull::from(Box::leak(Box::new(chunk))));
            self.retired.fetch_add(len, Ordering::Relaxed);
            return bytes;
        }
        // Another thread may have been here while this one waited for the lock.
        if let Some(bytes) = self.current().and_then(|chunk| chunk.take(len)) {
            return bytes;
        }
        let previous = self.current().map_or(0, |chunk| chunk.len);
        let size = (2 * previous).max(4 * len).clamp(CHUNK_LEN_MIN, CHUNK_LEN_MAX);
        let chunk = Chunk::new(size, len);
        let bytes = chunk.data;
        let chunk = NonNull::from(Box::leak(Box::new(chunk)));
        chunks.0.push(chunk);
        self.retired.fetch_add(previous, Ordering::Relaxed);
        self.current.store(chunk.as_ptr(), Ordering::Release);
        bytes
    }
}

impl Drop for Arena {
    #[expect(unsafe_code, reason = "frees the chunks")]
    fn drop(&mut self) {
        for chunk in self.chunks.get_mut().0.drain(..) {
            // SAFETY: made by Box::leak, listed once, and nobody uses the arena any more.
            let chunk = unsafe { Box::from_raw(chunk.as_ptr()) };
            let data = chunk.data.cast::<MaybeUninit<u8>>().as_ptr();
            // SAFETY: made by Box::leak from a slice of this length; the chunk is its only owner.
            drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(data, chunk.len)) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn entries_of_all_lengths_keep_their_bytes() {
        let arena = Arena::new();
        assert_eq!(arena.bytes(), 0);
        let lens = [0, 1, 38, 1000, 4096, 70_000, SHARED_LEN_MAX, CHUNK_LEN_MAX + 1];
        let mut stored = Vec::new();
        for (i, len) in lens.into_iter().enumerate() {
            let fill = i as u8;
            stored.push(arena.store(&vec![fill; len.min(65_535)], &vec![!fill; len]));
        }
        for (i, len) in lens.into_iter().enumerate() {
            let fill = i as u8;
            assert_eq!(arena.key(stored[i]), vec![fill; len.min(65_535)]);
            assert_eq!(arena.value(stored[i]), vec![!fill; len]);
        }
        let total: usize = lens.into_iter().map(|len| len + len.min(65_535)).sum();
        assert!(arena.bytes() >= total);
    }

    #[test]
    fn threads_get_disjoint_space() {
        let arena = Arena::new();
        let per_thread = if cfg!(miri) { 50 } else { 5000 };
        thread::scope(|scope| {
            for t in 0..4_u8 {
                let arena = &arena;
                scope.spawn(move || {
                    let stored: Vec<Stored> =
                        (0..per_thread).map(|i| arena.store(&[t; 9], &vec![t; i % 100])).collect();
                    for (i, stored) in stored.into_iter().enumerate() {
                        assert_eq!(arena.key(stored), [t; 9]);
                        assert_eq!(arena.value(stored), vec![t; i % 100]);
                    }
                });
            }
        });
    }

    #[test]
    fn small_arenas_take_little_memory() {
        let arena = Arena::new();
        arena.store(b"key", b"value");
        assert_eq!(arena.bytes(), 8);
        assert_eq!(arena.current().unwrap().len, CHUNK_LEN_MIN);
    }
}
