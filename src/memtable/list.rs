//! The ordered list of entries: an unrolled skiplist from which nothing is ever removed.
//!
//! ```text
//! level 2   [-∞ ········································ m]
//!             │                                         │
//! level 1   [-∞ ········ f ······· j] ───────────────► [m ········ t]
//!             │          │         │                    │          │
//! level 0   [a c d] ──► [f g] ──► [j k] ──► [l l] ───► [m p q] ──► [t x]
//! ```
//!
//! Each level is a linked list of [nodes](crate::memtable::node), sorted runs of entries. Those of
//! level 0 are the records; those of a level above are the nodes below, sorted by their bounds. A
//! node gets an entry above after it was linked, so one that has none yet (`[l l]`) is found from
//! its left neighbour: a search goes right wherever the next node begins at or before its target.
//!
//! A level is made when the first node of the one below is split. Its first node has no bound and
//! stands for everything before its first entry: from there a search goes on at the first node of
//! the level below.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;

use crate::base::sync::atomic::AtomicPtr;
use crate::base::sync::atomic::AtomicU32;
use crate::memtable::arena::Arena;
use crate::memtable::arena::FreeChunks;
use crate::memtable::key::Frame;
use crate::memtable::key::Probe;
use crate::memtable::node::Node;
use crate::memtable::node::NodeRef;
use crate::memtable::node::Snapshot;
use crate::memtable::node::Target;
use crate::memtable::record::Record;

/// With more nodes than these index, the last level is a long list.
const LEVELS_MAX: usize = 12;

/// A walk asks for so many records ahead.
const AHEAD: usize = 4;

pub(super) struct List {
    /// The first node of each level, null above the last one.
    first: [AtomicPtr<Node>; LEVELS_MAX],
    levels: AtomicU32,
    /// Where the next insert may belong, if they seem to be sorted.
    hint: AtomicPtr<Node>,
    nodes: Arena,
}

/// There is an entry with this key and trailer.
struct Duplicate;

impl List {
    pub(super) fn new(free: Arc<FreeChunks>) -> List {
        List {
            first: [const { AtomicPtr::new(ptr::null_mut()) }; LEVELS_MAX],
            levels: AtomicU32::new(0),
            hint: AtomicPtr::default(),
            nodes: Arena::new(free),
        }
    }

    /// Bytes of all nodes.
    pub(super) fn bytes(&self) -> usize {
        self.nodes.bytes()
    }

    /// Adds an entry, unless one with its key and trailer is there already.
    #[inline]
    pub(super) fn insert(&self, probe: &Probe<'_>, record: Record) -> bool {
        let node = self.hinted(probe).or_else(|| self.find(0, probe));
        let node = node.unwrap_or_else(|| self.make_first(0, Frame::of_whole_keys(record)));
        let Ok(mut split) = self.put(node, probe, Target::record(record)) else { return false };
        for level in 1..LEVELS_MAX {
            // The first node of a level has no bound, but that one is not new.
            let Some((node, bound)) = split.and_then(|node| Some((node, node.bound()?))) else {
                break;
            };
            let probe = Probe::new(bound.key());
            let parent = self.find(level, &probe);
            let parent = parent.unwrap_or_else(|| self.make_first(level, node.frame()));
            split = self.put(parent, &probe, Target::node(node)).unwrap_or_default();
        }
        true
    }

    /// The node of the last insert, if this one seems to belong there.
    fn hinted(&self, probe: &Probe<'_>) -> Option<NodeRef> {
        let node = NodeRef::at(self.hint.load(Acquire))?;
        if node.covers(probe) {
            return Some(node);
        }
        self.hint.store(ptr::null_mut(), Relaxed);
        None
    }

    /// Puts an entry into `node` or whichever it belongs into right of it. Returns the node that
    /// was split off, if one was; an error if the entry is there already.
    fn put(
        &self,
        mut node: NodeRef,
        probe: &Probe<'_>,
        target: Target,
    ) -> Result<Option<NodeRef>, Duplicate> {
        loop {
            let mut run = node.lock();
            let snapshot = node.snapshot();
            let index = snapshot.count_before(probe);
            if index == snapshot.len()
                && let Some(next) = node.next()
                && next.begins_by(probe)
            {
                drop(run);
                node = next;
                continue;
            }
            if snapshot.is_at(index, probe) {
                return Err(Duplicate);
            }
            run.note(index);
            let in_order = run.is_long();
            let split =
                node.insert(&mut run, snapshot.order(), index, (probe, target), &self.nodes);
            if in_order && node.level() == 0 {
                self.leave_hint(split.filter(|right| right.begins_by(probe)).unwrap_or(node));
            }
            return Ok(split);
        }
    }

    fn leave_hint(&self, node: NodeRef) {
        if self.hint.load(Relaxed) != node.as_ptr() {
            self.hint.store(node.as_ptr(), Release);
        }
    }

    /// The first node of a level, if there is one.
    #[inline]
    fn first(&self, level: usize) -> Option<NodeRef> {
        NodeRef::at(self.first[level].load(Acquire))
    }

    /// The first node of a level, which is made if it is not there.
    #[cold]
    fn make_first(&self, level: usize, frame: Frame) -> NodeRef {
        let node = NodeRef::first(&self.nodes, level, frame);
        let null = ptr::null_mut();
        let made = self.first[level].compare_exchange(null, node.as_ptr(), AcqRel, Acquire);
        self.levels.fetch_max(level as u32 + 1, Release);
        // What another thread has made stays, and this node is lost.
        made.err().and_then(NodeRef::at).unwrap_or(node)
    }

    /// The node of `level` that `probe` belongs into, or one a little to the left; none if there is
    /// no such level.
    #[inline]
    fn find(&self, level: usize, probe: &Probe<'_>) -> Option<NodeRef> {
        self.descend(level, |node| node.begins_by(probe), |at| at.count_through(probe))
    }

    /// Goes down to `level`, right wherever `begins_by` says that the next node begins by the
    /// target, down at the last of so many entries as `count` says do.
    #[inline]
    fn descend(
        &self,
        level: usize,
        begins_by: impl Fn(NodeRef) -> bool,
        count: impl Fn(&Snapshot) -> usize,
    ) -> Option<NodeRef> {
        let mut at = (self.levels.load(Acquire) as usize).checked_sub(1)?.max(level);
        let mut node = self.first(at)?;
        while at > level {
            let snapshot = node.snapshot();
            let entries = count(&snapshot);
            if entries == snapshot.len()
                && let Some(next) = node.next()
                && begins_by(next)
            {
                node = next;
                continue;
            }
            let below =
                if entries == 0 { self.first(at - 1)? } else { snapshot.child(entries - 1) };
            if snapshot.is_current() {
                node = below;
                node.prefetch();
                at -= 1;
            }
        }
        Some(node)
    }

    /// Is there no entry?
    pub(super) fn is_empty(&self) -> bool {
        self.levels.load(Acquire) == 0
    }

    /// The first entry at or after `probe`.
    pub(super) fn lower_bound(&self, probe: &Probe<'_>) -> Option<Position> {
        first_from(self.find(0, probe)?, |at| at.count_before(probe))
    }

    /// The last entry at or before `probe`.
    pub(super) fn upper_bound(&self, probe: &Probe<'_>) -> Option<Position> {
        let node = self.find(0, probe)?;
        last_from(node, |node| node.begins_by(probe), |at| at.count_through(probe))
    }

    /// The first entry after `probe`, which is at or after the entry `at`.
    pub(super) fn first_behind(&self, probe: &Probe<'_>, at: &Position) -> Option<Position> {
        at.near(probe)
            .or_else(|| first_from(self.find(0, probe)?, |node| node.count_through(probe)))
    }

    /// The first entry of all.
    pub(super) fn front(&self) -> Option<Position> {
        first_from(self.first(0)?, |_| 0)
    }

    /// The last entry of all.
    pub(super) fn back(&self) -> Option<Position> {
        last_from(self.descend(0, |_| true, Snapshot::len)?, |_| true, Snapshot::len)
    }
}

/// The first entry behind so many as `count` says, in `node` or right of it.
#[inline]
fn first_from(mut node: NodeRef, count: impl Fn(&Snapshot) -> usize) -> Option<Position> {
    loop {
        let snapshot = node.snapshot();
        let index = count(&snapshot);
        if index < snapshot.len() {
            if let Some(position) = Position::new(snapshot, index) {
                return Some(position);
            }
            continue;
        }
        let next = node.next();
        if snapshot.is_current() {
            node = next?;
        }
    }
}

/// The last entry of so many as `count` says, in `node`, right of it while the next node
/// `begins_by` the target, or left of it.
#[inline]
fn last_from(
    mut node: NodeRef,
    begins_by: impl Fn(NodeRef) -> bool,
    count: impl Fn(&Snapshot) -> usize,
) -> Option<Position> {
    loop {
        let snapshot = node.snapshot();
        let entries = count(&snapshot);
        if entries == snapshot.len()
            && let Some(next) = node.next()
            && begins_by(next)
        {
            node = next;
        } else if entries > 0 {
            if let Some(position) = Position::new(snapshot, entries - 1) {
                return Some(position);
            }
        } else if snapshot.is_current() {
            node = node.prev()?;
        }
    }
}

/// An entry, and where it stood. Entries that were inserted since may be passed over.
#[derive(Clone, Copy)]
pub(super) struct Position {
    snapshot: Snapshot,
    index: usize,
    record: Record,
}

impl Position {
    /// Requires: the snapshot has an entry there. None if it is not current.
    #[inline]
    fn new(snapshot: Snapshot, index: usize) -> Option<Position> {
        let position = Position { snapshot, index, record: snapshot.record(index) };
        snapshot.is_current().then_some(position)
    }

    pub(super) fn record(&self) -> Record {
        self.record
    }

    /// The next entry.
    #[inline]
    pub(super) fn next(&self) -> Option<Position> {
        let at_end = self.index + 1 == self.snapshot.len();
        if !at_end && let Some(next) = Position::new(self.snapshot, self.index + 1) {
            return Some(next);
        }
        self.next_node(at_end)
    }

    /// The first entry after `probe`, if that is in this node or the next one, as far as this knows.
    fn near(&self, probe: &Probe<'_>) -> Option<Position> {
        let index = self.snapshot.count_through(probe);
        if index < self.snapshot.len() {
            return Position::new(self.snapshot, index);
        }
        let next = self.snapshot.node().next().filter(|next| !next.begins_by(probe))?;
        if !self.snapshot.is_current() {
            return None;
        }
        first_from(next, |_| 0)
    }

    /// The next entry, out of what has become of this node, or of the next.
    #[inline(never)]
    fn next_node(&self, at_end: bool) -> Option<Position> {
        let node = self.snapshot.node();
        let probe = Probe::new(self.record.key());
        if !at_end {
            return first_from(node, |at| at.count_through(&probe));
        }
        let next = node.next()?;
        if !next.begins_by(&probe) {
            return first_from(next, |_| 0);
        }
        // This node was split since: the next one begins with entries that are passed already.
        first_from(next, |at| at.count_through(&probe))
    }

    /// Asks for what a walk from here comes to next: records lie anywhere.
    #[inline]
    pub(super) fn prefetch_ahead(&self) {
        for index in (self.index + 1..self.snapshot.len()).take(AHEAD - 1) {
            self.snapshot.record(index).prefetch();
        }
        self.prefetch_next();
    }

    /// The same where the walk goes on.
    #[inline]
    pub(super) fn prefetch_next(&self) {
        let (index, len) = (self.index + AHEAD, self.snapshot.len());
        if index < len {
            return self.snapshot.record(index).prefetch();
        }
        let Some(next) = self.snapshot.node().next() else { return };
        if index == len {
            return next.prefetch_pointers();
        }
        let (next, index) = (next.snapshot(), index - len);
        let from = if index == 1 { 0 } else { index };
        for index in from..next.len().min(index + 1) {
            next.record(index).prefetch();
        }
    }

    /// The entry before.
    #[inline]
    pub(super) fn prev(&self) -> Option<Position> {
        let at_start = self.index == 0;
        if !at_start && let Some(prev) = Position::new(self.snapshot, self.index - 1) {
            return Some(prev);
        }
        let node = self.snapshot.node();
        let probe = Probe::new(self.record.key());
        let start = if at_start { node.prev()? } else { node };
        last_from(start, |node| node.begins_before(&probe), |at| at.count_before(&probe))
    }
}
