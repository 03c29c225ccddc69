//! The n-th call of each kind fails, for n = 0, 1, 2, … until none is left to fail: once or for
//! good, before or after it has done its work. Never a panic, a hang, a wrong answer or a lost
//! acknowledgement; and when the cause is mended, the database opens and works again. Also if the
//! calls that fail are those of a recovery from a crash, and if a crash follows.
//!
//! Of the reads of a workload only each fifth is tried, unless `ESKER_FAULT_ALL` is set.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use esker::Compression;
use esker::Db;
use esker::Durability;
use esker::KeyspaceOptions;
use esker::Options;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::FaultEffect;
use esker::fs::FaultError;
use esker::fs::FaultFs;
use esker::fs::FaultOp;
use esker::fs::FaultRule;
use esker::fs::MemFs;

const DIR: &str = "/db";

type State = BTreeMap<Vec<u8>, Vec<u8>>;

fn options() -> Options {
    Options::new()
        .memtable_bytes(1 << 10)
        .block_bytes(256)
        .file_bytes(4 << 10)
        .wal_bytes(16 << 10)
        .memory_budget(32 << 10)
        .durability(Durability::Os)
        .mmap(false)
        .background_threads(0)
}

fn contents(db: &Db) -> esker::Result<State> {
    let mut state = State::new();
    for name in db.keyspaces() {
        for entry in db.keyspace(&name)?.iter() {
            let (key, value) = entry?;
            state.insert([name.as_bytes(), b"/", &key[..]].concat(), value.to_vec());
        }
    }
    Ok(state)
}

/// What was acknowledged, and what may be there besides.
#[derive(Default)]
struct Model {
    /// After each acknowledged write, from none on.
    states: Vec<State>,
    /// The first write that failed and turned the database read-only: in or out.
    doubtful: Option<State>,
    durable: usize,
}

impl Model {
    fn last(&self) -> &State {
        self.states.last().unwrap()
    }

    fn check(&self, found: &State, low: usize, what: &str) {
        let allowed = self.states[low..].iter().chain(&self.doubtful).any(|state| state == found);
        assert!(
            allowed,
            "{what}: found {} entries; acknowledged {}, from {low} of {} on",
            found.len(),
            self.last().len(),
            self.states.len() - 1
        );
    }
}

/// Writes, flushes, compacts, creates and drops keyspaces. Goes on after errors.
fn work(db: &Db, model: &mut Model, reads_fail: bool, what: &str) {
    for step in 0..36_usize {
        let read_only = db.stats().read_only.is_some();
        let result = match step % 12 {
            5 => db.flush().inspect(|()| model.durable = model.states.len() - 1),
            7 => db.sync().inspect(|()| model.durable = model.states.len() - 1),
            9 => db.run_one_job().map(drop),
            10 if step > 20 => db.compact_range::<&[u8], _>(..),
            11 => drop_side(db, model),
            _ => write(db, model, step),
        };
        if read_only && !matches!(step % 12, 10) {
            assert!(result.is_err(), "{what}: step {step} of a read-only database succeeded");
        }
        match contents(db) {
            Ok(found) => assert!(found == *model.last(), "{what}: wrong answers after {step}"),
            Err(error) => assert!(reads_fail, "{what}: reads end after {step}: {error}"),
        }
    }
}

fn drop_side(db: &Db, model: &mut Model) -> esker::Result<()> {
    let mut after = model.last().clone();
    after.retain(|key, _| !key.starts_with(b"side"));
    let result = match db.drop_keyspace("side") {
        Err(esker::Error::NoSuchKeyspace { .. }) => return db.sync(),
        other => other,
    };
    acknowledge(db, model, after, &result);
    if result.is_ok() {
        model.durable = model.states.len() - 1;
    }
    result
}

fn write(db: &Db, model: &mut Model, step: usize) -> esker::Result<()> {
    let side = db.keyspace("side")?;
    let mut batch = WriteBatch::new();
    let mut after = model.last().clone();
    for n in 0..3 {
        let key = format!("{:02}", (step * 7 + n * 5) % 20);
        let value = format!("{step}.{n} {}", "x".repeat(step * 37 % 300));
        batch.put(db, &key, &value).put(&side, &key, &value);
        after.insert(format!("default/{key}").into_bytes(), value.clone().into_bytes());
        after.insert(format!("side/{key}").into_bytes(), value.into_bytes());
    }
    let gone = format!("{:02}", step * 3 % 20);
    batch.delete(db, &gone);
    after.remove(format!("default/{gone}").as_bytes());
    let durable = step.is_multiple_of(3);
    if durable {
        batch.durability(Durability::Sync);
    }
    let result = db.write(batch);
    acknowledge(db, model, after, &result);
    if durable && result.is_ok() {
        model.durable = model.states.len() - 1;
    }
    result
}

fn acknowledge(db: &Db, model: &mut Model, after: State, result: &esker::Result<()>) {
    match result {
        Ok(()) => model.states.push(after),
        Err(_) if db.stats().read_only.is_some() && model.doubtful.is_none() => {
            model.doubtful = Some(after);
        }
        Err(_) => {}
    }
}

/// The cause is mended: the database opens, holds what it must, and takes writes.
fn check_after(fs: &MemFs, model: &Model, low: usize, what: &str) {
    let db = options().fs(Arc::new(fs.clone())).open(DIR);
    let db = db.unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut state = contents(&db).unwrap();
    model.check(&state, low, what);
    db.verify(&mut |_, _| {}).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut batch = WriteBatch::new();
    batch.put(&db, "after", "it").durability(Durability::Sync);
    db.write(batch).unwrap_or_else(|error| panic!("{what}: {error}"));
    state.insert(b"default/after".to_vec(), b"it".to_vec());
    db.flush().unwrap();
    let after = options().fs(Arc::new(fs.crash_clone(CrashMode::Strict, 0))).open(DIR);
    let after = after.unwrap_or_else(|error| panic!("{what}, and again: {error}"));
    assert!(contents(&after).unwrap() == state, "{what}: lost after it was mended");
}

/// Opens with `rule` in force, works, closes, mends, looks. False if the rule met no call.
fn run(before: Option<&MemFs>, start: &State, rule: FaultRule, in_open: bool, what: &str) -> bool {
    let mem = before.map_or_else(MemFs::new, |fs| fs.crash_clone(CrashMode::KeepAll, 0));
    let fs = FaultFs::new(Arc::new(mem.clone()));
    let reads_fail = matches!(rule.op, FaultOp::Read | FaultOp::Open);
    let mut model = Model { states: vec![start.clone()], ..Model::default() };
    fs.inject(rule);
    let opened = options().fs(Arc::new(fs.clone())).open(DIR);
    if let (Ok(db), false) = (&opened, in_open) {
        work(db, &mut model, reads_fail, what);
    }
    for mode in [CrashMode::KeepAll, CrashMode::Strict, CrashMode::Subset] {
        let low = if mode == CrashMode::KeepAll { model.states.len() - 1 } else { model.durable };
        let crash = mem.crash_clone(mode, model.states.len() as u64);
        check_after(&crash, &model, low, &format!("{what}, {mode:?}"));
    }
    drop(opened);
    let met = fs.injected() > 0;
    fs.clear();
    check_after(&mem, &model, model.states.len() - 1, &format!("{what}, closed"));
    met
}

fn sweep(before: Option<&MemFs>, start: &State, in_open: bool) {
    let all = in_open || std::env::var("ESKER_FAULT_ALL").is_ok();
    let mut ways = 0;
    let mut runs = 0;
    for op in FaultOp::ALL {
        let stride = if op == FaultOp::Read && !all { 5 } else { 1 };
        let effects: &[FaultEffect] = match op {
            FaultOp::Write => &[FaultEffect::Fail, FaultEffect::ShortWriteThenFail],
            FaultOp::SyncData => &[FaultEffect::Fail, FaultEffect::SyncFailsAndDropsPages],
            FaultOp::Rename | FaultOp::Create | FaultOp::SyncDir | FaultOp::Remove => {
                &[FaultEffect::Fail, FaultEffect::FailAfterDoing]
            }
            _ => &[FaultEffect::Fail],
        };
        for effect in effects {
            for forever in [false, true] {
                ways += 1;
                let mut n = 0;
                loop {
                    let errors = [FaultError::EIO, FaultError::ENOSPC, FaultError::EMFILE];
                    let error = errors[(ways + n as usize / stride as usize) % errors.len()];
                    let rule = FaultRule::new(op, error).nth(n).effect(*effect);
                    let rule = if forever { rule.forever() } else { rule };
                    let what = format!("{op:?} {n} {effect:?} forever={forever}");
                    if !run(before, start, rule, in_open, &what) {
                        break;
                    }
                    n += stride;
                    runs += 1;
                }
            }
        }
    }
    assert!(runs > 80, "only {runs} calls failed");
}

#[test]
fn any_call_of_a_workload_may_fail() {
    sweep(None, &State::new(), false);
}

#[test]
fn any_call_of_an_open_may_fail() {
    let mem = MemFs::new();
    let db = options().fs(Arc::new(mem.clone())).open(DIR).unwrap();
    let mut model = Model { states: vec![State::new()], ..Model::default() };
    work(&db, &mut model, false, "before");
    // Not closed: there is a log to replay.
    for mode in CrashMode::ALL {
        let crashed = mem.crash_clone(mode, 1);
        let left = options().fs(Arc::new(crashed.crash_clone(CrashMode::KeepAll, 0))).open(DIR);
        let left = contents(&left.unwrap()).unwrap();
        let low = if mode == CrashMode::KeepAll { model.states.len() - 1 } else { model.durable };
        model.check(&left, low, &format!("{mode:?}"));
        sweep(Some(&crashed), &left, true);
    }
}

/// With threads, and calls that fail now and then: no hang, no panic, nothing acknowledged is lost.
#[test]
fn threads_survive_failing_calls() {
    for round in 0..24_u64 {
        let mem = MemFs::new();
        let fs = FaultFs::new(Arc::new(mem.clone()));
        let options = options().background_threads(2).write_deadline(Some(Duration::from_secs(20)));
        let db = options.fs(Arc::new(fs.clone())).open(DIR).unwrap();
        let op = [FaultOp::Write, FaultOp::SyncData, FaultOp::Create, FaultOp::SyncDir];
        let rule = FaultRule::new(op[round as usize % 4], FaultError::EIO).nth(5 + round * 3);
        fs.inject(if round % 8 < 4 { rule } else { rule.forever() });
        let acknowledged: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..3_u8)
                .map(|writer| {
                    let db = &db;
                    scope.spawn(move || {
                        let mut acknowledged = Vec::new();
                        for n in 0..60_u8 {
                            let mut batch = WriteBatch::new();
                            batch.put(db, [writer, n], vec![n; 100]);
                            batch.durability(if n % 4 == 0 {
                                Durability::Sync
                            } else {
                                Durability::Os
                            });
                            if db.write(batch).is_ok() {
                                acknowledged.push(vec![writer, n]);
                            }
                        }
                        acknowledged
                    })
                })
                .collect();
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
        });
        drop(db);
        fs.clear();
        let db = self::options().fs(Arc::new(mem)).open(DIR).unwrap();
        for key in acknowledged {
            assert!(db.contains_key(&key).unwrap(), "round {round}: {key:?}");
        }
    }
}

/// A full disk stops the writers with an error that says so; once there is space, they go on.
#[test]
fn writes_resume_when_there_is_space_again() {
    let parts = [".sst", ".wal", ".blob"];
    for (threads, part) in parts.into_iter().flat_map(|part| [(0, part), (2, part)]) {
        let mem = MemFs::new();
        let fs = FaultFs::new(Arc::new(mem));
        let options = options().background_threads(threads).fs(Arc::new(fs.clone()));
        let db = options.open(DIR).unwrap();
        db.keyspace_with("default", KeyspaceOptions::new().separate_values(50)).unwrap();
        let rule = FaultRule::new(FaultOp::Create, FaultError::ENOSPC).path_contains(part);
        fs.inject(rule.forever());
        let what = format!("{part} with {threads} threads");
        let mut acknowledged = 0_u32;
        let error = loop {
            match db.put(acknowledged.to_be_bytes(), [7; 100]) {
                Ok(()) => acknowledged += 1,
                Err(error) => break error,
            }
            assert!(acknowledged < 10_000, "{what}: the memory is bounded");
        };
        assert_eq!(error.kind(), esker::ErrorKind::Io, "{what}: {error}");
        assert_eq!(db.iter().count(), acknowledged as usize, "{what}: reads go on");
        fs.clear();
        let mut tries = 0;
        while db.put("mended", "x").is_err() {
            tries += 1;
            assert!(tries < 500, "{what}: writes do not go on");
            std::thread::sleep(Duration::from_millis(20));
        }
        db.flush().unwrap();
        assert_eq!(db.iter().count(), acknowledged as usize + 1, "{what}");
    }
}

/// What could not be written back is gone, and the sync at the end of the file does not say so: so
/// the file must not be used. Those of flushes and of a compaction, and of their blob files. (The other
/// tests write files too short to be written back.)
#[test]
fn a_file_of_which_a_part_was_not_written_back_is_not_used() {
    let value = |n: u32| vec![n as u8; 60 << 10];
    let mut failed = [0; 2];
    for (kind, part) in [".sst", ".blob"].into_iter().enumerate() {
        for n in 0.. {
            let what = format!("write-back {n} of {part}");
            let mem = MemFs::new();
            let fs = FaultFs::new(Arc::new(mem.clone()));
            let options = options().memtable_bytes(2 << 20).file_bytes(8 << 20);
            let options = options.wal_bytes(16 << 20).memory_budget(16 << 20);
            let options = options.compression(Compression::None).durability(Durability::Sync);
            let db = options.clone().fs(Arc::new(fs.clone())).open(DIR).unwrap();
            if part == ".blob" {
                db.keyspace_with("default", KeyspaceOptions::new().separate_values(50)).unwrap();
            }
            let rule = FaultRule::new(FaultOp::WriteBack, FaultError::EIO).nth(n);
            fs.inject(rule.path_contains(part).effect(FaultEffect::SyncFailsAndDropsPages));
            let mut put = 0_u32;
            while put < 90 && db.put(put.to_be_bytes(), value(put)).is_ok() {
                put += 1;
            }
            let all = db.flush().and_then(|()| db.compact_range::<&[u8], _>(..));
            let (met, crashed) = (fs.injected(), mem.crash_clone(CrashMode::Strict, 0));
            fs.clear();
            assert_eq!(met > 0, put < 90 || all.is_err(), "{what}: who waits for it is told");
            let state = |db: &Db| {
                (0..put).all(|n| db.get(n.to_be_bytes()).unwrap().unwrap() == value(n)[..])
            };
            assert!(put > 0 && state(&db), "{what}");
            drop(db);
            for left in [crashed, mem.crash_clone(CrashMode::Strict, 0)] {
                let db = options.clone().fs(Arc::new(left)).open(DIR).unwrap();
                assert!(state(&db), "{what}: lost");
                db.verify(&mut |_, _| {}).unwrap();
                db.flush().and_then(|()| db.compact_range::<&[u8], _>(..)).unwrap();
                assert!(state(&db), "{what}: lost when it was mended");
            }
            if met == 0 {
                break;
            }
            failed[kind] += 1;
        }
    }
    // Flushes alone write five pieces of SSTs.
    assert!(failed[0] > 5 && failed[1] > 2, "only {failed:?} calls failed");
}

/// After a failed sync nobody can know what is durable: closing must not claim it.
#[test]
fn closing_tells_if_acknowledged_writes_are_not_durable() {
    let mem = MemFs::new();
    let fs = FaultFs::new(Arc::new(mem.clone()));
    let db = options().fs(Arc::new(fs.clone())).open(DIR).unwrap();
    db.put("k", "v").unwrap();
    let rule = FaultRule::new(FaultOp::SyncData, FaultError::EIO);
    fs.inject(rule.effect(FaultEffect::SyncFailsAndDropsPages));
    db.sync().unwrap_err();
    assert_eq!(db.close().unwrap_err().kind(), esker::ErrorKind::ReadOnly);
    let lost = options().fs(Arc::new(mem.crash_clone(CrashMode::Strict, 0))).open(DIR).unwrap();
    assert_eq!(lost.get("k").unwrap(), None);
}

/// A database of several files on several levels, closed, and what it holds.
fn filled() -> (MemFs, Vec<(String, String)>) {
    let mem = MemFs::new();
    let db = options().fs(Arc::new(mem.clone())).open(DIR).unwrap();
    for n in 0..120 {
        let key = format!("{:03}", n * 7 % 120);
        db.put(&key, format!("{key} {}", "x".repeat(60))).unwrap();
        if n % 3 == 0 {
            db.run_one_job().unwrap();
        }
    }
    db.flush().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let all = db.iter().map(|entry| entry.map(|(k, v)| (text(&k), text(&v))).unwrap()).collect();
    (mem, all)
}

/// Opens what [`filled`] gives with nothing cached, and lets the n-th read or open of a file fail.
fn with_failing_read(mem: &MemFs, op: FaultOp, n: u64) -> (FaultFs, Db) {
    let fs = FaultFs::new(Arc::new(mem.crash_clone(CrashMode::KeepAll, 0)));
    let db = options().fs(Arc::new(fs.clone())).open(DIR).unwrap();
    fs.inject(FaultRule::new(op, FaultError::EIO).nth(n).path_contains(".sst"));
    (fs, db)
}

/// What an iterator returns before an error is right, and after it comes nothing, from either end.
#[test]
fn an_iterator_that_met_an_error_gives_nothing_more() {
    let (mem, all) = filled();
    for (op, calls_min) in [(FaultOp::Read, 8), (FaultOp::Open, 2)] {
        for way in 0..3 {
            for n in 0.. {
                let what = format!("{op:?} {n}, way {way}");
                let (fs, db) = with_failing_read(&mem, op, n);
                let (mut iter, mut left) =
                    (db.iter(), std::collections::VecDeque::from(all.clone()));
                let mut failed = false;
                for step in 0.. {
                    let back = way == 1 || (way == 2 && step % 3 == 0);
                    let (found, model) = if back {
                        (iter.next_back(), left.pop_back())
                    } else {
                        (iter.next(), left.pop_front())
                    };
                    match found {
                        None => {
                            assert!(model.is_none(), "{what}: it ends too early");
                            break;
                        }
                        Some(Ok((key, value))) => {
                            let (model_key, model_value) = model.unwrap();
                            assert!(key == *model_key && value == *model_value, "{what}: {key:?}");
                        }
                        Some(Err(error)) => {
                            assert_eq!(error.kind(), esker::ErrorKind::Io, "{what}: {error}");
                            assert!(iter.next().is_none() && iter.next_back().is_none(), "{what}");
                            assert!(iter.next().is_none() && iter.next_back().is_none(), "{what}");
                            failed = true;
                            break;
                        }
                    }
                }
                assert_eq!(failed, fs.injected() > 0, "{what}: an error was kept back");
                if !failed {
                    assert!(n >= calls_min, "only {n} calls failed");
                    break;
                }
            }
        }
    }
}

/// A cursor that met an error stands nowhere and says so, until a seek brings it back.
#[test]
fn a_cursor_stays_in_error_until_it_seeks() {
    let (mem, all) = filled();
    for forward in [true, false] {
        for n in 0.. {
            let what = format!("read {n}, forward: {forward}");
            let (fs, db) = with_failing_read(&mem, FaultOp::Read, n);
            let mut cursor = db.cursor();
            let walk = |cursor: &mut esker::Cursor| -> esker::Result<usize> {
                let mut on =
                    if forward { cursor.seek_to_first()? } else { cursor.seek_to_last()? };
                let mut count = 0;
                while on {
                    let at = if forward { count } else { all.len() - 1 - count };
                    assert_eq!(cursor.key(), Some(all[at].0.as_bytes()), "{what}");
                    assert_eq!(cursor.value(), Some(all[at].1.as_bytes()), "{what}");
                    count += 1;
                    on = if forward { cursor.next()? } else { cursor.prev()? };
                }
                Ok(count)
            };
            let walked = walk(&mut cursor);
            if let Ok(count) = walked {
                assert!(count == all.len() && fs.injected() == 0 && n >= 8, "{what}");
                break;
            }
            for _ in 0..2 {
                assert!(!cursor.valid() && cursor.key().is_none(), "{what}");
                assert!(cursor.entry().is_none() && cursor.value().is_none(), "{what}");
                assert!(cursor.next().is_err() && cursor.prev().is_err(), "{what}");
            }
            assert_eq!(walk(&mut cursor).unwrap(), all.len(), "{what}: after a seek");
        }
    }
}
