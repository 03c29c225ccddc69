//! Data blocks: entries that are searched where they lie, without being decoded.
//!
//! ```text
//! bytes  field
//! 4      count of entries, at least 1
//! 2      shared_len: bytes that all user keys of the block have in common
//! 1      flags: bit 0 = offsets are u32, else u16; bits 1 and 2, a number: 0 = trailers take no
//!        bytes in the entries, 1 = four, 2 = eight
//! 1      layout: 2. 0 and 1, which had whole keys or whole trailers in the entries, are retired
//! 8      the least trailer
//! shared_len            the prefix: those bytes
//! count  fingerprints: one byte of the hash of each user key
//! 2|4 each, count + 1   offsets of the entries and of their end, from the first entry
//! 4 each, count         heads: the first four bytes of each suffix, as an integer; 0 where it ends
//! …      entries: varint suffix length, the suffix without its first four bytes,
//!        trailer less the least one (0, 4 or 8), value
//! ```
//!
//! A user key is the prefix and a suffix. A point read compares the prefix and fingerprints (they
//! share a cache line or two with the header), then a head, and loads one offset and one entry. A
//! seek narrows by heads, then compares the few keys that tie. A cursor has the prefix in its buffer
//! and puts one suffix after the other behind it.
#![deny(clippy::indexing_slicing)]

use std::cmp::Ordering;
use std::ops::Range;

use crate::base::coding::Decoder;
use crate::base::coding::Malformed;
use crate::base::key::KeyHash;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::key::head4;
use crate::base::options::BLOCK_BYTES_MAX;
use crate::base::seqno::SeqNo;

pub(super) const HEADER_LEN: usize = 16;
const FLAG_WIDE_OFFSETS: u8 = 1;
const LAYOUT: u8 = 2;
/// So much of a suffix is its head.
pub(super) const HEAD_LEN: usize = 4;
/// With whole keys the entries of a block of several may be so many times as long as a block may be:
/// whoever loads it from its folded form hashes whole keys.
pub(super) const WHOLE_MAX: usize = 4;

const TOO_SHORT: Malformed = Malformed("a data block is shorter than it claims");
const BAD_ENTRY: Malformed = Malformed("an entry exceeds its data block");
const UNKNOWN_KIND: Malformed =
    Malformed("an entry is of a kind that this version of esker does not read");

/// Where the parts of one entry lie in the payload of its block.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EntrySpan {
    head: u32,
    suffix_len: usize,
    /// Where the suffix goes on behind the head.
    rest_at: usize,
    pub(super) value_at: usize,
    pub(super) end: usize,
    pub(super) trailer: Trailer,
}

impl EntrySpan {
    /// Appends the suffix to `user`, given the payload.
    #[inline]
    fn push_suffix(&self, payload: &[u8], user: &mut Vec<u8>) {
        user.extend_from_slice(&self.head.to_be_bytes());
        match self.suffix_len.checked_sub(HEAD_LEN) {
            Some(len) => {
                let rest = payload.get(self.rest_at..self.rest_at + len);
                user.extend_from_slice(rest.unwrap_or_default());
            }
            None => user.truncate(user.len() - HEAD_LEN + self.suffix_len),
        }
    }

    pub(super) fn suffix_len(&self) -> usize {
        self.suffix_len
    }

    #[inline]
    pub(super) fn value_range(&self) -> Range<usize> {
        self.value_at..self.end
    }
}

/// What is needed to find the entries of a block by number. Borrows nothing, so that an iterator
/// can keep it beside the bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EntryTable {
    pub(super) count: usize,
    shared_len: usize,
    offsets_at: usize,
    heads_at: usize,
    entries_at: usize,
    wide: bool,
    least: Trailer,
    /// Bytes that a trailer takes in its entry.
    trailer_len: usize,
}

impl EntryTable {
    /// What all user keys of the block with this payload begin with.
    #[inline]
    fn prefix<'a>(&self, payload: &'a [u8]) -> &'a [u8] {
        payload.get(HEADER_LEN..HEADER_LEN + self.shared_len).unwrap_or_default()
    }

    /// Makes `user` the prefix of the block with this payload, for [`EntryTable::put_key`].
    pub(super) fn begin_keys(&self, payload: &[u8], user: &mut Vec<u8>) {
        user.clear();
        user.extend_from_slice(self.prefix(payload));
    }

    /// Puts the user key of an entry together in `user`, which has had the prefix since
    /// [`EntryTable::begin_keys`], and may have the suffix of another entry.
    #[inline]
    pub(super) fn put_key(&self, payload: &[u8], span: &EntrySpan, user: &mut Vec<u8>) {
        user.truncate(self.shared_len);
        span.push_suffix(payload, user);
    }

    /// Where entry `i` of the block with this payload lies.
    #[inline]
    fn bounds(&self, payload: &[u8], i: usize) -> Result<Range<usize>, Malformed> {
        let (from, to) = if self.wide {
            let at = self.offsets_at + 4 * i;
            let pair = payload.get(at..).and_then(<[u8]>::first_chunk::<8>);
            let n = u64::from_le_bytes(*pair.ok_or(TOO_SHORT)?);
            (n as u32 as usize, (n >> 32) as usize)
        } else {
            let at = self.offsets_at + 2 * i;
            let pair = payload.get(at..).and_then(<[u8]>::first_chunk::<4>);
            let n = u32::from_le_bytes(*pair.ok_or(TOO_SHORT)?);
            (n as u16 as usize, (n >> 16) as usize)
        };
        Ok(self.entries_at + from..self.entries_at + to)
    }

    /// Entry `i` of the block with this payload.
    #[inline]
    pub(super) fn span(&self, payload: &[u8], i: usize) -> Result<EntrySpan, Malformed> {
        let Range { start: from, end } = self.bounds(payload, i)?;
        let entry = payload.get(from..end).ok_or(BAD_ENTRY)?;
        let (suffix_len, rest_at) = match entry.first() {
            Some(len) if *len < 0x80 => (usize::from(*len), from + 1),
            _ => long_suffix(entry, end)?,
        };
        let rest_end = rest_at + suffix_len.saturating_sub(HEAD_LEN);
        let value_at = rest_end + self.trailer_len;
        let beyond = payload.get(rest_end..value_at).ok_or(BAD_ENTRY)?;
        let beyond = if let Some(bytes) = beyond.first_chunk::<8>() {
            u64::from_le_bytes(*bytes)
        } else {
            beyond.first_chunk().map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)))
        };
        let trailer = Trailer(self.least.0.wrapping_add(beyond));
        let head = payload.get(self.heads_at + HEAD_LEN * i..).and_then(<[u8]>::first_chunk);
        let head = u32::from_le_bytes(*head.ok_or(TOO_SHORT)?);
        if value_at > end {
            return Err(BAD_ENTRY);
        }
        if !trailer.is_plain() {
            check_special(trailer, end - value_at)?;
        }
        Ok(EntrySpan { head, suffix_len, rest_at, value_at, end, trailer })
    }
}

/// How long the suffix of an entry is if that takes more than a byte, and where the next one is. The
/// entry ends at `end`.
#[cold]
fn long_suffix(entry: &[u8], end: usize) -> Result<(usize, usize), Malformed> {
    let mut decoder = Decoder::new(entry);
    let len = decoder.varint32()?;
    Ok((len as usize, end - decoder.rest().len()))
}

/// Can there be an entry with this trailer, which is neither a put nor a tombstone, and such a value?
#[inline(never)]
pub(super) fn check_special(trailer: Trailer, value_len: usize) -> Result<(), Malformed> {
    if !trailer.is_readable() {
        return Err(UNKNOWN_KIND);
    }
    if trailer.admits(value_len) { Ok(()) } else { Err(BAD_ENTRY) }
}

/// The payload of a data block, its header read.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataBlock<'a> {
    payload: &'a [u8],
    table: EntryTable,
    /// What all user keys begin with.
    pub(super) prefix: &'a [u8],
    /// And all behind them.
    fingerprints: &'a [u8],
    heads: &'a [[u8; 4]],
}

impl<'a> DataBlock<'a> {
    #[inline]
    pub(super) fn parse(payload: &'a [u8]) -> Result<DataBlock<'a>, Malformed> {
        let (header, rest) = payload.split_first_chunk::<HEADER_LEN>().ok_or(TOO_SHORT)?;
        let header = u128::from_le_bytes(*header);
        let (header, least) = (header as u64, Trailer((header >> 64) as u64));
        let count = header as u32 as usize;
        let flags = (header >> 48) as u8;
        if count == 0 || count > rest.len() {
            return Err(Malformed("a data block has an impossible count"));
        }
        if (header >> 56) as u8 != LAYOUT {
            return Err(Malformed("a data block has a layout that is unknown or retired"));
        }
        let trailer_len = 4 * usize::from(flags >> 1);
        if trailer_len > 8 {
            return Err(Malformed("a data block has unknown flags"));
        }
        let wide = flags & FLAG_WIDE_OFFSETS != 0;
        let shared_len = usize::from((header >> 32) as u16);
        if count > 1 && count.saturating_mul(shared_len) > WHOLE_MAX * BLOCK_BYTES_MAX {
            return Err(Malformed("the keys of a data block are longer than a block may hold"));
        }
        let (prefix, fingerprints) = rest.split_at_checked(shared_len).ok_or(TOO_SHORT)?;
        let rest = fingerprints.get(count..).ok_or(TOO_SHORT)?;
        let offsets_at = payload.len() - rest.len();
        let offsets_len = (count + 1).saturating_mul(if wide { 4 } else { 2 });
        let rest = rest.get(offsets_len..).ok_or(TOO_SHORT)?;
        let (heads, entries) = rest.split_at_checked(count.saturating_mul(4)).ok_or(TOO_SHORT)?;
        Ok(DataBlock {
            payload,
            table: EntryTable {
                count,
                shared_len,
                offsets_at,
                heads_at: payload.len() - rest.len(),
                entries_at: payload.len() - entries.len(),
                wide,
                least,
                trailer_len,
            },
            prefix,
            fingerprints,
            heads: heads.as_chunks().0,
        })
    }

    pub(super) fn table(&self) -> EntryTable {
        self.table
    }

    #[inline]
    pub(super) fn span(&self, i: usize) -> Result<EntrySpan, Malformed> {
        self.table.span(self.payload, i)
    }

    /// What the suffix of an entry of this block has behind its head.
    #[inline]
    fn rest(&self, span: &EntrySpan) -> &'a [u8] {
        let len = span.suffix_len.saturating_sub(HEAD_LEN);
        self.payload.get(span.rest_at..span.rest_at + len).unwrap_or_default()
    }

    /// The key of an entry of this block, put together in `user`.
    pub(super) fn key<'k>(&self, span: &EntrySpan, user: &'k mut Vec<u8>) -> KeyRef<'k> {
        self.table.begin_keys(self.payload, user);
        self.table.put_key(self.payload, span, user);
        KeyRef::new(user, span.trailer)
    }

    /// The newest version of `user` that a reader at `seqno` may see, if it is in this block.
    #[inline]
    pub(super) fn find(
        &self,
        user: &[u8],
        hash: KeyHash,
        seqno: SeqNo,
    ) -> Result<Option<EntrySpan>, Malformed> {
        let Some(wanted) = user.strip_prefix(self.prefix) else { return Ok(None) };
        let (head, rest) = (head4(wanted).to_le_bytes(), rest_of(wanted));
        for i in self.candidates(hash) {
            if self.heads.get(i) != Some(&head) {
                continue;
            }
            let span = self.span(i)?;
            let ends_alike = rest.is_empty() || self.rest(&span) == rest;
            if ends_alike && span.suffix_len == wanted.len() && span.trailer.seqno() <= seqno {
                return Ok(Some(span));
            }
        }
        Ok(None)
    }

    /// The entries whose fingerprint is that of `hash`.
    #[inline]
    fn candidates(&self, hash: KeyHash) -> impl Iterator<Item = usize> {
        const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
        let wanted = hash.fingerprint();
        let pattern = u64::from(wanted) * 0x0101_0101_0101_0101;
        let (count, mut end, mut hits) = (self.table.count, 0, 0_u64);
        // Offsets and heads of one entry fill up the last word.
        let mut words = self.fingerprints.as_chunks::<8>().0.iter();
        std::iter::from_fn(move || {
            while hits == 0 {
                if end >= count {
                    return None;
                }
                let diff = u64::from_le_bytes(*words.next()?) ^ pattern;
                // The top bit of every byte of `diff` that is zero.
                hits = !(((diff & LOW) + LOW) | diff | LOW);
                end += 8;
            }
            let i = end - 8 + hits.trailing_zeros() as usize / 8;
            hits &= hits - 1;
            // What is behind the fingerprints matches by chance only.
            (i < count).then_some(i)
        })
    }

    /// The bytes of the first entry whose fingerprint is that of `hash`.
    #[inline]
    pub(super) fn first_candidate(&self, hash: KeyHash) -> Option<&'a [u8]> {
        let i = self.candidates(hash).next()?;
        self.payload.get(self.table.bounds(self.payload, i).ok()?)
    }

    /// How many entries come before `target`; with `or_equal` counting one that is `target`.
    #[inline]
    pub(super) fn rank(&self, target: KeyRef<'_>, or_equal: bool) -> Result<usize, Malformed> {
        let Some(suffix) = target.user.strip_prefix(self.prefix) else {
            let before = target.user < self.prefix;
            return Ok(if before { 0 } else { self.table.count });
        };
        let head = head4(suffix);
        let mut low = self.heads.partition_point(|other| u32::from_le_bytes(*other) < head);
        let ties = self.heads.get(low..).unwrap_or_default();
        if ties.first() != Some(&head.to_le_bytes()) {
            return Ok(low);
        }
        let mut high = low + ties.partition_point(|other| u32::from_le_bytes(*other) == head);
        let rest = rest_of(suffix);
        while low < high {
            let middle = low.midpoint(high);
            let span = self.span(middle)?;
            // Of suffixes with one head that both end in it, or one of them, the longer is greater.
            let order = self.rest(&span).cmp(rest).then(span.suffix_len.cmp(&suffix.len()));
            let order = order.then(target.trailer.cmp(&span.trailer));
            if order == Ordering::Less || (or_equal && order == Ordering::Equal) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Is the redundancy of entry `i` (its fingerprint, and zeros in its head) what its key says?
    pub(super) fn entry_is_consistent(&self, i: usize, span: &EntrySpan, hash: KeyHash) -> bool {
        let len = span.suffix_len.min(HEAD_LEN) as u32;
        let beyond = span.head.checked_shl(8 * len).unwrap_or(0);
        beyond == 0 && self.fingerprints.get(i) == Some(&hash.fingerprint())
    }
}

/// What a suffix has behind its head.
#[inline]
pub(super) fn rest_of(suffix: &[u8]) -> &[u8] {
    suffix.get(HEAD_LEN..).unwrap_or_default()
}

/// Length of an entry whose suffix and value have these lengths, and whose trailer takes so many
/// bytes.
#[inline]
pub(super) fn entry_len(suffix_len: usize, trailer_len: usize, value_len: usize) -> usize {
    varint_len(suffix_len) + suffix_len.saturating_sub(HEAD_LEN) + trailer_len + value_len
}

/// Bytes of a varint that is less than 2^21.
pub(super) fn varint_len(n: usize) -> usize {
    match n {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        _ => 3,
    }
}

/// Does it take four bytes to say where an entry lies among so many bytes?
pub(super) fn is_wide(entries_len: usize) -> bool {
    entries_len > usize::from(u16::MAX)
}

/// Bytes that trailers take in the entries of a block, given the least and the greatest.
#[inline]
pub(super) fn trailer_len(least: Trailer, greatest: Trailer) -> usize {
    match greatest.0 - least.0 {
        0 => 0,
        1..=0xffff_ffff => 4,
        _ => 8,
    }
}

/// The first bytes of a block.
pub(super) fn header_of(
    count: usize,
    shared_len: usize,
    wide: bool,
    least: Trailer,
    trailer_len: usize,
) -> [u8; HEADER_LEN] {
    let flags = if wide { FLAG_WIDE_OFFSETS } else { 0 } | (trailer_len as u8 / 4) << 1;
    let header =
        count as u64 | (shared_len as u64) << 32 | u64::from(flags) << 48 | u64::from(LAYOUT) << 56;
    (u128::from(header) | u128::from(least.0) << 64).to_le_bytes()
}

/// How many bytes `a` and `b` share at the start.
pub(super) fn shared_prefix_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::value::ValueKind;
    use crate::sst::data_block_builder::DataBlockBuilder;

    pub(in crate::sst) type Entry = (Vec<u8>, Trailer, Vec<u8>);

    pub(in crate::sst) fn build(entries: &[Entry]) -> Vec<u8> {
        let mut builder = DataBlockBuilder::default();
        // Twice, to see that nothing is left over from the block before.
        let mut payloads = [(); 2].map(|()| {
            let mut out = Vec::new();
            for (user, trailer, value) in entries {
                builder.add(KeyRef::new(user, *trailer), KeyHash::of(user), value);
            }
            let bound = builder.size();
            builder.finish(&mut out);
            // Where one entry more decides between short and long offsets, two for each.
            let at_most = out.len() + 8 + (2 + HEAD_LEN + 2) * (entries.len() + 1);
            assert!(out.len() <= bound && bound <= at_most);
            assert!(builder.is_empty());
            out
        });
        assert_eq!(payloads[0], payloads[1]);
        std::mem::take(&mut payloads[0])
    }

    pub(in crate::sst) fn entries_in_order() -> impl Strategy<Value = Vec<Entry>> {
        let key = prop_oneof![
            proptest::collection::vec(0u8..3, 0..6),
            proptest::collection::vec(any::<u8>(), 0..4).prop_map(|tail| {
                let mut key = b"shared prefix ".to_vec();
                key.extend_from_slice(&tail);
                key
            }),
            proptest::collection::vec(any::<u8>(), 0..300),
        ];
        let seqno = prop_oneof![Just(0u64), 0u64..20, any::<u64>()];
        let value = prop_oneof![
            9 => proptest::collection::vec(any::<u8>(), 0..40),
            1 => Just(vec![7; 40_000]),
        ];
        proptest::collection::vec((key, seqno, any::<bool>(), value), 1..40).prop_map(|raw| {
            let mut entries: Vec<Entry> = raw
                .into_iter()
                .map(|(key, seqno, put, value)| {
                    let kind = if put { ValueKind::Put } else { ValueKind::Delete };
                    (key, Trailer::new(SeqNo::new(seqno), kind), value)
                })
                .collect();
            entries.sort_by(|a, b| KeyRef::new(&a.0, a.1).cmp(&KeyRef::new(&b.0, b.1)));
            entries.dedup_by(|a, b| a.0 == b.0 && a.1 == b.1);
            entries
        })
    }

    proptest! {
        #[test]
        fn entries_are_found_where_the_model_has_them(entries in entries_in_order(), probe: Vec<u8>) {
            let payload = build(&entries);
            let block = DataBlock::parse(&payload).unwrap();
            prop_assert_eq!(block.table().count, entries.len());
            for (i, (user, trailer, value)) in entries.iter().enumerate() {
                let span = block.span(i).unwrap();
                let mut whole = Vec::new();
                prop_assert_eq!(block.key(&span, &mut whole), KeyRef::new(user, *trailer));
                prop_assert_eq!(&payload[span.value_range()], &value[..]);
                prop_assert!(block.entry_is_consistent(i, &span, KeyHash::of(user)));
            }
            let mut probes: Vec<Vec<u8>> = entries.iter().map(|entry| entry.0.clone()).collect();
            probes.push(probe);
            probes.push(b"shared".to_vec());
            probes.push(b"shared prefix".to_vec());
            probes.push(b"shared prefix \xff\xff\xff\xff\xff".to_vec());
            for user in &probes {
                for seqno in [0, 1, 10, 19, u64::MAX] {
                    let seqno = SeqNo::new(seqno);
                    let found = block.find(user, KeyHash::of(user), seqno).unwrap();
                    let wanted = entries
                        .iter()
                        .find(|entry| entry.0 == *user && entry.1.seqno() <= seqno);
                    prop_assert_eq!(
                        found.map(|span| (span.trailer, payload[span.value_range()].to_vec())),
                        wanted.map(|entry| (entry.1, entry.2.clone()))
                    );
                    let target = KeyRef::seek(user, seqno);
                    let before = entries.iter().filter(|e| KeyRef::new(&e.0, e.1) < target).count();
                    prop_assert_eq!(block.rank(target, false).unwrap(), before);
                }
                let own = entries.iter().filter(|entry| entry.0 == *user);
                for trailer in own.map(|entry| entry.1) {
                    let target = KeyRef::new(user, trailer);
                    let upto = entries.iter().filter(|e| KeyRef::new(&e.0, e.1) <= target).count();
                    prop_assert_eq!(block.rank(target, true).unwrap(), upto);
                    prop_assert_eq!(block.rank(target, false).unwrap(), upto - 1);
                }
            }
        }

        #[test]
        fn any_bytes_parse_or_fail(mut bytes: Vec<u8>, count in 1u8..20, flags in 0u8..6) {
            if let Some(header) = bytes.first_chunk_mut::<8>() {
                *header = [count, 0, 0, 0, header[4] % 4, 0, flags, LAYOUT];
            }
            if let Ok(block) = DataBlock::parse(&bytes) {
                for i in 0..=block.table().count {
                    let _ = block.span(i).map(|span| block.key(&span, &mut Vec::new()).user.len());
                }
                let key = bytes.get(9..12).unwrap_or_default();
                let _ = block.find(key, KeyHash::of(key), SeqNo::MAX);
                let _ = block.rank(KeyRef::before_all(key), true);
            }
        }
    }

    #[test]
    fn what_all_keys_share_is_stored_once() {
        let put = |user: &[u8]| (user.to_vec(), Trailer::new(SeqNo::ZERO, ValueKind::Put), vec![]);
        let payload = build(&[put(b"user:0017"), put(b"user:00175"), put(b"user:00234")]);
        let prefix = b"user:00";
        assert_eq!(payload.windows(4).filter(|window| *window == b"user").count(), 1);
        let block = DataBlock::parse(&payload).unwrap();
        assert_eq!(block.prefix, prefix);
        assert_eq!(block.table().prefix(&payload), prefix);
        // Lengths of suffixes that are in the heads.
        assert_eq!(payload.get(payload.len() - 3..), Some(&[2, 3, 3][..]));
    }

    #[test]
    fn retired_layouts_are_refused() {
        let put = Trailer::new(SeqNo::ZERO, ValueKind::Put);
        let mut payload = build(&[(b"a".to_vec(), put, b"1".to_vec())]);
        assert!(DataBlock::parse(&payload).is_ok());
        for layout in [0, 1] {
            payload[7] = layout;
            assert!(DataBlock::parse(&payload).unwrap_err().0.contains("retired"));
        }
    }

    #[test]
    fn a_block_whose_whole_keys_no_block_may_hold_is_refused() {
        let parse = |count: u32, shared_len: u16| {
            let header = u64::from(count) | u64::from(shared_len) << 32 | u64::from(LAYOUT) << 56;
            let mut payload = header.to_le_bytes().to_vec();
            payload.resize(16 << 20, 0);
            DataBlock::parse(&payload).map(|block| block.table().count)
        };
        assert_eq!(parse(1024, u16::MAX), Ok(1024));
        assert!(parse(1026, u16::MAX).is_err());
        assert_eq!(parse(1, u16::MAX), Ok(1));
    }
}
