//! Crashes at every event of the file system, in every way it may come up again.
//!
//! The oracle is one sentence: after a crash the contents of all keyspaces together equal the model
//! after j steps, with (last durable acknowledgement) <= j <= (last step begun). So no write is
//! lost, torn, resurrected or reordered.
//!
//! `ESKER_CRASH_SEEDS` multiplies the number of workloads (default: 1).
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and may use threads"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::time::Duration;

use esker::Clock;
use esker::Db;
use esker::Durability;
use esker::Keyspace;
use esker::Options;
use esker::Snapshot;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::Fs as _;
use esker::fs::MemFs;

const DIR: &str = "/parent/db";
/// Workloads in a default run.
const SEEDS: u64 = 6;
const STEPS: usize = 90;
/// Of the crashes, one in so many is followed by crashes at every event of its recovery.
const NESTED_EVERY: u64 = 97;

/// Contents by keyspace and key. An empty keyspace is as good as none.
type State = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

/// Time and random numbers that are the same in every run.
#[derive(Debug, Default)]
struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.0.fetch_add(1, Relaxed))
    }

    fn wall_ms(&self) -> u64 {
        1_700_000_000_000 + self.0.fetch_add(1, Relaxed)
    }

    fn unique(&self) -> u64 {
        mix(self.0.fetch_add(1, Relaxed))
    }
}

fn mix(n: u64) -> u64 {
    let mut n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// How far the workload has come, as steps; read at each event.
#[derive(Default)]
struct Progress {
    begun: AtomicUsize,
    acknowledged: AtomicUsize,
    durable: AtomicUsize,
}

/// A state of the machine after a crash, and what it may hold.
struct Crashed {
    what: String,
    fs: MemFs,
    mode: CrashMode,
    seed: u64,
    low: usize,
    high: usize,
    /// `states[j]` is the model after j steps.
    states: Arc<Vec<State>>,
    options: Options,
}

fn contents(db: &Db) -> State {
    let mut state = State::new();
    for name in db.keyspaces() {
        let entries: BTreeMap<_, _> = db
            .keyspace(&name)
            .unwrap()
            .iter()
            .map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap())
            .collect();
        if !entries.is_empty() {
            state.insert(name, entries);
        }
    }
    state
}

fn open(options: &Options, fs: &MemFs, what: &str) -> Db {
    let opened = options.clone().fs(Arc::new(fs.clone())).open(DIR);
    opened.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// The largest j within bounds whose state is found.
fn find(found: &State, states: &[State], low: usize, high: usize, what: &str) -> usize {
    let j = (low..=high).rev().find(|j| &states[*j] == found);
    j.unwrap_or_else(|| {
        let elsewhere: Vec<_> = (0..states.len()).filter(|j| &states[*j] == found).collect();
        let (near, diff) = (low..=high)
            .map(|j| (j, difference(found, &states[j])))
            .min_by_key(|(_, diff)| diff.len())
            .unwrap();
        panic!(
            "{what}: no allowed state in {low}..={high}; equal to {elsewhere:?}; \
             nearest is {near}, which differs by\n{}",
            diff.join("\n")
        )
    })
}

fn difference(found: &State, model: &State) -> Vec<String> {
    let flat = |state: &State| -> BTreeMap<(String, Vec<u8>), String> {
        let entries = state.iter().flat_map(|(name, entries)| {
            entries.iter().map(|(k, v)| ((name.clone(), k.clone()), v.clone()))
        });
        entries.map(|(at, v)| (at, String::from_utf8_lossy(&v[..v.len().min(20)]).into())).collect()
    };
    let (found, model) = (flat(found), flat(model));
    let keys: std::collections::BTreeSet<_> = found.keys().chain(model.keys()).collect();
    let differ = keys.into_iter().filter(|at| found.get(*at) != model.get(*at));
    let line = |at: &(String, Vec<u8>)| {
        let key = String::from_utf8_lossy(&at.1).into_owned();
        format!("  {}/{key}: found {:?}, model {:?}", at.0, found.get(at), model.get(at))
    };
    differ.map(line).collect()
}

impl Crashed {
    fn check(&self, nested: bool) {
        let Crashed { what, fs, low, high, states, options, .. } = self;
        let crashes = Arc::new(parking_lot::Mutex::new(Vec::new()));
        if nested {
            let (crashes, seed) = (crashes.clone(), self.seed);
            fs.on_event(Some(Arc::new(move |event, fs: &MemFs| {
                for mode in CrashMode::ALL {
                    let crash = fs.crash_clone(mode, mix(seed ^ event));
                    crashes.lock().push((format!("event {event} of recovery, {mode:?}"), crash));
                }
            })));
        }
        let db = open(options, fs, what);
        fs.on_event(None);
        let found = contents(&db);
        find(&found, states, *low, *high, what);
        db.verify(&mut |_, _| {}).unwrap_or_else(|error| panic!("{what}: {error}"));
        self.go_on(&db, found);
        drop(db);
        for (again, fs) in std::mem::take(&mut *crashes.lock()) {
            let what = format!("{what}; {again}");
            let db = open(options, &fs, &what);
            find(&contents(&db), states, *low, *high, &what);
        }
    }

    /// The database takes writes again, and keeps them.
    fn go_on(&self, db: &Db, mut state: State) {
        let what = &self.what;
        let mut batch = WriteBatch::new();
        batch.put(db, "after", "the crash").durability(Durability::Sync);
        db.write(batch).unwrap_or_else(|error| panic!("{what}: {error}"));
        let default = state.entry("default".to_owned()).or_default();
        default.insert(b"after".to_vec(), b"the crash".to_vec());
        if self.seed.is_multiple_of(4) {
            db.flush().unwrap();
            while db.run_one_job().unwrap() {}
        }
        let fs = self.fs.crash_clone(CrashMode::Strict, 0);
        let again = open(&self.options, &fs, &format!("{what}, and again"));
        assert!(contents(&again) == state, "{what}: lost after the crash");
    }
}

/// Crashes to look at: event, mode, what was left, and the allowed states.
type Crashes = Arc<parking_lot::Mutex<Vec<(u64, CrashMode, MemFs, [usize; 2])>>>;

/// A workload and the model beside it.
struct Workload {
    rng: Rng,
    seed: u64,
    options: Options,
    fs: MemFs,
    db: Option<Db>,
    snapshot: Option<Snapshot>,
    states: Vec<State>,
    progress: Arc<Progress>,
    crashes: Crashes,
    checker: mpsc::SyncSender<Crashed>,
    events: u64,
    log: Vec<String>,
}

impl Workload {
    fn run(seed: u64, checker: mpsc::SyncSender<Crashed>) {
        let mut rng = Rng(mix(seed));
        let options = Options::new()
            .memtable_bytes(1024 << rng.below(3))
            .block_bytes(256)
            .file_bytes(4096)
            .wal_bytes(16 << 10 << rng.below(3))
            .memory_budget(if rng.below(2) == 0 { 24 << 10 } else { 1 << 20 })
            .durability(Durability::Os)
            .tombstone_age(Duration::from_millis(rng.below(2) * 100_000))
            .background_threads(0)
            .clock(Arc::new(TestClock(AtomicU64::new(mix(seed) >> 24))));
        let mut workload = Workload {
            rng,
            seed,
            options,
            fs: MemFs::new(),
            db: None,
            snapshot: None,
            states: vec![State::new()],
            progress: Arc::default(),
            crashes: Arc::default(),
            checker,
            events: 0,
            log: Vec::new(),
        };
        workload.watch();
        workload.reopen();
        while workload.states.len() <= STEPS {
            workload.step();
            workload.hand_over();
        }
        workload.db = None;
        workload.snapshot = None;
        workload.hand_over();
    }

    fn db(&self) -> &Db {
        self.db.as_ref().unwrap()
    }

    /// Takes every crash at every event from now on.
    fn watch(&mut self) {
        let (progress, crashes, seed) = (self.progress.clone(), self.crashes.clone(), self.seed);
        self.fs.on_event(Some(Arc::new(move |event, fs: &MemFs| {
            let high = progress.begun.load(Relaxed);
            for (n, mode) in CrashMode::ALL.into_iter().enumerate() {
                let low = match mode {
                    CrashMode::KeepAll => progress.acknowledged.load(Relaxed),
                    _ => progress.durable.load(Relaxed),
                };
                let seed = mix(seed << 32 | event << 3 | n as u64);
                crashes.lock().push((event, mode, fs.crash_clone(mode, seed), [low, high]));
            }
        })));
    }

    /// Gives the crashes of the last step to the checker.
    fn hand_over(&mut self) {
        let states = Arc::new(self.states.clone());
        for (event, mode, fs, [low, high]) in std::mem::take(&mut *self.crashes.lock()) {
            self.events += 1;
            let last = self.log.iter().rev().take(6).rev().cloned().collect::<Vec<_>>().join("; ");
            let crashed = Crashed {
                what: format!("seed {}, event {event}, {mode:?} (… {last})", self.seed),
                fs,
                mode,
                seed: mix(self.seed << 32 | self.events),
                low,
                high,
                states: states.clone(),
                options: self.options.clone(),
            };
            // The checker is gone if it has panicked: that is seen when it is joined.
            let _ = self.checker.send(crashed);
        }
    }

    fn reopen(&mut self) {
        self.snapshot = None;
        if let Some(db) = self.db.take() {
            db.close().unwrap();
            self.durable();
        }
        self.db = Some(open(&self.options, &self.fs, &format!("seed {}", self.seed)));
    }

    /// A crash, after which the workload goes on with what is left.
    fn crash(&mut self) {
        let mode = CrashMode::ALL[self.rng.below(4) as usize];
        let fs = self.fs.crash_clone(mode, self.rng.next());
        self.fs.on_event(None);
        self.hand_over();
        (self.db, self.snapshot) = (None, None);
        let what = format!("seed {}, {mode:?} (… {:?})", self.seed, self.log.last());
        let low = match mode {
            CrashMode::KeepAll => self.progress.acknowledged.load(Relaxed),
            _ => self.progress.durable.load(Relaxed),
        };
        self.progress.acknowledged.store(low, Relaxed);
        self.fs = fs;
        self.watch();
        self.db = Some(open(&self.options, &self.fs, &what));
        let j = find(&contents(self.db()), &self.states, low, self.states.len() - 1, &what);
        self.hand_over();
        self.states.truncate(j + 1);
        self.progress.begun.store(j, Relaxed);
        self.progress.acknowledged.store(j, Relaxed);
        self.durable();
    }

    fn durable(&mut self) {
        self.progress.durable.store(self.states.len() - 1, Relaxed);
    }

    /// One step of the model, with what it does to the database.
    fn change(
        &mut self,
        durable: bool,
        model: impl FnOnce(&mut State),
        act: impl FnOnce(&Db) -> esker::Result<()>,
    ) {
        let mut state = self.states.last().unwrap().clone();
        model(&mut state);
        state.retain(|_, entries| !entries.is_empty());
        self.states.push(state);
        let step = self.states.len() - 1;
        self.progress.begun.store(step, Relaxed);
        act(self.db()).unwrap();
        self.progress.acknowledged.store(step, Relaxed);
        if durable {
            self.durable();
        }
    }

    fn step(&mut self) {
        let choice = self.rng.below(100);
        self.log.push(format!("{choice}"));
        match choice {
            0..70 => self.write(),
            70..73 => {
                self.db().flush().unwrap();
                self.durable();
            }
            73..82 => drop(self.db().run_one_job().unwrap()),
            82..86 => {
                self.db().sync().unwrap();
                self.durable();
            }
            86..89 => {
                let name = self.other();
                self.db().keyspace(&name).unwrap();
            }
            89..92 => self.drop_keyspace(),
            92..94 => {
                let snapshot = self.snapshot.is_none().then(|| self.db().snapshot());
                self.snapshot = snapshot;
            }
            94..96 => self.db().compact_range::<&[u8], _>(..).unwrap(),
            96..98 => self.reopen(),
            _ => self.crash(),
        }
        let found = contents(self.db());
        let step = self.states.len() - 1;
        find(&found, &self.states, step, step, &format!("seed {}, live", self.seed));
    }

    fn other(&mut self) -> String {
        format!("ks{}", self.rng.below(2))
    }

    fn drop_keyspace(&mut self) {
        let name = self.other();
        if self.db().keyspaces().contains(&name) {
            let model = |state: &mut State| drop(state.remove(&name));
            self.change(true, model, |db| db.drop_keyspace(&name));
        }
    }

    fn write(&mut self) {
        let step = self.states.len();
        let ops = if self.rng.below(2) == 0 { 1 } else { 2 + self.rng.below(4) };
        let durability = match self.rng.below(6) {
            0 => Durability::Sync,
            1 => Durability::Interval(Duration::from_secs(3600)),
            _ => Durability::Os,
        };
        let mut batch = WriteBatch::new();
        batch.durability(durability);
        let mut changes = Vec::new();
        for op in 0..ops {
            let name = if self.rng.below(2) == 0 { "default".to_owned() } else { self.other() };
            let keyspace = self.db().keyspace(&name).unwrap();
            let key = format!("key{:02}", self.rng.below(24)).into_bytes();
            if self.rng.below(4) == 0 {
                batch.delete(&keyspace, &key);
                changes.push((name, key, None));
            } else {
                let len = if self.rng.below(12) == 0 { 1500 } else { self.rng.below(120) as usize };
                let value = format!("{step}.{op} {}", "x".repeat(len)).into_bytes();
                batch.put(&keyspace, &key, &value);
                changes.push((name, key, Some(value)));
            }
        }
        let model = |state: &mut State| {
            for (name, key, value) in changes {
                let entries = state.entry(name).or_default();
                match value {
                    Some(value) => drop(entries.insert(key, value)),
                    None => drop(entries.remove(&key)),
                }
            }
        };
        self.change(durability == Durability::Sync, model, |db| db.write(batch));
    }
}

fn seeds() -> u64 {
    let factor = std::env::var("ESKER_CRASH_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    SEEDS * factor
}

fn first_seed() -> u64 {
    std::env::var("ESKER_CRASH_FIRST").ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[test]
fn whatever_crashes_leave_is_a_prefix_with_all_that_is_durable() {
    let (to_checker, crashes) = mpsc::sync_channel::<Crashed>(512);
    let checker = std::thread::spawn(move || {
        let mut checked = 0;
        for crashed in crashes {
            crashed.check(crashed.seed % NESTED_EVERY == 0 && crashed.mode != CrashMode::KeepAll);
            checked += 1;
        }
        checked
    });
    for seed in first_seed()..first_seed() + seeds() {
        Workload::run(seed, to_checker.clone());
    }
    drop(to_checker);
    let checked: u64 = match checker.join() {
        Ok(checked) => checked,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    assert!(checked > 500 * seeds(), "only {checked} crashes");
}

/// The parent of a new database is durable when the first write is.
#[test]
fn a_new_database_is_durable_in_its_parent() {
    let fs = MemFs::new();
    let db = Options::new().fs(Arc::new(fs.clone())).background_threads(0).open(DIR).unwrap();
    db.put("k", "v").unwrap();
    let fs = fs.crash_clone(CrashMode::Strict, 0);
    assert!(fs.exists(Path::new(DIR)).unwrap());
    let db = Options::new().fs(Arc::new(fs)).background_threads(0).open(DIR).unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
}

const WRITERS: usize = 3;

/// A crash amid several writers: what each had durably acknowledged, and what it had begun.
struct AmidWriters {
    what: String,
    fs: MemFs,
    low: [usize; WRITERS],
    high: [usize; WRITERS],
}

/// Takes every eighth crash or so from now on.
fn watch_writers(
    fs: &MemFs,
    progress: &Arc<[Progress; WRITERS]>,
    round: u64,
) -> Arc<parking_lot::Mutex<Vec<AmidWriters>>> {
    let crashes = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let (progress, found) = (progress.clone(), crashes.clone());
    fs.on_event(Some(Arc::new(move |event, fs: &MemFs| {
        if !mix(event ^ round).is_multiple_of(8) {
            return;
        }
        let mode = CrashMode::ALL[(event % 4) as usize];
        let low = std::array::from_fn(|writer| match mode {
            CrashMode::KeepAll => progress[writer].acknowledged.load(Relaxed),
            _ => progress[writer].durable.load(Relaxed),
        });
        let fs = fs.crash_clone(mode, mix(event));
        let high = std::array::from_fn(|writer| progress[writer].begun.load(Relaxed));
        let what = format!("round {round}, event {event}, {mode:?}");
        found.lock().push(AmidWriters { what, fs, low, high });
    })));
    crashes
}

/// Writes batches that count up, over two keyspaces.
fn count_up(db: &Db, side: &Keyspace, writer: usize, progress: &Progress) {
    for n in 1..150_usize {
        progress.begun.store(n, Relaxed);
        let durable = n % 7 == writer;
        let mut batch = WriteBatch::new();
        for keyspace in [&**db, side] {
            batch.put(keyspace, [writer as u8], n.to_le_bytes());
            batch.put(keyspace, [writer as u8, n as u8], vec![7; n % 90]);
        }
        if durable {
            batch.durability(Durability::Sync);
        }
        db.write(batch).unwrap();
        progress.acknowledged.store(n, Relaxed);
        if durable {
            progress.durable.store(n, Relaxed);
        }
    }
}

impl AmidWriters {
    fn check(&self, options: &Options) {
        let AmidWriters { what, fs, low, high } = self;
        let db = open(&options.clone().background_threads(0), fs, what);
        let side = db.keyspace("side").unwrap();
        for writer in 0..WRITERS {
            let counter = db.get([writer as u8]).unwrap();
            let n = counter.map_or(0, |n| usize::from_le_bytes(n[..].try_into().unwrap()));
            assert!((low[writer]..=high[writer]).contains(&n), "{what}: {n} of {writer}");
            for keyspace in [&*db, &side] {
                let count = keyspace.prefix([writer as u8]).count();
                assert_eq!(count, n + usize::from(n > 0), "{what}: a torn or lost batch");
            }
        }
    }
}

/// With writers, flushes and compactions on threads of their own: each writer's counters are whole,
/// no older than its last durable acknowledgement, and no newer than its last write begun.
#[test]
fn crashes_amid_many_threads_lose_nothing_durable() {
    for round in 0..4_u64 {
        let fs = MemFs::new();
        let options = Options::new()
            .memtable_bytes(2 << 10)
            .block_bytes(256)
            .file_bytes(4096)
            .wal_bytes(32 << 10)
            .memory_budget(64 << 10)
            .durability(Durability::Os)
            .background_threads(2);
        let db = open(&options, &fs, "new");
        let side = db.keyspace("side").unwrap();
        let progress: Arc<[Progress; WRITERS]> = Arc::default();
        let crashes = watch_writers(&fs, &progress, round);
        std::thread::scope(|scope| {
            for (writer, progress) in progress.iter().enumerate() {
                let (db, side) = (&db, &side);
                scope.spawn(move || count_up(db, side, writer, progress));
            }
        });
        fs.on_event(None);
        let crashes = std::mem::take(&mut *crashes.lock());
        assert!(crashes.len() > 20, "only {} crashes", crashes.len());
        for crash in crashes {
            crash.check(&options);
        }
    }
}
