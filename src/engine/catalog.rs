//! Creating, finding and dropping keyspaces.

use std::sync::Arc;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::KeyspaceId;
use crate::base::seqno::SeqNo;
use crate::engine::Core;
use crate::engine::DEFAULT_KEYSPACE;
use crate::engine::keyspaces::KeyspaceState;
use crate::manifest::KeyspaceEdit;
use crate::manifest::VersionEdit;
use crate::version::Version;

/// Longest name of a keyspace, in bytes.
const NAME_LEN_MAX: usize = 255;

impl Core {
    pub(crate) fn keyspace_names(&self) -> Vec<String> {
        self.keyspaces.names()
    }

    /// The keyspace `name`, created durably if it does not exist.
    pub(crate) fn open_keyspace(&self, name: &str) -> Result<Arc<KeyspaceState>> {
        self.health.check_open()?;
        if let Some(state) = self.keyspaces.get(name) {
            return Ok(state);
        }
        if name.is_empty() || name.len() > NAME_LEN_MAX {
            return Err(Error::argument(format!(
                "the name of a keyspace has 1 to {NAME_LEN_MAX} bytes, and this has {}",
                name.len()
            )));
        }
        let mut set = self.versions.lock();
        if let Some(state) = self.keyspaces.get(name) {
            return Ok(state);
        }
        self.health.check_writable()?;
        let id = KeyspaceId(set.next_keyspace);
        let next = set.next_keyspace.checked_add(1);
        let next = next.ok_or_else(|| Error::argument("there are no keyspace numbers left"))?;
        let mut edit = KeyspaceEdit::new(id);
        edit.name = Some(name.to_owned());
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
        ));
        self.keyspaces.insert(state.clone());
        Ok(state)
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
        self.obsolete.add(files.files().cloned());
        drop(files);
        drop(set);
        self.sweep();
        self.update_throttle();
        // Whoever waited for its memtables to be flushed, or for their memory.
        self.jobs.notify_all();
        Ok(())
    }
}
