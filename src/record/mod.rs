//! Framed, checksummed records: what the write-ahead log and the manifest are made of.
//!
//! *Format.* A log file is a 64-byte [header] and records from offset 64 on, each at a
//! multiple of 8. Integers are little-endian.
//!
//! ```text
//! offset  size
//!  0      4     crc       CRC-32 of the file's identity, the record's offset, and all that follows
//!  4      4     len       of the payload; never 0
//!  8      7     seqno     WAL: sequence number of the first operation; manifest: ordinal
//! 15      1     lag       WAL: seqno - (highest sequence number known durable at append), rounded
//!                         up, as a code; manifest: 255
//! 16      len   payload
//!               zeros up to a multiple of 8, not covered by the checksum
//! ```
//!
//! *Codes of a lag.* Below 16 a code means itself, and from there on up to 239, by its bits
//! `eeeee mmm`, (8 + m) << (e - 1): at most an eighth more than the lag it stands for, so that the
//! claim is true and a little weaker. From 240 on it claims nothing.
//!
//! A record is valid if and only if its length is not 0 and lies within the file, and the checksum
//! matches. As the checksum takes in which file and where in it, bytes left over
//! from an earlier life of the file, or copied from elsewhere, never pass for records. A length of
//! 0 is never valid, so preallocated zeros are the end of the log and not an endless run of records.
//!
//! *Crash or corruption?* A log whose bytes end in a mess was cut off by a crash, or damaged later.
//! `lag` tells which: see [`Stamp::durable`]. [`scan_for_valid`] looks behind the mess.
#![deny(clippy::indexing_slicing)]

use std::ops::Range;

use crate::base::checksum::RangeChecksums;
use crate::base::checksum::RecordChecksum;
use crate::base::coding::Decoder;
use crate::base::coding::Malformed;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::planted::Planted;

pub(crate) mod file;
pub(crate) mod header;

#[cfg(test)]
mod tests;

/// Bytes in front of each payload.
pub(crate) const RECORD_HEADER_LEN: usize = 16;
/// Records start at multiples of this.
pub(crate) const ALIGN: u64 = 8;
/// A `lag` that claims nothing.
pub(crate) const LAG_UNKNOWN: u32 = u32::MAX;
/// The largest code of a lag.
const LAG_CODE_MAX: u8 = 239;
/// Bytes of a sequence number in a record.
const SEQNO_LEN: usize = 7;
/// Longest payload.
pub(crate) const PAYLOAD_LEN_MAX: usize = (1 << 31) - 1;
/// Bytes that look like records without being any must not make a scan quadratic. It checksums them
/// one by one up to this many times the length of the file; then it prepares to do it faster.
const SCAN_EFFORT: u64 = 4;

/// Which file a record belongs to, as the checksum sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context(u64);

impl Context {
    /// The context of file `file` of database `db`.
    ///
    /// Two files of one database differ in few neighbouring bits, a difference that a CRC never
    /// misses: a stale record of a recycled file is rejected for certain, not only very likely.
    pub(crate) fn new(db: DbId, file: FileId) -> Context {
        let file = if Planted::ForeignRecord.is_on() { FileId(0) } else { file };
        Context(db.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ file.0)
    }
}

/// Where a record ends that starts at 0: header, payload and padding.
pub(crate) fn framed_len(payload_len: usize) -> u64 {
    (RECORD_HEADER_LEN as u64 + payload_len as u64).next_multiple_of(ALIGN)
}

/// What a record says about its place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Below 2^56.
    pub(crate) seqno: u64,
    /// Rounded up when it is stored.
    pub(crate) lag: u32,
}

/// The lag that a code stands for.
fn lag_of(code: u8) -> u32 {
    match code {
        0..16 => u32::from(code),
        16..=LAG_CODE_MAX => (8 + u32::from(code & 7)) << ((code >> 3) - 1),
        _ => LAG_UNKNOWN,
    }
}

/// The code of the least lag that is not below `lag`.
fn code_of(lag: u32) -> u8 {
    if lag < 16 {
        return lag as u8;
    }
    if lag > lag_of(LAG_CODE_MAX) {
        return u8::MAX;
    }
    // Four bits from its highest one on, and one more if that cuts anything off.
    let shift = 28 - lag.leading_zeros();
    let cut = u32::from(lag & ((1 << shift) - 1) != 0);
    (8 * (shift + 1) + (lag >> shift) - 8 + cut) as u8
}

/// Appends a record to `out` that will be written at `offset` of the file `context`.
///
/// Requires and panics as [`seal`].
pub(crate) fn encode_into(
    out: &mut Vec<u8>,
    context: Context,
    offset: u64,
    stamp: Stamp,
    payload: &[u8],
) {
    let start = out.len();
    let end = start + framed_len(payload.len()) as usize;
    out.reserve(end - start);
    out.extend_from_slice(&[0; RECORD_HEADER_LEN]);
    out.extend_from_slice(payload);
    out.resize(end, 0);
    let (_, record) = out.split_at_mut(start);
    seal(record, payload.len(), context, offset, stamp);
}

/// Makes `record` a record that will be written at `offset` of the file `context`: it has room for
/// the header, the payload of `len` bytes, and zeros up to [`framed_len`].
///
/// Requires: `1 <= len <= PAYLOAD_LEN_MAX`; `offset` is a multiple of 8; the stamp's sequence number
/// is below 2^56.
///
/// # Panics
///
/// If the requirement is broken: such a record would make all that follow it unreadable.
pub(crate) fn seal(record: &mut [u8], len: usize, context: Context, offset: u64, stamp: Stamp) {
    assert!((1..=PAYLOAD_LEN_MAX).contains(&len) && offset.is_multiple_of(ALIGN));
    assert!(record.len() as u64 == framed_len(len) && stamp.seqno >> (8 * SEQNO_LEN) == 0);
    let (place, rest) = record.split_at_mut(4);
    let (covered, _) = rest.split_at_mut(RECORD_HEADER_LEN - 4 + len);
    let (head, _) = covered.split_at_mut(RECORD_HEADER_LEN - 4);
    let (len_place, stamp_place) = head.split_at_mut(4);
    len_place.copy_from_slice(&(len as u32).to_le_bytes());
    let lag = u64::from(code_of(stamp.lag)) << (8 * SEQNO_LEN);
    stamp_place.copy_from_slice(&(stamp.seqno | lag).to_le_bytes());
    let crc = RecordChecksum::new(context.0, offset).update(covered).finish();
    place.copy_from_slice(&crc.to_le_bytes());
}

/// A valid record, by its place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) stamp: Stamp,
    /// Where the payload lies in the bytes that were given.
    pub(crate) payload: Range<usize>,
    /// Where the next record starts; may lie beyond the file's end by the padding.
    pub(crate) next_offset: u64,
}

impl Stamp {
    /// The highest sequence number that was known to be durable when the record was appended, if
    /// the record says so.
    ///
    /// A crash can only take what was not durable. So if a valid record claims that something was
    /// durable which is missing in front of it, that is damage; and if none does, what is missing
    /// was an unsynced tail of which a power cut left pieces.
    pub(crate) fn durable(self) -> Option<u64> {
        if self.lag == LAG_UNKNOWN {
            return None;
        }
        self.seqno.checked_sub(u64::from(self.lag))
    }
}

/// What is found at an offset of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// A valid record.
    Record(Record),
    /// Nothing: zeros, or the end of the bytes.
    End,
    /// Something that is no record, and why.
    Invalid(&'static str),
}

/// The parsed header of a record that may not be one.
struct Frame {
    crc: u32,
    len: usize,
    stamp: Stamp,
}

impl Frame {
    fn parse(header: &[u8; RECORD_HEADER_LEN]) -> Result<Frame, Malformed> {
        let mut decoder = Decoder::new(header);
        let (crc, len, stamp) = (decoder.u32()?, decoder.u32()? as usize, decoder.u64()?);
        let lag = lag_of((stamp >> (8 * SEQNO_LEN)) as u8);
        let seqno = stamp & ((1 << (8 * SEQNO_LEN)) - 1);
        Ok(Frame { crc, len, stamp: Stamp { seqno, lag } })
    }
}

/// Reads what starts at `offset` of the file whose content is `bytes`.
pub(crate) fn decode_at(context: Context, bytes: &[u8], offset: u64) -> Decoded {
    decode_part(context, bytes, 0, offset)
}

/// As [`decode_at`], where `bytes` are what the file holds from `start` on.
pub(crate) fn decode_part(context: Context, bytes: &[u8], start: u64, offset: u64) -> Decoded {
    let at = offset.checked_sub(start).and_then(|at| usize::try_from(at).ok());
    let Some(rest) = at.and_then(|at| bytes.get(at..)) else {
        return Decoded::End;
    };
    let Some((header, body)) = rest.split_first_chunk::<RECORD_HEADER_LEN>() else {
        return if rest.iter().all(|&byte| byte == 0) {
            Decoded::End
        } else {
            Decoded::Invalid("the file ends within a record's header")
        };
    };
    if header.iter().all(|&byte| byte == 0) {
        return Decoded::End;
    }
    let frame = match Frame::parse(header) {
        Ok(frame) => frame,
        Err(Malformed(what)) => return Decoded::Invalid(what),
    };
    if frame.len == 0 {
        return Decoded::Invalid("a record has length 0");
    }
    let Some(payload) = body.get(..frame.len) else {
        return Decoded::Invalid("a record is longer than the rest of the file");
    };
    let (_, covered) = header.split_at(4);
    let crc = RecordChecksum::new(context.0, offset).update(covered).update(payload).finish();
    if crc != frame.crc {
        return Decoded::Invalid("a record's checksum does not match");
    }
    let start = bytes.len() - body.len();
    Decoded::Record(Record {
        stamp: frame.stamp,
        payload: start..start + frame.len,
        next_offset: offset + framed_len(frame.len),
    })
}

/// Where a record ends that starts at 0 with the header in front of `bytes`, if they have one. It
/// may be any bytes: believe it within the file's length only.
pub(crate) fn framed_len_of(bytes: &[u8]) -> Option<u64> {
    let header = bytes.first_chunk::<RECORD_HEADER_LEN>()?;
    Frame::parse(header).ok().map(|frame| framed_len(frame.len))
}

/// What [`scan_for_valid`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// A valid record at this offset.
    Found(u64, Record),
    /// There is none.
    Nothing,
}

/// Looks for the first valid record that starts within `offsets` and whose stamp is `plausible`.
///
/// Linear in the length of `bytes`, whatever they are: only what looks like a record is checksummed.
pub(crate) fn scan_for_valid(
    context: Context,
    bytes: &[u8],
    offsets: Range<u64>,
    plausible: &dyn Fn(Stamp) -> bool,
) -> Scan {
    let mut effort = SCAN_EFFORT * bytes.len() as u64;
    let mut ranges = None;
    let mut offset = offsets.start.next_multiple_of(ALIGN);
    while offset < offsets.end {
        let rest = usize::try_from(offset).ok().and_then(|at| bytes.get(at..));
        let Some((header, body)) = rest.and_then(<[u8]>::split_first_chunk) else {
            break;
        };
        let frame = Frame::parse(header).ok().filter(|frame| {
            let fits = (1..=body.len()).contains(&frame.len);
            fits && plausible(frame.stamp)
        });
        if let Some(frame) = frame {
            let may_match = if let Some(left) = effort.checked_sub(framed_len(frame.len)) {
                effort = left;
                true
            } else {
                let ranges = ranges.get_or_insert_with(|| RangeChecksums::new(bytes));
                let start = bytes.len() - body.len();
                let payload = ranges.of(start..start + frame.len);
                let (_, covered) = header.split_at(4);
                let crc = RecordChecksum::new(context.0, offset).update(covered);
                crc.update_with(payload, frame.len as u64).finish() == frame.crc
            };
            if may_match && let Decoded::Record(record) = decode_at(context, bytes, offset) {
                return Scan::Found(offset, record);
            }
        }
        offset += ALIGN;
    }
    Scan::Nothing
}
