//! Random interleavings of transactions against a plain model: what they read, which commits fail,
//! and that those which succeed could have run one after the other.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use esker::Error;
use esker::Isolation;
use esker::Keyspace;
use esker::Savepoint;
use esker::Transaction;
use proptest::prelude::*;

use crate::support::TestDb;

const TXNS: usize = 3;
const KEYSPACES: usize = 2;
const KEYS: u8 = 12;

type State = BTreeMap<(usize, u8), u32>;
/// What a transaction has written: `None` is a delete.
type Writes = BTreeMap<(usize, u8), Option<u32>>;

#[derive(Clone, Debug)]
enum Step {
    Begin(Isolation),
    Put(usize, u8),
    Delete(usize, u8),
    DeleteRange(usize, u8, u8),
    Get(usize, u8),
    /// Some entries from either end of a range.
    Range {
        keyspace: usize,
        from: u8,
        to: u8,
        front: usize,
        back: usize,
    },
    /// To a key, and so many steps one way and then the other.
    Cursor {
        keyspace: usize,
        key: u8,
        on: usize,
        back: usize,
    },
    Savepoint,
    RollBack(usize),
    Commit,
    /// Writes beside transactions.
    Outside(usize, u8),
    OutsideDelete(usize, u8),
    OutsideDeleteRange(usize, u8, u8),
    Job,
    Flush,
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..KEYSPACES, 0..KEYS);
    let level = prop_oneof![
        3 => Just(Isolation::Serializable),
        2 => Just(Isolation::Snapshot),
        1 => Just(Isolation::ReadCommitted),
    ];
    prop_oneof![
        3 => level.prop_map(Step::Begin),
        5 => place().prop_map(|(keyspace, key)| Step::Put(keyspace, key)),
        2 => place().prop_map(|(keyspace, key)| Step::Delete(keyspace, key)),
        1 => (place(), 0..KEYS)
            .prop_map(|((keyspace, from), to)| Step::DeleteRange(keyspace, from, to)),
        4 => place().prop_map(|(keyspace, key)| Step::Get(keyspace, key)),
        3 => (place(), 0..KEYS, 0..4_usize, 0..4_usize).prop_map(
            |((keyspace, from), to, front, back)| Step::Range { keyspace, from, to, front, back },
        ),
        3 => (place(), 0..4_usize, 0..4_usize)
            .prop_map(|((keyspace, key), on, back)| Step::Cursor { keyspace, key, on, back }),
        1 => Just(Step::Savepoint),
        1 => (0..3_usize).prop_map(Step::RollBack),
        3 => Just(Step::Commit),
        1 => place().prop_map(|(keyspace, key)| Step::Outside(keyspace, key)),
        1 => place().prop_map(|(keyspace, key)| Step::OutsideDelete(keyspace, key)),
        1 => (place(), 0..KEYS)
            .prop_map(|((keyspace, from), to)| Step::OutsideDeleteRange(keyspace, from, to)),
        1 => Just(Step::Job),
        1 => Just(Step::Flush),
        1 => Just(Step::Compact),
    ]
}

fn name(key: u8) -> Vec<u8> {
    vec![b'k', key]
}

/// What a transaction has read: a value, or the entries of the keys `from..=to`.
#[derive(Clone, Debug)]
struct Seen {
    keyspace: usize,
    from: u8,
    to: u8,
}

/// A transaction and the model of it.
struct Run {
    txn: Transaction,
    level: Isolation,
    began: State,
    /// How many writes were committed before it.
    since: usize,
    own: Writes,
    seen: Vec<(Seen, State)>,
    savepoints: Vec<(Savepoint, Writes)>,
}

struct World {
    db: TestDb,
    keyspaces: Vec<Keyspace>,
    now: State,
    /// When each key was last written.
    written: BTreeMap<(usize, u8), usize>,
    commits: usize,
    values: u32,
}

impl World {
    fn new() -> World {
        let db = TestDb::new();
        let keyspaces = vec![(**db).clone(), db.keyspace("other").unwrap()];
        let (now, written) = (State::new(), BTreeMap::new());
        World { db, keyspaces, now, written, commits: 0, values: 0 }
    }

    fn apply(&mut self, own: &Writes) {
        self.commits += 1;
        for (place, value) in own {
            self.written.insert(*place, self.commits);
            match value {
                Some(value) => self.now.insert(*place, *value),
                None => self.now.remove(place),
            };
        }
    }

    fn next_value(&mut self) -> u32 {
        self.values += 1;
        self.values
    }

    fn outside(&mut self, place: (usize, u8), value: Option<u32>) {
        let (keyspace, key) = (&self.keyspaces[place.0], name(place.1));
        match value {
            Some(value) => keyspace.put(key, value.to_be_bytes()).unwrap(),
            None => keyspace.delete(key).unwrap(),
        }
        self.apply(&BTreeMap::from([(place, value)]));
    }

    fn begin(&self, level: Isolation) -> Run {
        Run {
            txn: self.db.transaction_with(level),
            level,
            began: self.now.clone(),
            since: self.commits,
            own: BTreeMap::new(),
            seen: Vec::new(),
            savepoints: Vec::new(),
        }
    }

    /// What lies beneath the writes of `run`.
    fn beneath<'a>(&'a self, run: &'a Run) -> &'a State {
        if run.level == Isolation::ReadCommitted { &self.now } else { &run.began }
    }

    /// What `run` should see of a keyspace.
    fn view(&self, run: &Run, keyspace: usize) -> BTreeMap<u8, u32> {
        let mut view = self.beneath(run).clone();
        for (place, value) in &run.own {
            match value {
                Some(value) => view.insert(*place, *value),
                None => view.remove(place),
            };
        }
        let here = view.into_iter().filter(|(place, _)| place.0 == keyspace);
        here.map(|((_, key), value)| (key, value)).collect()
    }

    fn commit(&mut self, run: Run) {
        let changed = |place: &(usize, u8)| self.written.get(place).is_some_and(|n| *n > run.since);
        let conflict = match run.level {
            Isolation::Snapshot => run.own.keys().any(changed),
            Isolation::Serializable => run
                .seen
                .iter()
                .any(|(seen, _)| (seen.from..=seen.to).any(|key| changed(&(seen.keyspace, key)))),
            _ => false,
        };
        let expected = conflict && !run.own.is_empty();
        match run.txn.commit() {
            Ok(()) => assert!(!expected, "{:?} was missed: {:?}", run.level, run.seen),
            Err(Error::Conflict) => {
                assert!(expected, "{:?} without a reason: {:?}", run.level, run.seen);
                return;
            }
            Err(error) => panic!("{error}"),
        }
        if run.own.is_empty() {
            return;
        }
        if run.level == Isolation::Serializable {
            // The order of commits is a serial one: now it would read the same.
            for (seen, there) in &run.seen {
                assert_eq!(&entries(&self.now, seen), there, "{seen:?}");
            }
        }
        self.apply(&run.own);
    }
}

fn entries(state: &State, seen: &Seen) -> State {
    let range = state.range((seen.keyspace, seen.from)..=(seen.keyspace, seen.to));
    range.map(|(place, value)| (*place, *value)).collect()
}

fn number(value: &[u8]) -> u32 {
    u32::from_be_bytes(value.try_into().unwrap())
}

fn entry(entry: esker::Result<(esker::Key, esker::Value)>) -> (u8, u32) {
    let (key, value) = entry.unwrap();
    (key[1], number(&value))
}

impl Run {
    /// Notes what was read beneath its own writes.
    fn note(&mut self, keyspace: usize, from: u8, to: u8) {
        let seen = Seen { keyspace, from, to };
        let there = entries(&self.began, &seen);
        self.seen.push((seen, there));
    }

    fn get(&mut self, world: &World, keyspace: usize, key: u8) {
        let found = self.txn.get(&world.keyspaces[keyspace], name(key)).unwrap();
        let size = self.txn.size_of(&world.keyspaces[keyspace], name(key)).unwrap();
        assert_eq!(size, found.as_ref().map(|value| value.len()));
        let expected = world.view(self, keyspace).get(&key).copied();
        assert_eq!(found.map(|value| number(&value)), expected);
        if !self.own.contains_key(&(keyspace, key)) {
            self.note(keyspace, key, key);
        }
    }

    fn range(&mut self, world: &World, keyspace: usize, bounds: (u8, u8), ends: (usize, usize)) {
        let ((from, to), (front, back)) = (bounds, ends);
        let view = world.view(self, keyspace);
        let expected: Vec<(u8, u32)> =
            if from <= to { view.range(from..to).map(|(k, v)| (*k, *v)).collect() } else { vec![] };
        let mut iter = self.txn.range(&world.keyspaces[keyspace], name(from)..name(to));
        let (mut low, mut high) = (0, expected.len());
        let mut exhausted = false;
        for i in 0..front {
            let found = iter.next().map(entry);
            let wanted = expected[low..high].first().copied();
            assert_eq!(found, wanted, "{i} from the front of {from}..{to}");
            exhausted |= found.is_none();
            low += usize::from(found.is_some());
        }
        for i in 0..back {
            let found = iter.next_back().map(entry);
            let wanted = expected[low..high].last().copied();
            assert_eq!(found, wanted, "{i} from behind of {from}..{to}");
            exhausted |= found.is_none();
            high -= usize::from(found.is_some());
        }
        drop(iter);
        if from >= to {
            return;
        }
        if exhausted {
            self.note(keyspace, from, to - 1);
            return;
        }
        if low > 0 {
            self.note(keyspace, from, expected[low - 1].0);
        }
        if high < expected.len() {
            self.note(keyspace, expected[high].0, to - 1);
        }
    }

    fn cursor(&mut self, world: &World, keyspace: usize, key: u8, (on, back): (usize, usize)) {
        let view: Vec<(u8, u32)> = world.view(self, keyspace).into_iter().collect();
        let mut cursor = self.txn.cursor(&world.keyspaces[keyspace]);
        let check = |cursor: &esker::TransactionCursor<'_>, at: Option<usize>| {
            let expected = at.and_then(|at| view.get(at)).map(|(k, v)| (name(*k), *v));
            let found = cursor.key().zip(cursor.value());
            assert_eq!(found.map(|(k, v)| (k.to_vec(), number(v))), expected);
        };
        let mut at = Some(view.partition_point(|(k, _)| *k < key)).filter(|at| *at < view.len());
        cursor.seek(name(key)).unwrap();
        check(&cursor, at);
        let (mut low, mut high) = (key, at.map_or(u8::MAX, |at| view[at].0));
        for _ in 0..on {
            let was = at;
            at = at.map(|at| at + 1).filter(|at| *at < view.len());
            cursor.next().unwrap();
            check(&cursor, at);
            if was.is_some() {
                high = at.map_or(u8::MAX, |at| high.max(view[at].0));
            }
        }
        for _ in 0..back {
            let was = at;
            at = at.and_then(|at| at.checked_sub(1));
            cursor.prev().unwrap();
            check(&cursor, at);
            if was.is_some() {
                low = at.map_or(0, |at| low.min(view[at].0));
            }
        }
        drop(cursor);
        self.note(keyspace, low, high);
    }
}

fn take_step(world: &mut World, runs: &mut [Option<Run>; TXNS], who: usize, step: &Step) {
    match *step {
        Step::Outside(keyspace, key) => {
            let value = world.next_value();
            return world.outside((keyspace, key), Some(value));
        }
        Step::OutsideDelete(keyspace, key) => return world.outside((keyspace, key), None),
        Step::OutsideDeleteRange(keyspace, from, to) => {
            world.keyspaces[keyspace].delete_range(name(from)..name(to)).unwrap();
            return world.apply(&(from..to).map(|key| ((keyspace, key), None)).collect());
        }
        Step::Job => {
            world.db.run_one_job().unwrap();
            return;
        }
        Step::Flush => return world.db.flush().unwrap(),
        Step::Compact => return world.keyspaces[0].compact_range::<&[u8], _>(..).unwrap(),
        _ => {}
    }
    let Some(mut run) = runs[who].take() else {
        if let Step::Begin(level) = *step {
            runs[who] = Some(world.begin(level));
        }
        return;
    };
    match *step {
        Step::Put(keyspace, key) => {
            let value = world.next_value();
            run.txn.put(&world.keyspaces[keyspace], name(key), value.to_be_bytes()).unwrap();
            run.own.insert((keyspace, key), Some(value));
        }
        Step::Delete(keyspace, key) => {
            run.txn.delete(&world.keyspaces[keyspace], name(key)).unwrap();
            run.own.insert((keyspace, key), None);
        }
        Step::DeleteRange(keyspace, from, to) => {
            run.txn.delete_range(&world.keyspaces[keyspace], name(from)..name(to)).unwrap();
            run.own.extend((from..to).map(|key| ((keyspace, key), None)));
        }
        Step::Get(keyspace, key) => run.get(world, keyspace, key),
        Step::Range { keyspace, from, to, front, back } => {
            run.range(world, keyspace, (from, to), (front, back));
        }
        Step::Cursor { keyspace, key, on, back } => run.cursor(world, keyspace, key, (on, back)),
        Step::Savepoint => run.savepoints.push((run.txn.savepoint(), run.own.clone())),
        Step::RollBack(n) if n < run.savepoints.len() => {
            let (savepoint, own) = run.savepoints[n].clone();
            run.txn.rollback_to(savepoint).unwrap();
            run.own = own;
            run.savepoints.truncate(n + 1);
        }
        Step::Commit => return world.commit(run),
        // Rolled back.
        Step::Begin(_) => return,
        _ => {}
    }
    runs[who] = Some(run);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..Default::default()
    })]
    #[test]
    fn transactions_do_what_a_model_does(
        steps in prop::collection::vec((0..TXNS, step()), 1..150),
    ) {
        let mut world = World::new();
        let mut runs: [Option<Run>; TXNS] = [const { None }; TXNS];
        for (who, step) in steps {
            take_step(&mut world, &mut runs, who, &step);
        }
        for run in runs.into_iter().flatten() {
            world.commit(run);
        }
        let mut found = State::new();
        let mut places = BTreeSet::new();
        for (number_of, keyspace) in world.keyspaces.iter().enumerate() {
            for item in keyspace.iter() {
                let (key, value) = entry(item);
                found.insert((number_of, key), value);
                places.insert((number_of, key));
            }
        }
        prop_assert_eq!(found, world.now.clone());
    }
}
