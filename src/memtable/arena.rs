//! Where a memtable keeps its records and nodes: memory that only grows and is freed all at once.
//!
//! Space is handed out from the front of the current chunk with one atomic addition; only the
//! change to a new chunk takes a lock. Chunks start small, so that a memtable with a few entries is
//! cheap, and double up to 1 MiB. They begin on a cache line, so that nodes do if nothing else is
//! put between them. Chunks of 1 MiB serve again in later arenas: the system takes longer to hand
//! out a page than an insert takes to fill it. They come from the system directly, and go back to
//! it: what an allocator takes back it keeps for the thread that asked for it, while the memory
//! budget gives it to others.
//!
//! *Invariant of the unsafe code.* Pointers into an arena go about without its lifetime, as
//! [`Record`] and [`NodeRef`]. They never leave the module `memtable`, and whoever keeps one there
//! also keeps the arena: the memtable holds list and arenas side by side, an iterator holds the
//! memtable. What a pointer leads to was written before the pointer was handed on.
//!
//! [`Record`]: crate::memtable::record::Record
//! [`NodeRef`]: crate::memtable::node::NodeRef

use std::mem::MaybeUninit;
use std::ptr;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use memmap2::MmapMut;

use crate::base::prefetch::CACHE_LINE;
use crate::base::sync::Mutex;

const CHUNK_LEN_MIN: usize = 4 << 10;
const CHUNK_LEN_MAX: usize = 1 << 20;
/// What is longer gets a chunk of its own, lest it waste the rest of the current one.
const SHARED_LEN_MAX: usize = CHUNK_LEN_MAX / 4;

/// Memory that only grows.
pub(super) struct Arena {
    /// The chunk that space comes from; null before the first allocation.
    current: AtomicPtr<Chunk>,
    /// Bytes in all chunks but the current one.
    retired: AtomicUsize,
    chunks: Mutex<Chunks>,
    free: Arc<FreeChunks>,
}

/// Every chunk, to be freed with the arena.
#[derive(Default)]
struct Chunks(Vec<NonNull<Chunk>>);

#[expect(unsafe_code, reason = "the pointers keep Chunks from being Send by itself")]
// SAFETY: this list owns the chunks; what others see of them is atomic or never changes.
unsafe impl Send for Chunks {}

#[repr(align(64))]
struct Line {
    _bytes: [u8; CACHE_LINE],
}

/// Lines of a chunk that nobody has written yet.
type Lines = Box<[MaybeUninit<Line>]>;

/// Chunks of arenas that are gone, for those to come.
pub(super) struct FreeChunks {
    /// The system's own kind of lock: arenas go at times when a simulated one cannot be taken.
    chunks: std::sync::Mutex<Vec<MmapMut>>,
    /// How many are kept.
    most: usize,
}

impl FreeChunks {
    /// Keeps up to `bytes`.
    pub(super) fn new(bytes: usize) -> FreeChunks {
        FreeChunks { chunks: std::sync::Mutex::default(), most: bytes / CHUNK_LEN_MAX }
    }

    /// Bytes that are kept.
    pub(super) fn bytes(&self) -> usize {
        self.lock().len() * CHUNK_LEN_MAX
    }

    /// Hands all to the system.
    pub(super) fn clear(&self) {
        drop(std::mem::take(&mut *self.lock()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<MmapMut>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory of `CHUNK_LEN_MAX`, unless the system has none left to give in this way.
    fn take(&self) -> Option<MmapMut> {
        let kept = self.lock().pop();
        kept.or_else(|| MmapMut::map_anon(CHUNK_LEN_MAX).ok())
    }

    fn give(&self, memory: MmapMut) {
        let mut chunks = self.lock();
        if chunks.len() < self.most {
            chunks.push(memory);
        }
    }
}

struct Chunk {
    data: NonNull<u8>,
    len: usize,
    /// What `data` points to if that is a mapping; otherwise it is `Lines`.
    mapping: Option<MmapMut>,
    /// Bytes handed out; beyond `len` once an allocation has failed.
    used: AtomicUsize,
}

impl Chunk {
    /// A chunk of `lines`, the first `used` bytes of which are handed out already.
    fn new(lines: Lines, used: usize) -> Chunk {
        let len = lines.len() * CACHE_LINE;
        let data = NonNull::from(Box::leak(lines)).cast();
        Chunk { data, len, mapping: None, used: AtomicUsize::new(used) }
    }

    fn mapped(mut mapping: MmapMut, used: usize) -> Chunk {
        let (data, len) = (NonNull::from(&mut mapping[..]).cast(), mapping.len());
        Chunk { data, len, mapping: Some(mapping), used: AtomicUsize::new(used) }
    }

    #[expect(unsafe_code, reason = "computes an address in the chunk")]
    #[inline]
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
    /// An arena whose chunks come from `free` and go there, if there are any or room for them.
    pub(super) fn new(free: Arc<FreeChunks>) -> Arena {
        Arena {
            current: AtomicPtr::default(),
            retired: AtomicUsize::new(0),
            chunks: Mutex::default(),
            free,
        }
    }

    /// A chunk of `len` bytes or a few more, the first `used` of which are handed out already.
    fn new_chunk(&self, len: usize, used: usize) -> Chunk {
        let mapping = if len == CHUNK_LEN_MAX { self.free.take() } else { None };
        match mapping {
            Some(mapping) => Chunk::mapped(mapping, used),
            None => Chunk::new(Box::new_uninit_slice(len.div_ceil(CACHE_LINE)), used),
        }
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> usize {
        self.retired.load(Ordering::Relaxed) + self.current().map_or(0, Chunk::used)
    }

    /// Space that is nobody else's, of `len` bytes that nobody has written. It begins on a cache
    /// line if all that this arena was asked for are whole lines.
    #[inline]
    pub(super) fn allocate(&self, len: usize) -> NonNull<u8> {
        if len <= SHARED_LEN_MAX
            && let Some(bytes) = self.current().and_then(|chunk| chunk.take(len))
        {
            return bytes;
        }
        self.allocate_in_new_chunk(len)
    }

    #[expect(unsafe_code, reason = "follows the pointer to the current chunk")]
    #[inline]
    fn current(&self) -> Option<&Chunk> {
        // SAFETY: null, or a chunk that is freed with the arena; Acquire sees its fields written.
        unsafe { self.current.load(Ordering::Acquire).as_ref() }
    }

    #[cold]
    fn allocate_in_new_chunk(&self, len: usize) -> NonNull<u8> {
        let mut chunks = self.chunks.lock();
        if len > SHARED_LEN_MAX {
            let chunk = self.new_chunk(len, len);
            let (bytes, len) = (chunk.data, chunk.len);
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
        let chunk = self.new_chunk(size, len);
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
            let mut chunk = unsafe { Box::from_raw(chunk.as_ptr()) };
            if let Some(mapping) = chunk.mapping.take() {
                self.free.give(mapping);
                continue;
            }
            let lines = chunk.data.cast::<MaybeUninit<Line>>().as_ptr();
            let lines = ptr::slice_from_raw_parts_mut(lines, chunk.len / CACHE_LINE);
            // SAFETY: made by Box::leak from a slice of this length; the chunk is its only owner.
            drop(unsafe { Box::from_raw(lines) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_arenas_take_little_memory() {
        let arena = Arena::new(Arc::new(FreeChunks::new(0)));
        assert_eq!(arena.bytes(), 0);
        arena.allocate(8);
        assert_eq!(arena.bytes(), 8);
        assert_eq!(arena.current().unwrap().len, CHUNK_LEN_MIN);
    }

    #[test]
    fn whole_lines_begin_on_a_line() {
        let arena = Arena::new(Arc::new(FreeChunks::new(0)));
        for i in 1..300 {
            let bytes = arena.allocate(i % 9 * CACHE_LINE);
            assert_eq!(bytes.addr().get() % CACHE_LINE, 0);
        }
    }

    #[test]
    fn chunks_serve_again() {
        let free = Arc::new(FreeChunks::new(2 * CHUNK_LEN_MAX));
        for _ in 0..2 {
            let arena = Arena::new(free.clone());
            for _ in 0..20 {
                arena.allocate(SHARED_LEN_MAX);
            }
            arena.allocate(CHUNK_LEN_MAX + 1);
            assert_eq!(free.bytes(), 0);
            drop(arena);
            assert_eq!(free.bytes(), 2 * CHUNK_LEN_MAX);
        }
        free.clear();
        assert_eq!(free.bytes(), 0);
    }
}
