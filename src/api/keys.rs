//! Keys: the keys of a range, in order, from either end, without their values.

use std::iter::FusedIterator;

use crate::api::iter::Iter;
use crate::base::error::Result;
use crate::base::slice::Key;

/// The keys of a range, in order, as of the moment the iterator was made. Made by
/// [`Reader::keys`](crate::Reader::keys) and [`Iter::into_keys`]. As [`Iter`], but for the values, of which nothing is copied
/// and nothing fetched that lies in a blob file.
#[derive(Debug)]
pub struct Keys(pub(crate) Iter);

impl Iterator for Keys {
    type Item = Result<Key>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next_with(|tree| Ok(tree.key_slice()))
    }
}

impl DoubleEndedIterator for Keys {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back_with(|tree| Ok(tree.key_slice()))
    }
}

impl FusedIterator for Keys {}
