//! Reads that pay for compactions: what they lose because a keyspace lies in several sorted runs is
//! added up, and once that exceeds the price of merging runs, they are merged.
//!
//! So a database that is loaded and then read comes to rest in one run, whatever the sizes of its
//! levels, and one that is not read stays as it is. (LevelDB compacts a file after so many seeks
//! in vain; here both sides are counted in one currency, bytes that a compaction moves in the time.)
//!
//! *Bounds.* A merge is paid by the reads of one view: every flush and every compaction begins with
//! a new bill. So it takes nothing from those who write much: their flushes come before any bill has
//! grown. It runs only if the smaller part is at least 1/[`SHARE`] of the larger: so a byte that was
//! written is rewritten for readers [`SHARE`] times at most. A memtable is written for readers only
//! after [`QUIET`] without any write; small files would cost them more than it does.

use std::cell::Cell;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::base::seqno::SeqNo;
use crate::base::sync::Mutex;
use crate::compaction::picker;
use crate::engine::Core;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::keyspaces::ReadView;
use crate::engine::scheduler::CompactionJob;

/// A seek loses some 0.7 µs for each further run; a compaction moves so many bytes meanwhile.
const SEEK_BYTES: u64 = 256;
/// A point read loses less: a filter rules most runs out.
const GET_BYTES: u64 = 16;
/// And a step over an entry that is dead, with the versions beneath it.
const DEAD_BYTES: u64 = 48;
/// One read of so many is counted, for all of them.
const SAMPLE: u32 = 64;
/// How long nobody must have written before a memtable is written for readers.
const QUIET: Duration = Duration::from_secs(1);
/// See above.
pub(crate) const SHARE: u64 = 32;

/// What reads of one view have lost so far, in bytes.
#[derive(Debug, Default)]
pub(crate) struct ReadCost(AtomicU64);

impl ReadCost {
    fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Relaxed);
    }

    fn bytes(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Is this read one that is counted? Shares no cache line between threads.
#[inline]
fn is_sampled() -> bool {
    thread_local! {
        static READS: Cell<u32> = const { Cell::new(0) };
    }
    if cfg!(esker_shuttle) {
        // What threads have read must not live on into the next execution.
        return true;
    }
    READS.with(|reads| {
        reads.set(reads.get().wrapping_add(1));
        reads.get().is_multiple_of(SAMPLE)
    })
}

impl ReadView {
    /// Notes a point read.
    #[inline]
    pub(crate) fn note_get(&self) {
        if is_sampled() {
            self.cost.add(u64::from(SAMPLE) * GET_BYTES * self.further_runs());
        }
    }

    /// Notes a seek, or the beginning of a scan.
    #[inline]
    pub(crate) fn note_seek(&self) {
        if is_sampled() {
            self.cost.add(u64::from(SAMPLE) * SEEK_BYTES * self.further_runs());
        }
    }

    /// Notes that a scan has stepped over dead entries.
    pub(crate) fn note_dead(&self, steps: u64) {
        if steps > 0 {
            self.cost.add(DEAD_BYTES * steps);
        }
    }

    /// In how many sorted runs the entries lie, beyond the first.
    #[cold]
    fn further_runs(&self) -> u64 {
        let files: usize = self.version.levels()[1..].iter().map(|l| l.files.len().min(1)).sum();
        let level0 = self.version.level(0).files.len();
        let memtables = self.sealed.len() + usize::from(!self.active.is_empty());
        (memtables + level0 + files).saturating_sub(1) as u64
    }
}

/// Since when nobody has written.
#[derive(Debug, Default)]
pub(crate) struct Quiet(Mutex<(SeqNo, Duration)>);

impl Quiet {
    /// For how long `seqno` has been the last one, as far as anybody asked.
    pub(crate) fn lasted(&self, seqno: SeqNo, now: Duration) -> Duration {
        let mut quiet = self.0.lock();
        if quiet.0 != seqno {
            *quiet = (seqno, now);
        }
        now.saturating_sub(quiet.1)
    }
}

impl Core {
    /// A compaction that reads have paid for, if there is one. Seals memtables if reads have paid
    /// for their flush.
    pub(crate) fn next_paid_compaction(&self) -> Option<CompactionJob<'_>> {
        let states = self.keyspaces.all();
        if self.quiet.lasted(self.visible(), self.clock.monotonic()) >= QUIET {
            for state in &states {
                self.flush_if_paid(state);
                self.flush_if_ranged(state);
            }
            self.release_memtables();
        }
        self.claim(|context| {
            states.iter().find_map(|state| {
                // Loaded while no job can begin or end: its files are there.
                let view = state.view_full();
                let paid = view.cost.bytes();
                let plan = picker::pick_for_reads(&view.version, context, paid, SHARE)?;
                Some((state.clone(), plan))
            })
        })
    }

    /// Has the memtable written if it has range tombstones over what is in files: only then can these
    /// give back their space.
    fn flush_if_ranged(&self, state: &KeyspaceState) {
        let view = state.view_full();
        if view.active.has_ranges() && view.version.deepest().is_some() {
            self.seal_active(state);
        }
    }

    /// Gives the memory that is kept for the next memtable back to the system.
    pub(crate) fn release_memtables(&self) {
        self.default.memtables.release();
        self.update_throttle();
    }

    fn seal_active(&self, state: &KeyspaceState) {
        let append = self.commit.append_lock();
        state.seal(append.last_seqno());
        drop(append);
        self.jobs.notify_flush();
    }

    /// Has the memtable written if that is paid for, and it is large enough to be merged with the
    /// files afterwards.
    fn flush_if_paid(&self, state: &KeyspaceState) {
        let view = state.view_full();
        let bytes = view.active.bytes() as u64;
        let files: u64 = view.version.files().map(|file| file.meta.bytes).sum();
        if bytes <= view.cost.bytes() && bytes >= files / SHARE && !view.active.is_empty() {
            self.seal_active(state);
        }
    }
}
