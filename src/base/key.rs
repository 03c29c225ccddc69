//! Internal keys and THE order: user key ascending, then sequence number descending.
//!
//! ```text
//! user key   seqno  kind
//! "apple"    9      put        <- newest version first
//! "apple"    4      delete
//! "apple"    2      put
//! "banana"   7      put
//! ```
//!
//! To read "apple" as of sequence number 5, seek to ("apple", 5, SEEK): the first entry at or after
//! it is ("apple", 4, delete).

use std::cmp::Ordering;

use crate::base::seqno::SeqNo;
use crate::base::value::EXPIRY_LEN;
use crate::base::value::ValueKind;

/// Longest user key, in bytes.
pub(crate) const KEY_LEN_MAX: usize = 65_535;
/// Longest value, in bytes.
pub(crate) const VALUE_LEN_MAX: usize = 1 << 30;

/// Sequence number and kind of an entry in eight bytes: `seqno << 8 | kind`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Trailer(pub(crate) u64);

impl Trailer {
    pub(crate) fn new(seqno: SeqNo, kind: ValueKind) -> Trailer {
        Trailer(seqno.get() << 8 | kind as u64)
    }

    /// The trailer that sorts before every entry with a sequence number of at most `seqno`, and
    /// after every entry with a larger one.
    pub(crate) fn seek(seqno: SeqNo) -> Trailer {
        Trailer(seqno.get() << 8 | u64::from(ValueKind::SEEK))
    }

    pub(crate) fn seqno(self) -> SeqNo {
        SeqNo::new(self.0 >> 8)
    }

    pub(crate) fn kind_byte(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// Is it of a kind that this version knows what to do with? Readers of files refuse all others,
    /// compactions too: what shadows what is decided by the kind.
    #[inline]
    pub(crate) fn is_readable(self) -> bool {
        self.kind_byte() <= ValueKind::ExpiringBlobRef as u8
    }

    /// Is it a put or a tombstone, of which nothing more need be known?
    #[inline]
    pub(crate) fn is_plain(self) -> bool {
        self.kind_byte() <= ValueKind::Put as u8
    }

    /// Can an entry with this trailer have a value of `len` bytes?
    pub(crate) fn admits(self, len: usize) -> bool {
        let expires = self.kind().is_some_and(ValueKind::expires);
        !expires || len >= EXPIRY_LEN
    }

    /// The kind, or `None` for a seek trailer or a kind that this version does not know.
    pub(crate) fn kind(self) -> Option<ValueKind> {
        ValueKind::from_byte(self.kind_byte())
    }
}

/// A borrowed internal key. Compares in THE order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyRef<'a> {
    pub(crate) user: &'a [u8],
    pub(crate) trailer: Trailer,
}

impl<'a> KeyRef<'a> {
    pub(crate) fn new(user: &'a [u8], trailer: Trailer) -> KeyRef<'a> {
        KeyRef { user, trailer }
    }

    /// Where a reader at `seqno` finds the newest version of `user` that it may see.
    pub(crate) fn seek(user: &'a [u8], seqno: SeqNo) -> KeyRef<'a> {
        KeyRef { user, trailer: Trailer::seek(seqno) }
    }

    /// Before every entry of `user`.
    pub(crate) fn before_all(user: &'a [u8]) -> KeyRef<'a> {
        KeyRef { user, trailer: Trailer(u64::MAX) }
    }

    /// After every entry of `user` (or at its last one, if that is a delete at sequence number 0).
    pub(crate) fn after_all(user: &'a [u8]) -> KeyRef<'a> {
        KeyRef { user, trailer: Trailer(0) }
    }
}

impl Ord for KeyRef<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.user.cmp(other.user).then_with(|| other.trailer.cmp(&self.trailer))
    }
}

impl PartialOrd for KeyRef<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// An owned internal key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct InternalKey {
    pub(crate) user: Vec<u8>,
    pub(crate) trailer: Trailer,
}

impl InternalKey {
    pub(crate) fn new(user: impl Into<Vec<u8>>, trailer: Trailer) -> InternalKey {
        InternalKey { user: user.into(), trailer }
    }

    pub(crate) fn as_ref(&self) -> KeyRef<'_> {
        KeyRef { user: &self.user, trailer: self.trailer }
    }
}

impl From<KeyRef<'_>> for InternalKey {
    fn from(key: KeyRef<'_>) -> InternalKey {
        InternalKey { user: key.user.to_vec(), trailer: key.trailer }
    }
}

/// The first 16 bytes of `key` as a big-endian integer, padded with zeros: compares like the bytes,
/// except that a tie says nothing.
///
/// A shorter key is put together from its first and last bytes, which overlap: a copy into zeros,
/// of a length that the compiler does not know, is a call, and waits for what it has stored.
#[inline]
pub(crate) fn head16(key: &[u8]) -> u128 {
    if let Some(head) = key.first_chunk() {
        return u128::from_be_bytes(*head);
    }
    match (key.first_chunk(), key.last_chunk()) {
        (Some(first), Some(last)) => {
            let behind = u128::from(u64::from_be_bytes(*last)) << (8 * (16 - key.len()));
            u128::from(u64::from_be_bytes(*first)) << 64 | u128::from(behind as u64)
        }
        _ => u128::from(head8(key)) << 64,
    }
}

/// Is `head` less than `other`? For binary searches, whose steps would be branches with the
/// operator, of which the processor guesses every second one wrong: in a hundred heads 31 ns with
/// it, 10 with this.
#[expect(clippy::needless_bitwise_bool, reason = "a lazy operator is a branch")]
#[inline]
pub(crate) fn is_less(head: u128, other: u128) -> bool {
    let (upper, other_upper) = ((head >> 64) as u64, (other >> 64) as u64);
    (upper < other_upper) | ((upper == other_upper) & ((head as u64) < other as u64))
}

/// The first 8 bytes of `key` as a big-endian integer, padded with zeros.
#[inline]
pub(crate) fn head8(key: &[u8]) -> u64 {
    if let Some(head) = key.first_chunk() {
        return u64::from_be_bytes(*head);
    }
    match (key.first_chunk(), key.last_chunk()) {
        (Some(first), Some(last)) => {
            let behind = u64::from(u32::from_be_bytes(*last)) << (8 * (8 - key.len()));
            u64::from(u32::from_be_bytes(*first)) << 32 | u64::from(behind as u32)
        }
        _ => u64::from(head4(key)) << 32,
    }
}

/// The first 4 bytes of `key` as a big-endian integer, padded with zeros.
#[inline]
pub(crate) fn head4(key: &[u8]) -> u32 {
    if let Some(head) = key.first_chunk() {
        return u32::from_be_bytes(*head);
    }
    let byte = |i| key.get(i).copied().unwrap_or(0);
    u32::from_be_bytes([byte(0), byte(1), byte(2), 0])
}

/// How many bytes `a` and `b` share at the start.
#[inline]
pub(crate) fn shared_prefix_len(a: &[u8], b: &[u8]) -> usize {
    let words = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
    let mut len = 0;
    for (a, b) in words {
        let differ = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differ != 0 {
            return len + differ.trailing_zeros() as usize / 8;
        }
        len += 8;
    }
    let rest = |bytes| <[u8]>::iter(bytes).skip(len);
    len + rest(a).zip(rest(b)).take_while(|(a, b)| a == b).count()
}

/// The hash of a user key, computed once per operation and used by every filter and block on the
/// way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyHash(pub(crate) u64);

impl KeyHash {
    pub(crate) fn of(key: &[u8]) -> KeyHash {
        KeyHash(crate::base::checksum::hash64(key))
    }

    /// One byte for the fingerprints of a data block; independent of the bits that filters use
    /// (they use the upper 32 for the line and the lower 32, mixed, for the bits in it).
    pub(crate) fn fingerprint(self) -> u8 {
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_versions_sort_first() {
        let old = KeyRef::new(b"a", Trailer::new(SeqNo::new(2), ValueKind::Put));
        let new = KeyRef::new(b"a", Trailer::new(SeqNo::new(9), ValueKind::Delete));
        let next = KeyRef::new(b"b", Trailer::new(SeqNo::new(1), ValueKind::Put));
        assert!(new < old && old < next);
        let seek = KeyRef::seek(b"a", SeqNo::new(5));
        assert!(new < seek && seek < old);
        assert!(KeyRef::before_all(b"a") < new && KeyRef::after_all(b"a") > old);
    }

    #[test]
    fn heads_are_the_first_bytes_and_then_zeros() {
        let key: Vec<u8> = (0x81..0x99).collect();
        for len in 0..=key.len() {
            let key = &key[..len];
            let mut padded = [0; 24];
            padded[..len].copy_from_slice(key);
            assert_eq!(head16(key).to_be_bytes(), padded[..16], "{len}");
            assert_eq!(head8(key).to_be_bytes(), padded[..8], "{len}");
            assert_eq!(head4(key).to_be_bytes(), padded[..4], "{len}");
        }
    }

    #[test]
    fn is_less_is_the_operator() {
        let halves = [0, 1, 2, u64::MAX - 1, u64::MAX];
        let heads =
            halves.map(|upper| halves.map(|lower| u128::from(upper) << 64 | u128::from(lower)));
        for x in heads.as_flattened() {
            for y in heads.as_flattened() {
                assert_eq!(is_less(*x, *y), x < y, "{x:x} {y:x}");
            }
        }
    }

    #[test]
    fn heads_compare_like_bytes_when_they_differ() {
        let keys: [&[u8]; 6] = [b"", b"a", b"a\0", b"ab", b"abcdefghijklmnopq", b"b"];
        for x in keys {
            for y in keys {
                if head16(x) != head16(y) {
                    assert_eq!(head16(x).cmp(&head16(y)), x.cmp(y));
                }
                if head8(x) != head8(y) {
                    assert_eq!(head8(x).cmp(&head8(y)), x.cmp(y));
                }
                if head4(x) != head4(y) {
                    assert_eq!(head4(x).cmp(&head4(y)), x.cmp(y));
                }
            }
        }
    }
}
