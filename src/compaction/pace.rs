//! How fast a compaction runs that only serves readers: it works for a quarter of the time, so that
//! those whom it is for lose little of processor and disk to it; until something waits for it.

use std::fmt;
use std::time::Duration;

use crate::base::clock::Clock;
use crate::base::sync::thread;

/// It rests for so many times as long as it works.
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

impl Pace<'_> {
    /// Since when a job works that begins now.
    pub(crate) fn begin(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Rests for the work since `since`, if it may. Returns since when it works then.
    pub(crate) fn rest(&self, since: Duration) -> Duration {
        let worked = self.clock.monotonic().saturating_sub(since);
        if (self.may_rest)() {
            thread::sleep((worked * REST).min(REST_MAX));
        }
        self.clock.monotonic()
    }
}

impl fmt::Debug for Pace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::base::clock::SystemClock;

    #[test]
    fn it_rests_for_longer_than_it_works_unless_something_waits() {
        let worked = Duration::from_millis(4);
        thread::sleep(worked);
        let since = || SystemClock.monotonic().saturating_sub(worked);
        let pace = Pace { clock: &SystemClock, may_rest: &|| true };
        let before = since();
        assert!(pace.rest(before) >= before + worked * (1 + REST));
        let asked = AtomicU32::new(0);
        let may_rest = || asked.fetch_add(1, Relaxed) > 0;
        let pace = Pace { clock: &SystemClock, may_rest: &may_rest };
        let before = since();
        assert!(pace.rest(before) >= before + worked);
        assert_eq!(asked.into_inner(), 1);
    }
}
