//! THE write path. A put is a batch of one; every batch goes through [`Core::commit`].
//!
//! ```text
//! 1 throttle   wait for room, in proportion to compaction's debt
//! 2 append     under the append lock: take sequence numbers, copy the batch into the log buffer
//! 3 apply      insert into the memtables, side by side with other writers
//! 4 write      one leader hands everything buffered to the system; meanwhile others fill the
//!              second buffer and become the next group
//! 5 sync       (Durability::Sync) one leader syncs for everybody whose record is written; the
//!              append lock is free meanwhile
//! 6 publish    make the batch visible, in the order of sequence numbers
//! ```
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
use crate::base::value::ValueKind;
use crate::engine::Core;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::keyspaces::ReadView;
use crate::wal::LogBuffer;
use crate::wal::LogMark;
use crate::wal::PendingWrites;
use crate::wal::PreparedSegment;
use crate::wal::SyncQueue;
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
    /// Held by the leader of step 4; the buffer that takes turns with the log's.
    write: Mutex<PendingWrites>,
    /// Held by the leader of step 5.
    sync: Mutex<()>,
    sync_queue: Mutex<SyncQueue>,
    /// Last sequence number whose record the system has.
    written: AtomicU64,
    /// Last sequence number whose record is on stable storage.
    synced: AtomicU64,
    /// Last sequence number that readers see.
    visible: Arc<AtomicU64>,
    publish: Mutex<Publish>,
    published: Condvar,
}

#[derive(Debug)]
pub(crate) struct Append {
    log: LogBuffer,
    /// Last sequence number given out.
    last: u64,
    /// Ready for when the active segment is full.
    spare: Option<PreparedSegment>,
    /// The log lane was asked for a spare since the active segment was started.
    spare_asked: bool,
    /// Bytes that memtables have grown by, about, since somebody looked at their sum.
    grown_bytes: usize,
    /// Every segment that recovery would read, oldest first; the last one is active.
    segments: VecDeque<LogSegment>,
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
    /// Batches that are ready but wait for an earlier one: first sequence number to last.
    ready: BTreeMap<u64, u64>,
    waiting: usize,
}

impl CommitState {
    /// Everything up to `end` is durable and visible.
    pub(crate) fn new(log: LogBuffer, end: LogMark, segments: VecDeque<LogSegment>) -> CommitState {
        let last = end.seqno.get();
        CommitState {
            append: Mutex::new(Append {
                log,
                last,
                spare: None,
                spare_asked: false,
                grown_bytes: 0,
                segments,
            }),
            write: Mutex::new(PendingWrites::default()),
            sync: Mutex::new(()),
            sync_queue: Mutex::new(SyncQueue::new(end)),
            written: AtomicU64::new(last),
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

    /// Bytes of records that wait to be written.
    pub(crate) fn buffered_bytes(&self) -> u64 {
        let end = self.append.lock().log.end().position.0;
        end.saturating_sub(self.sync_queue.lock().written().position.0)
    }

    /// Returns when no writer is in the middle of a step any more. Requires: `Health` lets none
    /// begin one.
    pub(crate) fn drain(&self) {
        drop(self.sync.lock());
        drop(self.write.lock());
        drop(self.append.lock());
    }

    /// Wakes writers that wait for their turn to publish, after `Health` has failed.
    pub(crate) fn wake_all(&self) {
        drop(self.publish.lock());
        self.published.notify_all();
    }
}

impl Append {
    /// Begins `prepared` as the active segment. Requires: everything up to `durable` is durable.
    pub(crate) fn start(&mut self, prepared: PreparedSegment, durable: SeqNo) {
        if let Some(active) = self.segments.back_mut() {
            active.last = Some(SeqNo::new(self.last));
        }
        let (id, bytes) = (prepared.id(), prepared.bytes());
        let first = SeqNo::new(self.last + 1);
        self.log.start_segment(prepared, first, durable);
        self.segments.push_back(LogSegment { id, first, last: None, bytes });
        self.spare_asked = false;
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
        let result = self.commit(&batch, std::slice::from_ref(state), WriteMode::default());
        if batch.bytes().len() <= SCRATCH_BYTES_MAX {
            let _ = SCRATCH.try_with(|scratch| scratch.set(batch));
        }
        result
    }

    /// Writes a batch whose operations go to `keyspaces`.
    pub(crate) fn commit(
        &self,
        batch: &Batch,
        keyspaces: &[Arc<KeyspaceState>],
        mode: WriteMode,
    ) -> Result<()> {
        if batch.is_empty() {
            return self.health.check_writable();
        }
        let durability = mode.durability.unwrap_or(self.config.durability);
        let began = (durability == Durability::Sync).then(|| self.clock.monotonic());
        self.wait_for_room(batch.bytes().len(), mode.deadline.or(self.config.write_deadline))?;
        let appended = self.append(batch, keyspaces)?;
        self.apply(batch, keyspaces, &appended)?;
        if durability != Durability::Os || !Planted::AckedBeforeWritten.is_on() {
            self.write_up_to(appended.last)?;
        }
        match durability {
            Durability::Sync if Planted::AckedBeforeSynced.is_on() => {}
            Durability::Sync => self.sync_up_to(appended.last)?,
            Durability::Interval(interval) => self.sync_within(interval)?,
            Durability::Os => {}
        }
        self.publish(appended.first, appended.last)?;
        self.metrics.batches.add(1);
        self.metrics.batch_bytes.add(batch.bytes().len() as u64);
        if let Some(began) = began {
            self.metrics.sync_latency.record(self.clock.monotonic().saturating_sub(began));
        }
        Ok(())
    }

    /// Step 2. Sequence numbers, and the views whose active memtables take the batch.
    fn append(&self, batch: &Batch, keyspaces: &[Arc<KeyspaceState>]) -> Result<Appended> {
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
        for state in keyspaces {
            if state.view().active.bytes() >= self.config.memtable_bytes {
                sealed |= state.seal(append.last_seqno());
            }
        }
        let first = append.last + 1;
        let durable = self.synced();
        let pushed = append.log.push(SeqNo::new(first), durable, batch.bytes(), batch.len());
        if pushed.is_err() {
            return Err(Error::internal("a fresh log segment has no room for its first record"));
        }
        append.last += batch.len();
        for state in keyspaces {
            state.note_append(SeqNo::new(first));
        }
        let last = append.last;
        let (head, rest) = views(keyspaces);
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

    /// Step 4: returns when the system has the record of `last`.
    fn write_up_to(&self, last: u64) -> Result<()> {
        if self.commit.written.load(Acquire) >= last {
            return Ok(());
        }
        let mut writes = self.commit.write.lock();
        if self.commit.written.load(Acquire) >= last {
            return Ok(());
        }
        self.health.check_writable()?;
        self.write_buffered(&mut writes)
    }

    fn write_buffered(&self, writes: &mut PendingWrites) -> Result<()> {
        self.commit.append.lock().log.take_pending(writes);
        if let Err(error) = writes.write() {
            return Err(self.fail(error));
        }
        self.commit.sync_queue.lock().wrote(writes);
        self.metrics.wal_bytes.add(writes.len() as u64);
        self.commit.written.store(writes.end().seqno.get(), Release);
        writes.clear();
        Ok(())
    }

    /// Step 5: returns when the record of `last`, which is written, is on stable storage.
    fn sync_up_to(&self, last: u64) -> Result<()> {
        if self.commit.synced.load(Acquire) >= last {
            return Ok(());
        }
        let leader = self.commit.sync.lock();
        if self.commit.synced.load(Acquire) >= last {
            return Ok(());
        }
        self.health.check_writable()?;
        self.sync_written()?;
        drop(leader);
        Ok(())
    }

    /// Makes what the system has of the log durable. Requires: the sync lock, or no other thread.
    pub(crate) fn sync_written(&self) -> Result<()> {
        let task = self.commit.sync_queue.lock().begin();
        let mut synced = task.run();
        if Planted::SyncRetried.is_on() && synced.is_err() {
            synced = task.run();
        }
        if let Err(error) = synced {
            return Err(self.fail(error));
        }
        self.metrics.syncs.add(1);
        let durable = self.commit.sync_queue.lock().finish(&task);
        self.commit.synced.store(durable.seqno.get(), Release);
        Ok(())
    }

    /// Step 6.
    fn publish(&self, first: u64, last: u64) -> Result<()> {
        let commit = &self.commit;
        let mut publish = commit.publish.lock();
        if commit.visible.load(Acquire) + 1 == first {
            let mut visible = last;
            while let Some(entry) = publish.ready.first_entry()
                && *entry.key() == visible + 1
            {
                visible = entry.remove();
            }
            commit.visible.store(visible, Release);
            if publish.waiting > 0 {
                commit.published.notify_all();
            }
            return Ok(());
        }
        publish.ready.insert(first, last);
        let result = self.wait_until_visible(&mut publish, last);
        if result.is_err() {
            // It is not acknowledged, so no slower writer may make it visible.
            publish.ready.remove(&first);
        }
        result
    }

    /// Waits until everything up to `last` is visible, or never will be.
    fn wait_until_visible(&self, publish: &mut MutexGuard<'_, Publish>, last: u64) -> Result<()> {
        publish.waiting += 1;
        let result = loop {
            if self.commit.visible.load(Acquire) >= last {
                break Ok(());
            }
            if let Err(error) = self.health.check_writable() {
                break Err(error);
            }
            self.commit.published.wait(publish);
        };
        publish.waiting -= 1;
        result
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
        self.sync_up_to(self.commit.written.load(Acquire))
    }

    /// Waits until everything up to `last` is visible: then it is applied as well.
    pub(crate) fn wait_visible(&self, last: SeqNo) -> Result<()> {
        self.wait_until_visible(&mut self.commit.publish.lock(), last.get())
    }

    /// Makes the log durable up to `last`, which is visible.
    pub(crate) fn sync_log(&self, last: SeqNo) -> Result<()> {
        self.write_up_to(last.get())?;
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
        append.start(prepared, self.synced());
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
                state.seal(append.last_seqno());
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

fn views(keyspaces: &[Arc<KeyspaceState>]) -> (Guard<Arc<ReadView>>, Vec<Guard<Arc<ReadView>>>) {
    // A batch that is not empty names at least one keyspace.
    let head = keyspaces[0].view();
    (head, keyspaces[1..].iter().map(|state| state.view()).collect())
}
