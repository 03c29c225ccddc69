//! Handles against what ends them: dropped keyspaces, dropped and closed databases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use esker::Db;
use esker::Durability;
use esker::Error;
use esker::Keyspace;
use esker::Reader;
use esker::WriteBatch;
use esker::fs::MemFs;

use crate::world::generation;
use crate::world::generation_of;
use crate::world::join;
use crate::world::one_in;
use crate::world::open;
use crate::world::open_alone;
use crate::world::scan;
use crate::world::spawn;
use crate::world::tiny;
use crate::world::value;

/// An iterator goes on while its keyspace is compacted and dropped, and the database closed.
pub(crate) fn iterators_and_drops() {
    let fs = MemFs::new();
    let db = open(&tiny(fs.clone()).durability(Durability::Os));
    let keyspace = db.keyspace("dropped").unwrap();
    for key in ["a", "b"] {
        keyspace.put(key, value(1, 300)).unwrap();
    }
    db.flush().unwrap();
    for key in ["c", "d"] {
        keyspace.put(key, value(1, 300)).unwrap();
    }
    let reader = keyspace.clone();
    let reader = spawn(move || {
        let mut found = 0;
        for entry in &*reader {
            match entry {
                Ok((key, value)) => {
                    assert_eq!(key[0], b"abcd"[found], "a key is missing");
                    assert_eq!(generation_of(Some(&value[..])), 1);
                    found += 1;
                }
                Err(Error::NoSuchKeyspace { .. } | Error::Closed) if found == 0 => return,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(found, 4);
    });
    let compacting = keyspace.clone();
    let compacting = spawn(move || {
        let done = compacting.compact_range::<&[u8], _>(..);
        let ended = matches!(done, Ok(()) | Err(Error::NoSuchKeyspace { .. } | Error::Closed));
        assert!(ended, "{done:?}");
    });
    drop(keyspace);
    db.drop_keyspace("dropped").unwrap();
    // The last handle closes, whoever has it; or this one does, whoever is still reading.
    if one_in(2) {
        db.close().unwrap();
    } else {
        drop(db);
    }
    join([reader, compacting]);
    assert_eq!(open_alone(&fs).keyspaces(), ["default"]);
}

/// The database is closed while three threads write. Each write returns, and tells the truth.
pub(crate) fn close_under_writers() {
    let fs = MemFs::new();
    // Without threads the callers run the jobs.
    let threads = if one_in(2) { 0 } else { 2 };
    let db = open(&tiny(fs.clone()).background_threads(threads));
    let closed = Arc::new(AtomicBool::new(false));
    let durabilities = [Durability::Sync, Durability::Os, Durability::Os];
    let writers = durabilities.into_iter().enumerate().map(|(writer, durability)| {
        let (db, closed) = (db.clone(), closed.clone());
        spawn(move || {
            for count in 1..=3 {
                let was_closed = closed.load(SeqCst);
                let mut batch = WriteBatch::new();
                batch.put(&db, format!("key {writer}"), value(count, 300)).durability(durability);
                match db.write(batch) {
                    Ok(()) => assert!(!was_closed, "a closed database took a write"),
                    Err(Error::Closed) => return (count - 1, count),
                    Err(error) => panic!("{error}"),
                }
            }
            (3, 3)
        })
    });
    let writers: Vec<_> = writers.collect();
    let again = db.clone();
    let again = spawn(move || again.close().unwrap());
    let flushing = db.clone();
    let flushing = spawn(move || match flushing.flush() {
        Ok(()) | Err(Error::Closed) => {}
        Err(error) => panic!("{error}"),
    });
    db.close().unwrap();
    closed.store(true, SeqCst);
    // Whoever opens it now has it alone.
    let events = fs.events();
    let bounds = join(writers);
    join([again, flushing]);
    assert_eq!(fs.events(), events, "a closed database went on");
    let db = open_alone(&fs);
    for (writer, (acknowledged, begun)) in bounds.into_iter().enumerate() {
        let found = generation(&db, &format!("key {writer}"));
        assert!((acknowledged..=begun).contains(&found), "{writer}: {found} of {acknowledged}");
    }
}

/// Whoever reads what was written there finds it, or is told that the keyspace is gone; and a
/// snapshot tells the same as often as it is asked.
fn check_there(db: &Db, keyspace: &Keyspace, key: &str, count: u8) {
    let there = |reader: &Reader| match reader.get(key) {
        Ok(found) => {
            assert_eq!(generation_of(found.as_deref()), count, "gone without a word");
            true
        }
        Err(Error::NoSuchKeyspace { .. }) => false,
        Err(error) => panic!("{error}"),
    };
    if one_in(2) {
        let snapshot = db.snapshot();
        let reader = snapshot.keyspace(keyspace);
        assert_eq!(there(&reader), there(&reader));
    } else {
        there(keyspace);
    }
}

/// Few steps, so that a reader is interrupted at every one of them.
pub(crate) fn one_reader_of_a_dropped_keyspace() {
    let db = open(&tiny(MemFs::new()).durability(Durability::Os).background_threads(0));
    let keyspace = db.keyspace("k").unwrap();
    keyspace.put("a", value(1, 10)).unwrap();
    let dropping = db.clone();
    let dropping = spawn(move || dropping.drop_keyspace("k").unwrap());
    check_there(&db, &keyspace, "a", 1);
    join([dropping]);
    assert!(matches!(keyspace.get("a"), Err(Error::NoSuchKeyspace { .. })));
    let snapshot = db.snapshot();
    assert!(snapshot.keyspace(&keyspace).get("a").is_err());
}

/// A keyspace is dropped and created anew while others write to it, alone and together with another.
pub(crate) fn created_and_dropped() {
    let fs = MemFs::new();
    let db = open(&tiny(fs.clone()).durability(Durability::Os));
    db.keyspace("k").unwrap();
    let writers = (0..2).map(|writer| {
        let db = db.clone();
        spawn(move || {
            let mut acknowledged = 0;
            for count in 1..=2 {
                let keyspace = db.keyspace("k").unwrap();
                let key = format!("key {writer}");
                let mut batch = WriteBatch::new();
                batch.put(&db, &key, value(count, 300)).put(&keyspace, &key, value(count, 300));
                match db.write(batch) {
                    Ok(()) => {
                        acknowledged = count;
                        check_there(&db, &keyspace, &key, count);
                    }
                    Err(Error::NoSuchKeyspace { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
                assert_eq!(generation(&db, &key), acknowledged, "half a batch, or none");
            }
            acknowledged
        })
    });
    let writers: Vec<_> = writers.collect();
    let flushing = db.clone();
    let flushing = spawn(move || flushing.flush().unwrap());
    db.drop_keyspace("k").unwrap();
    let created = db.keyspace("k").unwrap();
    created.put("new", value(1, 10)).unwrap();
    let acknowledged = join(writers);
    join([flushing]);
    let left = scan(&created);
    drop(created);
    db.close().unwrap();
    let db = open_alone(&fs);
    for (writer, acknowledged) in acknowledged.into_iter().enumerate() {
        assert_eq!(generation(&db, &format!("key {writer}")), acknowledged);
    }
    let reopened: BTreeMap<String, u8> = scan(&db.keyspace("k").unwrap());
    assert_eq!(reopened, left);
    assert_eq!(left["new"], 1);
}
