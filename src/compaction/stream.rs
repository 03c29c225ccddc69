//! Which entries survive a flush or a compaction: the garbage-collection rules, and nothing else.
//!
//! Live snapshots cut the sequence numbers into *stripes*: two versions are in one stripe if no
//! snapshot can tell them apart.
//!
//! - R1: of the versions of a user key in one stripe, only the newest survives.
//! - R2: a tombstone in the oldest stripe is dropped if nothing older of its key can lie beneath.
//!   What it shadows in the same stream is dropped by R1, since it is in the same stripe.
//! - R3 (compactions only): a put in the oldest stripe beneath which nothing older can lie gets sequence number 0: it
//!   compresses better, and its order to other versions no longer matters (R1 left one). Not where
//!   somebody asks for versions of entries.
//!
//! Requires: every entry of the stream was visible when the list of snapshots was taken; so a
//! snapshot taken later sees the newest version, which R1 keeps.

use crate::base::error::Result;
use crate::base::internal_iter::InternalIter;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::planted::Planted;
use crate::base::seqno::SeqNo;
use crate::base::value::ValueKind;

/// The entries of `I` that survive, in order, forwards.
pub(crate) struct Survivors<I, B> {
    inner: I,
    /// Ascending.
    snapshots: Vec<SeqNo>,
    /// Can nothing older of this user key lie beneath the output? Asked with ascending keys.
    is_bottom: B,
    zero_seqnos: bool,
    /// The user key of the last entry seen, and the stripe it was in.
    user: Vec<u8>,
    seen: Option<usize>,
    trailer: Trailer,
}

impl<I: InternalIter, B: FnMut(&[u8]) -> bool> Survivors<I, B> {
    /// Requires: `inner` stands on the first entry; `snapshots` ascend.
    pub(crate) fn new(
        inner: I,
        snapshots: Vec<SeqNo>,
        is_bottom: B,
        zero_seqnos: bool,
    ) -> Result<Survivors<I, B>> {
        let snapshots = if Planted::SnapshotIgnored.is_on() { Vec::new() } else { snapshots };
        let mut survivors = Survivors {
            inner,
            snapshots,
            is_bottom,
            zero_seqnos,
            user: Vec::new(),
            seen: None,
            trailer: Trailer::default(),
        };
        survivors.settle()?;
        Ok(survivors)
    }

    pub(crate) fn valid(&self) -> bool {
        self.inner.valid()
    }

    /// The entry, with its sequence number as it should be written.
    pub(crate) fn entry(&self) -> (KeyRef<'_>, &[u8]) {
        (KeyRef::new(self.inner.key().user, self.trailer), self.inner.value())
    }

    /// Do readers have the block of the entry in the cache?
    pub(crate) fn is_hot(&self) -> bool {
        self.inner.is_hot()
    }

    pub(crate) fn next(&mut self) -> Result<()> {
        self.inner.next()?;
        self.settle()
    }

    fn stripe(&self, seqno: SeqNo) -> usize {
        self.snapshots.partition_point(|snapshot| *snapshot < seqno)
    }

    /// On to the next entry that survives, the current one included.
    fn settle(&mut self) -> Result<()> {
        while self.inner.valid() {
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
                let kind = key.trailer.kind();
                // Asked only where it matters: that a flush need not compare each key with the
                // bounds of every file.
                let matters = match kind {
                    Some(ValueKind::Delete) => true,
                    Some(ValueKind::Put) => self.zero_seqnos,
                    _ => false,
                };
                let oldest = matters
                    && stripe == 0
                    && ((self.is_bottom)(&self.user) || Planted::TombstoneDropped.is_on());
                match kind {
                    Some(ValueKind::Delete) if oldest => {}
                    Some(ValueKind::Put) if oldest => {
                        self.trailer = Trailer::new(SeqNo::ZERO, ValueKind::Put);
                        return Ok(());
                    }
                    _ => return Ok(()),
                }
            }
            self.inner.next()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
