//! Damage to the files of a closed database: what is read is right, or an error that says which
//! file is damaged. Never wrong, never absent, never a panic.
//!
//! Only two things are taken for the torn end that a crash leaves, and cost the last batches: the
//! last records of the manifest, all of them up to its end; and, where no such record says that the
//! log is durable, the end of the log.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use esker::Db;
use esker::Error;
use esker::Recovery;
use esker::fs::CrashMode;
use esker::fs::Fs as _;
use esker::fs::MemFs;
use esker::fs::ReadMode;

use crate::harness::choices::Choices;
use crate::harness::choices::mix;
use crate::harness::frames::frame_at;
use crate::harness::state::NAMES;
use crate::harness::state::Place;
use crate::harness::state::State;
use crate::harness::state::try_contents;
use crate::harness::workload::DIR;
use crate::harness::workload::Workload;

/// Ends of names, which tell what a file is.
const CLASSES: [&str; 6] = [".sst", ".wal", "MANIFEST-", "CURRENT", "LOCK", ".blob"];
/// Files that may come to lie in the directory.
const STRAYS: [&str; 6] =
    ["notes.txt", "000999.sst", "000999.wal", "CURRENT.tmp", "MANIFEST-000999", "x.sst"];

#[derive(Clone, Copy, Debug)]
enum Kind {
    Flip,
    Zeros,
    Garbage,
    Truncate,
    Extend,
    Remove,
    /// Exchanges it with another one of its class.
    Swap,
    /// Replaces it by a copy of another one of its class.
    Copy,
    /// Leaves it alone, and puts a file beside it.
    Stray,
}

const KINDS: [Kind; 12] = [
    Kind::Flip,
    Kind::Flip,
    Kind::Flip,
    Kind::Zeros,
    Kind::Garbage,
    Kind::Truncate,
    Kind::Extend,
    Kind::Remove,
    Kind::Swap,
    Kind::Copy,
    Kind::Stray,
    Kind::Flip,
];

/// Damage, in terms that make sense for any database.
#[derive(Clone, Copy, Debug)]
struct Damage {
    class: &'static str,
    which: usize,
    kind: Kind,
    /// In 65536ths of the file if it is even, else in bytes from its end.
    at: u64,
    len: u64,
}

impl Damage {
    fn draw(choices: &mut Choices) -> Damage {
        Damage {
            class: choices.pick(&[0, 0, 5, 1, 1, 1, 2, 2, 2, 3, 4].map(|n| CLASSES[n])),
            which: choices.index(256),
            kind: choices.pick(&KINDS),
            at: choices.below(1 << 16),
            len: match choices.below(4) {
                0 => 1,
                1 => 1 + choices.below(64),
                2 => 512,
                _ => 4096,
            },
        }
    }

    fn range(&self, len: u64) -> Range<u64> {
        let at = if self.at.is_multiple_of(2) {
            (self.at * len) >> 16
        } else {
            len.saturating_sub(1 + self.at / 2 % 256)
        };
        at..(at + self.len).min(len)
    }
}

/// The files of one class, sorted; but no strays.
fn files(fs: &MemFs, class: &str) -> Vec<PathBuf> {
    let is_one = |name: &str| {
        let fits =
            if class.starts_with('.') { name.ends_with(class) } else { name.starts_with(class) };
        fits && !STRAYS.contains(&name)
    };
    let listing = fs.list(Path::new(DIR)).unwrap();
    let found = listing.iter().filter(|entry| is_one(&entry.name));
    found.map(|entry| Path::new(DIR).join(&entry.name)).collect()
}

fn read(fs: &MemFs, path: &Path) -> Vec<u8> {
    let file = fs.open(path, ReadMode::Pread).unwrap();
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

fn write(fs: &MemFs, path: &Path, bytes: &[u8]) {
    if fs.exists(path).unwrap() {
        fs.remove(path).unwrap();
    }
    fs.create(path).unwrap().write_at(0, bytes).unwrap();
}

/// All files with their contents, but for `LOCK`, whose content and existence mean nothing.
fn everything(fs: &MemFs) -> Vec<(String, Vec<u8>)> {
    let listing = fs.list(Path::new(DIR)).unwrap();
    let names = listing.into_iter().map(|entry| entry.name).filter(|name| name != "LOCK");
    names.map(|name| (name.clone(), read(fs, &Path::new(DIR).join(&name)))).collect()
}

/// Does it.
fn damage(fs: &MemFs, damage: &Damage) {
    let all = files(fs, damage.class);
    if all.is_empty() {
        return;
    }
    let path = &all[damage.which % all.len()];
    let other = &all[(damage.which / 16 + 1 + damage.which) % all.len()];
    let before = read(fs, path);
    let mut bytes = before.clone();
    let range = damage.range(bytes.len() as u64);
    let range = range.start as usize..range.end as usize;
    let garbage = |n: usize| mix(damage.at << 16 | n as u64) as u8;
    match damage.kind {
        Kind::Flip => bytes[range].iter_mut().take(1).for_each(|b| *b ^= 1 << (damage.which % 8)),
        Kind::Zeros => bytes[range].fill(0),
        Kind::Garbage => range.for_each(|n| bytes[n] = garbage(n)),
        Kind::Truncate => bytes.truncate(range.start),
        Kind::Extend => {
            let len = bytes.len();
            bytes.extend(
                (0..damage.len as usize)
                    .map(|n| if len.is_multiple_of(2) { 0 } else { garbage(n) }),
            );
        }
        Kind::Remove => {
            fs.remove(path).unwrap();
            return;
        }
        Kind::Swap => {
            bytes = read(fs, other);
            write(fs, other, &before);
        }
        Kind::Copy => bytes = read(fs, other),
        Kind::Stray => {
            let name = STRAYS[damage.which % STRAYS.len()];
            let bytes: Vec<u8> = (0..damage.len as usize).map(garbage).collect();
            write(fs, &Path::new(DIR).join(name), &bytes);
            return;
        }
    }
    write(fs, path, &bytes);
}

/// Where the records of a manifest lie.
fn records(manifest: &[u8]) -> Vec<Range<usize>> {
    let mut records = Vec::new();
    let mut at = 64;
    while let Some(frame) = frame_at(manifest, at) {
        at = frame.bytes.end;
        records.push(frame.bytes);
    }
    records
}

/// How many records at the end of the manifest are damaged, all up to its end.
fn lost_records(before: &[u8], after: &[u8]) -> usize {
    let intact = |record: &Range<usize>| after.get(record.clone()) == before.get(record.clone());
    records(before).iter().rev().take_while(|record| !intact(record)).count()
}

/// What may be read of a damaged database.
struct Expected {
    state: State,
    /// The last batches may be missing.
    lenient: bool,
    /// All that ever was.
    values: BTreeSet<(Place, Arc<[u8]>)>,
    what: String,
}

impl Expected {
    fn accept(&self, error: &Error) {
        let fine = matches!(error, Error::Corruption { .. } | Error::UnsupportedFormat { .. });
        assert!(fine, "{}: not an error of damage: {error:?}", self.what);
    }

    /// Reads everything in every way.
    fn check(&self, db: &Db) {
        let what = &self.what;
        if self.lenient {
            match try_contents(db) {
                Ok(found) => {
                    let known = found.into_iter().all(|entry| self.values.contains(&entry));
                    assert!(known, "{what}: a value that never was");
                }
                Err(error) => self.accept(&error),
            }
            return;
        }
        let names = db.keyspaces();
        for (index, name) in NAMES.iter().enumerate() {
            let of_this = |(place, _): &(&Place, &Arc<[u8]>)| place.0 == index;
            let entries: Vec<_> = self.state.iter().filter(of_this).collect();
            if !names.iter().any(|known| known == name) {
                assert!(entries.is_empty(), "{what}: {name} is gone");
                continue;
            }
            let keyspace = db.keyspace(name).unwrap_or_else(|error| panic!("{what}: {error}"));
            for n in 0..26 {
                let key = format!("key{n:02}").into_bytes();
                let model = self.state.get(&(index, key[..].into()));
                match keyspace.get(&key) {
                    Ok(found) => {
                        assert!(found.as_deref() == model.map(|v| &v[..]), "{what}: {name} {n}");
                    }
                    Err(error) => self.accept(&error),
                }
            }
            for back in [false, true] {
                let (mut iter, mut left) = (keyspace.iter(), entries.iter());
                loop {
                    let (found, model) = if back {
                        (iter.next_back(), left.next_back())
                    } else {
                        (iter.next(), left.next())
                    };
                    match found {
                        Some(Err(error)) => {
                            self.accept(&error);
                            break;
                        }
                        Some(Ok((key, value))) => {
                            let found = Some((&key[..], &value[..]));
                            let model = model.map(|(place, value)| (&place.1[..], &value[..]));
                            assert!(found == model, "{what}: {name}, back: {back}");
                        }
                        None => {
                            assert!(model.is_none(), "{what}: {name} ends early, back: {back}");
                            break;
                        }
                    }
                }
            }
        }
    }
}

/// A workload, closed or killed, and then damage to its files.
pub(crate) fn files_on_disk(data: &[u8]) {
    let mut choices = Choices::bytes(data);
    let damages: Vec<_> = (0..=choices.below(4) / 3).map(|_| Damage::draw(&mut choices)).collect();
    let (killed, salvage) = (choices.below(8) == 7, choices.below(8) == 7);
    let mut workload = Workload::new(format!("{damages:?}, killed: {killed}"), choices);
    workload.open();
    while !workload.choices.over() {
        workload.step();
    }
    workload.let_all_go().unwrap();
    if killed {
        let fs = workload.fs.crash_clone(CrashMode::KeepAll, 0);
        workload.die();
        workload.move_to(fs);
    } else {
        workload.db.take().unwrap().close().unwrap();
    }

    let fs = workload.fs.clone();
    let manifest = files(&fs, "MANIFEST-").remove(0);
    let before = read(&fs, &manifest);
    let intact = everything(&fs);
    damages.iter().for_each(|one| damage(&fs, one));
    let left = everything(&fs);
    let hit = intact.iter().filter(|file| !left.contains(file));
    let hit: Vec<_> = hit.map(|(name, _)| Path::new(DIR).join(name)).collect();
    let after = if fs.exists(&manifest).unwrap() { read(&fs, &manifest) } else { Vec::new() };
    let lost = if after.is_empty() { 0 } else { lost_records(&before, &after) };
    let log_is_hit = hit.iter().any(|path| path.to_string_lossy().ends_with(".wal"));
    // The last record of a database that was closed only says that nothing is missing.
    let worthless = usize::from(!killed);
    let lenient = lost > worthless || log_is_hit && (lost > 0 || killed || salvage);
    let expected = Expected {
        state: workload.history.newest().clone(),
        lenient,
        values: workload.history.values(),
        what: workload.trail.to_string(),
    };
    if salvage {
        workload.options = workload.options.clone().recovery(Recovery::ToLastConsistentPoint);
    }
    look(&workload, &expected, &hit);
}

/// Opens a damaged database and looks at it, compacts it, and looks again.
fn look(workload: &Workload, expected: &Expected, hit: &[PathBuf]) {
    let (fs, what) = (&workload.fs, &expected.what);
    let files = everything(fs);
    let db = match workload.try_open() {
        Ok(db) => db,
        Err(error) => {
            expected.accept(&error);
            assert!(!hit.is_empty(), "{what}: nothing is damaged, but {error}");
            assert!(everything(fs) == files, "{what}: a failed open has changed files");
            return;
        }
    };
    expected.check(&db);
    let is_live_data = |path: &&PathBuf| {
        path.extension().is_some_and(|e| e == "sst" || e == "blob") && fs.exists(path).unwrap()
    };
    let verified = db.verify(&mut |_, _| {});
    match hit.iter().find(is_live_data) {
        Some(path) => assert!(verified.is_err(), "{what}: {} passes for sound", path.display()),
        None => drop(verified.map_err(|error| {
            // Of the log, segments that are kept for change feeds are read by this alone.
            let is_kept = |file: &PathBuf| file.extension().is_some_and(|e| e == "wal");
            let named = matches!(&error, Error::Corruption { file, .. } if is_kept(file) && hit.contains(file));
            assert!(named, "{what}: {error}");
        })),
    }
    for name in db.keyspaces() {
        let keyspace = db.keyspace(&name).unwrap();
        if let Err(error) = keyspace.compact_range::<&[u8], _>(..) {
            expected.accept(&error);
        }
    }
    expected.check(&db);
    db.close().unwrap_or_else(|error| panic!("{what}: {error}"));
    match workload.try_open() {
        Ok(db) => expected.check(&db),
        Err(error) => panic!("{what}: it was open, and now: {error}"),
    }
}
