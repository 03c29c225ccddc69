//! Blob files: what is written reads back, and what is damaged does not.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::base::blob::BlobHandle;
use crate::base::compression::Compression;
use crate::base::error::Error;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::ids::KeyspaceId;
use crate::fs::Fs as _;
use crate::fs::MemFs;
use crate::fs::ReadMode;

fn path() -> PathBuf {
    PathBuf::from("/000007.blob")
}

const UID: u64 = 99;

/// A file of these keys and values, and their handles.
fn write(
    fs: &MemFs,
    values: &[(Vec<u8>, Vec<u8>)],
    compression: Compression,
) -> (BlobSummary, Vec<BlobHandle>) {
    let place = (DbId(3), KeyspaceId(1), FileId(7));
    let mut writer = BlobWriter::new(fs.create(&path()).unwrap(), place, UID, compression);
    let handles = values.iter().map(|(key, value)| writer.add(key, value).unwrap()).collect();
    (writer.finish().unwrap(), handles)
}

fn open(fs: &MemFs, mode: ReadMode, bytes: u64) -> crate::base::error::Result<BlobReader> {
    let expected = BlobExpectation { id: FileId(7), bytes, uid: UID };
    BlobReader::open(fs.open(&path(), mode)?, path(), Some(expected))
}

fn some_values() -> Vec<(Vec<u8>, Vec<u8>)> {
    let plain = |n: usize| (0..n).map(|i| (i * i * 7 / 3) as u8).collect::<Vec<u8>>();
    vec![
        (b"a".to_vec(), plain(300)),
        (b"b".to_vec(), vec![7; 2000]),
        (Vec::new(), Vec::new()),
        (vec![9; 300], plain(5000)),
    ]
}

fn replace(fs: &MemFs, bytes: &[u8]) {
    fs.remove(&path()).unwrap();
    fs.create(&path()).unwrap().write_at(0, bytes).unwrap();
}

fn bytes_of(fs: &MemFs) -> Vec<u8> {
    let file = fs.open(&path(), ReadMode::Pread).unwrap();
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
    #[test]
    fn values_are_found_by_their_handles_and_by_a_scan(
        values in prop::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 1..20),
        lz4: bool,
        mmap: bool,
    ) {
        let fs = MemFs::new();
        let compression = if lz4 { Compression::Lz4 } else { Compression::None };
        let (summary, handles) = write(&fs, &values, compression);
        let mode = if mmap { ReadMode::Mmap } else { ReadMode::Pread };
        let reader = open(&fs, mode, summary.bytes).unwrap();
        for ((key, value), handle) in values.iter().zip(&handles) {
            prop_assert_eq!(reader.get(key, *handle).unwrap(), value);
            prop_assert_eq!(handle.value_len as usize, value.len());
        }
        let mut at = 0;
        let file = fs.open(&path(), ReadMode::Sequential).unwrap();
        let count = scan(&reader, file.as_ref(), |offset, len, key, _| {
            assert_eq!((offset, len), (handles[at].offset, u64::from(handles[at].len)));
            assert_eq!(key, values[at].0);
            at += 1;
            Ok(())
        });
        prop_assert_eq!(count.unwrap(), summary.values);
        prop_assert_eq!(summary.values as usize, values.len());
    }
}

#[test]
fn a_flip_anywhere_in_a_blob_file_is_an_error_that_names_file_and_offset() {
    let fs = MemFs::new();
    let values = some_values();
    let (summary, handles) = write(&fs, &values, Compression::Lz4);
    let intact = bytes_of(&fs);
    for at in 0..intact.len() {
        let mut damaged = intact.clone();
        damaged[at] ^= 1 << (at % 8);
        replace(&fs, &damaged);
        let is_damage = |error: Error| match error {
            Error::Corruption { file, offset, .. } => file == path() && offset <= at as u64,
            Error::UnsupportedFormat { file, .. } => file == path(),
            _ => false,
        };
        let reader = match open(&fs, ReadMode::Pread, summary.bytes) {
            Ok(reader) => reader,
            Err(error) => {
                assert!(at < HEADER_LEN as usize && is_damage(error), "byte {at}");
                continue;
            }
        };
        let mut failed = 0;
        for ((key, value), handle) in values.iter().zip(&handles) {
            match reader.get(key, *handle) {
                Ok(found) => assert_eq!(found, value),
                Err(error) => {
                    assert!(is_damage(error), "byte {at}");
                    failed += 1;
                }
            }
        }
        assert_eq!(failed, 1, "byte {at}");
        let file = fs.open(&path(), ReadMode::Sequential).unwrap();
        assert!(scan(&reader, file.as_ref(), |_, _, _, _| Ok(())).is_err_and(is_damage));
    }
}

#[test]
fn a_handle_leads_to_its_own_value_or_nowhere() {
    let fs = MemFs::new();
    let values = some_values();
    let (summary, handles) = write(&fs, &values, Compression::None);
    let reader = open(&fs, ReadMode::Mmap, summary.bytes).unwrap();
    let handle = handles[0];
    // Another key's value, one of another length, one elsewhere, one behind the end.
    assert!(reader.get(b"b", handle).is_err());
    assert!(reader.get(b"a", BlobHandle { value_len: 299, ..handle }).is_err());
    assert!(reader.get(b"a", BlobHandle { offset: handle.offset + 1, ..handle }).is_err());
    assert!(reader.get(b"a", BlobHandle { len: handle.len + 1, ..handle }).is_err());
    assert!(reader.get(b"a", BlobHandle { offset: u64::MAX, ..handle }).is_err());
    assert!(reader.get(b"a", BlobHandle { offset: 0, len: 10, ..handle }).is_err());
    assert!(reader.get(b"a", BlobHandle { len: u32::MAX, ..handle }).is_err());
    // A file with other bytes, or another one.
    assert!(open(&fs, ReadMode::Pread, summary.bytes + 1).is_err());
    let file = fs.open(&path(), ReadMode::Pread).unwrap();
    let expected = BlobExpectation { id: FileId(7), bytes: summary.bytes, uid: UID + 1 };
    assert!(BlobReader::open(file, path(), Some(expected)).is_err());
}
