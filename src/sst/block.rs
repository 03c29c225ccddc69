//! The envelope of every block: payload, then kind, compression and checksum.
#![deny(clippy::indexing_slicing)]

use std::ops::Range;

use bytes::Bytes;

use crate::base::checksum::block_checksum;
use crate::base::coding::Decoder;
use crate::base::coding::Malformed;
use crate::base::coding::put_varint;
use crate::base::compression::Compression;
use crate::base::planted::Planted;
use crate::base::slice::COPY_LEN_MAX;
use crate::base::slice::Slice;
use crate::cache::Block;
use crate::cache::BlockGuard;
use crate::sst::folded;

/// Bytes behind the payload: kind, compression, checksum.
pub(super) const TRAILER_LEN: usize = 10;

/// How a compressed block says so. (1 was lz4 of the block as it is, before there was a release.)
const LZ4_FOLDED: u8 = 2;

/// What says in a block's trailer how it is stored.
pub(super) fn stored_compression(compression: Compression) -> u8 {
    match compression {
        Compression::None => 0,
        Compression::Lz4 => LZ4_FOLDED,
    }
}

/// What a block holds. The numbers are stored on disk; never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum BlockKind {
    Data = 1,
    Filter = 2,
    Index = 3,
    Ranges = 4,
    Properties = 5,
    Top = 6,
}

/// Where a block lies. A length of 0 means that there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BlockHandle {
    pub(super) offset: u64,
    /// Of the payload as stored, without the trailer.
    pub(super) len: u32,
}

impl BlockHandle {
    pub(super) const NONE: BlockHandle = BlockHandle { offset: 0, len: 0 };

    pub(super) fn is_none(self) -> bool {
        self.len == 0
    }

    /// Payload and trailer.
    pub(super) fn stored_len(self) -> u64 {
        u64::from(self.len) + TRAILER_LEN as u64
    }

    /// Behind the trailer.
    pub(super) fn end(self) -> u64 {
        self.offset.saturating_add(self.stored_len())
    }

    /// An error unless the block ends by `end`, where its file does.
    pub(super) fn check_end(self, end: u64) -> Result<(), Malformed> {
        if self.end() > end { Err(Malformed("a block lies outside of the file")) } else { Ok(()) }
    }

    /// Where the payload lies in a mapping of the file; none if beyond what memory can hold.
    #[inline]
    pub(super) fn range(self) -> Option<Range<usize>> {
        let start = usize::try_from(self.offset).ok()?;
        Some(start..start.checked_add(self.len as usize)?)
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        put_varint(out, self.offset);
        put_varint(out, u64::from(self.len));
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<BlockHandle, Malformed> {
        Ok(BlockHandle { offset: from.varint()?, len: from.varint32()? })
    }
}

/// Turns `out[start..]`, a payload that will be stored at `offset` of file `uid`, into a block.
#[expect(clippy::indexing_slicing, reason = "the writer's own bytes")]
pub(super) fn seal(
    out: &mut Vec<u8>,
    start: usize,
    kind: BlockKind,
    compression: Compression,
    uid: u64,
    offset: u64,
) {
    out.push(kind as u8);
    out.push(stored_compression(compression));
    let sum = block_checksum(uid, offset, &out[start..]);
    out.extend_from_slice(&sum.to_le_bytes());
}

/// The payload of a stored block and its compression, if it is a block of this kind that was
/// written to this place of this file.
pub(super) fn check(
    stored: &[u8],
    kind: BlockKind,
    uid: u64,
    offset: u64,
) -> Result<(&[u8], Compression), Malformed> {
    let (body, sum) =
        stored.split_last_chunk::<8>().ok_or(Malformed("a block is shorter than its trailer"))?;
    let matches = block_checksum(uid, offset, body) == u64::from_le_bytes(*sum);
    if !matches && !Planted::ChecksumIgnored.is_on() {
        return Err(Malformed("a block does not match its checksum"));
    }
    let (payload, [stored_kind, compression]) =
        body.split_last_chunk::<2>().ok_or(Malformed("a block is shorter than its trailer"))?;
    if *stored_kind != kind as u8 {
        return Err(Malformed("a block is of another kind than expected"));
    }
    match *compression {
        0 => Ok((payload, Compression::None)),
        LZ4_FOLDED => Ok((payload, Compression::Lz4)),
        _ => Err(Malformed("a block has an unknown compression")),
    }
}

/// The content of a stored block, checked and copied or decompressed.
pub(super) fn unpack(
    stored: &[u8],
    kind: BlockKind,
    uid: u64,
    offset: u64,
) -> Result<Block, Malformed> {
    let (payload, compression) = check(stored, kind, uid, offset)?;
    unpack_checked(payload, compression)
}

/// The content of a block, given what [`check`] has said of it.
pub(super) fn unpack_checked(payload: &[u8], compression: Compression) -> Result<Block, Malformed> {
    match compression {
        Compression::None => Ok(Block::from(payload)),
        Compression::Lz4 => folded::unpack(payload),
    }
}

/// Where the content of a block is.
#[derive(Debug)]
pub(super) enum BlockBytes {
    /// In place, in the mapping of the file. No reference count is touched.
    Mapped(Range<usize>),
    /// In memory of its own, often shared with the cache.
    Owned(Block),
    /// In the cache, lent for a moment. No reference count is touched.
    Lent(BlockGuard),
    /// In place, in what a scan has read.
    Chunk(Bytes),
}

impl BlockBytes {
    pub(super) const EMPTY: BlockBytes = BlockBytes::Mapped(0..0);

    /// The content. `mapping` is the file's; empty if it has none.
    #[inline]
    pub(super) fn get<'a>(&'a self, mapping: &'a [u8]) -> &'a [u8] {
        match self {
            BlockBytes::Mapped(range) => mapping.get(range.clone()).unwrap_or_default(),
            BlockBytes::Owned(bytes) => bytes,
            BlockBytes::Lent(bytes) => bytes,
            BlockBytes::Chunk(bytes) => bytes,
        }
    }

    /// `part`, which lies in the content, to keep: pinned where it is large, else copied.
    pub(super) fn keep(&self, mapping: &Bytes, part: &[u8]) -> Slice {
        match self {
            BlockBytes::Mapped(_) => Slice::part_of(mapping, part),
            BlockBytes::Chunk(bytes) => Slice::part_of(bytes, part),
            _ if part.len() <= COPY_LEN_MAX => Slice::copy_from(part),
            BlockBytes::Owned(bytes) => keep_part(bytes.clone(), part),
            BlockBytes::Lent(bytes) => match bytes.to_block() {
                Some(bytes) => keep_part(bytes, part),
                None => Slice::copy_from(part),
            },
        }
    }

    /// The same, to be held for as long as one likes.
    pub(super) fn into_owned(self) -> BlockBytes {
        match self {
            BlockBytes::Lent(bytes) => {
                bytes.to_block().map_or(BlockBytes::EMPTY, BlockBytes::Owned)
            }
            kept => kept,
        }
    }
}

fn keep_part(block: Block, part: &[u8]) -> Slice {
    Slice::part_of(&Bytes::from_owner(block), part)
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;

    fn sealed(payload: &[u8]) -> Vec<u8> {
        let mut out = payload.to_vec();
        seal(&mut out, 0, BlockKind::Data, Compression::None, 7, 4096);
        out
    }

    #[test]
    fn a_block_is_valid_only_in_its_place() {
        let stored = sealed(b"payload");
        assert_eq!(stored.len(), 7 + TRAILER_LEN);
        assert_eq!(
            check(&stored, BlockKind::Data, 7, 4096),
            Ok((&b"payload"[..], Compression::None))
        );
        assert!(check(&stored, BlockKind::Data, 8, 4096).is_err());
        assert!(check(&stored, BlockKind::Data, 7, 4095).is_err());
        assert!(check(&stored, BlockKind::Index, 7, 4096).is_err());
    }

    #[test]
    fn every_flip_and_truncation_is_detected() {
        let stored = sealed(b"some payload");
        for len in 0..stored.len() {
            assert!(check(&stored[..len], BlockKind::Data, 7, 4096).is_err());
        }
        for at in 0..stored.len() {
            for bit in 0..8 {
                let mut damaged = stored.clone();
                damaged[at] ^= 1 << bit;
                assert!(check(&damaged, BlockKind::Data, 7, 4096).is_err());
            }
        }
    }
}
