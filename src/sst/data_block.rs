//! Data blocks: entries that are searched where they lie, without being decoded.
//!
//! ```text
//! bytes  field
//! 4      count of entries, at least 1
//! 2      shared_len: bytes that all user keys of the block have in common
//! 1      flags: bit 0 = offsets are u32, else u16; bit 1 = all trailers are equal, stored once
//! 1      0
//! 0 or 8 the trailer, if flags bit 1
//! count  fingerprints: one byte of the hash of each user key
//! 2|4 each, count + 1   offsets of the entries and of their end, from the first entry
//! 4 each, count         heads: the four bytes behind shared_len of each user key, as an integer
//! …      entries: varint key length, user key, trailer (8, unless flags bit 1), value
//! ```
//!
//! A point read compares fingerprints (they share a cache line or two with the header), loads one
//! offset and compares one key. A seek narrows by heads, then compares the few keys that tie. Keys
//! are whole, so that both can borrow them.
#![deny(clippy::indexing_slicing)]

use std::ops::Range;

use crate::base::coding::Decoder;
use crate::base::coding::Malformed;
use crate::base::coding::put_varint;
use crate::base::key::KeyHash;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::key::head4;
use crate::base::seqno::SeqNo;

pub(super) const HEADER_LEN: usize = 8;
const FLAG_WIDE_OFFSETS: u8 = 1;
const FLAG_ONE_TRAILER: u8 = 2;

const TOO_SHORT: Malformed = Malformed("a data block is shorter than it claims");
const BAD_ENTRY: Malformed = Malformed("an entry exceeds its data block");
const UNKNOWN_KIND: Malformed =
    Malformed("an entry is of a kind that this version of esker does not read");

/// Where the parts of one entry lie in the payload of its block.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EntrySpan {
    pub(super) key_at: usize,
    pub(super) key_end: usize,
    pub(super) value_at: usize,
    pub(super) end: usize,
    pub(super) trailer: Trailer,
}

impl EntrySpan {
    #[inline]
    pub(super) fn key_range(&self) -> Range<usize> {
        self.key_at..self.key_end
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
    offsets_at: usize,
    entries_at: usize,
    wide: bool,
    /// The one trailer of all entries, if there is one.
    pub(super) trailer: Option<Trailer>,
}

impl EntryTable {
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
        let (key_at, key_end) = match entry.first() {
            Some(len) if *len < 0x80 => (from + 1, from + 1 + usize::from(*len)),
            _ => long_key(entry, end)?,
        };
        let (trailer, value_at) = if let Some(trailer) = self.trailer {
            (trailer, key_end)
        } else {
            let bytes = payload.get(key_end..).and_then(<[u8]>::first_chunk::<8>);
            let trailer = u64::from_le_bytes(*bytes.ok_or(BAD_ENTRY)?);
            (Trailer(trailer), key_end + 8)
        };
        if value_at > end {
            return Err(BAD_ENTRY);
        }
        if !trailer.is_plain() {
            check_special(trailer, end - value_at)?;
        }
        Ok(EntrySpan { key_at, key_end, value_at, end, trailer })
    }
}

/// Where the key of an entry lies whose length takes more than a byte. The entry ends at `end`.
#[cold]
fn long_key(entry: &[u8], end: usize) -> Result<(usize, usize), Malformed> {
    let mut decoder = Decoder::new(entry);
    let len = decoder.varint32()?;
    let key_at = end - decoder.rest().len();
    Ok((key_at, key_at + len as usize))
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
    /// And all behind them.
    fingerprints: &'a [u8],
    heads: &'a [[u8; 4]],
    shared_len: usize,
}

impl<'a> DataBlock<'a> {
    #[inline]
    pub(super) fn parse(payload: &'a [u8]) -> Result<DataBlock<'a>, Malformed> {
        let (header, mut rest) = payload.split_first_chunk::<HEADER_LEN>().ok_or(TOO_SHORT)?;
        let header = u64::from_le_bytes(*header);
        let count = header as u32 as usize;
        let flags = (header >> 48) as u8;
        if count == 0 || count > rest.len() {
            return Err(Malformed("a data block has an impossible count"));
        }
        if header >> 56 != 0 || flags > FLAG_WIDE_OFFSETS | FLAG_ONE_TRAILER {
            return Err(Malformed("a data block has unknown flags"));
        }
        let mut trailer = None;
        if flags & FLAG_ONE_TRAILER != 0 {
            let (bytes, behind) = rest.split_first_chunk::<8>().ok_or(TOO_SHORT)?;
            trailer = Some(Trailer(u64::from_le_bytes(*bytes)));
            rest = behind;
        }
        let wide = flags & FLAG_WIDE_OFFSETS != 0;
        let fingerprints = rest;
        let rest = rest.get(count..).ok_or(TOO_SHORT)?;
        let offsets_at = payload.len() - rest.len();
        let offsets_len = (count + 1).saturating_mul(if wide { 4 } else { 2 });
        let rest = rest.get(offsets_len..).ok_or(TOO_SHORT)?;
        let (heads, entries) = rest.split_at_checked(count.saturating_mul(4)).ok_or(TOO_SHORT)?;
        Ok(DataBlock {
            payload,
            table: EntryTable {
                count,
                offsets_at,
                entries_at: payload.len() - entries.len(),
                wide,
                trailer,
            },
            fingerprints,
            heads: heads.as_chunks().0,
            shared_len: usize::from((header >> 32) as u16),
        })
    }

    pub(super) fn table(&self) -> EntryTable {
        self.table
    }

    #[inline]
    pub(super) fn span(&self, i: usize) -> Result<EntrySpan, Malformed> {
        self.table.span(self.payload, i)
    }

    /// The key of an entry of this block.
    #[inline]
    pub(super) fn key(&self, span: &EntrySpan) -> KeyRef<'a> {
        let user = self.payload.get(span.key_range()).unwrap_or_default();
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
        for i in self.candidates(hash) {
            let span = self.span(i)?;
            let same = self.payload.get(span.key_range()) == Some(user);
            if same && span.trailer.seqno() <= seqno {
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
        let first = self.key(&self.span(0)?).user;
        let shared = first.get(..self.shared_len).ok_or(BAD_ENTRY)?;
        let Some(suffix) = target.user.strip_prefix(shared) else {
            let before = target.user < shared;
            return Ok(if before { 0 } else { self.table.count });
        };
        let head = head4(suffix);
        let mut low = self.heads.partition_point(|other| u32::from_le_bytes(*other) < head);
        let ties = self.heads.get(low..).unwrap_or_default();
        if ties.first() != Some(&head.to_le_bytes()) {
            return Ok(low);
        }
        let mut high = low + ties.partition_point(|other| u32::from_le_bytes(*other) == head);
        while low < high {
            let middle = low.midpoint(high);
            let key = self.key(&self.span(middle)?);
            if key < target || (or_equal && key == target) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Is the redundancy of entry `i` (head, fingerprint, shared prefix) what its key says?
    pub(super) fn entry_is_consistent(&self, i: usize, user: &[u8], hash: KeyHash) -> bool {
        let first = self.span(0).map(|span| self.key(&span).user);
        let shared = first.unwrap_or_default().get(..self.shared_len);
        let suffix = shared.and_then(|shared| user.strip_prefix(shared));
        suffix.is_some_and(|suffix| self.heads.get(i) == Some(&head4(suffix).to_le_bytes()))
            && self.fingerprints.get(i) == Some(&hash.fingerprint())
    }
}

/// Collects the entries of a data block.
#[derive(Debug, Default)]
pub(super) struct DataBlockBuilder {
    /// As they will be stored. While `one_trailer` holds, without trailers.
    entries: Vec<u8>,
    starts: Vec<u32>,
    key_lens: Vec<u16>,
    fingerprints: Vec<u8>,
    trailer: Trailer,
    one_trailer: bool,
}

#[expect(clippy::indexing_slicing, reason = "the builder only reads back its own bytes")]
impl DataBlockBuilder {
    pub(super) fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Size of the payload with one more entry, a little overestimated.
    #[inline]
    pub(super) fn size_with(&self, key: &[u8], value: &[u8]) -> usize {
        let entry = key.len() + value.len() + if self.one_trailer { 3 } else { 11 };
        self.size() + entry + 7
    }

    /// Size of the payload.
    #[inline]
    pub(super) fn size(&self) -> usize {
        let offset = if is_wide(self.entries.len()) { 4 } else { 2 };
        HEADER_LEN + 8 + self.entries.len() + self.starts.len() * (5 + offset) + offset
    }

    /// Adds an entry. Requires: `key` sorts after all before it and has at most 65535 bytes, and
    /// the entries together have less than 4 GiB.
    pub(super) fn add(&mut self, key: KeyRef<'_>, hash: KeyHash, value: &[u8]) {
        if self.is_empty() {
            self.trailer = key.trailer;
            self.one_trailer = true;
        } else if self.one_trailer && self.trailer != key.trailer {
            self.store_trailers();
        }
        self.starts.push(self.entries.len() as u32);
        self.key_lens.push(key.user.len() as u16);
        self.fingerprints.push(hash.fingerprint());
        put_varint(&mut self.entries, key.user.len() as u64);
        self.entries.extend_from_slice(key.user);
        if !self.one_trailer {
            self.entries.extend_from_slice(&key.trailer.0.to_le_bytes());
        }
        self.entries.extend_from_slice(value);
    }

    /// Rewrites the entries with the trailer that they turned out not to share with the next.
    #[cold]
    fn store_trailers(&mut self) {
        let old = std::mem::take(&mut self.entries);
        self.entries.reserve(old.len() + 8 * self.starts.len() + 8);
        for i in 0..self.starts.len() {
            let start = self.starts[i] as usize;
            let end = self.starts.get(i + 1).map_or(old.len(), |n| *n as usize);
            let key_end = start + self.key_at(i) + usize::from(self.key_lens[i]);
            self.starts[i] = self.entries.len() as u32;
            self.entries.extend_from_slice(&old[start..key_end]);
            self.entries.extend_from_slice(&self.trailer.0.to_le_bytes());
            self.entries.extend_from_slice(&old[key_end..end]);
        }
        self.one_trailer = false;
    }

    /// Bytes of the length before key `i`.
    fn key_at(&self, i: usize) -> usize {
        match self.key_lens[i] {
            0..0x80 => 1,
            0x80..0x4000 => 2,
            _ => 3,
        }
    }

    fn user_key(&self, i: usize) -> &[u8] {
        let at = self.starts[i] as usize + self.key_at(i);
        &self.entries[at..at + usize::from(self.key_lens[i])]
    }

    /// Appends the payload to `out` and starts anew. Requires: not empty.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        let count = self.starts.len();
        let shared_len = shared_prefix_len(self.user_key(0), self.user_key(count - 1));
        let wide = is_wide(self.entries.len());
        out.reserve(self.size());
        out.extend_from_slice(&header_of(count, shared_len, wide, self.one_trailer));
        if self.one_trailer {
            out.extend_from_slice(&self.trailer.0.to_le_bytes());
        }
        out.extend_from_slice(&self.fingerprints);
        self.starts.push(self.entries.len() as u32);
        for start in &self.starts {
            if wide {
                out.extend_from_slice(&start.to_le_bytes());
            } else {
                out.extend_from_slice(&(*start as u16).to_le_bytes());
            }
        }
        for i in 0..count {
            let head = head4(&self.user_key(i)[shared_len..]);
            out.extend_from_slice(&head.to_le_bytes());
        }
        out.extend_from_slice(&self.entries);
        self.entries.clear();
        self.starts.clear();
        self.key_lens.clear();
        self.fingerprints.clear();
    }
}

/// Does it take four bytes to say where an entry lies among so many bytes?
pub(super) fn is_wide(entries_len: usize) -> bool {
    entries_len > usize::from(u16::MAX)
}

/// The first bytes of a block.
pub(super) fn header_of(
    count: usize,
    shared_len: usize,
    wide: bool,
    one_trailer: bool,
) -> [u8; HEADER_LEN] {
    let mut flags = 0;
    if wide {
        flags |= FLAG_WIDE_OFFSETS;
    }
    if one_trailer {
        flags |= FLAG_ONE_TRAILER;
    }
    let header = count as u64 | (shared_len as u64) << 32 | u64::from(flags) << 48;
    header.to_le_bytes()
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
            assert!(out.len() <= bound && bound <= out.len() + 8);
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
                prop_assert_eq!(block.key(&span), KeyRef::new(user, *trailer));
                prop_assert_eq!(&payload[span.value_range()], &value[..]);
                prop_assert!(block.entry_is_consistent(i, user, KeyHash::of(user)));
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
        fn any_bytes_parse_or_fail(mut bytes: Vec<u8>, count in 1u8..20, flags in 0u8..4) {
            if let Some(header) = bytes.first_chunk_mut::<8>() {
                *header = [count, 0, 0, 0, header[4] % 4, 0, flags, 0];
            }
            if let Ok(block) = DataBlock::parse(&bytes) {
                for i in 0..=block.table().count {
                    let _ = block.span(i).map(|span| block.key(&span).user.len());
                }
                let key = bytes.get(9..12).unwrap_or_default();
                let _ = block.find(key, KeyHash::of(key), SeqNo::MAX);
                let _ = block.rank(KeyRef::before_all(key), true);
            }
        }
    }
}
