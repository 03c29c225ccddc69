//! Merge operators: operands fold wherever a key is read, nothing is lost, and an operator that is
//! missing or fails harms nobody else.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use esker::Add;
use esker::Append;
use esker::Error;
use esker::Keyspace;
use esker::KeyspaceOptions;
use esker::Max;
use esker::MergeOperator;
use esker::MergeResult;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::MemFs;

use crate::support::DIR;
use crate::support::TestDb;
use crate::support::key;
use crate::support::tiny;

fn appending(db: &TestDb) -> Keyspace {
    db.keyspace_with("a", KeyspaceOptions::new().merge_operator(Append::new(","))).unwrap()
}

fn counting(db: &TestDb) -> Keyspace {
    db.keyspace_with("c", KeyspaceOptions::new().merge_operator(Add)).unwrap()
}

fn one() -> [u8; 8] {
    1_i64.to_le_bytes()
}

/// Appends in order, and fails or panics while it is told to.
#[derive(Clone, Default)]
pub(crate) struct Moody {
    pub(crate) fails: Arc<AtomicBool>,
    pub(crate) panics: Arc<AtomicBool>,
}

impl MergeOperator for Moody {
    fn name(&self) -> &'static str {
        "test.moody"
    }

    fn merge(&self, key: &[u8], value: Option<&[u8]>, operands: &[&[u8]]) -> MergeResult<Vec<u8>> {
        assert!(!self.panics.load(Relaxed) || key != b"bad", "in a bad mood");
        if self.fails.load(Relaxed) && key == b"bad" {
            return Err("not today".into());
        }
        Ok(value.into_iter().chain(operands.iter().copied()).collect::<Vec<_>>().concat())
    }
}

fn read_all_ways(keyspace: &Keyspace, key: &str, expected: &str) {
    let expected = expected.as_bytes();
    assert_eq!(keyspace.get(key).unwrap().unwrap(), expected);
    assert!(keyspace.contains_key(key).unwrap());
    let both = keyspace.multi_get(["nothing", key]).unwrap();
    assert!(both[0].is_none() && both[1].as_deref() == Some(expected));
    let find = |entries: Vec<(esker::Key, esker::Value)>| {
        entries.into_iter().find(|entry| entry.0 == key.as_bytes()).unwrap().1
    };
    assert_eq!(find(keyspace.iter().map(Result::unwrap).collect()), expected);
    assert_eq!(find(keyspace.iter().rev().map(Result::unwrap).collect()), expected);
    let mut cursor = keyspace.cursor();
    assert!(cursor.seek(key).unwrap() && cursor.value() == Some(expected));
    // There and back again.
    if cursor.next().unwrap() {
        assert!(cursor.prev().unwrap());
        assert_eq!((cursor.key(), cursor.value()), (Some(key.as_bytes()), Some(expected)));
    }
    assert!(cursor.seek_for_prev(key).unwrap() && cursor.value() == Some(expected));
    if cursor.prev().unwrap() {
        assert!(cursor.next().unwrap());
        assert_eq!(cursor.value(), Some(expected));
    }
}

#[test]
fn operands_fold_in_every_read_and_through_everything() {
    let mut db = TestDb::new();
    let check = |db: &TestDb, fresh: &str, based: &str| {
        let keyspace = appending(db);
        read_all_ways(&keyspace, "fresh", fresh);
        read_all_ways(&keyspace, "based", based);
        read_all_ways(&keyspace, "cleared", "x");
    };
    let keyspace = appending(&db);
    keyspace.put("based", "0").unwrap();
    keyspace.put("cleared", "gone").unwrap();
    let mut batch = WriteBatch::new();
    batch.delete(&keyspace, "cleared").merge(&keyspace, "cleared", "x");
    batch.merge(&keyspace, "fresh", "a").merge(&keyspace, "fresh", "b");
    db.write(batch).unwrap();
    keyspace.merge("based", "1").unwrap();
    check(&db, "a,b", "0,1");
    db.flush().unwrap();
    check(&db, "a,b", "0,1");
    appending(&db).merge("fresh", "c").unwrap();
    appending(&db).merge("based", "2").unwrap();
    check(&db, "a,b,c", "0,1,2");
    db.reopen();
    check(&db, "a,b,c", "0,1,2");
    db.flush().unwrap();
    appending(&db).merge("fresh", "d").unwrap();
    appending(&db).compact_range::<&[u8], _>(..).unwrap();
    check(&db, "a,b,c,d", "0,1,2");
    db.reopen();
    check(&db, "a,b,c,d", "0,1,2");
    assert_eq!(appending(&db).merge_operator().unwrap(), "esker.append:2c");
}

#[test]
fn a_snapshot_sees_what_operands_came_to_when_it_was_taken() {
    let db = TestDb::new();
    let keyspace = appending(&db);
    let mut snapshots = vec![(db.snapshot(), None)];
    for n in 0..30 {
        keyspace.merge("k", n.to_string()).unwrap();
        let value = keyspace.get("k").unwrap();
        snapshots.push((db.snapshot(), value));
        match n % 5 {
            1 => db.flush().unwrap(),
            3 => db.settle(),
            4 => keyspace.compact_range::<&[u8], _>(..).unwrap(),
            _ => {}
        }
        for (snapshot, value) in &snapshots {
            let reader = snapshot.keyspace(&keyspace);
            assert_eq!(reader.get("k").unwrap(), *value);
            assert_eq!(reader.iter().next_back().transpose().unwrap().map(|e| e.1), *value);
        }
    }
    drop(snapshots);
    keyspace.compact_range::<&[u8], _>(..).unwrap();
    assert_eq!(db.verify(&mut |_, _| {}).unwrap().entries, 1);
}

#[test]
fn chains_get_short_in_files_and_vanish_at_the_bottom() {
    let db = TestDb::new();
    let keyspace = counting(&db);
    for i in 0..40 {
        keyspace.put(key(i), one()).unwrap();
    }
    keyspace.compact_range::<&[u8], _>(..).unwrap();
    for _ in 0..2000 {
        keyspace.merge(key(7), one()).unwrap();
    }
    db.flush().unwrap();
    let stats = db.stats();
    let files: u64 =
        stats.keyspaces.iter().flat_map(|k| &k.levels).map(|l| l.files.len() as u64).sum();
    let entries = db.verify(&mut |_, _| {}).unwrap().entries;
    assert!(entries <= 40 + files, "{entries} entries in {files} files");
    assert_eq!(Add::value(&keyspace.get(key(7)).unwrap().unwrap()), Some(2001));
    keyspace.compact_range::<&[u8], _>(..).unwrap();
    assert_eq!(db.verify(&mut |_, _| {}).unwrap().entries, 40);
    assert_eq!(Add::value(&keyspace.get(key(7)).unwrap().unwrap()), Some(2001));
}

#[test]
fn the_operator_is_stored_and_checked_at_open() {
    let options = tiny().fs(Arc::new(MemFs::new()));
    let db = options.clone().open(DIR).unwrap();
    let moody = KeyspaceOptions::new().merge_operator(Moody::default());
    let keyspace = db.keyspace_with("m", moody).unwrap();
    for i in 0..300 {
        keyspace.merge(key(i % 7), format!("{i} ")).unwrap();
    }
    keyspace.put("plain", "value").unwrap();
    let expected = keyspace.get(key(3)).unwrap().unwrap();
    let other = db.keyspace_with("m", KeyspaceOptions::new().merge_operator(Max)).unwrap_err();
    assert!(
        matches!(&other, Error::MergeOperator { keyspace, stored: Some(stored), given: Some(given) }
            if keyspace == "m" && stored == "test.moody" && given == "esker.max"),
        "{other}"
    );
    let none = db.merge("k", "operand").unwrap_err();
    assert!(matches!(&none, Error::MergeOperator { stored: None, given: None, .. }), "{none}");
    let mut batch = WriteBatch::new();
    batch.put(&db, "k", "v").merge(&db, "k", "operand");
    assert!(db.write(batch).is_err() && db.get("k").unwrap().is_none());

    db.close().unwrap();
    let missing = options.clone().open(DIR).unwrap_err();
    assert!(
        matches!(&missing, Error::MergeOperator { keyspace, stored: Some(stored), given: None }
            if keyspace == "m" && stored == "test.moody"),
        "{missing}"
    );

    // Without it nothing is lost, whatever is written and compacted.
    let blind = options.clone().missing_merge_operators(true).open(DIR).unwrap();
    let keyspace = blind.keyspace("m").unwrap();
    assert_eq!(keyspace.get("plain").unwrap().unwrap(), "value");
    assert!(matches!(keyspace.get(key(3)), Err(Error::MergeOperator { .. })));
    assert!(keyspace.iter().any(|entry| entry.is_err()));
    keyspace.merge(key(3), "blind ").unwrap();
    blind.flush().unwrap();
    keyspace.compact_range::<&[u8], _>(..).unwrap();
    blind.close().unwrap();

    let again = options.merge_operator(Moody::default()).open(DIR).unwrap();
    let found = again.keyspace("m").unwrap().get(key(3)).unwrap().unwrap();
    assert_eq!(found, [&expected[..], b"blind "].concat());
    again.verify(&mut |_, _| {}).unwrap();
}

#[test]
fn an_operator_that_fails_or_panics_poisons_nothing() {
    let db = TestDb::new();
    let moody = Moody::default();
    let options = KeyspaceOptions::new().merge_operator(moody.clone());
    let keyspace = db.keyspace_with("m", options).unwrap();
    for n in 0..3 {
        for key in ["a", "bad", "c"] {
            keyspace.merge(key, n.to_string()).unwrap();
        }
    }
    for mood in [&moody.fails, &moody.panics] {
        mood.store(true, Relaxed);
        let error = keyspace.get("bad").unwrap_err();
        assert!(matches!(&error, Error::Merge { keyspace, .. } if keyspace == "m"), "{error}");
        assert_eq!(keyspace.get("a").unwrap().unwrap(), "012");
        let entries: Vec<_> = keyspace.iter().collect();
        assert!(entries.len() == 2 && entries[0].is_ok() && entries[1].is_err());
        let mut cursor = keyspace.cursor();
        assert!(cursor.seek("bad").is_err() && cursor.next().is_err());
        assert!(cursor.seek("bad\0").unwrap() && cursor.key() == Some(b"c"));
        db.flush().unwrap();
        keyspace.compact_range::<&[u8], _>(..).unwrap();
        assert!(db.stats().read_only.is_none());
        assert!(keyspace.get("bad").is_err());
        mood.store(false, Relaxed);
        assert_eq!(keyspace.get("bad").unwrap().unwrap(), "012");
    }
    moody.fails.store(true, Relaxed);
    keyspace.put("bad", "mended").unwrap();
    assert_eq!(keyspace.get("bad").unwrap().unwrap(), "mended");
    keyspace.compact_range::<&[u8], _>(..).unwrap();
    assert_eq!(db.verify(&mut |_, _| {}).unwrap().entries, 3);
}

/// What is remembered of a key is its state at an operand that may have become a part of something newer.
#[test]
fn operands_count_once_though_what_was_remembered_is_older_than_what_they_became() {
    let db = TestDb::new();
    let keyspace = counting(&db);
    let count = |key: &str| Add::value(&keyspace.get(key).unwrap().unwrap()).unwrap();
    let merge = |key: &str, n| (0..n).for_each(|_| keyspace.merge(key, one()).unwrap());
    // Combined, above an operand of another file.
    merge("combined", 1);
    db.flush().unwrap();
    merge("combined", 40);
    assert_eq!(count("combined"), 41);
    merge("combined", 10);
    db.flush().unwrap();
    merge("combined", 40);
    assert_eq!(count("combined"), 91);
    // Folded into a value whose number is 0.
    merge("folded", 40);
    assert_eq!(count("folded"), 40);
    merge("folded", 10);
    keyspace.compact_range::<&[u8], _>(..).unwrap();
    merge("folded", 40);
    assert_eq!(count("folded"), 90);
    assert_eq!(count("combined"), 91);
}

#[test]
fn concurrent_merges_lose_nothing() {
    let mut db = TestDb::with(tiny().background_threads(2));
    let keyspace = counting(&db);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let keyspace = &keyspace;
            scope.spawn(move || {
                for n in 0..500 {
                    keyspace.merge(key(n % 3), one()).unwrap();
                    if n % 100 == thread {
                        keyspace.get(key(n % 3)).unwrap();
                    }
                }
            });
        }
    });
    let sum = |db: &TestDb| -> i64 {
        counting(db).iter().map(|entry| Add::value(&entry.unwrap().1).unwrap()).sum()
    };
    assert_eq!(sum(&db), 2000);
    db.reopen();
    assert_eq!(sum(&db), 2000);
}

#[test]
fn a_repaired_database_has_what_was_merged() {
    let fs = MemFs::new();
    let options = tiny().fs(Arc::new(fs.clone()));
    let db = options.clone().open(DIR).unwrap();
    let counters = db.keyspace_with("c", KeyspaceOptions::new().merge_operator(Add)).unwrap();
    let moody = KeyspaceOptions::new().merge_operator(Moody::default());
    let texts = db.keyspace_with("t", moody).unwrap();
    for i in 0..500 {
        counters.merge(key(i % 9), one()).unwrap();
        texts.merge(key(i % 9), format!("{i} ")).unwrap();
        if i == 300 {
            db.flush().unwrap();
        }
    }
    counters.put("plain", one()).unwrap();
    texts.delete(key(0)).unwrap();
    texts.merge(key(0), "anew").unwrap();
    let all = |keyspace: &Keyspace| -> Vec<_> { keyspace.iter().map(Result::unwrap).collect() };
    let before = (all(&counters), all(&texts));
    db.close().unwrap();
    let options = options.merge_operator(Moody::default());
    let report = options.clone().repair(DIR, "/new", &mut |_, _| {}).unwrap();
    assert!(report.is_clean(), "{report}");
    let db = options.open("/new").unwrap();
    let (counters, texts) = (db.keyspace("c").unwrap(), db.keyspace("t").unwrap());
    assert_eq!((all(&counters), all(&texts)), before);
}

/// What was flushed is not counted again from the log.
#[test]
fn a_crash_counts_each_operand_once() {
    let db = TestDb::new();
    let keyspace = counting(&db);
    for n in 1..=400_i64 {
        keyspace.merge("k", one()).unwrap();
        if n % 37 == 0 {
            db.run_one_job().unwrap();
            let fs = db.fs.crash_clone(CrashMode::Strict, n as u64);
            let after = db.options.clone().fs(Arc::new(fs)).open(DIR).unwrap();
            let found = after.keyspace("c").unwrap().get("k").unwrap().unwrap();
            assert_eq!(Add::value(&found), Some(n));
        }
    }
}
