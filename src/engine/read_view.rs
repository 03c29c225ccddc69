//! Reading: a point read walks memtables and levels directly; an iterator merges them.
//!
//! Order of loads: first the view, then the visible sequence number. Everything in the view's SSTs
//! was visible when the view was made, so the number is never too old for the view; and what was
//! written after the view was loaded goes to its active memtable, or to a later memtable, of which
//! the reader then sees nothing. Either way it sees a prefix of all writes. With a snapshot the
//! number is older than the view, and the snapshot's pin has kept what it needs.

use std::cell::OnceCell;
use std::ops::Bound;
use std::ops::Range;
use std::sync::Arc;

use crate::base::blob::BlobHandle;
use crate::base::blob::BlobSource;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::KeyspaceId;
use crate::base::key::KeyHash;
use crate::base::key::Trailer;
use crate::base::lookup::Lookup;
use crate::base::range::Bounds;
use crate::base::range::is_above;
use crate::base::range::is_below;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;
use crate::base::value::EXPIRY_LEN;
use crate::base::value::NEVER_MS;
use crate::base::value::ValueKind;
use crate::base::value::expiry_of;
use crate::base::value::head_of;
use crate::engine::Core;
use crate::engine::Engine;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::keyspaces::ReadView;
use crate::engine::range_read::cover_of;
use crate::engine::snapshots::SnapshotPin;
use crate::iter::Concat;
use crate::iter::Flat;
use crate::iter::Merging;
use crate::iter::ReadAt;
use crate::iter::Visible;
use crate::memtable::Memtable;
use crate::version::Level;
use crate::version::source::Run;
use crate::version::source::Source;
use crate::version::sst_file::SstFile;

/// A value, and what else its entry says.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) value: Slice,
    /// As it is stored.
    pub(crate) seqno: SeqNo,
    /// [`NEVER_MS`] if it does not expire.
    pub(crate) expiry_ms: u64,
}

impl Core {
    /// The value of `key` for a reader with `pin`, or for one of the newest state.
    pub(crate) fn get(
        &self,
        state: &KeyspaceState,
        pin: Option<&SnapshotPin>,
        key: &[u8],
    ) -> Result<Option<Slice>> {
        let view = state.view();
        let reading = self.reading(state, pin, &view)?;
        live_value(lookup(&view, key, reading.seqno, true)?, |found| reading.special(key, found))
    }

    /// As [`Core::get`], with what else the entry says.
    pub(crate) fn get_entry(
        &self,
        state: &KeyspaceState,
        pin: Option<&SnapshotPin>,
        key: &[u8],
    ) -> Result<Option<Entry>> {
        let view = state.view();
        let reading = self.reading(state, pin, &view)?;
        let Some(found) = lookup(&view, key, reading.seqno, true)? else { return Ok(None) };
        let expires = found.0.kind().is_some_and(ValueKind::expires);
        let expiry_ms = if expires { expiry_of(&found.1) } else { NEVER_MS };
        let seqno = found.0.seqno();
        let value = live_value(Some(found), |found| reading.special(key, found))?;
        Ok(value.map(|value| Entry { value, seqno, expiry_ms }))
    }

    /// Is `key` there?
    pub(crate) fn contains_key(
        &self,
        state: &KeyspaceState,
        pin: Option<&SnapshotPin>,
        key: &[u8],
    ) -> Result<bool> {
        let view = state.view();
        let reading = self.reading(state, pin, &view)?;
        let found =
            live_value(lookup(&view, key, reading.seqno, false)?, |found| match found.0.kind() {
                // What operands are folded into is a value, whichever; so is what a handle leads to.
                Some(ValueKind::Merge | ValueKind::BlobRef) => Ok(Some(Slice::default())),
                Some(ValueKind::ExpiringBlobRef) => Ok(reading.unexpired(&found.1)),
                _ => reading.special(key, found),
            });
        Ok(found?.is_some())
    }

    /// The values of `keys`, in their order, all at one instant. They are looked up side by side,
    /// in key order: cache misses overlap, and neighbours find the same index and data blocks in
    /// the processor's caches.
    pub(crate) fn multi_get(
        &self,
        state: &KeyspaceState,
        pin: Option<&SnapshotPin>,
        keys: &[&[u8]],
    ) -> Result<Vec<Option<Slice>>> {
        let view = state.view();
        let reading = self.reading(state, pin, &view)?;
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_unstable_by_key(|index| keys[*index]);
        let mut lookups: Vec<Lookup<'_>> = Vec::with_capacity(keys.len());
        for index in &order {
            if lookups.last().is_none_or(|last| last.key != keys[*index]) {
                view.note_get();
                lookups.push(Lookup::new(keys[*index]));
            }
        }
        for memtable in std::iter::once(&view.active).chain(&view.sealed) {
            memtable.get_many(&mut lookups, reading.seqno);
        }
        view.version.get_many(&mut lookups, reading.seqno)?;
        if view.has_ranges() {
            view.hide_dead(&mut lookups, reading.seqno)?;
        }
        if !view.version.blobs.is_empty() {
            prefetch_apart(&view, &lookups);
        }
        let mut values: Vec<Option<Slice>> = vec![None; keys.len()];
        let mut lookups = lookups.into_iter();
        let mut last: Option<usize> = None;
        for index in order {
            values[index] = match last {
                Some(last) if keys[last] == keys[index] => values[last].clone(),
                _ => live_value(lookups.next().and_then(|lookup| lookup.found), |found| {
                    reading.special(keys[index], found)
                })?,
            };
            last = Some(index);
        }
        Ok(values)
    }

    /// How many bytes the value of `key` has, without fetching one that lies apart.
    pub(crate) fn size_of(
        &self,
        state: &KeyspaceState,
        pin: Option<&SnapshotPin>,
        key: &[u8],
    ) -> Result<Option<usize>> {
        let view = state.view();
        let reading = self.reading(state, pin, &view)?;
        let mut apart = None;
        let found = live_value(lookup(&view, key, reading.seqno, true)?, |found| {
            let Some(kind) = found.0.kind().filter(|kind| kind.is_apart()) else {
                return reading.special(key, found);
            };
            let live = if kind.expires() { reading.unexpired(&found.1) } else { Some(found.1) };
            let Some(bytes) = live else { return Ok(None) };
            let (_, handle) = view.version.blobs.locate(&bytes)?;
            apart = Some(handle);
            Ok(Some(Slice::default()))
        })?;
        let len = |handle: BlobHandle| handle.value_len as usize;
        Ok(found.map(|value| apart.map_or(value.len(), len)))
    }

    /// When the value of `key` expires, [`NEVER_MS`] if it does not, and the time by which that is to
    /// be judged; `None` if there is no such key.
    pub(crate) fn expiry(
        &self,
        state: &KeyspaceState,
        pin: Option<&SnapshotPin>,
        key: &[u8],
    ) -> Result<Option<(u64, u64)>> {
        let view = state.view();
        self.check_readable(state, pin)?;
        let seqno = self.read_seqno(pin);
        let Some((trailer, head)) = lookup(&view, key, seqno, false)? else { return Ok(None) };
        let expiry_ms = match trailer.kind() {
            Some(ValueKind::Delete) => 0,
            Some(kind) if kind.expires() => expiry_of(&head),
            _ => NEVER_MS,
        };
        let now_ms = self.read_ms(pin);
        Ok(is_alive(expiry_ms, now_ms, pin).then_some((expiry_ms, now_ms)))
    }

    /// Point reads in `view` for a reader with `pin`, or for one of the newest state. Requires: the
    /// view was loaded just now.
    #[inline]
    fn reading<'a>(
        &'a self,
        state: &'a KeyspaceState,
        pin: Option<&'a SnapshotPin>,
        view: &'a ReadView,
    ) -> Result<Reading<'a>> {
        self.check_readable(state, pin)?;
        let seqno = self.read_seqno(pin);
        Ok(Reading { core: self, state, view, pin, seqno, now_ms: OnceCell::new() })
    }

    /// Requires: the view that is read is loaded already.
    fn check_readable(&self, state: &KeyspaceState, pin: Option<&SnapshotPin>) -> Result<()> {
        self.health.check_open()?;
        self.check_own(state)?;
        state.check_readable(pin)
    }

    fn read_seqno(&self, pin: Option<&SnapshotPin>) -> SeqNo {
        pin.map_or_else(|| self.visible(), SnapshotPin::seqno)
    }

    /// The time by which a reader judges what has expired. Requires: its view is loaded already;
    /// what compaction has dropped for its age has then expired for this reader too.
    pub(crate) fn read_ms(&self, pin: Option<&SnapshotPin>) -> u64 {
        pin.map_or_else(|| self.expiry.now_ms(), SnapshotPin::now_ms)
    }
}

impl Engine {
    /// What an iterator or cursor reads from.
    pub(crate) fn view(
        self: &Arc<Self>,
        state: &Arc<KeyspaceState>,
        pin: Option<&Arc<SnapshotPin>>,
    ) -> Result<TreeView> {
        let view = state.view_full();
        self.check_readable(state, pin.map(Arc::as_ref))?;
        if let Some(claim) = state.dead.asking() {
            let last = self.commit.append_lock().last_seqno();
            state.dead.answer(claim, last);
        }
        // What is written into later memtables is visible, and not in this view: so its instant is
        // when it was replaced, if it was. Read in this order: whoever seals does so before it writes.
        let visible = self.read_seqno(pin.map(Arc::as_ref));
        let seqno = visible.min(view.active.newest());
        // One instant for all that is read through it.
        let now_ms = if state.may_expire() { self.read_ms(pin.map(Arc::as_ref)) } else { 0 };
        let (fold, blobs) = (state.fold(), blobs_of(&view));
        let first_expiry = pin.map(|pin| pin.first_expiry().clone());
        let dead = Some(state.dead.clone());
        let at = ReadAt { seqno, now_ms, first_expiry, fold, dead, blobs };
        let (engine, keyspace) = (self.clone(), state.id);
        Ok(TreeView { engine, keyspace, view, at, own: None, pin: pin.cloned() })
    }
}

/// Is what expires at `expiry_ms` there at `now_ms`? Who reads by `pin` may rest on that.
fn is_alive(expiry_ms: u64, now_ms: u64, pin: Option<&SnapshotPin>) -> bool {
    let alive = expiry_ms > now_ms;
    if let Some(pin) = pin.filter(|_| alive) {
        pin.first_expiry().note(expiry_ms);
    }
    alive
}

/// The newest version of `key` at or before `seqno`, tombstones included.
fn lookup(
    view: &ReadView,
    key: &[u8],
    seqno: SeqNo,
    want_value: bool,
) -> Result<Option<(Trailer, Slice)>> {
    view.note_get();
    let hash = KeyHash::of(key);
    if view.has_ranges() {
        return view.lookup_over_ranges(key, hash, seqno, want_value);
    }
    for memtable in std::iter::once(&view.active).chain(&view.sealed) {
        let found = if want_value {
            memtable.get_slice(key, hash, seqno)
        } else {
            let found = memtable.get(key, hash, seqno);
            found.map(|(trailer, value)| (trailer, Slice::copy_from(head_of(trailer, value))))
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    view.version.get(key, hash, seqno, want_value)
}

/// The value, unless the entry is a tombstone; of any other entry what `special` makes of it.
#[inline]
pub(crate) fn live_value(
    found: Option<(Trailer, Slice)>,
    special: impl FnOnce((Trailer, Slice)) -> Result<Option<Slice>>,
) -> Result<Option<Slice>> {
    let Some((trailer, value)) = found else { return Ok(None) };
    match trailer.kind() {
        Some(ValueKind::Put) => Ok(Some(value)),
        Some(ValueKind::Delete) => Ok(None),
        _ => special((trailer, value)),
    }
}

/// Point reads at one instant, as far as they need more than a look.
struct Reading<'a> {
    core: &'a Core,
    state: &'a KeyspaceState,
    view: &'a ReadView,
    pin: Option<&'a SnapshotPin>,
    seqno: SeqNo,
    now_ms: OnceCell<u64>,
}

impl Reading<'_> {
    /// The value of `key`, whose newest version is neither a put nor a tombstone.
    #[cold]
    fn special(&self, key: &[u8], (trailer, value): (Trailer, Slice)) -> Result<Option<Slice>> {
        match trailer.kind() {
            Some(ValueKind::Merge) => self.folded(key),
            Some(ValueKind::Expiring) => Ok(self.unexpired(&value)),
            Some(ValueKind::BlobRef) => self.view.version.fetch(key, &value).map(Some),
            Some(ValueKind::ExpiringBlobRef) => {
                let handle = self.unexpired(&value);
                handle.map(|handle| self.view.version.fetch(key, &handle)).transpose()
            }
            // What reads files and logs refuses such entries.
            _ => Err(Error::internal(format!("an entry of kind {}", trailer.kind_byte()))),
        }
    }

    /// What lies behind the expiry, unless that has come.
    fn unexpired(&self, value: &Slice) -> Option<Slice> {
        let now_ms = self.now_ms.get_or_init(|| self.core.read_ms(self.pin));
        is_alive(expiry_of(value), *now_ms, self.pin).then(|| value.clone().skip(EXPIRY_LEN))
    }

    /// By a cursor over this one key, which folds.
    fn folded(&self, key: &[u8]) -> Result<Option<Slice>> {
        let bound = || Bound::Included(key.to_vec());
        let (fold, blobs) = (self.state.fold(), blobs_of(self.view));
        let (seqno, first_expiry) = (self.seqno, None);
        let at = ReadAt { seqno, now_ms: 0, first_expiry, fold, dead: None, blobs };
        let mut tree = open_tree(self.view, at, (bound(), bound()));
        tree.seek(key)?;
        Ok(tree.valid().then(|| tree.value_slice()))
    }
}

/// Asks the system for the values that lie apart, all of them before the first is read.
fn prefetch_apart(view: &ReadView, lookups: &[Lookup<'_>]) {
    for (trailer, stored) in lookups.iter().filter_map(|lookup| lookup.found.as_ref()) {
        let Some(kind) = trailer.kind().filter(|kind| kind.is_apart()) else { continue };
        let handle = stored.get(if kind.expires() { EXPIRY_LEN } else { 0 }..);
        // What is wrong with it shows when it is read.
        if let Ok((file, handle)) = view.version.blobs.locate(handle.unwrap_or_default()) {
            file.will_need(handle);
        }
    }
}

/// Where a reader of `view` finds values that lie apart, if there are any.
fn blobs_of(view: &ReadView) -> Option<Arc<dyn BlobSource>> {
    let version = &view.version;
    (!version.blobs.is_empty()).then(|| version.clone() as Arc<dyn BlobSource>)
}

/// One keyspace at one instant, for iterators. Keeps the database open.
#[derive(Clone, Debug)]
pub(crate) struct TreeView {
    engine: Arc<Engine>,
    keyspace: KeyspaceId,
    view: Arc<ReadView>,
    at: ReadAt,
    own: Option<(Arc<Memtable>, SeqNo)>,
    pin: Option<Arc<SnapshotPin>>,
}

impl TreeView {
    /// The database and the keyspace that it is of.
    pub(crate) fn place(&self) -> (DbId, KeyspaceId) {
        (self.engine.db_id(), self.keyspace)
    }

    /// This beneath what a transaction wrote to `own` up to the sequence number `upto`.
    pub(crate) fn beneath(self, own: Arc<Memtable>, upto: SeqNo) -> TreeView {
        TreeView { own: Some((own, upto)), ..self }
    }

    /// Fails if nothing can be read any more.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.engine.health.check_open()
    }

    /// A cursor over the entries within `bounds`. Nothing is read yet.
    pub(crate) fn open(self, bounds: Bounds) -> TreeIter {
        let TreeView { engine, view, at, own, pin, .. } = self;
        let tree = match own {
            None => open_tree(&view, at, bounds),
            Some((own, upto)) => {
                // Its numbers are the transaction's own: what they come to is nobody else's to
                // remember.
                let fold = at.fold.as_ref().map(|fold| Arc::new(fold.afresh()));
                // So are its expiries.
                let first_expiry = None;
                let above = ReadAt { seqno: upto, first_expiry, fold, dead: None, ..at.clone() };
                let beneath = Flat::new(open_tree(&view, at, bounds.clone()));
                let sources = vec![Source::Memtable(own.iter()), Source::Tree(Box::new(beneath))];
                let merged = Merging::new(sources);
                Visible::new(merged, above, bounds.0, bounds.1).under(cover_of(&own, upto))
            }
        };
        TreeIter { tree, view, _engine: engine, _pin: pin }
    }
}

/// A cursor over the entries of `view` within `bounds`.
fn open_tree(view: &ReadView, at: ReadAt, bounds: Bounds) -> Tree {
    let cover = view.cover(at.seqno, &bounds);
    let (lower, upper) = bounds;
    let mut merging = Merging::with_capacity(view.runs());
    for memtable in std::iter::once(&view.active).chain(&view.sealed) {
        if !memtable.is_empty() {
            merging.add(Source::Memtable(memtable.iter()));
        }
    }
    let version = &view.version;
    let mut add = |level: &Arc<Level>, range: Range<usize>| {
        if !range.is_empty() {
            merging.add(Source::Run(Concat::new(Run::of_level(level.clone(), range))));
        }
    };
    for (number, level) in version.levels().iter().enumerate() {
        let is_below = |file: &SstFile| is_below(&file.meta.largest.user, &lower);
        let is_above = |file: &SstFile| is_above(&file.meta.smallest.user, &upper);
        if number == 0 {
            for (index, file) in level.files.iter().enumerate() {
                if !is_below(file) && !is_above(file) {
                    add(level, index..index + 1);
                }
            }
        } else {
            let from = level.files.partition_point(|file| is_below(file));
            let behind = level.files[from..].partition_point(|file| !is_above(file));
            add(level, from..from + behind);
        }
    }
    Visible::new(merging, at, lower, upper).under(cover)
}

type Tree = Visible<Merging<Source>>;

/// A cursor over what a reader sees of one keyspace.
pub(crate) struct TreeIter {
    tree: Tree,
    view: Arc<ReadView>,
    /// What is read goes on to be there.
    _engine: Arc<Engine>,
    _pin: Option<Arc<SnapshotPin>>,
}

impl Drop for TreeIter {
    fn drop(&mut self) {
        self.view.note_dead(self.tree.take_dead_steps());
    }
}

impl TreeIter {
    pub(crate) fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.view.note_seek();
        self.tree.seek(key)
    }

    pub(crate) fn seek_for_prev(&mut self, key: &[u8]) -> Result<()> {
        self.view.note_seek();
        self.tree.seek_for_prev(key)
    }

    pub(crate) fn seek_to_first(&mut self) -> Result<()> {
        self.view.note_seek();
        self.tree.seek_to_first()
    }

    pub(crate) fn seek_to_last(&mut self) -> Result<()> {
        self.view.note_seek();
        self.tree.seek_to_last()
    }

    /// Requires: valid.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<()> {
        self.tree.next()
    }

    /// Requires: valid.
    #[inline]
    pub(crate) fn prev(&mut self) -> Result<()> {
        self.tree.prev()
    }

    #[inline]
    pub(crate) fn valid(&self) -> bool {
        self.tree.valid()
    }

    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        self.tree.user_key()
    }

    /// The value, or the handle of one that lies apart.
    #[inline]
    pub(crate) fn stored(&self) -> &[u8] {
        self.tree.value()
    }

    /// Is what [`TreeIter::stored`] gives a handle?
    #[inline]
    pub(crate) fn is_apart(&self) -> bool {
        self.tree.is_apart()
    }

    pub(crate) fn key_slice(&self) -> Slice {
        self.tree.key_slice()
    }

    pub(crate) fn value_slice(&self) -> Result<Slice> {
        if self.tree.is_apart() {
            return self.view.version.fetch(self.tree.user_key(), self.tree.value());
        }
        Ok(self.tree.value_slice())
    }

    /// What [`TreeIter::stored`] gives, to keep.
    pub(crate) fn stored_slice(&self) -> Slice {
        self.tree.value_slice()
    }
}
