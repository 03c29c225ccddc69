//! Random operations on a keyspace that merges and expires, to the millisecond, against a plain model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use esker::Append;
use esker::Isolation;
use esker::Keyspace;
use esker::KeyspaceOptions;
use esker::Snapshot;
use esker::Transaction;
use esker::Ttl;
use esker::WriteBatch;
use esker::fs::CrashMode;
use proptest::prelude::*;

use crate::expiry::Hands;
use crate::expiry::ms;
use crate::expiry::timed;
use crate::support::TestDb;

const KEYS: u8 = 6;
/// What lives for ever expires then.
const NEVER: u64 = u64::MAX;

#[derive(Clone, Copy, Debug)]
enum Write {
    Put(u8),
    PutFor(u8, u64),
    Delete(u8),
    DeleteRange(u8, u8),
    Merge(u8),
}

#[derive(Clone, Debug)]
enum Step {
    One(Write),
    Batch(Vec<Write>),
    /// Some time passes before it ends.
    Transact(Isolation, Vec<Write>, u64, bool),
    ExpireIn(u8, u64),
    Persist(u8),
    /// The default time to live; 0: none.
    Default(u64),
    Pass(u64),
    Snapshot,
    Job,
    Flush,
    Compact,
    Reopen,
    Crash(u64),
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        2 => (0..KEYS).prop_map(Write::Put),
        3 => (0..KEYS, 0..12_u64).prop_map(|(key, ms)| Write::PutFor(key, ms)),
        1 => (0..KEYS).prop_map(Write::Delete),
        1 => (0..KEYS, 0..KEYS).prop_map(|(from, to)| Write::DeleteRange(from, to)),
        6 => (0..KEYS).prop_map(Write::Merge),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let writes = || prop::collection::vec(write(), 1..8);
    let level = prop_oneof![
        Just(Isolation::Serializable),
        Just(Isolation::Snapshot),
        Just(Isolation::ReadCommitted),
    ];
    prop_oneof![
        8 => write().prop_map(Step::One),
        3 => writes().prop_map(Step::Batch),
        3 => (level, writes(), 0..8_u64, prop::bool::weighted(0.8))
            .prop_map(|(level, writes, ms, commit)| Step::Transact(level, writes, ms, commit)),
        1 => (0..KEYS, 0..12_u64).prop_map(|(key, ms)| Step::ExpireIn(key, ms)),
        1 => (0..KEYS).prop_map(Step::Persist),
        1 => prop_oneof![Just(0), 1..20_u64].prop_map(Step::Default),
        6 => (0..6_u64).prop_map(Step::Pass),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Job),
        1 => Just(Step::Flush),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
        1 => any::<u64>().prop_map(Step::Crash),
    ]
}

fn name(key: u8) -> Vec<u8> {
    vec![b'k', key]
}

/// By key the value and when it expires.
type State = BTreeMap<u8, (String, u64)>;

/// The times by which a write is judged.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// It was called.
    called: u64,
    /// What expires then is gone for it.
    judged: u64,
    /// It is committed.
    done: u64,
}

/// What a write does, the n-th there is, if values live for `default` ms.
fn apply(state: &mut State, write: Write, n: usize, default: u64, times: Times) {
    let in_default = |now: u64| if default == 0 { NEVER } else { now + default };
    match write {
        Write::Put(key) => {
            state.insert(key, (n.to_string(), in_default(times.called)));
        }
        Write::PutFor(key, ms) => {
            state.insert(key, (n.to_string(), times.called + ms));
        }
        Write::Delete(key) => {
            state.remove(&key);
        }
        Write::DeleteRange(from, to) => state.retain(|key, _| *key < from || *key >= to),
        Write::Merge(key) => {
            let alive = state.get(&key).filter(|(_, expiry)| *expiry > times.judged);
            let merged = match alive {
                Some((value, expiry)) => (format!("{value},{n}"), *expiry),
                None => (n.to_string(), in_default(times.done)),
            };
            state.insert(key, merged);
        }
    }
}

/// Keys and values at a time.
fn at(state: &State, now: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
    let alive = state.iter().filter(|(_, (_, expiry))| *expiry > now);
    alive.map(|(key, (value, _))| (name(*key), value.clone().into_bytes())).collect()
}

struct World {
    db: TestDb,
    hands: Arc<Hands>,
    keyspace: Keyspace,
    state: State,
    now: u64,
    default: u64,
    writes: usize,
    snapshots: Vec<(Snapshot, State, u64)>,
}

impl World {
    fn new() -> World {
        let (db, hands) = timed();
        let options = KeyspaceOptions::new().merge_operator(Append::new(",")).expiring(true);
        let keyspace = db.keyspace_with("k", options.separate_values(12)).unwrap();
        World {
            db,
            hands,
            keyspace,
            state: State::new(),
            now: 1_000_000,
            default: 0,
            writes: 0,
            snapshots: Vec::new(),
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.hands.set(self.now);
    }

    /// Gives `writes` their numbers.
    fn number(&mut self, writes: &[Write]) -> Vec<(usize, Write)> {
        let first = self.writes;
        self.writes += writes.len();
        (first..).zip(writes.iter().copied()).collect()
    }

    fn after(&self, writes: &[(usize, Write)], times: Times) -> State {
        let mut state = self.state.clone();
        writes.iter().for_each(|(n, write)| apply(&mut state, *write, *n, self.default, times));
        state
    }

    fn one(&mut self, write: Write) {
        let keyspace = &self.keyspace;
        let value = self.writes.to_string();
        match write {
            Write::Put(key) => keyspace.put(name(key), value),
            Write::PutFor(key, ttl) => keyspace.put_with_ttl(name(key), value, ms(ttl)),
            Write::Delete(key) => keyspace.delete(name(key)),
            Write::DeleteRange(from, to) => keyspace.delete_range(name(from)..name(to)),
            Write::Merge(key) => keyspace.merge(name(key), value),
        }
        .unwrap();
    }

    fn batch(&self, writes: &[(usize, Write)]) {
        let (mut batch, keyspace) = (WriteBatch::new(), &self.keyspace);
        for (n, write) in writes {
            let value = n.to_string();
            match *write {
                Write::Put(key) => batch.put(keyspace, name(key), value),
                Write::PutFor(key, ttl) => batch.put_with_ttl(keyspace, name(key), value, ms(ttl)),
                Write::Delete(key) => batch.delete(keyspace, name(key)),
                Write::DeleteRange(from, to) => batch.delete_range(keyspace, name(from)..name(to)),
                Write::Merge(key) => batch.merge(keyspace, name(key), value),
            };
        }
        self.db.write(batch).unwrap();
    }

    fn transact(&mut self, level: Isolation, writes: &[Write], wait: u64, commit: bool) {
        let writes = self.number(writes);
        let began = self.now;
        let txn = self.db.transaction_with(level);
        let keyspace = self.keyspace.clone();
        for (n, write) in &writes {
            let value = n.to_string();
            match *write {
                Write::Put(key) => txn.put(&keyspace, name(key), value),
                Write::PutFor(key, ttl) => txn.put_with_ttl(&keyspace, name(key), value, ms(ttl)),
                Write::Delete(key) => txn.delete(&keyspace, name(key)),
                Write::DeleteRange(from, to) => txn.delete_range(&keyspace, name(from)..name(to)),
                Write::Merge(key) => txn.merge(&keyspace, name(key), value),
            }
            .unwrap();
        }
        let judged = |now| if level == Isolation::ReadCommitted { now } else { began };
        let times = |now| Times { called: began, judged: judged(now), done: now };
        for wait in [0, wait] {
            self.pass(wait);
            let state = self.after(&writes, times(self.now));
            check_own(&txn, &keyspace, &at(&state, judged(self.now)));
        }
        if !commit {
            return;
        }
        match txn.commit() {
            Ok(()) => {
                let times = Times { judged: self.now, ..times(self.now) };
                self.state = self.after(&writes, times);
            }
            // Something that it has read has expired.
            Err(error) => {
                let expired =
                    self.state.values().any(|(_, at)| (began + 1..=self.now).contains(at));
                assert!(level == Isolation::Serializable && expired, "{error}");
            }
        }
    }

    fn run(&mut self, step: &Step) {
        let times = Times { called: self.now, judged: self.now, done: self.now };
        match step {
            Step::One(write) => {
                self.one(*write);
                let writes = self.number(&[*write]);
                self.state = self.after(&writes, times);
            }
            Step::Batch(writes) => {
                let writes = self.number(writes);
                self.batch(&writes);
                self.state = self.after(&writes, times);
            }
            Step::Transact(level, writes, ms, commit) => {
                self.transact(*level, writes, *ms, *commit);
            }
            Step::ExpireIn(key, ms) => self.set_expiry(*key, self.now + ms),
            Step::Persist(key) => self.set_expiry(*key, NEVER),
            Step::Default(default) => {
                let ttl = if *default == 0 { Duration::MAX } else { ms(*default) };
                let options = KeyspaceOptions::new().default_ttl(ttl);
                self.db.keyspace_with("k", options).unwrap();
                self.default = *default;
            }
            Step::Pass(ms) => self.pass(*ms),
            Step::Snapshot => {
                self.snapshots.push((self.db.snapshot(), self.state.clone(), self.now));
            }
            Step::Job => drop(self.db.run_one_job().unwrap()),
            Step::Flush => self.db.flush().unwrap(),
            Step::Compact => self.keyspace.compact_range::<&[u8], _>(..).unwrap(),
            Step::Reopen => {
                self.snapshots.clear();
                self.db.reopen();
                self.keyspace = self.db.keyspace("k").unwrap();
            }
            Step::Crash(seed) => {
                // What was written is durable.
                let fs = self.db.fs.crash_clone(CrashMode::Strict, *seed);
                let after = self.db.options.clone().fs(Arc::new(fs)).open(crate::support::DIR);
                check(&after.unwrap().keyspace("k").unwrap(), &self.state, self.now);
            }
        }
        check(&self.keyspace, &self.state, self.now);
    }

    fn set_expiry(&mut self, key: u8, expiry_ms: u64) {
        let alive = self.state.get_mut(&key).filter(|(_, expiry)| *expiry > self.now);
        assert_eq!(self.keyspace.expire_at(name(key), expiry_ms).unwrap(), alive.is_some());
        if let Some((_, expiry)) = alive {
            *expiry = expiry_ms;
        }
    }

    fn end(&mut self) {
        for (snapshot, state, now) in &self.snapshots {
            let found = snapshot.keyspace(&self.keyspace);
            assert_eq!(entries(found.iter()), at(state, *now));
        }
        self.snapshots.clear();
        self.keyspace.compact_range::<&[u8], _>(..).unwrap();
        check(&self.keyspace, &self.state, self.now);
    }
}

fn entries(
    iter: impl Iterator<Item = esker::Result<(esker::Key, esker::Value)>>,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    iter.map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
}

fn check(keyspace: &Keyspace, state: &State, now: u64) {
    let expected = at(state, now);
    assert_eq!(entries(keyspace.iter()), expected);
    let mut back = entries(keyspace.iter().rev());
    back.reverse();
    assert_eq!(back, expected);
    for key in 0..KEYS {
        let alive = state.get(&key).filter(|(_, expiry)| *expiry > now);
        let found = keyspace.get(name(key)).unwrap();
        assert_eq!(found.as_deref(), alive.map(|(value, _)| value.as_bytes()));
        let ttl = alive.map(|(_, expiry)| match *expiry {
            NEVER => Ttl::Forever,
            expiry => Ttl::For(ms(expiry - now)),
        });
        assert_eq!(keyspace.ttl(name(key)).unwrap(), ttl);
    }
}

fn check_own(txn: &Transaction, keyspace: &Keyspace, expected: &[(Vec<u8>, Vec<u8>)]) {
    assert_eq!(entries(txn.iter(keyspace)), expected);
    let mut back = entries(txn.iter(keyspace).rev());
    back.reverse();
    assert_eq!(back, expected);
    for key in (0..KEYS).map(name) {
        let value = expected.iter().find(|(own, _)| *own == key).map(|(_, value)| &value[..]);
        assert_eq!(txn.get(keyspace, &key).unwrap().as_deref(), value);
        assert_eq!(txn.contains_key(keyspace, &key).unwrap(), value.is_some());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        max_shrink_iters: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn merges_and_expiries_are_exact(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
        world.end();
    }
}
