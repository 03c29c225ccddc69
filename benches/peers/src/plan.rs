//! What a run consists of: data sets, groups of rows, and how long each row may take. A plan is what
//! one worker is told to do.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::engines::Name;
use crate::engines::Setup;
use crate::keys::Shape;
use crate::measure::Limit;

/// What is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Set {
    pub(crate) name: String,
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
    pub(crate) shape: Shape,
}

impl Set {
    pub(crate) fn new(name: &str, keys: u64, value_bytes: usize, shape: Shape) -> Set {
        Set { name: name.to_owned(), keys, value_bytes, shape }
    }

    /// The set by which the bars are defined, with `keys` keys.
    pub(crate) fn plain(keys: u64) -> Set {
        let name = if keys.is_multiple_of(1_000_000) {
            format!("{} M", keys / 1_000_000)
        } else {
            format!("{keys} keys")
        };
        Set::new(&name, keys, 100, Shape::Decimal)
    }

    /// All of a full run.
    pub(crate) fn full() -> Vec<Set> {
        vec![
            Set::plain(1_000_000),
            Set::plain(5_000_000),
            Set::new("values of 1 KiB", 500_000, 1 << 10, Shape::Decimal),
            Set::new("values of 16 KiB", 40_000, 16 << 10, Shape::Decimal),
            Set::new("keys with a long prefix", 1_000_000, 100, Shape::Prefix),
            Set::new("random keys", 1_000_000, 100, Shape::Random),
        ]
    }

    /// Four times the memory of [`LARGER_MEMORY_BYTES`].
    pub(crate) fn larger_than_memory() -> Set {
        Set::new("four times the memory", 2_200_000, 1_000, Shape::Decimal)
    }

    /// Keys without order cannot be put in order.
    pub(crate) fn has_row(&self, row: &str) -> bool {
        self.shape != Shape::Random || row != "fillseq"
    }

    pub(crate) fn entry_bytes(&self) -> u64 {
        self.shape.key_bytes() + self.value_bytes as u64
    }
}

/// What the memory cgroup of [`Group::Larger`] may hold, the page cache included.
pub(crate) const LARGER_MEMORY_BYTES: u64 = 512 << 20;

/// Rows that one process does one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Group {
    /// A fill of an empty database in key order.
    FillSeq,
    FillBatch,
    FillSync,
    /// A fill in random order, then what changes it.
    Update,
    /// A database that was filled in random order and has settled, and what reads it; then mixed
    /// work.
    Loaded,
    /// Fills, and waits to be killed.
    ReopenFill,
    /// Opens what the kill has left.
    ReopenOpen,
    /// More data than memory.
    Larger,
    /// Not of the table: see `growth`.
    Growth,
}

/// Every row, in the order of the tables, with the group that does it.
pub(crate) const ROWS: [(&str, Group); 32] = [
    ("fillseq", Group::FillSeq),
    ("fillrandom", Group::Update),
    ("fillbatch", Group::FillBatch),
    ("fillsync, 1 thread", Group::FillSync),
    ("fillsync, 2 threads", Group::FillSync),
    ("fillsync, 4 threads", Group::FillSync),
    ("fillsync, 8 threads", Group::FillSync),
    ("overwrite", Group::Update),
    ("overwrite, 2 threads", Group::Update),
    ("sustained overwrite", Group::Update),
    ("deleterandom", Group::Update),
    ("readrandom", Group::Loaded),
    ("readrandom, 2 threads", Group::Loaded),
    ("readmissing", Group::Loaded),
    ("readhot", Group::Loaded),
    ("multi-get", Group::Loaded),
    ("seekrandom, 10 next", Group::Loaded),
    ("seekrandom, 100 next", Group::Loaded),
    ("readseq", Group::Loaded),
    ("readreverse", Group::Loaded),
    ("readwhilewriting, reads", Group::Loaded),
    ("readwhilewriting, writes", Group::Loaded),
    ("YCSB A", Group::Loaded),
    ("YCSB B", Group::Loaded),
    ("YCSB C", Group::Loaded),
    ("YCSB D", Group::Loaded),
    ("YCSB E", Group::Loaded),
    ("YCSB F", Group::Loaded),
    ("reopen after a kill", Group::ReopenOpen),
    ("larger: readrandom", Group::Larger),
    ("larger: scans of 100", Group::Larger),
    ("larger: overwrite", Group::Larger),
];

/// Seconds that a row may take, by its kind. Who is slow does less in them, but for the writes of
/// engines that merge.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Seconds {
    pub(crate) fill: f64,
    pub(crate) sustained: f64,
    pub(crate) sync: f64,
    pub(crate) read: f64,
    pub(crate) mixed: f64,
}

impl Seconds {
    pub(crate) const QUICK: Seconds =
        Seconds { fill: 3.0, sustained: 6.0, sync: 1.0, read: 1.0, mixed: 1.5 };
    pub(crate) const FULL: Seconds =
        Seconds { fill: 30.0, sustained: 60.0, sync: 4.0, read: 4.0, mixed: 6.0 };
}

/// A limit by time and number.
pub(crate) fn limit(ops: u64, seconds: f64) -> Limit {
    Limit { ops, time: Duration::from_secs_f64(seconds) }
}

/// What a worker does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) engine: Name,
    pub(crate) set: Set,
    pub(crate) setup: Setup,
    pub(crate) group: Group,
    /// Those of the group that are wanted.
    pub(crate) rows: Vec<String>,
    pub(crate) seconds: Seconds,
    pub(crate) repetition: u32,
    /// Empty at the start, but for [`Group::ReopenOpen`].
    pub(crate) dir: PathBuf,
    /// A cgroup to join first.
    pub(crate) cgroup: Option<PathBuf>,
}
