//! More data than memory: the worker is in a memory cgroup, which the page cache counts towards.

use anyhow::Result;

use super::Bench;
use crate::measure::Meter;
use crate::plan::limit;

/// Longer than other rows, for the disk to get into its stride.
const TIMES_LONGER: f64 = 3.0;

impl Bench<'_> {
    pub(super) fn larger(&self) -> Result<()> {
        let engine = self.open()?;
        let seconds = self.plan.seconds.read * TIMES_LONGER;
        self.load(&*engine, 0)?;
        self.read_row("larger: readrandom", || {
            self.read_random(&*engine, &mut self.random(500), seconds)
        })?;
        self.read_row("larger: scans of 100", || {
            self.seek_random(&*engine, 100, limit(u64::MAX, seconds))
        })?;
        if self.wants("larger: overwrite") {
            let mut random = self.random(501);
            let run = || {
                Meter::drive(limit(u64::MAX, seconds), |n| {
                    let i = random.below(self.keys());
                    engine.put(&self.key(i), self.values.of(i + n))?;
                    Ok(1)
                })
            };
            self.write_row("larger: overwrite", &*engine, |_| self.keys(), run)?;
        }
        Ok(())
    }
}
