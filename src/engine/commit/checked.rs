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
//! A value that was read and has *expired* by the time of the commit has changed as if it had been deleted.
//! That is asked under the append lock, too: of the first expiry of all that was read.
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
//!   A batch whose keys are not kept, or not any more, says so; then the check begins anew.
//! - K3: so at the moment at which a checked commit gets its numbers, all that it claims is true: it
//!   is as if everything that it read had been read at that moment.
//! - K4: whoever waits in step 2 holds no lock and no sequence number, so those it waits for get on.
//! - K5: writers that meet no watch pay for one look at a field that lies under their lock anyway.
//!
//! A conflict is told when what it conflicts with is visible: so who tries again reads it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::batch::Batch;
use crate::base::batch::Op;
use crate::base::batch::Ops;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::planted::Planted;
use crate::base::range_tombstone::end_of;
use crate::base::range_tombstone::is_behind;
use crate::base::seqno::SeqNo;
use crate::base::spans::Spans;
use crate::base::value::NEVER_MS;
use crate::base::value::ValueKind;
use crate::engine::Core;
use crate::engine::commit::CommitState;
use crate::engine::commit::WriteMode;
use crate::engine::commit::append::Append;
use crate::engine::commit::append::Appended;
use crate::engine::commit::with_batch_of;
use crate::engine::keyspaces::KeyspaceState;

/// The keys of a batch with more bytes than this are not kept: whoever watches looks again.
const KEPT_BATCH_BYTES_MAX: usize = 16 << 10;
/// More bytes of keys than this are not kept at a time: the oldest go.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// So often a check begins anew before it counts as a conflict.
const ROUNDS_MAX: usize = 8;

/// Keys that must not have changed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Footprint<'a> {
    Key(&'a Arc<KeyspaceState>, &'a [u8]),
    Spans(&'a [(Arc<KeyspaceState>, Spans)]),
}

/// That no key of a footprint was written after `since`, which is pinned, nor expires before the commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) since: SeqNo,
    /// When the first value expires that was read: from then on it counts as changed. [`NEVER_MS`] if
    /// none does.
    pub(crate) until_ms: u64,
    pub(crate) footprint: Footprint<'a>,
}

impl Claim<'_> {
    /// Does `op` write a key of it?
    fn is_hit_by(&self, op: &Op<'_>) -> bool {
        let (from, to) = match op.kind {
            ValueKind::DeleteRange => (op.key, Some(end_of(op.value))),
            _ => (op.key, None),
        };
        match self.footprint {
            Footprint::Key(state, claimed) => {
                let is_hit =
                    to.map_or(claimed == from, |to| from <= claimed && is_behind(to, claimed));
                state.id == op.keyspace && is_hit
            }
            Footprint::Spans(parts) => parts.iter().any(|(state, spans)| {
                let is_hit = |to| spans.meets(from, to);
                state.id == op.keyspace && to.map_or_else(|| spans.contains(from), is_hit)
            }),
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
    pub(super) fn find_newer(&self) -> Result<Option<SeqNo>> {
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
    /// The last sequence number when each watch began, ascending.
    watches: Vec<u64>,
    /// For each batch its last sequence number, ascending, and its operations without values, ends of
    /// ranges aside.
    batches: VecDeque<(u64, Batch)>,
    bytes: usize,
    /// The last sequence number of a batch whose keys were not kept, or went for newer ones: a watch
    /// that began before it does not know what was written. Those that began later are answered all
    /// the same, so one that lasts long holds up nobody else.
    lost: u64,
}

impl Recent {
    pub(super) fn is_watched(&self) -> bool {
        !self.watches.is_empty()
    }

    /// Notes a batch that was appended, up to the sequence number `last`.
    #[inline(never)]
    pub(super) fn note(&mut self, batch: &Batch, last: u64) {
        if batch.bytes().len() > KEPT_BATCH_BYTES_MAX {
            self.lose_up_to(last);
            return;
        }
        let mut keys = Batch::default();
        for op in Ops::new(batch.bytes()).flatten() {
            // The value of a range tombstone is its end.
            let is_range = op.kind == ValueKind::DeleteRange;
            keys.push(if is_range { op } else { Op { kind: ValueKind::Delete, value: &[], ..op } });
        }
        self.bytes += keys.bytes().len();
        self.batches.push_back((last, keys));
        while self.bytes > KEPT_BYTES_MAX
            && let Some((oldest, _)) = self.batches.front()
        {
            self.lose_up_to(*oldest);
        }
    }

    fn lose_up_to(&mut self, last: u64) {
        self.lost = last;
        self.forget_up_to(last);
    }

    fn begin(&mut self, from: u64) {
        self.watches.push(from);
    }

    /// Ends a watch that began at `from`, and forgets what no other one needs.
    fn end(&mut self, from: u64) {
        if let Ok(at) = self.watches.binary_search(&from) {
            self.watches.remove(at);
        }
        self.forget_up_to(self.watches.first().copied().unwrap_or(u64::MAX));
    }

    fn forget_up_to(&mut self, seqno: u64) {
        while let Some((last, keys)) = self.batches.front()
            && *last <= seqno
        {
            self.bytes -= keys.bytes().len();
            self.batches.pop_front();
        }
    }

    /// The last sequence number of a batch behind `from` that wrote a key that is claimed.
    fn find(&self, from: u64, is_claimed: impl Fn(&Op<'_>) -> bool) -> Option<u64> {
        let known = self.batches.partition_point(|(last, _)| *last <= from);
        let claimed = self
            .batches
            .range(known..)
            .find(|(_, keys)| Ops::new(keys.bytes()).flatten().any(|op| is_claimed(&op)));
        claimed.map(|(last, _)| *last)
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
        let from = append.last;
        append.recent.begin(from);
        Watch { commit, from, ended: false }
    }

    /// Step 4: may a commit with `claims` follow what is in the log? No means: look again.
    fn end(&mut self, append: &mut Append, claims: &[Claim<'_>]) -> Checked {
        let checked = if append.recent.lost > self.from {
            Checked::Unknown
        } else {
            let changed =
                append.recent.find(self.from, |op| claims.iter().any(|claim| claim.is_hit_by(op)));
            changed.map_or(Checked::Unchanged, Checked::Changed)
        };
        append.recent.end(self.from);
        self.ended = true;
        checked
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.commit.append.lock().recent.end(self.from);
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
    /// Writes a batch that is not empty, if all `claims` hold; else `Error::Conflict`. The batch's
    /// last sequence number.
    pub(crate) fn commit_checked(
        &self,
        batch: &mut Batch,
        keyspaces: &[Arc<KeyspaceState>],
        mode: WriteMode,
        claims: &[Claim<'_>],
    ) -> Result<SeqNo> {
        // What changed, if anything did.
        let changed = Cell::new(None);
        let apply = |batch: &Batch, appended: &Appended| self.apply(batch, keyspaces, appended);
        let append = |batch: &mut Batch, sync_follows| {
            let untouched = self.append(batch, keyspaces, sync_follows, |append| {
                claims.iter().try_for_each(|claim| self.check_now(claim))?;
                Ok(claims.iter().all(|claim| append.last == claim.since.get()))
            })?;
            if let Some(appended) = untouched {
                return Ok(appended);
            }
            for _ in 0..ROUNDS_MAX {
                let mut watch = Watch::new(&self.commit);
                self.wait_applied(watch.from)?;
                for claim in claims {
                    if let Some(newer) = claim.find_newer()? {
                        changed.set(Some(newer));
                        return Err(Error::Conflict);
                    }
                }
                let checked = self.append(batch, keyspaces, sync_follows, |append| {
                    claims.iter().try_for_each(|claim| self.check_now(claim))?;
                    match watch.end(append, claims) {
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
        };
        let written = self.commit_by(batch, mode, append, apply);
        if let Some(newer) = changed.get() {
            self.wait_visible(newer)?;
        }
        written
    }

    /// What no sequence number tells of what is claimed.
    pub(super) fn check_now(&self, claim: &Claim<'_>) -> Result<()> {
        claim.check_keyspaces()?;
        let has_expired = claim.until_ms != NEVER_MS && claim.until_ms <= self.expiry.now_ms();
        if has_expired { Err(Error::Conflict) } else { Ok(()) }
    }

    /// Writes one operation, if `claim` holds; else `Error::Conflict`.
    pub(crate) fn commit_one_checked(
        &self,
        state: &Arc<KeyspaceState>,
        op: Op<'_>,
        claim: &Claim<'_>,
    ) -> Result<SeqNo> {
        with_batch_of(op, |batch| {
            let (states, claims) = (std::slice::from_ref(state), std::slice::from_ref(claim));
            self.commit_checked(batch, states, WriteMode::default(), claims)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::KeyspaceId;

    fn batch_of(keys: &[&str]) -> Batch {
        let mut batch = Batch::default();
        for key in keys {
            let (kind, keyspace) = (ValueKind::Put, KeyspaceId(1));
            batch.push(Op { kind, keyspace, key: key.as_bytes(), value: b"value" });
        }
        batch
    }

    #[test]
    fn recent_keys_are_kept_as_long_as_somebody_watches() {
        let mut recent = Recent::default();
        let find = |recent: &Recent, from: u64, key: &str| {
            recent.find(from, |op| op.keyspace == KeyspaceId(1) && op.key == key.as_bytes())
        };
        assert!(!recent.is_watched());
        recent.begin(10);
        recent.note(&batch_of(&["a", "b"]), 12);
        recent.begin(12);
        recent.note(&batch_of(&["c"]), 13);
        recent.begin(13);
        assert_eq!((find(&recent, 10, "b"), find(&recent, 10, "c")), (Some(12), Some(13)));
        assert_eq!((find(&recent, 12, "b"), find(&recent, 12, "c")), (None, Some(13)));
        assert_eq!(find(&recent, 13, "c"), None);
        // The second watch ends first; then what only the first one needs goes with it.
        recent.end(12);
        assert_eq!(find(&recent, 10, "a"), Some(12));
        recent.end(10);
        assert!(recent.is_watched() && recent.batches.is_empty() && recent.bytes == 0);
        recent.note(&batch_of(&["d"]), 14);
        recent.note(&batch_of(&vec!["e"; KEPT_BATCH_BYTES_MAX / 8]), 20_000);
        // Of what came before a long batch nobody can make use any more.
        assert_eq!((find(&recent, 13, "d"), recent.lost), (None, 20_000));
        recent.end(13);
        assert!(!recent.is_watched() && recent.batches.is_empty());
    }

    #[test]
    fn watches_that_never_all_end_do_not_let_recent_keys_pile_up() {
        let mut recent = Recent::default();
        recent.begin(0);
        let long = "k".repeat(1000);
        for last in 1..10_000 {
            recent.note(&batch_of(&[&long]), last);
            recent.begin(last);
            recent.end(last - 1);
            assert!(recent.bytes < 2000 && recent.lost == 0);
        }
    }

    #[test]
    fn a_watch_that_lasts_long_leaves_those_that_begin_later_their_answers() {
        let mut recent = Recent::default();
        recent.begin(0);
        let long = "k".repeat(1000);
        for last in 1..10_000 {
            recent.begin(last - 1);
            recent.note(&batch_of(&[&long]), last);
            let found = recent.find(last - 1, |op| op.key == long.as_bytes());
            assert!(
                recent.lost < last && found == Some(last),
                "what was just written is not known"
            );
            assert!(recent.bytes <= KEPT_BYTES_MAX);
            recent.end(last - 1);
        }
        // Only the first one does not know what was written since it began.
        assert!(recent.lost > 0 && recent.watches == [0]);
        recent.end(0);
        assert!(!recent.is_watched() && recent.batches.is_empty() && recent.bytes == 0);
    }
}
