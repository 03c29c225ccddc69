//! The footer: the last 72 bytes of a file, from which everything else is found.
//!
//! ```text
//! at  bytes  field
//!  0  12     top index: u64 offset, u32 length
//! 12  12     properties, likewise
//! 24  12     range tombstones, likewise; all zero if there are none
//! 36  8      uid of the file
//! 44  8      seqno of all entries: reserved, 0 (each entry has its own)
//! 52  4      format version
//! 56  8      checksum of bytes 0..56, bound to uid and offset
//! 64  8      magic
//! ```
//!
//! Every version keeps the length of the footer and the places of uid, version, checksum and magic,
//! so that an old reader can tell a newer file from a damaged one.
#![deny(clippy::indexing_slicing)]

use crate::base::checksum::block_checksum;
use crate::base::coding::Decoder;
use crate::base::coding::Malformed;
use crate::sst::block::BlockHandle;

pub(super) const FOOTER_LEN: usize = 72;
/// The newest format that this code reads, and the one that it writes.
pub(super) const FORMAT_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"eskerSST";
/// Bytes that the checksum covers.
const SUMMED_LEN: usize = 56;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) top: BlockHandle,
    pub(super) properties: BlockHandle,
    /// None if there are none.
    pub(super) ranges: BlockHandle,
    pub(super) uid: u64,
}

/// Why a footer cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    Malformed(Malformed),
    /// Written by a newer version: this one, at least.
    Version(u32),
}

impl From<Malformed> for Unreadable {
    fn from(error: Malformed) -> Unreadable {
        Unreadable::Malformed(error)
    }
}

fn put_handle(handle: BlockHandle, out: &mut Vec<u8>) {
    out.extend_from_slice(&handle.offset.to_le_bytes());
    out.extend_from_slice(&handle.len.to_le_bytes());
}

fn handle(from: &mut Decoder<'_>) -> Result<BlockHandle, Malformed> {
    Ok(BlockHandle { offset: from.u64()?, len: from.u32()? })
}

impl Footer {
    /// Appends the footer, which will be stored at `offset`, to `out`.
    pub(super) fn encode(&self, offset: u64, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(SUMMED_LEN);
        put_handle(self.top, &mut body);
        put_handle(self.properties, &mut body);
        put_handle(self.ranges, &mut body);
        body.extend_from_slice(&self.uid.to_le_bytes());
        body.extend_from_slice(&0u64.to_le_bytes());
        body.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&body);
        out.extend_from_slice(&block_checksum(self.uid, offset, &body).to_le_bytes());
        out.extend_from_slice(&MAGIC);
    }

    /// Reads the footer that is stored at `offset`.
    pub(super) fn decode(bytes: &[u8; FOOTER_LEN], offset: u64) -> Result<Footer, Unreadable> {
        let mut from = Decoder::new(bytes);
        let body = from.take(SUMMED_LEN)?;
        let sum = from.u64()?;
        if from.rest() != MAGIC {
            return Err(Malformed("the file does not end like an SST").into());
        }
        let mut from = Decoder::new(body);
        let top = handle(&mut from)?;
        let properties = handle(&mut from)?;
        let ranges = handle(&mut from)?;
        let uid = from.u64()?;
        let common_seqno = from.u64()?;
        let version = from.u32()?;
        if sum != block_checksum(uid, offset, body) {
            return Err(Malformed("the footer does not match its checksum").into());
        }
        if version > FORMAT_VERSION {
            return Err(Unreadable::Version(version));
        }
        if version == 0 {
            return Err(Malformed("the footer has format version 0").into());
        }
        if common_seqno != 0 {
            return Err(Unreadable::Version(FORMAT_VERSION + 1));
        }
        if ranges.is_none() && ranges.offset != 0 {
            return Err(Malformed("the footer has range tombstones of no length").into());
        }
        Ok(Footer { top, properties, ranges, uid })
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;

    fn encoded() -> (Footer, [u8; FOOTER_LEN]) {
        let footer = Footer {
            top: BlockHandle { offset: 1, len: 2 },
            properties: BlockHandle { offset: 3, len: 4 },
            ranges: BlockHandle { offset: 6, len: 7 },
            uid: 5,
        };
        let mut out = Vec::new();
        footer.encode(1000, &mut out);
        (footer, out.try_into().unwrap())
    }

    fn resum(bytes: &mut [u8; FOOTER_LEN]) {
        let sum = block_checksum(5, 1000, &bytes[..SUMMED_LEN]);
        bytes[SUMMED_LEN..SUMMED_LEN + 8].copy_from_slice(&sum.to_le_bytes());
    }

    #[test]
    fn footer_round_trips_and_every_flip_is_detected() {
        let (footer, bytes) = encoded();
        assert_eq!(Footer::decode(&bytes, 1000), Ok(footer));
        assert!(Footer::decode(&bytes, 1001).is_err());
        for at in 0..FOOTER_LEN {
            for bit in 0..8 {
                let mut damaged = bytes;
                damaged[at] ^= 1 << bit;
                assert!(matches!(Footer::decode(&damaged, 1000), Err(Unreadable::Malformed(_))));
            }
        }
    }

    #[test]
    fn what_a_newer_version_wrote_is_refused_as_such() {
        for (at, version) in [(52, 3), (44, 2)] {
            let (_, mut bytes) = encoded();
            bytes[at] |= 2;
            resum(&mut bytes);
            assert_eq!(Footer::decode(&bytes, 1000), Err(Unreadable::Version(version)));
        }
    }
}
