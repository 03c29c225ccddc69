//! What a database tells of itself.

use std::time::Duration;

use crate::base::seqno::SeqNo;
use crate::base::stats::Counter;
use crate::base::stats::Histogram;
use crate::base::stats::LatencySummary;
use crate::wal::GivenUp;

/// What a database holds and has done since it was opened. Taken by
/// [`Db::stats`](crate::Db::stats).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Newest visible write.
    pub seqno: SeqNo,
    /// The keyspaces, sorted by name.
    pub keyspaces: Vec<KeyspaceStats>,
    /// Memory by what it is used for.
    pub memory: MemoryStats,
    /// The block cache.
    pub block_cache: BlockCacheStats,
    /// The write-ahead log.
    pub wal: WalStats,
    /// Writes.
    pub writes: WriteStats,
    /// Flushes and compactions.
    pub background: BackgroundStats,
    /// Delays of writes, by reason.
    pub stalls: StallStats,
    /// Snapshots alive.
    pub snapshots: usize,
    /// Transactions.
    pub transactions: TransactionStats,
    /// Files that are obsolete and wait for their last reader.
    pub obsolete_files: usize,
    /// Why the database is read-only, if it is.
    pub read_only: Option<String>,
    /// What was given up of the log, if it was damaged and opened with
    /// [`Recovery::ToLastConsistentPoint`](crate::Recovery::ToLastConsistentPoint).
    pub given_up: Option<GivenUp>,
}

/// One keyspace.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct KeyspaceStats {
    /// Its name.
    pub name: String,
    /// Bytes in its memtables, the active one and those waiting for their flush.
    pub memtable_bytes: u64,
    /// Entries in its memtables, overwritten versions and tombstones included.
    pub memtable_entries: u64,
    /// Memtables that wait for their flush.
    pub sealed_memtables: usize,
    /// Its levels, from 0 on.
    pub levels: Vec<LevelStats>,
    /// Where level 0 is compacted to.
    pub base_level: usize,
    /// Bytes that compaction still has to move for every level to be within its target.
    pub debt_bytes: u64,
    /// Its blob files.
    pub blobs: BlobStats,
}

/// The blob files of a keyspace: where its large values lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlobStats {
    /// How many there are.
    pub files: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Of these, bytes that nothing refers to any more, as far as compaction has seen.
    pub garbage_bytes: u64,
}

/// One level.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LevelStats {
    /// Bytes of its files.
    pub bytes: u64,
    /// Target size; 0 where the level has none.
    pub target_bytes: u64,
    /// Entries, overwritten versions and tombstones included.
    pub entries: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Range tombstones, each counted once for each piece that others cut it into.
    pub range_tombstones: u64,
    /// Bytes of the entries' keys and values, uncompressed.
    pub raw_bytes: u64,
    /// Its files in order.
    pub files: Vec<FileStats>,
}

/// One SST.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct FileStats {
    /// Its number: the file is `NNNNNN.sst`.
    pub number: u64,
    /// Its size.
    pub bytes: u64,
    /// Its entries.
    pub entries: u64,
    /// Its smallest key.
    pub smallest: Vec<u8>,
    /// Its largest key.
    pub largest: Vec<u8>,
}

/// Memory by use, in bytes. The sum stays within the memory budget, but for what iterators and
/// large values pin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryStats {
    /// The budget.
    pub budget: u64,
    /// Memtables of all keyspaces, and memory that is kept for the next one.
    pub memtables: u64,
    /// Decoded blocks in the block cache.
    pub block_cache: u64,
    /// Tops of indexes and other parts of open files that are kept in memory.
    pub files: u64,
    /// Buffers of running flushes and compactions, at most.
    pub jobs: u64,
    /// What open transactions have written and read.
    pub transactions: u64,
}

/// The block cache. It has data blocks that are compressed, decoded; and every block of files that
/// are not mapped. A hit is not counted: it shares nothing with other threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockCacheStats {
    /// Blocks that are in it now; [`MemoryStats::block_cache`] tells how many bytes.
    pub blocks: u64,
    /// Blocks that reads have had to load since the database was opened.
    pub misses: u64,
    /// Blocks that were loaded after compactions, since what is in them was in the cache before.
    pub kept: u64,
}

/// Transactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionStats {
    /// Those that are neither committed nor rolled back.
    pub open: usize,
    /// Commits that wrote something.
    pub commits: u64,
    /// Commits that failed with [`Error::Conflict`](crate::Error::Conflict).
    pub conflicts: u64,
}

/// The write-ahead log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WalStats {
    /// Segments that recovery would read.
    pub segments: usize,
    /// Bytes in them.
    pub bytes: u64,
    /// Segments that are kept for change feeds besides.
    pub kept_segments: usize,
    /// Bytes in those.
    pub kept_bytes: u64,
    /// Bytes appended since the database was opened.
    pub bytes_written: u64,
    /// Syncs; concurrent writers share one.
    pub syncs: u64,
}

/// Writes since the database was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteStats {
    /// Batches committed; a single put is a batch.
    pub batches: u64,
    /// Bytes of keys and values in them, with a few bytes per operation.
    pub bytes: u64,
    /// Time of a commit that synced.
    pub sync_latency: LatencySummary,
}

/// Flushes and compactions since the database was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackgroundStats {
    /// Flushes.
    pub flushes: u64,
    /// Bytes that they wrote, to SSTs and blob files.
    pub flush_bytes: u64,
    /// Compactions, trivial moves not counted.
    pub compactions: u64,
    /// Files moved down as they were.
    pub moves: u64,
    /// Files removed unread, since range tombstones hid all that was in them.
    pub range_deleted_files: u64,
    /// Bytes of SSTs that compactions read.
    pub compaction_bytes_read: u64,
    /// Bytes that compactions wrote, to SSTs and blob files.
    pub compaction_bytes_written: u64,
    /// Jobs running now.
    pub running: usize,
    /// Jobs that failed and will be tried again.
    pub failures: u64,
}

/// How long writes waited, and for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StallStats {
    /// Delays in proportion to compaction's debt.
    pub slowdown: Stall,
    /// Waits for a memtable to be flushed.
    pub memtables: Stall,
    /// Waits for level 0 to be compacted.
    pub level0: Stall,
}

/// Waits of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stall {
    /// How many writes waited.
    pub count: u64,
    /// How long in all.
    pub total: Duration,
}

impl Stats {
    /// Bytes written to disk for each byte that the user wrote, the log included, since the
    /// database was opened; 0 before the first write.
    pub fn write_amplification(&self) -> f64 {
        let disk = self.wal.bytes_written
            + self.background.flush_bytes
            + self.background.compaction_bytes_written;
        if self.writes.bytes == 0 { 0.0 } else { disk as f64 / self.writes.bytes as f64 }
    }

    /// Bytes of all blob files.
    pub fn blob_bytes(&self) -> u64 {
        self.keyspaces.iter().map(|keyspace| keyspace.blobs.bytes).sum()
    }

    /// Bytes of all SSTs.
    pub fn sst_bytes(&self) -> u64 {
        self.keyspaces.iter().flat_map(|keyspace| &keyspace.levels).map(|level| level.bytes).sum()
    }
}

/// The counters behind [`Stats`].
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) syncs: Counter,
    pub(crate) sync_latency: Histogram,
    pub(crate) flushes: Counter,
    pub(crate) flush_bytes: Counter,
    pub(crate) compactions: Counter,
    pub(crate) moves: Counter,
    pub(crate) range_deleted_files: Counter,
    pub(crate) compaction_bytes_read: Counter,
    pub(crate) compaction_bytes_written: Counter,
    pub(crate) failures: Counter,
    pub(crate) slowdown: StallCounter,
    pub(crate) stall_memtables: StallCounter,
    pub(crate) stall_level0: StallCounter,
}

/// Counts waits of one kind.
#[derive(Debug, Default)]
pub(crate) struct StallCounter {
    count: Counter,
    ns: Counter,
}

impl StallCounter {
    pub(crate) fn record(&self, waited: Duration) {
        self.count.add(1);
        self.ns.add(u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn get(&self) -> Stall {
        Stall { count: self.count.get(), total: Duration::from_nanos(self.ns.get()) }
    }
}
