//! A file system that fails on demand.

#[cfg(test)]
mod tests;

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

/// A call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultOp {
    /// [`Fs::create`].
    Create,
    /// [`Fs::open`].
    Open,
    /// [`Fs::open_writable`].
    OpenWritable,
    /// [`WritableFile::write_at`], [`WritableFile::overwrite_at`].
    Write,
    /// [`WritableFile::sync_data`].
    SyncData,
    /// [`Fs::sync_dir`].
    SyncDir,
    /// [`Fs::rename`]. Both names are tried against [`FaultRule::path_contains`].
    Rename,
    /// [`Fs::remove`].
    Remove,
    /// [`Fs::list`].
    List,
    /// [`ReadableFile::read_at`]. What is read through a [`mapping`](ReadableFile::mapping) is no
    /// call: open files by [`ReadMode::Pread`] to see these faults.
    Read,
    /// [`WritableFile::set_len`].
    SetLen,
    /// [`WritableFile::reserve`].
    Reserve,
    /// [`Fs::create_dir_all`], as a whole.
    CreateDir,
    /// [`Fs::exists`].
    Exists,
    /// [`Fs::lock`].
    Lock,
    /// [`WritableFile::write_back`].
    WriteBack,
}

impl FaultOp {
    /// All of them.
    pub const ALL: [FaultOp; 16] = [
        FaultOp::Create,
        FaultOp::Open,
        FaultOp::OpenWritable,
        FaultOp::Write,
        FaultOp::SyncData,
        FaultOp::SyncDir,
        FaultOp::Rename,
        FaultOp::Remove,
        FaultOp::List,
        FaultOp::Read,
        FaultOp::SetLen,
        FaultOp::Reserve,
        FaultOp::CreateDir,
        FaultOp::Exists,
        FaultOp::Lock,
        FaultOp::WriteBack,
    ];

    /// As in the message of an error: "cannot …".
    fn verb(self) -> &'static str {
        match self {
            FaultOp::Create => "create",
            FaultOp::Open | FaultOp::OpenWritable => "open",
            FaultOp::Write => "write",
            FaultOp::SyncData => "sync",
            FaultOp::SyncDir => "sync directory",
            FaultOp::Rename => "rename",
            FaultOp::Remove => "remove",
            FaultOp::List => "list",
            FaultOp::Read => "read",
            FaultOp::SetLen => "resize",
            FaultOp::Reserve => "reserve space for",
            FaultOp::CreateDir => "create directory",
            FaultOp::Exists => "look for",
            FaultOp::Lock => "lock",
            FaultOp::WriteBack => "write back",
        }
    }
}

/// With which error a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultError {
    /// An error of this kind.
    Kind(io::ErrorKind),
    /// The system's error of this number.
    Os(i32),
}

impl FaultError {
    /// The disk or the network failed (`EIO`).
    pub const EIO: FaultError = FaultError::Os(5);
    /// Too many files are open (`EMFILE`).
    pub const EMFILE: FaultError = FaultError::Os(24);
    /// The disk is full (`ENOSPC`).
    pub const ENOSPC: FaultError = FaultError::Kind(io::ErrorKind::StorageFull);
}

/// How often a rule applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultTimes {
    /// To the nth call.
    Once,
    /// To the nth call and all after it.
    Forever,
}

/// What a failing call does besides failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultEffect {
    /// Nothing.
    Fail,
    /// A write writes the first half. Other calls: as [`Fail`](FaultEffect::Fail).
    ShortWriteThenFail,
    /// A sync of a file, or a write-back, leaves its unsynced content as Linux does: it still reads,
    /// and is never written to the disk, not even by a later sync that succeeds. On a
    /// [`MemFs`](crate::fs::MemFs); elsewhere, and other calls: as [`Fail`](FaultEffect::Fail).
    SyncFailsAndDropsPages,
    /// All that the call is for: the error is a lie, as when the answer of a server is lost.
    FailAfterDoing,
}

/// Which calls fail, and how.
///
/// ```
/// use esker::fs::{FaultEffect, FaultError, FaultOp, FaultRule};
///
/// // The third sync of a WAL segment, and all after it.
/// FaultRule::new(FaultOp::SyncData, FaultError::EIO)
///     .nth(2)
///     .forever()
///     .path_contains(".wal")
///     .effect(FaultEffect::SyncFailsAndDropsPages);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultRule {
    /// The calls that are meant.
    pub op: FaultOp,
    /// Which of them fails, from 0, counted since the rule was set.
    pub nth: u64,
    /// The error.
    pub error: FaultError,
    /// Does it pass?
    pub times: FaultTimes,
    /// Only calls on paths with this in them are meant, and counted.
    pub path_contains: Option<String>,
    /// What the call does besides.
    pub effect: FaultEffect,
}

impl FaultRule {
    /// The next call of `op` fails with `error`, once, without effect.
    pub fn new(op: FaultOp, error: FaultError) -> FaultRule {
        FaultRule {
            op,
            nth: 0,
            error,
            times: FaultTimes::Once,
            path_contains: None,
            effect: FaultEffect::Fail,
        }
    }

    /// Lets `nth` calls pass first.
    #[must_use]
    pub fn nth(mut self, nth: u64) -> FaultRule {
        self.nth = nth;
        self
    }

    /// Never passes.
    #[must_use]
    pub fn forever(mut self) -> FaultRule {
        self.times = FaultTimes::Forever;
        self
    }

    /// Only for paths with `part` in them.
    #[must_use]
    pub fn path_contains(mut self, part: impl Into<String>) -> FaultRule {
        self.path_contains = Some(part.into());
        self
    }

    /// What the call does besides failing.
    #[must_use]
    pub fn effect(mut self, effect: FaultEffect) -> FaultRule {
        self.effect = effect;
        self
    }

    fn means(&self, op: FaultOp, paths: &[&Path]) -> bool {
        let part = self.path_contains.as_deref().unwrap_or_default();
        self.op == op && paths.iter().any(|path| path.to_string_lossy().contains(part))
    }
}

/// A file system that passes every call on to another, and fails those it was told to. Clones are
/// handles to the same one.
#[derive(Clone)]
pub struct FaultFs {
    inner: Arc<dyn Fs>,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Faults {
    rules: Mutex<Vec<Active>>,
    calls: [AtomicU64; FaultOp::ALL.len()],
    injected: AtomicU64,
}

/// A rule and how many calls that it means there were.
struct Active {
    rule: FaultRule,
    met: u64,
}

impl fmt::Debug for FaultFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultFs")
            .field("inner", &self.inner)
            .field("injected", &self.injected())
            .finish_non_exhaustive()
    }
}

impl FaultFs {
    /// Passes all calls on to `inner`.
    pub fn new(inner: Arc<dyn Fs>) -> FaultFs {
        FaultFs { inner, faults: Arc::default() }
    }

    /// Adds a rule. If several apply to a call, the oldest decides.
    pub fn inject(&self, rule: FaultRule) {
        self.faults.rules.lock().push(Active { rule, met: 0 });
    }

    /// Forgets all rules.
    pub fn clear(&self) {
        self.faults.rules.lock().clear();
    }

    /// How many calls of `op` there were, failed ones included.
    pub fn calls(&self, op: FaultOp) -> u64 {
        self.faults.calls[op as usize].load(Ordering::Relaxed)
    }

    /// How many calls were made to fail. A test that fails the nth call, for every n, ends when
    /// this stays 0.
    pub fn injected(&self) -> u64 {
        self.faults.injected.load(Ordering::Relaxed)
    }

    fn writable(
        &self,
        path: &Path,
        opened: Result<Box<dyn WritableFile>>,
    ) -> Result<Box<dyn WritableFile>> {
        Ok(Box::new(FaultWritable {
            inner: opened?,
            path: path.to_owned(),
            faults: Arc::clone(&self.faults),
        }))
    }
}

impl Faults {
    /// Counts a call, and says how it shall fail.
    fn meet(&self, op: FaultOp, paths: &[&Path]) -> Option<(FaultEffect, Error)> {
        self.calls[op as usize].fetch_add(1, Ordering::Relaxed);
        let mut fault = None;
        for active in self.rules.lock().iter_mut() {
            if !active.rule.means(op, paths) {
                continue;
            }
            let applies = match active.rule.times {
                FaultTimes::Once => active.met == active.rule.nth,
                FaultTimes::Forever => active.met >= active.rule.nth,
            };
            active.met += 1;
            if applies && fault.is_none() {
                fault = Some((active.rule.effect, active.rule.error));
            }
        }
        let (effect, error) = fault?;
        self.injected.fetch_add(1, Ordering::Relaxed);
        let error = match error {
            FaultError::Kind(kind) => kind.into(),
            FaultError::Os(number) => io::Error::from_raw_os_error(number),
        };
        let path = paths.first().copied().unwrap_or(Path::new(""));
        Some((effect, Error::io(op.verb(), path, error)))
    }

    fn run<T>(&self, op: FaultOp, paths: &[&Path], call: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.meet(op, paths) {
            None => call(),
            Some((FaultEffect::FailAfterDoing, error)) => {
                call()?;
                Err(error)
            }
            Some((_, error)) => Err(error),
        }
    }
}

impl Fs for FaultFs {
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        let create = || self.inner.create_dir_all(path);
        self.faults.run(FaultOp::CreateDir, &[path], create)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        let create = || self.inner.create(path);
        self.writable(path, self.faults.run(FaultOp::Create, &[path], create))
    }

    fn open_writable(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        let open = || self.inner.open_writable(path);
        self.writable(path, self.faults.run(FaultOp::OpenWritable, &[path], open))
    }

    fn open(&self, path: &Path, mode: ReadMode) -> Result<Arc<dyn ReadableFile>> {
        let open = || self.inner.open(path, mode);
        Ok(Arc::new(FaultReadable {
            inner: self.faults.run(FaultOp::Open, &[path], open)?,
            path: path.to_owned(),
            faults: Arc::clone(&self.faults),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let rename = || self.inner.rename(from, to);
        self.faults.run(FaultOp::Rename, &[from, to], rename)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let remove = || self.inner.remove(path);
        self.faults.run(FaultOp::Remove, &[path], remove)
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>> {
        let list = || self.inner.list(path);
        self.faults.run(FaultOp::List, &[path], list)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        let exists = || self.inner.exists(path);
        self.faults.run(FaultOp::Exists, &[path], exists)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        let sync = || self.inner.sync_dir(path);
        self.faults.run(FaultOp::SyncDir, &[path], sync)
    }

    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        let lock = || self.inner.lock(path, mode);
        self.faults.run(FaultOp::Lock, &[path], lock)
    }

    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        self.inner.canonical(path)
    }
}

struct FaultWritable {
    inner: Box<dyn WritableFile>,
    path: PathBuf,
    faults: Arc<Faults>,
}

impl fmt::Debug for FaultWritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl FaultWritable {
    /// Passes `bytes` on to `write`, or as much of them as a fault lets through.
    fn write(&self, bytes: &[u8], write: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        let Some((effect, error)) = self.faults.meet(FaultOp::Write, &[&self.path]) else {
            return write(bytes);
        };
        let len = match effect {
            FaultEffect::FailAfterDoing => bytes.len(),
            FaultEffect::ShortWriteThenFail => bytes.len() / 2,
            FaultEffect::Fail | FaultEffect::SyncFailsAndDropsPages => 0,
        };
        if len > 0 {
            write(&bytes[..len])?;
        }
        Err(error)
    }

    /// Does what brings bytes to the disk, unless a fault comes between.
    fn to_disk(&self, op: FaultOp, bring: impl FnOnce() -> Result<()>) -> Result<()> {
        let Some((effect, error)) = self.faults.meet(op, &[&self.path]) else {
            return bring();
        };
        match effect {
            FaultEffect::FailAfterDoing => bring()?,
            FaultEffect::SyncFailsAndDropsPages => self.inner.drop_unsynced(),
            FaultEffect::Fail | FaultEffect::ShortWriteThenFail => {}
        }
        Err(error)
    }
}

impl WritableFile for FaultWritable {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write(bytes, |bytes| self.inner.write_at(offset, bytes))
    }

    fn prepare_overwrites(&self, len: u64) {
        self.inner.prepare_overwrites(len);
    }

    fn finish_overwrites(&self) {
        self.inner.finish_overwrites();
    }

    fn overwrite_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write(bytes, |bytes| self.inner.overwrite_at(offset, bytes))
    }

    fn write_back(&self, range: Range<u64>) -> Result<()> {
        self.to_disk(FaultOp::WriteBack, || self.inner.write_back(range))
    }

    fn sync_data(&self) -> Result<()> {
        self.to_disk(FaultOp::SyncData, || self.inner.sync_data())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let set = || self.inner.set_len(len);
        self.faults.run(FaultOp::SetLen, &[&self.path], set)
    }

    fn reserve(&self, range: Range<u64>) -> Result<bool> {
        let reserve = || self.inner.reserve(range);
        self.faults.run(FaultOp::Reserve, &[&self.path], reserve)
    }

    fn drop_unsynced(&self) {
        self.inner.drop_unsynced();
    }
}

struct FaultReadable {
    inner: Arc<dyn ReadableFile>,
    path: PathBuf,
    faults: Arc<Faults>,
}

impl fmt::Debug for FaultReadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl ReadableFile for FaultReadable {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let read = || self.inner.read_at(offset, out);
        self.faults.run(FaultOp::Read, &[&self.path], read)
    }

    fn read_at_once(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        let read = || self.inner.read_at_once(offset, out);
        self.faults.run(FaultOp::Read, &[&self.path], read)
    }

    fn mapping(&self) -> Option<&Bytes> {
        self.inner.mapping()
    }

    fn random(&self, range: Range<u64>) {
        self.inner.random(range);
    }

    fn will_need(&self, range: Range<u64>) {
        self.inner.will_need(range);
    }
}
