//! Large values, which lie apart from their entries in blob files.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use esker::Append;
use esker::BlobStats;
use esker::Compression;
use esker::Error;
use esker::Isolation;
use esker::Keyspace;
use esker::KeyspaceOptions;
use esker::Ttl;
use esker::fs::Fs as _;
use esker::fs::MemFs;

use crate::expiry::timed;
use crate::support::DIR;
use crate::support::TestDb;
use crate::support::key;
use crate::support::tiny;

/// Values of so many bytes lie apart.
const APART: usize = 100;

fn apart(db: &esker::Db, name: &str) -> Keyspace {
    db.keyspace_with(name, KeyspaceOptions::new().separate_values(APART)).unwrap()
}

/// Large for most keys, and not to be compressed for every other one of those.
fn large(i: usize, generation: usize) -> Vec<u8> {
    let head = format!("value {i} of generation {generation} ");
    let len = if i % 5 == 4 { 0 } else { 200 + i % 7 * 100 };
    let noise = |n: usize| (n * n * 31 + i * 7 + generation * 13 + n / 3) as u8;
    let rest = (0..len).map(|n| if i.is_multiple_of(2) { noise(n) } else { b'x' });
    head.into_bytes().into_iter().chain(rest).collect()
}

fn blobs(db: &esker::Db, name: &str) -> BlobStats {
    let stats = db.stats();
    stats.keyspaces.iter().find(|keyspace| keyspace.name == name).unwrap().blobs
}

fn blob_files(db: &TestDb) -> Vec<String> {
    db.files().into_iter().filter(|name| name.ends_with(".blob")).collect()
}

/// Everything in `keyspace` is what `expected` says, read in every way.
fn check(keyspace: &Keyspace, expected: &[(Vec<u8>, Vec<u8>)]) {
    let pair = |entry: esker::Result<(esker::Key, esker::Value)>| {
        let (key, value) = entry.unwrap();
        (key.to_vec(), value.to_vec())
    };
    assert_eq!(keyspace.iter().map(pair).collect::<Vec<_>>(), expected);
    let mut back: Vec<_> = keyspace.iter().rev().map(pair).collect();
    back.reverse();
    assert_eq!(back, expected);
    let keys: Vec<_> = keyspace.keys::<&[u8], _>(..).map(|key| key.unwrap().to_vec()).collect();
    assert!(keys.iter().eq(expected.iter().map(|(key, _)| key)));
    let values = keyspace.multi_get(keys.iter()).unwrap();
    let mut cursor = keyspace.cursor();
    for ((key, value), got) in expected.iter().zip(values) {
        assert_eq!(got.as_deref(), Some(&value[..]));
        assert_eq!(keyspace.get(key).unwrap().as_deref(), Some(&value[..]));
        assert_eq!(keyspace.size_of(key).unwrap(), Some(value.len()));
        assert!(keyspace.contains_key(key).unwrap());
        assert!(cursor.seek(key).unwrap());
        assert_eq!((cursor.key(), cursor.value()), (Some(&key[..]), Some(&value[..])));
        let (k, v) = cursor.entry().unwrap();
        assert!(k == key && v == value);
    }
}

fn expected(count: usize, generation: impl Fn(usize) -> usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    (0..count).map(|i| (key(i), large(i, generation(i)))).collect()
}

#[test]
fn large_values_are_read_in_every_way_from_every_place() {
    let mut db = TestDb::new();
    for round in 0..6 {
        let keyspace = apart(&db, "large");
        for i in (0..60).filter(|i| round == 0 || i % 4 == round % 4) {
            keyspace.put(key(i), large(i, round)).unwrap();
        }
        let newest = |i: usize| (1..=round).rev().find(|r| i % 4 == r % 4).unwrap_or(0);
        let expected = expected(60, newest);
        check(&keyspace, &expected);
        db.flush().unwrap();
        check(&keyspace, &expected);
        db.settle();
        check(&keyspace, &expected);
        if round % 2 == 1 {
            keyspace.compact_range::<&[u8], _>(..).unwrap();
            check(&keyspace, &expected);
        }
        assert!(blobs(&db, "large").files > 0);
        db.reopen();
        check(&apart(&db, "large"), &expected);
    }
    let keyspace = apart(&db, "large");
    // An entry of some thirty bytes for values of several hundred.
    assert!(db.stats().sst_bytes() < blobs(&db, "large").bytes);
    assert!(keyspace.get("no").unwrap().is_none());
    assert_eq!(keyspace.size_of("no").unwrap(), None);
}

#[test]
fn transactions_read_values_that_lie_apart_beneath_their_own() {
    let db = TestDb::new();
    let keyspace = apart(&db, "large");
    for i in 0..40 {
        keyspace.put(key(i), large(i, 0)).unwrap();
    }
    db.flush().unwrap();
    let txn = db.transaction_with(Isolation::Serializable);
    txn.put(&keyspace, key(3), large(3, 1)).unwrap();
    txn.delete(&keyspace, key(5)).unwrap();
    let expected: Vec<_> =
        expected(40, |i| usize::from(i == 3)).into_iter().filter(|(k, _)| *k != key(5)).collect();
    let found: Vec<_> =
        txn.iter(&keyspace).map(|e| e.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect();
    assert_eq!(found, expected);
    let mut cursor = txn.cursor(&keyspace);
    assert!(cursor.seek(key(5)).unwrap());
    assert_eq!(cursor.value(), Some(&large(6, 0)[..]));
    drop(cursor);
    assert_eq!(txn.get(&keyspace, key(6)).unwrap().unwrap(), large(6, 0));
    txn.commit().unwrap();
    check(&keyspace, &expected);
    assert_eq!(keyspace.take(key(7)).unwrap().unwrap(), large(7, 0));
    let swapped = keyspace.compare_and_swap(key(8), Some(&large(8, 0)), Some(b"small")).unwrap();
    assert!(swapped.is_done());
}

#[test]
fn keys_and_sizes_need_no_blob_file() {
    let mut db = TestDb::new();
    let keyspace = apart(&db, "large");
    for i in 0..40 {
        keyspace.put(key(i), large(i, 0)).unwrap();
    }
    db.flush().unwrap();
    db.reopen();
    let keyspace = apart(&db, "large");
    let files = blob_files(&db);
    let kept: Vec<_> = files
        .iter()
        .map(|name| {
            let hidden = Path::new(DIR).join(format!("{name}.hidden"));
            db.fs.rename(&Path::new(DIR).join(name), &hidden).unwrap();
            hidden
        })
        .collect();
    assert_eq!(keyspace.keys::<&[u8], _>(..).count(), 40);
    assert!(keyspace.keys::<&[u8], _>(..).all(|key| key.is_ok()));
    assert!(keyspace.keys(key(10)..key(20)).rev().map(Result::unwrap).eq((10..20).rev().map(key)));
    let mut cursor = keyspace.cursor().keys_only();
    let mut at = cursor.seek_to_first().unwrap();
    let mut count = 0;
    while at {
        (count, at) = (count + 1, cursor.next().unwrap());
    }
    assert_eq!(count, 40);
    let (txn, snapshot) = (db.transaction(), db.snapshot());
    for i in 0..40 {
        let expected = Some(large(i, 0).len());
        assert_eq!(keyspace.size_of(key(i)).unwrap(), expected);
        assert_eq!(txn.size_of(&keyspace, key(i)).unwrap(), expected);
        assert_eq!(snapshot.keyspace(&keyspace).size_of(key(i)).unwrap(), expected);
        assert!(keyspace.contains_key(key(i)).unwrap());
        // Every fifth one is small.
        let got = keyspace.get(key(i));
        match got {
            Ok(value) => assert!(i % 5 == 4 && value.unwrap() == large(i, 0)),
            Err(Error::Corruption { file: path, .. }) => {
                assert!(i % 5 != 4 && files.iter().any(|name| path.ends_with(name)), "{path:?}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    let failed = keyspace.iter().find_map(Result::err).unwrap();
    assert!(failed.to_string().contains(".blob"), "{failed}");
    for hidden in kept {
        db.fs.rename(&hidden, &hidden.with_extension("")).unwrap();
    }
    check(&keyspace, &expected(40, |_| 0));
}

#[test]
fn waste_stays_within_its_bound_under_endless_overwrites() {
    let mut db = TestDb::new();
    let keyspace = apart(&db, "large");
    let mut generations = vec![0; 50];
    for step in 0_usize..4000 {
        let i = if step < 50 { step } else { step * step * 17 % 50 };
        generations[i] = step;
        keyspace.put(key(i), large(i, step)).unwrap();
        if step % 50 == 0 {
            db.settle();
            let BlobStats { bytes, garbage_bytes, .. } = blobs(&db, "large");
            let live = bytes - garbage_bytes;
            assert!(garbage_bytes * 2 <= live, "step {step}: {garbage_bytes} of {bytes}");
        }
    }
    check(&keyspace, &expected(50, |i| generations[i]));
    db.flush().unwrap();
    keyspace.compact_range::<&[u8], _>(..).unwrap();
    db.settle();
    // Nothing is left on disk that the database does not count.
    let on_disk: u64 = db
        .fs
        .list(Path::new(DIR))
        .unwrap()
        .iter()
        .filter(|entry| entry.name.ends_with(".blob"))
        .map(|entry| entry.len)
        .sum();
    assert_eq!(on_disk, blobs(&db, "large").bytes);
    let values: usize = expected(50, |i| generations[i]).iter().map(|(_, value)| value.len()).sum();
    assert!(on_disk < 2 * values as u64, "{on_disk} for {values}");
    db.reopen();
    check(&apart(&db, "large"), &expected(50, |i| generations[i]));
}

#[test]
fn what_a_snapshot_or_an_iterator_reads_in_a_blob_file_stays() {
    let db = TestDb::new();
    let keyspace = apart(&db, "large");
    for i in 0..40 {
        keyspace.put(key(i), large(i, 0)).unwrap();
    }
    db.flush().unwrap();
    db.settle();
    let snapshot = db.snapshot();
    let mut iter = keyspace.iter();
    assert_eq!(iter.next().unwrap().unwrap().1, large(0, 0));
    for generation in 1..12 {
        for i in 0..40 {
            keyspace.put(key(i), large(i, generation)).unwrap();
        }
        db.flush().unwrap();
        db.settle();
        keyspace.compact_range::<&[u8], _>(..).unwrap();
    }
    db.settle();
    let old = snapshot.keyspace(&keyspace);
    for (i, (key, value)) in expected(40, |_| 0).into_iter().enumerate() {
        assert_eq!(old.get(&key).unwrap().unwrap(), value);
        if i > 0 {
            assert_eq!(iter.next().unwrap().unwrap().1, value);
        }
    }
    drop(iter);
    drop(snapshot);
    drop(old);
    let before = blobs(&db, "large");
    keyspace.put("zz", large(0, 0)).unwrap();
    db.flush().unwrap();
    keyspace.compact_range::<&[u8], _>(..).unwrap();
    db.settle();
    let after = blobs(&db, "large");
    assert!(after.bytes < before.bytes, "{after:?} after {before:?}");
    assert_eq!(blob_files(&db).len(), after.files);
}

#[test]
fn moved_values_keep_what_is_known_of_them() {
    let fs = MemFs::new();
    let options = |compression| tiny().compression(compression).fs(Arc::new(fs.clone()));
    let mut generations = vec![0; 40];
    for round in 0_usize..12 {
        let compression = if round % 2 == 0 { Compression::Lz4 } else { Compression::None };
        let db = options(compression).mmap(round % 4 < 2).open(DIR).unwrap();
        let from = [APART, usize::MAX, 30, 400][round % 4];
        let settings = KeyspaceOptions::new().separate_values(from);
        let keyspace = db.keyspace_with("large", settings).unwrap();
        for i in (0..40).filter(|i| round == 0 || (i * 7 + round) % 3 == 0) {
            generations[i] = round;
            keyspace.put(key(i), large(i, round)).unwrap();
        }
        db.flush().unwrap();
        keyspace.compact_range::<&[u8], _>(..).unwrap();
        while db.run_one_job().unwrap() {}
        check(&keyspace, &expected(40, |i| generations[i]));
        db.verify(&mut |_, _| {}).unwrap();
        db.close().unwrap();
    }
}

#[test]
fn operands_fold_into_values_that_lie_apart() {
    let mut db = TestDb::new();
    let options = || KeyspaceOptions::new().separate_values(APART).merge_operator(Append::new(","));
    let mut expected = large(0, 0);
    db.keyspace_with("log", options()).unwrap().put("k", &expected).unwrap();
    for round in 0..12 {
        let keyspace = db.keyspace_with("log", options()).unwrap();
        if round % 2 == 0 {
            db.flush().unwrap();
        }
        let snapshot = db.snapshot();
        let before = expected.clone();
        keyspace.merge("k", format!("round {round}")).unwrap();
        expected.extend(format!(",round {round}").bytes());
        assert_eq!(keyspace.get("k").unwrap().unwrap(), expected);
        assert_eq!(keyspace.iter().next_back().unwrap().unwrap().1, expected);
        assert_eq!(keyspace.size_of("k").unwrap(), Some(expected.len()));
        if round % 3 == 0 {
            db.flush().unwrap();
            keyspace.compact_range::<&[u8], _>(..).unwrap();
        }
        assert_eq!(snapshot.keyspace(&keyspace).get("k").unwrap().unwrap(), before);
        drop(snapshot);
        db.settle();
        assert_eq!(keyspace.get("k").unwrap().unwrap(), expected);
        db.reopen();
    }
    assert!(blobs(&db, "log").files > 0);
}

#[test]
fn values_that_lie_apart_expire() {
    let (mut db, hands) = timed();
    for stage in 0..4 {
        let start = 1_000_000 + stage * 100_000;
        hands.set(start);
        let keyspace = apart(&db, "large");
        for i in 0..30 {
            let ttl = Duration::from_millis(10_000 + i as u64 * 1000);
            keyspace.put_with_ttl(key(i), large(i, 1), ttl).unwrap();
        }
        if stage > 0 {
            db.flush().unwrap();
        }
        if stage > 1 {
            keyspace.compact_range::<&[u8], _>(..).unwrap();
        }
        if stage > 2 {
            db.reopen();
        }
        let keyspace = apart(&db, "large");
        assert_eq!(keyspace.ttl(key(0)).unwrap(), Some(Ttl::For(Duration::from_secs(10))));
        check(&keyspace, &expected(30, |_| 1));
        hands.set(start + 20_000);
        let left: Vec<_> = expected(30, |_| 1).into_iter().skip(11).collect();
        check(&keyspace, &left);
        assert_eq!(keyspace.size_of(key(0)).unwrap(), None);
        assert!(!keyspace.contains_key(key(0)).unwrap());
        assert!(keyspace.persist(key(29)).unwrap());
        assert_eq!(keyspace.get(key(29)).unwrap().unwrap(), large(29, 1));
        keyspace.delete(key(29)).unwrap();
        hands.set(start + 90_000);
        db.flush().unwrap();
        db.settle();
        assert!(keyspace.iter().next().is_none());
        assert!(blob_files(&db).is_empty(), "{:?}", blob_files(&db));
    }
}

#[test]
fn a_dropped_keyspace_takes_its_blob_files_along() {
    let mut db = TestDb::new();
    for _ in 0..3 {
        let (gone, stays) = (apart(&db, "gone"), apart(&db, "stays"));
        for i in 0..20 {
            gone.put(key(i), large(i, 0)).unwrap();
            stays.put(key(i), large(i, 0)).unwrap();
        }
        db.flush().unwrap();
        let snapshot = db.snapshot();
        let old = snapshot.keyspace(&gone);
        db.drop_keyspace("gone").unwrap();
        assert_eq!(old.get(key(0)).unwrap().unwrap(), large(0, 0));
        drop((snapshot, old, gone));
        db.settle();
        assert_eq!(blob_files(&db).len(), blobs(&db, "stays").files);
        db.reopen();
        check(&apart(&db, "stays"), &expected(20, |_| 0));
    }
}

#[test]
fn blob_files_that_nothing_names_are_removed_at_open() {
    let mut db = TestDb::new();
    apart(&db, "large").put("k", large(0, 0)).unwrap();
    db.flush().unwrap();
    let orphan = Path::new(DIR).join("000900.blob");
    db.fs.create(&orphan).unwrap().write_at(0, b"debris").unwrap();
    db.reopen();
    assert!(!db.fs.exists(&orphan).unwrap());
    assert_eq!(apart(&db, "large").get("k").unwrap().unwrap(), large(0, 0));
}
