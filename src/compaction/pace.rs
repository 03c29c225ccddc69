//! How fast a compaction runs that only serves readers: while it has to wait for a processor or for
//! the disk, it is in the way of those whom it is for, and rests for most of the time; until
//! something waits for it. Where there is enough of both it runs as fast as any other.

use std::fmt;
use std::time::Duration;

use crate::base::clock::Clock;
use crate::base::sync::thread;

/// It rests if it has waited for more than this part of the time.
const WAITED: u32 = 8;
/// And for so many times as long as it has been at it.
const REST: u32 = 3;
/// And no longer than this at a time, after which it looks again whether something waits.
const REST_MAX: Duration = Duration::from_millis(50);

/// What a job looks at to run at its pace.
#[derive(Clone, Copy)]
pub(crate) struct Pace<'a> {
    pub(crate) clock: &'a dyn Clock,
    /// Does nothing wait for the job?
    pub(crate) may_rest: &'a (dyn Fn() -> bool + Sync),
}

/// When a job has begun with a piece of its work, by the clock and by what its thread has worked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begin {
    at: Duration,
    worked: Option<Duration>,
}

impl Pace<'_> {
    /// A piece begins.
    pub(crate) fn begin(&self) -> Begin {
        Begin { at: self.clock.monotonic(), worked: self.clock.thread_time() }
    }

    /// Rests after the piece that has begun at `begin`, if that had to wait, and the job may. The next
    /// piece begins.
    pub(crate) fn rest(&self, begin: Begin) -> Begin {
        let now = self.begin();
        let took = now.at.saturating_sub(begin.at);
        // Where nobody knows, it may have waited all the time.
        let worked = now.worked.zip(begin.worked).map(|(now, before)| now.saturating_sub(before));
        let waited = took.saturating_sub(worked.unwrap_or_default());
        if waited * WAITED <= took || !(self.may_rest)() {
            return now;
        }
        thread::sleep((took * REST).min(REST_MAX));
        self.begin()
    }
}

impl fmt::Debug for Pace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    /// A clock that goes on by a millisecond at each look, in which the thread works for so long.
    #[derive(Debug)]
    struct Looks {
        looks: AtomicU64,
        works_us: Option<u64>,
    }

    impl Clock for Looks {
        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.looks.fetch_add(1, Relaxed))
        }

        fn wall_ms(&self) -> u64 {
            0
        }

        fn unique(&self) -> u64 {
            7
        }

        fn thread_time(&self) -> Option<Duration> {
            self.works_us.map(|us| Duration::from_micros(us * self.looks.load(Relaxed)))
        }
    }

    /// How often a job rests that does one piece of work.
    fn rests(works_us: Option<u64>, may_rest: bool) -> u64 {
        let clock = Looks { looks: AtomicU64::new(0), works_us };
        let pace = Pace { clock: &clock, may_rest: &|| may_rest };
        pace.rest(pace.begin());
        // It looks at the clock before and after the work, and after a rest.
        clock.looks.into_inner() - 2
    }

    #[test]
    fn it_rests_if_it_had_to_wait_and_nothing_waits_for_it() {
        assert_eq!([Some(0), Some(500), Some(870)].map(|us| rests(us, true)), [1, 1, 1]);
        assert_eq!([Some(880), Some(1000)].map(|us| rests(us, true)), [0, 0]);
        assert_eq!([Some(500), None].map(|us| rests(us, false)), [0, 0]);
        assert_eq!(rests(None, true), 1);
    }
}
