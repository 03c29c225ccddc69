//! The only door to the operating system. Everything that reaches the disk goes through [`Fs`], so
//! that tests can crash, starve and corrupt every path.
//!
//! *Overview of types.* An [`Fs`] opens files of two sorts. A [`WritableFile`] is written by offset
//! and synced; a [`ReadableFile`] is immutable from the moment it is opened for reading, unless it is
//! opened with [`ReadMode::Live`]. A [`DirLock`] keeps other processes out. [`OsFs`] is the operating
//! system; `MemFs` and `FaultFs` (feature `testing`) simulate one that crashes and fails.
//!
//! *What is promised.* `sync_data` returns after the file's content and length are on stable
//! storage. `sync_dir` returns after creations, renames and removals in that directory are. Until
//! then any part of either may be lost in a crash of the system, in any order. `rename` is atomic:
//! the new name means the old file or the new one. A write that returned survives a crash of this
//! process. Every error names the operation and the path.

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::error::Result;

#[cfg(any(test, feature = "testing"))]
mod fault;
mod growth;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(test, feature = "testing"))]
mod mem;
mod mmap;
pub(crate) mod names;
mod os;
#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "testing"))]
pub use fault::FaultEffect;
#[cfg(any(test, feature = "testing"))]
pub use fault::FaultError;
#[cfg(any(test, feature = "testing"))]
pub use fault::FaultFs;
#[cfg(any(test, feature = "testing"))]
pub use fault::FaultOp;
#[cfg(any(test, feature = "testing"))]
pub use fault::FaultRule;
#[cfg(any(test, feature = "testing"))]
pub use fault::FaultTimes;
#[cfg(any(test, feature = "testing"))]
pub use mem::CrashMode;
#[cfg(any(test, feature = "testing"))]
pub use mem::EventHook;
#[cfg(any(test, feature = "testing"))]
pub use mem::MemFs;
pub use os::OsFs;

pub(crate) use growth::Growth;

/// How a file will be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadMode {
    /// Mapped into memory where the system can; [`ReadableFile::mapping`] then returns the bytes.
    /// Only for files that nobody writes to or cuts any more.
    Mmap,
    /// By system calls, at random.
    Pread,
    /// By system calls, from front to back, once: does not displace what other readers keep hot.
    Sequential,
    /// By system calls, while others may write to the file: each read shows what was written before
    /// it. The file keeps its length.
    Live,
}

/// Whom a lock on a directory keeps out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockMode {
    /// Everybody else: whoever writes.
    Exclusive,
    /// Whoever writes. Any number of readers may hold one at once.
    Shared,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirEntry {
    /// Its name, without the directory. Names that are no UTF-8 are left out of listings.
    pub name: String,
    /// Is it a directory?
    pub is_dir: bool,
    /// Length in bytes.
    pub len: u64,
}

impl DirEntry {
    /// An entry.
    pub fn new(name: impl Into<String>, is_dir: bool, len: u64) -> DirEntry {
        DirEntry { name: name.into(), is_dir, len }
    }
}

/// A file system.
pub trait Fs: Debug + Send + Sync + 'static {
    /// Creates the directory `path` and missing ancestors, each durable in its parent on return.
    fn create_dir_all(&self, path: &Path) -> Result<()>;
    /// Creates a file for writing. An existing one is an error of kind `AlreadyExists`.
    fn create(&self, path: &Path) -> Result<Box<dyn WritableFile>>;
    /// Opens an existing file for writing by offset, its content kept.
    fn open_writable(&self, path: &Path) -> Result<Box<dyn WritableFile>>;
    /// Opens an existing file for reading.
    fn open(&self, path: &Path, mode: ReadMode) -> Result<Arc<dyn ReadableFile>>;
    /// Renames `from` to `to`, replacing it, atomically.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> Result<()>;
    /// The entries of a directory, sorted by name.
    fn list(&self, path: &Path) -> Result<Vec<DirEntry>>;
    /// Does a file or directory of this name exist?
    fn exists(&self, path: &Path) -> Result<bool>;
    /// Makes creations, renames and removals in this directory durable.
    fn sync_dir(&self, path: &Path) -> Result<()>;
    /// Locks the directory by the file `path` in it, whose content means nothing. Fails with
    /// [`Error::Locked`](crate::Error::Locked) if a lock on it lives that `mode` does not go with,
    /// in this process or another. Released on drop, and by the death of the process.
    ///
    /// A missing file is created for an exclusive lock. A shared one creates and changes nothing:
    /// without the file it is valid in this process only.
    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>>;
    /// The directory's true name: absolute, with links resolved.
    fn canonical(&self, path: &Path) -> Result<PathBuf>;
}

/// A file that is being written. All methods may be called from several threads at once.
pub trait WritableFile: Debug + Send + Sync {
    /// Writes all of `bytes` at `offset`, growing the file where needed.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Tells that the first `len` bytes are allocated and durable, that [`overwrite_at`] will write
    /// over them in small pieces, and that the length will not change any more. The system may
    /// prepare for that.
    ///
    /// [`overwrite_at`]: WritableFile::overwrite_at
    fn prepare_overwrites(&self, _len: u64) {}
    /// As [`write_at`](WritableFile::write_at), by the cheapest way there is, for bytes whose sync
    /// nobody waits for: a sync soon after it may have to flush a larger piece of the file.
    fn overwrite_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_at(offset, bytes)
    }
    /// Takes back what [`prepare_overwrites`](WritableFile::prepare_overwrites) told, since no more
    /// overwrites will come: a sync that follows may be cheaper.
    fn finish_overwrites(&self) {}
    /// Asks the system to begin to write this part to the disk, without waiting until it has: so a
    /// sync later has less to do at once, and nobody's reads queue behind all of it. Where the system
    /// cannot, nothing happens. After an error a later sync may not know of it.
    fn write_back(&self, _range: Range<u64>) -> Result<()> {
        Ok(())
    }
    /// Makes content and length durable.
    fn sync_data(&self) -> Result<()>;
    /// Sets the length: cuts the file, or grows it with zeros.
    fn set_len(&self, len: u64) -> Result<()>;
    /// Reserves disk space for this part without changing content or length, so that later writes
    /// to it do not fail for lack of space, and what is not written reads as zeros. False where
    /// the system cannot do that: nothing is reserved then.
    fn reserve(&self, range: Range<u64>) -> Result<bool>;
    /// For simulations: treats what is not synced as a failed sync does on Linux. It still reads,
    /// and no later sync makes it durable. A real file ignores this.
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    fn drop_unsynced(&self) {}
}

/// A file that is read and does not change.
pub trait ReadableFile: Debug + Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> u64;
    /// Is it empty?
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Fills `out` from `offset`. An error of kind `UnexpectedEof` if the file ends first.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()>;
    /// As [`read_at`](ReadableFile::read_at), if that need not wait for the disk; else false, and
    /// `out` is arbitrary. A system that cannot tell always says false, which does nothing unless
    /// implemented.
    fn read_at_once(&self, _offset: u64, _out: &mut [u8]) -> Result<bool> {
        Ok(false)
    }
    /// The whole file in memory, if it was opened with [`ReadMode::Mmap`] and can be mapped.
    fn mapping(&self) -> Option<&Bytes>;
    /// Tells the system that `range` of a mapped file is read at random, piece by piece: it need
    /// neither load what lies around a piece, nor take one access for a sign of the next. Without
    /// it, pages that are used often stay in memory. Best effort; does nothing unless implemented.
    fn random(&self, _range: Range<u64>) {}
    /// Tells the system that `range` will be wanted soon. Best effort.
    fn will_need(&self, range: Range<u64>);
}

/// Keeps others out of a directory until it is dropped.
pub trait DirLock: Debug + Send + Sync {}

/// The directory that holds `path`.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None if path.as_os_str().is_empty() => Path::new("."),
        None => path,
    }
}

/// The steps of [`Fs::create_dir_all`], in the order that keeps its promise even if an earlier call
/// was cut short by a crash.
///
/// Each directory is made durable before the one below it is created. So of the directories found
/// to exist, only the deepest can be one that a crashed process created and did not sync: it is
/// synced again.
fn create_dirs(
    path: &Path,
    is_dir: impl Fn(&Path) -> Result<bool>,
    create: impl Fn(&Path) -> Result<()>,
    sync: impl Fn(&Path) -> Result<()>,
) -> Result<()> {
    let mut missing = Vec::new();
    for dir in path.ancestors() {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        if is_dir(dir)? {
            match sync(parent_of(dir)) {
                // Whoever may not even read the parent did not create `dir`.
                Err(error) if error.io_kind() == Some(io::ErrorKind::PermissionDenied) => {}
                synced => synced?,
            }
            break;
        }
        missing.push(dir);
    }
    for dir in missing.into_iter().rev() {
        create(dir)?;
        sync(parent_of(dir))?;
    }
    Ok(())
}
