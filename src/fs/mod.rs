//! The only door to the operating system. Everything that reaches the disk goes through [`Fs`], so
//! that tests can crash, starve and corrupt every path.
//!
//! *Overview of types.* An [`Fs`] opens files of two sorts. A [`WritableFile`] is written by offset
//! and synced; a [`ReadableFile`] is immutable from the moment it is opened for reading. A
//! [`DirLock`] keeps other processes out. [`OsFs`](os::OsFs) is the operating system;
//! `MemFs` and `FaultFs` (feature `testing`) simulate one that crashes and fails.
//!
//! *What is promised.* `sync_data` returns after the file's content and length are on stable
//! storage. `sync_dir` returns after creations, renames and removals in that directory are. Until
//! then any part of either may be lost in a crash of the system, in any order. `rename` is atomic:
//! the new name means the old file or the new one. A write that returned survives a crash of this
//! process. Every error names the operation and the path.

use std::fmt::Debug;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::error::Result;

#[cfg(any(test, feature = "testing"))]
mod fault;
#[cfg(any(test, feature = "testing"))]
mod mem;
mod mmap;
pub(crate) mod names;
mod os;

#[cfg(any(test, feature = "testing"))]
#[cfg(any(test, feature = "testing"))]
pub use os::OsFs;

/// How a file will be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadMode {
    /// Mapped into memory where the system can; [`ReadableFile::mapping`] then returns the bytes.
    Mmap,
    /// By system calls, at random.
    Pread,
    /// By system calls, from front to back, once: does not displace what other readers keep hot.
    Sequential,
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
        DirEntry {
            name: name.into(),
            is_dir,
            len,
        }
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
    /// Locks the directory by the file `path` in it (created if missing; its content means
    /// nothing). Fails with [`Error::Locked`](crate::Error::Locked) if any other lock on it lives,
    /// in this process or another. Released on drop, and by the death of the process.
    fn lock(&self, path: &Path) -> Result<Box<dyn DirLock>>;
    /// The directory's true name: absolute, with links resolved.
    fn canonical(&self, path: &Path) -> Result<PathBuf>;
}

/// A file that is being written. All methods may be called from several threads at once.
pub trait WritableFile: Debug + Send + Sync {
    /// Writes all of `bytes` at `offset`, growing the file where needed.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Makes content and length durable.
    fn sync_data(&self) -> Result<()>;
    /// Sets the length: cuts the file, or grows it with zeros.
    fn set_len(&self, len: u64) -> Result<()>;
    /// Reserves disk space up to `len` without changing content, where the system can; so that
    /// later writes below it do not fail for lack of space.
    fn reserve(&self, len: u64) -> Result<()>;
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
    /// The whole file in memory, if it was opened with [`ReadMode::Mmap`] and can be mapped.
    fn mapping(&self) -> Option<&Bytes>;
    /// Tells the system that `range` will be wanted soon. Best effort.
    fn will_need(&self, range: Range<u64>);
}

/// Keeps others out of a directory until it is dropped.
pub trait DirLock: Debug + Send + Sync {}
