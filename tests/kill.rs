//! A process on the real file system, killed at random moments. This test binary runs itself as the
//! process, which reports each batch before it is written and after it is acknowledged; the oracle
//! is here, where nothing is killed.
//!
//! After each kill, of each writer's batches exactly the first j are there, with (last acknowledged)
//! <= j <= (last begun), whole and over both keyspaces; whatever their durability, since the system
//! goes on. The next process goes on from there, in the same directory.
//!
//! `ESKER_KILL_CYCLES` sets the number of kills (default: 100), `ESKER_KILL_SEED` what is random.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and may use threads and clocks"
)]

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;
use std::time::SystemTime;

use esker::Db;
use esker::Durability;
use esker::Options;
use esker::WriteBatch;

const TEST: &str = "kills_lose_nothing_that_was_acknowledged";
/// In the environment of the process that is to be killed: its directory.
const DIR: &str = "ESKER_KILL_DIR";
/// In it too: what its batches hold.
const SEED: &str = "ESKER_KILL_SEED";
const WRITERS: usize = 4;
const KEYS: u64 = 300;

fn mix(n: u64) -> u64 {
    let mut n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn options(cycle: u64) -> Options {
    Options::new()
        .memtable_bytes(16 << 10)
        .block_bytes(512)
        .file_bytes(16 << 10)
        .wal_bytes(128 << 10)
        .memory_budget(256 << 10)
        .mmap(cycle.is_multiple_of(2))
        .background_threads(1 + (cycle % 3) as usize)
}

/// What batch `n` of a writer does: to which key of which keyspace what.
fn changes(seed: u64, writer: usize, n: u64) -> Vec<(bool, Vec<u8>, Option<Vec<u8>>)> {
    let random = mix(seed ^ mix(n << 8 | writer as u64));
    let mut changes = Vec::new();
    for op in 0..=random % 5 {
        let random = mix(random + op);
        let key = format!("{writer} {:03}", random % KEYS).into_bytes();
        let value = format!("{n}.{op} {}", "x".repeat((random >> 20) as usize % 300));
        let value = (!(random >> 40).is_multiple_of(6)).then(|| value.into_bytes());
        changes.push((op.is_multiple_of(2), key, value));
    }
    // So that each keyspace says how far it is.
    for default in [true, false] {
        changes.push((default, counter(writer), Some(n.to_le_bytes().to_vec())));
    }
    changes
}

fn counter(writer: usize) -> Vec<u8> {
    format!("{writer} n").into_bytes()
}

fn counted(reader: &esker::Reader, writer: usize) -> u64 {
    let value = reader.get(counter(writer)).unwrap();
    value.map_or(0, |value| u64::from_le_bytes(value[..].try_into().unwrap()))
}

/// One line to the parent, in one call. Ends the process if nobody listens.
fn report(line: &str) {
    if std::io::stderr().write_all(format!("{line}\n").as_bytes()).is_err() {
        std::process::exit(1);
    }
}

/// The process that is killed: writes until then.
fn process(dir: &Path, seed: u64) -> ! {
    let cycle: u64 = std::env::var("ESKER_KILL_CYCLE").unwrap().parse().unwrap();
    let db = options(cycle).open(dir).unwrap();
    let side = db.keyspace("side").unwrap();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (db, side) = (&db, &side);
            scope.spawn(move || write(db, side, writer, seed));
        }
        scope.spawn(|| disturb(&db, mix(seed ^ cycle)));
    });
    unreachable!("writers write until they are killed")
}

fn write(db: &Db, side: &esker::Keyspace, writer: usize, seed: u64) {
    for n in counted(db, writer) + 1.. {
        let mut batch = WriteBatch::new();
        batch.durability(match mix(n) % 8 {
            0 => Durability::Sync,
            1 => Durability::Interval(Duration::from_millis(3)),
            _ => Durability::Os,
        });
        for (default, key, value) in changes(seed, writer, n) {
            let keyspace = if default { db } else { side };
            match value {
                Some(value) => batch.put(keyspace, key, value),
                None => batch.delete(keyspace, key),
            };
        }
        report(&format!("begun {writer} {n}"));
        db.write(batch).unwrap();
        report(&format!("acked {writer} {n}"));
    }
}

/// Everything else that changes files.
fn disturb(db: &Db, mut random: u64) -> ! {
    loop {
        random = mix(random);
        std::thread::sleep(Duration::from_millis(random % 20));
        match (random >> 32) % 6 {
            0 => db.flush().unwrap(),
            1 => db.sync().unwrap(),
            2 => db.compact_range(b"0".as_slice()..b"2").unwrap(),
            3 => drop(db.snapshot()),
            4 => db.keyspace("scratch").unwrap().put("k", vec![7; 3000]).unwrap(),
            _ => {
                db.keyspace("scratch").unwrap();
                db.drop_keyspace("scratch").unwrap();
            }
        }
    }
}

/// Kills the process if the test panics.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may be dead already, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a process reported: batches begun and acknowledged, by writer; and all other lines.
#[derive(Default)]
struct Reported {
    begun: [u64; WRITERS],
    acked: [u64; WRITERS],
    other: Vec<String>,
}

impl Reported {
    fn line(&mut self, line: String) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<u64>().ok();
        if let [what @ ("begun" | "acked"), writer, n] = words[..]
            && let (Some(writer), Some(n)) = (number(writer), number(n))
        {
            let list = if what == "begun" { &mut self.begun } else { &mut self.acked };
            list[writer as usize] = n;
        } else {
            self.other.push(line);
        }
    }
}

/// When to kill a process.
#[derive(Debug)]
enum When {
    /// So long after it was started: in the middle of opening.
    Started(Duration),
    /// So long after its first batch was begun.
    Writing(Duration),
}

/// Starts the process, kills it, and returns what it reported.
fn run_and_kill(dir: &Path, seed: u64, cycle: u64, when: &When) -> Reported {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(DIR, dir)
        .env(SEED, seed.to_string())
        .env("ESKER_KILL_CYCLE", cycle.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pipe = BufReader::new(child.stderr.take().unwrap());
    let mut running = Running(child);
    let (first, writing) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut reported = Reported::default();
        for line in pipe.lines() {
            reported.line(line.unwrap());
            // Only the first is waited for.
            let _ = first.send(());
        }
        reported
    });
    match when {
        When::Started(delay) => std::thread::sleep(*delay),
        When::Writing(delay) => {
            writing.recv_timeout(Duration::from_secs(60)).expect("it does not come to writing");
            std::thread::sleep(*delay);
        }
    }
    let ended = running.0.try_wait().unwrap();
    drop(running);
    let reported = reader.join().unwrap();
    assert!(ended.is_none(), "it ended by itself: {}", reported.other.join("\n"));
    assert!(reported.other.is_empty(), "it complained: {}", reported.other.join("\n"));
    reported
}

/// What the first batches of each writer leave, by keyspace (the default one?) and key.
#[derive(Default)]
struct Model {
    done: [u64; WRITERS],
    entries: BTreeMap<(bool, Vec<u8>), Vec<u8>>,
}

impl Model {
    fn advance(&mut self, seed: u64, writer: usize, to: u64) {
        for n in self.done[writer] + 1..=to {
            for (default, key, value) in changes(seed, writer, n) {
                match value {
                    Some(value) => self.entries.insert((default, key), value),
                    None => self.entries.remove(&(default, key)),
                };
            }
        }
        self.done[writer] = to;
    }

    /// Opens what a killed process left and compares.
    fn check(&mut self, dir: &Path, seed: u64, cycle: u64, reported: &Reported, what: &str) {
        let db = options(cycle + 1).open(dir);
        let db = db.unwrap_or_else(|error| panic!("{what}: {error}"));
        let side = db.keyspace("side").unwrap();
        for writer in 0..WRITERS {
            let j = counted(&db, writer);
            // Nothing reported: as it was.
            let low = reported.acked[writer].max(self.done[writer]);
            let high = reported.begun[writer].max(low);
            assert!(
                (low..=high).contains(&j),
                "{what}: {j} of writer {writer}, not {low}..={high}"
            );
            assert_eq!(counted(&side, writer), j, "{what}: a torn batch of writer {writer}");
            self.advance(seed, writer, j);
        }
        let mut found = BTreeMap::new();
        for (default, keyspace) in [(true, &*db), (false, &side)] {
            for entry in keyspace.iter() {
                let (key, value) = entry.unwrap_or_else(|error| panic!("{what}: {error}"));
                found.insert((default, key.to_vec()), value.to_vec());
            }
        }
        for key in found.keys().chain(self.entries.keys()) {
            let (found, model) = (found.get(key), self.entries.get(key));
            let show =
                |value: &[u8]| String::from_utf8_lossy(&value[..value.len().min(12)]).into_owned();
            assert!(
                found == model,
                "{what}: {:?} is {:?}, and should be {:?}",
                String::from_utf8_lossy(&key.1),
                found.map(|value| show(value)),
                model.map(|value| show(value))
            );
        }
        db.verify(&mut |_, _| {}).unwrap_or_else(|error| panic!("{what}: {error}"));
        if mix(seed ^ cycle).is_multiple_of(3) {
            db.close().unwrap();
        }
    }
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn kills_lose_nothing_that_was_acknowledged() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = from_env(SEED).unwrap_or(now.as_nanos() as u64);
    if let Some(dir) = std::env::var_os(DIR) {
        process(Path::new(&dir), seed);
    }
    let cycles = from_env("ESKER_KILL_CYCLES").unwrap_or(100);
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("db");
    let mut model = Model::default();
    let (mut acked, mut in_open) = (0, 0);
    for cycle in 0..cycles {
        let random = mix(seed ^ mix(cycle));
        let micros = |below| Duration::from_micros((random >> 8) % below);
        let when = match random % 10 {
            0..2 => When::Started(micros(30_000)),
            2..7 => When::Writing(micros(50_000)),
            _ => When::Writing(micros(300_000)),
        };
        let what = format!("seed {seed}, kill {cycle}, {when:?}");
        let reported = run_and_kill(&dir, seed, cycle, &when);
        let before: u64 = model.done.iter().sum();
        model.check(&dir, seed, cycle, &reported, &what);
        let batches = model.done.iter().sum::<u64>() - before;
        acked += batches;
        in_open += u64::from(reported.begun.iter().sum::<u64>() == 0);
    }
    eprintln!(
        "{cycles} kills, {in_open} of them before the first write; {acked} batches; seed {seed}"
    );
    assert!(acked > cycles && in_open * 2 < cycles, "seed {seed}: it hardly ran");
}
