//! A process that may open few files: typed errors, no panic, nothing lost.

use std::path::Path;
use std::process::Command;

use esker::Db;
use esker::Durability;
use esker::ErrorKind;
use esker::Options;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::setrlimit;

const TEST: &str = "handles::a_process_without_handles_gets_errors";
/// In the environment of the process with the limit.
const DIR: &str = "ESKER_HANDLES_DIR";
const LIMIT: &str = "ESKER_HANDLES_LIMIT";
const KEYS: u32 = 600;

fn options() -> Options {
    Options::new()
        .memtable_bytes(32 << 10)
        .block_bytes(512)
        .file_bytes(4 << 10)
        .wal_bytes(128 << 10)
        .memory_budget(1 << 20)
        .durability(Durability::Os)
}

fn key(n: u32) -> [u8; 4] {
    n.to_be_bytes()
}

fn value(n: u32) -> Vec<u8> {
    (0..200_u32).map(|at| (at * 31 + n * 7) as u8).collect()
}

/// What every call may answer.
fn tolerate<T>(result: esker::Result<T>, what: &str) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            let kind = error.kind();
            let typed = matches!(kind, ErrorKind::Io | ErrorKind::ReadOnly | ErrorKind::Busy);
            assert!(typed, "{what}: {error}");
            None
        }
    }
}

/// The process: everything works or says why not.
fn process(dir: &Path, limit: u64) {
    let limits = Rlimit { current: Some(limit), maximum: Some(limit) };
    setrlimit(Resource::Nofile, limits).unwrap();
    let db = match options().write_deadline(Some(std::time::Duration::from_secs(2))).open(dir) {
        Ok(db) => db,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            eprintln!("opened: no");
            return;
        }
    };
    let (mut read, mut wrote) = (0, 0);
    for n in 0..KEYS {
        if let Some(found) = tolerate(db.get(key(n)), "get") {
            assert_eq!(found.unwrap(), value(n), "key {n} with {limit} handles");
            read += 1;
        }
    }
    let mut expected = 0..KEYS;
    for entry in db.iter() {
        let Some((found, _)) = tolerate(entry, "iter") else { break };
        assert_eq!(found, key(expected.next().unwrap()));
    }
    for n in KEYS..KEYS + 300 {
        match tolerate(db.put(key(n), value(n)), "put") {
            Some(()) => wrote += 1,
            None => break,
        }
    }
    tolerate(db.flush(), "flush");
    tolerate(db.compact_range::<&[u8], _>(..), "compact");
    tolerate(db.verify(&mut |_, _| {}), "verify");
    eprintln!("opened: yes");
    eprintln!("read: {read}");
    eprintln!("wrote: {wrote}");
}

/// How often each of the words was answered, and with what number.
fn answer(text: &str, word: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.strip_prefix(word))?;
    line.trim_start_matches(": ").trim().parse().ok()
}

fn make(dir: &Path) -> Db {
    let db = options().background_threads(0).open(dir).unwrap();
    for n in 0..KEYS {
        db.put(key(n), value(n)).unwrap();
    }
    db.flush().unwrap();
    db.compact_range::<&[u8], _>(..).unwrap();
    db
}

#[test]
fn a_process_without_handles_gets_errors() {
    if let Some(dir) = std::env::var_os(DIR) {
        let limit = std::env::var(LIMIT).unwrap().parse().unwrap();
        return process(Path::new(&dir), limit);
    }
    let (mut refused, mut partly, mut whole) = (0, 0, 0);
    for limit in [4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 20, 24, 32, 48, 64, 128] {
        let root = tempfile::tempdir().unwrap();
        drop(make(root.path()));
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
            .env(DIR, root.path())
            .env(LIMIT, limit.to_string())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "with {limit} handles: {text}");
        assert!(!text.contains("panicked"), "with {limit} handles: {text}");
        match answer(&text, "read") {
            None => refused += 1,
            Some(KEYS) => whole += 1,
            Some(_) => partly += 1,
        }
        let wrote = answer(&text, "wrote").unwrap_or_default();
        let db = options().open(root.path());
        let db = db.unwrap_or_else(|error| panic!("after {limit} handles: {error}"));
        for n in 0..KEYS + wrote {
            let found = db.get(key(n)).unwrap();
            assert!(found.is_some_and(|found| found == value(n)), "{n} after {limit} handles");
        }
        db.verify(&mut |_, _| {}).unwrap();
    }
    assert!(refused > 0 && partly > 0 && whole > 0, "{refused} {partly} {whole}");
}
