//! The keyspaces: which exist, and each one's memtables and current version.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;

use arc_swap::ArcSwap;

use crate::base::blob::NEVER_APART;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::hooks::MergeOperator;
use crate::base::ids::DbId;
use crate::base::ids::KeyspaceId;
use crate::base::seqno::SeqNo;
use crate::base::sorted::SortedMap;
use crate::base::sync;
use crate::base::sync::Mutex;
use crate::base::sync::RwLock;
use crate::base::sync::atomic::AtomicU32;
use crate::base::sync::atomic::AtomicU64;
use crate::engine::commit::Turns;
use crate::engine::read_cost::ReadCost;
use crate::engine::scheduler::Jobs;
use crate::engine::snapshots::SnapshotPin;
use crate::engine::snapshots::Snapshots;
use crate::iter::DeadSpans;
use crate::iter::Fold;
use crate::memtable::Memtable;
use crate::memtable::Memtables;
use crate::version::Version;

/// What a reader needs of one keyspace: swapped as a whole, never changed.
#[derive(Debug)]
pub(crate) struct ReadView {
    pub(crate) active: Arc<Memtable>,
    /// Newest first.
    pub(crate) sealed: Vec<Arc<Memtable>>,
    pub(crate) version: Arc<Version>,
    pub(crate) cost: ReadCost,
}

/// A memtable that takes no more writes and waits for its flush.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) memtable: Arc<Memtable>,
    /// The log is needed from here on while this is not flushed.
    pub(crate) first: SeqNo,
    /// Everything in it is visible once this is.
    pub(crate) last: SeqNo,
}

/// One keyspace.
#[derive(Debug)]
pub(crate) struct KeyspaceState {
    /// The database that it belongs to.
    pub(crate) db: DbId,
    pub(crate) id: KeyspaceId,
    pub(crate) name: String,
    view: ArcSwap<ReadView>,
    pub(crate) memtables: Arc<Memtables>,
    /// Those of the database.
    pub(crate) jobs: Arc<Jobs>,
    /// Guards changes to `view`; holds what only writers and jobs need.
    inner: Mutex<Inner>,
    /// First sequence number given to the active memtable, `u64::MAX` if none was. Written under
    /// the append lock, before the entry is in the memtable: so the log is never cut in between.
    active_first: AtomicU64,
    /// Which drop of a keyspace ended it; 0 if none did.
    dropped: AtomicU64,
    /// Its merge operator; there before the first operand is written.
    fold: OnceLock<Arc<Fold>>,
    /// What may be in it, as bits: [`MERGES`], [`EXPIRES`], [`DECLARED`]. They are set and never taken
    /// away.
    nature: AtomicU32,
    /// How long values live if a write does not say, in milliseconds; 0: for ever.
    default_ttl_ms: AtomicU64,
    /// Values of so many bytes lie apart.
    separate_from: AtomicU64,
    /// When the first value in the active memtable expires, or earlier; `u64::MAX` if none does.
    first_expiry_ms: AtomicU64,
    /// Where readers have found nothing that lives.
    pub(crate) dead: Arc<DeadSpans>,
    /// Whose turn it is to fold what is written.
    pub(crate) turns: Turns,
}

/// It has a merge operator.
const MERGES: u32 = 1;
/// Its values may expire.
const EXPIRES: u32 = 2;
/// That they do is stored: so it may have an operator as well, and what is merged is folded when it is
/// written.
const DECLARED: u32 = 4;

#[derive(Debug)]
struct Inner {
    /// Oldest first.
    sealed: VecDeque<Sealed>,
    /// Everything up to here is in SSTs.
    flushed: SeqNo,
    next_memtable: u64,
}

impl KeyspaceState {
    pub(crate) fn new(
        db: DbId,
        id: KeyspaceId,
        name: String,
        version: Version,
        flushed: SeqNo,
        memtables: Arc<Memtables>,
        jobs: Arc<Jobs>,
    ) -> KeyspaceState {
        let active = Arc::new(memtables.make(0));
        let (version, cost) = (Arc::new(version), ReadCost::new(jobs.clone()));
        let view = ReadView { active, sealed: Vec::new(), version, cost };
        KeyspaceState {
            db,
            id,
            name,
            view: ArcSwap::from_pointee(view),
            memtables,
            jobs,
            inner: Mutex::new(Inner { sealed: VecDeque::new(), flushed, next_memtable: 1 }),
            active_first: AtomicU64::new(u64::MAX),
            dropped: AtomicU64::new(0),
            fold: OnceLock::new(),
            nature: AtomicU32::new(0),
            default_ttl_ms: AtomicU64::new(0),
            separate_from: AtomicU64::new(NEVER_APART),
            first_expiry_ms: AtomicU64::new(u64::MAX),
            dead: Arc::default(),
            turns: Turns::default(),
        }
    }

    /// Makes sure that its nature has `wanted`, unless it has `other` and is not declared to have both.
    fn claim_nature(&self, wanted: u32, other: u32) -> bool {
        let claim = |nature: u32| {
            let is_free = nature & other == 0 || nature & DECLARED != 0;
            is_free.then_some(nature | wanted)
        };
        self.has(wanted) || self.nature.fetch_update(AcqRel, Acquire, claim).is_ok()
    }

    fn has(&self, nature: u32) -> bool {
        self.nature.load(Acquire) & nature == nature
    }

    /// Fails if values of it may expire, and that is not declared.
    pub(crate) fn claim_merges(&self) -> Result<()> {
        if self.claim_nature(MERGES, EXPIRES) {
            return Ok(());
        }
        let name = &self.name;
        Err(Error::argument(format!(
            "values of keyspace {name:?} expire: to have a merge operator as well it must be opened \
             with KeyspaceOptions::expiring(true)"
        )))
    }

    /// Notes that values of it may expire. Fails if it has a merge operator, and that they expire is
    /// not declared. Requires, of a writer: nobody can see such a value yet.
    pub(crate) fn claim_expiry(&self) -> Result<()> {
        if self.claim_nature(EXPIRES, MERGES) {
            return Ok(());
        }
        let name = &self.name;
        Err(Error::argument(format!(
            "keyspace {name:?} has a merge operator: for values that expire it must be opened with \
             KeyspaceOptions::expiring(true)"
        )))
    }

    /// From now on its values may expire, whether it has a merge operator or not.
    pub(crate) fn declare_expiring(&self) {
        self.nature.fetch_or(EXPIRES | DECLARED, AcqRel);
    }

    /// Is it stored that its values may expire?
    pub(crate) fn is_declared(&self) -> bool {
        self.has(DECLARED)
    }

    /// May values of it expire? Requires, of a reader: the sequence number that it reads at is known
    /// already.
    pub(crate) fn may_expire(&self) -> bool {
        self.has(EXPIRES)
    }

    /// Are operands folded when they are written? Once they are they always are.
    pub(crate) fn folds_writes(&self) -> bool {
        self.has(MERGES | EXPIRES)
    }

    pub(crate) fn default_ttl_ms(&self) -> u64 {
        self.default_ttl_ms.load(Relaxed)
    }

    pub(crate) fn set_default_ttl(&self, ttl_ms: u64) {
        self.default_ttl_ms.store(ttl_ms, Relaxed);
    }

    pub(crate) fn separate_from(&self) -> u64 {
        self.separate_from.load(Relaxed)
    }

    pub(crate) fn set_separate_from(&self, bytes: u64) {
        self.separate_from.store(bytes, Relaxed);
    }

    /// Notes that a value in the active memtable expires at `expiry_ms`.
    pub(crate) fn note_expiry(&self, expiry_ms: u64) {
        self.first_expiry_ms.fetch_min(expiry_ms, Relaxed);
    }

    /// When the first value in the active memtable expires, if any does.
    pub(crate) fn first_expiry_ms(&self) -> Option<u64> {
        Some(self.first_expiry_ms.load(Relaxed)).filter(|first| *first != u64::MAX)
    }

    /// Its merge operator, if it has one. Requires, of a reader: the sequence number that it reads
    /// at is known already.
    pub(crate) fn fold(&self) -> Option<Arc<Fold>> {
        self.fold.get().cloned()
    }

    /// Gives it the merge operator `name`, for good.
    pub(crate) fn set_operator(&self, name: &str, operator: Option<Arc<dyn MergeOperator>>) {
        self.nature.fetch_or(MERGES, AcqRel);
        let fold = Fold::new(self.name.clone(), name.to_owned(), operator);
        // A second call is one for the same operator.
        let _ = self.fold.set(Arc::new(fold));
    }

    /// Fails for a keyspace without a merge operator.
    pub(crate) fn check_merges(&self) -> Result<()> {
        if self.fold.get().is_some() {
            return Ok(());
        }
        let keyspace = self.name.clone();
        Err(Error::MergeOperator { keyspace, stored: None, given: None })
    }

    /// The current view, without touching a shared reference count.
    pub(crate) fn view(&self) -> arc_swap::Guard<Arc<ReadView>> {
        sync::step();
        self.view.load()
    }

    /// The current view, to keep.
    pub(crate) fn view_full(&self) -> Arc<ReadView> {
        sync::step();
        self.view.load_full()
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.load(Acquire) != 0
    }

    pub(crate) fn check_exists(&self) -> Result<()> {
        self.check_readable(None)
    }

    /// Is it there for a reader with `pin`? Requires, for one without: its view is loaded already.
    /// The view of a keyspace that is being dropped may be empty, and that must not be believed.
    pub(crate) fn check_readable(&self, pin: Option<&SnapshotPin>) -> Result<()> {
        let dropped = self.dropped.load(Acquire);
        if dropped == 0 || pin.is_some_and(|pin| pin.precedes_drop(dropped)) {
            return Ok(());
        }
        Err(Error::NoSuchKeyspace { name: self.name.clone() })
    }

    /// Notes that the active memtable is about to receive `seqno`. Requires: the append lock.
    pub(crate) fn note_append(&self, seqno: SeqNo) {
        if self.active_first.load(Relaxed) == u64::MAX {
            self.active_first.store(seqno.get(), Release);
        }
    }

    /// Replaces the active memtable by an empty one, if it was given anything; `last` is the newest
    /// sequence number given out. Requires: the append lock.
    pub(crate) fn seal(&self, last: SeqNo) -> bool {
        self.seal_with(last, ReadCost::anew)
    }

    /// As [`KeyspaceState::seal`], because reads have paid for the flush. Requires: the append lock.
    pub(crate) fn seal_for_readers(&self, last: SeqNo) -> bool {
        self.seal_with(last, ReadCost::for_paid_flush)
    }

    fn seal_with(&self, last: SeqNo, cost: impl FnOnce(&ReadCost) -> ReadCost) -> bool {
        let first = self.active_first.load(Acquire);
        if first == u64::MAX {
            return false;
        }
        let mut inner = self.inner.lock();
        let id = inner.next_memtable;
        inner.next_memtable += 1;
        let old = self.view.load_full();
        let memtable = old.active.clone();
        memtable.seal(last);
        inner.sealed.push_back(Sealed { memtable, first: SeqNo::new(first), last });
        self.active_first.store(u64::MAX, Release);
        self.first_expiry_ms.store(u64::MAX, Relaxed);
        let active = Arc::new(self.memtables.make(id));
        self.store_view(&inner, active, old.version.clone(), cost(&old.cost));
        true
    }

    fn store_view(
        &self,
        inner: &Inner,
        active: Arc<Memtable>,
        version: Arc<Version>,
        cost: ReadCost,
    ) {
        let sealed = inner.sealed.iter().rev().map(|sealed| sealed.memtable.clone()).collect();
        sync::step();
        self.view.store(Arc::new(ReadView { active, sealed, version, cost }));
    }

    /// Puts a new version in place; memtables whose last entry is at or before `flushed` leave the
    /// view in the same instant.
    pub(crate) fn install(&self, version: Version, flushed: Option<SeqNo>) {
        let mut inner = self.inner.lock();
        if let Some(flushed) = flushed {
            inner.flushed = inner.flushed.max(flushed);
            while inner.sealed.front().is_some_and(|sealed| sealed.last <= flushed) {
                inner.sealed.pop_front();
            }
        }
        let old = self.view.load_full();
        let cost = if flushed.is_some() { old.cost.after_flush() } else { old.cost.anew() };
        self.store_view(&inner, old.active.clone(), Arc::new(version), cost);
    }

    /// Marks the keyspace as dropped. Its data leave the view, unless a snapshot may still read
    /// them; then they go with the last handle. Requires: the append lock.
    pub(crate) fn mark_dropped(&self, snapshots: &Snapshots) {
        let keep_for_snapshots = snapshots.note_drop(&self.dropped);
        let mut inner = self.inner.lock();
        inner.sealed.clear();
        self.active_first.store(u64::MAX, Release);
        if !keep_for_snapshots {
            let active = Arc::new(self.memtables.make(inner.next_memtable));
            let cost = ReadCost::new(self.jobs.clone());
            self.store_view(&inner, active, Arc::new(Version::default()), cost);
        }
    }

    /// The memtables that wait for their flush, oldest first.
    pub(crate) fn sealed(&self) -> Vec<Sealed> {
        self.inner.lock().sealed.iter().cloned().collect()
    }

    pub(crate) fn sealed_count(&self) -> usize {
        self.view.load().sealed.len()
    }

    pub(crate) fn flushed(&self) -> SeqNo {
        self.inner.lock().flushed
    }

    /// The log must be kept from this sequence number on for this keyspace, if memtables up to
    /// `flushing` reach their SSTs; `None` if nothing is left in memory then.
    pub(crate) fn first_unflushed(&self, flushing: SeqNo) -> Option<SeqNo> {
        let inner = self.inner.lock();
        if let Some(sealed) = inner.sealed.iter().find(|sealed| sealed.last > flushing) {
            return Some(sealed.first);
        }
        self.first_active()
    }

    /// First sequence number given to the active memtable, if any was.
    pub(crate) fn first_active(&self) -> Option<SeqNo> {
        let active = self.active_first.load(Acquire);
        (active != u64::MAX).then(|| SeqNo::new(active))
    }

    /// Is nothing in memtables?
    pub(crate) fn has_empty_memtable(&self) -> bool {
        let view = self.view.load();
        view.sealed.is_empty() && view.active.is_empty()
    }

    /// Bytes of the active memtable and of all.
    pub(crate) fn memtable_bytes(&self) -> (usize, usize) {
        let view = self.view.load();
        let active = view.active.bytes();
        (active, active + view.sealed.iter().map(|memtable| memtable.bytes()).sum::<usize>())
    }
}

/// All keyspaces by name.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    by_name: RwLock<SortedMap<String, Arc<KeyspaceState>>>,
}

impl Registry {
    pub(crate) fn get(&self, name: &str) -> Option<Arc<KeyspaceState>> {
        self.by_name.read().get(name).cloned()
    }

    pub(crate) fn insert(&self, state: Arc<KeyspaceState>) {
        self.by_name.write().insert(state.name.clone(), state);
    }

    pub(crate) fn remove(&self, name: &str) {
        self.by_name.write().remove(name);
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.by_name.read().keys().cloned().collect()
    }

    pub(crate) fn all(&self) -> Vec<Arc<KeyspaceState>> {
        self.by_name.read().values().cloned().collect()
    }
}
