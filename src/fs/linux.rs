//! What Linux can do with a file and the standard library cannot ask for: room that is reserved,
//! the kind of its file system, reads that do not wait, and hints about how it will be read and
//! when it is to be written.
//!
//! Six calls by `libc`, which dependencies have built anyway: a crate with safe ones took a tenth of
//! the time that a program's build waits for dependencies.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::AsRawFd;

use crate::fs::ReadMode;

/// Reserves room for this part without changing the file's length; false if the file system cannot.
pub(super) fn reserve(file: &File, range: Range<u64>) -> io::Result<bool> {
    if range.is_empty() {
        return Ok(true);
    }
    let signed = |n| i64::try_from(n).map_err(|_| io::ErrorKind::FileTooLarge);
    let (offset, len) = (signed(range.start)?, signed(range.end - range.start)?);
    loop {
        #[expect(unsafe_code, reason = "no safe interface exists in the standard library")]
        // SAFETY: it takes numbers only, and the descriptor is that of an open file.
        let failed =
            unsafe { libc::fallocate64(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, offset, len) };
        if failed == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Ok(false),
            _ => return Err(error),
        }
    }
}

/// Is the file on a file system that writes a block back to where it was read from, so that a
/// store into a mapped page needs no space? See `fs/mmap.rs`.
pub(super) fn has_stable_blocks(file: &File) -> bool {
    const EXT: u64 = 0xef53;
    const TMPFS: u64 = 0x0102_1994;

    let mut stat = MaybeUninit::<libc::statfs64>::zeroed();
    #[expect(unsafe_code, reason = "no safe interface exists in the standard library")]
    // SAFETY: the descriptor is that of an open file, and there is room for what is written.
    let failed = unsafe { libc::fstatfs64(file.as_raw_fd(), stat.as_mut_ptr()) };
    #[expect(unsafe_code, reason = "no safe interface exists in the standard library")]
    // SAFETY: it consists of integers, which are zero or what the call has written.
    let stat = unsafe { stat.assume_init() };
    failed == 0 && matches!(stat.f_type as u64, EXT | TMPFS)
}

/// Reads what the page cache has, as long as it has it: some file systems cannot, and it is an error.
pub(super) fn read_at_once(file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
    let offset = offset.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    let part = libc::iovec { iov_base: out.as_mut_ptr().cast(), iov_len: out.len() };
    #[expect(unsafe_code, reason = "no safe interface exists in the standard library")]
    // SAFETY: the descriptor is that of an open file, and the one part is memory that is borrowed.
    let read =
        unsafe { libc::preadv2(file.as_raw_fd(), &raw const part, 1, offset, libc::RWF_NOWAIT) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Hints only: whatever the system answers, reads are right.
pub(super) fn advise_mode(file: &File, mode: ReadMode) {
    match mode {
        ReadMode::Mmap | ReadMode::Pread => advise(file, 0..0, libc::POSIX_FADV_RANDOM),
        ReadMode::Sequential => {
            advise(file, 0..0, libc::POSIX_FADV_SEQUENTIAL);
            // Since Linux 6.3: reads through this handle do not count as use of a page.
            advise(file, 0..0, libc::POSIX_FADV_NOREUSE);
        }
        ReadMode::Live => advise(file, 0..0, libc::POSIX_FADV_SEQUENTIAL),
    }
}

/// A hint only, as above.
pub(super) fn will_need(file: &File, range: Range<u64>) {
    if range.start < range.end {
        advise(file, range, libc::POSIX_FADV_WILLNEED);
    }
}

/// Begins to write a range to the disk, where the file system can. Its errors count: what could not
/// be placed on the disk may be dropped, and a sync that follows would find nothing to do.
pub(super) fn write_back(file: &File, range: Range<u64>) -> io::Result<()> {
    let Some((start, len)) = start_and_len(&range) else { return Ok(()) };
    if len == 0 {
        // To the system that is all of the rest.
        return Ok(());
    }
    let begin = libc::SYNC_FILE_RANGE_WRITE;
    #[expect(unsafe_code, reason = "no safe interface exists in the standard library")]
    // SAFETY: it takes numbers only, and the descriptor is that of an open file.
    let failed = unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, begin) };
    if failed == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINTR | libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | libc::ESPIPE) => Ok(()),
        _ => Err(error),
    }
}

/// An empty range is the whole file.
fn advise(file: &File, range: Range<u64>, advice: i32) {
    let Some((start, len)) = start_and_len(&range) else { return };
    #[expect(unsafe_code, reason = "no safe interface exists in the standard library")]
    // SAFETY: it takes numbers only, and the descriptor is that of an open file.
    let _ = unsafe { libc::posix_fadvise64(file.as_raw_fd(), start, len, advice) };
}

/// As the system takes them; none if it cannot.
fn start_and_len(range: &Range<u64>) -> Option<(i64, i64)> {
    let len = range.end.saturating_sub(range.start);
    Some((i64::try_from(range.start).ok()?, i64::try_from(len).ok()?))
}
