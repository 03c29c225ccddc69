//! Reading ahead: the system is told what a walk over blocks will read, before it does.
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
/// Bounds of what is learned: a page, and what takes the disk longer than to find it.
const LEARNED_MIN: u32 = 4 << 10;
const LEARNED_MAX: u32 = 256 << 10;
/// Bounds of the steps after the first.
const STEP_MIN: u64 = 32 << 10;
const STEP_MAX: u64 = 1 << 20;

/// How long walks over a file are, and an eighth more: their blocks are not all of the same length.
/// It is the longest of late: each walk forgets an eighth of it.
///
/// On a line of its own: what else a file has is read by all threads, and this is written.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct WalkLen(AtomicU32);

impl Default for WalkLen {
    fn default() -> WalkLen {
        WalkLen(AtomicU32::new(UNKNOWN_LEN))
    }
}

impl WalkLen {
    /// A walk begins: its first step.
    fn begin(&self) -> u64 {
        let len = self.0.load(Relaxed);
        self.0.store((len - len / 8).max(LEARNED_MIN), Relaxed);
        u64::from(len)
    }

    /// A walk has come so far.
    fn note(&self, len: u64) {
        let len = len.saturating_add(len / 8).min(u64::from(LEARNED_MAX)) as u32;
        if len > self.0.load(Relaxed) {
            self.0.store(len, Relaxed);
        }
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
    /// Up to where the system was told; on the way back, down to where.
    told: u64,
    /// With so much of it left, the next step is told.
    left: u64,
    /// The next step.
    len: u64,
    is_first: bool,
}

impl ReadAhead {
    pub(super) const NONE: ReadAhead =
        ReadAhead { way: None, origin: 0, told: 0, left: 0, len: 0, is_first: true };

    /// A walk enters the block behind the last one. Where it lies is not verified yet: it may be
    /// anywhere.
    pub(super) fn advance(&mut self, file: &dyn ReadableFile, walks: &WalkLen, to: BlockHandle) {
        self.go(Way::Forward, to.offset, walks);
        walks.note(to.end().saturating_sub(self.origin));
        if to.end().saturating_add(self.left) <= self.told {
            return;
        }
        let from = self.told.max(to.offset);
        self.told = from.saturating_add(self.len).min(file.len());
        if from < self.told {
            file.will_need(from..self.told);
        }
        self.grow();
    }

    /// A walk enters the block in front of the last one.
    pub(super) fn retreat(&mut self, file: &dyn ReadableFile, walks: &WalkLen, to: BlockHandle) {
        self.go(Way::Back, to.end(), walks);
        walks.note(self.origin.saturating_sub(to.offset));
        if to.offset >= self.told.saturating_add(self.left) {
            return;
        }
        let from = self.told.min(to.end());
        self.told = from.saturating_sub(self.len);
        if self.told < from {
            file.will_need(self.told..from);
        }
        self.grow();
    }

    /// Begins at `origin`, unless the walk goes that way already.
    fn go(&mut self, way: Way, origin: u64, walks: &WalkLen) {
        if self.way != Some(way) {
            let len = walks.begin();
            *self = ReadAhead { way: Some(way), origin, told: origin, len, ..ReadAhead::NONE };
        }
    }

    /// After a step.
    fn grow(&mut self) {
        self.left = if self.is_first { 0 } else { self.len / 2 };
        self.is_first = false;
        self.len = (self.len * 2).clamp(STEP_MIN, STEP_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use bytes::Bytes;

    use super::*;
    use crate::base::error::Result;
    use crate::base::sync::Mutex;
    use crate::sst::block::TRAILER_LEN;

    const BLOCK: u64 = 2 << 10;

    /// Notes what it is told.
    #[derive(Debug, Default)]
    struct Told(Mutex<Vec<Range<u64>>>);

    impl ReadableFile for Told {
        fn len(&self) -> u64 {
            16 << 20
        }

        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<()> {
            unreachable!("nothing is read here")
        }

        fn mapping(&self) -> Option<&Bytes> {
            None
        }

        fn will_need(&self, range: Range<u64>) {
            self.0.lock().push(range);
        }
    }

    /// Walks over `blocks` blocks, and returns what the system was told.
    fn walk(walks: &WalkLen, from: u64, blocks: u64, way: Way) -> Vec<Range<u64>> {
        let (file, mut ahead) = (Told::default(), ReadAhead::NONE);
        for n in 0..blocks {
            let len = (BLOCK - TRAILER_LEN as u64) as u32;
            let block = |n: u64| BlockHandle { offset: from + n * BLOCK, len };
            match way {
                Way::Forward => ahead.advance(&file, walks, block(n)),
                Way::Back => ahead.retreat(&file, walks, block(blocks - 1 - n)),
            }
        }
        file.0.into_inner()
    }

    fn bytes(told: &[Range<u64>]) -> u64 {
        told.iter().map(|range| range.end - range.start).sum()
    }

    #[test]
    fn walks_that_are_all_of_one_length_are_told_of_at_once_and_hardly_more() {
        for way in [Way::Forward, Way::Back] {
            for blocks in [2, 3, 8, 27, 100] {
                let walks = WalkLen::default();
                // One from 16 KiB up, or some until an eighth less each time has come down.
                (0..16).for_each(|_| drop(walk(&walks, 1 << 20, blocks, way)));
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
    fn a_walk_that_goes_on_is_told_of_in_steps_that_double_without_gaps() {
        let walks = WalkLen::default();
        (0..16).for_each(|_| drop(walk(&walks, 1 << 20, 2, Way::Forward)));
        for way in [Way::Forward, Way::Back] {
            let told = walk(&walks, 1 << 20, 2000, way);
            let lens: Vec<u64> = told.iter().map(|range| range.end - range.start).collect();
            let doubled = lens.iter().skip(1).zip(lens.iter().skip(2));
            assert!(lens[1] >= STEP_MIN && lens.len() < 16, "{lens:?}");
            assert!(doubled.clone().all(|(a, b)| *b == (a * 2).min(STEP_MAX)), "{lens:?}");
            let joined = |pair: &[Range<u64>]| match way {
                Way::Forward => pair[0].end == pair[1].start,
                Way::Back => pair[0].start == pair[1].end,
            };
            assert!(told.windows(2).all(joined), "{told:?}");
            assert!(bytes(&told) >= 2000 * BLOCK);
            // The next is taken for a long one, and not for all of the file.
            assert_eq!(walks.begin(), u64::from(LEARNED_MAX));
        }
    }

    #[test]
    fn what_is_told_lies_in_the_file() {
        let walks = WalkLen::default();
        let file = 0..16 << 20;
        let ends = |told: &[Range<u64>]| (told[0].start, told[0].end);
        let at_the_end = file.end - 4 * BLOCK;
        let told = walk(&walks, at_the_end, 4, Way::Forward);
        assert_eq!((told.len(), ends(&told)), (1, (at_the_end, file.end)));
        let told = walk(&walks, 0, 4, Way::Back);
        assert_eq!((told.len(), ends(&told)), (1, (0, 4 * BLOCK)));
        // A place that no block can have: nothing overflows.
        assert_eq!(walk(&walks, u64::MAX - BLOCK, 1, Way::Forward), []);
    }
}
