//! Where a file's blocks are, as far as reads have told: in the page cache, or on the disk only.
//!
//! A block that the page cache has is read fastest through the file's mapping: a call looks for its
//! pages one after the other and copies them, which takes as long as to decompress it. One that the
//! page cache has not is read by a call: that brings all of it at once, and tells that it came from
//! the disk. So a mapping is trusted once many reads in a row have found their block in the page
//! cache; from then on one read in [`PROBED`] still goes by a call, and the first that finds
//! otherwise ends the trust.
#![deny(clippy::indexing_slicing)]

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use crate::base::chance::one_of;

/// So many reads in a row: where one block in twenty is on the disk only, they hardly ever agree.
const STREAK: u32 = 64;
/// What a read by a call takes longer is hardly felt once in so many.
const PROBED: u32 = 32;

/// What reads have told of one file.
#[derive(Debug, Default)]
pub(super) struct Residence {
    /// How many in a row have found their block in the page cache, up to [`STREAK`].
    streak: AtomicU32,
}

impl Residence {
    /// Should the next block be read through the mapping? Threads share nothing here that is
    /// written to while the answer stays yes.
    pub(super) fn is_memory(&self) -> bool {
        self.streak.load(Relaxed) >= STREAK && !one_of(PROBED)
    }

    /// Notes whether a read by a call found its block in the page cache.
    pub(super) fn note(&self, found: bool) {
        if !found {
            self.streak.store(0, Relaxed);
        } else if self.streak.load(Relaxed) < STREAK {
            self.streak.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_takes_a_streak_and_ends_at_once() {
        let residence = Residence::default();
        for _ in 0..2 {
            for _ in 0..STREAK {
                assert!((0..100).all(|_| !residence.is_memory()));
                residence.note(true);
            }
            let trusted = (0..6400).filter(|_| residence.is_memory()).count();
            assert!((6100..6300).contains(&trusted), "{trusted} of 6400");
            residence.note(true);
            assert!((0..100).any(|_| residence.is_memory()));
            residence.note(false);
        }
        assert!((0..100).all(|_| !residence.is_memory()));
    }
}
