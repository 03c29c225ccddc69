//! Runs a workload in several threads, watched by one more.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use crate::data::Random;
use crate::failure::Failure;
use crate::failure::Result;
use crate::latency;
use crate::latency::Latency;
use crate::process;
use crate::progress::Bar;

/// How often a worker tells the watcher how far it is.
const TELL_EVERY: u64 = 64;

/// One thread of a workload: what it is to do, and what it has measured.
pub(crate) struct Worker<'a> {
    /// Its part of the operations.
    pub(crate) ops: std::ops::Range<u64>,
    pub(crate) random: Random,
    pub(crate) latency: Latency,
    pub(crate) done: u64,
    pub(crate) bytes: u64,
    /// Operations that found what they looked for.
    pub(crate) found: u64,
    shared: &'a Shared,
    deadline: Option<Instant>,
    told: u64,
    ended: Duration,
}

/// What workers tell their watcher.
#[derive(Default)]
struct Shared {
    done: AtomicU64,
    stop: AtomicBool,
}

impl Worker<'_> {
    /// Does `act` as one operation and times it.
    pub(crate) fn op<T>(&mut self, act: impl FnOnce() -> T) -> T {
        let result = self.latency.time(act);
        self.count(1);
        result
    }

    /// Counts operations.
    pub(crate) fn count(&mut self, ops: u64) {
        self.done += ops;
        if self.done - self.told >= TELL_EVERY {
            self.shared.done.fetch_add(self.done - self.told, Relaxed);
            self.told = self.done;
        }
    }

    /// Shall it go on? Asked before each operation of a workload that runs by time or until others
    /// are done.
    pub(crate) fn goes_on(&self) -> bool {
        !self.shared.stop.load(Relaxed)
            && self.deadline.is_none_or(|deadline| latency::now() < deadline)
    }
}

/// What all threads of a workload measured.
#[derive(Default)]
pub(crate) struct Measured {
    pub(crate) ops: u64,
    pub(crate) bytes: u64,
    pub(crate) found: u64,
    pub(crate) elapsed: Duration,
    pub(crate) latency: Latency,
    /// Operations in each whole second.
    pub(crate) per_second: Vec<u64>,
    /// Most memory seen, files that are mapped not counted.
    pub(crate) peak_anonymous: u64,
}

/// How a workload is run.
pub(crate) struct Plan {
    pub(crate) threads: u64,
    pub(crate) ops: u64,
    pub(crate) seed: u64,
    /// Run so long, rather than so many operations.
    pub(crate) duration: Option<Duration>,
}

/// What one more thread does until the others are done.
pub(crate) type Aside<'a> = &'a (dyn Fn(&mut Worker<'_>) -> Result<()> + Sync);

/// Runs `body` in each thread, and `aside` in one more until those are done.
pub(crate) fn run(
    plan: &Plan,
    bar: &Bar,
    body: impl Fn(&mut Worker<'_>) -> Result<()> + Sync,
    aside: Option<Aside<'_>>,
) -> Result<(Measured, Option<Measured>)> {
    let (shared, aside_shared) = (Shared::default(), Shared::default());
    let start = latency::now();
    let deadline = plan.duration.map(|duration| start + duration);
    let worker = |thread: u64, shared| Worker {
        ops: plan.ops * thread / plan.threads..plan.ops * (thread + 1) / plan.threads,
        random: Random::new(plan.seed ^ (thread << 32)),
        latency: Latency::default(),
        done: 0,
        bytes: 0,
        found: 0,
        shared,
        deadline,
        told: 0,
        ended: Duration::ZERO,
    };
    std::thread::scope(|scope| {
        let body = &body;
        let workers: Vec<_> = (0..plan.threads)
            .map(|thread| worker(thread, &shared))
            .map(|mut worker| {
                scope.spawn(move || {
                    body(&mut worker)?;
                    worker.ended = start.elapsed();
                    Ok(worker)
                })
            })
            .collect();
        let mut extra = worker(plan.threads, &aside_shared);
        let aside = aside.map(|aside| {
            scope.spawn(move || {
                aside(&mut extra)?;
                extra.ended = start.elapsed();
                Ok(extra)
            })
        });
        let watched = watch(&shared, start, bar, || {
            workers.iter().all(std::thread::ScopedJoinHandle::is_finished)
        });
        aside_shared.stop.store(true, Relaxed);
        let mut measured = gather(workers)?;
        (measured.per_second, measured.peak_anonymous) = watched;
        let aside = aside.map(|aside| gather([aside])).transpose()?;
        Ok((measured, aside))
    })
}

/// Follows the workers until they are done; returns what they did in each second, and the most
/// memory that the process took.
fn watch(
    shared: &Shared,
    start: Instant,
    bar: &Bar,
    finished: impl Fn() -> bool,
) -> (Vec<u64>, u64) {
    const STEP: Duration = Duration::from_millis(2);
    let mut per_second = Vec::new();
    let (mut before, mut peak) = (0, 0);
    let mut shown = start;
    while !finished() {
        std::thread::sleep(STEP);
        let now = latency::now();
        if now.duration_since(shown) < Duration::from_millis(100) {
            continue;
        }
        shown = now;
        let done = shared.done.load(Relaxed);
        bar.set(done);
        peak = peak.max(process::anonymous_memory().unwrap_or(0));
        if now.duration_since(start).as_secs() > per_second.len() as u64 {
            per_second.push(done - before);
            before = done;
        }
    }
    // The last second may end a moment before it is seen to.
    if start.elapsed() >= Duration::from_secs(per_second.len() as u64 + 1).mul_f64(0.98) {
        per_second.push(shared.done.load(Relaxed) - before);
    }
    (per_second, peak)
}

type Handle<'scope, 'a> = std::thread::ScopedJoinHandle<'scope, Result<Worker<'a>>>;

fn gather<'scope, 'a: 'scope>(
    handles: impl IntoIterator<Item = Handle<'scope, 'a>>,
) -> Result<Measured> {
    let mut all = Measured::default();
    for handle in handles {
        let worker =
            handle.join().map_err(|_| Failure::new("a thread of the bench panicked"))??;
        all.ops += worker.done;
        all.bytes += worker.bytes;
        all.found += worker.found;
        all.elapsed = all.elapsed.max(worker.ended);
        all.latency.merge(&worker.latency);
    }
    Ok(all)
}
