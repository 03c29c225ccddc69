//! Conditional operations on one key: read, decide, and write if nothing came between; again until
//! that is so.
//!
//! *Versions.* The sequence number of an entry tells whether it was changed since it was read, as
//! long as compactions keep it; and they replace it by 0 where it serves nobody (R3). So the first
//! who asks for one has them keep all from then on, and an entry whose number was replaced before has
//! as its version the largest number that may have been. That is never the version of a newer entry.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use crate::base::batch::Op;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;
use crate::base::sync::atomic::AtomicBool;
use crate::base::sync::atomic::AtomicU64;
use crate::base::value::ValueKind;
use crate::base::value::put_until;
use crate::engine::Core;
use crate::engine::commit::Claim;
use crate::engine::commit::Footprint;
use crate::engine::keyspaces::KeyspaceState;

/// Which entries may have lost their sequence numbers.
#[derive(Debug)]
pub(crate) struct EntryVersions {
    /// Somebody has asked for one since the database was opened.
    asked: AtomicBool,
    /// All whose number was replaced were written at or before this one.
    replaced: AtomicU64,
}

impl EntryVersions {
    /// Everything up to `last` may have been replaced.
    pub(crate) fn new(last: SeqNo) -> EntryVersions {
        EntryVersions { asked: AtomicBool::new(false), replaced: AtomicU64::new(last.get()) }
    }

    /// May a compaction whose inputs are at or before `last` replace numbers? It says so before it
    /// looks whether they are wanted, and who wants them says that before looking here.
    pub(crate) fn may_replace(&self, last: SeqNo) -> bool {
        if self.asked.load(SeqCst) {
            return false;
        }
        self.replaced.fetch_max(last.get(), SeqCst);
        !self.asked.load(SeqCst)
    }

    /// Are they kept from now on?
    pub(crate) fn are_kept(&self) -> bool {
        self.asked.load(SeqCst)
    }

    /// The version of an entry with the sequence number `stored`.
    fn of(&self, stored: SeqNo) -> SeqNo {
        if stored > SeqNo::ZERO { stored } else { SeqNo::new(self.replaced.load(SeqCst)) }
    }

    fn ask(&self) {
        if !self.asked.load(SeqCst) {
            self.asked.store(true, SeqCst);
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
        let found = self.get_with_seqno(state, None, key)?;
        Ok(found.map(|(value, stored)| (value, self.entry_versions.of(stored))))
    }

    /// Shows `decide` the value of `key` and its version, and does what it says, with nothing in
    /// between. Asks again as long as others change the key meanwhile.
    pub(crate) fn change_key<'a>(
        &self,
        state: &Arc<KeyspaceState>,
        key: &[u8],
        mut decide: impl FnMut(Option<&Slice>, Option<SeqNo>) -> Result<Change<'a>>,
    ) -> Result<Changed> {
        loop {
            let pin = self.pin_snapshot();
            let found = self.get_with_seqno(state, Some(&pin), key)?;
            let version = found.as_ref().map(|(_, stored)| self.entry_versions.of(*stored));
            let before = found.map(|(value, _)| value);
            let (kind, value) = match decide(before.as_ref(), version)? {
                Change::Keep => return Ok(Changed { before, written: None }),
                Change::Put(value) => self.put_form(state, value)?,
                Change::PutUntil(expiry_ms, value) => put_until(expiry_ms, value)?,
                Change::Delete => (ValueKind::Delete, Cow::Borrowed(&[][..])),
            };
            let claim = Claim { since: pin.seqno(), footprint: Footprint::Key(state, key) };
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
