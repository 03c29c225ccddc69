//! Opening what a killed process has left: a million puts that no flush has moved to sorted files,
//! for the memtable is large enough for all of them.

use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;

use super::Bench;
use super::tell;
use crate::engines::Setup;
use crate::measure::Figures;
use crate::measure::Watch;

/// What a process says that is ready to be killed.
pub(crate) const READY: &str = "ready to be killed";
/// What a log-structured engine finds in its log is one record for so many puts.
const PER_BATCH: usize = 100;

impl Bench<'_> {
    fn roomy(&self) -> Setup {
        let room = 2 * (self.keys() * self.plan.set.entry_bytes()) as usize;
        let memtable_bytes = room.max(256 << 20);
        // Twice a memtable, and as much cache.
        Setup { memtable_bytes, memory_bytes: 4 * memtable_bytes, ..self.plan.setup }
    }

    /// In batches, so that it does not take those long that pay much for each write.
    pub(super) fn fill_to_be_killed(&self) -> Result<()> {
        let engine = self.open_as("db", &self.roomy())?;
        let per_batch =
            if self.plan.engine.is_lsm() { PER_BATCH } else { self.plan.engine.puts_per_load() };
        let places: Vec<u64> = (0..self.keys()).collect();
        for places in places.chunks(per_batch) {
            self.put_records(&*engine, places.iter().map(|place| self.shuffle.at(*place)))?;
        }
        tell(READY, Figures::default())?;
        loop {
            thread::sleep(Duration::from_mins(1));
        }
    }

    pub(super) fn reopen(&self) -> Result<()> {
        let watch = Watch::start()?;
        let started = Instant::now();
        let engine = self.open_as("db", &self.roomy())?;
        let last = self.key(self.shuffle.at(self.keys() - 1));
        let kept = engine.reader()?.get(&last)?;
        let seconds = started.elapsed().as_secs_f64();
        let us = seconds * 1e6;
        let mut figures = Figures {
            ops: 1,
            seconds,
            ops_per_second: 1.0 / seconds,
            p50_us: us,
            p99_us: us,
            p999_us: us,
            max_us: us,
            ..Figures::default()
        };
        watch.stop(None, &mut figures)?;
        if !kept {
            figures = figures.with_note("the last put was lost");
        }
        tell("reopen after a kill", figures)
    }
}
