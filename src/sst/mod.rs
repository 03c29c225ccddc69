//! SSTs: immutable files of sorted entries that are searched where they lie.
//!
//! *Overview of types.* [`SstWriter`] takes entries in order and returns an [`SstSummary`] of the
//! finished file. [`SstReader`] is an open file: point reads, [`Properties`](properties::Properties),
//! and the cursor [`SstIter`]. [`SstReader::verify`] reads every byte and counts what it saw in an
//! [`SstCheck`](verify::SstCheck).
//!
//! # Format, version 1
//!
//! ```text
//! ┌──────────────┐ offset 0
//! │ data block   │ ┐
//! │ data block   │ │ sorted entries; see data_block.rs. Folded and compressed where that
//! │ …            │ ┘ pays, see folded.rs; else raw
//! ├──────────────┤ padded with zeros to a multiple of 64
//! │ filter       │ ┐ one per partition: may this file hold the key? see filter.rs
//! │ …            │ ┘
//! ├──────────────┤
//! │ index        │ ┐ one per partition, of about 256 data blocks: where is the block
//! │ …            │ ┘ that may hold the key? see index_block.rs
//! ├──────────────┤
//! │ range tombs. │   if there are any; in memory while the file is open; see range_block.rs
//! ├──────────────┤
//! │ properties   │   what is known of the file as a whole; see properties.rs
//! ├──────────────┤
//! │ top index    │   one entry per partition, in memory while the file is open; see top_index.rs
//! ├──────────────┤
//! │ footer       │   72 bytes: where top index and properties are; see footer.rs
//! └──────────────┘
//! ```
//!
//! Integers are little-endian. Each block but the footer is stored as
//!
//! | bytes | field |
//! |---|---|
//! | n | payload |
//! | 1 | kind: 1 data, 2 filter, 3 index, 4 range tombstones, 5 properties, 6 top index |
//! | 1 | compression: 0 none, 2 lz4 (payload = u32 raw length, lz4 block) of the folded block; data blocks only |
//! | 8 | checksum of all before it, bound to the file's uid and the block's offset |
//!
//! A block is valid if and only if its checksum is that of its bytes in this place of this file.
//!
//! # Invariants
//!
//! - I1: entries ascend strictly in THE order, within and across blocks.
//! - I2: data blocks lie one behind the other from offset 0, in order.
//! - I3: with `sep(i)` the separator of block i: last user key of block i - 1 < `sep(i)` ≤ first
//!   user key of block i; except that all three are equal if (and only if) the versions of one key
//!   go on from one block to the next. Then the bit `continues(i)` is set.
//! - I4: a filter knows every user key of the data blocks of its partition. A filter that cannot be
//!   read is an error: it is never taken for a "no".
//! - I5: no byte of a block is used before the block was verified, once per open file where it is
//!   read in place, else each time it is read from the file, by a call or through its mapping.
//!
//! # How a point read goes
//!
//! Top index (in memory): last partition whose separator is at most the key → its filter, one cache
//! line → its index, the same search → data block: prefix, fingerprints, then the one or two keys
//! whose fingerprint and head match. If the block ends in the middle of the key's versions, the next one follows.

mod block;
mod data_block;
mod data_block_builder;
mod filter;
mod folded;
mod footer;
mod index_block;
mod iter;
mod load;
mod multi_get;
mod packer;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod parts;
mod properties;
mod range_block;
mod read_ahead;
mod reader;
mod residence;
mod salvage;
mod samples;
mod top_index;
mod verify;
mod warm;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use iter::SstIter;
pub(crate) use reader::Aim;
pub(crate) use reader::SstExpectation;
pub(crate) use reader::SstReader;
pub(crate) use salvage::SalvageIter;
pub(crate) use writer::SstSummary;
pub(crate) use writer::SstWriter;
