//! Reading ahead: the system is told what a walk over blocks will come to, before it does.
//!
//! What it is told of at once costs one wait for the disk, and what is not read after all costs the disk
//! and the page cache for nothing. So the first step is as long as walks over this file have been,
//! and all of it is used up before there is a second one. Who goes on beyond goes on for long,
//! probably: then steps double, and the next is told when half of the last is left.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use crate::fs::ReadableFile;
use crate::sst::block::BlockHandle;

/// The first step over a file of which nothing is known.
const UNKNOWN_LEN: u32 = 16 << 10;
/// What is learned is no less: a page is read in any case.
const LEARNED_MIN: u32 = 4 << 10;
/// A walk that is longer, as one over everything, says nothing of others.
const LEARNED_MAX: u64 = 256 << 10;
/// Bounds of the steps after the first.
const STEP_MIN: u64 = 32 << 10;
const STEP_MAX: u64 = 1 << 20;

/// How long walks over a file are, and an eighth more: their blocks are not all of the same length.
/// It is the longest of late: each walk forgets a sixteenth of it. What several threads say of it at
/// once may be lost, which costs a step that is too short.
///
/// On lines of its own: what else a file has is read by all threads, and this is written.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct WalkLen(AtomicU32);

impl Default for WalkLen {
    fn default() -> WalkLen {
        WalkLen(AtomicU32::new(UNKNOWN_LEN))
    }
}

impl WalkLen {
    /// A walk begins: its first step.
    fn begin(&self) -> u32 {
        let len = self.0.load(Relaxed);
        self.0.store((len - len / 16).max(LEARNED_MIN), Relaxed);
        len
    }

    /// A walk has come so far, [`LEARNED_MAX`] at most.
    fn note(&self, len: u64) {
        let len = (len + len / 8) as u32;
        if len > self.0.load(Relaxed) {
            self.0.store(len, Relaxed);
        }
    }

    /// A walk of the first step `len` has turned out to be one of which nothing is learned.
    fn forget(&self, len: u32) {
        self.0.store(len, Relaxed);
    }
}

/// Which way a walk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Forward,
    Back,
}

/// How far ahead of a walk the system was told.
#[derive(Debug)]
pub(super) struct ReadAhead {
    /// None before the first block that is entered in sequence.
    way: Option<Way>,
    /// Where that block begins; on the way back, where it ends.
    origin: u64,
    /// Has it gone too far for others to learn from it?
    is_long: bool,
    /// The first step, as learned.
    first: u32,
    /// The last step; none yet.
    len: Option<u64>,
    /// Up to where the system was told; on the way back, down to where.
    told: u64,
    /// With so much of it left, the next step is told.
    left: u64,
}

impl ReadAhead {
    pub(super) const NONE: ReadAhead =
        ReadAhead { way: None, origin: 0, is_long: false, first: 0, len: None, told: 0, left: 0 };

    /// A walk enters the block behind the last one. Where it lies is not verified yet: it may be
    /// anywhere.
    pub(super) fn advance(&mut self, file: &dyn ReadableFile, walks: &WalkLen, to: BlockHandle) {
        self.go(Way::Forward, to.offset, walks);
        self.learn(walks, to.end().saturating_sub(self.origin));
        if to.end().saturating_add(self.left) <= self.told {
            return;
        }
        let from = self.told.max(to.offset);
        self.told = from.saturating_add(self.step()).min(file.len());
        // The block itself is read at once in any case.
        if from < self.told && to.end() < self.told {
            file.will_need(from..self.told);
        }
    }

    /// A walk enters the block in front of the last one.
    pub(super) fn retreat(&mut self, file: &dyn ReadableFile, walks: &WalkLen, to: BlockHandle) {
        self.go(Way::Back, to.end(), walks);
        self.learn(walks, self.origin.saturating_sub(to.offset));
        if to.offset >= self.told.saturating_add(self.left) {
            return;
        }
        let from = self.told.min(to.end()).min(file.len());
        self.told = from.saturating_sub(self.step());
        if self.told < from && self.told < to.offset {
            file.will_need(self.told..from);
        }
    }

    /// Begins at `origin`, unless the walk goes that way already.
    fn go(&mut self, way: Way, origin: u64, walks: &WalkLen) {
        if self.way != Some(way) {
            let first = walks.begin();
            *self = ReadAhead { way: Some(way), origin, first, told: origin, ..ReadAhead::NONE };
        }
    }

    /// The walk has come so far from where it began.
    fn learn(&mut self, walks: &WalkLen, len: u64) {
        if len <= LEARNED_MAX {
            walks.note(len);
        } else if !self.is_long {
            self.is_long = true;
            walks.forget(self.first);
        }
    }

    /// The next step.
    fn step(&mut self) -> u64 {
        let (len, left) = match self.len {
            None => (u64::from(self.first), 0),
            Some(_) if self.left == 0 => (STEP_MIN, STEP_MIN / 2),
            Some(len) => ((len * 2).min(STEP_MAX), len.min(STEP_MAX / 2)),
        };
        (self.len, self.left) = (Some(len), left);
        len
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::sst::block::TRAILER_LEN;
    use crate::sst::tests::support::MemFile;

    const BLOCK: u64 = 2 << 10;

    const FILE_LEN: u64 = 16 << 20;

    /// Only asked how long it is, and told.
    fn file() -> Arc<MemFile> {
        MemFile::new(&Bytes::from(vec![0; FILE_LEN as usize]), false)
    }

    /// Enters blocks one after the other, and returns what the system was told when.
    fn enter(walks: &WalkLen, blocks: impl Iterator<Item = (u64, Way)>) -> Vec<(u64, Range<u64>)> {
        let (file, mut ahead) = (file(), ReadAhead::NONE);
        let len = (BLOCK - TRAILER_LEN as u64) as u32;
        let mut told = Vec::new();
        for (offset, way) in blocks {
            let block = BlockHandle { offset, len };
            match way {
                Way::Forward => ahead.advance(&*file, walks, block),
                Way::Back => ahead.retreat(&*file, walks, block),
            }
            told.extend(file.told.lock().drain(..).map(|range| (offset, range)));
        }
        told
    }

    /// A walk over `blocks` blocks that lie from `from` on.
    fn walk(walks: &WalkLen, from: u64, blocks: u64, way: Way) -> Vec<(u64, Range<u64>)> {
        let nth = |n: u64| if way == Way::Forward { n } else { blocks - 1 - n };
        enter(walks, (0..blocks).map(|n| (from + nth(n) * BLOCK, way)))
    }

    fn bytes(told: &[(u64, Range<u64>)]) -> u64 {
        told.iter().map(|(_, range)| range.end - range.start).sum()
    }

    #[test]
    fn walks_that_are_all_of_one_length_are_told_of_at_once_and_hardly_more() {
        for way in [Way::Forward, Way::Back] {
            for blocks in [2, 3, 8, 27, 100] {
                let walks = WalkLen::default();
                // One from 16 KiB up, or as many as it takes to come down.
                (0..32).for_each(|_| drop(walk(&walks, 1 << 20, blocks, way)));
                let told = walk(&walks, 1 << 20, blocks, way);
                assert_eq!(told.len(), 1, "{blocks} blocks, {way:?}: {told:?}");
                let read = blocks * BLOCK;
                assert!(
                    (read..=read * 5 / 4).contains(&bytes(&told)),
                    "{blocks}, {way:?}: {told:?}"
                );
            }
        }
    }

    #[test]
    fn a_walk_of_one_block_tells_nothing() {
        let walks = WalkLen::default();
        (0..32).for_each(|_| drop(walk(&walks, 1 << 20, 1, Way::Forward)));
        // No less than a page, which is two of these blocks.
        assert_eq!(bytes(&walk(&walks, 1 << 20, 1, Way::Forward)), 2 * BLOCK);
        let (file, mut ahead) = (file(), ReadAhead::NONE);
        ahead.advance(&*file, &walks, BlockHandle { offset: 1 << 20, len: 4 << 10 });
        assert!(file.told.lock().is_empty());
    }

    #[test]
    fn walks_of_changing_lengths_are_told_of_at_once_as_well() {
        let walks = WalkLen::default();
        let lens = [13, 9, 13, 9, 12];
        lens.iter().for_each(|blocks| drop(walk(&walks, 1 << 20, *blocks, Way::Forward)));
        for blocks in lens {
            let told = walk(&walks, 1 << 20, blocks, Way::Forward);
            assert!(told.len() == 1 && bytes(&told) <= 15 * BLOCK, "{blocks}: {told:?}");
        }
    }

    #[test]
    fn a_walk_that_goes_on_is_told_of_in_steps_that_double_without_gaps() {
        for way in [Way::Forward, Way::Back] {
            let walks = WalkLen::default();
            (0..32).for_each(|_| drop(walk(&walks, 1 << 20, 2, way)));
            let first = walks.begin();
            walks.forget(first);
            let told = walk(&walks, 4 << 20, 2000, way);
            let lens: Vec<u64> = told.iter().map(|(_, range)| range.end - range.start).collect();
            let doubling = (0..).map(|n| (STEP_MIN << n).min(STEP_MAX));
            let expected = std::iter::once(u64::from(first)).chain(doubling);
            assert_eq!(lens, expected.take(lens.len()).collect::<Vec<_>>());
            for pair in told.windows(2) {
                let ((_, last), (at, next)) = (&pair[0], &pair[1]);
                // How much of the last step was left when the next was told, the block counted.
                let (ahead, is_joined) = match way {
                    Way::Forward => (last.end - at, last.end == next.start),
                    Way::Back => (at + BLOCK - last.start, last.start == next.end),
                };
                let half = if last == &told[0].1 { 0 } else { (last.end - last.start) / 2 };
                assert!(is_joined && (half..=half + BLOCK).contains(&ahead), "{told:?}");
            }
            // It is longer than what anything is learned from.
            assert_eq!(walks.begin(), first);
        }
    }

    #[test]
    fn who_turns_round_begins_anew() {
        let walks = WalkLen::default();
        let there = (0..20).map(|n| ((1 << 20) + n * BLOCK, Way::Forward));
        let back = (0..19).rev().map(|n| ((1 << 20) + n * BLOCK, Way::Back));
        let told = enter(&walks, there.clone().chain(back).chain(there.skip(1)));
        let at = |(at, _): &(u64, Range<u64>)| (at - (1 << 20)) / BLOCK;
        assert_eq!(told.iter().map(at).collect::<Vec<_>>(), [0, 8, 16, 18, 1], "{told:?}");
        assert_eq!((told[3].1.end, told[4].1.start), ((1 << 20) + 19 * BLOCK, (1 << 20) + BLOCK));
    }

    #[test]
    fn what_is_told_lies_in_the_file() {
        let walks = WalkLen::default();
        let end = FILE_LEN;
        let told = walk(&walks, end - 4 * BLOCK, 4, Way::Forward);
        assert!(told.len() == 1 && told[0].1 == (end - 4 * BLOCK..end), "{told:?}");
        let told = walk(&walks, 0, 4, Way::Back);
        assert!(told.len() == 1 && told[0].1 == (0..4 * BLOCK), "{told:?}");
        // Places that no block can have: nothing overflows.
        assert_eq!(walk(&walks, u64::MAX - BLOCK, 1, Way::Forward), []);
        let told = walk(&walks, u64::MAX - BLOCK, 1, Way::Back);
        assert!(told.iter().all(|(_, range)| range.end <= end), "{told:?}");
    }
}
