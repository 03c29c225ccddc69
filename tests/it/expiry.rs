//! Values that expire: gone at once for readers, soon from disk, and never back.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use esker::Add;
use esker::Clock;
use esker::Error;
use esker::Keyspace;
use esker::KeyspaceOptions;
use esker::Transaction;
use esker::Ttl;
use esker::Update;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::MemFs;

use crate::support::DIR;
use crate::support::TestDb;
use crate::support::key;
use crate::support::tiny;
use crate::support::value;

/// A clock that stands still until it is set.
#[derive(Debug)]
pub(crate) struct Hands {
    wall_ms: AtomicU64,
    ticks: AtomicU64,
}

impl Hands {
    pub(crate) fn set(&self, ms: u64) {
        self.wall_ms.store(ms, Relaxed);
    }
}

impl Clock for Hands {
    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.ticks.fetch_add(1, Relaxed))
    }

    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Relaxed)
    }

    fn unique(&self) -> u64 {
        self.ticks.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// It is 1,000,000 ms after the beginning of 1970; what expired may stay for a second.
pub(crate) fn timed() -> (TestDb, Arc<Hands>) {
    let hands = Arc::new(Hands { wall_ms: 1_000_000.into(), ticks: 0.into() });
    let options = tiny().clock(hands.clone()).tombstone_age(Duration::from_secs(1));
    (TestDb::with(options), hands)
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn keys(keyspace: &Keyspace) -> Vec<String> {
    let key = |entry: esker::Result<(esker::Key, esker::Value)>| {
        let (key, value) = entry.unwrap();
        assert!(value.starts_with(b"v"), "{value:?}");
        String::from_utf8(key.to_vec()).unwrap()
    };
    let forward: Vec<_> = keyspace.iter().map(key).collect();
    let mut back: Vec<_> = keyspace.iter().rev().map(key).collect();
    back.reverse();
    assert_eq!(forward, back);
    forward
}

#[test]
fn a_value_is_gone_for_all_readers_once_it_expires() {
    let (mut db, hands) = timed();
    for stage in 0..4 {
        let start = 1_000_000 + stage * 100_000;
        hands.set(start);
        let large = [&b"v"[..], &[7; 3000]].concat();
        db.put("a", "v").unwrap();
        db.put_with_ttl("b", "v1", ms(100)).unwrap();
        db.put("c", "v old").unwrap();
        db.put_with_ttl("c", &large, ms(200)).unwrap();
        let mut batch = WriteBatch::new();
        batch.put_with_ttl(&db, "d", "v", Duration::MAX).put_with_ttl(&db, "e", "v", ms(50));
        batch.put(&db, "e", "v for ever");
        db.write(batch).unwrap();
        match stage {
            1 => db.flush().unwrap(),
            2 => db.compact_range::<&[u8], _>(..).unwrap(),
            3 => db.reopen(),
            _ => {}
        }
        assert_eq!(keys(&db), ["a", "b", "c", "d", "e"]);
        hands.set(start + 99);
        assert_eq!(db.get("b").unwrap().unwrap(), "v1");
        assert_eq!(db.ttl("b").unwrap(), Some(Ttl::For(ms(1))));
        hands.set(start + 100);
        assert!(db.get("b").unwrap().is_none() && !db.contains_key("b").unwrap());
        assert_eq!(db.ttl("b").unwrap(), None);
        assert_eq!(keys(&db), ["a", "c", "d", "e"]);
        let many = db.multi_get(["b", "c", "d"]).unwrap();
        assert!(many[0].is_none() && many[1].as_deref() == Some(&large[..]));
        hands.set(start + 200);
        assert!(db.get("c").unwrap().is_none(), "and what it had overwritten is not back");
        assert_eq!(keys(&db), ["a", "d", "e"]);
        assert_eq!(db.ttl("e").unwrap(), Some(Ttl::Forever));
        db.put("b", "v again").unwrap();
        assert_eq!(db.get("b").unwrap().unwrap(), "v again");
    }
}

#[test]
fn snapshots_and_iterators_judge_by_the_instant_they_were_made_at() {
    let (db, hands) = timed();
    for i in 0..100 {
        db.put_with_ttl(key(i), "v", ms(10 + i as u64)).unwrap();
    }
    let snapshot = db.snapshot();
    let mut iter = db.iter();
    let mut cursor = db.cursor();
    iter.next().unwrap().unwrap();
    hands.set(1_000_060);
    db.flush().unwrap();
    db.compact_range::<&[u8], _>(..).unwrap();
    hands.set(2_000_000);
    db.settle();
    db.compact_range::<&[u8], _>(..).unwrap();
    assert_eq!(db.iter().count(), 0);
    assert_eq!(snapshot.iter().count(), 100);
    assert_eq!(snapshot.get(key(0)).unwrap().unwrap(), "v");
    assert_eq!(snapshot.ttl(key(5)).unwrap(), Some(Ttl::For(ms(15))));
    assert_eq!(iter.by_ref().rev().count(), 99);
    assert!(cursor.seek(key(99)).unwrap());
    drop((snapshot, iter, cursor));
    db.settle();
    db.compact_range::<&[u8], _>(..).unwrap();
    assert_eq!(db.stats().sst_bytes(), 0);
}

#[test]
fn a_clock_that_goes_back_resurrects_nothing_and_ends_nothing_early() {
    let (db, hands) = timed();
    db.put_with_ttl("k", "v", ms(100)).unwrap();
    hands.set(1_000_150);
    assert!(db.get("k").unwrap().is_none());
    hands.set(500_000);
    assert!(db.get("k").unwrap().is_none() && db.iter().next().is_none());
    assert!(db.snapshot().get("k").unwrap().is_none());
    // Time stands still: what is written now lives until the clock has caught up, and no less.
    db.put_with_ttl("l", "v", ms(100)).unwrap();
    db.compact_range::<&[u8], _>(..).unwrap();
    assert_eq!(db.ttl("l").unwrap(), Some(Ttl::For(ms(100))));
    hands.set(1_000_249);
    assert_eq!(db.get("l").unwrap().unwrap(), "v");
    hands.set(1_000_250);
    assert!(db.get("l").unwrap().is_none());
}

/// Others have seen it gone.
#[test]
fn what_is_read_and_expires_before_the_commit_has_changed() {
    let (db, hands) = timed();
    let begin = |start| {
        hands.set(start);
        db.put_with_ttl("k", "v", ms(100)).unwrap();
        db.put_with_ttl("l", "v", ms(200)).unwrap();
    };
    begin(1_000_000);
    let mut seen = Vec::new();
    let before = db.fetch_update("k", |value| {
        seen.push(value.is_some());
        hands.set(1_000_100);
        assert!(db.get("k").unwrap().is_none());
        value.map_or(Update::Keep, |value| Update::Put(value.to_vec()))
    });
    assert_eq!((before.unwrap(), seen), (None, vec![true, false]));
    assert!(db.get("k").unwrap().is_none());

    let reads: [fn(&Transaction, &Keyspace); 4] = [
        |txn, db| assert!(txn.get(db, "k").unwrap().is_some()),
        |txn, db| assert!(txn.contains_key(db, "k").unwrap()),
        |txn, db| assert_eq!(txn.iter(db).count(), 2),
        |txn, db| assert_eq!(txn.iter(db).rev().count(), 2),
    ];
    for (n, read) in (1..).zip(reads) {
        for (at, (later, busy)) in (1..).zip([(99, true), (100, false), (100, true)]) {
            let start = 1_000_000 * n + 1000 * at;
            begin(start);
            let txn = db.transaction();
            read(&txn, &db);
            // Beside others the check takes another way.
            if busy {
                db.keyspace("other").unwrap().put("k", "v").unwrap();
            }
            hands.set(start + later);
            txn.put(&db, "copy", "v").unwrap();
            let result = txn.commit();
            assert_eq!(result.is_ok(), later == 99, "{n}: {result:?}");
            db.delete("copy").unwrap();
        }
    }
}

#[test]
fn an_expired_value_hides_older_versions_until_they_are_gone() {
    let (db, hands) = timed();
    for i in 0..200 {
        db.put(key(i), value(i, 0)).unwrap();
    }
    db.compact_range::<&[u8], _>(..).unwrap();
    for i in 0..200 {
        db.put_with_ttl(key(i), value(i, 1), ms(10)).unwrap();
    }
    hands.set(1_000_010);
    for _ in 0..3 {
        assert_eq!(db.iter().count(), 0);
        db.flush().unwrap();
        db.settle();
        assert_eq!(db.iter().count(), 0);
    }
    hands.set(1_005_000);
    db.settle();
    assert_eq!(db.stats().sst_bytes(), 0);
}

/// A third of each file expires; nobody writes any more.
#[test]
fn an_idle_database_gives_the_space_back() {
    let (db, hands) = timed();
    for i in 0..600 {
        if i % 3 == 0 {
            db.put_with_ttl(key(i), [b'v'; 300], ms(1000 + i as u64)).unwrap();
        } else {
            db.put(key(i), "v").unwrap();
        }
    }
    db.compact_range::<&[u8], _>(..).unwrap();
    // One that is not even flushed.
    db.put_with_ttl("unflushed", [b'v'; 300], ms(1000)).unwrap();
    let before = db.stats().sst_bytes();
    hands.set(1_000_500);
    db.settle();
    assert_eq!(db.stats().sst_bytes(), before);
    hands.set(1_003_000);
    db.settle();
    assert_eq!(db.verify(&mut |_, _| {}).unwrap().entries, 400);
    assert!(db.stats().sst_bytes() < before / 2);
    assert_eq!(db.iter().count(), 400);
}

#[test]
fn files_in_which_everything_has_expired_go_unread() {
    let (db, hands) = timed();
    for generation in 0..2 {
        for i in 0..500 {
            db.put_with_ttl(key(i), value(i, generation), ms(1000)).unwrap();
        }
        db.compact_range::<&[u8], _>(..).unwrap();
    }
    assert!(db.stats().sst_bytes() > 0);
    let read = db.stats().background.compaction_bytes_read;
    hands.set(1_001_000);
    db.settle();
    assert_eq!(db.stats().sst_bytes(), 0);
    assert_eq!(db.stats().background.compaction_bytes_read, read);
    assert_eq!(db.iter().count(), 0);
}

#[test]
fn a_keyspace_has_a_default_that_is_stored() {
    let (mut db, hands) = timed();
    let options = |ttl| KeyspaceOptions::new().default_ttl(ttl);
    let keyspace = db.keyspace_with("k", options(ms(100))).unwrap();
    keyspace.put("short", "v").unwrap();
    keyspace.put_with_ttl("long", "v", ms(1000)).unwrap();
    keyspace.put_with_ttl("ever", "v", Duration::MAX).unwrap();
    drop(keyspace);
    db.reopen();
    let keyspace = db.keyspace("k").unwrap();
    keyspace.put("later", "v").unwrap();
    hands.set(1_000_100);
    assert_eq!(keys(&keyspace), ["ever", "long"]);
    let keyspace = db.keyspace_with("k", options(Duration::MAX)).unwrap();
    keyspace.put("short", "v").unwrap();
    assert_eq!(keyspace.ttl("short").unwrap(), Some(Ttl::Forever));
    let keyspace = db.keyspace_with("k", options(Duration::from_micros(500))).unwrap();
    keyspace.put("shortest", "v").unwrap();
    assert_eq!(keyspace.ttl("shortest").unwrap(), Some(Ttl::For(ms(1))));
}

#[test]
fn a_keyspace_with_an_operator_expires_only_if_that_is_declared() {
    let (mut db, _) = timed();
    let counters = db.keyspace_with("c", KeyspaceOptions::new().merge_operator(Add)).unwrap();
    let refused = |result: esker::Result<()>| {
        assert!(matches!(result, Err(Error::InvalidArgument { .. })));
    };
    refused(counters.put_with_ttl("k", "v", ms(1)));
    let mut batch = WriteBatch::new();
    batch.put(&counters, "a", "v").put_with_ttl(&counters, "b", "v", ms(1));
    refused(db.write(batch));
    db.put_with_ttl("k", "v", ms(1_000_000)).unwrap();
    let both = || KeyspaceOptions::new().merge_operator(Add);
    refused(db.keyspace_with("default", both()).map(drop));
    db.reopen();
    refused(db.keyspace_with("default", both()).map(drop));
    db.flush().unwrap();
    db.reopen();
    refused(db.keyspace_with("default", both()).map(drop));
    // A default time to live says so as well, whether it comes with the operator, behind it or before.
    let with_default = || KeyspaceOptions::new().default_ttl(ms(1));
    db.keyspace_with("both", both().default_ttl(ms(1))).unwrap();
    db.keyspace_with("c", with_default()).unwrap();
    db.keyspace_with("before", with_default()).unwrap();
    db.keyspace_with("before", both()).unwrap();
    db.keyspace_with("default", both().expiring(true)).unwrap();
    for name in ["both", "c", "before", "default"] {
        let keyspace = db.keyspace(name).unwrap();
        keyspace.merge("n", 1_i64.to_le_bytes()).unwrap();
        keyspace.put_with_ttl("m", "v", ms(1)).unwrap();
    }
}

#[test]
fn the_time_of_a_value_can_be_changed() {
    let (db, hands) = timed();
    db.put("a", "v").unwrap();
    assert!(db.expire_at("a", 1_000_050).unwrap());
    assert_eq!(db.ttl("a").unwrap(), Some(Ttl::For(ms(50))));
    assert!(db.expire_at("a", 1_000_070).unwrap());
    hands.set(1_000_060);
    assert_eq!(db.get("a").unwrap().unwrap(), "v");
    assert!(db.persist("a").unwrap());
    hands.set(2_000_000);
    assert_eq!(db.ttl("a").unwrap(), Some(Ttl::Forever));
    assert!(db.expire_at("a", 1_999_999).unwrap());
    assert!(db.get("a").unwrap().is_none());
    assert!(!db.persist("a").unwrap() && !db.expire_at("a", 3_000_000).unwrap());
    assert!(db.get("a").unwrap().is_none());
}

/// Many threads count by read and put, one at a time; another one keeps changing the time.
#[test]
fn changing_the_time_loses_no_write() {
    let db = TestDb::with(tiny().background_threads(2));
    db.put("k", "v0").unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 1..=500 {
                db.put("k", format!("v{n}")).unwrap();
                let found = db.get("k").unwrap().unwrap();
                assert_eq!(found, format!("v{n}").as_bytes(), "an older value is back");
            }
        });
        while !writer.is_finished() {
            let changed = db.expire_at("k", 4_102_444_800_000);
            assert!(matches!(changed, Ok(true) | Err(Error::Conflict)));
        }
    });
    assert_eq!(db.get("k").unwrap().unwrap(), "v500");
}

#[test]
fn a_repaired_database_keeps_the_times() {
    let hands = Arc::new(Hands { wall_ms: 1_000_000.into(), ticks: 0.into() });
    let options = tiny().clock(hands.clone()).fs(Arc::new(MemFs::new()));
    let db = options.clone().open(DIR).unwrap();
    for i in 0..300 {
        db.put_with_ttl(key(i), "v", ms(1 + i as u64)).unwrap();
    }
    db.put("ever", "v").unwrap();
    db.keyspace_with("k", KeyspaceOptions::new().default_ttl(ms(50))).unwrap();
    db.close().unwrap();
    assert!(options.clone().repair(DIR, "/new", &mut |_, _| {}).unwrap().is_clean());
    let db = options.open("/new").unwrap();
    assert_eq!(db.iter().count(), 301);
    hands.set(1_000_200);
    assert_eq!(db.iter().count(), 101);
    assert_eq!(db.ttl(key(250)).unwrap(), Some(Ttl::For(ms(51))));
    assert_eq!(db.ttl("ever").unwrap(), Some(Ttl::Forever));
    let keyspace = db.keyspace("k").unwrap();
    keyspace.put("new", "v").unwrap();
    assert_eq!(keyspace.ttl("new").unwrap(), Some(Ttl::For(ms(50))));
}

/// What the last process had seen as expired is on disk until compaction comes by.
#[test]
fn an_expiry_survives_crashes_and_is_judged_anew() {
    let (db, hands) = timed();
    for i in 0..100 {
        db.put_with_ttl(key(i), value(i, 0), ms(100 + i as u64)).unwrap();
        if i % 30 == 0 {
            db.run_one_job().unwrap();
        }
    }
    let fs = db.fs.crash_clone(CrashMode::Strict, 1);
    hands.set(1_000_150);
    let after = db.options.clone().fs(Arc::new(fs)).open(DIR).unwrap();
    assert_eq!(after.iter().count(), 49);
    assert!(after.get(key(50)).unwrap().is_none());
    assert_eq!(after.get(key(51)).unwrap().unwrap(), value(51, 0));
}
