//! Whole SSTs: right data or an error, and behind right checksums no panic and no endless loop.

use esker::ErrorKind;
use esker::fuzz_api::Sst;
use esker::fuzz_api::SstCursor;
use esker::fuzz_api::SstEntry;
use esker::fuzz_api::SstRange;
use esker::fuzz_api::SstShape;
use esker::fuzz_api::build_sst;
use esker::fuzz_api::reseal;
use esker::fuzz_api::tail_blocks;

use super::allocations::bounded;
use super::allow;
use super::input::Input;

const UID: u64 = 0x1234_5678_9abc_def0;
/// Steps of a walk through a file that no writer wrote, which may be long without being endless.
const STEPS_MAX: usize = 20_000;
/// Blocks are kept up to here while a file is read.
const CACHE_BYTES: usize = 64 << 10;

/// A key with its trailer, and a value.
type Flat = (Vec<u8>, u64, Vec<u8>);

/// A file: raw, damaged, or tampered with and sealed anew.
pub(crate) fn sst_decode(data: &[u8]) {
    let mut input = Input::new(data);
    let mode = input.byte() % 4;
    let reading = Reading { mapped: input.flag(), probes: Vec::new(), ranges: None };
    if mode == 0 {
        let bytes = input.rest();
        return exercise(bytes, &reading, None);
    }
    let shape = SstShape {
        block_bytes: [1, 40, 120, 400, 1 << 16][input.below(5)],
        partition_blocks: [1, 2, 3, 256][input.below(4)],
        lz4: input.flag(),
        filter_bits_per_key: [0, 1, 10, 24][input.below(4)],
        uid: UID,
    };
    let entries = entries(&mut input, 48);
    let probes = (0..input.below(4)).map(|_| input.key()).collect();
    let ranges: Vec<SstRange> = (0..input.below(4)).map(|_| range(&mut input)).collect();
    let intact = build_sst(&entries, &ranges, shape).unwrap();
    let ranges = Sst::open(&intact, true, 0).unwrap().ranges();
    let ranges = (mode == 1).then_some(ranges);
    let reading = Reading { probes, ranges, ..reading };
    let mut file = intact.clone();
    if mode == 1 {
        for _ in 0..input.below(8) {
            input.damage(&mut file);
        }
        return exercise(&file, &reading, Some((&flatten(&entries), file == intact)));
    }
    let mut blocks = Sst::open(&intact, true, 0).unwrap().blocks().unwrap();
    let tail = tail_blocks(&intact).unwrap();
    // Mode 2: anything; mode 3: what is found from, which is a small part of the file.
    let place = match mode {
        2 => 0..file.len(),
        _ => tail.iter().map(|block| block.start).min().unwrap()..file.len(),
    };
    blocks.extend(tail);
    while !input.is_empty() {
        input.tamper(&mut file[place.clone()]);
    }
    reseal(&mut file, &blocks, UID);
    exercise(&file, &reading, None);
}

fn range(input: &mut Input<'_>) -> SstRange {
    let (from, to) = (input.key(), input.flag().then(|| input.key()));
    (from, to, 1 + input.below(30) as u64)
}

/// Up to `most` entries in order, some keys with several versions.
pub(crate) fn entries(input: &mut Input<'_>, most: usize) -> Vec<SstEntry> {
    let mut entries: Vec<SstEntry> = Vec::new();
    for _ in 0..input.below(most) {
        let (key, seqno) = (input.key(), 1 + input.below(30) as u64);
        let value = if input.byte().is_multiple_of(5) { None } else { Some(input.value()) };
        entries.push((key, seqno, value));
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    entries.dedup_by(|a, b| (&a.0, a.1) == (&b.0, b.1));
    entries
}

fn flatten(entries: &[SstEntry]) -> Vec<Flat> {
    let flat = |(key, seqno, value): &SstEntry| {
        let trailer = seqno << 8 | u64::from(value.is_some());
        (key.clone(), trailer, value.clone().unwrap_or_default())
    };
    entries.iter().map(flat).collect()
}

struct Reading {
    mapped: bool,
    probes: Vec<Vec<u8>>,
    /// The range tombstones, if they are known.
    ranges: Option<Vec<SstRange>>,
}

/// Reads `file` in every way. With the `truth`, what is read must be that, or an error; and no
/// error if the file is intact.
fn exercise(file: &[u8], reading: &Reading, truth: Option<(&[Flat], bool)>) {
    // What lz4 can make of the file at most, twice (a block being read, and one kept), and what is
    // there however small the file is.
    let limit = 600 * file.len() + 2 * CACHE_BYTES + (1 << 20);
    bounded(limit, "sst", || exercise_within(file, reading, truth));
}

fn exercise_within(file: &[u8], reading: &Reading, truth: Option<(&[Flat], bool)>) {
    let intact = truth.is_some_and(|(_, intact)| intact);
    let sst = match Sst::open(file, reading.mapped, CACHE_BYTES as u64) {
        Ok(sst) => sst,
        Err(error) => {
            assert!(!intact, "an intact file: {error}");
            return allow(&error, &"open");
        }
    };
    let ranges = sst.ranges();
    assert!(reading.ranges.as_ref().is_none_or(|truth| *truth == ranges), "range tombstones");
    let verified = sst.verify();
    if let Err(error) = &verified {
        assert!(!intact, "an intact file: {error}");
        allow(error, &"verify");
    }
    let forward = walk(&mut sst.cursor(), true, intact);
    let scanned = walk(&mut sst.scan(), true, intact);
    let mut backward = walk(&mut sst.cursor(), false, intact);
    backward.entries.reverse();
    // A file that verify finds whole is read as one thing, whoever wrote it.
    let entries = match (truth, &verified) {
        (Some((truth, _)), _) => {
            assert!(truth.starts_with(&forward.entries), "forward");
            assert!(truth.starts_with(&scanned.entries), "scanned");
            assert!(truth.ends_with(&backward.entries), "backward");
            for pass in [&forward, &scanned, &backward] {
                assert!(!pass.whole || pass.entries.len() == truth.len(), "it ends early");
            }
            truth
        }
        (None, Ok(count)) if forward.whole => {
            assert_eq!(forward.entries.len() as u64, *count);
            assert!(forward.entries == scanned.entries && forward.entries == backward.entries);
            assert!(scanned.whole && backward.whole);
            &forward.entries
        }
        _ => &[],
    };
    let known = truth.is_some() || (verified.is_ok() && forward.whole);
    let mut probes: Vec<(&[u8], u64)> =
        forward.entries.iter().chain(entries).map(|entry| (entry.0.as_slice(), entry.1)).collect();
    probes.truncate(128);
    for probe in &reading.probes {
        probes.extend([(probe.as_slice(), u64::MAX), (probe.as_slice(), 9 << 8)]);
    }
    let must_answer = intact || (known && verified.is_ok());
    for (user, trailer) in probes {
        let expected = known.then_some(entries);
        check_get(&sst, user, trailer >> 8, expected, must_answer);
        check_seek(&mut sst.cursor(), user, trailer, expected, must_answer);
    }
}

struct Pass {
    entries: Vec<Flat>,
    /// It came to the end.
    whole: bool,
}

/// From one end to the other, or to the first error, after which it stands nowhere.
fn walk(cursor: &mut SstCursor, forward: bool, intact: bool) -> Pass {
    let mut pass = Pass { entries: Vec::new(), whole: false };
    let mut bytes = 0;
    let mut result = if forward { cursor.seek_to_first() } else { cursor.seek_to_last() };
    loop {
        if let Err(error) = result {
            assert!(!intact, "an intact file: {error}");
            allow(&error, &"walk");
            assert_eq!(cursor.entry(), None, "after an error");
            return pass;
        }
        let Some((user, trailer, value)) = cursor.entry() else {
            pass.whole = true;
            return pass;
        };
        bytes += user.len() + value.len() + 80;
        // The copies here count as allocations of the reader.
        if pass.entries.len() >= STEPS_MAX || bytes > 100 << 10 {
            return pass;
        }
        pass.entries.push((user.to_vec(), trailer, value.to_vec()));
        result = if forward { cursor.next() } else { cursor.prev() };
    }
}

fn check_get(sst: &Sst, user: &[u8], seqno: u64, truth: Option<&[Flat]>, must_answer: bool) {
    let found = match sst.get(user, seqno) {
        Ok(found) => found,
        Err(error) => {
            assert!(!must_answer, "get {user:?}: {error}");
            return allow(&error, &"get");
        }
    };
    let Some(truth) = truth else { return };
    let seqno = seqno.min(u64::MAX >> 8);
    let newest = truth.iter().find(|entry| entry.0 == user && entry.1 >> 8 <= seqno);
    assert_eq!(found, newest.map(|entry| (entry.1, entry.2.clone())), "get {user:?} at {seqno}");
    if newest.is_some() {
        assert_ne!(sst.may_contain(user).ok(), Some(false), "filter denies {user:?}");
    }
}

fn check_seek(
    cursor: &mut SstCursor,
    user: &[u8],
    trailer: u64,
    truth: Option<&[Flat]>,
    must_answer: bool,
) {
    let before = |entry: &Flat| (entry.0.as_slice(), !entry.1) < (user, !trailer);
    let answer = |result: Result<(), esker::Error>, cursor: &SstCursor| match result {
        Ok(()) => Some(
            cursor.entry().map(|(user, trailer, value)| (user.to_vec(), trailer, value.to_vec())),
        ),
        Err(error) => {
            assert!(!must_answer, "seek {user:?}: {error}");
            assert!(error.kind() != ErrorKind::Misuse, "{error}");
            allow(&error, &"seek");
            None
        }
    };
    let result = cursor.seek(user, trailer);
    let found = answer(result, cursor);
    if let (Some(truth), Some(found)) = (truth, &found) {
        assert_eq!(found.as_ref(), truth.iter().find(|entry| !before(entry)), "seek {user:?}");
    }
    if matches!(found, Some(Some(_))) {
        let result = cursor.prev();
        if let (Some(found), Some(truth)) = (answer(result, cursor), truth) {
            assert_eq!(found.as_ref(), truth.iter().rev().find(|entry| before(entry)), "prev");
        }
    }
    let at_most = |entry: &&Flat| before(entry) || (entry.0 == user && entry.1 == trailer);
    let result = cursor.seek_for_prev(user, trailer);
    let found = answer(result, cursor);
    if let (Some(truth), Some(found)) = (truth, &found) {
        assert_eq!(found.as_ref(), truth.iter().rev().find(at_most), "seek back {user:?}");
    }
    if matches!(found, Some(Some(_))) {
        let result = cursor.next();
        if let (Some(found), Some(truth)) = (answer(result, cursor), truth) {
            assert_eq!(found.as_ref(), truth.iter().find(|entry| !at_most(entry)), "next");
        }
    }
}
