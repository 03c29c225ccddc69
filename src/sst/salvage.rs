//! Reads whatever of an SST still reads: blocks that verify are taken, others are reported.
//!
//! With its index, a file tells where each data block is. Where the index is damaged, data blocks
//! are found without it: they lie one behind the other (I2), and a block ends where the checksum
//! of all before it, bound to its place in this file, stands. So no other bytes pass for a block.
#![deny(clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::checksum::BlockChecksum;
use crate::base::coding::Malformed;
use crate::base::compression::Compression;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::key::KeyRef;
use crate::base::range_tombstone::Fragments;
use crate::cache::Block;
use crate::fs::ReadableFile;
use crate::sst::block::BlockHandle;
use crate::sst::block::BlockKind;
use crate::sst::block::TRAILER_LEN;
use crate::sst::block::stored_compression;
use crate::sst::data_block::DataBlock;
use crate::sst::data_block::EntrySpan;
use crate::sst::data_block::EntryTable;
use crate::sst::footer::FOOTER_LEN;
use crate::sst::footer::Footer;
use crate::sst::index_block::IndexBlock;
use crate::sst::load::fetch;
use crate::sst::properties::Properties;
use crate::sst::range_block;
use crate::sst::reader::read_footer;
use crate::sst::top_index::TopIndex;

/// Bytes per read while blocks are searched for.
const CHUNK_LEN: usize = 64 << 10;
/// Behind damage a block is looked for up to this length.
const SEARCHED_LEN_MAX: u64 = 32 << 20;
/// A search gives up after checksumming this many times the bytes it is about.
const SEARCH_EFFORT: u64 = 64;
/// Where the uid lies in a footer.
const UID_AT: usize = 36;

/// A part of a file that cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SstDamage {
    pub(crate) offset: u64,
    /// Bytes of entries that are lost with it, as stored.
    pub(crate) bytes: u64,
    pub(crate) what: String,
    /// The first key that may be lost, and the one before which the loss ends, as far as known.
    pub(crate) keys: Option<(Vec<u8>, Vec<u8>)>,
}

/// What comes next in the file.
#[derive(Debug)]
enum Piece {
    Block(BlockHandle, Option<(Vec<u8>, Vec<u8>)>),
    /// Data blocks that no index tells of.
    Search {
        from: u64,
        to: u64,
    },
}

/// The entries of a file that still read, from the first to the last.
#[derive(Debug)]
pub(crate) struct SalvageIter {
    path: PathBuf,
    file: Arc<dyn ReadableFile>,
    uid: u64,
    properties: Option<Properties>,
    ranges: Fragments,
    top: Option<TopIndex>,
    next_partition: usize,
    pieces: VecDeque<Piece>,
    /// Where the last data block ended.
    at: u64,
    /// Where data blocks end, or before which.
    data_end: u64,
    is_end_known: bool,
    damage: Vec<SstDamage>,
    payload: Block,
    table: EntryTable,
    spans: Vec<EntrySpan>,
    entry: usize,
    /// The user key of the entry, put together.
    user: Vec<u8>,
}

impl SalvageIter {
    /// Opens a file, and stands in front of its first entry. `uid` is what the manifest says of it.
    ///
    /// # Errors
    /// If nothing of the file can be read, or must not be.
    pub(crate) fn open(
        file: Arc<dyn ReadableFile>,
        path: PathBuf,
        uid: Option<u64>,
    ) -> Result<SalvageIter> {
        let mut damage = Vec::new();
        let len = file.len();
        let footer = match read_footer(&*file, &path) {
            Ok((footer, _)) if uid.is_some_and(|uid| uid != footer.uid) => {
                let what = "it is another file than the manifest means";
                return Err(Error::corruption(&path, len, what));
            }
            Ok((footer, _)) => Some(footer),
            Err(error @ Error::UnsupportedFormat { .. }) => return Err(error),
            Err(error) => {
                let at = len.saturating_sub(FOOTER_LEN as u64);
                damage.push(of_structure(at, "the footer", &error));
                None
            }
        };
        let known = footer.map(|footer| footer.uid).or(uid);
        let uid = known.or_else(|| stored_uid(&*file)).unwrap_or_default();
        let mut iter = SalvageIter {
            path,
            file,
            uid,
            properties: None,
            ranges: Fragments::default(),
            top: None,
            next_partition: 0,
            pieces: VecDeque::new(),
            at: 0,
            data_end: len,
            is_end_known: false,
            damage,
            payload: Block::from(&[][..]),
            table: EntryTable::default(),
            spans: Vec::new(),
            entry: 0,
            user: Vec::new(),
        };
        if let Some(footer) = footer {
            iter.read_structure(&footer);
        }
        if iter.top.is_none() {
            iter.pieces.push_back(Piece::Search { from: 0, to: iter.data_end });
        }
        if known.is_none() && iter.find_end(0, iter.data_end, BlockKind::Data).is_none() {
            let what = "its footer is damaged, and so nothing else in it can be checked";
            return Err(Error::corruption(&iter.path, len, what));
        }
        Ok(iter)
    }

    fn read_structure(&mut self, footer: &Footer) {
        let end = self.file.len();
        let properties = self.fetch(footer.properties, BlockKind::Properties).and_then(|payload| {
            Properties::decode(&payload)
                .map_err(|_| Error::corruption(&self.path, footer.properties.offset, "malformed"))
        });
        match properties {
            Ok(properties) => {
                self.data_end = properties.data_bytes.min(end);
                self.is_end_known = true;
                self.properties = Some(properties);
            }
            Err(error) => {
                self.data_end = footer.properties.offset.min(end);
                let at = footer.properties.offset;
                self.damage.push(of_structure(at, "the properties", &error));
            }
        }
        match range_block::read(&*self.file, &self.path, footer, end) {
            Ok(ranges) => self.ranges = ranges,
            Err(error) => {
                let at = footer.ranges.offset;
                let damage = of_structure(at, "the range tombstones", &error);
                // What they hid is back.
                let bytes = footer.ranges.stored_len();
                self.damage.push(SstDamage { bytes, ..damage });
            }
        }
        let top = self.fetch(footer.top, BlockKind::Top).and_then(|payload| {
            TopIndex::decode(&payload, end)
                .map_err(|bad| Error::corruption(&self.path, footer.top.offset, bad.0))
        });
        match top {
            Ok(top) => self.top = Some(top),
            Err(error) => {
                self.damage.push(of_structure(footer.top.offset, "the top index", &error));
            }
        }
    }

    /// What the file says of itself, if that can be read.
    pub(crate) fn properties(&self) -> Option<&Properties> {
        self.properties.as_ref()
    }

    /// Its range tombstones, if they can be read.
    pub(crate) fn ranges(&self) -> &Fragments {
        &self.ranges
    }

    /// What could not be read so far.
    pub(crate) fn take_damage(&mut self) -> Vec<SstDamage> {
        std::mem::take(&mut self.damage)
    }

    /// How far into the file the iterator has come.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// To the next entry; false at the end.
    pub(crate) fn next(&mut self) -> bool {
        self.entry += 1;
        while self.entry >= self.spans.len() {
            self.entry = 0;
            self.spans.clear();
            if !self.next_block() {
                self.user.clear();
                return false;
            }
            self.table.begin_keys(&self.payload, &mut self.user);
        }
        if let Some(span) = self.spans.get(self.entry) {
            self.table.put_key(&self.payload, span, &mut self.user);
        }
        true
    }

    /// The key of the entry. Empty if there is none.
    pub(crate) fn key(&self) -> KeyRef<'_> {
        let trailer = self.spans.get(self.entry).map(|span| span.trailer);
        KeyRef::new(&self.user, trailer.unwrap_or_default())
    }

    /// The value of the entry.
    pub(crate) fn value(&self) -> &[u8] {
        let span = self.spans.get(self.entry);
        span.and_then(|span| self.payload.get(span.value_range())).unwrap_or_default()
    }

    fn next_block(&mut self) -> bool {
        loop {
            match self.pieces.pop_front() {
                Some(Piece::Block(handle, keys)) => {
                    self.at = handle.end();
                    let loaded = self.fetch(handle, BlockKind::Data).and_then(|payload| {
                        let spans = spans(&payload);
                        let (table, spans) = spans
                            .map_err(|bad| Error::corruption(&self.path, handle.offset, bad.0))?;
                        Ok((payload, table, spans))
                    });
                    match loaded {
                        Ok((payload, table, spans)) => {
                            self.payload = payload;
                            self.table = table;
                            self.spans = spans;
                            return true;
                        }
                        Err(error) => self.damage.push(SstDamage {
                            offset: handle.offset,
                            bytes: handle.stored_len(),
                            what: said_by(&error),
                            keys,
                        }),
                    }
                }
                Some(Piece::Search { from, to }) => self.search(from, to),
                None if !self.next_index() => return false,
                None => {}
            }
        }
    }

    /// Queues the blocks of the next partition whose index reads. False at the end.
    fn next_index(&mut self) -> bool {
        let Some(top) = &self.top else { return false };
        let Some(partition) = top.partition(self.next_partition) else {
            let unread = self.at..self.data_end;
            self.top = None;
            if !unread.is_empty() {
                self.pieces.push_back(Piece::Search { from: unread.start, to: unread.end });
            }
            return true;
        };
        let p = self.next_partition;
        self.next_partition += 1;
        let at = partition.index.offset;
        let following = (p + 1 < top.len()).then(|| top.separator(p + 1).to_vec());
        let last = self.properties.as_ref().map(|properties| properties.largest.user.clone());
        let behind = following.or(last);
        let pieces = self.fetch(partition.index, BlockKind::Index).and_then(|payload| {
            blocks_of(&payload, behind.as_deref())
                .map_err(|bad| Error::corruption(&self.path, at, bad.0))
        });
        match pieces {
            Ok(pieces) => {
                if let Some(Piece::Block(first, _)) = pieces.front()
                    && self.at < first.offset
                {
                    let (from, to) = (self.at, first.offset);
                    self.pieces.push_back(Piece::Search { from, to });
                }
                self.pieces.extend(pieces);
            }
            Err(error) => self.damage.push(of_structure(at, "an index block", &error)),
        }
        true
    }

    /// Queues the first block that begins within `from..to`, and the search for the rest.
    fn search(&mut self, from: u64, to: u64) {
        self.at = from;
        if from >= to {
            return;
        }
        let here = self.find_end(from, to, BlockKind::Data);
        if here.is_none() && !self.is_end_known && self.is_end_of_data(from) {
            return;
        }
        let found = here.or_else(|| self.find_block_behind(from, to));
        let lost_to = found.map_or(to, |found| found.offset);
        if lost_to > from {
            self.damage.push(SstDamage {
                offset: from,
                bytes: lost_to - from,
                what: "no block that verifies begins here, and no index tells of one".to_owned(),
                keys: None,
            });
        }
        if let Some(found) = found {
            self.pieces.push_front(Piece::Search { from: found.end(), to });
            self.pieces.push_front(Piece::Block(found, None));
        } else {
            self.at = to;
        }
    }

    /// Are the data blocks over at `at`, where filters or index blocks begin?
    fn is_end_of_data(&self, at: u64) -> bool {
        let padded = at.next_multiple_of(64);
        let end = self.file.len();
        [(padded, BlockKind::Filter), (padded, BlockKind::Index), (at, BlockKind::Index)]
            .into_iter()
            .any(|(at, kind)| self.find_end(at, end, kind).is_some())
    }

    /// The block that begins at `from` and ends by `to`, if one does.
    fn find_end(&self, from: u64, to: u64, kind: BlockKind) -> Option<BlockHandle> {
        let mut sum = BlockChecksum::new(self.uid, from);
        let mut summed_to = from;
        let mut chunk_at = from;
        let mut chunk = vec![0; CHUNK_LEN + TRAILER_LEN];
        while chunk_at + (TRAILER_LEN as u64) < to {
            let len = (chunk.len() as u64).min(to - chunk_at) as usize;
            let bytes = chunk.get_mut(..len)?;
            self.file.read_at(chunk_at, bytes).ok()?;
            for i in trailers(bytes, kind) {
                let payload_end = chunk_at + i as u64;
                sum.update(bytes.get((summed_to - chunk_at) as usize..i + 2)?);
                summed_to = payload_end + 2;
                let expected = bytes.get(i + 2..)?.first_chunk::<8>()?;
                if payload_end > from && sum.finish() == u64::from_le_bytes(*expected) {
                    let len = u32::try_from(payload_end - from).ok()?;
                    return Some(BlockHandle { offset: from, len });
                }
            }
            let whole = CHUNK_LEN.min(len);
            let unsummed = (summed_to - chunk_at) as usize..whole;
            if !unsummed.is_empty() {
                sum.update(bytes.get(unsummed)?);
                summed_to = chunk_at + whole as u64;
            }
            chunk_at += CHUNK_LEN as u64;
        }
        None
    }

    /// The first block that begins behind `from`: where what looks like a block's trailer ends.
    fn find_block_behind(&self, from: u64, to: u64) -> Option<BlockHandle> {
        let mut effort = (to - from).saturating_mul(SEARCH_EFFORT);
        let mut at = from;
        let mut chunk = vec![0; CHUNK_LEN + TRAILER_LEN];
        while at + (TRAILER_LEN as u64) < to {
            let len = (chunk.len() as u64).min(to - at) as usize;
            let bytes = chunk.get_mut(..len)?;
            if self.file.read_at(at, bytes).is_ok() {
                for i in trailers(bytes, BlockKind::Data) {
                    let start = at + (i + TRAILER_LEN) as u64;
                    let most = to.min(start.saturating_add(SEARCHED_LEN_MAX));
                    effort = effort.checked_sub(most.saturating_sub(start).min(effort.max(1)))?;
                    if let Some(found) = self.find_end(start, most, BlockKind::Data) {
                        return Some(found);
                    }
                }
            }
            at += CHUNK_LEN as u64;
        }
        None
    }

    fn fetch(&self, handle: BlockHandle, kind: BlockKind) -> Result<Block> {
        fetch(&*self.file, &self.path, self.uid, handle, kind, self.file.len())
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Where a block's trailer may begin in a chunk: kind and compression fit.
fn trailers(bytes: &[u8], kind: BlockKind) -> impl Iterator<Item = usize> {
    let known = [Compression::None, Compression::Lz4].map(stored_compression);
    let fits = move |window: &[u8]| matches!(window, [stored, compression, ..] if *stored == kind as u8 && known.contains(compression));
    let windows = bytes.windows(TRAILER_LEN).take(CHUNK_LEN).enumerate();
    windows.filter(move |(_, window)| fits(window)).map(|(i, _)| i)
}

/// The uid that the footer of a file holds, if it is where it should be.
fn stored_uid(file: &dyn ReadableFile) -> Option<u64> {
    let at = file.len().checked_sub(FOOTER_LEN as u64)?;
    let mut bytes = [0; 8];
    file.read_at(at + UID_AT as u64, &mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}

/// The blocks of an index partition, each with the keys that are lost with it; `behind` is the
/// first key behind the last.
fn blocks_of(payload: &[u8], behind: Option<&[u8]>) -> Result<VecDeque<Piece>, Malformed> {
    let index = IndexBlock::parse(payload)?;
    (0..index.len())
        .map(|i| {
            let from = index.separator(i)?.to_vec();
            let to = if i + 1 < index.len() {
                Some(index.separator(i + 1)?.to_vec())
            } else {
                behind.map(<[u8]>::to_vec)
            };
            Ok(Piece::Block(index.block(i)?, to.map(|to| (from, to))))
        })
        .collect()
}

/// Where the entries of a data block are.
fn spans(payload: &[u8]) -> Result<(EntryTable, Vec<EntrySpan>), Malformed> {
    let block = DataBlock::parse(payload)?;
    let spans: Result<_, _> = (0..block.table().count).map(|i| block.span(i)).collect();
    Ok((block.table(), spans?))
}

/// Damage that by itself loses no entries.
fn of_structure(offset: u64, name: &str, error: &Error) -> SstDamage {
    let what = format!("{name} cannot be read ({})", said_by(error));
    SstDamage { offset, what, ..SstDamage::default() }
}

/// What is wrong, without the place.
fn said_by(error: &Error) -> String {
    match error {
        Error::Corruption { what, .. } => what.clone(),
        error => error.to_string(),
    }
}
