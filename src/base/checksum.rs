//! Checksums, bound to the place where the bytes belong.
//!
//! A checksum that covers only content accepts a block that was written to the wrong place, or a
//! record left over from the log that used the file before. So each takes a *context* (which file)
//! and an *offset* (where in it) and is worth nothing elsewhere.

use xxhash_rust::xxh3;

/// 64-bit hash of a user key. Stored in filters and blocks on disk: never change it.
pub(crate) fn hash64(bytes: &[u8]) -> u64 {
    xxh3::xxh3_64(bytes)
}

/// Checksum of an SST block at `offset` of the file whose identity is `context`: xxh3, 64 bits.
pub(crate) fn block_checksum(context: u64, offset: u64, bytes: &[u8]) -> u64 {
    xxh3::xxh3_64_with_seed(bytes, context ^ offset.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// [`block_checksum`] in parts, which may be asked for in between.
pub(crate) struct BlockChecksum(xxh3::Xxh3);

impl BlockChecksum {
    pub(crate) fn new(context: u64, offset: u64) -> BlockChecksum {
        let seed = context ^ offset.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        BlockChecksum(xxh3::Xxh3::with_seed(seed))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of everything so far.
    pub(crate) fn finish(&self) -> u64 {
        self.0.digest()
    }
}

/// Checksum of a log record at `offset` of the file whose identity is `context`: CRC-32, in parts.
pub(crate) struct RecordChecksum(crc32fast::Hasher);

impl RecordChecksum {
    pub(crate) fn new(context: u64, offset: u64) -> RecordChecksum {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&context.to_le_bytes());
        hasher.update(&offset.to_le_bytes());
        RecordChecksum(hasher)
    }

    #[must_use]
    pub(crate) fn update(mut self, bytes: &[u8]) -> RecordChecksum {
        self.0.update(bytes);
        self
    }

    pub(crate) fn finish(self) -> u32 {
        self.0.finalize()
    }
}
