//! Turns a segment's bytes into batches.
#![deny(clippy::indexing_slicing)]

use bytes::Bytes;

use crate::base::batch::Ops;
use crate::base::seqno::SeqNo;
use crate::record::Context;
use crate::record::Decoded;
use crate::record::Record;
use crate::record::Stamp;
use crate::record::decode_at;
use crate::wal::proof::Mark;
use crate::wal::proof::Proof;
use crate::wal::segment::RECORDS_START;
use crate::wal::segment::SegmentHeader;

/// A batch of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogRecord<P = Bytes> {
    /// Sequence number of the first operation.
    pub(crate) seqno: SeqNo,
    /// The batch: checked to decode as operations.
    pub(crate) payload: P,
}

impl<P: AsRef<[u8]>> LogRecord<P> {
    /// Sequence number of the last operation.
    pub(crate) fn last_seqno(&self) -> SeqNo {
        let ops = Ops::new(self.payload.as_ref()).count() as u64;
        SeqNo::new(self.seqno.get().saturating_add(ops.saturating_sub(1)))
    }
}

/// Why reading a segment ended where it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// At the end that its successor states.
    AtEnd,
    /// Where no record is. A crash may have done that.
    NoRecord(&'static str),
    /// At bytes that no crash leaves behind.
    Impossible(String),
}

/// The records of a segment, and where and why they end.
#[derive(Debug)]
pub(super) struct Decode<'a> {
    /// Borrowed: there may be one for every eight bytes.
    pub(super) records: Vec<LogRecord<&'a [u8]>>,
    pub(super) next_seqno: SeqNo,
    pub(super) offset: u64,
    pub(super) stop: Stop,
}

impl<'a> Decode<'a> {
    /// Reads the records of the segment with this `header` up to `end`, or up to where they end.
    pub(super) fn segment(
        header: &SegmentHeader,
        bytes: &'a [u8],
        end: Option<u64>,
        proof: &mut Proof,
    ) -> Decode<'a> {
        let mut decode = Decode {
            records: Vec::new(),
            next_seqno: header.first_seqno,
            offset: RECORDS_START,
            stop: Stop::AtEnd,
        };
        let context = Context::new(header.db, header.id);
        proof.segment(header.id, header.first_seqno, header.durable);
        while end != Some(decode.offset) {
            let mark = Mark { id: header.id, offset: decode.offset, next: decode.next_seqno };
            let added = match decode_at(context, bytes, decode.offset) {
                Decoded::Record(record) => decode
                    .add(&record, bytes)
                    .map(|()| record.stamp.and_then(Stamp::durable).unwrap_or_default())
                    .map_err(Stop::Impossible),
                Decoded::End => Err(Stop::NoRecord("the records end here")),
                Decoded::Invalid(what) => Err(Stop::NoRecord(what)),
            };
            match added {
                Ok(durable) => proof.record(mark, SeqNo::new(durable)),
                Err(stop) => {
                    decode.stop = stop;
                    break;
                }
            }
        }
        decode
    }

    fn add(&mut self, record: &Record, bytes: &'a [u8]) -> Result<(), String> {
        let payload = bytes.get(record.payload.clone()).unwrap_or_default();
        let next = next_after(self.next_seqno, record.stamp, payload)?;
        self.records.push(LogRecord { seqno: self.next_seqno, payload });
        self.next_seqno = next;
        self.offset = record.end;
        Ok(())
    }
}

/// The sequence number behind a record with this stamp and `payload`, if it can be the one that has
/// `expected`; else what is wrong with it.
pub(super) fn next_after(
    expected: SeqNo,
    stamp: Option<Stamp>,
    payload: &[u8],
) -> Result<SeqNo, String> {
    if let Some(stamp) = stamp
        && stamp.seqno != expected.get()
    {
        let seqno = stamp.seqno;
        return Err(format!("a record has sequence number {seqno} where {expected} comes next"));
    }
    let mut ops = 0u64;
    for op in Ops::new(payload) {
        op.map_err(|malformed| format!("a record holds no batch: {}", malformed.0))?;
        ops += 1;
    }
    if expected.get().saturating_add(ops) > SeqNo::STORED_MAX.get() {
        return Err("the sequence numbers exceed the limit".to_owned());
    }
    Ok(expected.plus(ops))
}
