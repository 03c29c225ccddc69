//! Finds every record of a segment that can still be read, also behind damage.
#![deny(clippy::indexing_slicing)]

use std::ops::Range;

use bytes::Bytes;

use crate::base::batch::Ops;
use crate::base::seqno::SeqNo;
use crate::record::Context;
use crate::record::Decoded;
use crate::record::Record;
use crate::record::Scan;
use crate::record::decode_at;
use crate::record::scan_for_valid;
use crate::wal::decode::LogRecord;

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
        self.records.iter().map(last_of).max()
    }
}

/// The sequence number of the record's last operation.
fn last_of(record: &LogRecord) -> SeqNo {
    let ops = Ops::new(&record.payload).count() as u64;
    SeqNo::new(record.seqno.get().saturating_add(ops.saturating_sub(1)))
}

/// The records that start within `offsets` of the segment whose content is `bytes`. Which segment
/// it is, is part of each checksum: what another file left behind is never among them.
pub(crate) fn salvage(context: Context, bytes: &Bytes, offsets: Range<u64>) -> Salvaged {
    let mut found = Salvaged { end: offsets.start, ..Salvaged::default() };
    let mut offset = offsets.start;
    while offset < offsets.end {
        let (at, record) = match decode_at(context, bytes, offset) {
            Decoded::Record(record) => (offset, record),
            Decoded::End | Decoded::Invalid(_) => {
                match scan_for_valid(context, bytes, offset + 8..offsets.end, |_| true) {
                    Scan::Found(at, record) => (at, record),
                    Scan::Nothing => break,
                }
            }
        };
        offset = record.next_offset;
        let Some(batch) = batch_of(&record, bytes) else {
            continue;
        };
        if found.end < at {
            found.gaps.push(found.end..at);
        }
        found.records.push(batch);
        found.end = record.next_offset;
    }
    found
}

fn batch_of(record: &Record, bytes: &Bytes) -> Option<LogRecord> {
    let payload = bytes.slice(record.payload.clone());
    let ops = Ops::new(&payload).try_fold(0u64, |count, op| op.map(|_| count + 1)).ok()?;
    let fits = record.stamp.seqno.checked_add(ops)? <= SeqNo::STORED_MAX.get();
    fits.then(|| LogRecord { seqno: SeqNo::new(record.stamp.seqno), payload })
}
