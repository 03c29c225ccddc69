//! The change feed: how fast it catches up, how far it is behind a writer, and what it costs him.
//!
//! Puts of 16 + 100 bytes on the real file system; `TMPDIR` says on which disk. Each figure is the
//! median of the rounds. A writer with [`Durability::Os`] at full speed shows any cost there is; the
//! latencies are those beside a writer with pauses, from the moment at which the put returns.
#![allow(clippy::disallowed_methods, reason = "it measures time")]
#![allow(clippy::print_stdout, reason = "it reports")]

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use esker::Db;
use esker::Durability;
use esker::Options;
use esker::SeqNo;
use esker::WriteBatch;

const PUTS: u64 = 300_000;
const ROUNDS: usize = 5;
const VALUE: [u8; 100] = [b'v'; 100];
const KEEP_ALL: (u64, Duration) = (u64::MAX, Duration::MAX);

fn open(dir: &Path, durability: Durability, keep: bool) -> Db {
    let mut options = Options::new().durability(durability);
    if keep {
        options = options.log_retention(KEEP_ALL.0, KEEP_ALL.1);
    }
    options.open(dir).expect("a database")
}

fn key(n: u64) -> [u8; 16] {
    let scattered = u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    scattered.to_be_bytes()
}

fn write(db: &Db, puts: u64) -> f64 {
    let began = Instant::now();
    for n in 0..puts {
        db.put(key(n), VALUE).expect("a put");
    }
    puts as f64 / began.elapsed().as_secs_f64()
}

/// Who else is there while somebody writes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Beside {
    Nobody,
    /// A feed of what is durable, which sleeps from one flush to the next.
    Sleeping,
    /// A feed that reads all, as it comes.
    Following,
}

/// Puts a second, and for a follower the mean lag in operations.
fn writing(keep: bool, beside: Beside) -> (f64, f64) {
    let dir = tempfile::tempdir().expect("a directory");
    let db = open(dir.path(), Durability::Os, keep);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let follower = (beside != Beside::Nobody).then(|| {
            let unsynced = beside == Beside::Following;
            let changes = db.changes_since(SeqNo::ZERO).expect("a feed");
            let mut changes = changes.unsynced(unsynced);
            let done = &done;
            scope.spawn(move || {
                let (mut lags, mut seen) = (0, 0u64);
                while !done.load(Acquire) {
                    let limit = Duration::from_millis(20);
                    while changes.next_timeout(limit).expect("a batch").is_some() {
                        seen += 1;
                        if seen.is_multiple_of(64) {
                            lags += changes.lag();
                        }
                    }
                }
                lags as f64 / (seen / 64).max(1) as f64
            })
        });
        thread::sleep(Duration::from_millis(5));
        let rate = write(&db, PUTS);
        done.store(true, Release);
        (rate, follower.map_or(0.0, |follower| follower.join().expect("a follower")))
    })
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_unstable_by(f64::total_cmp);
    of[of.len() / 2]
}

fn catching_up(ops_per_batch: u64, value: usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let db = open(dir.path(), Durability::Os, true);
    let (value, mut n) = (vec![b'v'; value], 0);
    while n < 256 << 20 {
        let mut batch = WriteBatch::new();
        for _ in 0..ops_per_batch {
            batch.put(&db, key(n), &value);
            n += 16 + value.len() as u64;
        }
        db.write(batch).expect("a batch");
    }
    db.sync().expect("a sync");
    let rates = (0..ROUNDS).map(|_| {
        let began = Instant::now();
        let (mut batches, mut bytes) = (0u64, 0);
        for batch in db.changes_since(SeqNo::ZERO).expect("a feed") {
            let batch = batch.expect("a batch");
            batches += 1;
            bytes += batch.bytes();
        }
        let seconds = began.elapsed().as_secs_f64();
        (batches as f64 / seconds, bytes as f64 / seconds)
    });
    let (batches, bytes): (Vec<f64>, Vec<f64>) = rates.unzip();
    println!(
        "catching up, {ops_per_batch} puts of {} bytes a batch: {:.2} million batches/s, {:.0} MB/s",
        value.len(),
        median(batches) / 1e6,
        median(bytes) / 1e6,
    );
}

/// Latencies of a follower beside a writer that pauses after each of `puts`.
fn latency(durability: Durability, pause: Duration, puts: u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let db = open(dir.path(), durability, true);
    let began = Instant::now();
    let written: Vec<AtomicU64> = (0..=puts).map(|_| AtomicU64::new(0)).collect();
    let mut late: Vec<f64> = thread::scope(|scope| {
        let changes = db.changes_since(SeqNo::ZERO).expect("a feed");
        let mut changes = changes.unsynced(durability == Durability::Os);
        let written = &written;
        let follower = scope.spawn(move || {
            let mut late = Vec::new();
            while changes.seqno().get() < puts {
                let batch = changes.next_timeout(Duration::MAX).expect("a feed").expect("a batch");
                let now = began.elapsed().as_nanos() as u64;
                // The writer may not have noted it yet.
                let at = written[batch.last_seqno().get() as usize].load(Relaxed);
                late.push(if at == 0 { 0.0 } else { now.saturating_sub(at) as f64 / 1e3 });
            }
            late
        });
        for n in 1..=puts {
            db.put(key(n), VALUE).expect("a put");
            written[n as usize].store(began.elapsed().as_nanos() as u64, Relaxed);
            if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
        follower.join().expect("a follower")
    });
    late.sort_unstable_by(f64::total_cmp);
    let at = |part: f64| late[((late.len() - 1) as f64 * part) as usize];
    println!(
        "following, {durability:?}, a pause of {pause:?}: p50 {:.0} us, p99 {:.0} us, most {:.0} us",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// Runs what its arguments name: `costs`, `catching-up`, `following`; without any, all.
fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let is_wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    if is_wanted("costs") {
        costs();
    }
    if is_wanted("catching-up") {
        catching_up(1, 100);
        catching_up(100, 100);
        catching_up(1, 4096);
    }
    if is_wanted("following") {
        for pause in [Duration::ZERO, Duration::from_micros(100), Duration::from_millis(2)] {
            latency(Durability::Os, pause, if pause.is_zero() { 200_000 } else { 1500 });
        }
        latency(Durability::Sync, Duration::ZERO, 1500);
    }
}

fn costs() {
    let kinds = [
        ("nothing", false, Beside::Nobody),
        ("retention", true, Beside::Nobody),
        ("retention and a feed that sleeps", true, Beside::Sleeping),
        ("retention and a follower", true, Beside::Following),
    ];
    let mut rates = [const { Vec::new() }; 4];
    let mut lags = Vec::new();
    for _ in 0..ROUNDS {
        for ((_, keep, beside), rates) in kinds.iter().zip(&mut rates) {
            let (rate, lag) = writing(*keep, *beside);
            rates.push(rate);
            if *beside == Beside::Following {
                lags.push(lag);
            }
        }
    }
    for ((name, ..), rates) in kinds.iter().zip(rates) {
        println!("writing beside {name}: {:.0} puts/s", median(rates));
    }
    println!("the follower is behind by {:.0} operations on average", median(lags));
}
