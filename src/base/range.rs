//! Ranges of user keys, by their bounds.

use std::ops::Bound;

/// Lower and upper bound of a range of user keys.
pub(crate) type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

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
