//! Settings as plain data: what the user chose, checked once, and what is derived from it.

use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use crate::base::compression::Compression;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::hooks::MergeOperator;
use crate::base::hooks::MergeOperators;

/// What an acknowledged write survives.
///
/// | mode | process crash | power loss or system crash |
/// |---|---|---|
/// | `Sync` | nothing lost | nothing lost |
/// | `Interval(d)` | nothing lost | the last `d` at most |
/// | `Os` | nothing lost | what the system had not written back: often the last 30 s |
///
/// In every mode what survives is a prefix of the writes, batches whole: never a hole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// The write is on stable storage when it returns. Concurrent writers share one sync.
    #[default]
    Sync,
    /// The write is with the operating system when it returns, and on stable storage within the
    /// given time.
    Interval(Duration),
    /// The write is with the operating system when it returns.
    Os,
}

/// What a transaction is protected from.
///
/// | level | what it reads | when its commit fails with [`Error::Conflict`](crate::Error::Conflict) |
/// |---|---|---|
/// | `Serializable` | the state of the moment it began | something that it read was changed since, or has expired: a key, an absent key, or a part of a range that it walked through |
/// | `Snapshot` | the state of the moment it began | a key that it writes was written since |
/// | `ReadCommitted` | with each call, the newest state | never |
///
/// On all levels a transaction sees its own writes, and the others see all of them or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isolation {
    /// As if the transactions had run one after the other, in the order of their commits. One that
    /// writes nothing never fails.
    #[default]
    Serializable,
    /// No lost updates; but two transactions that each write what the other one reads may both
    /// commit (write skew).
    Snapshot,
    /// A batch that reads its own writes: nothing is checked at the commit.
    ReadCommitted,
}

/// How much of the log is kept that recovery does not need. A segment goes when it exceeds either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Of files; 0: nothing is kept.
    pub(crate) bytes: u64,
    /// Milliseconds since a segment's last record.
    pub(crate) age_ms: u64,
}

impl Retention {
    /// Is anything kept at all?
    pub(crate) fn keeps(self) -> bool {
        self.bytes > 0 && self.age_ms > 0
    }
}

/// What to do when the log holds damage that no crash can explain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recovery {
    /// Refuse to open, and name the file and offset. Nothing on disk is changed.
    #[default]
    Strict,
    /// Keep everything before the damage and give up everything after it, with a report:
    /// [`Stats::given_up`](crate::Stats::given_up).
    ToLastConsistentPoint,
}

/// All settings of a database that are plain data.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) create_if_missing: bool,
    pub(crate) read_only: bool,
    pub(crate) durability: Durability,
    pub(crate) recovery: Recovery,
    pub(crate) memory_budget: usize,
    pub(crate) memtable_bytes: usize,
    pub(crate) block_bytes: usize,
    pub(crate) file_bytes: u64,
    pub(crate) wal_bytes: u64,
    /// `None`: what the database has.
    pub(crate) log_retention: Option<Retention>,
    pub(crate) compression: Compression,
    pub(crate) filter_bits_per_key: u32,
    pub(crate) mmap: bool,
    pub(crate) background_threads: usize,
    pub(crate) tombstone_age: Duration,
    pub(crate) write_deadline: Option<Duration>,
    pub(crate) merge_operators: MergeOperators,
    pub(crate) missing_operators: bool,
}

/// What the program wants of one keyspace.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyspaceConfig {
    pub(crate) operator: Option<WantedOperator>,
    /// Milliseconds; 0: none.
    pub(crate) default_ttl_ms: Option<u64>,
    /// Its values may expire though it has an operator.
    pub(crate) expiring: bool,
    /// Values of so many bytes lie apart; `NEVER_APART`: none do.
    pub(crate) separate_from: Option<u64>,
}

/// A merge operator; by its name alone if that is all that is known.
#[derive(Clone, Debug)]
pub(crate) struct WantedOperator {
    pub(crate) name: String,
    pub(crate) operator: Option<Arc<dyn MergeOperator>>,
}

pub(crate) const MIB: usize = 1 << 20;
/// The greatest `block_bytes`.
pub(crate) const BLOCK_BYTES_MAX: usize = 16 * MIB;

/// Number of levels of a tree. With a factor of ten between levels, seven hold more than any disk.
pub(crate) const LEVELS: usize = 7;

/// Threads that can run at once. Asked for once: the system reads files to answer.
pub(crate) fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

impl Default for Config {
    fn default() -> Config {
        Config {
            create_if_missing: true,
            read_only: false,
            durability: Durability::Sync,
            recovery: Recovery::Strict,
            memory_budget: 256 * MIB,
            memtable_bytes: 32 * MIB,
            block_bytes: 4096,
            file_bytes: 64 * MIB as u64,
            wal_bytes: 256 * MIB as u64,
            log_retention: None,
            compression: Compression::Lz4,
            filter_bits_per_key: 10,
            mmap: true,
            background_threads: cores().clamp(2, 8),
            tombstone_age: Duration::from_secs(24 * 60 * 60),
            write_deadline: None,
            merge_operators: MergeOperators::default(),
            missing_operators: false,
        }
    }
}

impl Config {
    /// Checks each setting and their combination.
    pub(crate) fn validate(&self) -> Result<()> {
        let check = |ok: bool, what: &str| {
            if ok { Ok(()) } else { Err(Error::InvalidOptions { what: what.to_owned() }) }
        };
        check(self.memtable_bytes >= 1024, "memtable_bytes must be at least 1024")?;
        check(
            self.memtable_bytes <= 4096 * MIB,
            "memtable_bytes must be at most 4 GiB: larger memtables insert more slowly",
        )?;
        check(
            (256..=BLOCK_BYTES_MAX).contains(&self.block_bytes),
            "block_bytes must be between 256 bytes and 16 MiB",
        )?;
        check(
            (4096..=1 << 40).contains(&self.file_bytes),
            "file_bytes must be between 4 KiB and 1 TiB",
        )?;
        check(self.wal_bytes >= 16 * 1024, "wal_bytes must be at least 16 KiB")?;
        check(
            self.memory_budget / 4 >= self.memtable_bytes,
            "memory_budget must be at least four times memtable_bytes: one memtable is written \
             while others are flushed, and the block cache needs the rest",
        )?;
        check(self.filter_bits_per_key <= 64, "filter_bits_per_key must be at most 64")?;
        check(
            self.background_threads <= 256,
            "background_threads must be at most 256 (0: jobs run when the test drives them)",
        )?;
        if let Durability::Interval(interval) = self.durability {
            check(!interval.is_zero(), "Durability::Interval needs a duration above zero")?;
        }
        Ok(())
    }
}

/// What the writer of one SST needs to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SstOptions {
    /// Size at which a data block is cut, before compression.
    pub(crate) block_bytes: usize,
    /// How data blocks are compressed.
    pub(crate) compression: Compression,
    /// Bits per key of the filter; 0 writes none.
    pub(crate) filter_bits_per_key: u32,
}
