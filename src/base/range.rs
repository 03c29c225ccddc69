//! Ranges of user keys, by their bounds.

use std::ops::Bound;

/// Lower and upper bound of a range of user keys.
pub(crate) type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Does `key` lie at or before the end `to`?
pub(crate) fn is_by(key: &[u8], to: Bound<&[u8]>) -> bool {
    match to {
        Bound::Included(to) => key <= to,
        Bound::Excluded(to) => key < to,
        Bound::Unbounded => true,
    }
}

/// The later of two ends.
pub(crate) fn later_end<'a>(a: Bound<&'a [u8]>, b: Bound<&'a [u8]>) -> Bound<&'a [u8]> {
    let is_later = match (a, b) {
        (Bound::Unbounded, _) => true,
        (_, Bound::Unbounded) => false,
        (Bound::Included(key), end) => !is_by(key, end),
        (Bound::Excluded(key), Bound::Included(other) | Bound::Excluded(other)) => other < key,
    };
    if is_later { a } else { b }
}

/// Does `key` lie before everything that `lower` allows?
pub(crate) fn is_below(key: &[u8], lower: &Bound<Vec<u8>>) -> bool {
    match lower {
        Bound::Included(lower) => key < lower.as_slice(),
        Bound::Excluded(lower) => key <= lower.as_slice(),
        Bound::Unbounded => false,
    }
}

/// Does `key` lie behind everything that `upper` allows?
pub(crate) fn is_above(key: &[u8], upper: &Bound<Vec<u8>>) -> bool {
    match upper {
        Bound::Included(upper) => key > upper.as_slice(),
        Bound::Excluded(upper) => key >= upper.as_slice(),
        Bound::Unbounded => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_ordered_by_what_lies_at_or_before_them() {
        let keys: [&[u8]; 4] = [b"", b"a", b"a\0", b"b"];
        let mut ends = vec![Bound::Unbounded];
        ends.extend(keys.iter().flat_map(|key| [Bound::Included(*key), Bound::Excluded(*key)]));
        for a in &ends {
            for b in &ends {
                let later = later_end(*a, *b);
                assert!(later == *a || later == *b);
                for key in keys {
                    assert_eq!(is_by(key, later), is_by(key, *a) || is_by(key, *b), "{a:?} {b:?}");
                }
            }
        }
    }
}
