//! Memory-mapped files, read-only.
//!
//! *Why this is sound.* A mapping is undefined behaviour once its bytes change or vanish under a
//! reference to them. An SST is written once, synced, and only then opened for reading; nothing in
//! this crate writes to, cuts or overwrites it afterwards, only its name is removed, and a removed
//! file lives on while it is mapped. Other instances of this crate are kept out by the lock on the
//! directory. What remains is another program that writes into the files of a live database. No
//! program that maps files can defend against that: a file that is cut short raises `SIGBUS` here.
//! Whoever cannot rule it out (a network file system, a shared volume) reads by
//! [`ReadMode::Pread`](crate::fs::ReadMode::Pread), where the same accident is an error.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;
use memmap2::MmapOptions;

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
        #[cfg(unix)]
        // Point reads gain nothing from pages around the one they touch. Only a hint: if it is
        // refused, reads are as right as before.
        let _ = map.advise(memmap2::Advice::Random);
        let map = Arc::new(map);
        let bytes = Bytes::from_owner(Owner(Arc::clone(&map)));
        Some(Mapping { map, bytes })
    }

    /// The file's content.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Asks the system to load `range`. A part of it beyond the end is ignored.
    pub(super) fn will_need(&self, range: Range<u64>) {
        let end = range.end.min(self.map.len() as u64);
        if range.start < end {
            #[cfg(unix)]
            // Only a hint, as above.
            let _ = self.map.advise_range(
                memmap2::Advice::WillNeed,
                range.start as usize,
                (end - range.start) as usize,
            );
        }
    }
}
