//! Lifecycle: lock the directory, recover, start the threads; and the orderly close.
//!
//! *The first open* makes these durable in this order: the directory in its parent, the first
//! manifest, `CURRENT`. A log segment or SST is created only after that. So a directory without
//! `CURRENT` that holds nothing but the first manifest is a creation that a crash interrupted, and
//! is begun anew; one that holds anything else of ours has lost its `CURRENT`, which is corruption.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::base::clock::Clock;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::base::options::Config;
use crate::base::sync::Mutex;
use crate::engine::Engine;
use crate::engine::recovery;
use crate::engine::workers;
use crate::fs::DirEntry;
use crate::fs::DirLock;
use crate::fs::Fs;
use crate::fs::LockMode;
use crate::fs::names::CURRENT;
use crate::fs::names::FileKind;
use crate::fs::names::LOCK;

/// The number of the manifest that a creation writes.
pub(super) const FIRST_MANIFEST: FileId = FileId(1);

/// What a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Database,
    /// Nothing, or the beginnings of a database.
    Nothing,
}

impl Engine {
    /// Opens or creates the database in `path`.
    pub(crate) fn open(
        path: &Path,
        config: &Config,
        fs: &Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Engine>> {
        let (dir, lock) = lock_directory(path, config, fs.as_ref())?;
        // Looked at again under the lock: another process may have been faster.
        let listing = fs.list(&dir)?;
        let found = look(&dir, &listing)?;
        if found == Found::Nothing && !may_create(config) {
            return Err(not_a_database(path));
        }
        let core = recovery::recover(&dir, config, fs, clock, found == Found::Nothing, &listing)?;
        let core = Arc::new(core);
        core.look_at_files();
        core.update_throttle();
        let threads = Mutex::new(workers::start(&core)?);
        Ok(Arc::new(Engine { core, threads, lock: Mutex::new(Some(lock)) }))
    }

    /// Lets nobody begin anything, waits for what is under way on any thread, makes the log
    /// durable, and releases the directory: whoever opens it next has it alone.
    pub(crate) fn close(&self) -> Result<()> {
        // Held to the end: whoever closes at the same time returns when the directory is free.
        let mut threads = self.threads.lock();
        if self.health.check_open().is_err() {
            return Ok(());
        }
        self.health.close();
        self.cancel.store(true, Relaxed);
        self.jobs.close();
        self.commit.wake_all();
        if workers::join(std::mem::take(&mut *threads)) {
            self.jobs.wait_until_idle();
        }
        drop(self.versions.lock());
        self.commit.drain();
        let synced = match self.health.failure() {
            None => self.sync_written(),
            // What was acknowledged before a failure is as durable as it will get.
            Some(failure) if self.visible() > self.synced() => Err(failure.clone()),
            Some(_) => Ok(()),
        };
        if synced.is_ok() && self.health.failure().is_none() {
            self.seal_log();
        }
        self.sweep();
        drop(self.lock.lock().take());
        synced
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the last writes may not be durable");
        }
    }
}

fn not_a_database(path: &Path) -> Error {
    Error::NotADatabase { path: path.to_owned(), what: "it has no file CURRENT".to_owned() }
}

fn may_create(config: &Config) -> bool {
    config.create_if_missing && !config.read_only
}

/// Creates the directory if that is allowed, and locks it. Leaves no trace in a directory that is
/// not going to be a database.
fn lock_directory(
    path: &Path,
    config: &Config,
    fs: &dyn Fs,
) -> Result<(PathBuf, Box<dyn DirLock>)> {
    if may_create(config) {
        fs.create_dir_all(path)?;
    } else if !fs.exists(path)? {
        return Err(not_a_database(path));
    }
    let dir = fs.canonical(path)?;
    let listing = fs.list(&dir)?;
    match look(&dir, &listing) {
        Ok(Found::Nothing) | Err(Error::NotADatabase { .. }) if !may_create(config) => {
            return Err(not_a_database(path));
        }
        found => drop(found?),
    }
    let mode = if config.read_only { LockMode::Shared } else { LockMode::Exclusive };
    let lock = fs.lock(&dir.join(LOCK), mode)?;
    Ok((dir, lock))
}

/// Tells a database from a creation that did not finish and from somebody else's directory.
fn look(dir: &Path, listing: &[DirEntry]) -> Result<Found> {
    let kinds: Vec<FileKind> =
        listing.iter().filter_map(|entry| FileKind::parse(&entry.name)).collect();
    if kinds.contains(&FileKind::Current) {
        return Ok(Found::Database);
    }
    let mut orphan = kinds.iter().filter(|kind| {
        !matches!(kind, FileKind::Lock | FileKind::Temporary | FileKind::Manifest(FIRST_MANIFEST))
    });
    if orphan.next().is_some() {
        let what = "it is missing, though the directory holds other files of a database: \
                    restore it, or repair the database into a new one";
        return Err(Error::corruption(&dir.join(CURRENT), 0, what));
    }
    let stranger = listing.iter().find(|entry| {
        let hidden = entry.name.starts_with('.') || entry.name == "lost+found";
        FileKind::parse(&entry.name).is_none() && !hidden
    });
    match stranger {
        Some(entry) => Err(Error::NotADatabase {
            path: dir.to_owned(),
            what: format!("it holds other files, such as {:?}: choose an empty one", entry.name),
        }),
        None => Ok(Found::Nothing),
    }
}
