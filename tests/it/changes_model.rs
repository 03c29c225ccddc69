//! Random batches and transactions of every kind of operation, flushes, reopenings and crashes, with
//! consumers of the change feed that store how far they are and go on from there: what each has built
//! from the feed is at every moment what the database was at some sequence number, and in the end
//! what it is.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use esker::Append;
use esker::ChangeOp;
use esker::Changes;
use esker::Db;
use esker::Durability;
use esker::Error;
use esker::Keyspace;
use esker::KeyspaceOptions;
use esker::Options;
use esker::SeqNo;
use esker::Ttl;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::MemFs;
use proptest::prelude::*;

use crate::support::DIR;
use crate::support::TestClock;
use crate::support::tiny;

const KEYSPACES: [&str; 3] = ["default", "a", MERGED];
/// What has an operator, and so nothing that expires.
const MERGED: &str = "merged";
const CONSUMERS: usize = 3;

/// Values, and when they expire.
type State = BTreeMap<(String, Vec<u8>), (Vec<u8>, Option<u64>)>;

#[derive(Clone, Debug)]
enum Write {
    /// Of a value of this length.
    Put(u16),
    /// For so many milliseconds.
    PutFor(u16, u64),
    Delete,
    /// From the key up to this one, or all behind it.
    DeleteTo(Option<u8>),
    Merge(u8),
}

/// A keyspace, a key in it, and what becomes of that.
type Op = (usize, u8, Write);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Batch,
    Transaction,
    /// A transaction that is given up.
    Rollback,
}

#[derive(Clone, Debug)]
enum Step {
    /// And whether it is synced.
    Write(Vec<Op>, Way, bool),
    /// A consumer reads up to so many batches.
    Consume(usize, usize),
    /// A consumer is begun anew from what it has stored.
    Resume(usize),
    Sync,
    Flush,
    Jobs,
    /// So many milliseconds go by.
    Wait(u64),
    Reopen,
    Crash(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let write = prop_oneof![
        12 => (0..600_u16).prop_map(Write::Put),
        3 => Just(Write::Delete),
        2 => prop::option::weighted(0.9, any::<u8>()).prop_map(Write::DeleteTo),
    ];
    let put_for = (0..100_u16, 1..5000_u64).prop_map(|(len, ms)| Write::PutFor(len, ms));
    let merge = any::<u8>().prop_map(Write::Merge);
    prop_oneof![
        8 => (0..KEYSPACES.len(), any::<u8>(), write),
        1 => (0..KEYSPACES.len() - 1, any::<u8>(), put_for),
        2 => (Just(KEYSPACES.len() - 1), 0..20_u8, merge),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let way =
        prop_oneof![4 => Just(Way::Batch), 2 => Just(Way::Transaction), 1 => Just(Way::Rollback)];
    let write = (prop::collection::vec(op(), 1..6), way, any::<bool>());
    prop_oneof![
        30 => write.prop_map(|(ops, way, synced)| Step::Write(ops, way, synced)),
        12 => (0..CONSUMERS, 1..60_usize).prop_map(|(c, n)| Step::Consume(c, n)),
        2 => (0..CONSUMERS).prop_map(Step::Resume),
        2 => Just(Step::Sync),
        2 => Just(Step::Flush),
        6 => Just(Step::Jobs),
        2 => (1..2000_u64).prop_map(Step::Wait),
        1 => Just(Step::Reopen),
        2 => any::<u64>().prop_map(Step::Crash),
    ]
}

/// One that copies the database by the feed, and what it has stored.
#[derive(Default)]
struct Consumer {
    changes: Option<Changes>,
    copy: State,
    seqno: SeqNo,
}

struct World {
    options: Options,
    clock: Arc<TestClock>,
    fs: MemFs,
    db: Db,
    /// What the database was at each sequence number that ended a batch.
    states: BTreeMap<u64, State>,
    consumers: Vec<Consumer>,
    started_over: usize,
}

/// What an operation makes of `state`.
fn apply(state: &mut State, name: &str, op: ChangeOp<'_>) {
    let place = |key: &[u8]| (name.to_owned(), key.to_vec());
    match op {
        ChangeOp::Put { key, value } => {
            state.insert(place(key), (value.to_vec(), None));
        }
        ChangeOp::PutUntil { key, value, expiry_ms } => {
            state.insert(place(key), (value.to_vec(), Some(expiry_ms)));
        }
        ChangeOp::Delete { key } => drop(state.remove(&place(key))),
        ChangeOp::DeleteRange { from, to } => state.retain(|(keyspace, key), _| {
            keyspace != name || key.as_slice() < from || to.is_some_and(|to| to <= key.as_slice())
        }),
        ChangeOp::Merge { key, operand } => {
            let value = state.get(&place(key)).map(|(value, _)| value.as_slice());
            let parts: Vec<&[u8]> = value.into_iter().chain([operand]).collect();
            state.insert(place(key), (parts.join(&b','), None));
        }
        other => panic!("{other:?}"),
    }
}

impl World {
    fn new(durability: Durability, kept: u64) -> World {
        let (fs, clock) = (MemFs::new(), Arc::new(TestClock::default()));
        let options = tiny().durability(durability).log_retention(kept, Duration::MAX);
        let options = options.clock(clock.clone());
        let db = options.clone().fs(Arc::new(fs.clone())).open(DIR).unwrap();
        let consumers = (0..CONSUMERS).map(|_| Consumer::default()).collect();
        let states = BTreeMap::from([(0, State::new())]);
        let world = World { options, clock, fs, db, states, consumers, started_over: 0 };
        KEYSPACES.iter().for_each(|name| drop(world.keyspace(name)));
        world
    }

    fn keyspace(&self, name: &str) -> Keyspace {
        let options = KeyspaceOptions::new();
        let options =
            if name == MERGED { options.merge_operator(Append::new(",")) } else { options };
        self.db.keyspace_with(name, options).unwrap()
    }

    fn now_ms(&self) -> u64 {
        self.clock.ms.load(Relaxed)
    }

    /// What of it has not expired.
    fn live(&self, state: &State) -> State {
        let mut live = state.clone();
        live.retain(|_, (_, expiry_ms)| {
            expiry_ms.is_none_or(|expiry_ms| self.now_ms() < expiry_ms)
        });
        live
    }

    fn state_of_db(&self) -> State {
        let mut state = State::new();
        for name in KEYSPACES {
            let keyspace = self.keyspace(name);
            for entry in keyspace.iter() {
                let (key, value) = entry.unwrap();
                let expiry_ms = match keyspace.ttl(&key).unwrap().unwrap() {
                    Ttl::Forever => None,
                    Ttl::For(left) => Some(self.now_ms() + left.as_millis() as u64),
                };
                state.insert((name.to_owned(), key.to_vec()), (value.to_vec(), expiry_ms));
            }
        }
        state
    }

    fn write(&mut self, ops: &[Op], way: Way, synced: bool) {
        let mut batch = WriteBatch::new();
        let txn = self.db.transaction();
        let mut state = self.states.last_key_value().unwrap().1.clone();
        for (keyspace, key, write) in ops {
            let name = KEYSPACES[*keyspace];
            let handle = self.keyspace(name);
            let key: &[u8] = &[*key];
            let fill = self.states.len() as u8;
            let (value, to, expiry_ms);
            let op = match write {
                Write::Put(len) => {
                    value = vec![fill; usize::from(*len)];
                    batch.put(&handle, key, &value);
                    txn.put(&handle, key, &value).unwrap();
                    ChangeOp::Put { key, value: &value }
                }
                Write::PutFor(len, ms) => {
                    value = vec![fill; usize::from(*len)];
                    expiry_ms = self.now_ms() + ms;
                    let ttl = Duration::from_millis(*ms);
                    batch.put_with_ttl(&handle, key, &value, ttl);
                    txn.put_with_ttl(&handle, key, &value, ttl).unwrap();
                    ChangeOp::PutUntil { key, value: &value, expiry_ms }
                }
                Write::Delete => {
                    batch.delete(&handle, key);
                    txn.delete(&handle, key).unwrap();
                    ChangeOp::Delete { key }
                }
                Write::DeleteTo(end) => {
                    to = end.map(|end| [end]);
                    let to = to.as_ref().map(|to| &to[..]);
                    let range =
                        (Bound::Included(key), to.map_or(Bound::Unbounded, Bound::Excluded));
                    batch.delete_range::<&[u8], _>(&handle, range);
                    txn.delete_range::<&[u8], _>(&handle, range).unwrap();
                    ChangeOp::DeleteRange { from: key, to }
                }
                Write::Merge(operand) => {
                    value = vec![*operand];
                    batch.merge(&handle, key, &value);
                    txn.merge(&handle, key, &value).unwrap();
                    ChangeOp::Merge { key, operand: &value }
                }
            };
            apply(&mut state, name, op);
        }
        if synced {
            batch.durability(Durability::Sync);
            txn.durability(Durability::Sync);
        }
        match way {
            Way::Batch => self.db.write(batch).unwrap(),
            Way::Transaction => txn.commit().unwrap(),
            Way::Rollback => return txn.rollback(),
        }
        self.states.insert(self.db.seqno().get(), state);
    }

    fn consume(&mut self, which: usize, most: usize) {
        let consumer = &mut self.consumers[which];
        if consumer.changes.is_none() {
            match self.db.changes_since(consumer.seqno) {
                Ok(changes) => consumer.changes = Some(changes),
                Err(Error::ChangesGone { .. }) => return self.start_over(which),
                Err(error) => panic!("{error}"),
            }
        }
        for _ in 0..most {
            let consumer = &mut self.consumers[which];
            let changes = consumer.changes.as_mut().unwrap();
            let batch = match changes.try_next() {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                Err(Error::ChangesGone { .. }) => return self.start_over(which),
                Err(error) => panic!("{error}"),
            };
            assert!(batch.first_seqno() > consumer.seqno, "each once");
            for change in batch.iter() {
                apply(&mut consumer.copy, change.keyspace.unwrap(), change.op);
            }
            consumer.seqno = batch.last_seqno();
            assert_eq!(changes.seqno(), consumer.seqno);
            let (seqno, copy) = (consumer.seqno, &self.consumers[which].copy);
            let state = &self.states[&seqno.get()];
            assert!(self.live(state) == self.live(copy), "at {seqno}");
        }
    }

    fn start_over(&mut self, which: usize) {
        let snapshot = self.db.snapshot();
        self.db.sync().unwrap();
        let copy = self.state_of_db();
        let changes = self.db.changes_since(snapshot.seqno()).unwrap();
        self.consumers[which] = Consumer { seqno: snapshot.seqno(), changes: Some(changes), copy };
        self.started_over += 1;
    }

    fn open(&mut self) {
        for consumer in &mut self.consumers {
            consumer.changes = None;
        }
        self.db = self.options.clone().fs(Arc::new(self.fs.clone())).open(DIR).unwrap();
        // What the crash took had been shown to nobody.
        let found = self.state_of_db();
        let known = self.states.range(..=self.db.seqno().get());
        let last = known.rev().find(|(_, known)| self.live(known) == found);
        let (last, state) = last.expect("a prefix of the batches is there");
        let (last, state) = (*last, state.clone());
        for consumer in &self.consumers {
            assert!(consumer.seqno <= self.db.seqno(), "{} was durable", consumer.seqno);
        }
        self.states.split_off(&(last + 1));
        // Numbers may have been skipped.
        self.states.insert(self.db.seqno().get(), state);
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Write(ops, way, synced) => self.write(ops, *way, *synced),
            Step::Consume(which, most) => self.consume(*which, *most),
            Step::Resume(which) => self.consumers[*which].changes = None,
            Step::Sync => self.db.sync().unwrap(),
            Step::Flush => self.db.flush().unwrap(),
            Step::Jobs => while self.db.run_one_job().unwrap() {},
            Step::Wait(ms) => {
                self.clock.ms.fetch_add(*ms, Relaxed);
            }
            Step::Reopen => {
                self.db.clone().close().unwrap();
                self.open();
            }
            Step::Crash(seed) => {
                let mode = CrashMode::ALL[*seed as usize % CrashMode::ALL.len()];
                self.fs = self.fs.crash_clone(mode, *seed);
                self.open();
            }
        }
    }
}

fn durability() -> impl Strategy<Value = Durability> {
    prop_oneof![
        Just(Durability::Sync),
        Just(Durability::Os),
        Just(Durability::Interval(Duration::from_millis(1))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn consumers_copy_the_database(
        durability in durability(),
        kept in prop_oneof![Just(0), Just(40 << 10), Just(u64::MAX)],
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let mut world = World::new(durability, kept);
        for step in &steps {
            world.run(step);
        }
        if kept == u64::MAX {
            prop_assert_eq!(world.started_over, 0);
        }
        world.db.sync().unwrap();
        let state = world.state_of_db();
        for which in 0..CONSUMERS {
            world.consume(which, usize::MAX);
            prop_assert!(world.live(&world.consumers[which].copy) == state);
            prop_assert_eq!(world.consumers[which].changes.as_ref().unwrap().lag(), 0);
        }
        world.db.verify(&mut |_, _| {}).unwrap();
    }
}
