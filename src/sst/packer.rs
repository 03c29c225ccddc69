//! Folds data blocks and compresses them: the way to the format of folded.rs.
#![deny(clippy::indexing_slicing)]

use crate::base::coding::Malformed;
use crate::base::coding::put_varint;
use crate::base::compression::compress_lz4;
use crate::base::compression::pays;
use crate::base::key::Trailer;
use crate::base::key::shared_prefix_len;
use crate::sst::data_block_builder::DataBlockBuilder;
use crate::sst::folded::FLAG_ONE_KEY_LEN;
use crate::sst::folded::FLAG_ONE_KIND;
use crate::sst::folded::FLAG_ONE_VALUE_LEN;
use crate::sst::folded::measure_keys;

/// Memory for packing blocks, to be used again.
#[derive(Debug, Default)]
pub(super) struct Packer {
    pub(super) folded: Vec<u8>,
    packed: Vec<u8>,
    /// What each user key shares with the one before, its length, and all that it does not share.
    lens: Vec<(usize, usize)>,
    keys: Vec<u8>,
}

impl Packer {
    /// The block with these entries, folded and compressed; none if that would not save about an
    /// eighth, or folded keys would be longer than a reader accepts.
    pub(super) fn pack(&mut self, block: &DataBlockBuilder) -> Option<&[u8]> {
        self.fold(block).ok()?;
        compress_lz4(&self.folded, &mut self.packed).filter(|packed| pays(packed, block.size()))
    }

    /// Folds the block with these entries, of which there is one at least.
    pub(super) fn fold(&mut self, block: &DataBlockBuilder) -> Result<(), Malformed> {
        self.lens.clear();
        self.keys.clear();
        let mut last: &[u8] = &[];
        for key in block.keys() {
            let shared = shared_prefix_len(last, key);
            self.lens.push((shared, key.len()));
            self.keys.extend_from_slice(key.get(shared..).unwrap_or_default());
            last = key;
        }
        measure_keys(self.lens.iter().copied())?;
        self.folded.clear();
        self.fold_trailers(block);
        let out = &mut self.folded;
        for (shared, _) in &self.lens {
            put_varint(out, *shared as u64);
        }
        let (key_len, value_len) = block.lens_of_all();
        if key_len.is_none() {
            for (shared, len) in &self.lens {
                put_varint(out, (len - shared) as u64);
            }
        }
        if value_len.is_none() {
            for len in block.value_lens() {
                put_varint(out, len as u64);
            }
        }
        out.extend_from_slice(&self.keys);
        out.extend_from_slice(block.values());
        Ok(())
    }

    /// Everything in front of the columns of lengths.
    fn fold_trailers(&mut self, block: &DataBlockBuilder) {
        let out = &mut self.folded;
        let kinds = block.trailers().map(Trailer::kind_byte);
        let kind = one(kinds.clone());
        let (key_len, value_len) = block.lens_of_all();
        let (smallest, greatest) = block.seqnos();
        let width = 64 - (greatest - smallest).leading_zeros();
        put_varint(out, block.len() as u64);
        let flag = |is_one: bool, flag: u8| if is_one { flag } else { 0 };
        out.push(
            flag(kind.is_some(), FLAG_ONE_KIND)
                | flag(key_len.is_some(), FLAG_ONE_KEY_LEN)
                | flag(value_len.is_some(), FLAG_ONE_VALUE_LEN),
        );
        put_varint(out, smallest);
        out.push(width as u8);
        for len in key_len.into_iter().chain(value_len) {
            put_varint(out, len as u64);
        }
        match kind {
            Some(kind) => out.push(kind),
            None => out.extend(kinds),
        }
        let (mut bits, mut pending) = (0u128, 0);
        for seqno in block.trailers().map(|trailer| trailer.seqno().get()) {
            bits |= u128::from(seqno - smallest) << pending;
            pending += width;
            while pending >= 8 {
                out.push(bits as u8);
                bits >>= 8;
                pending -= 8;
            }
        }
        if pending > 0 {
            out.push(bits as u8);
        }
    }
}

/// What all of `values` are, if they are equal.
fn one<T: PartialEq>(mut values: impl Iterator<Item = T>) -> Option<T> {
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}
