//! What may be found in a damaged database.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use esker::Db;
use esker::Error;
use esker::ErrorKind;

use crate::image::DIR;
use crate::image::Image;
use crate::image::State;
use crate::image::all_bytes;
use crate::image::open;
use esker::fs::MemFs;

/// The file that an error of damage names. Panics at any other error.
pub(crate) fn named(error: &Error, what: &str) -> String {
    let path = match error {
        Error::Corruption { file, .. } | Error::UnsupportedFormat { file, .. } => file,
        Error::Io { path, .. } => path,
        Error::NotADatabase { .. } => panic!("{what}: taken for no database: {error}"),
        _ => panic!("{what}: not an error about stored bytes: {error:?}"),
    };
    let typed = matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Io)
        || matches!(error, Error::UnsupportedFormat { .. });
    assert!(typed, "{what}: {error}");
    let name = path.strip_prefix(Path::new(DIR)).unwrap().to_str().unwrap().to_owned();
    assert!(!name.is_empty() && error.to_string().contains(&name), "{what}: no file in {error}");
    name
}

/// Opens; an error must name one of `may_name` and leave everything as it was.
pub(crate) fn open_or_named(fs: &MemFs, mmap: bool, may_name: &[&str], what: &str) -> Option<Db> {
    let before = all_bytes(fs);
    match open(fs, mmap) {
        Ok(db) => Some(db),
        Err(error) => {
            let name = named(&error, what);
            assert!(may_name.iter().any(|may| name.contains(may)), "{what}: names {name}: {error}");
            assert!(all_bytes(fs) == before, "{what}: a failed open changed the directory");
            None
        }
    }
}

/// Reads everything in every way. Returns the keys that gave an error; every error must name
/// `culprit`, and everything else must be right.
pub(crate) fn read_all(
    db: &Db,
    image: &Image,
    probes: &BTreeSet<(String, Vec<u8>)>,
    culprit: &str,
    what: &str,
) -> BTreeSet<(String, Vec<u8>)> {
    let blamed = |error: &Error| {
        let name = named(error, what);
        assert_eq!(name, culprit, "{what}: {error}");
    };
    let none = BTreeMap::new();
    let mut failed = BTreeSet::new();
    for (name, key) in probes {
        let expected = image.model.get(name).unwrap_or(&none).get(key);
        match db.keyspace(name).unwrap().get(key) {
            Ok(found) => {
                let key = key.escape_ascii();
                assert!(
                    found.as_deref() == expected.map(Vec::as_slice),
                    "{what}: {name}/{key} reads as {:?}, and is {:?}",
                    found.map(|value| value[..value.len().min(20)].to_vec()),
                    expected.map(|value| &value[..value.len().min(20)])
                );
            }
            Err(error) => {
                blamed(&error);
                failed.insert((name.clone(), key.clone()));
            }
        }
    }
    for name in db.keyspaces() {
        let expected = image.model.get(&name).unwrap_or(&none);
        let keyspace = db.keyspace(&name).unwrap();
        walk(keyspace.iter(), expected.iter(), &blamed, &format!("{what}, {name} forward"));
        walk(
            keyspace.iter().rev(),
            expected.iter().rev(),
            &blamed,
            &format!("{what}, {name} back"),
        );
        let mut cursor = keyspace.cursor();
        for (key, value) in expected.iter().step_by(7) {
            match cursor.seek(key) {
                Ok(true) => assert!(
                    cursor.key() == Some(key.as_slice())
                        && cursor.value() == Some(value.as_slice()),
                    "{what}: a seek in {name} to {} is wrong",
                    key.escape_ascii()
                ),
                Ok(false) => panic!("{what}: a seek in {name} to {} ends", key.escape_ascii()),
                Err(error) => blamed(&error),
            }
        }
    }
    failed
}

/// The entries come as they should, up to an error; nothing comes after it.
fn walk<'a>(
    mut found: impl Iterator<Item = esker::Result<(esker::Key, esker::Value)>>,
    expected: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>,
    blamed: &impl Fn(&Error),
    what: &str,
) {
    for (key, value) in expected {
        match found.next() {
            Some(Ok(entry)) => assert!(
                entry.0 == key.as_slice() && entry.1 == value.as_slice(),
                "{what}: {} where {} comes next",
                entry.0.escape_ascii(),
                key.escape_ascii()
            ),
            Some(Err(error)) => {
                blamed(&error);
                assert!(found.next().is_none(), "{what}: it goes on after an error");
                return;
            }
            None => panic!("{what}: it ends before {}", key.escape_ascii()),
        }
    }
    match found.next() {
        None => {}
        Some(Err(error)) => blamed(&error),
        Some(Ok(entry)) => panic!("{what}: {} is too much", entry.0.escape_ascii()),
    }
}

/// Everything, read without an error.
pub(crate) fn contents(db: &Db) -> State {
    let mut state = State::new();
    for name in db.keyspaces() {
        let keyspace = db.keyspace(&name).unwrap();
        let entries = keyspace.iter().map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec())));
        let entries: BTreeMap<_, _> = entries.collect::<esker::Result<_>>().unwrap();
        if !entries.is_empty() {
            state.insert(name, entries);
        }
    }
    state
}

/// Opens the damaged `fs`: the right contents or an error that names one of `may_name`. True if it
/// was opened.
pub(crate) fn judge(image: &Image, fs: &MemFs, may_name: &[&str], what: &str) -> bool {
    let what = format!("{}: {what}", image.name);
    let Some(db) = open_or_named(fs, true, may_name, &what) else {
        return false;
    };
    assert!(contents(&db) == image.model, "{what}: wrong contents");
    db.verify(&mut |_, _| {}).unwrap_or_else(|error| panic!("{what}: {error}"));
    true
}
