//! What callers ask for and wait for: flushes of everything, and compactions of a range.

use std::sync::Arc;
use std::time::Duration;

use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::base::seqno::SeqNo;
use crate::compaction::picker;
use crate::compaction::picker::PickContext;
use crate::compaction::plan::Plan;
use crate::compaction::plan::Reason;
use crate::engine::Core;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::scheduler::Lane;
use crate::version::Version;
use crate::version::sst_file::SstFile;

/// How long a waiting caller sleeps before it looks again by itself.
const POLL: Duration = Duration::from_millis(100);

impl Core {
    /// Writes all memtables of all keyspaces to files.
    pub(crate) fn flush(&self) -> Result<()> {
        self.health.check_writable()?;
        self.seal_all();
        for state in self.keyspaces.all() {
            self.wait_flushed(&state)?;
        }
        Ok(())
    }

    /// Waits until the memtables of `state` that are sealed now are flushed.
    fn wait_flushed(&self, state: &KeyspaceState) -> Result<()> {
        let Some(last) = state.sealed().last().map(|sealed| sealed.last) else { return Ok(()) };
        // An earlier failure may be mended: what counts is how the next try ends.
        let failures = self.jobs.failures(Lane::Flush);
        loop {
            let seen = self.jobs.progress();
            if state.is_dropped() || state.sealed().iter().all(|sealed| sealed.last > last) {
                return Ok(());
            }
            self.health.check_writable()?;
            if self.is_manual() {
                if !self.run_one_job()? {
                    // Another caller is at it.
                    self.jobs.wait_for_progress(seen, POLL);
                }
            } else {
                if let Some(error) = self.jobs.error_since(Lane::Flush, failures) {
                    return Err(error);
                }
                self.jobs.wait_for_progress(seen, POLL);
            }
        }
    }

    /// Compacts the closed range of user keys to the bottom, on this thread.
    pub(crate) fn compact_range(
        &self,
        state: &Arc<KeyspaceState>,
        from: Option<Vec<u8>>,
        to: Option<Vec<u8>>,
    ) -> Result<()> {
        self.health.check_writable()?;
        state.check_exists()?;
        self.seal_all();
        self.wait_flushed(state)?;
        let range = ManualRange { from, to, upto: self.visible() };
        let deepest = {
            let version = &state.view_full().version;
            let base = picker::targets(version, self.base_bytes()).base_level;
            version.deepest().unwrap_or(0).max(base)
        };
        self.compact_manually(state, |version, context| {
            let due = version.level(0).files.iter().any(|file| range.holds(file));
            if !due {
                return Choice::Done;
            }
            let base = picker::targets(version, context.base_bytes).base_level;
            picker::plan_level0(version, base, context, Reason::Manual)
                .map_or(Choice::Busy, Choice::Run)
        })?;
        for level in 1..deepest {
            self.compact_manually(state, |version, context| {
                let files = version.level(level).files.iter().filter(|file| range.holds(file));
                plan_first(version, level, files, level + 1, context)
            })?;
        }
        // Each file of the bottom once: with a snapshot in the way it may stay as it is.
        let zeroes = !self.entry_versions.are_kept();
        let is_dirty = |file: &&Arc<SstFile>| {
            let meta = &file.meta;
            let numbered = zeroes && meta.max_seqno > SeqNo::ZERO;
            let dirty = meta.has_tombstones() || meta.expiry.entries > 0 || numbered;
            dirty && range.holds(file)
        };
        let bottom: Vec<FileId> = {
            let view = state.view_full();
            let files = &view.version.level(deepest).files;
            files.iter().filter(is_dirty).map(|file| file.meta.id).collect()
        };
        for id in bottom {
            let mut tried = false;
            self.compact_manually(state, |version, context| {
                let files = version.level(deepest).files.iter();
                let file = files.filter(|file| file.meta.id == id && !tried);
                let choice = plan_first(version, deepest, file, deepest, context);
                tried = matches!(choice, Choice::Run(_));
                choice
            })?;
        }
        Ok(())
    }

    /// Runs what `choose` plans until it says that nothing is left.
    fn compact_manually(
        &self,
        state: &Arc<KeyspaceState>,
        mut choose: impl FnMut(&Arc<Version>, &PickContext<'_>) -> Choice,
    ) -> Result<()> {
        loop {
            let seen = self.jobs.progress();
            self.health.check_writable()?;
            state.check_exists()?;
            let mut done = false;
            let job = self.claim(|context| {
                let version = state.view_full().version.clone();
                let chosen = choose(&version, context);
                done = matches!(chosen, Choice::Done);
                match chosen {
                    Choice::Run(plan) => Some((state.clone(), plan)),
                    Choice::Busy | Choice::Done => None,
                }
            });
            match job {
                Some(job) => self.compact(job)?,
                None if done => return Ok(()),
                None => self.jobs.hurry_progress(seen, POLL),
            }
        }
    }
}

/// What a manual compaction moves: files within the range that were there when it began.
struct ManualRange {
    from: Option<Vec<u8>>,
    to: Option<Vec<u8>>,
    upto: SeqNo,
}

impl ManualRange {
    fn holds(&self, file: &SstFile) -> bool {
        file.is_older_than(self.upto)
            && self.from.as_ref().is_none_or(|from| !file.meta.is_before(from))
            && self.to.as_ref().is_none_or(|to| file.meta.first() <= to.as_slice())
    }
}

/// What there is to do next.
enum Choice {
    Run(Plan),
    /// Something, but another job is at it now.
    Busy,
    Done,
}

/// Plans the compaction of the first of `files` that is not busy.
fn plan_first<'a>(
    version: &Arc<Version>,
    level: usize,
    files: impl Iterator<Item = &'a Arc<SstFile>>,
    output_level: usize,
    context: &PickContext<'_>,
) -> Choice {
    let mut choice = Choice::Done;
    for file in files {
        let upper = vec![file.clone()];
        let plan = picker::plan(version, level, upper, output_level, context, Reason::Manual);
        if let Some(plan) = plan {
            return Choice::Run(plan);
        }
        choice = Choice::Busy;
    }
    choice
}
