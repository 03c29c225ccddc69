//! Values that lie apart from their entries, in blob files: how an entry refers to one, and who
//! fetches it.
//!
//! ```text
//! handle   varint file number | varint offset of the record | varint its length
//!          | varint length of the value
//! ```
//!
//! An entry of kind [`BlobRef`](crate::base::value::ValueKind::BlobRef) has a handle for its value; one
//! that expires has eight bytes of expiry in front of it, as in front of a value.

use std::fmt::Debug;

use crate::base::coding::Decoder;
use crate::base::coding::Malformed;
use crate::base::coding::put_varint;
use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::base::slice::Slice;

/// The threshold of a keyspace that stores all values with their entries.
pub(crate) const NEVER_APART: u64 = u64::MAX;

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlobHandle {
    pub(crate) file: FileId,
    /// Where its record begins.
    pub(crate) offset: u64,
    /// Bytes of the record.
    pub(crate) len: u32,
    /// Bytes of the value, uncompressed.
    pub(crate) value_len: u32,
}

impl BlobHandle {
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        for n in [self.file.0, self.offset, u64::from(self.len), u64::from(self.value_len)] {
            put_varint(out, n);
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<BlobHandle, Malformed> {
        let mut from = Decoder::new(bytes);
        let (file, offset) = (FileId(from.varint()?), from.varint()?);
        let (len, value_len) = (from.varint32()?, from.varint32()?);
        if !from.is_empty() || file > FileId::STORED_MAX {
            return Err(Malformed("the handle of a value cannot be"));
        }
        Ok(BlobHandle { file, offset, len, value_len })
    }
}

/// How many bytes of a blob file the entries of an SST refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlobUse {
    pub(crate) file: FileId,
    /// Of their records, in all.
    pub(crate) bytes: u64,
}

/// Who fetches values by their handles.
pub(crate) trait BlobSource: Debug + Send + Sync {
    /// The value of `key`, whose entry has `handle`.
    ///
    /// # Errors
    /// `Corruption`, which names the blob file; `Io`.
    fn fetch(&self, key: &[u8], handle: &[u8]) -> Result<Slice>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_round_trip_and_what_is_none_is_refused() {
        let handle = BlobHandle { file: FileId(7), offset: 1 << 40, len: 4200, value_len: 4096 };
        let mut bytes = Vec::new();
        handle.encode(&mut bytes);
        assert_eq!(BlobHandle::decode(&bytes), Ok(handle));
        for len in 0..bytes.len() {
            assert!(BlobHandle::decode(&bytes[..len]).is_err());
        }
        bytes.push(0);
        assert!(BlobHandle::decode(&bytes).is_err());
    }
}
