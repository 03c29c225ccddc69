//! A full disk: writers get errors, reads go on, nothing acknowledged is lost and nothing is left
//! lying about; and when there is space again, writing goes on.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use esker::Db;
use esker::Durability;
use esker::Error;
use esker::ErrorKind;
use esker::Options;
use esker::fs::Fs as _;
use esker::fs::OsFs;
use esker::fs::ReadMode;

use crate::disk::Disk;
use crate::disk::Kind;
use crate::disk::skip;
use crate::process::mix;

const WRITERS: u64 = 3;

fn options() -> Options {
    Options::new()
        .memtable_bytes(256 << 10)
        .file_bytes(256 << 10)
        .wal_bytes(2 << 20)
        .memory_budget(8 << 20)
        .compression(esker::Compression::None)
        .durability(Durability::Os)
        .write_deadline(Some(Duration::from_secs(10)))
        .background_threads(2)
}

fn value(key: &[u8]) -> Vec<u8> {
    let mut random = key.iter().fold(7, |random, byte| mix(random ^ u64::from(*byte)));
    let mut value = Vec::new();
    while value.len() < 4000 {
        random = mix(random);
        value.extend_from_slice(&random.to_le_bytes());
    }
    value
}

/// Writes until an error from each of the writers. Returns the first keys of each that were not
/// acknowledged, and the errors.
fn fill(db: &Db, from: &[u64]) -> (Vec<u64>, Vec<Error>) {
    std::thread::scope(|scope| {
        let writers: Vec<_> = from
            .iter()
            .zip(0..)
            .map(|(from, writer)| {
                scope.spawn(move || {
                    for n in *from.. {
                        let key = key(writer, n);
                        if let Err(error) = db.put(&key, value(&key)) {
                            return (n, error);
                        }
                    }
                    unreachable!()
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).unzip()
    })
}

fn key(writer: u64, n: u64) -> Vec<u8> {
    format!("{writer} {n:08}").into_bytes()
}

/// All that was acknowledged is there; and if the failure left it in doubt, at most the one write of
/// each writer that failed.
fn check(db: &Db, acked: &[u64], in_doubt: bool, what: &str) {
    for (writer, acked) in (0..).zip(acked) {
        let found: Vec<_> = db.prefix(format!("{writer} ")).map(|entry| entry.unwrap()).collect();
        let count = found.len() as u64;
        let most = acked + u64::from(in_doubt);
        assert!((*acked..=most).contains(&count), "{what}: {count} of {acked} by {writer}");
        for (n, (found_key, found_value)) in (0..).zip(&found) {
            let key = key(writer, n);
            assert!(*found_key == key[..] && *found_value == value(&key)[..], "{what}: {n}");
        }
    }
}

/// The files of the directory are those that the database uses. After a failed append to the manifest,
/// which has no room either, those that it may name stay until the next open.
fn check_no_debris(db: &Db, dir: &Path, what: &str) {
    let live = || -> BTreeSet<String> {
        let levels = db.stats().keyspaces.into_iter().flat_map(|keyspace| keyspace.levels);
        let files = levels.flat_map(|level| level.files);
        files.map(|file| format!("{:06}.sst", file.number)).collect()
    };
    let found = || -> BTreeSet<String> {
        let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names.filter(|name| !name.contains(".wal") && name.as_str() != "LOCK").collect()
    };
    // A job may be under way.
    let begun = Instant::now();
    loop {
        let (live, found) = (live(), found());
        let rest: Vec<_> = found.difference(&live).cloned().collect();
        if let [current, manifest] = &rest[..]
            && current == "CURRENT"
            && manifest.starts_with("MANIFEST-")
        {
            return;
        }
        let read_only = db.stats().read_only;
        if read_only.is_some_and(|why| why.contains("cannot write") && why.contains("MANIFEST-")) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: debris: {rest:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn full_disk(kind: Kind, mib: u64, ballast_mib: u64) {
    let disk = match Disk::new(kind, mib) {
        Ok(disk) => disk,
        Err(why) => return skip(&format!("a full {kind:?}"), &why),
    };
    let dir = disk.path().join("db");
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; (ballast_mib as usize) << 20]).unwrap();
    File::open(&ballast).unwrap().sync_all().unwrap();
    let mut db = options().open(&dir).unwrap();
    let mut acked = vec![0; WRITERS as usize];
    for round in 0..3 {
        let what = format!("{kind:?}, round {round}");
        let errors;
        (acked, errors) = fill(&db, &acked);
        for error in &errors {
            let no_space = error.to_string().contains("No space left");
            assert!(no_space || matches!(error, Error::Stalled { .. }), "{what}: {error}");
            assert!(
                matches!(error.kind(), ErrorKind::Io | ErrorKind::ReadOnly | ErrorKind::Busy),
                "{what}: {error}"
            );
        }
        assert!(acked.iter().sum::<u64>() > 100, "{what}: full after {acked:?}");
        let in_doubt = db.stats().read_only.is_some();
        check(&db, &acked, in_doubt, &format!("{what}, full"));
        check_no_debris(&db, &dir, &what);
        if round == 1 {
            // A second open of a full disk fails or not, and loses nothing.
            drop(db);
            db = match options().open(&dir) {
                Ok(db) => db,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Io, "{what}, reopened: {error}");
                    shrink(&ballast, ballast_mib, round);
                    options().open(&dir).unwrap_or_else(|error| panic!("{what}: {error}"))
                }
            };
            check(&db, &acked, in_doubt, &format!("{what}, reopened"));
        }
        shrink(&ballast, ballast_mib, round);
        let read_only = db.stats().read_only.is_some();
        eprintln!("{what}: {acked:?}, read-only: {read_only}, {}", errors[0]);
        if read_only {
            // It says that it takes no more writes until it is reopened.
            drop(db);
            db = options().open(&dir).unwrap_or_else(|error| panic!("{what}: {error}"));
            check_no_debris(&db, &dir, &format!("{what}, opened again"));
        }
        let begun = Instant::now();
        while let Err(error) = db.put("again", "x") {
            assert!(begun.elapsed() < Duration::from_secs(20), "{what}: does not go on: {error}");
            std::thread::sleep(Duration::from_millis(50));
        }
        check(&db, &acked, in_doubt, &format!("{what}, space again"));
        let verified = db.verify(&mut |_, _| {});
        verified.unwrap_or_else(|error| panic!("{what}: {error}"));
        // A write in doubt may be there.
        for (writer, acked) in (0..).zip(&mut acked) {
            *acked += u64::from(db.contains_key(key(writer, *acked)).unwrap());
        }
    }
}

/// A part of the space is free again.
fn shrink(ballast: &Path, mib: u64, round: u64) {
    let file = File::options().write(true).open(ballast).unwrap();
    file.set_len((mib << 20) * (2 - round) / 3).unwrap();
    file.sync_all().unwrap();
}

/// A store into what is reserved takes no space, however the pages lie: there is no error that it
/// could return.
fn stores_on_a_full_disk(kind: Kind) {
    const BYTES: u64 = 16 << 20;
    let disk = match Disk::new(kind, 64) {
        Ok(disk) => disk,
        Err(why) => return skip(&format!("stores on a full {kind:?}"), &why),
    };
    let path = disk.path().join("reserved");
    let file = OsFs.create(&path).unwrap();
    assert!(file.reserve(0..BYTES).unwrap(), "{kind:?}");
    file.set_len(BYTES).unwrap();
    file.sync_data().unwrap();
    // All that is left, to the last block.
    let ballast = File::create(disk.path().join("ballast")).unwrap();
    for len in [1 << 20, 4096] {
        let fill = vec![1; len];
        while (&ballast).write_all(&fill).and_then(|()| ballast.sync_all()).is_ok() {}
    }
    file.prepare_overwrites(BYTES);
    let page = |n: u64| (n * 7919) % (BYTES / 4096) * 4096;
    for n in 0..BYTES / 4096 {
        // Every other page first, so that what is reserved falls to pieces.
        let n = if n < BYTES / 8192 { 2 * n } else { 2 * n - BYTES / 4096 + 1 };
        file.overwrite_at(page(n), &n.to_le_bytes()).unwrap();
        if n % 512 == 0 {
            file.sync_data().unwrap();
        }
    }
    file.sync_data().unwrap();
    drop(file);
    let file = OsFs.open(&path, ReadMode::Pread).unwrap();
    for n in 0..BYTES / 4096 {
        let mut stored = [0; 16];
        file.read_at(page(n), &mut stored).unwrap();
        assert_eq!(stored[..8], n.to_le_bytes(), "{kind:?}");
        assert_eq!(stored[8..], [0; 8], "{kind:?}");
    }
}

/// A reservation that fails may have found a part of the space. A length that the file has already gives
/// that back, as those who reserve while they write need it.
fn failed_reservation(kind: Kind) {
    const BYTES: u64 = 4 << 20;
    let disk = match Disk::new(kind, 64) {
        Ok(disk) => disk,
        Err(why) => return skip(&format!("a failed reservation on {kind:?}"), &why),
    };
    let file = OsFs.create(&disk.path().join("file")).unwrap();
    file.write_at(0, &vec![7; BYTES as usize]).unwrap();
    file.sync_data().unwrap();
    let ballast = File::create(disk.path().join("ballast")).unwrap();
    let fill = vec![1; 1 << 20];
    let grow = || (&ballast).write_all(&fill).and_then(|()| ballast.sync_all());
    while grow().is_ok() {}
    let free = ballast.metadata().unwrap().len() - (6 << 20);
    ballast.set_len(free).unwrap();
    ballast.sync_all().unwrap();
    (&ballast).seek(SeekFrom::End(0)).unwrap();
    assert!(file.reserve(BYTES..5 * BYTES).is_err(), "{kind:?} has room for more than it has");
    file.set_len(BYTES).unwrap();
    for mib in 0..5 {
        grow().unwrap_or_else(|error| panic!("{kind:?}, after {mib} MiB: {error}"));
    }
}

#[test]
fn a_failed_reservation_is_given_back() {
    failed_reservation(Kind::Tmpfs);
    failed_reservation(Kind::Ext4);
}

#[test]
fn a_store_into_reserved_space_needs_none() {
    stores_on_a_full_disk(Kind::Tmpfs);
    stores_on_a_full_disk(Kind::Ext4);
}

#[test]
fn a_full_tmpfs_loses_nothing_and_goes_on_when_there_is_space() {
    full_disk(Kind::Tmpfs, 16, 9);
}

#[test]
fn a_full_ext4_loses_nothing_and_goes_on_when_there_is_space() {
    full_disk(Kind::Ext4, 64, 24);
}
