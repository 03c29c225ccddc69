//! A verified block in memory: one allocation that holds reference count, header and bytes, so that
//! a pointer to it is one word and a reader of its first bytes has the header in the same line.

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

/// Blocks up to this length are copied from zeros that lie ready.
static ZEROS: [u8; 16 << 10] = [0; 16 << 10];

/// A block as slots and cache hold it.
pub(super) type Shared = ThinArc<Header, u8>;

/// What the cache notes in a block.
#[derive(Debug, Default)]
pub(super) struct Header {
    /// The slot that points here. Set once, under the lock of the block's shard.
    home: OnceLock<(Weak<Slots>, usize)>,
    /// The cache's generation in which it last heard of a hit.
    touched: AtomicU32,
}

impl Header {
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
    /// A block of `len` zeros that `fill` has changed.
    pub(crate) fn filled<E>(
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Block, E> {
        let mut shared = match ZEROS.get(..len) {
            Some(zeros) => ThinArc::from_header_and_slice(Header::default(), zeros),
            None => ThinArc::from_header_and_slice(Header::default(), &vec![0; len]),
        };
        // Nobody else can have it yet: there always is a slice.
        shared.with_arc_mut(|shared| match Arc::get_mut(shared) {
            Some(block) => fill(block.slice_mut()),
            None => fill(&mut []),
        })?;
        Ok(Block(shared))
    }
}

impl Block {
    /// Clears the slot that points here. Requires: the cache has let go of the block.
    pub(super) fn leave_slot(&self) {
        if let Some((slots, n)) = self.0.header.header.home() {
            slots.clear(n, &self.0);
        }
    }
}

impl From<&[u8]> for Block {
    fn from(bytes: &[u8]) -> Block {
        Block(ThinArc::from_header_and_slice(Header::default(), bytes))
    }
}

impl Deref for Block {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0.slice
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
        self.guard.as_ref().map_or(&[], |shared| &shared.slice)
    }
}

impl fmt::Debug for BlockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockGuard").field("len", &self.len()).finish_non_exhaustive()
    }
}
