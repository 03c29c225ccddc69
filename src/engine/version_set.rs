//! The only place where a version changes: manifest first, then memory.
//!
//! An edit is appended to the manifest and synced; then the new versions are swapped in. If the
//! append or its sync fails, it is unknown whether the edit is on disk: the database turns
//! read-only, no file that the edit names is removed, and no file number is used again.

use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;

use crate::base::blob::NEVER_APART;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::base::planted::Planted;
use crate::base::seqno::SeqNo;
use crate::base::sync::MutexGuard;
use crate::engine::Core;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::keyspaces::Sealed;
use crate::engine::obsolete::OldFile;
use crate::fs::names::manifest_path;
use crate::manifest::KeyspaceEdit;
use crate::manifest::ManifestWriter;
use crate::manifest::SstMeta;
use crate::manifest::VersionEdit;
use crate::manifest::install_current;
use crate::version::Version;
use crate::version::builder;
use crate::version::invariants;

/// A manifest is replaced by a fresh one once its edits take this many times its first record…
const ROLLOVER_FACTOR: u64 = 4;
/// …but not before it has this many bytes, or a sixteenth of the log's bound if that is less.
const ROLLOVER_BYTES_MIN: u64 = 1 << 20;

/// The manifest in force. Its lock orders all changes of versions and of the set of keyspaces.
#[derive(Debug)]
pub(crate) struct VersionSet {
    /// `None` only during recovery, and if nothing is ever written.
    manifest: Option<ManifestWriter>,
    manifest_id: FileId,
    /// Size of the manifest when it held nothing but a snapshot.
    snapshot_bytes: u64,
    /// What the manifest says of the log.
    log_durable: SeqNo,
    pub(crate) next_keyspace: u32,
}

impl VersionSet {
    /// What was read from manifest `manifest_id`.
    pub(crate) fn new(next_keyspace: u32, manifest_id: FileId) -> VersionSet {
        VersionSet {
            manifest: None,
            manifest_id,
            snapshot_bytes: 0,
            log_durable: SeqNo::ZERO,
            next_keyspace,
        }
    }

    /// Appends to `manifest` from now on, which `CURRENT` names and `snapshot` begins.
    pub(crate) fn put_in_force(
        &mut self,
        manifest: ManifestWriter,
        id: FileId,
        snapshot: &VersionEdit,
    ) {
        self.log_durable = snapshot.log_durable.unwrap_or_default();
        self.snapshot_bytes = manifest.bytes();
        self.manifest = Some(manifest);
        self.manifest_id = id;
    }

    pub(crate) fn manifest_id(&self) -> FileId {
        self.manifest_id
    }
}

/// A change of one keyspace's tree.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) state: Arc<KeyspaceState>,
    pub(crate) edit: KeyspaceEdit,
    /// The memtables that it flushes. Their memory goes once they have left the view, before files
    /// are removed: writers take it for the next one meanwhile.
    pub(crate) flushed: Vec<Sealed>,
}

impl Change {
    /// One that flushes nothing.
    pub(crate) fn of(state: &Arc<KeyspaceState>, edit: KeyspaceEdit) -> Change {
        Change { state: state.clone(), edit, flushed: Vec::new() }
    }
}

impl Core {
    /// Installs a change, durably. Nothing is changed if the keyspace was dropped meanwhile; then
    /// the files of the edit are debris, and the result is false. `Closed` says so of the database.
    pub(crate) fn install(&self, change: Change) -> Result<bool> {
        let mut set = self.versions.lock();
        self.health.check_writable()?;
        let Change { state, edit, flushed: memtables } = change;
        if state.is_dropped() {
            return Ok(false);
        }
        let base = state.view_full().version.clone();
        let next = match builder::apply(&base, &edit, &self.opener) {
            Ok(next) => next,
            Err(bad) => return Err(self.fail(Error::internal(bad.0))),
        };
        if cfg!(debug_assertions)
            && let Err(violated) = invariants::check(&next)
        {
            return Err(self.fail(Error::internal(violated)));
        }
        let flushed = edit.flushed_seqno;
        let added: Vec<FileId> = edit.added.iter().map(|(_, meta)| meta.id).collect();
        let removed: Vec<FileId> = edit.removed.iter().map(|(_, id)| *id).collect();
        let floor = flushed.map(|flushed| self.wal_floor(&state, flushed));
        let kept = self.to_keep(floor);
        let edit = VersionEdit { wal_floor: floor, keyspaces: vec![edit], kept, ..self.stamp() };
        if Planted::LogRemovedEarly.is_on() {
            self.commit.append_lock().cut(floor.unwrap_or_default()).iter().for_each(|segment| {
                self.remove_segment(segment.id);
            });
        }
        self.append_edit(&mut set, &edit)?;
        let blobs = base.blobs.files().filter(|file| next.blobs.get(file.meta.id).is_none());
        let blobs: Vec<_> = blobs.cloned().map(OldFile::Blob).collect();
        state.install(next, flushed);
        let gone = base
            .files()
            .filter(|file| removed.contains(&file.meta.id) && !added.contains(&file.meta.id));
        self.obsolete.add(gone.cloned().map(OldFile::Sst).chain(blobs));
        drop(base);
        // Under the lock: a manifest that is made now must not name a segment that goes.
        let cut = floor.map(|floor| self.cut_history(floor));
        drop(set);
        drop(memtables);
        for segment in cut.into_iter().flatten() {
            self.retire_segment(&segment);
        }
        Ok(true)
    }

    /// Appends an edit to the manifest, or turns the database read-only.
    pub(crate) fn append_edit(
        &self,
        set: &mut MutexGuard<'_, VersionSet>,
        edit: &VersionEdit,
    ) -> Result<()> {
        let Some(manifest) = &mut set.manifest else {
            return Err(Error::internal("there is no manifest yet"));
        };
        manifest.append(edit).map_err(|error| self.fail(error))?;
        set.log_durable = set.log_durable.max(edit.log_durable.unwrap_or_default());
        Ok(())
    }

    /// Notes in the manifest that the log is durable to its end: so damage there, where no later
    /// record can bear witness, is told from the torn end that a crash leaves. And bears witness to
    /// the last edit of the manifest itself: damage to this note costs nothing.
    pub(crate) fn seal_log(&self) {
        let mut set = self.versions.lock();
        let edit = self.stamp();
        let (known, snapshot_bytes) = (Some(set.log_durable), set.snapshot_bytes);
        let Some(manifest) = &mut set.manifest else { return };
        if edit.log_durable <= known && manifest.bytes() == snapshot_bytes {
            return;
        }
        if let Err(error) = manifest.append(&edit) {
            tracing::warn!(%error, "the log is durable, but the manifest does not say so");
        }
    }

    /// An edit that states which numbers are in use.
    pub(crate) fn stamp(&self) -> VersionEdit {
        VersionEdit {
            next_file: Some(self.output.peek_file_id()),
            last_seqno: Some(self.visible()),
            log_durable: Some(self.synced()),
            ..VersionEdit::default()
        }
    }

    /// The oldest log segment that is needed once `state` is flushed up to `flushed`. Requires: the
    /// lock of the version set, so that the floor never goes back.
    fn wal_floor(&self, state: &KeyspaceState, flushed: SeqNo) -> FileId {
        let append = self.commit.append_lock();
        let unflushed = self.keyspaces.all().into_iter().filter_map(|other| {
            other.first_unflushed(if other.id == state.id { flushed } else { SeqNo::ZERO })
        });
        let replaying = SeqNo::new(self.replay_from.load(Acquire));
        let needed = unflushed.min().unwrap_or(SeqNo::MAX).min(replaying);
        // A segment may become the floor once its header is durable, as its first record proves.
        let synced = self.synced();
        let mut segments = append.segments().iter();
        let mut floor = segments.next();
        for next in segments {
            // One without records ends before it starts, so its end alone says nothing.
            let passed = floor.is_some_and(|floor| {
                floor.first < replaying && floor.last().is_some_and(|last| last < needed)
            });
            if !passed || next.first > synced {
                break;
            }
            floor = Some(next);
        }
        floor.map_or(FileId(0), |segment| segment.id)
    }

    /// Replaces the manifest by a fresh one once it has grown too long.
    pub(crate) fn roll_manifest_over(&self) -> Result<()> {
        let mut set = self.versions.lock();
        let least = ROLLOVER_BYTES_MIN.min(self.config.wal_bytes / 16);
        let limit = (ROLLOVER_FACTOR * set.snapshot_bytes).max(least);
        let bytes = set.manifest.as_ref().map_or(0, ManifestWriter::bytes);
        if bytes < limit || self.health.check_writable().is_err() {
            return Ok(());
        }
        let log = self.stated_log();
        let states = self.keyspaces.all();
        let snapshot = VersionEdit {
            wal_floor: log.wal_floor,
            log_retention: log.log_retention,
            kept: log.kept,
            next_keyspace: Some(set.next_keyspace),
            keyspaces: states.iter().map(|state| snapshot_of(state)).collect(),
            ..self.stamp()
        };
        let id = self.output.new_file_id();
        let snapshot = VersionEdit { next_file: Some(self.output.peek_file_id()), ..snapshot };
        let fs = self.output.fs.as_ref();
        let dir = &self.output.dir;
        let manifest = ManifestWriter::create(fs, dir, id, self.db_id, &snapshot)?;
        // From here on it is unknown which of the two is in force until both names are durable.
        install_current(fs, dir, self.db_id, id).map_err(|error| self.fail(error))?;
        let old = set.manifest_id;
        set.put_in_force(manifest, id, &snapshot);
        drop(set);
        if let Err(error) = fs.remove(&manifest_path(dir, old)) {
            tracing::warn!(%error, "an old manifest stays until the next open");
        }
        Ok(())
    }
}

/// The whole state of one keyspace as an edit.
fn snapshot_of(state: &KeyspaceState) -> KeyspaceEdit {
    let version = state.view_full().version.clone();
    snapshot_edit(state, &version)
}

/// The edit that makes `version` from nothing.
pub(crate) fn snapshot_edit(state: &KeyspaceState, version: &Version) -> KeyspaceEdit {
    let mut edit = KeyspaceEdit::new(state.id);
    edit.name = Some(state.name.clone());
    edit.flushed_seqno = Some(state.flushed());
    edit.default_ttl_ms = Some(state.default_ttl_ms()).filter(|ttl| *ttl > 0);
    edit.expiring = state.is_declared();
    edit.separate_from = Some(state.separate_from()).filter(|from| *from != NEVER_APART);
    edit.added_blobs = version.blobs.files().map(|file| file.meta.clone()).collect();
    edit.merge_operator = state.fold().map(|fold| fold.name().to_owned());
    for (level, files) in version.levels().iter().enumerate() {
        edit.added.extend(files.files.iter().map(|file| (level as u8, SstMeta::clone(&file.meta))));
    }
    edit
}

impl Core {
    /// Removes files that no version names any more, once no reader holds them either.
    pub(crate) fn sweep(&self) {
        if self.health.failure().is_some() {
            return;
        }
        for file in self.obsolete.take_unused() {
            file.forget_blocks();
            if let Err(error) = self.output.fs.remove(&file.path()) {
                tracing::warn!(%error, "an obsolete file stays until the next open");
            }
        }
    }
}
