//! The change feed: every batch, in order, whole, each once; from the log's history, then live.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use esker::ChangeBatch;
use esker::ChangeOp;
use esker::Changes;
use esker::Db;
use esker::Durability;
use esker::Error;
use esker::ErrorKind;
use esker::Options;
use esker::SeqNo;
use esker::WriteBatch;
use esker::fs::FaultError;
use esker::fs::FaultFs;
use esker::fs::FaultOp;
use esker::fs::FaultRule;
use esker::fs::Fs;
use esker::fs::MemFs;
use esker::fs::ReadMode;

use crate::support::DIR;
use crate::support::TestClock;
use crate::support::TestDb;
use crate::support::key;
use crate::support::tiny;
use crate::support::value;

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);
const ALL: (u64, Duration) = (u64::MAX, Duration::MAX);

fn keeping((bytes, age): (u64, Duration)) -> Options {
    tiny().log_retention(bytes, age)
}

/// The first key of each batch, and its sequence numbers.
fn shown(changes: &mut Changes) -> Vec<(Vec<u8>, u64, u64)> {
    changes
        .map(|batch| {
            let batch = batch.unwrap();
            (first_key(&batch), batch.first_seqno().get(), batch.last_seqno().get())
        })
        .collect()
}

fn first_key(batch: &ChangeBatch) -> Vec<u8> {
    match batch.iter().next().unwrap().op {
        ChangeOp::Put { key, .. } | ChangeOp::Delete { key } => key.to_vec(),
        other => panic!("{other:?}"),
    }
}

fn segments(fs: &MemFs) -> Vec<(String, u64)> {
    let entries = fs.list(Path::new(DIR)).unwrap();
    let wals = entries.into_iter().filter(|entry| entry.name.ends_with(".wal"));
    wals.map(|entry| (entry.name, entry.len)).collect()
}

/// Writes `n` batches of one put from the `from`th key on, with flushes in between.
fn fill(db: &Db, from: usize, n: usize) {
    for i in from..from + n {
        db.put(key(i), value(i, 0)).unwrap();
        if i % 40 == 39 {
            while db.run_one_job().unwrap() {}
        }
    }
}

#[test]
fn operations_come_as_they_were_written() {
    let db = TestDb::new();
    let users = db.keyspace("users").unwrap();
    let counts =
        db.keyspace_with("counts", esker::KeyspaceOptions::new().merge_operator(esker::Add));
    let counts = counts.unwrap();
    let mut batch = WriteBatch::new();
    batch.put(&users, "1", "Ada").put(&db, "k", "v").delete(&users, "0");
    batch.merge(&counts, "n", 7_i64.to_le_bytes());
    db.write(batch).unwrap();
    users.put_with_ttl("2", "Bob", Duration::from_secs(3600)).unwrap();
    db.write(WriteBatch::new()).unwrap();

    let mut changes = db.changes_since(SeqNo::ZERO).unwrap();
    assert_eq!((changes.seqno().get(), changes.lag()), (0, 5));
    let batch = changes.try_next().unwrap().unwrap();
    assert_eq!((batch.first_seqno().get(), batch.last_seqno().get(), batch.len()), (1, 4, 4));
    let found: Vec<_> = batch.iter().map(|c| (c.seqno.get(), c.keyspace.unwrap(), c.op)).collect();
    let operand = &7_i64.to_le_bytes()[..];
    assert_eq!(
        found,
        [
            (1, "users", ChangeOp::Put { key: b"1", value: b"Ada" }),
            (2, "default", ChangeOp::Put { key: b"k", value: b"v" }),
            (3, "users", ChangeOp::Delete { key: b"0" }),
            (4, "counts", ChangeOp::Merge { key: b"n", operand }),
        ]
    );
    assert_eq!((changes.seqno().get(), changes.lag()), (4, 1));
    let batch = changes.try_next().unwrap().unwrap();
    let change = batch.iter().next().unwrap();
    let ChangeOp::PutUntil { key: b"2", value: b"Bob", expiry_ms } = change.op else {
        panic!("{change:?}");
    };
    assert!(expiry_ms > 1_700_000_000_000);
    assert!(changes.try_next().unwrap().is_none());
    assert_eq!(changes.lag(), 0);

    // A number within a batch begins with that batch.
    let mut changes = db.changes_since(SeqNo::new(2)).unwrap();
    assert_eq!(changes.try_next().unwrap().unwrap().first_seqno().get(), 1);
    let mut changes = db.changes_since(SeqNo::new(4)).unwrap();
    assert_eq!(changes.try_next().unwrap().unwrap().first_seqno().get(), 5);

    // A keyspace that is gone has a number only.
    db.drop_keyspace("users").unwrap();
    let mut changes = db.changes_since(SeqNo::new(4)).unwrap();
    let batch = changes.try_next().unwrap().unwrap();
    assert_eq!(batch.iter().next().unwrap().keyspace, None);
    assert_eq!(batch.iter().next().unwrap().keyspace_id, change.keyspace_id);
}

#[test]
fn all_of_the_history_reads_again_after_flushes_and_reopening() {
    let mut db = TestDb::with(keeping(ALL));
    let mut from = 0;
    for _ in 0..4 {
        fill(&db, from, 300);
        from += 300;
        db.flush().unwrap();
        db.settle();
        db.reopen();
    }
    assert!(db.stats().wal.kept_segments > 8, "{:?}", db.stats().wal);
    let expected: Vec<_> = (0..from).map(|i| (key(i), i as u64 + 1, i as u64 + 1)).collect();
    let mut changes = db.changes_since(SeqNo::ZERO).unwrap();
    assert_eq!(shown(&mut changes), expected);
    let mut changes = db.changes_since(SeqNo::new(777)).unwrap();
    assert_eq!(shown(&mut changes), expected[777..]);

    // Read-only it reads the same, and nothing more will come.
    let options =
        tiny().read_only(true).fs(Arc::new(db.fs.crash_clone(esker::fs::CrashMode::KeepAll, 0)));
    let reading = options.open(DIR).unwrap();
    let mut changes = reading.changes_since(SeqNo::ZERO).unwrap();
    assert_eq!(shown(&mut changes), expected);
    assert!(changes.next_timeout(Duration::ZERO).unwrap().is_none());
    let error = changes.next_timeout(Duration::from_secs(1000)).unwrap_err();
    assert!(matches!(error, Error::ReadOnly { cause: None }), "{error}");
    drop((changes, reading));

    // Who says nothing about it leaves it as it is.
    let kept = db.stats().wal.kept_bytes;
    db.options = tiny().fs(Arc::new(db.fs.clone()));
    db.reopen();
    assert_eq!(shown(&mut db.changes_since(SeqNo::ZERO).unwrap()), expected);
    assert!(db.stats().wal.kept_bytes >= kept);
    db.options = keeping((0, Duration::MAX)).fs(Arc::new(db.fs.clone()));
    db.reopen();
    assert_eq!(db.stats().wal.kept_segments, 0);
    assert!(segments(&db.fs).len() <= 3, "{:?}", segments(&db.fs));
    let error = db.changes_since(SeqNo::ZERO).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
}

#[test]
fn who_fell_behind_is_told_from_where_to_start_over() {
    let db = TestDb::with(keeping((100 << 10, Duration::MAX)));
    let mut slow = db.changes_since(SeqNo::ZERO).unwrap();
    assert!(slow.try_next().unwrap().is_none());
    fill(&db, 0, 2000);
    db.flush().unwrap();
    db.settle();
    assert!(db.stats().wal.kept_bytes <= 100 << 10);

    let error = slow.try_next().unwrap_err();
    let Error::ChangesGone { since, oldest, newest } = error else { panic!("{error}") };
    assert_eq!((since.get(), newest), (0, db.seqno()));
    assert!(error.to_string().contains("start over from a snapshot"), "{error}");
    let before = SeqNo::new(oldest.get() - 1);
    assert!(matches!(db.changes_since(before), Err(Error::ChangesGone { .. })));
    let rest = shown(&mut db.changes_since(oldest).unwrap());
    assert_eq!(rest.len() as u64, newest.get() - oldest.get());

    // As the error says.
    let snapshot = db.snapshot();
    let mut replica: Vec<_> = snapshot
        .iter()
        .map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap())
        .collect();
    let mut changes = db.changes_since(snapshot.seqno()).unwrap();
    db.put("zzz", "after").unwrap();
    let batch = changes.try_next().unwrap().unwrap();
    assert_eq!(first_key(&batch), b"zzz");
    replica.push((b"zzz".to_vec(), b"after".to_vec()));
    assert_eq!(replica, db.dump());
}

#[test]
fn nobody_can_be_ahead_of_the_database() {
    let db = TestDb::new();
    db.put("k", "v").unwrap();
    db.changes_since(SeqNo::new(1)).unwrap();
    let error = db.changes_since(SeqNo::new(2)).unwrap_err();
    assert!(
        matches!(error, Error::ChangesGone { since, newest, .. } if since.get() == 2 && newest.get() == 1),
        "{error}"
    );
    db.changes_since(SeqNo::MAX).unwrap_err();
}

#[test]
fn a_feed_that_reads_a_segment_reads_it_to_its_end() {
    // Nothing is kept: each flush lets go of the log.
    let db = TestDb::new();
    for i in 0..20 {
        db.put(key(i), "v").unwrap();
    }
    let mut changes = db.changes_since(SeqNo::ZERO).unwrap();
    changes.try_next().unwrap().unwrap();
    db.flush().unwrap();
    db.settle();
    for i in 20..600 {
        db.put(key(i), value(i, 1)).unwrap();
    }
    db.flush().unwrap();
    db.settle();
    let mut seen = 1;
    let error = loop {
        match changes.try_next() {
            Ok(Some(batch)) => {
                assert_eq!(first_key(&batch), key(seen));
                seen += 1;
            }
            Ok(None) => panic!("all of it can no longer be there"),
            Err(error) => break error,
        }
    };
    assert!(seen >= 20, "{seen}");
    assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
}

#[test]
fn what_is_older_than_the_limit_goes() {
    const HOUR: u64 = 3_600_000;
    let clock = Arc::new(TestClock::default());
    clock.ms.store(1_700_000_000_000, Relaxed);
    let age = Duration::from_millis(24 * HOUR);
    let options = keeping((u64::MAX, age)).clock(clock.clone());
    let mut db = TestDb::with(options);
    let mut ends = Vec::new();
    for hour in 0..48_usize {
        fill(&db, hour * 100, 100);
        db.flush().unwrap();
        db.settle();
        clock.ms.fetch_add(HOUR, Relaxed);
        ends.push(db.seqno());
        if hour % 10 == 9 {
            // The age of a segment is not forgotten.
            db.reopen();
        }
    }
    db.settle();
    // A day is there, and little more.
    db.changes_since(ends[24]).unwrap();
    assert!(matches!(db.changes_since(ends[20]), Err(Error::ChangesGone { .. })));
    let rest = shown(&mut db.changes_since(ends[24]).unwrap());
    assert_eq!(rest.len(), 2300);

    // Nobody writes, and it goes all the same; but for what recovery needs.
    clock.ms.fetch_add(25 * HOUR, Relaxed);
    db.settle();
    assert_eq!(db.stats().wal.kept_segments, 0);
    db.changes_since(db.seqno()).unwrap();

    // A clock that was set back keeps longer.
    fill(&db, 0, 200);
    clock.ms.fetch_sub(100 * HOUR, Relaxed);
    db.flush().unwrap();
    db.settle();
    assert!(db.stats().wal.kept_segments > 0);
}

#[test]
fn only_what_is_durable_is_shown_unless_more_is_asked_for() {
    let db = TestDb::with(keeping(ALL).durability(Durability::Os));
    for i in 0..3 {
        db.put(key(i), "v").unwrap();
    }
    let mut safe = db.changes_since(SeqNo::ZERO).unwrap();
    let mut quick = db.changes_since(SeqNo::ZERO).unwrap().unsynced(true);
    assert_eq!((shown(&mut safe).len(), shown(&mut quick).len()), (0, 3));
    assert_eq!((safe.lag(), quick.lag()), (3, 0));
    db.sync().unwrap();
    assert_eq!(shown(&mut safe).len(), 3);
    let mut batch = WriteBatch::new();
    batch.put(&db, "k", "v").durability(Durability::Sync);
    db.write(batch).unwrap();
    assert_eq!((shown(&mut safe).len(), shown(&mut quick).len()), (1, 1));
}

#[test]
fn batches_larger_than_the_buffer_come_whole() {
    let db = TestDb::with(keeping(ALL).memory_budget(64 << 20).memtable_bytes(8 << 20));
    let mut changes = db.changes_since(SeqNo::ZERO).unwrap();
    for i in 0..40 {
        db.put(key(i), vec![i as u8; (i * i * 997) % 900_000]).unwrap();
        if i % 3 == 0 {
            let batch = changes.try_next().unwrap().unwrap();
            assert_eq!(first_key(&batch), key(i / 3));
        }
    }
    assert_eq!(shown(&mut changes).len(), 40 - 14);
}

/// The file and offset of an error.
fn place(error: &Error) -> (String, u64) {
    match error {
        Error::Corruption { file, offset, .. } => {
            (file.file_name().unwrap().to_string_lossy().into_owned(), *offset)
        }
        other => panic!("{other}"),
    }
}

fn flip(fs: &MemFs, name: &str, offset: u64) {
    let path = Path::new(DIR).join(name);
    let file = fs.open(&path, ReadMode::Pread).unwrap();
    let mut byte = [0];
    file.read_at(offset, &mut byte).unwrap();
    fs.open_writable(&path).unwrap().write_at(offset, &[byte[0] ^ 4]).unwrap();
}

#[test]
fn damage_in_the_history_is_named_and_harms_nothing_else() {
    let mut db = TestDb::with(keeping(ALL));
    fill(&db, 0, 1000);
    db.flush().unwrap();
    db.settle();
    let kept = db.stats().wal.kept_segments;
    assert!(kept > 2);
    let (name, _) = segments(&db.fs)[1].clone();
    let before = db.dump();
    for (offset, expected) in [(700, 64..=700), (20, 0..=0)] {
        flip(&db.fs, &name, offset);
        db.reopen();
        assert_eq!(db.dump(), before);
        let mut changes = db.changes_since(SeqNo::ZERO).unwrap();
        let error = loop {
            match changes.try_next() {
                Ok(batch) => drop(batch.unwrap()),
                Err(error) => break error,
            }
        };
        let (file, at) = place(&error);
        assert!(file == name && expected.contains(&at), "{error}");
        assert_eq!(place(&changes.try_next().unwrap_err()), (file, at));
        let error = db.verify(&mut |_, _| {}).unwrap_err();
        assert_eq!(place(&error), (name.clone(), at));
        flip(&db.fs, &name, offset);
    }
    // A file that is missing is history that is gone.
    db.fs.remove(&Path::new(DIR).join(&name)).unwrap();
    db.reopen();
    assert_eq!(db.dump(), before);
    assert!(matches!(db.changes_since(SeqNo::ZERO), Err(Error::ChangesGone { .. })));
    assert!(db.stats().wal.kept_segments < kept);
}

#[test]
fn an_error_of_the_disk_is_told_and_the_next_call_tries_again() {
    let mem = MemFs::new();
    let fault = Arc::new(FaultFs::new(Arc::new(mem)));
    let options = keeping(ALL).fs(fault.clone());
    let db = options.open(DIR).unwrap();
    fill(&db, 0, 3000);
    db.flush().unwrap();
    let mut changes = db.changes_since(SeqNo::ZERO).unwrap();
    let mut seen = 0;
    let mut errors = 0;
    for op in [FaultOp::Open, FaultOp::Read].into_iter().cycle() {
        fault.inject(FaultRule::new(op, FaultError::EIO).path_contains(".wal"));
        match changes.try_next() {
            Ok(Some(batch)) => {
                assert_eq!(first_key(&batch), key(seen));
                seen += 1;
            }
            Ok(None) => break,
            Err(error) => {
                assert!(matches!(error, Error::Io { .. }), "{error}");
                errors += 1;
            }
        }
        fault.clear();
        for batch in changes.by_ref().take(3) {
            assert_eq!(first_key(&batch.unwrap()), key(seen));
            seen += 1;
        }
    }
    assert!(seen == 3000 && errors >= 3, "{seen} {errors}");
}

/// All that comes, until an error ends it; each goes to `sent`.
fn follow(mut changes: Changes, sent: &mpsc::Sender<Result<Option<ChangeBatch>, Error>>) {
    loop {
        let next = changes.next_timeout(Duration::MAX);
        let is_over = next.is_err();
        sent.send(next).unwrap();
        if is_over {
            return;
        }
    }
}

#[test]
fn who_waits_is_woken_by_a_write_and_by_a_close() {
    let db = TestDb::new();
    let mut changes = db.changes_since(SeqNo::ZERO).unwrap();
    assert!(changes.next_timeout(Duration::from_millis(20)).unwrap().is_none());
    let (sent, received) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || follow(changes, &sent));
        for i in 0..50 {
            db.put(key(i), "v").unwrap();
            let batch = received.recv_timeout(LONG).unwrap().unwrap().unwrap();
            assert_eq!(first_key(&batch), key(i));
            if i % 10 == 0 {
                thread::sleep(Duration::from_millis(5));
            }
        }
        Db::clone(&db).close().unwrap();
        let error = received.recv_timeout(LONG).unwrap().unwrap_err();
        assert!(matches!(error, Error::Closed), "{error}");
    });
    std::mem::forget(db);
}

#[test]
fn who_waits_is_told_that_nothing_more_will_come() {
    let fault = Arc::new(FaultFs::new(Arc::new(MemFs::new())));
    let db = tiny().fs(fault.clone()).open(DIR).unwrap();
    let changes = db.changes_since(SeqNo::ZERO).unwrap();
    let (sent, received) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || follow(changes, &sent));
        db.put("k", "v").unwrap();
        received.recv_timeout(LONG).unwrap().unwrap().unwrap();
        fault.inject(FaultRule::new(FaultOp::SyncData, FaultError::EIO).path_contains(".wal"));
        db.put("k", "never durable").unwrap_err();
        let error = received.recv_timeout(LONG).unwrap().unwrap_err();
        assert!(matches!(error, Error::ReadOnly { cause: Some(_) }), "{error}");
    });
    // What failed is not shown, to nobody.
    let mut changes = db.changes_since(SeqNo::ZERO).unwrap().unsynced(true);
    assert_eq!(shown(&mut changes).len(), 1);
}

const WRITERS: usize = 3;
const BATCHES: usize = 1500;

#[test]
fn a_follower_sees_all_of_many_writers_in_order() {
    for durability in [Durability::Sync, Durability::Interval(Duration::from_millis(2))] {
        let options = keeping(ALL).background_threads(2).durability(durability);
        let fs = MemFs::new();
        let db = options.fs(Arc::new(fs)).open(DIR).unwrap();
        let mut changes = db.changes_since(SeqNo::ZERO).unwrap();
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let db = &db;
                scope.spawn(move || {
                    for i in 0..BATCHES {
                        let mut batch = WriteBatch::new();
                        for part in 0..=i % 3 {
                            batch.put(db, format!("{writer}/{i}/{part}"), value(i, writer));
                        }
                        db.write(batch).unwrap();
                    }
                });
            }
            let mut next = [0; WRITERS];
            let mut last = SeqNo::ZERO;
            while next.iter().sum::<usize>() < WRITERS * BATCHES {
                let batch = changes.next_timeout(Duration::from_secs(60)).unwrap().unwrap();
                assert_eq!(batch.first_seqno(), last.plus(1));
                last = batch.last_seqno();
                let key = String::from_utf8(first_key(&batch)).unwrap();
                let mut parts = key.split('/').map(|part| part.parse::<usize>().unwrap());
                let (writer, i) = (parts.next().unwrap(), parts.next().unwrap());
                assert_eq!((i, batch.len()), (next[writer], i % 3 + 1));
                next[writer] += 1;
                assert!(db.seqno() >= last);
            }
        });
        assert_eq!((changes.seqno(), changes.lag()), (db.seqno(), 0));
        assert!(changes.try_next().unwrap().is_none());
        db.close().unwrap();
    }
}

#[test]
fn what_is_kept_takes_no_more_space_than_it_needs() {
    let mut db = TestDb::with(keeping(ALL).wal_bytes(8 << 20).background_threads(0));
    for round in 0..20 {
        db.put(key(round), "v").unwrap();
        db.flush().unwrap();
        db.reopen();
    }
    let wal = db.stats().wal;
    assert!(
        wal.kept_segments >= 19 && wal.kept_bytes == wal.kept_segments as u64 * 4096,
        "{wal:?}"
    );
    let on_disk: u64 = segments(&db.fs).iter().map(|(_, len)| len).sum();
    assert_eq!(wal.kept_bytes + wal.bytes, on_disk);
    assert_eq!(shown(&mut db.changes_since(SeqNo::ZERO).unwrap()).len(), 20);
}
