//! Commits that fail if what they build on has changed: the validation of transactions and of
//! conditional operations.
//!
//! A *claim* says: of these keys none was written after `since`. Whoever makes it pins `since` as a
//! snapshot. It is checked in two parts, so that nothing is looked up under the append lock:
//!
//! ```text
//! 1 under the append lock: note `from`, the last sequence number given out, and begin to watch:
//!   until the watch ends, each batch that is appended leaves its keys in `Recent`
//! 2 wait until everything up to `from` is applied
//! 3 look in memtables and files for versions of the claimed keys newer than `since`
//! 4 under the append lock: look in `Recent` for batches behind `from`; if none has a claimed key,
//!   append
//! ```
//!
//! Where nothing at all was appended since `since`, one look under the append lock is enough.
//!
//! *Invariants.*
//! - K1: every batch up to `from` is found by step 3: it is applied before the view is loaded, and of
//!   each key that was written after a pinned snapshot, flushes and compactions keep a version that
//!   is newer than the snapshot, with its number (R1 keeps the newest of its stripe; R2 and R3 touch
//!   only the oldest stripe, which ends at or before the snapshot).
//! - K2: every batch between `from` and the commit is found by step 4: the watch begins under the same
//!   lock under which `from` is read, and ends under the one under which the commit gets its numbers.
//!   A batch that is too long to be kept says so; then the check begins anew.
//! - K3: so at the moment at which a checked commit gets its numbers, all that it claims is true: it
//!   is as if everything that it read had been read at that moment.
//! - K4: whoever waits in step 2 holds no lock and no sequence number, so those it waits for get on.
//! - K5: writers that meet no watch pay for one look at a field that lies under their lock anyway.
//!
//! A conflict is told when what it conflicts with is visible: so who tries again reads it.

use std::cell::Cell;
use std::sync::Arc;

use crate::base::batch::Batch;
use crate::base::batch::Op;
use crate::base::batch::Ops;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::KeyspaceId;
use crate::base::planted::Planted;
use crate::base::seqno::SeqNo;
use crate::base::spans::Spans;
use crate::base::value::ValueKind;
use crate::engine::Core;
use crate::engine::commit::CommitState;
use crate::engine::commit::WriteMode;
use crate::engine::commit::append::Append;
use crate::engine::commit::with_batch_of;
use crate::engine::keyspaces::KeyspaceState;

/// The keys of a batch with more bytes than this are not kept: whoever watches looks again.
const KEPT_BATCH_BYTES_MAX: usize = 16 << 10;
/// More bytes than this are not kept at a time.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// So often a check begins anew before it counts as a conflict.
const ROUNDS_MAX: usize = 8;

/// Keys that must not have changed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Footprint<'a> {
    Key(&'a Arc<KeyspaceState>, &'a [u8]),
    Spans(&'a [(Arc<KeyspaceState>, Spans)]),
}

/// That no key of a footprint was written after `since`, which is pinned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) since: SeqNo,
    pub(crate) footprint: Footprint<'a>,
}

impl Claim<'_> {
    fn covers(&self, keyspace: KeyspaceId, key: &[u8]) -> bool {
        match self.footprint {
            Footprint::Key(state, claimed) => state.id == keyspace && claimed == key,
            Footprint::Spans(parts) => {
                parts.iter().any(|(state, spans)| state.id == keyspace && spans.contains(key))
            }
        }
    }

    /// A keyspace that was dropped has changed, and no sequence number says so.
    fn check_keyspaces(&self) -> Result<()> {
        match self.footprint {
            Footprint::Key(state, _) => state.check_exists(),
            Footprint::Spans(parts) => parts.iter().try_for_each(|(state, _)| state.check_exists()),
        }
    }

    /// A version newer than `since` of a claimed key, in memtables or files.
    fn find_newer(&self) -> Result<Option<SeqNo>> {
        if Planted::ConflictMissed.is_on() {
            return Ok(None);
        }
        match self.footprint {
            Footprint::Key(state, key) => state.view().newer_version(key, self.since),
            Footprint::Spans(parts) => {
                for (state, spans) in parts {
                    let newer = state.view().newer_within(spans, self.since)?;
                    if newer.is_some() {
                        return Ok(newer);
                    }
                }
                Ok(None)
            }
        }
    }
}

/// The keys of the batches that were appended while somebody watched.
#[derive(Debug, Default)]
pub(super) struct Recent {
    watches: usize,
    /// Operations without their values.
    keys: Batch,
    /// For each batch its last sequence number, and where its operations end.
    batches: Vec<(u64, usize)>,
    /// The last sequence number of a batch whose keys were not kept.
    lost: u64,
}

impl Recent {
    pub(super) fn is_watched(&self) -> bool {
        self.watches > 0
    }

    /// Notes a batch that was appended, up to the sequence number `last`.
    #[inline(never)]
    pub(super) fn note(&mut self, batch: &Batch, last: u64) {
        let is_small = batch.bytes().len() <= KEPT_BATCH_BYTES_MAX;
        if !is_small || self.keys.bytes().len() > KEPT_BYTES_MAX {
            self.lost = last;
            return;
        }
        for op in Ops::new(batch.bytes()).flatten() {
            self.keys.push(Op { kind: ValueKind::Delete, value: &[], ..op });
        }
        self.batches.push((last, self.keys.bytes().len()));
    }

    fn begin(&mut self) {
        self.watches += 1;
    }

    fn end(&mut self) {
        self.watches -= 1;
        if self.watches == 0 {
            self.keys.clear();
            self.batches.clear();
        }
    }

    /// The last sequence number of a batch behind `from` that wrote a key of `claim`.
    fn find(&self, from: u64, claim: &Claim<'_>) -> Option<u64> {
        let known = self.batches.partition_point(|(last, _)| *last <= from);
        let mut begin = known.checked_sub(1).map_or(0, |before| self.batches[before].1);
        for (last, end) in &self.batches[known..] {
            let mut ops = Ops::new(&self.keys.bytes()[begin..*end]).flatten();
            if ops.any(|op| claim.covers(op.keyspace, op.key)) {
                return Some(*last);
            }
            begin = *end;
        }
        None
    }
}

/// From its beginning on `Recent` keeps the keys of what is appended.
struct Watch<'a> {
    commit: &'a CommitState,
    from: u64,
    ended: bool,
}

impl<'a> Watch<'a> {
    fn new(commit: &'a CommitState) -> Watch<'a> {
        let mut append = commit.append.lock();
        append.recent.begin();
        Watch { commit, from: append.last, ended: false }
    }

    /// Step 4: may a commit with `claim` follow what is in the log? No means: look again.
    fn end(&mut self, append: &mut Append, claim: &Claim<'_>) -> Checked {
        let checked = if append.recent.lost > self.from {
            Checked::Unknown
        } else {
            append.recent.find(self.from, claim).map_or(Checked::Unchanged, Checked::Changed)
        };
        append.recent.end();
        self.ended = true;
        checked
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.commit.append.lock().recent.end();
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Checked {
    Unchanged,
    /// By the batch with this last sequence number.
    Changed(u64),
    Unknown,
}

impl Core {
    /// Writes a batch that is not empty, if `claim` holds; else `Error::Conflict`. The batch's last
    /// sequence number.
    pub(crate) fn commit_checked(
        &self,
        batch: &mut Batch,
        keyspaces: &[Arc<KeyspaceState>],
        mode: WriteMode,
        claim: &Claim<'_>,
    ) -> Result<SeqNo> {
        // What changed, if anything did.
        let changed = Cell::new(None);
        let written = self.commit_by(batch, keyspaces, mode, |batch, sync_follows| {
            let untouched = self.append(batch, keyspaces, sync_follows, |append| {
                claim.check_keyspaces()?;
                Ok(append.last == claim.since.get())
            })?;
            if let Some(appended) = untouched {
                return Ok(appended);
            }
            for _ in 0..ROUNDS_MAX {
                let mut watch = Watch::new(&self.commit);
                self.wait_applied(watch.from)?;
                if let Some(newer) = claim.find_newer()? {
                    changed.set(Some(newer));
                    return Err(Error::Conflict);
                }
                let checked = self.append(batch, keyspaces, sync_follows, |append| {
                    claim.check_keyspaces()?;
                    match watch.end(append, claim) {
                        Checked::Unchanged => Ok(true),
                        Checked::Unknown => Ok(false),
                        Checked::Changed(last) => {
                            changed.set(Some(SeqNo::new(last)));
                            Err(Error::Conflict)
                        }
                    }
                })?;
                if let Some(appended) = checked {
                    return Ok(appended);
                }
            }
            Err(Error::Conflict)
        });
        if let Some(newer) = changed.get() {
            self.wait_visible(newer)?;
        }
        written
    }

    /// Writes one operation, if `claim` holds; else `Error::Conflict`.
    pub(crate) fn commit_one_checked(
        &self,
        state: &Arc<KeyspaceState>,
        op: Op<'_>,
        claim: &Claim<'_>,
    ) -> Result<SeqNo> {
        with_batch_of(op, |batch| {
            self.commit_checked(batch, std::slice::from_ref(state), WriteMode::default(), claim)
        })
    }
}
