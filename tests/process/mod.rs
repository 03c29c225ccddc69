//! A process that writes until it is killed, and the oracle that stays alive. The test binary runs
//! itself as that process, which reports each batch before it is written and after it is
//! acknowledged.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::SystemTime;

use esker::Db;
use esker::Durability;
use esker::Options;
use esker::WriteBatch;

/// In the environment of the process: its directory, its number, and what its batches hold.
const DIR: &str = "ESKER_PROCESS_DIR";
const CYCLE: &str = "ESKER_PROCESS_CYCLE";
const SEED: &str = "ESKER_PROCESS_SEED";
const WRITERS: usize = 4;
const KEYS: u64 = 300;

pub(crate) fn mix(n: u64) -> u64 {
    let mut n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

pub(crate) fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// The seed that is asked for, or another one each time.
pub(crate) fn seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    from_env(SEED).unwrap_or(now.as_nanos() as u64)
}

pub(crate) fn options(cycle: u64) -> Options {
    Options::new()
        .memtable_bytes(16 << 10)
        .block_bytes(512)
        .file_bytes(16 << 10)
        .wal_bytes(128 << 10)
        .memory_budget(256 << 10)
        .mmap(cycle.is_multiple_of(2))
        .background_threads(1 + (cycle % 3) as usize)
}

/// What batch `n` of a writer does: in the default keyspace or the other, to which key, what.
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

fn counted(reader: &esker::Reader, writer: usize) -> esker::Result<u64> {
    let value = reader.get(counter(writer))?;
    Ok(value.map_or(0, |value| u64::from_le_bytes(value[..].try_into().unwrap())))
}

/// One line to the parent, in one call. Ends the process if nobody listens.
fn report(line: &str) {
    if std::io::stderr().write_all(format!("{line}\n").as_bytes()).is_err() {
        std::process::exit(1);
    }
}

/// Is the caller the process that is to be killed? Then it writes until then.
pub(crate) fn write_if_asked() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let (cycle, seed) = (from_env(CYCLE).unwrap(), from_env(SEED).unwrap());
    let failed = match options(cycle).open(dir) {
        Ok(db) => write_all(&db, seed, cycle),
        Err(error) => Err(error),
    };
    give_up(failed);
}

/// Waits for its end.
fn give_up(result: esker::Result<()>) {
    if let Err(error) = result {
        report(&format!("failed: {error}"));
    }
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn write_all(db: &Db, seed: u64, cycle: u64) -> esker::Result<()> {
    let side = db.keyspace("side")?;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let side = &side;
            scope.spawn(move || give_up(write(db, side, writer, seed)));
        }
        scope.spawn(|| give_up(disturb(db, mix(seed ^ cycle))));
    });
    Ok(())
}

fn write(db: &Db, side: &esker::Keyspace, writer: usize, seed: u64) -> esker::Result<()> {
    for n in counted(db, writer)? + 1.. {
        let mut batch = WriteBatch::new();
        let durability = match mix(n) % 8 {
            0 => Durability::Sync,
            1 => Durability::Interval(Duration::from_millis(3)),
            _ => Durability::Os,
        };
        batch.durability(durability);
        for (default, key, value) in changes(seed, writer, n) {
            let keyspace = if default { db } else { side };
            match value {
                Some(value) => batch.put(keyspace, key, value),
                None => batch.delete(keyspace, key),
            };
        }
        let sync = u64::from(durability == Durability::Sync);
        report(&format!("begun {writer} {n}"));
        db.write(batch)?;
        report(&format!("acked {writer} {n} {sync}"));
    }
    Ok(())
}

/// Everything else that changes files.
fn disturb(db: &Db, mut random: u64) -> esker::Result<()> {
    loop {
        random = mix(random);
        std::thread::sleep(Duration::from_millis(random % 20));
        match (random >> 32) % 6 {
            0 => db.flush()?,
            1 => {
                report("syncing");
                db.sync()?;
                report("synced");
            }
            2 => db.compact_range(b"0".as_slice()..b"2")?,
            3 => drop(db.snapshot()),
            4 => db.keyspace("scratch")?.put("k", vec![7; 3000])?,
            _ => {
                db.keyspace("scratch")?;
                db.drop_keyspace("scratch")?;
            }
        }
    }
}

/// How far each writer is.
type Counts = [u64; WRITERS];

/// What a process reported.
#[derive(Default)]
pub(crate) struct Reported {
    begun: Counts,
    acked: Counts,
    /// What a power cut has to leave.
    durable: Counts,
    /// What was acknowledged when a batch was begun, by writer and batch: it comes before it.
    before: HashMap<(usize, u64), Counts>,
    before_sync: Counts,
    pub(crate) failures: Vec<String>,
    pub(crate) complaints: Vec<String>,
}

impl Reported {
    fn line(&mut self, line: String) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<u64>().ok();
        match words[..] {
            ["begun", writer, n] => {
                let (writer, n) = (number(writer).unwrap() as usize, number(n).unwrap());
                self.begun[writer] = n;
                self.before.insert((writer, n), self.acked);
            }
            ["acked", writer, n, sync] => {
                let (writer, n) = (number(writer).unwrap() as usize, number(n).unwrap());
                self.acked[writer] = n;
                if sync == "1" {
                    let before = self.before[&(writer, n)];
                    self.is_durable(&before);
                    self.durable[writer] = n;
                }
            }
            ["syncing"] => self.before_sync = self.acked,
            ["synced"] => {
                let before = self.before_sync;
                self.is_durable(&before);
            }
            ["failed:", ..] => self.failures.push(line),
            _ => self.complaints.push(line),
        }
    }

    /// The log is durable in order.
    fn is_durable(&mut self, counts: &Counts) {
        for (durable, count) in self.durable.iter_mut().zip(counts) {
            *durable = (*durable).max(*count);
        }
    }

    pub(crate) fn wrote(&self) -> bool {
        self.begun.iter().any(|n| *n > 0)
    }
}

/// The process, killed at the latest when this is dropped.
pub(crate) struct Running {
    child: Child,
    first_line: mpsc::Receiver<()>,
    reader: Option<JoinHandle<Reported>>,
}

impl Running {
    /// Starts this test binary with `test` alone, which calls [`write_if_asked`].
    pub(crate) fn start(test: &str, dir: &Path, seed: u64, cycle: u64) -> Running {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(DIR, dir)
            .env(SEED, seed.to_string())
            .env(CYCLE, cycle.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pipe = BufReader::new(child.stderr.take().unwrap());
        let (first, first_line) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut reported = Reported::default();
            for line in pipe.lines() {
                reported.line(line.unwrap());
                // Only the first is waited for.
                let _ = first.send(());
            }
            reported
        });
        Running { child, first_line, reader: Some(reader) }
    }

    /// Waits until it writes.
    pub(crate) fn wait_for_first_line(&self) {
        let waited = self.first_line.recv_timeout(Duration::from_secs(60));
        waited.expect("it does not come to writing");
    }

    pub(crate) fn kill(mut self) -> Reported {
        let ended = self.child.try_wait().unwrap();
        self.end();
        let reported = self.reader.take().unwrap().join().unwrap();
        let complaints = reported.complaints.join("\n");
        assert!(complaints.is_empty(), "it complained: {complaints}");
        assert!(ended.is_none(), "it ended by itself: {ended:?}");
        reported
    }

    fn end(&mut self) {
        // It may be dead already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// What has happened to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Killed,
    PowerCut,
}

/// What the first batches of each writer leave, by keyspace (the default one?) and key.
#[derive(Default)]
pub(crate) struct Model {
    done: Counts,
    entries: BTreeMap<(bool, Vec<u8>), Vec<u8>>,
}

impl Model {
    pub(crate) fn batches(&self) -> u64 {
        self.done.iter().sum()
    }

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

    /// Compares `db`, opened after the `end` of a process, with what it reported.
    pub(crate) fn check(&mut self, db: &Db, seed: u64, reported: &Reported, end: End, what: &str) {
        let side = db.keyspace("side").unwrap();
        let durable = if end == End::Killed { &reported.acked } else { &reported.durable };
        let mut there = Counts::default();
        for writer in 0..WRITERS {
            let j = counted(db, writer).unwrap();
            // Nothing reported: as it was.
            let low = durable[writer].max(self.done[writer]);
            let high = reported.begun[writer].max(low);
            assert!(
                (low..=high).contains(&j),
                "{what}: {j} of writer {writer}, not {low}..={high}"
            );
            assert_eq!(counted(&side, writer).unwrap(), j, "{what}: a torn batch of {writer}");
            self.advance(seed, writer, j);
            there[writer] = j;
        }
        for (writer, j) in there.iter().enumerate() {
            let before = reported.before.get(&(writer, *j)).copied().unwrap_or_default();
            let hole = (0..WRITERS).find(|other| there[*other] < before[*other]);
            assert!(
                hole.is_none(),
                "{what}: {j} of writer {writer} is there, and {before:?} before it, of which {there:?}"
            );
        }
        let mut found = BTreeMap::new();
        for (default, keyspace) in [(true, &**db), (false, &side)] {
            for entry in keyspace.iter() {
                let (key, value) = entry.unwrap_or_else(|error| panic!("{what}: {error}"));
                found.insert((default, key.to_vec()), value.to_vec());
            }
        }
        for key in found.keys().chain(self.entries.keys()) {
            let (found, model) = (found.get(key), self.entries.get(key));
            let show = |value: &Vec<u8>| {
                String::from_utf8_lossy(&value[..value.len().min(12)]).into_owned()
            };
            assert!(
                found == model,
                "{what}: {:?} is {:?}, and should be {:?}",
                String::from_utf8_lossy(&key.1),
                found.map(show),
                model.map(show)
            );
        }
        db.verify(&mut |_, _| {}).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}
