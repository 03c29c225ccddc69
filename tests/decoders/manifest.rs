//! Manifests: replay is total, and a version that breaks its invariants is refused.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use esker::Error;
use esker::Recovery;
use esker::fs::Fs as _;
use esker::fs::MemFs;
use esker::fuzz_api::Edit;
use esker::fuzz_api::KeyspaceChange;
use esker::fuzz_api::SstFacts;
use esker::fuzz_api::append_record;
use esker::fuzz_api::current;
use esker::fuzz_api::decode_edit;
use esker::fuzz_api::encode_edit;
use esker::fuzz_api::manifest_header;
use esker::fuzz_api::read_manifest;

use super::DIR;
use super::allocations::bounded;
use super::allow;
use super::fs_of;
use super::input::Input;
use super::open;

const DB: u64 = 0x1234_5678;
/// The manifest's number: above those of all files in it.
const MANIFEST: u64 = 60;
const LAG_UNKNOWN: u32 = u32::MAX;

/// A manifest: raw, of raw edits, of tampered ones, of edits that say anything, or damaged.
pub(crate) fn manifest_decode(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 5 {
        0 => raw(&mut input),
        1 => {
            let mut payloads = Vec::new();
            while !input.is_empty() {
                let len = 1 + usize::from(input.byte());
                payloads.push(input.bytes(len).to_vec());
            }
            check_payloads(payloads);
        }
        2 => {
            let edits = edits(&mut input);
            let mut payloads: Vec<Vec<u8>> = edits.iter().map(encode_edit).collect();
            while !input.is_empty() {
                let n = input.below(payloads.len());
                input.tamper(&mut payloads[n]);
            }
            check_payloads(payloads);
        }
        3 => check_edits(&edits(&mut input)),
        _ => damaged(&mut input),
    }
}

/// The content of manifest `id` with these edits.
fn manifest(db: u64, id: u64, payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = manifest_header(db, id);
    for (n, payload) in payloads.iter().enumerate().filter(|(_, payload)| !payload.is_empty()) {
        append_record(&mut bytes, db, id, n as u64 + 1, Some(LAG_UNKNOWN), payload);
    }
    bytes
}

/// Puts `CURRENT` and a manifest of these edits into the directory.
pub(crate) fn install(fs: &MemFs, db: u64, id: u64, payloads: &[Vec<u8>]) {
    let files = [
        (format!("MANIFEST-{id:06}"), manifest(db, id, payloads)),
        ("CURRENT".to_owned(), current(db, id)),
    ];
    for (name, bytes) in files {
        fs.create(&Path::new(DIR).join(name)).unwrap().write_at(0, &bytes).unwrap();
    }
}

/// `CURRENT` and a manifest of any bytes.
fn raw(input: &mut Input<'_>) {
    let whole = input.flag();
    let current = if whole { current(DB, 1) } else { input.bytes(64).to_vec() };
    let mut content = if input.flag() { manifest_header(DB, 1) } else { Vec::new() };
    content.extend_from_slice(input.rest());
    let fs = fs_of(&[("CURRENT".to_owned(), &current), ("MANIFEST-000001".to_owned(), &content)]);
    let edits = read(&fs, current.len() + content.len());
    if edits.is_none() {
        let error = open(&fs, Recovery::Strict).err();
        allow(&error.expect("what cannot be read cannot be opened"), &"open");
    }
}

/// The edits, if they can be read; the same ones each time.
fn read(fs: &MemFs, len: usize) -> Option<Vec<Edit>> {
    let edits = bounded(512 * len + (64 << 10), "manifest", || read_manifest(fs, Path::new(DIR)));
    match edits {
        Ok(edits) => Some(edits),
        Err(error) => {
            // A file that `CURRENT` names and that is not there is the caller's to judge.
            let missing = matches!(&error, Error::Io { source, .. }
                if source.kind() == std::io::ErrorKind::NotFound);
            if !missing {
                allow(&error, &"read");
            }
            None
        }
    }
}

/// Edits whose checksums are right: what decodes is encoded the same way again, and what can be
/// opened once can be opened twice.
fn check_payloads(mut payloads: Vec<Vec<u8>>) {
    payloads.retain(|payload| !payload.is_empty());
    let mut decoded = Vec::new();
    for payload in &payloads {
        let limit = 512 * payload.len() + 4096;
        let edit = bounded(limit, "edit", || decode_edit(payload));
        if let Ok(edit) = &edit {
            assert_eq!(decode_edit(&encode_edit(edit)).as_ref(), Ok(edit));
        }
        decoded.push(edit);
    }
    let fs = fs_of(&[]);
    install(&fs, DB, MANIFEST, &payloads);
    let len = 256 + payloads.iter().map(|payload| payload.len() + 32).sum::<usize>();
    let edits = read(&fs, len);
    let whole: Result<Vec<Edit>, _> = decoded.into_iter().collect();
    assert_eq!(edits, whole.ok().filter(|edits| !edits.is_empty()), "an edit is lost");
    let Some(edits) = edits else { return };
    create_files(&fs, &edits);
    check_open(&fs);
}

/// Files of the names and lengths that the edits speak of, with nothing in them.
fn create_files(fs: &MemFs, edits: &[Edit]) {
    let changes = edits.iter().flat_map(|edit| &edit.keyspaces);
    for facts in changes.flat_map(|change| &change.added) {
        let path = Path::new(DIR).join(format!("{:06}.sst", facts.file));
        if facts.bytes <= 4096 && !fs.exists(&path).unwrap() {
            fs.create(&path).unwrap().set_len(facts.bytes).unwrap();
        }
    }
}

/// Opens, reads (which finds the files empty), and opens again.
fn check_open(fs: &MemFs) -> bool {
    for round in 0..2 {
        let db = match open(fs, Recovery::Strict) {
            Ok(db) => db,
            Err(error) => {
                assert!(round == 0, "it was open before: {error}");
                // An undamaged one may name an operator that nobody has given.
                if !matches!(error, Error::MergeOperator { given: None, .. }) {
                    allow(&error, &"open");
                }
                return false;
            }
        };
        if let Err(error) = db.get("a") {
            allow(&error, &"get");
        }
        for entry in db.iter().take(10) {
            if let Err(error) = entry {
                allow(&error, &"iterate");
            }
        }
        db.close().unwrap();
    }
    true
}

/// Edits of which many fit together.
fn edits(input: &mut Input<'_>) -> Vec<Edit> {
    let mut edits = Vec::new();
    for n in 0..=input.below(6) {
        let first = n == 0;
        let wide = input.byte();
        let option = |input: &mut Input<'_>, bit: u8| {
            (wide & bit != 0).then(|| if wide & 1 == 0 { 70 } else { input.number() >> 8 })
        };
        let mut edit = Edit {
            next_file: option(input, 2),
            last_seqno: option(input, 4),
            log_durable: option(input, 4),
            wal_floor: None,
            next_keyspace: if first { Some(3) } else { None },
            keyspaces: Vec::new(),
            log_retention: option(input, 16).map(|bytes| [bytes, u64::MAX]),
            kept: Vec::new(),
        };
        if wide & 8 != 0 {
            let [id, first, end] = [(); 3].map(|()| input.number() >> 8);
            edit.kept.push([id, first, first.saturating_add(input.below(9) as u64), end, 0]);
        }
        if first {
            let name = Some("default".to_owned());
            edit.keyspaces.push(KeyspaceChange { name, ..KeyspaceChange::default() });
        }
        for _ in 0..input.below(3) {
            edit.keyspaces.push(change(input));
        }
        // An edit that says nothing is never written.
        if edit != Edit::default() {
            edits.push(edit);
        }
    }
    edits
}

fn change(input: &mut Input<'_>) -> KeyspaceChange {
    let what = input.byte();
    let mut change = KeyspaceChange { keyspace: u32::from(what & 1), ..KeyspaceChange::default() };
    if what & 0x0e == 0x0e {
        change.name = Some("other".to_owned());
    }
    change.dropped = what & 0xf0 == 0xf0;
    change.flushed = (what & 0x30 == 0x10).then(|| u64::from(input.byte()));
    for _ in 0..input.below(4) {
        change.added.push(facts(input));
    }
    for _ in 0..input.below(3) {
        change.removed.push((input.byte() % 4, 1 + u64::from(input.byte() % 12)));
    }
    change
}

fn facts(input: &mut Input<'_>) -> SstFacts {
    let place = input.byte();
    let (from, len) = (input.byte() % 64, input.byte() % 8);
    let (seqno, more) = (u64::from(input.byte() % 64), u64::from(input.byte() % 8));
    let odd = place >> 6 == 3 && from == 0;
    let key = |letter: u8| (vec![letter], seqno << 8 | 1);
    let (smallest, largest) = (key(from), key(from + len));
    let (smallest, largest) = if odd { (largest, smallest) } else { (smallest, largest) };
    SstFacts {
        level: place % 4,
        file: 1 + u64::from(place >> 2 & 15) % 12,
        bytes: u64::from(input.byte()),
        uid: 7,
        smallest,
        largest,
        min_seqno: seqno,
        max_seqno: seqno + more,
    }
}

/// What edits amount to, worked out apart from the engine. An error says why they do not fit.
fn replay(edits: &[Edit]) -> Result<(), &'static str> {
    let mut keyspaces: BTreeMap<u32, Vec<SstFacts>> = BTreeMap::new();
    for change in edits.iter().flat_map(|edit| &edit.keyspaces) {
        if change.dropped {
            keyspaces.remove(&change.keyspace).ok_or("a keyspace is dropped that is not there")?;
            continue;
        }
        if change.name.is_some() && keyspaces.insert(change.keyspace, Vec::new()).is_some() {
            return Err("a keyspace is created twice");
        }
        let files = keyspaces.get_mut(&change.keyspace).ok_or("there is no such keyspace")?;
        let gone: BTreeSet<(u8, u64)> = change.removed.iter().copied().collect();
        let before = files.len();
        files.retain(|facts| !gone.contains(&(facts.level, facts.file)));
        if before - files.len() != gone.len() {
            return Err("a file is removed that is not there");
        }
        for facts in &change.added {
            if files.iter().any(|other| other.file == facts.file) {
                return Err("a file is added twice");
            }
            files.push(facts.clone());
        }
    }
    if !keyspaces.contains_key(&0) {
        return Err("there is no default keyspace");
    }
    let mut numbers = BTreeSet::new();
    if !keyspaces.values().flatten().all(|facts| numbers.insert(facts.file)) {
        return Err("a file is in two keyspaces");
    }
    if named_twice(edits) {
        return Err("a name is used twice, or the default keyspace has another one");
    }
    if edits.iter().filter_map(|edit| edit.next_file).any(|next| next > 1 << 61) {
        return Err("file numbers run out");
    }
    if edits.iter().filter_map(|edit| edit.last_seqno).any(|last| last > 1 << 55) {
        return Err("sequence numbers run out");
    }
    if edits.iter().filter_map(|edit| edit.log_durable).any(|last| last >= (1 << 56) - (1 << 48)) {
        return Err("a sequence number is impossible");
    }
    // The log has no floor, so that no segment lies below it.
    if edits.iter().any(|edit| !edit.kept.is_empty()) {
        return Err("a segment of the log is kept that is needed");
    }
    keyspaces.values().try_for_each(|files| check_version(files))
}

/// Does keyspace 0 not have its name, or another one have it too?
fn named_twice(edits: &[Edit]) -> bool {
    let mut names: BTreeMap<u32, &str> = BTreeMap::new();
    for change in edits.iter().flat_map(|edit| &edit.keyspaces) {
        if change.dropped {
            names.remove(&change.keyspace);
        } else if let Some(name) = &change.name {
            names.insert(change.keyspace, name);
        }
    }
    let distinct: BTreeSet<&str> = names.values().copied().collect();
    distinct.len() < names.len() || names.get(&0) != Some(&"default")
}

fn check_version(files: &[SstFacts]) -> Result<(), &'static str> {
    for (n, one) in files.iter().enumerate() {
        if one.smallest.0 > one.largest.0 || one.min_seqno > one.max_seqno {
            return Err("a range is empty");
        }
        for other in files.iter().skip(n + 1).filter(|other| other.level == one.level) {
            let apart = if one.level == 0 {
                one.max_seqno < other.min_seqno || other.max_seqno < one.min_seqno
            } else {
                one.largest.0 < other.smallest.0 || other.largest.0 < one.smallest.0
            };
            if !apart {
                return Err("two files overlap");
            }
        }
    }
    Ok(())
}

/// The engine opens what fits, and nothing else.
fn check_edits(edits: &[Edit]) {
    let payloads: Vec<Vec<u8>> = edits.iter().map(encode_edit).collect();
    let fs = fs_of(&[]);
    install(&fs, DB, MANIFEST, &payloads);
    match read_manifest(&fs, Path::new(DIR)) {
        Ok(found) => assert_eq!(found, edits),
        Err(error) => {
            allow(&error, &"read");
            assert!(replay(edits).is_err(), "it fits and is refused: {error}");
        }
    }
    create_files(&fs, edits);
    let sizes = sizes(edits);
    let opened = check_open(&fs);
    match replay(edits) {
        Err(why) => assert!(!opened, "it is opened although {why}: {edits:?}"),
        // One file can only have one of the lengths that the edits say.
        Ok(()) => assert!(opened || sizes, "it fits and is refused: {edits:?}"),
    }
}

/// Do two files of one number have different lengths?
fn sizes(edits: &[Edit]) -> bool {
    let changes = edits.iter().flat_map(|edit| &edit.keyspaces);
    let mut lengths = BTreeMap::new();
    changes
        .flat_map(|change| &change.added)
        .any(|facts| facts.bytes != *lengths.entry(facts.file).or_insert(facts.bytes))
}

/// A manifest as it is written, with damage: what is read is a beginning of it.
fn damaged(input: &mut Input<'_>) {
    let edits = edits(input);
    let payloads: Vec<Vec<u8>> = edits.iter().map(encode_edit).collect();
    let intact = (manifest(DB, MANIFEST, &payloads), current(DB, MANIFEST));
    let (mut content, mut pointer) = intact.clone();
    for _ in 0..=input.below(3) {
        let target = if input.byte() % 8 == 7 { &mut pointer } else { &mut content };
        input.damage(target);
    }
    let name = format!("MANIFEST-{MANIFEST:06}");
    let fs = fs_of(&[("CURRENT".to_owned(), &pointer), (name, &content)]);
    let Some(found) = read(&fs, content.len() + pointer.len()) else {
        let refused = replay(&edits).is_err();
        return assert!(refused || (content, pointer) != intact, "an intact manifest is refused");
    };
    assert!(edits.starts_with(&found), "not a beginning of what was written");
    assert!(pointer == intact.1, "CURRENT is damaged, and nobody minds");
    if content.len() == intact.0.len() && found.len() < edits.len() {
        // Cut short in silence only where nothing valid follows, as after a torn append.
        let last = found.len() + 1 == edits.len();
        assert!(last || content != intact.0);
    }
}
