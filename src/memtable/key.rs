//! How a memtable compares keys: by eight bytes, which almost always decide.
//!
//! A node's entries are near each other, so their keys mostly begin with the same bytes. The node
//! keeps how many of those are passed over (`skip`), and one key that has them, its *anchor*. The
//! *window* of a key is what comes then, eight bytes. A key that does not begin as the anchor does
//! lies before or behind all that do, and so does its window, the least or the greatest there is.
//! So windows compare like keys wherever they differ, whatever `skip` is: where windows tie, keys are
//! looked at, each a cache miss, and a `skip` that fits badly costs no more than that.

use std::cmp::Ordering;

use crate::base::key::KeyRef;
use crate::base::key::head8;
use crate::base::key::head16;
use crate::base::key::shared_prefix_len;
use crate::memtable::record::Record;

const HEAD_LEN: usize = 16;
const WINDOW_LEN: usize = 8;

/// So many bytes of what two keys of a node share stay in the window: a counter goes on for a while
/// before its next digit changes.
const SLACK: usize = 2;

/// An internal key that is searched for, with the first bytes of the user key at hand.
#[derive(Clone, Copy)]
pub(super) struct Probe<'a> {
    head: u128,
    key: KeyRef<'a>,
}

impl<'a> Probe<'a> {
    #[inline]
    pub(super) fn new(key: KeyRef<'a>) -> Probe<'a> {
        Probe { head: head16(key.user), key }
    }

    /// Compares with another key, in THE order.
    #[inline]
    pub(super) fn cmp(&self, other: KeyRef<'_>) -> Ordering {
        self.key.cmp(&other)
    }
}

/// Where the windows of a node lie.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    /// The anchor's head, in two halves, lest it be aligned to 16 bytes.
    head: [u64; 2],
    anchor: Record,
    /// At most as long as the anchor's key.
    skip: u16,
}

impl Frame {
    /// Of windows that begin with the key.
    pub(super) fn of_whole_keys(anchor: Record) -> Frame {
        Frame::new(anchor, 0)
    }

    /// That of a node of keys about `anchor` and `other`: what these two share is passed over.
    pub(super) fn between(anchor: Record, other: Record) -> Frame {
        let (a, b) = (anchor.key().user, other.key().user);
        let shared = shared_prefix_len(a, b).saturating_sub(SLACK);
        Frame::new(anchor, shared.min(a.len().saturating_sub(WINDOW_LEN)))
    }

    /// The same windows. Requires: the key of `anchor` is at least as long as what is passed over, and
    /// begins as the anchor's does.
    pub(super) fn by(self, anchor: Record) -> Frame {
        Frame::new(anchor, self.skip.into())
    }

    fn new(anchor: Record, skip: usize) -> Frame {
        let head = head16(anchor.key().user);
        Frame { head: [(head >> 64) as u64, head as u64], anchor, skip: skip as u16 }
    }

    /// Has it the windows of `other`? Requires: its anchor begins as that of `other` does.
    pub(super) fn has_windows_of(&self, other: &Frame) -> bool {
        self.skip == other.skip
    }

    pub(super) fn anchor(&self) -> Record {
        self.anchor
    }

    fn head(&self) -> u128 {
        u128::from(self.head[0]) << 64 | u128::from(self.head[1])
    }

    /// How `probe` compares with the anchor.
    #[inline]
    pub(super) fn cmp_anchor(&self, probe: &Probe<'_>) -> Ordering {
        match probe.head.cmp(&self.head()) {
            Ordering::Equal => probe.cmp(self.anchor.key()),
            decided => decided,
        }
    }

    /// The window of `probe`.
    #[inline]
    pub(super) fn window(&self, probe: &Probe<'_>) -> u64 {
        let skip = usize::from(self.skip);
        let differ = probe.head ^ self.head();
        let same = if skip <= HEAD_LEN {
            differ.leading_zeros() as usize >= 8 * skip
        } else {
            differ == 0 && self.is_same_behind_head(probe)
        };
        if same {
            return head8(probe.key.user.get(skip..).unwrap_or_default());
        }
        if self.cmp_anchor(probe) == Ordering::Less { 0 } else { u64::MAX }
    }

    #[inline(never)]
    fn is_same_behind_head(&self, probe: &Probe<'_>) -> bool {
        let passed = HEAD_LEN..self.skip.into();
        probe.key.user.get(passed.clone()) == self.anchor.key().user.get(passed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::key::Trailer;
    use crate::memtable::arena::FreeChunks;
    use crate::memtable::record::Records;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        let few = prop_oneof![Just(0_u8), Just(1), Just(255)];
        prop_oneof![
            prop::collection::vec(few.clone(), 0..4),
            // Around the lengths of head and window.
            (0..30_usize, prop::collection::vec(few, 0..12)).prop_map(|(len, tail)| [
                vec![7; len],
                tail
            ]
            .concat()),
            (0..40_usize).prop_map(|len| vec![0; len]),
        ]
    }

    #[test]
    fn near_keys_have_different_windows() {
        let records = Records::new(Arc::new(FreeChunks::new(0)));
        let key = |prefix: usize, n: u64| format!("{}{n:016}", "p".repeat(prefix)).into_bytes();
        for prefix in [0, 3, 9, 48] {
            let store = |n| records.store(KeyRef::new(&key(prefix, n), Trailer(1)), b"");
            for (first, last, to) in [(10, 13, 5_000), (7, 8, 99), (200_000, 700_000, 700_050)] {
                let frame = Frame::between(store(first), store(last));
                let window =
                    |n| frame.window(&Probe::new(KeyRef::new(&key(prefix, n), Trailer(1))));
                let mut windows = (first..=to).step_by(1 + (to - first) as usize / 100).map(window);
                assert!(windows.by_ref().is_sorted_by(|a, b| a < b), "{prefix}: {first} to {to}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn windows_compare_like_keys(
            a in key(), b in key(), anchor in key(), other in key(), x in 0..3_u64, y in 0..3_u64,
        ) {
            let records = Records::new(Arc::new(FreeChunks::new(0)));
            let store = |key| records.store(KeyRef::new(key, Trailer(1)), b"");
            let (anchor, other) = (store(&anchor), store(&other));
            let a = KeyRef::new(&a, Trailer(x));
            let b = KeyRef::new(&b, Trailer(y));
            for frame in [Frame::of_whole_keys(anchor), Frame::between(anchor, other)] {
                let (probe, other) = (Probe::new(a), Probe::new(b));
                let by_window = frame.window(&probe).cmp(&frame.window(&other));
                prop_assert_eq!(by_window.then_with(|| probe.cmp(b)), a.cmp(&b));
                prop_assert_eq!(frame.cmp_anchor(&probe), a.cmp(&anchor.key()));
            }
        }

        #[test]
        fn any_key_that_begins_as_the_anchor_does_can_take_its_place(
            keys in prop::collection::vec(key(), 3..12),
        ) {
            let records = Records::new(Arc::new(FreeChunks::new(0)));
            let of = |key| KeyRef::new(key, Trailer(1));
            let store = |key| records.store(of(key), b"");
            let frame = Frame::between(store(&keys[0]), store(&keys[1]));
            for anchor in &keys {
                if !(1..u64::MAX).contains(&frame.window(&Probe::new(of(anchor)))) {
                    continue;
                }
                let other = frame.by(store(anchor));
                prop_assert!(other.has_windows_of(&frame));
                for key in &keys {
                    let probe = Probe::new(of(key));
                    prop_assert_eq!(other.window(&probe), frame.window(&probe));
                }
            }
        }
    }
}
