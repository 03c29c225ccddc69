//! Conditional operations on one key: read, decide, and write if nothing came between; again until
//! that is so.
//!
//! *Versions.* The sequence number of an entry tells whether it was changed since it was read, as
//! long as compactions keep it; and they replace it by 0 where it serves nobody (R3). So the first
//! who asks for one has them keep all from then on, and an entry whose number was replaced before has
//! as its version the largest number that may have been. So has one whose number a compaction may
//! replace that was under way when somebody asked first: an unchanged value keeps its version.
//! At every version the value was the one that it is the version of; so it is never that of a newer
//! entry.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use crate::base::batch::Op;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;
use crate::base::sync::atomic::AtomicU64;
use crate::base::value::ValueKind;
use crate::base::value::put_until;
use crate::engine::Core;
use crate::engine::commit::Claim;
use crate::engine::commit::Footprint;
use crate::engine::keyspaces::KeyspaceState;

/// Which entries may have lost their sequence numbers, or may be about to.
#[derive(Debug)]
pub(crate) struct EntryVersions {
    /// Numbers that were replaced before the database was opened were at or before this one.
    at_open: SeqNo,
    /// Those that were since, or may be by a compaction under way, are at or before this one; and
    /// [`ASKED`].
    replaced: AtomicU64,
}

/// Somebody has asked for a version since the database was opened. From then on `replaced` stays as it
/// is.
const ASKED: u64 = 1 << 63;

impl EntryVersions {
    /// Everything up to `last` may have been replaced.
    pub(crate) fn new(last: SeqNo) -> EntryVersions {
        EntryVersions { at_open: last, replaced: AtomicU64::new(0) }
    }

    /// May a compaction whose inputs are at or before `last`, which is visible, replace numbers?
    pub(crate) fn may_replace(&self, last: SeqNo) -> bool {
        let raise = |replaced: u64| (replaced & ASKED == 0).then(|| replaced.max(last.get()));
        self.replaced.fetch_update(SeqCst, SeqCst, raise).is_ok()
    }

    /// Are they kept from now on?
    pub(crate) fn are_kept(&self) -> bool {
        self.replaced.load(SeqCst) & ASKED != 0
    }

    /// The version of an entry with the sequence number `stored`. Requires: somebody has asked.
    fn of(&self, stored: SeqNo) -> SeqNo {
        let replaced = SeqNo::new(self.replaced.load(SeqCst) & !ASKED);
        if stored > replaced { stored } else { replaced.max(self.at_open) }
    }

    fn ask(&self) {
        if !self.are_kept() {
            self.replaced.fetch_or(ASKED, SeqCst);
        }
    }
}

/// What a conditional operation writes.
#[derive(Debug)]
pub(crate) enum Change<'a> {
    Keep,
    Put(Cow<'a, [u8]>),
    /// A put that lives until then.
    PutUntil(u64, Cow<'a, [u8]>),
    Delete,
}

/// What a conditional operation found, and the sequence number of what it wrote.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) before: Option<Slice>,
    pub(crate) written: Option<SeqNo>,
}

impl Core {
    /// The value of `key` and its version.
    pub(crate) fn get_versioned(
        &self,
        state: &KeyspaceState,
        key: &[u8],
    ) -> Result<Option<(Slice, SeqNo)>> {
        self.entry_versions.ask();
        let found = self.get_entry(state, None, key)?;
        Ok(found.map(|entry| (entry.value, self.entry_versions.of(entry.seqno))))
    }

    /// Shows `decide` the value of `key` and its version, and does what it says, with nothing in
    /// between. Asks again as long as others change the key meanwhile, or it expires.
    pub(crate) fn change_key<'a>(
        &self,
        state: &Arc<KeyspaceState>,
        key: &[u8],
        mut decide: impl FnMut(Option<&Slice>, Option<SeqNo>) -> Result<Change<'a>>,
    ) -> Result<Changed> {
        loop {
            let pin = self.pin_snapshot();
            let found = self.get_entry(state, Some(&pin), key)?;
            let version = found.as_ref().map(|entry| self.entry_versions.of(entry.seqno));
            let before = found.map(|entry| entry.value);
            let (kind, value) = match decide(before.as_ref(), version)? {
                Change::Keep => return Ok(Changed { before, written: None }),
                Change::Put(value) => self.put_form(state, value)?,
                Change::PutUntil(expiry_ms, value) => put_until(expiry_ms, value)?,
                Change::Delete => (ValueKind::Delete, Cow::Borrowed(&[][..])),
            };
            let (since, until_ms) = (pin.seqno(), pin.first_expiry().get());
            let claim = Claim { since, until_ms, footprint: Footprint::Key(state, key) };
            let op = Op { kind, keyspace: state.id, key, value: &value };
            match self.commit_one_checked(state, op, &claim) {
                Ok(written) => return Ok(Changed { before, written: Some(written) }),
                Err(Error::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// As [`Core::change_key`], for a caller who knows versions.
    pub(crate) fn change_version<'a>(
        &self,
        state: &Arc<KeyspaceState>,
        key: &[u8],
        decide: impl FnMut(Option<&Slice>, Option<SeqNo>) -> Result<Change<'a>>,
    ) -> Result<Changed> {
        self.entry_versions.ask();
        self.change_key(state, key, decide)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_stays_though_its_number_is_replaced_after_it_was_asked_for() {
        let [zero, old, new, newer] = [0, 50, 150, 250].map(SeqNo::new);
        let versions = EntryVersions::new(SeqNo::new(100));
        versions.ask();
        // Before anything was replaced; what was before the database was opened is not known.
        assert_eq!([zero, old, new].map(|seqno| versions.of(seqno)), [SeqNo::new(100), old, new]);
        assert!(versions.are_kept() && !versions.may_replace(newer));
        assert_eq!([zero, old, new].map(|seqno| versions.of(seqno)), [SeqNo::new(100), old, new]);

        let versions = EntryVersions::new(SeqNo::new(100));
        assert!(versions.may_replace(SeqNo::new(200)) && versions.may_replace(SeqNo::new(199)));
        assert!(!versions.are_kept());
        versions.ask();
        // Whether or not the compaction has come to them.
        assert_eq!([zero, old, new].map(|seqno| versions.of(seqno)), [SeqNo::new(200); 3]);
        assert_eq!(versions.of(newer), newer);
    }
}
