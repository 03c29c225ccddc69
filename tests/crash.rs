//! Crashes at every event of the file system, in every way it may come up again.
//!
//! The oracle is that of [`harness::crashes`]: what is found is a state that the workload went
//! through, no older than the last durable acknowledgement, no newer than the last step begun.
//!
//! `ESKER_CRASH_STATES` sets how many states of a crashed machine are looked at (default: 50,000);
//! `forever` is a number too. A failure names its seed: `ESKER_CRASH_FIRST` begins with it.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and may look at the clock"
)]

mod harness;

use std::fmt;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use esker::Db;
use esker::Durability;
use esker::Keyspace;
use esker::Options;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::Fs as _;
use esker::fs::MemFs;
use parking_lot::Mutex;

use harness::choices::Choices;
use harness::choices::mix;
use harness::crashes::Wreck;
use harness::state::History;
use harness::state::contents;
use harness::workload::DIR;
use harness::workload::Progress;
use harness::workload::Workload;

/// States to look at in a default run.
const STATES: u64 = 50_000;
/// Steps of a workload.
const STEPS: usize = 90;
/// After one crash in so many, every event of the recovery is a crash in turn; and after one crash
/// of a recovery in so many, every event of that one's recovery.
const NESTED_EVERY: [u64; 2] = [150, 300];

/// What all workloads share.
struct Survey {
    wanted: u64,
    nested_every: [u64; 2],
    next_seed: AtomicU64,
    checked: AtomicU64,
    nested: AtomicU64,
    nested_again: AtomicU64,
    failed: AtomicBool,
    begun: Instant,
    told: AtomicU64,
}

/// A crash to look at: at which event of the workload, and what it has left.
type Wrecks = Arc<Mutex<Vec<(u64, Wreck)>>>;

/// Where a crash happened.
struct Place<'a> {
    within: &'a dyn Display,
    event: u64,
    mode: CrashMode,
}

impl Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; crash at event {}, {:?}", self.within, self.event, self.mode)
    }
}

/// The survey ends when one of its threads panics.
struct Alarm<'a>(&'a AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Relaxed);
        }
    }
}

impl Survey {
    fn new(wanted: u64, first: u64, nested_every: [u64; 2]) -> Survey {
        Survey {
            wanted,
            nested_every,
            next_seed: AtomicU64::new(first),
            checked: AtomicU64::new(0),
            nested: AtomicU64::new(0),
            nested_again: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            begun: Instant::now(),
            told: AtomicU64::new(0),
        }
    }

    /// One workload after the other, until enough was seen.
    fn work(&self) {
        let _alarm = Alarm(&self.failed);
        while self.checked.load(Relaxed) < self.wanted && !self.failed.load(Relaxed) {
            self.run(self.next_seed.fetch_add(1, Relaxed));
            self.tell();
        }
    }

    /// Tells how far it is, each half minute.
    fn tell(&self) {
        let seconds = self.begun.elapsed().as_secs();
        let told = self.told.load(Relaxed);
        if seconds < told + 30 || self.told.swap(seconds, Relaxed) != told {
            return;
        }
        let (checked, next) = (self.checked.load(Relaxed), self.next_seed.load(Relaxed));
        eprintln!("{checked} states in {seconds} s; next seed: {next}");
    }

    /// One workload, with every crash at each of its events.
    fn run(&self, seed: u64) {
        let mut workload = Workload::new(format!("seed {seed}"), Choices::seed(seed));
        let mut wrecks = watch(&workload, seed);
        workload.open();
        self.check_all(&mut workload, &wrecks);
        for _ in 0..STEPS {
            workload.step();
            workload.check_live();
            if workload.choices.below(50) > 0 {
                self.check_all(&mut workload, &wrecks);
                continue;
            }
            // Goes on with what one of these crashes has left.
            let all = std::mem::take(&mut *wrecks.lock());
            if all.is_empty() {
                continue;
            }
            let chosen = workload.choices.index(all.len());
            let (event, wreck) = all.into_iter().nth(chosen).unwrap();
            workload.trail.add("crash at event", event);
            workload.die();
            workload.recover(wreck);
            wrecks = watch(&workload, seed);
        }
        workload.die();
    }

    /// Looks at the crashes of the last step.
    fn check_all(&self, workload: &mut Workload, wrecks: &Wrecks) {
        for (event, wreck) in std::mem::take(&mut *wrecks.lock()) {
            let place = Place { within: &workload.trail, event, mode: wreck.mode };
            let options = workload.options_for(wreck.seed);
            self.check(&wreck, &options, &workload.history, 0, &place);
        }
    }

    /// Opens what a crash has left and looks at it; if `depth` and chance allow, at what is left by
    /// each crash of this recovery as well.
    fn check(
        &self,
        wreck: &Wreck,
        options: &Options,
        history: &History,
        depth: usize,
        what: &dyn Display,
    ) {
        let every = self.nested_every.get(depth);
        let nested = every.is_some_and(|every| wreck.seed.is_multiple_of(*every));
        let again: Arc<Mutex<Vec<(u64, CrashMode, MemFs)>>> = Arc::default();
        if nested {
            let (again, seed) = (again.clone(), wreck.seed);
            wreck.fs.on_event(Some(Arc::new(move |event, fs: &MemFs| {
                for mode in CrashMode::ALL {
                    let left = fs.crash_clone(mode, mix(seed ^ event));
                    again.lock().push((event, mode, left));
                }
            })));
        }
        let db = open(options, &wreck.fs, what);
        wreck.fs.on_event(None);
        let found = contents(&db, what);
        let step = history.find(&found, wreck.low, wreck.high, what);
        self.checked.fetch_add(1, Relaxed);
        for (level, count) in [(1, &self.nested), (2, &self.nested_again)] {
            count.fetch_add(u64::from(depth == level), Relaxed);
        }
        if wreck.seed % 8 == 1 {
            db.verify(&mut |_, _| {}).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        if wreck.seed % 2 == 1 || nested {
            go_on(&db, wreck, options, history, step, what);
        }
        drop(db);
        for (event, mode, fs) in std::mem::take(&mut *again.lock()) {
            let seed = mix(wreck.seed ^ event << 3 ^ mode as u64);
            let within = format!("{what}; in its recovery");
            let place = Place { within: &within, event, mode };
            let left = wreck.again(fs, mode, seed, step);
            self.check(&left, options, history, depth + 1, &place);
        }
    }
}

/// Takes every crash at every event from now on.
fn watch(workload: &Workload, seed: u64) -> Wrecks {
    let wrecks = Wrecks::default();
    let (taken, progress) = (wrecks.clone(), workload.progress.clone());
    workload.fs.on_event(Some(Arc::new(move |event, fs: &MemFs| {
        for (n, mode) in CrashMode::ALL.into_iter().enumerate() {
            let seed = mix(seed << 32 | event << 3 | n as u64);
            taken.lock().push((event, Wreck::take(fs, mode, seed, &progress)));
        }
    })));
    wrecks
}

fn open(options: &Options, fs: &MemFs, what: &dyn Display) -> Db {
    let opened = options.clone().fs(Arc::new(fs.clone())).open(DIR);
    opened.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// The database takes writes again, and keeps them.
fn go_on(
    db: &Db,
    wreck: &Wreck,
    options: &Options,
    history: &History,
    step: usize,
    what: &dyn Display,
) {
    let fail = |error: esker::Error| panic!("{what}: {error}");
    let mut batch = WriteBatch::new();
    batch.put(db, "after", "the crash").durability(Durability::Sync);
    db.write(batch).unwrap_or_else(fail);
    if wreck.seed % 4 == 1 {
        db.flush().unwrap_or_else(fail);
        while db.run_one_job().unwrap_or_else(|error| panic!("{what}: {error}")) {}
    }
    let again = open(options, &wreck.fs.crash_clone(CrashMode::Strict, 0), what);
    let mut found = contents(&again, what);
    let after = found.remove(&(0, b"after"[..].into()));
    assert_eq!(after.as_deref(), Some(&b"the crash"[..]), "{what}: lost after the crash");
    history.find(&found, step, step, &format!("{what}, and again"));
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[test]
fn whatever_crashes_leave_is_a_prefix_with_all_that_is_durable() {
    let wanted = match variable("ESKER_CRASH_STATES").as_deref() {
        None => STATES,
        Some("forever") => u64::MAX,
        Some(number) => number.parse().expect("ESKER_CRASH_STATES is a number or \"forever\""),
    };
    let first = variable("ESKER_CRASH_FIRST").map_or(0, |seed| seed.parse().unwrap());
    let survey = Survey::new(wanted, first, NESTED_EVERY);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| survey.work());
        }
    });
    let checked = survey.checked.load(Relaxed);
    let (nested, again) = (survey.nested.load(Relaxed), survey.nested_again.load(Relaxed));
    let seeds = survey.next_seed.load(Relaxed) - first;
    eprintln!(
        "{checked} states of {seeds} workloads, {nested} of them crashes of a recovery, {again} of \
         the recovery of one, in {:?}",
        survey.begun.elapsed()
    );
    assert!(checked >= wanted, "only {checked} states");
    if wanted >= STATES {
        assert!(nested > wanted / 20 && again > wanted / 200, "only {nested} and {again} nested");
    }
}

/// Every crash of the first open, every one of the next, and some of that after it.
#[test]
fn a_creation_may_crash_anywhere_and_so_may_the_next() {
    let survey = Survey::new(0, 0, [1, 40]);
    for seed in 0..2 {
        let mut workload = Workload::new(format!("creation {seed}"), Choices::seed(seed));
        let wrecks = watch(&workload, seed);
        workload.open();
        survey.check_all(&mut workload, &wrecks);
        workload.die();
    }
    let checked = survey.checked.load(Relaxed);
    assert!(checked > 20_000, "only {checked} states");
}

/// All workloads of three steps: few steps around a sync are where most that can go wrong does.
#[test]
fn every_crash_of_every_short_workload_leaves_what_it_may() {
    // A write, another, a flush, a job, a sync, a dropped keyspace, a compaction, a close and open.
    const STEPS: [u64; 8] = [0, 1, 64, 68, 78, 84, 92, 96];
    let survey = Survey::new(0, 0, [u64::MAX; 2]);
    let all = STEPS.len() as u64;
    for number in 0..all.pow(3) {
        let mut workload = Workload::new(format!("short {number}"), Choices::seed(number));
        workload.open();
        let wrecks = watch(&workload, number);
        for place in 0..3 {
            workload.step_of(STEPS[(number / all.pow(place) % all) as usize]);
        }
        survey.check_all(&mut workload, &wrecks);
        workload.die();
    }
    let checked = survey.checked.load(Relaxed);
    assert!(checked > 20_000, "only {checked} states");
}

/// Flush after flush, until the manifest was replaced more than once.
#[test]
fn crashes_around_a_new_manifest_leave_the_old_one_or_the_new() {
    let manifest = |fs: &MemFs| {
        let listing = fs.list(Path::new(DIR)).unwrap();
        listing.into_iter().map(|entry| entry.name).filter(|n| n.starts_with("MANIFEST")).max()
    };
    let survey = Survey::new(0, 0, [100, u64::MAX]);
    let mut workload = Workload::new("manifests".to_owned(), Choices::seed(0));
    workload.open();
    let wrecks = watch(&workload, 0);
    let (mut before, mut replaced) = (manifest(&workload.fs), 0);
    for _ in 0..60 {
        // A write, and a flush.
        workload.step_of(0);
        workload.step_of(64);
        let now = manifest(&workload.fs);
        replaced += usize::from(now != before);
        before = now;
        survey.check_all(&mut workload, &wrecks);
    }
    workload.die();
    assert!(replaced > 1, "{replaced} new manifests");
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
) -> Arc<Mutex<Vec<AmidWriters>>> {
    let crashes = Arc::new(Mutex::new(Vec::new()));
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
        let db = open(&options.clone().background_threads(0), fs, &what);
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
        let db = open(&options, &fs, &"new");
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
