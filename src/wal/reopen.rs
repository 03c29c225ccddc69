//! Opens a recovered log for writing.
//!
//! What recovery read need not be on stable storage: a process that died left it with the system,
//! and after a failed sync the system may show bytes that it no longer intends to write. To sync
//! the old files would not help in the second case, and to write them again in place would put at
//! risk what is durable. So the part of the log that nothing proves durable is copied into the new
//! segment, which takes its place at the moment its header is durable.
#![deny(clippy::indexing_slicing)]

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::seqno::SeqNo;
use crate::fs::names::wal_path;
use crate::record;
use crate::record::Context;
use crate::record::Decoded;
use crate::record::LAG_UNKNOWN;
use crate::record::Stamp;
use crate::record::Stamps;
use crate::record::decode_at;
use crate::record::file;
use crate::wal::decode::next_after;
use crate::wal::proof::Mark;
use crate::wal::recovery::LiveSegment;
use crate::wal::recovery::LogSource;
use crate::wal::recovery::RecoveredLog;
use crate::wal::segment::PreparedSegment;
use crate::wal::segment::RECORDS_START;
use crate::wal::segment::SegmentHeader;
use crate::wal::segment::segment_bytes;
use crate::wal::writer::LogWriter;

/// Bytes per write while records are copied.
const COPY_LEN: usize = 1 << 20;

/// A log that is open for writing. All of it is durable.
#[derive(Debug)]
pub(crate) struct ReopenedLog {
    /// Its active segment is the new one, unless sequence numbers were skipped: then it needs one
    /// more, see [`ReopenedLog::needs_segment`].
    pub(crate) writer: LogWriter,
    /// The segments of the log, oldest first, the new one included.
    pub(crate) segments: Vec<LiveSegment>,
    /// All other segments in the directory that recovery saw: remove or recycle them.
    pub(crate) unused: Vec<FileId>,
}

/// What the new segment takes over.
struct Takeover {
    /// The segment in front of it, and where that ends.
    prev: Option<(FileId, u64)>,
    /// Sequence number of the first record taken over.
    first_seqno: SeqNo,
    /// What to copy, each from a record's start to where the segment's records end.
    ranges: Vec<(Mark, u64)>,
    /// How many of the live segments stay.
    keep: usize,
}

impl RecoveredLog {
    /// The length of the segment that is needed to reopen the log, if segments are `default` bytes
    /// long.
    pub(crate) fn segment_bytes_for_reopen(&self, default: u64) -> u64 {
        let takeover = self.takeover();
        let copied: u64 = takeover.ranges.iter().map(|(from, to)| to - from.offset).sum();
        segment_bytes(RECORDS_START + Stamps::bytes_at_most(copied), default)
    }

    fn takeover(&self) -> Takeover {
        let none = Mark { id: FileId(u64::MAX), offset: 0, next: self.last_seqno.plus(1) };
        let from = self.unproven.unwrap_or(none);
        let keep = self
            .segments
            .partition_point(|live| live.id < from.id || live.id == from.id && from.offset > 0);
        let mut prev =
            self.segments.get(..keep).and_then(<[_]>::last).map(|last| (last.id, last.end));
        if let Some((id, end)) = &mut prev
            && *id == from.id
        {
            *end = from.offset;
        }
        let mut first_seqno = None;
        let mut ranges = Vec::new();
        for live in self.segments.iter().filter(|live| live.id >= from.id) {
            let inside = live.id == from.id && from.offset > RECORDS_START;
            let start = if inside { from.offset } else { RECORDS_START };
            if start < live.end {
                // Segments without records may lie in front of it, and a gap behind each.
                let next = if inside { from.next } else { live.first_seqno };
                first_seqno.get_or_insert(next);
                ranges.push((Mark { id: live.id, offset: start, next }, live.end));
            }
        }
        Takeover { prev, first_seqno: first_seqno.unwrap_or(from.next), ranges, keep }
    }
}

/// Makes `prepared` the end of the recovered log, and all of the log durable. Writing goes on with
/// `next_seqno`.
///
/// Requires: `prepared` has the length that [`RecoveredLog::segment_bytes_for_reopen`] says, and a
/// number above all others; `next_seqno` is above [`RecoveredLog::last_seqno`].
///
/// # Errors
///
/// What the file system says. The recovered log is intact then, and `prepared` is debris or, if it
/// failed at the very end, the log's last segment.
pub(crate) fn reopen(
    source: &LogSource<'_>,
    log: &RecoveredLog,
    prepared: PreparedSegment,
    next_seqno: SeqNo,
) -> Result<ReopenedLog> {
    let mut takeover = log.takeover();
    let floor = log.segments.first().filter(|first| first.id == source.floor);
    if let (None, Some(floor)) = (takeover.prev, floor) {
        // The manifest names this segment as the log's first one, so it must stay.
        takeover.prev = Some((floor.id, RECORDS_START));
        takeover.keep = 1;
    }
    let copied_to = copy_records(source, &takeover, &prepared)?;
    let is_empty = copied_to == RECORDS_START;
    let first_seqno = if is_empty { next_seqno } else { takeover.first_seqno };
    let last_seqno = SeqNo::new(next_seqno.get().saturating_sub(1));
    let durable = if is_empty { last_seqno } else { log.last_seqno };
    let (prev, prev_end) = takeover.prev.unwrap_or_default();
    let header =
        SegmentHeader { db: source.db, id: prepared.id, prev, prev_end, first_seqno, durable };
    // Only now, when what it stands for is durable.
    prepared.file.write_at(0, &header.encode())?;
    prepared.file.sync_data()?;

    let mut segments: Vec<LiveSegment> = log.segments.iter().take(takeover.keep).copied().collect();
    if let Some(last) = segments.last_mut() {
        last.end = prev_end;
        // Numbers may be skipped behind it.
        let before = SeqNo::new(takeover.first_seqno.get().saturating_sub(1));
        last.last_seqno = last.last_seqno.min(before);
    }
    if log.given_up.is_some()
        && segments.last().is_some_and(|last| Some(last.id) == log.tail.map(|(id, _)| id))
    {
        // Nothing of the damaged segment is needed once the manifest names the new one as the
        // log's first.
        segments.pop();
    }
    let kept = segments.len();
    segments.push(LiveSegment {
        id: prepared.id,
        first_seqno,
        last_seqno: durable,
        bytes: prepared.bytes,
        end: copied_to,
    });
    let superseded = log.segments.iter().skip(kept).map(|live| live.id);
    let others = log.dropped.iter().chain(&log.debris).copied();
    let unused = superseded.chain(others).filter(|id| *id != prepared.id).collect();
    Ok(ReopenedLog {
        writer: LogWriter::resume(source.db, prepared, copied_to, durable.plus(1), next_seqno),
        segments,
        unused,
    })
}

impl ReopenedLog {
    /// A log that is never written to.
    pub(crate) fn for_reading(db: DbId, log: &RecoveredLog, last: SeqNo) -> ReopenedLog {
        ReopenedLog {
            writer: LogWriter::new(db, last.plus(1)),
            segments: log.segments.clone(),
            unused: Vec::new(),
        }
    }

    /// Were sequence numbers skipped behind records that the new segment took over?
    pub(crate) fn needs_segment(&self) -> bool {
        self.writer.has_no_segment()
    }

    /// Begins `prepared` behind the skipped sequence numbers, durably: before anything else claims
    /// that numbers above the gap are durable, since the next recovery could not tell numbers that
    /// were skipped from such that were lost.
    ///
    /// # Errors
    ///
    /// What the file system says. The log is intact then, and is to be recovered again.
    pub(crate) fn begin_segment(&mut self, prepared: PreparedSegment) -> Result<()> {
        let last_seqno = self.writer.end().seqno;
        let (id, bytes) = (prepared.id, prepared.bytes);
        self.writer.start_segment(prepared, last_seqno.plus(1), last_seqno)?;
        let task = self.writer.begin_sync();
        task.run()?;
        self.writer.finish_sync(&task);
        self.segments.push(LiveSegment {
            id,
            first_seqno: last_seqno.plus(1),
            last_seqno,
            bytes,
            end: RECORDS_START,
        });
        Ok(())
    }
}

/// Copies the records to take over into `prepared`, and syncs them. Returns where they end.
fn copy_records(
    source: &LogSource<'_>,
    takeover: &Takeover,
    prepared: &PreparedSegment,
) -> Result<u64> {
    let to = Context::new(source.db, prepared.id);
    let mut copy = Vec::new();
    let mut written = RECORDS_START;
    let mut stamps = Stamps::default();
    for (Mark { id, mut offset, mut next }, end) in takeover.ranges.iter().copied() {
        let path = wal_path(source.dir, id);
        let bytes = file::read(source.fs, &path, end)?.bytes;
        let from = Context::new(source.db, id);
        while offset < end {
            let Decoded::Record(record) = decode_at(from, &bytes, offset) else {
                let what = "a record cannot be read that could be read before";
                return Err(Error::corruption(&path, offset, what));
            };
            let payload = bytes.get(record.payload).unwrap_or_default();
            let place = written + copy.len() as u64;
            let stamp = Stamp { seqno: next.get(), lag: LAG_UNKNOWN };
            let stamp = stamps.next(place, payload.len(), stamp);
            record::encode_into(&mut copy, to, place, stamp, payload);
            next = next_after(next, record.stamp, payload)
                .map_err(|what| Error::corruption(&path, offset, what))?;
            offset = record.end;
            if copy.len() >= COPY_LEN {
                prepared.file.write_at(written, &copy)?;
                written += copy.len() as u64;
                copy.clear();
            }
        }
    }
    if !copy.is_empty() {
        prepared.file.write_at(written, &copy)?;
        written += copy.len() as u64;
    }
    if written > RECORDS_START {
        prepared.file.sync_data()?;
    }
    Ok(written)
}
