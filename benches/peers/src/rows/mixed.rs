//! Reads and writes together: one of each at once, and the mixes of YCSB by one thread.
//!
//! A read sees every write that has returned before it, so engines with read transactions begin one
//! for each read; YCSB C writes nothing, and there they keep it open.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use anyhow::ensure;

use super::Bench;
use super::reads::THETA;
use super::tell;
use crate::engines::Engine;
use crate::engines::Reader;
use crate::keys::Key;
use crate::keys::Random;
use crate::keys::Zipf;
use crate::measure::Figures;
use crate::measure::Limit;
use crate::measure::Meter;
use crate::measure::Watch;
use crate::plan::limit;

/// A scan of YCSB E touches at most this many entries.
const SCAN_MAX: u64 = 100;

/// What part of the operations is what; the rest are reads. In percent.
#[derive(Clone, Copy)]
struct Mix {
    row: &'static str,
    update: u64,
    insert: u64,
    scan: u64,
    read_modify_write: u64,
    /// Reads prefer what was inserted last, rather than what is popular.
    latest: bool,
}

const NONE: Mix =
    Mix { row: "", update: 0, insert: 0, scan: 0, read_modify_write: 0, latest: false };

const YCSB: [Mix; 6] = [
    Mix { row: "YCSB A", update: 50, ..NONE },
    Mix { row: "YCSB B", update: 5, ..NONE },
    Mix { row: "YCSB C", ..NONE },
    Mix { row: "YCSB D", insert: 5, latest: true, ..NONE },
    Mix { row: "YCSB E", insert: 5, scan: 95, ..NONE },
    Mix { row: "YCSB F", read_modify_write: 50, ..NONE },
];

impl Mix {
    fn writes(self) -> bool {
        self.update + self.insert + self.read_modify_write > 0
    }
}

/// One client of YCSB.
struct Client<'a> {
    bench: &'a Bench<'a>,
    engine: &'a dyn Engine,
    reader: Box<dyn Reader + 'a>,
    random: Random,
    zipf: &'a Zipf,
    /// Records beyond those that were loaded.
    inserted: &'a mut u64,
}

impl Bench<'_> {
    pub(super) fn mixed(&self, engine: &dyn Engine) -> Result<()> {
        let wanted = |row| self.wants(row);
        if ["readwhilewriting, reads", "readwhilewriting, writes"].into_iter().any(wanted) {
            self.read_while_writing(engine)?;
            engine.settle()?;
        }
        if YCSB.iter().any(|mix| self.wants(mix.row)) {
            self.ycsb(engine)?;
        }
        Ok(())
    }

    fn read_while_writing(&self, engine: &dyn Engine) -> Result<()> {
        let watch = Watch::start()?;
        let time = Duration::from_secs_f64(self.plan.seconds.mixed * 2.0);
        let over = AtomicBool::new(false);
        let (reads, writes) = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut random = self.random(301);
                Meter::drive_while(&|| !over.load(Relaxed), |n| {
                    let i = random.below(self.keys());
                    engine.put(&self.key(i), self.values.of(i + n))?;
                    Ok(1)
                })
            });
            let reads = self.fresh_reads(engine, Limit { ops: u64::MAX, time });
            over.store(true, Relaxed);
            (reads, writer.join())
        });
        let writes = writes.map_err(|_| anyhow::anyhow!("the writer has panicked"))??;
        let mut figures = Figures::of(&reads?);
        watch.stop(None, &mut figures)?;
        let others_cores = figures.others_cores;
        tell("readwhilewriting, reads", figures)?;
        tell("readwhilewriting, writes", Figures { others_cores, ..Figures::of(&writes) })
    }

    fn fresh_reads(&self, engine: &dyn Engine, limit: Limit) -> Result<Meter> {
        let (mut reader, mut random) = (engine.reader()?, self.random(302));
        Meter::drive(limit, |_| {
            reader.renew();
            ensure!(reader.get(&self.key(random.below(self.keys())))?, "a key is missing");
            Ok(1)
        })
    }

    fn ycsb(&self, engine: &dyn Engine) -> Result<()> {
        let zipf = Zipf::new(self.keys(), THETA);
        let mut inserted = 0;
        for (place, mix) in YCSB.into_iter().enumerate() {
            let mut client = Client {
                bench: self,
                engine,
                reader: engine.reader()?,
                random: self.random(400 + place as u64),
                zipf: &zipf,
                inserted: &mut inserted,
            };
            self.read_row(mix.row, || {
                Meter::drive(limit(self.keys(), self.plan.seconds.mixed), |n| {
                    client.operate(mix, n)?;
                    Ok(1)
                })
            })?;
        }
        Ok(())
    }
}

impl Client<'_> {
    fn operate(&mut self, mix: Mix, n: u64) -> Result<()> {
        let dice = self.random.below(100);
        if mix.writes() {
            self.reader.renew();
        }
        if dice < mix.update {
            let key = self.popular();
            return self.engine.put(&key, self.bench.values.of(n));
        }
        if dice < mix.insert {
            // Between the others, as YCSB's hashed keys are.
            let key = self.bench.missing_key(self.bench.shuffle.at(*self.inserted));
            self.engine.put(&key, self.bench.values.of(n))?;
            *self.inserted += 1;
            return Ok(());
        }
        if dice < mix.insert + mix.scan {
            let (key, entries) = (self.popular(), 1 + self.random.below(SCAN_MAX));
            self.reader.scan(&key, entries)?;
            return Ok(());
        }
        let key = if mix.latest { self.latest() } else { self.popular() };
        ensure!(self.reader.get(&key)?, "a key is missing");
        if dice < mix.insert + mix.scan + mix.read_modify_write {
            self.engine.put(&key, self.bench.values.of(n))?;
        }
        Ok(())
    }

    fn popular(&mut self) -> Key {
        self.bench.key(self.bench.shuffle.at(self.zipf.rank(&mut self.random)))
    }

    fn latest(&mut self) -> Key {
        let back = self.zipf.rank(&mut self.random);
        if let Some(place) = self.inserted.checked_sub(back + 1) {
            return self.bench.missing_key(self.bench.shuffle.at(place));
        }
        let before = back - *self.inserted;
        self.bench.key(self.bench.shuffle.at(self.bench.keys() - 1 - before))
    }
}
