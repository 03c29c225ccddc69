//! Counters: page views, counted without reading, by many threads, and never one too few; and a limit
//! of requests per minute.
//!
//! A merge operator is stored with its keyspace, and says what an operand does to a value. `Add` is
//! built in; `TopThree` below is this program's own, so it has to be given at each open.
//!
//! Run it with `cargo run --example counters [DIRECTORY]`.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;
use std::time::Duration;

use esker::Add;
use esker::Db;
use esker::Durability;
use esker::Keyspace;
use esker::KeyspaceOptions;
use esker::MergeOperator;
use esker::MergeResult;
use esker::Options;
use esker::WriteBatch;

const THREADS: u64 = 4;
const VIEWS: u64 = 5000;
const PAGES: u64 = 10;
/// Requests that a client may send in each window.
const LIMIT: i64 = 100;
const WINDOW: Duration = Duration::from_secs(60);

/// Keeps the three largest numbers that were merged: values and operands are rows of `u32`.
struct TopThree;

impl MergeOperator for TopThree {
    fn name(&self) -> &'static str {
        "example.top-three"
    }

    fn merge(&self, _: &[u8], value: Option<&[u8]>, operands: &[&[u8]]) -> MergeResult<Vec<u8>> {
        let mut numbers = Vec::new();
        for row in value.into_iter().chain(operands.iter().copied()) {
            let (whole, rest) = row.as_chunks::<4>();
            if !rest.is_empty() {
                return Err("a row of numbers has four bytes for each".into());
            }
            numbers.extend(whole.iter().map(|number| u32::from_be_bytes(*number)));
        }
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        Ok(numbers.into_iter().take(3).flat_map(u32::to_be_bytes).collect())
    }

    /// The three largest of some are all that matters of them.
    fn combine(&self, key: &[u8], operands: &[&[u8]]) -> MergeResult<Option<Vec<u8>>> {
        self.merge(key, None, operands).map(Some)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match std::env::args().nth(1) {
        Some(path) => run(Path::new(&path)),
        None => run(tempfile::tempdir()?.path()),
    }
}

fn open(path: &Path) -> esker::Result<Db> {
    Options::new().durability(Durability::Os).merge_operator(TopThree).open(path)
}

/// The windows of all clients: a count that begins lives for one, and no later request prolongs it.
fn windows(db: &Db) -> esker::Result<Keyspace> {
    db.keyspace_with("windows", KeyspaceOptions::new().merge_operator(Add).default_ttl(WINDOW))
}

/// May `client` send another request? Counts it, too.
fn is_allowed(windows: &Keyspace, client: &str) -> esker::Result<bool> {
    windows.merge(client, 1_i64.to_le_bytes())?;
    let count = windows.get(client)?.and_then(|count| Add::value(&count));
    Ok(count.unwrap_or(0) <= LIMIT)
}

fn run(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let db = open(path)?;
    let views = db.keyspace_with("views", KeyspaceOptions::new().merge_operator(Add))?;
    let slowest = db.keyspace_with("slowest", KeyspaceOptions::new().merge_operator(TopThree))?;
    let before = total(&views)?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (db, views, slowest) = (&db, &views, &slowest);
                scope.spawn(move || -> esker::Result<()> {
                    for view in 0..VIEWS {
                        let page = format!("/page/{}", (view * 7 + thread) % PAGES);
                        let micros = (view * 7_919 % 90_000) as u32;
                        // Both or neither, also after a crash.
                        let mut batch = WriteBatch::new();
                        batch.merge(views, &page, 1_i64.to_le_bytes());
                        batch.merge(slowest, &page, micros.to_be_bytes());
                        db.write(batch)?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })?;
    assert_eq!(total(&views)?, before + i64::try_from(THREADS * VIEWS)?);
    db.close()?;

    let db = open(path)?;
    let (views, slowest) = (db.keyspace("views")?, db.keyspace("slowest")?);
    for entry in views.iter() {
        let (page, count) = entry?;
        let slowest = slowest.get(&page)?.unwrap_or_default();
        let micros: Vec<u32> =
            slowest.as_chunks::<4>().0.iter().map(|number| u32::from_be_bytes(*number)).collect();
        let page = String::from_utf8_lossy(&page).into_owned();
        println!("{page}: {} views, slowest {micros:?} us", Add::value(&count).unwrap_or(0));
    }
    println!("{} views in all", total(&views)?);

    let windows = windows(&db)?;
    for client in ["203.0.113.7", "198.51.100.1"] {
        let mut allowed = 0;
        for _ in 0..LIMIT * 3 / 2 {
            allowed += i64::from(is_allowed(&windows, client)?);
        }
        println!("{client}: {allowed} requests allowed, next window: {:?}", windows.ttl(client)?);
    }
    Ok(())
}

fn total(views: &Keyspace) -> esker::Result<i64> {
    let mut sum = 0;
    for entry in views.iter() {
        sum += Add::value(&entry?.1).unwrap_or(0);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::Relaxed;

    use esker::Clock;

    use super::*;

    #[derive(Debug, Default)]
    struct Hands {
        ms: AtomicU64,
        unique: AtomicU64,
    }

    impl Clock for Hands {
        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.ms.load(Relaxed))
        }

        fn wall_ms(&self) -> u64 {
            self.ms.load(Relaxed)
        }

        fn unique(&self) -> u64 {
            self.unique.fetch_add(1, Relaxed)
        }
    }

    #[test]
    fn a_window_ends_a_minute_after_its_first_request() {
        let dir = tempfile::tempdir().unwrap();
        let hands = Arc::new(Hands::default());
        let db = Options::new().clock(hands.clone()).open(dir.path()).unwrap();
        let windows = windows(&db).unwrap();
        for _ in 0..3 {
            for _ in 0..LIMIT {
                hands.ms.fetch_add(500, Relaxed);
                assert!(is_allowed(&windows, "client").unwrap());
            }
            assert!(!is_allowed(&windows, "client").unwrap());
            assert!(is_allowed(&windows, "another").unwrap());
            let left = windows.ttl("client").unwrap();
            assert_eq!(left, Some(esker::Ttl::For(Duration::from_millis(10_500))));
            hands.ms.fetch_add(10_500, Relaxed);
        }
    }

    #[test]
    fn it_runs_and_goes_on_counting() {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path()).unwrap();
        run(dir.path()).unwrap();
        let db = open(dir.path()).unwrap();
        let views = db.keyspace("views").unwrap();
        assert_eq!(total(&views).unwrap(), 2 * i64::try_from(THREADS * VIEWS).unwrap());
        let slowest = db.keyspace("slowest").unwrap();
        assert!(slowest.iter().all(|entry| entry.unwrap().1.len() == 12));
    }
}
