//! The byte form of a write: what `WriteBatch` builds, the WAL stores, and memtables apply.
//!
//! ```text
//! batch  := op*                                  the first op takes the record's sequence number,
//!                                                each further one the next
//! op     := tag varint | key len varint | key | (value len varint | value)?
//! tag    := keyspace << 4 | kind
//! ```
//!
//! `kind` is a [`ValueKind`]; `Delete` has no value, all others have one: `DeleteRange` the end of the
//! range that begins at the key, empty for the end of all keys. The bytes carry no count:
//! they end where the record that holds them ends.

use crate::base::coding::Decoder;
use crate::base::coding::Malformed;
use crate::base::coding::put_bytes;
use crate::base::coding::put_varint;
use crate::base::ids::KeyspaceId;
use crate::base::key::KEY_LEN_MAX;
use crate::base::key::VALUE_LEN_MAX;
use crate::base::range_tombstone::end_of;
use crate::base::range_tombstone::is_behind;
use crate::base::value::EXPIRY_LEN;
use crate::base::value::ValueKind;

/// Most bytes that one batch may hold; a WAL record's length fits 32 bits.
pub(crate) const BATCH_BYTES_MAX: usize = (1 << 31) - (1 << 20);

/// Bits of a kind in an operation's tag.
const KIND_BITS: u32 = 4;
/// What an operation takes at most besides its key and value.
const OP_BYTES_MAX: usize = 32;

/// One operation of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op<'a> {
    pub(crate) kind: ValueKind,
    pub(crate) keyspace: KeyspaceId,
    pub(crate) key: &'a [u8],
    /// Empty for a delete.
    pub(crate) value: &'a [u8],
}

/// Operations in their byte form.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    /// Room for the header of a log record, then the operations; empty while there is none.
    bytes: Vec<u8>,
    ops: u64,
    /// The kinds that were appended, a bit for each.
    kinds: u8,
}

/// Bytes that a batch keeps free in front of its operations: it becomes a record of the log where
/// it is.
pub(crate) const ROOM_LEN: usize = 32;

/// The bit of a kind that batches may have.
fn bit_of(kind: ValueKind) -> u8 {
    1 << kind as u8
}

impl Batch {
    /// Appends one operation. Requires: key and value within their limits.
    pub(crate) fn push(&mut self, op: Op<'_>) {
        debug_assert!(op.key.len() <= KEY_LEN_MAX && op.value.len() <= VALUE_LEN_MAX);
        self.bytes.reserve(op.key.len() + op.value.len() + 24 + ROOM_LEN);
        if self.bytes.is_empty() {
            self.bytes.extend_from_slice(&[0; ROOM_LEN]);
        }
        self.kinds |= bit_of(op.kind);
        put_varint(&mut self.bytes, u64::from(op.keyspace.0) << KIND_BITS | op.kind as u64);
        put_bytes(&mut self.bytes, op.key);
        if op.kind != ValueKind::Delete {
            put_bytes(&mut self.bytes, op.value);
        }
        self.ops += 1;
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ops = 0;
        self.kinds = 0;
    }

    /// Forgets what was appended after there were `ops` operations in `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize, ops: u64) {
        self.bytes.truncate(if ops == 0 { 0 } else { ROOM_LEN + len });
        self.ops = ops;
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(ROOM_LEN..).unwrap_or_default()
    }

    /// Lends the operations with [`ROOM_LEN`] bytes in front of them, which are the caller's to
    /// fill. Requires: a batch that is not empty.
    pub(crate) fn with_room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// May there be range tombstones among the operations?
    #[inline]
    pub(crate) fn has_ranges(&self) -> bool {
        self.kinds & bit_of(ValueKind::DeleteRange) != 0
    }

    /// May there be merge operands among the operations?
    #[inline]
    pub(crate) fn has_merges(&self) -> bool {
        self.kinds & bit_of(ValueKind::Merge) != 0
    }

    /// May another operation be appended without the batch getting too long?
    pub(crate) fn has_room(&self, key: &[u8], value: &[u8]) -> bool {
        self.bytes().len() + key.len() + value.len() + OP_BYTES_MAX <= BATCH_BYTES_MAX
    }

    /// Number of operations.
    pub(crate) fn len(&self) -> u64 {
        self.ops
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ops == 0
    }
}

/// Reads the operations back, in order. Stops for good after the first error.
pub(crate) struct Ops<'a> {
    decoder: Decoder<'a>,
}

impl<'a> Ops<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Ops<'a> {
        Ops { decoder: Decoder::new(bytes) }
    }

    fn decode(&mut self) -> Result<Op<'a>, Malformed> {
        let decoder = &mut self.decoder;
        let tag = decoder.varint()?;
        let kind = ValueKind::from_byte((tag & ((1 << KIND_BITS) - 1)) as u8);
        let Some(kind) = kind.filter(|kind| kind.is_in_batches()) else {
            return Err(Malformed("an operation of a kind that this version does not read"));
        };
        let keyspace = u32::try_from(tag >> KIND_BITS);
        let keyspace = keyspace.map_err(|_| Malformed("a keyspace's number exceeds 32 bits"))?;
        let key = decoder.bytes()?;
        if key.len() > KEY_LEN_MAX {
            return Err(Malformed("a key exceeds the limit"));
        }
        let value = if kind == ValueKind::Delete { &[] } else { decoder.bytes()? };
        if value.len() > VALUE_LEN_MAX {
            return Err(Malformed("a value exceeds the limit"));
        }
        if kind == ValueKind::Expiring && value.len() < EXPIRY_LEN {
            return Err(Malformed("a value that expires does not say when"));
        }
        if kind == ValueKind::DeleteRange
            && (value.len() > KEY_LEN_MAX || !is_behind(end_of(value), key))
        {
            return Err(Malformed("a range tombstone has an end that cannot be"));
        }
        Ok(Op { kind, keyspace: KeyspaceId(keyspace), key, value })
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = Result<Op<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.decoder.is_empty() {
            return None;
        }
        let op = self.decode();
        if op.is_err() {
            self.decoder = Decoder::new(&[]);
        }
        Some(op)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn batches_round_trip(ops: Vec<(u8, u32, Vec<u8>, Vec<u8>)>) {
            let mut batch = Batch::default();
            let mut expected = Vec::new();
            for (kind, keyspace, key, value) in &ops {
                let kind = [0, 1, 2, 3, 6][usize::from(kind % 5)];
                let kind = ValueKind::from_byte(kind).unwrap();
                let value: &[u8] = match kind {
                    ValueKind::DeleteRange if value <= key => &[],
                    ValueKind::Delete => &[],
                    ValueKind::Expiring if value.len() < EXPIRY_LEN => b"12345678",
                    _ => value,
                };
                let op = Op { kind, keyspace: KeyspaceId(*keyspace), key, value };
                batch.push(op);
                expected.push(Ok(op));
            }
            prop_assert_eq!(batch.len(), ops.len() as u64);
            prop_assert_eq!(Ops::new(batch.bytes()).collect::<Vec<_>>(), expected);
            if !batch.is_empty() {
                let bytes = batch.bytes().to_vec();
                prop_assert_eq!(&batch.with_room()[ROOM_LEN..], &bytes);
            }
        }

        #[test]
        fn an_expiry_is_whole_or_refused(value in prop::collection::vec(any::<u8>(), 0..20)) {
            let (keyspace, kind) = (KeyspaceId(1), ValueKind::Expiring);
            let mut batch = Batch::default();
            batch.push(Op { kind, keyspace, key: b"k", value: &value });
            let is_read = Ops::new(batch.bytes()).all(|op| op.is_ok());
            prop_assert_eq!(is_read, value.len() >= EXPIRY_LEN);
        }

        #[test]
        fn a_range_ends_behind_its_beginning_or_is_refused(key: Vec<u8>, end: Vec<u8>) {
            let (keyspace, kind) = (KeyspaceId(1), ValueKind::DeleteRange);
            let mut batch = Batch::default();
            batch.push(Op { kind, keyspace, key: &key, value: &end });
            let is_read = Ops::new(batch.bytes()).all(|op| op.is_ok());
            prop_assert_eq!(is_read, end.is_empty() || key < end);
        }

        #[test]
        fn any_bytes_decode_or_fail(bytes: Vec<u8>) {
            let ops: Vec<_> = Ops::new(&bytes).collect();
            prop_assert!(ops.iter().rev().skip(1).all(Result::is_ok));
        }
    }
}
