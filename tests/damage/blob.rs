//! Blob files: damage costs the value that it is in, and everything that needs no value goes on.

use std::collections::BTreeSet;

use esker::KeyspaceOptions;
use esker::fs::Fs as _;

use crate::image::Image;
use crate::image::Maker;
use crate::image::each_zeroed;
use crate::image::flipped;
use crate::image::mix;
use crate::image::one_in;
use crate::image::path;
use crate::image::read;
use crate::image::replace;
use crate::image::with_levels_in;
use crate::verdict::named;
use crate::verdict::open_or_named;
use crate::verdict::read_all;

/// The files of `with_levels`, with values of 50 bytes and more apart.
fn image() -> Image {
    let maker = Maker::new(1);
    for name in ["default", "side"] {
        let apart = KeyspaceOptions::new().separate_values(50);
        maker.db.keyspace_with(name, apart).unwrap();
    }
    with_levels_in(maker).closed("apart")
}

/// Judges the database with `bytes` in place of `file`. Returns how many keys could not be read.
fn judge(image: &Image, file: &str, bytes: &[u8], mmap: bool, what: &str) -> usize {
    let probes = image.probes();
    let fs = image.copy();
    replace(&fs, file, bytes);
    let Some(db) = open_or_named(&fs, mmap, &[file], what) else { return probes.len() };
    let failed = read_all(&db, image, &probes, file, what);
    for (name, key) in &probes {
        let keyspace = db.keyspace(name).unwrap();
        let expected = image.model.get(name).and_then(|entries| entries.get(key));
        let size = keyspace.size_of(key).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(size, expected.map(Vec::len), "{what}");
        assert_eq!(
            keyspace.keys::<&[u8], _>(&key[..]..=&key[..]).count(),
            usize::from(expected.is_some()),
            "{what}"
        );
    }
    let error = db.verify(&mut |_, _| {}).expect_err(what);
    assert_eq!(named(&error, what), file, "{what}: {error}");
    // Handles move without their values; what is to be moved and does not verify stays.
    for name in db.keyspaces() {
        if let Err(error) = db.keyspace(&name).unwrap().compact_range::<&[u8], _>(..) {
            assert_eq!(named(&error, what), file, "{what}: {error}");
        }
    }
    for _ in 0..20 {
        match db.run_one_job() {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => assert_eq!(named(&error, what), file, "{what}: {error}"),
        }
    }
    assert!(!db.run_one_job().unwrap(), "{what}: the jobs never end");
    let after = read_all(&db, image, &probes, file, what);
    assert!(after.is_subset(&failed), "{what}: more is lost after compactions");
    drop(db);
    let Some(db) = open_or_named(&fs, mmap, &[file], what) else { return failed.len() };
    let after = read_all(&db, image, &probes, file, what);
    assert!(after.is_subset(&failed), "{what}: more is lost after an open");
    failed.len()
}

fn each_file(mut judge: impl FnMut(&Image, &str, &[u8])) {
    let image = image();
    let files = image.files(".blob");
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        judge(&image, &file, &read(&image.fs, &file));
    }
}

#[test]
fn a_flip_in_a_blob_file_costs_one_value() {
    each_file(|image, file, bytes| {
        let stride = one_in(11);
        for at in (0..bytes.len()).step_by(stride).chain(0..64) {
            let what = format!("{file}, byte {at} of {}", bytes.len());
            let failed = judge(image, file, &flipped(bytes, at), at % 3 == 0, &what);
            assert!(at < 64 || failed <= 1, "{what}: {failed} keys lost");
        }
    });
}

#[test]
fn a_zeroed_range_of_a_blob_file_is_found() {
    each_file(|image, file, bytes| {
        let step = |len: usize| one_in(5) * len.min(128);
        each_zeroed(bytes, bytes.len(), step, |zeros, damaged| {
            let what = format!("{file}, zeros in {zeros:?}");
            judge(image, file, damaged, zeros.start.is_multiple_of(2), &what);
        });
    });
}

#[test]
fn a_blob_file_of_another_length_or_database_is_refused() {
    each_file(|image, file, bytes| {
        let all = image.probes().len();
        for len in [0, 1, 63, 64, bytes.len() / 2, bytes.len() - 1] {
            let what = format!("{file} cut to {len}");
            assert_eq!(judge(image, file, &bytes[..len], true, &what), all);
        }
        let longer: Vec<u8> = bytes.iter().copied().chain((0..100).map(|n| mix(n) as u8)).collect();
        assert_eq!(judge(image, file, &longer, true, &format!("{file} with garbage")), all);
        let fs = image.copy();
        fs.remove(&path(file)).unwrap();
        let what = format!("{file} is missing");
        assert!(open_or_named(&fs, true, &[file], &what).is_none(), "{what}");
    });
    // Each in the place of each other one.
    let image = image();
    let files = image.files(".blob");
    for one in &files {
        for other in files.iter().filter(|other| *other != one) {
            let what = format!("{other} as {one}");
            let failed = judge(&image, one, &read(&image.fs, other), true, &what);
            assert!(failed > 0, "{what}");
        }
    }
}

/// What the values of a damaged file come to in a repair: all others are saved.
#[test]
fn a_repair_saves_all_values_but_the_damaged_ones() {
    each_file(|image, file, bytes| {
        for at in (64..bytes.len()).step_by(one_in(60)) {
            let fs = image.copy();
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x40;
            replace(&fs, file, &damaged);
            let what = format!("{file}, byte {at}");
            let options = crate::image::options(&fs);
            let report = options.clone().repair(crate::image::DIR, "/new", &mut |_, _| {}).unwrap();
            let db = options.open("/new").unwrap();
            let mut lost = BTreeSet::new();
            for (name, entries) in &image.model {
                let keyspace = db.keyspace(name).unwrap();
                for (key, value) in entries {
                    if keyspace.get(key).unwrap().as_deref() != Some(value.as_slice()) {
                        lost.insert((name, key));
                    }
                }
            }
            assert!(lost.len() <= 1, "{what}: {lost:?}");
            let named = report.losses.iter().any(|loss| loss.file.ends_with(file));
            assert_eq!(named, !lost.is_empty(), "{what}: {report}");
        }
    });
}
