//! Which job runs next, and what is running.
//!
//! Three lanes, so that none can starve another: the log lane prepares segments and memory for
//! blocks, syncs at intervals and gives back the space of a log that is not needed; the flush lane
//! writes memtables; the compaction lane has the other threads. A manual request goes before what
//! the picker would choose.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;
use std::time::Duration;

use crate::base::error::Error;
use crate::base::ids::FileId;
use crate::base::ids::KeyspaceId;
use crate::base::sync::Condvar;
use crate::base::sync::Mutex;
use crate::base::sync::atomic::AtomicU64;
use crate::compaction::picker;
use crate::compaction::picker::PickContext;
use crate::compaction::plan::Plan;
use crate::engine::Core;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::keyspaces::Sealed;

/// What is running and what was asked for.
#[derive(Debug)]
pub(crate) struct Jobs {
    state: Mutex<JobState>,
    flush_wanted: Condvar,
    compaction_wanted: Condvar,
    log_wanted: Condvar,
    /// Signalled whenever a job ends.
    progress: Condvar,
    /// How many callers wait for the inputs of a job.
    hurrying: AtomicU64,
    /// When the interval sync is due, in ns of the monotonic clock; [`NO_SYNC`] if none is planned.
    /// Changed under the lock; read without, since every write asks.
    sync_due_ns: AtomicU64,
}

const NO_SYNC: u64 = u64::MAX;

#[derive(Debug, Default)]
struct JobState {
    busy: HashSet<FileId>,
    flushing: HashSet<KeyspaceId>,
    running: usize,
    /// The log is being made smaller.
    shrinking: bool,
    /// No job begins any more.
    closing: bool,
    /// Bumped whenever there may be new work, so that a lane never sleeps over it.
    epoch: u64,
    /// Bumped whenever `progress` is signalled, so that nobody sleeps over it.
    progress: u64,
    /// How the last job of each lane ended, and how many failed.
    outcomes: [Outcome; 3],
}

#[derive(Debug, Default)]
struct Outcome {
    /// The last job failed with this, and is tried again.
    error: Option<Error>,
    failures: u64,
}

impl JobState {
    /// Did the last job of the lane find the disk full?
    fn is_space_scarce(&self, lane: Lane) -> bool {
        let failed = self.outcomes[lane as usize].error.as_ref();
        failed.and_then(Error::io_kind).is_some_and(|kind| {
            matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        })
    }
}

/// A lane of the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Log,
    Flush,
    Compaction,
}

/// A flush that may run; its keyspace is marked until this is dropped.
pub(crate) struct FlushJob<'a> {
    pub(crate) state: Arc<KeyspaceState>,
    /// Oldest first.
    pub(crate) sealed: Vec<Sealed>,
    jobs: &'a Jobs,
}

/// A compaction that may run.
pub(crate) struct CompactionJob<'a> {
    pub(crate) state: Arc<KeyspaceState>,
    pub(crate) plan: Plan,
    pub(crate) claim: Claim<'a>,
    pub(crate) running: Running<'a>,
}

/// Marks the inputs of a compaction as busy until it is dropped.
pub(crate) struct Claim<'a> {
    files: Vec<FileId>,
    jobs: &'a Jobs,
}

/// Counts as a job that runs until it is dropped: longer than the claim, since removing what a
/// compaction has replaced is work too.
pub(crate) struct Running<'a>(&'a Jobs);

/// The log may be made smaller, by nobody else until this is dropped.
pub(crate) struct ShrinkJob<'a>(&'a Jobs);

impl Drop for ShrinkJob<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.shrinking = false;
        self.0.ended(&mut state);
    }
}

impl Drop for FlushJob<'_> {
    fn drop(&mut self) {
        let mut state = self.jobs.state.lock();
        state.flushing.remove(&self.state.id);
        self.jobs.ended(&mut state);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.jobs.state.lock();
        for id in &self.files {
            state.busy.remove(id);
        }
        state.epoch += 1;
        self.jobs.compaction_wanted.notify_all();
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.ended(&mut self.0.state.lock());
    }
}

impl Jobs {
    fn ended(&self, state: &mut JobState) {
        state.running -= 1;
        state.epoch += 1;
        state.progress += 1;
        self.flush_wanted.notify_all();
        self.compaction_wanted.notify_all();
        self.progress.notify_all();
    }

    /// Claims the log for a [`ShrinkJob`], unless somebody has it or the database closes.
    pub(crate) fn begin_shrink(&self) -> Option<ShrinkJob<'_>> {
        let mut state = self.state.lock();
        if state.closing || state.shrinking {
            return None;
        }
        state.shrinking = true;
        state.running += 1;
        Some(ShrinkJob(self))
    }

    fn condvar(&self, lane: Lane) -> &Condvar {
        match lane {
            Lane::Log => &self.log_wanted,
            Lane::Flush => &self.flush_wanted,
            Lane::Compaction => &self.compaction_wanted,
        }
    }

    fn notify(&self, lane: Lane) {
        self.state.lock().epoch += 1;
        self.condvar(lane).notify_all();
    }

    pub(crate) fn notify_flush(&self) {
        self.notify(Lane::Flush);
    }

    pub(crate) fn notify_compaction(&self) {
        self.notify(Lane::Compaction);
    }

    pub(crate) fn notify_log(&self) {
        self.notify(Lane::Log);
    }

    pub(crate) fn notify_all(&self) {
        {
            let mut state = self.state.lock();
            state.epoch += 1;
            state.progress += 1;
        }
        for lane in [Lane::Log, Lane::Flush, Lane::Compaction] {
            self.condvar(lane).notify_all();
        }
        self.progress.notify_all();
    }

    pub(crate) fn close(&self) {
        self.state.lock().closing = true;
        self.notify_all();
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.state.lock().closing
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.state.lock().epoch
    }

    /// Sleeps until there may be work that was not there at `epoch`, at most `limit`. False when
    /// the database closes.
    pub(crate) fn wait_for_work(&self, lane: Lane, epoch: u64, limit: Duration) -> bool {
        let mut state = self.state.lock();
        if state.epoch == epoch && !state.closing {
            self.condvar(lane).wait_for(&mut state, limit);
        }
        !state.closing
    }

    /// How often there was progress so far: taken before a caller looks whether it must wait.
    pub(crate) fn progress(&self) -> u64 {
        self.state.lock().progress
    }

    /// Sleeps until a job has ended that had not at `seen`, at most `limit`.
    pub(crate) fn wait_for_progress(&self, seen: u64, limit: Duration) {
        let mut state = self.state.lock();
        if state.progress == seen {
            self.progress.wait_for(&mut state, limit);
        }
    }

    /// As [`Jobs::wait_for_progress`], and jobs that give way to others do so no longer.
    pub(crate) fn hurry_progress(&self, seen: u64, limit: Duration) {
        self.hurrying.fetch_add(1, Relaxed);
        self.wait_for_progress(seen, limit);
        self.hurrying.fetch_sub(1, Relaxed);
    }

    /// Does a caller wait for a job?
    pub(crate) fn is_hurried(&self) -> bool {
        self.hurrying.load(Relaxed) > 0
    }

    /// Returns when no job runs, on threads of ours or of callers.
    pub(crate) fn wait_until_idle(&self) {
        let mut state = self.state.lock();
        while state.running > 0 {
            self.progress.wait(&mut state);
        }
    }

    pub(crate) fn running(&self) -> usize {
        self.state.lock().running
    }

    /// Did the last job of the lane find the disk full?
    pub(crate) fn is_space_scarce(&self, lane: Lane) -> bool {
        self.state.lock().is_space_scarce(lane)
    }

    /// What the last job of the lane failed with, if it did.
    pub(crate) fn error(&self, lane: Lane) -> Option<Error> {
        self.state.lock().outcomes[lane as usize].error.clone()
    }

    /// What the last job of the lane failed with, if more than `failures` have.
    pub(crate) fn error_since(&self, lane: Lane, failures: u64) -> Option<Error> {
        let state = self.state.lock();
        let outcome = &state.outcomes[lane as usize];
        if outcome.failures > failures { outcome.error.clone() } else { None }
    }

    /// How many jobs of the lane have failed so far.
    pub(crate) fn failures(&self, lane: Lane) -> u64 {
        self.state.lock().outcomes[lane as usize].failures
    }

    /// Notes how a job of the lane ended.
    pub(crate) fn set_error(&self, lane: Lane, error: Option<Error>) {
        let mut state = self.state.lock();
        state.progress += 1;
        let outcome = &mut state.outcomes[lane as usize];
        outcome.failures += u64::from(error.is_some());
        outcome.error = error;
        drop(state);
        self.progress.notify_all();
    }

    /// Moves the next interval sync forward to `due`, if it is later or not planned.
    ///
    /// Who takes the plan syncs what was appended by then. A writer that still sees it appended
    /// before that: the append lock is between the two.
    pub(crate) fn plan_sync(&self, due: Duration) {
        let due_ns = u64::try_from(due.as_nanos()).unwrap_or(NO_SYNC - 1);
        if self.sync_due_ns.load(Acquire) <= due_ns {
            return;
        }
        let mut state = self.state.lock();
        if self.sync_due_ns.load(Acquire) > due_ns {
            self.sync_due_ns.store(due_ns, Release);
            state.epoch += 1;
            self.log_wanted.notify_all();
        }
    }

    pub(crate) fn sync_due(&self) -> Option<Duration> {
        let due = self.sync_due_ns.load(Acquire);
        (due != NO_SYNC).then(|| Duration::from_nanos(due))
    }

    /// Takes the planned sync if it is due.
    pub(crate) fn take_due_sync(&self, now: Duration) -> bool {
        let _state = self.state.lock();
        let is_due = self.sync_due().is_some_and(|due| due <= now);
        if is_due {
            self.sync_due_ns.store(NO_SYNC, Release);
        }
        is_due
    }
}

impl Default for Jobs {
    fn default() -> Jobs {
        Jobs {
            state: Mutex::default(),
            flush_wanted: Condvar::default(),
            compaction_wanted: Condvar::default(),
            log_wanted: Condvar::default(),
            progress: Condvar::default(),
            hurrying: AtomicU64::new(0),
            sync_due_ns: AtomicU64::new(NO_SYNC),
        }
    }
}

impl Core {
    /// The next flush, if any memtable waits: of the keyspace whose oldest one began first, since
    /// that holds up the log.
    pub(crate) fn next_flush(&self) -> Option<FlushJob<'_>> {
        self.seal_expired();
        let mut jobs = self.jobs.state.lock();
        if jobs.closing {
            return None;
        }
        let mut best: Option<(Arc<KeyspaceState>, Vec<Sealed>)> = None;
        for state in self.keyspaces.all() {
            if jobs.flushing.contains(&state.id) {
                continue;
            }
            let sealed = state.sealed();
            let Some(first) = sealed.first().map(|sealed| sealed.first) else { continue };
            if best.as_ref().is_none_or(|(_, best)| best.first().is_some_and(|b| first < b.first)) {
                best = Some((state, sealed));
            }
        }
        let (state, mut sealed) = best?;
        if jobs.is_space_scarce(Lane::Flush) {
            // All of them together may need more room than there is.
            sealed.truncate(1);
        }
        jobs.flushing.insert(state.id);
        jobs.running += 1;
        drop(jobs);
        Some(FlushJob { state, sealed, jobs: &self.jobs })
    }

    /// The next compaction, if any is due and none of its inputs is busy; else one that reads have
    /// paid for, unless callers drive the jobs: what they get must not depend on time.
    pub(crate) fn next_compaction(&self) -> Option<CompactionJob<'_>> {
        let due = self.due_compaction();
        if due.is_none() && !self.is_manual() { self.next_paid_compaction() } else { due }
    }

    fn due_compaction(&self) -> Option<CompactionJob<'_>> {
        for state in self.keyspaces.all() {
            let version = state.view_full().version.clone();
            if let Err(error) = version.open_ranged() {
                tracing::warn!(%error, "what range tombstones hide stays for now");
            }
        }
        self.claim(|context| {
            let mut best: Option<(u64, Arc<KeyspaceState>, Plan)> = None;
            for state in self.keyspaces.all() {
                let version = state.view_full().version.clone();
                if let Some(plan) = picker::pick(&version, context) {
                    let debt = picker::debt_bytes(&version, context.base_bytes);
                    if best.as_ref().is_none_or(|(most, ..)| debt > *most) {
                        best = Some((debt, state, plan));
                    }
                }
            }
            best.map(|(_, state, plan)| (state, plan))
        })
    }

    /// Lets `choose` pick a plan while nobody else can, and marks its inputs.
    pub(crate) fn claim(
        &self,
        choose: impl FnOnce(&PickContext<'_>) -> Option<(Arc<KeyspaceState>, Plan)>,
    ) -> Option<CompactionJob<'_>> {
        let expired_ms = self.expired_ms();
        let mut jobs = self.jobs.state.lock();
        if jobs.closing {
            return None;
        }
        let age_ms = u64::try_from(self.config.tombstone_age.as_millis()).unwrap_or(u64::MAX);
        let context = PickContext {
            base_bytes: self.base_bytes(),
            busy: &jobs.busy,
            expire_before_ms: self.clock.wall_ms().saturating_sub(age_ms),
            is_space_scarce: jobs.is_space_scarce(Lane::Compaction),
            snapshots: &|| self.snapshots.list(),
            expired_ms,
            tombstone_age_ms: age_ms,
        };
        let (state, plan) = choose(&context)?;
        let files: Vec<FileId> = plan.input_ids().collect();
        jobs.busy.extend(&files);
        jobs.running += 1;
        drop(jobs);
        let jobs = &self.jobs;
        Some(CompactionJob { state, plan, claim: Claim { files, jobs }, running: Running(jobs) })
    }

    /// The size up to which a level may be where level 0 is compacted to: some memtables, or a few
    /// times what level 0 holds when it is due, since files are smaller than the memtables that they
    /// come from. A level in between would be smaller than level 0, and each byte be merged twice.
    pub(crate) fn base_bytes(&self) -> u64 {
        (self.config.memtable_bytes * picker::L0_TRIGGER_MOST) as u64
    }
}
