//! A verified block in memory, and what the cache notes in it. See memory.rs for how it lies there.

use std::convert::Infallible;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::Weak;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::Guard;

use crate::cache::memory::Shared;
use crate::cache::slots::Slots;

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
    pub(super) fn new(len: usize) -> Header {
        Header { len: len as u32, ..Header::default() }
    }

    /// Bytes of the block.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Makes slot `n` of `slots` the one that may point here. False if another one is.
    pub(super) fn settle(&self, slots: &Arc<Slots>, n: usize) -> bool {
        let (home, at) = self.home.get_or_init(|| (Arc::downgrade(slots), n));
        *at == n && std::ptr::eq(home.as_ptr(), Arc::as_ptr(slots))
    }

    /// The slot that may point here, if one does and its file is still open.
    pub(super) fn home(&self) -> Option<(Arc<Slots>, usize)> {
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
        Shared::filled(Header::new(len), fill).map(Block)
    }

    /// Bytes of memory that it takes.
    pub(super) fn space(&self) -> usize {
        self.0.space()
    }

    /// Where it lies, without a look at it.
    pub(super) fn address(&self) -> usize {
        self.0.address()
    }

    /// Clears the slot that points here. Requires: the cache has let go of the block.
    pub(super) fn leave(self) {
        if let Some((slots, n)) = self.0.header().home() {
            slots.clear(n, &self.0);
        }
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
        self.0.content()
    }
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
        self.guard.as_ref().map(Shared::header)
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
        self.guard.as_ref().map_or(&[], Shared::content)
    }
}

impl fmt::Debug for BlockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockGuard").field("len", &self.len()).finish_non_exhaustive()
    }
}
