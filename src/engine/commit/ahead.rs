//! Syncs of the log that nobody waits for yet.
//!
//! A memtable is flushed once the log is durable to its end. Unless writes are synced, that would be
//! all of its log at once: a third to a half of what a flush takes, while writers go on and fill
//! memory and log. So the flush lane syncs each segment when the log has left it, and a flush finds
//! the last one left to sync. What is written to the disk is the same.

use crate::base::error::Result;
use crate::engine::Core;
use crate::engine::commit::group::Leader;

impl Core {
    /// Syncs the segments that the log has left, unless somebody is at a sync: that is one of
    /// everything.
    pub(crate) fn sync_ended_segments(&self) -> Result<()> {
        let commit = &self.commit;
        let Some(task) = commit.append.lock().log.begin_sync_of_ended() else { return Ok(()) };
        let mut publish = commit.publish.lock();
        if publish.is_syncing {
            return Ok(());
        }
        let leader = Leader::new(self, &mut publish)?;
        drop(publish);
        let synced = self.run_sync(&task);
        drop(leader);
        synced
    }
}
