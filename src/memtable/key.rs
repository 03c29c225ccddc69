//! The key that a memtable is searched for, and how it compares: its head almost always decides.

use std::cmp::Ordering;

use crate::base::key::KeyRef;
use crate::base::key::head16;

/// Bytes of a key that its head covers.
const HEAD_LEN: usize = 16;

/// An internal key, with the first bytes of the user key at hand.
///
/// Nodes hold the heads of their entries, so that the key in the arena, a cache miss, is looked at
/// only where heads tie.
#[derive(Clone, Copy)]
pub(super) struct Probe<'a> {
    pub(super) head: u128,
    key: KeyRef<'a>,
}

impl<'a> Probe<'a> {
    #[inline]
    pub(super) fn new(key: KeyRef<'a>) -> Probe<'a> {
        Probe { head: head16(key.user), key }
    }

    /// Compares with a key whose head is the same, in THE order.
    pub(super) fn cmp_behind_head(&self, other: KeyRef<'_>) -> Ordering {
        let (a, b) = (self.key.user, other.user);
        let users = if a.len() <= HEAD_LEN && b.len() <= HEAD_LEN {
            // The longer key has zeros where the other one has ended.
            a.len().cmp(&b.len())
        } else {
            // A key that ends within the head is a prefix of the other one.
            tail(a).cmp(tail(b))
        };
        users.then_with(|| other.trailer.cmp(&self.key.trailer))
    }
}

/// The key without the bytes in its head.
fn tail(key: &[u8]) -> &[u8] {
    key.get(HEAD_LEN..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::key::Trailer;
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
        fn probes_compare_like_keys(a in key(), b in key(), x in 0..3_u64, y in 0..3_u64) {
            let a = KeyRef::new(&a, Trailer(x));
            let b = KeyRef::new(&b, Trailer(y));
            let (probe, other) = (Probe::new(a), Probe::new(b));
            let by_head = probe.head.cmp(&other.head);
            prop_assert_eq!(by_head.then_with(|| probe.cmp_behind_head(b)), a.cmp(&b));
        }
    }
}
