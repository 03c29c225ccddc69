//! The write-ahead log: one for all keyspaces, cut into segments.
//!
//! *Format.* A segment `NNNNNN.wal` is a [file header](crate::record::header) and
//! [records](crate::record) from offset 64 on. A record's payload is a
//! [batch](crate::base::batch), its seqno that of the batch's first operation; the next record has
//! the seqno after the batch's last operation. The header's 32 bytes of its own:
//!
//! ```text
//! offset  size
//! 32      8     prev         number of the segment before this one; 0: none
//! 40      8     prev_end     where the records of prev end; what lies behind is not part of the log
//! 48      8     first_seqno  seqno of the first record
//! 56      8     durable      everything up to this seqno was durable when the segment was started
//! ```
//!
//! A segment without a valid header was prepared and never started. The segments that are linked by
//! `prev` are the log. The manifest's *floor* is the oldest segment that is still needed; if two
//! segments name the same `prev`, the one with the larger number counts: a recovery gave the
//! other one up.
//!
//! *Invariants.*
//! - I1 A segment's number is larger than that of its `prev`; numbers are never used twice.
//! - I2 Seqnos rise by one per operation, without gap within a segment. A segment may start above
//!   the end of the one before (recovery may have to skip what was given up), never below.
//! - I3 A record's claim of durability ([`Stamp::durable`](crate::record::Stamp::durable)) and a
//!   header's are true: everything up to there was synced before the bytes were written.
//! - I4 After recovery a new segment is started at the end of the recovered log, in place of what
//!   nothing proves durable (see [`reopen()`]). No existing segment is ever appended to.
//!
//! *Crash or corruption?* Without a sync the system writes back pages in any order, so a power cut
//! may leave a hole in what was not synced, in one segment or over several, with intact records
//! behind it. Such a hole, and everything behind it, is dropped silently. But if anything behind
//! the hole claims by I3 that what is lost was durable, no crash can have done that: it is
//! corruption. The same is true of a lost header, and of a missing segment.
//!
//! *The engine's protocol for writing.* The parts here are passive; the engine has the locks.
//! 1. Under the append lock: take the next seqnos, and, if there is no
//!    [room](LogWriter::room_for), [`LogWriter::start_segment`] with a prepared one. Then
//!    [`LogWriter::push`]: the batch survives a crash of the process.
//! 2. One leader: [`LogWriter::begin_sync`] under the append lock, the task's
//!    [`run`](sync::SyncTask::run) without any, [`LogWriter::finish_sync`] under it again. Batches up
//!    to the mark that this returns are durable, and that is what the next `push` may claim.
//!
//! After any error of a write or sync nothing may be written or acknowledged any more until the
//! database is reopened.
//!
//! *The engine's protocol for opening.* [`recover`]; [`prepare_segment`] of
//! [`RecoveredLog::segment_bytes_for_reopen`] bytes, with a number above every number in the
//! directory; [`reopen()`]; if [`ReopenedLog::needs_segment`], one more by
//! [`ReopenedLog::begin_segment`]; only then remove or recycle the segments in
//! [`ReopenedLog::unused`]: as long as the new segment may vanish, they are what shows that nothing
//! durable is missing.
//!
//! *The engine's protocol for letting go.* A manifest edit that raises the floor to a segment is
//! written when that segment's header is durable, and segments below the floor are removed or
//! recycled when that edit is durable; or kept, for [`SegmentReader`].

mod catalog;
mod decode;
mod given_up;
mod proof;
mod reader;
mod recovery;
mod reopen;
mod salvage;
mod segment;
mod sync;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use decode::LogRecord;
pub use given_up::GivenUp;
pub(crate) use reader::SegmentReader;
pub(crate) use recovery::LogSource;
pub(crate) use recovery::RecoveredLog;
pub(crate) use recovery::recover;
pub(crate) use reopen::ReopenedLog;
pub(crate) use reopen::reopen;
pub(crate) use salvage::FoundLog;
pub(crate) use salvage::FoundSegment;
pub(crate) use salvage::find_segments;
pub(crate) use salvage::salvage_segment;
pub(crate) use segment::FORMAT;
pub(crate) use segment::PreparedSegment;
pub(crate) use segment::Space;
pub(crate) use segment::prepare_segment;
pub(crate) use segment::recycle_segment;
pub(crate) use segment::segment_bytes_for;
pub(crate) use sync::SyncTask;
pub(crate) use writer::LogWriter;
