//! A process on the real file system, killed at random moments.
//!
//! After each kill, of each writer's batches exactly the first j are there, with (last acknowledged)
//! <= j <= (last begun), whole and over both keyspaces; whatever their durability, since the system
//! goes on. The next process goes on from there, in the same directory.
//!
//! `ESKER_KILL_CYCLES` sets the number of kills (default: 100), `ESKER_PROCESS_SEED` what the
//! batches hold and when it is killed.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and may use threads and clocks"
)]

#[allow(dead_code, reason = "the other tests with a process use the rest")]
mod process;

use std::path::Path;
use std::time::Duration;

use process::End;
use process::Model;
use process::Reported;
use process::Running;
use process::from_env;
use process::mix;
use process::options;

/// When to kill a process.
#[derive(Debug)]
enum When {
    /// So long after it was started: in the middle of opening.
    Started(Duration),
    /// So long after its first batch was begun.
    Writing(Duration),
}

impl When {
    fn random(random: u64) -> When {
        let micros = |below| Duration::from_micros((random >> 8) % below);
        match random % 10 {
            0..2 => When::Started(micros(30_000)),
            2..7 => When::Writing(micros(50_000)),
            _ => When::Writing(micros(300_000)),
        }
    }

    fn run_and_kill(&self, dir: &Path, seed: u64, cycle: u64) -> Reported {
        let running = Running::start("kills_lose_nothing_that_was_acknowledged", dir, seed, cycle);
        match self {
            When::Started(delay) => std::thread::sleep(*delay),
            When::Writing(delay) => {
                running.wait_for_first_line();
                std::thread::sleep(*delay);
            }
        }
        running.kill()
    }
}

#[test]
fn kills_lose_nothing_that_was_acknowledged() {
    process::write_if_asked();
    let seed = process::seed();
    let cycles = from_env("ESKER_KILL_CYCLES").unwrap_or(100);
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("db");
    let mut model = Model::default();
    let mut before_writing = 0;
    for cycle in 0..cycles {
        let random = mix(seed ^ mix(cycle));
        let when = When::random(random);
        let what = format!("seed {seed}, kill {cycle}, {when:?}");
        let reported = when.run_and_kill(&dir, seed, cycle);
        assert!(reported.failures.is_empty(), "{what}: {:?}", reported.failures);
        before_writing += u64::from(!reported.wrote());
        let db = options(cycle + 1).open(&dir);
        let db = db.unwrap_or_else(|error| panic!("{what}: {error}"));
        model.check(&db, seed, &reported, End::Killed, &what);
        if random.is_multiple_of(3) {
            db.close().unwrap();
        }
    }
    let batches = model.batches();
    eprintln!("{cycles} kills, {before_writing} before writing; {batches} batches; seed {seed}");
    assert!(batches > cycles && before_writing * 2 <= cycles, "seed {seed}: it hardly ran");
}
