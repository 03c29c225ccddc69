//! The workloads, and what they have in common.

mod fills;
mod larger;
mod mixed;
mod reads;
mod reopen;
mod sync;

pub(crate) use reopen::READY;

use std::io::Write;

use anyhow::Result;
use anyhow::ensure;
use serde::Deserialize;
use serde::Serialize;

use crate::engines;
use crate::engines::Engine;
use crate::engines::Setup;
use crate::keys::Key;
use crate::keys::Random;
use crate::keys::Shuffle;
use crate::keys::Values;
use crate::measure::Figures;
use crate::measure::Limit;
use crate::measure::Meter;
use crate::measure::Watch;
use crate::measure::disk_bytes;
use crate::plan::Group;
use crate::plan::Plan;
use crate::plan::limit;

/// An engine that merges and needs more than so many times what others may take is hung.
const MERGING_TIMES_LONGER: f64 = 20.0;

/// What a worker tells its parent: one line for each row.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) row: String,
    pub(crate) figures: Figures,
}

/// A plan at work.
pub(crate) struct Bench<'a> {
    plan: &'a Plan,
    values: Values,
    shuffle: Shuffle,
}

/// Does all that the plan asks for.
pub(crate) fn work(plan: &Plan) -> Result<()> {
    let values = Values::new(plan.set.value_bytes);
    let bench = Bench { plan, values, shuffle: Shuffle::new(plan.set.keys) };
    match plan.group {
        Group::FillSeq => bench.fill_seq(),
        Group::FillBatch => bench.fill_batch(),
        Group::FillSync => bench.fill_sync(),
        Group::Update => bench.update(),
        Group::Loaded => bench.loaded(),
        Group::ReopenFill => bench.fill_to_be_killed(),
        Group::ReopenOpen => bench.reopen(),
        Group::Larger => bench.larger(),
        Group::Growth => anyhow::bail!("not a group of rows"),
    }
}

impl Bench<'_> {
    fn wants(&self, row: &str) -> bool {
        self.plan.rows.iter().any(|wanted| wanted == row)
    }

    fn keys(&self) -> u64 {
        self.plan.set.keys
    }

    /// The key of record `i`, which exists once it is loaded.
    fn key(&self, i: u64) -> Key {
        self.plan.set.shape.key(2 * i)
    }

    /// A key right after that of record `i`, which does not exist unless a workload inserts it.
    fn missing_key(&self, i: u64) -> Key {
        self.plan.set.shape.key(2 * i + 1)
    }

    /// The same for every engine, and another for every repetition and use.
    fn random(&self, use_of_it: u64) -> Random {
        Random::new(u64::from(self.plan.repetition) << 32 | use_of_it)
    }

    /// A limit of writes, by their number and by `seconds`. Engines that merge do all of them: what
    /// they write and hold for each byte grows with the writes, so that bytes of different numbers
    /// of them could not be compared.
    fn writes(&self, ops: u64, seconds: f64) -> Limit {
        let times = if self.plan.engine.is_lsm() { MERGING_TIMES_LONGER } else { 1.0 };
        limit(ops, times * seconds)
    }

    fn open(&self) -> Result<Box<dyn Engine>> {
        self.open_as("db", &self.plan.setup)
    }

    fn open_as(&self, name: &str, setup: &Setup) -> Result<Box<dyn Engine>> {
        engines::open(self.plan.engine, &self.plan.dir.join(name), setup)
    }

    /// Puts the records whose places in the random order are from `done` to the end.
    fn load(&self, engine: &dyn Engine, done: u64) -> Result<()> {
        let per_batch = self.plan.engine.puts_per_load();
        let sorted = self.plan.setup.larger_than_memory && self.plan.engine.is_tree_in_place();
        let places: Vec<u64> = (done..self.keys()).collect();
        for places in places.chunks(per_batch) {
            let records =
                places.iter().map(|&place| if sorted { place } else { self.shuffle.at(place) });
            self.put_records(engine, records)?;
        }
        engine.settle()
    }

    /// In one batch, unless it is one record.
    fn put_records(&self, engine: &dyn Engine, records: impl Iterator<Item = u64>) -> Result<()> {
        let entries: Vec<_> = records.map(|i| (self.key(i), self.values.of(i))).collect();
        match &entries[..] {
            [(key, value)] => engine.put(key, value),
            _ => engine.write_batch(&entries),
        }
    }

    /// Measures writes until they have settled. `live` are the entries that exist afterwards, given
    /// those that were written.
    fn write_row(
        &self,
        row: &str,
        engine: &dyn Engine,
        live: impl FnOnce(u64) -> u64,
        run: impl FnOnce() -> Result<Meter>,
    ) -> Result<u64> {
        let watch = Watch::start()?;
        let meter = run()?;
        let under_load = disk_bytes(&self.plan.dir)?;
        let mut figures = Figures::of(&meter);
        engine.settle()?;
        let user_bytes = meter.ops() * self.plan.set.entry_bytes();
        watch.stop(Some(user_bytes), &mut figures)?;
        if row.starts_with("fillsync") {
            // Counted by the page or by more of them, it tells nothing here.
            figures.write_amplification = None;
        }
        let live_bytes = live(meter.ops()) * self.plan.set.entry_bytes();
        if live_bytes > 0 {
            let settled = disk_bytes(&self.plan.dir)?;
            figures.disk_under_load = Some(under_load as f64 / live_bytes as f64);
            figures.disk_settled = Some(settled as f64 / live_bytes as f64);
        }
        tell(row, figures)?;
        Ok(meter.ops())
    }

    /// Measures what writes nothing, or what is not to be charged for it.
    fn read_row(&self, row: &str, run: impl FnOnce() -> Result<Meter>) -> Result<()> {
        if !self.wants(row) {
            return Ok(());
        }
        let watch = Watch::start()?;
        let meter = run()?;
        let mut figures = Figures::of(&meter);
        watch.stop(None, &mut figures)?;
        ensure!(meter.ops() > 0, "{row}: nothing was done");
        tell(row, figures)
    }
}

pub(crate) fn tell(row: &str, figures: Figures) -> Result<()> {
    let told = Told { row: row.to_owned(), figures };
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &told)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}
