//! A workload drawn from choices: a database, and beside it what it should hold.

use std::collections::VecDeque;
use std::fmt;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use esker::Compression;
use esker::Db;
use esker::Durability;
use esker::Error;
use esker::Iter;
use esker::Options;
use esker::Reader;
use esker::Swap;
use esker::Transaction;
use esker::Update;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::Fs;
use esker::fs::MemFs;

use crate::harness::choices::Choices;
use crate::harness::choices::TestClock;
use crate::harness::state::Change;
use crate::harness::state::EXPIRING;
use crate::harness::state::History;
use crate::harness::state::MERGING;
use crate::harness::state::NAMES;
use crate::harness::state::Place;
use crate::harness::state::State;
use crate::harness::state::append;
use crate::harness::state::contents;
use crate::harness::state::keyspace;

/// Its parent is created with it.
pub(crate) const DIR: &str = "/parent/db";
/// Snapshots and iterators that are held at once.
const HELD_MAX: usize = 4;

/// How far a workload has come, as numbers of states; read at each event of the file system.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) begun: AtomicUsize,
    pub(crate) acknowledged: AtomicUsize,
    pub(crate) durable: AtomicUsize,
}

impl Progress {
    /// The oldest state that may be found after a crash.
    pub(crate) fn low(&self, mode: CrashMode) -> usize {
        match mode {
            CrashMode::KeepAll => self.acknowledged.load(Relaxed),
            _ => self.durable.load(Relaxed),
        }
    }
}

/// What was done, for those who have to find out what went wrong.
#[derive(Clone, Default)]
pub(crate) struct Trail {
    pub(crate) origin: String,
    steps: VecDeque<(&'static str, u64)>,
}

impl Trail {
    pub(crate) fn add(&mut self, what: &'static str, detail: u64) {
        if self.steps.len() == 12 {
            self.steps.pop_front();
        }
        self.steps.push_back((what, detail));
    }
}

impl Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (…", self.origin)?;
        for (what, detail) in &self.steps {
            write!(f, " {what} {detail};")?;
        }
        f.write_str(")")
    }
}

/// A view that stays as it is, and what it must show.
enum Held {
    Snapshot { readers: Vec<(usize, Reader)>, state: State },
    Iter(Box<HeldIter>),
}

struct HeldIter {
    keyspace: usize,
    iter: Iter,
    left: VecDeque<Entry>,
}

/// Key and value.
type Entry = (Arc<[u8]>, Arc<[u8]>);

/// An operation on a key, and what the key holds afterwards.
struct Write {
    place: Place,
    what: What,
    before: Option<Arc<[u8]>>,
    after: Option<Arc<[u8]>>,
}

enum What {
    Put,
    /// It expires after so long.
    PutFor(Duration),
    Delete,
    Merge(Vec<u8>),
}

pub(crate) struct Workload {
    pub(crate) choices: Choices,
    pub(crate) options: Options,
    pub(crate) fs: MemFs,
    /// What the database sees of it.
    pub(crate) seen_fs: Arc<dyn Fs>,
    pub(crate) db: Option<Db>,
    pub(crate) history: History,
    pub(crate) progress: Arc<Progress>,
    pub(crate) trail: Trail,
    held: Vec<Held>,
    clock: Arc<TestClock>,
    /// How often it was waited.
    waits: u32,
}

impl Workload {
    /// Nothing is open yet.
    pub(crate) fn new(origin: String, mut choices: Choices) -> Workload {
        let clock = Arc::new(TestClock::new(choices.below(256)));
        let fs = MemFs::new();
        Workload {
            options: draw_options(&mut choices, &clock),
            choices,
            seen_fs: Arc::new(fs.clone()),
            fs,
            db: None,
            history: History::default(),
            progress: Arc::default(),
            trail: Trail { origin, ..Trail::default() },
            held: Vec::new(),
            clock,
            waits: 0,
        }
    }

    /// Lets an hour pass, or by the wall clock some weeks.
    pub(crate) fn wait(&mut self) {
        self.clock.wait();
        self.waits += 1;
        self.history.expire(self.waits);
    }

    /// Goes on with a history of earlier.
    pub(crate) fn remember(&mut self, mut history: History) {
        history.expire(self.waits);
        self.history = history;
    }

    pub(crate) fn db(&self) -> &Db {
        self.db.as_ref().unwrap()
    }

    /// Goes on with another file system.
    pub(crate) fn move_to(&mut self, fs: MemFs) {
        self.seen_fs = Arc::new(fs.clone());
        self.fs = fs;
    }

    pub(crate) fn try_open(&self) -> esker::Result<Db> {
        self.options.clone().fs(self.seen_fs.clone()).open(DIR)
    }

    pub(crate) fn open(&mut self) {
        let opened = self.try_open();
        self.db = Some(opened.unwrap_or_else(|error| panic!("{}: {error}", self.trail)));
    }

    pub(crate) fn visible(&self) -> usize {
        self.progress.acknowledged.load(Relaxed)
    }

    /// Everything acknowledged is durable.
    pub(crate) fn durable(&self) {
        self.progress.durable.store(self.visible(), Relaxed);
    }

    /// The workload was found to be at `step`, and all of that durable.
    pub(crate) fn settle_at(&mut self, step: usize) {
        self.history.go_back_to(step);
        self.history.forget_before(step);
        self.progress.begun.store(step, Relaxed);
        self.progress.acknowledged.store(step, Relaxed);
        self.durable();
    }

    /// The database shows what was acknowledged.
    pub(crate) fn check_live(&self) {
        let found = contents(self.db(), &self.trail);
        self.history.find(&found, self.visible(), self.visible(), &self.trail);
    }

    /// One step of the model, with what it does to the database.
    fn change(
        &mut self,
        durable: bool,
        changes: Vec<Change>,
        act: impl FnOnce(&Db) -> esker::Result<()>,
    ) -> esker::Result<()> {
        self.history.push(changes);
        let step = self.history.last();
        self.progress.begun.store(step, Relaxed);
        let could_write = self.db().stats().read_only.is_none();
        if let Err(error) = act(self.db()) {
            // In or out, if nobody can know; else it has not happened.
            if !could_write || self.db().stats().read_only.is_none() {
                self.history.go_back_to(step - 1);
                self.progress.begun.store(step - 1, Relaxed);
            }
            return Err(error);
        }
        self.progress.acknowledged.store(step, Relaxed);
        if durable {
            self.durable();
        }
        Ok(())
    }

    /// Does something; without injected faults it must succeed.
    pub(crate) fn step(&mut self) {
        let choice = self.choices.below(100);
        self.step_of(choice);
    }

    /// Does what `choice` says, of [`Workload::try_step`].
    pub(crate) fn step_of(&mut self, choice: u64) {
        if let Err(error) = self.try_step(choice) {
            panic!("{}: {error}", self.trail);
        }
    }

    /// Does something, by a choice among 100.
    pub(crate) fn try_step(&mut self, choice: u64) -> esker::Result<()> {
        self.trail.add("step", choice);
        match choice {
            0..64 => self.write(),
            64..68 => self.db().flush().map(|()| self.durable()),
            68..78 => self.db().run_one_job().map(drop),
            78..82 => self.db().sync().map(|()| self.durable()),
            82 => {
                let index = self.choices.index(NAMES.len());
                keyspace(self.db(), index).map(drop)
            }
            83 => {
                self.wait();
                Ok(())
            }
            84..87 => self.drop_keyspace(),
            87..90 => self.hold(),
            90..92 => self.let_go(),
            92..94 => {
                let index = self.choices.index(NAMES.len());
                keyspace(self.db(), index)?.compact_range::<&[u8], _>(..)
            }
            94..96 => self.run_all_jobs(),
            _ => self.reopen(),
        }
    }

    fn run_all_jobs(&mut self) -> esker::Result<()> {
        let mut jobs = 0;
        while self.db().run_one_job()? {
            jobs += 1;
            assert!(jobs < 2000, "{}: the jobs never end", self.trail);
        }
        Ok(())
    }

    /// Closes and opens, with other options.
    fn reopen(&mut self) -> esker::Result<()> {
        self.let_all_go()?;
        if let Some(db) = self.db.take() {
            db.close()?;
            self.durable();
        }
        self.options = draw_options(&mut self.choices, &self.clock);
        self.db = Some(self.try_open()?);
        Ok(())
    }

    fn drop_keyspace(&mut self) -> esker::Result<()> {
        let index = 1 + self.choices.index(NAMES.len() - 1);
        if self.db().keyspaces().iter().all(|name| name != NAMES[index]) {
            return Ok(());
        }
        self.change(true, vec![Change::DropKeyspace(index)], |db| db.drop_keyspace(NAMES[index]))
    }

    /// A value that no other step writes, or an operand.
    fn draw_value(&mut self, op: u64, what: &What) -> Vec<u8> {
        let step = self.history.last() + 1;
        let len = match self.choices.below(16) {
            0..10 => self.choices.below(32),
            10..14 => 40 + self.choices.below(100),
            // Values would grow with each.
            _ if matches!(what, What::Merge(_)) => 0,
            14 => 1500,
            // More than a segment of the log holds.
            _ => 2500 * (1 + self.choices.below(4)),
        };
        let mut value = format!("{step}.{op} ").into_bytes();
        if let What::PutFor(ttl) = what {
            let waits = ttl.as_millis().div_ceil(u128::from(TestClock::WAIT_MS));
            let until = u128::from(self.waits) + waits;
            value.splice(..0, format!("until {until:06};").into_bytes());
        }
        let seed = self.choices.below(2);
        value.extend((0..len).map(|n| if seed == 0 { b'x' } else { (n * n / 7) as u8 }));
        value
    }

    /// What is done to a key of the keyspace.
    fn draw_what(&mut self, keyspace: usize) -> What {
        match self.choices.below(16) {
            n if n % 4 == 3 => What::Delete,
            4.. if keyspace == MERGING => What::Merge(Vec::new()),
            12.. if keyspace == EXPIRING => What::Merge(Vec::new()),
            n @ 4.. if keyspace == EXPIRING => {
                // The clock moves a little with each look at it.
                let waits = u64::from(n as u32 % 4) * TestClock::WAIT_MS;
                What::PutFor(Duration::from_millis(waits.saturating_sub(TestClock::WAIT_MS / 2)))
            }
            _ => What::Put,
        }
    }

    /// Draws operations, each over what the ones before it have left.
    fn draw_writes(&mut self, ops: u64) -> Vec<Write> {
        let mut writes: Vec<Write> = Vec::new();
        let state = self.history.at(self.visible());
        for op in 0..ops {
            let index = self.choices.pick(&[0, 0, 1, 2]);
            let key: Arc<[u8]> = format!("key{:02}", self.choices.below(24)).into_bytes().into();
            let place: Place = (index, key);
            let mut what = self.draw_what(index);
            let written = writes.iter().rev().find(|write| write.place == place);
            if matches!(what, What::Merge(_))
                && writes
                    .iter()
                    .any(|w| w.place == place && matches!(w.what, What::PutFor(Duration::ZERO)))
            {
                // A transaction merges into what expires at once, and others do not.
                what = What::Delete;
            }
            let before = match written {
                Some(write) => write.after.clone(),
                None => state.get(&place).cloned(),
            };
            let mut after = None;
            if !matches!(what, What::Delete) {
                let mut value = self.draw_value(op, &what);
                if let What::Merge(operand) = &mut what {
                    operand.clone_from(&value);
                    value = append(before.as_deref(), &value);
                }
                // What expires at once is as good as a delete.
                let is_gone = matches!(what, What::PutFor(Duration::ZERO));
                after = (!is_gone).then(|| value.into());
            }
            writes.push(Write { place, what, before, after });
        }
        writes
    }

    fn write(&mut self) -> esker::Result<()> {
        let choice = self.choices.below(256);
        let durability = match choice % 8 {
            0 => Durability::Sync,
            1 => Durability::Interval(Duration::from_secs(3600)),
            2 => Durability::Interval(Duration::from_micros(50)),
            _ => Durability::Os,
        };
        let ops = match self.choices.below(4) {
            0 | 1 => 1,
            2 => 2 + self.choices.below(4),
            _ => 2,
        };
        if self.choices.below(16) == 0 {
            return self.delete_range(durability);
        }
        let writes = self.draw_writes(ops);
        for index in 0..NAMES.len() {
            if writes.iter().any(|write| write.place.0 == index) {
                keyspace(self.db(), index)?;
            }
        }
        let changes = writes.iter().map(|write| match &write.after {
            Some(value) => Change::Put(write.place.clone(), value.clone()),
            None => Change::Delete(write.place.clone()),
        });
        let changes = changes.collect();
        let sync = durability == Durability::Sync;
        match choice / 8 {
            0..20 => self.change(sync, changes, |db| write_batch(db, &writes, durability)),
            20..27 => self.change(sync, changes, |db| transact(db, &writes, durability)),
            // With the durability of the database, whichever that is.
            _ if ops == 1 => self.change(false, changes, |db| change_one(db, &writes[0])),
            _ => self.change(sync, changes, |db| transact(db, &writes, durability)),
        }
    }

    fn delete_range(&mut self, durability: Durability) -> esker::Result<()> {
        let key = |n: u64| -> Arc<[u8]> { format!("key{n:02}").into_bytes().into() };
        let (index, first) = (self.choices.index(NAMES.len()), self.choices.below(24));
        let (from, to) = (key(first), key(first + 1 + self.choices.below(8)));
        let keyspace = keyspace(self.db(), index)?;
        let mut batch = WriteBatch::new();
        batch.durability(durability).delete_range(&keyspace, &from[..]..&to[..]);
        let changes = vec![Change::DeleteRange((index, from), to)];
        self.change(durability == Durability::Sync, changes, |db| db.write(batch))
    }

    /// Takes a snapshot or an iterator, for a while.
    fn hold(&mut self) -> esker::Result<()> {
        if self.held.len() == HELD_MAX {
            self.let_go()?;
        }
        let state = self.history.at(self.visible());
        let held = if self.choices.below(2) == 0 {
            let snapshot = self.db().snapshot();
            let mut readers = Vec::new();
            for index in 0..NAMES.len() {
                readers.push((index, snapshot.keyspace(&keyspace(self.db(), index)?)));
            }
            Held::Snapshot { readers, state }
        } else {
            let wanted = self.choices.index(NAMES.len());
            let iter = keyspace(self.db(), wanted)?.iter();
            let left = state.into_iter().filter(|((index, _), _)| *index == wanted);
            let left = left.map(|((_, key), value)| (key, value)).collect();
            let mut held = HeldIter { keyspace: wanted, iter, left };
            held.step(self.choices.below(4), &self.trail)?;
            Held::Iter(Box::new(held))
        };
        self.held.push(held);
        Ok(())
    }

    /// Looks once more at the oldest that is held, and drops it. An error is one of reading.
    fn let_go(&mut self) -> esker::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        match self.held.remove(0) {
            Held::Snapshot { readers, state } => {
                let mut found = State::new();
                for (index, reader) in readers {
                    for entry in &reader {
                        let (key, value) = entry?;
                        found.insert((index, key[..].into()), value[..].into());
                    }
                }
                assert!(found == state, "{}: a snapshot changed", self.trail);
                Ok(())
            }
            Held::Iter(mut held) => held.step(u64::MAX, &self.trail),
        }
    }

    /// Looks at all that is held, and drops it.
    pub(crate) fn let_all_go(&mut self) -> esker::Result<()> {
        let mut result = Ok(());
        while !self.held.is_empty() {
            result = result.and(self.let_go());
        }
        result
    }

    /// Ends what a crash ends: after a last look at all that is held.
    pub(crate) fn die(&mut self) {
        self.fs.on_event(None);
        let looked = self.let_all_go();
        looked.unwrap_or_else(|error| panic!("{}: {error}", self.trail));
        self.db = None;
    }

    /// Options of some other run of the program.
    pub(crate) fn options_for(&self, seed: u64) -> Options {
        draw_options(&mut Choices::seed(seed), &self.clock)
    }

    /// Draws options anew.
    pub(crate) fn change_options(&mut self) {
        self.options = draw_options(&mut self.choices, &self.clock);
    }
}

impl HeldIter {
    /// Goes on for so many steps, from both ends in turn. An error is one of reading, after which
    /// neither end gives anything.
    fn step(&mut self, steps: u64, what: &dyn Display) -> esker::Result<()> {
        let HeldIter { keyspace, iter, left } = self;
        for step in 0..steps {
            let (found, model) = match step % 3 {
                0 => (iter.next_back(), left.pop_back()),
                _ => (iter.next(), left.pop_front()),
            };
            if let Some(Err(error)) = found {
                assert!(iter.next().is_none() && iter.next_back().is_none(), "{what}: {error}");
                return Err(error);
            }
            let found = found.transpose()?;
            let found = found.as_ref().map(|(key, value)| (&key[..], &value[..]));
            let model = model.as_ref().map(|(key, value)| (&key[..], &value[..]));
            assert!(found == model, "{what}: an iterator of {} changed", NAMES[*keyspace]);
            if found.is_none() {
                break;
            }
        }
        Ok(())
    }
}

fn write_batch(db: &Db, writes: &[Write], durability: Durability) -> esker::Result<()> {
    let mut batch = WriteBatch::new();
    batch.durability(durability);
    for Write { place, what, after, .. } in writes {
        let (keyspace, key) = (keyspace(db, place.0)?, &place.1);
        let value = after.as_deref().unwrap_or(b"gone at once");
        match what {
            What::Put => batch.put(&keyspace, key, value),
            What::PutFor(ttl) => batch.put_with_ttl(&keyspace, key, value, *ttl),
            What::Delete => batch.delete(&keyspace, key),
            What::Merge(operand) => batch.merge(&keyspace, key, operand),
        };
    }
    db.write(batch)
}

/// In a transaction, or if it would take too much memory as a batch.
fn transact(db: &Db, writes: &[Write], durability: Durability) -> esker::Result<()> {
    let txn = db.transaction();
    txn.durability(durability);
    match write_in(&txn, db, writes) {
        Ok(()) => txn.commit(),
        Err(Error::TransactionMemory { .. }) => write_batch(db, writes, durability),
        Err(error) => Err(error),
    }
}

/// Looks at each key before and after. An error may be one of reading.
fn write_in(txn: &Transaction, db: &Db, writes: &[Write]) -> esker::Result<()> {
    for Write { place, what, before, after } in writes {
        let (keyspace, key) = (keyspace(db, place.0)?, &place.1);
        // What expires at once is alive for a transaction that began before.
        let was_gone_at_once = before.is_none() && place.0 == EXPIRING;
        let found = txn.get(&keyspace, key)?;
        assert!(was_gone_at_once || found.as_deref() == before.as_deref());
        let value = after.as_deref().unwrap_or(b"gone at once");
        match what {
            What::Put => txn.put(&keyspace, key, value)?,
            What::PutFor(ttl) => txn.put_with_ttl(&keyspace, key, value, *ttl)?,
            What::Delete => txn.delete(&keyspace, key)?,
            What::Merge(operand) => txn.merge(&keyspace, key, operand)?,
        }
        if after.is_some() || matches!(what, What::Delete) {
            assert_eq!(txn.get(&keyspace, key)?.as_deref(), after.as_deref());
        }
    }
    Ok(())
}

/// By a conditional operation where there is one.
fn change_one(db: &Db, write: &Write) -> esker::Result<()> {
    let Write { place, what, before, after } = write;
    let (keyspace, key, before) = (keyspace(db, place.0)?, &place.1, before.as_deref());
    match what {
        What::Put => {
            let swap = keyspace.compare_and_swap(key, before, after.as_deref())?;
            assert_eq!(swap, Swap::Done);
        }
        // Else it would write nothing.
        What::Delete if before.is_some() => assert_eq!(keyspace.take(key)?.as_deref(), before),
        What::Delete => keyspace.delete(key)?,
        What::Merge(operand) if place.0 == EXPIRING => keyspace.merge(key, operand)?,
        What::Merge(operand) => {
            let merged = |old: Option<&[u8]>| Update::Put(append(old, operand));
            assert_eq!(keyspace.fetch_update(key, merged)?.as_deref(), before);
        }
        What::PutFor(ttl) => {
            keyspace.put_with_ttl(key, after.as_deref().unwrap_or(b"gone at once"), *ttl)?;
        }
    }
    Ok(())
}

fn draw_options(choices: &mut Choices, clock: &Arc<TestClock>) -> Options {
    let size = choices.below(3);
    let bits = choices.below(256);
    let bit = |n: u32| bits >> n & 1 == 1;
    Options::new()
        .memtable_bytes(1024 << size)
        .block_bytes(256)
        .file_bytes(4096)
        .wal_bytes(16 << 10 << (bits & 1))
        .log_retention(if bits.is_multiple_of(3) { 48 << 10 } else { 0 }, Duration::MAX)
        .memory_budget(if bit(2) { 1 << 20 } else { 24 << 10 })
        .compression(if bit(3) { Compression::None } else { Compression::Lz4 })
        .filter_bits_per_key(if bit(4) { 0 } else { 10 })
        .mmap(!bit(5))
        .tombstone_age(Duration::from_millis(if bit(6) { 100_000 } else { 0 }))
        // Batches say theirs; but segments of the log are prepared otherwise.
        .durability(if bit(7) { Durability::Sync } else { Durability::Os })
        .background_threads(0)
        .clock(clock.clone())
}
