//! Groups: for whom one sync is.
//!
//! Left to itself a group is about half of the writers: while it is synced the other half gets ready, and
//! the next sync begins before those that this one has let go are back with their next batches. So who
//! may lead *gathers* first: it waits until as many batches are ready as there were at the end of the
//! last sync, for a part of what that sync took. Whoever completes the group leads it at once. Then
//! one sync does the work of two; all wait for it together, and each waits less.
//!
//! *It costs little where it does not pay.* A writer that is alone expects nobody. When those that were
//! expected do not come in time, as many leaders after it do not gather as failed in a row, and as many
//! again with each failure; and what was there is what is expected next.

use std::time::Duration;

use crate::base::error::Result;
use crate::base::sync::MutexGuard;
use crate::base::sync::wait_a_moment;
use crate::engine::Core;
use crate::engine::commit::CommitState;
use crate::engine::commit::Publish;

/// A leader waits for the others for at most this part of what the last sync took.
const PART_OF_SYNC: u32 = 2;
/// Who comes at once comes earlier than that.
const GATHER_MAX: Duration = Duration::from_micros(200);
/// So many leaders in a row, at most, do not gather.
const SKIPPED_MAX: u32 = 63;

/// What is known of the writers that wait for syncs.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Batches that were ready at the end of the last sync, those that it let go included.
    expected: usize,
    /// What the last sync took.
    took: Duration,
    /// Somebody gathers.
    is_gathering: bool,
    /// Leaders from now on that do not gather.
    skipped: u32,
    /// As many as that did not, after the last one who gathered in vain.
    penalty: u32,
}

impl Group {
    /// Begins to gather; for how long at most. `None` if that makes no sense with so many ready.
    fn gather(&mut self, ready: usize) -> Option<Duration> {
        let limit = (self.took / PART_OF_SYNC).min(GATHER_MAX);
        if ready >= self.expected || limit.is_zero() {
            return None;
        }
        self.is_gathering = self.skipped == 0;
        self.skipped = self.skipped.saturating_sub(1);
        self.is_gathering.then_some(limit)
    }

    /// Whoever gathered does not any more: it was woken, or no time is left.
    fn end_gathering(&mut self, ready: usize, timed_out: bool) {
        if timed_out && self.is_gathering && ready < self.expected {
            self.penalty = (2 * self.penalty + 1).min(SKIPPED_MAX);
            self.skipped = self.penalty;
        }
        self.is_gathering = false;
    }

    fn begin_sync(&mut self, ready: usize) {
        if ready >= self.expected {
            self.penalty = 0;
        }
        self.is_gathering = false;
    }

    /// A sync has ended; its batches are still among those that are ready.
    fn end_sync(&mut self, ready: usize, took: Duration) {
        self.expected = ready;
        self.took = took;
    }
}

impl Publish {
    /// Does somebody gather a group that is not complete yet?
    pub(super) fn is_gathering(&self) -> bool {
        self.group.is_gathering && self.ready.len() < self.group.expected
    }
}

impl CommitState {
    /// Waits for a moment for a group to be complete; false, and it did not, if that makes no sense.
    pub(super) fn gather(&self, publish: &mut MutexGuard<'_, Publish>) -> bool {
        let ready = publish.ready.len();
        let Some(limit) = publish.group.gather(ready) else { return false };
        publish.waiting += 1;
        let timed_out = wait_a_moment(&self.published, publish, limit);
        publish.waiting -= 1;
        let ready = publish.ready.len();
        publish.group.end_gathering(ready, timed_out);
        true
    }
}

/// The one thread that syncs the log.
pub(super) struct Leader<'a> {
    core: &'a Core,
    began: Duration,
}

impl<'a> Leader<'a> {
    /// Requires: nobody else is at a sync. An error if nobody may be any more: under the lock, as the
    /// last leader has noted its failure before it let go of it, and a sync behind one that failed
    /// would prove nothing (C3).
    pub(super) fn new(core: &'a Core, publish: &mut Publish) -> Result<Leader<'a>> {
        core.health.check_writable()?;
        publish.group.begin_sync(publish.ready.len());
        publish.is_syncing = true;
        Ok(Leader { core, began: core.clock.monotonic() })
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let took = self.core.clock.monotonic().saturating_sub(self.began);
        let commit = &self.core.commit;
        let mut publish = commit.publish.lock();
        publish.is_syncing = false;
        let ready = publish.ready.len();
        publish.group.end_sync(ready, took);
        commit.advance(&mut publish);
        commit.wake(&mut publish);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: Duration = Duration::from_micros(100);

    #[test]
    fn one_writer_never_waits_for_others() {
        let mut group = Group::default();
        for _ in 0..10 {
            assert_eq!(group.gather(1), None);
            group.begin_sync(1);
            group.end_sync(1, SYNC);
        }
    }

    #[test]
    fn those_that_a_sync_lets_go_are_waited_for_with_those_that_got_ready_meanwhile() {
        let mut group = Group::default();
        group.begin_sync(1);
        // One is synced, and another came.
        group.end_sync(2, SYNC);
        assert_eq!(group.gather(1), Some(SYNC / PART_OF_SYNC));
        // The second is there, and leads.
        group.begin_sync(2);
        group.end_gathering(2, true);
        group.end_sync(2, Duration::from_secs(1));
        assert_eq!(group.gather(1), Some(GATHER_MAX), "nothing was in vain");
    }

    #[test]
    fn who_gathers_in_vain_spares_later_leaders_the_same_for_longer_each_time() {
        let mut group = Group::default();
        let mut leaders = Vec::new();
        for leader in 0..400 {
            // Each sync finds a second batch at its end, whose writer never comes in time.
            group.end_sync(2, SYNC);
            if group.gather(1).is_some() {
                leaders.push(leader);
                group.end_gathering(1, true);
            }
            group.begin_sync(1);
        }
        let gaps: Vec<_> = leaders.windows(2).map(|pair| pair[1] - pair[0] - 1).collect();
        assert_eq!(gaps, [1, 3, 7, 15, 31, 63, 63, 63, 63, 63]);
        group.end_sync(2, SYNC);
        group.begin_sync(2);
        group.end_sync(2, SYNC);
        while group.gather(1).is_none() {}
        group.end_gathering(1, true);
        assert_eq!(group.skipped, 1, "a group that is complete begins anew");
    }
}
