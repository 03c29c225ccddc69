//! The 64 bytes at the start of every log file: what it is, and whose.
//!
//! ```text
//! offset  size
//!  0      8     magic
//!  8      4     format version
//! 12      4     crc: CRC-32 of the other 60 bytes, bound to the file number in them
//! 16      8     database id
//! 24      8     file number; must be the one in the file's name
//! 32     32     for the kind of file to use; 0 where it does not
//! ```
//!
//! Magic, version and crc stay where they are in every future version, so that a newer file is
//! told from a damaged one.
#![deny(clippy::indexing_slicing)]

use crate::base::checksum::RecordChecksum;
use crate::base::coding::Decoder;
use crate::base::coding::Malformed;
use crate::base::ids::DbId;
use crate::base::ids::FileId;

/// Bytes in front of the first record.
pub(crate) const FILE_HEADER_LEN: usize = 64;

/// A kind of log file, and the newest format of it that this code reads and writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
}

/// A header's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) db: DbId,
    pub(crate) file: FileId,
    /// For the kind of file to use.
    pub(crate) extra: [u64; 4],
}

/// Why a header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// It is not a header of this kind of file, or not all of it.
    Damaged(&'static str),
    /// It is intact, and of this newer format version.
    Newer(u32),
}

impl From<Malformed> for Unusable {
    fn from(malformed: Malformed) -> Unusable {
        Unusable::Damaged(malformed.0)
    }
}

fn checksum(file: FileId, before_crc: &[u8], after_crc: &[u8]) -> u32 {
    RecordChecksum::new(file.0, 0).update(before_crc).update(after_crc).finish()
}

impl FileHeader {
    /// The header's bytes: [`FILE_HEADER_LEN`] of them.
    pub(crate) fn encode(&self, format: Format) -> Vec<u8> {
        let mut head = format.magic.to_vec();
        head.extend_from_slice(&format.version.to_le_bytes());
        let mut tail = Vec::new();
        for n in [self.db.0, self.file.0].iter().chain(&self.extra) {
            tail.extend_from_slice(&n.to_le_bytes());
        }
        let crc = checksum(self.file, &head, &tail);
        head.extend_from_slice(&crc.to_le_bytes());
        head.extend_from_slice(&tail);
        head
    }

    /// Reads the header at the start of `bytes`.
    pub(crate) fn decode(format: Format, bytes: &[u8]) -> Result<FileHeader, Unusable> {
        let mut whole = Decoder::new(bytes);
        let mut decoder = Decoder::new(
            whole
                .take(FILE_HEADER_LEN)
                .map_err(|_| Unusable::Damaged("it is shorter than its header"))?,
        );
        let before_crc = decoder.take(12)?;
        let crc = decoder.u32()?;
        let after_crc = decoder.rest();
        let db = DbId(decoder.u64()?);
        let file = FileId(decoder.u64()?);
        let mut extra = [0; 4];
        for n in &mut extra {
            *n = decoder.u64()?;
        }
        let mut start = Decoder::new(before_crc);
        if start.take(8)? != format.magic {
            return Err(Unusable::Damaged("it does not start like a file of its kind"));
        }
        if crc != checksum(file, before_crc, after_crc) {
            return Err(Unusable::Damaged("its header's checksum does not match"));
        }
        let version = start.u32()?;
        if version > format.version {
            return Err(Unusable::Newer(version));
        }
        if file > FileId::STORED_MAX {
            return Err(Unusable::Damaged("its number is impossible"));
        }
        Ok(FileHeader { db, file, extra })
    }
}
