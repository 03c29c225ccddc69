//! The segments of the log: those that recovery would read, and those before them that are kept for
//! change feeds.
//!
//! *Invariants.*
//! - H1 The kept segments are those right in front of the log's floor, without one missing in
//!   between: they go from the front only.
//! - H2 A kept segment is durable as a whole, and so is the edit of the manifest that lists it.
//! - H3 A segment that a feed reads is not recycled: what the feed has open stays as it is.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::ids::FileId;
use crate::base::options::Retention;
use crate::base::seqno::SeqNo;
use crate::manifest::KeptSegment;

/// Kept files are cut to a multiple of this…
const BLOCK: u64 = 4096;
/// …if that makes them shorter by such a part.
const WASTE_PART: u64 = 4;

/// A segment of the log.
#[derive(Clone, Debug)]
pub(crate) struct LogSegment {
    pub(crate) id: FileId,
    pub(crate) first: SeqNo,
    pub(crate) bytes: u64,
    /// Known once a later segment has been started.
    pub(crate) end: Option<SegmentEnd>,
    /// The list holds one reference; feeds that read the segment hold the others.
    readers: Arc<()>,
}

/// How a segment ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentEnd {
    /// Its last sequence number, or the one before its first.
    pub(crate) last: SeqNo,
    /// Where its records end.
    pub(crate) offset: u64,
    /// When, in milliseconds since 1970.
    pub(crate) ms: u64,
}

impl LogSegment {
    pub(crate) fn new(id: FileId, first: SeqNo, bytes: u64) -> LogSegment {
        LogSegment { id, first, bytes, end: None, readers: Arc::default() }
    }

    /// The segment that the manifest lists, whose file has so many bytes.
    pub(crate) fn kept(kept: &KeptSegment, bytes: u64) -> LogSegment {
        let end = SegmentEnd { last: kept.last, offset: kept.end, ms: kept.ended_ms };
        LogSegment { end: Some(end), ..LogSegment::new(kept.id, kept.first, bytes) }
    }

    /// What the manifest is told of it; `None` while it is active.
    pub(crate) fn to_keep(&self) -> Option<KeptSegment> {
        let SegmentEnd { last, offset, ms } = self.end?;
        Some(KeptSegment { id: self.id, first: self.first, last, end: offset, ended_ms: ms })
    }

    pub(crate) fn last(&self) -> Option<SeqNo> {
        self.end.map(|end| end.last)
    }

    /// Does a feed read it? Requires: none can begin to, since it is in no list any more, or under
    /// the append lock.
    pub(crate) fn is_read(&self) -> bool {
        Arc::strong_count(&self.readers) > 1
    }
}

/// Kept segments, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History {
    kept: VecDeque<LogSegment>,
    bytes: u64,
}

impl History {
    pub(crate) fn new(kept: VecDeque<LogSegment>) -> History {
        let bytes = kept.iter().map(|segment| segment.bytes).sum();
        History { kept, bytes }
    }

    pub(crate) fn kept(&self) -> &VecDeque<LogSegment> {
        &self.kept
    }

    /// Bytes of their files.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps segments that the log has let go of.
    pub(crate) fn extend(&mut self, segments: Vec<LogSegment>) {
        self.bytes += segments.iter().map(|segment| segment.bytes).sum::<u64>();
        self.kept.extend(segments);
    }

    /// What is to be cut off the files of those that are mostly empty, and that no feed reads: each
    /// with its new length, by which it counts from now on.
    pub(crate) fn shorten(&mut self) -> Vec<(FileId, u64)> {
        let mut shortened = Vec::new();
        for segment in &mut self.kept {
            let Some(end) = segment.end else { continue };
            let used = end.offset.next_multiple_of(BLOCK);
            if segment.bytes > used + segment.bytes / WASTE_PART && !segment.is_read() {
                self.bytes -= segment.bytes - used;
                segment.bytes = used;
                shortened.push((segment.id, used));
            }
        }
        shortened
    }

    /// Lets go of what exceeds the limits at `now_ms`.
    pub(crate) fn trim(&mut self, limits: Retention, now_ms: u64) -> Vec<LogSegment> {
        let mut gone = Vec::new();
        while let Some(oldest) = self.kept.front() {
            let ended_ms = oldest.end.map_or(0, |end| end.ms);
            let is_old = now_ms.saturating_sub(ended_ms) >= limits.age_ms;
            if self.bytes <= limits.bytes && !is_old {
                break;
            }
            self.bytes -= oldest.bytes;
            gone.extend(self.kept.pop_front());
        }
        gone
    }
}
