//! The log's files: segments are prepared ahead, used, and used again.

use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::base::options::Config;
use crate::engine::Core;
use crate::engine::commit::LogSegment;
use crate::fs::names::wal_path;
use crate::wal::PreparedSegment;
use crate::wal::prepare_segment;
use crate::wal::recycle_segment;
use crate::wal::segment_bytes_for;

/// The first segment of a database, and the least; each further one is twice as long.
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// No segment need be longer: preparing one takes a moment of the disk.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// The log is bounded in segments of at most this share of it.
const SEGMENTS_PER_LOG: u64 = 8;

fn segment_bytes_max(config: &Config) -> u64 {
    (config.wal_bytes / SEGMENTS_PER_LOG).min(SEGMENT_BYTES_MAX)
}

/// Length of the first segment after an open.
pub(crate) fn segment_bytes_first(config: &Config) -> u64 {
    segment_bytes_max(config).min(SEGMENT_BYTES_MIN)
}

impl Core {
    /// Length that segments grow to.
    pub(crate) fn segment_bytes_max(&self) -> u64 {
        segment_bytes_max(&self.config)
    }

    /// A fresh segment.
    pub(crate) fn prepare_segment(&self, bytes: u64) -> Result<PreparedSegment> {
        let id = self.output.new_file_id();
        prepare_segment(self.output.fs.as_ref(), &self.output.dir, id, bytes)
    }

    /// Makes the next segment, if it is not there yet, while the active one is being filled.
    pub(crate) fn make_spare_segment(&self) -> Result<()> {
        let Some((bytes, work)) = self.commit.begin_spare(self.segment_bytes_max()) else {
            return Ok(());
        };
        let spare = self.prepare_segment(segment_bytes_for(0, bytes))?;
        self.offer_spare(spare);
        drop(work);
        Ok(())
    }

    fn offer_spare(&self, spare: PreparedSegment) {
        let surplus = self.commit.append_lock().offer_spare(spare);
        if let Some(surplus) = surplus {
            self.remove_segment(surplus.id());
        }
    }

    /// Keeps a segment that the log no longer needs as the next one, or else removes it. Requires:
    /// the manifest's floor is above it, durably.
    pub(crate) fn retire_segment(&self, segment: &LogSegment) {
        let wanted = self.commit.append_lock().spare_wanted(self.segment_bytes_max());
        if wanted.is_some_and(|bytes| segment_bytes_for(0, bytes) == segment.bytes) {
            let id = self.output.new_file_id();
            let fs = self.output.fs.as_ref();
            match recycle_segment(fs, &self.output.dir, segment.id, id, segment.bytes) {
                Ok(Some(spare)) => return self.offer_spare(spare),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "a log segment cannot be used again");
                    return;
                }
            }
        }
        self.remove_segment(segment.id);
    }

    pub(crate) fn remove_segment(&self, id: FileId) {
        if let Err(error) = self.output.fs.remove(&wal_path(&self.output.dir, id)) {
            tracing::warn!(%error, "an obsolete log segment stays until the next open");
        }
    }
}
