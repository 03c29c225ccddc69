//! Damaged segments: an error or a correct prefix, never a wrong record, never a panic.

use super::*;
use crate::fs::CrashMode;
use crate::record::Decoded;
use crate::record::decode_at;
use crate::wal::segment::SegmentHeader;

/// Three segments with 30 batches, synced in groups of three, the last group not at all.
fn three_segments() -> (MemFs, Vec<Written>, RecoveredLog) {
    let fs = new_fs();
    let mut log = Log::open(Arc::new(fs.clone())).unwrap();
    for n in 0..30 {
        if n % 3 == 0 && n < 28 {
            log.sync().unwrap();
        }
        log.put(1 + n % 2, 200);
    }
    let (recovered, written) = recover_all(&fs).unwrap();
    assert_eq!((recovered.segments.len(), &written), (3, &log.written));
    (fs, written, recovered)
}

/// Recovers from `fs` with segment `id` replaced by `bytes`, in both modes. Returns how many
/// batches came back in strict mode, or the error.
fn recover_with(fs: &MemFs, id: u64, bytes: &[u8], written: &[Written]) -> Result<usize> {
    let fs = fs.crash_clone(CrashMode::KeepAll, 0);
    replace(&fs, id, bytes);
    let (salvaged, kept) = recover_from(&source(&fs, Recovery::ToLastConsistentPoint)).unwrap();
    assert_eq!(kept, written[..kept.len()]);
    match recover_all(&fs) {
        Ok((log, all)) => {
            assert_eq!(all, kept);
            assert_eq!((log.given_up.as_ref(), &log), (None, &salvaged));
            Ok(all.len())
        }
        Err(error) => {
            let given_up = salvaged.given_up.unwrap();
            assert_eq!(place(error.clone()), (given_up.file, given_up.offset));
            Err(error)
        }
    }
}

/// Where the last record of segment `id` starts that has a stamp.
fn last_stamp(bytes: &[u8], id: FileId) -> usize {
    let context = crate::record::Context::new(DB, id);
    let (mut offset, mut last) = (segment::RECORDS_START, 0);
    while let Decoded::Record(record) = decode_at(context, bytes, offset) {
        if record.stamp.is_some() {
            last = offset.next_multiple_of(8) as usize;
        }
        offset = record.end;
    }
    last
}

/// How many batches were durable for certain when the last one was appended.
const PROVEN: usize = 27;

#[test]
fn every_flipped_byte_is_an_error_or_costs_only_the_unproven_tail() {
    let (fs, written, log) = three_segments();
    let mut errors = 0;
    for live in &log.segments {
        let mut bytes = read(&fs, live.id.0);
        for at in 0..live.end as usize {
            // All bits of headers, some of the long payloads.
            let flip = 1 << (at % 8);
            bytes[at] ^= flip;
            match recover_with(&fs, live.id.0, &bytes, &written) {
                Ok(kept) => assert!(kept >= PROVEN, "{} {at}: {kept}", live.id),
                Err(error) => {
                    assert_eq!(place(error).0, wal_path(dir(), live.id));
                    errors += 1;
                }
            }
            bytes[at] ^= flip;
        }
    }
    assert!(errors > 6000, "{errors}");
}

#[test]
fn every_truncation_is_an_error_or_costs_only_the_tail() {
    let (fs, written, log) = three_segments();
    for live in &log.segments {
        let bytes = read(&fs, live.id.0);
        for len in 0..live.end as usize {
            if let Ok(kept) = recover_with(&fs, live.id.0, &bytes[..len], &written) {
                // What is cut off the last segment takes the claims along.
                let proven = if live.id.0 < 3 { PROVEN } else { kept };
                assert!(kept >= proven, "{} {len}: {kept}", live.id);
            }
        }
    }
}

#[test]
fn every_zeroed_block_is_an_error_or_costs_only_the_tail() {
    let (fs, written, log) = three_segments();
    for live in &log.segments {
        let bytes = read(&fs, live.id.0);
        let last_stamp = last_stamp(&bytes, live.id);
        for start in (0..live.end as usize).step_by(128) {
            for len in [512, 1024] {
                let mut bytes = bytes.clone();
                let end = (start + len).min(bytes.len());
                bytes[start..end].fill(0);
                if let Ok(kept) = recover_with(&fs, live.id.0, &bytes, &written) {
                    // A block that takes the last stamp takes the claims along.
                    let claims = live.id.0 < 3 || end <= last_stamp;
                    assert!(!claims || kept >= PROVEN, "{} {start}+{len}: {kept}", live.id);
                }
            }
        }
    }
}

#[test]
fn all_that_was_there_when_the_log_was_reopened_is_known_to_be_durable() {
    let fs = new_fs();
    let mut log = Log::open(Arc::new(fs.clone())).unwrap();
    for _ in 0..3 {
        log.put(1, 70_000);
        log.sync().unwrap();
    }
    let log = Log::open(Arc::new(fs.clone())).unwrap();
    let (recovered, written) = recover_all(&fs).unwrap();
    assert!(written == log.written && written.len() == 3);
    for live in &recovered.segments {
        let intact = read(&fs, live.id.0);
        for at in (64..live.end as usize - 16).step_by(1000) {
            let mut bytes = intact.clone();
            bytes[at] ^= 1;
            let error = recover_with(&fs, live.id.0, &bytes, &written).unwrap_err();
            assert_eq!(place(error).0, wal_path(dir(), live.id));
        }
    }
}

#[test]
fn a_missing_segment_is_named() {
    let (fs, _, log) = three_segments();
    for (n, live) in log.segments.iter().enumerate().take(2) {
        let fs = fs.crash_clone(CrashMode::KeepAll, 0);
        let path = wal_path(dir(), live.id);
        fs.remove(&path).unwrap();
        let error = recover_all(&fs).unwrap_err();
        assert_eq!(place(error), (path.clone(), 0));
        let (salvaged, _) = recover_from(&source(&fs, Recovery::ToLastConsistentPoint)).unwrap();
        assert_eq!(salvaged.segments[..], log.segments[..n]);
        let dropped: Vec<_> = log.segments[n + 1..].iter().map(|live| live.id).collect();
        assert_eq!(salvaged.dropped, dropped);
        assert_eq!(salvaged.given_up.unwrap().file, path);

        // By the floor, too.
        let mut source = source(&fs, Recovery::Strict);
        source.floor = live.id;
        assert_eq!(place(recover_from(&source).unwrap_err()), (path, 0));
    }
}

#[test]
fn the_manifest_can_prove_that_the_tail_is_missing() {
    let (fs, written, log) = three_segments();
    let last = log.segments[2];
    let bytes = read(&fs, last.id.0);
    let cut = &bytes[..last.end as usize - 16];
    assert_eq!(recover_with(&fs, last.id.0, cut, &written).unwrap(), written.len() - 1);
    replace(&fs, last.id.0, cut);
    let mut source = source(&fs, Recovery::Strict);
    source.durable = SeqNo::new(log.last_seqno.get() - 2);
    recover_from(&source).unwrap();
    source.durable = log.last_seqno;
    let (file, offset) = place(recover_from(&source).unwrap_err());
    assert_eq!(file, wal_path(dir(), last.id));
    assert!(offset < last.end);
}

/// Batches of segment 1, none of them synced, then three of segment 2.
fn unsynced_log() -> (MemFs, Log, u64) {
    let fs = new_fs();
    let mut log = Log::open(Arc::new(fs.clone())).unwrap();
    for _ in 0..4 {
        log.put(1, 200);
    }
    let hole = log.writer.active_bytes();
    for _ in 0..6 {
        log.put(1, 200);
    }
    log.rotate(SEGMENT).unwrap();
    for _ in 0..3 {
        log.put(1, 200);
    }
    (fs, log, hole)
}

fn zero(fs: &MemFs, id: u64, at: u64) {
    let file = fs.open_writable(&wal_path(dir(), FileId(id))).unwrap();
    file.write_at(at, &[0; 64]).unwrap();
}

#[test]
fn a_hole_in_what_was_not_synced_drops_all_behind_it() {
    let (fs, log, hole) = unsynced_log();
    zero(&fs, 1, hole);
    let (recovered, written) = recover_all(&fs).unwrap();
    assert_eq!(written, log.written[..4]);
    assert_eq!(recovered.tail, Some((FileId(1), hole)));
    assert_eq!(recovered.dropped, [FileId(2)]);

    // What was dropped stays so, when the log goes on behind it.
    let before = fs.crash_clone(CrashMode::KeepAll, 0);
    let mut reopened = Log::open(Arc::new(fs.clone())).unwrap();
    assert_eq!(reopened.written, log.written[..4]);
    reopened.put(1, 300);
    reopened.sync().unwrap();
    let (recovered, written) = recover_all(&fs).unwrap();
    assert_eq!((written, recovered.dropped), (reopened.written, vec![]));

    // Also while the dropped segment is still there.
    let newest = recovered.segments.last().unwrap().id;
    replace(&before, newest.0, &read(&fs, newest.0));
    let (again, _) = recover_all(&before).unwrap();
    assert!(again.debris.contains(&FileId(2)), "{again:?}");
    assert_eq!(again.segments.last(), recovered.segments.last());
}

#[test]
fn a_hole_below_a_claim_of_durability_is_corruption() {
    let (fs, mut log, hole) = unsynced_log();
    log.sync().unwrap();
    log.put(1, 200);
    zero(&fs, 1, hole);
    let error = recover_all(&fs).unwrap_err();
    assert_eq!(place(error), (wal_path(dir(), FileId(1)), hole));

    let (recovered, written) = recover_from(&source(&fs, Recovery::ToLastConsistentPoint)).unwrap();
    assert_eq!(written, log.written[..4]);
    assert_eq!(recovered.given_up.unwrap().offset, hole);
    assert_eq!(recovered.dropped, [FileId(2)]);
}

#[test]
fn a_lost_header_of_an_unsynced_segment_drops_it() {
    let (fs, mut log, _) = unsynced_log();
    log.rotate(SEGMENT).unwrap();
    log.put(1, 200);
    zero(&fs, 2, 0);
    let (recovered, written) = recover_all(&fs).unwrap();
    assert_eq!(written, log.written[..10]);
    assert_eq!((recovered.debris, recovered.dropped), (vec![FileId(2)], vec![FileId(3)]));
}

#[test]
fn a_prepared_segment_is_ignored() {
    let (fs, mut log, _) = unsynced_log();
    log.sync().unwrap();
    prepare_segment(&fs, dir(), FileId(9), 2 * SEGMENT, Space::Reserved).unwrap();
    let (recovered, written) = recover_all(&fs).unwrap();
    assert_eq!((recovered.debris, written), (vec![FileId(9)], log.written));
}

#[test]
fn a_segment_of_another_database_is_refused() {
    let (fs, mut log, _) = unsynced_log();
    log.sync().unwrap();
    let mut other = source(&fs, Recovery::Strict);
    other.db = DbId(1);
    assert_eq!(place(recover_from(&other).unwrap_err()), (wal_path(dir(), FileId(1)), 0));
    other.mode = Recovery::ToLastConsistentPoint;
    let (recovered, written) = recover_from(&other).unwrap();
    assert_eq!((recovered.debris, recovered.dropped, written), (vec![], vec![], vec![]));
}

#[test]
fn a_segment_under_another_name_is_not_replayed() {
    let (fs, mut log, _) = unsynced_log();
    log.sync().unwrap();
    replace(&fs, 5, &read(&fs, 2));
    let (recovered, written) = recover_all(&fs).unwrap();
    assert_eq!((recovered.debris, written), (vec![FileId(5)], log.written));
}

#[test]
fn a_newer_format_is_told_from_damage() {
    let fs = new_fs();
    let header = crate::record::header::FileHeader { db: DB, file: FileId(1), extra: [0, 0, 1, 0] };
    let mut newer = segment::FORMAT;
    newer.version += 1;
    replace(&fs, 1, &header.encode(newer));
    for mode in [Recovery::Strict, Recovery::ToLastConsistentPoint] {
        let error = recover_from(&source(&fs, mode)).unwrap_err();
        assert!(matches!(error, Error::UnsupportedFormat { found: 2, supported: 1, .. }));
    }
}

#[test]
fn a_valid_record_that_is_not_the_next_batch_is_corruption() {
    let (fs, mut log, _) = unsynced_log();
    log.sync().unwrap();
    let live = recover_all(&fs).unwrap().0.segments[1];
    let context = crate::record::Context::new(DB, live.id);
    // The last is a put, but for its kind, which is reserved.
    let reserved: &[u8] = b"\x04\x01k\x01v";
    let (late, early) = (batch(1, 1, 9), batch(1, 1, 9));
    for (seqno, payload) in [(15, late.bytes()), (13, early.bytes()), (14, b"x"), (14, reserved)] {
        let mut bytes = read(&fs, live.id.0);
        let mut record = Vec::new();
        let stamp = crate::record::Stamp { seqno, lag: u32::MAX };
        crate::record::encode_into(&mut record, context, live.end, Some(stamp), payload);
        bytes[live.end as usize..][..record.len()].copy_from_slice(&record);
        let error = recover_with(&fs, live.id.0, &bytes, &log.written).unwrap_err();
        assert_eq!(place(error), (wal_path(dir(), live.id), live.end));
    }
}

/// Only a segment that states that all in front of it is durable may skip numbers. From another one
/// the log could be opened once: what the next segment takes over has no place for a gap.
#[test]
fn a_gap_in_the_sequence_numbers_that_nothing_proves_durable_is_corruption() {
    let fs = new_fs();
    let mut log = Log::open(Arc::new(fs.clone())).unwrap();
    log.put(1, 10);
    let end = log.written.last().map(|_| recover_all(&fs).unwrap().0.tail.unwrap().1).unwrap();
    for (durable, whole) in [(0, false), (8, false), (9, true)] {
        let header = SegmentHeader {
            db: DB,
            id: FileId(2),
            prev: FileId(1),
            prev_end: end,
            first_seqno: SeqNo::new(10),
            durable: SeqNo::new(durable),
        };
        replace(&fs, 2, &header.encode());
        match recover_all(&fs) {
            Ok((log, _)) => assert!(whole && log.last_seqno.get() == 9),
            Err(error) => assert!(!whole && place(error).0 == wal_path(dir(), FileId(2))),
        }
    }
}
