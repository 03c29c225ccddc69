//! Dead spans: ranges of keys in which a reader has found nothing that lives, so that those who come
//! later go past them by a seek. The front of a queue is one, and so is what was deleted key by key,
//! until compaction has dropped the tombstones.
//!
//! ```text
//! d d d d d d d d d d d d d d d d d L L L …     d: deleted, L: lives
//! └ proven ───────────┘└ claim ─┘
//! ```
//!
//! A span is *proven* at a sequence number: nothing in it lives for a reader there, nor for one at
//! any later number, as long as the span is kept. Snapshots from before step as ever.
//!
//! *Invariants.*
//! - D1: who writes anything but a tombstone takes its key out of all spans before the write is
//!   visible. So a reader that sees the write finds no span over it.
//! - D2: a span is proven in two steps, since a writer may look at the spans just before there is a
//!   new one. First it is a *claim*, of which writers know too. Then the last sequence number that
//!   was given out is asked for: who gets a later one looks at the spans after that, and sees the
//!   claim. A reader at that number or a later one, who has found nothing in all of the claim,
//!   proves what is left of it: earlier writes it would have seen, later ones cut the claim. (So a
//!   reader's number must not be above what its view can have.)
//! - D3: what has expired is dead only for those who judge by the same time or a later one.

use std::mem;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Release;

use crate::base::key::head8;
use crate::base::planted::Planted;
use crate::base::seqno::SeqNo;
use crate::base::sync::Mutex;
use crate::base::sync::atomic::AtomicU64;

/// Of the dead entries in a row, each so-manieth is looked at.
pub(super) const STRIDE: u32 = if cfg!(esker_shuttle) { 1 } else { 8 };
/// So many steps in a row are worth a span.
const LEARN_STEPS: u32 = if cfg!(esker_shuttle) { 2 } else { 32 };
/// Spans that are kept.
const SPANS_MAX: usize = 64;
/// Bytes of the two ends of a span, at most.
const ENDS_LEN_MAX: usize = 2048;
/// So many other walks a claim waits for the one that proves it.
const PATIENCE: u32 = 32;

/// The dead spans of one keyspace.
#[derive(Debug)]
pub(crate) struct DeadSpans {
    /// Heads of the first and of the last key in any span or claim; the first is behind the last if
    /// there are none. Wide enough from before a claim's number is asked for until it is gone.
    first: AtomicU64,
    last: AtomicU64,
    /// The claim that waits for its number; 0 if none does.
    asking: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Disjoint, in order.
    proven: Vec<Proven>,
    claim: Option<Claim>,
    claims: u64,
}

/// Keys from `from` on, before `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: Vec<u8>,
    pub(crate) to: Vec<u8>,
}

#[derive(Debug)]
struct Proven {
    span: Span,
    seqno: SeqNo,
    now_ms: u64,
}

#[derive(Debug)]
struct Claim {
    id: u64,
    span: Span,
    /// All writes with later numbers know of it.
    since: Option<SeqNo>,
    waited: u32,
}

impl Span {
    fn contains(&self, key: &[u8]) -> bool {
        self.from.as_slice() <= key && key < self.to.as_slice()
    }

    /// What is left of it on both sides of `key`, which it contains.
    fn without(self, key: &[u8]) -> [Span; 2] {
        [Span { from: self.from, to: key.to_vec() }, Span { from: behind(key), to: self.to }]
    }

    fn is_empty(&self) -> bool {
        self.from >= self.to
    }
}

/// The first key behind `key`.
fn behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// What a reader has come past since it met the last entry that lives.
#[derive(Debug)]
pub(super) struct Walk {
    span: Span,
    /// Not counted where it went past a span.
    steps: u32,
}

impl Walk {
    /// Begins at a dead key.
    pub(super) fn at(key: &[u8]) -> Walk {
        Walk { span: Span { from: key.to_vec(), to: behind(key) }, steps: 0 }
    }

    /// The walk has come to a dead key, on either side.
    pub(super) fn reach(&mut self, key: &[u8]) {
        self.steps += STRIDE;
        if key < self.span.from.as_slice() {
            self.span.from.clear();
            self.span.from.extend_from_slice(key);
        } else if key >= self.span.to.as_slice() {
            self.span.to.clear();
            self.span.to.extend_from_slice(key);
            self.span.to.push(0);
        }
    }

    /// The walk goes past `span`, whose keys it was among.
    pub(super) fn pass(&mut self, span: &Span) {
        if span.from < self.span.from {
            self.span.from.clone_from(&span.from);
        }
        if span.to > self.span.to {
            self.span.to.clone_from(&span.to);
        }
    }
}

impl Default for DeadSpans {
    fn default() -> DeadSpans {
        DeadSpans {
            first: AtomicU64::new(u64::MAX),
            last: AtomicU64::new(0),
            asking: AtomicU64::new(0),
            inner: Mutex::default(),
        }
    }
}

impl DeadSpans {
    /// Something other than a tombstone is written to `key`. Requires: it has its sequence number,
    /// and is not visible yet.
    #[inline]
    pub(crate) fn note_write(&self, key: &[u8]) {
        let head = head8(key);
        if Planted::DeadSpanKept.is_on() {
            return;
        }
        if self.first.load(Acquire) <= head && head <= self.last.load(Acquire) {
            self.cut(key);
        }
    }

    #[cold]
    fn cut(&self, key: &[u8]) {
        let mut inner = self.inner.lock();
        if let Some(claim) = inner.claim.take_if(|claim| claim.span.contains(key)) {
            let [left, _] = claim.span.without(key);
            inner.claim = (!left.is_empty()).then_some(Claim { span: left, ..claim });
        }
        let index = inner.proven.partition_point(|proven| proven.span.to.as_slice() <= key);
        if inner.proven.get(index).is_some_and(|proven| proven.span.contains(key)) {
            let Proven { span, seqno, now_ms } = inner.proven.remove(index);
            // The left one last: the front of a queue is what counts.
            let parts = span.without(key).into_iter().rev();
            for span in parts.filter(|part| !part.is_empty()) {
                if inner.proven.len() < SPANS_MAX {
                    inner.proven.insert(index, Proven { span, seqno, now_ms });
                }
            }
        }
        self.fit(&inner);
    }

    /// The claim that waits for its number, if there is one.
    #[inline]
    pub(crate) fn asking(&self) -> Option<u64> {
        Some(self.asking.load(Acquire)).filter(|id| *id != 0)
    }

    /// Tells the claim that was asking the last sequence number given out. Requires: `last` was
    /// learned after [`DeadSpans::asking`] has returned `id`, under the lock under which they are
    /// given out.
    pub(crate) fn answer(&self, id: u64, last: SeqNo) {
        let mut inner = self.inner.lock();
        if let Some(claim) = inner.claim.as_mut().filter(|claim| claim.id == id) {
            claim.since = Some(last);
        }
        self.fit(&inner);
    }

    /// The span around `key` that is dead for a reader at `seqno` who judges by `now_ms`.
    pub(super) fn around(&self, key: &[u8], seqno: SeqNo, now_ms: u64) -> Option<Span> {
        if self.first.load(Acquire) > self.last.load(Acquire) {
            return None;
        }
        let inner = self.inner.lock();
        let index = inner.proven.partition_point(|proven| proven.span.to.as_slice() <= key);
        let proven = inner.proven.get(index)?;
        let holds = proven.seqno <= seqno && proven.now_ms <= now_ms && proven.span.contains(key);
        holds.then(|| proven.span.clone())
    }

    /// A reader at `seqno` who judges by `now_ms` has found nothing that lives all along `walk`.
    pub(super) fn learn(&self, walk: Walk, seqno: SeqNo, now_ms: u64) {
        let Walk { span, steps } = walk;
        if steps < LEARN_STEPS || span.from.len() + span.to.len() > ENDS_LEN_MAX {
            return;
        }
        let mut inner = self.inner.lock();
        let common = inner.claim.as_ref().filter(|claim| claim.since.is_some_and(|at| at <= seqno));
        let common = common.map(|claim| Span {
            from: claim.span.from.clone().max(span.from.clone()),
            to: claim.span.to.clone().min(span.to.clone()),
        });
        match (common.filter(|common| !common.is_empty()), &mut inner.claim) {
            (Some(span), claim) => {
                *claim = None;
                inner.prove(Proven { span, seqno, now_ms });
            }
            (None, Some(claim)) if claim.waited < PATIENCE => claim.waited += 1,
            (None, claim) => {
                *claim = None;
                inner.claims += 1;
                let id = inner.claims;
                inner.claim = Some(Claim { id, span, since: None, waited: 0 });
            }
        }
        self.fit(&inner);
    }

    /// Lets writers know where spans are, and readers that a claim asks.
    fn fit(&self, inner: &Inner) {
        let claim = inner.claim.as_ref().map(|claim| &claim.span);
        let spans = || inner.proven.iter().map(|proven| &proven.span).chain(claim);
        let first = spans().map(|span| head8(&span.from)).min().unwrap_or(u64::MAX);
        let last = spans().map(|span| head8(&span.to)).max().unwrap_or(0);
        self.first.store(first, Release);
        self.last.store(last, Release);
        let asking = inner.claim.as_ref().filter(|claim| claim.since.is_none());
        self.asking.store(asking.map_or(0, |claim| claim.id), Release);
    }
}

impl Inner {
    /// Adds a span, as one with those that it meets.
    fn prove(&mut self, mut new: Proven) {
        let from = self.proven.partition_point(|old| old.span.to < new.span.from);
        let to = self.proven.partition_point(|old| old.span.from <= new.span.to);
        let met = &mut self.proven[from..to];
        if met.iter().any(|old| old.seqno > new.seqno || old.now_ms > new.now_ms) {
            // What is known of a later time stays.
            return;
        }
        for old in met {
            new.span.from = mem::take(&mut old.span.from).min(new.span.from);
            new.span.to = mem::take(&mut old.span.to).max(new.span.to);
        }
        self.proven.splice(from..to, [new]);
        if self.proven.len() > SPANS_MAX {
            let oldest = (0..self.proven.len()).min_by_key(|index| self.proven[*index].seqno);
            self.proven.remove(oldest.unwrap_or_default());
        }
    }
}
