//! What an entry is: a put, a delete, or one of the kinds that later features need.

use std::borrow::Cow;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::key::Trailer;
use crate::base::key::VALUE_LEN_MAX;

/// Kind of an entry. The numbers are stored on disk; never reuse one.
///
/// When two entries agree in key and sequence number (which only the seek key does) the larger
/// kind sorts first, so [`ValueKind::SEEK`] comes before every real entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum ValueKind {
    /// A tombstone: the key is absent.
    Delete = 0,
    /// The value itself.
    Put = 1,
    /// An operand for the keyspace's merge operator: what it makes of the older versions.
    Merge = 2,
    /// Eight bytes of absolute expiry (milliseconds since 1970, little-endian), then the value. From
    /// that time on it is as good as a tombstone.
    Expiring = 3,
    /// A handle to a value in a blob file. In SSTs only.
    BlobRef = 4,
    /// Eight bytes of expiry, then a handle to the value in a blob file. In SSTs only.
    ExpiringBlobRef = 5,
    /// A range tombstone: key = first key, value = end (exclusive; empty: none). In batches only; see
    /// [`range_tombstone`](crate::base::range_tombstone).
    DeleteRange = 6,
}

/// Bytes of the expiry in front of a value that expires.
pub(crate) const EXPIRY_LEN: usize = 8;
/// The expiry of a value that never expires.
pub(crate) const NEVER_MS: u64 = u64::MAX;

/// How a put is stored whose value lives until `expiry_ms`.
///
/// # Errors
/// `InvalidArgument` if value and expiry together exceed the limit of a value.
pub(crate) fn put_until(
    expiry_ms: u64,
    value: Cow<'_, [u8]>,
) -> Result<(ValueKind, Cow<'_, [u8]>)> {
    if expiry_ms == NEVER_MS {
        return Ok((ValueKind::Put, value));
    }
    if value.len() > VALUE_LEN_MAX - EXPIRY_LEN {
        let most = VALUE_LEN_MAX - EXPIRY_LEN;
        return Err(Error::argument(format!(
            "a value of {} bytes exceeds the limit of {most} bytes for one that expires",
            value.len()
        )));
    }
    Ok((ValueKind::Expiring, Cow::Owned(with_expiry(expiry_ms, &value))))
}

/// The bytes of an `Expiring` entry.
pub(crate) fn with_expiry(expiry_ms: u64, value: &[u8]) -> Vec<u8> {
    [&expiry_ms.to_le_bytes()[..], value].concat()
}

/// When the entry with these bytes, which is of a kind that expires, does so. Requires: that many bytes, as whatever reads
/// files and logs has checked; else it has expired.
pub(crate) fn expiry_of(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<EXPIRY_LEN>().map_or(0, |expiry| u64::from_le_bytes(*expiry))
}

/// What is needed of `value` even if only the entry's presence was asked for: its expiry, if it has
/// one.
#[inline]
pub(crate) fn head_of(trailer: Trailer, value: &[u8]) -> &[u8] {
    if trailer.is_plain() {
        return &[];
    }
    value.get(..EXPIRY_LEN).unwrap_or_default()
}

/// When the entries of a file expire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expiry {
    /// How many expire at all.
    pub(crate) entries: u64,
    /// The first of these and the last one; 0 if there are none.
    pub(crate) min_ms: u64,
    pub(crate) max_ms: u64,
}

impl Expiry {
    /// Counts an entry that expires.
    pub(crate) fn note(&mut self, expiry_ms: u64) {
        self.min_ms = if self.entries == 0 { expiry_ms } else { self.min_ms.min(expiry_ms) };
        self.max_ms = self.max_ms.max(expiry_ms);
        self.entries += 1;
    }
}

impl ValueKind {
    /// Has the entry an expiry in front of its value, or of its handle?
    pub(crate) fn expires(self) -> bool {
        matches!(self, ValueKind::Expiring | ValueKind::ExpiringBlobRef)
    }

    /// Has its key a value, wherever that lies?
    pub(crate) fn holds_value(self) -> bool {
        matches!(self, ValueKind::Put | ValueKind::Expiring) || self.is_apart()
    }

    /// Has the entry a handle instead of a value?
    pub(crate) fn is_apart(self) -> bool {
        matches!(self, ValueKind::BlobRef | ValueKind::ExpiringBlobRef)
    }

    /// The kind in a seek key: sorts before every entry of the same key and sequence number.
    pub(crate) const SEEK: u8 = 0xff;

    /// Can an operation of a batch be of this kind, as far as this version knows?
    pub(crate) fn is_in_batches(self) -> bool {
        self <= ValueKind::Expiring || self == ValueKind::DeleteRange
    }

    /// The kind stored as `byte`, if this version knows it.
    pub(crate) fn from_byte(byte: u8) -> Option<ValueKind> {
        Some(match byte {
            0 => ValueKind::Delete,
            1 => ValueKind::Put,
            2 => ValueKind::Merge,
            3 => ValueKind::Expiring,
            4 => ValueKind::BlobRef,
            5 => ValueKind::ExpiringBlobRef,
            6 => ValueKind::DeleteRange,
            _ => return None,
        })
    }
}
