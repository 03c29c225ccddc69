//! Framed, checksummed records: what the write-ahead log and the manifest are made of.
//!
//! *Format.* A log file is a 64-byte [header] and records from offset 64 on. Integers are
//! little-endian.
//!
//! ```text
//! record := len varint | crc u32 | payload                   len: of the payload, at least 3
//!         | 1 u8 | len varint | crc u32 | stamp | payload     len: of the payload, at least 1
//! crc    := CRC-32 of the file's identity, the record's offset, len << 1 | is there a stamp?, and
//!           all behind the crc
//! stamp  := seqno 7 bytes | lag u8
//! seqno  := WAL: sequence number of the first operation; manifest: ordinal
//! lag    := WAL: seqno - (highest sequence number known durable at append), rounded up, as a code;
//!           manifest: 255
//! ```
//!
//! A record without a stamp starts where the one before ends. One with a stamp starts at a multiple
//! of 8, with zeros in front of it, so that it is found by whoever does not know where it is. The
//! manifest's have one, and in the WAL [those that need it](Stamps). No record is as short as the
//! longest padding: zeros in the place of one that is lost are never taken for padding.
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

use crate::base::checksum::PLACE_LEN;
use crate::base::checksum::RangeChecksums;
use crate::base::checksum::RecordChecksum;
use crate::base::checksum::record_place;
use crate::base::coding::Decoder;
use crate::base::coding::Malformed;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::planted::Planted;

pub(crate) mod file;
pub(crate) mod header;

#[cfg(test)]
mod tests;

/// Bytes to keep free in front of a payload that becomes a record where it is.
pub(crate) const ROOM_LEN: usize = PLACE_LEN + TAG_LEN + STAMP_LEN;
/// What is in front of a payload takes at most so many of them: padding, mark, length, checksum,
/// stamp.
const FRAME_LEN_MAX: u64 = ALIGN - 1 + 1 + 5 + CRC_LEN as u64 + STAMP_LEN as u64;
const _: () = assert!(FRAME_LEN_MAX <= ROOM_LEN as u64);
/// Stands in front of a record with a stamp, where one without has its length.
const HAS_STAMP: u8 = 1;
/// Records with a stamp start at multiples of this.
const ALIGN: u64 = 8;
/// The least payload of a record without a stamp.
const PLAIN_LEN_MIN: usize = 3;
const _: () = assert!(1 + CRC_LEN + PLAIN_LEN_MIN >= ALIGN as usize);
const _: () = assert!(PLAIN_LEN_MIN > HAS_STAMP as usize);
/// The first record in each so many bytes of the WAL has a stamp.
const STAMP_EVERY: u64 = 4096;
/// So many zeros are the end.
const END_LEN: usize = 16;
/// Bytes of what [`tag`] makes.
const TAG_LEN: usize = 8;
const CRC_LEN: usize = 4;
const STAMP_LEN: usize = 8;
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

/// No record with a payload of `payload_len` bytes takes more, with what is in front of it.
pub(crate) fn framed_len_max(payload_len: usize) -> u64 {
    FRAME_LEN_MAX + payload_len as u64
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

impl Stamp {
    fn encode(self) -> [u8; STAMP_LEN] {
        let lag = u64::from(code_of(self.lag)) << (8 * SEQNO_LEN);
        (self.seqno | lag).to_le_bytes()
    }

    fn decode(stored: u64) -> Stamp {
        let lag = lag_of((stored >> (8 * SEQNO_LEN)) as u8);
        Stamp { seqno: stored & ((1 << (8 * SEQNO_LEN)) - 1), lag }
    }

    /// As it is read back.
    fn stored(self) -> Stamp {
        Stamp { seqno: self.seqno, lag: lag_of(code_of(self.lag)) }
    }

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

/// Which records of a segment need a stamp: those that claim more than the ones before, the first in
/// each 4 KiB, so that damage of whole pages hides no record behind it, and the very short ones.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stamps {
    /// The block of the last record, counted from 1; 0 before the first.
    block: u64,
    claim: Option<u64>,
    /// What of it the codes of lags could say so far.
    stored: Option<u64>,
}

impl Stamps {
    /// How long records of `bytes` bytes may get that are copied to other offsets, and claim
    /// nothing there: of those in one block, one gets a stamp that it had not, and one padding.
    pub(crate) fn bytes_at_most(bytes: u64) -> u64 {
        bytes + (2 + bytes / STAMP_EVERY) * 2 * FRAME_LEN_MAX
    }

    /// The stamp of a record of `len` bytes that is to follow what ends at `offset`: `stamp`, if it
    /// needs one.
    #[inline]
    pub(crate) fn next(&mut self, offset: u64, len: usize, stamp: Stamp) -> Option<Stamp> {
        let (block, claim) = (1 + offset / STAMP_EVERY, stamp.durable());
        let is_new = claim > self.claim || claim > self.stored && stamp.stored().durable() == claim;
        let needs_one = is_new || block != self.block || len < PLAIN_LEN_MIN;
        self.block = block;
        if needs_one {
            self.claim = self.claim.max(claim);
            self.stored = self.stored.max(stamp.stored().durable());
        }
        needs_one.then_some(stamp)
    }
}

/// Appends a record to `out` that will be written at `offset` of the file `context`, behind what
/// ends there.
///
/// Requires and panics as [`seal`].
pub(crate) fn encode_into(
    out: &mut Vec<u8>,
    context: Context,
    offset: u64,
    stamp: Option<Stamp>,
    payload: &[u8],
) {
    let start = out.len();
    out.resize(start + ROOM_LEN, 0);
    out.extend_from_slice(payload);
    let (_, record) = out.split_at_mut(start);
    let len = seal(record, context, offset, stamp).len();
    // What was left of the room goes.
    let end = out.len();
    out.copy_within(end - len.., start);
    out.truncate(start + len);
}

/// Makes `record`, a payload with [`ROOM_LEN`] bytes in front of it, a record of the file `context`,
/// and returns what is to be written at `offset`, where the one before ends.
///
/// Requires: the payload has 1 to [`PAYLOAD_LEN_MAX`] bytes, without a stamp 3 or more; the stamp's
/// sequence number is below 2^56.
///
/// # Panics
///
/// If the requirement is broken: such a record would make all that follow it unreadable.
pub(crate) fn seal(
    record: &mut [u8],
    context: Context,
    offset: u64,
    stamp: Option<Stamp>,
) -> &[u8] {
    let len = record.len().saturating_sub(ROOM_LEN);
    let len_min = if stamp.is_some() { 1 } else { PLAIN_LEN_MIN };
    assert!((len_min..=PAYLOAD_LEN_MAX).contains(&len), "a record has an impossible length");
    assert!(stamp.is_none_or(|stamp| stamp.seqno >> (8 * SEQNO_LEN) == 0));
    let tag = tag(len as u64, stamp.is_some());
    let padding = if stamp.is_some() { padding_at(offset) } else { 0 };
    // What the checksum takes in lies in one piece for it. Then the head takes its place.
    let mut at = Backwards { bytes: record, at: ROOM_LEN };
    if let Some(stamp) = stamp {
        at.put(&stamp.encode());
    }
    let behind_crc = at.at;
    at.put(&tag.to_le_bytes());
    at.put(&record_place(context.0, offset + padding));
    let crc = RecordChecksum::of(at.rest()).finish();
    at.at = behind_crc;
    at.put(&crc.to_le_bytes());
    at.put_varint(len as u64);
    if stamp.is_some() {
        at.put(&[HAS_STAMP]);
    }
    at.put([0; ALIGN as usize].split_at(padding as usize).0);
    at.into_rest()
}

/// Bytes that are filled from their end to their beginning.
struct Backwards<'a> {
    bytes: &'a mut [u8],
    /// What lies in front of it is free.
    at: usize,
}

impl<'a> Backwards<'a> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        let end = self.at;
        self.at -= bytes.len();
        let (free, _) = self.bytes.split_at_mut(end);
        free.split_at_mut(self.at).1.copy_from_slice(bytes);
    }

    /// Requires: `n` is not 0.
    #[inline]
    fn put_varint(&mut self, mut n: u64) {
        let len = (64 - n.leading_zeros()).div_ceil(7) as usize;
        self.at -= len;
        for (i, place) in self.bytes.iter_mut().skip(self.at).take(len).enumerate() {
            let goes_on = if i + 1 < len { 0x80 } else { 0 };
            *place = (n & 0x7f) as u8 | goes_on;
            n >>= 7;
        }
    }

    fn rest(&self) -> &[u8] {
        self.bytes.split_at(self.at).1
    }

    fn into_rest(self) -> &'a [u8] {
        self.bytes.split_at(self.at).1
    }
}

/// What the checksum takes in for the bytes in front of it.
fn tag(len: u64, has_stamp: bool) -> u64 {
    len << 1 | u64::from(has_stamp)
}

/// Bytes from `offset` to the next place where a record with a stamp may start.
fn padding_at(offset: u64) -> u64 {
    offset.wrapping_neg() % ALIGN
}

/// A valid record, by its place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// If it has one. Else its sequence number is the one that comes next.
    pub(crate) stamp: Option<Stamp>,
    /// Where the payload lies in the bytes that were given.
    pub(crate) payload: Range<usize>,
    /// Where it ends. The next one starts there, or behind padding.
    pub(crate) end: u64,
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

/// What is in front of a payload, if it is one.
struct Frame {
    len: u64,
    crc: u32,
    /// As it is stored.
    stamp: Option<u64>,
    /// Bytes in front of the payload.
    head_len: usize,
}

impl Frame {
    #[inline]
    fn parse(bytes: &[u8]) -> Result<Frame, Malformed> {
        let mut decoder = Decoder::new(bytes);
        let mut len = decoder.varint32()?;
        let has_stamp = len == u32::from(HAS_STAMP);
        if has_stamp {
            len = decoder.varint32()?;
        }
        if len == 0 {
            return Err(Malformed("a record has length 0"));
        }
        if !has_stamp && len < PLAIN_LEN_MIN as u32 || len as usize > PAYLOAD_LEN_MAX {
            return Err(Malformed("a record has an impossible length"));
        }
        let crc = decoder.u32()?;
        let stamp = if has_stamp { Some(decoder.u64()?) } else { None };
        let head_len = bytes.len() - decoder.rest().len();
        Ok(Frame { len: u64::from(len), crc, stamp, head_len })
    }

    /// Of all that is in front of the payload of a record at `offset`.
    fn checksum(&self, context: Context, offset: u64) -> RecordChecksum {
        let tag = tag(self.len, self.stamp.is_some());
        let crc = RecordChecksum::new(context.0, offset).update(&tag.to_le_bytes());
        match self.stamp {
            Some(stamp) => crc.update(&stamp.to_le_bytes()),
            None => crc,
        }
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
    let padding = if rest.first() == Some(&0) { padding_at(offset) } else { 0 };
    let Some((zeros, rest)) = rest.split_at_checked(padding as usize) else {
        return Decoded::End;
    };
    if zeros.iter().any(|&byte| byte != 0) {
        return Decoded::Invalid("what lies between two records is not zero");
    }
    let offset = offset + padding;
    if rest.iter().take(END_LEN).all(|&byte| byte == 0) {
        return Decoded::End;
    }
    let frame = match Frame::parse(rest) {
        Ok(frame) => frame,
        Err(Malformed(what)) => return Decoded::Invalid(what),
    };
    let can_have_stamp = padding_at(offset) == 0;
    if if frame.stamp.is_some() { !can_have_stamp } else { padding > 0 } {
        return Decoded::Invalid("a record starts where none of its kind can be");
    }
    let (len, head_len) = (frame.len as usize, frame.head_len);
    let Some(payload) = rest.get(head_len..).and_then(|body| body.get(..len)) else {
        return Decoded::Invalid("a record is longer than the rest of the file");
    };
    if frame.checksum(context, offset).update(payload).finish() != frame.crc {
        return Decoded::Invalid("a record's checksum does not match");
    }
    let start = bytes.len() - rest.len() + head_len;
    Decoded::Record(Record {
        stamp: frame.stamp.map(Stamp::decode),
        payload: start..start + len,
        end: offset + (head_len + len) as u64,
    })
}

/// How many bytes from `offset` to where a record ends of which `bytes` lie there, if they are its
/// beginning: one behind padding if there is no record. They may be any bytes: believe it within the
/// file's length only.
pub(crate) fn framed_len_of(bytes: &[u8], offset: u64) -> Option<u64> {
    let padding = if bytes.first() == Some(&0) { padding_at(offset) } else { 0 };
    let rest = bytes.get(padding as usize..)?;
    match Frame::parse(rest) {
        Ok(frame) => Some(padding + frame.head_len as u64 + frame.len),
        Err(_) if rest.first() == Some(&0) || rest.len() as u64 >= FRAME_LEN_MAX => {
            Some(padding + 1)
        }
        Err(_) => None,
    }
}

/// What [`scan_for_valid`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// A valid record at this offset.
    Found(u64, Record),
    /// There is none.
    Nothing,
}

/// Looks for the first valid record with a stamp that starts within `offsets`, and whose stamp is
/// `plausible`.
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
        let Some(rest) = rest.filter(|rest| !rest.is_empty()) else {
            break;
        };
        let frame = Frame::parse(rest).ok().filter(|frame| {
            let fits = frame.len <= (rest.len() - frame.head_len) as u64;
            fits && frame.stamp.is_some_and(|stamp| plausible(Stamp::decode(stamp)))
        });
        if let Some(frame) = frame {
            let (head_len, len) = (frame.head_len, frame.len as usize);
            let may_match = if let Some(left) = effort.checked_sub((head_len + len) as u64) {
                effort = left;
                true
            } else {
                let ranges = ranges.get_or_insert_with(|| RangeChecksums::new(bytes));
                let start = bytes.len() - rest.len() + head_len;
                let payload = ranges.of(start..start + len);
                let crc = frame.checksum(context, offset).update_with(payload, len as u64);
                crc.finish() == frame.crc
            };
            if may_match && let Decoded::Record(record) = decode_at(context, bytes, offset) {
                return Scan::Found(offset, record);
            }
        }
        offset += ALIGN;
    }
    Scan::Nothing
}
