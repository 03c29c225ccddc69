//! Data blocks: entries that are searched where they lie, without being decoded.
//!
//! ```text
//! bytes  field
//! 4      count of entries, at least 1
//! 2      shared_len: bytes that all user keys of the block have in common
//! 1      flags: bit 0 = offsets are u32, else u16; bits 1 and 2, a number: 0 = trailers take no
//!        bytes in the entries, 1 = four, 2 = eight; bit 3, without bit 0 = suffixes are equally
//!        long, and so are values
//! 1      layout: 2. 0 and 1, which had whole keys or whole trailers in the entries, are retired
//! 8      the least trailer
//! shared_len            the prefix: those bytes
//! count  fingerprints: one byte of the hash of each user key
//! 2|4 each, count + 1   offsets of the entries and of their end, from the first entry; if all are
//!        equally long instead: 4, the length of an entry; 2, the length of a suffix
//! 4 each, count         heads: the first four bytes of each suffix, as an integer; 0 where it ends
//! …      entries: varint suffix length unless all are equally long, the suffix without its first
//!        four bytes, trailer less the least one (0, 4 or 8), value
//! ```
//!
//! A user key is the prefix and a suffix. A point read compares the prefix and fingerprints (they
//! share a cache line or two with the header), then a head, and loads one offset, if there are any, and one entry. A
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
const FLAG_UNIFORM: u8 = 8;
/// Bytes of the two lengths that all entries have.
pub(super) const UNIFORM_LEN: usize = 6;
const LAYOUT: u8 = 2;
/// So much of a suffix is its head.
pub(super) const HEAD_LEN: usize = 4;
/// With whole keys the entries of a block of several may be so many times as long as a block may be:
/// whoever loads it from its folded form hashes whole keys.
pub(super) const WHOLE_MAX: usize = 4;

const TOO_SHORT: Malformed = Malformed("a data block is shorter than it claims");
const BAD_ENTRY: Malformed = Malformed("an entry exceeds its data block");
const UNKNOWN_FLAGS: Malformed = Malformed("a data block has unknown flags");
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

    #[inline]
    pub(super) fn value_range(&self) -> Range<usize> {
        self.value_at..self.end
    }
}

/// How a block tells where its entries lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Places {
    /// Offsets of two bytes.
    #[default]
    Short,
    /// And of four.
    Wide,
    /// All suffixes are equally long, and all values.
    Uniform(Uniform),
}

/// The lengths of each entry and of each suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Uniform {
    entry_len: u32,
    suffix_len: u16,
}

impl Uniform {
    pub(super) fn encode(self) -> [u8; UNIFORM_LEN] {
        let both = u64::from(self.entry_len) | u64::from(self.suffix_len) << 32;
        both.to_le_bytes().first_chunk().copied().unwrap_or_default()
    }

    #[inline]
    fn decode(bytes: [u8; UNIFORM_LEN]) -> Uniform {
        let mut both = [0; 8];
        both.split_at_mut(UNIFORM_LEN).0.copy_from_slice(&bytes);
        let both = u64::from_le_bytes(both);
        Uniform { entry_len: both as u32, suffix_len: (both >> 32) as u16 }
    }
}

impl Places {
    /// For entries whose suffixes and values are so long, and whose trailers take so many bytes.
    /// Tells how long the entries are together, too. Requires: there is one; suffixes and entries
    /// have less than 2^16 and 2^32 bytes.
    pub(super) fn of(
        trailer_len: usize,
        mut lens: impl Iterator<Item = (usize, usize)>,
    ) -> (Places, usize) {
        let first = lens.next().unwrap_or_default();
        let bare = |(suffix_len, value_len)| bare_len(suffix_len, trailer_len, value_len);
        let mut is_uniform = true;
        let (mut bare_sum, mut varints) = (bare(first), varint_len(first.0));
        for each in lens {
            is_uniform &= each == first;
            bare_sum += bare(each);
            varints += varint_len(each.0);
        }
        if is_uniform {
            let uniform = Uniform { entry_len: bare(first) as u32, suffix_len: first.0 as u16 };
            return (Places::Uniform(uniform), bare_sum);
        }
        let len = bare_sum + varints;
        (if is_wide(len) { Places::Wide } else { Places::Short }, len)
    }

    /// Bytes of an offset; 0 if there are none.
    #[inline]
    pub(super) fn width(self) -> usize {
        match self {
            Places::Short => 2,
            Places::Wide => 4,
            Places::Uniform(_) => 0,
        }
    }

    /// Bytes in front of the heads of `count` entries.
    #[inline]
    pub(super) fn len(self, count: usize) -> usize {
        match self {
            Places::Uniform(_) => UNIFORM_LEN,
            _ => (count + 1).saturating_mul(self.width()),
        }
    }

    /// Does each entry tell the length of its suffix?
    pub(super) fn has_varints(self) -> bool {
        !matches!(self, Places::Uniform(_))
    }

    fn flags(self) -> u8 {
        match self {
            Places::Short => 0,
            Places::Wide => FLAG_WIDE_OFFSETS,
            Places::Uniform(_) => FLAG_UNIFORM,
        }
    }

    /// By the flags of a block, and what it has behind the fingerprints.
    #[inline]
    fn decode(flags: u8, bytes: &[u8]) -> Result<Places, Malformed> {
        match flags & (FLAG_WIDE_OFFSETS | FLAG_UNIFORM) {
            0 => Ok(Places::Short),
            FLAG_WIDE_OFFSETS => Ok(Places::Wide),
            FLAG_UNIFORM => {
                let bytes = bytes.first_chunk().ok_or(TOO_SHORT)?;
                Ok(Places::Uniform(Uniform::decode(*bytes)))
            }
            _ => Err(UNKNOWN_FLAGS),
        }
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
    places: Places,
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
        let (from, to) = match self.places {
            Places::Uniform(Uniform { entry_len, .. }) => {
                (entry_len as usize * i, entry_len as usize * (i + 1))
            }
            Places::Short => {
                let at = self.offsets_at + 2 * i;
                let pair = payload.get(at..).and_then(<[u8]>::first_chunk::<4>);
                let n = u32::from_le_bytes(*pair.ok_or(TOO_SHORT)?);
                (n as u16 as usize, (n >> 16) as usize)
            }
            Places::Wide => {
                let at = self.offsets_at + 4 * i;
                let pair = payload.get(at..).and_then(<[u8]>::first_chunk::<8>);
                let n = u64::from_le_bytes(*pair.ok_or(TOO_SHORT)?);
                (n as u32 as usize, (n >> 32) as usize)
            }
        };
        Ok(self.entries_at + from..self.entries_at + to)
    }

    /// Entry `i` of the block with this payload.
    #[inline]
    pub(super) fn span(&self, payload: &[u8], i: usize) -> Result<EntrySpan, Malformed> {
        let Range { start: from, end } = self.bounds(payload, i)?;
        let entry = payload.get(from..end).ok_or(BAD_ENTRY)?;
        let (suffix_len, rest_at) = match (self.places, entry.first()) {
            (Places::Uniform(uniform), _) => (usize::from(uniform.suffix_len), from),
            (_, Some(len)) if *len < 0x80 => (usize::from(*len), from + 1),
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
        let trailer_len = 4 * usize::from((flags & !FLAG_UNIFORM) >> 1);
        if trailer_len > 8 {
            return Err(UNKNOWN_FLAGS);
        }
        let shared_len = usize::from((header >> 32) as u16);
        if count > 1 && count.saturating_mul(shared_len) > WHOLE_MAX * BLOCK_BYTES_MAX {
            return Err(Malformed("the keys of a data block are longer than a block may hold"));
        }
        let (prefix, fingerprints) = rest.split_at_checked(shared_len).ok_or(TOO_SHORT)?;
        let rest = fingerprints.get(count..).ok_or(TOO_SHORT)?;
        let offsets_at = payload.len() - rest.len();
        let places = Places::decode(flags, rest)?;
        let rest = rest.get(places.len(count)..).ok_or(TOO_SHORT)?;
        let (heads, entries) = rest.split_at_checked(count.saturating_mul(4)).ok_or(TOO_SHORT)?;
        if let Places::Uniform(Uniform { entry_len, .. }) = places
            && count.saturating_mul(entry_len as usize) != entries.len()
        {
            return Err(Malformed("a data block is not as long as its entries"));
        }
        Ok(DataBlock {
            payload,
            table: EntryTable {
                count,
                shared_len,
                offsets_at,
                heads_at: payload.len() - rest.len(),
                entries_at: payload.len() - entries.len(),
                places,
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
        // Offsets, or what is in their place, and the head of one entry fill up the last word.
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

/// Length of an entry, but for the varint, whose suffix and value have these lengths, and whose
/// trailer takes so many bytes.
#[inline]
fn bare_len(suffix_len: usize, trailer_len: usize, value_len: usize) -> usize {
    suffix_len.saturating_sub(HEAD_LEN) + trailer_len + value_len
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
    places: Places,
    least: Trailer,
    trailer_len: usize,
) -> [u8; HEADER_LEN] {
    let flags = places.flags() | (trailer_len as u8 / 4) << 1;
    let header =
        count as u64 | (shared_len as u64) << 32 | u64::from(flags) << 48 | u64::from(LAYOUT) << 56;
    (u128::from(header) | u128::from(least.0) << 64).to_le_bytes()
}

#[cfg(test)]
pub(super) mod tests;
