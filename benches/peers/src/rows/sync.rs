//! Puts that are on the disk when they return, by one thread and by several.

use anyhow::Result;

use super::Bench;
use super::reads::in_threads;
use crate::engines::Setup;
use crate::measure::Meter;
use crate::plan::limit;

impl Bench<'_> {
    pub(super) fn fill_sync(&self) -> Result<()> {
        for (row, threads) in [
            ("fillsync, 1 thread", 1),
            ("fillsync, 2 threads", 2),
            ("fillsync, 4 threads", 4),
            ("fillsync, 8 threads", 8),
        ] {
            if !self.wants(row) {
                continue;
            }
            let setup = Setup { sync: true, ..self.plan.setup };
            let engine = self.open_as(&format!("db{threads}"), &setup)?;
            let run = || {
                in_threads(threads, |thread| {
                    let mut random = self.random(thread);
                    Meter::drive(limit(u64::MAX, self.plan.seconds.sync), |_| {
                        let i = random.below(self.keys());
                        engine.put(&self.key(i), self.values.of(i))?;
                        Ok(1)
                    })
                })
            };
            self.write_row(row, &*engine, |_| 0, run)?;
        }
        Ok(())
    }
}
