//! What has to be durable before what: seen from the calls, where the crash tests see the outcome.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use esker::Durability;
use esker::KeyspaceOptions;
use esker::Result;
use esker::fs::DirEntry;
use esker::fs::DirLock;
use esker::fs::Fs;
use esker::fs::LockMode;
use esker::fs::MemFs;
use esker::fs::ReadMode;
use esker::fs::ReadableFile;
use esker::fs::WritableFile;

use crate::DIR;
use crate::options;

/// What is not durable yet, by the calls so far.
#[derive(Debug, Default)]
struct Pending {
    /// Files written since their last sync.
    content: BTreeSet<PathBuf>,
    /// Files created or renamed since the last sync of the directory.
    names: BTreeSet<PathBuf>,
    /// SSTs and blob files that were created and not removed.
    files: BTreeSet<PathBuf>,
    /// Was every change of the manifest synced?
    manifest_synced: bool,
    manifest_edits: usize,
    /// Blob files that were created.
    blobs: usize,
    removals: usize,
    directory_syncs: usize,
}

/// Passes calls on, and panics when one comes too early.
#[derive(Debug)]
struct Watched {
    fs: MemFs,
    pending: Arc<Mutex<Pending>>,
}

#[derive(Debug)]
struct WatchedFile {
    file: Box<dyn WritableFile>,
    path: PathBuf,
    pending: Arc<Mutex<Pending>>,
}

fn is(path: &Path, part: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains(part))
}

impl Watched {
    fn file(&self, path: &Path, file: Box<dyn WritableFile>) -> Box<dyn WritableFile> {
        let pending = self.pending.clone();
        Box::new(WatchedFile { file, path: path.to_owned(), pending })
    }
}

impl Fs for Watched {
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.fs.create_dir_all(path)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        let mut pending = self.pending.lock();
        pending.names.insert(path.to_owned());
        if is(path, ".sst") || is(path, ".blob") {
            pending.blobs += usize::from(is(path, ".blob"));
            pending.files.insert(path.to_owned());
        }
        Ok(self.file(path, self.fs.create(path)?))
    }

    fn open_writable(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        Ok(self.file(path, self.fs.open_writable(path)?))
    }

    fn open(&self, path: &Path, mode: ReadMode) -> Result<Arc<dyn ReadableFile>> {
        self.fs.open(path, mode)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut pending = self.pending.lock();
        if is(to, "CURRENT") {
            assert!(!pending.content.contains(from), "CURRENT is replaced by what is not synced");
            let manifest = pending.names.iter().chain(&pending.content);
            let early = manifest.filter(|path| is(path, "MANIFEST")).count();
            assert_eq!(early, 0, "CURRENT names a manifest that is not durable");
        }
        pending.names.insert(to.to_owned());
        drop(pending);
        self.fs.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let mut pending = self.pending.lock();
        assert!(pending.manifest_synced, "{} goes before the edit is durable", path.display());
        let current = pending.names.iter().any(|path| is(path, "CURRENT"));
        assert!(!current, "{} goes before the name of CURRENT is durable", path.display());
        pending.removals += 1;
        pending.files.remove(path);
        pending.content.remove(path);
        pending.names.remove(path);
        drop(pending);
        self.fs.remove(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>> {
        self.fs.list(path)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.fs.exists(path)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.fs.sync_dir(path)?;
        let mut pending = self.pending.lock();
        pending.names.retain(|name| name.parent() != Some(path));
        pending.directory_syncs += 1;
        Ok(())
    }

    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        self.fs.lock(path, mode)
    }

    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        self.fs.canonical(path)
    }
}

impl WritableFile for WatchedFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut pending = self.pending.lock();
        if is(&self.path, "MANIFEST") {
            // Without threads no file is half written while an edit is made.
            for file in &pending.files {
                let early = pending.content.contains(file) || pending.names.contains(file);
                assert!(!early, "an edit is written while {} is not durable", file.display());
            }
            pending.manifest_synced = false;
            pending.manifest_edits += 1;
        }
        pending.content.insert(self.path.clone());
        drop(pending);
        self.file.write_at(offset, bytes)
    }

    fn sync_data(&self) -> Result<()> {
        self.file.sync_data()?;
        let mut pending = self.pending.lock();
        pending.content.remove(&self.path);
        if is(&self.path, "MANIFEST") {
            pending.manifest_synced = true;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len)
    }

    fn reserve(&self, range: Range<u64>) -> Result<bool> {
        self.file.reserve(range)
    }
}

/// Content and name of blob files and SSTs, then the edit that names it, then removals; a manifest, then `CURRENT`,
/// then its name, then removals. Also after keyspaces were dropped.
#[test]
fn nothing_is_named_or_removed_before_what_it_relies_on_is_durable() {
    let mem = MemFs::new();
    let pending = Arc::new(Mutex::new(Pending::default()));
    for round in 0..4_u8 {
        let fs = Watched { fs: mem.clone(), pending: pending.clone() };
        let options = options(&mem).fs(Arc::new(fs)).durability(Durability::Os);
        let db = options.open(DIR).unwrap();
        for i in 0..200_u8 {
            let apart = KeyspaceOptions::new().separate_values(150);
            let side = db.keyspace_with("side", apart).unwrap();
            side.put([i], [i; 200]).unwrap();
            db.put([i % 40], [round; 100]).unwrap();
            match i % 50 {
                20 => db.drop_keyspace("side").unwrap(),
                30 => db.compact_range::<&[u8], _>(..).unwrap(),
                40 => while db.run_one_job().unwrap() {},
                _ => {}
            }
        }
    }
    let pending = pending.lock();
    assert!(pending.manifest_edits > 40, "{pending:?}");
    assert!(pending.removals > 40, "{pending:?}");
    assert!(pending.blobs > 10, "{pending:?}");
    assert!(pending.directory_syncs > 40, "{pending:?}");
}
