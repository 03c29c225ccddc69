//! Tests of the framing: what was written is read, and nothing else is.

#![expect(clippy::indexing_slicing, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;
use crate::base::coding::put_varint;

const DB: DbId = DbId(0x1234_5678_9abc_def0);

fn context() -> Context {
    Context::new(DB, FileId(3))
}

/// A payload, and has its record a stamp?
type Entry = (Vec<u8>, bool);

/// A file of 64 zeros and the given payloads as records, with the offsets where these end.
fn file(entries: &[Entry]) -> (Vec<u8>, Vec<u64>) {
    let mut bytes = vec![0; 64];
    let mut ends = Vec::new();
    for (n, (payload, has_stamp)) in entries.iter().enumerate() {
        let offset = bytes.len() as u64;
        let stamp = Stamp { seqno: n as u64 + 10, lag: n as u32 };
        let stamp = has_stamp.then_some(stamp);
        encode_into(&mut bytes, context(), offset, stamp, payload);
        let end = bytes.len() as u64;
        assert!(end - offset <= framed_len_max(payload.len()));
        assert_eq!(framed_len_of(&bytes[offset as usize..], offset), Some(end - offset));
        ends.push(end);
    }
    (bytes, ends)
}

/// The entries up to the first thing that is no record, and that thing.
fn read_all(context: Context, bytes: &[u8]) -> (Vec<Entry>, Decoded) {
    let mut entries: Vec<Entry> = Vec::new();
    let mut offset = 64;
    loop {
        match decode_at(context, bytes, offset) {
            Decoded::Record(record) => {
                if let Some(stamp) = record.stamp {
                    assert_eq!(stamp.seqno, entries.len() as u64 + 10);
                }
                entries.push((bytes[record.payload].to_vec(), record.stamp.is_some()));
                offset = record.end;
            }
            end => return (entries, end),
        }
    }
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec((prop::collection::vec(any::<u8>(), 3..200), any::<bool>()), 0..8)
}

proptest! {
    #[test]
    fn records_round_trip(entries in entries(), zeros in 0usize..100) {
        let (mut bytes, _) = file(&entries);
        bytes.resize(bytes.len() + zeros, 0);
        prop_assert_eq!(read_all(context(), &bytes), (entries, Decoded::End));
    }

    #[test]
    fn a_truncated_file_reads_as_a_prefix(entries in entries(), cut: prop::sample::Index) {
        let (bytes, ends) = file(&entries);
        let cut = cut.index(bytes.len() + 1);
        let (read, _) = read_all(context(), &bytes[..cut]);
        let whole = ends.iter().take_while(|end| **end as usize <= cut);
        prop_assert_eq!(read.len(), whole.count());
        prop_assert_eq!(&read[..], &entries[..read.len()]);
    }

    #[test]
    fn a_flipped_byte_ends_the_log_at_its_record(
        entries in entries(),
        at: prop::sample::Index,
        flip in 1u8..,
    ) {
        let (mut bytes, ends) = file(&entries);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let (read, _) = read_all(context(), &bytes);
        let hit = ends.iter().position(|end| at < *end as usize).filter(|_| at >= 64);
        prop_assert_eq!(&read[..], &entries[..hit.unwrap_or(entries.len())]);
    }

    #[test]
    fn only_what_needs_a_stamp_has_one(
        records in prop::collection::vec((1u64..3000, 0u32..4), 1..40),
    ) {
        let (mut stamps, mut offset, mut seqno) = (Stamps::default(), 64, 10);
        let (mut blocks, mut claimed) = (Vec::new(), None);
        for (len, lag) in records {
            let stamp = Stamp { seqno, lag: if lag == 0 { LAG_UNKNOWN } else { lag } };
            let is_first = !blocks.contains(&(offset / STAMP_EVERY));
            let claims_more = stamp.durable() > claimed;
            let found = stamps.next(offset, len as usize, stamp);
            let needs_one = is_first || claims_more || len < 3;
            prop_assert_eq!(found, needs_one.then_some(stamp));
            blocks.push(offset / STAMP_EVERY);
            claimed = claimed.max(stamp.durable());
            (offset, seqno) = (offset + len, seqno + 1);
        }
    }

    #[test]
    fn what_is_copied_to_other_offsets_gets_little_longer(
        lens in prop::collection::vec(1usize..2000, 1..60),
        from in 64u64..5000,
        to in 64u64..5000,
    ) {
        let copy = |start: u64| {
            let (mut bytes, mut stamps) = (Vec::new(), Stamps::default());
            for (n, len) in lens.iter().enumerate() {
                let offset = start + bytes.len() as u64;
                let stamp = Stamp { seqno: n as u64, lag: LAG_UNKNOWN };
                let stamp = stamps.next(offset, *len, stamp);
                encode_into(&mut bytes, context(), offset, stamp, &vec![1; *len]);
            }
            bytes.len() as u64
        };
        prop_assert!(copy(to) <= Stamps::bytes_at_most(copy(from)));
    }

    #[test]
    fn any_bytes_decode_or_fail(bytes: Vec<u8>, offset in 0u64..200) {
        decode_at(context(), &bytes, offset);
        scan_for_valid(context(), &bytes, offset..300, &|_| true);
    }

    #[test]
    fn records_of_another_file_place_or_database_are_invalid(
        db: u64,
        id: u64,
        shift in 1u64..1000,
        payload in prop::collection::vec(any::<u8>(), 1..60),
    ) {
        let (bytes, _) = file(&[(payload, true)]);
        for other in [Context::new(DbId(db), FileId(3)), Context::new(DB, FileId(id))] {
            let decoded = decode_at(other, &bytes, 64);
            prop_assert_eq!(other == context(), matches!(decoded, Decoded::Record(_)));
        }
        let mut moved = vec![0; 8 * shift as usize];
        moved.extend_from_slice(&bytes);
        prop_assert!(matches!(decode_at(context(), &moved, 64 + 8 * shift), Decoded::Invalid(_)));
    }

    #[test]
    fn scanning_finds_the_first_plausible_record(
        entries in entries(),
        from in 0u64..300,
        to in 100u64..1500,
    ) {
        let (bytes, ends) = file(&entries);
        let found = scan_for_valid(context(), &bytes, from..to, &|stamp| stamp.seqno >= 12);
        let starts = ends.iter().zip(&entries).enumerate().skip(2).filter(|(_, (_, entry))| entry.1);
        let mut starts = starts.map(|(n, _)| ends[n - 1] + padding_at(ends[n - 1]));
        let expected = starts.find(|offset| (from..to).contains(offset));
        match (found, expected) {
            (Scan::Found(offset, record), Some(expected)) => {
                prop_assert_eq!(offset, expected);
                prop_assert!(record.stamp.unwrap().seqno >= 12);
            }
            (Scan::Nothing, None) => {}
            other => prop_assert!(false, "{other:?}"),
        }
    }
}

#[test]
fn bytes_that_only_look_like_records_do_not_make_a_scan_quadratic() {
    let mut bytes = Vec::new();
    let len = 1 << 20;
    while bytes.len() < len {
        let rest = len - bytes.len();
        bytes.push(HAS_STAMP);
        put_varint(&mut bytes, rest as u64 / 2);
        bytes.extend_from_slice(&1u32.to_le_bytes());
        bytes.extend_from_slice(&Stamp { seqno: 1, lag: 1 }.encode());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    assert_eq!(scan_for_valid(context(), &bytes, 0..u64::MAX, &|_| true), Scan::Nothing);
    // And the answer is right.
    let offset = bytes.len() as u64;
    encode_into(&mut bytes, context(), offset, Some(Stamp { seqno: 2, lag: 1 }), &[7; 5000]);
    bytes.resize(bytes.len() + len, 1);
    let scan = scan_for_valid(context(), &bytes, 0..u64::MAX, &|_| true);
    assert!(
        matches!(&scan, Scan::Found(at, record) if *at == offset && record.stamp.unwrap().seqno == 2)
    );
    bytes[offset as usize + 2000] ^= 1;
    assert_eq!(scan_for_valid(context(), &bytes, 0..offset + 1, &|_| true), Scan::Nothing);
}

#[test]
fn a_lag_claims_what_was_durable() {
    let durable = |seqno, lag| Stamp { seqno, lag }.durable();
    assert_eq!(durable(10, 3), Some(7));
    assert_eq!(durable(10, LAG_UNKNOWN), None);
    assert_eq!(durable(2, 3), None);
}

#[test]
fn a_stored_lag_is_rounded_up_by_an_eighth_at_most() {
    let near_powers = (0..32).flat_map(|bit| (-9..=9).map(move |near| (1_i64 << bit) + near));
    for lag in (0..70_000).chain(near_powers).filter_map(|lag| u32::try_from(lag).ok()) {
        let stored = lag_of(code_of(lag));
        assert!(stored >= lag, "{lag} is stored as {stored}");
        assert!(stored == LAG_UNKNOWN || stored - lag <= lag / 8, "{lag} is stored as {stored}");
        assert!(stored != LAG_UNKNOWN || lag > 15 << 28, "{lag} is not stored");
        assert!(stored == lag || lag > 16, "{lag} is stored as {stored}");
    }
    for code in 0..=LAG_CODE_MAX {
        assert_eq!(code_of(lag_of(code)), code);
    }
    assert_eq!(code_of(LAG_UNKNOWN), u8::MAX);
}

/// A hole has the length of what was lost, so it must not pass for padding.
#[test]
fn zeros_in_the_place_of_a_record_are_no_padding() {
    for start in 64..72_u64 {
        for len in 1..20 {
            let (mut bytes, mut stamps) = (vec![0; start as usize], Stamps::default());
            stamps.next(start, 9, Stamp { seqno: 9, lag: LAG_UNKNOWN });
            let stamp = |seqno| Stamp { seqno, lag: LAG_UNKNOWN };
            let lost = stamps.next(start, len, stamp(10));
            encode_into(&mut bytes, context(), start, lost, &vec![1; len]);
            let end = bytes.len();
            encode_into(&mut bytes, context(), end as u64, Some(stamp(11)), b"behind the hole");
            bytes[start as usize..end].fill(0);
            let found = decode_at(context(), &bytes, start);
            assert!(!matches!(found, Decoded::Record(_)), "{start}, {len}: {found:?}");
        }
    }
}

/// However lags are rounded, one of two records claims all that was durable, nearly at once.
#[test]
fn what_was_durable_is_claimed_in_full_soon() {
    for durable in [0, 900, 5000] {
        for first in durable + 1..durable + 3000 {
            let (mut stamps, mut claimed, mut count) = (Stamps::default(), None, 0);
            for seqno in first..first + 600 {
                let stamp = Stamp { seqno, lag: (seqno - durable) as u32 };
                // All in one block.
                if let Some(stamp) = stamps.next(64, 100, stamp) {
                    count += 1;
                    claimed = claimed.max(stamp.stored().durable());
                }
            }
            assert!(claimed == Some(durable) && count <= 2, "{durable} {first}: {claimed:?}");
        }
    }
}

/// Where a log ends for now a reader is to expect a beginning, not a long record.
#[test]
fn zeros_are_one_byte_of_what_may_come() {
    for (offset, padding) in [(64, 0), (67, 5), (71, 1)] {
        assert_eq!(framed_len_of(&[0; 100], offset), Some(padding + 1));
        assert_eq!(framed_len_of(&[0; 100][..padding as usize], offset), None);
    }
}
