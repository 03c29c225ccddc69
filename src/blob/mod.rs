//! Blob files: values that lie apart from their entries, which keep handles to them.
//!
//! *Overview of types.* A [`BlobWriter`] writes one, a [`BlobReader`] fetches values by their
//! [handles](crate::base::blob::BlobHandle). [`scan`] reads one from front to back, without handles.
//!
//! *Format of `NNNNNN.blob`.* A [file header](crate::record::header) whose own bytes are the file's
//! uid, the number of its keyspace and zeros; then records, one behind the other, up to the end of
//! the file. There is no footer: the manifest knows length and uid, and nobody looks for anything in
//! a blob file without a handle.
//!
//! ```text
//! record   8  xxh3 of all that follows, seeded with the file's uid and the record's offset
//!          4  n: bytes of the value as stored
//!          2  k: bytes of the key
//!          1  compression: 0 none, 1 lz4 (u32 length of the value, lz4 block)
//!          1  0
//!          k  user key
//!          n  value
//! ```
//!
//! The key is there so that a record says whose it is: a handle that leads to another one is noticed.
//! lz4 is kept only where it saves an eighth of the value.
//!
//! *Invariants.*
//! - I1: a record is verified each time that it is read: checksum, place, key and length.
//! - I2: a blob file is never changed once it is finished.
//!
//! Values do not pass through the block cache: one of them would take the place of as many blocks as
//! it has pages. Where files are mapped, an uncompressed one is lent out of the mapping.

#[cfg(feature = "testing")]
pub(crate) mod parts;
mod reader;
mod record;
mod scan;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use reader::BlobExpectation;
pub(crate) use reader::BlobReader;
pub(crate) use reader::HEADER_LEN;
pub(crate) use scan::scan;
pub(crate) use writer::BlobSummary;
pub(crate) use writer::BlobWriter;

use crate::record::header::Format;

/// Blob files of this version.
pub(crate) const FORMAT: Format = Format { magic: *b"eskerBLB", version: 1 };
