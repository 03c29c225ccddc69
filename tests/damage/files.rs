//! Whole files: missing, empty, swapped, of another database, from an earlier time, unknown, or a
//! directory in their place.

use std::collections::BTreeMap;

use esker::Durability;
use esker::ErrorKind;
use esker::Recovery;
use esker::fs::Fs as _;
use esker::fs::MemFs;

use crate::image::DIR;
use crate::image::Image;
use crate::image::Maker;
use crate::image::all_bytes;
use crate::image::mix;
use crate::image::open;
use crate::image::options;
use crate::image::path;
use crate::image::read;
use crate::image::replace;
use crate::image::with_levels;
use crate::image::with_levels_as;
use crate::image::with_log;
use crate::verdict::contents;
use crate::verdict::judge;
use crate::verdict::named;
use crate::verdict::open_or_named;
use crate::verdict::read_all;

fn images() -> Vec<Image> {
    vec![
        with_levels().closed("levels, closed"),
        with_levels().crashed("levels, crashed"),
        with_log(3).closed("log, closed"),
        with_log(0).crashed("log, crashed"),
    ]
}

/// The files that the database needs: not prepared segments, which it does not.
fn needed(image: &Image) -> Vec<String> {
    let is_needed = |name: &String| {
        let bytes = read(&image.fs, name);
        let number = u64::from_le_bytes(bytes[24..32].try_into().unwrap());
        name.strip_suffix(".wal").is_none_or(|name| name.parse() == Ok(number))
    };
    image.files("").into_iter().filter(|name| name != "LOCK").filter(is_needed).collect()
}

#[test]
fn a_file_that_is_missing_or_empty_or_a_directory_is_an_error() {
    for image in images() {
        let needed = needed(&image);
        for (n, name) in needed.iter().enumerate() {
            let is_log = name.contains(".wal");
            // What nothing proves may be lost with the last segment after a crash.
            let is_last = needed[n + 1..].iter().all(|next| !next.contains(".wal"));
            if is_log && is_last && !image.closed {
                continue;
            }
            let may_name = [if is_log { ".wal" } else { name }];
            let fs = image.copy();
            fs.remove(&path(name)).unwrap();
            let refused = |fs: &MemFs, what: &str| {
                let what = format!("{name} {what}");
                assert!(!judge(&image, fs, &may_name, &what), "{}: {what}: opened", image.name);
            };
            refused(&fs, "is missing");
            fs.create_dir_all(&path(name)).unwrap();
            refused(&fs, "is a directory");
            let fs = image.copy();
            replace(&fs, name, b"");
            refused(&fs, "is empty");
        }
    }
}

#[test]
fn swapped_ssts_are_noticed() {
    let image = with_levels().closed("levels");
    let probes = image.probes();
    let files = image.files(".sst");
    let other = with_levels_as(77).closed("another");
    for one in &files {
        for other in files.iter().filter(|other| *other > one) {
            let fs = image.copy();
            replace(&fs, one, &read(&image.fs, other));
            replace(&fs, other, &read(&image.fs, one));
            let opened = judge(&image, &fs, &[one, other], &format!("{one} and {other} swapped"));
            assert!(!opened, "{one} and {other}");
        }
        // Of the same length, so that only their identity tells them apart.
        let stranger = read(&other.fs, one);
        assert_eq!(stranger.len(), read(&image.fs, one).len(), "{one}");
        let fs = image.copy();
        replace(&fs, one, &stranger);
        let what = format!("{one} of another database");
        let db = open_or_named(&fs, true, &[one], &what).unwrap();
        let failed = read_all(&db, &image, &probes, one, &what);
        assert!(!failed.is_empty() && failed.len() < probes.len(), "{what}");
        assert_eq!(named(&db.verify(&mut |_, _| {}).unwrap_err(), &what), *one);
    }
}

#[test]
fn files_of_an_earlier_time_are_noticed_or_make_no_difference() {
    let mut maker = with_log(0);
    let mut earlier: Vec<BTreeMap<String, Vec<u8>>> = Vec::new();
    for n in 0..8_u32 {
        let files = all_bytes(&maker.fs).into_iter();
        earlier.push(files.map(|(name, bytes)| (name, bytes.unwrap())).collect());
        match n {
            1 => maker.put("another", &[n], 50, Durability::Sync),
            3 => maker.flush(),
            4 => maker.db.compact_range::<&[u8], _>(..).unwrap(),
            5 => maker = maker.reopen(),
            _ => maker.put("default", &[n, n + 1, n + 2], 700, Durability::Sync),
        }
    }
    let image = maker.closed("with a history");
    assert!(judge(&image, &image.copy(), &[], "undamaged"));
    let mut opened = 0;
    for (n, files) in earlier.iter().enumerate() {
        for (name, bytes) in files {
            let fs = image.copy();
            if fs.exists(&path(name)).unwrap() && read(&fs, name) == *bytes {
                continue;
            }
            replace(&fs, name, bytes);
            let what = format!("{name} of moment {n}");
            opened += usize::from(judge(&image, &fs, &[name, ".sst", ".wal", "MANIFEST"], &what));
        }
        // An older manifest in force.
        let fs = image.copy();
        for (name, bytes) in files.iter().filter(|(name, _)| !name.contains('.')) {
            replace(&fs, name, bytes);
        }
        let what = format!("CURRENT and MANIFEST of moment {n}");
        judge(&image, &fs, &["CURRENT", ".sst", ".wal", "MANIFEST"], &what);
    }
    assert!(opened > 0, "files that are not needed any more do no harm");
}

/// What is not ours stays, whatever we do.
#[test]
fn unknown_files_are_left_alone() {
    for image in images() {
        let fs = image.copy();
        let unknown = [
            "README",
            "notes.txt",
            "1.sst",
            "000001.sst.bak",
            "000001.WAL",
            "x000009.wal",
            ".hidden",
            "MANIFEST-1",
            "MANIFEST-",
            "MANIFEST-000001.old",
            "CURRENT.bak",
            "LOCK2",
            "00000a.sst",
            "99999999999999999999.sst",
            "9223372036854775807.wal",
            "000001.tmp",
            "0000003.sst",
        ];
        for (n, name) in unknown.iter().enumerate() {
            replace(&fs, name, &[n as u8; 100]);
        }
        fs.create_dir_all(&path("000000.sst")).unwrap();
        fs.create_dir_all(&path("directory/deeper")).unwrap();
        for round in 0..3 {
            let db = open(&fs, round % 2 == 0).unwrap();
            assert!(contents(&db) == image.model, "{}", image.name);
            for name in db.keyspaces() {
                db.keyspace(&name).unwrap().compact_range::<&[u8], _>(..).unwrap();
            }
            while db.run_one_job().unwrap() {}
            db.close().unwrap();
        }
        for (n, name) in unknown.iter().enumerate() {
            assert_eq!(read(&fs, name), [n as u8; 100], "{name}");
        }
        assert!(fs.exists(&path("directory/deeper")).unwrap());
    }
}

/// What bears a name of ours and is named by nothing was left by a crash.
#[test]
fn leftovers_do_no_harm() {
    for image in images() {
        let garbage: Vec<u8> = (0..5000).map(|n| mix(n) as u8).collect();
        let sst = image.files(".sst").first().map_or_else(Vec::new, |name| read(&image.fs, name));
        let manifest = read(&image.fs, &image.files("MANIFEST")[0]);
        for name in ["CURRENT.tmp", "000777.sst", "MANIFEST-000777", "000777.wal", "000001.wal"] {
            for bytes in [&garbage[..], &sst, &manifest, b""] {
                let fs = image.copy();
                replace(&fs, name, bytes);
                let what = format!("{name} is left over");
                assert!(judge(&image, &fs, &[], &what), "{}: {what}", image.name);
                assert!(!fs.exists(&path(name)).unwrap(), "{}: {what} and stays", image.name);
            }
        }
    }
}

/// A segment of another database is no leftover: it is not removed, and where it could hide what
/// was lost, it is an error.
#[test]
fn a_segment_of_another_database_is_kept() {
    let other = with_log(0).crashed("other");
    let mut mine = Maker::new(9);
    mine.put("default", &[1], 10, Durability::Sync);
    let image = mine.closed("mine");
    let foreign = other.files(".wal").last().unwrap().clone();
    let bytes = read(&other.fs, &foreign);
    for name in [&foreign, "000777.wal", "000001.wal"] {
        let fs = image.copy();
        replace(&fs, name, &bytes);
        for mode in [Recovery::Strict, Recovery::ToLastConsistentPoint] {
            match options(&fs).recovery(mode).open(DIR) {
                Ok(db) => assert!(contents(&db) == image.model, "{name}"),
                Err(error) => assert!(named(&error, name).contains(".wal"), "{name}: {error}"),
            }
        }
        if *name == foreign {
            assert_eq!(read(&fs, name), bytes, "{name}: overwritten");
        }
    }
}

#[test]
fn the_content_of_lock_means_nothing() {
    for image in images() {
        let fs = image.copy();
        replace(&fs, "LOCK", b"garbage");
        assert!(judge(&image, &fs, &[], "garbage in LOCK"));
        fs.remove(&path("LOCK")).unwrap();
        assert!(judge(&image, &fs, &[], "LOCK is missing"));
        fs.remove(&path("LOCK")).unwrap();
        fs.create_dir_all(&path("LOCK")).unwrap();
        let error = open(&fs, true).unwrap_err();
        assert_eq!((error.kind(), named(&error, "LOCK").as_str()), (ErrorKind::Io, "LOCK"));
        let db = open(&image.copy(), true).unwrap();
        drop(db);
    }
}
