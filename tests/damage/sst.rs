//! SSTs: every part of them.

use std::collections::BTreeSet;

use esker::fs::Fs as _;

use crate::image::Image;
use crate::image::each_zeroed;
use crate::image::flipped;
use crate::image::mix;
use crate::image::one_in;
use crate::image::path;
use crate::image::read;
use crate::image::replace;
use crate::image::with_levels;
use crate::image::with_versions;
use crate::verdict::named;
use crate::verdict::open_or_named;
use crate::verdict::read_all;

struct Case<'a> {
    image: &'a Image,
    probes: BTreeSet<(String, Vec<u8>)>,
    file: &'a str,
    what: String,
}

impl Case<'_> {
    /// Judges the database with `bytes` in place of the file. Returns how many keys could not be
    /// read.
    fn judge(&self, bytes: &[u8], mmap: bool) -> usize {
        let Case { image, probes, file, what } = self;
        let fs = image.copy();
        replace(&fs, file, bytes);
        let Some(db) = open_or_named(&fs, mmap, &[file], what) else {
            return probes.len();
        };
        let failed = read_all(&db, image, probes, file, what);
        let Err(error) = db.verify(&mut |_, _| {}) else {
            panic!("{what}: verify finds nothing; {} keys do not read", failed.len());
        };
        assert_eq!(named(&error, what), *file, "{what}: {error}");
        self.compact(&db, &failed);
        drop(db);
        let db = open_or_named(&fs, mmap, &[file], what);
        let Some(db) = db else { return failed.len() };
        let after = read_all(&db, image, probes, file, what);
        assert!(after.is_subset(&failed), "{what}: more is lost after compactions and an open");
        failed.len()
    }

    /// A compaction that meets the damage fails and keeps its inputs; one that does not is right.
    fn compact(&self, db: &esker::Db, failed: &BTreeSet<(String, Vec<u8>)>) {
        let Case { image, probes, file, what } = self;
        let mut met = false;
        for name in db.keyspaces() {
            if let Err(error) = db.keyspace(&name).unwrap().compact_range::<&[u8], _>(..) {
                assert_eq!(named(&error, what), *file, "{what}: {error}");
                met = true;
            }
        }
        let live =
            db.stats().keyspaces.iter().flat_map(|ks| ks.levels.clone()).any(|level| {
                level.files.iter().any(|it| format!("{:06}.sst", it.number) == **file)
            });
        assert!(live || !met, "{what}: the damaged input is gone after a failed compaction");
        let after = read_all(db, image, probes, file, what);
        assert!(after.is_subset(failed), "{what}: more is lost after a compaction");
        if !live {
            assert!(after.is_empty(), "{what}: errors without the file");
            db.verify(&mut |_, _| {}).unwrap();
        }
        assert!(!live || db.verify(&mut |_, _| {}).is_err(), "{what}: the damage is laundered");
    }
}

fn each_file(stride: usize, mut judge: impl FnMut(&mut Case<'_>, &[u8], bool)) {
    for (image, least) in
        [(with_levels().closed("levels"), 5), (with_versions().closed("versions"), 2)]
    {
        let probes = image.probes();
        let files = image.files(".sst");
        assert!(files.len() >= least, "{files:?}");
        for (n, file) in files.iter().enumerate().step_by(stride) {
            let bytes = read(&image.fs, file);
            let what = String::new();
            let mut case = Case { image: &image, probes: probes.clone(), file, what };
            judge(&mut case, &bytes, n % 2 == 0);
        }
    }
}

#[test]
fn a_flip_in_an_sst_is_found_and_contained() {
    let (mut contained, mut in_one_block, mut flips) = (0, 0, 0);
    each_file(1, |case, bytes, mmap| {
        let stride = one_in(3);
        let start = mix(bytes.len() as u64) as usize % stride;
        for at in (start..bytes.len()).step_by(stride) {
            case.what = format!("{}, byte {at} of {}", case.file, bytes.len());
            let failed = case.judge(&flipped(bytes, at), mmap ^ (at % 3 == 0));
            flips += 1;
            // A block has 256 bytes.
            in_one_block += usize::from(failed <= 8);
            contained += usize::from(failed < case.probes.len());
        }
    });
    // A few parts concern the whole file; no part concerns the whole database.
    assert_eq!(contained, flips);
    assert!(in_one_block * 3 > flips, "only {in_one_block} of {flips} cost no more than a block");
}

#[test]
fn a_zeroed_range_of_an_sst_is_found_and_contained() {
    each_file(1, |case, bytes, mmap| {
        let step = |len: usize| one_in(5) * len.min(128);
        each_zeroed(bytes, bytes.len(), step, |zeros, damaged| {
            case.what = format!("{}, zeros in {zeros:?}", case.file);
            case.judge(damaged, mmap);
        });
    });
}

#[test]
fn an_sst_of_another_length_is_refused() {
    each_file(2, |case, bytes, mmap| {
        let mut lens: Vec<usize> = (0..bytes.len()).step_by(one_in(17)).collect();
        lens.extend([bytes.len() - 1, bytes.len() - 8, bytes.len() - 72]);
        for len in lens {
            case.what = format!("{} cut to {len}", case.file);
            assert_eq!(case.judge(&bytes[..len], mmap), case.probes.len());
        }
        for more in [1, 8, 72, 4096] {
            let mut longer = bytes.to_vec();
            longer.extend((0..more).map(|n| mix(n) as u8));
            case.what = format!("{} with {more} bytes of garbage", case.file);
            assert_eq!(case.judge(&longer, mmap), case.probes.len());
        }
        // A copy of the footer at the end: as valid as the original, in the wrong place.
        let longer = [bytes, &bytes[bytes.len() - 72..]].concat();
        assert_eq!(case.judge(&longer, mmap), case.probes.len());
    });
}

/// Damage that comes while the database is open: what was read once goes on, the rest is an error.
#[test]
fn an_sst_damaged_under_an_open_database_gives_no_wrong_answer() {
    each_file(2, |case, bytes, _| {
        for at in (0..bytes.len()).step_by(one_in(23)) {
            let fs = case.image.copy();
            case.what = format!("{}, byte {at} while open", case.file);
            let db = open_or_named(&fs, false, &[], &case.what).unwrap();
            if at % 2 == 0 {
                read_all(&db, case.image, &case.probes, "none", &case.what);
            }
            let flipped = [bytes[at] ^ 0x10];
            fs.open_writable(&path(case.file)).unwrap().write_at(at as u64, &flipped).unwrap();
            let failed = read_all(&db, case.image, &case.probes, case.file, &case.what);
            let error = db.verify(&mut |_, _| {}).unwrap_err();
            assert_eq!(named(&error, &case.what), case.file, "{error}");
            case.compact(&db, &failed);
        }
    });
}
