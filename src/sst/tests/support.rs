//! Files in memory, random entries, and all the ways to store and read them.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use crate::base::compression::Compression;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::base::ids::KeyspaceId;
use crate::base::key::KeyHash;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::options::SstOptions;
use crate::base::seqno::SeqNo;
use crate::base::sync::Mutex;
use crate::base::value::ValueKind;
use crate::cache::BlockCache;
use crate::fs::ReadableFile;
use crate::fs::WritableFile;
use crate::sst::SstExpectation;
use crate::sst::SstReader;
use crate::sst::SstSummary;
use crate::sst::SstWriter;

pub(super) const UID: u64 = 0x1234_5678_9abc_def0;

/// A file being written; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    synced_len: Arc<Mutex<usize>>,
}

impl WritableFile for Disk {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut file = self.bytes.lock();
        assert_eq!(offset, file.len() as u64, "an SST is written front to back");
        file.extend_from_slice(bytes);
        Ok(())
    }

    fn sync_data(&self) -> Result<()> {
        *self.synced_len.lock() = self.bytes.lock().len();
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        assert_eq!(len, self.bytes.lock().len() as u64, "nothing that was written is cut off");
        Ok(())
    }

    fn reserve(&self, _: Range<u64>) -> Result<bool> {
        Ok(false)
    }
}

/// A file being read.
#[derive(Debug)]
pub(in crate::sst) struct MemFile {
    bytes: Bytes,
    mapped: bool,
    pub(in crate::sst) told: Mutex<Vec<Range<u64>>>,
}

impl MemFile {
    pub(in crate::sst) fn new(bytes: &Bytes, mapped: bool) -> Arc<MemFile> {
        Arc::new(MemFile { bytes: bytes.clone(), mapped, told: Mutex::default() })
    }
}

impl ReadableFile for MemFile {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let start = offset as usize;
        match self.bytes.get(start..start + out.len()) {
            Some(bytes) => {
                out.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(Error::io("read", Path::new("mem"), io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Some parts of the file are on the disk only.
    fn read_at_once(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        Ok(!offset.is_multiple_of(3) && self.read_at(offset, out).is_ok())
    }

    fn mapping(&self) -> Option<&Bytes> {
        self.mapped.then_some(&self.bytes)
    }

    fn will_need(&self, range: Range<u64>) {
        self.told.lock().push(range);
    }
}

pub(super) type Entry = (Vec<u8>, Trailer, Vec<u8>);

pub(super) fn key_of(entry: &Entry) -> KeyRef<'_> {
    KeyRef::new(&entry.0, entry.1)
}

/// One way to store and to read a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) block_bytes: usize,
    pub(super) partition_blocks: usize,
    pub(super) compression: Compression,
    pub(super) filter_bits: u32,
    pub(super) mapped: bool,
    pub(super) cache_bytes: u64,
}

pub(super) const SMALL: Shape = Shape {
    block_bytes: 128,
    partition_blocks: 3,
    compression: Compression::None,
    filter_bits: 10,
    mapped: true,
    cache_bytes: 1 << 20,
};

/// Mapped or not, with lz4 or not.
pub(super) fn sources(shape: Shape) -> [Shape; 4] {
    [
        (true, Compression::None),
        (true, Compression::Lz4),
        (false, Compression::None),
        (false, Compression::Lz4),
    ]
    .map(|(mapped, compression)| Shape { compression, mapped, ..shape })
}

pub(super) fn any_shape() -> impl Strategy<Value = Shape> {
    (
        prop_oneof![64usize..512, Just(4096)],
        1usize..5,
        prop_oneof![Just(0u32), Just(10)],
        prop_oneof![Just(0u64), Just(2 << 10), Just(1 << 20)],
    )
        .prop_map(|(block_bytes, partition_blocks, filter_bits, cache_bytes)| Shape {
            block_bytes,
            partition_blocks,
            filter_bits,
            cache_bytes,
            ..SMALL
        })
}

pub(super) fn writer(shape: Shape) -> (SstWriter, Disk) {
    let disk = Disk::default();
    let options = SstOptions {
        block_bytes: shape.block_bytes,
        compression: shape.compression,
        filter_bits_per_key: shape.filter_bits,
    };
    let mut writer = SstWriter::new(Box::new(disk.clone()), UID, KeyspaceId(3), options, 1000);
    writer.set_partition_blocks_max(shape.partition_blocks);
    (writer, disk)
}

pub(super) fn finish(writer: SstWriter, disk: &Disk) -> (Bytes, SstSummary) {
    let summary = writer.finish().unwrap();
    let bytes = Bytes::from(std::mem::take(&mut *disk.bytes.lock()));
    assert_eq!(bytes.len() as u64, summary.bytes);
    assert_eq!(*disk.synced_len.lock(), bytes.len());
    (bytes, summary)
}

pub(super) fn write(entries: &[Entry], shape: Shape) -> (Bytes, SstSummary) {
    let (mut writer, disk) = writer(shape);
    for entry in entries {
        writer.add(key_of(entry), &entry.2).unwrap();
    }
    finish(writer, &disk)
}

pub(super) fn try_open(bytes: &Bytes, len: u64, shape: Shape) -> Result<Arc<SstReader>> {
    let expected = SstExpectation { bytes: len, uid: UID, ranges: None };
    let cache = Arc::new(BlockCache::new(shape.cache_bytes));
    let file = MemFile::new(bytes, shape.mapped);
    SstReader::open(file, PathBuf::from("7.sst"), FileId(7), Some(expected), cache).map(Arc::new)
}

pub(super) fn open(bytes: &Bytes, shape: Shape) -> Arc<SstReader> {
    try_open(bytes, bytes.len() as u64, shape).unwrap()
}

pub(super) fn open_with(bytes: &Bytes, shape: Shape, cache: Arc<BlockCache>) -> Arc<SstReader> {
    open_as(FileId(7), bytes, shape, cache)
}

pub(super) fn open_as(
    id: FileId,
    bytes: &Bytes,
    shape: Shape,
    cache: Arc<BlockCache>,
) -> Arc<SstReader> {
    let expected = SstExpectation { bytes: bytes.len() as u64, uid: UID, ranges: None };
    let file = MemFile::new(bytes, shape.mapped);
    let reader = SstReader::open(file, PathBuf::from("7.sst"), id, Some(expected), cache);
    Arc::new(reader.unwrap())
}

/// What the reader finds for `user` at `seqno`.
pub(super) fn get(
    reader: &SstReader,
    user: &[u8],
    seqno: SeqNo,
) -> Result<Option<(Trailer, Vec<u8>)>> {
    reader.get(user, KeyHash::of(user), seqno, |trailer, value| {
        assert_eq!(value.to_slice(), *value);
        (trailer, value.to_vec())
    })
}

/// What it should find.
pub(super) fn model_get(
    entries: &[Entry],
    user: &[u8],
    seqno: SeqNo,
) -> Option<(Trailer, Vec<u8>)> {
    let first = entries.partition_point(|entry| key_of(entry) < KeyRef::seek(user, seqno));
    let entry = entries.get(first)?;
    (entry.0 == user).then(|| (entry.1, entry.2.clone()))
}

/// Entries in order, with many versions of few keys, keys that are prefixes of others, zero bytes.
pub(super) fn entries(count: usize) -> impl Strategy<Value = Vec<Entry>> {
    let key = prop_oneof![
        4 => proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..5),
        2 => (0u32..60).prop_map(|n| format!("user/{n:06}/name").into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
    ];
    let seqno = prop_oneof![2 => 0u64..12, 1 => Just(0u64)];
    let value = prop_oneof![
        6 => proptest::collection::vec(any::<u8>(), 0..20),
        2 => (0usize..100).prop_map(|len| vec![b'v'; len]),
        1 => Just(vec![b'w'; 3000]),
    ];
    let entry = (key, seqno, 0u8..4, value);
    proptest::collection::vec(entry, 1..count).prop_map(|raw| {
        let mut entries: Vec<Entry> = raw
            .into_iter()
            .map(|(user, seqno, kind, value)| {
                let kind = if kind == 0 { ValueKind::Delete } else { ValueKind::Put };
                (user, Trailer::new(SeqNo::new(seqno), kind), value)
            })
            .collect();
        entries.sort_by(|a, b| key_of(a).cmp(&key_of(b)));
        entries.dedup_by(|a, b| a.0 == b.0 && a.1.seqno() == b.1.seqno());
        entries
    })
}

/// Every user key of the entries, and keys just beside them.
pub(super) fn probes(entries: &[Entry]) -> Vec<Vec<u8>> {
    let mut probes = vec![Vec::new(), vec![0xff; 8], b"user/".to_vec()];
    for (user, _, _) in entries {
        probes.push(user.clone());
        probes.push([user.as_slice(), &[0]].concat());
        let mut shorter = user.clone();
        shorter.pop();
        probes.push(shorter);
    }
    probes.sort();
    probes.dedup();
    probes
}
