//! How blocks come to readers: in place, from the cache, or from the file.
//!
//! *What is kept.* A block that had to come from the disk, and one that the cache has room for, or
//! admits by chance ([`FileBlocks::admits`](crate::cache::FileBlocks::admits)). Others the page cache
//! has, so that they can be had again for a few microseconds: a point read searches such a block as it
//! is stored, and copies the value, so that nothing is built, inserted and evicted for one key.
//!
//! *How it is read.* Through the mapping where the page cache is likely to have it, else by a call:
//! see [`Residence`](crate::sst::residence::Residence).
#![deny(clippy::indexing_slicing)]

use std::cell::Cell;
use std::path::Path;

use crate::base::compression::Compression;
use crate::base::error::Result;
use crate::base::key::KeyHash;
use crate::base::seqno::SeqNo;
use crate::cache::Block;
use crate::fs::ReadableFile;
use crate::sst::block::BlockBytes;
use crate::sst::block::BlockHandle;
use crate::sst::block::BlockKind;
use crate::sst::block::TRAILER_LEN;
use crate::sst::block::check;
use crate::sst::block::unpack;
use crate::sst::block::unpack_checked;
use crate::sst::data_block::DataBlock;
use crate::sst::folded;
use crate::sst::reader::Located;
use crate::sst::reader::SstReader;
use crate::sst::reader::damaged;

/// What a point read looks for: versions of a user key, and the newest that the reader may see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) user: &'a [u8],
    pub(super) hash: KeyHash,
    pub(super) seqno: SeqNo,
}

impl SstReader {
    /// The content of block `n` in the mapping, if it is stored raw and was verified.
    #[inline]
    pub(super) fn in_place(&self, n: usize, handle: BlockHandle) -> Option<&[u8]> {
        if !self.verified.has(n) {
            return None;
        }
        self.mapping.get(handle.range()?)
    }

    /// Can block `n` be had without reading it from the file?
    pub(super) fn is_at_hand(&self, n: usize) -> bool {
        self.verified.has(n) || self.blocks.has(n)
    }

    /// The verified content of block `n`.
    #[inline]
    pub(super) fn load(
        &self,
        n: usize,
        handle: BlockHandle,
        kind: BlockKind,
    ) -> Result<BlockBytes> {
        match self.lent(n, handle) {
            Some(block) => Ok(block),
            None => self.load_slowly(n, handle, kind),
        }
    }

    /// The verified content of block `n`, if no lock has to be taken for it.
    #[inline]
    fn lent(&self, n: usize, handle: BlockHandle) -> Option<BlockBytes> {
        if self.verified.has(n)
            && let Some(range) = handle.range()
        {
            return Some(BlockBytes::Mapped(range));
        }
        self.blocks.get(n).map(BlockBytes::Lent)
    }

    #[inline(never)]
    fn load_slowly(&self, n: usize, handle: BlockHandle, kind: BlockKind) -> Result<BlockBytes> {
        if let Some(bytes) = self.blocks.find(n) {
            return Ok(BlockBytes::Owned(bytes));
        }
        self.check_inside(handle)?;
        if kind != BlockKind::Data && self.mapped {
            // Through the mapping, as it will be read from now on.
            return self.content(n, handle, kind, true, self.in_mapping(handle));
        }
        // What all reads of a part of the file need is kept whatever happens.
        let worth = kind != BlockKind::Data || self.blocks.admits();
        self.with_stored(handle, worth, |worth, stored| {
            self.content(n, handle, kind, worth, stored)
        })?
    }

    /// Loads data block `n` and keeps it.
    pub(super) fn load_to_keep(&self, n: usize, handle: BlockHandle) -> Result<()> {
        self.check_inside(handle)?;
        self.with_stored(handle, true, |worth, stored| {
            self.content(n, handle, BlockKind::Data, worth, stored).map(drop)
        })?
    }

    /// Shows a block as it is stored to `show`, and whether it is worth a place in the cache: if it is
    /// `worth` one anyway, or had to come from the disk. Requires: it lies within the file.
    fn with_stored<R>(
        &self,
        handle: BlockHandle,
        worth: bool,
        show: impl FnOnce(bool, &[u8]) -> R,
    ) -> Result<R> {
        if self.residence.is_memory() {
            return Ok(show(worth, self.in_mapping(handle)));
        }
        with_buffer(handle, |stored| {
            let is_asked = !worth || self.mapped;
            let at_once = is_asked && self.read_at_once(handle, stored)?;
            if !at_once {
                self.file.read_at(handle.offset, stored)?;
            }
            Ok(show(worth || !at_once, stored))
        })
    }

    /// Reads a block as it is stored, if that does not wait for the disk.
    fn read_at_once(&self, handle: BlockHandle, stored: &mut [u8]) -> Result<bool> {
        let found = self.file.read_at_once(handle.offset, stored)?;
        if self.mapped {
            self.residence.note(found);
        }
        Ok(found)
    }

    /// A block as it is stored. Requires: the file is mapped, and the block lies within it.
    fn in_mapping(&self, handle: BlockHandle) -> &[u8] {
        let range = handle.range().unwrap_or_default();
        self.mapping.get(range.start..range.end + TRAILER_LEN).unwrap_or_default()
    }

    fn check_inside(&self, handle: BlockHandle) -> Result<()> {
        self.whole(handle.offset, handle.check_end(self.bytes))
    }

    /// The content of block `n`, given what is stored. If it is `worth` that, the cache has it from
    /// now on.
    fn content(
        &self,
        n: usize,
        handle: BlockHandle,
        kind: BlockKind,
        worth: bool,
        stored: &[u8],
    ) -> Result<BlockBytes> {
        let checked = check(stored, kind, self.uid, handle.offset);
        let checked = self.whole(handle.offset, checked)?;
        self.content_of(n, handle, worth, checked)
    }

    /// The same, given what [`check`] has said of it.
    fn content_of(
        &self,
        n: usize,
        handle: BlockHandle,
        worth: bool,
        (payload, compression): (&[u8], Compression),
    ) -> Result<BlockBytes> {
        if compression == Compression::None && self.mapped {
            self.verified.add(n);
            return Ok(BlockBytes::Mapped(handle.range().unwrap_or_default()));
        }
        let block = self.whole(handle.offset, unpack_checked(payload, compression))?;
        self.blocks.note_load();
        if worth {
            self.blocks.insert(n, block.clone());
        }
        Ok(BlockBytes::Owned(block))
    }

    /// What data block `n` has of what is wanted.
    #[inline]
    pub(super) fn find_in_block(
        &self,
        n: usize,
        handle: BlockHandle,
        wanted: Wanted<'_>,
    ) -> Result<Option<Located>> {
        match self.lent(n, handle) {
            Some(block) => self.find_in(block, handle, wanted),
            None => self.find_slowly(n, handle, wanted),
        }
    }

    /// The same, given the block.
    #[inline]
    pub(super) fn find_in(
        &self,
        block: BlockBytes,
        handle: BlockHandle,
        wanted: Wanted<'_>,
    ) -> Result<Option<Located>> {
        let data = self.whole(handle.offset, DataBlock::parse(block.get(&self.mapping)))?;
        let found = data.find(wanted.user, wanted.hash, wanted.seqno);
        let Some(span) = self.whole(handle.offset, found)? else { return Ok(None) };
        Ok(Some(Located { block, trailer: span.trailer, value: span.value_range() }))
    }

    #[inline(never)]
    fn find_slowly(
        &self,
        n: usize,
        handle: BlockHandle,
        wanted: Wanted<'_>,
    ) -> Result<Option<Located>> {
        if let Some(bytes) = self.blocks.find(n) {
            return self.find_in(BlockBytes::Owned(bytes), handle, wanted);
        }
        self.check_inside(handle)?;
        let worth = self.blocks.admits();
        self.with_stored(handle, worth, |worth, stored| {
            self.find_in_stored(n, handle, worth, stored, wanted)
        })?
    }

    /// The same if the page cache has the block: then it costs no more to search it now than to ask
    /// the system for it. Else nothing.
    pub(super) fn find_at_once(
        &self,
        n: usize,
        handle: BlockHandle,
        wanted: Wanted<'_>,
    ) -> Result<Option<Located>> {
        self.check_inside(handle)?;
        let find =
            |stored: &[u8]| self.find_in_stored(n, handle, self.blocks.admits(), stored, wanted);
        if self.residence.is_memory() {
            return find(self.in_mapping(handle));
        }
        with_buffer(handle, |stored| {
            if self.read_at_once(handle, stored)? { find(stored) } else { Ok(None) }
        })
    }

    /// The same, given what is stored.
    fn find_in_stored(
        &self,
        n: usize,
        handle: BlockHandle,
        worth: bool,
        stored: &[u8],
        wanted: Wanted<'_>,
    ) -> Result<Option<Located>> {
        let checked = check(stored, BlockKind::Data, self.uid, handle.offset);
        let (payload, compression) = self.whole(handle.offset, checked)?;
        if !worth && compression == Compression::Lz4 {
            return self.find_in_folded(payload, handle, wanted);
        }
        let block = self.content_of(n, handle, worth, (payload, compression))?;
        self.find_in(block, handle, wanted)
    }

    /// The same in a block that is packed.
    fn find_in_folded(
        &self,
        packed: &[u8],
        handle: BlockHandle,
        wanted: Wanted<'_>,
    ) -> Result<Option<Located>> {
        self.blocks.note_load();
        let found = folded::find(packed, wanted.user, wanted.seqno);
        let found = self.whole(handle.offset, found)?;
        Ok(found.map(|(trailer, value)| {
            let range = 0..value.len();
            Located { block: BlockBytes::Owned(value), trailer, value: range }
        }))
    }
}

/// Reads, verifies and decompresses a block that must end by `end`.
pub(super) fn fetch(
    file: &dyn ReadableFile,
    path: &Path,
    uid: u64,
    handle: BlockHandle,
    kind: BlockKind,
    end: u64,
) -> Result<Block> {
    handle.check_end(end).map_err(|error| damaged(path, handle.offset, error))?;
    with_buffer(handle, |stored| {
        file.read_at(handle.offset, stored)?;
        unpack(stored, kind, uid, handle.offset)
            .map_err(|error| damaged(path, handle.offset, error))
    })
}

/// A buffer longer than this is not kept.
const STORED_LEN_MAX: usize = 256 << 10;

thread_local! {
    /// What blocks are read into before they are unpacked. Taken out while it is used: a file system
    /// of the caller's may read from a database on the same thread.
    static STORED: Cell<Vec<u8>> = Cell::default();
}

/// Lends a buffer of the length of a block as it is stored.
fn with_buffer<R>(handle: BlockHandle, use_it: impl FnOnce(&mut [u8]) -> R) -> R {
    // A thread that ends has no buffer any more.
    let mut buffer = STORED.try_with(Cell::take).unwrap_or_default();
    let len = handle.len as usize + TRAILER_LEN;
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    let result = use_it(buffer.get_mut(..len).unwrap_or_default());
    if buffer.len() <= STORED_LEN_MAX {
        let _ = STORED.try_with(|kept| kept.set(buffer));
    }
    result
}
