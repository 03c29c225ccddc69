//! A bank: threads move money between accounts, the machine crashes at any moment, and neither a
//! reader nor a recovery ever counts another sum.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use esker::Db;
use esker::Durability;
use esker::Isolation;
use esker::Options;
use esker::Result;
use esker::Slice;
use esker::fs::CrashMode;
use esker::fs::MemFs;

use crate::support::DIR;
use crate::support::key;

const ACCOUNTS: usize = 12;
const BALANCE: u64 = 1000;
const THREADS: u64 = 6;
const CRASHES: u64 = 60;

fn options(fs: MemFs) -> Options {
    Options::new()
        .memtable_bytes(8 << 10)
        .block_bytes(256)
        .file_bytes(16 << 10)
        .wal_bytes(128 << 10)
        .memory_budget(1 << 20)
        .fs(Arc::new(fs))
}

fn number(value: &Slice) -> u64 {
    u64::from_be_bytes(value[..8].try_into().unwrap())
}

fn balance(amount: u64) -> Vec<u8> {
    // Padded, so that memtables fill and levels come to be.
    [&amount.to_be_bytes()[..], &[0; 40]].concat()
}

/// Half of the accounts are in each of two keyspaces.
fn total(db: &Db) -> Result<u64> {
    let other = db.keyspace("other")?;
    let txn = db.transaction_with(Isolation::Snapshot);
    let mut sum = 0;
    for entry in txn.iter(db).chain(txn.iter(&other).rev()) {
        sum += number(&entry?.1);
    }
    txn.commit()?;
    Ok(sum)
}

fn transfer(db: &Db, level: Isolation, from: usize, to: usize, amount: u64) -> Result<()> {
    let other = db.keyspace("other")?;
    let home = |account: usize| if account.is_multiple_of(2) { &**db } else { &other };
    db.transact_with(level, |txn| {
        let paid = number(&txn.get(home(from), key(from))?.unwrap());
        if paid < amount || from == to {
            return Ok(());
        }
        txn.put(home(from), key(from), balance(paid - amount))?;
        let got = number(&txn.get(home(to), key(to))?.unwrap());
        txn.put(home(to), key(to), balance(got + amount))?;
        // Every third waits for the disk.
        txn.durability(if amount.is_multiple_of(3) { Durability::Sync } else { Durability::Os });
        Ok(())
    })
}

fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

#[test]
fn the_sum_of_a_bank_never_changes() {
    let expected = ACCOUNTS as u64 * BALANCE;
    let fs = MemFs::new();
    let db = options(fs.clone()).open(DIR).unwrap();
    let other = db.keyspace("other").unwrap();
    let mut batch = esker::WriteBatch::new();
    for account in 0..ACCOUNTS {
        let home = if account.is_multiple_of(2) { &*db } else { &other };
        batch.put(home, key(account), balance(BALANCE));
    }
    db.write(batch).unwrap();
    let done = AtomicBool::new(false);
    let transfers = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (db, done, transfers) = (&db, &done, &transfers);
            scope.spawn(move || {
                let mut seed = thread;
                let level = if thread % 2 == 0 {
                    Isolation::Serializable
                } else {
                    // Each transfer writes what it reads: no less is needed.
                    Isolation::Snapshot
                };
                while !done.load(Relaxed) {
                    let [from, to] = [(); 2].map(|()| next(&mut seed) as usize % ACCOUNTS);
                    transfer(db, level, from, to, next(&mut seed) % 100).unwrap();
                    transfers.fetch_add(1, Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Relaxed) {
                assert_eq!(total(&db).unwrap(), expected);
            }
        });
        for crash in 0..CRASHES {
            // So that there is something to lose since the last one.
            let before = transfers.load(Relaxed);
            while transfers.load(Relaxed) < before + 20 {
                std::thread::yield_now();
            }
            let mode = CrashMode::ALL[crash as usize % CrashMode::ALL.len()];
            let crashed = fs.crash_clone(mode, crash);
            let db = options(crashed).background_threads(0).open(DIR).unwrap();
            assert_eq!(total(&db).unwrap(), expected, "after crash {crash}, {mode:?}");
            // Business goes on.
            transfer(&db, Isolation::Serializable, 1, 2, 1).unwrap();
            assert_eq!(total(&db).unwrap(), expected);
        }
        done.store(true, Relaxed);
    });
    assert_eq!(total(&db).unwrap(), expected);
    db.verify(&mut |_, _| {}).unwrap();
}
