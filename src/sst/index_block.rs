//! Index partitions: for a run of data blocks, where each begins and which keys it may hold.
//!
//! ```text
//! bytes  field
//! 4      count of data blocks, at least 1
//! 2      shared_len: bytes that all separators have in common
//! 1      flags: bit 0 = key offsets are u32, else u16
//! 1      0
//! 8      base: where the first data block begins in the file
//! 8 each, count         heads: the eight bytes behind shared_len of each separator, as an integer
//! 4 each, count + 1     where each block begins, and the last one ends, from base; with trailers
//! 1 per 8 blocks        bit i: block i continues the versions of a key that block i - 1 ends with
//! 2|4 each, count + 1   offsets of the separators and of their end
//! …                     separators
//! ```
//!
//! The separator of a block is the shortest prefix of its first user key that sorts after the last
//! user key of the block before; that whole key if the block continues it; the whole first key in
//! the first block of a file.
#![deny(clippy::indexing_slicing)]

use crate::base::coding::Malformed;
use crate::base::key::head8;
use crate::base::key::shared_prefix_len;
use crate::base::prefetch::prefetch_at;
use crate::sst::block::BlockHandle;
use crate::sst::block::TRAILER_LEN;
use crate::sst::samples::Part;

const HEADER_LEN: usize = 16;
const FLAG_WIDE_OFFSETS: u8 = 1;

const BAD_COUNT: Malformed = Malformed("an index block has another count than the top index says");
const TOO_SHORT: Malformed = Malformed("an index block is shorter than it claims");
const BAD_KEY: Malformed = Malformed("a separator exceeds its index block");

/// The payload of an index partition, its header read.
#[derive(Clone, Copy, Debug)]
pub(super) struct IndexBlock<'a> {
    base: u64,
    shared_len: usize,
    heads: &'a [[u8; 8]],
    ends: &'a [[u8; 4]],
    continues: &'a [u8],
    key_offsets: &'a [u8],
    wide: bool,
    keys: &'a [u8],
}

impl<'a> IndexBlock<'a> {
    #[inline]
    pub(super) fn parse(payload: &'a [u8]) -> Result<IndexBlock<'a>, Malformed> {
        let (header, rest) = payload.split_first_chunk::<8>().ok_or(TOO_SHORT)?;
        let (base, rest) = rest.split_first_chunk::<8>().ok_or(TOO_SHORT)?;
        let header = u64::from_le_bytes(*header);
        let count = header as u32 as usize;
        let flags = (header >> 48) as u8;
        if count == 0 || count > rest.len() {
            return Err(Malformed("an index block has an impossible count"));
        }
        if header >> 56 != 0 || flags > FLAG_WIDE_OFFSETS {
            return Err(Malformed("an index block has unknown flags"));
        }
        let wide = flags & FLAG_WIDE_OFFSETS != 0;
        let split = |bytes: &'a [u8], len: usize| bytes.split_at_checked(len).ok_or(TOO_SHORT);
        let (heads, rest) = split(rest, count.saturating_mul(8))?;
        let (ends, rest) = split(rest, (count + 1).saturating_mul(4))?;
        let (continues, rest) = split(rest, count.div_ceil(8))?;
        let (key_offsets, keys) =
            split(rest, (count + 1).saturating_mul(if wide { 4 } else { 2 }))?;
        Ok(IndexBlock {
            base: u64::from_le_bytes(*base),
            shared_len: usize::from((header >> 32) as u16),
            heads: heads.as_chunks().0,
            ends: ends.as_chunks().0,
            continues,
            key_offsets,
            wide,
            keys,
        })
    }

    /// Asks for what a search in `part` of `payload`, an index of `count` blocks, will read.
    #[inline]
    pub(super) fn prefetch(payload: &[u8], count: usize, part: Part) {
        let start = payload.as_ptr();
        let heads = start.wrapping_add(HEADER_LEN);
        // One of each more: of the block behind, and where the last one ends.
        prefetch_at(start, 1);
        prefetch_at(heads.wrapping_add(8 * part.start), 8 * (part.len + 1));
        prefetch_at(heads.wrapping_add(8 * count + 4 * part.start), 4 * (part.len + 1));
    }

    pub(super) fn len(&self) -> usize {
        self.heads.len()
    }

    /// Bytes that all separators have in common.
    pub(super) fn shared_len(&self) -> usize {
        self.shared_len
    }

    /// The eight bytes behind these of the separator of block `i`.
    pub(super) fn head(&self, i: usize) -> Option<u64> {
        self.heads.get(i).map(|head| u64::from_le_bytes(*head))
    }

    /// Are there as many blocks as the top index says?
    #[inline]
    pub(super) fn check_len(&self, blocks: usize) -> Result<(), Malformed> {
        if self.len() == blocks { Ok(()) } else { Err(BAD_COUNT) }
    }

    #[inline]
    pub(super) fn separator(&self, i: usize) -> Result<&'a [u8], Malformed> {
        let (from, to) = if self.wide {
            let pair = self.key_offsets.get(4 * i..);
            let pair = pair.and_then(<[u8]>::first_chunk::<8>).ok_or(TOO_SHORT)?;
            let n = u64::from_le_bytes(*pair);
            (n as u32 as usize, (n >> 32) as usize)
        } else {
            let pair = self.key_offsets.get(2 * i..);
            let pair = pair.and_then(<[u8]>::first_chunk::<4>).ok_or(TOO_SHORT)?;
            let n = u32::from_le_bytes(*pair);
            (n as u16 as usize, (n >> 16) as usize)
        };
        self.keys.get(from..to).ok_or(BAD_KEY)
    }

    /// Does block `i` begin with the user key that block `i - 1` ends with?
    #[inline]
    pub(super) fn continues(&self, i: usize) -> bool {
        let byte = self.continues.get(i / 8).copied().unwrap_or_default();
        byte >> (i % 8) & 1 == 1
    }

    /// Does block `i` begin with versions of `user` that block `i - 1` has the newer ones of?
    #[inline]
    pub(super) fn continues_key(&self, i: usize, user: &[u8]) -> Result<bool, Malformed> {
        Ok(self.continues(i) && self.separator(i)? == user)
    }

    /// Is the redundancy of separator `i` (head, shared prefix) what it says?
    pub(super) fn entry_is_consistent(&self, i: usize) -> bool {
        let shared = self.separator(0).ok().and_then(|first| first.get(..self.shared_len));
        let suffix = shared.and_then(|shared| self.separator(i).ok()?.strip_prefix(shared));
        suffix.is_some_and(|suffix| self.heads.get(i) == Some(&head8(suffix).to_le_bytes()))
    }

    /// Where block `i` lies.
    #[inline]
    pub(super) fn block(&self, i: usize) -> Result<BlockHandle, Malformed> {
        let bounds = self.ends.get(i..).and_then(<[_]>::first_chunk::<2>);
        let [from, to] = *bounds.ok_or(TOO_SHORT)?;
        let (from, to) = (u32::from_le_bytes(from), u32::from_le_bytes(to));
        let len = to
            .checked_sub(from)
            .and_then(|stored| stored.checked_sub(TRAILER_LEN as u32))
            .ok_or(Malformed("an index block has a block of negative length"))?;
        Ok(BlockHandle { offset: self.base.saturating_add(u64::from(from)), len })
    }

    /// The first block that may hold a version of `user`; block 0 if `user` sorts before all.
    #[inline]
    pub(super) fn find(&self, user: &[u8]) -> Result<usize, Malformed> {
        let shared = self.separator(0)?.get(..self.shared_len).ok_or(BAD_KEY)?;
        let rank = match user.strip_prefix(shared) {
            Some(suffix) => {
                self.rank_in(Part { start: 0, len: self.len(), head: head8(suffix) }, user)?
            }
            None if user < shared => 0,
            None => self.len(),
        };
        self.begin_of_run(rank, user)
    }

    /// The same, given the part that the search ends in.
    #[inline]
    pub(super) fn find_in(&self, part: Part, user: &[u8]) -> Result<usize, Malformed> {
        self.begin_of_run(self.rank_in(part, user)?, user)
    }

    /// The block that versions of `user` begin in, if `rank` separators are at most `user`.
    #[inline]
    fn begin_of_run(&self, rank: usize, user: &[u8]) -> Result<usize, Malformed> {
        let mut i = rank.saturating_sub(1);
        while i > 0 && self.continues_key(i, user)? {
            i -= 1;
        }
        Ok(i)
    }

    /// How many separators are at most `user`, by the heads of a part.
    #[inline]
    fn rank_in(&self, Part { start, len, head }: Part, user: &[u8]) -> Result<usize, Malformed> {
        let heads = self.heads.get(start..).unwrap_or_default();
        let heads = heads.get(..len).unwrap_or(heads);
        let low = start + heads.partition_point(|other| u64::from_le_bytes(*other) < head);
        if self.heads.get(low) != Some(&head.to_le_bytes()) {
            return Ok(low);
        }
        self.rank_among_ties(low, head, user)
    }

    /// As `rank_in`, where the heads tie from `low` on.
    #[inline(never)]
    fn rank_among_ties(&self, mut low: usize, head: u64, user: &[u8]) -> Result<usize, Malformed> {
        let ties = self.heads.get(low..).unwrap_or_default();
        let mut high = low + ties.partition_point(|other| u64::from_le_bytes(*other) == head);
        while low < high {
            let middle = low.midpoint(high);
            if self.separator(middle)? <= user {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

/// Collects the data blocks of an index partition.
#[derive(Debug, Default)]
pub(super) struct IndexBuilder {
    base: u64,
    ends: Vec<u32>,
    continues: Vec<u8>,
    keys: Vec<u8>,
    key_ends: Vec<u32>,
}

#[expect(clippy::indexing_slicing, reason = "the builder only reads back its own bytes")]
impl IndexBuilder {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of data blocks covered.
    pub(super) fn covered(&self) -> u64 {
        u64::from(self.ends.last().copied().unwrap_or_default())
    }

    /// Size of the payload, about.
    pub(super) fn size(&self) -> usize {
        HEADER_LEN + 17 * self.len() + self.keys.len()
    }

    /// Separator of the first block, and whether that block continues the key before.
    pub(super) fn first(&self) -> (&[u8], bool) {
        (self.key(0), self.continues[0] & 1 == 1)
    }

    /// Adds a block. Requires: it begins where the last one ended, and together they have less
    /// than 4 GiB.
    pub(super) fn add(&mut self, handle: BlockHandle, separator: &[u8], continues: bool) {
        let i = self.len();
        if i == 0 {
            self.base = handle.offset;
        }
        if i.is_multiple_of(8) {
            self.continues.push(0);
        }
        self.continues[i / 8] |= u8::from(continues) << (i % 8);
        self.ends.push((handle.end() - self.base) as u32);
        self.keys.extend_from_slice(separator);
        self.key_ends.push(self.keys.len() as u32);
    }

    fn key(&self, i: usize) -> &[u8] {
        let from = if i == 0 { 0 } else { self.key_ends[i - 1] };
        &self.keys[from as usize..self.key_ends[i] as usize]
    }

    /// Appends the payload to `out` and starts anew. Requires: not empty.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        let count = self.len();
        let shared_len = shared_prefix_len(self.key(0), self.key(count - 1));
        let wide = self.keys.len() > usize::from(u16::MAX);
        out.extend_from_slice(&(count as u32).to_le_bytes());
        out.extend_from_slice(&(shared_len as u16).to_le_bytes());
        out.extend_from_slice(&[if wide { FLAG_WIDE_OFFSETS } else { 0 }, 0]);
        out.extend_from_slice(&self.base.to_le_bytes());
        for i in 0..count {
            out.extend_from_slice(&head8(&self.key(i)[shared_len..]).to_le_bytes());
        }
        for end in [0].iter().chain(&self.ends) {
            out.extend_from_slice(&end.to_le_bytes());
        }
        out.extend_from_slice(&self.continues);
        for end in [0].iter().chain(&self.key_ends) {
            if wide {
                out.extend_from_slice(&end.to_le_bytes());
            } else {
                out.extend_from_slice(&(*end as u16).to_le_bytes());
            }
        }
        out.extend_from_slice(&self.keys);
        self.ends.clear();
        self.continues.clear();
        self.keys.clear();
        self.key_ends.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sst::samples::PARTS;
    use crate::sst::samples::Samples;

    fn build(separators: &[(Vec<u8>, bool)], base: u64) -> Vec<u8> {
        let mut builder = IndexBuilder::default();
        let mut offset = base;
        for (i, (separator, continues)) in separators.iter().enumerate() {
            let handle = BlockHandle { offset, len: 100 + i as u32 };
            builder.add(handle, separator, *continues);
            offset = handle.end();
        }
        let mut out = Vec::new();
        builder.finish(&mut out);
        out
    }

    fn separators() -> impl Strategy<Value = Vec<(Vec<u8>, bool)>> {
        let key = prop_oneof![
            proptest::collection::vec(0u8..3, 0..5),
            proptest::collection::vec(0u8..2, 0..12).prop_map(|tail| {
                let mut key = b"prefix".to_vec();
                key.extend_from_slice(&tail);
                key
            }),
            Just(vec![1; 40_000]),
        ];
        proptest::collection::btree_map(key, 1usize..4, 1..60).prop_map(|keys| {
            let mut all = Vec::new();
            for (key, times) in keys {
                for n in 0..times {
                    all.push((key.clone(), n > 0 && !all.is_empty()));
                }
            }
            all
        })
    }

    proptest! {
        #[test]
        fn find_returns_the_first_block_that_may_hold_the_key(
            separators in separators(),
            probe in proptest::collection::vec(0u8..3, 0..6),
        ) {
            let payload = build(&separators, 1000);
            let index = IndexBlock::parse(&payload).unwrap();
            prop_assert_eq!(index.len(), separators.len());
            let mut offset = 1000;
            for (i, (separator, continues)) in separators.iter().enumerate() {
                prop_assert_eq!(index.separator(i).unwrap(), &separator[..]);
                prop_assert_eq!(index.continues(i), *continues);
                let handle = index.block(i).unwrap();
                prop_assert_eq!((handle.offset, handle.len), (offset, 100 + i as u32));
                offset = handle.end();
            }
            let mut probes: Vec<Vec<u8>> = separators.iter().map(|s| s.0.clone()).collect();
            probes.extend([probe, b"pre".to_vec(), b"prefix".to_vec(), b"q".to_vec()]);
            let (samples, first) = (Samples::new(1), index.separator(0).unwrap());
            prop_assert!(samples.part(0, index.len(), first, first).is_none());
            samples.note(0, &index, first);
            for user in probes {
                let last = separators.iter().rposition(|(separator, continues)| {
                    *separator < user || (*separator == user && !continues)
                });
                // A run that continues from the block before begins there.
                let run = separators.iter().position(|(s, c)| *s == user && *c);
                let wanted = run.map_or(last, |run| Some(run.saturating_sub(1)));
                prop_assert_eq!(index.find(&user).unwrap(), wanted.unwrap_or(0));
                let part = samples.part(0, index.len(), first, &user);
                let shared = first.get(..index.shared_len()).unwrap();
                prop_assert_eq!(part.is_some(), user.starts_with(shared));
                if let Some(part) = part {
                    prop_assert!(part.start + part.len <= index.len() + PARTS);
                    prop_assert_eq!(index.find_in(part, &user).unwrap(), wanted.unwrap_or(0));
                }
            }
        }

        #[test]
        fn samples_of_another_first_block_are_not_noted(separators in separators()) {
            let payload = build(&separators, 1000);
            let (samples, index) = (Samples::new(1), IndexBlock::parse(&payload).unwrap());
            samples.note(0, &index, b"another");
            prop_assert!(samples.part(0, index.len(), b"another", b"another").is_none());
        }

        #[test]
        fn any_bytes_parse_or_fail(mut bytes: Vec<u8>, count in 1u8..5, flags in 0u8..2) {
            if let Some(header) = bytes.first_chunk_mut::<8>() {
                *header = [count, 0, 0, 0, header[4] % 4, 0, flags, 0];
            }
            if let Ok(index) = IndexBlock::parse(&bytes) {
                for i in 0..=index.len() {
                    let _ = (index.separator(i), index.continues(i), index.block(i));
                }
                let user = bytes.get(9..12).unwrap_or_default();
                let _ = index.find(user);
                let (samples, first) = (Samples::new(1), index.separator(0).unwrap_or_default());
                samples.note(0, &index, first);
                if let Some(part) = samples.part(0, index.len(), first, user) {
                    let _ = index.find_in(part, user);
                }
            }
        }
    }
}
