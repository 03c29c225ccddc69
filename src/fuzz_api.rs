//! The decoders, opened for the fuzz targets and for nothing else: no promise holds here.

use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::batch::Batch;
use crate::base::batch::Op;
use crate::base::compression::Compression;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::ids::KeyspaceId;
use crate::base::internal_iter::InternalIter as _;
use crate::base::key::InternalKey;
use crate::base::key::KeyHash;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::options::Recovery;
use crate::base::options::SstOptions;
use crate::base::range_tombstone::Fragments;
use crate::base::seqno::SeqNo;
use crate::base::sync::Mutex;
use crate::base::value::ValueKind;
use crate::cache::BlockCache;
use crate::fs::Fs;
use crate::fs::ReadableFile;
use crate::fs::WritableFile;
use crate::manifest;
use crate::record;
use crate::record::header::FileHeader;
use crate::sst::SstIter;
use crate::sst::SstReader;
use crate::sst::SstWriter;
use crate::sst::parts;
use crate::wal;

mod blob;

pub use blob::Blob;
pub use blob::BlobPlace;
pub use blob::BlobRecord;
pub use blob::build_blob;
pub use blob::decode_handle;
pub use blob::reseal_blobs;

// The log.

/// The header of a log segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub db: u64,
    pub file: u64,
    pub prev: u64,
    pub prev_end: u64,
    pub first_seqno: u64,
    pub durable: u64,
}

impl Segment {
    pub fn encode(&self) -> Vec<u8> {
        let extra = [self.prev, self.prev_end, self.first_seqno, self.durable];
        FileHeader { db: DbId(self.db), file: FileId(self.file), extra }.encode(wal::FORMAT)
    }
}

/// Appends a record to `file`, the content of log file `id`; with a stamp if there is a lag.
/// Requires: a payload of three bytes or more. Of the sequence number, seven bytes are stored.
pub fn append_record(
    file: &mut Vec<u8>,
    db: u64,
    id: u64,
    seqno: u64,
    lag: Option<u32>,
    payload: &[u8],
) {
    let context = record::Context::new(DbId(db), FileId(id));
    let (offset, seqno) = (file.len() as u64, seqno & SeqNo::MAX.get());
    let stamp = lag.map(|lag| record::Stamp { seqno, lag });
    record::encode_into(file, context, offset, stamp, payload);
}

/// A batch in its byte form: puts, and deletes where there is no value.
pub fn batch(keyspace: u32, ops: &[(&[u8], Option<&[u8]>)]) -> Vec<u8> {
    let mut batch = Batch::default();
    for (key, value) in ops {
        let kind = if value.is_some() { ValueKind::Put } else { ValueKind::Delete };
        let value = value.unwrap_or_default();
        batch.push(Op { kind, keyspace: KeyspaceId(keyspace), key, value });
    }
    batch.bytes().to_vec()
}

/// What recovery read from a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Sequence number and batch.
    pub records: Vec<(u64, Vec<u8>)>,
    pub last_seqno: u64,
    pub given_up: bool,
}

/// Recovers the log in `dir`, of which everything up to `durable` is said to be durable.
pub fn recover_log(
    fs: &dyn Fs,
    dir: &Path,
    db: u64,
    floor: u64,
    durable: u64,
    mode: Recovery,
) -> Result<Log> {
    let listing = fs.list(dir)?;
    let (db, floor, durable) = (DbId(db), FileId(floor), SeqNo::new(durable));
    let source = wal::LogSource { fs, dir, db, floor, durable, mode };
    let mut records = Vec::new();
    let log = wal::recover(&source, &listing, &mut |batches| {
        records.extend(batches.iter().map(|batch| (batch.seqno.get(), batch.payload.to_vec())));
        Ok(())
    })?;
    Ok(Log { records, last_seqno: log.last_seqno.get(), given_up: log.given_up.is_some() })
}

// The manifest.

/// What an edit says of an SST. Keys are user key and trailer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SstFacts {
    pub level: u8,
    pub file: u64,
    pub bytes: u64,
    pub uid: u64,
    pub smallest: (Vec<u8>, u64),
    pub largest: (Vec<u8>, u64),
    pub min_seqno: u64,
    pub max_seqno: u64,
}

/// Changes of one keyspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyspaceChange {
    pub keyspace: u32,
    pub name: Option<String>,
    pub merge_operator: Option<String>,
    pub default_ttl_ms: Option<u64>,
    pub expiring: bool,
    pub dropped: bool,
    pub flushed: Option<u64>,
    pub added: Vec<SstFacts>,
    /// Level and file.
    pub removed: Vec<(u8, u64)>,
}

/// An edit of the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    pub next_file: Option<u64>,
    pub last_seqno: Option<u64>,
    pub log_durable: Option<u64>,
    pub wal_floor: Option<u64>,
    pub next_keyspace: Option<u32>,
    pub keyspaces: Vec<KeyspaceChange>,
    /// Bytes of the log that are kept, and for how many milliseconds.
    pub log_retention: Option<[u64; 2]>,
    /// Log segments that are kept: number, first and last sequence number, end, and when it ended.
    pub kept: Vec<[u64; 5]>,
}

impl From<&SstFacts> for manifest::SstMeta {
    fn from(facts: &SstFacts) -> manifest::SstMeta {
        let key =
            |(user, trailer): &(Vec<u8>, u64)| InternalKey::new(user.as_slice(), Trailer(*trailer));
        manifest::SstMeta {
            id: FileId(facts.file),
            bytes: facts.bytes,
            uid: facts.uid,
            smallest: key(&facts.smallest),
            largest: key(&facts.largest),
            min_seqno: SeqNo::new(facts.min_seqno),
            max_seqno: SeqNo::new(facts.max_seqno),
            oldest_tombstone_ms: u64::MAX,
            ..manifest::SstMeta::default()
        }
    }
}

impl SstFacts {
    fn new(level: u8, meta: &manifest::SstMeta) -> SstFacts {
        SstFacts {
            level,
            file: meta.id.0,
            bytes: meta.bytes,
            uid: meta.uid,
            smallest: (meta.smallest.user.clone(), meta.smallest.trailer.0),
            largest: (meta.largest.user.clone(), meta.largest.trailer.0),
            min_seqno: meta.min_seqno.get(),
            max_seqno: meta.max_seqno.get(),
        }
    }
}

impl From<&manifest::VersionEdit> for Edit {
    fn from(edit: &manifest::VersionEdit) -> Edit {
        let change = |from: &manifest::KeyspaceEdit| KeyspaceChange {
            keyspace: from.id.0,
            name: from.name.clone(),
            merge_operator: from.merge_operator.clone(),
            default_ttl_ms: from.default_ttl_ms,
            expiring: from.expiring,
            dropped: from.dropped,
            flushed: from.flushed_seqno.map(SeqNo::get),
            added: from.added.iter().map(|(level, meta)| SstFacts::new(*level, meta)).collect(),
            removed: from.removed.iter().map(|(level, id)| (*level, id.0)).collect(),
        };
        Edit {
            next_file: edit.next_file.map(|id| id.0),
            last_seqno: edit.last_seqno.map(SeqNo::get),
            log_durable: edit.log_durable.map(SeqNo::get),
            wal_floor: edit.wal_floor.map(|id| id.0),
            next_keyspace: edit.next_keyspace,
            keyspaces: edit.keyspaces.iter().map(change).collect(),
            log_retention: edit.log_retention.map(|limits| [limits.bytes, limits.age_ms]),
            kept: edit
                .kept
                .iter()
                .map(|kept| [kept.id.0, kept.first.get(), kept.last.get(), kept.end, kept.ended_ms])
                .collect(),
        }
    }
}

/// The bytes of an edit.
pub fn encode_edit(edit: &Edit) -> Vec<u8> {
    let keyspace = |change: &KeyspaceChange| manifest::KeyspaceEdit {
        id: KeyspaceId(change.keyspace),
        name: change.name.clone(),
        merge_operator: change.merge_operator.clone(),
        default_ttl_ms: change.default_ttl_ms,
        expiring: change.expiring,
        dropped: change.dropped,
        flushed_seqno: change.flushed.map(SeqNo::new),
        added: change.added.iter().map(|facts| (facts.level, facts.into())).collect(),
        removed: change.removed.iter().map(|(level, id)| (*level, FileId(*id))).collect(),
        ..manifest::KeyspaceEdit::default()
    };
    manifest::encode_edit(&manifest::VersionEdit {
        next_file: edit.next_file.map(FileId),
        last_seqno: edit.last_seqno.map(SeqNo::new),
        log_durable: edit.log_durable.map(SeqNo::new),
        wal_floor: edit.wal_floor.map(FileId),
        next_keyspace: edit.next_keyspace,
        keyspaces: edit.keyspaces.iter().map(keyspace).collect(),
        log_retention: edit
            .log_retention
            .map(|[bytes, age_ms]| crate::base::options::Retention { bytes, age_ms }),
        kept: edit
            .kept
            .iter()
            .map(|&[id, first, last, end, ended_ms]| manifest::KeptSegment {
                id: FileId(id),
                first: SeqNo::new(first),
                last: SeqNo::new(last),
                end,
                ended_ms,
            })
            .collect(),
    })
}

/// The edit in `bytes`.
pub fn decode_edit(bytes: &[u8]) -> Result<Edit, &'static str> {
    manifest::decode_edit(bytes).map(|edit| Edit::from(&edit))
}

/// The header of manifest `id`.
pub fn manifest_header(db: u64, id: u64) -> Vec<u8> {
    let header = FileHeader { db: DbId(db), file: FileId(id), extra: [0; 4] };
    header.encode(manifest::MANIFEST_FORMAT)
}

/// `CURRENT`, naming manifest `id`.
pub fn current(db: u64, id: u64) -> Vec<u8> {
    let header = FileHeader { db: DbId(db), file: FileId(id), extra: [0; 4] };
    header.encode(manifest::CURRENT_FORMAT)
}

/// The edits of the manifest that `CURRENT` names.
pub fn read_manifest(fs: &dyn Fs, dir: &Path) -> Result<Vec<Edit>> {
    let (db, id) = manifest::read_current(fs, dir)?;
    let edits = manifest::read_manifest(fs, dir, id, db)?;
    Ok(edits.iter().map(Edit::from).collect())
}

// SSTs.

/// How a file is built.
#[derive(Clone, Copy, Debug)]
pub struct SstShape {
    pub block_bytes: usize,
    pub partition_blocks: usize,
    pub lz4: bool,
    pub filter_bits_per_key: u32,
    pub uid: u64,
}

/// User key, sequence number, value (none: a tombstone).
pub type SstEntry = (Vec<u8>, u64, Option<Vec<u8>>);

/// A range tombstone: first key, end (none: all keys behind it), sequence number.
pub type SstRange = (Vec<u8>, Option<Vec<u8>>, u64);

/// A file in memory, being written or read.
#[derive(Clone, Debug, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl WritableFile for Written {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut file = self.0.lock();
        file.truncate(offset as usize);
        file.extend_from_slice(bytes);
        Ok(())
    }

    fn sync_data(&self) -> Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.0.lock().resize(len as usize, 0);
        Ok(())
    }

    fn reserve(&self, _range: Range<u64>) -> Result<bool> {
        Ok(false)
    }
}

#[derive(Debug)]
struct Stored {
    bytes: Bytes,
    mapped: bool,
}

impl ReadableFile for Stored {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let Some(bytes) = self.bytes.get(start..start.saturating_add(out.len())) else {
            let end = std::io::ErrorKind::UnexpectedEof;
            return Err(Error::io("read", Path::new("000001.sst"), end.into()));
        };
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn mapping(&self) -> Option<&Bytes> {
        self.mapped.then_some(&self.bytes)
    }

    fn will_need(&self, _range: Range<u64>) {}
}

/// The file of `entries`, which are in order: keys ascend, sequence numbers of a key descend; and of
/// `ranges` in any order.
pub fn build_sst(entries: &[SstEntry], ranges: &[SstRange], shape: SstShape) -> Result<Vec<u8>> {
    let compression = if shape.lz4 { Compression::Lz4 } else { Compression::None };
    let options = SstOptions {
        block_bytes: shape.block_bytes,
        compression,
        filter_bits_per_key: shape.filter_bits_per_key,
    };
    let file = Written::default();
    let target = Box::new(file.clone());
    let mut writer = SstWriter::new(target, shape.uid, KeyspaceId::DEFAULT, options, 0);
    writer.set_partition_blocks_max(shape.partition_blocks);
    for (user, seqno, value) in entries {
        let kind = if value.is_some() { ValueKind::Put } else { ValueKind::Delete };
        let trailer = Trailer::new(SeqNo::new(*seqno), kind);
        writer.add(KeyRef::new(user, trailer), value.as_deref().unwrap_or_default())?;
    }
    let pieces = ranges.iter().map(|(from, to, n)| (&**from, to.as_deref(), SeqNo::new(*n)));
    writer.set_ranges(Fragments::cut(pieces));
    writer.finish()?;
    let bytes = std::mem::take(&mut *file.0.lock());
    Ok(bytes)
}

/// An open SST.
pub struct Sst {
    reader: Arc<SstReader>,
    file: Arc<dyn ReadableFile>,
}

impl Sst {
    pub fn open(bytes: &[u8], mapped: bool, cache_bytes: u64) -> Result<Sst> {
        let file = Stored { bytes: Bytes::copy_from_slice(bytes), mapped };
        let file: Arc<dyn ReadableFile> = Arc::new(file);
        let cache = Arc::new(BlockCache::new(cache_bytes));
        let path = PathBuf::from("000001.sst");
        let reader = SstReader::open(file.clone(), path, FileId(1), None, cache)?;
        Ok(Sst { reader: Arc::new(reader), file })
    }

    /// Where the blocks of this intact file lie.
    pub fn blocks(&self) -> Result<Vec<Range<usize>>> {
        parts::blocks(&self.reader)
    }

    /// The newest version of `user` at `seqno`: trailer and value.
    pub fn get(&self, user: &[u8], seqno: u64) -> Result<Option<(u64, Vec<u8>)>> {
        let seqno = SeqNo::new(seqno);
        self.reader
            .get(user, KeyHash::of(user), seqno, |trailer, value| (trailer.0, value.to_vec()))
    }

    /// The pieces of its range tombstones, in order.
    pub fn ranges(&self) -> Vec<SstRange> {
        let pieces = self.reader.ranges().pieces();
        let piece = |(from, to, seqno): (&[u8], Option<&[u8]>, SeqNo)| {
            (from.to_vec(), to.map(<[u8]>::to_vec), seqno.get())
        };
        pieces.map(piece).collect()
    }

    pub fn may_contain(&self, user: &[u8]) -> Result<bool> {
        self.reader.may_contain(user, KeyHash::of(user))
    }

    /// Checks all of the file; returns how many entries it has.
    pub fn verify(&self) -> Result<u64> {
        Ok(self.reader.verify(&*self.file)?.entries)
    }

    pub fn cursor(&self) -> SstCursor {
        SstCursor(self.reader.iter())
    }

    /// As compaction reads.
    pub fn scan(&self) -> SstCursor {
        SstCursor(self.reader.scan_iter(self.file.clone()))
    }
}

/// A cursor over one file. Keys are user key and trailer.
pub struct SstCursor(SstIter);

impl SstCursor {
    pub fn seek(&mut self, user: &[u8], trailer: u64) -> Result<()> {
        self.0.seek(KeyRef::new(user, Trailer(trailer)))
    }

    pub fn seek_for_prev(&mut self, user: &[u8], trailer: u64) -> Result<()> {
        self.0.seek_for_prev(KeyRef::new(user, Trailer(trailer)))
    }

    pub fn seek_to_first(&mut self) -> Result<()> {
        self.0.seek_to_first()
    }

    pub fn seek_to_last(&mut self) -> Result<()> {
        self.0.seek_to_last()
    }

    #[expect(clippy::should_implement_trait, reason = "a lending cursor cannot be an Iterator")]
    pub fn next(&mut self) -> Result<()> {
        self.0.next()
    }

    pub fn prev(&mut self) -> Result<()> {
        self.0.prev()
    }

    /// User key, trailer and value of the entry it stands on.
    pub fn entry(&self) -> Option<(&[u8], u64, &[u8])> {
        let key = self.0.valid().then(|| self.0.key())?;
        Some((key.user, key.trailer.0, self.0.value()))
    }
}

/// Makes the checksums of `blocks`, of `tail` and of the footer right, whatever the bytes are.
pub fn reseal(file: &mut [u8], blocks: &[Range<usize>], uid: u64) {
    parts::reseal(file, blocks, uid);
}

/// Where range tombstones, if there are any, properties and top index of an intact file lie.
pub fn tail_blocks(file: &[u8]) -> Option<Vec<Range<usize>>> {
    parts::tail_blocks(file)
}

// Blocks without checksums.

/// A file whose only data block has this payload, whatever it is, all checksums right.
pub fn sst_around(payload: &[u8], lz4: bool) -> Vec<u8> {
    parts::file_around(payload, lz4, 7)
}

/// What is in a data block: what all user keys begin with; up to the first that cannot be read, the
/// entries: what the key has behind that, trailer, value; and whether what the block says about them
/// is right.
pub fn data_entries(payload: &[u8]) -> Result<parts::DataEntries<'_>, &'static str> {
    parts::data_entries(payload).map_err(|bad| bad.0)
}

/// The newest version of `user` in a data block that a reader at `seqno` sees: trailer and value.
pub fn data_find<'a>(
    payload: &'a [u8],
    user: &[u8],
    seqno: u64,
) -> Result<Option<(u64, &'a [u8])>, &'static str> {
    parts::data_find(payload, user, SeqNo::new(seqno)).map_err(|bad| bad.0)
}

/// How many entries of a data block come before `(user, trailer)`; with `or_equal` up to it.
pub fn data_rank(
    payload: &[u8],
    user: &[u8],
    trailer: u64,
    or_equal: bool,
) -> Result<usize, &'static str> {
    parts::data_rank(payload, user, trailer, or_equal).map_err(|bad| bad.0)
}

/// An index partition over data blocks of these separators (and whether each continues).
pub fn index_block(separators: &[(&[u8], bool)], base: u64) -> Vec<u8> {
    parts::index_block(separators, base)
}

/// Entries of an index partition up to the first that cannot be read: separator, continues, offset
/// and length of the data block. And how many it claims to have.
pub fn index_entries(payload: &[u8]) -> Result<(Vec<parts::IndexEntry<'_>>, usize), &'static str> {
    parts::index_entries(payload).map_err(|bad| bad.0)
}

/// The first data block of an index partition that may hold `user`.
pub fn index_find(payload: &[u8], user: &[u8]) -> Result<usize, &'static str> {
    parts::index_find(payload, user).map_err(|bad| bad.0)
}

/// The payload of a data block that was folded and compressed.
pub fn decompress(stored: &[u8]) -> Result<Arc<[u8]>, &'static str> {
    parts::unpack(stored).map(|block| Arc::from(&*block)).map_err(|bad| bad.0)
}

// Filters.

/// The filter over `keys`.
pub fn filter<'a>(keys: impl Iterator<Item = &'a [u8]>, bits_per_key: u32) -> Vec<u8> {
    parts::filter(keys, bits_per_key)
}

/// What a filter says of `key`.
pub fn filter_may_contain(payload: &[u8], key: &[u8]) -> Result<bool, &'static str> {
    parts::filter_may_contain(payload, key).map_err(|bad| bad.0)
}
