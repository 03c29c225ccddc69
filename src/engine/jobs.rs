//! Running one flush or compaction from claim to installed edit, on whatever thread.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::base::options::SstOptions;
use crate::base::planted::Planted;
use crate::base::sync::thread;
use crate::compaction::apart::ApartSpec;
use crate::compaction::beneath::Beneath;
use crate::compaction::flush;
use crate::compaction::job;
use crate::compaction::job::JobContext;
use crate::compaction::job::Written;
use crate::compaction::output::HotBlocks;
use crate::compaction::output::OutputSpec;
use crate::compaction::pace::Pace;
use crate::compaction::plan::Plan;
use crate::compaction::plan::Reason;
use crate::engine::Core;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::scheduler::CompactionJob;
use crate::engine::scheduler::FlushJob;
use crate::engine::scheduler::Lane;
use crate::engine::version_set::Change;
use crate::engine::workers::run_side_by_side;
use crate::manifest::KeyspaceEdit;
use crate::version::Version;
use crate::version::blobs::Blobs;

/// A compaction is split if every part gets at least this many output files.
const FILES_PER_PART_MIN: u64 = 2;
/// Bits per key that a filter gets more for each level above the deepest: with a factor of ten
/// between levels this makes each level's false alarms as rare as its share of the data, which
/// minimises their sum (Monkey, SIGMOD 2017). Two levels up it is cheap enough to stop.
const FILTER_BITS_PER_LEVEL: u32 = 5;
/// How often and how long readers of obsolete files are waited for.
const READERS_POLLS: u32 = 10;
const READERS_POLL: Duration = Duration::from_millis(2);

impl Core {
    /// Runs one flush, or else one compaction, if any is due. True if one ran.
    pub(crate) fn run_one_job(&self) -> Result<bool> {
        self.health.check_writable()?;
        let ran = self.flush_next()? || self.compact_next()?;
        if !ran {
            self.sweep();
            self.trim_history();
            self.shrink_log()?;
        }
        self.cache.tend_memory(false);
        Ok(ran)
    }

    /// Runs one flush, if any is due.
    pub(crate) fn flush_next(&self) -> Result<bool> {
        let Some(mut job) = self.next_flush() else { return Ok(false) };
        let result = self.finish_job(Lane::Flush, self.run_flush(&mut job));
        let state = job.state.clone();
        drop(job);
        // A compaction may have ended while a reader was at the files that it replaced.
        self.sweep();
        if self.keyspaces.all().iter().all(|state| state.has_empty_memtable()) {
            // Nobody has written meanwhile, so nobody waits for their memory.
            self.release_memtables();
        }
        // What waits to be written goes first.
        self.keep_warm(&state, &result?, || state.sealed_count() == 0);
        Ok(true)
    }

    /// Runs one compaction, if any is due.
    pub(crate) fn compact_next(&self) -> Result<bool> {
        match self.next_compaction() {
            Some(job) => self.compact(job).map(|()| true),
            None => Ok(false),
        }
    }

    pub(crate) fn compact(&self, job: CompactionJob<'_>) -> Result<()> {
        let result = self.finish_job(Lane::Compaction, self.run_compaction(&job));
        let CompactionJob { state, plan, claim, running: _running } = job;
        let inputs: Vec<FileId> = plan.input_ids().collect();
        // The plan holds the files that it has made obsolete.
        drop((plan, claim));
        self.sweep();
        let hot = result?;
        self.await_readers(&inputs);
        if !hot.is_empty() {
            self.keep_warm(&state, &hot, || true);
        }
        Ok(())
    }

    /// Gives reads and writes that had begun before `files` became obsolete, and were interrupted, a
    /// moment to end, so that the files' space and the memory of their blocks is there for others.
    /// Iterators may take longer: then the next job looks again.
    fn await_readers(&self, files: &[FileId]) {
        for _ in 0..READERS_POLLS {
            if self.is_manual() || !self.obsolete.has_any(files) || self.cancel.load(Relaxed) {
                return;
            }
            thread::sleep(READERS_POLL);
            self.sweep();
        }
    }

    /// Puts blocks of files that have come to `state` into the cache, as far as there is room and
    /// `go_on` says so: the room of what they were made of, which is gone by now. What cannot be read
    /// is left to the reader who needs it.
    fn keep_warm(&self, state: &KeyspaceState, hot: &[HotBlocks], go_on: impl Fn() -> bool) {
        for HotBlocks { file: id, blocks } in hot {
            let view = state.view_full();
            let found = view.version.files().find(|file| file.meta.id == *id).cloned();
            drop(view);
            let Some(file) = found else { continue };
            let go_on = || !self.cancel.load(Relaxed) && go_on();
            if let Err(error) = file.reader().and_then(|reader| reader.warm(blocks, go_on)) {
                tracing::warn!(%error, "a new file stays cold");
            }
        }
    }

    /// Notes how a job ended. A failed sync is for good; everything else is tried again.
    pub(crate) fn finish_job<T>(&self, lane: Lane, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => self.jobs.set_error(lane, None),
            Err(Error::Closed | Error::ReadOnly { .. }) => {}
            Err(error) => {
                self.metrics.failures.add(1);
                tracing::warn!(%error, "a background job failed");
                if is_for_good(error) {
                    self.fail(error.clone());
                }
                self.jobs.set_error(lane, Some(error.clone()));
            }
        }
        self.look_at_files();
        self.update_throttle();
        result
    }

    /// Writes the job's memtables to level 0. Returns what of that is hot.
    fn run_flush(&self, job: &mut FlushJob<'_>) -> Result<Vec<HotBlocks>> {
        let Some(newest) = job.sealed.last() else { return Ok(Vec::new()) };
        let last = newest.last;
        // What is flushed must be visible, so that the snapshots listed below are all that can need
        // an older version.
        self.wait_visible(last)?;
        let memtables: Vec<_> = job.sealed.iter().map(|sealed| sealed.memtable.clone()).collect();
        let (beneath, spec, apart) = {
            // Not kept, or its files would be while this runs.
            let version = &job.state.view_full().version;
            let spec = OutputSpec {
                keyspace: job.state.id,
                sst: self.sst_options(version, 0),
                file_bytes: u64::MAX,
                input_bytes: flush::expected_bytes(&memtables, version),
                grandparents: Vec::new(),
                oldest_tombstone_ms: None,
            };
            let apart = ApartSpec {
                from: job.state.separate_from(),
                file_bytes: self.config.file_bytes,
                expected_bytes: flush::expected_blob_bytes(&memtables, version),
                condemned: HashSet::new(),
                // Memtables hold values, no handles.
                blobs: Blobs::default(),
            };
            (Beneath::all(version), spec, apart)
        };
        let context = self.job_context(&job.state, spec, apart);
        let mut parts = vec![FlushPart::File];
        if self.synced() < last && !Planted::LogNotSynced.is_on() {
            if self.is_manual() {
                self.sync_log(last)?;
            } else {
                parts.push(FlushPart::Log);
            }
        }
        let added = run_parts(&parts, &context, |part| match part {
            FlushPart::File => flush::run(&memtables, &beneath, &context),
            FlushPart::Log => self.sync_log(last).map(|()| Written::default()),
        })?;
        drop(memtables);
        let bytes = added.bytes();
        let mut edit = KeyspaceEdit::new(job.state.id);
        edit.added = added.ssts.iter().map(|meta| (0, meta.clone())).collect();
        edit.added_blobs.clone_from(&added.blobs);
        edit.flushed_seqno = Some(last);
        let flushed = std::mem::take(&mut job.sealed);
        let change = Change { state: job.state.clone(), edit, flushed };
        self.install_added(change, &context, &added)?;
        self.metrics.flushes.add(1);
        self.metrics.flush_bytes.add(bytes);
        self.roll_manifest_over()?;
        self.jobs.notify_compaction();
        self.jobs.notify_log();
        Ok(added.hot)
    }

    /// Runs the job's plan and installs what comes out. Returns what of it is hot.
    fn run_compaction(&self, job: &CompactionJob<'_>) -> Result<Vec<HotBlocks>> {
        let plan = &job.plan;
        tracing::debug!(
            reason = ?plan.reason,
            from = plan.upper_level,
            to = plan.output_level,
            bytes = plan.input_bytes(),
            "compacts"
        );
        let tombstones = plan.inputs().filter(|file| file.meta.has_tombstones());
        let spec = OutputSpec {
            keyspace: job.state.id,
            sst: self.sst_options(&job.state.view().version, plan.output_level),
            file_bytes: self.config.file_bytes,
            input_bytes: plan.input_bytes(),
            grandparents: plan.beneath.uppermost().to_vec(),
            oldest_tombstone_ms: tombstones.map(|file| file.meta.oldest_tombstone_ms).min(),
        };
        let began = self.visible();
        let may_rest = || self.visible() == began && !self.jobs.is_hurried();
        let mut context = self.job_context(&job.state, spec, self.apart_spec(&job.state, plan));
        if plan.reason == Reason::Reads {
            context.pace = Some(Pace { clock: &*self.clock, may_rest: &may_rest });
        }
        let mut hot = Vec::new();
        if plan.is_removal() {
            let edit = job::edit(plan, &context, Written::default());
            self.install(Change::of(&job.state, edit))?;
            self.metrics.compactions.add(1);
            if plan.reason == Reason::RangeDeleted {
                self.metrics.range_deleted_files.add(plan.upper.len() as u64);
            }
        } else if plan.is_trivial_move(self.config.file_bytes) {
            let edit = job::move_edit(plan, &context);
            self.install(Change::of(&job.state, edit))?;
            self.metrics.moves.add(plan.upper.len() as u64);
        } else {
            hot = self.merge(job, &context)?;
        }
        self.roll_manifest_over()?;
        self.jobs.notify_compaction();
        Ok(hot)
    }

    fn merge(&self, job: &CompactionJob<'_>, context: &JobContext<'_>) -> Result<Vec<HotBlocks>> {
        let plan = &job.plan;
        let most = plan.input_bytes() / (FILES_PER_PART_MIN * self.config.file_bytes) + 1;
        let free = self.compaction_threads().saturating_sub(self.jobs.running()) + 1;
        let ranges = job::split(plan, free.min(most as usize));
        let added = run_parts(&ranges, context, |range| job::run_range(plan, range, context))?;
        let written = added.bytes();
        let edit = job::edit(plan, context, added.clone());
        self.install_added(Change::of(&job.state, edit), context, &added)?;
        self.metrics.compactions.add(1);
        self.metrics.compaction_bytes_read.add(plan.input_bytes());
        self.metrics.compaction_bytes_written.add(written);
        Ok(added.hot)
    }

    /// Installs an edit that adds files. If nothing will ever name them, because the keyspace was
    /// dropped or the database closed meanwhile, they are removed. After a failed append to the
    /// manifest they stay: it may name them.
    fn install_added(
        &self,
        change: Change,
        context: &JobContext<'_>,
        added: &Written,
    ) -> Result<()> {
        let installed = self.install(change);
        if matches!(installed, Ok(false) | Err(Error::Closed)) {
            job::discard(context, added);
        }
        installed.map(drop)
    }

    /// What a compaction does with large values: it moves those that it finds in blob files with
    /// much garbage.
    fn apart_spec(&self, state: &KeyspaceState, plan: &Plan) -> ApartSpec {
        let is_space_scarce = self.jobs.is_space_scarce(Lane::Compaction);
        let condemned = state.view().version.blobs.condemned(is_space_scarce);
        let used = plan.inputs().flat_map(|file| &file.meta.blobs);
        let moved = used.filter(|used| condemned.contains(&used.file)).map(|used| used.bytes);
        ApartSpec {
            from: state.separate_from(),
            file_bytes: self.config.file_bytes,
            expected_bytes: moved.sum(),
            condemned,
            blobs: plan.blobs.clone(),
        }
    }

    fn job_context(
        &self,
        state: &KeyspaceState,
        spec: OutputSpec,
        apart: ApartSpec,
    ) -> JobContext<'_> {
        // Asked for before the snapshots are listed.
        let expired_ms = self.expired_ms();
        JobContext {
            output: &self.output,
            spec,
            apart,
            snapshots: self.snapshots.list(),
            fold: state.fold(),
            expired_ms,
            // All inputs are visible.
            zero_seqnos: self.entry_versions.may_replace(self.visible()),
            cancel: &self.cancel,
            pace: None,
        }
    }

    /// How files of `level` are written.
    fn sst_options(&self, version: &Version, level: usize) -> SstOptions {
        let deepest = version.deepest().unwrap_or(0).max(if level == 0 { 1 } else { level });
        let above = (deepest - level).min(2) as u32;
        let bits = match self.config.filter_bits_per_key {
            0 => 0,
            bits => bits + above * FILTER_BITS_PER_LEVEL,
        };
        SstOptions {
            block_bytes: self.config.block_bytes,
            compression: self.config.compression,
            filter_bits_per_key: bits,
        }
    }
}

/// What a flush does side by side. What is flushed must be durable in the log before its file is
/// installed, so that a power cut cannot keep these writes and lose earlier ones of other keyspaces.
enum FlushPart {
    File,
    Log,
}

/// Runs the parts of a job side by side. Returns what they have written; removes it if one failed.
fn run_parts<T: Sync>(
    parts: &[T],
    context: &JobContext<'_>,
    work: impl Fn(&T) -> Result<Written> + Sync,
) -> Result<Written> {
    let mut added = Written::default();
    let mut failure = None;
    for part in run_side_by_side(parts, work) {
        match part {
            Ok(files) => added.add(files),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    match failure {
        None => Ok(added),
        Some(error) => {
            job::discard(context, &added);
            Err(error)
        }
    }
}

/// May a job that failed with this not be tried again? After a failed sync, of a file or of the
/// directory, nobody knows what is on disk.
fn is_for_good(error: &Error) -> bool {
    match error {
        Error::Io { op, .. } => op.starts_with("sync"),
        Error::Internal { .. } => true,
        _ => false,
    }
}
