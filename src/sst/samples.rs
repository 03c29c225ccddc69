//! Samples of index partitions: of each that was searched, every sixteenth head or so, in memory.
//!
//! A binary search in an index partition waits for memory at almost every step, and it begins only
//! when the filter has been asked. The samples of a partition are two cache lines that many searches
//! share; they tell which sixteenth of the partition a search ends in, so that all lines of it, two
//! or three of heads and one or two of offsets, can be asked for at once, while the filter's is still
//! on its way.
//!
//! They are noted at the first search of a partition, from its verified block, and never change. Two
//! threads that note the same partition store the same words.
#![deny(clippy::indexing_slicing)]

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;

use crate::base::key::head8;
use crate::sst::index_block::IndexBlock;

/// A partition has so many parts at most, and between them one sample less.
pub(super) const PARTS: usize = 16;

/// The samples of all partitions of a file.
#[derive(Debug)]
pub(super) struct Samples(Box<[OfPartition]>);

#[derive(Debug, Default)]
#[repr(align(128))]
struct OfPartition {
    /// 0 until the heads are there, then one more than the bytes that all separators share.
    shared: AtomicU64,
    /// Those of the first blocks of all parts but the first; above all where there is no such part.
    heads: [AtomicU64; PARTS - 1],
}

/// Where in a partition a search ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// The first block whose head is to be looked at, and how many.
    pub(super) start: usize,
    pub(super) len: usize,
    /// What is looked for.
    pub(super) head: u64,
}

impl Samples {
    /// None yet, of so many partitions.
    pub(super) fn new(partitions: usize) -> Samples {
        Samples((0..partitions).map(|_| OfPartition::default()).collect())
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        size_of_val::<[_]>(&self.0)
    }

    /// The part of partition `p` that a search for `user` ends in. None if it was not searched
    /// before, and where no search is needed, as `user` does not begin as all separators do. The
    /// partition has so many `blocks`, and the first one has the separator `first`.
    #[inline]
    pub(super) fn part(&self, p: usize, blocks: usize, first: &[u8], user: &[u8]) -> Option<Part> {
        let samples = self.0.get(p)?;
        let shared_len = samples.shared.load(Acquire).checked_sub(1)? as usize;
        let head = head8(user.strip_prefix(first.get(..shared_len)?)?);
        let before = samples.heads.iter().map(|sample| usize::from(sample.load(Relaxed) < head));
        let len = part_len(blocks);
        Some(Part { start: before.sum::<usize>() * len, len, head })
    }

    /// Notes what `index` says, which is partition `p`, unless that has been done.
    pub(super) fn note(&self, p: usize, index: &IndexBlock<'_>, first: &[u8]) {
        let Some(samples) = self.0.get(p).filter(|samples| samples.shared.load(Relaxed) == 0)
        else {
            return;
        };
        // Where the top index says something else of the first block, a search looks at all heads.
        if index.separator(0) != Ok(first) {
            return;
        }
        let len = part_len(index.len());
        for (part, sample) in (1..).zip(&samples.heads) {
            sample.store(index.head(part * len).unwrap_or(u64::MAX), Relaxed);
        }
        samples.shared.store(index.shared_len() as u64 + 1, Release);
    }
}

fn part_len(blocks: usize) -> usize {
    blocks.div_ceil(PARTS)
}
