//! The top index: one entry per index partition, decoded into arrays when the file is opened.
//!
//! ```text
//! varint count of partitions, then for each:
//! varint length, separator     of its first data block
//! u8     1 if that block continues the versions of the key before, else 0
//! varint offset, varint len    index partition
//! varint offset, varint len    filter partition; 0, 0 if there is none
//! varint count of its data blocks, at least 1
//! ```
#![deny(clippy::indexing_slicing)]

use crate::base::coding::Decoder;
use crate::base::coding::Malformed;
use crate::base::coding::put_bytes;
use crate::base::coding::put_varint;
use crate::base::key::head16;
use crate::base::key::is_less;
use crate::base::key::shared_prefix_len;
use crate::sst::block::BlockHandle;
use crate::sst::block::TRAILER_LEN;

/// An index partition and its filter.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Partition {
    pub(super) index: BlockHandle,
    pub(super) filter: BlockHandle,
    /// How many data blocks come before those of this partition.
    pub(super) first_block: usize,
    pub(super) blocks: usize,
    /// Does its first block continue the key that the partition before ends with?
    pub(super) continues: bool,
}

/// Appends the entry of a partition to the payload, behind the count.
pub(super) fn encode_partition(partition: &Partition, separator: &[u8], out: &mut Vec<u8>) {
    put_bytes(out, separator);
    out.push(u8::from(partition.continues));
    partition.index.encode(out);
    partition.filter.encode(out);
    put_varint(out, partition.blocks as u64);
}

/// All partitions of a file, in memory.
#[derive(Debug)]
pub(super) struct TopIndex {
    partitions: Box<[Partition]>,
    /// The 16 bytes behind `shared` of each separator.
    heads: Box<[u128]>,
    /// What all separators have in common.
    shared: Box<[u8]>,
    separators: Box<[u8]>,
    separator_ends: Box<[usize]>,
    blocks: usize,
}

impl TopIndex {
    /// Reads the payload. Data blocks lie before `data_end`, partitions before `meta_end`.
    pub(super) fn decode(payload: &[u8], meta_end: u64) -> Result<TopIndex, Malformed> {
        let mut from = Decoder::new(payload);
        let count = from.varint()?;
        // A partition takes seven bytes at least, so this bounds what is allocated.
        if count > payload.len() as u64 / 7 {
            return Err(Malformed("the top index has an impossible count"));
        }
        let mut partitions = Vec::with_capacity(count as usize);
        let mut separators = Vec::new();
        let mut separator_ends = Vec::with_capacity(count as usize);
        let mut last: Option<&[u8]> = None;
        let mut blocks = 0u64;
        for _ in 0..count {
            let separator = from.bytes()?;
            let continues = match from.u8()? {
                0 => false,
                1 if last == Some(separator) || last.is_some_and(|last| last < separator) => true,
                _ => return Err(Malformed("the top index has unknown flags")),
            };
            if last.is_some_and(|last| last > separator || (last == separator && !continues)) {
                return Err(Malformed("the top index is out of order"));
            }
            last = Some(separator);
            let partition = Partition {
                index: BlockHandle::decode(&mut from)?,
                filter: BlockHandle::decode(&mut from)?,
                first_block: blocks as usize,
                blocks: from.varint32()? as usize,
                continues,
            };
            let in_file = |handle: BlockHandle| handle.is_none() || handle.end() <= meta_end;
            if partition.index.is_none() || !in_file(partition.index) || !in_file(partition.filter)
            {
                return Err(Malformed("a partition lies outside of the file"));
            }
            blocks += partition.blocks as u64;
            if partition.blocks == 0 || blocks > meta_end / TRAILER_LEN as u64 {
                return Err(Malformed("a partition has an impossible number of blocks"));
            }
            separators.extend_from_slice(separator);
            separator_ends.push(separators.len());
            partitions.push(partition);
        }
        if !from.is_empty() {
            return Err(Malformed("the top index is longer than it claims"));
        }
        let mut top = TopIndex {
            partitions: partitions.into(),
            heads: Box::default(),
            shared: Box::default(),
            separators: separators.into(),
            separator_ends: separator_ends.into(),
            blocks: blocks as usize,
        };
        top.build_heads();
        Ok(top)
    }

    fn build_heads(&mut self) {
        let Some(last) = self.len().checked_sub(1) else {
            return;
        };
        let shared_len = shared_prefix_len(self.separator(0), self.separator(last));
        let head = |i| head16(self.separator(i).get(shared_len..).unwrap_or_default());
        self.heads = (0..self.len()).map(head).collect();
        self.shared = self.separator(0).iter().take(shared_len).copied().collect();
    }

    pub(super) fn len(&self) -> usize {
        self.partitions.len()
    }

    /// Data blocks of the file.
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Where the first partition lies: behind all data blocks.
    pub(super) fn data_end(&self) -> u64 {
        let handles = self.partitions.iter().flat_map(|p| [p.index, p.filter]);
        let offsets = handles.filter(|handle| !handle.is_none()).map(|handle| handle.offset);
        offsets.min().unwrap_or(0)
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        size_of_val::<[_]>(&self.partitions)
            + size_of_val::<[_]>(&self.heads)
            + size_of_val::<[_]>(&self.separator_ends)
            + self.separators.len()
            + self.shared.len()
    }

    #[inline]
    pub(super) fn partition(&self, p: usize) -> Option<&Partition> {
        self.partitions.get(p)
    }

    /// The separator of the first block of partition `p`.
    pub(super) fn separator(&self, p: usize) -> &[u8] {
        let from = p.checked_sub(1).and_then(|p| self.separator_ends.get(p));
        let from = from.copied().unwrap_or(0);
        let to = self.separator_ends.get(p).copied().unwrap_or(0);
        self.separators.get(from..to).unwrap_or_default()
    }

    /// Does partition `p` begin with versions of `user` that the one before has the newer ones of?
    #[inline]
    pub(super) fn continues_key(&self, p: usize, user: &[u8]) -> bool {
        let continues = self.partitions.get(p).is_some_and(|p| p.continues);
        continues && self.separator(p) == user
    }

    /// The first partition that may hold a version of `user`, or none if `user` sorts before all.
    #[inline]
    pub(super) fn find(&self, user: &[u8]) -> Option<usize> {
        let mut p = self.rank(user).checked_sub(1)?;
        while p > 0 && self.continues_key(p, user) {
            p -= 1;
        }
        Some(p)
    }

    /// How many separators are at most `user`.
    #[inline]
    fn rank(&self, user: &[u8]) -> usize {
        let Some(suffix) = user.strip_prefix(&*self.shared) else {
            return if *user < *self.shared { 0 } else { self.len() };
        };
        let head = head16(suffix);
        let low = self.heads.partition_point(|other| is_less(*other, head));
        if self.heads.get(low) != Some(&head) {
            return low;
        }
        self.rank_among_ties(low, head, user)
    }

    /// As `rank`, where the heads tie from `low` on.
    #[inline(never)]
    fn rank_among_ties(&self, mut low: usize, head: u128, user: &[u8]) -> usize {
        let ties = self.heads.get(low..).unwrap_or_default();
        let mut high = low + ties.partition_point(|other| *other == head);
        while low < high {
            let middle = low.midpoint(high);
            if self.separator(middle) <= user {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;

    fn top(separators: &[(&[u8], bool)]) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, separators.len() as u64);
        for (separator, continues) in separators {
            let partition = Partition {
                index: BlockHandle { offset: 500, len: 20 },
                blocks: 2,
                continues: *continues,
                ..Partition::default()
            };
            encode_partition(&partition, separator, &mut out);
        }
        out
    }

    #[test]
    fn find_returns_the_first_partition_that_may_hold_the_key() {
        let long = b"a long prefix that all of them share, and more: ";
        let key = |tail: &str| [&long[..], tail.as_bytes()].concat();
        let (b, d) = (key("b"), key("d"));
        let payload = top(&[(&b, false), (&d, false), (&d, true), (&d, true)]);
        let top = TopIndex::decode(&payload, 10_000).unwrap();
        assert_eq!(top.find(b""), None);
        assert_eq!(top.find(&key("")), None);
        assert_eq!(top.find(&b), Some(0));
        assert_eq!(top.find(&key("c")), Some(0));
        assert_eq!(top.find(&d), Some(1));
        assert_eq!(top.find(&key("dd")), Some(3));
        assert_eq!(top.find(b"b"), Some(3));
        assert_eq!(top.partition(3).unwrap().first_block, 6);
        assert_eq!(top.blocks(), 8);
    }

    #[test]
    fn an_empty_file_has_no_partition() {
        let top = TopIndex::decode(&top(&[]), 100).unwrap();
        assert_eq!(top.find(b""), None);
        assert_eq!(top.find(b"x"), None);
        assert_eq!(top.len(), 0);
    }

    #[test]
    fn damage_is_an_error() {
        let good = top(&[(b"b", false), (b"d", false)]);
        assert!(TopIndex::decode(&good, 10_000).is_ok());
        assert!(TopIndex::decode(&good, 529).is_err());
        for len in 0..good.len() {
            assert!(TopIndex::decode(&good[..len], 10_000).is_err());
        }
        let unsorted = top(&[(b"d", false), (b"b", false)]);
        assert!(TopIndex::decode(&unsorted, 10_000).is_err());
        let twice = top(&[(b"d", false), (b"d", false)]);
        assert!(TopIndex::decode(&twice, 10_000).is_err());
        let first_continues = top(&[(b"d", true)]);
        assert!(TopIndex::decode(&first_continues, 10_000).is_err());
    }
}
