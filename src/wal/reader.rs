//! Reads one segment from front to back, piece by piece, while it may still be written to.
//!
//! Records are written to their places and published later, in their order. Whoever asks for a
//! record that is published finds it in the file whole. What this has read into its buffer before
//! that may be a part of it, or zeros: so what is no record there is read once more before it counts
//! as damage. A record that verifies is the one that was written: its checksum takes in the file and
//! the place.
#![deny(clippy::indexing_slicing)]

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::seqno::SeqNo;
use crate::fs::Fs;
use crate::fs::ReadMode;
use crate::fs::ReadableFile;
use crate::fs::names::wal_path;
use crate::record::Context;
use crate::record::Decoded;
use crate::record::decode_part;
use crate::record::framed_len_of;
use crate::record::header::FILE_HEADER_LEN;
use crate::record::header::Unusable;
use crate::wal::decode::LogRecord;
use crate::wal::decode::next_after;
use crate::wal::segment::FORMAT;
use crate::wal::segment::RECORDS_START;
use crate::wal::segment::SegmentHeader;

/// Bytes of the first read, and of one after the records' end for now was met: more have most likely
/// not been written since.
const CHUNK_MIN: u64 = 16 << 10;
/// Each further read is twice as long, up to this.
const CHUNK_MAX: u64 = 256 << 10;

/// A segment that is read. Its memory is a buffer of 256 KiB, or of the longest record.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    file: Arc<dyn ReadableFile>,
    path: PathBuf,
    context: Context,
    /// Where the next record starts.
    offset: u64,
    next_seqno: SeqNo,
    /// Where the records end, if that is known.
    end: u64,
    buffer: Vec<u8>,
    /// Where in the file the buffer starts.
    start: u64,
    chunk: u64,
}

impl SegmentReader {
    /// Opens segment `id`, which is started, with `first` as its first sequence number. `end` is
    /// where its records end, if it is not written to any more.
    ///
    /// # Errors
    /// What the file system says; `Corruption` if the header is not the one of this segment;
    /// `UnsupportedFormat`.
    pub(crate) fn open(
        fs: &dyn Fs,
        dir: &Path,
        db: DbId,
        id: FileId,
        first: SeqNo,
        end: Option<u64>,
    ) -> Result<SegmentReader> {
        let path = wal_path(dir, id);
        let file = fs.open(&path, ReadMode::Live)?;
        let len = file.len();
        let mut head = [0; FILE_HEADER_LEN];
        if len < RECORDS_START {
            return Err(Error::corruption(&path, len, "it is shorter than its header"));
        }
        file.read_at(0, &mut head)?;
        let header = match SegmentHeader::decode(&head) {
            Ok(header) => header,
            Err(Unusable::Damaged(what)) => return Err(Error::corruption(&path, 0, what)),
            Err(Unusable::Newer(found)) => {
                let supported = FORMAT.version;
                return Err(Error::UnsupportedFormat { file: path, found, supported });
            }
        };
        if (header.db, header.id, header.first_seqno) != (db, id, first) {
            return Err(Error::corruption(&path, 0, "its header is that of another segment"));
        }
        Ok(SegmentReader {
            context: Context::new(db, id),
            offset: RECORDS_START,
            next_seqno: first,
            end: end.unwrap_or(u64::MAX).min(len),
            buffer: Vec::new(),
            start: RECORDS_START,
            chunk: CHUNK_MIN,
            file,
            path,
        })
    }

    /// The sequence number of the record that comes next.
    pub(crate) fn next_seqno(&self) -> SeqNo {
        self.next_seqno
    }

    /// The next record, if it is in the buffer.
    ///
    /// # Errors
    /// `Corruption` if it is not the one that comes next.
    pub(crate) fn next_buffered(&mut self) -> Result<Option<LogRecord>> {
        match decode_part(self.context, &self.buffer, self.start, self.offset) {
            Decoded::Record(record) if record.end <= self.end => {
                let payload = self.buffer.get(record.payload).unwrap_or_default();
                let next = next_after(self.next_seqno, record.stamp, payload)
                    .map_err(|what| Error::corruption(&self.path, self.offset, what))?;
                let payload = Bytes::copy_from_slice(payload);
                let found = LogRecord { seqno: self.next_seqno, payload };
                self.next_seqno = next;
                self.offset = record.end;
                Ok(Some(found))
            }
            Decoded::Record(_) | Decoded::End | Decoded::Invalid(_) => Ok(None),
        }
    }

    /// The next record, from the file. Requires: it is published.
    ///
    /// # Errors
    /// What the file system says; `Corruption` if there is no record.
    pub(crate) fn read_next(&mut self) -> Result<LogRecord> {
        self.fill(self.chunk)?;
        if let Some(needed) = framed_len_of(self.unread(), self.offset)
            && needed > self.unread().len() as u64
            && needed <= self.end.saturating_sub(self.offset)
        {
            self.fill(needed)?;
        }
        if let Some(record) = self.next_buffered()? {
            return Ok(record);
        }
        let what = match decode_part(self.context, &self.buffer, self.start, self.offset) {
            Decoded::Invalid(what) => what,
            Decoded::Record(_) | Decoded::End => "the records end before they should",
        };
        Err(Error::corruption(&self.path, self.offset, what))
    }

    /// What the buffer holds from the next record on.
    fn unread(&self) -> &[u8] {
        let at = self.offset.saturating_sub(self.start) as usize;
        self.buffer.get(at..).unwrap_or_default()
    }

    /// Reads `len` bytes from the next record on, or up to the end.
    fn fill(&mut self, len: u64) -> Result<()> {
        // A buffer that was read to its end, but for the beginning of a record, was too short.
        let is_used_up = framed_len_of(self.unread(), self.offset)
            .is_none_or(|len| len > self.unread().len() as u64 && len <= self.end);
        self.chunk = if is_used_up { (2 * self.chunk).min(CHUNK_MAX) } else { CHUNK_MIN };
        let len = len.min(self.end.saturating_sub(self.offset));
        self.start = self.offset;
        self.buffer.clear();
        let room = self.buffer.try_reserve(len as usize);
        room.map_err(|_| Error::io("read", &self.path, std::io::ErrorKind::OutOfMemory.into()))?;
        self.buffer.resize(len as usize, 0);
        let read = self.file.read_at(self.offset, &mut self.buffer);
        if read.is_err() {
            self.buffer.clear();
        }
        read
    }
}
