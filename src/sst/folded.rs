//! Folded data blocks: what is compressed in place of a block.
//!
//! Much of a data block can be computed from the rest: fingerprints, offsets and heads from the
//! entries, and most of a key from the key before. What cannot is put in columns, so that like lies
//! next to like, and compressed with lz4; a reader unfolds it to the very same block.
//!
//! ```text
//! bytes  field
//! varint count of entries, at least 1
//! 1      1 = all trailers are equal, stored once; 0 = not
//! 0 or 8 the trailer, if they are equal
//! varint each, count    bytes that a user key shares with the one before
//! varint each, count    further bytes of the user key
//! varint each, count    bytes of the value
//! 8 × count             trailers, unless they are equal: all first bytes, all second bytes, …
//! …      the further bytes of the user keys
//! …      the values
//! ```
#![deny(clippy::indexing_slicing)]

use crate::base::coding::Decoder;
use crate::base::coding::Malformed;
use crate::base::coding::put_varint;
use crate::base::compression::compress_lz4;
use crate::base::compression::decompress_lz4;
use crate::base::key::KEY_LEN_MAX;
use crate::base::key::KeyHash;
use crate::base::key::Trailer;
use crate::base::key::head4;
use crate::cache::Block;
use crate::sst::data_block::DataBlock;
use crate::sst::data_block::HEADER_LEN;
use crate::sst::data_block::header_of;
use crate::sst::data_block::is_wide;
use crate::sst::data_block::shared_prefix_len;

/// What the keys of a block may share in all: the largest block that the options allow, and a key.
/// Bounds what a few stored bytes can unfold to.
const SHARED_MAX: usize = (16 << 20) + KEY_LEN_MAX;

/// Memory for packing blocks, to be used again.
#[derive(Debug, Default)]
pub(super) struct Packer {
    folded: Vec<u8>,
    packed: Vec<u8>,
}

impl Packer {
    /// The block with this payload, folded and compressed; none if that would not save at least an
    /// eighth.
    pub(super) fn pack(&mut self, payload: &[u8]) -> Option<&[u8]> {
        self.folded.clear();
        fold(payload, &mut self.folded).ok()?;
        compress_lz4(&self.folded, &mut self.packed);
        let pays = self.packed.len() <= payload.len() - payload.len() / 8;
        pays.then_some(&self.packed)
    }
}

/// Undoes [`Packer::pack`].
pub(crate) fn unpack(stored: &[u8]) -> Result<Block, Malformed> {
    unfold(&decompress_lz4(stored)?)
}

/// Appends the block with this payload to `out`, folded.
fn fold(payload: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let block = DataBlock::parse(payload)?;
    let table = block.table();
    let spans = || (0..table.count).map(|i| block.span(i));
    put_varint(out, table.count as u64);
    out.push(u8::from(table.trailer.is_some()));
    if let Some(trailer) = table.trailer {
        out.extend_from_slice(&trailer.0.to_le_bytes());
    }
    let mut shared = Vec::with_capacity(table.count);
    let mut last: &[u8] = &[];
    for span in spans() {
        let user = block.key(&span?).user;
        shared.push(shared_prefix_len(last, user));
        last = user;
    }
    shared.iter().for_each(|len| put_varint(out, *len as u64));
    for (span, shared) in spans().zip(&shared) {
        put_varint(out, (span?.key_range().len() - shared) as u64);
    }
    for span in spans() {
        put_varint(out, span?.value_range().len() as u64);
    }
    if table.trailer.is_none() {
        for plane in 0..8 {
            for span in spans() {
                out.push((span?.trailer.0 >> (8 * plane)) as u8);
            }
        }
    }
    for (span, shared) in spans().zip(&shared) {
        let user = block.key(&span?).user;
        out.extend_from_slice(user.get(*shared..).unwrap_or_default());
    }
    for span in spans() {
        out.extend_from_slice(payload.get(span?.value_range()).unwrap_or_default());
    }
    Ok(())
}

/// Lengths of one entry.
#[derive(Clone, Copy, Default)]
struct Lens {
    shared: usize,
    rest: usize,
    value: usize,
}

impl Lens {
    fn key(self) -> usize {
        self.shared + self.rest
    }
}

/// A folded block, cut into its columns. Every length was checked.
struct Folded<'a> {
    lens: Vec<Lens>,
    trailer: Option<Trailer>,
    planes: &'a [u8],
    keys: &'a [u8],
    values: &'a [u8],
}

impl<'a> Folded<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Folded<'a>, Malformed> {
        let mut from = Decoder::new(bytes);
        let count = from.varint32()? as usize;
        // An entry takes three bytes at least, so this bounds what is allocated.
        if count == 0 || count > from.rest().len() / 3 {
            return Err(Malformed("a folded block has an impossible count"));
        }
        let trailer = match from.u8()? {
            0 => None,
            1 => Some(Trailer(from.u64()?)),
            _ => return Err(Malformed("a folded block has unknown flags")),
        };
        let mut lens = vec![Lens::default(); count];
        for lens in &mut lens {
            lens.shared = from.varint32()? as usize;
        }
        for lens in &mut lens {
            lens.rest = from.varint32()? as usize;
        }
        for lens in &mut lens {
            lens.value = from.varint32()? as usize;
        }
        let planes = from.take(if trailer.is_none() { 8 * count } else { 0 })?;
        let (mut last, mut shared, mut rest) = (0, 0usize, 0usize);
        for lens in &lens {
            if lens.shared > last || lens.key() > KEY_LEN_MAX {
                return Err(Malformed("a folded key has an impossible length"));
            }
            last = lens.key();
            shared += lens.shared;
            rest += lens.rest;
        }
        if shared > SHARED_MAX {
            return Err(Malformed("a folded block unfolds to more than a block may hold"));
        }
        let keys = from.take(rest)?;
        let values = from.rest();
        if lens.iter().map(|lens| lens.value as u64).sum::<u64>() != values.len() as u64 {
            return Err(Malformed("a folded block has another length than it claims"));
        }
        Ok(Folded { lens, trailer, planes, keys, values })
    }

    /// The trailer of entry `i`, unless all are equal.
    #[inline]
    fn trailer_of(&self, i: usize) -> Trailer {
        let planes = self.planes.chunks_exact(self.lens.len()).rev();
        Trailer(planes.fold(0, |n, plane| n << 8 | u64::from(plane.get(i).copied().unwrap_or(0))))
    }
}

/// Undoes [`fold`]: the payload of the block.
fn unfold(folded: &[u8]) -> Result<Block, Malformed> {
    let folded = Folded::parse(folded)?;
    let count = folded.lens.len();
    let trailer_len = if folded.trailer.is_none() { 8 } else { 0 };
    let entry_len = |lens: &Lens| varint_len(lens.key()) + lens.key() + trailer_len + lens.value;
    let entries_len: usize = folded.lens.iter().map(entry_len).sum();
    let width = if is_wide(entries_len) { 4 } else { 2 };
    let len = HEADER_LEN + (8 - trailer_len) + count + width * (count + 1) + 4 * count;
    Block::filled(len + entries_len, |payload| {
        fill(payload, &folded, width);
        Ok(())
    })
}

#[expect(clippy::indexing_slicing, reason = "parse checked every length, and they were added up")]
fn fill(payload: &mut [u8], folded: &Folded<'_>, width: usize) {
    let count = folded.lens.len();
    let (header, rest) = payload.split_at_mut(HEADER_LEN);
    let (one_trailer, rest) = rest.split_at_mut(if folded.trailer.is_some() { 8 } else { 0 });
    let (fingerprints, rest) = rest.split_at_mut(count);
    let (offsets, rest) = rest.split_at_mut(width * (count + 1));
    let (heads, entries) = rest.split_at_mut(4 * count);
    let (mut keys, mut values) = (folded.keys, folded.values);
    let (mut at, mut key_at) = (0, 0);
    for (i, lens) in folded.lens.iter().enumerate() {
        offsets[width * i..][..width].copy_from_slice(&(at as u32).to_le_bytes()[..width]);
        let last_key_at = key_at;
        key_at = at + put_varint_at(&mut entries[at..], lens.key());
        entries.copy_within(last_key_at..last_key_at + lens.shared, key_at);
        at = key_at + lens.shared;
        let (rest_of_key, more) = keys.split_at(lens.rest);
        entries[at..][..lens.rest].copy_from_slice(rest_of_key);
        keys = more;
        at += lens.rest;
        fingerprints[i] = KeyHash::of(&entries[key_at..at]).fingerprint();
        if folded.trailer.is_none() {
            entries[at..][..8].copy_from_slice(&folded.trailer_of(i).0.to_le_bytes());
            at += 8;
        }
        let (value, more) = values.split_at(lens.value);
        entries[at..][..lens.value].copy_from_slice(value);
        values = more;
        at += lens.value;
    }
    offsets[width * count..].copy_from_slice(&(at as u32).to_le_bytes()[..width]);
    let first_len = folded.lens[0].key();
    let last_key = &entries[key_at..][..folded.lens[count - 1].key()];
    let shared_len = shared_prefix_len(&entries[varint_len(first_len)..][..first_len], last_key);
    let mut at = 0;
    for (lens, head) in folded.lens.iter().zip(heads.as_chunks_mut::<4>().0) {
        let key_at = at + varint_len(lens.key());
        // A key that is out of order may be shorter than what the first and the last share.
        let suffix = entries[key_at..][..lens.key()].get(shared_len..);
        *head = head4(suffix.unwrap_or_default()).to_le_bytes();
        at = key_at + lens.key() + (8 - one_trailer.len()) + lens.value;
    }
    if let Some(trailer) = folded.trailer {
        one_trailer.copy_from_slice(&trailer.0.to_le_bytes());
    }
    header.copy_from_slice(&header_of(count, shared_len, width == 4, folded.trailer.is_some()));
}

fn varint_len(n: usize) -> usize {
    match n {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        _ => 3,
    }
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
    use crate::sst::data_block::tests::build;
    use crate::sst::data_block::tests::entries_in_order;

    proptest! {
        #[test]
        fn a_block_unfolds_to_itself(entries in entries_in_order()) {
            let payload = build(&entries);
            let mut folded = Vec::new();
            fold(&payload, &mut folded).unwrap();
            prop_assert_eq!(&*unfold(&folded).unwrap(), &payload);
            for len in 0..folded.len().min(200) {
                prop_assert!(unfold(&folded[..len]).is_err());
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
        let payload = build(&entries(&|_| b"the same again and again".to_vec()));
        let packed = packer.pack(&payload).unwrap().to_vec();
        assert!(packed.len() * 4 < payload.len(), "{} of {}", packed.len(), payload.len());
        assert_eq!(&*unpack(&packed).unwrap(), &payload);
        let payload = build(&entries(&noise));
        assert!(packer.pack(&payload).is_none());
    }

    #[test]
    fn keys_out_of_order_unfold_to_a_block() {
        let columns = [[0, 0, 0], [4, 1, 4], [0, 0, 0]].concat();
        let folded = [&[3, 1][..], &[0; 8], &columns, b"longnlong"].concat();
        let payload = unfold(&folded).unwrap();
        let block = DataBlock::parse(&payload).unwrap();
        let key = |i| block.key(&block.span(i).unwrap()).user;
        assert_eq!([key(0), key(1), key(2)], [&b"long"[..], b"n", b"long"]);
    }

    #[test]
    fn few_bytes_unfold_to_no_more_than_a_block_may_hold() {
        // A long key, and a million that share all of it.
        let mut bytes = Vec::new();
        let count = 1_000_000;
        put_varint(&mut bytes, count);
        bytes.push(1);
        bytes.extend_from_slice(&[0; 8]);
        bytes.push(0);
        (1..count).for_each(|_| put_varint(&mut bytes, 60_000));
        put_varint(&mut bytes, 60_000);
        (1..count).for_each(|_| bytes.push(0));
        (0..count).for_each(|_| bytes.push(0));
        bytes.resize(bytes.len() + 60_000, 7);
        assert!(unfold(&bytes).is_err());
    }
}
