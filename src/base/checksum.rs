//! Checksums, bound to the place where the bytes belong.
//!
//! A checksum that covers only content accepts a block that was written to the wrong place, or a
//! record left over from the log that used the file before. So each takes a *context* (which file)
//! and an *offset* (where in it) and is worth nothing elsewhere.

use std::ops::Range;

use xxhash_rust::xxh3;

/// 64-bit hash of a user key. Stored in filters and blocks on disk: never change it.
pub(crate) fn hash64(bytes: &[u8]) -> u64 {
    xxh3::xxh3_64(bytes)
}

/// Checksum of an SST block at `offset` of the file whose identity is `context`: xxh3, 64 bits.
pub(crate) fn block_checksum(context: u64, offset: u64, bytes: &[u8]) -> u64 {
    xxh3::xxh3_64_with_seed(bytes, block_seed(context, offset))
}

fn block_seed(context: u64, offset: u64) -> u64 {
    context ^ offset.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// [`block_checksum`] in parts, which may be asked for in between.
pub(crate) struct BlockChecksum(xxh3::Xxh3);

impl BlockChecksum {
    pub(crate) fn new(context: u64, offset: u64) -> BlockChecksum {
        BlockChecksum(xxh3::Xxh3::with_seed(block_seed(context, offset)))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of everything so far.
    pub(crate) fn finish(&self) -> u64 {
        self.0.digest()
    }
}

/// Bytes of a [`record_place`].
pub(crate) const PLACE_LEN: usize = 16;

/// What stands for the place of a record in its checksum, in front of all else.
#[inline]
pub(crate) fn record_place(context: u64, offset: u64) -> [u8; PLACE_LEN] {
    (u128::from(offset) << 64 | u128::from(context)).to_le_bytes()
}

/// Checksum of a log record at `offset` of the file whose identity is `context`: CRC-32, in parts.
pub(crate) struct RecordChecksum(crc32fast::Hasher);

impl RecordChecksum {
    pub(crate) fn new(context: u64, offset: u64) -> RecordChecksum {
        RecordChecksum::of(&record_place(context, offset))
    }

    /// Of bytes that begin with a [`record_place`].
    #[inline]
    pub(crate) fn of(bytes: &[u8]) -> RecordChecksum {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(bytes);
        RecordChecksum(hasher)
    }

    #[must_use]
    pub(crate) fn update(mut self, bytes: &[u8]) -> RecordChecksum {
        self.0.update(bytes);
        self
    }

    /// As [`RecordChecksum::update`], with `len` bytes of which only the CRC-32 is known.
    #[must_use]
    pub(crate) fn update_with(mut self, crc: u32, len: u64) -> RecordChecksum {
        self.0.combine(&crc32fast::Hasher::new_with_initial_len(crc, len));
        self
    }

    pub(crate) fn finish(self) -> u32 {
        self.0.finalize()
    }
}

/// The CRC-32 of any range of some bytes, in a time that hardly depends on its length, after one
/// pass over all of them.
pub(crate) struct RangeChecksums<'a> {
    chunks: Vec<&'a [u8]>,
    /// Of all bytes in front of each chunk.
    before: Vec<u32>,
}

impl<'a> RangeChecksums<'a> {
    const CHUNK_LEN: usize = 256;

    pub(crate) fn new(bytes: &'a [u8]) -> RangeChecksums<'a> {
        let chunks: Vec<&[u8]> = bytes.chunks(RangeChecksums::CHUNK_LEN).collect();
        let mut hasher = crc32fast::Hasher::new();
        let before = chunks.iter().map(|chunk| {
            let before = hasher.clone().finalize();
            hasher.update(chunk);
            before
        });
        let before = before.collect();
        RangeChecksums { chunks, before }
    }

    /// That of `range`, which lies within the bytes.
    pub(crate) fn of(&self, range: Range<usize>) -> u32 {
        if range.is_empty() {
            return 0;
        }
        let len = (range.end - range.start) as u64;
        let mut front = crc32fast::Hasher::new_with_initial_len(self.up_to(range.start), 0);
        // To append is to shift the first checksum by a length and to add the second. Here the
        // second is that of both together, so that the first cancels itself.
        front.combine(&crc32fast::Hasher::new_with_initial_len(self.up_to(range.end), len));
        front.finalize()
    }

    fn up_to(&self, end: usize) -> u32 {
        let (n, rest) = (end / RangeChecksums::CHUNK_LEN, end % RangeChecksums::CHUNK_LEN);
        let chunk = n.min(self.chunks.len().saturating_sub(1));
        let part = if chunk == n { rest } else { RangeChecksums::CHUNK_LEN };
        let before = self.before.get(chunk).copied().unwrap_or_default();
        let mut hasher = crc32fast::Hasher::new_with_initial_len(before, 0);
        hasher.update(self.chunks.get(chunk).and_then(|all| all.get(..part)).unwrap_or_default());
        hasher.finalize()
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_have_the_checksums_of_their_bytes(
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
            a: prop::sample::Index,
            b: prop::sample::Index,
        ) {
            let (a, b) = (a.index(bytes.len() + 1), b.index(bytes.len() + 1));
            let range = a.min(b)..a.max(b);
            let crc = RangeChecksums::new(&bytes).of(range.clone());
            prop_assert_eq!(crc, crc32fast::hash(&bytes[range.clone()]));
            let checksum = || RecordChecksum::new(1, 2).update(b"x");
            prop_assert_eq!(
                checksum().update_with(crc, range.len() as u64).finish(),
                checksum().update(&bytes[range]).finish()
            );
        }
    }
}
