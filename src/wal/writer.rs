//! The end of the log: where each record gets its place, and is written there.

use std::sync::Arc;

use crate::base::batch::Batch;
use crate::base::batch::ROOM_LEN;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::planted::Planted;
use crate::base::seqno::SeqNo;
use crate::record;
use crate::record::Context;
use crate::record::LAG_UNKNOWN;
use crate::record::Stamp;
use crate::record::Stamps;
use crate::record::framed_len_max;
use crate::wal::segment::PreparedSegment;
use crate::wal::segment::RECORDS_START;
use crate::wal::segment::Segment;
use crate::wal::segment::SegmentHeader;
use crate::wal::sync::SyncQueue;
use crate::wal::sync::SyncTask;

/// A batch becomes a record where it is.
const _: () = assert!(ROOM_LEN == record::ROOM_LEN);

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

#[derive(Debug)]
struct Active {
    segment: Arc<Segment>,
    context: Context,
    /// Where the last record ends.
    offset: u64,
    capacity: u64,
    stamps: Stamps,
}

impl Active {
    fn has_room_for(&self, payload_len: usize) -> bool {
        self.offset + framed_len_max(payload_len) <= self.capacity
    }
}

/// The end of the log. The engine's append lock guards it.
#[derive(Debug)]
pub(crate) struct LogWriter {
    db: DbId,
    /// Where the log ends while there is no active segment.
    tail: Option<(FileId, u64)>,
    active: Option<Active>,
    next_seqno: SeqNo,
    end: LogMark,
    queue: SyncQueue,
}

impl LogWriter {
    /// A log without a segment, in which `next_seqno` comes next.
    pub(super) fn new(db: DbId, next_seqno: SeqNo) -> LogWriter {
        let seqno = SeqNo::new(next_seqno.get().saturating_sub(1));
        let end = LogMark { position: LogPosition::default(), seqno };
        LogWriter { db, tail: None, active: None, next_seqno, end, queue: SyncQueue::new(end) }
    }

    /// Goes on in `segment`, which is started and durable, at `offset`, where `end_seqno` comes
    /// next. If writing goes on with another sequence number, that needs a new segment.
    pub(super) fn resume(
        db: DbId,
        segment: PreparedSegment,
        offset: u64,
        end_seqno: SeqNo,
        next_seqno: SeqNo,
    ) -> LogWriter {
        let mut writer = LogWriter::new(db, next_seqno);
        writer.tail = Some((segment.id, offset));
        if end_seqno == next_seqno {
            writer.active = Some(Active {
                context: Context::new(db, segment.id),
                offset,
                stamps: Stamps::default(),
                capacity: segment.bytes,
                segment: Segment::new(segment),
            });
        }
        writer
    }

    /// Makes `prepared` the active segment, and writes its header.
    ///
    /// Everything up to `durable` is known to be durable; `next_seqno` is the sequence number of
    /// the next batch.
    ///
    /// # Errors
    ///
    /// What the file system says; then the log must not be written to again.
    ///
    /// # Panics
    ///
    /// If sequence numbers or file numbers go back: recovery would refuse such a log.
    pub(crate) fn start_segment(
        &mut self,
        prepared: PreparedSegment,
        next_seqno: SeqNo,
        durable: SeqNo,
    ) -> Result<()> {
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
        segment.write_at(0, &header.encode())?;
        self.next_seqno = next_seqno;
        self.end.seqno = SeqNo::new(next_seqno.get() - 1);
        self.end.position.0 += RECORDS_START;
        self.queue.wrote(&segment, self.end);
        let stamps = Stamps::default();
        self.active = Some(Active { segment, context, offset: RECORDS_START, capacity, stamps });
        Ok(())
    }

    /// Appends a batch, its first operation with `seqno`, while everything up to `durable` is known
    /// to be durable. When this returns, the system has the record. `sync_follows` says that
    /// somebody will wait for its sync.
    ///
    /// Requires: there is [room](LogWriter::room_for) for it.
    ///
    /// # Errors
    ///
    /// What the file system says. It is unknown then what was written; as a record that follows
    /// would lie behind a hole, the log must not be written to again.
    ///
    /// # Panics
    ///
    /// If the batch is empty, or `seqno` is not the one after the previous batch.
    pub(crate) fn push(
        &mut self,
        seqno: SeqNo,
        durable: SeqNo,
        batch: &mut Batch,
        sync_follows: bool,
    ) -> Result<()> {
        let len = batch.bytes().len();
        let active = self.active.as_mut().filter(|active| active.has_room_for(len));
        let Some(active) = active else {
            return Err(Error::internal("a log segment has no room for a record"));
        };
        assert!(!batch.is_empty() && seqno == self.next_seqno && durable < seqno);
        let lag = u32::try_from(seqno.get() - durable.get()).unwrap_or(LAG_UNKNOWN);
        let stamp = active.stamps.next(active.offset, len, Stamp { seqno: seqno.get(), lag });
        let bytes = record::seal(batch.with_room(), active.context, active.offset, stamp);
        if sync_follows {
            active.segment.write_at(active.offset, bytes)?;
        } else if !Planted::AckedBeforeWritten.is_on() {
            active.segment.overwrite_at(active.offset, bytes)?;
        }
        let framed = bytes.len() as u64;
        active.offset += framed;
        self.next_seqno = seqno.plus(batch.len());
        self.end.seqno = SeqNo::new(self.next_seqno.get() - 1);
        self.end.position.0 += framed;
        self.queue.wrote(&active.segment, self.end);
        Ok(())
    }

    /// Does a batch of `payload_len` bytes fit into the active segment? If not, start one of at
    /// least [`segment_bytes_for`](crate::wal::segment_bytes_for) bytes.
    pub(crate) fn room_for(&self, payload_len: usize) -> bool {
        self.active.as_ref().is_some_and(|active| active.has_room_for(payload_len))
    }

    /// Is there no active segment?
    pub(crate) fn has_no_segment(&self) -> bool {
        self.active.is_none()
    }

    /// Bytes used of the active segment.
    pub(crate) fn active_bytes(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.offset)
    }

    /// Where the log ends.
    pub(crate) fn end(&self) -> LogMark {
        self.end
    }

    /// What has to be synced so that everything in the log is durable. Runs without any lock.
    pub(crate) fn begin_sync(&self) -> SyncTask {
        self.queue.begin()
    }

    /// What has to be synced so that the segments before the active one are durable; `None` if they
    /// are. Runs without any lock.
    pub(crate) fn begin_sync_of_ended(&self) -> Option<SyncTask> {
        self.queue.begin_ended()
    }

    /// Notes that `task` has run without error, and returns up to where the log is durable now.
    pub(crate) fn finish_sync(&mut self, task: &SyncTask) -> LogMark {
        self.queue.finish(task)
    }

    #[cfg(test)]
    pub(super) fn queue(&self) -> &SyncQueue {
        &self.queue
    }

    fn tail(&self) -> Option<(FileId, u64)> {
        match &self.active {
            Some(active) => Some((active.segment.id(), active.offset)),
            None => self.tail,
        }
    }
}
