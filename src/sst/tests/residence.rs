//! Blocks that the page cache has, and those that it has not: by which way they are read.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use crate::base::compression::Compression;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::base::internal_iter::InternalIter;
use crate::base::key::Trailer;
use crate::base::lookup::Lookup;
use crate::base::seqno::SeqNo;
use crate::base::value::ValueKind;
use crate::cache::BlockCache;
use crate::fs::ReadableFile;
use crate::sst::SstReader;
use crate::sst::tests::support::*;

/// A file that counts what it is asked for, and may be in the page cache.
#[derive(Debug)]
struct Counted {
    file: Arc<MemFile>,
    is_resident: AtomicBool,
    calls: AtomicUsize,
}

impl ReadableFile for Counted {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.calls.fetch_add(1, Relaxed);
        self.file.read_at(offset, out)
    }

    fn read_at_once(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        self.calls.fetch_add(1, Relaxed);
        if self.is_resident.load(Relaxed) {
            self.file.read_at(offset, out)?;
        }
        Ok(self.is_resident.load(Relaxed))
    }

    fn mapping(&self) -> Option<&Bytes> {
        self.file.mapping()
    }

    fn will_need(&self, range: Range<u64>) {
        self.file.will_need(range);
    }
}

impl Counted {
    /// How many calls `read` takes.
    fn count(&self, read: impl FnOnce()) -> usize {
        self.calls.store(0, Relaxed);
        read();
        self.calls.load(Relaxed)
    }
}

fn entries() -> Vec<Entry> {
    let put = Trailer::new(SeqNo::new(7), ValueKind::Put);
    (0..1000u32).map(|n| (format!("key{n:05}").into_bytes(), put, vec![n as u8; 40])).collect()
}

/// A reader that keeps no block, so that each read is one of the file.
fn open_counted(bytes: &Bytes, mapped: bool) -> (Arc<SstReader>, Arc<Counted>) {
    let file = MemFile::new(bytes, mapped);
    let file = Arc::new(Counted { file, is_resident: true.into(), calls: 0.into() });
    let cache = Arc::new(BlockCache::new(0));
    let reader = SstReader::open(file.clone(), PathBuf::from("7.sst"), FileId(7), None, cache);
    (Arc::new(reader.unwrap()), file)
}

const SHAPE: Shape = Shape { compression: Compression::Lz4, cache_bytes: 0, ..SMALL };

fn check_all(reader: &Arc<SstReader>, entries: &[Entry]) {
    for (user, trailer, value) in entries {
        let found = get(reader, user, SeqNo::MAX).unwrap();
        assert_eq!(found.as_ref(), Some(&(*trailer, value.clone())));
    }
}

#[test]
fn what_the_page_cache_has_is_read_without_calls() {
    let entries = entries();
    let (bytes, _) = write(&entries, SHAPE);
    let (reader, file) = open_counted(&bytes, true);
    let gets = || check_all(&reader, &entries);
    assert!(file.count(gets) < 200);
    let probes = file.count(gets);
    assert!((1..100).contains(&probes), "{probes} probes among 1000 reads");
    let many = || {
        let mut lookups: Vec<_> = entries.iter().map(|entry| Lookup::new(&entry.0)).collect();
        reader.get_many(&mut lookups, SeqNo::MAX).unwrap();
        for (lookup, entry) in lookups.iter().zip(&entries) {
            assert_eq!(lookup.found.as_ref().map(|(_, value)| &**value), Some(&entry.2[..]));
        }
    };
    assert!(file.count(many) < 100);
    let walk = || {
        let mut iter = reader.clone().iter();
        iter.seek_to_first().unwrap();
        for entry in &entries {
            assert_eq!((iter.key(), iter.value()), (key_of(entry), &entry.2[..]));
            iter.next().unwrap();
        }
    };
    assert!(file.count(walk) < 100);
    // It is evicted: soon all reads are calls, and a second one where the first has not found it.
    file.is_resident.store(false, Relaxed);
    gets();
    assert_eq!(file.count(gets), 2000);
    file.is_resident.store(true, Relaxed);
    gets();
    assert!(file.count(gets) < 100);
}

#[test]
fn without_a_mapping_all_reads_are_calls() {
    let entries = entries();
    let (bytes, _) = write(&entries, SHAPE);
    let (reader, file) = open_counted(&bytes, false);
    check_all(&reader, &entries);
    assert!(file.count(|| check_all(&reader, &entries)) >= 1000);
}

#[test]
fn damage_is_found_through_the_mapping_too() {
    let entries = entries();
    let (bytes, _) = write(&entries, SHAPE);
    let mut damaged = bytes.to_vec();
    damaged[5] ^= 1;
    let (reader, file) = open_counted(&damaged.into(), true);
    check_all(&reader, &entries[500..]);
    let calls = file.count(|| {
        for _ in 0..100 {
            let error = get(&reader, &entries[0].0, SeqNo::MAX).unwrap_err();
            assert!(matches!(error, Error::Corruption { .. }), "{error}");
        }
    });
    assert!(calls < 20);
}
