//! The log's files: segments are prepared ahead, used, and used again; and given back when the
//! database comes to rest.

use std::sync::atomic::Ordering::Acquire;
use std::time::Duration;

use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::base::options::Config;
use crate::base::options::Durability;
use crate::base::seqno::SeqNo;
use crate::engine::Core;
use crate::engine::commit::LogSegment;
use crate::engine::keyspaces::KeyspaceState;
use crate::fs::names::wal_path;
use crate::manifest::VersionEdit;
use crate::wal::PreparedSegment;
use crate::wal::Space;
use crate::wal::prepare_segment;
use crate::wal::recycle_segment;
use crate::wal::segment_bytes_for;

/// The first segment of a database, and the least; each further one is twice as long.
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// No segment need be longer: preparing one takes a moment of the disk.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// The log is bounded in segments of at most this share of it. Those that are filled with zeros are
/// long, so that most are used again.
const WRITTEN_PER_LOG: u64 = 8;
/// Those that are reserved cost next to nothing, and are short, so that little space is unused.
const RESERVED_PER_LOG: u64 = 64;

/// For how long nobody must have written before a log that is not needed is made small: so long
/// that who flushes and goes on writing keeps the segments.
const REST: Duration = Duration::from_millis(20);

fn segment_bytes_max(config: &Config) -> u64 {
    let per_log = match space(config) {
        Space::Written => WRITTEN_PER_LOG,
        Space::Reserved => RESERVED_PER_LOG,
    };
    (config.wal_bytes / per_log).min(SEGMENT_BYTES_MAX)
}

/// How new segments get their space. Where a sync is what most writes wait for, it should have as
/// little to do as possible; elsewhere the log should be written once.
pub(crate) fn space(config: &Config) -> Space {
    match config.durability {
        Durability::Sync => Space::Written,
        Durability::Interval(_) | Durability::Os => Space::Reserved,
    }
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
        let (fs, space) = (self.output.fs.as_ref(), space(&self.config));
        Ok(self.mapped(prepare_segment(fs, &self.output.dir, id, bytes, space)?))
    }

    /// Lets records be written through a mapping, if the user wants that.
    fn mapped(&self, segment: PreparedSegment) -> PreparedSegment {
        if self.config.mmap {
            segment.map();
        }
        segment
    }

    /// Makes the next segment, if it is not there yet, while the active one is being filled.
    pub(crate) fn make_spare_segment(&self) -> Result<()> {
        let Some((bytes, work)) = self.commit.begin_spare(self.segment_bytes_max()) else {
            return Ok(());
        };
        let spare = self.prepare_segment(segment_bytes_for(0, bytes))?;
        self.offer_spare(spare);
        drop(work);
        // The segment before the active one has ended, and can be synced.
        self.jobs.notify_flush();
        Ok(())
    }

    fn offer_spare(&self, spare: PreparedSegment) {
        let surplus = self.commit.append_lock().offer_spare(spare);
        if let Some(surplus) = surplus {
            self.remove_segment(surplus.id());
        }
    }

    /// Keeps a segment that the log no longer needs as the next one, or else removes it. Requires:
    /// the manifest's floor is above it, durably, and it is in no list any more.
    pub(crate) fn retire_segment(&self, segment: &LogSegment) {
        let wanted = self.commit.append_lock().spare_wanted(self.segment_bytes_max());
        if !segment.is_read()
            && wanted.is_some_and(|bytes| segment_bytes_for(0, bytes) == segment.bytes)
        {
            let id = self.output.new_file_id();
            let fs = self.output.fs.as_ref();
            match recycle_segment(fs, &self.output.dir, segment.id, id, segment.bytes) {
                Ok(Some(spare)) => return self.offer_spare(self.mapped(spare)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "a log segment cannot be used again");
                    return;
                }
            }
        }
        self.remove_segment(segment.id);
    }

    /// The last sequence number, if nothing in the log is needed and it takes more space than that
    /// of a new database.
    fn is_log_oversized(&self) -> Option<SeqNo> {
        let append = self.commit.append_lock();
        let is_oversized = append.spare_bytes() + append.wal_bytes() > self.small_segment_bytes();
        (is_oversized && self.is_log_unneeded()).then(|| append.last_seqno())
    }

    /// Length of a log in which nothing is needed.
    fn small_segment_bytes(&self) -> u64 {
        segment_bytes_for(0, segment_bytes_first(&self.config))
    }

    /// Is everything that was written in SSTs? Requires: the append lock.
    fn is_log_unneeded(&self) -> bool {
        let is_flushed = |state: &KeyspaceState| state.first_unflushed(SeqNo::ZERO).is_none();
        self.replay_from.load(Acquire) == u64::MAX
            && self.keyspaces.all().iter().all(|state| is_flushed(state))
    }

    /// How long the log lane may sleep before it looks again whether the log is to be made smaller, or
    /// memory given back.
    pub(crate) fn until_rest(&self, limit: Duration) -> Duration {
        let limit = self.until_memory_rests(limit);
        if self.is_log_oversized().is_some() { limit.min(REST) } else { limit }
    }

    /// Makes the log small if nothing in it is needed, and nobody has written for a moment.
    pub(crate) fn shrink_log_at_rest(&self) -> Result<()> {
        let Some(last) = self.is_log_oversized() else { return Ok(()) };
        if self.quiet.lasted(last, self.clock.monotonic()) < REST {
            return Ok(());
        }
        self.shrink_log()
    }

    /// Goes on in a small segment and removes all others, if nothing in them is needed.
    ///
    /// In this order: the small segment's header is durable, then the manifest's new floor, then
    /// the others are removed. So whatever a crash leaves is a log from the old floor on or from
    /// the new one, and both are without records that are needed.
    pub(crate) fn shrink_log(&self) -> Result<()> {
        let Some(job) = self.jobs.begin_shrink() else { return Ok(()) };
        let Some(last) = self.is_log_oversized() else { return Ok(()) };
        // Before the new one: the disk may be full.
        let spare = self.commit.append_lock().take_spare();
        if let Some(spare) = spare {
            self.remove_segment(spare.id());
        }
        if self.is_log_oversized() == Some(last) {
            let small = self.prepare_segment(self.small_segment_bytes())?;
            let id = small.id();
            if self.start_small_segment(small, last)? {
                self.sync_headers()?;
                self.cut_log(id)?;
            } else {
                self.remove_segment(id);
            }
        }
        drop(job);
        Ok(())
    }

    /// Makes `small` the active segment, if `last` is still the last sequence number.
    fn start_small_segment(&self, small: PreparedSegment, last: SeqNo) -> Result<bool> {
        let mut append = self.commit.append_lock();
        self.health.check_writable()?;
        let is_last = append.segments().back().is_none_or(|active| active.id < small.id());
        if append.last_seqno() != last || !is_last || !self.is_log_unneeded() {
            return Ok(false);
        }
        // A flush may have recycled a segment, as the next one, while the small one was made.
        self.start(&mut append, small)?;
        Ok(true)
    }

    /// Lets go of all segments before `floor`. Requires: its header is durable, and nothing in
    /// front of it is needed.
    fn cut_log(&self, floor: FileId) -> Result<()> {
        let mut set = self.versions.lock();
        self.health.check_writable()?;
        let kept = self.to_keep(Some(floor));
        let edit = VersionEdit { wal_floor: Some(floor), kept, ..self.stamp() };
        self.append_edit(&mut set, &edit)?;
        let cut = self.cut_history(floor);
        drop(set);
        for segment in cut {
            self.remove_segment(segment.id);
        }
        Ok(())
    }

    pub(crate) fn remove_segment(&self, id: FileId) {
        if let Err(error) = self.output.fs.remove(&wal_path(&self.output.dir, id)) {
            tracing::warn!(%error, "an obsolete log segment stays until the next open");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::base::clock::SystemClock;
    use crate::base::sync::Mutex;
    use crate::base::value::ValueKind;
    use crate::engine::Engine;
    use crate::fs::Fs;
    use crate::fs::MemFs;
    use crate::fs::names::FileKind;

    fn is_wal(kind: FileKind) -> bool {
        matches!(kind, FileKind::Wal(_))
    }

    /// What a flush recycles while the log is made small has a smaller number than the small segment.
    #[test]
    fn a_spare_that_the_log_has_outrun_is_not_used() {
        let fs = MemFs::new();
        let dyn_fs: Arc<dyn Fs> = Arc::new(fs.clone());
        let config =
            Config { background_threads: 0, durability: Durability::Os, ..Config::default() };
        let clock = Arc::new(SystemClock);
        let engine = Engine::open(Path::new("/db"), &config, &dyn_fs, clock).unwrap();
        let state = engine.default_keyspace();
        let fill = || {
            for n in 0..40_u8 {
                engine.commit_one(&state, ValueKind::Put, &[n], &vec![n; 100 << 10]).unwrap();
            }
        };
        fill();
        engine.seal_all();
        assert!(engine.flush_next().unwrap());
        let early = Mutex::new(Some(engine.prepare_segment(4 << 20).unwrap()));
        let offer = engine.clone();
        fs.on_event(Some(Arc::new(move |_, _| {
            let early = early.lock().take();
            early.into_iter().for_each(|early| offer.offer_spare(early));
        })));
        engine.shrink_log().unwrap();
        fs.on_event(None);
        fill();
        let names = fs.list(Path::new("/db")).unwrap();
        let logs = names.iter().filter(|entry| FileKind::parse(&entry.name).is_some_and(is_wal));
        assert_eq!(logs.count(), engine.commit.append_lock().segments().len(), "none is left over");
    }
}
