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
//! *Groups form by themselves.* A writer that needs a sync, and finds that one is running, waits
//! with its batch among those that are ready; whoever of the waiting is first to notice that it has
//! ended is the next leader, and syncs for all. Who syncs also publishes what is durable now, and
//! wakes everybody at once.
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

use arc_swap::Guard;

use crate::base::batch::Batch;
use crate::base::batch::Op;
use crate::base::batch::Ops;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::FileId;
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
use crate::engine::Core;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::keyspaces::ReadView;
use crate::wal::LogWriter;
use crate::wal::PreparedSegment;
use crate::wal::segment_bytes_for;

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
    /// Last sequence number whose record is on stable storage.
    synced: AtomicU64,
    /// Last sequence number that readers see.
    visible: Arc<AtomicU64>,
    publish: Mutex<Publish>,
    /// More is visible or synced, a leader has ended, or `Health` has changed.
    published: Condvar,
}

#[derive(Debug)]
pub(crate) struct Append {
    log: LogWriter,
    /// Last sequence number given out.
    last: u64,
    /// Ready for when the active segment is full.
    spare: Option<PreparedSegment>,
    /// The log lane was asked for a spare since the active segment was started.
    spare_asked: bool,
    /// Bytes that memtables have grown by, about, since somebody looked at their sum.
    grown_bytes: usize,
    written: Written,
    /// Every segment that recovery would read, oldest first; the last one is active.
    segments: VecDeque<LogSegment>,
}

/// What was written since the database was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    pub(crate) batches: u64,
    pub(crate) batch_bytes: u64,
}

/// A segment of the log.
#[derive(Clone, Debug)]
pub(crate) struct LogSegment {
    pub(crate) id: FileId,
    pub(crate) first: SeqNo,
    /// Known once a later segment has been started.
    pub(crate) last: Option<SeqNo>,
    pub(crate) bytes: u64,
}

#[derive(Debug, Default)]
struct Publish {
    /// Batches that are applied but wait, for an earlier one or a sync, by their first number.
    ready: BTreeMap<u64, Ready>,
    /// Threads that wait.
    waiting: usize,
    /// A leader syncs the log.
    is_syncing: bool,
}

#[derive(Clone, Copy, Debug)]
struct Ready {
    last: u64,
    /// What must be synced before it is published; 0: nothing.
    needs_synced: u64,
}

impl CommitState {
    /// Everything up to the end of `log` is durable and visible.
    pub(crate) fn new(log: LogWriter, segments: VecDeque<LogSegment>) -> CommitState {
        let last = log.end().seqno.get();
        CommitState {
            append: Mutex::new(Append {
                log,
                last,
                spare: None,
                spare_asked: false,
                grown_bytes: 0,
                written: Written::default(),
                segments,
            }),
            synced: AtomicU64::new(last),
            visible: Arc::new(AtomicU64::new(last)),
            publish: Mutex::new(Publish::default()),
            published: Condvar::new(),
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
    fn wake(&self, publish: &Publish) {
        if publish.waiting > 0 {
            self.published.notify_all();
        }
    }

    /// Wakes writers that wait for their turn to publish, after `Health` has failed.
    pub(crate) fn wake_all(&self) {
        drop(self.publish.lock());
        self.published.notify_all();
    }
}

impl Append {
    /// Begins `prepared` as the active segment. Requires: everything up to `durable` is durable.
    /// After an error the log must not be written to any more.
    pub(crate) fn start(&mut self, prepared: PreparedSegment, durable: SeqNo) -> Result<()> {
        let (id, bytes) = (prepared.id(), prepared.bytes());
        let first = SeqNo::new(self.last + 1);
        self.log.start_segment(prepared, first, durable)?;
        if let Some(active) = self.segments.back_mut() {
            active.last = Some(SeqNo::new(self.last));
        }
        self.segments.push_back(LogSegment { id, first, last: None, bytes });
        self.spare_asked = false;
        Ok(())
    }

    pub(crate) fn written(&self) -> Written {
        self.written
    }

    /// Bytes written to the log since the database was opened.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.log.end().position.0
    }

    pub(crate) fn last_seqno(&self) -> SeqNo {
        SeqNo::new(self.last)
    }

    /// Is it time to prepare the next segment?
    pub(crate) fn wants_spare(&self) -> bool {
        self.spare_asked && self.spare.is_none()
    }

    /// Bytes that the next segment should have, unless it is there already: twice as many as the
    /// active one, up to `most`. So a database that is written little stays small.
    pub(crate) fn spare_wanted(&self, most: u64) -> Option<u64> {
        let active = self.segments.back().map_or(0, |segment| segment.bytes);
        self.spare.is_none().then(|| (2 * active).min(most))
    }

    /// Takes a segment for later; gives it back if there is one already, or if a segment with a
    /// larger number was started while this one was prepared: numbers ascend along the log.
    pub(crate) fn offer_spare(&mut self, segment: PreparedSegment) -> Option<PreparedSegment> {
        let active = self.segments.back().map(|active| active.id);
        if self.spare.is_some() || active > Some(segment.id()) {
            return Some(segment);
        }
        self.spare = Some(segment);
        None
    }

    pub(crate) fn segments(&self) -> &VecDeque<LogSegment> {
        &self.segments
    }

    pub(crate) fn wal_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Is the active segment at least half full?
    fn is_half_full(&self) -> bool {
        let capacity = self.segments.back().map_or(0, |segment| segment.bytes);
        2 * self.log.active_bytes() >= capacity
    }

    /// Forgets the segments before `floor`, and returns them.
    pub(crate) fn cut(&mut self, floor: FileId) -> Vec<LogSegment> {
        let mut gone = Vec::new();
        while self.segments.len() > 1
            && self.segments.front().is_some_and(|segment| segment.id < floor)
        {
            gone.extend(self.segments.pop_front());
        }
        gone
    }
}

thread_local! {
    /// The batch of a single put, kept so that its memory is. Taken out while it is used: a file
    /// system or clock of the caller's may write to a database on the same thread.
    static SCRATCH: Cell<Batch> = Cell::default();
}

/// What an entry takes in a memtable besides its key and value, about.
const ENTRY_BYTES: usize = 64;
/// The sum of all memtables is looked at each time they have grown by this part of their limit.
const LOOKS_PER_LIMIT: usize = 16;
/// A scratch batch larger than this is not kept.
const SCRATCH_BYTES_MAX: usize = 64 * 1024;

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
        // A thread that ends has no scratch any more.
        let mut batch = SCRATCH.try_with(Cell::take).unwrap_or_default();
        batch.clear();
        batch.push(Op { kind, keyspace: state.id, key, value });
        let result = self.commit(&mut batch, std::slice::from_ref(state), WriteMode::default());
        if batch.bytes().len() <= SCRATCH_BYTES_MAX {
            let _ = SCRATCH.try_with(|scratch| scratch.set(batch));
        }
        result
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
        let durability = mode.durability.unwrap_or(self.config.durability);
        let began = (durability == Durability::Sync).then(|| self.clock.monotonic());
        self.wait_for_room(batch.bytes().len(), mode.deadline.or(self.config.write_deadline))?;
        let appended = self.append(batch, keyspaces, durability == Durability::Sync)?;
        self.apply(batch, keyspaces, &appended)?;
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
        Ok(())
    }

    /// Step 2. Sequence numbers, and the views whose active memtables take the batch.
    fn append(
        &self,
        batch: &mut Batch,
        keyspaces: &[Arc<KeyspaceState>],
        sync_follows: bool,
    ) -> Result<Appended> {
        let mut append = self.commit.append.lock();
        // Under the lock: what failed before us must not be followed by our record (C3).
        self.health.check_writable()?;
        for state in keyspaces {
            state.check_exists()?;
        }
        if !append.log.room_for(batch.bytes().len()) {
            self.start_segment(&mut append, batch.bytes().len())?;
        }
        let mut sealed = false;
        let (head, rest) = views(keyspaces, |state| {
            let view = state.view();
            if view.active.bytes() < self.config.memtable_bytes
                || !state.seal(append.last_seqno(), self.config.memtable_bytes)
            {
                return view;
            }
            sealed = true;
            state.view()
        });
        let first = append.last + 1;
        let pushed = append.log.push(SeqNo::new(first), self.synced(), batch, sync_follows);
        if let Err(error) = pushed {
            // Under the lock, as above.
            return Err(self.fail(error));
        }
        append.last += batch.len();
        let last = append.last;
        for state in keyspaces {
            state.note_append(SeqNo::new(first));
        }
        append.written.batches += 1;
        append.written.batch_bytes += batch.bytes().len() as u64;
        let ask_for_spare = !append.spare_asked && append.is_half_full();
        append.spare_asked |= ask_for_spare;
        append.grown_bytes += batch.bytes().len() + batch.len() as usize * ENTRY_BYTES;
        let look = append.grown_bytes >= self.memtables_limit() / LOOKS_PER_LIMIT;
        if look {
            append.grown_bytes = 0;
        }
        drop(append);
        if ask_for_spare {
            self.jobs.notify_log();
        }
        if sealed {
            self.jobs.notify_flush();
        }
        if look {
            self.look_at_memory();
        }
        Ok(Appended { first, last, head, rest })
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
            view.active.insert(op.key, Trailer::new(SeqNo::new(seqno), op.kind), op.value);
        }
        Ok(())
    }

    /// Makes the log durable as far as it is written. Requires: this is the leader, or no other
    /// thread writes.
    pub(crate) fn sync_written(&self) -> Result<()> {
        let task = self.commit.append.lock().log.begin_sync();
        let mut synced = task.run();
        if Planted::SyncRetried.is_on() && synced.is_err() {
            synced = task.run();
        }
        if let Err(error) = synced {
            return Err(self.fail(error));
        }
        self.metrics.syncs.add(1);
        let durable = self.commit.append.lock().log.finish_sync(&task);
        self.commit.synced.store(durable.seqno.get(), Release);
        Ok(())
    }

    /// Steps 4 and 5.
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
            commit.wake(&publish);
            return Ok(());
        }
        publish.ready.insert(first, ready);
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
        loop {
            if is_done() {
                return (publish, Ok(()));
            }
            if let Err(error) = self.health.check_writable() {
                return (publish, Err(error));
            }
            if publish.is_syncing || commit.synced.load(Acquire) >= needs_synced {
                commit.wait(&mut publish);
                continue;
            }
            let leader = Leader::new(commit, &mut publish);
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

    /// Makes the log durable up to `last`, which is visible.
    pub(crate) fn sync_log(&self, last: SeqNo) -> Result<()> {
        self.sync_up_to(last.get())
    }

    /// Begins a new log segment with room for a record of `payload` bytes (C4). Usually one is
    /// ready; otherwise this writer makes it.
    fn start_segment(&self, append: &mut Append, payload: usize) -> Result<()> {
        let wanted = append.spare_wanted(self.segment_bytes_max());
        let bytes = segment_bytes_for(payload, wanted.unwrap_or(0));
        let prepared = if let Some(spare) = append.spare.take_if(|spare| spare.bytes() >= bytes) {
            spare
        } else {
            let prepared = self.prepare_segment(bytes)?;
            if let Some(too_small) = append.spare.take() {
                self.remove_segment(too_small.id());
            }
            prepared
        };
        if self.config.mmap {
            prepared.map();
        }
        append.start(prepared, self.synced()).map_err(|error| self.fail(error))?;
        self.bound_log(append);
        Ok(())
    }

    /// Seals the memtables that hold up the oldest segment once the log is too long: so a keyspace
    /// that is written rarely cannot keep the whole log.
    fn bound_log(&self, append: &Append) {
        if append.wal_bytes() <= self.config.wal_bytes {
            return;
        }
        let Some(oldest) = append.segments.front().and_then(|segment| segment.last) else { return };
        for state in self.keyspaces.all() {
            if state.first_unflushed(SeqNo::ZERO).is_some_and(|first| first <= oldest) {
                state.seal(append.last_seqno(), self.config.memtable_bytes);
            }
        }
        self.jobs.notify_flush();
    }

    /// Turns the database read-only because of `error`, and returns it.
    pub(crate) fn fail(&self, error: Error) -> Error {
        self.health.fail(&error);
        self.commit.wake_all();
        self.jobs.notify_all();
        error
    }
}

/// Sequence numbers of a batch in the log, and where it is to be applied.
struct Appended {
    first: u64,
    last: u64,
    head: Guard<Arc<ReadView>>,
    rest: Vec<Guard<Arc<ReadView>>>,
}

fn views(
    keyspaces: &[Arc<KeyspaceState>],
    mut view: impl FnMut(&KeyspaceState) -> Guard<Arc<ReadView>>,
) -> (Guard<Arc<ReadView>>, Vec<Guard<Arc<ReadView>>>) {
    // A batch that is not empty names at least one keyspace.
    let head = view(&keyspaces[0]);
    let rest = match &keyspaces[1..] {
        [] => Vec::new(),
        others => others.iter().map(|state| view(state)).collect(),
    };
    (head, rest)
}

/// The one thread that syncs the log.
struct Leader<'a>(&'a CommitState);

impl<'a> Leader<'a> {
    fn new(commit: &'a CommitState, publish: &mut Publish) -> Leader<'a> {
        publish.is_syncing = true;
        Leader(commit)
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let mut publish = self.0.publish.lock();
        publish.is_syncing = false;
        self.0.advance(&mut publish);
        self.0.wake(&publish);
    }
}
