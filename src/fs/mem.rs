//! A file system in memory that knows what is synced, and what a crash may leave of it.
//!
//! *Model.* A file is the content that is seen, the content that is durable, and the log of changes
//! between the two (`mem/file.rs`). Directories are the same, with one log for all of them, since
//! a rename may touch two (`mem/tree.rs`). A sync plays a log into the durable side. A crash plays
//! some of it. Closing a file syncs nothing.
//!
//! *One lock* guards everything, so that a crash catches all files at the same moment: a state that
//! holds a later write to one file also holds every earlier sync of another.

mod file;
mod rng;
#[cfg(test)]
mod tests;
mod tree;

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::sync::Mutex;
use crate::fs::DirEntry;
use crate::fs::DirLock;
use crate::fs::Fs;
use crate::fs::LockMode;
use crate::fs::ReadMode;
use crate::fs::ReadableFile;
use crate::fs::WritableFile;
use crate::fs::create_dirs;
use crate::fs::parent_of;

use file::FileRef;
use rng::Rng;
use tree::DirId;
use tree::Tree;

/// What a crash leaves of the changes that were not synced. What was synced survives all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CrashMode {
    /// A crash of the process: everything, and as little of it durable as before.
    KeepAll,
    /// A crash of the system that loses everything: content, lengths and directory entries.
    Strict,
    /// A crash of the system that keeps the beginning of it: of each file's changes, with the last
    /// write torn at a byte, a 512-byte sector or a 4-KiB page; and of those to directories.
    Prefix,
    /// A crash of the system that keeps any part of it. Of each file, each 512-byte or 4-KiB piece
    /// of a write is there, or zeros are, or garbage, or what was there before (which, where the
    /// file grew, may be a removed file's bytes); its growth is kept, cut short or lost. Each
    /// change to a directory is there or not; a rename as a whole; and none without the earlier
    /// ones of the same name.
    Subset,
}

impl CrashMode {
    /// All of them.
    pub const ALL: [CrashMode; 4] =
        [CrashMode::KeepAll, CrashMode::Strict, CrashMode::Prefix, CrashMode::Subset];
}

/// What is called before each event, with its index. See [`MemFs::on_event`].
pub type EventHook = Arc<dyn Fn(u64, &MemFs) + Send + Sync>;

/// A file system in memory, for tests. Clones are handles to the same one.
///
/// Paths are taken from the root, links do not exist, and a lock is forgotten in a crash.
///
/// ```
/// use esker::fs::{CrashMode, Fs, MemFs};
/// use std::path::Path;
///
/// let fs = MemFs::new();
/// let file = fs.create(Path::new("/note"))?;
/// file.write_at(0, b"hello")?;
/// file.sync_data()?;
/// // The content is durable. The name is not, until its directory is synced.
/// assert!(!fs.crash_clone(CrashMode::Strict, 0).exists(Path::new("/note"))?);
/// fs.sync_dir(Path::new("/"))?;
/// assert!(fs.crash_clone(CrashMode::Strict, 0).exists(Path::new("/note"))?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct MemFs(Arc<Shared>);

#[derive(Default)]
struct Shared {
    tree: Mutex<Tree>,
    events: AtomicU64,
    hook: Mutex<Option<EventHook>>,
}

impl fmt::Debug for MemFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemFs").field("events", &self.events()).finish_non_exhaustive()
    }
}

impl MemFs {
    /// An empty root directory.
    pub fn new() -> MemFs {
        MemFs::default()
    }

    /// The state that the machine may come up with if it, or this process, crashes now. `self` goes
    /// on undisturbed, its open files and locks too.
    ///
    /// The same `seed` in the same state gives the same result. The clone starts without locks and
    /// without a hook, and counts its events from 0. After [`CrashMode::KeepAll`] what was not
    /// synced still is not; after the others everything that is left is durable.
    #[must_use]
    pub fn crash_clone(&self, mode: CrashMode, seed: u64) -> MemFs {
        let tree = self.0.tree.lock().crash(mode, &mut Rng::new(seed));
        MemFs(Arc::new(Shared { tree: Mutex::new(tree), ..Shared::default() }))
    }

    /// How many events there were: calls that change a file or a directory (`write_at`, `set_len`,
    /// `sync_data`, `sync_dir`, `create`, `rename`, `remove`, and each directory created), failed
    /// ones included.
    pub fn events(&self) -> u64 {
        self.0.events.load(Ordering::Relaxed)
    }

    /// Calls `hook` before each event, in the thread that causes it, with the event's index. No
    /// lock is held, so that it may take a [`crash_clone`](MemFs::crash_clone). `None` ends it.
    pub fn on_event(&self, hook: Option<EventHook>) {
        *self.0.hook.lock() = hook;
    }

    fn event(&self) {
        let index = self.0.events.fetch_add(1, Ordering::Relaxed);
        let hook = self.0.hook.lock().clone();
        if let Some(hook) = hook {
            hook(index, self);
        }
    }

    fn with_tree<T>(
        &self,
        op: &'static str,
        path: &Path,
        run: impl FnOnce(&mut Tree) -> io::Result<T>,
    ) -> Result<T> {
        run(&mut self.0.tree.lock()).map_err(|error| Error::io(op, path, error))
    }

    fn writable(&self, path: &Path, file: FileRef) -> Box<dyn WritableFile> {
        Box::new(MemWritable { fs: self.clone(), file, path: path.to_owned() })
    }
}

impl Fs for MemFs {
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        let is_dir = |dir: &Path| self.with_tree("create directory", dir, |tree| tree.is_dir(dir));
        let create = |dir: &Path| {
            self.event();
            self.with_tree("create directory", dir, |tree| tree.create_dir(dir))
        };
        create_dirs(path, is_dir, create, |dir| self.sync_dir(dir))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        self.event();
        let file = self.with_tree("create", path, |tree| tree.create_file(path))?;
        Ok(self.writable(path, file))
    }

    fn open_writable(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        let file = self.with_tree("open", path, |tree| tree.file(path))?;
        Ok(self.writable(path, file))
    }

    fn open(&self, path: &Path, mode: ReadMode) -> Result<Arc<dyn ReadableFile>> {
        if mode == ReadMode::Live {
            let file = self.with_tree("open", path, |tree| tree.file(path))?;
            return Ok(Arc::new(MemLive { fs: self.clone(), file, path: path.to_owned() }));
        }
        let content =
            self.with_tree("open", path, |tree| Ok(Arc::clone(tree.file(path)?.lock().seen())))?;
        let mapped = mode == ReadMode::Mmap && !content.is_empty();
        Ok(Arc::new(MemReadable {
            mapping: mapped.then(|| Bytes::from_owner(Content(Arc::clone(&content)))),
            content,
            path: path.to_owned(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.event();
        self.with_tree("rename", from, |tree| tree.rename(from, to))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.event();
        self.with_tree("remove", path, |tree| tree.remove(path))
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>> {
        self.with_tree("list", path, |tree| tree.list(path))
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.with_tree("look for", path, |tree| tree.exists(path))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.event();
        self.with_tree("sync directory", path, |tree| tree.sync_dir(path))
    }

    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        if self.exists(path)? {
            self.with_tree("open", path, |tree| tree.file(path).map(drop))?;
        } else if mode == LockMode::Exclusive {
            match self.create(path) {
                // Another thread was faster.
                Err(error) if error.io_kind() == Some(io::ErrorKind::AlreadyExists) => {}
                created => drop(created?),
            }
        }
        let directory = parent_of(path);
        match self.with_tree("lock", path, |tree| tree.lock(directory, mode))? {
            Some(id) => Ok(Box::new(MemLock { fs: self.clone(), directory: id })),
            None => Err(Error::Locked { path: directory.to_owned() }),
        }
    }

    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        self.with_tree("resolve", path, |tree| tree.canonical(path))
    }
}

#[derive(Debug)]
struct MemWritable {
    fs: MemFs,
    file: FileRef,
    path: PathBuf,
}

impl MemWritable {
    fn io(&self, op: &'static str) -> impl Fn(io::Error) -> Error {
        move |error| Error::io(op, &self.path, error)
    }
}

impl WritableFile for MemWritable {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.fs.event();
        let _all = self.fs.0.tree.lock();
        let written = self.file.lock().write_at(offset, bytes);
        written.map_err(self.io("write"))
    }

    fn sync_data(&self) -> Result<()> {
        self.fs.event();
        let _all = self.fs.0.tree.lock();
        self.file.lock().sync();
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.fs.event();
        let _all = self.fs.0.tree.lock();
        let resized = self.file.lock().set_len(len);
        resized.map_err(self.io("resize"))
    }

    fn reserve(&self, _range: Range<u64>) -> Result<bool> {
        Ok(true)
    }

    fn drop_unsynced(&self) {
        let _all = self.fs.0.tree.lock();
        self.file.lock().drop_unsynced();
    }
}

/// A file's content as [`Bytes`] can own it.
struct Content(Arc<Vec<u8>>);

impl AsRef<[u8]> for Content {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The content at the time of opening: files that are read do not change.
#[derive(Debug)]
struct MemReadable {
    content: Arc<Vec<u8>>,
    mapping: Option<Bytes>,
    path: PathBuf,
}

impl ReadableFile for MemReadable {
    fn len(&self) -> u64 {
        self.content.len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        read_at(&self.content, &self.path, offset, out)
    }

    fn read_at_once(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        self.read_at(offset, out).map(|()| true)
    }

    fn mapping(&self) -> Option<&Bytes> {
        self.mapping.as_ref()
    }

    fn will_need(&self, _range: Range<u64>) {}
}

fn read_at(content: &[u8], path: &Path, offset: u64, out: &mut [u8]) -> Result<()> {
    let start = usize::try_from(offset).ok();
    let Some(bytes) = start.and_then(|start| content.get(start..)?.get(..out.len())) else {
        return Err(Error::io("read", path, io::ErrorKind::UnexpectedEof.into()));
    };
    out.copy_from_slice(bytes);
    Ok(())
}

/// A file that others may be writing to.
#[derive(Debug)]
struct MemLive {
    fs: MemFs,
    file: FileRef,
    path: PathBuf,
}

impl ReadableFile for MemLive {
    fn len(&self) -> u64 {
        let _all = self.fs.0.tree.lock();
        self.file.lock().seen().len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let _all = self.fs.0.tree.lock();
        read_at(self.file.lock().seen(), &self.path, offset, out)
    }

    fn mapping(&self) -> Option<&Bytes> {
        None
    }

    fn will_need(&self, _range: Range<u64>) {}
}

#[derive(Debug)]
struct MemLock {
    fs: MemFs,
    directory: DirId,
}

impl DirLock for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        self.fs.0.tree.lock().unlock(self.directory);
    }
}
