//! What each workload does.

use std::time::Duration;

use esker::Db;
use esker::Durability;
use esker::Keyspace;
use esker::Update;
use esker::WriteBatch;

use crate::bench::Workload;
use crate::bench::report::Outcome;
use crate::bench::report::Sustained;
use crate::bench::run;
use crate::bench::run::Measured;
use crate::bench::run::Plan;
use crate::bench::run::Worker;
use crate::cli::BenchArgs;
use crate::data;
use crate::data::Random;
use crate::failure::Result;
use crate::latency;
use crate::progress::Progress;

const KEY_LEN: u64 = 16;
const BATCH_LEN: usize = 100;
/// So many keys two threads want all the time.
const HOT_KEYS: u64 = 10;
/// Entries read behind a sought key.
const SEEK_LEN: usize = 10;
/// Of steps that take less than asking for the time, one in so many is timed.
const SAMPLE: u64 = 64;

/// Values cut from a pool of half-compressible bytes.
struct Values {
    pool: Vec<u8>,
    len: usize,
}

impl Values {
    fn new(len: usize) -> Values {
        const PIECE: usize = 100;
        let mut random = Random::new(301);
        let mut pool = Vec::new();
        let mut piece = Vec::new();
        while pool.len() < len + (1 << 20) {
            data::half_compressible(&mut random, PIECE, &mut piece);
            pool.extend_from_slice(&piece);
        }
        Values { pool, len }
    }

    fn next(&self, random: &mut Random) -> &[u8] {
        let start = random.below((self.pool.len() - self.len) as u64) as usize;
        &self.pool[start..start + self.len]
    }
}

pub(crate) struct Bench<'a> {
    db: &'a Db,
    keyspace: &'a Keyspace,
    args: &'a BenchArgs,
    progress: &'a Progress,
    values: Values,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(
        db: &'a Db,
        keyspace: &'a Keyspace,
        args: &'a BenchArgs,
        progress: &'a Progress,
    ) -> Bench<'a> {
        Bench { db, keyspace, args, progress, values: Values::new(args.value_bytes as usize) }
    }

    /// Runs a workload; two outcomes for one that reads and writes.
    pub(crate) fn run(&self, workload: Workload) -> Result<Vec<Outcome>> {
        let name = workload.name();
        let measured = match workload {
            Workload::FillSeq => self.measure(&name, self.args.num, |worker| {
                worker.ops.clone().try_for_each(|index| self.put(worker, index))
            }),
            Workload::FillRandom => self.measure(&name, self.args.num, |worker| {
                let (ops, shuffled) = (worker.ops.clone(), self.shuffled());
                let part = shuffled.skip(ops.start as usize).take((ops.end - ops.start) as usize);
                part.into_iter().try_for_each(|index| self.put(worker, index))
            }),
            Workload::FillBatch => self.measure(&name, self.args.num, |w| self.fill_batch(w)),
            Workload::FillSync => {
                let ops = (self.args.num / 100).max(1);
                self.measure(&name, ops, |worker| self.fill_sync(worker))
            }
            Workload::Overwrite => return self.overwrite(&name),
            Workload::DeleteRandom => self.measure(&name, self.args.num, |worker| {
                worker.ops.clone().try_for_each(|_| {
                    let key = self.random_key(worker);
                    worker.bytes += KEY_LEN;
                    Ok(worker.op(|| self.keyspace.delete(key))?)
                })
            }),
            Workload::ReadRandom => self.measure(&name, self.args.num, |worker| {
                worker.ops.clone().try_for_each(|_| self.get(worker))
            }),
            Workload::ReadMissing => self.measure(&name, self.args.num, |w| self.miss(w)),
            Workload::SeekRandom => self.measure(&name, self.args.num, |worker| {
                worker.ops.clone().try_for_each(|_| self.seek(worker))
            }),
            Workload::ReadSeq => {
                self.measure(&name, self.args.num, |worker| self.walk(worker, false))
            }
            Workload::ReadKeys => self.measure(&name, self.args.num, |w| self.walk_keys(w)),
            Workload::ReadReverse => {
                self.measure(&name, self.args.num, |worker| self.walk(worker, true))
            }
            Workload::ReadWhileWriting => return self.read_while_writing(&name),
            Workload::Update => self.measure(&name, self.args.num, |worker| {
                worker.ops.clone().try_for_each(|_| self.update(worker))
            }),
            Workload::Transfer => {
                self.measure(&name, self.args.num, |w| self.transfers(w, self.args.num))
            }
            Workload::TransferHot => {
                self.measure(&name, self.args.num, |w| self.transfers(w, HOT_KEYS))
            }
            Workload::Compact => self.compact(),
        };
        Ok(vec![Outcome::new(&name, measured?)])
    }

    fn plan(&self, ops: u64, duration: Option<Duration>) -> Plan {
        Plan { threads: self.args.threads, ops, seed: self.args.seed, duration }
    }

    fn measure(
        &self,
        name: &str,
        ops: u64,
        body: impl Fn(&mut Worker<'_>) -> Result<()> + Sync,
    ) -> Result<Measured> {
        let bar = self.progress.entries(name, Some(ops));
        Ok(run::run(&self.plan(ops, None), &bar, body, None)?.0)
    }

    fn shuffled(&self) -> impl Iterator<Item = u64> {
        data::shuffled(self.args.num, self.args.seed)
    }

    fn random_key(&self, worker: &mut Worker<'_>) -> [u8; 16] {
        data::key(worker.random.below(self.args.num))
    }

    fn put(&self, worker: &mut Worker<'_>, index: u64) -> Result<()> {
        let (key, value) = (data::key(index), self.values.next(&mut worker.random));
        worker.bytes += KEY_LEN + value.len() as u64;
        Ok(worker.op(|| self.keyspace.put(key, value))?)
    }

    fn get(&self, worker: &mut Worker<'_>) -> Result<()> {
        let key = self.random_key(worker);
        if let Some(value) = worker.op(|| self.keyspace.get(key))? {
            worker.found += 1;
            worker.bytes += KEY_LEN + value.len() as u64;
        }
        Ok(())
    }

    /// Replaces the value of a random key by another one of what was there.
    fn update(&self, worker: &mut Worker<'_>) -> Result<()> {
        let (key, value) = (self.random_key(worker), self.values.next(&mut worker.random));
        worker.bytes += KEY_LEN + value.len() as u64;
        let before =
            worker.op(|| self.keyspace.fetch_update(key, |_| Update::Put(value.to_vec())))?;
        worker.found += u64::from(before.is_some());
        Ok(())
    }

    /// Transactions that read two of `keys` keys and exchange their values.
    fn transfers(&self, worker: &mut Worker<'_>, keys: u64) -> Result<()> {
        for _ in worker.ops.clone() {
            let [a, b] = [(); 2].map(|()| data::key(worker.random.below(keys)));
            let bytes = worker.op(|| {
                self.db.transact(|txn| {
                    let values = [txn.get(self.keyspace, a)?, txn.get(self.keyspace, b)?];
                    let [first, second] = values.map(Option::unwrap_or_default);
                    txn.put(self.keyspace, a, &second)?;
                    txn.put(self.keyspace, b, &first)?;
                    Ok(first.len() + second.len())
                })
            })?;
            worker.bytes += 2 * KEY_LEN + bytes as u64;
        }
        Ok(())
    }

    fn miss(&self, worker: &mut Worker<'_>) -> Result<()> {
        let mut key = Vec::new();
        for _ in worker.ops.clone() {
            key.clear();
            key.extend_from_slice(&self.random_key(worker));
            key.push(b'.');
            if worker.op(|| self.keyspace.get(&key))?.is_some() {
                worker.found += 1;
            }
        }
        Ok(())
    }

    fn fill_batch(&self, worker: &mut Worker<'_>) -> Result<()> {
        let ops = worker.ops.clone();
        let len = (ops.end - ops.start) as usize;
        let mut indexes = self.shuffled().skip(ops.start as usize).take(len).peekable();
        while indexes.peek().is_some() {
            let mut batch = WriteBatch::new();
            for index in indexes.by_ref().take(BATCH_LEN) {
                let value = self.values.next(&mut worker.random);
                worker.bytes += KEY_LEN + value.len() as u64;
                batch.put(self.keyspace, data::key(index), value);
            }
            let ops = batch.len() as u64;
            worker.latency.time(|| self.db.write(batch))?;
            worker.count(ops);
        }
        Ok(())
    }

    fn fill_sync(&self, worker: &mut Worker<'_>) -> Result<()> {
        for _ in worker.ops.clone() {
            let key = self.random_key(worker);
            let value = self.values.next(&mut worker.random);
            worker.bytes += KEY_LEN + value.len() as u64;
            let mut batch = WriteBatch::new();
            batch.put(self.keyspace, key, value).durability(Durability::Sync);
            worker.op(|| self.db.write(batch))?;
        }
        Ok(())
    }

    fn seek(&self, worker: &mut Worker<'_>) -> Result<()> {
        let key = self.random_key(worker);
        let (found, bytes) = worker.op(|| -> esker::Result<(bool, u64)> {
            let mut cursor = self.keyspace.cursor();
            let found = cursor.seek(key)?;
            let (mut valid, mut bytes) = (found, 0);
            for _ in 0..SEEK_LEN {
                let (Some(key), Some(value)) = (cursor.key(), cursor.value()) else {
                    break;
                };
                bytes += (key.len() + value.len()) as u64;
                valid = valid && cursor.next()?;
            }
            Ok((found, bytes))
        })?;
        worker.found += u64::from(found);
        worker.bytes += bytes;
        Ok(())
    }

    /// Walks over everything; each thread over all of it.
    fn walk(&self, worker: &mut Worker<'_>, reverse: bool) -> Result<()> {
        let mut cursor = self.keyspace.cursor();
        let mut valid = if reverse { cursor.seek_to_last()? } else { cursor.seek_to_first()? };
        let mut steps = 0u64;
        while valid {
            let (Some(key), Some(value)) = (cursor.key(), cursor.value()) else {
                break;
            };
            worker.bytes += (key.len() + value.len()) as u64;
            let mut step = || {
                if reverse { cursor.prev() } else { cursor.next() }
            };
            valid = if steps.is_multiple_of(SAMPLE) { worker.latency.time(step)? } else { step()? };
            worker.count(1);
            steps += 1;
        }
        Ok(())
    }

    /// Walks over all keys; each thread over all of them.
    fn walk_keys(&self, worker: &mut Worker<'_>) -> Result<()> {
        let mut keys = self.keyspace.keys::<&[u8], _>(..);
        for step in 0u64.. {
            let timed = step.is_multiple_of(SAMPLE);
            let key = if timed { worker.latency.time(|| keys.next()) } else { keys.next() };
            let Some(key) = key.transpose()? else { break };
            worker.bytes += key.len() as u64;
            worker.count(1);
        }
        Ok(())
    }

    /// Overwrites random keys: so many, or for so long.
    fn overwrite(&self, name: &str) -> Result<Vec<Outcome>> {
        let before = self.db.stats();
        let duration = self.args.seconds.map(Duration::from_secs);
        let total = if duration.is_some() { None } else { Some(self.args.num) };
        let bar = self.progress.entries(name, total);
        let body = |worker: &mut Worker<'_>| -> Result<()> {
            if duration.is_none() {
                return worker.ops.clone().try_for_each(|_| {
                    let index = worker.random.below(self.args.num);
                    self.put(worker, index)
                });
            }
            while worker.goes_on() {
                let index = worker.random.below(self.args.num);
                self.put(worker, index)?;
            }
            Ok(())
        };
        let (measured, _) = run::run(&self.plan(self.args.num, duration), &bar, body, None)?;
        drop(bar);
        let sustained = duration.map(|_| {
            let live = self.args.num * (KEY_LEN + self.args.value_bytes);
            Sustained::new(&measured, &before, &self.db.stats(), live)
        });
        let mut outcome = Outcome::new(name, measured);
        outcome.sustained = sustained;
        Ok(vec![outcome])
    }

    fn read_while_writing(&self, name: &str) -> Result<Vec<Outcome>> {
        let bar = self.progress.entries(name, Some(self.args.num));
        let read = |worker: &mut Worker<'_>| worker.ops.clone().try_for_each(|_| self.get(worker));
        let write = |worker: &mut Worker<'_>| -> Result<()> {
            while worker.goes_on() {
                let index = worker.random.below(self.args.num);
                self.put(worker, index)?;
            }
            Ok(())
        };
        let plan = self.plan(self.args.num, None);
        let (reads, writes) = run::run(&plan, &bar, read, Some(&write))?;
        let mut outcomes = vec![Outcome::new(name, reads)];
        outcomes.extend(writes.map(|writes| Outcome::new(&format!("{name}:writes"), writes)));
        Ok(outcomes)
    }

    fn compact(&self) -> Result<Measured> {
        let _bar = self.progress.wait("compact");
        let before = self.db.stats();
        let start = latency::now();
        let mut measured = Measured::default();
        measured.latency.time(|| self.keyspace.compact_range::<&[u8], _>(..))?;
        let after = self.db.stats();
        measured.ops = 1;
        measured.elapsed = start.elapsed();
        measured.bytes =
            after.background.compaction_bytes_written - before.background.compaction_bytes_written;
        Ok(measured)
    }
}
