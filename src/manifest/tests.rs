//! Tests of the manifest's formats and of their crash behaviour.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::base::blob::BlobUse;
use crate::base::error::Error;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::ids::KeyspaceId;
use crate::base::key::InternalKey;
use crate::base::key::Trailer;
use crate::base::options::Retention;
use crate::base::range_tombstone::RangeFacts;
use crate::base::range_tombstone::is_behind;
use crate::base::seqno::SeqNo;
use crate::base::sync::Mutex;
use crate::base::value::Expiry;
use crate::fs::CrashMode;
use crate::fs::Fs;
use crate::fs::MemFs;
use crate::fs::ReadMode;
use crate::fs::names::CURRENT;
use crate::fs::names::manifest_path;

const DB: DbId = DbId(77);
const ID: FileId = FileId(5);

fn dir() -> PathBuf {
    PathBuf::from("/db")
}

fn new_fs() -> MemFs {
    let fs = MemFs::new();
    fs.create_dir_all(&dir()).unwrap();
    fs
}

fn seqno() -> impl Strategy<Value = SeqNo> {
    (0..=SeqNo::STORED_MAX.get()).prop_map(SeqNo::new)
}

fn file_id() -> impl Strategy<Value = FileId> {
    (0..=FileId::STORED_MAX.0).prop_map(FileId)
}

fn key() -> impl Strategy<Value = InternalKey> {
    (any::<Vec<u8>>(), any::<u64>()).prop_map(|(user, n)| InternalKey::new(user, Trailer(n)))
}

fn raw_bytes_and_age() -> impl Strategy<Value = (u64, u64)> {
    (0..=1u64 << 52, any::<u64>())
}

fn meta() -> impl Strategy<Value = SstMeta> {
    let amount = || 0..=1u64 << 52;
    let numbers = (file_id(), amount(), any::<u64>(), amount(), amount());
    let ranges = prop::option::of((1..=1u64 << 52, any::<(Vec<u8>, Option<Vec<u8>>)>()));
    let ranges = ranges.prop_map(|ranges| {
        let (count, (from, to)) = ranges?;
        is_behind(to.as_deref(), &from).then_some(RangeFacts { count, from, to })
    });
    let rest = (raw_bytes_and_age(), ranges);
    (numbers, rest, [key(), key()], [seqno(), seqno()]).prop_map(
        |(n, (rest, ranges), [smallest, largest], [min_seqno, max_seqno])| {
            let (raw_bytes, oldest_tombstone_ms) = rest;
            SstMeta {
                id: n.0,
                bytes: n.1,
                uid: n.2,
                smallest,
                largest,
                min_seqno,
                max_seqno,
                entries: n.3,
                tombstones: n.4,
                raw_bytes,
                oldest_tombstone_ms,
                expiry: Expiry::default(),
                blobs: Vec::new(),
                ranges,
            }
        },
    )
}

fn blob_uses() -> impl Strategy<Value = Vec<BlobUse>> {
    prop::collection::btree_map(file_id(), 1..=1u64 << 52, 0..4)
        .prop_map(|uses| uses.into_iter().map(|(file, bytes)| BlobUse { file, bytes }).collect())
}

fn blob_meta() -> impl Strategy<Value = BlobMeta> {
    let amount = || 0..=1u64 << 52;
    (file_id(), amount(), any::<u64>(), amount(), amount()).prop_map(
        |(id, bytes, uid, values, raw_bytes)| BlobMeta { id, bytes, uid, values, raw_bytes },
    )
}

fn keyspace_edit() -> impl Strategy<Value = KeyspaceEdit> {
    let added = prop::collection::vec((0..7u8, meta(), blob_uses()), 0..4).prop_map(|added| {
        let meta = |(level, meta, blobs)| (level, SstMeta { blobs, ..meta });
        added.into_iter().map(meta).collect::<Vec<_>>()
    });
    let added_blobs = prop::collection::vec(blob_meta(), 0..3);
    let added = (added, added_blobs);
    let removed = prop::collection::vec((0..7u8, file_id()), 0..4);
    let flushed = prop::option::of(seqno());
    let texts = any::<(Option<String>, Option<String>)>();
    (any::<u32>(), texts, any::<bool>(), flushed, added, removed).prop_map(
        |(id, (name, merge_operator), dropped, flushed_seqno, (added, added_blobs), removed)| {
            KeyspaceEdit {
                id: KeyspaceId(id),
                name,
                merge_operator,
                default_ttl_ms: Some(7),
                expiring: id % 2 == 1,
                separate_from: flushed_seqno.map(SeqNo::get),
                dropped,
                flushed_seqno,
                added,
                added_blobs,
                removed,
            }
        },
    )
}

fn edit() -> impl Strategy<Value = VersionEdit> {
    let keyspaces = prop::collection::vec(keyspace_edit(), 0..3);
    let floor = prop::option::of(file_id());
    let kept = (file_id(), [seqno(), seqno()], any::<[u64; 2]>()).prop_map(
        |(id, [one, other], [end, ended_ms])| {
            let (first, last) = (one.min(other), one.max(other));
            KeptSegment { id, first, last, end, ended_ms }
        },
    );
    let next = (file_id(), prop::collection::vec(kept, 0..3));
    (next, prop::option::of(seqno()), floor, any::<Option<u32>>(), keyspaces).prop_map(
        |((next, kept), last_seqno, floor, next_keyspace, keyspaces)| VersionEdit {
            next_file: Some(next),
            last_seqno,
            log_durable: last_seqno.map(|seqno| SeqNo::new(seqno.get() / 2)),
            wal_floor: floor,
            next_keyspace,
            keyspaces,
            log_retention: kept
                .first()
                .map(|kept: &KeptSegment| Retention { bytes: kept.end, age_ms: kept.ended_ms }),
            kept,
        },
    )
}

/// With a valid checksum, which whoever means harm can compute as well.
#[test]
fn numbers_that_leave_no_room_for_more_are_refused() {
    let sst = |meta: SstMeta| {
        let mut keyspace = KeyspaceEdit::new(KeyspaceId(0));
        keyspace.added.push((0, meta));
        VersionEdit { keyspaces: vec![keyspace], ..VersionEdit::default() }
    };
    let file = Some(FileId(u64::MAX));
    let kept = |id: u64, first: u64, last: u64| {
        let [first, last] = [first, last].map(SeqNo::new);
        let kept = vec![KeptSegment { id: FileId(id), first, last, end: 0, ended_ms: 0 }];
        VersionEdit { kept, ..VersionEdit::default() }
    };
    let used = |file, bytes| BlobUse { file: FileId(file), bytes };
    for edit in [
        kept(u64::MAX, 1, 2),
        kept(1, 1, u64::MAX),
        kept(1, 3, 1),
        VersionEdit { next_file: file, ..VersionEdit::default() },
        VersionEdit { wal_floor: file, ..VersionEdit::default() },
        VersionEdit { last_seqno: Some(SeqNo::MAX), ..VersionEdit::default() },
        VersionEdit { log_durable: Some(SeqNo::MAX), ..VersionEdit::default() },
        sst(SstMeta { id: FileId(u64::MAX), ..SstMeta::default() }),
        sst(SstMeta { bytes: u64::MAX, ..SstMeta::default() }),
        sst(SstMeta { entries: u64::MAX, ..SstMeta::default() }),
        sst(SstMeta { tombstones: u64::MAX, ..SstMeta::default() }),
        sst(SstMeta { raw_bytes: u64::MAX, ..SstMeta::default() }),
        sst(SstMeta { max_seqno: SeqNo::MAX, ..SstMeta::default() }),
        sst(SstMeta { blobs: vec![used(1, u64::MAX)], ..SstMeta::default() }),
        sst(SstMeta { blobs: vec![used(1, 0)], ..SstMeta::default() }),
        sst(SstMeta { blobs: vec![used(u64::MAX, 1)], ..SstMeta::default() }),
        sst(SstMeta { blobs: vec![used(2, 1), used(2, 1)], ..SstMeta::default() }),
    ] {
        let decoded = codec::decode(&codec::encode(&edit));
        assert!(matches!(decoded, Err(codec::BadEdit::Malformed(_))), "{edit:?}");
    }
    let fs = MemFs::new();
    fs.create_dir_all(&dir()).unwrap();
    install_current(&fs, &dir(), DB, FileId(u64::MAX)).unwrap();
    assert!(matches!(read_current(&fs, &dir()), Err(Error::Corruption { .. })));
}

fn numbered(n: u64) -> VersionEdit {
    let mut keyspace = KeyspaceEdit::new(KeyspaceId(0));
    keyspace.name = Some(format!("name {n}"));
    VersionEdit { next_file: Some(FileId(n)), keyspaces: vec![keyspace], ..Default::default() }
}

fn write(fs: &MemFs, edits: u64) {
    let mut writer = ManifestWriter::create(fs, &dir(), ID, DB, &numbered(1)).unwrap();
    for n in 2..=edits {
        writer.append(&numbered(n)).unwrap();
    }
    let len = fs.open(&manifest_path(&dir(), ID), ReadMode::Pread).unwrap().len();
    assert_eq!(writer.bytes(), len);
}

fn content(fs: &MemFs, path: &Path) -> Vec<u8> {
    let file = fs.open(path, ReadMode::Pread).unwrap();
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

/// A file system whose only file is `path` with `bytes`.
fn with_file(path: &Path, bytes: &[u8]) -> MemFs {
    let fs = new_fs();
    fs.create(path).unwrap().write_at(0, bytes).unwrap();
    fs
}

proptest! {
    #[test]
    fn edits_round_trip(edits in prop::collection::vec(edit(), 1..5)) {
        let fs = new_fs();
        let mut writer = ManifestWriter::create(&fs, &dir(), ID, DB, &edits[0]).unwrap();
        for edit in &edits[1..] {
            writer.append(edit).unwrap();
        }
        prop_assert_eq!(read_manifest(&fs, &dir(), ID, DB).unwrap(), edits);
    }

    #[test]
    fn any_bytes_decode_or_fail(bytes: Vec<u8>) {
        let _ = codec::decode(&bytes);
    }
}

#[test]
fn unknown_fields_are_skipped_if_even_and_refused_if_odd() {
    let mut bytes = codec::encode(&numbered(3));
    bytes.extend_from_slice(&[100, 2, 1, 1]);
    assert_eq!(codec::decode(&bytes), Ok(numbered(3)));
    bytes.extend_from_slice(&[101, 0]);
    assert_eq!(codec::decode(&bytes), Err(codec::BadEdit::Newer));
}

#[test]
fn every_truncation_of_a_manifest_is_a_prefix_or_an_error() {
    let fs = new_fs();
    write(&fs, 4);
    let path = manifest_path(&dir(), ID);
    let bytes = content(&fs, &path);
    for len in 0..bytes.len() {
        let cut = with_file(&path, &bytes[..len]);
        if let Ok(edits) = read_manifest(&cut, &dir(), ID, DB) {
            assert!((1..4).contains(&edits.len()) || len > bytes.len() - 8);
            assert!((1..).zip(&edits).all(|(n, edit)| *edit == numbered(n)));
        }
    }
}

#[test]
fn every_flipped_byte_of_a_manifest_is_a_prefix_or_an_error() {
    let fs = new_fs();
    write(&fs, 4);
    let path = manifest_path(&dir(), ID);
    let bytes = content(&fs, &path);
    let last = bytes.len() - codec::encode(&numbered(4)).len().next_multiple_of(8) - 24;
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x20;
        match read_manifest(&with_file(&path, &flipped), &dir(), ID, DB) {
            Ok(edits) => {
                assert!(at >= last, "a flip at {at} went unnoticed");
                assert!((1..).zip(&edits).all(|(n, edit)| *edit == numbered(n)));
            }
            Err(Error::Corruption { file, .. } | Error::UnsupportedFormat { file, .. }) => {
                assert_eq!(file, path);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A lost block reads as zeros, which look like the end; but no append follows one that failed.
#[test]
fn zeros_between_records_of_a_manifest_are_no_end() {
    let fs = new_fs();
    write(&fs, 4);
    let path = manifest_path(&dir(), ID);
    let bytes = content(&fs, &path);
    let last = bytes.len() - codec::encode(&numbered(4)).len().next_multiple_of(8) - 24;
    for start in 0..bytes.len() {
        for len in [24, 100, 512] {
            let mut zeroed = bytes.clone();
            zeroed[start..(start + len).min(bytes.len())].fill(0);
            if let Ok(edits) = read_manifest(&with_file(&path, &zeroed), &dir(), ID, DB) {
                let lost = zeroed != bytes && start + len <= last;
                assert!(!lost, "{len} zeros at {start} went unnoticed");
                assert!((1..).zip(&edits).all(|(n, edit)| *edit == numbered(n)));
            }
        }
    }
}

#[test]
fn a_manifest_of_another_database_or_number_is_refused() {
    let fs = new_fs();
    write(&fs, 2);
    assert!(read_manifest(&fs, &dir(), ID, DbId(78)).is_err());
    fs.rename(&manifest_path(&dir(), ID), &manifest_path(&dir(), FileId(6))).unwrap();
    assert!(read_manifest(&fs, &dir(), FileId(6), DB).is_err());
}

#[test]
fn every_damage_of_current_is_an_error() {
    let fs = new_fs();
    install_current(&fs, &dir(), DB, ID).unwrap();
    assert_eq!(read_current(&fs, &dir()).unwrap(), (DB, ID));
    let path = dir().join(CURRENT);
    let bytes = content(&fs, &path);
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert!(read_current(&with_file(&path, &flipped), &dir()).is_err(), "flip at {at}");
        assert!(read_current(&with_file(&path, &bytes[..at]), &dir()).is_err(), "cut at {at}");
    }
    assert!(read_current(&new_fs(), &dir()).is_err());
}

#[test]
fn a_crash_while_current_is_replaced_leaves_the_old_or_the_new() {
    let fs = new_fs();
    install_current(&fs, &dir(), DB, FileId(1)).unwrap();
    let clones = Arc::new(Mutex::new(Vec::new()));
    let seen = clones.clone();
    fs.on_event(Some(Arc::new(move |event, fs: &MemFs| {
        for mode in CrashMode::ALL {
            seen.lock().push(fs.crash_clone(mode, event));
        }
    })));
    install_current(&fs, &dir(), DB, FileId(2)).unwrap();
    fs.on_event(None);
    assert!(clones.lock().len() > 12);
    for clone in clones.lock().iter() {
        let (db, id) = read_current(clone, &dir()).unwrap();
        assert!(db == DB && (id == FileId(1) || id == FileId(2)));
        // A leftover of the crash is no obstacle.
        install_current(clone, &dir(), DB, FileId(3)).unwrap();
    }
    for mode in CrashMode::ALL {
        assert_eq!(read_current(&fs.crash_clone(mode, 9), &dir()).unwrap(), (DB, FileId(2)));
    }
}
