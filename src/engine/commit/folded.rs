//! Merges into keyspaces whose values expire: folded when they are written.
//!
//! An operand does not know which value it will meet: were it stored, nobody could tell later on whether
//! that value had expired before the operand was written. So a keyspace that has an operator and values
//! that expire stores none. A batch with operands of such keyspaces is *resolved*: the operands of a key
//! are folded into what the key holds, be it put there by the batch itself, and what comes of it is a put
//! in the place of the last operand. It keeps the expiry of the value that it replaces; where there is
//! none, or one that has expired, it has the keyspace's default. The resolved batch is committed if no
//! key that was read for it has changed meanwhile ([`Claim`]); else the batch is resolved anew.
//!
//! A transaction's operands are folded into the newest state, too, so that they conflict with nobody.
//!
//! *Turns.* Who folds a key holds one of a few locks, which the key's hash chooses: merges of a key wait
//! for each other instead of repeating their work, and only other writers of it make them look again. A
//! turn is held while the operator runs, and until the batch is visible.
//!
//! *Invariants.*
//! - M1: no operand of a key has a larger sequence number than a value of it that expires. A keyspace with
//!   an operator has such values only once it folds what is written, which it never ceases to; and under
//!   the append lock no operand of it goes to the log from then on.
//! - M2: turns are taken in order, and before any other lock.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::base::batch::Batch;
use crate::base::batch::Op;
use crate::base::batch::Ops;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::KeyspaceId;
use crate::base::key::KeyHash;
use crate::base::range_tombstone::end_of;
use crate::base::range_tombstone::is_behind;
use crate::base::spans::Spans;
use crate::base::sync::Mutex;
use crate::base::sync::MutexGuard;
use crate::base::value::EXPIRY_LEN;
use crate::base::value::NEVER_MS;
use crate::base::value::ValueKind;
use crate::base::value::expiry_of;
use crate::base::value::put_until;
use crate::engine::Core;
use crate::engine::commit::Claim;
use crate::engine::commit::Footprint;
use crate::engine::commit::WriteMode;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::snapshots::SnapshotPin;

/// So many keys of a keyspace can be folded at once.
const TURNS: usize = 64;

/// The turns of a keyspace.
#[derive(Debug)]
pub(crate) struct Turns([Mutex<()>; TURNS]);

impl Default for Turns {
    fn default() -> Turns {
        Turns(std::array::from_fn(|_| Mutex::new(())))
    }
}

/// Has `batch` operands of a keyspace that folds them when they are written?
#[inline]
pub(super) fn must_fold(batch: &Batch, keyspaces: &[Arc<KeyspaceState>]) -> bool {
    batch.has_merges() && operands(batch, keyspaces).next().is_some()
}

/// The operands of `batch` that must be folded, with their keyspaces.
fn operands<'a>(
    batch: &'a Batch,
    keyspaces: &'a [Arc<KeyspaceState>],
) -> impl Iterator<Item = (&'a KeyspaceState, Op<'a>)> {
    let merges = Ops::new(batch.bytes()).flatten().filter(|op| op.kind == ValueKind::Merge);
    merges.filter_map(|op| find_folding(keyspaces, op.keyspace).map(|state| (state, op)))
}

/// The keyspace `id`, if it folds what is written.
fn find_folding(keyspaces: &[Arc<KeyspaceState>], id: KeyspaceId) -> Option<&KeyspaceState> {
    let state = keyspaces.iter().find(|state| state.id == id)?;
    state.folds_writes().then_some(state)
}

/// Waits until nobody else folds a key that `batch` merges into.
fn take_turns<'a>(
    batch: &'a Batch,
    keyspaces: &'a [Arc<KeyspaceState>],
) -> Vec<MutexGuard<'a, ()>> {
    let turn = |(state, op): (&'a KeyspaceState, Op<'_>)| {
        let turn = KeyHash::of(op.key).0 as usize % TURNS;
        ((state.id, turn), &state.turns.0[turn])
    };
    let turns: BTreeMap<_, _> = operands(batch, keyspaces).map(turn).collect();
    turns.into_values().map(Mutex::lock).collect()
}

/// What a key holds in front of an operation of a batch.
#[derive(Clone, Copy, Debug)]
enum Base<'a> {
    /// What it held before the batch.
    Stored,
    /// What an operation has put there.
    Own(ValueKind, &'a [u8]),
    Absent,
}

/// A key that a batch writes.
#[derive(Debug)]
struct Row<'a> {
    /// The last operation on it: whatever else there is of it is overwritten.
    last: usize,
    base: Base<'a>,
    /// What was merged into that, oldest first.
    operands: Vec<&'a [u8]>,
}

/// The keys that a batch writes in keyspaces that fold.
type Rows<'a> = BTreeMap<(KeyspaceId, &'a [u8]), Row<'a>>;

fn rows<'a>(batch: &'a Batch, keyspaces: &[Arc<KeyspaceState>]) -> Rows<'a> {
    let mut rows = Rows::new();
    for (at, op) in Ops::new(batch.bytes()).flatten().enumerate() {
        if op.kind != ValueKind::DeleteRange && find_folding(keyspaces, op.keyspace).is_some() {
            let row = Row { last: at, base: Base::Stored, operands: Vec::new() };
            rows.entry((op.keyspace, op.key)).or_insert(row).last = at;
        }
    }
    rows
}

/// Notes what `op`, which is no operand, leaves of the keys that it writes.
fn overwrite<'a>(rows: &mut Rows<'a>, op: &Op<'a>) {
    let from = (op.keyspace, op.key);
    let set = |row: &mut Row<'a>, base: Base<'a>| {
        row.base = base;
        row.operands.clear();
    };
    match op.kind {
        ValueKind::DeleteRange => {
            let behind = rows.range_mut((Bound::Included(from), Bound::Unbounded));
            let end = end_of(op.value);
            let within =
                behind.take_while(|((id, key), _)| *id == op.keyspace && is_behind(end, key));
            within.for_each(|(_, row)| set(row, Base::Absent));
        }
        kind => {
            let base =
                if kind == ValueKind::Delete { Base::Absent } else { Base::Own(kind, op.value) };
            if let Some(row) = rows.get_mut(&from) {
                set(row, base);
            }
        }
    }
}

/// As of when the operands of a batch are folded, and what was read for that.
struct Folding<'a> {
    pin: &'a SnapshotPin,
    read: BTreeMap<KeyspaceId, Spans>,
}

impl Core {
    /// Writes the batch of a transaction, if its claim holds; else `Error::Conflict`.
    pub(crate) fn commit_claimed(
        &self,
        batch: &mut Batch,
        keyspaces: &[Arc<KeyspaceState>],
        mode: WriteMode,
        own: Claim<'_>,
    ) -> Result<()> {
        if must_fold(batch, keyspaces) {
            return self.commit_folded(batch, keyspaces, mode, Some(own));
        }
        self.commit_checked(batch, keyspaces, mode, &[own]).map(drop)
    }

    /// Writes a batch with operands of keyspaces that fold; of a transaction, if its claim holds.
    pub(super) fn commit_folded(
        &self,
        batch: &Batch,
        keyspaces: &[Arc<KeyspaceState>],
        mode: WriteMode,
        own: Option<Claim<'_>>,
    ) -> Result<()> {
        let _turns = take_turns(batch, keyspaces);
        self.retry(|| {
            let pin = self.pin_snapshot();
            let mut folding = Folding { pin: &pin, read: BTreeMap::new() };
            let mut resolved = self.resolve(batch, keyspaces, &mut folding)?;
            let state = |id| keyspaces.iter().find(|state| state.id == id).cloned();
            let read = folding.read.into_iter();
            let read: Vec<_> = read.filter_map(|(id, spans)| Some((state(id)?, spans))).collect();
            let (since, until_ms) = (pin.seqno(), pin.first_expiry().get());
            let claim = Claim { since, until_ms, footprint: Footprint::Spans(&read) };
            let claims: Vec<_> = own.into_iter().chain([claim]).collect();
            match self.commit_checked(&mut resolved, keyspaces, mode, &claims) {
                // What a transaction itself has read stays as it is now.
                Err(Error::Conflict) => match &own {
                    Some(own) if own.find_newer()?.is_some() => Ok(Err(Error::Conflict)),
                    Some(own) => self
                        .check_now(own)
                        .map_or_else(|error| Ok(Err(error)), |()| Err(Error::Conflict)),
                    None => Err(Error::Conflict),
                },
                written => written.map(|_| Ok(())),
            }
        })?
    }

    /// What is written of `batch`: with puts for the operands that must be folded.
    fn resolve(
        &self,
        batch: &Batch,
        keyspaces: &[Arc<KeyspaceState>],
        folding: &mut Folding<'_>,
    ) -> Result<Batch> {
        let mut rows = rows(batch, keyspaces);
        let mut resolved = Batch::default();
        for (at, op) in Ops::new(batch.bytes()).flatten().enumerate() {
            let is_operand = op.kind == ValueKind::Merge;
            let row = rows.get_mut(&(op.keyspace, op.key)).filter(|_| is_operand);
            let (Some(row), Some(state)) = (row, find_folding(keyspaces, op.keyspace)) else {
                // An operand too, if its keyspace has begun to fold just now; then it will be refused.
                overwrite(&mut rows, &op);
                resolved.push(op);
                continue;
            };
            row.operands.push(op.value);
            if row.last != at {
                continue;
            }
            let (kind, value) = self.fold_row(state, op.key, row, folding)?;
            if !resolved.has_room(op.key, &value) {
                return Err(Error::argument("a batch holds at most 2 GiB: write it in parts"));
            }
            resolved.push(Op { kind, value: &value, ..op });
        }
        Ok(resolved)
    }

    /// The put that the operands of a key come to.
    fn fold_row(
        &self,
        state: &KeyspaceState,
        key: &[u8],
        row: &Row<'_>,
        folding: &mut Folding<'_>,
    ) -> Result<(ValueKind, Cow<'static, [u8]>)> {
        let stored;
        let (base, expiry_ms) = match row.base {
            Base::Absent => (None, NEVER_MS),
            Base::Own(ValueKind::Expiring, value) => (value.get(EXPIRY_LEN..), expiry_of(value)),
            Base::Own(_, value) => (Some(value), NEVER_MS),
            Base::Stored => {
                folding.read.entry(state.id).or_default().add_key(key);
                stored = self.get_entry(state, Some(folding.pin), key)?;
                let entry = stored.as_ref();
                (entry.map(|entry| &entry.value[..]), entry.map_or(NEVER_MS, |it| it.expiry_ms))
            }
        };
        let base = base.filter(|_| expiry_ms > folding.pin.now_ms());
        let fold = state.fold();
        let fold = fold.ok_or_else(|| Error::internal("an operand without a merge operator"))?;
        let value = Cow::Owned(fold.merge_all(key, base, &row.operands)?);
        match base {
            Some(_) => put_until(expiry_ms, value),
            None => self.put_form(state, value),
        }
    }
}
