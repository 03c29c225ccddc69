//! A cursor over one SST.
//!
//! It stands on an entry of a block, knows where the value lies in it, and has put the key together,
//! so that a step within a block is one more offset and a few bytes of key to load. It borrows
//! nothing: it keeps the reader alive, and through it the mapping, or holds the block itself.
#![deny(clippy::indexing_slicing)]

use std::sync::Arc;

use bytes::Bytes;

use crate::base::coding::Malformed;
use crate::base::compression::Compression;
use crate::base::error::Result;
use crate::base::internal_iter::InternalIter;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::prefetch::prefetch_at;
use crate::base::range_tombstone::is_behind;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;
use crate::fs::ReadableFile;
use crate::sst::block::BlockBytes;
use crate::sst::block::BlockHandle;
use crate::sst::block::BlockKind;
use crate::sst::block::check;
use crate::sst::data_block::DataBlock;
use crate::sst::data_block::EntrySpan;
use crate::sst::data_block::EntryTable;
use crate::sst::folded;
use crate::sst::index_block::IndexBlock;
use crate::sst::read_ahead::ReadAhead;
use crate::sst::reader::SstReader;

/// So far behind an entry a step asks for memory: some steps ahead.
const AHEAD_IN_BLOCK: usize = 256;
/// So much of a block is asked for at once when it is entered: for its search, and first entries.
const BLOCK_START_LEN: usize = 512;
/// Most keys fit in it.
const KEY_ROOM: usize = 64;
/// How much a scan reads at once.
const SCAN_LEN: u64 = 256 * 1024;

/// A block by partition, and number in the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    partition: usize,
    block: usize,
}

/// Where a compaction reads from: its own file handle, in large pieces, past the cache.
#[derive(Debug)]
struct Scan {
    file: Arc<dyn ReadableFile>,
    chunk: Bytes,
    chunk_at: u64,
}

impl Scan {
    fn load_data(&mut self, reader: &SstReader, handle: BlockHandle) -> Result<BlockBytes> {
        let inside = handle.offset >= self.chunk_at
            && handle.end() <= self.chunk_at + self.chunk.len() as u64;
        if !inside {
            self.fill(reader, handle)?;
        }
        let start = (handle.offset - self.chunk_at) as usize;
        let stored = self.chunk.get(start..start + handle.stored_len() as usize);
        let checked =
            check(stored.unwrap_or_default(), BlockKind::Data, reader.uid(), handle.offset);
        let (payload, compression) = reader.whole(handle.offset, checked)?;
        Ok(match compression {
            Compression::None => BlockBytes::Chunk(self.chunk.slice_ref(payload)),
            Compression::Lz4 => {
                BlockBytes::Owned(reader.whole(handle.offset, folded::unpack(payload))?)
            }
        })
    }

    /// Reads on from the beginning of a block.
    fn fill(&mut self, reader: &SstReader, handle: BlockHandle) -> Result<()> {
        let end = reader.bytes();
        reader.whole(handle.offset, handle.check_end(end))?;
        let len = SCAN_LEN.max(handle.stored_len()).min(end - handle.offset) as usize;
        let chunk = std::mem::take(&mut self.chunk);
        // The memory is used again unless a value or a block of it is held somewhere.
        let mut chunk = chunk.try_into_mut().unwrap_or_default();
        chunk.resize(len, 0);
        self.file.read_at(handle.offset, &mut chunk)?;
        self.chunk = chunk.freeze();
        self.chunk_at = handle.offset;
        Ok(())
    }
}

/// A cursor over one SST.
#[derive(Debug)]
pub(crate) struct SstIter {
    reader: Arc<SstReader>,
    scan: Option<Box<Scan>>,
    ahead: ReadAhead,
    /// The index partition that is loaded.
    index: BlockBytes,
    index_of: Option<usize>,
    /// The data block that is loaded.
    block: BlockBytes,
    place: Option<Place>,
    /// Did the cache have it? Then it may have those that follow.
    was_cached: bool,
    table: EntryTable,
    /// The entry in it; meaningful while `valid`.
    entry: usize,
    span: EntrySpan,
    /// The prefix of the block's user keys; behind it, while `valid`, the suffix of the entry's.
    user: Vec<u8>,
    valid: bool,
    /// Of the file; here because every step asks.
    has_distinct_keys: bool,
}

impl SstReader {
    /// A cursor that reads in place, or through the cache.
    pub(crate) fn iter(self: &Arc<Self>) -> SstIter {
        SstIter::new(Arc::clone(self), None)
    }

    /// A cursor that reads all of the file once through `file`, which is the same file opened as
    /// `Sequential`; verifies every block and leaves the cache alone.
    pub(crate) fn scan_iter(self: &Arc<Self>, file: Arc<dyn ReadableFile>) -> SstIter {
        let scan = Scan { file, chunk: Bytes::new(), chunk_at: 0 };
        SstIter::new(Arc::clone(self), Some(Box::new(scan)))
    }
}

impl SstIter {
    fn new(reader: Arc<SstReader>, scan: Option<Box<Scan>>) -> SstIter {
        SstIter {
            has_distinct_keys: reader.has_distinct_keys(),
            reader,
            scan,
            ahead: ReadAhead::NONE,
            index: BlockBytes::EMPTY,
            index_of: None,
            block: BlockBytes::EMPTY,
            place: None,
            was_cached: false,
            table: EntryTable::default(),
            entry: 0,
            span: EntrySpan::default(),
            user: Vec::with_capacity(KEY_ROOM),
            valid: false,
        }
    }

    #[inline]
    fn payload(&self) -> &[u8] {
        self.block.get(self.reader.mapping())
    }

    /// Loads the index of `partition` unless it is there.
    fn load_index(&mut self, partition: usize) -> Result<()> {
        if self.index_of == Some(partition) {
            return Ok(());
        }
        let Some(found) = self.reader.top().partition(partition) else {
            return Ok(());
        };
        self.index_of = None;
        self.index = match &self.scan {
            None => self.reader.load_index(partition, found)?.into_owned(),
            Some(scan) => {
                let file = &*scan.file;
                let bytes = self.reader.fetch_from(file, found.index, BlockKind::Index)?;
                BlockBytes::Owned(bytes)
            }
        };
        self.index_of = Some(partition);
        let checked = self.with_index(|index| index.check_len(found.blocks));
        if checked.is_err() {
            self.index_of = None;
        }
        checked
    }

    /// Asks the index partition that is loaded.
    #[inline]
    fn with_index<T>(&self, ask: impl FnOnce(IndexBlock<'_>) -> Result<T, Malformed>) -> Result<T> {
        let answer = IndexBlock::parse(self.index.get(self.reader.mapping())).and_then(ask);
        let partition = self.index_of.and_then(|p| self.reader.top().partition(p));
        let offset = partition.map_or(0, |partition| partition.index.offset);
        self.reader.whole(offset, answer)
    }

    /// Loads a data block unless it is there. Requires: the index of its partition is loaded.
    fn load_block(&mut self, place: Place) -> Result<()> {
        if self.place == Some(place) {
            return Ok(());
        }
        self.place = None;
        let handle = self.with_index(|index| index.block(place.block))?;
        let partition = self.reader.top().partition(place.partition);
        let first_block = partition.map_or(0, |partition| partition.first_block);
        self.block = match &mut self.scan {
            None => {
                let block = self.reader.load_data(first_block + place.block, handle)?;
                self.was_cached = matches!(block, BlockBytes::Lent(_));
                let payload = block.get(self.reader.mapping());
                prefetch_at(payload.as_ptr(), BLOCK_START_LEN.min(payload.len()));
                block.into_owned()
            }
            Some(scan) => {
                self.was_cached = self.reader.has_cached(first_block + place.block);
                // Let go of the chunk first, so that it can be used again.
                self.block = BlockBytes::EMPTY;
                scan.load_data(&self.reader, handle)?
            }
        };
        let parsed = DataBlock::parse(self.payload()).map(|block| block.table());
        self.table = self.reader.whole(handle.offset, parsed)?;
        self.table.begin_keys(self.block.get(self.reader.mapping()), &mut self.user);
        self.place = Some(place);
        Ok(())
    }

    #[cold]
    fn block_offset(&self) -> u64 {
        let handle = match self.place {
            Some(place) => self.with_index(|index| index.block(place.block)),
            None => return 0,
        };
        handle.map_or(0, |handle| handle.offset)
    }

    /// `result`, an error being damage of the loaded block.
    #[inline]
    fn whole<T>(&self, result: Result<T, Malformed>) -> Result<T> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => self.reader.whole(self.block_offset(), Err(error)),
        }
    }

    #[inline]
    fn stand_on(&mut self, entry: usize) -> Result<()> {
        let span = self.table.span(self.payload(), entry);
        self.span = self.whole(span)?;
        self.entry = entry;
        self.put_key_together();
        self.valid = true;
        Ok(())
    }

    #[inline]
    fn put_key_together(&mut self) {
        let payload = self.block.get(self.reader.mapping());
        self.table.put_key(payload, &self.span, &mut self.user);
    }

    /// Where versions of `user` begin, or would. Loads that block; none if the file is empty.
    fn descend(&mut self, user: &[u8]) -> Result<Option<Place>> {
        self.valid = false;
        self.ahead = ReadAhead::NONE;
        if self.reader.top().len() == 0 {
            return Ok(None);
        }
        let top = self.reader.top();
        let partition = top.find(user).unwrap_or(0);
        let found = top.partition(partition);
        let part = found.and_then(|found| self.reader.part_of(partition, found, user));
        self.load_index(partition)?;
        let block =
            self.with_index(|index| self.reader.find_block(partition, &index, part, user))?;
        let place = Place { partition, block };
        self.load_block(place)?;
        Ok(Some(place))
    }

    /// The block after `place`, if there is one.
    fn after(&self, place: Place) -> Option<Place> {
        let top = self.reader.top();
        let Place { partition, block } = place;
        if block + 1 < top.partition(partition)?.blocks {
            let block = block + 1;
            return Some(Place { partition, block });
        }
        top.partition(partition + 1)?;
        Some(Place { partition: partition + 1, block: 0 })
    }

    /// The block before `place`, if there is one.
    fn before(&self, place: Place) -> Option<Place> {
        let Place { partition, block } = place;
        if let Some(block) = block.checked_sub(1) {
            return Some(Place { partition, block });
        }
        let partition = partition.checked_sub(1)?;
        let blocks = self.reader.top().partition(partition)?.blocks;
        Some(Place { partition, block: blocks.checked_sub(1)? })
    }

    fn enter(&mut self, place: Place) -> Result<()> {
        self.load_index(place.partition)?;
        self.load_block(place)
    }

    /// To another entry of the loaded block, if it has that and the entry is whole.
    #[inline]
    fn step_to(&mut self, entry: usize) -> bool {
        if entry >= self.table.count {
            return false;
        }
        let payload = self.payload();
        let Ok(span) = self.table.span(payload, entry) else {
            return false;
        };
        // The entries that follow, whichever way.
        prefetch_at(payload.as_ptr().wrapping_add(span.end + AHEAD_IN_BLOCK), 1);
        self.span = span;
        self.entry = entry;
        self.put_key_together();
        true
    }

    #[inline(never)]
    fn next_slowly(&mut self) -> Result<()> {
        if !self.valid {
            return Ok(());
        }
        let result = if self.entry + 1 < self.table.count {
            self.stand_on(self.entry + 1)
        } else {
            self.enter_next()
        };
        self.settle(result)
    }

    #[inline(never)]
    fn prev_slowly(&mut self) -> Result<()> {
        if !self.valid {
            return Ok(());
        }
        let result = match self.entry.checked_sub(1) {
            Some(entry) => self.stand_on(entry),
            None => self.enter_prev(),
        };
        self.settle(result)
    }

    /// To the first entry of the block after the one that is loaded.
    fn enter_next(&mut self) -> Result<()> {
        self.valid = false;
        let Some(place) = self.place.and_then(|place| self.after(place)) else {
            return Ok(());
        };
        self.load_index(place.partition)?;
        if self.scan.is_none() && !self.was_cached {
            let handle = self.with_index(|index| index.block(place.block))?;
            self.ahead.advance(self.reader.file(), &self.reader.walks, handle);
        }
        self.load_block(place)?;
        self.stand_on(0)
    }

    /// To the last entry of the block before the one that is loaded.
    fn enter_prev(&mut self) -> Result<()> {
        self.valid = false;
        let Some(place) = self.place.and_then(|place| self.before(place)) else {
            return Ok(());
        };
        self.load_index(place.partition)?;
        if self.scan.is_none() && !self.was_cached {
            let handle = self.with_index(|index| index.block(place.block))?;
            self.ahead.retreat(self.reader.file(), &self.reader.walks, handle);
        }
        self.load_block(place)?;
        self.stand_on(self.table.count - 1)
    }

    fn rank(&self, target: KeyRef<'_>, or_equal: bool) -> Result<usize> {
        let block = DataBlock::parse(self.payload());
        self.whole(block.and_then(|block| block.rank(target, or_equal)))
    }

    fn try_seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        let mut next = self.descend(target.user)?;
        while let Some(place) = next {
            self.enter(place)?;
            let entry = self.rank(target, false)?;
            if entry < self.table.count {
                return self.stand_on(entry);
            }
            next = self.after(place);
        }
        Ok(())
    }

    fn try_seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        let Some(mut place) = self.descend(target.user)? else {
            return Ok(());
        };
        // Entries up to the target can go on in the next block only if its key does.
        loop {
            let upto = self.rank(target, true)?;
            if upto < self.table.count {
                return match upto.checked_sub(1) {
                    Some(entry) => self.stand_on(entry),
                    None => self.enter_prev(),
                };
            }
            let Some(next) = self.after(place) else { break };
            self.load_index(next.partition)?;
            let continues = self.with_index(|index| {
                Ok(index.continues(next.block) && index.separator(next.block)? == target.user)
            })?;
            if !continues {
                break;
            }
            self.load_block(next)?;
            place = next;
        }
        self.enter(place)?;
        self.stand_on(self.table.count - 1)
    }

    fn try_seek_to_first(&mut self) -> Result<()> {
        self.valid = false;
        self.ahead = ReadAhead::NONE;
        if self.reader.top().len() == 0 {
            return Ok(());
        }
        self.enter(Place { partition: 0, block: 0 })?;
        self.stand_on(0)
    }

    fn try_seek_to_last(&mut self) -> Result<()> {
        self.valid = false;
        self.ahead = ReadAhead::NONE;
        let beyond = Place { partition: self.reader.top().len(), block: 0 };
        let Some(place) = self.before(beyond) else {
            return Ok(());
        };
        self.enter(place)?;
        self.stand_on(self.table.count - 1)
    }

    /// After an error the cursor stands nowhere.
    #[inline]
    fn settle(&mut self, result: Result<()>) -> Result<()> {
        if result.is_err() {
            self.valid = false;
        }
        result
    }
}

impl InternalIter for SstIter {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        let result = self.try_seek(target);
        self.settle(result)
    }

    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        let result = self.try_seek_for_prev(target);
        self.settle(result)
    }

    fn seek_to_first(&mut self) -> Result<()> {
        let result = self.try_seek_to_first();
        self.settle(result)
    }

    fn seek_to_last(&mut self) -> Result<()> {
        let result = self.try_seek_to_last();
        self.settle(result)
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        if self.valid && self.step_to(self.entry + 1) {
            return Ok(());
        }
        self.next_slowly()
    }

    #[inline]
    fn prev(&mut self) -> Result<()> {
        if self.valid && self.step_to(self.entry.wrapping_sub(1)) {
            return Ok(());
        }
        self.prev_slowly()
    }

    #[inline]
    fn try_next(&mut self) -> Option<Trailer> {
        let moved = self.has_distinct_keys && self.step_to(self.entry + 1);
        moved.then_some(self.span.trailer)
    }

    #[inline]
    fn try_prev(&mut self) -> Option<Trailer> {
        let moved = self.has_distinct_keys && self.step_to(self.entry.wrapping_sub(1));
        moved.then_some(self.span.trailer)
    }

    fn skip_forward(&mut self, to: Option<&[u8]>, below: SeqNo) -> Result<()> {
        self.next()?;
        if !self.valid || !is_behind(to, self.key().user) || !self.reader.is_older_than(below) {
            return Ok(());
        }
        if let Some(to) = to {
            return self.seek(KeyRef::before_all(to));
        }
        self.valid = false;
        Ok(())
    }

    fn skip_backward(&mut self, from: &[u8], below: SeqNo) -> Result<()> {
        self.prev()?;
        if !self.valid || self.key().user < from || !self.reader.is_older_than(below) {
            return Ok(());
        }
        self.seek_for_prev(KeyRef::before_all(from))
    }

    #[inline]
    fn valid(&self) -> bool {
        self.valid
    }

    #[inline]
    fn key(&self) -> KeyRef<'_> {
        KeyRef::new(&self.user, self.span.trailer)
    }

    #[inline]
    fn value(&self) -> &[u8] {
        let value = self.payload().get(self.span.value_range());
        value.unwrap_or_default()
    }

    #[inline]
    fn is_sole(&self) -> bool {
        self.has_distinct_keys
    }

    #[inline]
    fn is_hot(&self) -> bool {
        self.was_cached
    }

    fn value_slice(&self) -> Slice {
        self.block.keep(self.reader.mapping(), self.value())
    }
}
