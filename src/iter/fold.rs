//! Folding: what a row of merge operands makes of the value beneath it.
//!
//! *Long chains.* Operands are collected newest first. Whenever [`CHAIN_MAX`] have come together
//! they are combined into one, if the operator can: so a chain of any length takes little memory.
//! And what a chain of more than [`LONG_CHAIN`] operands came to is remembered: it is the state of
//! the key at the sequence number of the newest operand, and no later write changes that. So the
//! next reader goes on from there, and each operand of a key that is read often is folded about
//! once, until flush and compaction leave one of them in each file.

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

/// So many operands are held before they are combined.
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
        let Some(operator) = &self.operator else {
            return Err(Error::MergeOperator {
                keyspace: self.keyspace.clone(),
                stored: Some(self.name.clone()),
                given: None,
            });
        };
        let oldest_first = operands.oldest_first();
        if let (Some(base), true) = (base, oldest_first.is_empty()) {
            return Ok(base.to_vec());
        }
        let merged = contained(|| operator.merge(key, base, &oldest_first));
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

    /// One operand for all of them, if the operator knows one.
    fn combine(&self, key: &[u8], operands: &Operands) -> Option<Vec<u8>> {
        let operator = self.operator.as_ref()?;
        let oldest_first = operands.oldest_first();
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
    newest_first: Vec<(Trailer, Vec<u8>)>,
    /// How many were pushed.
    pub(crate) count: usize,
    /// The operator does not combine them.
    apart: bool,
}

impl Operands {
    /// Adds one that is older than all so far.
    pub(crate) fn push(&mut self, fold: &Fold, key: &[u8], trailer: Trailer, operand: &[u8]) {
        self.newest_first.push((trailer, operand.to_vec()));
        self.count += 1;
        if self.newest_first.len() >= CHAIN_MAX && !self.apart {
            self.combine(fold, key);
        }
    }

    /// Makes one of them, with the newest one's trailer, if the operator can.
    pub(crate) fn combine(&mut self, fold: &Fold, key: &[u8]) {
        if self.newest_first.len() < 2 || self.apart {
            return;
        }
        match fold.combine(key, self) {
            Some(operand) => {
                self.newest_first.truncate(1);
                if let Some((_, first)) = self.newest_first.first_mut() {
                    *first = operand;
                }
            }
            None => self.apart = true,
        }
    }

    /// Leaves out those at or before `seqno`. Requires: fewer were pushed than are combined.
    pub(crate) fn forget_up_to(&mut self, seqno: SeqNo) {
        self.newest_first.retain(|(trailer, _)| trailer.seqno() > seqno);
    }

    fn oldest_first(&self) -> Vec<&[u8]> {
        self.newest_first.iter().rev().map(|(_, operand)| operand.as_slice()).collect()
    }

    /// The operands themselves, newest first.
    pub(crate) fn into_entries(self) -> Vec<(Trailer, Vec<u8>)> {
        self.newest_first
    }
}
