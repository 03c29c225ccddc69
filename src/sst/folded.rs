//! Folded data blocks: what is compressed in place of a block.
//!
//! Much of a data block can be computed from the rest: fingerprints from the keys, offsets from the
//! lengths, and most of a key from the key before. What cannot is put in columns, so that like lies
//! next to like, and compressed with lz4; a reader unfolds it to the very same block.
//!
//! ```text
//! bytes  field
//! varint count of entries, at least 1
//! 1      flags: bit 0 all kinds are equal; bit 1 all user keys have one length; bit 2 all values
//! varint the smallest seqno
//! 1      width: bits that any seqno has beyond the smallest, at most 56
//! varint the length of each user key, if flags bit 1
//! varint the length of each value, if flags bit 2
//! 1 or count            kinds; one if they are equal
//! width bits each       seqnos less the smallest, from the lowest bit up, padded to whole bytes
//! varint each, count    bytes that a user key shares with the one before
//! varint each, count    further bytes of the user key, unless flags bit 1
//! varint each, count    bytes of the value, unless flags bit 2
//! …      the further bytes of the user keys
//! …      the values
//! ```
#![deny(clippy::indexing_slicing)]

use std::cell::Cell;

use crate::base::coding::Decoder;
use crate::base::coding::Malformed;
use crate::base::compression::decompress_lz4;
use crate::base::key::KEY_LEN_MAX;
use crate::base::key::KeyHash;
use crate::base::key::Trailer;
use crate::base::key::head4;
use crate::base::key::shared_prefix_len;
use crate::base::options::BLOCK_BYTES_MAX;
use crate::base::seqno::SeqNo;
use crate::cache::Block;
use crate::sst::data_block::HEAD_LEN;
use crate::sst::data_block::HEADER_LEN;
use crate::sst::data_block::Places;
use crate::sst::data_block::WHOLE_MAX;
use crate::sst::data_block::check_special;
use crate::sst::data_block::header_of;
use crate::sst::data_block::rest_of;
use crate::sst::data_block::trailer_len;
use crate::sst::data_block::varint_len;

/// What the keys of a block may share in all beside what all share: the largest block that the
/// options allow, and a key. Bounds what a few stored bytes can unfold to.
const SHARED_MAX: usize = BLOCK_BYTES_MAX + KEY_LEN_MAX;
/// The same with what all share, for each of them: whole keys are hashed.
const SHARED_WHOLE_MAX: usize = WHOLE_MAX * BLOCK_BYTES_MAX + KEY_LEN_MAX;
/// Entries of such a block: each takes five bytes at least.
const COUNT_MAX: usize = BLOCK_BYTES_MAX / 5;
const WIDTH_MAX: u8 = 56;
/// Memory of an [`Unpacker`] beyond this is not kept for the next block.
const KEPT_BYTES_MAX: usize = 256 << 10;

const TOO_MUCH: Malformed = Malformed("a folded block unfolds to more than a block may hold");
const SHARES_MORE: Malformed = Malformed("a folded key shares more than it says");

pub(super) const FLAG_ONE_KIND: u8 = 1;
pub(super) const FLAG_ONE_KEY_LEN: u8 = 2;
pub(super) const FLAG_ONE_VALUE_LEN: u8 = 4;

/// Memory for unpacking blocks, to be used again.
#[derive(Debug, Default)]
struct Unpacker {
    raw: Vec<u8>,
    lens: Vec<Lens>,
    key: Vec<u8>,
}

thread_local! {
    static UNPACKER: Cell<Unpacker> = Cell::default();
}

/// Undoes [`Packer::pack`](crate::sst::packer::Packer).
pub(crate) fn unpack(stored: &[u8]) -> Result<Block, Malformed> {
    with_unpacker(|unpacker| {
        let folded = decompress_lz4(stored, &mut unpacker.raw)?;
        unfold(folded, &mut unpacker.lens, &mut unpacker.key)
    })
}

/// The newest version of `user` that a reader at `seqno` may see in the block that was packed to
/// `stored`, with its value, without building that block.
pub(super) fn find(
    stored: &[u8],
    user: &[u8],
    seqno: SeqNo,
) -> Result<Option<(Trailer, Block)>, Malformed> {
    with_unpacker(|unpacker| {
        let folded = decompress_lz4(stored, &mut unpacker.raw)?;
        let found = Folded::parse(folded, &mut unpacker.lens)?.find(user, seqno)?;
        Ok(found.map(|(trailer, value)| (trailer, Block::from(value))))
    })
}

fn with_unpacker<T>(use_it: impl FnOnce(&mut Unpacker) -> T) -> T {
    // A thread that ends has none any more.
    let mut unpacker = UNPACKER.try_with(Cell::take).unwrap_or_default();
    let result = use_it(&mut unpacker);
    let Unpacker { raw, lens, key } = &unpacker;
    let kept = raw.capacity() + size_of::<Lens>() * lens.capacity() + key.capacity();
    if kept <= KEPT_BYTES_MAX {
        let _ = UNPACKER.try_with(|kept| kept.set(unpacker));
    }
    result
}

/// Lengths of one entry.
#[derive(Clone, Copy, Debug, Default)]
struct Lens {
    shared: u32,
    rest: u32,
    value: u32,
}

impl Lens {
    fn shared(self) -> usize {
        self.shared as usize
    }

    fn rest(self) -> usize {
        self.rest as usize
    }

    fn key(self) -> usize {
        self.shared() + self.rest()
    }

    fn value(self) -> usize {
        self.value as usize
    }
}

/// A folded block, cut into its columns. Every length was checked.
struct Folded<'a> {
    lens: &'a [Lens],
    /// Bytes that all user keys share.
    prefix_len: usize,
    smallest: u64,
    width: u8,
    kinds: &'a [u8],
    seqnos: &'a [u8],
    keys: &'a [u8],
    values: &'a [u8],
}

impl<'a> Folded<'a> {
    fn parse(bytes: &'a [u8], lens: &'a mut Vec<Lens>) -> Result<Folded<'a>, Malformed> {
        let mut from = Decoder::new(bytes);
        let count = from.varint32()? as usize;
        // An entry takes a byte at least, so this bounds what is allocated.
        if count == 0 || count > from.rest().len().min(COUNT_MAX) {
            return Err(Malformed("a folded block has an impossible count"));
        }
        let flags = from.u8()?;
        if flags > FLAG_ONE_KIND | FLAG_ONE_KEY_LEN | FLAG_ONE_VALUE_LEN {
            return Err(Malformed("a folded block has unknown flags"));
        }
        let (smallest, width) = (from.varint()?, from.u8()?);
        if smallest > SeqNo::MAX.get() || width > WIDTH_MAX {
            return Err(Malformed("a folded block has impossible seqnos"));
        }
        let mut len_of_all = |flag| {
            if flags & flag == 0 { Ok(None) } else { from.varint32().map(Some) }
        };
        let key_len = len_of_all(FLAG_ONE_KEY_LEN)?;
        let value_len = len_of_all(FLAG_ONE_VALUE_LEN)?;
        let kinds = from.take(if flags & FLAG_ONE_KIND == 0 { count } else { 1 })?;
        let seqnos = from.take((count * usize::from(width)).div_ceil(8))?;
        let value = value_len.unwrap_or(0);
        lens.clear();
        lens.resize(count, Lens { shared: 0, rest: 0, value });
        for lens in &mut *lens {
            lens.shared = from.varint32()?;
        }
        match key_len {
            Some(len) => lens.iter_mut().for_each(|l| l.rest = len.saturating_sub(l.shared)),
            None => {
                for lens in &mut *lens {
                    lens.rest = from.varint32()?;
                }
            }
        }
        if value_len.is_none() {
            for lens in &mut *lens {
                lens.value = from.varint32()?;
            }
        }
        let (rest_len, prefix_len) = measure_keys(lens.iter().map(|l| (l.shared(), l.key())))?;
        let keys = from.take(rest_len)?;
        let values = from.rest();
        if lens.iter().map(|lens| u64::from(lens.value)).sum::<u64>() != values.len() as u64 {
            return Err(Malformed("a folded block has another length than it claims"));
        }
        Ok(Folded { lens, prefix_len, smallest, width, kinds, seqnos, keys, values })
    }

    /// The least trailer, and the bytes that trailers take in the entries of the block.
    fn trailers(&self) -> (Trailer, usize) {
        if self.width == 0 && self.kinds.len() == 1 {
            return (self.trailer(0), 0);
        }
        let all = || (0..self.lens.len()).map(|i| self.trailer(i).0);
        let (least, greatest) = (all().min().unwrap_or(0), all().max().unwrap_or(0));
        (Trailer(least), trailer_len(Trailer(least), Trailer(greatest)))
    }

    /// The trailer of entry `i`.
    #[inline]
    fn trailer(&self, i: usize) -> Trailer {
        let at = i * usize::from(self.width);
        let rest = self.seqnos.get(at / 8..).unwrap_or_default();
        let word = if let Some(word) = rest.first_chunk::<8>() {
            u64::from_le_bytes(*word)
        } else {
            rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
        };
        // At most 7 bits in front, and 56 of the number.
        let beyond = (word >> (at % 8)) & ((1 << self.width) - 1);
        let kind = self.kinds.get(i).or(self.kinds.first()).copied().unwrap_or_default();
        Trailer((self.smallest + beyond) << 8 | u64::from(kind))
    }

    /// As [`find`]. A key is compared from where the one before stopped being like `user`: what it
    /// shares with that tells, mostly, that it is still too small, or too large already.
    fn find(&self, user: &[u8], seqno: SeqNo) -> Result<Option<(Trailer, &'a [u8])>, Malformed> {
        let (mut keys, mut value_at, mut matched) = (self.keys, 0, 0);
        for (i, lens) in self.lens.iter().enumerate() {
            let (rest, more) = keys.split_at_checked(lens.rest()).unwrap_or_default();
            keys = more;
            if lens.shared() < matched {
                // Else the key before did not say where this one differs.
                let differs = rest.first() != user.get(lens.shared());
                return if differs { Ok(None) } else { Err(SHARES_MORE) };
            }
            if lens.shared() == matched {
                let wanted = user.get(matched..).unwrap_or_default();
                let same = shared_prefix_len(rest, wanted);
                matched += same;
                match (rest.get(same), wanted.get(same)) {
                    (Some(byte), Some(wanted)) if byte > wanted => break,
                    (Some(_), None) => break,
                    (None, None) if self.trailer(i).seqno() <= seqno => {
                        return self.entry(i, value_at).map(Some);
                    }
                    _ => {}
                }
            }
            value_at += lens.value();
        }
        Ok(None)
    }

    /// Trailer and value of entry `i`, whose value begins at `value_at`.
    fn entry(&self, i: usize, value_at: usize) -> Result<(Trailer, &'a [u8]), Malformed> {
        let (trailer, len) = (self.trailer(i), self.lens.get(i).map_or(0, |lens| lens.value()));
        if !trailer.is_plain() {
            check_special(trailer, len)?;
        }
        Ok((trailer, self.values.get(value_at..value_at + len).unwrap_or_default()))
    }
}

/// How many bytes of their own keys have, and how many all share, given of each how many it shares
/// with the one before, and its length. Checks that a block may hold them.
pub(super) fn measure_keys(
    keys: impl ExactSizeIterator<Item = (usize, usize)>,
) -> Result<(usize, usize), Malformed> {
    if keys.len() > COUNT_MAX {
        return Err(TOO_MUCH);
    }
    let count = keys.len();
    let (mut last, mut whole, mut rest, mut prefix_len) = (0, 0, 0, 0);
    for (i, (shared, len)) in keys.enumerate() {
        if shared > last || len > KEY_LEN_MAX {
            return Err(Malformed("a folded key has an impossible length"));
        }
        prefix_len = if i == 0 { len } else { prefix_len.min(shared) };
        last = len;
        whole += shared;
        rest += len - shared;
    }
    let own = whole - prefix_len * (count - 1);
    if whole > SHARED_WHOLE_MAX || own > SHARED_MAX {
        return Err(TOO_MUCH);
    }
    Ok((rest, prefix_len))
}

/// Undoes [`Packer::fold`](crate::sst::packer::Packer): the payload of the block.
fn unfold(folded: &[u8], lens: &mut Vec<Lens>, key: &mut Vec<u8>) -> Result<Block, Malformed> {
    let folded = Folded::parse(folded, lens)?;
    let (count, prefix_len) = (folded.lens.len(), folded.prefix_len);
    let trailers @ (_, trailer_len) = folded.trailers();
    let lens = folded.lens.iter().map(|lens| (lens.key() - prefix_len, lens.value()));
    let (places, entries_len) = Places::of(trailer_len, lens);
    let front_len = HEADER_LEN + prefix_len + count + places.len(count) + HEAD_LEN * count;
    if front_len + entries_len > u32::MAX as usize {
        return Err(TOO_MUCH);
    }
    Block::filled(front_len + entries_len, |payload| {
        fill(payload, &folded, (places, trailers), key)
    })
}

/// Builds the block, given how it tells the places of entries, and what [`Folded::trailers`] says.
/// `key` is where whole keys are put together.
#[expect(clippy::indexing_slicing, reason = "parse checked every length, and they were added up")]
fn fill(
    payload: &mut [u8],
    folded: &Folded<'_>,
    (places, (least, trailer_len)): (Places, (Trailer, usize)),
    key: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let (count, prefix_len) = (folded.lens.len(), folded.prefix_len);
    let (header, rest) = payload.split_at_mut(HEADER_LEN);
    let (prefix, rest) = rest.split_at_mut(prefix_len);
    let (fingerprints, rest) = rest.split_at_mut(count);
    let (offsets, rest) = rest.split_at_mut(places.len(count));
    let width = places.width();
    if let Places::Uniform(uniform) = places {
        offsets.copy_from_slice(&uniform.encode());
    }
    let (heads, entries) = rest.split_at_mut(HEAD_LEN * count);
    let heads = heads.as_chunks_mut::<HEAD_LEN>().0;
    let (mut keys, mut values, mut at) = (folded.keys, folded.values, 0);
    // The first key has all its bytes there.
    prefix.copy_from_slice(&keys[..prefix_len]);
    key.clear();
    for (i, lens) in folded.lens.iter().enumerate() {
        let (rest_of_key, more) = keys.split_at(lens.rest());
        keys = more;
        if rest_of_key.first().is_some_and(|byte| key.get(lens.shared()) == Some(byte)) {
            return Err(SHARES_MORE);
        }
        key.truncate(lens.shared());
        key.extend_from_slice(rest_of_key);
        let suffix = &key[prefix_len..];
        let rest = rest_of(suffix);
        fingerprints[i] = KeyHash::of(key).fingerprint();
        heads[i] = head4(suffix).to_le_bytes();
        offsets[width * i..][..width].copy_from_slice(&(at as u32).to_le_bytes()[..width]);
        if places.has_varints() {
            at += put_varint_at(&mut entries[at..], suffix.len());
        }
        entries[at..][..rest.len()].copy_from_slice(rest);
        at += rest.len();
        let beyond = folded.trailer(i).0 - least.0;
        entries[at..][..trailer_len].copy_from_slice(&beyond.to_le_bytes()[..trailer_len]);
        at += trailer_len;
        let (value, more) = values.split_at(lens.value());
        entries[at..][..lens.value()].copy_from_slice(value);
        values = more;
        at += lens.value();
    }
    offsets[width * count..][..width].copy_from_slice(&(at as u32).to_le_bytes()[..width]);
    header.copy_from_slice(&header_of(count, prefix_len, places, least, trailer_len));
    Ok(())
}

/// Writes a varint of up to three bytes to the start of `out`. Returns its length.
#[expect(clippy::indexing_slicing, reason = "the place was counted")]
fn put_varint_at(out: &mut [u8], n: usize) -> usize {
    let len = varint_len(n);
    for (i, byte) in out[..len].iter_mut().enumerate() {
        *byte = (n >> (7 * i)) as u8 & 0x7f | if i + 1 < len { 0x80 } else { 0 };
    }
    len
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::coding::put_varint;
    use crate::sst::data_block::DataBlock;
    use crate::sst::data_block::tests::build;
    use crate::sst::data_block::tests::builder_of;
    use crate::sst::data_block::tests::entries_in_order;
    use crate::sst::packer::Packer;

    fn unfold(folded: &[u8]) -> Result<Block, Malformed> {
        super::unfold(folded, &mut Vec::new(), &mut Vec::new())
    }

    proptest! {
        #[test]
        fn a_block_unfolds_to_itself(entries in entries_in_order()) {
            let payload = build(&entries);
            let mut packer = Packer::default();
            packer.fold(&builder_of(&entries)).unwrap();
            let folded = &packer.folded;
            prop_assert_eq!(&*unfold(folded).unwrap(), &payload);
            for len in 0..folded.len().min(200) {
                prop_assert!(unfold(&folded[..len]).is_err());
            }
        }

        /// What is found without building the block is what would be found in it.
        #[test]
        fn what_is_found_is_what_the_block_has(
            entries in entries_in_order(),
            strange in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let payload = build(&entries);
            let block = DataBlock::parse(&payload).unwrap();
            let mut packer = Packer::default();
            packer.fold(&builder_of(&entries)).unwrap();
            let mut lens = Vec::new();
            let folded = Folded::parse(&packer.folded, &mut lens).unwrap();
            let mut probes: Vec<Vec<u8>> = entries.iter().map(|entry| entry.0.clone()).collect();
            for (user, ..) in &entries {
                probes.push([&user[..], &[0]].concat());
                probes.push(user[..user.len() / 2].to_vec());
                probes.push([&user[..user.len() / 2], &strange].concat());
            }
            for user in &probes {
                for seqno in entries.iter().map(|entry| entry.1.seqno()).chain([SeqNo::ZERO]) {
                    let wanted = block.find(user, KeyHash::of(user), seqno).unwrap();
                    let wanted = wanted.map(|span| (span.trailer, &payload[span.value_range()]));
                    prop_assert_eq!(folded.find(user, seqno).unwrap(), wanted);
                }
            }
        }

        #[test]
        fn any_bytes_unfold_to_a_block_or_fail(
            mut bytes in proptest::collection::vec(0u8..8, 0..60),
            at in 0..60usize,
            byte: u8,
        ) {
            if let Some(any) = bytes.get_mut(at) {
                *any = byte;
            }
            if let Ok(folded) = Folded::parse(&bytes, &mut Vec::new()) {
                let _ = folded.find(&[byte, 3], SeqNo::MAX);
            }
            if let Ok(payload) = unfold(&bytes) {
                let block = DataBlock::parse(&payload).unwrap();
                for i in 0..block.table().count {
                    let _ = block.span(i);
                }
            }
        }
    }

    #[test]
    fn what_does_not_pay_is_not_packed() {
        let key = |i: u32| [b"key ".to_vec(), i.to_be_bytes().to_vec()].concat();
        let noise = |i: u32| -> Vec<u8> {
            (0..75)
                .flat_map(|n| KeyHash::of(&(100 * i + n).to_be_bytes()).0.to_le_bytes())
                .collect()
        };
        let entries = |value: &dyn Fn(u32) -> Vec<u8>| -> Vec<_> {
            (0..40).map(|i| (key(i), Trailer(u64::from(i) << 8 | 1), value(i))).collect()
        };
        let mut packer = Packer::default();
        let same = entries(&|_| b"the same again and again".to_vec());
        let payload = build(&same);
        let packed = packer.pack(&builder_of(&same)).unwrap().to_vec();
        assert!(packed.len() * 4 < payload.len(), "{} of {}", packed.len(), payload.len());
        assert_eq!(&*unpack(&packed).unwrap(), &payload);
        assert!(packer.pack(&builder_of(&entries(&noise))).is_none());
    }

    #[test]
    fn keys_out_of_order_unfold_to_a_block() {
        let columns = [[0, 0, 0], [4, 1, 4], [0, 0, 0]].concat();
        let folded = [&[3, FLAG_ONE_KIND, 0, 0, 1][..], &columns, b"longnlong"].concat();
        let payload = unfold(&folded).unwrap();
        let block = DataBlock::parse(&payload).unwrap();
        let key = |i| block.key(&block.span(i).unwrap(), &mut Vec::new()).user.to_vec();
        assert_eq!([key(0), key(1), key(2)], [&b"long"[..], b"n", b"long"]);
    }

    /// Else what is found without building the block would not be what is found in it.
    #[test]
    fn a_key_shares_as_much_as_it_says() {
        // Two versions of "a", seqnos 5 and 3, as if they shared nothing.
        let flags = FLAG_ONE_KIND | FLAG_ONE_KEY_LEN | FLAG_ONE_VALUE_LEN;
        let folded =
            |shared, keys: &[u8]| [&[2, flags, 3, 2, 1, 0, 1, 0b10, 0, shared][..], keys].concat();
        let find = |bytes: &[u8]| {
            let mut lens = Vec::new();
            let found = Folded::parse(bytes, &mut lens)?.find(b"a", SeqNo::new(4))?;
            Ok::<_, Malformed>(found.map(|(trailer, _)| trailer.seqno().get()))
        };
        assert_eq!(find(&folded(1, b"a")), Ok(Some(3)));
        assert!(unfold(&folded(1, b"a")).is_ok());
        assert_eq!(find(&folded(0, b"aa")), Err(SHARES_MORE));
        assert!(unfold(&folded(0, b"aa")).is_err());
    }

    #[test]
    fn few_bytes_unfold_to_no_more_than_a_block_may_hold() {
        // A long key, many that share all of it, and one that shares nothing, or as much.
        let block = |count: u64, last: u64| {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, count);
            bytes.extend_from_slice(&[FLAG_ONE_KIND | FLAG_ONE_KEY_LEN | FLAG_ONE_VALUE_LEN, 0, 0]);
            put_varint(&mut bytes, 60_000);
            bytes.extend_from_slice(&[0, 1, 0]);
            (2..count).for_each(|_| put_varint(&mut bytes, 60_000));
            put_varint(&mut bytes, last);
            bytes.resize(bytes.len() + 60_000, 7);
            bytes.resize(bytes.len() + 60_000 - last as usize, 8);
            unfold(&bytes)
        };
        assert!(block(1_000_000, 60_000).is_err());
        assert!(block(1_000, 0).is_err());
        assert!(block(250, 0).unwrap().len() > 250 * 60_000);
        let shared = block(1_000, 60_000).unwrap();
        assert!((60_000..70_000).contains(&shared.len()), "{}", shared.len());
    }
}
