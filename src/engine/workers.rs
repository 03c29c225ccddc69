//! The threads. Each lane loops over its jobs; what they return, errors and panics alike, ends in
//! the scheduler or in `Health`.

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::time::Duration;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::options::cores;
use crate::base::sync::thread;
use crate::base::sync::thread::JoinHandle;
use crate::engine::Core;
use crate::engine::scheduler::Lane;

/// A lane looks for work at least this often: tombstones grow old and readers end without telling.
const IDLE_POLL: Duration = Duration::from_secs(1);
/// After a failed job the lane waits this long before it tries again.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Starts the threads of a database.
pub(crate) fn start(core: &Arc<Core>) -> Result<Vec<JoinHandle<()>>> {
    if core.is_manual() || core.config.read_only {
        return Ok(Vec::new());
    }
    let jobs = core.jobs.clone();
    core.cache.set_helper(move || jobs.notify_log());
    let mut lanes = vec![Lane::Log, Lane::Flush];
    lanes.extend(std::iter::repeat_n(Lane::Compaction, core.compaction_threads()));
    let mut threads = Vec::with_capacity(lanes.len());
    for lane in lanes {
        let worker = core.clone();
        let name = match lane {
            Lane::Log => "esker-log",
            Lane::Flush => "esker-flush",
            Lane::Compaction => "esker-compact",
        };
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || worker.run_lane(lane))
            .map_err(|error| Error::io("start a thread for", &core.output.dir, error));
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                core.jobs.close();
                join(threads);
                return Err(error);
            }
        }
    }
    Ok(threads)
}

/// Waits for threads to end. Their panics are already in `Health`. True if all have: the last
/// handle may be dropped on a worker of its own, and nobody waits for itself.
pub(crate) fn join(threads: Vec<JoinHandle<()>>) -> bool {
    let mut all = true;
    for thread in threads {
        if thread.thread().id() == thread::current().id() {
            all = false;
        } else if thread.join().is_err() {
            tracing::error!("a background thread panicked");
        }
    }
    all
}

/// Runs `work` on every item, each on a thread of its own but for the first, and returns the
/// results in the order of the items.
pub(crate) fn run_side_by_side<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Vec<Result<R>> {
    let Some((first, others)) = items.split_first() else { return Vec::new() };
    thread::scope(|scope| {
        let work = &work;
        let start = |item| {
            thread::Builder::new()
                .name("esker-part".to_owned())
                .spawn_scoped(scope, move || work(item))
                // Without a thread of its own the part runs on this one.
                .map_err(|_| item)
        };
        let threads: Vec<_> = others.iter().map(start).collect();
        let mut results = vec![work(first)];
        for thread in threads {
            let panicked = || Err(Error::internal("a part of a job panicked"));
            results.push(match thread {
                Ok(thread) => thread.join().unwrap_or_else(|_| panicked()),
                Err(item) => work(item),
            });
        }
        results
    })
}

impl Core {
    fn run_lane(&self, lane: Lane) {
        loop {
            let epoch = self.jobs.epoch();
            if self.jobs.is_closing() {
                return;
            }
            let step = catch_unwind(AssertUnwindSafe(|| self.step(lane)));
            let limit = match step {
                Ok(Ok(true)) => continue,
                Ok(Ok(false)) => IDLE_POLL,
                Ok(Err(_)) => {
                    let epoch = self.jobs.epoch();
                    let delay =
                        if lane == Lane::Log { self.until_sync(RETRY_DELAY) } else { RETRY_DELAY };
                    if !self.jobs.wait_for_work(Lane::Log, epoch, delay) {
                        return;
                    }
                    continue;
                }
                Err(_) => {
                    self.fail(Error::internal("a background job panicked"));
                    return;
                }
            };
            let limit = match lane {
                Lane::Log => self.until_sync(self.until_rest(limit)),
                Lane::Flush | Lane::Compaction => limit,
            };
            if !self.jobs.wait_for_work(lane, epoch, limit) {
                return;
            }
        }
    }

    /// One job of the lane; true if there was one.
    fn step(&self, lane: Lane) -> Result<bool> {
        if self.health.check_writable().is_err() {
            return Ok(false);
        }
        match lane {
            Lane::Log => self.step_log(),
            Lane::Flush => {
                let ran = self.flush_next()?;
                if !ran {
                    self.sync_ended_segments()?;
                }
                Ok(ran)
            }
            Lane::Compaction => {
                let ran = self.compact_next()?;
                if !ran {
                    self.sweep();
                }
                Ok(ran)
            }
        }
    }

    fn step_log(&self) -> Result<bool> {
        if self.jobs.take_due_sync(self.clock.monotonic()) {
            self.sync_due_writes()?;
        }
        self.cache.tend_memory(self.is_short_of_processors());
        self.make_spare_segment()?;
        self.trim_history();
        self.release_memtables_at_rest();
        self.shrink_log_at_rest()?;
        Ok(false)
    }

    /// Does somebody write, and are there fewer processors than that, the jobs that run beside it and a
    /// reader would use?
    fn is_short_of_processors(&self) -> bool {
        let jobs = self.jobs.running();
        jobs > 0 && jobs + 2 > cores() && !self.is_at_rest()
    }

    /// How long the log lane may sleep.
    fn until_sync(&self, limit: Duration) -> Duration {
        let now = self.clock.monotonic();
        self.jobs.sync_due().map_or(limit, |due| due.saturating_sub(now).min(limit))
    }

    /// Plans a sync so that it ends within `interval` from now: it may take half of it. Without
    /// threads, syncs what others have planned, if that is due.
    pub(crate) fn sync_within(&self, interval: Duration) -> Result<()> {
        let now = self.clock.monotonic();
        self.jobs.plan_sync(now + interval / 2);
        if self.is_manual() && self.jobs.take_due_sync(now) {
            self.sync_due_writes()
        } else {
            Ok(())
        }
    }
}
