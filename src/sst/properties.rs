//! Properties: what is known of a file as a whole.
//!
//! A sequence of properties, each `varint tag | varint length | bytes`. A reader skips an even tag
//! that it does not know; an odd one means that the file cannot be read without knowing it. Numbers
//! are varints, except where the table says otherwise.
//!
//! | tag | property | tag | property |
//! |---|---|---|---|
//! | 2 | entries | 20 | keyspace |
//! | 4 | tombstones | 22 | created, wall ms |
//! | 6 | distinct user keys | 24 | oldest tombstone, wall ms; 2⁶⁴-1 if none |
//! | 8 | bytes of user keys | 26 | smallest expiry, wall ms; 0 if nothing expires |
//! | 10 | bytes of values | 28 | largest expiry, likewise |
//! | 12 | smallest key: u64 trailer, user key | 30 | data blocks |
//! | 14 | largest key, likewise | 32 | bytes of data blocks, as stored |
//! | 16 | smallest seqno | 34 | bytes of index partitions, as stored |
//! | 18 | largest seqno | 36 | bytes of filter partitions, as stored |
//! | 40 | range tombstones; absent if there are none | 38 | compression asked for |
#![deny(clippy::indexing_slicing)]

use crate::base::coding::Decoder;
use crate::base::coding::Malformed;
use crate::base::coding::put_bytes;
use crate::base::coding::put_varint;
use crate::base::ids::KeyspaceId;
use crate::base::key::InternalKey;
use crate::base::key::Trailer;
use crate::base::seqno::SeqNo;

/// What is known of a file as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Properties {
    pub(crate) entries: u64,
    pub(crate) tombstones: u64,
    pub(crate) distinct_keys: u64,
    pub(crate) key_bytes: u64,
    pub(crate) value_bytes: u64,
    /// Empty if there are no entries, as is `largest`.
    pub(crate) smallest: InternalKey,
    pub(crate) largest: InternalKey,
    pub(crate) min_seqno: SeqNo,
    pub(crate) max_seqno: SeqNo,
    pub(crate) keyspace: KeyspaceId,
    pub(crate) created_wall_ms: u64,
    /// When the oldest tombstone in the file was written; `u64::MAX` if there is none.
    pub(crate) oldest_tombstone_wall_ms: u64,
    /// Of the entries that expire, the first and the last time; 0 if there are none.
    pub(crate) min_expiry_ms: u64,
    pub(crate) max_expiry_ms: u64,
    pub(crate) data_blocks: u64,
    pub(crate) data_bytes: u64,
    pub(crate) index_bytes: u64,
    pub(crate) filter_bytes: u64,
    /// The number of the `Compression` that the writer was asked for.
    pub(crate) compression: u8,
    /// Numbers of all fragments together; they count in nothing else here but the age of tombstones.
    pub(crate) range_tombstones: u64,
}

/// Why properties cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    Malformed(Malformed),
    /// A newer version says something that must be understood.
    RequiredTag,
}

impl From<Malformed> for Unreadable {
    fn from(error: Malformed) -> Unreadable {
        Unreadable::Malformed(error)
    }
}

const SMALLEST: u64 = 12;
const LARGEST: u64 = 14;
const RANGE_TOMBSTONES: u64 = 40;

impl Properties {
    fn numbers(&self) -> [(u64, u64); 17] {
        [
            (2, self.entries),
            (4, self.tombstones),
            (6, self.distinct_keys),
            (8, self.key_bytes),
            (10, self.value_bytes),
            (16, self.min_seqno.get()),
            (18, self.max_seqno.get()),
            (20, u64::from(self.keyspace.0)),
            (22, self.created_wall_ms),
            (24, self.oldest_tombstone_wall_ms),
            (26, self.min_expiry_ms),
            (28, self.max_expiry_ms),
            (30, self.data_blocks),
            (32, self.data_bytes),
            (34, self.index_bytes),
            (36, self.filter_bytes),
            (38, u64::from(self.compression)),
        ]
    }

    /// Appends the payload to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut field = Vec::new();
        for (tag, number) in self.numbers() {
            field.clear();
            put_varint(&mut field, number);
            put_varint(out, tag);
            put_bytes(out, &field);
        }
        if self.range_tombstones > 0 {
            field.clear();
            put_varint(&mut field, self.range_tombstones);
            put_varint(out, RANGE_TOMBSTONES);
            put_bytes(out, &field);
        }
        for (tag, key) in [(SMALLEST, &self.smallest), (LARGEST, &self.largest)] {
            field.clear();
            field.extend_from_slice(&key.trailer.0.to_le_bytes());
            field.extend_from_slice(&key.user);
            put_varint(out, tag);
            put_bytes(out, &field);
        }
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Properties, Unreadable> {
        let mut found = Properties::default();
        let mut missing: u64 = (1..=19).fold(0, |bits, n| bits | 1 << (2 * n));
        let mut from = Decoder::new(payload);
        while !from.is_empty() {
            let tag = from.varint()?;
            let field = from.bytes()?;
            if found.set(tag, field)? {
                // Those known are below 64.
                missing &= !(1 << tag);
            } else if tag % 2 == 1 {
                return Err(Unreadable::RequiredTag);
            }
        }
        if missing != 0 {
            return Err(Malformed("a property is missing").into());
        }
        Ok(found)
    }

    /// Sets the property `tag`; false if it is unknown.
    fn set(&mut self, tag: u64, field: &[u8]) -> Result<bool, Malformed> {
        if tag == SMALLEST || tag == LARGEST {
            let (trailer, user) = field
                .split_first_chunk::<8>()
                .ok_or(Malformed("a key in the properties is too short"))?;
            let key = InternalKey::new(user, Trailer(u64::from_le_bytes(*trailer)));
            if tag == SMALLEST {
                self.smallest = key;
            } else {
                self.largest = key;
            }
            return Ok(true);
        }
        let number = || Decoder::new(field).varint();
        match tag {
            2 => self.entries = number()?,
            4 => self.tombstones = number()?,
            6 => self.distinct_keys = number()?,
            8 => self.key_bytes = number()?,
            10 => self.value_bytes = number()?,
            16 => self.min_seqno = SeqNo::new(number()?),
            18 => self.max_seqno = SeqNo::new(number()?),
            20 => self.keyspace = KeyspaceId(Decoder::new(field).varint32()?),
            22 => self.created_wall_ms = number()?,
            24 => self.oldest_tombstone_wall_ms = number()?,
            26 => self.min_expiry_ms = number()?,
            28 => self.max_expiry_ms = number()?,
            30 => self.data_blocks = number()?,
            32 => self.data_bytes = number()?,
            34 => self.index_bytes = number()?,
            36 => self.filter_bytes = number()?,
            38 => {
                self.compression =
                    u8::try_from(number()?).map_err(|_| Malformed("no such compression"))?;
            }
            RANGE_TOMBSTONES => self.range_tombstones = number()?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::base::value::ValueKind;

    fn example() -> Properties {
        Properties {
            entries: 1,
            tombstones: 2,
            distinct_keys: 3,
            key_bytes: 4,
            value_bytes: 5,
            smallest: InternalKey::new("a", Trailer::new(SeqNo::new(9), ValueKind::Put)),
            largest: InternalKey::new("", Trailer::new(SeqNo::MAX, ValueKind::Delete)),
            min_seqno: SeqNo::new(6),
            max_seqno: SeqNo::new(7),
            keyspace: KeyspaceId(8),
            created_wall_ms: 9,
            oldest_tombstone_wall_ms: u64::MAX,
            min_expiry_ms: 10,
            max_expiry_ms: 11,
            data_blocks: 12,
            data_bytes: 13,
            index_bytes: 14,
            filter_bytes: 15,
            compression: 1,
            range_tombstones: 16,
        }
    }

    #[test]
    fn properties_round_trip_and_each_is_needed() {
        let mut payload = Vec::new();
        example().encode(&mut payload);
        assert_eq!(Properties::decode(&payload), Ok(example()));
        for len in 0..payload.len() {
            assert!(Properties::decode(&payload[..len]).is_err());
        }
    }

    #[test]
    fn unknown_even_tags_are_skipped_and_odd_ones_refused() {
        let mut payload = Vec::new();
        put_varint(&mut payload, 1000);
        put_bytes(&mut payload, b"whatever");
        example().encode(&mut payload);
        assert_eq!(Properties::decode(&payload), Ok(example()));
        put_varint(&mut payload, 41);
        put_bytes(&mut payload, b"");
        assert_eq!(Properties::decode(&payload), Err(Unreadable::RequiredTag));
    }
}
