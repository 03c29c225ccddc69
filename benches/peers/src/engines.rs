//! What the workloads ask of an engine, and the engines by their names.
//!
//! Each has a file of its own that uses the best documented way of that engine to do the work, and
//! says in [`Engine::open`](open) how it is set. What each promises stands in the README.

mod esker;
mod fjall;
mod lmdb;
mod redb;
mod rocksdb;
mod sled;

use std::fmt;
use std::hint::black_box;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use serde::Deserialize;
use serde::Serialize;

use crate::keys::Key;

/// The engines that are compared.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Name {
    Esker,
    Rocksdb,
    Fjall,
    Lmdb,
    Redb,
    Sled,
}

impl Name {
    pub(crate) const ALL: [Name; 6] =
        [Name::Esker, Name::Rocksdb, Name::Fjall, Name::Lmdb, Name::Redb, Name::Sled];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Name::Esker => "esker",
            Name::Rocksdb => "rocksdb",
            Name::Fjall => "fjall",
            Name::Lmdb => "lmdb",
            Name::Redb => "redb",
            Name::Sled => "sled",
        }
    }

    /// A log-structured merge tree, as esker is?
    pub(crate) fn is_lsm(self) -> bool {
        matches!(self, Name::Esker | Name::Rocksdb | Name::Fjall)
    }

    /// Does a returned write survive the process, as it does with the others?
    pub(crate) fn keeps_returned_writes(self) -> bool {
        !matches!(self, Name::Redb | Name::Sled)
    }

    /// Does its sync put what was written on the disk?
    pub(crate) fn really_syncs(self) -> bool {
        self != Name::Sled
    }

    /// How many puts make a batch where the load itself is not measured: large transactions for
    /// those that pay for each, and single puts for sled, whose batches are slower.
    pub(crate) fn puts_per_load(self) -> usize {
        match self {
            Name::Esker | Name::Rocksdb | Name::Fjall => 1_000,
            Name::Lmdb | Name::Redb => 10_000,
            Name::Sled => 1,
        }
    }

    /// A database that is loaded to be read, and would take very long in random order where it does
    /// not fit in memory, is loaded in key order.
    pub(crate) fn is_tree_in_place(self) -> bool {
        !self.is_lsm()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// How a database is opened: the same for all engines, where they can be told.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// For cache and memtables together.
    pub(crate) memory_bytes: usize,
    pub(crate) memtable_bytes: usize,
    /// Every returned write is on the disk.
    pub(crate) sync: bool,
    /// The data is several times the memory.
    pub(crate) larger_than_memory: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            memory_bytes: 512 << 20,
            memtable_bytes: 64 << 20,
            sync: false,
            larger_than_memory: false,
        }
    }
}

/// An open database.
pub(crate) trait Engine: Send + Sync {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()>;

    fn delete(&self, key: &[u8]) -> Result<()>;

    /// All of it or nothing, in one call.
    fn write_batch(&self, entries: &[(Key, &[u8])]) -> Result<()>;

    /// Waits until all that was written is on disk in its sorted form and nothing runs any more.
    fn settle(&self) -> Result<()>;

    /// Reads for one thread.
    fn reader(&self) -> Result<Box<dyn Reader + '_>>;
}

/// The reads of one thread. It may keep a transaction or a cursor from one call to the next, until
/// [`Reader::renew`].
pub(crate) trait Reader {
    /// Is the key there? Its value is touched.
    fn get(&mut self, key: &[u8]) -> Result<bool>;

    /// How many of the keys are there? Their values are touched.
    fn multi_get(&mut self, keys: &[Key]) -> Result<u64> {
        let mut found = 0;
        for key in keys {
            found += u64::from(self.get(key)?);
        }
        Ok(found)
    }

    /// Seeks, and touches up to `limit` entries. Returns how many there were.
    fn scan(&mut self, from: &[u8], limit: u64) -> Result<u64>;

    /// Touches all entries in the order of the keys, or against it, while `go_on` says so.
    fn walk(&mut self, forward: bool, go_on: &mut dyn FnMut() -> bool) -> Result<()>;

    /// From here on, writes that have returned are seen.
    fn renew(&mut self) {}
}

/// Looks at an entry as a program would, so that no engine gets by without having it.
#[inline]
pub(crate) fn touch(key: &[u8], value: &[u8]) {
    black_box((key.len(), value.len(), value.first().copied()));
}

/// Waits until `busy` has denied for a while.
fn wait_until_idle(busy: impl Fn() -> bool) {
    let mut quiet = 0;
    while quiet < 5 {
        thread::sleep(Duration::from_millis(20));
        quiet = if busy() { 0 } else { quiet + 1 };
    }
}

pub(crate) fn open(name: Name, dir: &Path, setup: &Setup) -> Result<Box<dyn Engine>> {
    std::fs::create_dir_all(dir)?;
    Ok(match name {
        Name::Esker => Box::new(esker::Esker::open(dir, setup)?),
        Name::Rocksdb => Box::new(rocksdb::Rocksdb::open(dir, setup)?),
        Name::Fjall => Box::new(fjall::Fjall::open(dir, setup)?),
        Name::Lmdb => Box::new(lmdb::Lmdb::open(dir, setup)?),
        Name::Redb => Box::new(redb::Redb::open(dir, setup)?),
        Name::Sled => Box::new(sled::Sled::open(dir, setup)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Shape;

    #[test]
    fn all_engines_agree() {
        for name in Name::ALL {
            let dir =
                std::env::temp_dir().join(format!("peers-{}-{}", name.label(), std::process::id()));
            let engine = open(name, &dir, &Setup::default()).unwrap();
            let key = |i: u64| Shape::Decimal.key(2 * i);
            let entries: Vec<(Key, &[u8])> = (0..100).map(|i| (key(i), &b"value"[..])).collect();
            engine.write_batch(&entries).unwrap();
            engine.put(&key(100), b"value").unwrap();
            engine.delete(&key(50)).unwrap();
            engine.settle().unwrap();
            let mut reader = engine.reader().unwrap();
            assert!(reader.get(&key(100)).unwrap(), "{name:?}");
            assert!(!reader.get(&key(50)).unwrap(), "{name:?}");
            assert_eq!(reader.multi_get(&[key(1), key(50), key(7)]).unwrap(), 2, "{name:?}");
            assert_eq!(reader.scan(&key(40), 1_000).unwrap(), 60, "{name:?}");
            assert_eq!(reader.scan(&key(40), 10).unwrap(), 10, "{name:?}");
            for forward in [true, false] {
                let mut entries = 0;
                let mut count = || {
                    entries += 1;
                    true
                };
                reader.walk(forward, &mut count).unwrap();
                assert_eq!(entries, 100, "{name:?}");
            }
            engine.put(&key(200), b"value").unwrap();
            reader.renew();
            assert!(reader.get(&key(200)).unwrap(), "{name:?}");
            assert_eq!(reader.scan(&key(101), 10).unwrap(), 1, "{name:?}");
            drop(reader);
            drop(engine);
            std::fs::remove_dir_all(&dir).unwrap();
        }
    }
}
