//! Levels: they form, they hold what they should, and garbage leaves them.

use std::sync::Arc;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use esker::KeyspaceOptions;
use esker::LevelStats;
use esker::MergeOperator;
use esker::MergeResult;

use crate::support::TestClock;
use crate::support::TestDb;
use crate::support::key;
use crate::support::tiny;
use crate::support::value;

#[test]
fn two_hundred_operations_reach_the_third_level() {
    // The values are one word again and again.
    let db = TestDb::with(tiny().compression(esker::Compression::None));
    for i in 0..200 {
        db.put(key(i * 7919 % 200), value(i, 0).repeat(8)).unwrap();
        db.settle();
    }
    let levels = &db.stats().keyspaces[0].levels;
    let used = levels.iter().filter(|level| !level.files.is_empty()).count();
    assert!(used >= 3, "levels in use: {used}");
}

#[test]
fn overwritten_data_does_not_pile_up() {
    // Larger blocks than elsewhere, or their fixed parts would outweigh the data.
    let db = TestDb::with(tiny().block_bytes(1024));
    for generation in 0..30 {
        for i in 0..200 {
            db.put(key(i), value(i, generation)).unwrap();
        }
        db.settle();
    }
    let live: usize = db.dump().iter().map(|(key, value)| key.len() + value.len()).sum();
    let stored = db.stats().sst_bytes() as usize;
    assert!(stored < 4 * live, "{stored} bytes for {live} live ones");
    db.compact_range::<&[u8], _>(..).unwrap();
    let stats = db.stats();
    let entries: u64 = stats.keyspaces[0].levels.iter().map(|level| level.entries).sum();
    assert_eq!(entries, 200);
}

/// Files of level 0 without a key in common move down as they are; what is written again meets them
/// there.
#[test]
fn what_is_written_in_order_is_written_once() {
    let mut db = TestDb::new();
    for i in 0..600 {
        db.put(key(i), value(i, 0)).unwrap();
        db.settle();
    }
    let background = db.stats().background;
    assert!(background.moves > 4, "{background:?}");
    assert_eq!(background.compaction_bytes_written, 0);
    assert!(db.stats().keyspaces[0].levels[0].files.len() < 4);
    for i in (0..600).step_by(7) {
        db.put(key(i), value(i, 1)).unwrap();
        db.settle();
    }
    db.reopen();
    db.verify(&mut |_, _| {}).unwrap();
    let expected = (0..600).map(|i| (key(i), value(i, usize::from(i % 7 == 0))));
    assert!(db.dump().into_iter().eq(expected));
}

#[test]
fn deleting_everything_and_compacting_leaves_no_file() {
    let mut db = TestDb::new();
    for i in 0..500 {
        db.put(key(i), value(i, 0)).unwrap();
    }
    db.flush().unwrap();
    for i in 0..500 {
        db.delete(key(i)).unwrap();
    }
    db.compact_range::<&[u8], _>(..).unwrap();
    assert!(!db.files().iter().any(|name| name.ends_with(".sst")), "{:?}", db.files());
    db.reopen();
    assert_eq!(db.iter().count(), 0);
}

#[test]
fn compacting_a_range_leaves_the_rest_alone() {
    let db = TestDb::new();
    for i in 0..600 {
        db.put(key(i), value(i, 0)).unwrap();
    }
    db.compact_range::<&[u8], _>(..).unwrap();
    for i in 0..600 {
        db.delete(key(i)).unwrap();
    }
    db.flush().unwrap();
    db.compact_range(key(0)..key(100)).unwrap();
    assert_eq!(db.iter().count(), 0);
}

#[test]
fn an_idle_database_converges_once_its_tombstones_are_old() {
    let clock = Arc::new(TestClock::default());
    let age = Duration::from_secs(60);
    let db = TestDb::with(tiny().clock(clock.clone()).tombstone_age(age));
    for i in 0..500 {
        db.put(key(i), value(i, 0)).unwrap();
    }
    db.flush().unwrap();
    db.settle();
    // Too few to be worth it at once.
    for i in (0..500).step_by(5) {
        db.delete(key(i)).unwrap();
    }
    db.flush().unwrap();
    db.settle();
    let counts = || {
        let levels = &db.stats().keyspaces[0].levels;
        let sum = |count: fn(&LevelStats) -> u64| levels.iter().map(count).sum::<u64>();
        (sum(|level| level.entries), sum(|level| level.tombstones))
    };
    assert!(counts().1 > 0);
    clock.ms.store(61_000, Relaxed);
    db.settle();
    assert_eq!(counts(), (400, 0));
}

#[test]
fn background_threads_do_the_same_work() {
    let db = TestDb::with(tiny().background_threads(3));
    for generation in 0..20 {
        for i in 0..500 {
            db.put(key(i), value(i, generation)).unwrap();
        }
    }
    db.flush().unwrap();
    for i in 0..500 {
        assert_eq!(db.get(key(i)).unwrap().unwrap(), value(i, 19));
    }
    assert!(db.stats().background.flushes > 0);
    assert!(db.stats().background.compactions > 0);
}

/// With threads and the clock of the system, since that is what it depends on.
#[test]
fn a_database_that_is_read_and_not_written_comes_to_rest_in_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let options = esker::Options::new().durability(esker::Durability::Os);
    let db = options.open(dir.path()).unwrap();
    for part in 0..3 {
        for i in 0..500 {
            db.put(key(3 * i + part), value(i, 0)).unwrap();
        }
        if part < 2 {
            db.flush().unwrap();
        }
    }
    let runs = || {
        let stats = db.stats();
        let keyspace = &stats.keyspaces[0];
        let (level0, deeper) = keyspace.levels.split_first().unwrap();
        let filled = deeper.iter().filter(|level| !level.files.is_empty()).count();
        usize::from(keyspace.memtable_entries > 0) + level0.files.len() + filled
    };
    assert_eq!(runs(), 3);
    for _ in 0..6_000 {
        if runs() == 1 {
            break;
        }
        for i in 0..1_000 {
            assert!(db.cursor().seek(key(i)).unwrap());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(runs(), 1);
    assert_eq!(db.iter().count(), 1_500);
}

/// Appends, and stops a job in the midst of it, once.
#[derive(Clone)]
struct Stops {
    armed: Arc<AtomicBool>,
    at: Arc<Barrier>,
}

impl MergeOperator for Stops {
    fn name(&self) -> &'static str {
        "test.stops"
    }

    fn merge(&self, _: &[u8], value: Option<&[u8]>, operands: &[&[u8]]) -> MergeResult<Vec<u8>> {
        if self.armed.swap(false, Relaxed) {
            self.at.wait();
            self.at.wait();
        }
        Ok(value.into_iter().chain(operands.iter().copied()).collect::<Vec<_>>().concat())
    }
}

/// A job keeps the files that it reads, and no others: neither SSTs nor blob files.
#[test]
fn what_becomes_obsolete_goes_while_another_job_runs() {
    let stops = Stops { armed: Arc::default(), at: Arc::new(Barrier::new(2)) };
    let db = TestDb::new();
    let options = KeyspaceOptions::new().merge_operator(stops.clone()).separate_values(100);
    let keyspace = db.keyspace_with("k", options).unwrap();
    let name = |part: char, i: usize| [part.to_string().into_bytes(), key(i)].concat();
    // Every other value lies apart.
    let content = |i: usize, generation: usize| value(i, generation).repeat(1 + i % 2 * 8);
    for part in ['a', 'm'] {
        for i in 0..300 {
            keyspace.put(name(part, i), content(i, 0)).unwrap();
        }
        keyspace.compact_range::<&[u8], _>(..).unwrap();
    }
    let blobs = || db.files().into_iter().filter(|name| name.ends_with(".blob"));
    let ssts = || {
        let stats = db.stats();
        let keyspace = stats.keyspaces.iter().find(|keyspace| keyspace.name == "k").unwrap();
        let files = keyspace.levels.iter().flat_map(|level| level.files.clone());
        files.collect::<Vec<_>>()
    };
    let (old_blobs, old_ssts) = (blobs().count(), ssts());
    let replaced = old_ssts.iter().filter(|file| file.smallest[0] == b'm');
    let replaced: Vec<_> = replaced.map(|file| format!("{:06}.sst", file.number)).collect();
    assert!(replaced.len() > 2 && replaced.len() < old_ssts.len() && old_blobs >= 2);

    keyspace.merge(name('a', 151), "!").unwrap();
    std::thread::scope(|scope| {
        stops.armed.store(true, Relaxed);
        let job = scope.spawn(|| keyspace.compact_range(name('a', 151)..=name('a', 151)));
        stops.at.wait();
        for i in 0..300 {
            keyspace.put(name('m', i), content(i, 1)).unwrap();
        }
        keyspace.compact_range(vec![b'm']..vec![b'n']).unwrap();
        let left = db.files();
        stops.at.wait();
        job.join().unwrap().unwrap();
        assert!(replaced.iter().all(|name| !left.contains(name)), "{replaced:?} of {left:?}");
        let left = left.iter().filter(|name| name.ends_with(".blob")).count();
        assert_eq!(left, old_blobs, "as many blob files are gone as came");
    });
    let merged = [content(151, 0), b"!".to_vec()].concat();
    assert_eq!(keyspace.get(name('a', 151)).unwrap().unwrap(), merged);
    for i in 0..300 {
        assert_eq!(keyspace.get(name('m', i)).unwrap().unwrap(), content(i, 1));
    }
}
