//! CURRENT and the manifest.

use esker::Durability;
use esker::fs::Fs as _;
use esker::fs::MemFs;

use crate::frames::Frame;
use crate::frames::frame_at;
use crate::image::DIR;
use crate::image::Image;
use crate::image::Maker;
use crate::image::all_bytes;
use crate::image::each_zeroed;
use crate::image::mix;
use crate::image::one_in;
use crate::image::options;
use crate::image::path;
use crate::image::read;
use crate::image::replace;
use crate::image::with_levels;
use crate::image::with_log;
use crate::verdict::contents;
use crate::verdict::judge;
use crate::verdict::named;
use crate::verdict::open_or_named;

fn images() -> Vec<Image> {
    vec![
        with_levels().closed("levels, closed"),
        with_levels().crashed("levels, crashed"),
        with_levels().reopen().closed("levels, closed twice"),
        with_log(3).crashed("log"),
        with_dropped().crashed("a keyspace dropped"),
        Maker::new(3).closed("empty"),
    ]
}

/// Keyspaces come and go.
fn with_dropped() -> Maker {
    let mut maker = Maker::new(4);
    maker.put("default", &[1, 2], 20, Durability::Sync);
    maker.put("gone", &[1, 2], 20, Durability::Os);
    maker.flush();
    maker.put("gone", &[3], 20, Durability::Sync);
    maker.put("side", &[3], 20, Durability::Sync);
    maker.db.drop_keyspace("gone").unwrap();
    maker.steps.last_mut().unwrap().1.remove("gone");
    maker
}

/// The manifest ends with a keyspace that the log writes to.
fn with_new() -> Maker {
    let mut maker = Maker::new(5);
    maker.put("default", &[1, 2], 20, Durability::Sync);
    maker.put("new", &[1, 2], 20, Durability::Sync);
    maker
}

#[test]
fn every_flip_in_current_is_an_error() {
    for image in images() {
        let intact = read(&image.fs, "CURRENT");
        for bit in 0..intact.len() * 8 {
            let mut damaged = intact.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let fs = image.copy();
            replace(&fs, "CURRENT", &damaged);
            let opened = judge(&image, &fs, &["CURRENT"], &format!("bit {bit} of CURRENT"));
            assert!(!opened, "bit {bit} of CURRENT");
        }
        for len in 0..intact.len() {
            let fs = image.copy();
            replace(&fs, "CURRENT", &intact[..len]);
            assert!(!judge(&image, &fs, &["CURRENT"], &format!("CURRENT cut to {len}")));
            let mut zeroed = intact.clone();
            zeroed[len..].fill(0);
            replace(&fs, "CURRENT", &zeroed);
            assert!(zeroed == intact || !judge(&image, &fs, &["CURRENT"], "zeros in CURRENT"));
        }
        for more in [1, 64, 4096] {
            let fs = image.copy();
            let garbage: Vec<u8> = (0..more).map(|n| mix(n) as u8).collect();
            replace(&fs, "CURRENT", &[&intact[..], &garbage].concat());
            assert!(!judge(&image, &fs, &["CURRENT"], "garbage behind CURRENT"));
        }
        let fs = image.copy();
        fs.remove(&path("CURRENT")).unwrap();
        assert!(!judge(&image, &fs, &["CURRENT"], "CURRENT is missing"));
    }
}

/// The manifest in force, by name, and where its records begin and end.
pub(crate) fn manifest(image: &Image) -> (String, Vec<u8>, Vec<Frame>) {
    let current = read(&image.fs, "CURRENT");
    let number = u64::from_le_bytes(current[24..32].try_into().unwrap());
    let name = format!("MANIFEST-{number:06}");
    let bytes = read(&image.fs, &name);
    let mut records = Vec::new();
    let mut at = 64;
    while let Some(frame) = frame_at(&bytes, at) {
        at = frame.bytes.end;
        records.push(frame);
    }
    (name, bytes, records)
}

/// Of the last record alone nothing tells a flip from a torn write; but what it tells of is then
/// found in the log, or is an error.
#[test]
fn a_damaged_manifest_is_an_error_or_makes_no_difference() {
    let mut opened = 0;
    for image in images().into_iter().chain([with_new().crashed("a keyspace created")]) {
        let (name, intact, records) = manifest(&image);
        let last = records.last().unwrap().bytes.clone();
        let may_name = [name.as_str(), ".wal", ".sst"];
        let mut try_it = |what: &str, first_changed: usize, damaged: &[u8]| {
            let fs = image.copy();
            replace(&fs, &name, damaged);
            let early = first_changed < last.start;
            let may_name = if early { &may_name[..1] } else { &may_name[..] };
            let what = format!("{name}, {what}, last record {last:?}");
            if judge(&image, &fs, may_name, &what) {
                assert!(!early, "{what}: opened");
                opened += 1;
            }
        };
        for at in (0..intact.len()).step_by(if last.end > 4000 { one_in(5) } else { 1 }) {
            let mut damaged = intact.clone();
            damaged[at] ^= 1 << (mix(at as u64) % 8);
            try_it(&format!("byte {at}"), at, &damaged);
        }
        let step = |len: usize| one_in(2) * len.min(64);
        each_zeroed(&intact, last.start, step, |zeros, damaged| {
            let first = damaged.iter().zip(&intact).position(|(a, b)| a != b);
            if let Some(first) = first.filter(|_| zeros.end <= last.start) {
                try_it(&format!("zeros in {zeros:?}"), first, damaged);
            }
        });
    }
    assert!(opened > 0);
}

/// The end of the manifest is lost, with any number of records.
#[test]
fn a_cut_manifest_is_an_error_or_makes_no_difference() {
    let mut opened = 0;
    for image in images().into_iter().chain([with_new().crashed("a keyspace created")]) {
        let (name, intact, records) = manifest(&image);
        let starts = records.iter().map(|record| record.bytes.start);
        for len in starts.chain((0..intact.len()).step_by(one_in(7))) {
            let fs = image.copy();
            replace(&fs, &name, &intact[..len]);
            let what = format!("{name} cut to {len} of {}", intact.len());
            opened += usize::from(judge(&image, &fs, &[&name, ".wal", ".sst"], &what));
            let garbage: Vec<u8> = (0..100).map(|n| mix(n) as u8).collect();
            replace(&fs, &name, &[&intact[..len], &garbage].concat());
            judge(&image, &fs, &[&name, ".wal", ".sst"], &format!("{what}, and garbage"));
        }
    }
    assert!(opened > 0);
}

/// The end of the manifest told of a keyspace that was dropped: it comes back, with what the log
/// still holds of it, or the open fails; all others are as they were.
#[test]
fn a_lost_drop_of_a_keyspace_costs_nothing_else() {
    let mut maker = Maker::new(6);
    maker.put("default", &[1, 2], 20, Durability::Sync);
    maker.put("gone", &[3, 4], 20, Durability::Sync);
    let before = maker.steps.last().unwrap().1.clone();
    maker.db.drop_keyspace("gone").unwrap();
    maker.steps.last_mut().unwrap().1.remove("gone");
    let image = maker.crashed("a keyspace dropped");
    let (name, intact, records) = manifest(&image);
    let last = records.last().unwrap().bytes.clone();
    let mut back = 0;
    for at in last {
        let mut damaged = intact.clone();
        damaged[at] ^= 4;
        let fs = image.copy();
        replace(&fs, &name, &damaged);
        let what = format!("byte {at} of {name}");
        let Some(db) = open_or_named(&fs, true, &[&name], &what) else { continue };
        let found = contents(&db);
        assert!(found == before || found == image.model, "{what}: {found:?}");
        back += usize::from(found == before);
    }
    assert!(back > 0, "the drop is in the last record");
}

/// What a clean close notes bears witness to the record before it.
#[test]
fn a_drop_of_a_keyspace_before_a_clean_close_is_not_lost_to_a_flip() {
    let mut maker = Maker::new(6);
    maker.put("default", &[1, 2], 20, Durability::Sync);
    maker.put("gone", &[3, 4], 20, Durability::Sync);
    maker.db.drop_keyspace("gone").unwrap();
    maker.steps.last_mut().unwrap().1.remove("gone");
    let image = maker.closed("a keyspace dropped, then closed");
    let (name, intact, _) = manifest(&image);
    let mut opened = 0;
    for at in 0..intact.len() {
        let mut damaged = intact.clone();
        damaged[at] ^= 4;
        let fs = image.copy();
        replace(&fs, &name, &damaged);
        opened += usize::from(judge(&image, &fs, &[&name], &format!("byte {at} of {name}")));
    }
    assert!(opened > 0, "damage to the note itself costs nothing");
}

/// A log that does not fit into memory is replayed after the new manifest is in force; what can be
/// found wrong must be found before.
#[test]
fn a_large_log_is_checked_against_the_manifest_before_anything_changes() {
    let mut maker = with_new();
    for n in 0..80 {
        maker.put("default", &[n], 1000, Durability::Os);
    }
    let image = maker.crashed("a large log");
    let (name, intact, records) = manifest(&image);
    let small = |fs: &MemFs| options(fs).memtable_bytes(8 << 10).memory_budget(64 << 10);
    assert!(contents(&small(&image.copy()).open(DIR).unwrap()) == image.model);
    let created = records
        .iter()
        .position(|record| intact[record.bytes.clone()].windows(3).any(|w| w == b"new"));
    let fs = image.copy();
    replace(&fs, &name, &intact[..records[created.unwrap()].bytes.start]);
    let before = all_bytes(&fs);
    let error = small(&fs).open(DIR).map(drop).unwrap_err();
    assert_eq!(named(&error, "a large log"), name);
    assert!(all_bytes(&fs) == before, "a failed open changed the directory: {error}");
}
