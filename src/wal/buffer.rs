//! The writer's passive half: assigns places in the log and collects what is to be written.

use std::mem;
use std::ops::Range;
use std::sync::Arc;

use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::seqno::SeqNo;
use crate::record;
use crate::record::Context;
use crate::record::LAG_UNKNOWN;
use crate::record::Stamp;
use crate::record::framed_len;
use crate::wal::segment::PreparedSegment;
use crate::wal::segment::RECORDS_START;
use crate::wal::segment::Segment;
use crate::wal::segment::SegmentHeader;

/// Buffers that grew beyond this are freed after use.
const SPARE_BYTES_MAX: usize = 4 << 20;

/// A place in the log: bytes of all segments since the database was opened. Grows, never falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LogPosition(pub(crate) u64);

/// A point between two records of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LogMark {
    pub(crate) position: LogPosition,
    /// The last sequence number in front of it.
    pub(crate) seqno: SeqNo,
}

/// The active segment is full, too short for the batch, or there is none: start a new one of at
/// least [`segment_bytes_for`](crate::wal::segment_bytes_for) bytes, and push again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NeedsSegment;

#[derive(Debug)]
struct Active {
    segment: Arc<Segment>,
    context: Context,
    /// Where the next record goes.
    offset: u64,
    capacity: u64,
}

/// The end of the log in memory. The engine's append lock guards it; nothing here blocks.
#[derive(Debug)]
pub(crate) struct LogBuffer {
    db: DbId,
    /// Where the log ends while there is no active segment.
    tail: Option<(FileId, u64)>,
    active: Option<Active>,
    next_seqno: SeqNo,
    pending: PendingWrites,
}

impl LogBuffer {
    /// An empty log.
    pub(super) fn new(db: DbId) -> LogBuffer {
        LogBuffer {
            db,
            tail: None,
            active: None,
            next_seqno: SeqNo::ZERO,
            pending: PendingWrites::default(),
        }
    }

    /// Goes on in `segment`, which is started, at `offset`, where `end_seqno` comes next. If
    /// writing goes on with another sequence number, that needs a new segment.
    pub(super) fn resume(
        db: DbId,
        segment: PreparedSegment,
        offset: u64,
        end_seqno: SeqNo,
        next_seqno: SeqNo,
    ) -> LogBuffer {
        let mut buffer = LogBuffer::new(db);
        buffer.tail = Some((segment.id, offset));
        buffer.next_seqno = next_seqno;
        buffer.pending.end.seqno = SeqNo::new(next_seqno.get().saturating_sub(1));
        if end_seqno == next_seqno {
            buffer.active = Some(Active {
                context: Context::new(db, segment.id),
                offset,
                capacity: segment.bytes,
                segment: Segment::new(segment),
            });
        }
        buffer
    }

    /// Makes `prepared` the active segment. Its header is written with the next pending writes.
    ///
    /// Everything up to `durable` is known to be durable; `next_seqno` is the sequence number of
    /// the next batch.
    ///
    /// # Panics
    ///
    /// If sequence numbers or file numbers go back: recovery would refuse such a log.
    pub(crate) fn start_segment(
        &mut self,
        prepared: PreparedSegment,
        next_seqno: SeqNo,
        durable: SeqNo,
    ) {
        let tail = self.tail();
        let (prev, prev_end) = tail.unwrap_or_default();
        assert!(prepared.id > prev && next_seqno >= self.next_seqno && durable < next_seqno);
        let header = SegmentHeader {
            db: self.db,
            id: prepared.id,
            prev,
            prev_end,
            first_seqno: next_seqno,
            durable,
        };
        let capacity = prepared.bytes;
        let context = Context::new(self.db, prepared.id);
        let segment = Segment::new(prepared);
        self.pending.extend(&segment, 0, |bytes| {
            bytes.extend_from_slice(&header.encode());
        });
        self.next_seqno = next_seqno;
        self.pending.end.seqno = SeqNo::new(next_seqno.get() - 1);
        self.active = Some(Active { segment, context, offset: RECORDS_START, capacity });
    }

    /// Appends a batch of `ops` operations, the first with `seqno`, while everything up to
    /// `durable` is known to be durable. Returns where its record ends: the batch is written once
    /// writes up to there are, and durable once the log is up to there.
    ///
    /// # Panics
    ///
    /// If the batch is empty, or `seqno` is not the one after the previous batch.
    pub(crate) fn push(
        &mut self,
        seqno: SeqNo,
        durable: SeqNo,
        batch: &[u8],
        ops: u64,
    ) -> Result<LogPosition, NeedsSegment> {
        if !self.room_for(batch.len()) {
            return Err(NeedsSegment);
        }
        let Some(active) = &mut self.active else {
            return Err(NeedsSegment);
        };
        assert!(ops > 0 && seqno == self.next_seqno && durable < seqno);
        let lag = u32::try_from(seqno.get() - durable.get()).unwrap_or(LAG_UNKNOWN);
        let stamp = Stamp { seqno: seqno.get(), lag };
        let (context, offset) = (active.context, active.offset);
        self.pending.extend(&active.segment, offset, |bytes| {
            record::encode_into(bytes, context, offset, stamp, batch);
        });
        active.offset += framed_len(batch.len());
        self.next_seqno = seqno.plus(ops);
        self.pending.end.seqno = SeqNo::new(self.next_seqno.get() - 1);
        Ok(self.pending.end.position)
    }

    /// Does a batch of `payload_len` bytes fit into the active segment?
    pub(crate) fn room_for(&self, payload_len: usize) -> bool {
        self.active
            .as_ref()
            .is_some_and(|active| active.offset + framed_len(payload_len) <= active.capacity)
    }

    /// Is there no active segment?
    pub(crate) fn has_no_segment(&self) -> bool {
        self.active.is_none()
    }

    /// Bytes used of the active segment.
    pub(crate) fn active_bytes(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.offset)
    }

    /// Where the log ends, written or not.
    pub(crate) fn end(&self) -> LogMark {
        self.pending.end
    }

    /// Hands everything that is to be written over to `into`, whose buffer is used from now on.
    ///
    /// Requires: `into` is cleared.
    pub(crate) fn take_pending(&mut self, into: &mut PendingWrites) {
        debug_assert!(into.is_empty());
        mem::swap(&mut self.pending, into);
        self.pending.end = into.end;
    }

    fn tail(&self) -> Option<(FileId, u64)> {
        match &self.active {
            Some(active) => Some((active.segment.id(), active.offset)),
            None => self.tail,
        }
    }
}

/// Adjacent bytes for one segment.
#[derive(Debug)]
struct Chunk {
    segment: Arc<Segment>,
    offset: u64,
    bytes: Range<usize>,
}

/// Bytes with their places in the log. Two of them take turns: one is filled while the other is
/// written.
#[derive(Debug, Default)]
pub(crate) struct PendingWrites {
    bytes: Vec<u8>,
    /// In the order of the log, at most one per segment.
    chunks: Vec<Chunk>,
    /// Where the log ends when this is written.
    end: LogMark,
}

impl PendingWrites {
    /// Writes everything, in order, with one call to the system per segment.
    ///
    /// After an error it is unknown what was written. As records that follow would lie behind a
    /// hole, the log must not be written to again.
    pub(crate) fn write(&self) -> Result<()> {
        for chunk in &self.chunks {
            let bytes = &self.bytes[chunk.bytes.clone()];
            chunk.segment.write_at(chunk.offset, bytes)?;
        }
        Ok(())
    }

    /// Forgets what was written; keeps the memory for the next turn, unless it is a lot.
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.bytes.clear();
        if self.bytes.capacity() > SPARE_BYTES_MAX {
            self.bytes = Vec::new();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Number of bytes to write.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Where the log ends when this is written.
    pub(crate) fn end(&self) -> LogMark {
        self.end
    }

    /// The segments that are written to, in the order of the log.
    pub(super) fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.chunks.iter().map(|chunk| &chunk.segment)
    }

    /// Adds what `fill` appends, as bytes at `offset` of `segment`.
    fn extend(&mut self, segment: &Arc<Segment>, offset: u64, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        fill(&mut self.bytes);
        let end = self.bytes.len();
        self.end.position.0 += (end - start) as u64;
        match self.chunks.last_mut() {
            Some(last) if last.segment.id() == segment.id() => {
                debug_assert!(last.offset + last.bytes.len() as u64 == offset);
                last.bytes.end = end;
            }
            _ => {
                self.chunks.push(Chunk { segment: Arc::clone(segment), offset, bytes: start..end });
            }
        }
    }
}
