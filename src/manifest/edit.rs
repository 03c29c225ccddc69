//! What an edit says.

use std::ops::Bound;

use crate::base::blob::BlobUse;
use crate::base::ids::FileId;
use crate::base::ids::KeyspaceId;
use crate::base::key::InternalKey;
use crate::base::options::Retention;
use crate::base::range::is_by;
use crate::base::range_tombstone::RangeFacts;
use crate::base::range_tombstone::is_behind;
use crate::base::seqno::SeqNo;
use crate::base::value::Expiry;

/// What the manifest knows of an SST: enough to rule it out for a key without opening it, and to
/// tell it from any other file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SstMeta {
    pub(crate) id: FileId,
    /// Size of the file.
    pub(crate) bytes: u64,
    /// Identity drawn at random, also in the file's footer and in every checksum of it.
    pub(crate) uid: u64,
    /// First and last entry. Where there is none both are where the range tombstones begin.
    pub(crate) smallest: InternalKey,
    pub(crate) largest: InternalKey,
    /// Of entries and range tombstones.
    pub(crate) min_seqno: SeqNo,
    pub(crate) max_seqno: SeqNo,
    pub(crate) entries: u64,
    /// Range tombstones aside.
    pub(crate) tombstones: u64,
    /// Bytes of keys and values, uncompressed.
    pub(crate) raw_bytes: u64,
    /// When the oldest tombstone was first written to a file; `u64::MAX` if there is none.
    pub(crate) oldest_tombstone_ms: u64,
    pub(crate) expiry: Expiry,
    /// The blob files that its entries refer to, ascending.
    pub(crate) blobs: Vec<BlobUse>,
    /// Its range tombstones, which may reach beyond its smallest and its largest key.
    pub(crate) ranges: Option<RangeFacts>,
}

impl SstMeta {
    /// The smallest user key that its entries and range tombstones have or cover.
    pub(crate) fn first(&self) -> &[u8] {
        let smallest = self.smallest.user.as_slice();
        self.ranges.as_ref().map_or(smallest, |ranges| smallest.min(&ranges.from))
    }

    /// Up to where its entries and range tombstones go.
    pub(crate) fn last(&self) -> Bound<&[u8]> {
        let largest = self.largest.user.as_slice();
        match self.ranges.as_ref().map(|ranges| ranges.to.as_deref()) {
            Some(None) => Bound::Unbounded,
            Some(Some(to)) if largest < to => Bound::Excluded(to),
            _ => Bound::Included(largest),
        }
    }

    /// Does all of it lie before `key`?
    #[inline]
    pub(crate) fn is_before(&self, key: &[u8]) -> bool {
        self.largest.user.as_slice() < key
            && self.ranges.as_ref().is_none_or(|ranges| !is_behind(ranges.to.as_deref(), key))
    }

    /// May it say something of a key between `from` and `to`, by an entry or a range tombstone?
    pub(crate) fn overlaps(&self, from: &[u8], to: Bound<&[u8]>) -> bool {
        !self.is_before(from) && is_by(self.first(), to)
    }

    /// Has it tombstones of any kind?
    pub(crate) fn has_tombstones(&self) -> bool {
        self.tombstones > 0 || self.ranges.is_some()
    }
}

/// What the manifest knows of a blob file. It is there as long as any SST refers to it: so nothing
/// says that it is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlobMeta {
    pub(crate) id: FileId,
    /// Size of the file.
    pub(crate) bytes: u64,
    /// Identity drawn at random, also in the file's header and in every checksum of it.
    pub(crate) uid: u64,
    pub(crate) values: u64,
    /// Bytes of keys and values, uncompressed.
    pub(crate) raw_bytes: u64,
}

/// Changes of one keyspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyspaceEdit {
    pub(crate) id: KeyspaceId,
    /// Creates the keyspace under this name.
    pub(crate) name: Option<String>,
    /// Gives it the merge operator of this name, for good.
    pub(crate) merge_operator: Option<String>,
    /// How long its values live if a write does not say, in milliseconds; 0: for ever.
    pub(crate) default_ttl_ms: Option<u64>,
    /// Has its values expire though it has a merge operator, for good: operands are folded when they
    /// are written.
    pub(crate) expiring: bool,
    /// Values of so many bytes lie apart from their entries.
    pub(crate) separate_from: Option<u64>,
    /// Removes the keyspace and all its files.
    pub(crate) dropped: bool,
    /// Everything up to here is in SSTs; the log is not needed for it.
    pub(crate) flushed_seqno: Option<SeqNo>,
    pub(crate) added: Vec<(u8, SstMeta)>,
    pub(crate) added_blobs: Vec<BlobMeta>,
    pub(crate) removed: Vec<(u8, FileId)>,
}

impl KeyspaceEdit {
    pub(crate) fn new(id: KeyspaceId) -> KeyspaceEdit {
        KeyspaceEdit { id, ..KeyspaceEdit::default() }
    }
}

/// A segment of the log that recovery does not need, kept for those who follow the changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptSegment {
    pub(crate) id: FileId,
    pub(crate) first: SeqNo,
    /// The one before `first` if the segment holds no record.
    pub(crate) last: SeqNo,
    /// Where its records end.
    pub(crate) end: u64,
    /// When the segment behind it was started, in milliseconds since 1970.
    pub(crate) ended_ms: u64,
}

/// One atomic change of a database's files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VersionEdit {
    /// No file number from here on was used.
    pub(crate) next_file: Option<FileId>,
    /// Sequence numbers up to here were used.
    pub(crate) last_seqno: Option<SeqNo>,
    /// The log was on stable storage up to here: what is missing of it below is damage.
    pub(crate) log_durable: Option<SeqNo>,
    /// The oldest log segment that is needed.
    pub(crate) wal_floor: Option<FileId>,
    /// No keyspace number from here on was used.
    pub(crate) next_keyspace: Option<u32>,
    pub(crate) keyspaces: Vec<KeyspaceEdit>,
    /// What is kept of the log from now on; in an edit that begins a manifest, `None` is nothing.
    pub(crate) log_retention: Option<Retention>,
    /// Segments below the floor that are kept from now on, in the order of the log. Those at its
    /// front may be gone again: nothing says so but that the files are not there.
    pub(crate) kept: Vec<KeptSegment>,
}
