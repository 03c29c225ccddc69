//! Reads of a database that was loaded in random order and has settled, warm.

use std::sync::Barrier;
use std::thread;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;

use super::Bench;
use crate::engines::Engine;
use crate::keys::Random;
use crate::keys::Zipf;
use crate::measure::Limit;
use crate::measure::Meter;
use crate::plan::limit;

/// How uneven hot keys are, as in YCSB.
pub(super) const THETA: f64 = 0.99;
const PER_MULTI_GET: u64 = 100;
/// Steps of a walk between two looks at the clock.
const STEPS_PER_LAP: u64 = 1_000;

/// Runs `work` with 0, 1, … in threads of their own, which begin together.
pub(super) fn in_threads(
    threads: u64,
    work: impl Fn(u64) -> Result<Meter> + Sync,
) -> Result<Meter> {
    let begin = Barrier::new(threads as usize);
    let meters = thread::scope(|scope| {
        let (begin, work) = (&begin, &work);
        let spawned: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    begin.wait();
                    work(thread)
                })
            })
            .collect();
        spawned.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    let mut all: Option<Meter> = None;
    for meter in meters {
        let meter = meter.map_err(|_| anyhow::anyhow!("a thread has panicked"))??;
        match &mut all {
            Some(all) => all.merge(&meter)?,
            none => *none = Some(meter),
        }
    }
    all.context("no threads")
}

impl Bench<'_> {
    pub(super) fn loaded(&self) -> Result<()> {
        let engine = self.open()?;
        self.load(&*engine, 0)?;
        self.warm(&*engine)?;
        self.point_reads(&*engine)?;
        self.scans(&*engine)?;
        self.mixed(&*engine)
    }

    fn warm(&self, engine: &dyn Engine) -> Result<()> {
        let mut reader = engine.reader()?;
        let mut entries = 0;
        reader.walk(true, &mut || {
            entries += 1;
            true
        })?;
        ensure!(entries == self.keys(), "{entries} entries of {} were loaded", self.keys());
        drop(reader);
        self.read_random(engine, &mut self.random(50), self.plan.seconds.read / 4.0)?;
        Ok(())
    }

    pub(super) fn read_random(
        &self,
        engine: &dyn Engine,
        random: &mut Random,
        seconds: f64,
    ) -> Result<Meter> {
        let mut reader = engine.reader()?;
        Meter::drive(limit(u64::MAX, seconds), |_| {
            ensure!(reader.get(&self.key(random.below(self.keys())))?, "a key is missing");
            Ok(1)
        })
    }

    fn point_reads(&self, engine: &dyn Engine) -> Result<()> {
        let seconds = self.plan.seconds.read;
        let read = |thread| self.read_random(engine, &mut self.random(100 + thread), seconds);
        self.read_row("readrandom", || read(0))?;
        self.read_row("readrandom, 2 threads", || in_threads(2, read))?;
        self.read_row("readmissing", || {
            let (mut reader, mut random) = (engine.reader()?, self.random(110));
            Meter::drive(limit(u64::MAX, seconds), |_| {
                let key = self.missing_key(random.below(self.keys()));
                ensure!(!reader.get(&key)?, "a key is there that was not put");
                Ok(1)
            })
        })?;
        let zipf = Zipf::new(self.keys(), THETA);
        self.read_row("readhot", || {
            let (mut reader, mut random) = (engine.reader()?, self.random(120));
            Meter::drive(limit(u64::MAX, seconds), |_| {
                let i = self.shuffle.at(zipf.rank(&mut random));
                ensure!(reader.get(&self.key(i))?, "a key is missing");
                Ok(1)
            })
        })?;
        self.read_row("multi-get", || {
            let (mut reader, mut random) = (engine.reader()?, self.random(130));
            let mut keys = Vec::with_capacity(PER_MULTI_GET as usize);
            Meter::drive(limit(u64::MAX, seconds), |_| {
                keys.clear();
                keys.extend((0..PER_MULTI_GET).map(|_| self.key(random.below(self.keys()))));
                ensure!(reader.multi_get(&keys)? == PER_MULTI_GET, "a key is missing");
                Ok(PER_MULTI_GET)
            })
        })
    }

    fn scans(&self, engine: &dyn Engine) -> Result<()> {
        for (row, next) in [("seekrandom, 10 next", 10), ("seekrandom, 100 next", 100)] {
            self.read_row(row, || {
                self.seek_random(engine, next, limit(u64::MAX, self.plan.seconds.read))
            })?;
        }
        for (row, forward) in [("readseq", true), ("readreverse", false)] {
            self.read_row(row, || self.walk(engine, forward))?;
        }
        Ok(())
    }

    /// One operation is a seek with all its steps.
    pub(super) fn seek_random(
        &self,
        engine: &dyn Engine,
        next: u64,
        limit: Limit,
    ) -> Result<Meter> {
        let (mut reader, mut random) = (engine.reader()?, self.random(200 + next));
        Meter::drive(limit, |_| {
            reader.scan(&self.key(random.below(self.keys())), next)?;
            Ok(1)
        })
    }

    /// From end to end, and again until the time is over. One operation is one entry.
    fn walk(&self, engine: &dyn Engine, forward: bool) -> Result<Meter> {
        let mut reader = engine.reader()?;
        let limit = limit(u64::MAX, self.plan.seconds.read);
        let mut meter = Meter::start()?;
        let mut over = false;
        while !over {
            let mut steps = 0;
            reader.walk(forward, &mut || {
                steps += 1;
                if steps == STEPS_PER_LAP {
                    over = meter.lap_shared(steps) >= limit.time;
                    steps = 0;
                }
                !over
            })?;
            if steps > 0 {
                over |= meter.lap_shared(steps) >= limit.time;
            }
        }
        Ok(meter)
    }
}
