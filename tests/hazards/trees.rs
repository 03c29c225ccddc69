//! Mistakes around levels, compaction, iterators and files that go away.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use esker::Durability;
use esker::fs::CrashMode;
use esker::fs::FaultError;
use esker::fs::FaultFs;
use esker::fs::FaultOp;
use esker::fs::FaultRule;
use esker::fs::Fs as _;
use esker::fs::MemFs;

use crate::DIR;
use crate::open;
use crate::options;

/// Bytes that no compression makes fewer.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut n = seed;
    let mut next = || {
        n = n.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (n >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// H33: many versions of one key, kept by snapshots, fill several files' worth. They stay together,
/// and each snapshot reads its own.
#[test]
fn the_versions_of_a_key_are_never_parted() {
    let fs = MemFs::new();
    let db = options(&fs).durability(Durability::Os).open(DIR).unwrap();
    let mut snapshots = Vec::new();
    for round in 0..60_u8 {
        for key in ["a", "b", "c"] {
            db.put(key, vec![round; 300]).unwrap();
        }
        snapshots.push((round, db.snapshot()));
        if round % 7 == 0 {
            db.compact_range::<&[u8], _>(..).unwrap();
        }
    }
    while db.run_one_job().unwrap() {}
    db.verify(&mut |_, _| {}).unwrap();
    for (round, snapshot) in &snapshots {
        for key in ["a", "b", "c"] {
            assert_eq!(snapshot.get(key).unwrap().unwrap(), [*round; 300], "{key}");
        }
        assert_eq!(snapshot.iter().rev().count(), 3);
    }
}

/// H34: on level 0 the newer file wins, whatever was compacted or moved in between and in whichever
/// order the files were opened.
#[test]
fn the_newest_of_overlapping_files_wins() {
    let fs = MemFs::new();
    let db = open(&fs);
    for round in 0..30_u8 {
        for i in 0..20_u8 {
            if (i + round) % 3 != 0 {
                db.put([i], [round; 50]).unwrap();
            }
        }
        db.flush().unwrap();
        if round % 4 == 0 {
            db.run_one_job().unwrap();
        }
        for i in 0..20_u8 {
            let newest = (0..=round).rev().find(|round| (i + round) % 3 != 0).map(|r| [r; 50]);
            let found = db.get([i]).unwrap();
            assert_eq!(found.as_deref(), newest.as_ref().map(|v| &v[..]), "{i} in {round}");
        }
    }
}

/// H36: a tombstone goes only when nothing older of its key is left beneath, wherever it got to.
#[test]
fn what_is_deleted_stays_deleted_on_every_level() {
    let fs = MemFs::new();
    let db = options(&fs).tombstone_age(Duration::ZERO).open(DIR).unwrap();
    // An old version at the bottom, a younger one on the way, a tombstone above, by key.
    for i in 0..120_u8 {
        db.put([i], vec![1; 200]).unwrap();
    }
    db.compact_range::<&[u8], _>(..).unwrap();
    for i in 0..60_u8 {
        db.put([i], vec![2; 200]).unwrap();
    }
    db.flush().unwrap();
    db.run_one_job().unwrap();
    for i in 0..90_u8 {
        db.delete([i]).unwrap();
    }
    db.flush().unwrap();
    for part in [20..50_u8, 0..10, 70..100, 0..120] {
        let found: Vec<u8> = db.iter().map(|entry| entry.unwrap().0[0]).collect();
        assert_eq!(found, (90..120).collect::<Vec<u8>>(), "before {part:?}");
        db.compact_range([part.start]..[part.end]).unwrap();
        while db.run_one_job().unwrap() {}
    }
    let entries: u64 = db.stats().keyspaces[0].levels.iter().map(|level| level.entries).sum();
    assert_eq!(entries, 30, "all that was hidden has gone");
}

/// H39: a read that fails anywhere in a compaction fails the compaction. It does not pass for the
/// end of a file.
#[test]
fn a_failed_read_in_a_compaction_loses_nothing() {
    let mem = MemFs::new();
    let db = options(&mem).open(DIR).unwrap();
    for i in 0..200_u8 {
        db.put([i], noise(u64::from(i), 2000)).unwrap();
    }
    db.flush().unwrap();
    drop(db);
    let mut failed = 0;
    for n in 0.. {
        let fs = FaultFs::new(Arc::new(mem.crash_clone(CrashMode::KeepAll, 0)));
        let options = options(&mem).mmap(false).fs(Arc::new(fs.clone()));
        let db = options.open(DIR).unwrap();
        let before = fs.injected();
        fs.inject(FaultRule::new(FaultOp::Read, FaultError::EIO).path_contains(".sst").nth(n));
        let compacted = db.compact_range::<&[u8], _>(..);
        if fs.injected() == before {
            break;
        }
        assert!(compacted.is_err(), "read {n}");
        failed += 1;
        fs.clear();
        assert_eq!(db.iter().count(), 200, "read {n}");
        db.compact_range::<&[u8], _>(..).unwrap();
        assert_eq!(db.iter().count(), 200, "read {n}");
    }
    assert!(failed > 4, "only {failed} reads failed");
}

/// H40: output that is cut into many files at many places keeps every entry.
#[test]
fn compaction_into_many_files_drops_nothing() {
    let fs = MemFs::new();
    let db = options(&fs).durability(Durability::Os).open(DIR).unwrap();
    let mut model = BTreeMap::new();
    for round in 0..4_u32 {
        for i in (round..400).step_by(1 + round as usize) {
            let len = [0, 10, 300, 5000][(i / 3 + round) as usize % 4];
            let value = noise(u64::from(i + round), len);
            db.put(i.to_be_bytes(), &value).unwrap();
            model.insert(i.to_be_bytes().to_vec(), value);
        }
        db.compact_range::<&[u8], _>(..).unwrap();
    }
    let files: usize = db.stats().keyspaces[0].levels.iter().map(|level| level.files.len()).sum();
    assert!(files > 50, "only {files} files");
    let found: BTreeMap<_, _> =
        db.iter().map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect();
    assert!(found == model);
}

/// H42: an iterator that has not come to a file yet still finds it there, after compactions that
/// replaced it and sweeps of what is not needed.
#[test]
fn files_of_an_old_view_are_there_until_it_ends() {
    for mmap in [false, true] {
        let fs = MemFs::new();
        let db = options(&fs).mmap(mmap).durability(Durability::Os).open(DIR).unwrap();
        for i in 0..200_u8 {
            db.put([i], vec![1; 100]).unwrap();
        }
        db.compact_range::<&[u8], _>(..).unwrap();
        let (mut forwards, mut backwards) = (db.iter(), db.iter());
        assert_eq!(forwards.next().unwrap().unwrap().0, [0]);
        for round in 0..5_u8 {
            for i in 0..200_u8 {
                db.put([i], vec![round + 2; 100]).unwrap();
            }
            db.compact_range::<&[u8], _>(..).unwrap();
            while db.run_one_job().unwrap() {}
        }
        let count = |name: &str| {
            let files = fs.list(Path::new(DIR)).unwrap();
            files.iter().filter(|file| file.name.contains(name)).count()
        };
        let pinned = count(".sst");
        assert!(forwards.all(|entry| entry.unwrap().1 == [1; 100]));
        assert_eq!(
            backwards.by_ref().rev().filter(|e| e.as_ref().unwrap().1 == [1; 100]).count(),
            200
        );
        drop((forwards, backwards));
        while db.run_one_job().unwrap() {}
        assert!(count(".sst") < pinned, "they go when it has ended");
    }
}

/// H49: keys that a table of few bits cannot tell apart are told apart by their bytes.
#[test]
fn a_key_that_is_not_there_never_reads_as_another() {
    let fs = MemFs::new();
    let db = options(&fs).filter_bits_per_key(0).durability(Durability::Os).open(DIR).unwrap();
    for i in (0..20_000_u32).step_by(2) {
        db.put(i.to_be_bytes(), i.to_be_bytes()).unwrap();
    }
    db.compact_range::<&[u8], _>(..).unwrap();
    for i in 0..20_001_u32 {
        let found = db.get(i.to_be_bytes()).unwrap();
        let expected = (i % 2 == 0 && i < 20_000).then(|| i.to_be_bytes());
        assert_eq!(found.as_deref(), expected.as_ref().map(|v| &v[..]), "{i}");
    }
}

/// H50: a long run of tombstones is walked in a loop, on a small stack.
#[test]
fn a_hundred_thousand_tombstones_need_no_deep_stack() {
    let fs = MemFs::new();
    let db = options(&fs).durability(Durability::Os).memtable_bytes(64 << 10).open(DIR).unwrap();
    db.put([0], "first").unwrap();
    db.put([255; 5], "last").unwrap();
    let held = db.snapshot();
    for i in 0..100_000_u32 {
        db.delete([&[1][..], &i.to_be_bytes()].concat()).unwrap();
    }
    let walk = move || {
        assert_eq!(db.iter().count(), 2);
        assert_eq!(db.iter().rev().count(), 2);
        let mut cursor = db.cursor();
        assert!(cursor.seek([1]).unwrap());
        assert_eq!(cursor.key().unwrap(), [255; 5]);
        assert!(cursor.prev().unwrap());
        assert_eq!(cursor.key().unwrap(), [0]);
        assert_eq!(held.iter().count(), 2);
    };
    std::thread::Builder::new().stack_size(256 << 10).spawn(walk).unwrap().join().unwrap();
}

/// H66: no file number is used twice while caches may remember it, nor after a crash for a file
/// that a durable edit may name.
#[test]
fn file_numbers_are_never_used_twice() {
    let mut fs = MemFs::new();
    let named: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    for round in 0..6_u64 {
        let faults = FaultFs::new(Arc::new(fs.clone()));
        let options = options(&fs).durability(Durability::Os).fs(Arc::new(faults));
        let db = options.open(DIR).unwrap();
        let seen = named.clone();
        let here: Mutex<BTreeSet<String>> = Mutex::default();
        let look = fs.clone();
        fs.on_event(Some(Arc::new(move |_, _: &MemFs| {
            let listing = look.list(Path::new(DIR)).unwrap();
            let ssts = listing.into_iter().map(|file| file.name).filter(|n| n.contains(".sst"));
            let now: BTreeSet<String> = ssts.collect();
            let mut here = here.lock();
            for name in now.difference(&here) {
                assert!(seen.lock().insert(name.clone()), "{name} was there before");
            }
            *here = now.union(&here).cloned().collect();
        })));
        // The files that are there already are the same ones.
        for entry in fs.list(Path::new(DIR)).unwrap() {
            named.lock().remove(&entry.name);
        }
        for i in 0..150_u8 {
            db.put([i], vec![round as u8; 200]).unwrap();
            if i % 20 == 0 {
                db.run_one_job().unwrap();
            }
        }
        db.flush().unwrap();
        fs.on_event(None);
        drop(db);
        fs = fs.crash_clone(CrashMode::KeepAll, round);
    }
    assert!(named.lock().len() > 30);
}
