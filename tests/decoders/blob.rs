//! Blob files: a value, whole, or an error; and behind right checksums no panic and no endless loop.

use esker::fuzz_api::Blob;
use esker::fuzz_api::BlobPlace;
use esker::fuzz_api::build_blob;
use esker::fuzz_api::decode_handle;
use esker::fuzz_api::reseal_blobs;

use super::allocations::bounded;
use super::allow;
use super::input::Input;

const UID: u64 = 0x1234_5678_9abc_def0;
/// Bytes in front of the first record.
const HEADER_LEN: usize = 64;

/// Keys and values, and where they were written to.
struct Truth {
    values: Vec<(Vec<u8>, Vec<u8>)>,
    places: Vec<BlobPlace>,
    intact: bool,
}

/// A file: raw, damaged, or tampered with and sealed anew.
pub(crate) fn blob_decode(data: &[u8]) {
    let mut input = Input::new(data);
    let mode = input.byte() % 4;
    let mapped = input.flag();
    if mode == 0 {
        let _ = decode_handle(input.bytes(20));
        return exercise(input.rest(), mapped, None, &[], None);
    }
    let lz4 = input.flag();
    let values: Vec<_> = (0..input.below(12)).map(|_| (input.key(), input.value())).collect();
    let (intact, places) = build_blob(&values, lz4, UID).unwrap();
    let mut file = intact.clone();
    match mode {
        1 => {
            // The manifest knows the file, or somebody looks at it without one.
            let expected = input.flag().then_some((intact.len() as u64, UID));
            let probes = probes(&mut input, &values, &places);
            for _ in 0..input.below(8) {
                input.damage(&mut file);
            }
            let truth = Truth { values, places, intact: file == intact };
            exercise(&file, mapped, expected, &probes, Some(&truth));
        }
        2 => {
            let probes = probes(&mut input, &values, &places);
            while !input.is_empty() {
                input.tamper(&mut file[HEADER_LEN..]);
            }
            reseal_blobs(&mut file, UID);
            exercise(&file, mapped, None, &probes, None);
        }
        _ => {
            file.truncate(HEADER_LEN);
            file.extend_from_slice(input.rest());
            reseal_blobs(&mut file, UID);
            exercise(&file, mapped, None, &[], None);
        }
    }
}

/// Keys and places that are not quite those of values.
fn probes(
    input: &mut Input<'_>,
    values: &[(Vec<u8>, Vec<u8>)],
    places: &[BlobPlace],
) -> Vec<(Vec<u8>, BlobPlace)> {
    let mut probes = Vec::new();
    for _ in 0..input.below(4) {
        let at = input.below(values.len());
        let (Some((key, _)), Some(place)) = (values.get(at), places.get(at)) else { break };
        let (mut key, mut place) = (key.clone(), *place);
        match input.below(4) {
            0 => key = input.key(),
            1 => place.0 = input.number(),
            2 => place.1 = input.number() as u32,
            _ => place.2 = input.number() as u32,
        }
        probes.push((key, place));
    }
    probes
}

/// Reads `file` in every way. With the `truth`, what is read must be that, or an error; and no error
/// if the file is intact.
fn exercise(
    file: &[u8],
    mapped: bool,
    expected: Option<(u64, u64)>,
    probes: &[(Vec<u8>, BlobPlace)],
    truth: Option<&Truth>,
) {
    // What lz4 can make of the file at most, with copies of it, and what is there however small.
    let limit = 600 * file.len() + (1 << 20);
    bounded(limit, "blob", || exercise_within(file, mapped, expected, probes, truth));
}

fn exercise_within(
    file: &[u8],
    mapped: bool,
    expected: Option<(u64, u64)>,
    probes: &[(Vec<u8>, BlobPlace)],
    truth: Option<&Truth>,
) {
    let intact = truth.is_some_and(|truth| truth.intact);
    let blob = match Blob::open(file, mapped, expected) {
        Ok(blob) => blob,
        Err(error) => {
            assert!(!intact, "an intact file: {error}");
            return allow(&error, &"open");
        }
    };
    let (records, scanned) = blob.scan();
    match &scanned {
        Ok(count) => assert_eq!(*count, records.len() as u64),
        Err(error) => {
            assert!(!intact, "an intact file: {error}");
            allow(error, &"scan");
        }
    }
    for (offset, len, key, stored) in &records {
        // Uncompressed it is as long as what is stored.
        let place = (*offset, *len as u32, stored.len() as u32);
        check_get(&blob, key, place);
    }
    for (key, place) in probes {
        let found = check_get(&blob, key, *place);
        if let Some(truth) = truth {
            let values = truth.values.iter().zip(&truth.places);
            let written = values.filter(|((other, _), there)| other == key && *there == place);
            assert!(found.is_none() || written.count() == 1, "{key:?} is not at {place:?}");
        }
    }
    let Some(truth) = truth else { return };
    let values = || truth.values.iter().zip(&truth.places);
    for ((key, value), place) in values() {
        let found = check_get(&blob, key, *place);
        assert!(found.as_ref().is_none_or(|found| found == value), "another value of {key:?}");
        assert!(found.is_some() || !intact, "no value of {key:?} in an intact file");
    }
    let written = values().map(|((key, _), place)| (place.0, u64::from(place.1), key.as_slice()));
    let shown = records.iter().map(|(offset, len, key, _)| (*offset, *len, key.as_slice()));
    assert!(written.zip(shown).all(|(written, shown)| written == shown), "a scan shows others");
    assert!(records.len() <= truth.values.len(), "a scan shows more");
    assert!(!intact || records.len() == truth.values.len(), "a scan shows fewer");
}

/// The value there, if it is one of `key` and that long.
fn check_get(blob: &Blob, key: &[u8], place: BlobPlace) -> Option<Vec<u8>> {
    match blob.get(key, place) {
        Ok(value) => {
            assert_eq!(value.len(), place.2 as usize, "{key:?}");
            Some(value)
        }
        Err(error) => {
            allow(&error, &"get");
            None
        }
    }
}
