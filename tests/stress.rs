//! Everything at once on the real file system, for ThreadSanitizer and for long runs: transfers
//! between the keyspaces of a bank, snapshots that add it up, iterators, compactions, keyspaces that
//! come and go, and a close in the middle of it, after which all that was acknowledged is there.
//!
//! `ESKER_STRESS_SECONDS` says for how long (default: 5).
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and measures time"
)]

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Release;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use esker::Db;
use esker::Durability;
use esker::Error;
use esker::Keyspace;
use esker::Options;
use esker::Reader;
use esker::Result;
use esker::Slice;
use esker::WriteBatch;

const WRITERS: usize = 3;
/// Of each keyspace. Each writer has every `WRITERS`-th to itself: so no update is lost.
const ACCOUNTS: usize = 60;
const EACH: u64 = 1000;
const ROUND: Duration = Duration::from_secs(1);

fn account(i: usize) -> Vec<u8> {
    format!("account {i:04}").into_bytes()
}

/// An amount, and something to compact: sometimes so long that readers pin it.
fn value(amount: u64) -> Vec<u8> {
    let mut value = amount.to_le_bytes().to_vec();
    value.resize(if amount.is_multiple_of(7) { 1500 } else { 60 }, 0xe5);
    value
}

fn amount(value: &Slice) -> u64 {
    assert!(value[8..].iter().all(|byte| *byte == 0xe5), "a torn value");
    u64::from_le_bytes(value[..8].try_into().unwrap())
}

/// The sum of all accounts, read in one of three ways, and how many there are.
fn sum(reader: &Reader, way: usize) -> Result<(u64, usize)> {
    let mut found = (0, 0);
    let mut add = |value: &Slice| found = (found.0 + amount(value), found.1 + 1);
    match way % 3 {
        0 => {
            for entry in reader.prefix("account") {
                add(&entry?.1);
            }
        }
        1 => {
            for entry in reader.prefix("account").rev() {
                add(&entry?.1);
            }
        }
        _ => {
            for value in reader.multi_get((0..ACCOUNTS).map(account))? {
                add(&value.unwrap());
            }
        }
    }
    Ok(found)
}

struct Bank {
    db: Db,
    other: Keyspace,
}

impl Bank {
    fn open(options: &Options, dir: &std::path::Path) -> Bank {
        let db = options.clone().open(dir).unwrap();
        let other = db.keyspace("other").unwrap();
        Bank { db, other }
    }

    fn found(&self) {
        let mut batch = WriteBatch::new();
        for i in 0..ACCOUNTS {
            batch.put(&self.db, account(i), value(EACH)).put(&self.other, account(i), value(EACH));
        }
        self.db.write(batch).unwrap();
    }

    /// At every instant the same sum, twice in a row at the same instant.
    fn check(&self, way: usize) -> Result<()> {
        let snapshot = self.db.snapshot();
        let other = snapshot.keyspace(&self.other);
        for way in [way, way + 1] {
            let (here, there) = (sum(&snapshot, way)?, sum(&other, way)?);
            assert_eq!((here.1, there.1), (ACCOUNTS, ACCOUNTS));
            assert_eq!(here.0 + there.0, 2 * EACH * ACCOUNTS as u64);
        }
        Ok(())
    }

    /// Moves something until the bank is closed. `done` is the number of the last transfer.
    fn transfer(&self, writer: usize, done: &AtomicU64, stop: &AtomicBool) -> Result<()> {
        let count = format!("count {writer}");
        let mut n = done.load(Acquire);
        while !stop.load(Acquire) {
            n += 1;
            let pick = |n: u64| (n as usize * 7919 % (ACCOUNTS / WRITERS)) * WRITERS + writer;
            let (from, to) = (account(pick(n)), account(pick(n * 31)));
            let here = amount(&self.db.get(&from)?.unwrap());
            let there = amount(&self.other.get(&to)?.unwrap());
            let (here, there) = if n.is_multiple_of(2) {
                (here + there / 3, there - there / 3)
            } else {
                (here - here / 3, there + here / 3)
            };
            let mut batch = WriteBatch::new();
            batch.put(&self.db, &from, value(here)).put(&self.other, &to, value(there));
            batch.put(&self.db, &count, n.to_le_bytes());
            if n.is_multiple_of(50) {
                batch.durability(Durability::Sync);
            }
            self.db.write(batch)?;
            done.store(n, Release);
        }
        Ok(())
    }

    /// What was acknowledged is seen, and never goes back.
    fn watch(&self, done: &[AtomicU64; WRITERS], stop: &AtomicBool) -> Result<()> {
        let mut last = [0; WRITERS];
        while !stop.load(Acquire) {
            for (writer, last) in last.iter_mut().enumerate() {
                let least = done[writer].load(Acquire).max(*last);
                *last = self.count(writer)?;
                assert!(*last >= least, "{last} of writer {writer}, and {least} before");
            }
        }
        Ok(())
    }

    fn count(&self, writer: usize) -> Result<u64> {
        let count = self.db.get(format!("count {writer}"))?;
        Ok(count.map_or(0, |count| u64::from_le_bytes(count[..].try_into().unwrap())))
    }

    fn reshape(&self, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Acquire) {
            self.db.flush()?;
            self.other.compact_range("account".."account 0030")?;
            self.db.compact_range::<&[u8], _>(..)?;
        }
        Ok(())
    }

    /// Keyspaces come and go while somebody writes to them and reads them.
    fn come_and_go(&self, thread: usize, stop: &AtomicBool) -> Result<()> {
        let mut round = thread;
        while !stop.load(Acquire) {
            let name = format!("come and go {}", round % 3);
            round += 1;
            let keyspace = self.db.keyspace(&name)?;
            let used = (0..20).try_for_each(|i| {
                keyspace.put(account(i), value(7 * i as u64))?;
                keyspace.iter().rev().try_for_each(|entry| entry.map(drop))
            });
            let dropped =
                if round.is_multiple_of(4) { self.db.drop_keyspace(&name) } else { Ok(()) };
            for result in [used, dropped] {
                match result {
                    Err(Error::NoSuchKeyspace { .. }) => {}
                    result => result?,
                }
            }
        }
        Ok(())
    }
}

/// Nothing but the end of the bank may end a thread.
fn ended(result: Result<()>) {
    match result {
        Ok(()) | Err(Error::Closed) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Ends the others when its thread panics.
struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Release);
        }
    }
}

fn round(bank: &Bank, done: &[AtomicU64; WRITERS], length: Duration, closes: bool) {
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        let spawn = |run: Box<dyn FnOnce() -> Result<()> + Send>| {
            scope.spawn(move || {
                let _stop = StopOnPanic(stop);
                ended(run());
            });
        };
        for (writer, done) in done.iter().enumerate() {
            spawn(Box::new(move || bank.transfer(writer, done, stop)));
        }
        for thread in 0..2 {
            spawn(Box::new(move || bank.come_and_go(thread, stop)));
            spawn(Box::new(move || {
                let mut way = thread;
                while !stop.load(Acquire) {
                    bank.check(way)?;
                    way += 1;
                }
                Ok(())
            }));
        }
        spawn(Box::new(move || bank.watch(done, stop)));
        spawn(Box::new(move || bank.reshape(stop)));
        let began = Instant::now();
        while began.elapsed() < length && !stop.load(Acquire) {
            thread::sleep(Duration::from_millis(10));
        }
        if closes {
            bank.db.clone().close().unwrap();
        }
        stop.store(true, Release);
    });
}

#[test]
fn a_bank_under_stress_loses_nothing() {
    let seconds = std::env::var("ESKER_STRESS_SECONDS").map_or(5, |s| s.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new()
        .memtable_bytes(16 << 10)
        .block_bytes(512)
        .file_bytes(16 << 10)
        .wal_bytes(256 << 10)
        .memory_budget(256 << 10)
        .background_threads(3)
        .durability(Durability::Interval(Duration::from_millis(20)));
    let done: [AtomicU64; WRITERS] = Default::default();
    let (began, length) = (Instant::now(), Duration::from_secs(seconds));
    let mut rounds = 0;
    while rounds == 0 || began.elapsed() < length {
        let bank = Bank::open(&options.clone().mmap(rounds % 2 == 0), dir.path());
        if rounds == 0 {
            bank.found();
        }
        bank.check(rounds).unwrap();
        for (writer, done) in done.iter().enumerate() {
            let (found, least) = (bank.count(writer).unwrap(), done.load(Acquire));
            assert!(
                found >= least,
                "{found} transfers of writer {writer}, of {least} acknowledged"
            );
            done.store(found, Release);
        }
        round(&bank, &done, ROUND.min(length), rounds % 3 != 2);
        rounds += 1;
    }
    let bank = Bank::open(&options, dir.path());
    bank.check(0).unwrap();
    bank.db.verify(&mut |_, _| {}).unwrap();
    let transfers: u64 = done.iter().map(|done| done.load(Acquire)).sum();
    eprintln!("{rounds} rounds, {transfers} transfers");
}
