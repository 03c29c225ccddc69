//! A verified block in memory: one allocation that holds reference count, header and bytes, so that
//! a pointer to it is one word and a reader of its first bytes has the header in the same line.

use std::convert::Infallible;
use std::fmt;
use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::Weak;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::Guard;
use triomphe::Arc;
use triomphe::ThinArc;

use crate::cache::slots::Slots;
use crate::cache::spares;

/// Blocks up to this length are copied from zeros that lie ready.
static ZEROS: [u8; 16 << 10] = [0; 16 << 10];
/// Memory of blocks is a multiple of this, so that one often fits another.
pub(super) const UNIT: usize = 256;

/// A block as slots and cache hold it.
pub(super) type Shared = ThinArc<Header, u8>;

/// What the cache notes in a block.
#[derive(Debug, Default)]
pub(super) struct Header {
    /// The slot that points here. Set once, under the lock of the block's shard.
    home: OnceLock<(Weak<Slots>, usize)>,
    /// The cache's generation in which it last heard of a hit.
    touched: AtomicU32,
    /// How many of the bytes are the block's.
    len: u32,
}

impl Header {
    fn new(len: usize) -> Header {
        Header { len: len as u32, ..Header::default() }
    }

    /// Makes slot `n` of `slots` the one that may point here. False if another one is.
    pub(super) fn settle(&self, slots: &std::sync::Arc<Slots>, n: usize) -> bool {
        let (home, at) = self.home.get_or_init(|| (std::sync::Arc::downgrade(slots), n));
        *at == n && std::ptr::eq(home.as_ptr(), std::sync::Arc::as_ptr(slots))
    }

    /// The slot that may point here, if one does and its file is still open.
    pub(super) fn home(&self) -> Option<(std::sync::Arc<Slots>, usize)> {
        let (slots, n) = self.home.get()?;
        Some((slots.upgrade()?, *n))
    }

    /// Is this the first hit in `generation`?
    #[inline]
    pub(super) fn touch(&self, generation: u32) -> bool {
        if self.touched.load(Relaxed) == generation {
            return false;
        }
        self.touched.store(generation, Relaxed);
        true
    }
}

/// Verified bytes, shared by reference count.
#[derive(Clone)]
pub(crate) struct Block(pub(super) Shared);

impl Block {
    /// A block of `len` bytes, all of which `fill` writes: what they are before is arbitrary. At
    /// most 4 GiB.
    pub(crate) fn filled<E>(
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Block, E> {
        let mut shared = spares::take(len).unwrap_or_else(|| new_shared(len));
        // Nobody else can have it: it is new, or was looked at when it was kept.
        shared.with_arc_mut(|shared| match Arc::get_mut(shared) {
            Some(block) => {
                *block.header_mut() = Header::new(len);
                fill(block.slice_mut().get_mut(..len).unwrap_or_default())
            }
            None => fill(&mut []),
        })?;
        Ok(Block(shared))
    }

    /// Bytes of memory, beside the header.
    pub(super) fn capacity(&self) -> usize {
        self.0.slice.len()
    }

    /// Clears the slot that points here. The memory, if nobody reads it any more. Requires: the
    /// cache has let go of the block.
    pub(super) fn leave(mut self) -> Option<Shared> {
        if let Some((slots, n)) = self.0.header.header.home() {
            slots.clear(n, &self.0);
        }
        let is_free = self.0.with_arc_mut(|shared| Arc::get_mut(shared).is_some());
        is_free.then_some(self.0)
    }
}

fn new_shared(len: usize) -> Shared {
    let capacity = len.next_multiple_of(UNIT);
    match ZEROS.get(..capacity) {
        Some(zeros) => ThinArc::from_header_and_slice(Header::default(), zeros),
        None => ThinArc::from_header_and_slice(Header::default(), &vec![0; capacity]),
    }
}

impl From<&[u8]> for Block {
    fn from(bytes: &[u8]) -> Block {
        let filled = Block::filled(bytes.len(), |block| {
            block.copy_from_slice(bytes);
            Ok::<(), Infallible>(())
        });
        let Ok(block) = filled;
        block
    }
}

impl Deref for Block {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        content(&self.0)
    }
}

#[inline]
fn content(shared: &Shared) -> &[u8] {
    shared.slice.get(..shared.header.header.len as usize).unwrap_or_default()
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// A block that a slot points at, lent without a shared reference count. For a moment only: a
/// thread has few of them to give before they cost as much as a clone.
pub(crate) struct BlockGuard {
    guard: Guard<Option<Shared>>,
}

impl BlockGuard {
    /// What `guard` lends, unless it is nothing.
    #[inline]
    pub(super) fn new(guard: Guard<Option<Shared>>) -> Option<BlockGuard> {
        guard.is_some().then_some(BlockGuard { guard })
    }

    #[inline]
    pub(super) fn header(&self) -> Option<&Header> {
        self.guard.as_ref().map(|shared| &shared.header.header)
    }

    /// The block, to keep.
    pub(crate) fn to_block(&self) -> Option<Block> {
        self.guard.as_ref().map(|shared| Block(shared.clone()))
    }
}

impl Deref for BlockGuard {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.guard.as_ref().map_or(&[], content)
    }
}

impl fmt::Debug for BlockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockGuard").field("len", &self.len()).finish_non_exhaustive()
    }
}
