//! Vocabulary: what every layer above speaks, and nothing that touches a disk, a lock or a thread.
//!
//! *Overview of types.* A user key and a [`Trailer`](key::Trailer) ([`SeqNo`](seqno::SeqNo) and
//! [`ValueKind`](value::ValueKind)) form an internal key, ordered by [`KeyRef`](key::KeyRef). Bytes
//! that leave the engine are a [`Slice`](slice::Slice). A [`Batch`](batch::Batch) is the byte form
//! of a write: the same bytes are built by the user, stored by the WAL and applied to memtables.
//! [`InternalIter`](internal_iter::InternalIter) is the cursor that every sorted source offers.
//! [`Error`](error::Error) is the one error type.

pub(crate) mod batch;
pub(crate) mod bits;
pub(crate) mod blob;
pub(crate) mod chance;
pub(crate) mod checksum;
pub(crate) mod clock;
pub(crate) mod coding;
pub(crate) mod compression;
pub(crate) mod error;
pub(crate) mod hooks;
pub(crate) mod ids;
pub(crate) mod internal_iter;
pub(crate) mod key;
pub(crate) mod lookup;
pub(crate) mod operators;
pub(crate) mod options;
pub(crate) mod planted;
pub(crate) mod prefetch;
pub(crate) mod range;
pub(crate) mod range_tombstone;
pub(crate) mod seqno;
pub(crate) mod slice;
pub(crate) mod sorted;
pub(crate) mod spans;
pub(crate) mod stats;
pub(crate) mod sync;
pub(crate) mod value;
