//! Reads one SST: opening, and point reads.
#![deny(clippy::indexing_slicing)]

use std::ops::Deref;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::bits::AtomicBits;
use crate::base::coding::Malformed;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::base::key::KeyHash;
use crate::base::key::Trailer;
use crate::base::range_tombstone::Fragments;
use crate::base::range_tombstone::RangeFacts;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;
use crate::cache::Block;
use crate::cache::BlockCache;
use crate::cache::FileBlocks;
use crate::fs::ReadableFile;
use crate::sst::block::BlockBytes;
use crate::sst::block::BlockHandle;
use crate::sst::block::BlockKind;
use crate::sst::filter;
use crate::sst::footer;
use crate::sst::footer::FOOTER_LEN;
use crate::sst::footer::FORMAT_VERSION;
use crate::sst::footer::Footer;
use crate::sst::index_block::IndexBlock;
use crate::sst::load::Wanted;
use crate::sst::load::fetch;
use crate::sst::properties;
use crate::sst::properties::Properties;
use crate::sst::range_block;
use crate::sst::read_ahead::WalkLen;
use crate::sst::residence::Residence;
use crate::sst::samples::Part;
use crate::sst::samples::Samples;
use crate::sst::top_index::Partition;
use crate::sst::top_index::TopIndex;

/// What the manifest says of a file; one that differs is another file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SstExpectation {
    pub(crate) bytes: u64,
    pub(crate) uid: u64,
    pub(crate) ranges: Option<RangeFacts>,
}

/// A value in its block, valid while the reader looks at it; [`FoundValue::to_slice`] keeps it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FoundValue<'a> {
    block: &'a BlockBytes,
    mapping: &'a Bytes,
    bytes: &'a [u8],
}

impl FoundValue<'_> {
    /// The value, to keep: pinned where it is large, copied where it is small.
    pub(crate) fn to_slice(self) -> Slice {
        self.block.keep(self.mapping, self.bytes)
    }
}

impl Deref for FoundValue<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

/// Where in a file the versions of a key would begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aim<'a> {
    p: usize,
    partition: &'a Partition,
    /// That of the partition, if it can be read in place.
    filter: Option<&'a [u8]>,
}

/// What is known of where in a partition the versions of a key would begin.
pub(super) enum Known {
    /// In this part, if it is known.
    Part(Option<Part>),
    /// In this block, which is at hand if it is loaded.
    Block(usize, Option<BlockBytes>),
}

/// An entry that a point read found.
pub(super) struct Located {
    pub(super) block: BlockBytes,
    pub(super) trailer: Trailer,
    pub(super) value: Range<usize>,
}

/// One open SST. Shared by all readers; nothing in it changes but what is known of blocks, and of
/// those who read it.
#[derive(Debug)]
pub(crate) struct SstReader {
    pub(super) path: PathBuf,
    pub(super) uid: u64,
    pub(super) bytes: u64,
    pub(super) file: Arc<dyn ReadableFile>,
    /// The file's mapping; empty if it has none.
    pub(super) mapping: Bytes,
    pub(super) mapped: bool,
    pub(super) residence: Residence,
    /// How far those go who read block after block.
    pub(super) walks: WalkLen,
    /// Those that are in the cache.
    pub(super) blocks: FileBlocks,
    top: TopIndex,
    samples: Samples,
    properties: Properties,
    pub(super) ranges: Fragments,
    /// Which blocks of a mapped file are stored raw and were verified, and can be read in place
    /// without asking further. Bits are only ever set.
    pub(super) verified: AtomicBits,
}

impl SstReader {
    /// Opens a file: reads footer, properties, top index and range tombstones, and nothing else.
    /// Without expectation any SST will do.
    pub(crate) fn open(
        file: Arc<dyn ReadableFile>,
        path: PathBuf,
        id: FileId,
        expected: Option<SstExpectation>,
        cache: Arc<BlockCache>,
    ) -> Result<SstReader> {
        let bytes = file.len();
        if let Some(expected) = expected.as_ref().filter(|expected| bytes != expected.bytes) {
            let what = format!("it has {bytes} bytes instead of {}", expected.bytes);
            return Err(Error::corruption(&path, bytes, what));
        }
        let (footer, footer_at) = read_footer(&*file, &path)?;
        if expected.as_ref().is_some_and(|expected| footer.uid != expected.uid) {
            let what = "it is another file than the manifest means";
            return Err(Error::corruption(&path, footer_at, what));
        }
        let fetch = |handle, kind| fetch(&*file, &path, footer.uid, handle, kind, footer_at);
        let payload = fetch(footer.properties, BlockKind::Properties)?;
        let properties = match Properties::decode(&payload) {
            Ok(properties) => properties,
            Err(properties::Unreadable::RequiredTag) => {
                return Err(newer(&path, FORMAT_VERSION + 1));
            }
            Err(properties::Unreadable::Malformed(error)) => {
                return Err(damaged(&path, footer.properties.offset, error));
            }
        };
        let payload = fetch(footer.top, BlockKind::Top)?;
        let top = TopIndex::decode(&payload, footer_at)
            .map_err(|error| damaged(&path, footer.top.offset, error))?;
        let ranges = range_block::read(&*file, &path, &footer, footer_at)?;
        if expected.is_some_and(|expected| ranges.facts() != expected.ranges) {
            let what = "its range tombstones are not those that the manifest says it has";
            return Err(Error::corruption(&path, footer.ranges.offset, what));
        }
        let mapping = file.mapping().cloned();
        let mapped = mapping.is_some();
        let mapping = mapping.unwrap_or_default();
        if mapped && mapping.len() as u64 != bytes {
            let what = "its mapping has another length than the file";
            return Err(Error::corruption(&path, 0, what));
        }
        // Index and filters are read at random too, but so often that they should stay in memory.
        file.random(0..top.data_end());
        let blocks = top.blocks() + 2 * top.len();
        Ok(SstReader {
            verified: AtomicBits::new(if mapped { blocks } else { 0 }),
            blocks: FileBlocks::new(cache, id, blocks),
            path,
            uid: footer.uid,
            bytes,
            file,
            mapping,
            mapped,
            residence: Residence::default(),
            walks: WalkLen::default(),
            samples: Samples::new(top.len()),
            top,
            properties,
            ranges,
        })
    }

    /// Length of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Has every entry a user key of its own?
    #[inline]
    pub(crate) fn has_distinct_keys(&self) -> bool {
        self.properties.distinct_keys == self.properties.entries
    }

    /// Bytes of memory that the reader holds as long as it lives.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        let verified = self.verified.memory();
        let slots = self.blocks.pinned_bytes();
        let ranges = self.ranges.bytes();
        let top = self.top.memory() + self.samples.memory();
        (size_of::<SstReader>() + top + ranges + verified + slots) as u64
    }

    /// Could the file hold versions of `user`? No is certain.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn may_contain(&self, user: &[u8], hash: KeyHash) -> Result<bool> {
        match self.top.find(user).and_then(|p| self.top.partition(p).map(|found| (p, found))) {
            Some((p, partition)) => self.filter_admits(p, partition, hash),
            None => Ok(false),
        }
    }

    /// Where versions of `user` would begin; none if the file has none. Asks for the part of the
    /// filter that [`SstReader::get_from`] will look at.
    #[expect(clippy::inline_always, reason = "what a call returns through memory a get waits for")]
    #[inline(always)]
    pub(crate) fn aim(&self, user: &[u8], hash: KeyHash) -> Option<Aim<'_>> {
        let p = self.top.find(user)?;
        let partition = self.top.partition(p)?;
        let filter = self.in_place(self.filter_no(p), partition.filter);
        if let Some(filter) = filter {
            filter::prefetch_line(filter, hash);
        }
        Some(Aim { p, partition, filter })
    }

    /// Shows `found` the newest version of `user` that a reader at `seqno` may see, if the file has
    /// one. The value is neither copied nor pinned unless `found` does it.
    #[inline]
    pub(crate) fn get<R>(
        &self,
        user: &[u8],
        hash: KeyHash,
        seqno: SeqNo,
        found: impl FnOnce(Trailer, FoundValue<'_>) -> R,
    ) -> Result<Option<R>> {
        match self.aim(user, hash) {
            Some(aim) => self.get_from(aim, user, hash, seqno, found),
            None => Ok(None),
        }
    }

    /// As [`SstReader::get`], with what [`SstReader::aim`] has found.
    #[inline]
    pub(crate) fn get_from<R>(
        &self,
        Aim { p, partition, filter }: Aim<'_>,
        user: &[u8],
        hash: KeyHash,
        seqno: SeqNo,
        found: impl FnOnce(Trailer, FoundValue<'_>) -> R,
    ) -> Result<Option<R>> {
        // A key that goes on in later partitions is in the filter of each.
        let admits = match filter {
            Some(filter) => {
                self.whole(partition.filter.offset, filter::may_contain(filter, hash))?
            }
            None => self.filter_admits(p, partition, hash)?,
        };
        if !admits {
            return Ok(None);
        }
        // Where keys are mostly there, the processor comes here before it knows what the filter says.
        let known = Known::Part(self.part_of(p, partition, user));
        let Some(located) = self.locate_from(p, known, Wanted { user, hash, seqno })? else {
            return Ok(None);
        };
        let value = self.value_of(&located);
        Ok(Some(found(located.trailer, value)))
    }

    #[inline]
    pub(super) fn value_of<'a>(&'a self, located: &'a Located) -> FoundValue<'a> {
        let payload = located.block.get(&self.mapping);
        FoundValue {
            block: &located.block,
            mapping: &self.mapping,
            bytes: payload.get(located.value.clone()).unwrap_or_default(),
        }
    }

    /// The part of partition `p` that a search for `user` ends in, if that is known. Asks for what
    /// the search will read.
    #[inline]
    pub(super) fn part_of(&self, p: usize, partition: &Partition, user: &[u8]) -> Option<Part> {
        let first = self.top.separator(p);
        let part = self.samples.part(p, partition.blocks, first, user)?;
        if let Some(index) = self.in_place(self.index_no(p), partition.index) {
            IndexBlock::prefetch(index, partition.blocks, part);
        }
        self.blocks.prefetch(partition.first_block + part.start, part.len);
        Some(part)
    }

    /// The first block of partition `p`, which has this index, that may hold a version of `user`.
    #[inline]
    pub(super) fn find_block(
        &self,
        p: usize,
        index: &IndexBlock<'_>,
        part: Option<Part>,
        user: &[u8],
    ) -> Result<usize, Malformed> {
        match part {
            Some(part) => index.find_in(part, user),
            None => self.find_first_block(p, index, user),
        }
    }

    /// The same in a partition that was not searched yet, as a rule.
    #[cold]
    fn find_first_block(
        &self,
        p: usize,
        index: &IndexBlock<'_>,
        user: &[u8],
    ) -> Result<usize, Malformed> {
        let first = self.top.separator(p);
        self.samples.note(p, index, first);
        match self.samples.part(p, index.len(), first, user) {
            Some(part) => index.find_in(part, user),
            None => index.find(user),
        }
    }

    /// Where the newest version that is wanted is, from partition `p` on, of which that is `known`.
    #[inline]
    pub(super) fn locate_from(
        &self,
        mut p: usize,
        mut known: Known,
        wanted: Wanted<'_>,
    ) -> Result<Option<Located>> {
        while let Some(partition) = self.top.partition(p) {
            let at = partition.index.offset;
            let read;
            let index_bytes = if let Some(bytes) = self.in_place(self.index_no(p), partition.index)
            {
                bytes
            } else {
                read = self.load_index(p, partition)?;
                read.get(&self.mapping)
            };
            let index = self.whole(at, IndexBlock::parse(index_bytes))?;
            self.whole(at, index.check_len(partition.blocks))?;
            let (mut i, mut loaded) = match std::mem::replace(&mut known, Known::Part(None)) {
                Known::Block(block, loaded) => (block, loaded),
                Known::Part(part) => {
                    (self.whole(at, self.find_block(p, &index, part, wanted.user))?, None)
                }
            };
            loop {
                let handle = self.whole(at, index.block(i))?;
                let found = match loaded.take() {
                    Some(block) => self.find_in(block, handle, wanted)?,
                    None => self.find_in_block(partition.first_block + i, handle, wanted)?,
                };
                if found.is_some() {
                    return Ok(found);
                }
                i += 1;
                if i >= index.len() {
                    break;
                }
                if !self.whole(at, index.continues_key(i, wanted.user))? {
                    return Ok(None);
                }
            }
            p += 1;
            if !self.top.continues_key(p, wanted.user) {
                break;
            }
        }
        Ok(None)
    }

    #[inline]
    pub(super) fn filter_admits(
        &self,
        p: usize,
        partition: &Partition,
        hash: KeyHash,
    ) -> Result<bool> {
        let handle = partition.filter;
        if handle.is_none() {
            return Ok(true);
        }
        if let Some(filter) = self.in_place(self.filter_no(p), handle) {
            return self.whole(handle.offset, filter::may_contain(filter, hash));
        }
        self.filter_admits_slowly(p, handle, hash)
    }

    #[inline(never)]
    fn filter_admits_slowly(&self, p: usize, handle: BlockHandle, hash: KeyHash) -> Result<bool> {
        let filter = self.load(self.filter_no(p), handle, BlockKind::Filter)?;
        let admits = filter::may_contain(filter.get(&self.mapping), hash);
        self.whole(handle.offset, admits)
    }

    /// Blocks have numbers: data blocks as they lie, then index and filter of each partition.
    #[inline]
    pub(super) fn index_no(&self, p: usize) -> usize {
        self.top.blocks() + 2 * p
    }

    #[inline]
    pub(super) fn filter_no(&self, p: usize) -> usize {
        self.index_no(p) + 1
    }

    #[inline]
    pub(super) fn load_index(&self, p: usize, partition: &Partition) -> Result<BlockBytes> {
        self.load(self.index_no(p), partition.index, BlockKind::Index)
    }

    #[inline]
    pub(super) fn load_data(&self, block: usize, handle: BlockHandle) -> Result<BlockBytes> {
        self.load(block, handle, BlockKind::Data)
    }

    /// Do readers have block `n` in the cache, and read it more than once?
    pub(super) fn has_cached(&self, n: usize) -> bool {
        self.blocks.get(n).is_some()
    }

    /// Takes all blocks out of the cache.
    pub(crate) fn forget_blocks(&self) {
        self.blocks.forget();
    }

    /// The same content read through `file`, verified whatever is known, and not cached.
    pub(super) fn fetch_from(
        &self,
        file: &dyn ReadableFile,
        handle: BlockHandle,
        kind: BlockKind,
    ) -> Result<Block> {
        fetch(file, &self.path, self.uid, handle, kind, self.bytes)
    }

    /// The footer as it is read through `file`, and where it lies.
    pub(super) fn read_footer_from(&self, file: &dyn ReadableFile) -> Result<(Footer, u64)> {
        read_footer(file, &self.path)
    }

    pub(super) fn cached(&self) -> &FileBlocks {
        &self.blocks
    }

    pub(super) fn file(&self) -> &dyn ReadableFile {
        &*self.file
    }

    pub(super) fn mapping(&self) -> &Bytes {
        &self.mapping
    }

    pub(super) fn top(&self) -> &TopIndex {
        &self.top
    }

    pub(super) fn uid(&self) -> u64 {
        self.uid
    }

    /// `result`, an error in the block at `offset` being damage of this file.
    #[inline]
    pub(super) fn whole<T>(&self, offset: u64, result: Result<T, Malformed>) -> Result<T> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => Err(self.damaged(offset, error)),
        }
    }

    #[cold]
    fn damaged(&self, offset: u64, error: Malformed) -> Error {
        damaged(&self.path, offset, error)
    }
}

pub(super) fn damaged(path: &Path, offset: u64, error: Malformed) -> Error {
    Error::corruption(path, offset, error.0)
}

fn newer(path: &Path, found: u32) -> Error {
    Error::UnsupportedFormat { file: path.to_owned(), found, supported: FORMAT_VERSION }
}

/// The footer of a file, and where it lies.
pub(super) fn read_footer(file: &dyn ReadableFile, path: &Path) -> Result<(Footer, u64)> {
    let too_short = Malformed("it is too short for an SST");
    let at = file.len().checked_sub(FOOTER_LEN as u64);
    let at = at.ok_or_else(|| damaged(path, 0, too_short))?;
    let mut bytes = [0; FOOTER_LEN];
    file.read_at(at, &mut bytes)?;
    match Footer::decode(&bytes, at) {
        Ok(footer) => Ok((footer, at)),
        Err(footer::Unreadable::Version(found)) => Err(newer(path, found)),
        Err(footer::Unreadable::Malformed(error)) => Err(damaged(path, at, error)),
    }
}
