//! The nodes of the list: sorted runs of up to 15 entries, linked both ways.
//!
//! ```text
//! line 0       order | next | prev | frame: head, anchor, skip | splits | level | lock
//! lines 1–2    windows of the entries, by slot
//! lines 3–4    pointers of the entries, by slot: to records on level 0, to nodes above it
//! ```
//!
//! A node holds what lies at or after its *bound* and before the bound of the next node. The bound
//! never changes; the first node of a level has none. It is the anchor of the node's [`Frame`], by
//! which the windows of its entries are taken.
//!
//! *Writers* take the node's lock. An insert fills a free slot, then stores the [`Order`] with it. A
//! split builds the new node to the right, (1) links it, (2) cuts the order of this node, (3) counts
//! itself in `splits`. From then on the slots of what moved are free, and later inserts use them.
//!
//! *Readers* take no lock and wait for nobody. They load (1) `splits`, (2) the order, (3) slots, and
//! then (4) `splits` again ([`Snapshot::is_current`]). If it is the same, what they read is the node
//! as of (2). For a slot of that order was written before the order was stored, which (2) sees, and
//! if a later insert has used it again, that came behind a split's step 3: whoever sees a byte of it
//! sees the split counted too, since each is stored with Release and loaded with Acquire. The same
//! goes for an order that is younger than (1). Else they look again: some split was completed
//! meanwhile, so the system makes progress whichever thread stands still.
//!
//! Entries are there all the time: between a split's steps 1 and 2 those that move are in both
//! nodes, and a reader that goes from left to right takes from the right one only what lies beyond
//! the entry it has. What it reads of `next` is at least as young as its order, for step 1 is before
//! step 2.

use std::array;
use std::cmp::Ordering;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;

use crate::base::prefetch::prefetch;
use crate::base::sync::Mutex;
use crate::base::sync::MutexGuard;
use crate::base::sync::atomic::AtomicPtr;
use crate::base::sync::atomic::AtomicU32;
use crate::base::sync::atomic::AtomicU64;
use crate::memtable::arena::Arena;
use crate::memtable::key::Frame;
use crate::memtable::key::Probe;
use crate::memtable::order::ENTRIES_MAX;
use crate::memtable::order::Order;
use crate::memtable::record::Record;

/// One more than entries, so that four bits are always a slot. The last one is never used.
const SLOTS: usize = 1 << 4;
const _: () = assert!(ENTRIES_MAX < SLOTS);

/// So many entries in a row make a run.
const RUN_LEN: u8 = 4;

#[repr(C, align(64))]
pub(super) struct Node {
    order: AtomicU64,
    next: AtomicPtr<Node>,
    /// A node before this one, usually the nearest: a place to begin a search from. Null in the first
    /// node of a level, and in no other.
    prev: AtomicPtr<Node>,
    /// Its anchor is the bound; in the first node of a level, which has none, some key.
    frame: Frame,
    splits: AtomicU32,
    level: u8,
    writer: Mutex<Run>,
    windows: [AtomicU64; SLOTS],
    pointers: [AtomicPtr<u8>; SLOTS],
}

#[cfg(not(esker_shuttle))]
const _: () = assert!(size_of::<Node>() == 5 * 64, "a node is five cache lines");

/// Are the inserts into a node sorted? Then it is split where the run stands, so that the run fills
/// whole nodes and moves little.
#[derive(Clone, Copy, Default)]
pub(super) struct Run {
    /// Place of the last insert.
    last: u8,
    /// How many inserts before it stood right before or behind the one before them.
    len: u8,
}

impl Run {
    /// Notes an insert in place `index`.
    pub(super) fn note(&mut self, index: usize) {
        let index = index as u8;
        let goes_on = index == self.last || index == self.last + 1;
        *self = Run { last: index, len: if goes_on { self.len.saturating_add(1) } else { 0 } };
    }

    pub(super) fn is_long(self) -> bool {
        self.len >= RUN_LEN
    }
}

/// Where a node lies. It lives as long as the arena.
#[derive(Clone, Copy)]
pub(super) struct NodeRef(NonNull<Node>);

#[expect(unsafe_code, reason = "the pointer keeps NodeRef from being Send by itself")]
// SAFETY: a node is Sync, and lives as long as the arena.
unsafe impl Send for NodeRef {}
#[expect(unsafe_code, reason = "the pointer keeps NodeRef from being Sync by itself")]
// SAFETY: as for Send.
unsafe impl Sync for NodeRef {}

impl Deref for NodeRef {
    type Target = Node;

    #[expect(unsafe_code, reason = "reads arena memory")]
    #[inline]
    fn deref(&self) -> &Node {
        // SAFETY: it was initialized before the NodeRef was made, what changes in it is atomic or
        // under its lock, and it lives on by the invariant of the arena.
        unsafe { self.0.as_ref() }
    }
}

impl NodeRef {
    /// A node without entries.
    pub(super) fn first(arena: &Arena, level: usize, frame: Frame) -> NodeRef {
        NodeRef::new(arena, Node::new(level as u8, frame))
    }

    #[expect(unsafe_code, reason = "writes arena memory")]
    fn new(arena: &Arena, node: Node) -> NodeRef {
        let place = arena.allocate(size_of::<Node>()).cast::<Node>();
        // SAFETY: there is room for a node, aligned since the arena holds nothing but nodes, and
        // nobody else knows of it.
        unsafe { place.write(node) };
        NodeRef(place)
    }

    /// The node that [`NodeRef::as_ptr`] said lies there.
    #[inline]
    pub(super) fn at(pointer: *mut Node) -> Option<NodeRef> {
        NonNull::new(pointer).map(NodeRef)
    }

    #[inline]
    pub(super) fn as_ptr(self) -> *mut Node {
        self.0.as_ptr()
    }

    /// The entries as they are now.
    #[inline]
    pub(super) fn snapshot(self) -> Snapshot {
        let splits = self.splits.load(Acquire);
        Snapshot { node: self, splits, order: Order(self.order.load(Acquire)) }
    }

    /// Adds the entry of `probe` in place `index`. Requires: the lock is held, the snapshot was taken
    /// under it, and the place is the right one. Returns the new node, if there had to be one.
    pub(super) fn insert(
        self,
        run: &mut Run,
        order: Order,
        index: usize,
        (probe, target): (&Probe<'_>, Target),
        arena: &Arena,
    ) -> Option<NodeRef> {
        let entry = Entry { window: self.frame.window(probe), target };
        if order.len() < ENTRIES_MAX {
            self.add(order, index, entry);
            return None;
        }
        let at = if run.is_long() { index } else { ENTRIES_MAX / 2 + 1 };
        // An entry between the two parts goes to the left one, if that has room.
        let goes_right = index > at || index == ENTRIES_MAX;
        // Where nothing else is put, the new entry is.
        let mut moved = [entry; ENTRIES_MAX];
        for place in at..ENTRIES_MAX {
            let shift = usize::from(goes_right && place >= index);
            moved[place - at + shift] = self.entry(order.slot(place));
        }
        let moved = &mut moved[..ENTRIES_MAX - at + usize::from(goes_right)];
        let before = at.checked_sub(1).map(|place| self.entry(order.slot(place)));
        let mut node = self.right_part(before, moved);
        if goes_right && run.is_long() {
            // It is alone there.
            node.writer = Mutex::new(Run { last: 0, len: run.len });
        }
        let right = NodeRef::new(arena, node);
        self.split(order.cut(at), right);
        if goes_right {
            run.len = 0;
        } else {
            self.add(order.cut(at), index, entry);
        }
        Some(right)
    }

    /// A node of `entries`, which will follow this one. `before` will be the last entry that stays
    /// here.
    fn right_part(self, before: Option<Entry>, entries: &mut [Entry]) -> Node {
        let anchor = self.record(entries[0].target);
        let frame = if windows_differ(before.iter().chain(&*entries)) {
            self.frame.by(anchor)
        } else {
            self.fit_windows(anchor, before, entries)
        };
        let mut node = Node::new(self.level, frame);
        node.order = AtomicU64::new(Order::identity(entries.len()).0);
        node.next = AtomicPtr::new(self.next.load(Relaxed));
        node.prev = AtomicPtr::new(self.as_ptr());
        for (slot, entry) in entries.iter().enumerate() {
            node.fill(slot, *entry);
        }
        node
    }

    /// A frame by which the windows of `entries` differ, if one can be found, and those windows.
    #[cold]
    fn fit_windows(self, anchor: Record, before: Option<Entry>, entries: &mut [Entry]) -> Frame {
        let other = if entries.len() > 1 { entries.last() } else { before.as_ref() };
        let other = other.map_or(anchor, |other| self.record(other.target));
        let frame = Frame::between(anchor, other);
        if entries[0].begins_like_anchor() && frame.has_windows_of(&self.frame) {
            // They are what they were: keys that are the same tie by any frame.
            return frame;
        }
        for entry in entries {
            entry.window = frame.window(&Probe::new(self.record(entry.target).key()));
        }
        frame
    }

    /// The three steps of a split: `left` remains, the rest is in `right` already.
    fn split(self, left: Order, right: NodeRef) {
        self.next.store(right.as_ptr(), Release);
        self.order.store(left.0, Release);
        self.splits.store(self.splits.load(Relaxed).wrapping_add(1), Release);
        if let Some(next) = right.next() {
            next.prev.store(right.as_ptr(), Release);
        }
    }
}

/// What an entry of a node leads to: on level 0 a record, above it a node.
#[derive(Clone, Copy)]
pub(super) struct Target(*mut u8);

impl Target {
    pub(super) fn record(record: Record) -> Target {
        Target(record.as_ptr())
    }

    pub(super) fn node(node: NodeRef) -> Target {
        Target(node.as_ptr().cast())
    }
}

/// What a node holds.
#[derive(Clone, Copy)]
struct Entry {
    window: u64,
    target: Target,
}

impl Entry {
    /// Does its key begin as that of the anchor of its frame does? False if the window leaves it open.
    fn begins_like_anchor(&self) -> bool {
        0 < self.window && self.window < u64::MAX
    }
}

/// Do the windows of these entries, which are sorted, all differ, and their keys begin as that of the
/// anchor does?
fn windows_differ<'a>(mut entries: impl Iterator<Item = &'a Entry>) -> bool {
    let mut last = 0;
    entries.all(|entry| {
        let differs = last < entry.window && entry.begins_like_anchor();
        last = entry.window;
        differs
    })
}

impl Node {
    fn new(level: u8, frame: Frame) -> Node {
        Node {
            order: AtomicU64::new(Order::identity(0).0),
            next: AtomicPtr::default(),
            prev: AtomicPtr::default(),
            frame,
            splits: AtomicU32::new(0),
            level,
            writer: Mutex::default(),
            windows: array::from_fn(|_| AtomicU64::new(0)),
            pointers: array::from_fn(|_| AtomicPtr::default()),
        }
    }

    #[inline]
    pub(super) fn next(&self) -> Option<NodeRef> {
        NodeRef::at(self.next.load(Acquire))
    }

    pub(super) fn level(&self) -> usize {
        self.level.into()
    }

    /// Asks for the node's lines before they are needed: all at once rather than one by one.
    #[inline]
    pub(super) fn prefetch(&self) {
        prefetch(self);
    }

    /// The same for what a walk needs, which enters a node at its first entry.
    #[inline]
    pub(super) fn prefetch_pointers(&self) {
        prefetch(&self.order);
        prefetch(&self.pointers);
    }

    /// A node before this one, if it is not the first. Those between them can be reached from it.
    pub(super) fn prev(&self) -> Option<NodeRef> {
        NodeRef::at(self.prev.load(Acquire))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Run> {
        self.writer.lock()
    }

    pub(super) fn frame(&self) -> Frame {
        self.frame
    }

    /// The bound, unless this is the first node of its level.
    pub(super) fn bound(&self) -> Option<Record> {
        self.prev().map(|_| self.frame.anchor())
    }

    /// How `probe` compares with the bound.
    #[inline]
    fn cmp_bound(&self, probe: &Probe<'_>) -> Ordering {
        if self.prev().is_none() {
            return Ordering::Greater;
        }
        self.frame.cmp_anchor(probe)
    }

    /// Is `probe` at or after the bound?
    #[inline]
    pub(super) fn begins_by(&self, probe: &Probe<'_>) -> bool {
        self.cmp_bound(probe) != Ordering::Less
    }

    /// Is `probe` after the bound?
    pub(super) fn begins_before(&self, probe: &Probe<'_>) -> bool {
        self.cmp_bound(probe) == Ordering::Greater
    }

    /// Is this the node that `probe` belongs into?
    pub(super) fn covers(&self, probe: &Probe<'_>) -> bool {
        self.begins_by(probe) && !self.next().is_some_and(|next| next.begins_by(probe))
    }

    /// Puts an entry in place `index`.
    fn add(&self, order: Order, index: usize, entry: Entry) {
        self.fill(order.slot(order.len()), entry);
        self.order.store(order.with(index).0, Release);
    }

    fn fill(&self, slot: usize, entry: Entry) {
        self.windows[slot].store(entry.window, Release);
        self.pointers[slot].store(entry.target.0, Release);
    }

    #[inline]
    fn window(&self, slot: usize) -> u64 {
        self.windows[slot % SLOTS].load(Acquire)
    }

    #[inline]
    fn target(&self, slot: usize) -> Target {
        Target(self.pointers[slot % SLOTS].load(Acquire))
    }

    fn entry(&self, slot: usize) -> Entry {
        Entry { window: self.window(slot), target: self.target(slot) }
    }

    /// The record by which an entry with this target is sorted. Requires: it is of a slot that was
    /// in an order, or about to be put there.
    #[expect(unsafe_code, reason = "reads arena memory")]
    fn record(&self, target: Target) -> Record {
        // SAFETY: slots are filled before an order names them.
        let pointer = unsafe { NonNull::new_unchecked(target.0) };
        if self.level > 0 {
            // The entries are nodes that have a bound.
            return NodeRef(pointer.cast()).frame.anchor();
        }
        Record::at(pointer)
    }
}

/// A node's entries at one moment.
#[derive(Clone, Copy)]
pub(super) struct Snapshot {
    node: NodeRef,
    splits: u32,
    order: Order,
}

impl Snapshot {
    pub(super) fn node(&self) -> NodeRef {
        self.node
    }

    pub(super) fn order(&self) -> Order {
        self.order
    }

    /// Number of entries.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Is all that was read from this snapshot true of it?
    #[inline]
    pub(super) fn is_current(&self) -> bool {
        self.node.splits.load(Acquire) == self.splits
    }

    /// How many entries are before `probe`.
    #[inline]
    pub(super) fn count_before(&self, probe: &Probe<'_>) -> usize {
        self.count(probe, Ordering::Greater)
    }

    /// How many entries are at or before `probe`.
    #[inline]
    pub(super) fn count_through(&self, probe: &Probe<'_>) -> usize {
        self.count(probe, Ordering::Equal)
    }

    /// How many entries `probe` compares with as `least` or greater.
    #[inline]
    fn count(&self, probe: &Probe<'_>, least: Ordering) -> usize {
        let window = self.node.frame.window(probe);
        let before = self.count_windows_before(window);
        if before < self.len() && self.window(before) == window {
            return self.count_ties(probe, window, least, before);
        }
        before
    }

    /// Looks at every fourth entry, then at the three between two of those: two steps of loads that
    /// do not wait for each other, and no branches.
    #[inline]
    fn count_windows_before(&self, window: u64) -> usize {
        let is_before = |i: usize| usize::from((i < self.len()) & (self.window(i) < window));
        let start = 4 * (is_before(3) + is_before(7) + is_before(11));
        start + is_before(start) + is_before(start + 1) + is_before(start + 2)
    }

    /// As `count`, where the windows tie from `before` on.
    #[cold]
    fn count_ties(&self, probe: &Probe<'_>, window: u64, least: Ordering, before: usize) -> usize {
        let counts = |i: usize| probe.cmp(self.record(i).key()) >= least;
        if !counts(before) {
            return before;
        }
        let ties = (before + 1..self.len()).take_while(|i| self.window(*i) == window);
        let (mut low, mut high) = (before + 1, before + 1 + ties.count());
        // Mostly one is all that ties, or all are versions of one key in front of the probe.
        if low == high || counts(high - 1) {
            return high;
        }
        high -= 1;
        while low < high {
            let middle = low.midpoint(high);
            if counts(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    #[inline]
    fn window(&self, index: usize) -> u64 {
        self.node.window(self.order.slot(index))
    }

    /// The record that entry `index` is sorted by; on level 0 that is the entry. Requires: there is
    /// one.
    #[inline]
    pub(super) fn record(&self, index: usize) -> Record {
        self.node.record(self.node.target(self.order.slot(index)))
    }

    /// The node that entry `index` is. Requires: there is one, and this is not level 0.
    #[inline]
    #[expect(unsafe_code, reason = "follows a pointer to a node")]
    pub(super) fn child(&self, index: usize) -> NodeRef {
        debug_assert!(self.node.level > 0);
        let target = self.node.target(self.order.slot(index));
        // SAFETY: slots are filled before an order names them, on this level with nodes.
        NodeRef(unsafe { NonNull::new_unchecked(target.0.cast()) })
    }

    /// Does `probe` compare as equal with entry `index`, if there is one?
    pub(super) fn is_at(&self, index: usize, probe: &Probe<'_>) -> bool {
        index < self.len()
            && self.window(index) == self.node.frame.window(probe)
            && probe.cmp(self.record(index).key()) == Ordering::Equal
    }
}
