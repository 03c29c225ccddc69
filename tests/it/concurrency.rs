//! Writers, readers, snapshots and background jobs at once.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Release;

use esker::Durability;
use esker::WriteBatch;

use crate::support::TestDb;
use crate::support::key;
use crate::support::tiny;

const ACCOUNTS: usize = 50;

/// Ends the readers when the last writer ends, be it by a panic.
struct StopWhenLast<'a> {
    running: &'a AtomicU64,
    stop: &'a AtomicBool,
}

impl Drop for StopWhenLast<'_> {
    fn drop(&mut self) {
        if self.running.fetch_sub(1, AcqRel) == 1 || std::thread::panicking() {
            self.stop.store(true, Release);
        }
    }
}

/// Batches move amounts between accounts of two keyspaces; whoever looks at one instant sees the
/// same sum.
#[test]
fn every_reader_sees_whole_batches() {
    let options = tiny().background_threads(3).memtable_bytes(8 << 10);
    let db = TestDb::with(options.durability(Durability::Os));
    let other = db.keyspace("other").unwrap();
    let mut batch = WriteBatch::new();
    for i in 0..ACCOUNTS {
        batch.put(&db, key(i), 100u64.to_le_bytes()).put(&other, key(i), 100u64.to_le_bytes());
    }
    db.write(batch).unwrap();
    let stop = AtomicBool::new(false);
    let running = AtomicU64::new(2);
    let amount = |value: esker::Slice| u64::from_le_bytes(value[..].try_into().unwrap());
    std::thread::scope(|scope| {
        // Each writer owns a share of the accounts, so that no update is lost without transactions.
        let running = &running;
        for writer in 0..2 {
            let (db, other, stop) = (&db, &other, &stop);
            scope.spawn(move || {
                let _stop = StopWhenLast { running, stop };
                for round in 0..3000usize {
                    let from = (round * 7 + writer) % ACCOUNTS / 2 * 2 + writer;
                    let to = (round * 13 + writer) % ACCOUNTS / 2 * 2 + writer;
                    let (from, to) = (from % ACCOUNTS, to % ACCOUNTS);
                    let a = amount(db.get(key(from)).unwrap().unwrap());
                    let b = amount(other.get(key(to)).unwrap().unwrap());
                    let moved = a.min(round as u64 % 10);
                    let mut batch = WriteBatch::new();
                    batch.put(db, key(from), (a - moved).to_le_bytes());
                    batch.put(other, key(to), (b + moved).to_le_bytes());
                    db.write(batch).unwrap();
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Acquire) {
                    let snapshot = db.snapshot();
                    let sum = |reader: &esker::Reader| -> u64 {
                        reader.iter().map(|entry| amount(entry.unwrap().1)).sum()
                    };
                    let total = sum(&snapshot) + sum(&snapshot.keyspace(&other));
                    assert_eq!(total, 200 * ACCOUNTS as u64);
                    let first = snapshot.multi_get((0..ACCOUNTS).map(key)).unwrap();
                    assert!(first.iter().all(Option::is_some));
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Acquire) {
                db.compact_range::<&[u8], _>(..).unwrap();
            }
        });
    });
}

/// A value that was seen, or whose write has returned, is never unseen again.
#[test]
fn reads_never_go_back_in_time() {
    let db = TestDb::with(tiny().background_threads(2).durability(Durability::Os));
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..=20_000u64 {
                db.put("counter", n.to_le_bytes()).unwrap();
                written.store(n, Release);
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while last < 20_000 {
                    let floor = written.load(Acquire).max(last);
                    let found = db.get("counter").unwrap();
                    let found = found.map_or(0, |v| u64::from_le_bytes(v[..].try_into().unwrap()));
                    assert!(found >= floor, "{found} after {floor}");
                    last = found;
                }
            });
        }
    });
}

#[test]
fn concurrent_synced_writers_share_syncs_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let db = esker::Db::open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let db = &db;
            scope.spawn(move || {
                for i in 0..50 {
                    db.put(key(writer * 1000 + i), "x").unwrap();
                }
            });
        }
    });
    let stats = db.stats();
    assert_eq!(stats.writes.batches, 400);
    assert!(stats.wal.syncs < 400, "{} syncs", stats.wal.syncs);
    db.close().unwrap();
    assert_eq!(esker::Db::open(dir.path()).unwrap().iter().count(), 400);
}

#[test]
fn keyspaces_come_and_go_under_load() {
    let db = TestDb::with(tiny().background_threads(2).durability(Durability::Os));
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let db = &db;
            scope.spawn(move || {
                for round in 0..30 {
                    let name = format!("k{}", (thread + round) % 4);
                    let keyspace = db.keyspace(&name).unwrap();
                    for i in 0..40 {
                        if keyspace.put(key(i), vec![7; 200]).is_err() {
                            break;
                        }
                    }
                    if round % 5 == thread {
                        drop(db.drop_keyspace(&name));
                    }
                }
            });
        }
    });
    db.flush().unwrap();
    for name in db.keyspaces() {
        assert!(db.keyspace(&name).unwrap().iter().all(|entry| entry.is_ok()));
    }
}
