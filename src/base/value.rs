//! What an entry is: a put, a delete, or one of the kinds that later features need.

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
    /// Eight bytes of absolute expiry (milliseconds since 1970, little-endian), then the value.
    /// Reserved: no released version writes it.
    Expiring = 3,
    /// A handle to a value in a blob file. Reserved: no released version writes it.
    BlobRef = 4,
    /// A handle to a value in a blob file that expires. Reserved: no released version writes it.
    ExpiringBlobRef = 5,
    /// A range tombstone: key = first key, value = end. Reserved: no released version writes it.
    DeleteRange = 6,
}

impl ValueKind {
    /// The kind in a seek key: sorts before every entry of the same key and sequence number.
    pub(crate) const SEEK: u8 = 0xff;

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
