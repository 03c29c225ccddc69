//! Blocks without their checksums: every way to search one agrees with reading it from the front.

use std::cmp::Ordering;

use esker::fuzz_api::Sst;
use esker::fuzz_api::SstCursor;
use esker::fuzz_api::SstEntry;
use esker::fuzz_api::SstShape;
use esker::fuzz_api::build_sst;
use esker::fuzz_api::data_entries;
use esker::fuzz_api::data_find;
use esker::fuzz_api::data_rank;
use esker::fuzz_api::decompress;
use esker::fuzz_api::index_block;
use esker::fuzz_api::index_entries;
use esker::fuzz_api::index_find;
use esker::fuzz_api::sst_around;

use super::allocations::bounded;
use super::input::Input;
use super::sst;

/// User key, trailer, value.
type Entry<'a> = (Vec<u8>, u64, &'a [u8]);

/// The entries of a data block that can be read, from the front.
struct Entries<'a> {
    prefix: &'a [u8],
    /// What the user key has behind the prefix, trailer, value.
    list: Vec<Entry<'a>>,
}

impl<'a> Entries<'a> {
    fn get(&self, n: usize) -> Option<Entry<'a>> {
        let (suffix, trailer, value) = self.list.get(n)?;
        Some(([self.prefix, suffix].concat(), *trailer, value))
    }

    /// Where an entry of the list lies as to a key.
    fn order(&self, entry: &Entry<'_>, (user, trailer): (&[u8], u64)) -> Ordering {
        let order = match user.split_at_checked(self.prefix.len()) {
            Some((start, rest)) => self.prefix.cmp(start).then_with(|| entry.0[..].cmp(rest)),
            None => self.prefix.cmp(user),
        };
        order.then(trailer.cmp(&entry.1))
    }
}

/// Where a cursor stands.
fn at(cursor: &SstCursor) -> Option<Entry<'_>> {
    cursor.entry().map(|(user, trailer, value)| (user.to_vec(), trailer, value))
}

/// Bytes behind the payload of a stored block.
const BLOCK_TRAILER_LEN: usize = 10;

/// A data block, an index partition or an lz4 block: raw, or built and tampered with.
pub(crate) fn block_decode(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 5 {
        0 => {
            let probes = probes(&mut input);
            check_data(input.rest(), &probes);
        }
        1 => {
            let probes = probes(&mut input);
            check_index(input.rest(), &probes);
        }
        2 => {
            let entries = sst::entries(&mut input, 24);
            let mut payload = data_block(&entries);
            let probes = probes(&mut input);
            while !input.is_empty() {
                input.tamper(&mut payload);
            }
            check_data(&payload, &probes);
        }
        3 => {
            let separators = separators(&mut input);
            let mut payload = index_block(&separators_ref(&separators), input.number());
            let probes = probes(&mut input);
            while !input.is_empty() {
                input.tamper(&mut payload);
            }
            check_index(&payload, &probes);
        }
        _ => {
            let stored = input.rest();
            // lz4 makes 255 bytes of one, each of which may be an entry without key or value; and
            // keys may share as much as the largest block holds.
            let limit = 16_384 * stored.len() + (40 << 20);
            let unpacked = bounded(limit, "lz4", || decompress(stored));
            if let Ok(payload) = unpacked {
                check_data(&payload, &[]);
            }
        }
    }
}

fn probes(input: &mut Input<'_>) -> Vec<Vec<u8>> {
    (0..input.below(4)).map(|_| input.key()).collect()
}

/// The payload of the one data block that holds `entries`.
fn data_block(entries: &[SstEntry]) -> Vec<u8> {
    if entries.is_empty() {
        return Vec::new();
    }
    let shape = SstShape {
        block_bytes: 1 << 20,
        partition_blocks: 1,
        lz4: false,
        filter_bits_per_key: 0,
        uid: 1,
    };
    let file = build_sst(entries, &[], shape).unwrap();
    let blocks = Sst::open(&file, true, 0).unwrap().blocks().unwrap();
    let block = blocks.first().unwrap();
    file[block.start..block.end - BLOCK_TRAILER_LEN].to_vec()
}

/// In THE order: user key ascending, trailer descending.
fn before(a: (&[u8], u64), b: (&[u8], u64)) -> bool {
    a.0 < b.0 || (a.0 == b.0 && a.1 > b.1)
}

fn check_data(payload: &[u8], probes: &[Vec<u8>]) {
    let limit = 64 * payload.len() + 4096;
    let read = bounded(limit, "data block", || data_entries(payload));
    let Ok((prefix, list, consistent)) = read else {
        assert!(data_find(payload, b"x", u64::MAX).is_err());
        assert!(data_rank(payload, b"x", 0, false).is_err());
        return;
    };
    let ascend = list.windows(2).all(|two| before((&two[0].0, two[0].1), (&two[1].0, two[1].1)));
    let sound = consistent && ascend;
    let entries = Entries { prefix, list };
    let some: Vec<Entry<'_>> = (0..64).map_while(|n| entries.get(n)).collect();
    let mut keys: Vec<(&[u8], u64)> = some.iter().map(|entry| (&entry.0[..], entry.1)).collect();
    for probe in probes {
        keys.push((probe, u64::MAX));
        keys.push((probe, 5 << 8));
    }
    for &(user, trailer) in &keys {
        check_search(payload, &entries, sound, user, trailer);
    }
    let lz4 = payload.first().is_some_and(|first| first % 2 == 1);
    let file = sst_around(payload, lz4);
    for mapped in [true, false] {
        let opened = Sst::open(&file, mapped, 1 << 20).unwrap();
        check_cursor(&mut opened.cursor(), &entries, sound, &keys);
        check_cursor(&mut opened.scan(), &entries, sound, &keys);
    }
}

/// Rank and point read against a walk from the front.
fn check_search(payload: &[u8], entries: &Entries<'_>, sound: bool, user: &[u8], trailer: u64) {
    let found = data_find(payload, user, trailer >> 8);
    let below = data_rank(payload, user, trailer, false);
    let upto = data_rank(payload, user, trailer, true);
    if !sound {
        return;
    }
    let order = |entry: &Entry<'_>| entries.order(entry, (user, trailer));
    let newest = (user, (trailer >> 8) << 8 | 0xff);
    let suffix = user.strip_prefix(entries.prefix);
    let linear = entries
        .list
        .iter()
        .find(|entry| suffix == Some(&entry.0) && entries.order(entry, newest) != Ordering::Less);
    assert_eq!(found, Ok(linear.map(|entry| (entry.1, entry.2))), "find {user:?} {trailer:#x}");
    let rank = entries.list.iter().filter(|entry| order(entry) == Ordering::Less).count();
    let there = entries.list.iter().any(|entry| order(entry) == Ordering::Equal);
    assert_eq!(below, Ok(rank), "rank {user:?} {trailer:#x}");
    assert_eq!(upto, Ok(rank + usize::from(there)), "rank up to {user:?} {trailer:#x}");
}

/// Walks both ways and seeks.
fn check_cursor(cursor: &mut SstCursor, entries: &Entries<'_>, sound: bool, keys: &[(&[u8], u64)]) {
    let count = entries.list.len();
    let mut result = cursor.seek_to_first();
    for n in 0..count {
        assert_eq!(
            (result.as_ref().err().map(ToString::to_string), at(cursor)),
            (None, entries.get(n)),
            "entry {n}"
        );
        result = cursor.next();
    }
    assert_eq!(cursor.entry(), None, "there are {count} entries");
    if result.is_err() {
        // An entry in the middle cannot be read: it never ends as if there was nothing more.
        assert!(!sound);
    }
    let mut steps = 0;
    if cursor.seek_to_last().is_ok() {
        while cursor.entry().is_some() && cursor.prev().is_ok() {
            steps += 1;
        }
    }
    assert!(!sound || steps == count, "{steps} steps back over {count}");
    for &(user, trailer) in keys {
        let order = |entry: &Entry<'_>| entries.order(entry, (user, trailer));
        let forward = cursor.seek(user, trailer);
        if sound {
            forward.unwrap();
            let first = entries.list.iter().position(|entry| order(entry) != Ordering::Less);
            let wanted = first.and_then(|n| entries.get(n));
            assert_eq!(at(cursor), wanted, "seek {user:?} {trailer:#x}");
            if let Some(n) = first {
                cursor.prev().unwrap();
                assert_eq!(at(cursor), n.checked_sub(1).and_then(|n| entries.get(n)), "prev");
            }
        } else if forward.is_ok() && cursor.entry().is_some() {
            let _ = cursor.prev();
        }
        let back = cursor.seek_for_prev(user, trailer);
        if sound {
            back.unwrap();
            let last = entries.list.iter().rposition(|entry| order(entry) != Ordering::Greater);
            let wanted = last.and_then(|n| entries.get(n));
            assert_eq!(at(cursor), wanted, "back {user:?} {trailer:#x}");
            if let Some(n) = last {
                cursor.next().unwrap();
                assert_eq!(at(cursor), entries.get(n + 1), "next");
            }
        } else if back.is_ok() && cursor.entry().is_some() {
            let _ = cursor.next();
        }
    }
}

fn separators(input: &mut Input<'_>) -> Vec<(Vec<u8>, bool)> {
    let mut keys: Vec<(Vec<u8>, usize)> = Vec::new();
    for _ in 0..=input.below(32) {
        keys.push((input.key(), input.below(3)));
    }
    keys.sort();
    keys.dedup_by(|a, b| a.0 == b.0);
    let mut separators: Vec<(Vec<u8>, bool)> = Vec::new();
    for (key, more) in keys {
        for n in 0..=more {
            separators.push((key.clone(), n > 0));
        }
    }
    separators
}

fn separators_ref(separators: &[(Vec<u8>, bool)]) -> Vec<(&[u8], bool)> {
    separators.iter().map(|(key, continues)| (key.as_slice(), *continues)).collect()
}

fn check_index(payload: &[u8], probes: &[Vec<u8>]) {
    let limit = 64 * payload.len() + 4096;
    let Ok((entries, count)) = bounded(limit, "index", || index_entries(payload)) else {
        assert!(index_find(payload, b"x").is_err());
        return;
    };
    let mut keys: Vec<&[u8]> = entries.iter().map(|entry| entry.0).take(64).collect();
    keys.extend(probes.iter().map(Vec::as_slice));
    for user in keys {
        if let Ok(found) = index_find(payload, user) {
            assert!(found < count, "block {found} of {count}");
        }
    }
}
