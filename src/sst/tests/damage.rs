//! Damaged, cut and swapped files: an error or the right answer, never a wrong one.

use bytes::Bytes;

use crate::base::error::Error;
use crate::base::error::ErrorKind;
use crate::base::error::Result;
use crate::base::internal_iter::InternalIter;
use crate::base::key::KeyHash;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::seqno::SeqNo;
use crate::base::value::ValueKind;
use crate::sst::SstIter;
use crate::sst::parts;
use crate::sst::tests::support::*;

fn example() -> Vec<Entry> {
    let put = |seqno| Trailer::new(SeqNo::new(seqno), ValueKind::Put);
    let mut entries = Vec::new();
    for n in 0..14u8 {
        let user = format!("key{n:03}").into_bytes();
        if n == 5 {
            for seqno in (2..9).rev() {
                entries.push((user.clone(), put(seqno), vec![seqno as u8; 30]));
            }
        }
        entries.push((user, put(1), vec![n; 25]));
    }
    entries
}

/// The damage was found if this is an error of the right sort.
fn found<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
            None
        }
    }
}

/// Walks through `iter` and checks what it shows; false if it met the damage.
fn walk(mut iter: SstIter, entries: &[Entry]) -> bool {
    let forward = (|| {
        iter.seek_to_first()?;
        for entry in entries {
            assert_eq!((iter.key(), iter.value()), (key_of(entry), &entry.2[..]));
            iter.next()?;
        }
        assert!(!iter.valid());
        Ok(())
    })();
    let forward = found(forward).is_some();
    assert!(!iter.valid());
    let backward = (|| {
        iter.seek_to_last()?;
        for entry in entries.iter().rev() {
            assert_eq!((iter.key(), iter.value()), (key_of(entry), &entry.2[..]));
            iter.prev()?;
        }
        Ok(())
    })();
    let backward = found(backward).is_some();
    assert!(!iter.valid());
    forward && backward
}

/// Asks everything of a damaged file; true if the damage was not even found by reading all of it.
fn interrogate(bytes: &Bytes, len: u64, entries: &[Entry], shape: Shape) -> bool {
    let Some(reader) = found(try_open(bytes, len, shape)) else {
        return false;
    };
    let mut whole = true;
    // Twice: blocks that failed must fail again.
    for _ in 0..2 {
        for user in probes(entries) {
            for seqno in [1, 4, 100] {
                let seqno = SeqNo::new(seqno);
                match found(get(&reader, &user, seqno)) {
                    Some(answer) => assert_eq!(answer, model_get(entries, &user, seqno)),
                    None => whole = false,
                }
            }
            if let Some(may) = found(reader.may_contain(&user, KeyHash::of(&user))) {
                assert!(may || entries.iter().all(|entry| entry.0 != user));
            }
        }
    }
    let mut iter = reader.iter();
    for entry in entries {
        match found(iter.seek(key_of(entry))) {
            Some(()) => assert_eq!(iter.key(), key_of(entry)),
            None => assert!(!iter.valid()),
        }
        match found(iter.seek_for_prev(KeyRef::after_all(&entry.0))) {
            Some(()) => assert_eq!(iter.key().user, entry.0),
            None => assert!(!iter.valid()),
        }
    }
    whole &= walk(reader.iter(), entries);
    let file = MemFile::new(bytes, false);
    let scanned = walk(reader.scan_iter(file.clone()), entries);
    let verified = found(reader.verify(&*file)).is_some();
    // What reads it all may find damage that the others were not led to, but not the reverse.
    assert!((whole && scanned) || !verified);
    verified
}

#[test]
fn every_flipped_byte_is_an_error_or_harmless() {
    let entries = example();
    for shape in sources(SMALL) {
        let (bytes, summary) = write(&entries, shape);
        assert!(interrogate(&bytes, summary.bytes, &entries, shape));
        for at in 0..bytes.len() {
            for mask in [1 << (at % 8), 0xff] {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= mask;
                let damaged = Bytes::from(damaged);
                let harmless = interrogate(&damaged, summary.bytes, &entries, shape);
                assert!(!harmless, "the flip of byte {at} went unnoticed");
            }
        }
    }
}

/// Written by a newer version, whose rules for such entries are not known: a compaction that let
/// them shadow others, or be shadowed, would lose data.
#[test]
fn an_entry_of_a_reserved_kind_is_an_error_that_names_the_file() {
    for alone in [true, false] {
        let mut entries = example();
        let trailers = entries.iter_mut().skip(if alone { 0 } else { 3 });
        trailers.take(if alone { usize::MAX } else { 1 }).for_each(|entry| {
            entry.1 = Trailer::new(entry.1.seqno(), ValueKind::DeleteRange);
        });
        let strange = entries[3].clone();
        let (bytes, _) = write(&entries, SMALL);
        let reader = open(&bytes, SMALL);
        let errors = [
            get(&reader, &strange.0, SeqNo::new(100)).map(drop),
            reader.iter().seek(key_of(&strange)),
            reader.iter().seek_for_prev(KeyRef::after_all(&strange.0)),
            reader.scan_iter(MemFile::new(&bytes, false)).seek(key_of(&strange)),
            reader.verify(&*MemFile::new(&bytes, false)).map(drop),
        ];
        for error in errors {
            let error = error.unwrap_err();
            assert!(matches!(&error, Error::Corruption { .. }), "{error}");
            assert!(error.to_string().contains("kind that this version"), "{error}");
        }
    }
}

/// Nobody may take half of an expiry for one, or panic.
#[test]
fn a_value_that_expires_and_does_not_say_when_is_an_error() {
    let mut entries = example();
    entries[3].1 = Trailer::new(entries[3].1.seqno(), ValueKind::Expiring);
    entries[3].2.truncate(7);
    let (bytes, _) = write(&entries, SMALL);
    let reader = open(&bytes, SMALL);
    let errors = [
        get(&reader, &entries[3].0, SeqNo::new(100)).map(drop),
        reader.iter().seek(key_of(&entries[3])),
        reader.scan_iter(MemFile::new(&bytes, false)).seek(key_of(&entries[3])),
        reader.verify(&*MemFile::new(&bytes, false)).map(drop),
    ];
    for error in errors {
        assert!(matches!(error, Err(Error::Corruption { .. })));
    }
}

#[test]
fn every_truncation_is_an_error() {
    let entries = example();
    for shape in sources(SMALL) {
        let (bytes, summary) = write(&entries, shape);
        for len in 0..bytes.len() {
            let cut = bytes.slice(..len);
            // Found by the length; and where the length is believed, by the footer.
            assert!(!interrogate(&cut, summary.bytes, &entries, shape));
            assert!(!interrogate(&cut, len as u64, &entries, shape));
        }
    }
}

#[test]
fn another_file_in_place_of_this_one_is_refused() {
    let entries = example();
    let (bytes, summary) = write(&entries, SMALL);
    let expected = crate::sst::SstExpectation { bytes: summary.bytes, uid: UID + 1, ranges: None };
    let opened = crate::sst::SstReader::open(
        MemFile::new(&bytes, true),
        "8.sst".into(),
        crate::base::ids::FileId(8),
        Some(expected),
        std::sync::Arc::new(crate::cache::BlockCache::new(0)),
    );
    let error = opened.unwrap_err();
    assert!(matches!(&error, Error::Corruption { .. }), "{error}");
    assert!(error.to_string().contains("another file"), "{error}");
}

#[test]
fn a_file_that_shrinks_while_open_is_an_error() {
    let entries = example();
    for shape in sources(SMALL) {
        let (bytes, _) = write(&entries, shape);
        let reader = open(&bytes, shape);
        let cut = MemFile::new(&bytes.slice(..bytes.len() / 3), false);
        assert!(reader.verify(&*cut).is_err());
        let mut iter = reader.scan_iter(cut);
        assert!(iter.seek_to_first().is_err());
        assert!(!iter.valid());
        assert!(iter.next().is_ok() && !iter.valid());
    }
}

/// `verify` said that all was well while searches that trust these bytes failed or went astray.
#[test]
fn a_block_that_contradicts_itself_behind_a_right_checksum_is_found_by_verify() {
    let (bytes, _) = write(&example(), SMALL);
    let reader = open(&bytes, SMALL);
    let blocks = parts::blocks(&reader).unwrap();
    let data_blocks = reader.properties().data_blocks as usize;
    let index = &blocks[data_blocks];
    let count = SMALL.partition_blocks;
    // Of an index partition: the shared length, and the bytes of the heads.
    let suspects =
        [index.start + 4].into_iter().chain((0..8 * count).map(|n| index.start + 16 + n));
    for at in suspects {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1;
        parts::reseal(&mut damaged, &blocks, UID);
        let damaged = Bytes::from(damaged);
        let reader = open(&damaged, SMALL);
        let verified = reader.verify(&*MemFile::new(&damaged, false));
        assert_eq!(verified.unwrap_err().kind(), ErrorKind::Corruption, "byte {at}");
    }
}
