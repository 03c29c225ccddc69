//! Conditional operations on one key.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use esker::Durability;
use esker::ErrorKind;
use esker::Keyspace;
use esker::KeyspaceOptions;
use esker::MergeOperator;
use esker::MergeResult;
use esker::Options;
use esker::SeqNo;
use esker::Swap;
use esker::Update;
use esker::fs::MemFs;

use crate::support::DIR;
use crate::support::TestDb;
use crate::support::key;

#[test]
fn a_swap_happens_only_from_what_was_expected() {
    let db = TestDb::new();
    for settle in [false, true] {
        assert_eq!(db.compare_and_swap("k", None, None).unwrap(), Swap::Done);
        assert_eq!(db.compare_and_swap("k", Some(b"a"), Some(b"b")).unwrap(), Swap::Differs(None));
        assert_eq!(db.compare_and_swap("k", None, Some(b"a")).unwrap(), Swap::Done);
        if settle {
            db.compact_range::<&[u8], _>(..).unwrap();
        }
        let differs = Swap::Differs(Some("a".into()));
        assert_eq!(db.compare_and_swap("k", None, Some(b"b")).unwrap(), differs);
        assert_eq!(db.compare_and_swap("k", Some(b""), Some(b"b")).unwrap(), differs);
        assert_eq!(db.compare_and_swap("k", Some(b"a"), Some(b"")).unwrap(), Swap::Done);
        assert_eq!(db.get("k").unwrap().unwrap(), "");
        assert_eq!(db.compare_and_swap("k", Some(b""), None).unwrap(), Swap::Done);
        assert!(db.get("k").unwrap().is_none());
    }
    let long = vec![0; 70_000];
    let error = db.compare_and_swap(&long, None, Some(b"")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    let stranger = TestDb::new();
    drop(stranger);
}

#[test]
fn put_if_absent_update_and_take() {
    let db = TestDb::new();
    let other = db.keyspace("other").unwrap();
    assert_eq!(other.put_if_absent("k", "1").unwrap(), None);
    assert_eq!(other.put_if_absent("k", "2").unwrap().unwrap(), "1");
    assert!(db.get("k").unwrap().is_none());
    let before = other.fetch_update("k", |value| Update::Put([value.unwrap(), b"!"].concat()));
    assert_eq!(before.unwrap().unwrap(), "1");
    let written = db.stats().writes.batches;
    assert_eq!(other.fetch_update("k", |_| Update::Keep).unwrap().unwrap(), "1!");
    assert_eq!(db.stats().writes.batches, written, "nothing is written where nothing changes");
    assert_eq!(other.take("k").unwrap().unwrap(), "1!");
    assert_eq!(other.take("k").unwrap(), None);
    assert_eq!(other.fetch_update("k", |_| Update::Delete).unwrap(), None);
    db.drop_keyspace("other").unwrap();
    assert!(other.put_if_absent("k", "1").is_err());
}

#[test]
fn versions_tell_what_was_changed() {
    let mut db = TestDb::new();
    for i in 0..50 {
        db.put(key(i), "old").unwrap();
    }
    db.compact_range::<&[u8], _>(..).unwrap();
    let version = |db: &TestDb, i: usize| db.get_versioned(key(i)).unwrap().unwrap().1;
    let first = version(&db, 7);
    assert!(first > SeqNo::ZERO && first <= db.seqno());
    // Neither flushes nor compactions nor other keys change it.
    db.put(key(8), "new").unwrap();
    let eighth = version(&db, 8);
    db.flush().unwrap();
    db.compact_range::<&[u8], _>(..).unwrap();
    assert_eq!((version(&db, 7), version(&db, 8)), (first, eighth));
    let second = db.put_if_version(key(7), Some(first), "mine").unwrap().unwrap();
    assert_eq!(version(&db, 7), second);
    assert_eq!(db.put_if_version(key(7), Some(first), "lost").unwrap(), None);
    assert_eq!(db.put_if_version(key(7), None, "lost").unwrap(), None);
    assert_eq!(db.get(key(7)).unwrap().unwrap(), "mine");
    // Deleted and put again is another one, wherever it lies.
    db.delete(key(7)).unwrap();
    assert_eq!(db.put_if_version(key(7), Some(second), "lost").unwrap(), None);
    let third = db.put_if_version(key(7), None, "again").unwrap().unwrap();
    db.compact_range::<&[u8], _>(..).unwrap();
    assert_eq!(db.put_if_version(key(7), Some(second), "lost").unwrap(), None);
    assert_eq!(version(&db, 7), third);
    db.reopen();
    assert_eq!(version(&db, 7), third);
    assert!(db.get_versioned("absent").unwrap().is_none());
}

/// Asks for the version of a key the first time that it is to merge.
struct Asking(Arc<Mutex<Asked>>);

#[derive(Default)]
struct Asked {
    of: Option<Keyspace>,
    version: Option<SeqNo>,
}

impl MergeOperator for Asking {
    fn name(&self) -> &'static str {
        "asking"
    }

    fn merge(&self, _: &[u8], _: Option<&[u8]>, _: &[&[u8]]) -> MergeResult<Vec<u8>> {
        let mut asked = self.0.lock().unwrap();
        if let Some(keyspace) = asked.of.take() {
            asked.version = Some(keyspace.get_versioned("b").unwrap().unwrap().1);
        }
        Ok(b"merged".to_vec())
    }
}

#[test]
fn a_version_that_was_asked_for_during_a_compaction_stays() {
    let asked = Arc::new(Mutex::new(Asked::default()));
    let db = TestDb::new();
    let options = KeyspaceOptions::new().merge_operator(Asking(asked.clone()));
    let keyspace = db.keyspace_with("k", options).unwrap();
    keyspace.put("b", "value").unwrap();
    for part in ["1", "2"] {
        keyspace.merge("a", part).unwrap();
        keyspace.put("c", part).unwrap();
        db.flush().unwrap();
    }
    asked.lock().unwrap().of = Some(keyspace.clone());
    keyspace.compact_range::<&[u8], _>(..).unwrap();
    let version = asked.lock().unwrap().version.expect("the compaction merges");
    assert_eq!(keyspace.get_versioned("b").unwrap().unwrap().1, version);
    assert!(keyspace.put_if_version("b", Some(version), "mine").unwrap().is_some());
    assert_eq!(keyspace.put_if_version("b", Some(version), "lost").unwrap(), None);
}

/// Numbers that were forgotten never let an old version pass for a new one.
#[test]
fn a_forgotten_version_is_refused_rather_than_mistaken() {
    let mut db = TestDb::new();
    db.put("k", "1").unwrap();
    let (_, version) = db.get_versioned("k").unwrap().unwrap();
    db.reopen();
    // Nobody has asked since: the number is replaced.
    db.compact_range::<&[u8], _>(..).unwrap();
    db.put("k", "2").unwrap();
    db.compact_range::<&[u8], _>(..).unwrap();
    assert_eq!(db.put_if_version("k", Some(version), "lost").unwrap(), None);
    let (value, version) = db.get_versioned("k").unwrap().unwrap();
    assert_eq!(value, "2");
    assert!(version <= db.seqno());
    assert!(db.put_if_version("k", Some(version), "3").unwrap().is_some());
}

#[test]
fn many_threads_lose_no_update() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 500;
    let db = Options::new()
        .memtable_bytes(4 << 10)
        .memory_budget(1 << 20)
        .durability(Durability::Os)
        .fs(Arc::new(MemFs::new()))
        .open(DIR)
        .unwrap();
    let taken = AtomicUsize::new(0);
    let put = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    db.fetch_update("count", |count| {
                        let count = count.map_or(0, |n| u64::from_le_bytes(n.try_into().unwrap()));
                        Update::Put((count + 1).to_le_bytes().to_vec())
                    })
                    .unwrap();
                    let ticket = key(round % 7);
                    if db.put_if_absent(&ticket, vec![0; 100]).unwrap().is_none() {
                        put.fetch_add(1, Relaxed);
                    }
                    taken.fetch_add(usize::from(db.take(&ticket).unwrap().is_some()), Relaxed);
                    loop {
                        let (value, version) = match db.get_versioned("versioned").unwrap() {
                            Some((value, version)) => (value.to_vec(), Some(version)),
                            None => (0_u64.to_le_bytes().to_vec(), None),
                        };
                        let next = u64::from_le_bytes(value.try_into().unwrap()) + 1;
                        let next = next.to_le_bytes();
                        if db.put_if_version("versioned", version, next).unwrap().is_some() {
                            break;
                        }
                    }
                }
            });
        }
    });
    let total = ((THREADS * ROUNDS) as u64).to_le_bytes();
    assert_eq!(db.get("count").unwrap().unwrap(), total);
    assert_eq!(db.get("versioned").unwrap().unwrap(), total);
    let left = (0..7).filter(|i| db.contains_key(key(*i)).unwrap()).count();
    assert_eq!(put.into_inner(), taken.into_inner() + left);
}
