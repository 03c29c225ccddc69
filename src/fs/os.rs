//! The operating system's files.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::TryLockError;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;

use bytes::Bytes;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::sorted::SortedMap;
use crate::base::sorted::sort_by;
use crate::base::sync::Mutex;
use crate::fs::DirEntry;
use crate::fs::DirLock;
use crate::fs::Fs;
use crate::fs::LockMode;
use crate::fs::ReadMode;
use crate::fs::ReadableFile;
use crate::fs::WritableFile;
use crate::fs::create_dirs;
use crate::fs::mmap::Mapping;
use crate::fs::mmap::MappingMut;
use crate::fs::parent_of;

/// The file system of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsFs;

impl Fs for OsFs {
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        let create = |dir: &Path| match fs::create_dir(dir) {
            // Another process was faster, or the path is of the sort `new/../new`.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            created => created.map_err(|error| Error::io("create directory", dir, error)),
        };
        create_dirs(path, is_dir, create, |dir| self.sync_dir(dir))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
        OsWritable::boxed("create", path, file)
    }

    fn open_writable(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        OsWritable::boxed("open", path, file)
    }

    fn open(&self, path: &Path, mode: ReadMode) -> Result<Arc<dyn ReadableFile>> {
        let open = || -> io::Result<OsReadable> {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            let len = metadata.len();
            let mapping = match mode {
                ReadMode::Mmap => Mapping::new(&file, len),
                ReadMode::Pread | ReadMode::Sequential | ReadMode::Live => None,
            };
            system::advise_mode(&file, mode);
            Ok(OsReadable { file, path: path.to_owned(), len, mapping })
        };
        match open() {
            Ok(file) => Ok(Arc::new(file)),
            Err(error) => Err(Error::io("open", path, error)),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(|error| Error::io("rename", from, error))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).map_err(|error| Error::io("remove", path, error))
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>> {
        let list = || -> io::Result<Vec<DirEntry>> {
            let mut entries = Vec::new();
            for entry in fs::read_dir(path)? {
                entries.extend(describe(&entry?)?);
            }
            Ok(entries)
        };
        let mut entries = list().map_err(|error| Error::io("list", path, error))?;
        sort_by(&mut entries, |a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        fs::exists(path).map_err(|error| Error::io("look for", path, error))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        system::sync_dir(path).map_err(|error| Error::io("sync directory", path, error))
    }

    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        let directory = parent_of(path);
        let reservation = Reservation::new(self.canonical(directory)?, directory, mode)?;
        let file = match mode {
            LockMode::Exclusive => {
                OpenOptions::new().write(true).create(true).truncate(false).open(path)
            }
            LockMode::Shared => File::open(path),
        };
        let file = match file {
            Err(error) if error.kind() == io::ErrorKind::NotFound && mode == LockMode::Shared => {
                return Ok(Box::new(OsLock { file: None, reservation }));
            }
            file => file.map_err(|error| Error::io("open", path, error))?,
        };
        let locked = match mode {
            LockMode::Exclusive => file.try_lock(),
            LockMode::Shared => file.try_lock_shared(),
        };
        match locked {
            Ok(()) => Ok(Box::new(OsLock { file: Some(file), reservation })),
            Err(TryLockError::WouldBlock) => Err(Error::Locked { path: directory.to_owned() }),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", path, error)),
        }
    }

    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        fs::canonicalize(path).map_err(|error| Error::io("resolve", path, error))
    }
}

/// Is `path` a directory, or nothing yet?
fn is_dir(path: &Path) -> Result<bool> {
    let error = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(true),
        Ok(_) => io::ErrorKind::NotADirectory.into(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => error,
    };
    Err(Error::io("create directory", path, error))
}

/// What a listing says of `entry`: nothing if its name is no UTF-8, or if it was removed meanwhile.
fn describe(entry: &fs::DirEntry) -> io::Result<Option<DirEntry>> {
    let Ok(name) = entry.file_name().into_string() else {
        return Ok(None);
    };
    // Of a link, what it points to; a link to nothing is listed as itself.
    match fs::metadata(entry.path()).or_else(|_| entry.metadata()) {
        Ok(metadata) => Ok(Some(DirEntry::new(name, metadata.is_dir(), metadata.len()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Calls `write` until all of `bytes` is written: a call may be interrupted, or write only a part.
fn write_all(
    mut bytes: &[u8],
    mut offset: u64,
    mut write: impl FnMut(&[u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Calls `read` until all of `out` is filled: a call may be interrupted, or read only a part.
fn read_all(
    mut out: &mut [u8],
    mut offset: u64,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    while !out.is_empty() {
        match read(out, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                out = out.get_mut(read..).unwrap_or_default();
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[derive(Debug)]
struct OsWritable {
    file: File,
    path: PathBuf,
    /// The part that is written over, if that is done through memory.
    mapping: OnceLock<MappingMut>,
}

impl OsWritable {
    fn boxed(
        op: &'static str,
        path: &Path,
        file: io::Result<File>,
    ) -> Result<Box<dyn WritableFile>> {
        let file = file.map_err(|error| Error::io(op, path, error))?;
        let path = path.to_owned();
        Ok(Box::new(OsWritable { file, path, mapping: OnceLock::new() }))
    }
}

impl WritableFile for OsWritable {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let write = |bytes: &[u8], offset| system::write_at(&self.file, bytes, offset);
        write_all(bytes, offset, write).map_err(|error| Error::io("write", &self.path, error))
    }

    fn prepare_overwrites(&self, len: u64) {
        // Beyond its end a file can be mapped, but not written.
        let is_there = self.file.metadata().is_ok_and(|metadata| metadata.len() >= len);
        if is_there
            && system::has_stable_blocks(&self.file)
            && let Some(mapping) = MappingMut::new(&self.file, len)
        {
            // If there is one already, it does as well.
            let _ = self.mapping.set(mapping);
        }
    }

    fn overwrite_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        match self.mapping.get() {
            Some(mapping) if mapping.write_at(offset, bytes) => Ok(()),
            _ => self.write_at(offset, bytes),
        }
    }

    fn finish_overwrites(&self) {
        if let Some(mapping) = self.mapping.get() {
            mapping.unmap();
        }
    }

    fn write_back(&self, range: Range<u64>) -> Result<()> {
        system::write_back(&self.file, range)
            .map_err(|error| Error::io("write back", &self.path, error))
    }

    fn sync_data(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| Error::io("sync", &self.path, error))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        if self.mapping.get().is_some() {
            // A write behind the new end would be SIGBUS.
            return Err(Error::io("resize", &self.path, io::ErrorKind::InvalidInput.into()));
        }
        self.file.set_len(len).map_err(|error| Error::io("resize", &self.path, error))
    }

    fn reserve(&self, range: Range<u64>) -> Result<bool> {
        system::reserve(&self.file, range)
            .map_err(|error| Error::io("reserve space for", &self.path, error))
    }
}

#[derive(Debug)]
struct OsReadable {
    file: File,
    path: PathBuf,
    len: u64,
    mapping: Option<Mapping>,
}

impl ReadableFile for OsReadable {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        // Beyond the largest offset there is, the system says "invalid" rather than "the end".
        let read = match offset.checked_add(out.len() as u64) {
            Some(end) if end <= self.len => {
                read_all(out, offset, |out, offset| system::read_at(&self.file, out, offset))
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        };
        read.map_err(|error| Error::io("read", &self.path, error))
    }

    fn read_at_once(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        // Whatever else is wrong, a read that waits will tell.
        Ok(system::read_at_once(&self.file, out, offset).is_ok_and(|len| len == out.len()))
    }

    fn mapping(&self) -> Option<&Bytes> {
        self.mapping.as_ref().map(Mapping::bytes)
    }

    fn random(&self, range: Range<u64>) {
        if let Some(mapping) = &self.mapping {
            mapping.random(range);
        }
    }

    fn will_need(&self, range: Range<u64>) {
        match &self.mapping {
            Some(mapping) => mapping.will_need(range),
            None => system::will_need(&self.file, range),
        }
    }
}

/// True names of the directories that this process has locked, each with the number of readers, or
/// 0 for a writer. The system's lock on a file would suffice on most systems; but not on those that
/// grant a process every lock it already has.
static LOCKED: Mutex<SortedMap<PathBuf, usize>> = Mutex::new(SortedMap::new());

/// A share of an entry in [`LOCKED`].
#[derive(Debug)]
struct Reservation(PathBuf);

impl Reservation {
    fn new(canonical: PathBuf, path: &Path, mode: LockMode) -> Result<Reservation> {
        let mut locked = LOCKED.lock();
        let readers = match (mode, locked.get(&canonical)) {
            (LockMode::Exclusive, None) => 0,
            (LockMode::Shared, None) => 1,
            (LockMode::Shared, Some(readers)) if *readers > 0 => readers + 1,
            _ => return Err(Error::Locked { path: path.to_owned() }),
        };
        locked.insert(canonical.clone(), readers);
        Ok(Reservation(canonical))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut locked = LOCKED.lock();
        match locked.get_mut(&self.0) {
            Some(readers) if *readers > 1 => *readers -= 1,
            _ => {
                locked.remove(&self.0);
            }
        }
    }
}

/// Fields drop in this order: the file is unlocked before this process may lock it again.
#[derive(Debug)]
struct OsLock {
    /// `None` for a reader of a directory without the file.
    file: Option<File>,
    #[expect(dead_code, reason = "held for its drop")]
    reservation: Reservation,
}

impl DirLock for OsLock {}

impl Drop for OsLock {
    fn drop(&mut self) {
        // Closing would do, unless a child process has inherited the file. If this fails, closing
        // is all that is left.
        let _ = self.file.as_ref().map(File::unlock);
    }
}

#[cfg(unix)]
mod system {
    //! What differs between systems: Unix.

    use std::fs::File;
    use std::io;
    #[cfg(not(target_os = "linux"))]
    use std::ops::Range;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    #[cfg(not(target_os = "linux"))]
    use crate::fs::ReadMode;
    #[cfg(target_os = "linux")]
    pub(super) use crate::fs::linux::advise_mode;
    #[cfg(target_os = "linux")]
    pub(super) use crate::fs::linux::has_stable_blocks;
    #[cfg(target_os = "linux")]
    pub(super) use crate::fs::linux::read_at_once;
    #[cfg(target_os = "linux")]
    pub(super) use crate::fs::linux::reserve;
    #[cfg(target_os = "linux")]
    pub(super) use crate::fs::linux::will_need;
    #[cfg(target_os = "linux")]
    pub(super) use crate::fs::linux::write_back;

    pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        file.write_at(bytes, offset)
    }

    pub(super) fn read_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
        file.read_at(out, offset)
    }

    pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
        match File::open(path)?.sync_all() {
            // "Does not support synchronization": some network file systems, on directories.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            synced => synced,
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn read_at_once(_: &File, _: &mut [u8], _: u64) -> io::Result<usize> {
        Ok(0)
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn reserve(_: &File, _: Range<u64>) -> io::Result<bool> {
        Ok(false)
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn has_stable_blocks(_: &File) -> bool {
        false
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn advise_mode(_: &File, _: ReadMode) {}

    #[cfg(not(target_os = "linux"))]
    pub(super) fn will_need(_: &File, _: Range<u64>) {}

    #[cfg(not(target_os = "linux"))]
    pub(super) fn write_back(_: &File, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(windows)]
mod system {
    //! What differs between systems: Windows.

    use std::fs::File;
    use std::io;
    use std::ops::Range;
    use std::os::windows::fs::FileExt;
    use std::path::Path;

    use crate::fs::ReadMode;

    pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        file.seek_write(bytes, offset)
    }

    pub(super) fn read_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
        file.seek_read(out, offset)
    }

    pub(super) fn read_at_once(_: &File, _: &mut [u8], _: u64) -> io::Result<usize> {
        Ok(0)
    }

    /// Directories cannot be synced; NTFS journals their changes in order.
    pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
        path.metadata().map(drop)
    }

    pub(super) fn reserve(_: &File, _: Range<u64>) -> io::Result<bool> {
        Ok(false)
    }

    pub(super) fn has_stable_blocks(_: &File) -> bool {
        false
    }

    pub(super) fn advise_mode(_: &File, _: ReadMode) {}

    pub(super) fn will_need(_: &File, _: Range<u64>) {}

    pub(super) fn write_back(_: &File, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a call answers, by its number.
    fn answer(call: usize, len: usize) -> io::Result<usize> {
        match call % 3 {
            0 => Err(io::ErrorKind::Interrupted.into()),
            1 => Ok(len.min(1)),
            _ => Ok(len.min(7)),
        }
    }

    #[test]
    fn short_and_interrupted_calls_are_completed() {
        let bytes: Vec<u8> = (0..100).collect();
        for len in 0..100 {
            let (mut calls, mut disk) = (0, vec![0; 5]);
            let written = write_all(&bytes[..len], 5, |bytes, offset| {
                assert_eq!(offset, disk.len() as u64);
                calls += 1;
                let written = answer(calls, bytes.len())?;
                disk.extend_from_slice(&bytes[..written]);
                Ok(written)
            });
            written.unwrap();
            assert_eq!(disk[5..], bytes[..len]);
            let mut out = vec![0; len];
            let read = read_all(&mut out, 5, |out, offset| {
                calls += 1;
                let read = answer(calls, out.len())?;
                out[..read].copy_from_slice(&disk[offset as usize..][..read]);
                Ok(read)
            });
            read.unwrap();
            assert_eq!(out, bytes[..len]);
        }
    }

    #[test]
    fn a_call_that_does_nothing_or_fails_is_an_error_and_not_the_end() {
        let mut calls = 0;
        let written = write_all(&[1; 9], 0, |_, _| {
            calls += 1;
            Ok(if calls < 3 { 4 } else { 0 })
        });
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::WriteZero);
        let read = read_all(&mut [0; 9], 0, |_, offset| Ok(if offset < 8 { 4 } else { 0 }));
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let full = |_: &[u8], offset| {
            if offset < 8 { Ok(4) } else { Err(io::ErrorKind::StorageFull.into()) }
        };
        assert_eq!(write_all(&[1; 9], 0, full).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
