//! Finds every record of a segment that can still be read, also behind damage.
#![deny(clippy::indexing_slicing)]

use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

use bytes::Bytes;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::seqno::SeqNo;
use crate::base::sorted::SortedMap;
use crate::base::sorted::sort_by_key;
use crate::fs::DirEntry;
use crate::fs::Fs;
use crate::fs::names::FileKind;
use crate::fs::names::wal_path;
use crate::record::Context;
use crate::record::Decoded;
use crate::record::Record;
use crate::record::Scan;
use crate::record::decode_at;
use crate::record::file;
use crate::record::scan_for_valid;
use crate::wal::catalog::read_header;
use crate::wal::decode::LogRecord;
use crate::wal::decode::next_after;
use crate::wal::segment::RECORDS_START;
use crate::wal::segment::SegmentHeader;

/// What a part of a segment was found to hold.
#[derive(Debug, Default)]
pub(crate) struct Salvaged {
    /// In the order of the file, each checked to decode as operations.
    pub(crate) records: Vec<LogRecord>,
    /// What lies between records and is none.
    pub(crate) gaps: Vec<Range<u64>>,
    /// Behind the last record.
    pub(crate) end: u64,
}

impl Salvaged {
    /// The last sequence number in it.
    pub(crate) fn last_seqno(&self) -> Option<SeqNo> {
        self.records.iter().map(LogRecord::last_seqno).max()
    }
}

/// The records that start within `offsets` of the segment whose content is `bytes`, where that of
/// the first one has the sequence number `next`, if that is known. Which segment it is, is part of
/// each checksum: what another file left behind is never among them.
pub(crate) fn salvage(
    context: Context,
    bytes: &Bytes,
    offsets: Range<u64>,
    mut next: Option<u64>,
) -> Salvaged {
    let mut found = Salvaged { end: offsets.start, ..Salvaged::default() };
    let mut offset = offsets.start;
    while offset < offsets.end {
        let (at, record) = match decode_at(context, bytes, offset) {
            Decoded::Record(record) => (offset, record),
            Decoded::End | Decoded::Invalid(_) => {
                match scan_for_valid(context, bytes, offset + 1..offsets.end, &|_| true) {
                    Scan::Found(at, record) => (at, record),
                    Scan::Nothing => break,
                }
            }
        };
        offset = record.end;
        let seqno = record.stamp.map_or(next, |stamp| Some(stamp.seqno));
        next = None;
        let Some((batch, behind)) = seqno.and_then(|seqno| batch_of(seqno, &record, bytes)) else {
            continue;
        };
        next = Some(behind);
        if found.end < at {
            found.gaps.push(found.end..at);
        }
        found.records.push(batch);
        found.end = record.end;
    }
    found
}

/// The batch of `record`, which has `seqno`, and the sequence number behind it.
fn batch_of(seqno: u64, record: &Record, bytes: &Bytes) -> Option<(LogRecord, u64)> {
    let (seqno, payload) = (SeqNo::new(seqno), bytes.slice(record.payload.clone()));
    let behind = next_after(seqno, record.stamp, &payload).ok()?;
    Some((LogRecord { seqno, payload }, behind.get()))
}

/// A segment that may hold records of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FoundSegment {
    pub(crate) id: FileId,
    /// Its header, if that is valid.
    header: Option<SegmentHeader>,
    /// Where its records end, if a later segment says so.
    end: Option<u64>,
}

impl FoundSegment {
    /// Does it show that it was ever part of a log?
    pub(crate) fn is_started(&self) -> bool {
        self.header.is_some()
    }

    /// The segment before it, if it follows one.
    pub(crate) fn prev(&self) -> Option<FileId> {
        self.header.map(|header| header.prev).filter(|prev| *prev != FileId(0))
    }
}

/// All segments of a directory from which records may be taken.
#[derive(Debug, Default)]
pub(crate) struct FoundLog {
    pub(crate) db: Option<DbId>,
    /// In the order of the log, as far as that can be told.
    pub(crate) segments: Vec<FoundSegment>,
    /// Files that cannot be used, and why.
    pub(crate) unusable: Vec<(PathBuf, Error)>,
}

/// Looks for the segments of database `db`, or of the one that the first of them belongs to.
///
/// A segment is left out if a later one follows something in front of it: then a recovery gave it
/// up, or it was never started.
pub(crate) fn find_segments(
    fs: &dyn Fs,
    dir: &Path,
    db: Option<DbId>,
    floor: FileId,
    listing: &[DirEntry],
) -> FoundLog {
    let mut log = FoundLog { db, ..FoundLog::default() };
    let mut headers = SortedMap::new();
    let mut ids: Vec<FileId> = listing
        .iter()
        .filter(|entry| !entry.is_dir)
        .filter_map(|entry| match FileKind::parse(&entry.name) {
            Some(FileKind::Wal(id)) if id >= floor => Some(id),
            _ => None,
        })
        .collect();
    sort_by_key(&mut ids, |id| *id);
    for id in ids {
        let path = wal_path(dir, id);
        match read_header(fs, &path) {
            Ok((_, Ok(header))) if header.id == id => {
                if *log.db.get_or_insert(header.db) == header.db {
                    headers.insert(id, Some(header));
                } else {
                    let error = Error::corruption(&path, 16, "it belongs to another database");
                    log.unusable.push((path, error));
                }
            }
            Ok(_) => {
                headers.insert(id, None);
            }
            Err(error) => log.unusable.push((path, error)),
        }
    }
    let started: Vec<SegmentHeader> = headers.values().copied().flatten().collect();
    for (id, header) in headers {
        if started.iter().any(|later| later.prev < id && id < later.id) {
            continue;
        }
        let successor = started.iter().rev().find(|later| later.prev == id);
        log.segments.push(FoundSegment { id, header, end: successor.map(|next| next.prev_end) });
    }
    log
}

/// The records of a segment that still read. What lies between the last one and where the segment
/// should end is a gap as well.
pub(crate) fn salvage_segment(
    fs: &dyn Fs,
    dir: &Path,
    db: DbId,
    segment: &FoundSegment,
) -> Result<Salvaged> {
    let path = wal_path(dir, segment.id);
    let read = file::read(fs, &path, segment.end.unwrap_or(u64::MAX))?;
    let offsets = RECORDS_START..read.zero_from as u64;
    let context = Context::new(db, segment.id);
    let first = segment.header.map(|header| header.first_seqno.get());
    let mut salvaged = salvage(context, &Bytes::from(read.bytes), offsets, first);
    if let Some(end) = segment.end.filter(|end| salvaged.end < *end) {
        salvaged.gaps.push(salvaged.end..end);
    }
    Ok(salvaged)
}
