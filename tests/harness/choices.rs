//! Where a test takes its decisions from: a seed, or the bytes of a fuzz input.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use esker::Clock;

/// A good mixture of the bits of `n`.
pub(crate) fn mix(n: u64) -> u64 {
    let mut n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Decisions, one after the other.
pub(crate) enum Choices {
    /// Without end.
    Seed(u64),
    /// One byte for a choice among up to 256. When they have run out, each choice is 0.
    Bytes(std::vec::IntoIter<u8>),
}

impl Choices {
    pub(crate) fn seed(seed: u64) -> Choices {
        Choices::Seed(mix(seed))
    }

    pub(crate) fn bytes(bytes: &[u8]) -> Choices {
        Choices::Bytes(Vec::from(bytes).into_iter())
    }

    /// Is there nothing left to choose from?
    pub(crate) fn over(&self) -> bool {
        matches!(self, Choices::Bytes(bytes) if bytes.as_slice().is_empty())
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        match self {
            Choices::Seed(seed) => {
                *seed = seed.wrapping_add(1);
                mix(*seed) % n
            }
            Choices::Bytes(bytes) => {
                let mut number = 0;
                let mut reach = 1;
                while reach < n {
                    number = number << 8 | u64::from(bytes.next().unwrap_or(0));
                    reach <<= 8;
                }
                number % n
            }
        }
    }

    /// As [`Choices::below`], as an index.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// One of `all`.
    pub(crate) fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.index(all.len())]
    }

    /// True once in `n` times; false if the input is over.
    pub(crate) fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == n - 1
    }
}

/// Time and random numbers that are the same in every run.
#[derive(Debug)]
pub(crate) struct TestClock(AtomicU64);

impl TestClock {
    pub(crate) fn new(seed: u64) -> TestClock {
        TestClock(AtomicU64::new(mix(seed) >> 24))
    }

    /// Milliseconds by the wall clock that [`TestClock::wait`] lets pass.
    pub(crate) const WAIT_MS: u64 = 3_600_000_000;

    /// Lets an hour pass, or by the wall clock some weeks.
    pub(crate) fn wait(&self) {
        self.0.fetch_add(TestClock::WAIT_MS, Relaxed);
    }
}

impl Clock for TestClock {
    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.0.fetch_add(1, Relaxed))
    }

    fn wall_ms(&self) -> u64 {
        1_700_000_000_000 + self.0.fetch_add(1, Relaxed)
    }

    fn unique(&self) -> u64 {
        mix(self.0.fetch_add(1, Relaxed))
    }
}
