//! The log's history: segments that recovery does not need any more, kept for change feeds within
//! the limits that the options set.
//!
//! The edit of the manifest that raises the log's floor lists the segments below it that are kept,
//! so that the next open finds them and knows which sequence numbers they hold and how old they are.
//! That one of them goes again is noted nowhere: they go from the front, so of those that are listed
//! the last that are there, without one missing in between, are the history.

use std::io;

use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::engine::Core;
use crate::engine::commit::LogSegment;
use crate::fs::names::wal_path;
use crate::manifest::KeptSegment;
use crate::manifest::VersionEdit;
use crate::wal::SegmentReader;

impl Core {
    /// What the edit that raises the floor has to list.
    pub(crate) fn to_keep(&self, floor: Option<FileId>) -> Vec<KeptSegment> {
        let Some(floor) = floor.filter(|_| self.retention.keeps()) else {
            return Vec::new();
        };
        let append = self.commit.append_lock();
        let below = append.segments().iter().take_while(|segment| segment.id < floor);
        below.filter_map(LogSegment::to_keep).collect()
    }

    /// What a manifest that begins with a snapshot says of the log.
    pub(crate) fn stated_log(&self) -> VersionEdit {
        let append = self.commit.append_lock();
        VersionEdit {
            wal_floor: append.segments().front().map(|segment| segment.id),
            log_retention: Some(self.retention).filter(|retention| retention.keeps()),
            kept: append.history().kept().iter().filter_map(LogSegment::to_keep).collect(),
            ..VersionEdit::default()
        }
    }

    /// Lets go of the log's segments before `floor`, and of what is too much of its history then.
    /// Returns what is to be retired. Requires: the edit with this floor is durable.
    pub(crate) fn cut_history(&self, floor: FileId) -> Vec<LogSegment> {
        let now_ms = self.clock.wall_ms();
        let mut append = self.commit.append_lock();
        let cut = append.cut(floor);
        if !self.retention.keeps() {
            return cut;
        }
        let history = append.history_mut();
        history.extend(cut);
        let shortened = history.shorten();
        let gone = history.trim(self.retention, now_ms);
        drop(append);
        for (id, bytes) in shortened {
            if let Err(error) = self.shorten_segment(id, bytes) {
                tracing::warn!(%error, "a log segment that is kept takes more space than it needs");
            }
        }
        gone
    }

    /// Gives back what a segment that is no longer written to has not used.
    fn shorten_segment(&self, id: FileId, bytes: u64) -> Result<()> {
        self.output.fs.open_writable(&wal_path(&self.output.dir, id))?.set_len(bytes)
    }

    /// Reads all of a kept segment, unless it goes meanwhile.
    pub(crate) fn verify_kept(&self, segment: &LogSegment) -> Result<()> {
        let Some(end) = segment.end else { return Ok(()) };
        let (fs, dir) = (self.output.fs.as_ref(), &self.output.dir);
        let (id, first) = (segment.id, segment.first);
        let opened = SegmentReader::open(fs, dir, self.db_id, id, first, Some(end.offset));
        let mut reader = match opened {
            Err(error) if error.io_kind() == Some(io::ErrorKind::NotFound) => {
                let append = self.commit.append_lock();
                let is_kept = append.history().kept().iter().any(|kept| kept.id == id);
                return if is_kept { Err(error) } else { Ok(()) };
            }
            opened => opened?,
        };
        while reader.next_seqno() <= end.last {
            if reader.next_buffered()?.is_none() {
                reader.read_next()?;
            }
        }
        Ok(())
    }

    /// Lets go of what is too much of the log's history, or has become too old.
    pub(crate) fn trim_history(&self) {
        let now_ms = self.clock.wall_ms();
        let gone = self.commit.append_lock().history_mut().trim(self.retention, now_ms);
        for segment in gone {
            self.retire_segment(&segment);
        }
    }
}
