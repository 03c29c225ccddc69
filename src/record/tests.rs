//! Tests of the framing: what was written is read, and nothing else is.

#![expect(clippy::indexing_slicing, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;

const DB: DbId = DbId(0x1234_5678_9abc_def0);

fn context() -> Context {
    Context::new(DB, FileId(3))
}

/// A file of 64 zeros and the given payloads as records, with the offsets of the records.
fn file(payloads: &[Vec<u8>]) -> (Vec<u8>, Vec<u64>) {
    let mut bytes = vec![0; 64];
    let mut offsets = Vec::new();
    for (n, payload) in payloads.iter().enumerate() {
        let offset = bytes.len() as u64;
        let stamp = Stamp { seqno: n as u64 + 10, lag: n as u32 };
        encode_into(&mut bytes, context(), offset, stamp, payload);
        assert_eq!(bytes.len() as u64, offset + framed_len(payload.len()));
        offsets.push(offset);
    }
    (bytes, offsets)
}

/// The payloads up to the first thing that is no record, and that thing.
fn read_all(context: Context, bytes: &[u8]) -> (Vec<Vec<u8>>, Decoded) {
    let mut payloads = Vec::new();
    let mut offset = 64;
    loop {
        match decode_at(context, bytes, offset) {
            Decoded::Record(record) => {
                assert_eq!(record.stamp.seqno, payloads.len() as u64 + 10);
                payloads.push(bytes[record.payload].to_vec());
                offset = record.next_offset;
            }
            end => return (payloads, end),
        }
    }
}

fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 0..8)
}

proptest! {
    #[test]
    fn records_round_trip(payloads in payloads(), zeros in 0usize..100) {
        let (mut bytes, _) = file(&payloads);
        bytes.resize(bytes.len() + zeros, 0);
        prop_assert_eq!(read_all(context(), &bytes), (payloads, Decoded::End));
    }

    #[test]
    fn a_truncated_file_reads_as_a_prefix(payloads in payloads(), cut: prop::sample::Index) {
        let (bytes, offsets) = file(&payloads);
        let cut = cut.index(bytes.len() + 1);
        let (read, _) = read_all(context(), &bytes[..cut]);
        let whole = payloads.iter().zip(&offsets).take_while(|(payload, offset)| {
            **offset as usize + RECORD_HEADER_LEN + payload.len() <= cut
        });
        prop_assert_eq!(read.len(), whole.count());
        prop_assert_eq!(&read[..], &payloads[..read.len()]);
    }

    #[test]
    fn a_flipped_byte_ends_the_log_at_its_record(
        payloads in payloads(),
        at: prop::sample::Index,
        flip in 1u8..,
    ) {
        let (mut bytes, offsets) = file(&payloads);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let (read, _) = read_all(context(), &bytes);
        let hit = offsets.iter().rposition(|offset| *offset as usize <= at);
        let expected = match hit {
            // Padding carries nothing.
            Some(n) if at < offsets[n] as usize + RECORD_HEADER_LEN + payloads[n].len() => n,
            _ => payloads.len(),
        };
        prop_assert_eq!(&read[..], &payloads[..expected]);
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
        let (bytes, _) = file(&[payload]);
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
        payloads in payloads(),
        from in 0u64..300,
        to in 100u64..1000,
    ) {
        let (bytes, offsets) = file(&payloads);
        let found = scan_for_valid(context(), &bytes, from..to, &|stamp| stamp.seqno >= 12);
        let expected = offsets.iter().skip(2).find(|offset| (from..to).contains(*offset));
        match (found, expected) {
            (Scan::Found(offset, record), Some(expected)) => {
                prop_assert_eq!(offset, *expected);
                prop_assert!(record.stamp.seqno >= 12);
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
        let stamp = Stamp { seqno: 1, lag: 1 };
        let rest = len - bytes.len();
        bytes.extend_from_slice(&1u32.to_le_bytes());
        bytes.extend_from_slice(&((rest / 2) as u32).to_le_bytes());
        bytes.extend_from_slice(&(stamp.seqno | u64::from(stamp.lag) << 56).to_le_bytes());
    }
    assert_eq!(scan_for_valid(context(), &bytes, 0..u64::MAX, &|_| true), Scan::Nothing);
    // And the answer is right.
    let offset = bytes.len() as u64;
    encode_into(&mut bytes, context(), offset, Stamp { seqno: 2, lag: 1 }, &[7; 5000]);
    bytes.resize(bytes.len() + len, 1);
    let scan = scan_for_valid(context(), &bytes, 0..u64::MAX, &|_| true);
    assert!(matches!(&scan, Scan::Found(at, record) if *at == offset && record.stamp.seqno == 2));
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
