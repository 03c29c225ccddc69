//! Fills, overwrites and deletes, as db_bench has them; one thread unless it says two. A returned
//! write is with the operating system.

use anyhow::Result;

use super::Bench;
use super::reads::in_threads;
use crate::engines::Engine;
use crate::measure::Meter;

const PER_BATCH: u64 = 100;
/// A sustained overwrite writes every key this often.
const TIMES_OVER: u64 = 4;

impl Bench<'_> {
    pub(super) fn fill_seq(&self) -> Result<()> {
        let engine = self.open()?;
        let run = || {
            Meter::drive(self.writes(self.keys(), self.plan.seconds.fill), |i| {
                engine.put(&self.key(i), self.values.of(i))?;
                Ok(1)
            })
        };
        self.write_row("fillseq", &*engine, |ops| ops, run)?;
        Ok(())
    }

    pub(super) fn fill_batch(&self) -> Result<()> {
        let engine = self.open()?;
        let run = || {
            let mut batch = Vec::with_capacity(PER_BATCH as usize);
            Meter::drive(self.writes(self.keys(), self.plan.seconds.fill), |call| {
                batch.clear();
                for place in call * PER_BATCH..(call + 1) * PER_BATCH {
                    let i = self.shuffle.at(place);
                    batch.push((self.key(i), self.values.of(i)));
                }
                engine.write_batch(&batch)?;
                Ok(PER_BATCH)
            })
        };
        self.write_row("fillbatch", &*engine, |ops| ops, run)?;
        Ok(())
    }

    pub(super) fn update(&self) -> Result<()> {
        let engine = self.open()?;
        let mut filled = 0;
        if self.wants("fillrandom") {
            let run = || {
                Meter::drive(self.writes(self.keys(), self.plan.seconds.fill), |place| {
                    let i = self.shuffle.at(place);
                    engine.put(&self.key(i), self.values.of(i))?;
                    Ok(1)
                })
            };
            filled = self.write_row("fillrandom", &*engine, |ops| ops, run)?;
        }
        if self.plan.rows.iter().any(|row| row != "fillrandom") {
            self.load(&*engine, filled)?;
        }
        self.overwrite("overwrite", &*engine, 1, self.plan.seconds.fill)?;
        self.overwrite_by_two(&*engine)?;
        self.overwrite("sustained overwrite", &*engine, TIMES_OVER, self.plan.seconds.sustained)?;
        if self.wants("deleterandom") {
            let run = || {
                Meter::drive(self.writes(self.keys(), self.plan.seconds.fill), |place| {
                    engine.delete(&self.key(self.shuffle.at(place)))?;
                    Ok(1)
                })
            };
            // What is left is not worth a ratio.
            self.write_row("deleterandom", &*engine, |_| 0, run)?;
        }
        Ok(())
    }

    fn overwrite_by_two(&self, engine: &dyn Engine) -> Result<()> {
        const ROW: &str = "overwrite, 2 threads";
        if !self.wants(ROW) {
            return Ok(());
        }
        let run = || {
            in_threads(2, |thread| {
                let mut random = self.random(60 + thread);
                Meter::drive(self.writes(self.keys() / 2, self.plan.seconds.fill / 2.0), |n| {
                    let i = random.below(self.keys());
                    engine.put(&self.key(i), self.values.of(i + n))?;
                    Ok(1)
                })
            })
        };
        self.write_row(ROW, engine, |_| self.keys(), run)?;
        Ok(())
    }

    fn overwrite(&self, row: &str, engine: &dyn Engine, times: u64, seconds: f64) -> Result<()> {
        if !self.wants(row) {
            return Ok(());
        }
        let mut random = self.random(times);
        let run = || {
            Meter::drive(self.writes(times * self.keys(), seconds), |n| {
                let i = random.below(self.keys());
                engine.put(&self.key(i), self.values.of(i + n))?;
                Ok(1)
            })
        };
        self.write_row(row, engine, |_| self.keys(), run)?;
        Ok(())
    }
}
