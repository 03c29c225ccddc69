//! Repair: of a damaged database everything is saved that still reads, the old one stays as it is,
//! and the report names what is lost.
#![allow(
    clippy::unwrap_used,
    clippy::case_sensitive_file_extension_comparisons,
    reason = "a test fails by panicking, and names its own files"
)]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use esker::Db;
use esker::Error;
use esker::ErrorKind;
use esker::Options;
use esker::RepairReport;
use esker::fs::CrashMode;
use esker::fs::Fs;
use esker::fs::MemFs;
use esker::fs::ReadMode;

const OLD: &str = "/old";
const NEW: &str = "/new";

/// Keyspaces with their entries.
type Contents = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

fn tiny() -> Options {
    Options::new()
        .memtable_bytes(2 << 10)
        .block_bytes(256)
        .file_bytes(4 << 10)
        .wal_bytes(64 << 10)
        .memory_budget(1 << 20)
        .background_threads(0)
}

fn contents_of(db: &Db) -> Contents {
    let of = |name: &str| {
        let entries = db.keyspace(name).unwrap().iter();
        entries.map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect()
    };
    db.keyspaces().into_iter().map(|name| (name.clone(), of(&name))).collect()
}

fn read(fs: &MemFs, path: &Path) -> Vec<u8> {
    let file = fs.open(path, ReadMode::Pread).unwrap();
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Every file of the old database.
fn files(fs: &MemFs) -> BTreeMap<String, Vec<u8>> {
    let entries = fs.list(Path::new(OLD)).unwrap();
    entries
        .into_iter()
        .map(|entry| (entry.name.clone(), read(fs, &Path::new(OLD).join(&entry.name))))
        .collect()
}

fn put_file(fs: &MemFs, name: &str, bytes: &[u8]) {
    let path = Path::new(OLD).join(name);
    if fs.exists(&path).unwrap() {
        fs.remove(&path).unwrap();
    }
    fs.create(&path).unwrap().write_at(0, bytes).unwrap();
}

fn flip(fs: &MemFs, name: &str, offset: usize) {
    let path = Path::new(OLD).join(name);
    let byte = read(fs, &path)[offset];
    fs.open_writable(&path).unwrap().write_at(offset as u64, &[byte ^ 0x10]).unwrap();
}

fn remove(fs: &MemFs, name: &str) {
    fs.remove(&Path::new(OLD).join(name)).unwrap();
}

/// A crashed database of two keyspaces with several levels and a log, and what is in it.
struct Sample {
    fs: MemFs,
    contents: Contents,
}

impl Sample {
    fn new() -> Sample {
        let fs = MemFs::new();
        let db = tiny().fs(Arc::new(fs.clone())).open(OLD).unwrap();
        let other = db.keyspace("other").unwrap();
        let dropped = db.keyspace("dropped").unwrap();
        for i in 0..900_u32 {
            let key = format!("key{:05}", i * 7919 % 600);
            db.put(&key, value(&key, i)).unwrap();
            if i % 3 == 0 {
                other.put(&key, value(&key, i)).unwrap();
                if i < 700 {
                    dropped.put(&key, "x").unwrap();
                }
            }
            if i % 5 == 0 {
                db.delete(format!("key{:05}", i * 31 % 600)).unwrap();
            }
            if i % 60 == 0 && i < 840 {
                while db.run_one_job().unwrap() {}
            }
            if i == 700 {
                db.drop_keyspace("dropped").unwrap();
            }
        }
        let contents = contents_of(&db);
        let stats = db.stats();
        let levels = &stats.keyspaces[0].levels;
        assert!(levels.iter().filter(|level| !level.files.is_empty()).count() >= 2);
        assert!(stats.keyspaces[0].memtable_entries > 20);
        let fs = fs.crash_clone(CrashMode::KeepAll, 0);
        drop(db);
        Sample { fs, contents }
    }

    /// A copy to damage.
    fn copy(&self) -> MemFs {
        self.fs.crash_clone(CrashMode::KeepAll, 0)
    }

    fn names(&self, suffix: &str) -> Vec<String> {
        files(&self.fs).into_keys().filter(|name| name.ends_with(suffix)).collect()
    }

    fn manifest(&self) -> String {
        let mut names = files(&self.fs).into_keys().filter(|name| name.starts_with("MANIFEST"));
        names.next().unwrap()
    }
}

fn is_empty(sample: &Sample, name: &str) -> bool {
    files(&sample.fs)[name].iter().all(|byte| *byte == 0)
}

/// The value that write number `i` gives to `key`.
fn value(key: &str, i: u32) -> String {
    format!("{key} as of {i} {}", "x".repeat((i % 40) as usize))
}

/// Repairs, and checks what must hold whatever is damaged.
fn repair(fs: &MemFs) -> (RepairReport, Contents) {
    let before = files(fs);
    let mut steps = Vec::new();
    let options = tiny().fs(Arc::new(fs.clone()));
    let report =
        options.clone().repair(OLD, NEW, &mut |done, total| steps.push((done, total))).unwrap();
    assert!(files(fs) == before, "the old database was touched: {report}");
    assert!(steps.iter().all(|(done, total)| done <= total), "{steps:?}");
    assert!(steps.last().is_none_or(|(done, total)| done == total), "{steps:?}");
    // It is on stable storage, opens strictly, and is whole.
    let fs = fs.crash_clone(CrashMode::Strict, 0);
    let db = options.fs(Arc::new(fs)).create_if_missing(false).open(NEW).unwrap();
    db.verify(&mut |_, _| {}).unwrap();
    let contents = contents_of(&db);
    let counted: Vec<_> = report.keyspaces.iter().map(|k| (k.name.clone(), k.entries)).collect();
    let found: Vec<_> = contents.iter().map(|(n, e)| (n.clone(), e.len() as u64)).collect();
    assert_eq!(counted, found, "{report}");
    assert_eq!(report.entries, found.iter().map(|(_, n)| n).sum::<u64>());
    assert_eq!(report.bytes_lost, report.losses.iter().map(|loss| loss.bytes).sum::<u64>());
    let damaged: BTreeSet<_> = report.losses.iter().map(|loss| &loss.file).collect();
    assert_eq!(report.files_damaged, damaged.len() as u64, "{report}");
    (report, contents)
}

/// Every entry was written so once.
fn assert_no_inventions(contents: &Contents, report: &RepairReport) {
    for (key, found) in contents.values().flatten() {
        let key = String::from_utf8(key.clone()).unwrap();
        let found = String::from_utf8(found.clone()).unwrap();
        let number = found.strip_prefix(&format!("{key} as of ")).unwrap_or_default();
        let number = number.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(found, value(&key, number), "{report}");
    }
}

/// How many entries of `expected` are missing or older in `found`.
fn missing(expected: &Contents, found: &Contents) -> Vec<(String, Vec<u8>)> {
    let mut missing = Vec::new();
    for (name, entries) in expected {
        for (key, value) in entries {
            if found.get(name).and_then(|found| found.get(key)) != Some(value) {
                missing.push((name.clone(), key.clone()));
            }
        }
    }
    missing
}

#[test]
fn an_intact_database_is_rebuilt_as_it_is() {
    let sample = Sample::new();
    let (report, found) = repair(&sample.copy());
    assert!(report.is_clean() && report.remarks.is_empty(), "{report}");
    assert!(found == sample.contents, "{report}");
    assert!(report.batches > 0 && report.files > 3, "{report}");
    // After any power cut: what recovery would find.
    for (n, mode) in CrashMode::ALL.into_iter().enumerate() {
        let fs = sample.fs.crash_clone(mode, n as u64);
        let opened = fs.crash_clone(CrashMode::KeepAll, 0);
        let expected = contents_of(&tiny().fs(Arc::new(opened)).open(OLD).unwrap());
        let (report, found) = repair(&fs);
        assert!(report.is_clean() && found == expected, "{mode:?}: {report}");
    }
}

#[test]
fn without_current_nothing_else_is_lost() {
    let sample = Sample::new();
    for damaged in [false, true] {
        let fs = sample.copy();
        if damaged {
            flip(&fs, "CURRENT", 20);
        } else {
            remove(&fs, "CURRENT");
        }
        let (report, found) = repair(&fs);
        assert!(found == sample.contents, "{report}");
        assert_eq!(report.losses.len(), 1, "{report}");
        assert!(report.losses[0].file.ends_with("CURRENT"));
    }
}

#[test]
fn without_a_manifest_all_entries_are_saved_under_made_up_names() {
    let sample = Sample::new();
    for current in [true, false] {
        let fs = sample.copy();
        remove(&fs, &sample.manifest());
        if !current {
            remove(&fs, "CURRENT");
        }
        let (report, found) = repair(&fs);
        assert!(found["default"] == sample.contents["default"], "{report}");
        assert!(found["keyspace-1"] == sample.contents["other"], "{report}");
        assert!(report.to_string().contains("may be back"), "{report}");
    }
}

#[test]
fn a_manifest_with_damage_anywhere_still_gives_what_reads() {
    let sample = Sample::new();
    let name = sample.manifest();
    let len = files(&sample.fs)[&name].len();
    let mut named = 0;
    for offset in (0..len).step_by(29) {
        let fs = sample.copy();
        flip(&fs, &name, offset);
        let (report, found) = repair(&fs);
        assert!(found["default"] == sample.contents["default"], "offset {offset}: {report}");
        let other = found.get("other").or(found.get("keyspace-1"));
        assert!(other == Some(&sample.contents["other"]), "offset {offset}: {report}");
        named += u32::from(found.contains_key("other"));
    }
    // Most of it is the first edit, which alone has the names.
    assert!(named > 2, "{named}");
}

#[test]
fn a_flip_anywhere_in_an_sst_costs_one_block() {
    let sample = Sample::new();
    let mut costly = 0;
    for name in sample.names(".sst") {
        let len = files(&sample.fs)[&name].len();
        for offset in (0..len).step_by(61).chain(len - 80..len) {
            let fs = sample.copy();
            flip(&fs, &name, offset);
            let (report, found) = repair(&fs);
            let lost = missing(&sample.contents, &found);
            if report.bytes_lost == 0 {
                assert!(found == sample.contents, "{name} at {offset}: {report}");
                continue;
            }
            costly += 1;
            assert_no_inventions(&found, &report);
            let [loss] = &report.losses[..] else { panic!("{name} at {offset}: {report}") };
            assert!(loss.file.ends_with(&name) && loss.bytes < 700, "{report}");
            let inside = loss.offset..loss.offset + loss.bytes;
            assert!(inside.contains(&(offset as u64)), "{name} at {offset}: {report}");
            let (from, to) = loss.keys.clone().unwrap();
            for (_, key) in lost {
                assert!(from <= key && key <= to, "{name} at {offset}: {key:?} {report}");
            }
        }
    }
    assert!(costly > 50, "{costly}");
}

#[test]
fn an_sst_without_its_structure_is_searched_for_blocks() {
    let sample = Sample::new();
    for name in sample.names(".sst") {
        let bytes = &files(&sample.fs)[&name];
        // The footer alone, and everything behind the data blocks.
        for cut in [72, bytes.len() / 4] {
            let fs = sample.copy();
            put_file(&fs, &name, &bytes[..bytes.len() - cut]);
            let (report, found) = repair(&fs);
            assert!(!report.is_clean() && report.files_unreadable == 0, "{name}: {report}");
            assert_no_inventions(&found, &report);
            if cut == 72 {
                assert!(found == sample.contents, "{name}: {report}");
            }
        }
        // Index, top index, properties and footer are one mess.
        let fs = sample.copy();
        let mut messy = bytes.clone();
        let from = messy.len() - 250;
        messy[from..].fill(0xa5);
        put_file(&fs, &name, &messy);
        let (report, found) = repair(&fs);
        assert!(!report.is_clean(), "{name}: {report}");
        assert_no_inventions(&found, &report);
        // A damaged block and a damaged footer at once: the search finds what is behind.
        let fs = sample.copy();
        flip(&fs, &name, 300);
        flip(&fs, &name, bytes.len() - 20);
        let (report, found) = repair(&fs);
        assert_no_inventions(&found, &report);
        assert!((1..1500).contains(&report.bytes_lost), "{name}: {report}");
        // Without a manifest that names it, it is unreadable if the footer is gone.
        let fs = sample.copy();
        remove(&fs, &sample.manifest());
        put_file(&fs, &name, &bytes[..bytes.len() - 72]);
        let (report, _) = repair(&fs);
        assert!(report.losses.iter().any(|loss| loss.file.ends_with(&name)), "{report}");
    }
}

#[test]
fn a_lost_sst_is_named_and_costs_nothing_else() {
    let sample = Sample::new();
    for name in sample.names(".sst") {
        let fs = sample.copy();
        remove(&fs, &name);
        let (report, found) = repair(&fs);
        let [loss] = &report.losses[..] else { panic!("{report}") };
        assert!(loss.file.ends_with(&name) && loss.what.contains("missing"), "{report}");
        assert_eq!((report.files_unreadable, report.files_damaged), (1, 1));
        assert_no_inventions(&found, &report);
        let (from, to) = loss.keys.clone().unwrap();
        for (_, key) in missing(&sample.contents, &found) {
            assert!(from <= key && key <= to, "{name}: {key:?}");
        }
    }
}

#[test]
fn a_flip_anywhere_in_the_log_costs_one_batch() {
    let sample = Sample::new();
    let mut costly = 0;
    for name in sample.names(".wal") {
        let bytes = &files(&sample.fs)[&name];
        let used = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
        for offset in (0..used).step_by(43) {
            let fs = sample.copy();
            flip(&fs, &name, offset);
            let (report, found) = repair(&fs);
            assert_no_inventions(&found, &report);
            let lost = missing(&sample.contents, &found);
            assert!(lost.len() <= 1, "{name} at {offset}: {lost:?} {report}");
            costly += lost.len();
            if offset < 64 {
                assert!(lost.is_empty(), "{name} at {offset}: {report}");
            }
        }
    }
    assert!(costly > 10, "{costly}");
}

#[test]
fn a_lost_segment_costs_its_batches_only() {
    let sample = Sample::new();
    let names = sample.names(".wal");
    let mut told = 0;
    for name in &names {
        let fs = sample.copy();
        remove(&fs, name);
        let (report, found) = repair(&fs);
        assert_no_inventions(&found, &report);
        let lost = missing(&sample.contents, &found);
        told += u32::from(!report.is_clean());
        // Of the log's last segment, if nothing follows it, there is no trace: no recovery misses it.
        let is_last = Some(name) == names.iter().rfind(|name| !is_empty(&sample, name));
        assert!(lost.is_empty() || !report.is_clean() || is_last, "{name}: {lost:?} {report}");
    }
    assert!(told > 0);
}

#[test]
fn what_is_obsolete_or_dropped_does_not_come_back() {
    let fs = MemFs::new();
    let db = tiny().fs(Arc::new(fs.clone())).open(OLD).unwrap();
    let gone = db.keyspace("gone").unwrap();
    let mut old_files = BTreeMap::new();
    for round in 0..6_u32 {
        for i in 0..100_u32 {
            let key = format!("key{i:05}");
            if (i + round) % 4 == 0 {
                db.delete(&key).unwrap();
            } else {
                db.put(&key, value(&key, round)).unwrap();
            }
            gone.put(&key, "x").unwrap();
        }
        db.flush().unwrap();
        old_files.extend(files(&fs).into_iter().filter(|(name, _)| name.ends_with(".sst")));
        db.compact_range::<&[u8], _>(..).unwrap();
    }
    db.drop_keyspace("gone").unwrap();
    let contents = contents_of(&db);
    db.close().unwrap();
    // As if no file had ever been removed.
    let mut zombies = 0;
    for (name, bytes) in old_files {
        if !fs.exists(&Path::new(OLD).join(&name)).unwrap() {
            put_file(&fs, &name, &bytes);
            zombies += 1;
        }
    }
    assert!(zombies > 5, "{zombies}");
    let (report, found) = repair(&fs);
    assert!(report.is_clean() && found == contents, "{report}");
}

#[test]
fn a_repair_refuses_what_would_harm() {
    let sample = Sample::new();
    let fs = sample.copy();
    let run = |from: &str, to: &str| {
        tiny().fs(Arc::new(fs.clone())).repair(from, to, &mut |_, _| {}).unwrap_err()
    };
    let before = fs.events();
    assert!(matches!(run("/", "/new"), Error::NotADatabase { .. }));
    assert_eq!(run("/nothing", "/new").kind(), ErrorKind::Io);
    for to in [OLD, "/old/new", "/old/new/er"] {
        assert!(matches!(run(OLD, to), Error::InvalidArgument { .. }), "{to}");
    }
    assert_eq!(fs.events(), before);
    fs.create_dir_all(Path::new("/full")).unwrap();
    fs.create(Path::new("/full/file")).unwrap();
    assert!(matches!(run(OLD, "/full"), Error::InvalidArgument { .. }));
    // A reader may go on, a writer must not.
    let reader = tiny().read_only(true).fs(Arc::new(fs.clone())).open(OLD).unwrap();
    repair(&fs);
    drop(reader);
    let _writer = tiny().fs(Arc::new(fs.clone())).open(OLD).unwrap();
    assert_eq!(run(OLD, "/newer").kind(), ErrorKind::Busy);
}

#[test]
fn a_repair_works_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let options = Options::new().memtable_bytes(64 << 10).file_bytes(64 << 10);
    let db = options.open(&old).unwrap();
    for i in 0..20_000_u32 {
        let mut batch = esker::WriteBatch::new();
        batch.put(&db, i.to_be_bytes(), value("k", i)).durability(esker::Durability::Os);
        db.write(batch).unwrap();
    }
    drop(db);
    std::fs::remove_file(old.join("LOCK")).unwrap();
    std::fs::remove_file(old.join("CURRENT")).unwrap();
    let report = esker::repair(&old, &new).unwrap();
    assert!(!old.join("LOCK").exists());
    assert_eq!((report.entries, report.losses.len()), (20_000, 1), "{report}");
    let db = Db::open(&new).unwrap();
    for (n, entry) in (0_u32..).zip(db.iter()) {
        assert_eq!(entry.unwrap().1, value("k", n).as_bytes());
    }
}

/// Of files as of the log; and where those of a file do not read, what they hid is back, and named.
#[test]
fn range_deletes_are_heeded_wherever_they_lie() {
    let fs = MemFs::new();
    let db = tiny().fs(Arc::new(fs.clone())).open(OLD).unwrap();
    let key = |i: u32| format!("key{i:05}");
    let put = |i: u32| db.put(key(i), value(&key(i), i)).unwrap();
    (0..300).for_each(put);
    db.compact_range::<&[u8], _>(..).unwrap();
    let snapshot = db.snapshot();
    db.delete_range(key(50)..key(120)).unwrap();
    (60..70).for_each(put);
    db.flush().unwrap();
    db.delete_range(key(65)..key(67)).unwrap();
    db.delete_prefix("key002").unwrap();
    (210..220).for_each(put);
    let contents = contents_of(&db);
    assert_eq!(contents["default"].len(), 300 - 70 + 10 - 2 - 100 + 10);
    let fs = fs.crash_clone(CrashMode::KeepAll, 0);
    drop((snapshot, db));
    let copy = || fs.crash_clone(CrashMode::KeepAll, 0);
    let (report, found) = repair(&copy());
    assert!(report.is_clean() && found == contents, "{report}");
    let without = copy();
    for name in files(&fs).into_keys().filter(|name| name.starts_with("MANIFEST")) {
        remove(&without, &name);
    }
    let (report, found) = repair(&without);
    assert!(!report.is_clean() && found["default"].len() >= contents["default"].len(), "{report}");
    assert!(missing(&contents, &found).is_empty(), "{report}");

    let mut named = 0;
    for (name, bytes) in files(&fs).into_iter().filter(|(name, _)| name.ends_with(".sst")) {
        // The handle of the range tombstones in the footer: offset, length.
        let footer = &bytes[bytes.len() - 72..];
        let at = u64::from_le_bytes(footer[24..32].try_into().unwrap()) as usize;
        let len = u32::from_le_bytes(footer[32..36].try_into().unwrap()) as usize;
        for offset in at..at + len {
            let damaged = copy();
            flip(&damaged, &name, offset);
            let (report, found) = repair(&damaged);
            let what = report.to_string();
            assert!(what.contains("range tombstones cannot be read"), "{what}");
            assert!(what.contains("may be back"), "{what}");
            assert!(missing(&contents, &found).is_empty(), "{report}");
            assert_eq!(found["default"].len(), contents["default"].len() + 60, "{report}");
            named += 1;
        }
    }
    assert!(named > 10);
}
