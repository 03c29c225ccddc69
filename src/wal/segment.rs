//! One file of the log: its header, how it comes to be, and how it is made durable.
#![deny(clippy::indexing_slicing)]

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::seqno::SeqNo;
use crate::fs::Fs;
use crate::fs::ReadMode;
use crate::fs::WritableFile;
use crate::fs::names::wal_path;
use crate::record::framed_len_max;
use crate::record::header::FILE_HEADER_LEN;
use crate::record::header::FileHeader;
use crate::record::header::Format;
use crate::record::header::Unusable;

/// Stored on disk; see the table in the module's documentation.
pub(crate) const FORMAT: Format = Format { magic: *b"eskerWAL", version: 1 };
/// Where the first record starts.
pub(super) const RECORDS_START: u64 = FILE_HEADER_LEN as u64;
/// Bytes of zeros per write while a segment is prepared. Linux keeps what one write brought into
/// the page cache as one page where it can (ext4, since 6.16). The larger it is the fewer page faults
/// there are, and the more a sync writes behind a store into a mapping: 1 MiB of zeros at a time
/// makes that 1 MiB for a record of 128 bytes.
const ZEROS_LEN: usize = 64 << 10;
/// Segments are whole blocks of the file system.
const SEGMENT_ALIGN: u64 = 4096;

/// What a segment says about its place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) db: DbId,
    pub(super) id: FileId,
    /// The segment before this one; 0 if there is none.
    pub(super) prev: FileId,
    /// Where the records of `prev` end.
    pub(super) prev_end: u64,
    /// The sequence number that the segment's first record has, or will have.
    pub(super) first_seqno: SeqNo,
    /// Everything up to here was durable when the segment was started.
    pub(super) durable: SeqNo,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let header = FileHeader {
            db: self.db,
            file: self.id,
            extra: [self.prev.0, self.prev_end, self.first_seqno.get(), self.durable.get()],
        };
        header.encode(FORMAT)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<SegmentHeader, Unusable> {
        let header = FileHeader::decode(FORMAT, bytes)?;
        let [prev, prev_end, first_seqno, durable] = header.extra;
        if first_seqno.max(durable) > SeqNo::STORED_MAX.get() {
            return Err(Unusable::Damaged("its sequence numbers exceed the limit"));
        }
        if prev != 0 && (prev >= header.file.0 || prev_end < RECORDS_START) {
            return Err(Unusable::Damaged("it follows an impossible segment"));
        }
        Ok(SegmentHeader {
            db: header.db,
            id: header.file,
            prev: FileId(prev),
            prev_end,
            first_seqno: SeqNo::new(first_seqno),
            durable: SeqNo::new(durable),
        })
    }
}

/// A file that is ready to become the log's next segment: allocated in full, durable by name and
/// length, and without a valid header or record.
#[derive(Debug)]
pub(crate) struct PreparedSegment {
    pub(super) id: FileId,
    pub(super) bytes: u64,
    pub(super) file: Box<dyn WritableFile>,
}

impl PreparedSegment {
    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    /// Its length.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Lets records be written through a mapping, where the file system has one.
    pub(crate) fn map(&self) {
        self.file.prepare_overwrites(self.bytes);
    }
}

/// A segment that records are being written to, or were.
#[derive(Debug)]
pub(crate) struct Segment {
    id: FileId,
    file: Box<dyn WritableFile>,
}

impl Segment {
    pub(super) fn new(prepared: PreparedSegment) -> Arc<Segment> {
        Arc::new(Segment { id: prepared.id, file: prepared.file })
    }

    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    pub(super) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_at(offset, bytes)
    }

    /// As [`Segment::write_at`], for what nobody is going to sync at once.
    pub(super) fn overwrite_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.overwrite_at(offset, bytes)
    }

    /// Tells that nothing is written to it any more.
    pub(super) fn finish_overwrites(&self) {
        self.file.finish_overwrites();
    }

    /// Makes what was written durable. After an error: never again, since the system may have
    /// dropped what it could not write and would report success.
    pub(crate) fn sync_data(&self) -> Result<()> {
        self.file.sync_data()
    }
}

/// The length for a segment that is `default` bytes long, or longer if a batch of `payload_len`
/// bytes needs it.
pub(crate) fn segment_bytes_for(payload_len: usize, default: u64) -> u64 {
    segment_bytes(RECORDS_START + framed_len_max(payload_len), default)
}

/// The length for a segment that has to hold `needed` bytes.
pub(super) fn segment_bytes(needed: u64, default: u64) -> u64 {
    default.max(needed).next_multiple_of(SEGMENT_ALIGN)
}

/// How the space of a new segment is made sure of. Either way it reads as zeros, and a record that
/// is written to it later does not fail for lack of space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// Zeros are written: then the file system has nothing left to allocate or to convert when
    /// records are written, so a sync flushes data and no metadata. For logs that somebody waits
    /// for; what it costs is that every byte of the log is written twice.
    Written,
    /// It is reserved, where the system can, and else written. The first sync behind a record has
    /// to note that its blocks hold data from now on.
    Reserved,
}

/// Creates segment `id`, `bytes` long and all zeros, and makes it durable.
///
/// # Errors
///
/// What the file system says. A partly written file is removed again, as far as that works.
pub(crate) fn prepare_segment(
    fs: &dyn Fs,
    dir: &Path,
    id: FileId,
    bytes: u64,
    space: Space,
) -> Result<PreparedSegment> {
    let path = wal_path(dir, id);
    let file = fs.create(&path)?;
    let allocated = allocate(&*file, bytes, space).and_then(|()| fs.sync_dir(dir));
    if let Err(error) = allocated {
        drop(file);
        // The first error is the one to report; a leftover is found at the next open.
        let _ = fs.remove(&path);
        return Err(error);
    }
    Ok(PreparedSegment { id, bytes, file })
}

/// Makes the empty `file` `bytes` long, durably.
fn allocate(file: &dyn WritableFile, bytes: u64, space: Space) -> Result<()> {
    if space == Space::Reserved && file.reserve(0..bytes)? {
        file.set_len(bytes)?;
    } else {
        fill_with_zeros(file, bytes)?;
    }
    file.sync_data()
}

fn fill_with_zeros(file: &dyn WritableFile, bytes: u64) -> Result<()> {
    let zeros = vec![0; bytes.min(ZEROS_LEN as u64) as usize];
    let mut offset = 0;
    while offset < bytes {
        let len = (bytes - offset).min(zeros.len() as u64);
        let (part, _) = zeros.split_at(len as usize);
        file.write_at(offset, part)?;
        offset += len;
    }
    Ok(())
}

/// Makes the segment `old`, which the log no longer needs, into the prepared segment `new` of
/// `bytes` bytes. `None` if the file has another length, or is gone: then prepare a fresh one.
///
/// The old content stays. None of it is valid under the new number: the header names the old one,
/// and each record's checksum takes it in.
///
/// Requires: no live version of the manifest needs `old`, and nobody writes to it.
pub(crate) fn recycle_segment(
    fs: &dyn Fs,
    dir: &Path,
    old: FileId,
    new: FileId,
    bytes: u64,
) -> Result<Option<PreparedSegment>> {
    let from = wal_path(dir, old);
    let to = wal_path(dir, new);
    match fs.open(&from, ReadMode::Sequential) {
        Ok(file) if file.len() == bytes => {}
        Ok(_) => return Ok(None),
        Err(error) if error.io_kind() == Some(io::ErrorKind::NotFound) => return Ok(None),
        Err(error) => return Err(error),
    }
    fs.rename(&from, &to)?;
    fs.sync_dir(dir)?;
    let file = fs.open_writable(&to)?;
    Ok(Some(PreparedSegment { id: new, bytes, file }))
}
