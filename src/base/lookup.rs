//! What a batch of point reads looks for, and what it has found so far.

use crate::base::key::KeyHash;
use crate::base::key::Trailer;
use crate::base::slice::Slice;

/// One key of a batch of reads that go down the tree side by side, newest entries first. Batches
/// are sorted by key, and no key is in one twice.
#[derive(Clone, Debug)]
pub(crate) struct Lookup<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) hash: KeyHash,
    /// The newest version that the reader may see, tombstones included, once it is known.
    pub(crate) found: Option<(Trailer, Slice)>,
}

impl<'a> Lookup<'a> {
    pub(crate) fn new(key: &'a [u8]) -> Lookup<'a> {
        Lookup { key, hash: KeyHash::of(key), found: None }
    }
}
