//! The entries of a memtable as they are compared: what almost always decides lies in the node.

use std::cmp::Ordering;

use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::key::head16;
use crate::memtable::arena::Stored;

/// Bytes of a key that its head covers.
const HEAD_LEN: usize = 16;

/// An internal key, with the first bytes of the user key at hand. Ordered in THE order.
///
/// A search visits twenty nodes, each of them a cache miss or two; with the head in the node the
/// second miss, for the key in the arena, is rare.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// `head16` in two halves, because a u128 would round the entry up from 40 bytes to 48.
    head: [u64; 2],
    pub(super) trailer: Trailer,
    pub(super) stored: Stored,
}

impl Entry {
    pub(super) fn new(key: &[u8], trailer: Trailer, stored: Stored) -> Entry {
        let head = head16(key);
        Entry { head: [(head >> 64) as u64, head as u64], trailer, stored }
    }

    /// An entry to search with. The caller drops it before `key`.
    pub(super) fn probe(key: KeyRef<'_>) -> Entry {
        Entry::new(key.user, key.trailer, Stored::borrowed(key.user))
    }

    fn head(&self) -> u128 {
        u128::from(self.head[0]) << 64 | u128::from(self.head[1])
    }

    /// The key without the bytes in its head.
    fn tail(&self) -> &[u8] {
        self.stored.key().get(HEAD_LEN..).unwrap_or_default()
    }

    /// Compares two entries with equal heads.
    fn cmp_behind_head(&self, other: &Entry) -> Ordering {
        let lens = (self.stored.key_len(), other.stored.key_len());
        let keys = if lens.0 <= HEAD_LEN && lens.1 <= HEAD_LEN {
            // The longer key has zeros where the other one has ended.
            lens.0.cmp(&lens.1)
        } else {
            // A key that ends within the head is a prefix of the other one.
            self.tail().cmp(other.tail())
        };
        keys.then_with(|| other.trailer.cmp(&self.trailer))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        match self.head().cmp(&other.head()) {
            Ordering::Equal => self.cmp_behind_head(other),
            decided => decided,
        }
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        // Few distinct bytes, zero among them, and lengths around that of the head.
        prop_oneof![
            prop::collection::vec(0..3_u8, 0..4),
            prop::collection::vec(0..2_u8, 14..19),
            (0..40_usize).prop_map(|len| vec![0; len]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn entries_compare_like_keys(a in key(), b in key(), x in 0..3_u64, y in 0..3_u64) {
            let a = KeyRef::new(&a, Trailer(x));
            let b = KeyRef::new(&b, Trailer(y));
            prop_assert_eq!(Entry::probe(a).cmp(&Entry::probe(b)), a.cmp(&b));
        }
    }

    #[test]
    fn entries_are_small() {
        assert_eq!(size_of::<Entry>(), 40);
    }
}
