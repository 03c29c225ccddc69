//! A queue that many push to and many take from: `cargo run --release --example queue`.
//!
//! Items wait under numbers that ascend. A worker leases the first one: it moves to the leases, under
//! the time at which the lease ends, in one transaction. Who is done acknowledges, which removes it; who
//! fails gives it back; and whose worker is gone for longer than its lease goes back by itself. So
//! each item is worked on at least once. It is taken by its own key rather than found again in the
//! transaction: two workers who want the same item conflict, and those who push conflict with nobody.
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use esker::Db;
use esker::Durability;
use esker::Isolation;
use esker::Keyspace;
use esker::Options;
use esker::Slice;
use esker::WriteBatch;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Items that a worker looks at before it looks for the first one again.
const LOOK_AHEAD: usize = 16;

struct Queue {
    db: Db,
    /// Number to item.
    waiting: Keyspace,
    /// End of the lease in milliseconds and number, to item.
    leased: Keyspace,
    next: AtomicU64,
}

/// An item that nobody else has until the lease ends.
struct Lease {
    key: [u8; 16],
    item: Slice,
}

impl Queue {
    fn open(path: &Path, durability: Durability) -> Result<Queue> {
        let db = Options::new().durability(durability).open(path)?;
        let (waiting, leased) = (db.keyspace("waiting")?, db.keyspace("leased")?);
        // Behind all that were ever given out and not acknowledged.
        let mut next = waiting.last_key_value()?.map_or(0, |(key, _)| number(&key) + 1);
        for entry in leased.iter() {
            next = next.max(number(&entry?.0[8..]) + 1);
        }
        Ok(Queue { db, waiting, leased, next: AtomicU64::new(next) })
    }

    fn push(&self, item: &[u8]) -> Result<()> {
        let number = self.next.fetch_add(1, Relaxed);
        Ok(self.waiting.put(number.to_be_bytes(), item)?)
    }

    /// Leases the first item that waits; `None` if none does. Times are milliseconds of any clock.
    fn lease(&self, now_ms: u64, lease_ms: u64) -> Result<Option<Lease>> {
        loop {
            let mut is_empty = true;
            for entry in self.waiting.iter().take(LOOK_AHEAD) {
                let (number, _) = entry?;
                is_empty = false;
                let mut key = [0; 16];
                key[..8].copy_from_slice(&(now_ms + lease_ms).to_be_bytes());
                key[8..].copy_from_slice(&number);
                // Another worker may have been faster: then there is nothing under this number.
                let item = self.db.transact_with(Isolation::Snapshot, |txn| {
                    let item = txn.get(&self.waiting, &number)?;
                    if let Some(item) = &item {
                        txn.delete(&self.waiting, &number)?;
                        txn.put(&self.leased, key, item)?;
                    }
                    Ok(item)
                })?;
                if let Some(item) = item {
                    return Ok(Some(Lease { key, item }));
                }
            }
            if is_empty {
                return Ok(None);
            }
        }
    }

    /// The item is done. False if the lease had ended, and somebody else may have the item.
    fn acknowledge(&self, lease: &Lease) -> Result<bool> {
        Ok(self.leased.take(lease.key)?.is_some())
    }

    /// The item is not done: it waits again, in its old place. False if the lease had ended.
    fn give_back(&self, lease: &Lease) -> Result<bool> {
        Ok(self.db.transact_with(Isolation::Snapshot, |txn| {
            let item = txn.get(&self.leased, lease.key)?;
            if let Some(item) = &item {
                txn.delete(&self.leased, lease.key)?;
                txn.put(&self.waiting, &lease.key[8..], item)?;
            }
            Ok(item.is_some())
        })?)
    }

    /// Has all items wait again whose leases have ended. How many there were.
    fn reclaim(&self, now_ms: u64) -> Result<u64> {
        let mut ended = 0;
        for entry in self.leased.range(..(now_ms + 1).to_be_bytes()) {
            let (key, item) = entry?;
            let mut lease = Lease { key: [0; 16], item };
            lease.key.copy_from_slice(&key);
            ended += u64::from(self.give_back(&lease)?);
        }
        Ok(ended)
    }

    /// Many items at once.
    fn push_all<'a>(&self, items: impl IntoIterator<Item = &'a [u8]>) -> Result<()> {
        let mut batch = WriteBatch::new();
        for item in items {
            let number = self.next.fetch_add(1, Relaxed);
            batch.put(&self.waiting, number.to_be_bytes(), item);
        }
        Ok(self.db.write(batch)?)
    }
}

fn number(key: &[u8]) -> u64 {
    key.try_into().map_or(0, u64::from_be_bytes)
}

/// Latencies of one part of a run.
#[derive(Default)]
struct Part(Vec<Duration>);

impl Part {
    fn tell(&mut self, what: &str) -> Result<()> {
        self.0.sort_unstable();
        let at = |share: usize| self.0.get(self.0.len() * share / 100).copied().unwrap_or_default();
        let (median, tail) = (at(50), at(99));
        Ok(writeln!(std::io::stdout(), "{what}: lease p50 {median:.1?}, p99 {tail:.1?}")?)
    }
}

/// Producers push `items` in all, workers lease and acknowledge them; each hundredth is given back
/// first, and each thousandth forgotten, so that its lease ends.
fn run(path: &Path, items: u64, producers: u64, workers: u64) -> Result<()> {
    const PARTS: u64 = 10;
    const LEASE_MS: u64 = 200;
    let queue = Queue::open(path, Durability::Os)?;
    let (done, retried) = (AtomicU64::new(0), AtomicU64::new(0));
    let seen: Vec<AtomicBool> = (0..items).map(|_| AtomicBool::new(false)).collect();
    let began = Instant::now();
    let now_ms = || began.elapsed().as_millis() as u64;
    std::thread::scope(|scope| -> Result<()> {
        let mut threads = Vec::new();
        for producer in 0..producers {
            let queue = &queue;
            threads.push(scope.spawn(move || -> Result<()> {
                let numbers: Vec<_> = (producer..items).step_by(producers as usize).collect();
                for few in numbers.chunks(8) {
                    let bytes: Vec<_> = few.iter().map(|number| number.to_be_bytes()).collect();
                    match &bytes[..] {
                        [one] => queue.push(one)?,
                        many => queue.push_all(many.iter().map(|item| &item[..]))?,
                    }
                }
                Ok(())
            }));
        }
        for worker in 0..workers {
            let (queue, done, retried, seen, now_ms) = (&queue, &done, &retried, &seen, &now_ms);
            threads.push(scope.spawn(move || -> Result<()> {
                let (mut part, mut parts) = (Part::default(), 0);
                while done.load(Relaxed) < items {
                    let from = Instant::now();
                    let Some(lease) = queue.lease(now_ms(), LEASE_MS)? else {
                        queue.reclaim(now_ms())?;
                        std::thread::yield_now();
                        continue;
                    };
                    part.0.push(from.elapsed());
                    let item = number(&lease.item);
                    let is_new = !seen[item as usize].swap(true, Relaxed);
                    if is_new && item % 100 == 99 {
                        retried.fetch_add(1, Relaxed);
                        if item % 1000 != 999 {
                            queue.give_back(&lease)?;
                        }
                    } else if queue.acknowledge(&lease)? {
                        let done = done.fetch_add(1, Relaxed) + 1;
                        if worker == 0 && done * PARTS / items > parts {
                            parts = done * PARTS / items;
                            std::mem::take(&mut part).tell(&format!("{done:>9} done"))?;
                        }
                    }
                }
                Ok(())
            }));
        }
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread panicked"))
    })?;
    assert!(seen.iter().all(|seen| seen.load(Relaxed)));
    assert!(queue.waiting.first_key_value()?.is_none() && queue.leased.iter().next().is_none());
    writeln!(
        std::io::stdout(),
        "{items} items in {:.1?}: {:.0} a second through the queue; {} had to be leased again",
        began.elapsed(),
        items as f64 / began.elapsed().as_secs_f64(),
        retried.load(Relaxed)
    )?;
    queue.db.close()?;
    Ok(())
}

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    run(dir.path(), 1_000_000, 2, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_push_and_many_take_and_nothing_is_lost() {
        run(tempfile::tempdir().unwrap().path(), 5_000, 3, 3).unwrap();
    }

    #[test]
    fn leases_end_and_items_keep_their_places() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::open(dir.path(), Durability::Os).unwrap();
        queue.push_all([&b"a"[..], b"b", b"c"]).unwrap();
        let lease = |now| queue.lease(now, 10).unwrap().unwrap();
        let (a, b) = (lease(0), lease(5));
        assert!(a.item == "a" && b.item == "b");
        assert!(queue.give_back(&a).unwrap());
        assert!(!queue.acknowledge(&a).unwrap(), "it is nobody's any more");
        let a = lease(6);
        assert_eq!(a.item, "a");
        assert_eq!(queue.reclaim(14).unwrap(), 0);
        assert_eq!(queue.reclaim(15).unwrap(), 1, "that of b has ended");
        assert!(!queue.acknowledge(&b).unwrap());
        assert!(queue.acknowledge(&a).unwrap());
        drop(queue);
        let queue = Queue::open(dir.path(), Durability::Os).unwrap();
        queue.push(b"d").unwrap();
        let order: Vec<_> =
            std::iter::from_fn(|| queue.lease(20, 10).unwrap()).map(|lease| lease.item).collect();
        assert_eq!(order, ["b", "c", "d"]);
    }
}
