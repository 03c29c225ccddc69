//! Folding: what a row of merge operands makes of the value beneath it.
//!
//! *Long chains.* Operands are collected newest first. Whenever [`CHAIN_MAX`] of equal *power* have come
//! together they are combined into one of the next power, if the operator can, as a counter carries:
//! so a chain of any length takes little memory, and each operand of n is combined log n times,
//! however much they grow.
//!
//! What a chain of more than [`LONG_CHAIN`] operands came to is remembered: it is the state of the key at
//! the sequence number of the newest operand, and no later write changes that. So the next reader goes on
//! from there, if it meets an entry with that number: else flush or compaction have made one of that
//! operand and newer ones, which may be a value whose number is 0. So each operand of a key that is
//! read often is folded about once, until flush and compaction leave one of them in each file.

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::hooks::MergeOperator;
use crate::base::hooks::MergeResult;
use crate::base::key::KeyHash;
use crate::base::key::Trailer;
use crate::base::key::VALUE_LEN_MAX;
use crate::base::seqno::SeqNo;

/// So many operands of one power are held before they are combined.
const CHAIN_MAX: usize = 256;
/// The result of a longer chain is remembered…
pub(crate) const LONG_CHAIN: usize = 32;
/// …in one of so many slots, which the key's hash chooses…
const SLOTS: usize = 64;
/// …unless key and value are longer than this.
const REMEMBERED_LEN_MAX: usize = 4096;

/// A keyspace's merge operator at work.
#[derive(Debug)]
pub(crate) struct Fold {
    keyspace: String,
    name: String,
    /// `None` if the database was opened without it.
    operator: Option<Arc<dyn MergeOperator>>,
    remembered: [ArcSwapOption<Folded>; SLOTS],
}

/// The state of a key at a sequence number.
#[derive(Debug)]
pub(crate) struct Folded {
    key: Vec<u8>,
    pub(crate) seqno: SeqNo,
    pub(crate) value: Vec<u8>,
}

impl Fold {
    /// For the operator `name` of `keyspace`.
    pub(crate) fn new(
        keyspace: String,
        name: String,
        operator: Option<Arc<dyn MergeOperator>>,
    ) -> Fold {
        let remembered = std::array::from_fn(|_| ArcSwapOption::empty());
        Fold { keyspace, name, operator, remembered }
    }

    /// The operator's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Can operands be folded at all?
    pub(crate) fn is_able(&self) -> bool {
        self.operator.is_some()
    }

    /// The same operator, with nothing remembered.
    pub(crate) fn afresh(&self) -> Fold {
        Fold::new(self.keyspace.clone(), self.name.clone(), self.operator.clone())
    }

    /// What `operands` make of `base`.
    pub(crate) fn merge(
        &self,
        key: &[u8],
        base: Option<&[u8]>,
        operands: &Operands,
    ) -> Result<Vec<u8>> {
        self.merge_all(key, base, &operands.oldest_first())
    }

    /// The same of operands that lie in a row, oldest first.
    pub(crate) fn merge_all(
        &self,
        key: &[u8],
        base: Option<&[u8]>,
        oldest_first: &[&[u8]],
    ) -> Result<Vec<u8>> {
        let Some(operator) = &self.operator else {
            return Err(Error::MergeOperator {
                keyspace: self.keyspace.clone(),
                stored: Some(self.name.clone()),
                given: None,
            });
        };
        if let (Some(base), true) = (base, oldest_first.is_empty()) {
            return Ok(base.to_vec());
        }
        let merged = contained(|| operator.merge(key, base, oldest_first));
        let merged = merged.and_then(|value| match value.len() {
            ..=VALUE_LEN_MAX => Ok(value),
            len => Err(format!("it made a value of {len} bytes, which is too long").into()),
        });
        merged.map_err(|error| Error::Merge {
            keyspace: self.keyspace.clone(),
            operator: self.name.clone(),
            what: error.to_string(),
        })
    }

    /// One operand for all of these, if the operator knows one.
    fn combine(&self, key: &[u8], newest_first: &[Held]) -> Option<Vec<u8>> {
        let operator = self.operator.as_ref()?;
        let oldest_first = oldest_first(newest_first);
        // What it cannot combine it may still merge.
        let combined = contained(|| operator.combine(key, &oldest_first)).ok().flatten();
        combined.filter(|operand| operand.len() <= VALUE_LEN_MAX)
    }

    fn slot(&self, key: &[u8]) -> &ArcSwapOption<Folded> {
        &self.remembered[KeyHash::of(key).0 as usize % SLOTS]
    }

    /// A state of `key` that a reader at `seqno` can go on from.
    pub(crate) fn recall(&self, key: &[u8], seqno: SeqNo) -> Option<Arc<Folded>> {
        let folded = self.slot(key).load_full();
        folded.filter(|folded| folded.key == key && folded.seqno <= seqno)
    }

    /// Remembers that `key` has `value` at `seqno`.
    pub(crate) fn remember(&self, key: &[u8], seqno: SeqNo, value: &[u8]) {
        if key.len() + value.len() <= REMEMBERED_LEN_MAX {
            let folded = Folded { key: key.to_vec(), seqno, value: value.to_vec() };
            self.slot(key).store(Some(Arc::new(folded)));
        }
    }
}

/// What the operator returns, a panic of it being an error like others.
fn contained<T>(call: impl FnOnce() -> MergeResult<T>) -> MergeResult<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err("it panicked".into()))
}

/// A row of operands of one key, collected from the newest to the oldest.
#[derive(Debug, Default)]
pub(crate) struct Operands {
    /// Of each power fewer than [`CHAIN_MAX`], the largest power first.
    newest_first: Vec<Held>,
    /// How many were pushed.
    pub(crate) count: usize,
    /// The operator does not combine them.
    apart: bool,
}

#[derive(Debug)]
struct Held {
    /// That of the newest of what it is combined from.
    trailer: Trailer,
    operand: Vec<u8>,
    /// It is combined from [`CHAIN_MAX`] to this power.
    power: u32,
}

impl Operands {
    /// Adds one that is older than all so far.
    pub(crate) fn push(&mut self, fold: &Fold, key: &[u8], trailer: Trailer, operand: &[u8]) {
        self.newest_first.push(Held { trailer, operand: operand.to_vec(), power: 0 });
        self.count += 1;
        while let (Some(at), Some(last)) =
            (self.newest_first.len().checked_sub(CHAIN_MAX), self.newest_first.last())
        {
            if self.apart || self.newest_first[at].power != last.power {
                break;
            }
            self.combine_from(fold, key, at);
        }
    }

    /// Makes one of them, with the newest one's trailer, if the operator can.
    pub(crate) fn combine(&mut self, fold: &Fold, key: &[u8]) {
        if self.newest_first.len() >= 2 && !self.apart {
            self.combine_from(fold, key, 0);
        }
    }

    /// Makes one of the last ones, from `at` on.
    fn combine_from(&mut self, fold: &Fold, key: &[u8], at: usize) {
        let Some(operand) = fold.combine(key, &self.newest_first[at..]) else {
            self.apart = true;
            return;
        };
        self.newest_first.truncate(at + 1);
        if let Some(newest) = self.newest_first.last_mut() {
            newest.operand = operand;
            newest.power += 1;
        }
    }

    /// Is there one with this number?
    pub(crate) fn has(&self, seqno: SeqNo) -> bool {
        self.newest_first.iter().any(|held| held.trailer.seqno() == seqno)
    }

    /// Leaves out those at or before `seqno`. Requires: fewer were pushed than are combined.
    pub(crate) fn forget_up_to(&mut self, seqno: SeqNo) {
        self.newest_first.retain(|held| held.trailer.seqno() > seqno);
    }

    fn oldest_first(&self) -> Vec<&[u8]> {
        oldest_first(&self.newest_first)
    }

    /// The operands themselves, newest first.
    pub(crate) fn into_entries(self) -> Vec<(Trailer, Vec<u8>)> {
        self.newest_first.into_iter().map(|held| (held.trailer, held.operand)).collect()
    }
}

fn oldest_first(newest_first: &[Held]) -> Vec<&[u8]> {
    newest_first.iter().rev().map(|held| held.operand.as_slice()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::base::value::ValueKind;

    /// Appends, and counts the bytes that it was given.
    #[derive(Debug)]
    struct Counting(Arc<AtomicUsize>);

    impl MergeOperator for Counting {
        fn name(&self) -> &'static str {
            "counting"
        }

        fn merge(&self, _: &[u8], base: Option<&[u8]>, parts: &[&[u8]]) -> MergeResult<Vec<u8>> {
            self.0.fetch_add(parts.iter().map(|part| part.len()).sum(), Relaxed);
            Ok(base.into_iter().chain(parts.iter().copied()).flatten().copied().collect())
        }

        fn combine(&self, key: &[u8], parts: &[&[u8]]) -> MergeResult<Option<Vec<u8>>> {
            self.merge(key, None, parts).map(Some)
        }
    }

    #[test]
    fn a_long_chain_costs_each_of_its_operands_a_few_looks() {
        let bytes = Arc::new(AtomicUsize::new(0));
        let operator = Arc::new(Counting(bytes.clone()));
        let fold = Fold::new("k".to_owned(), "counting".to_owned(), Some(operator));
        for n in [1, CHAIN_MAX - 1, CHAIN_MAX, CHAIN_MAX + 1, CHAIN_MAX * CHAIN_MAX + 700] {
            let trailer = |n: usize| Trailer::new(SeqNo::new(n as u64), ValueKind::Merge);
            let mut expected = b"base".to_vec();
            (1..=n).for_each(|n| expected.extend((n as u32).to_le_bytes()));
            let mut operands = Operands::default();
            bytes.store(0, Relaxed);
            for n in (1..=n).rev() {
                operands.push(&fold, b"key", trailer(n), &(n as u32).to_le_bytes());
                assert!(operands.newest_first.len() < 3 * CHAIN_MAX);
            }
            assert!(fold.merge(b"key", Some(b"base"), &operands).unwrap() == expected);
            // Two powers of the chain, and the merge.
            assert!(bytes.load(Relaxed) <= 3 * 4 * n, "{n} operands take {bytes:?} bytes");
            operands.combine(&fold, b"key");
            let entries = operands.into_entries();
            assert!(entries.len() == 1 && entries[0].0 == trailer(n));
            assert!(entries[0].1 == expected[4..]);
        }
    }
}
