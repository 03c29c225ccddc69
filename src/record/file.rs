//! Reads a log file into memory.

use std::io;
use std::path::Path;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::fs::Fs;
use crate::fs::ReadMode;

/// Bytes per read.
const CHUNK_LEN: usize = 1 << 20;

/// The content of a log file.
#[derive(Debug)]
pub(crate) struct FileBytes {
    pub(crate) bytes: Vec<u8>,
    /// From here on all is zero.
    pub(crate) zero_from: usize,
}

/// Reads `path` from its start up to `limit` or its end, whichever comes first.
///
/// A preallocated log is mostly zeros: those are read but neither copied nor touched again, so they
/// cost no memory.
pub(crate) fn read(fs: &dyn Fs, path: &Path, limit: u64) -> Result<FileBytes> {
    let file = fs.open(path, ReadMode::Sequential)?;
    let len = usize::try_from(file.len().min(limit)).map_err(|_| {
        Error::corruption(path, 0, "the file is larger than the memory can ever be")
    })?;
    // Whether there is so much memory is asked first: below, the answer "no" would end the process.
    let room = Vec::<u8>::new().try_reserve_exact(len);
    room.map_err(|_| Error::io("read", path, io::ErrorKind::OutOfMemory.into()))?;
    let mut bytes = vec![0; len];
    let mut chunk = vec![0; CHUNK_LEN.min(len)];
    let mut zero_from = 0;
    for (at, place) in bytes.chunks_mut(CHUNK_LEN).enumerate() {
        let start = at * CHUNK_LEN;
        let (read, _) = chunk.split_at_mut(place.len());
        file.read_at(start as u64, read)?;
        if !is_zero(read) {
            place.copy_from_slice(read);
            zero_from = start + place.len();
        }
    }
    Ok(FileBytes { bytes, zero_from })
}

/// In blocks without an early exit, so that the compiler can use wide instructions.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}
