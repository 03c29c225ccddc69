//! Backpressure: writers are slowed down in proportion to what compaction owes, so that they never
//! meet a cliff; and stopped only where memory would run out, for as long as a job is at work.
//!
//! The *debt* is a number from 0 to 1 per cause; the largest counts:
//!
//! - memtables: how far their bytes have come from half of their limit to all of it;
//! - level 0: how far its files have come from [`L0_SLOW`] to [`L0_STOP`];
//! - size: how far the bytes that have to move down have come from [`DEBT_SLOW`] to [`DEBT_STOP`]
//!   times the base level.
//!
//! At debt d a write of n bytes takes at least n · d² / (1 - d) · [`NS_PER_BYTE`]: nothing at
//! first, the speed of a slow disk towards the end. The time is taken from one leaky bucket that
//! all writers share, so the total rate is what falls, whoever writes.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::sync::atomic::AtomicU32;
use crate::base::sync::atomic::AtomicU64;
use crate::base::sync::thread;
use crate::compaction::picker;
use crate::compaction::picker::L0_SLOW;
use crate::engine::Core;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::scheduler::Lane;

/// Files of level 0 at which writes stop.
pub(crate) const L0_STOP: usize = 36;
/// Bytes to move down, in base levels, from which writes are slowed down.
const DEBT_SLOW: u64 = 8;
/// Bytes to move down, in base levels, at which the slow-down is greatest.
const DEBT_STOP: u64 = 64;
/// 40 ns per byte are 25 MB/s.
const NS_PER_BYTE: f64 = 40.0;
/// Delays below this are saved up: a sleep takes at least some 60 µs anyway.
const SLEEP_MIN: Duration = Duration::from_micros(500);
/// So often memory is looked at while the memtables grow to their limit.
pub(crate) const LOOKS_PER_LIMIT: usize = 64;
/// The part of the memory budget that is left to jobs, and to all that nobody counts.
const JOBS_SHARE: usize = 32;
/// How long nobody must have written before the memory that is kept for the next memtable is given
/// back: so long that who waits for a sync keeps it.
const MEMORY_REST: Duration = Duration::from_millis(50);
/// A writer that is stopped looks again this often, whatever happens.
const STOP_POLL: Duration = Duration::from_millis(100);

/// So often a transaction is tried at most, and so often without a pause.
const ATTEMPTS_MAX: u32 = 100;
const ATTEMPTS_AT_ONCE: u32 = 2;
/// The longest pause after the first of the other attempts; each further one may be twice as long.
const PAUSE_MIN: Duration = Duration::from_micros(20);
const PAUSE_MAX: Duration = Duration::from_millis(5);

/// What writers look at before each write; two relaxed loads where nothing is owed.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// Debt in millionths.
    debt_ppm: AtomicU32,
    stopped: AtomicU32,
    /// When the bucket is empty again, in ns of the monotonic clock.
    free_at_ns: AtomicU64,
    /// What open files kept in memory when it was last looked at.
    file_bytes: AtomicU64,
}

/// Why writers must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Stop {
    No = 0,
    Memtables = 1,
    Level0 = 2,
}

impl Core {
    /// Step 1 of a commit: waits as long as the debt asks for.
    #[inline]
    pub(crate) fn wait_for_room(&self, bytes: usize, deadline: Option<Duration>) -> Result<()> {
        if self.throttle.stopped.load(Relaxed) != Stop::No as u32 {
            self.wait_while_stopped(deadline)?;
        }
        let debt = self.throttle.debt_ppm.load(Relaxed);
        // Without threads nothing is done meanwhile, so waiting helps nobody.
        if debt == 0 || self.is_manual() { Ok(()) } else { self.slow_down(bytes, debt, deadline) }
    }

    fn slow_down(&self, bytes: usize, debt_ppm: u32, deadline: Option<Duration>) -> Result<()> {
        let debt = (f64::from(debt_ppm) / 1e6).min(0.99);
        let cost_ns = (bytes as f64 * NS_PER_BYTE * debt * debt / (1.0 - debt)) as u64;
        let now = self.clock.monotonic().as_nanos() as u64;
        let mut free_at = 0;
        let taken = self.throttle.free_at_ns.fetch_update(Relaxed, Relaxed, |at| {
            free_at = at.max(now) + cost_ns;
            let over = deadline.is_some_and(|most| u128::from(free_at - now) > most.as_nanos());
            (!over).then_some(free_at)
        });
        let wait = Duration::from_nanos(free_at - now);
        if let (Err(_), Some(deadline)) = (taken, deadline) {
            return Err(Error::Stalled { deadline, reason: "compaction is behind".to_owned() });
        }
        if wait >= SLEEP_MIN {
            thread::sleep(wait);
            self.metrics.slowdown.record(wait);
        }
        Ok(())
    }

    fn wait_while_stopped(&self, deadline: Option<Duration>) -> Result<()> {
        let began = self.clock.monotonic();
        let mut last = Stop::Memtables;
        loop {
            let seen = self.jobs.progress();
            let stop = self.update_throttle();
            if stop == Stop::No {
                break;
            }
            last = stop;
            self.health.check_writable()?;
            let waited = self.clock.monotonic().saturating_sub(began);
            if let Some(deadline) = deadline.filter(|deadline| waited >= *deadline) {
                let reason = match stop {
                    Stop::Memtables => "memtables wait for their flush",
                    _ => "level 0 waits for compaction",
                };
                return Err(Error::Stalled { deadline, reason: reason.to_owned() });
            }
            let left = deadline.map_or(STOP_POLL, |most| most.saturating_sub(waited));
            self.make_room(stop, seen, left.min(STOP_POLL))?;
        }
        let counter = match last {
            Stop::Memtables => &self.metrics.stall_memtables,
            _ => &self.metrics.stall_level0,
        };
        counter.record(self.clock.monotonic().saturating_sub(began));
        Ok(())
    }

    /// Lets a job make room: by waiting for one that had not ended at `seen`, or, without background
    /// threads, by running one.
    fn make_room(&self, stop: Stop, seen: u64, poll: Duration) -> Result<()> {
        if self.is_manual() {
            self.seal_all();
            if !self.run_one_job()? {
                // Another caller is at it.
                self.jobs.wait_for_progress(seen, poll);
            }
            return Ok(());
        }
        // A job that failed and will be tried again later: the writer learns why it cannot go on.
        let lane = if stop == Stop::Memtables { Lane::Flush } else { Lane::Compaction };
        if let Some(error) = self.jobs.error(lane) {
            return Err(error);
        }
        self.seal_largest();
        self.jobs.wait_for_progress(seen, poll);
        Ok(())
    }

    /// Runs `attempt` until it meets no conflict, or often enough. Pauses of random length part
    /// those that keep meeting each other.
    pub(crate) fn retry<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        for failed in 1..ATTEMPTS_MAX {
            match attempt() {
                Err(Error::Conflict) => {}
                result => return result,
            }
            if let Some(doublings) = failed.checked_sub(ATTEMPTS_AT_ONCE) {
                let most = (PAUSE_MIN * (1 << doublings.min(16))).min(PAUSE_MAX);
                let random = (self.clock.unique() >> 32) as f64 / f64::from(u32::MAX);
                thread::sleep(most.mul_f64(random));
            }
        }
        attempt()
    }

    /// Looks at the memtables and levels again. Called after every job, and as the
    /// memtables grow.
    pub(crate) fn update_throttle(&self) -> Stop {
        let mut stop = Stop::No;
        let mut memtable_bytes = 0;
        let mut debt: f64 = 0.0;
        let base = self.base_bytes();
        for state in self.keyspaces.all() {
            let view = state.view();
            memtable_bytes += state.memtable_bytes().1;
            let l0 = view.version.level(0).files.len();
            debt = debt.max(ratio(l0 as f64, L0_SLOW as f64, L0_STOP as f64));
            if l0 >= L0_STOP {
                stop = Stop::Level0;
            }
            let owed = picker::debt_bytes(&view.version, base);
            let (slow, most) = ((DEBT_SLOW * base) as f64, (DEBT_STOP * base) as f64);
            debt = debt.max(ratio(owed as f64, slow, most));
        }
        let transactions = self.transactions.bytes();
        self.share_memory(memtable_bytes + transactions);
        // What transactions take is about to be in memtables.
        let limit = self.memtables_limit() - transactions.min(self.memtables_limit() / 4);
        debt = debt.max(ratio(memtable_bytes as f64, limit as f64 / 2.0, limit as f64));
        if memtable_bytes >= limit {
            stop = Stop::Memtables;
        }
        let debt_ppm = (debt * 1e6) as u32;
        self.throttle.debt_ppm.store(debt_ppm, Relaxed);
        self.throttle.stopped.store(stop as u32, Relaxed);
        stop
    }

    /// Leaves to the block cache what files and jobs do not need, and what memtables and
    /// transactions do not use of their half. What they may take until the next look is kept for
    /// them.
    fn share_memory(&self, used: usize) {
        let kept = self.default.memtables.free_bytes() + self.memtables_limit() / LOOKS_PER_LIMIT;
        let used = (used + kept).min(self.memtables_limit());
        let jobs = self.config.memory_budget / JOBS_SHARE;
        self.cache.lend((used + jobs) as u64 + self.throttle.file_bytes.load(Relaxed));
    }

    /// Counts what open files keep in memory. Called after every job, since that is when files come
    /// and go: to count it as often as memtables grow would cost more than it tells.
    pub(crate) fn look_at_files(&self) {
        self.throttle.file_bytes.store(self.pinned_bytes(), Relaxed);
    }

    /// Bytes that open files keep in memory.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        let of_state = |state: &Arc<KeyspaceState>| {
            let version = state.view_full().version.clone();
            version.files().map(|file| file.pinned_bytes()).sum::<u64>()
        };
        self.keyspaces.all().iter().map(of_state).sum()
    }

    /// How long the log lane may sleep before it looks again whether writers have come to rest.
    pub(crate) fn until_memory_rests(&self, limit: Duration) -> Duration {
        if self.default.memtables.free_bytes() > 0 { limit.min(MEMORY_REST) } else { limit }
    }

    /// Gives back what is kept for the next memtable if nobody has written for a moment: readers fill
    /// the block cache meanwhile.
    pub(crate) fn release_memtables_at_rest(&self) {
        if self.default.memtables.free_bytes() > 0 && self.is_at_rest() {
            self.release_memtables();
        }
    }

    /// Has nobody written for a moment?
    pub(crate) fn is_at_rest(&self) -> bool {
        self.quiet_for() >= MEMORY_REST
    }

    /// Gives the memory that is kept for the next memtable back to the system.
    pub(crate) fn release_memtables(&self) {
        self.default.memtables.release();
        self.update_throttle();
    }

    /// Many keyspaces may fill the memory together without any of them filling its own memtable:
    /// then the largest is sealed before writers are slowed down, or stopped.
    pub(crate) fn look_at_memory(&self) {
        let states = self.keyspaces.all();
        let used: usize = states.iter().map(|state| state.memtable_bytes().1).sum();
        if used >= self.memtables_limit() / 2 {
            self.seal_largest();
        }
        self.update_throttle();
    }

    /// Bytes that all memtables together may take.
    pub(crate) fn memtables_limit(&self) -> usize {
        self.config.memory_budget / 2
    }

    /// Seals the largest active memtable, unless sealed ones wait for their flush already.
    fn seal_largest(&self) {
        let append = self.commit.append_lock();
        let states = self.keyspaces.all();
        if states.iter().all(|state| state.sealed_count() == 0)
            && let Some(largest) = states.iter().max_by_key(|state| state.memtable_bytes().0)
        {
            largest.seal(append.last_seqno());
        }
        drop(append);
        self.jobs.notify_flush();
    }

    /// Seals every active memtable.
    pub(crate) fn seal_all(&self) {
        let append = self.commit.append_lock();
        for state in self.keyspaces.all() {
            state.seal(append.last_seqno());
        }
        drop(append);
        self.jobs.notify_flush();
    }
}

/// Where `x` stands between `slow` (0) and `most` (1).
fn ratio(x: f64, slow: f64, most: f64) -> f64 {
    ((x - slow) / (most - slow)).clamp(0.0, 1.0)
}
