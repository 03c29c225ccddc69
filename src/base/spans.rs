//! Sets of user keys, as disjoint spans: what a transaction has read, or is going to write.
//!
//! A span goes from a key, inclusive, to another, exclusive. No key lies between `k` and `k` with a
//! zero byte behind it, so every range is such a span, and a single key is the span up to its
//! successor.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::base::range::Bounds;
use crate::base::range_tombstone::is_behind;

/// What a span takes in memory besides its keys, about.
const SPAN_BYTES: usize = 96;

/// The end of a span; `None` lies behind all keys.
pub(crate) type SpanEnd = Option<Vec<u8>>;

/// The smallest key after `key`.
pub(crate) fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

/// The span that has the keys within `bounds`.
pub(crate) fn span_of(bounds: &Bounds) -> (Vec<u8>, SpanEnd) {
    let from = match &bounds.0 {
        Bound::Included(key) => key.clone(),
        Bound::Excluded(key) => successor(key),
        Bound::Unbounded => Vec::new(),
    };
    let to = match &bounds.1 {
        Bound::Included(key) => Some(successor(key)),
        Bound::Excluded(key) => Some(key.clone()),
        Bound::Unbounded => None,
    };
    (from, to)
}

/// Is a span that begins at `from` and ends at `to` a single key?
pub(crate) fn is_key(from: &[u8], to: Option<&[u8]>) -> bool {
    to.and_then(<[u8]>::split_last).is_some_and(|(last, key)| *last == 0 && key == from)
}

/// A set of keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans {
    /// Ends by beginnings. No two spans overlap or touch.
    ends: BTreeMap<Vec<u8>, SpanEnd>,
    bytes: usize,
}

impl Spans {
    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Memory in use, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The spans in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.ends.iter().map(|(from, to)| (from.as_slice(), to.as_deref()))
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        let mut before = self.ends.range::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
        before.next_back().is_some_and(|(_, to)| to.as_deref().is_none_or(|to| key < to))
    }

    /// Is there a key between `from` and `to` in it?
    pub(crate) fn meets(&self, from: &[u8], to: Option<&[u8]>) -> bool {
        let mut behind = self.ends.range::<[u8], _>((Bound::Included(from), Bound::Unbounded));
        let next = behind.next().map(|(begin, _)| begin.as_slice());
        self.contains(from) || next.is_some_and(|next| is_behind(to, next))
    }

    pub(crate) fn add_key(&mut self, key: &[u8]) {
        if !self.contains(key) {
            self.add(key.to_vec(), Some(successor(key)));
        }
    }

    /// Adds the keys from `from` to before `to`.
    pub(crate) fn add(&mut self, mut from: Vec<u8>, mut to: SpanEnd) {
        if to.as_ref().is_some_and(|to| *to <= from) {
            return;
        }
        if let Some(begin) = self.last_reaching(&from) {
            let end = self.remove(&begin);
            from = begin;
            to = later(to, end);
        }
        while let Some(begin) = self.first_touching(&from, to.as_deref()) {
            let end = self.remove(&begin);
            to = later(to, end);
        }
        self.bytes += SPAN_BYTES + from.len() + to.as_ref().map_or(0, Vec::len);
        self.ends.insert(from, to);
    }

    /// Where the last span up to `from` begins, if it ends at or behind it.
    fn last_reaching(&self, from: &[u8]) -> Option<Vec<u8>> {
        let mut before = self.ends.range::<[u8], _>((Bound::Unbounded, Bound::Included(from)));
        let (begin, end) = before.next_back()?;
        end.as_deref().is_none_or(|end| end >= from).then(|| begin.clone())
    }

    /// Where the first span from `from` on begins, if it begins at or before `to`.
    fn first_touching(&self, from: &[u8], to: Option<&[u8]>) -> Option<Vec<u8>> {
        let (begin, _) =
            self.ends.range::<[u8], _>((Bound::Included(from), Bound::Unbounded)).next()?;
        to.is_none_or(|to| begin.as_slice() <= to).then(|| begin.clone())
    }

    fn remove(&mut self, begin: &[u8]) -> SpanEnd {
        let end = self.ends.remove(begin).flatten();
        self.bytes -= SPAN_BYTES + begin.len() + end.as_ref().map_or(0, Vec::len);
        end
    }
}

/// The later of two ends.
fn later(a: SpanEnd, b: SpanEnd) -> SpanEnd {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0..3_u8, 0..4)
    }

    fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
        prop_oneof![
            key().prop_map(Bound::Included),
            key().prop_map(Bound::Excluded),
            Just(Bound::Unbounded),
        ]
    }

    fn within(key: &[u8], (lower, upper): &Bounds) -> bool {
        use crate::base::range::is_above;
        use crate::base::range::is_below;
        !is_below(key, lower) && !is_above(key, upper)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn spans_hold_what_was_added(
            ranges in prop::collection::vec((bound(), bound()), 0..8),
            keys in prop::collection::vec(key(), 0..8),
            asked in prop::collection::vec(key(), 0..40),
        ) {
            let mut spans = Spans::default();
            for range in &ranges {
                let (from, to) = span_of(range);
                spans.add(from, to);
            }
            for key in &keys {
                spans.add_key(key);
            }
            for key in asked.iter().chain(&keys) {
                let expected = keys.contains(key) || ranges.iter().any(|r| within(key, r));
                prop_assert_eq!(spans.contains(key), expected, "{:?} in {:?}", key, spans);
            }
            for (from, to) in keys.iter().zip(&asked) {
                let inside = |key: &&Vec<u8>| from <= *key && *key < to;
                let met = asked.iter().chain(&keys).filter(inside).any(|key| spans.contains(key));
                if from < to {
                    prop_assert!(spans.meets(from, Some(to)) || !met);
                    let apart = spans.iter().all(|(begin, end)| {
                        begin >= to.as_slice() || end.is_some_and(|end| end <= from.as_slice())
                    });
                    prop_assert_eq!(spans.meets(from, Some(to)), !apart);
                }
            }
            let all: Vec<_> = spans.iter().collect();
            for pair in all.windows(2) {
                prop_assert!(pair[0].1.is_some_and(|end| end < pair[1].0), "{all:?}");
            }
            let bytes = |(from, to): &(&[u8], Option<&[u8]>)| {
                SPAN_BYTES + from.len() + to.map_or(0, <[u8]>::len)
            };
            prop_assert_eq!(spans.bytes(), all.iter().map(bytes).sum::<usize>());
            prop_assert!(keys.iter().all(|key| is_key(key, Some(&successor(key)))));
        }
    }
}
