//! The write path: who is acknowledged, what is seen, what survives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use esker::Db;
use esker::Durability;
use esker::Keyspace;
use esker::Snapshot;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::FaultEffect;
use esker::fs::FaultError;
use esker::fs::FaultFs;
use esker::fs::FaultOp;
use esker::fs::FaultRule;
use esker::fs::MemFs;
use shuttle::rand::Rng as _;

use crate::world::any_crash;
use crate::world::generation;
use crate::world::join;
use crate::world::one_in;
use crate::world::open;
use crate::world::open_alone;
use crate::world::spawn;
use crate::world::tiny;
use crate::world::value;

const WRITERS: usize = 3;
const DURABILITIES: [Durability; WRITERS] =
    [Durability::Sync, Durability::Os, Durability::Interval(Duration::from_millis(4))];

/// How many batches of each writer are there.
type Counts = [u8; WRITERS];

fn covers(all: Counts, some: Counts) -> bool {
    all.into_iter().zip(some).all(|(all, some)| all >= some)
}

/// What was seen at each sequence number.
#[derive(Default)]
struct History(Mutex<BTreeMap<u64, Counts>>);

impl History {
    /// Notes `counts`. At one number everybody sees the same, at a later one no less.
    fn note(&self, seqno: u64, counts: Counts) -> Counts {
        let mut seen = self.0.lock().unwrap();
        let before = seen.range(..seqno).next_back().map_or([0; WRITERS], |(_, seen)| *seen);
        let after = seen.range(seqno + 1..).next().map_or([u8::MAX; WRITERS], |(_, seen)| *seen);
        assert!(covers(counts, before), "{seqno}: {counts:?}, and {before:?} before");
        assert!(covers(after, counts), "{seqno}: {counts:?}, and {after:?} later");
        assert_eq!(*seen.entry(seqno).or_insert(counts), counts, "{seqno}");
        counts
    }

    /// What is there after a crash is a state that was seen, or lies between two of them. (Its
    /// number says nothing: numbers of lost writes are not used again.)
    fn check_left(&self, left: Counts) {
        let seen = self.0.lock().unwrap();
        let stranger = seen.values().find(|seen| !covers(**seen, left) && !covers(left, **seen));
        assert!(stranger.is_none(), "{left:?} are left, and {stranger:?} were seen");
    }

    /// Looks at a snapshot.
    fn look(&self, db: &Db, other: &Keyspace) -> Counts {
        let snapshot = db.snapshot();
        self.note(snapshot.seqno().get(), counts(&snapshot, other))
    }
}

/// What is in a snapshot: each batch as a whole, and with it all that its writer had seen.
fn counts(snapshot: &Snapshot, other: &Keyspace) -> Counts {
    let others = snapshot.keyspace(other);
    let counts: Counts =
        std::array::from_fn(|writer| generation(snapshot, &format!("count {writer}")));
    for (writer, count) in counts.into_iter().enumerate() {
        assert_eq!(generation(&others, &format!("count {writer}")), count, "half a batch");
        if count > 0 {
            let seen = others.get(format!("seen by {writer}")).unwrap().unwrap();
            let seen: Counts = seen[..].try_into().unwrap();
            assert!(covers(counts, seen), "{counts:?} without {seen:?}");
        }
    }
    counts
}

/// Three writers of different durability, and a power cut after an acknowledgement.
pub(crate) fn writers_of_all_durabilities() {
    let fs = MemFs::new();
    let db = open(&tiny(fs.clone()));
    let other = db.keyspace("other").unwrap();
    let history = Arc::new(History::default());
    let crashes = Arc::new(Mutex::new(Vec::new()));
    // The long ones fill a memtable each, and a segment of the log with three.
    let len = if one_in(2) { 300 } else { 1000 };
    let writers = DURABILITIES.into_iter().enumerate().map(|(writer, durability)| {
        let (db, other, fs) = (db.clone(), other.clone(), fs.clone());
        let (history, crashes) = (history.clone(), crashes.clone());
        spawn(move || {
            for count in 1..=2 {
                let mut least = history.look(&db, &other);
                let mut batch = WriteBatch::new();
                batch.put(&db, format!("count {writer}"), value(count, len));
                batch.put(&other, format!("count {writer}"), value(count, 10));
                batch.put(&other, format!("seen by {writer}"), least);
                batch.durability(durability);
                db.write(batch).unwrap();
                least[writer] = count;
                let durable = if durability == Durability::Sync { least } else { [0; WRITERS] };
                // Before the lock, which shuttle knows nothing of: others may run meanwhile.
                let crash = any_crash(&fs);
                crashes.lock().unwrap().push((crash, durable));
                let now = history.look(&db, &other);
                assert!(covers(now, least), "acknowledged {least:?}, seen {now:?}");
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    history.look(&db, &other);
    history.look(&db, &other);
    join(writers);
    db.close().unwrap();
    let mut crashes = std::mem::take(&mut *crashes.lock().unwrap());
    // What was closed is as durable as can be.
    crashes.push((fs.crash_clone(CrashMode::Strict, 0), [2; WRITERS]));
    let any = shuttle::rand::thread_rng().gen_range(0..crashes.len());
    let (fs, least) = crashes.swap_remove(any);
    let db = open_alone(&fs);
    let other = db.keyspace("other").unwrap();
    let found = counts(&db.snapshot(), &other);
    history.check_left(found);
    assert!(covers(found, least), "durable {least:?}, found {found:?}");
}

/// The sync of a log segment fails while several writers wait for it.
pub(crate) fn a_failing_sync() {
    let mem = MemFs::new();
    let fs = FaultFs::new(Arc::new(mem.clone()));
    let db = open(&tiny(fs.clone()));
    let nth = u64::from(one_in(2));
    let rule = FaultRule::new(FaultOp::SyncData, FaultError::EIO).path_contains(".wal").nth(nth);
    fs.inject(rule.effect(FaultEffect::SyncFailsAndDropsPages));
    let failed = Arc::new(AtomicBool::new(false));
    let writers = (0..3).map(|writer| {
        let (db, failed) = (db.clone(), failed.clone());
        spawn(move || {
            let mut acknowledged = 0;
            for count in 1..=2 {
                let failed_before = failed.load(SeqCst);
                let result = db.put(format!("key {writer}"), value(count, 100));
                if result.is_ok() {
                    assert!(!failed_before, "acknowledged after a failure");
                    acknowledged = count;
                } else {
                    failed.store(true, SeqCst);
                }
                let seen = generation(&db, &format!("key {writer}"));
                assert_eq!(seen, acknowledged, "what was not acknowledged is seen");
            }
            acknowledged
        })
    });
    let writers: Vec<_> = writers.collect();
    let acknowledged = join(writers);
    if fs.injected() > 0 {
        assert!(acknowledged.iter().any(|count| *count < 2), "a failed sync went unnoticed");
        assert!(db.put("later", "").is_err());
    }
    let crash = any_crash(&mem);
    drop(db);
    let db = open_alone(&crash);
    for (writer, acknowledged) in acknowledged.into_iter().enumerate() {
        let found = generation(&db, &format!("key {writer}"));
        assert!(found >= acknowledged, "{writer}: {acknowledged} were durable, {found} are there");
    }
}

/// Memory for two memtables: writers are stopped again and again, and no job is overslept.
pub(crate) fn writers_without_room() {
    let fs = MemFs::new();
    let db = open(&tiny(fs.clone()).memory_budget(4 << 10).durability(Durability::Os));
    let writers = (0..2).map(|writer| {
        let db = db.clone();
        spawn(move || {
            for count in 1..=4 {
                db.put(format!("key {writer}"), value(count, 500)).unwrap();
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    join(writers);
    db.close().unwrap();
    let db = open_alone(&fs);
    for writer in 0..2 {
        assert_eq!(generation(&db, &format!("key {writer}")), 4);
    }
}
