//! A database beside its model: each operation is done to both, each answer compared.

use std::ops::Bound;
use std::ops::RangeBounds;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use esker::Append;
use esker::Db;
use esker::Durability;
use esker::Error;
use esker::Keyspace;
use esker::KeyspaceOptions;
use esker::Options;
use esker::Reader;
use esker::Snapshot;
use esker::Swap;
use esker::Transaction;
use esker::Ttl;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::MemFs;
use parking_lot::Mutex;

use crate::harness::choices::Choices;
use crate::harness::choices::TestClock;
use crate::harness::held::HeldCursor;
use crate::harness::held::HeldIter;
use crate::harness::held::Map;
use crate::harness::held::move_cursor;
use crate::harness::held::step_iter;
use crate::harness::ops::EXPIRING;
use crate::harness::ops::From;
use crate::harness::ops::KEYSPACES;
use crate::harness::ops::Key;
use crate::harness::ops::KeyRange;
use crate::harness::ops::MERGING;
use crate::harness::ops::Op;
use crate::harness::ops::SLOTS;
use crate::harness::ops::Settings;
use crate::harness::ops::Value;
use crate::harness::ops::Write;
use crate::harness::state;
use crate::harness::state::until_of;

const DIR: &str = "/db";
const NAMES: [&str; KEYSPACES] = ["default", "one", "two"];

const UNBOUNDED: KeyRange = (Bound::Unbounded, Bound::Unbounded);

/// What all keyspaces hold. One that does not exist is empty.
type State = [Map; KEYSPACES];
/// What was left by the crash that [`Op::CrashAtEvent`] asked for, once it has happened.
type Wreck = Arc<Mutex<Option<MemFs>>>;

struct HeldSnapshot {
    snapshot: Snapshot,
    state: State,
    /// The keyspaces of its time; they may have been dropped since.
    keyspaces: [Option<Keyspace>; KEYSPACES],
}

/// What keeps the database open.
#[derive(Default)]
struct Held {
    keyspaces: [Option<Keyspace>; KEYSPACES],
    snapshots: [Option<HeldSnapshot>; SLOTS],
    iters: [Option<HeldIter>; SLOTS],
    cursors: [Option<HeldCursor>; SLOTS],
}

pub(crate) struct World {
    options: Options,
    separate: usize,
    /// How often the database was opened again.
    opens: usize,
    fs: MemFs,
    db: Option<Db>,
    held: Held,
    state: State,
    /// Earlier states that a crash of the system may fall back to, oldest first.
    older: Vec<State>,
    armed: Option<(CrashMode, Wreck)>,
    clock: Arc<TestClock>,
    /// How often it was waited.
    waits: u32,
}

impl World {
    pub(crate) fn new(settings: &Settings) -> World {
        let options = settings.options();
        let clock = Arc::new(TestClock::new(7));
        let options = options.clock(clock.clone());
        let fs = MemFs::new();
        let db = options.clone().fs(Arc::new(fs.clone())).open(DIR).unwrap();
        World {
            options,
            separate: settings.separate,
            opens: 0,
            fs,
            db: Some(db),
            held: Held::default(),
            state: State::default(),
            older: Vec::new(),
            armed: None,
            clock,
            waits: 0,
        }
    }

    fn db(&self) -> &Db {
        self.db.as_ref().unwrap()
    }

    /// The keyspace, created if it is not there.
    fn keyspace(&mut self, index: usize) -> Keyspace {
        if self.held.keyspaces[index].is_none() {
            // Now and then values go back to their entries.
            let apart = if self.opens % 4 == 3 { usize::MAX } else { self.separate };
            let mut options = KeyspaceOptions::new().separate_values(apart);
            if index >= MERGING {
                options = options.merge_operator(Append::new(",")).expiring(index == EXPIRING);
            }
            let keyspace = self.db().keyspace_with(NAMES[index], options).unwrap();
            self.held.keyspaces[index] = Some(keyspace);
        }
        self.held.keyspaces[index].clone().unwrap()
    }

    /// Does `op`; if a crash was to happen meanwhile and did, goes on from there.
    pub(crate) fn run(&mut self, op: &Op) {
        if let Op::Fill(keyspace, first, count, value) = op {
            for n in 0..*count {
                let key = Key(first.0.wrapping_add(n));
                let value = Value { seed: value.seed.wrapping_add(n), ..*value };
                self.run(&Op::Put(*keyspace, key, value));
            }
            return;
        }
        if let Op::Drain(keyspace, first, count) = op {
            for n in 0..*count {
                self.run(&Op::Delete(*keyspace, Key(first.0.wrapping_add(n))));
            }
            // The first learns, the second proves, the third relies on it.
            for back in [false, true, false, true, false, true] {
                let (from, range) = (From { snapshot: None, keyspace: *keyspace }, UNBOUNDED);
                self.run(&Op::Scan { from, range, ends: vec![back] });
            }
            return;
        }
        let before = self.armed.is_some().then(|| (self.state.clone(), self.older.clone()));
        self.step(op);
        let Some((mode, wreck)) = self.armed.clone() else { return };
        let Some((state, older)) = before else { return };
        let Some(fs) = wreck.lock().take() else { return };
        // Before the operation, after it, and what either may fall back to.
        let mut allowed = vec![self.state.clone(), state];
        if mode != CrashMode::KeepAll {
            allowed.extend(self.older.iter().rev().cloned());
            allowed.extend(older.into_iter().rev());
        }
        self.go_on_from(fs, &allowed);
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Put(keyspace, key, value) => self.put(*keyspace, *key, *value),
            Op::Delete(keyspace, key) => {
                self.keyspace(*keyspace).delete(key.bytes()).unwrap();
                self.state[*keyspace].remove(&key.bytes());
                self.older.clear();
            }
            Op::DeleteRange(..) | Op::DeletePrefix(..) => self.delete_many(op),
            Op::PutFor(key, value, waits) => self.put_for(*key, *value, *waits),
            Op::Wait => self.wait(),
            Op::Merge(keyspace, key, value) => self.merge(*keyspace, *key, *value),
            Op::Transact { writes, commit } => self.transact(writes, *commit),
            Op::Swap { keyspace, key, value, right } => {
                self.swap(*keyspace, *key, value.map(Value::bytes), *right);
            }
            Op::Batch { writes, unsynced } => self.batch(writes, *unsynced),
            Op::Sync => {
                self.db().sync().unwrap();
                self.older.clear();
            }
            Op::Flush => {
                self.db().flush().unwrap();
                self.older.clear();
            }
            Op::CompactRange(keyspace, range) => {
                let keyspace = self.keyspace(*keyspace);
                keyspace.compact_range(bytes_of(*range)).unwrap();
            }
            Op::RunOneJob => {
                self.db().run_one_job().unwrap();
            }
            Op::Settle => {
                let mut jobs = 0;
                while self.db().run_one_job().unwrap() {
                    jobs += 1;
                    assert!(jobs < 2000, "the jobs never end");
                }
            }
            Op::TakeSnapshot(slot) => {
                let snapshot = self.db().snapshot();
                let (state, keyspaces) = (self.state.clone(), self.held.keyspaces.clone());
                self.held.snapshots[*slot] = Some(HeldSnapshot { snapshot, state, keyspaces });
            }
            Op::DropSnapshot(slot) => self.held.snapshots[*slot] = None,
            Op::Reopen => self.reopen(),
            Op::Crash { mode, seed } => {
                let mut allowed = vec![self.state.clone()];
                if *mode != CrashMode::KeepAll {
                    allowed.extend(self.older.iter().rev().cloned());
                }
                self.go_on_from(self.fs.crash_clone(*mode, *seed), &allowed);
            }
            Op::CrashAtEvent { n, mode, seed } => self.arm(*n, *mode, *seed),
            Op::DropKeyspace(keyspace) => self.drop_keyspace(*keyspace),
            Op::Verify => {
                self.db().verify(&mut |_, _| {}).unwrap();
            }
            _ => self.read(op),
        }
    }

    fn delete_many(&mut self, op: &Op) {
        match op {
            Op::DeleteRange(keyspace, range) => {
                let range = bytes_of(*range);
                self.keyspace(*keyspace).delete_range(range.clone()).unwrap();
                self.state[*keyspace].retain(|key, _| !range.contains(key));
                // A range without keys is not written, so it makes nothing durable.
                self.db().sync().unwrap();
            }
            Op::DeletePrefix(keyspace, key, len) => {
                let mut prefix = key.bytes();
                prefix.truncate(usize::from(*len));
                self.keyspace(*keyspace).delete_prefix(&prefix).unwrap();
                self.state[*keyspace].retain(|key, _| !key.starts_with(&prefix));
            }
            _ => unreachable!("{op:?} deletes no range"),
        }
        self.older.clear();
    }

    fn read(&mut self, op: &Op) {
        match op {
            Op::Get(from, key) => {
                let (reader, map) = self.reader(*from);
                let (found, expected) = (reader.get(key.bytes()).unwrap(), map.get(&key.bytes()));
                assert_eq!(found.as_deref(), expected.map(|value| value.as_slice()));
                assert_eq!(reader.contains_key(key.bytes()).unwrap(), expected.is_some());
                let size = reader.size_of(key.bytes()).unwrap();
                assert_eq!(size, expected.map(|value| value.len()));
                let expires = expected.map(|value| until_of(value).is_some());
                let ttl = reader.ttl(key.bytes()).unwrap();
                assert_eq!(ttl.map(|ttl| ttl != Ttl::Forever), expires);
            }
            Op::MultiGet(from, keys) => {
                let (reader, map) = self.reader(*from);
                let found = reader.multi_get(keys.iter().map(|key| key.bytes())).unwrap();
                assert_eq!(found.len(), keys.len());
                for (key, found) in keys.iter().zip(found) {
                    let expected = map.get(&key.bytes());
                    assert_eq!(found.as_deref(), expected.map(|value| value.as_slice()), "{key:?}");
                }
            }
            Op::Scan { from, range, ends } => {
                let mut held = self.held_iter(*from, *range);
                while !step_iter(&mut held, ends) {}
            }
            Op::Prefix { from, prefix, len, reverse } => {
                let (reader, map) = self.reader(*from);
                let mut prefix = prefix.bytes();
                prefix.truncate(usize::from(*len));
                let entries = map.iter().filter(|(key, _)| key.starts_with(&prefix));
                let left = entries.map(|(key, value)| (key.clone(), value.clone())).collect();
                let mut held = HeldIter { iter: reader.prefix(&prefix), left };
                while !step_iter(&mut held, &[*reverse]) {}
            }
            Op::Walk(from, moves) => {
                let (reader, map) = self.reader(*from);
                let mut held = HeldCursor { cursor: reader.cursor(), map, at: None };
                move_cursor(&mut held, moves);
            }
            Op::HoldIter { slot, from, range } => {
                self.held.iters[*slot] = Some(self.held_iter(*from, *range));
            }
            Op::StepIter { slot, ends } => {
                if let Some(held) = &mut self.held.iters[*slot] {
                    step_iter(held, ends);
                }
            }
            Op::HoldCursor { slot, from } => {
                let (reader, map) = self.reader(*from);
                let cursor = reader.cursor();
                self.held.cursors[*slot] = Some(HeldCursor { cursor, map, at: None });
            }
            Op::MoveCursor { slot, moves } => {
                if let Some(held) = &mut self.held.cursors[*slot] {
                    move_cursor(held, moves);
                }
            }
            _ => unreachable!("{op:?} reads nothing"),
        }
    }

    fn put(&mut self, keyspace: usize, key: Key, value: Value) {
        let (key, value) = (key.bytes(), value.bytes());
        self.keyspace(keyspace).put(&key, &value).unwrap();
        self.state[keyspace].insert(key, Rc::new(value));
        self.older.clear();
    }

    fn put_for(&mut self, key: Key, value: Value, waits: u8) {
        let until = self.waits + u32::from(waits);
        let bytes = [format!("until {until:06};").as_bytes(), &value.bytes()].concat();
        // The clock moves a little with each look at it.
        let ms = (u64::from(waits) * TestClock::WAIT_MS).saturating_sub(TestClock::WAIT_MS / 2);
        let ttl = Duration::from_millis(ms);
        self.keyspace(EXPIRING).put_with_ttl(key.bytes(), &bytes, ttl).unwrap();
        self.state[EXPIRING].insert(key.bytes(), Rc::new(bytes));
        expire(&mut self.state, self.waits);
        self.older.clear();
    }

    fn wait(&mut self) {
        self.clock.wait();
        self.waits += 1;
        for state in self.older.iter_mut().chain([&mut self.state]) {
            expire(state, self.waits);
        }
    }

    fn merge(&mut self, keyspace: usize, key: Key, operand: Value) {
        let (key, operand) = (key.bytes(), operand.bytes());
        self.keyspace(keyspace).merge(&key, &operand).unwrap();
        append(&mut self.state[keyspace], key, &operand);
        self.older.clear();
    }

    /// What `write` makes of a state.
    fn apply(state: &mut State, write: &Write) {
        let (map, key) = (&mut state[write.keyspace], write.key.bytes());
        match write.value {
            Some(value) if write.merge && write.keyspace >= MERGING => {
                append(map, key, &value.bytes());
            }
            Some(value) => drop(map.insert(key, Rc::new(value.bytes()))),
            None => match write.until.map(Key::bytes) {
                Some(until) => map.retain(|other, _| *other < key || *other >= until),
                None => drop(map.remove(&key)),
            },
        }
    }

    fn transact(&mut self, writes: &[Write], commit: bool) {
        let keyspaces = [0, 1, 2].map(|index| self.keyspace(index));
        let mut state = self.state.clone();
        let txn = self.db().transaction();
        match write_in(&txn, &keyspaces, &mut state, writes) {
            // It has not happened.
            Err(Error::TransactionMemory { .. }) => return,
            result => result.unwrap(),
        }
        let is_empty = txn.is_empty();
        if commit {
            txn.commit().unwrap();
            self.state = state;
            if !is_empty {
                self.older.clear();
            }
        }
    }

    fn swap(&mut self, index: usize, key: Key, value: Option<Vec<u8>>, right: bool) {
        let (keyspace, key) = (self.keyspace(index), key.bytes());
        let before = self.state[index].get(&key).cloned();
        let before = before.as_ref().map(|value| value.as_slice());
        let expected = if right { before } else { Some(&b"what it is not"[..]) };
        let swap = keyspace.compare_and_swap(&key, expected, value.as_deref()).unwrap();
        if !right {
            assert_eq!(swap, Swap::Differs(before.map(Into::into)));
            return;
        }
        assert_eq!(swap, Swap::Done);
        if before.is_some() || value.is_some() {
            self.older.clear();
        }
        match value {
            Some(value) => drop(self.state[index].insert(key, Rc::new(value))),
            None => drop(self.state[index].remove(&key)),
        }
    }

    fn batch(&mut self, writes: &[Write], unsynced: bool) {
        let before = self.state.clone();
        let mut batch = WriteBatch::new();
        for write in writes {
            let keyspace = self.keyspace(write.keyspace);
            let key = write.key.bytes();
            match write.value.map(Value::bytes) {
                Some(value) if write.merge && write.keyspace >= MERGING => {
                    batch.merge(&keyspace, key, value)
                }
                Some(value) => batch.put(&keyspace, key, value),
                None => match write.until {
                    Some(until) => batch.delete_range(&keyspace, key..until.bytes()),
                    None => batch.delete(&keyspace, key),
                },
            };
            World::apply(&mut self.state, write);
        }
        if unsynced {
            batch.durability(Durability::Os);
            self.older.push(before);
        } else if !batch.is_empty() {
            self.older.clear();
        }
        self.db().write(batch).unwrap();
    }

    /// A reader and what it should see.
    fn reader(&mut self, from: From) -> (Reader, Map) {
        let keyspace = self.keyspace(from.keyspace);
        let held = from.snapshot.and_then(|slot| self.held.snapshots[slot].as_ref());
        let Some(held) = held else {
            return (Reader::clone(&keyspace), self.state[from.keyspace].clone());
        };
        let Some(then) = &held.keyspaces[from.keyspace] else {
            return (held.snapshot.keyspace(&keyspace), Map::new());
        };
        (held.snapshot.keyspace(then), held.state[from.keyspace].clone())
    }

    fn held_iter(&mut self, from: From, range: KeyRange) -> HeldIter {
        let (reader, map) = self.reader(from);
        let range = bytes_of(range);
        let within = map.into_iter().filter(|(key, _)| range.contains(key));
        HeldIter { left: within.collect(), iter: reader.range(range.clone()) }
    }

    fn drop_keyspace(&mut self, index: usize) {
        let handle = self.keyspace(index);
        self.db().drop_keyspace(NAMES[index]).unwrap();
        self.held.keyspaces[index] = None;
        let error = handle.put("key", "value").unwrap_err();
        assert!(matches!(error, Error::NoSuchKeyspace { .. }), "{error}");
        assert!(handle.get("key").is_err());
        // Durable even if earlier writes are not.
        for state in self.older.iter_mut().chain([&mut self.state]) {
            state[index].clear();
        }
    }

    /// Closes and opens, while old handles are still around.
    fn reopen(&mut self) {
        let old = std::mem::take(&mut self.held);
        self.db.take().unwrap().close().unwrap();
        self.older.clear();
        for held in old.snapshots.iter().flatten() {
            assert!(matches!(held.snapshot.get("key"), Err(Error::Closed)));
        }
        self.open();
        drop(old);
        self.check_state(std::slice::from_ref(&self.state));
    }

    fn open(&mut self) {
        let options = self.options.clone().fs(Arc::new(self.fs.clone()));
        self.db = Some(options.open(DIR).unwrap());
        self.opens += 1;
        for name in self.db().keyspaces() {
            let index = NAMES.iter().position(|known| **known == name).unwrap();
            self.keyspace(index);
        }
    }

    /// Has a crash taken at the `n`-th event from now.
    fn arm(&mut self, n: u8, mode: CrashMode, seed: u64) {
        let at = self.fs.events() + u64::from(n);
        let wreck = Wreck::default();
        self.armed = Some((mode, wreck.clone()));
        self.fs.on_event(Some(Arc::new(move |index, fs| {
            if index == at {
                // Locked first: the next operation must not slip in between.
                let mut wreck = wreck.lock();
                *wreck = Some(fs.crash_clone(mode, seed));
            }
        })));
    }

    /// The machine comes up with `fs`, whose content must be one of `allowed`.
    fn go_on_from(&mut self, fs: MemFs, allowed: &[State]) {
        let mut allowed = allowed.to_vec();
        allowed.iter_mut().for_each(|state| expire(state, self.waits));
        self.armed = None;
        self.fs.on_event(None);
        self.held = Held::default();
        self.db = None;
        self.fs = fs;
        self.open();
        self.state = self.check_state(&allowed);
        // What an open database shows is durable.
        self.older.clear();
    }

    /// Reads everything; it must be one of `allowed`.
    fn check_state(&self, allowed: &[State]) -> State {
        let read = |keyspace: &Option<Keyspace>| -> Map {
            let Some(keyspace) = keyspace else { return Map::new() };
            let entry = |entry: esker::Result<(esker::Key, esker::Value)>| {
                let (key, value) = entry.unwrap();
                (key.to_vec(), Rc::new(value.to_vec()))
            };
            let forward: Vec<_> = keyspace.iter().map(entry).collect();
            let keys: Vec<_> = keyspace.keys::<&[u8], _>(..).map(Result::unwrap).collect();
            assert_eq!(keys, keys_of(&forward));
            let mut backward: Vec<_> = keyspace.iter().rev().map(entry).collect();
            backward.reverse();
            assert_eq!(keys_of(&forward), keys_of(&backward));
            forward.into_iter().collect()
        };
        let found = [0, 1, 2].map(|index| read(&self.held.keyspaces[index]));
        if !allowed.contains(&found) {
            let lens = |state: &State| state.each_ref().map(summary);
            let allowed: Vec<_> = allowed.iter().map(lens).collect();
            panic!("found {:?}, allowed {allowed:#?}", lens(&found));
        }
        found
    }

    /// Checks everything once more, before and after the last opening.
    pub(crate) fn end(&mut self) {
        self.armed = None;
        self.fs.on_event(None);
        self.check_state(std::slice::from_ref(&self.state));
        for slot in 0..SLOTS {
            for keyspace in 0..KEYSPACES {
                let from = From { snapshot: Some(slot), keyspace };
                let mut held = self.held_iter(from, UNBOUNDED);
                while !step_iter(&mut held, &[false]) {}
            }
        }
        self.db().verify(&mut |_, _| {}).unwrap();
        self.reopen();
        self.db().verify(&mut |_, _| {}).unwrap();
    }
}

/// Does `writes` in a transaction, and to the state that it reads, and compares all that is read.
fn write_in(
    txn: &Transaction,
    keyspaces: &[Keyspace; KEYSPACES],
    state: &mut State,
    writes: &[Write],
) -> esker::Result<()> {
    for write in writes {
        let (keyspace, key) = (&keyspaces[write.keyspace], write.key.bytes());
        match write.value.map(Value::bytes) {
            Some(value) if write.merge && write.keyspace >= MERGING => {
                txn.merge(keyspace, &key, value)?;
            }
            Some(value) => txn.put(keyspace, &key, value)?,
            None => match write.until {
                Some(until) => txn.delete_range(keyspace, key.clone()..until.bytes())?,
                None => txn.delete(keyspace, &key)?,
            },
        }
        World::apply(state, write);
        let expected = state[write.keyspace].get(&key);
        assert_eq!(txn.get(keyspace, &key)?.as_deref(), expected.map(|value| value.as_slice()));
    }
    for (keyspace, map) in keyspaces.iter().zip(state.iter()) {
        let found = txn.iter(keyspace).map(|entry| entry.map(|(key, _)| key.to_vec()));
        let found: Vec<_> = found.collect::<esker::Result<_>>()?;
        assert!(found.iter().eq(map.keys()));
    }
    Ok(())
}

/// Removes what has expired after so many waits.
fn expire(state: &mut State, waits: u32) {
    state[EXPIRING].retain(|_, value| until_of(value).is_none_or(|until| until > waits));
}

/// What the operator does. Where a value expires it says so itself, at its beginning.
fn append(map: &mut Map, key: Vec<u8>, operand: &[u8]) {
    let merged = state::append(map.get(&key).map(|value| &value[..]), operand);
    map.insert(key, Rc::new(merged));
}

fn keys_of(entries: &[(Vec<u8>, Rc<Vec<u8>>)]) -> Vec<&[u8]> {
    entries.iter().map(|(key, _)| key.as_slice()).collect()
}

/// Keys (cut short) and lengths of values.
fn summary(map: &Map) -> Vec<String> {
    let show = |key: &[u8]| key[..key.len().min(20)].escape_ascii().to_string();
    map.iter().map(|(key, value)| format!("{}: {}", show(key), value.len())).collect()
}

fn bytes_of(range: KeyRange) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    (range.0.map(Key::bytes), range.1.map(Key::bytes))
}

/// Operations on a database and on its model, each answer compared.
pub(crate) fn ops_model(data: &[u8]) {
    let mut choices = Choices::bytes(data);
    let mut world = World::new(&Settings::draw(&mut choices));
    while !choices.over() {
        world.run(&Op::draw(&mut choices));
    }
    world.end();
}
