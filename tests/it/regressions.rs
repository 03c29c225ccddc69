//! One test per bug that was found: the name states what holds now.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use esker::ErrorKind;
use esker::fs::CrashMode;
use esker::fs::Fs as _;
use esker::fs::MemFs;
use esker::fs::ReadMode;
use esker::fuzz_api;
use esker::fuzz_api::Edit;
use esker::fuzz_api::KeyspaceChange;
use esker::fuzz_api::Segment;

use crate::support::DIR;
use crate::support::TestDb;
use crate::support::key;
use crate::support::tiny;

/// Tombstones past their age that a snapshot kept alive on the deepest level were rewritten there
/// again and again, for as long as the snapshot lived: a whole core and disk for nothing. Such a
/// file is now left alone until rewriting it drops every tombstone in it.
#[test]
fn tombstones_that_a_snapshot_needs_are_not_rewritten_for_ever() {
    let db = TestDb::with(tiny().tombstone_age(Duration::from_millis(1)));
    for i in 0..20 {
        db.put(key(i), "value").unwrap();
    }
    db.flush().unwrap();
    let snapshot = db.snapshot();
    for i in 0..20 {
        db.delete(key(i)).unwrap();
    }
    db.flush().unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let settle = || {
        let mut jobs = 0;
        while db.run_one_job().unwrap() {
            jobs += 1;
            assert!(jobs < 100, "the jobs never end");
        }
    };
    settle();
    assert_eq!(snapshot.iter().count(), 20);
    let tombstones = || -> u64 {
        let levels = &db.stats().keyspaces[0].levels;
        levels.iter().map(|level| level.tombstones).sum()
    };
    assert_eq!(tombstones(), 20);
    drop(snapshot);
    settle();
    assert_eq!(tombstones(), 0);
}

/// A database whose values end in small integers could not be opened again, even after it had been
/// closed in good order: recovery looks for signs of lost records in a recycled segment, too, took
/// a value's end and the next record's checksum for the head of a record, met many of those, and
/// gave up with `Corruption`. What cannot be a sequence number of the log is now passed over.
#[test]
fn values_that_look_like_records_do_not_keep_a_recycled_log_from_opening() {
    for len in 16..24 {
        let mut db = TestDb::with(tiny());
        let value = [&vec![b'x'; len][..], &4000_u32.to_le_bytes()].concat();
        // More than one segment in each round, then a flush that lets the full ones go.
        for round in 0..4 {
            for i in 0..150 * (round + 1) {
                db.put(key(i % 7), &value).unwrap();
            }
            db.flush().unwrap();
            db.reopen();
        }
        assert_eq!(db.dump().len(), 7);
    }
}

/// A log that writes to a keyspace which the manifest does not know (the manifest was cut, or is an
/// older copy) was reported as a bug of esker; and with a log larger than the memtables may be, only
/// after files had been changed. It is corruption of the manifest, and found before that.
#[test]
fn a_log_that_is_newer_than_the_manifest_is_corruption_and_changes_nothing() {
    let db = TestDb::with(tiny().memtable_bytes(32 << 10));
    for i in 0..300 {
        db.put(key(i), "value").unwrap();
    }
    db.keyspace("new").unwrap().put("k", "v").unwrap();
    let dir = Path::new(DIR);
    let manifest = db.files().into_iter().find(|name| name.starts_with("MANIFEST")).unwrap();
    for budget in [128 << 10, 1 << 20] {
        let fs = db.fs.crash_clone(CrashMode::KeepAll, 0);
        let path = dir.join(&manifest);
        let len = fs.open(&path, ReadMode::Pread).unwrap().len();
        fs.open_writable(&path).unwrap().set_len(len - 8).unwrap();
        let before = fs.list(dir).unwrap();
        let options = tiny().memtable_bytes(32 << 10).memory_budget(budget);
        let error = options.fs(Arc::new(fs.clone())).open(DIR).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        assert!(error.to_string().contains(&manifest), "{error}");
        assert_eq!(fs.list(dir).unwrap(), before);
    }
}

/// What a program prints when it prints its state: not the files, nor the memtables.
#[test]
fn a_handle_prints_as_one_line() {
    let fs = esker::fs::MemFs::new();
    let db = esker::Options::new().background_threads(0).fs(std::sync::Arc::new(fs));
    let db = db.open("/db").unwrap();
    db.put("secret", "value").unwrap();
    assert_eq!(format!("{db:?}"), "Db { directory: \"/db\", .. }");
}

/// Opens a database that consists of a manifest with these edits and perhaps a log segment.
fn open_forged(edits: &[Edit], segment: Option<&[u8]>) -> Result<esker::Db, esker::Error> {
    let (fs, dir) = (MemFs::new(), Path::new(DIR));
    fs.create_dir_all(dir).unwrap();
    let mut manifest = fuzz_api::manifest_header(1, 9);
    for (n, edit) in edits.iter().enumerate() {
        let payload = fuzz_api::encode_edit(edit);
        fuzz_api::append_record(&mut manifest, 1, 9, n as u64 + 1, Some(u32::MAX), &payload);
    }
    let current = fuzz_api::current(1, 9);
    let files = [
        ("CURRENT", Some(&*current)),
        ("MANIFEST-000009", Some(&*manifest)),
        ("000001.wal", segment),
    ];
    for (name, bytes) in files {
        if let Some(bytes) = bytes {
            fs.create(&dir.join(name)).unwrap().write_at(0, bytes).unwrap();
        }
    }
    tiny().fs(Arc::new(fs)).open(DIR)
}

fn keyspace(number: u32, name: &str) -> KeyspaceChange {
    KeyspaceChange { keyspace: number, name: Some(name.to_owned()), ..KeyspaceChange::default() }
}

/// Of two keyspaces of one name in a manifest one was lost in silence, and if that was the default
/// keyspace the next open failed. Numbers that are not below the next free one were given out again.
#[test]
fn keyspaces_without_names_and_numbers_of_their_own_are_corruption() {
    let cases = [
        (vec![keyspace(0, "default"), keyspace(1, "a")], 2, true),
        (vec![keyspace(0, "default"), keyspace(1, "default")], 2, false),
        (vec![keyspace(0, "a"), keyspace(1, "default")], 2, false),
        (vec![keyspace(0, "default"), keyspace(2, "a")], 2, false),
    ];
    for (keyspaces, next, whole) in cases {
        let edit = Edit { next_keyspace: Some(next), keyspaces, ..Edit::default() };
        let opened = open_forged(std::slice::from_ref(&edit), None);
        assert_eq!(opened.is_ok(), whole, "{edit:?}");
        if let Err(error) = opened {
            assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        }
    }
}

/// A log that ended just in front of the last sequence number could be opened and written to, once.
#[test]
fn a_log_near_the_last_sequence_number_is_corruption() {
    let payload = fuzz_api::batch(0, &[(b"k", Some(b"v"))]);
    for (first, whole) in [(1, true), (1 << 55, true), ((1 << 55) + 1, false), (3 << 54, false)] {
        let header =
            Segment { db: 1, file: 1, prev: 0, prev_end: 0, first_seqno: first, durable: 0 };
        let mut segment = header.encode();
        fuzz_api::append_record(&mut segment, 1, 1, first, Some(u32::MAX), &payload);
        let keyspaces = vec![keyspace(0, "default")];
        let edit = Edit { next_keyspace: Some(1), keyspaces, ..Edit::default() };
        let opened = open_forged(std::slice::from_ref(&edit), Some(&segment));
        assert_eq!(opened.is_ok(), whole, "{first}");
    }
}
