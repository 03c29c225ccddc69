//! Transactions: own writes over a snapshot, and what was read, until the commit checks it.
//!
//! *Own writes* are kept twice: as the bytes of the batch that the commit writes, and, for reads, in
//! a small memtable per keyspace. There the n-th operation has sequence number n, and what the
//! snapshot shows lies beneath as [`Flat`], with 0. So an iterator sees the writes that were there
//! when it was made, and no adapter knows of transactions.
//!
//! *What is claimed* ([`Claim`]) is noted when it is returned: on the level `Serializable` each key
//! and the part of each range that was read, unless an own write answered; on the level `Snapshot`
//! each key that is written. A range that is being walked through is a span that grows with each step.
//!
//! *Memory* of all transactions together is bounded, and taken from what memtables may use: their
//! writes go there next.
//!
//! [`Flat`]: crate::iter::Flat

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use crate::base::batch::Batch;
use crate::base::batch::Op;
use crate::base::batch::Ops;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::key::KeyHash;
use crate::base::key::Trailer;
use crate::base::options::Isolation;
use crate::base::planted::Planted;
use crate::base::range_tombstone::end_of;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;
use crate::base::spans::SpanEnd;
use crate::base::spans::Spans;
use crate::base::stats::Counter;
use crate::base::sync::Mutex;
use crate::base::value::EXPIRY_LEN;
use crate::base::value::NEVER_MS;
use crate::base::value::ValueKind;
use crate::base::value::expiry_of;
use crate::engine::Core;
use crate::engine::Engine;
use crate::engine::commit::Claim;
use crate::engine::commit::Footprint;
use crate::engine::commit::WriteMode;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::range_read::newest_in;
use crate::engine::read_view::TreeView;
use crate::engine::read_view::live_value;
use crate::engine::snapshots::SnapshotPin;
use crate::memtable::Memtable;
use crate::memtable::Memtables;

/// Transactions may take this part of the memory budget.
const BUDGET_SHARE: usize = 8;
/// Memory is charged by so many bytes, so that small transactions seldom touch the shared count.
const CHARGE_BYTES: usize = 4 << 10;
/// What an operation takes besides its key and value, in the batch and in the memtable.
const OP_BYTES: usize = 128;
/// What the memtable of a keyspace takes before anything is in it.
const MEMTABLE_BYTES: usize = 8 << 10;

/// What the transactions of a database share.
#[derive(Debug)]
pub(crate) struct Transactions {
    memtables: Memtables,
    /// Memory charged by all of them, and how much they may take.
    bytes: AtomicUsize,
    bytes_max: usize,
    open: AtomicUsize,
    next_savepoint: AtomicU64,
    pub(crate) commits: Counter,
    pub(crate) conflicts: Counter,
}

impl Transactions {
    pub(crate) fn new(memory_budget: usize) -> Transactions {
        Transactions {
            memtables: Memtables::new(CHARGE_BYTES),
            bytes: AtomicUsize::new(0),
            bytes_max: memory_budget / BUDGET_SHARE,
            open: AtomicUsize::new(0),
            next_savepoint: AtomicU64::new(0),
            commits: Counter::default(),
            conflicts: Counter::default(),
        }
    }

    /// Memory that open transactions take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Number of open transactions.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    fn charge(&self, more: usize, own: usize) -> Result<()> {
        let used = self.bytes.fetch_add(more, Relaxed) + more;
        if used <= self.bytes_max {
            return Ok(());
        }
        self.bytes.fetch_sub(more, Relaxed);
        Err(Error::TransactionMemory { bytes: own as u64, limit: self.bytes_max as u64 })
    }
}

/// A place in a transaction that it can be rolled back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SavepointId(u64);

/// A span that is being walked through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WalkId(usize);

/// A transaction that is neither committed nor rolled back. Dropping it rolls it back.
#[derive(Debug)]
pub(crate) struct Txn {
    engine: Arc<Engine>,
    isolation: Isolation,
    pin: Option<Arc<SnapshotPin>>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    batch: Batch,
    parts: Vec<Part>,
    savepoints: Vec<Savepoint>,
    walks: Vec<Option<Walk>>,
    mode: WriteMode,
    /// Memory of the operations, about, and what was charged for all.
    ops_bytes: usize,
    charged: usize,
}

/// What a transaction knows of one keyspace.
#[derive(Debug)]
struct Part {
    state: Arc<KeyspaceState>,
    /// Its writes, if there are any.
    own: Option<Arc<Memtable>>,
    claimed: Spans,
}

#[derive(Clone, Copy, Debug)]
struct Savepoint {
    id: SavepointId,
    bytes: usize,
    ops: u64,
}

#[derive(Debug)]
struct Walk {
    part: usize,
    from: Vec<u8>,
    to: SpanEnd,
}

impl Inner {
    fn part(&mut self, state: &Arc<KeyspaceState>) -> usize {
        if let Some(at) = self.parts.iter().position(|part| Arc::ptr_eq(&part.state, state)) {
            return at;
        }
        self.parts.push(Part { state: state.clone(), own: None, claimed: Spans::default() });
        self.parts.len() - 1
    }

    /// Its own writes up to now, for reads.
    fn own(&self, state: &Arc<KeyspaceState>) -> Option<(&Arc<Memtable>, SeqNo)> {
        let part = self.parts.iter().find(|part| Arc::ptr_eq(&part.state, state))?;
        Some((part.own.as_ref()?, SeqNo::new(self.batch.len())))
    }

    /// Makes sure that `more` bytes beyond what it takes are charged.
    fn charge(&mut self, transactions: &Transactions, more: usize) -> Result<()> {
        let claimed: usize = self.parts.iter().map(|part| part.claimed.bytes()).sum();
        let bytes = self.ops_bytes + claimed + more;
        if bytes > self.charged {
            let step = (bytes - self.charged).next_multiple_of(CHARGE_BYTES);
            transactions.charge(step, bytes)?;
            self.charged += step;
        }
        Ok(())
    }

    /// Puts an operation, which has sequence number `n`, where reads find it.
    fn index(&mut self, transactions: &Transactions, part: usize, n: u64, op: &Op<'_>) {
        let part = &mut self.parts[part];
        let own = part.own.get_or_insert_with(|| {
            self.ops_bytes += MEMTABLE_BYTES;
            Arc::new(transactions.memtables.make(0))
        });
        own.insert(op.key, Trailer::new(SeqNo::new(n), op.kind), op.value);
        self.ops_bytes += op_bytes(op.key, op.value);
    }

    /// Adds the span of a walk that has ended to what is claimed.
    fn end_walk(&mut self, id: usize) {
        if let Some(walk) = self.walks.get_mut(id).and_then(Option::take) {
            self.parts[walk.part].claimed.add(walk.from, walk.to);
        }
    }
}

/// A read of one key, now or as of a snapshot.
type PointRead<R> = fn(&Core, &KeyspaceState, Option<&SnapshotPin>, &[u8]) -> Result<R>;

fn is_operand(trailer: Trailer) -> bool {
    trailer.kind() == Some(ValueKind::Merge)
}

/// Adds what `op` writes to what is claimed.
fn claim_written(claimed: &mut Spans, op: &Op<'_>) {
    if op.kind == ValueKind::DeleteRange {
        claimed.add(op.key.to_vec(), end_of(op.value).map(<[u8]>::to_vec));
    } else {
        claimed.add_key(op.key);
    }
}

/// What an operation takes in memory, about: it is kept twice.
fn op_bytes(key: &[u8], value: &[u8]) -> usize {
    2 * (key.len() + value.len()) + OP_BYTES
}

impl Txn {
    pub(crate) fn begin(engine: &Arc<Engine>, isolation: Isolation) -> Txn {
        engine.transactions.open.fetch_add(1, Relaxed);
        let pin = (isolation != Isolation::ReadCommitted).then(|| engine.pin_snapshot());
        Txn { engine: engine.clone(), isolation, pin, inner: Mutex::default() }
    }

    pub(crate) fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// The sequence number of the snapshot that it reads.
    pub(crate) fn seqno(&self) -> SeqNo {
        self.pin.as_ref().map_or_else(|| self.engine.visible(), |pin| pin.seqno())
    }

    pub(crate) fn set_mode(&self, set: impl FnOnce(&mut WriteMode)) {
        set(&mut self.inner.lock().mode);
    }

    /// Number of operations.
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().batch.len() as usize
    }

    fn tracks_reads(&self) -> bool {
        self.isolation == Isolation::Serializable
    }

    /// Appends an operation. Requires: key and value within their limits.
    pub(crate) fn write(
        &self,
        state: &Arc<KeyspaceState>,
        kind: ValueKind,
        key: &[u8],
        value: &[u8],
    ) -> Result<()> {
        self.engine.check_own(state)?;
        let mut inner = self.inner.lock();
        if !inner.batch.has_room(key, value) {
            return Err(Error::argument("a transaction writes at most 2 GiB"));
        }
        let transactions = &self.engine.transactions;
        inner.charge(transactions, op_bytes(key, value) + MEMTABLE_BYTES)?;
        let part = inner.part(state);
        let op = Op { kind, keyspace: state.id, key, value };
        inner.batch.push(op);
        let n = inner.batch.len();
        inner.index(transactions, part, n, &op);
        if self.isolation == Isolation::Snapshot {
            claim_written(&mut inner.parts[part].claimed, &op);
        }
        Ok(())
    }

    /// The newest own write of `key`. Notes that `key` is read, unless that tells its value.
    fn get_own(&self, state: &Arc<KeyspaceState>, key: &[u8]) -> Result<Option<(Trailer, Slice)>> {
        let mut inner = self.inner.lock();
        let own = inner.own(state);
        let found = own.and_then(|(own, n)| newest_in(own, key, KeyHash::of(key), n, true));
        let rests_on_others = found.as_ref().is_none_or(|(trailer, _)| is_operand(*trailer));
        if rests_on_others && self.tracks_reads() {
            inner.charge(&self.engine.transactions, 2 * key.len() + OP_BYTES)?;
            let part = inner.part(state);
            inner.parts[part].claimed.add_key(key);
        }
        Ok(found)
    }

    pub(crate) fn get(&self, state: &Arc<KeyspaceState>, key: &[u8]) -> Result<Option<Slice>> {
        self.read(state, key, |own| own, Core::get)
    }

    pub(crate) fn contains_key(&self, state: &Arc<KeyspaceState>, key: &[u8]) -> Result<bool> {
        self.read(state, key, |own| own.is_some(), Core::contains_key)
    }

    /// Fetches a value that lies apart only if own operands rest on it.
    pub(crate) fn size_of(&self, state: &Arc<KeyspaceState>, key: &[u8]) -> Result<Option<usize>> {
        self.read(state, key, |own| own.map(|value| value.len()), Core::size_of)
    }

    /// `of_own` of what an own write of `key` comes to; without one, what `of_others` finds.
    fn read<R>(
        &self,
        state: &Arc<KeyspaceState>,
        key: &[u8],
        of_own: fn(Option<Slice>) -> R,
        of_others: PointRead<R>,
    ) -> Result<R> {
        self.engine.check_own(state)?;
        match self.get_own(state, key)? {
            own @ Some(_) => self.own_value(state, key, own).map(of_own),
            None => of_others(&self.engine, state, self.pin.as_deref(), key),
        }
    }

    /// What an own write of `key` comes to.
    fn own_value(
        &self,
        state: &Arc<KeyspaceState>,
        key: &[u8],
        own: Option<(Trailer, Slice)>,
    ) -> Result<Option<Slice>> {
        live_value(own, |(trailer, value)| {
            if !is_operand(trailer) {
                let now_ms = self.engine.read_ms(self.pin.as_deref());
                return Ok((expiry_of(&value) > now_ms).then(|| value.skip(EXPIRY_LEN)));
            }
            let bound = || Bound::Included(key.to_vec());
            let mut tree = self.view(state)?.open((bound(), bound()));
            tree.seek(key)?;
            tree.valid().then(|| tree.value_slice()).transpose()
        })
    }

    /// What an iterator or cursor reads from: the writes up to now over the snapshot.
    pub(crate) fn view(&self, state: &Arc<KeyspaceState>) -> Result<TreeView> {
        let view = self.engine.view(state, self.pin.as_ref())?;
        let inner = self.inner.lock();
        Ok(match inner.own(state) {
            Some((own, n)) => view.beneath(own.clone(), n),
            None => view,
        })
    }

    pub(crate) fn savepoint(&self) -> SavepointId {
        let id = SavepointId(self.engine.transactions.next_savepoint.fetch_add(1, Relaxed));
        let mut inner = self.inner.lock();
        let (bytes, ops) = (inner.batch.bytes().len(), inner.batch.len());
        inner.savepoints.push(Savepoint { id, bytes, ops });
        id
    }

    /// Forgets what was written since `id`, which stays, and all savepoints since. O(writes that
    /// stay). What was read stays read.
    pub(crate) fn rollback_to(&self, id: SavepointId) -> Result<()> {
        let mut inner = self.inner.lock();
        let at = inner.savepoints.iter().position(|savepoint| savepoint.id == id);
        let Some(at) = at else {
            return Err(Error::argument("the transaction has no such savepoint any more"));
        };
        let savepoint = inner.savepoints[at];
        inner.savepoints.truncate(at + 1);
        let mut batch = std::mem::take(&mut inner.batch);
        batch.truncate(savepoint.bytes, savepoint.ops);
        inner.ops_bytes = 0;
        for part in &mut inner.parts {
            part.own = None;
            if self.isolation == Isolation::Snapshot {
                part.claimed = Spans::default();
            }
        }
        for (n, op) in (1..).zip(Ops::new(batch.bytes()).flatten()) {
            let part = inner.parts.iter().position(|part| part.state.id == op.keyspace);
            let Some(part) = part else { continue };
            inner.index(&self.engine.transactions, part, n, &op);
            if self.isolation == Isolation::Snapshot {
                claim_written(&mut inner.parts[part].claimed, &op);
            }
        }
        inner.batch = batch;
        Ok(())
    }

    /// Makes the writes durable and visible together, or fails with `Error::Conflict`.
    pub(crate) fn commit(mut self) -> Result<()> {
        let inner = self.inner.get_mut();
        if inner.batch.is_empty() {
            return Ok(());
        }
        for id in 0..inner.walks.len() {
            inner.end_walk(id);
        }
        let written = inner.parts.iter().filter(|part| part.own.is_some());
        let keyspaces: Vec<_> = written.map(|part| part.state.clone()).collect();
        let claimed = inner.parts.drain(..).filter(|part| !part.claimed.is_empty());
        let claimed: Vec<_> = claimed.map(|part| (part.state, part.claimed)).collect();
        let mut batch = std::mem::take(&mut inner.batch);
        let transactions = &self.engine.transactions;
        let result = match &self.pin {
            None => self.engine.commit(&mut batch, &keyspaces, inner.mode),
            Some(pin) => {
                let footprint = Footprint::Spans(&claimed);
                // Where reads are not checked they may be of what has expired.
                let serializable = self.isolation == Isolation::Serializable;
                let until_ms = if serializable { pin.first_expiry().get() } else { NEVER_MS };
                let claim = Claim { since: pin.seqno(), until_ms, footprint };
                self.engine.commit_claimed(&mut batch, &keyspaces, inner.mode, claim)
            }
        };
        match &result {
            Ok(()) => transactions.commits.add(1),
            Err(Error::Conflict) => transactions.conflicts.add(1),
            Err(_) => {}
        }
        result
    }
}

/// What is read of ranges, on the level `Serializable`. On other levels nothing is noted.
impl Txn {
    /// Notes a span that was read.
    pub(crate) fn note_span(
        &self,
        state: &Arc<KeyspaceState>,
        from: Vec<u8>,
        to: SpanEnd,
    ) -> Result<()> {
        let id = self.begin_walk(state, from, to)?;
        self.end_walk(id);
        Ok(())
    }

    /// Notes a span that was read and will grow.
    pub(crate) fn begin_walk(
        &self,
        state: &Arc<KeyspaceState>,
        from: Vec<u8>,
        to: SpanEnd,
    ) -> Result<Option<WalkId>> {
        if !self.tracks_reads() || Planted::PhantomMissed.is_on() {
            return Ok(None);
        }
        let mut inner = self.inner.lock();
        let bytes = from.len() + to.as_ref().map_or(0, Vec::len) + OP_BYTES;
        inner.charge(&self.engine.transactions, bytes)?;
        let walk = Some(Walk { part: inner.part(state), from, to });
        let free = inner.walks.iter().position(Option::is_none).unwrap_or_else(|| {
            inner.walks.push(None);
            inner.walks.len() - 1
        });
        inner.walks[free] = walk;
        Ok(Some(WalkId(free)))
    }

    fn change_walk(&self, id: Option<WalkId>, change: impl FnOnce(&mut Walk)) {
        let Some(WalkId(id)) = id else { return };
        if let Some(walk) = self.inner.lock().walks.get_mut(id).and_then(Option::as_mut) {
            change(walk);
        }
    }

    /// The walk has come up to `key`, which was read. A cursor that turns has read what it comes
    /// back over already: a span only grows.
    pub(crate) fn walk_up_to(&self, id: Option<WalkId>, key: &[u8]) {
        self.change_walk(id, |walk| {
            if let Some(to) = walk.to.as_mut().filter(|to| to.as_slice() <= key) {
                to.clear();
                to.extend_from_slice(key);
                to.push(0);
            }
        });
    }

    /// The walk has come down to `key`, which was read; see [`Txn::walk_up_to`].
    pub(crate) fn walk_down_to(&self, id: Option<WalkId>, key: &[u8]) {
        self.change_walk(id, |walk| {
            if key < walk.from.as_slice() {
                walk.from.clear();
                walk.from.extend_from_slice(key);
            }
        });
    }

    /// The walk has found nothing up to the end of all keys.
    pub(crate) fn walk_to_end(&self, id: Option<WalkId>) {
        self.change_walk(id, |walk| walk.to = None);
    }

    /// The walk goes no further.
    pub(crate) fn end_walk(&self, id: Option<WalkId>) {
        if let Some(WalkId(id)) = id {
            self.inner.lock().end_walk(id);
        }
    }
}

impl Drop for Txn {
    fn drop(&mut self) {
        let transactions = &self.engine.transactions;
        transactions.bytes.fetch_sub(self.inner.get_mut().charged, Relaxed);
        transactions.open.fetch_sub(1, Relaxed);
    }
}
