//! One record of a blob file: encoding and checking.
#![deny(clippy::indexing_slicing)]

use crate::base::checksum::block_checksum;
use crate::base::coding::Decoder;
use crate::base::coding::Malformed;
use crate::base::compression::Compression;
use crate::base::compression::compress_lz4;
use crate::base::compression::pays;
use crate::base::planted::Planted;

/// Bytes in front of the key.
pub(super) const HEAD_LEN: usize = 16;
const SUM_LEN: usize = 8;

/// A record's parts, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) key: &'a [u8],
    pub(super) compression: Compression,
    /// The value as stored.
    pub(super) stored: &'a [u8],
}

/// Appends the record of `value` to `out`; it will be stored at `offset` of the file `uid`.
/// `packed` is scratch.
pub(super) fn append(
    out: &mut Vec<u8>,
    packed: &mut Vec<u8>,
    (uid, offset): (u64, u64),
    compression: Compression,
    key: &[u8],
    value: &[u8],
) {
    let packed = match compression {
        Compression::None => None,
        Compression::Lz4 => compress_lz4(value, packed),
    };
    let (compression, stored) = match packed.filter(|packed| pays(packed, value.len())) {
        Some(packed) => (Compression::Lz4, packed),
        None => (Compression::None, value),
    };
    let start = out.len();
    out.extend_from_slice(&[0; SUM_LEN]);
    out.extend_from_slice(&(stored.len() as u32).to_le_bytes());
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(&[compression as u8, 0]);
    out.extend_from_slice(key);
    out.extend_from_slice(stored);
    if let Some(record) = out.get_mut(start..) {
        seal(record, uid, offset);
    }
}

/// Makes the checksum of `record` right, if it is long enough to have one.
pub(super) fn seal(record: &mut [u8], uid: u64, offset: u64) {
    if let Some((sum, rest)) = record.split_first_chunk_mut() {
        *sum = block_checksum(uid, offset, rest).to_le_bytes();
    }
}

/// How long the record is that begins with `head`, if that is true.
pub(super) fn claimed_len(head: &[u8; HEAD_LEN]) -> Result<u64, Malformed> {
    let mut from = Decoder::new(head);
    from.take(SUM_LEN)?;
    let stored = u64::from(from.u32()?);
    let key = u64::from(u16::from_le_bytes([from.u8()?, from.u8()?]));
    Ok(HEAD_LEN as u64 + key + stored)
}

/// The parts of `record`, if it was written to this place of this file, whole.
pub(super) fn check(record: &[u8], uid: u64, offset: u64) -> Result<Record<'_>, Malformed> {
    let mut from = Decoder::new(record);
    let sum = from.u64()?;
    let matches = sum == block_checksum(uid, offset, from.rest());
    if !matches && !Planted::ChecksumIgnored.is_on() {
        return Err(Malformed("a record does not match its checksum"));
    }
    let stored_len = from.u32()? as usize;
    let key_len = u16::from_le_bytes([from.u8()?, from.u8()?]);
    let compression = match (from.u8()?, from.u8()?) {
        (0, 0) => Compression::None,
        (1, 0) => Compression::Lz4,
        _ => return Err(Malformed("a record has an unknown compression")),
    };
    let key = from.take(usize::from(key_len))?;
    let stored = from.take(stored_len)?;
    if !from.is_empty() {
        return Err(Malformed("a record is longer than it says"));
    }
    Ok(Record { key, compression, stored })
}
