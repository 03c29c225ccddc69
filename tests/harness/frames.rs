//! Finds the records of log segments and manifests, by a reader of its own, written from the
//! description of the format.

use std::ops::Range;

/// A record of a file.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// With the padding in front of it.
    pub(crate) bytes: Range<usize>,
    pub(crate) payload: Range<usize>,
    /// Sequence number and code of the lag.
    pub(crate) stamp: Option<(u64, u8)>,
}

/// The record that follows what ends at `end` of the log file `file`, if there is a valid one.
pub(crate) fn frame_at(file: &[u8], end: usize) -> Option<Frame> {
    let is_padded = *file.get(end)? == 0;
    let start = if is_padded { end.next_multiple_of(8) } else { end };
    let has_stamp = *file.get(start)? == 1;
    let mut at = start + usize::from(has_stamp);
    let mut len = 0;
    for shift in (0..35).step_by(7) {
        let byte = *file.get(at)?;
        len |= usize::from(byte & 0x7f) << shift;
        at += 1;
        if byte < 0x80 {
            break;
        }
    }
    let crc = u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?);
    let covered = at + 4;
    let stamp = if has_stamp { Some(u64_at(file, covered)?) } else { None };
    let stamp = stamp.map(|stamp| (stamp << 8 >> 8, (stamp >> 56) as u8));
    let payload = if has_stamp { covered + 8 } else { covered };
    let payload = payload..payload + len;
    let identity = u64_at(file, 16)?.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64_at(file, 24)?;
    let tag = (len as u64) << 1 | u64::from(has_stamp);
    let place = [identity, start as u64, tag].map(u64::to_le_bytes);
    let place = place.as_flattened().iter();
    let is_valid = crc32(place.chain(file.get(covered..payload.end)?)) == crc;
    (is_valid && !payload.is_empty()).then_some(Frame { bytes: end..payload.end, payload, stamp })
}

fn crc32<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    !bytes.fold(u32::MAX, |crc, byte| {
        let shift = |crc: u32, _| crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        (0..8).fold(crc ^ u32::from(*byte), shift)
    })
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
