//! Statistics: gathers what the database tells of itself.

use crate::base::error::Error;
use crate::compaction::picker;
use crate::engine::Core;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::stats::BackgroundStats;
use crate::engine::stats::BlobStats;
use crate::engine::stats::BlockCacheStats;
use crate::engine::stats::FileStats;
use crate::engine::stats::KeyspaceStats;
use crate::engine::stats::LevelStats;
use crate::engine::stats::MemoryStats;
use crate::engine::stats::StallStats;
use crate::engine::stats::Stats;
use crate::engine::stats::TransactionStats;
use crate::engine::stats::WalStats;
use crate::engine::stats::WriteStats;
use crate::manifest::SstMeta;
use crate::version::Level;

/// What a running flush or compaction holds in buffers, about: a read-ahead buffer per input and a
/// write buffer, an index and a filter per output.
const JOB_BYTES: u64 = 4 << 20;

impl Core {
    /// What [`crate::Db::stats`] returns.
    pub(crate) fn stats(&self) -> Stats {
        let keyspaces: Vec<KeyspaceStats> =
            self.keyspaces.all().iter().map(|state| self.keyspace_stats(state)).collect();
        let (wal, written) = {
            let append = self.commit.append_lock();
            let wal = WalStats {
                segments: append.segments().len(),
                bytes: append.wal_bytes(),
                kept_segments: append.history().kept().len(),
                kept_bytes: append.history().bytes(),
                bytes_written: append.log_bytes(),
                syncs: self.metrics.syncs.get(),
            };
            (wal, append.written())
        };
        let running = self.jobs.running();
        let metrics = &self.metrics;
        Stats {
            seqno: self.visible(),
            memory: MemoryStats {
                budget: self.config.memory_budget as u64,
                memtables: keyspaces.iter().map(|keyspace| keyspace.memtable_bytes).sum::<u64>()
                    + self.default.memtables.free_bytes() as u64,
                block_cache: self.cache.used_bytes(),
                files: self.pinned_bytes(),
                jobs: running as u64 * JOB_BYTES,
                transactions: self.transactions.bytes() as u64,
            },
            block_cache: BlockCacheStats {
                blocks: self.cache.len(),
                misses: self.cache.misses(),
                kept: self.cache.kept(),
            },
            transactions: TransactionStats {
                open: self.transactions.open(),
                commits: self.transactions.commits.get(),
                conflicts: self.transactions.conflicts.get(),
            },
            wal,
            writes: WriteStats {
                batches: written.batches,
                bytes: written.batch_bytes,
                sync_latency: metrics.sync_latency.summary(),
            },
            background: BackgroundStats {
                flushes: metrics.flushes.get(),
                flush_bytes: metrics.flush_bytes.get(),
                compactions: metrics.compactions.get(),
                moves: metrics.moves.get(),
                range_deleted_files: metrics.range_deleted_files.get(),
                compaction_bytes_read: metrics.compaction_bytes_read.get(),
                compaction_bytes_written: metrics.compaction_bytes_written.get(),
                running,
                failures: metrics.failures.get(),
            },
            stalls: StallStats {
                slowdown: metrics.slowdown.get(),
                memtables: metrics.stall_memtables.get(),
                level0: metrics.stall_level0.get(),
            },
            snapshots: self.snapshots.count(),
            obsolete_files: self.obsolete.len(),
            read_only: self.health.failure().map(Error::to_string),
            given_up: self.given_up.clone(),
            keyspaces,
        }
    }

    fn keyspace_stats(&self, state: &KeyspaceState) -> KeyspaceStats {
        let view = state.view_full();
        let targets = picker::targets(&view.version, self.base_bytes());
        let memtables = || std::iter::once(&view.active).chain(&view.sealed);
        let levels = view.version.levels().iter().enumerate().map(|(number, level)| {
            let is_used = number >= targets.base_level;
            level_stats(level, if is_used { targets.bytes[number] } else { 0 })
        });
        KeyspaceStats {
            name: state.name.clone(),
            memtable_bytes: memtables().map(|memtable| memtable.bytes() as u64).sum(),
            memtable_entries: memtables().map(|memtable| memtable.len() as u64).sum(),
            sealed_memtables: view.sealed.len(),
            levels: levels.collect(),
            base_level: targets.base_level,
            debt_bytes: picker::debt_bytes(&view.version, self.base_bytes()),
            blobs: BlobStats {
                files: view.version.blobs.files().count(),
                bytes: view.version.blobs.files().map(|file| file.meta.bytes).sum(),
                garbage_bytes: view.version.blobs.garbage_bytes(),
            },
        }
    }
}

fn level_stats(level: &Level, target_bytes: u64) -> LevelStats {
    let sum = |what: fn(&SstMeta) -> u64| level.files.iter().map(|file| what(&file.meta)).sum();
    LevelStats {
        bytes: level.bytes(),
        target_bytes,
        entries: sum(|meta| meta.entries),
        tombstones: sum(|meta| meta.tombstones),
        range_tombstones: sum(|meta| meta.ranges.as_ref().map_or(0, |ranges| ranges.count)),
        raw_bytes: sum(|meta| meta.raw_bytes),
        files: level
            .files
            .iter()
            .map(|file| FileStats {
                number: file.meta.id.0,
                bytes: file.meta.bytes,
                entries: file.meta.entries,
                smallest: file.meta.smallest.user.clone(),
                largest: file.meta.largest.user.clone(),
            })
            .collect(),
    }
}
