//! Order for what is small or rarely touched: a map in a vector, and sorting by the ranks of the
//! elements.
//!
//! Both say what `BTreeMap` and `slice::sort_by` of the standard library do, and are here for what
//! those cost a program to build: each type that they are used with is a copy of some ten KiB of
//! machine code. Where many keys come in no order, or the sorting takes time, the standard library's
//! are the right ones.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::mem;

/// An ordered map of up to some thousand keys, or of keys that come in ascending order.
///
/// Looking up is a binary search. Inserting moves the entries behind the key, which are none if it
/// is the largest; removing as well.
#[derive(Clone)]
pub(crate) struct SortedMap<K, V> {
    entries: Vec<(K, V)>,
}

impl<K, V> SortedMap<K, V> {
    pub(crate) const fn new() -> SortedMap<K, V> {
        SortedMap { entries: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Ascending, as are all that follow.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    pub(crate) fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.entries.iter().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.entries.iter().map(|(_, value)| value)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.iter_mut().map(|(_, value)| value)
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.entries.retain_mut(|(key, value)| keep(key, value));
    }
}

impl<K: Ord, V> SortedMap<K, V> {
    /// Where a key is, or where it belongs.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.entries.binary_search_by(|(other, _)| other.borrow().cmp(key))
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (_, value) = self.entries.get(self.find(key).ok()?)?;
        Some(value)
    }

    pub(crate) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let at = self.find(key).ok()?;
        let (_, value) = self.entries.get_mut(at)?;
        Some(value)
    }

    pub(crate) fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).is_ok()
    }

    /// The entries with larger keys, ascending.
    pub(crate) fn behind(&self, key: &K) -> &[(K, V)] {
        let at = self.find(key).map_or_else(|at| at, |at| at + 1);
        self.entries.get(at..).unwrap_or_default()
    }

    /// Returns the value that the key had.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.place(&key) {
            Ok(at) => {
                let (_, old) = self.entries.get_mut(at)?;
                Some(mem::replace(old, value))
            }
            Err(at) => {
                self.entries.insert(at, (key, value));
                None
            }
        }
    }

    /// The value of a key, which is given one first if it has none.
    pub(crate) fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        let at = self.place(&key).unwrap_or_else(|at| {
            self.entries.insert(at, (key, make()));
            at
        });
        &mut self.entries[at].1
    }

    /// [`SortedMap::find`], at once for a key behind the last one.
    fn place(&self, key: &K) -> Result<usize, usize> {
        match self.entries.last() {
            Some((last, _)) if last >= key => self.find(key),
            _ => Err(self.entries.len()),
        }
    }

    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.find(key).ok()?;
        Some(self.entries.remove(at).1)
    }
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> SortedMap<K, V> {
        SortedMap::new()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SortedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord, V> Extend<(K, V)> for SortedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SortedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> SortedMap<K, V> {
        let mut map = SortedMap::new();
        map.extend(entries);
        map
    }
}

impl<K, V> IntoIterator for SortedMap<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

/// Sorts as `slice::sort_by` does: equal elements stay in their order.
pub(crate) fn sort_by<T>(items: &mut [T], compare: impl Fn(&T, &T) -> Ordering) {
    let sources = order(items.len(), &|a, b| compare(&items[a], &items[b]));
    for to in 0..items.len() {
        // What belongs here may have made room for an earlier one.
        let mut from = sources[to];
        while from < to {
            from = sources[from];
        }
        items.swap(to, from);
    }
}

/// Sorts by a key, as [`sort_by`].
pub(crate) fn sort_by_key<T, K: Ord>(items: &mut [T], key: impl Fn(&T) -> K) {
    sort_by(items, |a, b| key(a).cmp(&key(b)));
}

/// The numbers below `len` in the order that `compare` gives what they stand for; equal ones
/// ascend.
fn order(len: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    order.sort_by(|a, b| compare(*a, *b));
    order
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Bound;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u8, u32),
        Add(u8),
        Remove(u8),
        Retain(u8),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0..20_u8, any::<u32>()).prop_map(|(key, value)| Op::Insert(key, value)),
            2 => (0..20_u8).prop_map(Op::Add),
            2 => (0..20_u8).prop_map(Op::Remove),
            1 => (2..5_u8).prop_map(Op::Retain),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn a_sorted_map_does_what_the_standard_one_does(
            first in prop::collection::vec((0..20_u8, any::<u32>()), 0..20),
            ops in prop::collection::vec(op(), 0..40),
        ) {
            let mut map: SortedMap<u8, u32> = first.iter().copied().collect();
            let mut model: BTreeMap<u8, u32> = first.into_iter().collect();
            for op in ops {
                match op {
                    Op::Insert(key, value) => {
                        prop_assert_eq!(map.insert(key, value), model.insert(key, value));
                    }
                    Op::Add(key) => {
                        let value = map.get_or_insert_with(key, || 7);
                        *value = value.wrapping_add(1);
                        let value = model.entry(key).or_insert(7);
                        *value = value.wrapping_add(1);
                    }
                    Op::Remove(key) => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                    Op::Retain(n) => {
                        map.retain(|key, _| key % n != 0);
                        model.retain(|key, _| key % n != 0);
                    }
                }
                prop_assert!(map.iter().eq(&model) && map.keys().eq(model.keys()));
                prop_assert!(map.values().eq(model.values()));
                prop_assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
                for key in 0..21 {
                    prop_assert_eq!(map.get(&key), model.get(&key));
                    prop_assert_eq!(map.get_mut(&key), model.get_mut(&key));
                    prop_assert_eq!(map.contains_key(&key), model.contains_key(&key));
                    let behind = model.range((Bound::Excluded(key), Bound::Unbounded));
                    prop_assert!(map.behind(&key).iter().map(|(k, v)| (k, v)).eq(behind));
                }
            }
            prop_assert!(map.into_iter().eq(model));
        }

        #[test]
        fn sorting_is_that_of_slices(items in prop::collection::vec((0..20_u8, any::<u16>()), 0..60)) {
            let (mut sorted, mut expected) = (items.clone(), items);
            sort_by_key(&mut sorted, |item| item.0);
            expected.sort_by_key(|item| item.0);
            prop_assert_eq!(sorted, expected);
        }
    }
}
