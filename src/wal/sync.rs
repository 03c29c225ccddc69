//! Keeps track of what was written and is not durable yet.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::error::Result;
use crate::wal::segment::Segment;
use crate::wal::writer::LogMark;

/// The segments with unsynced bytes, oldest first. The sync itself is a [`SyncTask`], which needs no
/// lock.
#[derive(Debug)]
pub(crate) struct SyncQueue {
    unsynced: VecDeque<Arc<Segment>>,
    written: LogMark,
    /// Up to where the log is written to segments that it has left.
    ended: LogMark,
    durable: LogMark,
}

impl SyncQueue {
    /// A queue for a log of which everything in front of `recovered` is durable.
    pub(crate) fn new(recovered: LogMark) -> SyncQueue {
        SyncQueue {
            unsynced: VecDeque::new(),
            written: recovered,
            ended: recovered,
            durable: recovered,
        }
    }

    /// Notes that what was written to `segment` makes the log end at `end`.
    pub(crate) fn wrote(&mut self, segment: &Arc<Segment>, end: LogMark) {
        debug_assert!(end >= self.written);
        if self.unsynced.back().is_none_or(|last| last.id() != segment.id()) {
            self.unsynced.push_back(Arc::clone(segment));
            // Or, if the segment was synced before and is written to again, what is durable.
            self.ended = self.written;
        }
        self.written = end;
    }

    /// Up to where the log reached the system.
    #[cfg(test)]
    pub(crate) fn written(&self) -> LogMark {
        self.written
    }

    /// Up to where the log is on stable storage.
    #[cfg(test)]
    pub(crate) fn durable(&self) -> LogMark {
        self.durable
    }

    /// Is everything that was written durable?
    #[cfg(test)]
    pub(crate) fn is_synced(&self) -> bool {
        self.unsynced.is_empty()
    }

    /// What has to be synced so that everything written so far is durable.
    pub(crate) fn begin(&self) -> SyncTask {
        let segments = self.unsynced.iter().cloned().collect();
        SyncTask { segments, mark: self.written, is_active_last: true }
    }

    /// What has to be synced so that all segments are durable that the log has left; `None` if they
    /// are.
    pub(crate) fn begin_ended(&self) -> Option<SyncTask> {
        let ended = self.unsynced.len().saturating_sub(1);
        let segments: Vec<_> = self.unsynced.iter().take(ended).cloned().collect();
        let is_any = !segments.is_empty();
        is_any.then_some(SyncTask { segments, mark: self.ended, is_active_last: false })
    }

    /// Notes that `task` has run without error, and returns up to where the log is durable now.
    pub(crate) fn finish(&mut self, task: &SyncTask) -> LogMark {
        if task.mark < self.durable {
            return self.durable;
        }
        self.durable = task.mark;
        // Only a segment that was active when the task began can have been written to since.
        let all_synced = !task.is_active_last || self.written == task.mark;
        let last = task.segments.last().map(|segment| segment.id());
        while let Some(oldest) = self.unsynced.front() {
            let synced = last.is_some_and(|last| oldest.id() < last)
                || all_synced && Some(oldest.id()) == last;
            if !synced {
                break;
            }
            self.unsynced.pop_front();
        }
        self.durable
    }
}

/// Syncs of one or more segments, oldest first: a record is durable only if all before it are.
#[derive(Debug)]
pub(crate) struct SyncTask {
    segments: Vec<Arc<Segment>>,
    mark: LogMark,
    /// Was the last segment the active one?
    is_active_last: bool,
}

impl SyncTask {
    /// Syncs. May take milliseconds: hold no lock that a writer needs. The last handle to a segment
    /// that the log has left may go with the task, and with it a mapping: drop it without a lock too.
    ///
    /// After an error nothing written since the last successful sync is known to be durable, and
    /// no later sync can tell: acknowledge nothing more.
    pub(crate) fn run(&self) -> Result<()> {
        let ended = self.segments.len().saturating_sub(usize::from(self.is_active_last));
        self.segments.iter().enumerate().try_for_each(|(index, segment)| {
            if index < ended {
                segment.finish_overwrites();
            }
            segment.sync_data()
        })
    }

    /// Up to where the log is durable when the task has run.
    #[cfg(test)]
    pub(crate) fn mark(&self) -> LogMark {
        self.mark
    }
}
