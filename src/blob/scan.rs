//! Reads a blob file from front to back, to check or print it.
#![deny(clippy::indexing_slicing)]

use crate::base::coding::Malformed;
use crate::base::error::Result;
use crate::blob::BlobReader;
use crate::blob::HEADER_LEN;
use crate::blob::reader::damaged;
use crate::blob::record;
use crate::blob::record::HEAD_LEN;
use crate::fs::ReadableFile;

/// Bytes that are read at once, at least.
const CHUNK_LEN: usize = 1 << 20;

/// Shows `found` each record of the file: its offset, its length, its key, and its value as stored.
/// Returns how many there are. `file` is the reader's, opened for reading from front to back.
///
/// # Errors
/// `Corruption` at the first record that does not verify: what follows it cannot be found. `Io`;
/// whatever `found` returns.
pub(crate) fn scan(
    reader: &BlobReader,
    file: &dyn ReadableFile,
    mut found: impl FnMut(u64, u64, &[u8], &[u8]) -> Result<()>,
) -> Result<u64> {
    let end = file.len();
    let mut chunk = Chunk { file, bytes: Vec::new(), at: HEADER_LEN };
    let (mut offset, mut count) = (HEADER_LEN, 0);
    while offset < end {
        let bad = |malformed| damaged(reader.path(), offset, malformed);
        let too_short = || bad(Malformed("a record ends behind the file"));
        let head = chunk.get(offset, HEAD_LEN as u64)?.and_then(<[u8]>::first_chunk);
        let len = record::claimed_len(head.ok_or_else(too_short)?).map_err(bad)?;
        let bytes = chunk.get(offset, len)?.ok_or_else(too_short)?;
        let record = record::check(bytes, reader.uid(), offset).map_err(bad)?;
        found(offset, len, record.key, record.stored)?;
        offset += len;
        count += 1;
    }
    Ok(count)
}

/// What was read last.
struct Chunk<'a> {
    file: &'a dyn ReadableFile,
    bytes: Vec<u8>,
    /// Where it lies.
    at: u64,
}

impl Chunk<'_> {
    /// The `len` bytes at `offset`, unless the file ends before. Requires: not before what was asked
    /// for last.
    fn get(&mut self, offset: u64, len: u64) -> Result<Option<&[u8]>> {
        let left = self.file.len().saturating_sub(offset);
        let Some(wanted) = usize::try_from(len).ok().filter(|_| len <= left) else {
            return Ok(None);
        };
        let from = (offset - self.at) as usize;
        if self.bytes.len() < from + wanted {
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            self.bytes.resize(wanted.max(CHUNK_LEN).min(left), 0);
            self.at = offset;
            self.file.read_at(offset, &mut self.bytes)?;
        }
        let from = (offset - self.at) as usize;
        Ok(self.bytes.get(from..from + wanted))
    }
}
