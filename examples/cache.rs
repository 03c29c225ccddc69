//! A cache on disk: entries live for a while, expire by themselves, and the size is bounded.
//!
//! Expiry alone bounds the size by time. Where that is not enough, the oldest entries are evicted: a
//! second keyspace has them in the order of their writing, in the same batch and with the same time
//! to live, so that neither keyspace ever holds what the other does not know.
//!
//! Run it with `cargo run --example cache [DIRECTORY]`.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;
use std::time::Duration;

use esker::Db;
use esker::Durability;
use esker::Keyspace;
use esker::KeyspaceOptions;
use esker::Options;
use esker::WriteBatch;

/// How long an entry lives.
const TTL: Duration = Duration::from_secs(60);
/// Entries that the cache holds at most.
const ENTRIES_MAX: usize = 1000;

struct Cache {
    db: Db,
    /// Key to number and value.
    entries: Keyspace,
    /// Number to key: the order of writing.
    order: Keyspace,
    next: u64,
    len: usize,
}

impl Cache {
    fn open(options: Options, path: &Path) -> esker::Result<Cache> {
        // What a cache loses with the power it fetches again.
        let db = options.durability(Durability::Os).open(path)?;
        let expiring = || KeyspaceOptions::new().default_ttl(TTL);
        let entries = db.keyspace_with("entries", expiring())?;
        let order = db.keyspace_with("order", expiring())?;
        let last = order.last_key_value()?.map(|(number, _)| number_of(&number));
        let len = order.iter().count();
        Ok(Cache { db, entries, order, next: last.map_or(0, |last| last + 1), len })
    }

    fn get(&self, key: &str) -> esker::Result<Option<Vec<u8>>> {
        Ok(self.entries.get(key)?.map(|entry| entry[8..].to_vec()))
    }

    fn put(&mut self, key: &str, value: &[u8]) -> esker::Result<()> {
        let number = self.next.to_be_bytes();
        let mut batch = WriteBatch::new();
        if let Some(old) = self.entries.get(key)? {
            batch.delete(&self.order, &old[..8]);
            self.len = self.len.saturating_sub(1);
        }
        batch.put(&self.entries, key, [&number, value].concat()).put(&self.order, number, key);
        self.db.write(batch)?;
        self.next += 1;
        self.len += 1;
        if self.len > ENTRIES_MAX { self.evict() } else { Ok(()) }
    }

    /// Removes the oldest entries until a tenth is free. What has expired is not even met.
    fn evict(&mut self) -> esker::Result<()> {
        self.len = self.order.iter().count();
        let surplus = self.len.saturating_sub(ENTRIES_MAX - ENTRIES_MAX / 10);
        let mut batch = WriteBatch::new();
        for entry in self.order.iter().take(if self.len > ENTRIES_MAX { surplus } else { 0 }) {
            let (number, key) = entry?;
            batch.delete(&self.order, number).delete(&self.entries, key);
        }
        self.len -= batch.len() / 2;
        self.db.write(batch)
    }
}

fn number_of(key: &[u8]) -> u64 {
    key.try_into().map_or(0, u64::from_be_bytes)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match std::env::args().nth(1) {
        Some(path) => run(Path::new(&path)),
        None => run(tempfile::tempdir()?.path()),
    }
}

fn run(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut cache = Cache::open(Options::new(), path)?;
    let (mut hits, mut misses) = (0, 0);
    for n in 0..20_000_u64 {
        // Some pages are asked for more often than others.
        let page = (n * n) % 4093 % (1 + n % 2000);
        let key = format!("/page/{page}");
        if cache.get(&key)?.is_some() {
            hits += 1;
        } else {
            misses += 1;
            cache.put(&key, format!("what took long to make of {page}").as_bytes())?;
        }
    }
    println!("{hits} hits, {misses} misses, {} entries of {ENTRIES_MAX} at most", cache.len);
    if let Some((key, _)) = cache.entries.first_key_value()? {
        println!("the first entry lives for {:?}", cache.entries.ttl(key)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::Relaxed;

    use esker::Clock;

    use super::*;

    #[derive(Debug, Default)]
    struct Hands(AtomicU64);

    impl Clock for Hands {
        fn monotonic(&self) -> Duration {
            Duration::from_nanos(self.0.fetch_add(1, Relaxed))
        }

        fn wall_ms(&self) -> u64 {
            self.0.load(Relaxed) >> 32
        }

        fn unique(&self) -> u64 {
            self.0.fetch_add(1, Relaxed)
        }
    }

    #[test]
    fn it_runs() {
        run(tempfile::tempdir().unwrap().path()).unwrap();
    }

    #[test]
    fn it_stays_within_its_bounds_of_time_and_size() {
        let dir = tempfile::tempdir().unwrap();
        let hands = Arc::new(Hands::default());
        let options = Options::new().clock(hands.clone());
        let mut cache = Cache::open(options.clone(), dir.path()).unwrap();
        for n in 0..5000_u64 {
            cache.put(&format!("{}", n % 1700), b"value").unwrap();
            assert!(cache.len <= ENTRIES_MAX);
        }
        let (entries, order) = (cache.entries.iter().count(), cache.order.iter().count());
        assert!(entries == order && entries == cache.len && entries > ENTRIES_MAX / 2);
        assert_eq!(cache.get("1598").unwrap().unwrap(), b"value");
        drop(cache);
        hands.0.fetch_add(61_000 << 32, Relaxed);
        let mut cache = Cache::open(options, dir.path()).unwrap();
        assert!(cache.get("1598").unwrap().is_none() && cache.len == 0);
        cache.put("new", b"value").unwrap();
        assert_eq!(cache.entries.iter().count(), 1);
    }
}
