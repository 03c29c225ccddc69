//! Reads every byte of an SST and checks that the file says one thing throughout.
//!
//! Written apart from the cursor, so that it notices when the cursor and the writer agree on
//! something wrong.
#![deny(clippy::indexing_slicing)]

use crate::base::blob::BlobUse;
use crate::base::coding::Malformed;
use crate::base::error::Result;
use crate::base::key::InternalKey;
use crate::base::key::KeyHash;
use crate::base::key::KeyRef;
use crate::base::seqno::SeqNo;
use crate::base::sorted::sort_by_key;
use crate::base::value::Expiry;
use crate::base::value::ValueKind;
use crate::base::value::expiry_of;
use crate::cache::Block;
use crate::fs::ReadableFile;
use crate::sst::block::BlockHandle;
use crate::sst::block::BlockKind;
use crate::sst::data_block::DataBlock;
use crate::sst::filter;
use crate::sst::index_block::IndexBlock;
use crate::sst::properties::Properties;
use crate::sst::reader::SstReader;
use crate::sst::top_index::Partition;
use crate::sst::writer::BlobUses;

/// What a verified file was found to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SstCheck {
    pub(crate) partitions: u64,
    pub(crate) data_blocks: u64,
    pub(crate) data_bytes: u64,
    pub(crate) entries: u64,
    pub(crate) tombstones: u64,
    pub(crate) distinct_keys: u64,
    pub(crate) key_bytes: u64,
    pub(crate) value_bytes: u64,
    pub(crate) smallest: InternalKey,
    pub(crate) largest: InternalKey,
    pub(crate) min_seqno: SeqNo,
    pub(crate) max_seqno: SeqNo,
    pub(crate) expiry: Expiry,
    pub(crate) blobs: Vec<BlobUse>,
}

impl SstReader {
    /// Reads all of the file through `file` and checks checksums, order, counts, and that index,
    /// filters and properties agree with the entries.
    pub(crate) fn verify(&self, file: &dyn ReadableFile) -> Result<SstCheck> {
        let mut pass = Pass {
            reader: self,
            file,
            seen: SstCheck { min_seqno: SeqNo::MAX, ..SstCheck::default() },
            blobs: BlobUses::default(),
            end: 0,
            behind: Vec::new(),
        };
        for p in 0..self.top().len() {
            if let Some(partition) = self.top().partition(p) {
                pass.partition(p, partition)?;
            }
        }
        pass.tail()?;
        let mut seen = SstCheck { blobs: pass.blobs.into_list(), ..pass.seen };
        if seen.entries == 0 {
            seen.min_seqno = SeqNo::ZERO;
        }
        let said = said_by(self.properties());
        // Properties do not count what expires, nor do they know blob files.
        let expiry = Expiry { entries: seen.expiry.entries, ..said.expiry };
        let blobs = seen.blobs.clone();
        let agrees = SstCheck { partitions: seen.partitions, expiry, blobs, ..said } == seen;
        let answer = if agrees {
            Ok(seen)
        } else {
            Err(Malformed("properties differ from what the file holds"))
        };
        self.whole(self.bytes(), answer)
    }
}

fn said_by(properties: &Properties) -> SstCheck {
    SstCheck {
        partitions: 0,
        data_blocks: properties.data_blocks,
        data_bytes: properties.data_bytes,
        entries: properties.entries,
        tombstones: properties.tombstones,
        distinct_keys: properties.distinct_keys,
        key_bytes: properties.key_bytes,
        value_bytes: properties.value_bytes,
        smallest: properties.smallest.clone(),
        largest: properties.largest.clone(),
        min_seqno: properties.min_seqno,
        max_seqno: properties.max_seqno,
        expiry: Expiry {
            entries: 0,
            min_ms: properties.min_expiry_ms,
            max_ms: properties.max_expiry_ms,
        },
        blobs: Vec::new(),
    }
}

fn ensure(holds: bool, otherwise: &'static str) -> Result<(), Malformed> {
    if holds { Ok(()) } else { Err(Malformed(otherwise)) }
}

/// One pass over a file.
struct Pass<'a> {
    reader: &'a SstReader,
    file: &'a dyn ReadableFile,
    /// Its `largest` is the entry before the one being looked at.
    seen: SstCheck,
    blobs: BlobUses,
    /// Where the last data block ended.
    end: u64,
    /// The blocks behind the data blocks.
    behind: Vec<BlockHandle>,
}

impl Pass<'_> {
    fn fetch(&self, handle: BlockHandle, kind: BlockKind) -> Result<Block> {
        self.reader.fetch_from(self.file, handle, kind)
    }

    fn fetch_behind(&mut self, handle: BlockHandle, kind: BlockKind) -> Result<Block> {
        self.behind.push(handle);
        self.fetch(handle, kind)
    }

    /// What the reader read when it was opened is read again, since the file may have been damaged
    /// after that; and nothing but padding lies between the blocks.
    fn tail(&mut self) -> Result<()> {
        let (reader, file) = (self.reader, self.file);
        let (footer, footer_at) = reader.read_footer_from(file)?;
        let same = ensure(footer.uid == reader.uid(), "another file has taken its place");
        reader.whole(footer_at, same)?;
        if !footer.ranges.is_none() {
            self.fetch_behind(footer.ranges, BlockKind::Ranges)?;
        }
        let count = reader.ranges().facts().map_or(0, |facts| facts.count);
        let counted = count == reader.properties().range_tombstones;
        reader.whole(footer_at, ensure(counted, "properties miscount the range tombstones"))?;
        self.fetch_behind(footer.properties, BlockKind::Properties)?;
        self.fetch_behind(footer.top, BlockKind::Top)?;
        sort_by_key(&mut self.behind, |handle| handle.offset);
        let mut at = self.end;
        for handle in &self.behind {
            self.padding(at, handle.offset)?;
            at = handle.end();
        }
        self.padding(at, footer_at)
    }

    fn padding(&self, from: u64, to: u64) -> Result<()> {
        let len = to.checked_sub(from).filter(|len| *len < filter::LINE_LEN as u64);
        let len = len.ok_or(Malformed("blocks overlap or leave a gap"));
        let mut padding = vec![0; self.reader.whole(from, len)? as usize];
        self.file.read_at(from, &mut padding)?;
        let zeros = padding.iter().all(|byte| *byte == 0);
        self.reader.whole(from, ensure(zeros, "the padding between blocks is not zero"))
    }

    fn partition(&mut self, p: usize, partition: &Partition) -> Result<()> {
        let reader = self.reader;
        let at = partition.index.offset;
        let index = self.fetch_behind(partition.index, BlockKind::Index)?;
        let index = reader.whole(at, IndexBlock::parse(&index))?;
        let filter = if partition.filter.is_none() {
            None
        } else {
            Some(self.fetch_behind(partition.filter, BlockKind::Filter)?)
        };
        let agrees = || {
            ensure(
                index.len() == partition.blocks
                    && index.separator(0)? == reader.top().separator(p)
                    && index.continues(0) == partition.continues
                    && partition.first_block as u64 == self.seen.data_blocks,
                "an index block disagrees with the top index",
            )
        };
        reader.whole(at, agrees())?;
        for i in 0..index.len() {
            let handle = reader.whole(at, index.block(i))?;
            let contiguous = ensure(handle.offset == self.end, "data blocks leave a gap");
            reader.whole(at, contiguous)?;
            let consistent =
                ensure(index.entry_is_consistent(i), "the head of a separator does not fit it");
            reader.whole(at, consistent)?;
            self.end = handle.end();
            let payload = self.fetch(handle, BlockKind::Data)?;
            let result = self.block(&payload, &index, i, filter.as_deref());
            reader.whole(handle.offset, result)?;
            self.seen.data_blocks += 1;
            self.seen.data_bytes += handle.stored_len();
        }
        self.seen.partitions += 1;
        Ok(())
    }

    fn block(
        &mut self,
        payload: &[u8],
        index: &IndexBlock<'_>,
        i: usize,
        filter: Option<&[u8]>,
    ) -> Result<(), Malformed> {
        let block = DataBlock::parse(payload)?;
        let (mut first, mut user) = (Vec::new(), Vec::new());
        let first = block.key(&block.span(0)?, &mut first).user;
        let separator = index.separator(i)?;
        let last = &self.seen.largest.user;
        let fits = if self.seen.entries == 0 {
            !index.continues(i) && separator <= first
        } else if index.continues(i) {
            separator == first && last == first
        } else {
            last.as_slice() < separator && separator <= first
        };
        ensure(fits, "a separator does not fit its data block")?;
        for n in 0..block.table().count {
            let span = block.span(n)?;
            let key = block.key(&span, &mut user);
            let hash = KeyHash::of(key.user);
            ensure(
                block.entry_is_consistent(n, &span, hash),
                "head or fingerprint of an entry do not fit its key",
            )?;
            if let Some(filter) = filter {
                ensure(
                    filter::may_contain(filter, hash)?,
                    "a filter does not know a key of its partition",
                )?;
            }
            let value = payload.get(span.value_range()).unwrap_or_default();
            self.entry(key, value)?;
        }
        Ok(())
    }

    fn entry(&mut self, key: KeyRef<'_>, value: &[u8]) -> Result<(), Malformed> {
        let seen = &mut self.seen;
        let first = seen.entries == 0;
        ensure(first || seen.largest.as_ref() < key, "entries are out of order")?;
        let kind = key.trailer.kind();
        let kind = kind.ok_or(Malformed("an entry has an unknown kind"))?;
        if first {
            seen.smallest = InternalKey::from(key);
        }
        seen.distinct_keys += u64::from(first || seen.largest.user != key.user);
        seen.entries += 1;
        seen.tombstones += u64::from(kind == ValueKind::Delete);
        seen.key_bytes += key.user.len() as u64;
        seen.value_bytes += value.len() as u64;
        if kind.expires() {
            seen.expiry.note(expiry_of(value));
        }
        self.blobs.note(key.trailer, value)?;
        seen.min_seqno = seen.min_seqno.min(key.trailer.seqno());
        seen.max_seqno = seen.max_seqno.max(key.trailer.seqno());
        seen.largest.trailer = key.trailer;
        seen.largest.user.clear();
        seen.largest.user.extend_from_slice(key.user);
        Ok(())
    }
}
