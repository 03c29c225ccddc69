//! THE write path. A put is a batch of one; every batch goes through [`Core::commit`].
//!
//! ```text
//! 1 throttle   wait for room, in proportion to compaction's debt
//! 2 append     under the append lock: take sequence numbers, write the batch to the log
//! 3 apply      insert into the memtables, side by side with other writers
//! 4 sync       (Durability::Sync) one leader syncs for everybody whose record is written
//! 5 publish    make the batch visible, in the order of sequence numbers
//! ```
//!
//! *One record, one write.* A record goes to its place in the log when it gets it. For a batch that
//! nobody syncs at once that is a copy into a mapping, where the file system has it, and otherwise a
//! system call. There is nothing to flush, and no leader, before a sync.
//!
//! *Groups.* A writer that needs a sync, and finds that one is running, waits with its batch among
//! those that are ready; whoever of the waiting is first to notice that it has ended is the next
//! leader, and syncs for all, once those are back that the sync before has let go (`group`). Who
//! syncs also publishes what is durable now, and wakes everybody at once.
//!
//! *Invariants.*
//! - C1: sequence numbers are given out in the order in which records stand in the log.
//! - C2: `visible` moves over a batch only after the batch is applied, and as durable as it asked to
//!   be, and every earlier batch is visible. So readers see whole batches and a prefix of them.
//! - C3: after a failed write or sync `visible` never moves past what failed ([`Health`]): that and
//!   all behind it is neither acknowledged nor seen.
//! - C4: whatever can fail without doubt about the outcome (room in the log, dropped keyspaces)
//!   fails in step 2 before a sequence number is taken.
//! - C5: a log segment is synced before any later one counts as synced.
//!
//! [`Health`]: crate::engine::health::Health

use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Release;
use std::time::Duration;

use crate::base::batch::Batch;
use crate::base::batch::Op;
use crate::base::batch::Ops;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::key::Trailer;
use crate::base::options::Durability;
use crate::base::planted::Planted;
use crate::base::seqno::SeqNo;
use crate::base::sync::Condvar;
use crate::base::sync::Mutex;
use crate::base::sync::MutexGuard;
use crate::base::sync::atomic::AtomicU64;
use crate::base::sync::spin_until;
use crate::base::value::ValueKind;
use crate::base::value::expiry_of;
use crate::engine::Core;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::keyspaces::ReadView;
use crate::wal::LogWriter;
use crate::wal::SyncTask;

mod ahead;
mod append;
mod checked;
mod folded;
mod follow;
mod group;
mod segments;

use append::Append;
use append::Appended;
pub(crate) use checked::Claim;
pub(crate) use checked::Footprint;
pub(crate) use folded::Turns;
use folded::must_fold;
use follow::Following;
pub(crate) use follow::Offer;
use group::Group;
use group::Leader;
pub(crate) use segments::History;
pub(crate) use segments::LogSegment;
pub(crate) use segments::SegmentEnd;

/// What one write asked for; `None` is the database's default.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WriteMode {
    pub(crate) durability: Option<Durability>,
    pub(crate) deadline: Option<Duration>,
}

/// The shared state of the write path. For the order of its locks see [`crate::engine`].
#[derive(Debug)]
pub(crate) struct CommitState {
    append: Mutex<Append>,
    /// The log lane has ended its work on a spare segment.
    spare_ended: Condvar,
    /// Last sequence number whose record is on stable storage.
    synced: AtomicU64,
    /// Last sequence number that readers see.
    visible: Arc<AtomicU64>,
    publish: Mutex<Publish>,
    /// More is visible or synced, a leader has ended, or `Health` has changed.
    published: Condvar,
    /// What a change feed waits for is there, or `Health` has changed.
    followed: Condvar,
}

#[derive(Debug, Default)]
struct Publish {
    /// Batches that are applied but wait, for an earlier one or a sync, by their first number.
    ready: BTreeMap<u64, Ready>,
    /// Threads that wait.
    waiting: usize,
    /// Threads that wait until something is applied, visible or not.
    waiting_for_applied: usize,
    /// A leader syncs the log.
    is_syncing: bool,
    group: Group,
    /// What change feeds wait for.
    following: Following,
}

#[derive(Clone, Copy, Debug)]
struct Ready {
    last: u64,
    /// What must be synced before it is published; 0: nothing.
    needs_synced: u64,
}

impl Publish {
    /// Up to where everything is in the memtables, if it is `visible` up to there.
    fn applied(&self, visible: u64) -> u64 {
        let ready = self.ready.range(visible + 1..);
        ready.fold(
            visible,
            |last, (first, ready)| if *first == last + 1 { ready.last } else { last },
        )
    }
}

impl CommitState {
    /// Everything up to the end of `log` is durable and visible.
    pub(crate) fn new(
        log: LogWriter,
        segments: VecDeque<LogSegment>,
        history: History,
    ) -> CommitState {
        let last = log.end().seqno.get();
        CommitState {
            append: Mutex::new(Append::new(log, segments, history)),
            spare_ended: Condvar::new(),
            synced: AtomicU64::new(last),
            visible: Arc::new(AtomicU64::new(last)),
            publish: Mutex::new(Publish::default()),
            published: Condvar::new(),
            followed: Condvar::new(),
        }
    }

    pub(crate) fn visible(&self) -> &AtomicU64 {
        &self.visible
    }

    pub(crate) fn append_lock(&self) -> MutexGuard<'_, Append> {
        self.append.lock()
    }

    /// Returns when no writer is in the middle of a step any more. Requires: `Health` lets none
    /// begin one.
    pub(crate) fn drain(&self) {
        let mut publish = self.publish.lock();
        while publish.is_syncing {
            self.wait(&mut publish);
        }
        drop(publish);
        drop(self.append.lock());
    }

    fn wait(&self, publish: &mut MutexGuard<'_, Publish>) {
        publish.waiting += 1;
        self.published.wait(publish);
        publish.waiting -= 1;
    }

    /// Moves `visible` over what is ready, and wakes who waits for it.
    fn advance(&self, publish: &mut Publish) {
        let before = self.visible.load(Acquire);
        let synced = self.synced.load(Acquire);
        let mut visible = before;
        while let Some(entry) = publish.ready.first_entry()
            && *entry.key() == visible + 1
            && entry.get().needs_synced <= synced
        {
            visible = entry.remove().last;
        }
        if visible > before {
            self.visible.store(visible, Release);
        }
    }

    /// Wakes all that wait. Requires: the lock, by which they learn what has changed.
    fn wake(&self, publish: &mut Publish) {
        if publish.waiting > 0 {
            self.published.notify_all();
        }
        if publish.following.anybody() {
            self.wake_followers(publish);
        }
    }

    /// Wakes writers that wait for their turn to publish, after `Health` has failed.
    pub(crate) fn wake_all(&self) {
        drop(self.publish.lock());
        self.published.notify_all();
        self.followed.notify_all();
    }
}

thread_local! {
    /// The batch of a single put, kept so that its memory is. Taken out while it is used: a file
    /// system or clock of the caller's may write to a database on the same thread.
    static SCRATCH: Cell<Batch> = Cell::default();
}

/// A scratch batch larger than this is not kept.
const SCRATCH_BYTES_MAX: usize = 64 * 1024;

/// Runs `write` with a batch of one operation.
fn with_batch_of<T>(op: Op<'_>, write: impl FnOnce(&mut Batch) -> T) -> T {
    // A thread that ends has no scratch any more.
    let mut batch = SCRATCH.try_with(Cell::take).unwrap_or_default();
    batch.clear();
    batch.push(op);
    let result = write(&mut batch);
    if batch.bytes().len() <= SCRATCH_BYTES_MAX {
        let _ = SCRATCH.try_with(|scratch| scratch.set(batch));
    }
    result
}

/// Inserts an operation into the active memtable of its keyspace.
#[inline]
fn apply_op(state: &KeyspaceState, view: &ReadView, seqno: SeqNo, op: Op<'_>) {
    if op.kind == ValueKind::Expiring {
        state.note_expiry(expiry_of(op.value));
    }
    if op.kind != ValueKind::Delete {
        state.dead.note_write(op.key);
    }
    view.active.insert(op.key, Trailer::new(seqno, op.kind), op.value);
}

impl Core {
    /// Last sequence number that readers see.
    pub(crate) fn visible(&self) -> SeqNo {
        SeqNo::new(self.commit.visible.load(Acquire))
    }

    /// Writes one operation.
    pub(crate) fn commit_one(
        &self,
        state: &Arc<KeyspaceState>,
        kind: ValueKind,
        key: &[u8],
        value: &[u8],
    ) -> Result<()> {
        let op = Op { kind, keyspace: state.id, key, value };
        with_batch_of(op, |batch| {
            let (keyspaces, mode) = (std::slice::from_ref(state), WriteMode::default());
            if kind == ValueKind::Merge {
                return self.commit(batch, keyspaces, mode);
            }
            let append = |batch: &mut Batch, sync| self.append_freely(batch, keyspaces, sync);
            // As `apply`, without a look at the batch's bytes.
            let apply = |_: &Batch, appended: &Appended| {
                apply_op(state, &appended.head, SeqNo::new(appended.first), op);
                Ok(())
            };
            self.commit_by(batch, mode, append, apply).map(drop)
        })
    }

    /// Writes a batch whose operations go to `keyspaces`.
    pub(crate) fn commit(
        &self,
        batch: &mut Batch,
        keyspaces: &[Arc<KeyspaceState>],
        mode: WriteMode,
    ) -> Result<()> {
        if batch.is_empty() {
            return self.health.check_writable();
        }
        if must_fold(batch, keyspaces) {
            return self.commit_folded(batch, keyspaces, mode, None);
        }
        let append = |batch: &mut Batch, sync| self.append_freely(batch, keyspaces, sync);
        let apply = |batch: &Batch, appended: &Appended| self.apply(batch, keyspaces, appended);
        match self.commit_by(batch, mode, append, apply) {
            // One of the keyspaces has begun to fold what is written.
            Err(Error::Conflict) => self.commit_folded(batch, keyspaces, mode, None),
            written => written.map(drop),
        }
    }

    /// Writes a batch that is not empty, step 2 being `append` (is a sync to follow at once?), and
    /// step 3 `apply`. Its last sequence number.
    #[inline]
    fn commit_by(
        &self,
        batch: &mut Batch,
        mode: WriteMode,
        append: impl FnOnce(&mut Batch, bool) -> Result<Appended>,
        apply: impl FnOnce(&Batch, &Appended) -> Result<()>,
    ) -> Result<SeqNo> {
        let durability = mode.durability.unwrap_or(self.config.durability);
        let began = (durability == Durability::Sync).then(|| self.clock.monotonic());
        self.wait_for_room(batch.bytes().len(), mode.deadline.or(self.config.write_deadline))?;
        let appended = append(batch, durability == Durability::Sync)?;
        apply(batch, &appended)?;
        let mut needs_synced = 0;
        match durability {
            Durability::Sync if Planted::AckedBeforeSynced.is_on() => {}
            Durability::Sync => needs_synced = appended.last,
            Durability::Interval(interval) => self.sync_within(interval)?,
            Durability::Os => {}
        }
        self.publish(appended.first, Ready { last: appended.last, needs_synced })?;
        if let Some(began) = began {
            self.metrics.sync_latency.record(self.clock.monotonic().saturating_sub(began));
        }
        Ok(SeqNo::new(appended.last))
    }

    /// Step 2 of a batch that may follow whatever there is.
    #[inline]
    fn append_freely(
        &self,
        batch: &mut Batch,
        keyspaces: &[Arc<KeyspaceState>],
        sync_follows: bool,
    ) -> Result<Appended> {
        let appended = self.append(batch, keyspaces, sync_follows, |_| Ok(true))?;
        appended.ok_or_else(|| Error::internal("a batch was refused that asked for nothing"))
    }

    /// Step 3.
    fn apply(
        &self,
        batch: &Batch,
        keyspaces: &[Arc<KeyspaceState>],
        appended: &Appended,
    ) -> Result<()> {
        for (seqno, op) in (appended.first..).zip(Ops::new(batch.bytes())) {
            let index = op.ok().and_then(|op| {
                keyspaces.iter().position(|state| state.id == op.keyspace).map(|at| (at, op))
            });
            let Some((at, op)) = index else {
                // The record is in the log already: nothing may follow it.
                let error = Error::internal("a batch names a keyspace that it does not hold");
                return Err(self.fail(error));
            };
            let view = if at == 0 { &appended.head } else { &appended.rest[at - 1] };
            apply_op(&keyspaces[at], view, SeqNo::new(seqno), op);
        }
        Ok(())
    }

    /// Makes the log durable as far as it is written. Requires: this is the leader, or no other
    /// thread writes.
    pub(crate) fn sync_written(&self) -> Result<()> {
        let task = self.commit.append.lock().log.begin_sync();
        self.run_sync(&task)
    }

    fn run_sync(&self, task: &SyncTask) -> Result<()> {
        let mut synced = task.run();
        if Planted::SyncRetried.is_on() && synced.is_err() {
            synced = task.run();
        }
        if let Err(error) = synced {
            return Err(self.fail(error));
        }
        self.metrics.syncs.add(1);
        let durable = self.commit.append.lock().log.finish_sync(task);
        self.commit.synced.store(durable.seqno.get(), Release);
        Ok(())
    }

    /// Makes durable what was written to the log, the headers of segments without records too.
    pub(crate) fn sync_headers(&self) -> Result<()> {
        let commit = &self.commit;
        let mut publish = commit.publish.lock();
        while publish.is_syncing {
            commit.wait(&mut publish);
        }
        let leader = Leader::new(self, &mut publish)?;
        drop(publish);
        let synced = self.sync_written();
        drop(leader);
        synced
    }

    /// Steps 4 and 5.
    #[inline]
    fn publish(&self, first: u64, ready: Ready) -> Result<()> {
        let commit = &self.commit;
        let is_next = || commit.visible.load(Acquire) + 1 == first;
        if ready.needs_synced == 0 {
            // The earlier one is being applied, most likely.
            spin_until(is_next);
        }
        let mut publish = commit.publish.lock();
        if is_next() && ready.needs_synced <= commit.synced.load(Acquire) {
            commit.visible.store(ready.last, Release);
            commit.advance(&mut publish);
            commit.wake(&mut publish);
            return Ok(());
        }
        publish.ready.insert(first, ready);
        if publish.waiting_for_applied > 0 {
            commit.published.notify_all();
        }
        let is_visible = || commit.visible.load(Acquire) >= ready.last;
        let (mut publish, result) = self.wait_for(publish, is_visible, ready.needs_synced);
        if result.is_err() {
            // It is not acknowledged, so no slower writer may make it visible.
            publish.ready.remove(&first);
        }
        result
    }

    /// Waits until `is_done`, or until it never will be. If that takes a sync up to `needs_synced`,
    /// and nobody is at one, leads it.
    fn wait_for<'a>(
        &'a self,
        mut publish: MutexGuard<'a, Publish>,
        is_done: impl Fn() -> bool,
        needs_synced: u64,
    ) -> (MutexGuard<'a, Publish>, Result<()>) {
        let commit = &self.commit;
        let mut has_gathered = false;
        loop {
            if is_done() {
                return (publish, Ok(()));
            }
            if let Err(error) = self.health.check_writable() {
                return (publish, Err(error));
            }
            let is_led = publish.is_syncing || publish.is_gathering();
            if is_led || commit.synced.load(Acquire) >= needs_synced {
                commit.wait(&mut publish);
                continue;
            }
            if !has_gathered && commit.gather(&mut publish) {
                has_gathered = true;
                continue;
            }
            let leader = match Leader::new(self, &mut publish) {
                Ok(leader) => leader,
                Err(error) => return (publish, Err(error)),
            };
            drop(publish);
            let synced = self.sync_written();
            drop(leader);
            publish = commit.publish.lock();
            if synced.is_err() {
                return (publish, synced);
            }
        }
    }

    /// Waits until everything up to `last`, which is written, is on stable storage.
    fn sync_up_to(&self, last: u64) -> Result<()> {
        let is_synced = || self.commit.synced.load(Acquire) >= last;
        if is_synced() {
            return Ok(());
        }
        self.wait_for(self.commit.publish.lock(), is_synced, last).1
    }

    /// Last sequence number whose record is on stable storage.
    pub(crate) fn synced(&self) -> SeqNo {
        SeqNo::new(self.commit.synced.load(Acquire))
    }

    /// Makes everything that is visible now durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.health.check_writable()?;
        self.sync_log(self.visible())
    }

    /// Makes everything that was written durable, visible or not: a writer whose sync is due may
    /// still wait for an earlier one before it is visible, and plans no other.
    pub(crate) fn sync_due_writes(&self) -> Result<()> {
        self.health.check_writable()?;
        let written = self.commit.append.lock().last;
        self.sync_up_to(written)
    }

    /// Waits until everything up to `last` is visible: then it is applied as well.
    pub(crate) fn wait_visible(&self, last: SeqNo) -> Result<()> {
        let is_visible = || self.visible() >= last;
        self.wait_for(self.commit.publish.lock(), is_visible, 0).1
    }

    /// Waits until everything up to `last`, which is in the log, is applied, visible or not. What is
    /// applied is visible, or ready and waits.
    fn wait_applied(&self, last: u64) -> Result<()> {
        let commit = &self.commit;
        let is_visible = || commit.visible.load(Acquire) >= last;
        spin_until(is_visible);
        if is_visible() {
            return Ok(());
        }
        let mut publish = commit.publish.lock();
        while publish.applied(commit.visible.load(Acquire)) < last {
            self.health.check_writable()?;
            publish.waiting_for_applied += 1;
            commit.wait(&mut publish);
            publish.waiting_for_applied -= 1;
        }
        Ok(())
    }

    /// Makes the log durable up to `last`, which is visible.
    pub(crate) fn sync_log(&self, last: SeqNo) -> Result<()> {
        self.sync_up_to(last.get())
    }

    /// Turns the database read-only because of `error`, and returns it.
    pub(crate) fn fail(&self, error: Error) -> Error {
        self.health.fail(&error);
        self.commit.wake_all();
        self.jobs.notify_all();
        error
    }
}
