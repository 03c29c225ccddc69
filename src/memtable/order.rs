//! The order of a node's entries, and how many there are, in one word.
//!
//! ```text
//! bits 0–3    number of entries
//! bits 4–63   15 numbers of slots, 4 bits each: those of the entries in key order, then free ones
//! ```
//!
//! So a whole node changes with one store: an entry is written into a free slot, and is there once
//! the word says where in the order it stands.

/// Entries that a node has room for.
pub(super) const ENTRIES_MAX: usize = 15;

const BITS: usize = 4;
const MASK: u64 = (1 << BITS) - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order(pub(super) u64);

impl Order {
    /// The first `len` slots, in their own order.
    pub(super) fn identity(len: usize) -> Order {
        Order(0xedc_ba98_7654_3210 << BITS | len as u64)
    }

    /// Number of entries.
    #[inline]
    pub(super) fn len(self) -> usize {
        (self.0 & MASK) as usize
    }

    /// The slot of the entry in place `index`; of a free one if there are not so many entries.
    #[inline]
    pub(super) fn slot(self, index: usize) -> usize {
        (self.0 >> (BITS * (index + 1)) & MASK) as usize
    }

    /// The order with one entry more, in place `index`, whose slot is the first free one. Requires:
    /// there is one.
    pub(super) fn with(self, index: usize) -> Order {
        let len = self.len();
        debug_assert!(index <= len && len < ENTRIES_MAX);
        let slot = self.slot(len) as u64;
        let below = (1 << (BITS * (index + 1))) - 1;
        // Those from the new one on, up to and without the free slot that is taken.
        let moved = ((1 << (BITS * (len + 1))) - 1) & !below;
        let above = !(moved | below | MASK << (BITS * (len + 1)));
        let bits = self.0 & below
            | slot << (BITS * (index + 1))
            | (self.0 & moved) << BITS
            | self.0 & above;
        Order(bits + 1)
    }

    /// The order of the first `len` entries; the slots of the others are free.
    pub(super) fn cut(self, len: usize) -> Order {
        debug_assert!(len <= self.len());
        Order(self.0 & !MASK | len as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn orders_work_like_a_vector(steps in prop::collection::vec((0..100_usize, 0..4_u8), 0..99)) {
            let mut order = Order::identity(0);
            let mut used: Vec<usize> = Vec::new();
            for (at, what) in steps {
                if what == 0 || used.len() == ENTRIES_MAX {
                    used.truncate(at % (used.len() + 1));
                    order = order.cut(used.len());
                } else {
                    let at = at % (used.len() + 1);
                    let free = order.slot(order.len());
                    prop_assert!(!used.contains(&free));
                    used.insert(at, free);
                    order = order.with(at);
                }
                prop_assert_eq!(order.len(), used.len());
                let slots: Vec<usize> = (0..used.len()).map(|i| order.slot(i)).collect();
                prop_assert_eq!(&slots, &used);
                let mut all: Vec<usize> = (0..ENTRIES_MAX).map(|i| order.slot(i)).collect();
                all.sort_unstable();
                prop_assert_eq!(all, (0..ENTRIES_MAX).collect::<Vec<_>>());
            }
        }
    }
}
