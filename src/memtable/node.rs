//! The nodes of the list: sorted runs of up to 15 entries, linked both ways.
//!
//! ```text
//! line 0       order | next | prev | bound: head, record | splits | level | lock
//! lines 1–4    heads of the entries, by slot
//! lines 5–6    pointers of the entries, by slot: to records on level 0, to nodes above it
//! ```
//!
//! A node holds what lies at or after its *bound* and before the bound of the next node. The bound
//! never changes; the first node of a level has none.
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
    /// A node before this one, usually the nearest: a place to begin a search from.
    prev: AtomicPtr<Node>,
    /// The head of the bound's key, in two halves.
    bound_head: [u64; 2],
    bound: Option<Record>,
    splits: AtomicU32,
    level: u8,
    writer: Mutex<Run>,
    heads: [Head; SLOTS],
    pointers: [AtomicPtr<u8>; SLOTS],
}

#[cfg(not(esker_shuttle))]
const _: () = assert!(size_of::<Node>() == 7 * 64, "a node is seven cache lines");

/// A key's head in two halves, which may be read torn: then `splits` tells.
struct Head {
    upper: AtomicU64,
    lower: AtomicU64,
}

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
    pub(super) fn first(arena: &Arena, level: usize) -> NodeRef {
        NodeRef::new(arena, Node::new(level as u8, None))
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

    /// Adds an entry in place `index`. Requires: the lock is held, the snapshot was taken under it,
    /// and the place is the right one. Returns the new node, if there had to be one.
    pub(super) fn insert(
        self,
        run: &mut Run,
        order: Order,
        index: usize,
        entry: Entry,
        arena: &Arena,
    ) -> Option<NodeRef> {
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
        let moved = &moved[..ENTRIES_MAX - at + usize::from(goes_right)];
        let mut node = self.right_part(moved);
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

    /// A node of `entries`, which will follow this one.
    fn right_part(self, entries: &[Entry]) -> Node {
        let first = entries[0];
        let mut node = Node::new(self.level, Some((first.head, self.record(first.pointer))));
        node.order = AtomicU64::new(Order::identity(entries.len()).0);
        node.next = AtomicPtr::new(self.next.load(Relaxed));
        node.prev = AtomicPtr::new(self.as_ptr());
        for (slot, entry) in entries.iter().enumerate() {
            node.fill(slot, *entry);
        }
        node
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

/// What a node holds: on level 0 a record, above it a node, with the head of its key.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    head: u128,
    pointer: *mut u8,
}

impl Entry {
    pub(super) fn of_record(head: u128, record: Record) -> Entry {
        Entry { head, pointer: record.as_ptr() }
    }

    pub(super) fn of_node(node: NodeRef) -> Entry {
        Entry { head: node.bound_head(), pointer: node.as_ptr().cast() }
    }
}

impl Node {
    fn new(level: u8, bound: Option<(u128, Record)>) -> Node {
        let head = bound.map_or(0, |(head, _)| head);
        Node {
            order: AtomicU64::new(Order::identity(0).0),
            next: AtomicPtr::default(),
            prev: AtomicPtr::default(),
            bound_head: [(head >> 64) as u64, head as u64],
            bound: bound.map(|(_, record)| record),
            splits: AtomicU32::new(0),
            level,
            writer: Mutex::default(),
            heads: array::from_fn(|_| Head { upper: AtomicU64::new(0), lower: AtomicU64::new(0) }),
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

    fn bound_head(&self) -> u128 {
        u128::from(self.bound_head[0]) << 64 | u128::from(self.bound_head[1])
    }

    /// The bound, unless this is the first node of its level.
    pub(super) fn bound(&self) -> Option<Record> {
        self.bound
    }

    /// How `probe` compares with the bound.
    #[inline]
    fn cmp_bound(&self, probe: &Probe<'_>) -> Ordering {
        let Some(bound) = &self.bound else { return Ordering::Greater };
        match probe.head.cmp(&self.bound_head()) {
            Ordering::Equal => probe.cmp_behind_head(bound.key()),
            decided => decided,
        }
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
        self.heads[slot].upper.store((entry.head >> 64) as u64, Release);
        self.heads[slot].lower.store(entry.head as u64, Release);
        self.pointers[slot].store(entry.pointer, Release);
    }

    #[inline]
    fn head(&self, slot: usize) -> u128 {
        let head = &self.heads[slot % SLOTS];
        u128::from(head.upper.load(Acquire)) << 64 | u128::from(head.lower.load(Acquire))
    }

    #[inline]
    fn pointer(&self, slot: usize) -> *mut u8 {
        self.pointers[slot % SLOTS].load(Acquire)
    }

    fn entry(&self, slot: usize) -> Entry {
        Entry { head: self.head(slot), pointer: self.pointer(slot) }
    }

    /// The record by which an entry with this pointer is sorted. Requires: it is of a slot that was
    /// in an order.
    #[expect(unsafe_code, reason = "reads arena memory")]
    fn record(&self, pointer: *mut u8) -> Record {
        // SAFETY: slots are filled before an order names them.
        let pointer = unsafe { NonNull::new_unchecked(pointer) };
        if self.level > 0 {
            // On upper levels the entries are nodes that have a bound.
            if let Some(bound) = NodeRef(pointer.cast()).bound {
                return bound;
            }
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
        let before = self.count_heads_before(probe.head);
        if before < self.len() && self.head(before) == probe.head {
            return self.count_ties(probe, least, before);
        }
        before
    }

    /// Looks at every fourth entry, then at the three between two of those: two steps of loads that
    /// do not wait for each other, and no branches.
    #[inline]
    fn count_heads_before(&self, head: u128) -> usize {
        let is_before = |i: usize| usize::from((i < self.len()) & (self.head(i) < head));
        let start = 4 * (is_before(3) + is_before(7) + is_before(11));
        start + is_before(start) + is_before(start + 1) + is_before(start + 2)
    }

    /// As `count`, where the heads tie from `before` on.
    #[cold]
    fn count_ties(&self, probe: &Probe<'_>, least: Ordering, before: usize) -> usize {
        let counts = |i: usize| {
            let by_head = probe.head.cmp(&self.head(i));
            by_head.then_with(|| probe.cmp_behind_head(self.record(i).key())) >= least
        };
        if !counts(before) {
            return before;
        }
        let ties = (before + 1..self.len()).take_while(|i| self.head(*i) == probe.head);
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
    fn head(&self, index: usize) -> u128 {
        self.node.head(self.order.slot(index))
    }

    /// The record that entry `index` is sorted by; on level 0 that is the entry. Requires: there is
    /// one.
    #[inline]
    pub(super) fn record(&self, index: usize) -> Record {
        self.node.record(self.node.pointer(self.order.slot(index)))
    }

    /// The node that entry `index` is. Requires: there is one, and this is not level 0.
    #[inline]
    #[expect(unsafe_code, reason = "follows a pointer to a node")]
    pub(super) fn child(&self, index: usize) -> NodeRef {
        debug_assert!(self.node.level > 0);
        let pointer = self.node.pointer(self.order.slot(index));
        // SAFETY: slots are filled before an order names them, on this level with nodes.
        NodeRef(unsafe { NonNull::new_unchecked(pointer.cast()) })
    }

    /// Does `probe` compare as equal with entry `index`, if there is one?
    pub(super) fn is_at(&self, index: usize, probe: &Probe<'_>) -> bool {
        index < self.len()
            && self.head(index) == probe.head
            && probe.cmp_behind_head(self.record(index).key()) == Ordering::Equal
    }
}
