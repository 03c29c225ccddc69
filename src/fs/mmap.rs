//! Memory-mapped files: whole ones to read, and the log's segments to write over.
//!
//! *Why reading is sound.* A mapping is undefined behaviour once its bytes change or vanish under a
//! reference to them. An SST is written once, synced, and only then opened for reading; nothing in
//! this crate writes to, cuts or overwrites it afterwards, only its name is removed, and a removed
//! file lives on while it is mapped. Other instances of this crate are kept out by the lock on the
//! directory. What remains is another program that writes into the files of a live database. No
//! program that maps files can defend against that: a file that is cut short raises `SIGBUS` here.
//! Whoever cannot rule it out (a network file system, a shared volume) reads by
//! [`ReadMode::Pread`](crate::fs::ReadMode::Pread), where the same accident is an error.
//!
//! *Why writing is sound.* Nobody ever looks at the bytes of a [`MappingMut`]: it copies into them,
//! one thread at a time. The log is read by system calls.
//!
//! *What a store into a mapping promises.* On Linux the page that is mapped is the page that `read`,
//! `write` and `fdatasync` know: what was stored has reached the system, survives the death of the
//! process, is read by everybody, and is written by a sync of the file. What differs from a `write`:
//! - There is no return value. A page that must be read back from a failing disk first, or a block
//!   that would have to be allocated on a full one, is SIGBUS. So only what is allocated already is
//!   mapped, be it written or reserved: ext4 notes that a reserved block holds data when the page
//!   is written back, and keeps space for what that note takes. And only on file systems that keep a block where it is, which are ext2 to ext4 and
//!   tmpfs. On those that copy on write (btrfs, zfs, xfs and bcachefs where somebody has made a
//!   reflink, say by `cp` of a live database, overlays), and on all others, a write remains a
//!   system call. Pages are brought into memory when they are mapped, so that the first case takes
//!   a memory so scarce that they are evicted and a disk that fails. `Options::mmap(false)` excludes
//!   it.
//! - The unit is the page as the page cache has it, which since Linux 6.16 may be many blocks long on
//!   ext4: it is as long as the write that brought it into the cache. A store makes all of it dirty,
//!   and a sync writes all of it; where a `write` of 128 bytes makes one block dirty. So what is
//!   synced at once is better written by a system call.
//! - A sync takes the right to store away from each dirty page that is mapped, one by one, and for
//!   each interrupts the processors that run this process. So what will not be stored to any more is
//!   unmapped before its sync.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;
use memmap2::MmapMut;
use memmap2::MmapOptions;

use crate::base::sync::Mutex;

/// Bytes of a mapping that are brought into memory by one call.
#[cfg(target_os = "linux")]
const PIECE_LEN: usize = 256 << 10;

/// A whole file in memory. The bytes outlive it for as long as anyone holds a part of them.
#[derive(Debug)]
pub(super) struct Mapping {
    map: Arc<Mmap>,
    bytes: Bytes,
}

/// Unmaps when the last slice of the bytes is dropped.
struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Mapping {
    /// Maps the first `len` bytes of `file`: all of it. `None` if the system cannot (an empty file,
    /// no address space left, a file system without mappings): the file can still be read by calls.
    pub(super) fn new(file: &File, len: u64) -> Option<Mapping> {
        let len = usize::try_from(len).ok().filter(|&len| len > 0)?;
        #[expect(unsafe_code, reason = "no safe interface to memory mappings exists")]
        // SAFETY: the file does not change while it is mapped; see the head of this module.
        let map = unsafe { MmapOptions::new().len(len).map(file) }.ok()?;
        let map = Arc::new(map);
        let bytes = Bytes::from_owner(Owner(Arc::clone(&map)));
        Some(Mapping { map, bytes })
    }

    /// The file's content.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Asks the system to load `range`.
    pub(super) fn will_need(&self, range: Range<u64>) {
        #[cfg(unix)]
        self.advise(range, memmap2::Advice::WillNeed);
    }

    /// Tells the system that nothing around a page of `range` is wanted with it.
    pub(super) fn random(&self, range: Range<u64>) {
        #[cfg(unix)]
        self.advise(range, memmap2::Advice::Random);
    }

    /// A part of `range` beyond the end is ignored.
    #[cfg(unix)]
    fn advise(&self, range: Range<u64>, advice: memmap2::Advice) {
        let end = range.end.min(self.map.len() as u64);
        if range.start < end {
            let (start, len) = (range.start as usize, (end - range.start) as usize);
            // Only a hint: if it is refused, reads are as right as before.
            let _ = self.map.advise_range(advice, start, len);
        }
    }
}

/// The front of a file in memory, to be written over; `None` once that is over.
#[derive(Debug)]
pub(super) struct MappingMut(Mutex<Option<MmapMut>>);

impl MappingMut {
    /// Maps the first `len` bytes of `file`, which has them, and brings them into memory: so that
    /// the first store into each page finds it there. `None` if the system cannot.
    pub(super) fn new(file: &File, len: u64) -> Option<MappingMut> {
        let len = usize::try_from(len).ok().filter(|&len| len > 0)?;
        let mut map = MappingMut::map(file, MmapOptions::new().len(len))?;
        if !bring_in(&map) {
            map = MappingMut::map(file, MmapOptions::new().len(len).populate())?;
        }
        Some(MappingMut(Mutex::new(Some(map))))
    }

    #[expect(unsafe_code, reason = "no safe interface to memory mappings exists")]
    fn map(file: &File, options: &MmapOptions) -> Option<MmapMut> {
        // SAFETY: no reference to the bytes outlives a copy into them, and each copy has them alone;
        // see the head of this module.
        unsafe { options.map_mut(file) }.ok()
    }

    /// Gives the memory back. What was stored has reached the system.
    pub(super) fn unmap(&self) {
        let map = self.0.lock().take();
        // Without the lock.
        drop(map);
    }

    /// Writes all of `bytes` at `offset`, or nothing, and returns false, if they do not fit.
    pub(super) fn write_at(&self, offset: u64, bytes: &[u8]) -> bool {
        let mut map = self.0.lock();
        let place = usize::try_from(offset)
            .ok()
            .and_then(|start| map.as_mut()?.get_mut(start..)?.get_mut(..bytes.len()));
        match place {
            Some(place) => place.copy_from_slice(bytes),
            None => return false,
        }
        true
    }
}

/// Brings the pages of `map` into memory piece by piece: where the system does not preempt itself,
/// whoever shares a processor with this thread waits as long as a call takes, and one for all of it
/// takes up to 20 ms for 8 MiB. False if the system cannot (Linux before 5.14).
#[cfg(target_os = "linux")]
fn bring_in(map: &MmapMut) -> bool {
    (0..map.len()).step_by(PIECE_LEN).all(|start| {
        let len = PIECE_LEN.min(map.len() - start);
        map.advise_range(memmap2::Advice::PopulateRead, start, len).is_ok()
    })
}

#[cfg(not(target_os = "linux"))]
fn bring_in(_: &MmapMut) -> bool {
    false
}
