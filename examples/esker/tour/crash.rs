//! The crashes of the tour: a child process is killed in mid-write, again and again, and the
//! database it leaves is recovered and checked.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use esker::Db;
use serde_json::json;

use crate::data;
use crate::data::Random;
use crate::failure::Failure;
use crate::failure::Result;
use crate::latency;
use crate::progress::Progress;
use crate::text;
use crate::tour::report::Check;
use crate::tour::writer;
use crate::tour::writer::RECORDS;
use crate::tour::writer::THREADS;

pub(crate) const ROUNDS: u64 = 5;
/// What a record takes in the log, about.
const RECORD_BYTES: u64 = 121;
/// How long a child may take before it has acknowledged anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came of the crashes.
pub(crate) struct Crashes {
    pub(crate) checks: Vec<Check>,
    pub(crate) json: serde_json::Value,
}

/// What is found in a database after a crash.
#[derive(Debug, Default, PartialEq, Eq)]
struct Findings {
    /// Batches that are there whole, by thread.
    whole: [u64; THREADS as usize],
    /// Acknowledged batches that are not there whole.
    lost: u64,
    /// Batches of which only a part is there.
    halves: u64,
    /// Batches that are there though an earlier one of their thread is not.
    holes: u64,
    /// Records that nobody wrote so.
    wrong: u64,
}

/// A writer that is killed whatever happens.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Victim {
    fn spawn(db: &Path, seed: u64, more: &[String]) -> Result<Victim> {
        let fail = |error: std::io::Error| Failure::io("start", "the child process", &error);
        let program = std::env::current_exe().map_err(fail)?;
        let child = Command::new(program)
            .arg("tour-writer")
            .arg(db)
            .arg(format!("--seed={seed}"))
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(fail)?;
        Ok(Victim(child))
    }

    /// Kills it. Returns false if it had ended by itself, for whatever reason.
    fn kill(&mut self) -> Result<bool> {
        let fail = |error: std::io::Error| Failure::io("kill", "the child process", &error);
        let running = self.0.try_wait().map_err(fail)?.is_none();
        self.0.kill().map_err(fail)?;
        self.0.wait().map_err(fail)?;
        Ok(running)
    }

    /// Why it ended by itself.
    fn last_words(&mut self) -> Failure {
        let mut words = String::new();
        if let Some(stderr) = &mut self.0.stderr {
            // Words that cannot be read are none.
            let _ = stderr.read_to_string(&mut words);
        }
        Failure::new(format!("the child process ended by itself: {}", words.trim()))
    }
}

/// Crashes a database in `path` several times and checks it after each.
pub(crate) fn run(path: &Path, seed: u64, log_bytes: u64, progress: &Progress) -> Result<Crashes> {
    let mut random = Random::new(seed);
    let mut start = [0; THREADS as usize];
    let mut sum = Findings::default();
    let (mut acked, mut slowest) = (0, Duration::ZERO);
    let bar = progress.entries("crashing", Some(ROUNDS));
    for round in 0..ROUNDS {
        let last_acks = write_and_kill(path, seed, start, &mut random)?;
        let opening = latency::now();
        let db = writer::options().open(path)?;
        slowest = slowest.max(opening.elapsed());
        let found = examine(&db, seed, last_acks)?;
        db.close()?;
        acked = last_acks.iter().sum();
        start = found.whole;
        sum = Findings {
            whole: found.whole,
            lost: sum.lost + found.lost,
            halves: sum.halves + found.halves,
            holes: sum.holes + found.holes,
            wrong: sum.wrong + found.wrong,
        };
        bar.set(round + 1);
    }
    drop(bar);
    let db = writer::options().open(path)?;
    let verified = db.verify(&mut |_, _| {});
    db.close()?;
    let unflushed = crash_with_full_log(&path.with_extension("log"), seed, log_bytes, progress)?;
    let crashes = ROUNDS + 1;
    Ok(Crashes {
        json: json!({
            "kills": crashes,
            "batches_acknowledged": acked,
            "batches_found": sum.whole.iter().sum::<u64>(),
            "batches_lost": sum.lost,
            "batches_half": sum.halves,
            "slowest_reopening_ms": slowest.as_secs_f64() * 1e3,
            "unflushed_records": unflushed.records,
            "unflushed_log_bytes": unflushed.log_bytes,
            "unflushed_replay_ms": unflushed.replay.as_secs_f64() * 1e3,
            "unflushed_reopening_ms": unflushed.reopening.as_secs_f64() * 1e3,
        }),
        checks: checks(&sum, acked, slowest, verified, &unflushed),
    })
}

fn checks(
    sum: &Findings,
    acked: u64,
    slowest: Duration,
    verified: esker::Result<esker::Verified>,
    unflushed: &Unflushed,
) -> Vec<Check> {
    let acked = text::plural(acked, "acknowledged batch");
    let found: u64 = sum.whole.iter().sum();
    vec![
        Check::new(
            format!("killed {ROUNDS} times in mid-write, and every acknowledged batch is there"),
            sum.lost == 0,
            format!("{acked}, {} lost; reopened in {} at most", sum.lost, text::duration(slowest)),
        ),
        Check::new(
            "no batch is there in part, none out of order, none altered",
            sum.halves + sum.holes + sum.wrong == 0,
            format!(
                "{} batches over two keyspaces: {} halves, {} holes, {} wrong records",
                text::count(found),
                sum.halves,
                sum.holes,
                sum.wrong
            ),
        ),
        Check::new(
            "every byte of the crashed database checks out",
            verified.is_ok(),
            match verified {
                Ok(found) => text::plural(found.files, "file") + ", " + &text::bytes(found.bytes),
                Err(error) => error.to_string(),
            },
        ),
        Check::new(
            "killed with a long log of records that no file has, and all are there",
            unflushed.found == unflushed.records,
            format!(
                "{} of {} records; {} of log read back in {}, {}/s; reopened for writing in {}",
                text::count(unflushed.found),
                text::count(unflushed.records),
                text::bytes(unflushed.log_bytes),
                text::duration(unflushed.replay),
                text::bytes((unflushed.log_bytes as f64 / unflushed.replay.as_secs_f64()) as u64),
                text::duration(unflushed.reopening)
            ),
        ),
    ]
}

/// Lets a child write from batch `start` of each thread on, kills it, and returns how many batches
/// of each thread are acknowledged in all.
fn write_and_kill(
    path: &Path,
    seed: u64,
    start: [u64; THREADS as usize],
    random: &mut Random,
) -> Result<[u64; THREADS as usize]> {
    let starts: Vec<String> = start.iter().map(|start| format!("--start={start}")).collect();
    let mut victim = Victim::spawn(path, seed, &starts)?;
    let Some(stdout) = victim.0.stdout.take() else {
        return Err(Failure::new("the child process has no output"));
    };
    let acks = AtomicU64::new(0);
    let delay = Duration::from_millis(20 + random.below(280));
    let begun = latency::now();
    let (next, running) = std::thread::scope(|scope| {
        let listener = scope.spawn(|| {
            let mut next = start;
            for line in BufReader::new(stdout).lines() {
                let Some((thread, number)) = line.ok().as_deref().and_then(parse_ack) else {
                    continue;
                };
                if let Some(next) = next.get_mut(thread) {
                    *next = number + 1;
                }
                acks.fetch_add(1, Relaxed);
            }
            next
        });
        while acks.load(Relaxed) < 20 && begun.elapsed() < PATIENCE && !listener.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(delay);
        let running = victim.kill();
        (listener.join(), running)
    });
    let next = next.map_err(|_| Failure::new("a thread of the tour panicked"))?;
    if !running? {
        return Err(victim.last_words());
    }
    if acks.load(Relaxed) == 0 {
        return Err(Failure::new("the child process wrote nothing for a minute"));
    }
    Ok(next)
}

fn parse_ack(line: &str) -> Option<(usize, u64)> {
    let (thread, number) = line.split_once(' ')?;
    Some((thread.parse().ok()?, number.parse().ok()?))
}

/// Looks at every record. `acked`: so many batches of each thread are acknowledged.
fn examine(db: &Db, seed: u64, acked: [u64; THREADS as usize]) -> Result<Findings> {
    let mut found = Findings::default();
    let mut records: [Vec<u64>; THREADS as usize] = Default::default();
    let mut last = [[None; writer::KEYSPACES.len()]; THREADS as usize];
    let mut expected = Vec::new();
    for (side, name) in writer::KEYSPACES.iter().enumerate() {
        let keyspace = db.keyspace(name)?;
        for entry in keyspace.prefix("batch/") {
            let (key, value) = entry?;
            let batch = writer::batch_of(&key).filter(|(thread, _)| *thread < THREADS);
            let (Some((thread, batch)), Ok(key)) = (batch, std::str::from_utf8(&key)) else {
                found.wrong += 1;
                continue;
            };
            writer::value(seed, key, &mut expected);
            if value != expected {
                found.wrong += 1;
                continue;
            }
            let counts = &mut records[thread as usize];
            counts.resize(counts.len().max(batch as usize + 1), 0);
            counts[batch as usize] += 1;
        }
        for thread in 0..THREADS {
            let value = keyspace.get(writer::last_key(thread))?;
            let number =
                value.and_then(|value| String::from_utf8(value.to_vec()).ok()?.parse().ok());
            last[thread as usize][side] = number;
        }
    }
    for thread in 0..THREADS as usize {
        tally(&records[thread], acked[thread], &mut found, thread);
        let newest = found.whole[thread].checked_sub(1);
        if last[thread].iter().any(|last| *last != newest) {
            found.halves += 1;
        }
    }
    Ok(found)
}

/// Judges one thread by how many records of each of its batches are there.
fn tally(records: &[u64], acked: u64, found: &mut Findings, thread: usize) {
    let all = RECORDS * writer::KEYSPACES.len() as u64;
    let whole = records.iter().take_while(|count| **count == all).count();
    found.whole[thread] = whole as u64;
    let rest = records.get(whole..).unwrap_or_default();
    found.halves += rest.iter().filter(|count| **count > 0 && **count < all).count() as u64;
    found.holes += rest.iter().filter(|count| **count == all).count() as u64;
    let there = records.iter().take(acked as usize).filter(|count| **count == all).count();
    found.lost += acked - there as u64;
}

/// The crash with a log full of records that no file has.
struct Unflushed {
    records: u64,
    found: u64,
    log_bytes: u64,
    /// Opened for reading: nothing but the log's way into memory.
    replay: Duration,
    /// Opened for writing with the default budget, which means flushes if the log is longer.
    reopening: Duration,
}

fn crash_with_full_log(
    path: &Path,
    seed: u64,
    log_bytes: u64,
    progress: &Progress,
) -> Result<Unflushed> {
    let _bar = progress.wait("crashing with a long log");
    let records = (log_bytes / RECORD_BYTES).max(100);
    let mut victim = Victim::spawn(path, seed, &[format!("--unflushed={records}")])?;
    let Some(stdout) = victim.0.stdout.take() else {
        return Err(Failure::new("the child process has no output"));
    };
    let mut line = String::new();
    let read = BufReader::new(stdout).read_line(&mut line);
    let written = line.strip_prefix("filled ").and_then(|bytes| bytes.trim_end().parse().ok());
    let (Ok(_), Some(log_bytes)) = (read, written) else {
        return Err(victim.last_words());
    };
    if !victim.kill()? {
        return Err(victim.last_words());
    }
    let options = esker::Options::new().create_if_missing(false);
    let opening = latency::now();
    let reader = options.clone().read_only(true).open(path)?;
    let replay = opening.elapsed();
    drop(reader);
    let opening = latency::now();
    let db = options.open(path)?;
    let reopening = opening.elapsed();
    let mut found = 0;
    let mut expected = Vec::new();
    for (index, entry) in (0..records).zip(db.iter()) {
        let (key, value) = entry?;
        data::value(seed, index, 1, &mut expected);
        found += u64::from(key == data::key(index) && value == expected);
    }
    db.close()?;
    Ok(Unflushed { records, found, log_bytes, replay, reopening })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(records: &[u64], acked: u64) -> Findings {
        let mut found = Findings::default();
        tally(records, acked, &mut found, 0);
        found
    }

    #[test]
    fn whole_batches_up_to_the_end_are_well() {
        assert_eq!(judge(&[10, 10, 10], 3), Findings { whole: [3, 0], ..Findings::default() });
        assert_eq!(judge(&[10, 10, 10], 2), Findings { whole: [3, 0], ..Findings::default() });
        assert_eq!(judge(&[], 0), Findings::default());
    }

    #[test]
    fn what_is_lost_half_or_missing_is_seen() {
        assert_eq!(judge(&[10, 10], 3).lost, 1);
        assert_eq!(judge(&[10, 9, 10], 3).lost, 1);
        assert_eq!(judge(&[10, 3], 1).halves, 1);
        assert_eq!(judge(&[10, 0, 10], 1).holes, 1);
        assert_eq!(judge(&[], 2).lost, 2);
    }
}
