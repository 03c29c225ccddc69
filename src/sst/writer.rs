//! Writes one SST from entries that come in order.

use std::cmp::Ordering;

use crate::base::blob::BlobHandle;
use crate::base::blob::BlobUse;
use crate::base::coding::Malformed;
use crate::base::coding::put_varint;
use crate::base::compression::Compression;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::base::ids::KeyspaceId;
use crate::base::key::InternalKey;
use crate::base::key::KEY_LEN_MAX;
use crate::base::key::KeyHash;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::key::shared_prefix_len;
use crate::base::options::SstOptions;
use crate::base::planted::Planted;
use crate::base::range_tombstone::Fragments;
use crate::base::range_tombstone::RangeFacts;
use crate::base::seqno::SeqNo;
use crate::base::sorted::SortedMap;
use crate::base::value::EXPIRY_LEN;
use crate::base::value::Expiry;
use crate::base::value::ValueKind;
use crate::base::value::expiry_of;
use crate::fs::Growth;
use crate::fs::WritableFile;
use crate::sst::block::BlockHandle;
use crate::sst::block::BlockKind;
use crate::sst::block::seal;
use crate::sst::data_block_builder::DataBlockBuilder;
use crate::sst::filter;
use crate::sst::footer::FOOTER_LEN;
use crate::sst::footer::Footer;
use crate::sst::index_block::IndexBuilder;
use crate::sst::packer::Packer;
use crate::sst::properties::Properties;
use crate::sst::range_block;
use crate::sst::top_index::Partition;
use crate::sst::top_index::encode_partition;

/// Bytes are handed to the file in pieces of at least this size.
const WRITE_LEN: usize = 256 * 1024;
/// Data blocks of an index partition. Its heads fill half of a page, its filter a dozen.
const PARTITION_BLOCKS_MAX: usize = 256;
/// Bytes of data that an index partition covers before it is cut, so that offsets fit `u32`: one
/// block more (a value of 1 GiB) still does.
const PARTITION_BYTES_MAX: u64 = 1 << 30;
/// The largest that an entry may be.
const ENTRY_LEN_MAX: usize = (1 << 30) + (1 << 20);

/// What a finished file is, for the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SstSummary {
    /// Length of the file.
    pub(crate) bytes: u64,
    pub(crate) uid: u64,
    /// Empty if there are no entries, as is `largest`.
    pub(crate) smallest: InternalKey,
    pub(crate) largest: InternalKey,
    /// Of entries and range tombstones.
    pub(crate) min_seqno: SeqNo,
    pub(crate) max_seqno: SeqNo,
    pub(crate) entries: u64,
    pub(crate) tombstones: u64,
    pub(crate) distinct_keys: u64,
    /// Bytes of user keys and values.
    pub(crate) raw_bytes: u64,
    /// `u64::MAX` if there are no tombstones, ranges included.
    pub(crate) oldest_tombstone_wall_ms: u64,
    pub(crate) expiry: Expiry,
    /// Ascending.
    pub(crate) blobs: Vec<BlobUse>,
    pub(crate) ranges: Option<RangeFacts>,
    /// Numbers of the data blocks most of whose entries are hot, ascending.
    pub(crate) hot_blocks: Vec<u32>,
}

/// The blob files that entries refer to, and how many bytes of each.
#[derive(Debug, Default)]
pub(super) struct BlobUses(SortedMap<FileId, u64>);

impl BlobUses {
    /// Counts an entry, if it has a handle.
    pub(super) fn note(&mut self, trailer: Trailer, value: &[u8]) -> Result<(), Malformed> {
        if let Some(kind) = trailer.kind().filter(|kind| kind.is_apart()) {
            let at = if kind.expires() { EXPIRY_LEN } else { 0 };
            let handle = BlobHandle::decode(value.get(at..).unwrap_or_default())?;
            *self.0.get_or_insert_with(handle.file, || 0) += u64::from(handle.len);
        }
        Ok(())
    }

    pub(super) fn into_list(self) -> Vec<BlobUse> {
        self.0.into_iter().map(|(file, bytes)| BlobUse { file, bytes }).collect()
    }
}

/// A partition that is complete but not written: those of a file follow its data blocks.
#[derive(Debug)]
struct PendingPartition {
    separator: Vec<u8>,
    continues: bool,
    blocks: usize,
    index: Vec<u8>,
    filter: Vec<u8>,
}

/// Writes one SST. A file whose writer failed, or was dropped before [`SstWriter::finish`], is
/// garbage for the caller to remove.
#[derive(Debug)]
pub(crate) struct SstWriter {
    file: Box<dyn WritableFile>,
    uid: u64,
    options: SstOptions,
    /// Not yet handed to the file, and where it belongs.
    out: Vec<u8>,
    out_at: u64,
    growth: Growth,
    /// The data block being filled, its separator, and whether it continues the block before.
    block: DataBlockBuilder,
    separator: Vec<u8>,
    continues: bool,
    packer: Packer,
    /// The partition being filled, and its distinct user keys.
    index: IndexBuilder,
    hashes: Vec<KeyHash>,
    pending: Vec<PendingPartition>,
    pending_bytes: usize,
    last_user: Vec<u8>,
    last_trailer: Trailer,
    last_hash: KeyHash,
    properties: Properties,
    expiry: Expiry,
    blobs: BlobUses,
    ranges: Fragments,
    partition_blocks_max: usize,
    hot_blocks: Vec<u32>,
    /// Of the block being filled.
    hot_entries: usize,
}

impl SstWriter {
    /// A writer of the empty file `file`. `uid` is a random number that no other file has.
    pub(crate) fn new(
        file: Box<dyn WritableFile>,
        uid: u64,
        keyspace: KeyspaceId,
        options: SstOptions,
        created_wall_ms: u64,
    ) -> SstWriter {
        SstWriter {
            file,
            uid,
            options,
            out: Vec::with_capacity(WRITE_LEN + WRITE_LEN / 4),
            out_at: 0,
            growth: Growth::default(),
            block: DataBlockBuilder::default(),
            separator: Vec::new(),
            continues: false,
            packer: Packer::default(),
            index: IndexBuilder::default(),
            hashes: Vec::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            last_user: Vec::new(),
            last_trailer: Trailer::default(),
            last_hash: KeyHash(0),
            properties: Properties {
                keyspace,
                created_wall_ms,
                oldest_tombstone_wall_ms: u64::MAX,
                min_seqno: SeqNo::MAX,
                compression: options.compression as u8,
                ..Properties::default()
            },
            expiry: Expiry::default(),
            blobs: BlobUses::default(),
            ranges: Fragments::default(),
            partition_blocks_max: PARTITION_BLOCKS_MAX,
            hot_blocks: Vec::new(),
            hot_entries: 0,
        }
    }

    /// Reserves room: the file is expected to get `bytes`. Requires: nothing was written to it.
    ///
    /// # Errors
    /// `Io` if there is no room for it.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Result<()> {
        debug_assert_eq!(self.out_at, 0);
        self.growth.reserve(&*self.file, bytes)
    }

    /// Says that readers have the last entry in the cache, in another file.
    pub(crate) fn note_hot(&mut self) {
        self.hot_entries += 1;
    }

    /// Cuts index partitions after so many blocks, so that a small file has several.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn set_partition_blocks_max(&mut self, blocks: usize) {
        self.partition_blocks_max = blocks;
    }

    /// Says that tombstones among the entries may be as old as `wall_ms`. Without it they are as
    /// old as the file.
    pub(crate) fn set_oldest_tombstone(&mut self, wall_ms: u64) {
        let oldest = &mut self.properties.oldest_tombstone_wall_ms;
        *oldest = wall_ms.min(*oldest);
    }

    /// Sets the range tombstones, which lie where they like among the entries.
    pub(crate) fn set_ranges(&mut self, ranges: Fragments) {
        self.ranges = ranges;
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// `Io`; and `Internal` if `key` does not sort after all before it, or is longer than a key can
    /// be: going on would write a file that lies. What a compaction read may be to blame.
    pub(crate) fn add(&mut self, key: KeyRef<'_>, value: &[u8]) -> Result<()> {
        let first = self.properties.entries == 0;
        let order = self.last_user.as_slice().cmp(key.user);
        let same_user = !first && order == Ordering::Equal;
        if !(first || order == Ordering::Less || (same_user && key.trailer < self.last_trailer)) {
            return Err(Error::internal("entries of an SST were added out of order"));
        }
        if key.user.len() > KEY_LEN_MAX || value.len() > ENTRY_LEN_MAX - KEY_LEN_MAX {
            return Err(Error::internal("an entry is too large for an SST"));
        }
        let mut extent = self.block.extent_with(key, value);
        if self.block.is_full_for(&extent, self.options.block_bytes) {
            self.cut_block()?;
            extent = self.block.extent_with(key, value);
        }
        if self.block.is_empty() {
            self.begin_block(key.user, first, same_user);
        }
        if !same_user {
            self.last_hash = KeyHash::of(key.user);
            self.hashes.push(self.last_hash);
            self.properties.distinct_keys += 1;
            self.last_user.clear();
            self.last_user.extend_from_slice(key.user);
        } else if self.hashes.is_empty() {
            // The key goes on in a new partition, whose filter must know it as well.
            self.hashes.push(self.last_hash);
        }
        self.last_trailer = key.trailer;
        self.block.add(key, self.last_hash, value, extent);
        self.count(key, value, first)
    }

    fn count(&mut self, key: KeyRef<'_>, value: &[u8], first: bool) -> Result<()> {
        let seqno = key.trailer.seqno();
        let properties = &mut self.properties;
        if first {
            properties.smallest = InternalKey::from(key);
        }
        properties.entries += 1;
        properties.tombstones += u64::from(key.trailer.kind_byte() == ValueKind::Delete as u8);
        if !key.trailer.is_plain() {
            if key.trailer.kind().is_some_and(ValueKind::expires) {
                self.expiry.note(expiry_of(value));
            }
            self.blobs.note(key.trailer, value).map_err(|bad| Error::internal(bad.0))?;
        }
        properties.key_bytes += key.user.len() as u64;
        properties.value_bytes += value.len() as u64;
        properties.min_seqno = properties.min_seqno.min(seqno);
        properties.max_seqno = properties.max_seqno.max(seqno);
        Ok(())
    }

    /// The user key of the last entry.
    pub(crate) fn last_user(&self) -> &[u8] {
        &self.last_user
    }

    /// Length of the file if it were finished now, about.
    pub(crate) fn estimated_bytes(&self) -> u64 {
        let filter = self.hashes.len() * self.options.filter_bits_per_key as usize / 8;
        let buffered = self.block.size() + self.index.size() + filter + self.pending_bytes;
        self.position() + (buffered + FOOTER_LEN) as u64
    }

    /// Where the next byte goes.
    fn position(&self) -> u64 {
        self.out_at + self.out.len() as u64
    }

    fn begin_block(&mut self, user: &[u8], first: bool, same_user: bool) {
        self.hot_entries = 0;
        self.continues = same_user;
        let len = if first || same_user {
            user.len()
        } else {
            // One byte beyond what it shares with the key before sorts after that key.
            shared_prefix_len(&self.last_user, user) + 1
        };
        self.separator.clear();
        self.separator.extend(user.iter().take(len));
    }

    fn cut_block(&mut self) -> Result<()> {
        let (offset, start) = (self.position(), self.out.len());
        let mut compression = Compression::None;
        if 2 * self.hot_entries > self.block.len() {
            self.hot_blocks.push(self.properties.data_blocks as u32);
        }
        let packed = match self.options.compression {
            Compression::None => None,
            Compression::Lz4 => self.packer.pack(&self.block),
        };
        match packed {
            Some(packed) => {
                compression = Compression::Lz4;
                self.out.extend_from_slice(packed);
            }
            None => self.block.write_to(&mut self.out),
        }
        self.block.clear();
        let handle = self.seal(BlockKind::Data, compression, offset, start);
        self.index.add(handle, &self.separator, self.continues);
        self.properties.data_blocks += 1;
        self.properties.data_bytes += handle.stored_len();
        if self.index.len() >= self.partition_blocks_max
            || self.index.covered() >= PARTITION_BYTES_MAX
        {
            self.cut_partition();
        }
        if self.out.len() >= WRITE_LEN {
            self.write_out()?;
        }
        Ok(())
    }

    /// Makes a block of `out[start..]`, which lies at `offset`.
    fn seal(
        &mut self,
        kind: BlockKind,
        compression: Compression,
        offset: u64,
        start: usize,
    ) -> BlockHandle {
        let len = (self.out.len() - start) as u32;
        seal(&mut self.out, start, kind, compression, self.uid, offset);
        BlockHandle { offset, len }
    }

    fn cut_partition(&mut self) {
        let (separator, continues) = self.index.first();
        let mut partition = PendingPartition {
            separator: separator.to_vec(),
            continues,
            blocks: self.index.len(),
            index: Vec::with_capacity(self.index.size()),
            filter: Vec::new(),
        };
        self.index.finish(&mut partition.index);
        if self.options.filter_bits_per_key > 0 {
            filter::build(&self.hashes, self.options.filter_bits_per_key, &mut partition.filter);
        }
        self.hashes.clear();
        self.pending_bytes += partition.index.len() + partition.filter.len();
        self.pending.push(partition);
    }

    fn write_out(&mut self) -> Result<()> {
        self.file.write_at(self.out_at, &self.out)?;
        self.out_at = self.position();
        self.out.clear();
        self.growth.wrote(&*self.file, self.out_at)
    }

    /// Appends a block that is stored as it is.
    fn append(&mut self, payload: &[u8], kind: BlockKind) -> Result<BlockHandle> {
        let (offset, start) = (self.position(), self.out.len());
        self.out.extend_from_slice(payload);
        let handle = self.seal(kind, Compression::None, offset, start);
        if self.out.len() >= WRITE_LEN {
            self.write_out()?;
        }
        Ok(handle)
    }

    /// Writes filters, then index partitions, and returns the payload of the top index.
    fn append_partitions(&mut self) -> Result<Vec<u8>> {
        let pending = std::mem::take(&mut self.pending);
        let mut partitions = vec![Partition::default(); pending.len()];
        for (from, to) in pending.iter().zip(&mut partitions) {
            if from.filter.is_empty() {
                continue;
            }
            let padding = self.position().next_multiple_of(filter::LINE_LEN as u64);
            let padding = padding - self.position();
            self.out.resize(self.out.len() + padding as usize, 0);
            to.filter = self.append(&from.filter, BlockKind::Filter)?;
            self.properties.filter_bytes += to.filter.stored_len();
        }
        let mut top = Vec::new();
        put_varint(&mut top, pending.len() as u64);
        for (from, to) in pending.iter().zip(&mut partitions) {
            to.index = self.append(&from.index, BlockKind::Index)?;
            to.blocks = from.blocks;
            to.continues = from.continues;
            self.properties.index_bytes += to.index.stored_len();
            encode_partition(to, &from.separator, &mut top);
        }
        Ok(top)
    }

    /// Writes the rest of the file and makes it durable. (That its name is, too, is up to the
    /// caller: `Fs::sync_dir`.)
    pub(crate) fn finish(mut self) -> Result<SstSummary> {
        if !self.block.is_empty() {
            self.cut_block()?;
        }
        if !self.index.is_empty() {
            self.cut_partition();
        }
        self.complete_properties();
        let top = self.append_partitions()?;
        let mut payload = Vec::new();
        let mut ranges = BlockHandle::NONE;
        if !self.ranges.is_empty() {
            range_block::encode(&self.ranges, &mut payload);
            ranges = self.append(&payload, BlockKind::Ranges)?;
            payload.clear();
        }
        self.properties.encode(&mut payload);
        let properties = self.append(&payload, BlockKind::Properties)?;
        let top = self.append(&top, BlockKind::Top)?;
        let footer = Footer { top, properties, ranges, uid: self.uid };
        footer.encode(self.position(), &mut self.out);
        self.write_out()?;
        // Gives back what was reserved behind the end.
        self.file.set_len(self.out_at)?;
        if !Planted::SstNotSynced.is_on() {
            self.file.sync_data()?;
        }
        Ok(self.summary())
    }

    fn summary(self) -> SstSummary {
        let properties = self.properties;
        let (mut min_seqno, mut max_seqno) = (properties.min_seqno, properties.max_seqno);
        if let Some((oldest, newest)) = self.ranges.seqnos() {
            let no_entries = properties.entries == 0;
            min_seqno = if no_entries { oldest } else { min_seqno.min(oldest) };
            max_seqno = max_seqno.max(newest);
        }
        SstSummary {
            bytes: self.out_at,
            uid: self.uid,
            smallest: properties.smallest,
            largest: properties.largest,
            min_seqno,
            max_seqno,
            entries: properties.entries,
            tombstones: properties.tombstones,
            distinct_keys: properties.distinct_keys,
            raw_bytes: properties.key_bytes + properties.value_bytes,
            oldest_tombstone_wall_ms: properties.oldest_tombstone_wall_ms,
            expiry: self.expiry,
            blobs: self.blobs.into_list(),
            ranges: self.ranges.facts(),
            hot_blocks: self.hot_blocks,
        }
    }

    fn complete_properties(&mut self) {
        let properties = &mut self.properties;
        properties.range_tombstones = self.ranges.facts().map_or(0, |facts| facts.count);
        properties.min_expiry_ms = self.expiry.min_ms;
        properties.max_expiry_ms = self.expiry.max_ms;
        if properties.entries == 0 {
            properties.min_seqno = SeqNo::ZERO;
        } else {
            properties.largest = InternalKey::new(self.last_user.as_slice(), self.last_trailer);
        }
        let tombstones = properties.tombstones + properties.range_tombstones;
        properties.oldest_tombstone_wall_ms = if tombstones == 0 {
            u64::MAX
        } else {
            let created = properties.created_wall_ms;
            properties.oldest_tombstone_wall_ms.min(created)
        };
    }
}
