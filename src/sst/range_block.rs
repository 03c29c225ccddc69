//! Range tombstones of a file, in one block that is read when the file is opened.
//!
//! ```text
//! block     := varint count, at least 1 | fragment*     ascending; none overlaps another
//! fragment  := bytes first key | bytes end | varint numbers, at least 1
//!              | varint newest seqno | varint difference to the next older one…
//! ```
//!
//! Bytes stand behind their length, a varint. The end is the first key that is not covered; empty, in
//! the last fragment only, it stands for the end of all keys.
#![deny(clippy::indexing_slicing)]

use std::path::Path;

use crate::base::coding::Decoder;
use crate::base::coding::Malformed;
use crate::base::coding::put_bytes;
use crate::base::coding::put_varint;
use crate::base::error::Result;
use crate::base::key::KEY_LEN_MAX;
use crate::base::range_tombstone::Fragment;
use crate::base::range_tombstone::Fragments;
use crate::base::range_tombstone::end_of;
use crate::base::range_tombstone::is_behind;
use crate::base::range_tombstone::stored_end;
use crate::base::seqno::SeqNo;
use crate::fs::ReadableFile;
use crate::sst::block::BlockKind;
use crate::sst::footer::Footer;
use crate::sst::load::fetch;
use crate::sst::reader::SstReader;
use crate::sst::reader::damaged;

impl SstReader {
    /// Its range tombstones.
    pub(crate) fn ranges(&self) -> &Fragments {
        &self.ranges
    }

    /// Is every entry, range tombstones aside, older than `seqno`?
    pub(super) fn is_older_than(&self, seqno: SeqNo) -> bool {
        self.properties().max_seqno < seqno
    }
}

/// Appends the payload to `out`. Requires: at least one fragment.
pub(super) fn encode(ranges: &Fragments, out: &mut Vec<u8>) {
    put_varint(out, ranges.list().len() as u64);
    for fragment in ranges.list() {
        put_bytes(out, &fragment.from);
        put_bytes(out, stored_end(fragment.to()));
        put_varint(out, fragment.seqnos.len() as u64);
        let mut above: Option<SeqNo> = None;
        for seqno in &fragment.seqnos {
            put_varint(out, above.map_or(seqno.get(), |above| above.get() - seqno.get()));
            above = Some(*seqno);
        }
    }
}

/// The range tombstones of the file with this footer, which must end by `end`.
pub(super) fn read(
    file: &dyn ReadableFile,
    path: &Path,
    footer: &Footer,
    end: u64,
) -> Result<Fragments> {
    let handle = footer.ranges;
    if handle.is_none() {
        return Ok(Fragments::default());
    }
    let payload = fetch(file, path, footer.uid, handle, BlockKind::Ranges, end)?;
    decode(&payload).map_err(|error| damaged(path, handle.offset, error))
}

fn decode(payload: &[u8]) -> Result<Fragments, Malformed> {
    let mut from = Decoder::new(payload);
    let count = from.varint()?;
    let mut ranges = Fragments::default();
    let mut end: Option<Vec<u8>> = Some(Vec::new());
    for _ in 0..count {
        let fragment = fragment(&mut from)?;
        if end.as_ref().is_none_or(|end| fragment.from < *end) {
            return Err(Malformed("range tombstones overlap or are out of order"));
        }
        end.clone_from(&fragment.to);
        ranges.push(fragment);
    }
    if ranges.is_empty() || !from.is_empty() {
        return Err(Malformed("a block of range tombstones has an impossible length"));
    }
    Ok(ranges)
}

fn fragment(from: &mut Decoder<'_>) -> Result<Fragment, Malformed> {
    let (first, end) = (from.bytes()?, end_of(from.bytes()?));
    if first.len().max(end.map_or(0, <[u8]>::len)) > KEY_LEN_MAX {
        return Err(Malformed("a key of a range tombstone exceeds the limit"));
    }
    if !is_behind(end, first) {
        return Err(Malformed("a range tombstone ends before it begins"));
    }
    let mut seqnos = Vec::new();
    let count = from.varint()?;
    let mut above: Option<u64> = None;
    for _ in 0..count {
        let n = from.varint()?;
        let seqno = above.map_or(Some(n), |above| above.checked_sub(n));
        let is_possible = |seqno: &u64| {
            (1..=SeqNo::STORED_MAX.get()).contains(seqno)
                && above.is_none_or(|above| *seqno < above)
        };
        let seqno = seqno.filter(is_possible);
        let seqno = seqno.ok_or(Malformed("a range tombstone has an impossible seqno"))?;
        seqnos.push(SeqNo::new(seqno));
        above = Some(seqno);
    }
    if seqnos.is_empty() {
        return Err(Malformed("a range tombstone has no seqno"));
    }
    Ok(Fragment { from: first.to_vec(), to: end.map(<[u8]>::to_vec), seqnos })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece() -> impl Strategy<Value = (Vec<u8>, Option<Vec<u8>>, u64)> {
        let key = || prop::collection::vec(0..4_u8, 0..4);
        (key(), prop::option::of(key()), 1..50_u64)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn range_tombstones_round_trip(pieces in prop::collection::vec(piece(), 1..12)) {
            let pieces = pieces.iter();
            let ranges = Fragments::cut(pieces.map(|(from, to, n)| {
                (from.as_slice(), to.as_deref(), SeqNo::new(*n))
            }));
            let mut payload = Vec::new();
            encode(&ranges, &mut payload);
            if ranges.is_empty() {
                prop_assert!(decode(&payload).is_err());
            } else {
                prop_assert_eq!(decode(&payload), Ok(ranges));
                for len in 0..payload.len() {
                    prop_assert!(decode(payload.get(..len).unwrap_or_default()).is_err());
                }
            }
        }

        #[test]
        fn any_bytes_decode_or_fail(bytes: Vec<u8>) {
            if let Ok(ranges) = decode(&bytes) {
                let again = Fragments::union(std::iter::once(&ranges));
                prop_assert_eq!(again, ranges);
            }
        }
    }

    /// First key, end, and numbers as they are stored.
    type Stored = (&'static [u8], &'static [u8], &'static [u64]);

    fn block(fragments: &[Stored]) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, fragments.len() as u64);
        for (from, to, seqnos) in fragments {
            put_bytes(&mut out, from);
            put_bytes(&mut out, to);
            put_varint(&mut out, seqnos.len() as u64);
            seqnos.iter().for_each(|n| put_varint(&mut out, *n));
        }
        out
    }

    #[test]
    fn damaged_range_tombstones_are_errors() {
        let cases: [(&[Stored], &str); 8] = [
            (&[], "impossible length"),
            (&[(b"b", b"a", &[1])], "ends before it begins"),
            (&[(b"a", b"a", &[1])], "ends before it begins"),
            (&[(b"a", b"c", &[1]), (b"b", b"d", &[1])], "overlap"),
            (&[(b"a", b"", &[1]), (b"b", b"d", &[1])], "overlap"),
            (&[(b"a", b"b", &[])], "no seqno"),
            (&[(b"a", b"b", &[5, 0])], "impossible seqno"),
            (&[(b"a", b"b", &[5, 5])], "impossible seqno"),
        ];
        for (fragments, what) in cases {
            let refused = decode(&block(fragments)).unwrap_err();
            assert!(refused.0.contains(what), "{fragments:?}: {refused:?}");
        }
        assert!(decode(&block(&[(b"a", b"b", &[9, 2]), (b"b", b"", &[9, 1])])).is_ok());
    }
}
