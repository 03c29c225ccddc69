//! Creating, finding and dropping keyspaces.

use std::sync::Arc;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::KeyspaceId;
use crate::base::options::KeyspaceConfig;
use crate::base::options::WantedOperator;
use crate::base::seqno::SeqNo;
use crate::engine::Core;
use crate::engine::DEFAULT_KEYSPACE;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::obsolete::OldFile;
use crate::manifest::KeyspaceEdit;
use crate::manifest::VersionEdit;
use crate::version::Version;

/// Longest name of a keyspace, in bytes.
const NAME_LEN_MAX: usize = 255;

/// Is there nothing to change in `state`? Fails if that cannot be changed.
fn is_as_wanted(state: &KeyspaceState, wanted: &KeyspaceConfig) -> Result<bool> {
    let same_ttl = wanted.default_ttl_ms.is_none_or(|ttl| ttl == state.default_ttl_ms());
    let same_apart = wanted.separate_from.is_none_or(|from| from == state.separate_from());
    let same_expiring = !declares(Some(state), wanted) || state.is_declared();
    let same = same_ttl && same_apart && same_expiring;
    let Some(operator) = &wanted.operator else { return Ok(same) };
    let stored = state.fold();
    if stored.as_ref().is_none_or(|stored| stored.name() == operator.name) {
        return Ok(stored.is_some() && same);
    }
    Err(Error::MergeOperator {
        keyspace: state.name.clone(),
        stored: stored.map(|stored| stored.name().to_owned()),
        given: Some(operator.name.clone()),
    })
}

/// Does `wanted` say that the keyspace has values that expire, be there an operator or not? Of one with
/// an operator a default time to live says so too.
fn declares(state: Option<&KeyspaceState>, wanted: &KeyspaceConfig) -> bool {
    let merges = wanted.operator.is_some() || state.is_some_and(|state| state.fold().is_some());
    let stored_ttl = state.map_or(0, KeyspaceState::default_ttl_ms);
    wanted.expiring || merges && wanted.default_ttl_ms.unwrap_or(stored_ttl) > 0
}

/// Adds to an edit what is wanted of its keyspace.
fn settings_edit(
    mut edit: KeyspaceEdit,
    state: Option<&KeyspaceState>,
    wanted: &KeyspaceConfig,
) -> KeyspaceEdit {
    edit.default_ttl_ms = wanted.default_ttl_ms;
    edit.expiring = declares(state, wanted);
    edit.separate_from = wanted.separate_from;
    edit.merge_operator = wanted.operator.as_ref().map(|operator| operator.name.clone());
    edit
}

impl Core {
    pub(crate) fn keyspace_names(&self) -> Vec<String> {
        self.keyspaces.names()
    }

    /// The keyspace `name` as `wanted`, created durably if it does not exist.
    pub(crate) fn open_keyspace(
        &self,
        name: &str,
        wanted: &KeyspaceConfig,
    ) -> Result<Arc<KeyspaceState>> {
        self.health.check_open()?;
        if let Some(state) = self.keyspaces.get(name)
            && is_as_wanted(&state, wanted)?
        {
            return Ok(state);
        }
        if name.is_empty() || name.len() > NAME_LEN_MAX {
            return Err(Error::argument(format!(
                "the name of a keyspace has 1 to {NAME_LEN_MAX} bytes, and this has {}",
                name.len()
            )));
        }
        let mut set = self.versions.lock();
        self.health.check_writable()?;
        if let Some(state) = self.keyspaces.get(name) {
            if !is_as_wanted(&state, wanted)? {
                let edit = settings_edit(KeyspaceEdit::new(state.id), Some(&state), wanted);
                if wanted.operator.is_some() && !edit.expiring {
                    state.claim_merges()?;
                }
                if wanted.default_ttl_ms.is_some_and(|ttl| ttl > 0) && !edit.expiring {
                    state.claim_expiry()?;
                }
                let expiring = edit.expiring;
                let edit = VersionEdit { keyspaces: vec![edit], ..self.stamp() };
                self.append_edit(&mut set, &edit)?;
                self.apply_settings(&state, wanted, expiring);
            }
            return Ok(state);
        }
        let id = KeyspaceId(set.next_keyspace);
        let next = set.next_keyspace.checked_add(1);
        let next = next.ok_or_else(|| Error::argument("there are no keyspace numbers left"))?;
        let mut edit = KeyspaceEdit::new(id);
        edit.name = Some(name.to_owned());
        let edit = settings_edit(edit, None, wanted);
        let expiring = edit.expiring;
        let edit = VersionEdit { next_keyspace: Some(next), keyspaces: vec![edit], ..self.stamp() };
        self.append_edit(&mut set, &edit)?;
        set.next_keyspace = next;
        let state = Arc::new(KeyspaceState::new(
            self.db_id,
            id,
            name.to_owned(),
            Version::default(),
            // Not the newest one: what is flushed counts as durable in the log, and nothing is.
            SeqNo::ZERO,
            self.default.memtables.clone(),
            self.jobs.clone(),
        ));
        self.apply_settings(&state, wanted, expiring);
        self.keyspaces.insert(state.clone());
        Ok(state)
    }

    /// Does what the edit says. Requires: it is durable.
    fn apply_settings(&self, state: &KeyspaceState, wanted: &KeyspaceConfig, expiring: bool) {
        if expiring {
            // Before the operator: nobody merges without it.
            state.declare_expiring();
        }
        if let Some(ttl) = wanted.default_ttl_ms {
            state.set_default_ttl(ttl);
            if ttl > 0 {
                // Asked before, or new.
                let _ = state.claim_expiry();
            }
        }
        if let Some(from) = wanted.separate_from {
            state.set_separate_from(from);
        }
        if let Some(WantedOperator { name, operator }) = &wanted.operator {
            let known = || self.config.merge_operators.find(name);
            state.set_operator(name, operator.clone().or_else(known));
        }
    }

    /// Fails for a keyspace of another database: its number means something else here.
    pub(crate) fn check_own(&self, state: &KeyspaceState) -> Result<()> {
        if state.db == self.db_id {
            return Ok(());
        }
        let name = &state.name;
        Err(Error::argument(format!("the keyspace {name:?} belongs to another database")))
    }

    /// Drops the keyspace `name`, durably.
    pub(crate) fn drop_keyspace(&self, name: &str) -> Result<()> {
        if name == DEFAULT_KEYSPACE {
            return Err(Error::argument("the default keyspace cannot be dropped"));
        }
        // What was written before stays if the drop does: say, the copy of what is dropped.
        self.sync()?;
        let mut set = self.versions.lock();
        self.health.check_writable()?;
        let state = self
            .keyspaces
            .get(name)
            .ok_or_else(|| Error::NoSuchKeyspace { name: name.to_owned() })?;
        let mut edit = KeyspaceEdit::new(state.id);
        edit.dropped = true;
        let edit = VersionEdit { keyspaces: vec![edit], ..self.stamp() };
        self.append_edit(&mut set, &edit)?;
        self.keyspaces.remove(name);
        let files = state.view_full().version.clone();
        {
            // No batch can name the keyspace once this lock is free again.
            let _append = self.commit.append_lock();
            state.mark_dropped(&self.snapshots);
        }
        self.obsolete.add(files.files().cloned().map(OldFile::Sst));
        self.obsolete.add(files.blobs.files().cloned().map(OldFile::Blob));
        drop(files);
        drop(set);
        self.sweep();
        self.update_throttle();
        // Whoever waited for its memtables to be flushed, or for their memory.
        self.jobs.notify_all();
        Ok(())
    }
}
