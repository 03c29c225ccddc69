//! Which entries survive a flush or a compaction: the garbage-collection rules, and nothing else.
//!
//! Live snapshots cut the sequence numbers into *stripes*: two versions are in one stripe if no
//! snapshot can tell them apart.
//!
//! - R1: of the versions of a user key in one stripe, only the newest survives.
//! - R2: a tombstone in the oldest stripe is dropped if nothing older of its key can lie beneath.
//!   What it shadows in the same stream is dropped by R1, since it is in the same stripe.
//! - R4: merge operands of one stripe become one entry: a put, together with the put or tombstone of
//!   that stripe beneath them, or if nothing older of their key can lie anywhere; else one operand.
//!   Where the keyspace's operator is unknown, fails or knows no such thing, they stay as they are, and
//!   shadow nothing.
//! - R5: an entry that has expired for every reader is a tombstone from then on: it loses its value,
//!   and R2 applies.
//! - R3 (compactions only): a put in the oldest stripe beneath which nothing older can lie gets sequence number 0: it
//!   compresses better, and its order to other versions no longer matters (R1 left one). Not where
//!   somebody asks for versions of entries.
//!
//! - R6: an entry that a range tombstone of its own stripe covers is dropped; see
//!   [`ranges`](crate::compaction::ranges), which also tells which of those are kept (R7). Where any
//!   covers a put, R3 does not apply; and an operand right above one of its stripe rests on nothing.
//!
//! Requires: every entry of the stream was visible when the list of snapshots was taken; so a
//! snapshot taken later sees the newest version, which R1 keeps.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;

use crate::base::blob::BlobSource;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::internal_iter::InternalIter;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::planted::Planted;
use crate::base::range_tombstone::Fragments;
use crate::base::seqno::SeqNo;
use crate::base::value::ValueKind;
use crate::base::value::expiry_of;
use crate::compaction::ranges::Covering;
use crate::compaction::ranges::stripe;
use crate::iter::Fold;
use crate::iter::Operands;

/// A chain of operands that are not combined is folded if it has at most so many bytes, so that a
/// job's memory stays bounded.
const CHAIN_BYTES_MAX: usize = 16 << 20;

/// By what the entries of a job are judged.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// The live ones, ascending.
    pub(crate) snapshots: Vec<SeqNo>,
    pub(crate) zero_seqnos: bool,
    pub(crate) fold: Option<Arc<Fold>>,
    /// What expires then or before has expired for every reader.
    pub(crate) expired_ms: u64,
    /// The range tombstones among the inputs.
    pub(crate) ranges: Arc<Fragments>,
}

/// The entries of `I` that survive, in order, forwards.
pub(crate) struct Survivors<I, B, S> {
    inner: I,
    /// Can nothing older of this user key lie beneath the output? Asked with ascending keys.
    is_bottom: B,
    rules: Rules,
    covering: Covering,
    /// Where values are that lie apart.
    blobs: S,
    /// What became of operands, before where `inner` stands.
    queue: VecDeque<(Trailer, Vec<u8>)>,
    /// The user key of the last entry seen, and the stripe it was in; no stripe if that was an
    /// operand, which shadows nothing.
    user: Vec<u8>,
    seen: Option<usize>,
    trailer: Trailer,
}

impl<I: InternalIter, B: FnMut(&[u8]) -> bool, S: Deref<Target: BlobSource>> Survivors<I, B, S> {
    /// Requires: `inner` stands on the first entry.
    pub(crate) fn new(
        inner: I,
        is_bottom: B,
        mut rules: Rules,
        blobs: S,
    ) -> Result<Survivors<I, B, S>> {
        if Planted::SnapshotIgnored.is_on() {
            rules.snapshots.clear();
        }
        rules.fold = rules.fold.filter(|fold| fold.is_able());
        let mut survivors = Survivors {
            inner,
            is_bottom,
            covering: Covering::new(rules.ranges.clone()),
            rules,
            blobs,
            queue: VecDeque::new(),
            user: Vec::new(),
            seen: None,
            trailer: Trailer::default(),
        };
        survivors.settle()?;
        Ok(survivors)
    }

    pub(crate) fn valid(&self) -> bool {
        self.inner.valid() || !self.queue.is_empty()
    }

    /// The entry, with its sequence number as it should be written.
    pub(crate) fn entry(&self) -> (KeyRef<'_>, &[u8]) {
        if let Some((trailer, value)) = self.queue.front() {
            return (KeyRef::new(&self.user, *trailer), value);
        }
        let is_tombstone = self.trailer.kind_byte() == ValueKind::Delete as u8;
        let value = if is_tombstone { &[] } else { self.inner.value() };
        (KeyRef::new(self.inner.key().user, self.trailer), value)
    }

    /// Do readers have the block of the entry in the cache?
    pub(crate) fn is_hot(&self) -> bool {
        self.queue.is_empty() && self.inner.is_hot()
    }

    pub(crate) fn next(&mut self) -> Result<()> {
        if self.queue.pop_front().is_none() {
            self.inner.next()?;
        } else if !self.queue.is_empty() {
            return Ok(());
        }
        self.settle()
    }

    fn stripe(&self, seqno: SeqNo) -> usize {
        stripe(&self.rules.snapshots, seqno)
    }

    /// Does a range tombstone drop the entry that `inner` stands on? (R6)
    #[inline]
    fn is_covered(&mut self) -> bool {
        if self.covering.is_empty() {
            return false;
        }
        let KeyRef { user, trailer } = self.inner.key();
        self.covering.hides(user, trailer.seqno(), &self.rules.snapshots)
    }

    /// May an entry of the last user key, with nothing older beneath it, lose its number? (R3)
    fn may_zero(&mut self) -> bool {
        self.rules.zero_seqnos && self.covering.over(&self.user).is_none()
    }

    /// On to the next entry that survives, the current one included.
    fn settle(&mut self) -> Result<()> {
        while self.inner.valid() {
            if self.is_covered() {
                self.inner.next()?;
                continue;
            }
            let key = self.inner.key();
            let stripe = self.stripe(key.trailer.seqno());
            let shadowed = if self.seen.is_some() && self.user == key.user {
                self.seen == Some(stripe)
            } else {
                self.user.clear();
                self.user.extend_from_slice(key.user);
                false
            };
            self.seen = Some(stripe);
            self.trailer = key.trailer;
            if !shadowed {
                let mut kind = key.trailer.kind();
                if kind.is_some_and(ValueKind::expires)
                    && (expiry_of(self.inner.value()) <= self.rules.expired_ms
                        || Planted::ExpiredEarly.is_on())
                {
                    kind = Some(ValueKind::Delete);
                    self.trailer = Trailer::new(key.trailer.seqno(), ValueKind::Delete);
                }
                if kind == Some(ValueKind::Merge) {
                    return self.settle_operands(stripe);
                }
                // Asked only where it matters: that a flush need not compare each key with the
                // bounds of every file.
                let matters = match kind {
                    Some(ValueKind::Delete) => true,
                    Some(kind) => kind.holds_value() && self.may_zero(),
                    None => false,
                };
                let oldest = matters
                    && stripe == 0
                    && ((self.is_bottom)(&self.user) || Planted::TombstoneDropped.is_on());
                match kind {
                    Some(ValueKind::Delete) if oldest => {}
                    Some(kind) if oldest => {
                        self.trailer = Trailer::new(SeqNo::ZERO, kind);
                        return Ok(());
                    }
                    _ => return Ok(()),
                }
            }
            self.inner.next()?;
        }
        Ok(())
    }

    /// R4, from the newest operand of a stripe on.
    fn settle_operands(&mut self, stripe: usize) -> Result<()> {
        let Some(fold) = self.rules.fold.clone() else {
            self.seen = None;
            return Ok(());
        };
        let newest = self.trailer.seqno();
        let mut oldest = newest;
        let (mut operands, mut bytes) = (Operands::default(), 0);
        while self.is_operand_of(stripe) && bytes <= CHAIN_BYTES_MAX {
            let operand = self.inner.value();
            bytes += operand.len();
            oldest = self.inner.key().trailer.seqno();
            operands.push(&fold, &self.user, self.inner.key().trailer, operand);
            self.inner.next()?;
        }
        let same_key = self.inner.valid() && self.inner.key().user == self.user;
        let beneath = self.inner.valid().then(|| self.inner.key().trailer).filter(|_| same_key);
        let cut = self.covering.right_beneath(&self.user, oldest, &self.rules.snapshots);
        // What they rest on: known if it is in their stripe, or if there is nothing.
        let base = match beneath {
            // A range tombstone lies between.
            _ if cut.is_some_and(|cut| beneath.is_none_or(|it| it.seqno() < cut)) => Some(None),
            Some(trailer) if self.stripe(trailer.seqno()) != stripe => None,
            Some(trailer) => match trailer.kind() {
                Some(ValueKind::Put) => Some(Some(Cow::Borrowed(self.inner.value()))),
                Some(ValueKind::BlobRef) => self.fetch_base()?.map(Some),
                Some(ValueKind::Delete) => Some(None),
                _ => None,
            },
            None => (self.is_bottom)(&self.user).then_some(None),
        };
        // A failure is for readers of the key to see.
        let folded = base.and_then(|base| fold.merge(&self.user, base.as_deref(), &operands).ok());
        self.seen = None;
        if let Some(value) = folded {
            self.seen = Some(stripe);
            let zero = self.may_zero() && stripe == 0 && (self.is_bottom)(&self.user);
            let seqno = if zero { SeqNo::ZERO } else { newest };
            self.queue.push_back((Trailer::new(seqno, ValueKind::Put), value));
        } else {
            operands.combine(&fold, &self.user);
            self.queue.extend(operands.into_entries());
        }
        Ok(())
    }

    /// The value that `inner` has a handle to; nothing if it is damaged.
    fn fetch_base(&self) -> Result<Option<Cow<'static, [u8]>>> {
        match self.blobs.fetch(&self.user, self.inner.value()) {
            Ok(value) => Ok(Some(Cow::Owned(value.to_vec()))),
            Err(Error::Corruption { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn is_operand_of(&mut self, stripe: usize) -> bool {
        if !self.inner.valid() {
            return false;
        }
        let key = self.inner.key();
        key.trailer.kind() == Some(ValueKind::Merge)
            && key.user == self.user
            && self.stripe(key.trailer.seqno()) == stripe
            && !self.is_covered()
    }
}

#[cfg(test)]
mod tests;
