//! The child process of the tour: writes until it is killed, and tells what was acknowledged.
//!
//! Each of two threads writes batch after batch, numbered from its start. A batch has ten records
//! over two keyspaces, and in both it sets the thread's `last` to its number. Once the database has
//! acknowledged a batch, the line `thread number` goes to standard output.

use std::io;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use esker::Db;
use esker::Durability;
use esker::Keyspace;
use esker::Options;
use esker::WriteBatch;

use crate::cli::TourWriterArgs;
use crate::data;
use crate::data::Random;
use crate::failure::Failure;
use crate::failure::Result;

pub(crate) const THREADS: u64 = 2;
/// Records per batch and keyspace.
pub(crate) const RECORDS: u64 = 5;
pub(crate) const KEYSPACES: [&str; 2] = ["left", "right"];
/// Records per batch of a child that only fills the log.
const UNFLUSHED_BATCH: u64 = 100;

/// The database that is crashed has memtables so small that every crash has a chance to interrupt
/// a flush or a compaction.
pub(crate) fn options() -> Options {
    Options::new().memtable_bytes(256 << 10).file_bytes(256 << 10).memory_budget(16 << 20)
}

/// The key of a record of a batch.
pub(crate) fn key(thread: u64, batch: u64, record: u64) -> String {
    format!("batch/{thread}/{batch:012}/{record}")
}

/// The thread and batch of a record's key.
pub(crate) fn batch_of(key: &[u8]) -> Option<(u64, u64)> {
    let mut parts = std::str::from_utf8(key).ok()?.strip_prefix("batch/")?.split('/');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The value of a record.
pub(crate) fn value(seed: u64, key: &str, out: &mut Vec<u8>) {
    let number = key.bytes().fold(seed, |hash, byte| data::mix(hash ^ u64::from(byte)));
    let mut random = Random::new(number);
    let len = 20 + random.below(400) as usize;
    data::half_compressible(&mut random, len, out);
}

/// Where a thread keeps the number of its last batch.
pub(crate) fn last_key(thread: u64) -> String {
    format!("last/{thread}")
}

pub(crate) fn run(args: &TourWriterArgs) -> Result<()> {
    if let Some(records) = args.unflushed {
        return fill_log(&args.db, args.seed, records);
    }
    let db = options().open(&args.db)?;
    let keyspaces = [db.keyspace(KEYSPACES[0])?, db.keyspace(KEYSPACES[1])?];
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (db, keyspaces) = (&db, &keyspaces);
                let start = args.start.get(thread as usize).copied().unwrap_or(0);
                scope.spawn(move || write(db, keyspaces, args.seed, thread, start))
            })
            .collect();
        let panicked = || Err(Failure::new("a writer panicked"));
        writers.into_iter().map(|writer| writer.join().unwrap_or_else(|_| panicked())).collect()
    });
    results.into_iter().collect()
}

/// Writes until the process is killed or nobody listens any more.
fn write(db: &Db, keyspaces: &[Keyspace; 2], seed: u64, thread: u64, start: u64) -> Result<()> {
    let mut bytes = Vec::new();
    for number in start.. {
        let mut batch = WriteBatch::new();
        for keyspace in keyspaces {
            for record in 0..RECORDS {
                let key = key(thread, number, record);
                value(seed, &key, &mut bytes);
                batch.put(keyspace, &key, &bytes);
            }
            batch.put(keyspace, last_key(thread), number.to_string());
        }
        batch.durability(match number % 4 {
            0 => Durability::Sync,
            1 => Durability::Interval(Duration::from_millis(5)),
            _ => Durability::Os,
        });
        db.write(batch)?;
        let mut out = io::stdout().lock();
        out.write_all(format!("{thread} {number}\n").as_bytes())?;
        out.flush()?;
    }
    Ok(())
}

/// With these nothing of a log of so many records is flushed: each takes 200 bytes in memory, about.
fn log_options(records: u64) -> Options {
    let bytes = (records as usize * 256).clamp(32 << 20, 4 << 30);
    Options::new().memtable_bytes(bytes).memory_budget(4 * bytes).wal_bytes(u64::MAX >> 8)
}

/// Fills the log, tells so, and waits for the end.
fn fill_log(path: &Path, seed: u64, records: u64) -> Result<()> {
    // Synced now and then, as a log that has come to such a length is.
    let durability = Durability::Interval(Duration::from_millis(100));
    let db = log_options(records).durability(durability).open(path)?;
    let mut bytes = Vec::new();
    for first in (0..records).step_by(UNFLUSHED_BATCH as usize) {
        let mut batch = WriteBatch::new();
        for index in first..records.min(first + UNFLUSHED_BATCH) {
            data::value(seed, index, 1, &mut bytes);
            batch.put(&db, data::key(index), &bytes);
        }
        db.write(batch)?;
    }
    let mut out = io::stdout().lock();
    writeln!(out, "filled {}", db.stats().wal.bytes_written)?;
    out.flush()?;
    // The parent kills this process; if the parent is gone, its end of stdin is closed.
    io::copy(&mut io::stdin().lock(), &mut io::sink())
        .map_err(|error| Failure::io("read", "standard input", &error))?;
    std::process::exit(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_their_batch() {
        assert_eq!(batch_of(key(1, 77, 3).as_bytes()), Some((1, 77)));
        assert_eq!(batch_of(last_key(1).as_bytes()), None);
    }
}
