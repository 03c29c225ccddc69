//! Logs: what is replayed is a beginning of what was written, and what was durable is not lost in
//! silence.

use std::path::Path;

use esker::Error;
use esker::ErrorKind;
use esker::Key;
use esker::Recovery;
use esker::Value;
use esker::fs::MemFs;
use esker::fuzz_api::Edit;
use esker::fuzz_api::KeyspaceChange;
use esker::fuzz_api::Log;
use esker::fuzz_api::Segment;
use esker::fuzz_api::append_record;
use esker::fuzz_api::batch;
use esker::fuzz_api::recover_log;

use super::DIR;
use super::allocations::bounded;
use super::allow;
use super::fs_of;
use super::input::Input;
use super::manifest;
use super::open;

const DB: u64 = 0xdead_beef_0bad_cafe;
const LAG_UNKNOWN: u32 = u32::MAX;
/// A key that no input has.
const PROBE: &str = "a key that is written in between";

/// A log: raw files, files whose checksums are right and nothing else, or a damaged log.
pub(crate) fn wal_decode(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 3 {
        0 => raw(&mut input),
        1 => forged(&mut input),
        _ => damaged(&mut input),
    }
}

#[derive(Default)]
struct Files {
    segments: Vec<(u64, Vec<u8>)>,
    /// Are there records of few bytes by the thousand?
    is_dense: bool,
    floor: u64,
    durable: u64,
}

impl Files {
    fn bytes(&self) -> usize {
        self.segments.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    fn fs(&self) -> MemFs {
        let named = |(id, bytes): &(u64, Vec<u8>)| (format!("{id:06}.wal"), bytes.clone());
        let files: Vec<(String, Vec<u8>)> = self.segments.iter().map(named).collect();
        let files: Vec<(String, &[u8])> =
            files.iter().map(|(name, bytes)| (name.clone(), bytes.as_slice())).collect();
        fs_of(&files)
    }

    /// Recovers in both modes, and checks what holds of any bytes.
    fn recover(&self) -> [Result<Log, Error>; 2] {
        let fs = self.fs();
        [Recovery::Strict, Recovery::ToLastConsistentPoint].map(|mode| {
            // The list of what was recovered, which is this test's, takes some 100 bytes for each.
            let times = if self.is_dense { 20 } else { 8 };
            let limit = times * self.bytes() + (64 << 10);
            let log = bounded(limit, "recover", || {
                recover_log(&fs, Path::new(DIR), DB, self.floor, self.durable, mode)
            });
            match &log {
                Ok(log) => self.check(log, mode),
                Err(error) => {
                    allow(error, &mode);
                    let damage = error.kind() == ErrorKind::Corruption;
                    assert!(mode == Recovery::Strict || !damage, "salvage fails: {error}");
                }
            }
            log
        })
    }

    fn check(&self, log: &Log, mode: Recovery) {
        let payload: usize = log.records.iter().map(|(_, payload)| payload.len()).sum();
        assert!(payload <= self.bytes(), "more was read than there is");
        assert!(log.records.windows(2).all(|two| two[0].0 < two[1].0), "numbers do not rise");
        if let Some((last, _)) = log.records.last() {
            assert!(log.last_seqno >= *last);
        }
        if mode == Recovery::Strict {
            assert!(!log.given_up);
            assert!(
                log.last_seqno >= self.durable || (self.floor == 0 && log.last_seqno == 0),
                "{} were durable and {} are there, and nobody said so",
                self.durable,
                log.last_seqno
            );
        }
    }
}

fn raw(input: &mut Input<'_>) {
    let mut files = Files { floor: input.number() % 4, ..Files::default() };
    let count = 1 + input.below(3);
    for id in 1..=count as u64 {
        let len = if id == count as u64 { usize::MAX } else { usize::from(input.short()) };
        files.segments.push((id, input.bytes(len).to_vec()));
    }
    // Then no segment was ever started, unless the bytes forge a checksum.
    let _ = files.recover();
}

/// Segments with valid headers and records that say anything; then the database on top of them.
fn forged(input: &mut Input<'_>) {
    let open_it = input.flag();
    let mut files = Files {
        floor: u64::from(input.byte() % 3),
        durable: input.number() % 8,
        ..Files::default()
    };
    let (mut id, mut next, mut prev) = (0, 1, (0, 0));
    while !input.is_empty() && files.segments.len() < 4 {
        id += 1 + input.below(2) as u64;
        let wrong = input.byte();
        let number = |input: &mut Input<'_>, right: u64, bit: u8| {
            if wrong & bit == 0 { right } else { input.number() }
        };
        let header = Segment {
            db: number(input, DB, 1),
            file: number(input, id, 2),
            prev: number(input, prev.0, 4),
            prev_end: number(input, prev.1, 8),
            first_seqno: number(input, next, 16),
            durable: number(input, u64::saturating_sub(next, 1), 32),
        };
        let mut bytes = header.encode();
        next = header.first_seqno;
        for _ in 0..input.below(6) {
            next = forge_record(input, &mut bytes, (header.db, header.file), next);
        }
        prev = (id, bytes.len() as u64);
        bytes.resize(bytes.len() + 8 * input.below(40), 0);
        files.segments.push((id, bytes));
    }
    let [strict, _] = files.recover();
    if open_it {
        check_database(&files, strict.is_ok());
    }
}

fn forge_record(
    input: &mut Input<'_>,
    bytes: &mut Vec<u8>,
    (db, id): (u64, u64),
    next: u64,
) -> u64 {
    let wrong = input.byte();
    let seqno = if wrong & 1 == 0 { next } else { input.number() };
    let lag = match wrong >> 1 & 3 {
        0 => None,
        1 => Some(input.number() as u32),
        2 => Some(LAG_UNKNOWN),
        _ => Some(1 + u32::from(input.byte() % 4)),
    };
    let (payload, ops) = if wrong & 8 == 0 {
        batch_of(input, u32::from(wrong >> 6))
    } else {
        let len = usize::from(input.byte()) + 1;
        let mut payload = input.bytes(len).to_vec();
        payload.extend([0; 3]);
        (payload, 1)
    };
    append_record(bytes, db, id, seqno, lag.or(lag_of_short(&payload)), &payload);
    seqno.saturating_add(ops)
}

/// A record with a very short payload has a stamp.
fn lag_of_short(payload: &[u8]) -> Option<u32> {
    (payload.len() < 3).then_some(LAG_UNKNOWN)
}

/// A batch of one to four operations.
fn batch_of(input: &mut Input<'_>, keyspace: u32) -> (Vec<u8>, u64) {
    let count = 1 + input.below(4);
    let ops: Vec<(Vec<u8>, Option<Vec<u8>>)> = (0..count)
        .map(|_| {
            (input.key(), if input.byte().is_multiple_of(4) { None } else { Some(input.value()) })
        })
        .collect();
    let ops: Vec<(&[u8], Option<&[u8]>)> =
        ops.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
    (batch(keyspace, &ops), count as u64)
}

/// Opens a database over the log: what can be opened can be read, and again after it was closed.
fn check_database(files: &Files, sound: bool) {
    let fs = files.fs();
    let default = KeyspaceChange { name: Some("default".to_owned()), ..KeyspaceChange::default() };
    let edit = Edit {
        next_file: Some(100),
        last_seqno: Some(0),
        log_durable: Some(files.durable),
        wal_floor: Some(files.floor),
        next_keyspace: Some(2),
        keyspaces: vec![default],
        log_retention: None,
        kept: Vec::new(),
    };
    manifest::install(&fs, DB, 99, &[esker::fuzz_api::encode_edit(&edit)]);
    let (mut seen, mut written) = (None, false);
    for round in 0..2 {
        let db = match open(&fs, Recovery::Strict) {
            Ok(db) => db,
            Err(error) => {
                assert!(round == 0, "it was open before: {error}");
                return allow(&error, &"open");
            }
        };
        assert!(sound, "the log was refused, and is opened");
        let read = |entry: Result<(Key, Value), Error>| match entry {
            Ok((key, _)) if key == PROBE => None,
            entry => Some(entry.map_err(|error| allow(&error, &"read")).ok()),
        };
        let found: Vec<_> = db.iter().filter_map(read).collect();
        if let Some(seen) = seen.replace(found.clone()) {
            assert!(seen == found, "the second recovery differs from the first");
            assert!(!written || db.get(PROBE).unwrap().is_some(), "a write is lost");
        }
        // Sequence numbers may have run out.
        written = db.put(PROBE, "").is_ok();
        db.close().unwrap();
    }
}

/// A log as it is written, with damage that no checksum covers up.
fn damaged(input: &mut Input<'_>) {
    let mut files = Files::default();
    let mut written: Vec<(u64, Vec<u8>)> = Vec::new();
    let (mut next, mut durable, mut prev) = (1, 0, (0, 0));
    for id in 1..=1 + input.below(3) as u64 {
        let header = Segment {
            db: DB,
            file: id,
            prev: prev.0,
            prev_end: prev.1,
            first_seqno: next,
            durable,
        };
        let mut bytes = header.encode();
        for _ in 0..input.below(8) {
            let (payload, ops) = batch_of(input, 0);
            let lag = match input.byte() % 3 {
                0 => None,
                1 => Some((next - durable) as u32),
                _ => {
                    durable = next - 1;
                    Some(1)
                }
            };
            append_record(&mut bytes, DB, id, next, lag.or(lag_of_short(&payload)), &payload);
            written.push((next, payload));
            next += ops;
        }
        if input.byte() == 255 {
            // For the memory that each takes beside its bytes.
            files.is_dense = true;
            let payload = batch(0, &[(b"", None), (b"", None)]);
            for _ in 0..5000 {
                append_record(&mut bytes, DB, id, next, None, &payload);
                written.push((next, payload.clone()));
                next += 2;
            }
        }
        prev = (id, bytes.len() as u64);
        bytes.resize(bytes.len() + 8 * input.below(80), 0);
        files.segments.push((id, bytes));
    }
    files.durable = if input.flag() { durable } else { 0 };
    let intact: Vec<_> = files.segments.clone();
    for _ in 0..input.below(4) {
        let segment = input.below(files.segments.len());
        if let Some((_, bytes)) = files.segments.get_mut(segment) {
            input.damage(bytes);
        }
    }
    if input.byte() % 8 == 7 {
        files.segments.remove(input.below(files.segments.len()));
    }
    let unharmed = intact == files.segments;
    let [strict, salvaged] = files.recover();
    if unharmed {
        assert_eq!(strict.as_ref().map(|log| &log.records).ok(), Some(&written));
    }
    for log in [strict, salvaged].into_iter().flatten() {
        assert!(written.starts_with(&log.records), "not a beginning of what was written");
        let last = written.get(log.records.len()).map_or(next, |(seqno, _)| *seqno) - 1;
        assert!(log.records.is_empty() || log.last_seqno == last);
    }
}
