//! Random batches, flushes, reopenings and crashes, with consumers of the change feed that store how
//! far they are and go on from there: what each has built from the feed is at every moment what the
//! database was at some sequence number, and in the end what it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use esker::ChangeOp;
use esker::Changes;
use esker::Db;
use esker::Durability;
use esker::Error;
use esker::Options;
use esker::SeqNo;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::MemFs;
use proptest::prelude::*;

use crate::support::DIR;
use crate::support::tiny;

const KEYSPACES: [&str; 3] = ["default", "a", "b"];
const CONSUMERS: usize = 3;

type State = BTreeMap<(String, Vec<u8>), Vec<u8>>;

#[derive(Clone, Debug)]
enum Step {
    /// Operations, each a keyspace, a key and the length of a value or a delete; and whether the
    /// batch is synced.
    Write(Vec<(usize, u8, Option<u16>)>, bool),
    /// A consumer reads up to so many batches.
    Consume(usize, usize),
    /// A consumer is begun anew from what it has stored.
    Resume(usize),
    Sync,
    Flush,
    Jobs,
    Reopen,
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let op = (0..KEYSPACES.len(), any::<u8>(), prop::option::weighted(0.8, 0..600_u16));
    prop_oneof![
        30 => (prop::collection::vec(op, 1..6), any::<bool>()).prop_map(|(o, s)| Step::Write(o, s)),
        12 => (0..CONSUMERS, 1..60_usize).prop_map(|(c, n)| Step::Consume(c, n)),
        2 => (0..CONSUMERS).prop_map(Step::Resume),
        2 => Just(Step::Sync),
        2 => Just(Step::Flush),
        6 => Just(Step::Jobs),
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
    fs: MemFs,
    db: Db,
    /// What the database was at each sequence number that ended a batch.
    states: BTreeMap<u64, State>,
    consumers: Vec<Consumer>,
    started_over: usize,
}

fn state_of(db: &Db) -> State {
    let mut state = State::new();
    for name in KEYSPACES {
        let keyspace = db.keyspace(name).unwrap();
        for entry in keyspace.iter() {
            let (key, value) = entry.unwrap();
            state.insert((name.to_owned(), key.to_vec()), value.to_vec());
        }
    }
    state
}

impl World {
    fn new(durability: Durability, kept: u64) -> World {
        let fs = MemFs::new();
        let options = tiny().durability(durability).log_retention(kept, Duration::MAX);
        let db = options.clone().fs(Arc::new(fs.clone())).open(DIR).unwrap();
        for name in KEYSPACES {
            db.keyspace(name).unwrap();
        }
        let consumers = (0..CONSUMERS).map(|_| Consumer::default()).collect();
        let states = BTreeMap::from([(0, State::new())]);
        World { options, fs, db, states, consumers, started_over: 0 }
    }

    fn write(&mut self, ops: &[(usize, u8, Option<u16>)], synced: bool) {
        let mut batch = WriteBatch::new();
        let mut state = self.states.last_key_value().unwrap().1.clone();
        for (keyspace, key, len) in ops {
            let name = KEYSPACES[*keyspace];
            let handle = self.db.keyspace(name).unwrap();
            let place = (name.to_owned(), vec![*key]);
            if let Some(len) = len {
                let value = vec![self.states.len() as u8; usize::from(*len)];
                batch.put(&handle, [*key], &value);
                state.insert(place, value);
            } else {
                batch.delete(&handle, [*key]);
                state.remove(&place);
            }
        }
        if synced {
            batch.durability(Durability::Sync);
        }
        self.db.write(batch).unwrap();
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
        let changes = consumer.changes.as_mut().unwrap();
        for _ in 0..most {
            let batch = match changes.try_next() {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                Err(Error::ChangesGone { .. }) => return self.start_over(which),
                Err(error) => panic!("{error}"),
            };
            assert!(batch.first_seqno() > consumer.seqno, "each once");
            for change in batch.iter() {
                let place = |key: &[u8]| (change.keyspace.unwrap().to_owned(), key.to_vec());
                match change.op {
                    ChangeOp::Put { key, value } => {
                        consumer.copy.insert(place(key), value.to_vec());
                    }
                    ChangeOp::Delete { key } => drop(consumer.copy.remove(&place(key))),
                    other => panic!("{other:?}"),
                }
            }
            consumer.seqno = batch.last_seqno();
            assert_eq!(changes.seqno(), consumer.seqno);
            let state = &self.states[&consumer.seqno.get()];
            assert!(*state == consumer.copy, "at {}", consumer.seqno);
        }
    }

    fn start_over(&mut self, which: usize) {
        let snapshot = self.db.snapshot();
        self.db.sync().unwrap();
        let copy = state_of(&self.db);
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
        let state = state_of(&self.db);
        let known = self.states.range(..=self.db.seqno().get());
        let last = known.rev().find(|(_, known)| **known == state);
        let last = *last.expect("a prefix of the batches is there").0;
        for consumer in &self.consumers {
            assert!(consumer.seqno <= self.db.seqno(), "{} was durable", consumer.seqno);
        }
        self.states.split_off(&(last + 1));
        // Numbers may have been skipped.
        self.states.insert(self.db.seqno().get(), state);
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Write(ops, synced) => self.write(ops, *synced),
            Step::Consume(which, most) => self.consume(*which, *most),
            Step::Resume(which) => self.consumers[*which].changes = None,
            Step::Sync => self.db.sync().unwrap(),
            Step::Flush => self.db.flush().unwrap(),
            Step::Jobs => while self.db.run_one_job().unwrap() {},
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
        let state = state_of(&world.db);
        for which in 0..CONSUMERS {
            world.consume(which, usize::MAX);
            prop_assert!(world.consumers[which].copy == state);
            prop_assert_eq!(world.consumers[which].changes.as_ref().unwrap().lag(), 0);
        }
        world.db.verify(&mut |_, _| {}).unwrap();
    }
}
