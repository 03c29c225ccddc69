//! Folds data blocks and compresses them: the way to the format of folded.rs.
#![deny(clippy::indexing_slicing)]

use crate::base::coding::Malformed;
use crate::base::coding::put_varint;
use crate::base::compression::compress_lz4;
use crate::sst::data_block::DataBlock;
use crate::sst::data_block::EntrySpan;
use crate::sst::data_block::shared_prefix_len;
use crate::sst::folded::FLAG_ONE_KEY_LEN;
use crate::sst::folded::FLAG_ONE_KIND;
use crate::sst::folded::FLAG_ONE_VALUE_LEN;
use crate::sst::folded::measure_keys;

/// Memory for packing blocks, to be used again.
#[derive(Debug, Default)]
pub(super) struct Packer {
    pub(super) folded: Vec<u8>,
    packed: Vec<u8>,
    entries: Vec<(EntrySpan, usize)>,
    /// What no user key shares with the one before.
    keys: Vec<u8>,
    user: Vec<u8>,
    last: Vec<u8>,
}

impl Packer {
    /// The block with this payload, folded and compressed; none if that would not save at least an
    /// eighth, or the block is one that no writer makes.
    pub(super) fn pack(&mut self, payload: &[u8]) -> Option<&[u8]> {
        self.fold(payload).ok()?;
        compress_lz4(&self.folded, &mut self.packed);
        let pays = self.packed.len() <= payload.len() - payload.len() / 8;
        pays.then_some(&self.packed)
    }

    /// Folds the block with this payload.
    pub(super) fn fold(&mut self, payload: &[u8]) -> Result<(), Malformed> {
        let block = DataBlock::parse(payload)?;
        self.entries.clear();
        self.keys.clear();
        self.last.clear();
        for i in 0..block.table().count {
            let span = block.span(i)?;
            block.key(&span, &mut self.user);
            let shared = shared_prefix_len(&self.last, &self.user);
            self.keys.extend_from_slice(self.user.get(shared..).unwrap_or_default());
            self.entries.push((span, shared));
            std::mem::swap(&mut self.user, &mut self.last);
        }
        let prefix_len = block.prefix.len();
        let keys = self.entries.iter();
        measure_keys(keys.map(|(span, shared)| (*shared, prefix_len + span.suffix_len())))?;
        self.folded.clear();
        self.fold_trailers(prefix_len);
        let out = &mut self.folded;
        for (_, shared) in &self.entries {
            put_varint(out, *shared as u64);
        }
        if one(self.entries.iter().map(|(span, _)| span.suffix_len())).is_none() {
            for (span, shared) in &self.entries {
                put_varint(out, (prefix_len + span.suffix_len() - shared) as u64);
            }
        }
        if one(self.entries.iter().map(|(span, _)| span.value_range().len())).is_none() {
            for (span, _) in &self.entries {
                put_varint(out, span.value_range().len() as u64);
            }
        }
        out.extend_from_slice(&self.keys);
        for (span, _) in &self.entries {
            out.extend_from_slice(payload.get(span.value_range()).unwrap_or_default());
        }
        Ok(())
    }

    /// Everything in front of the columns of lengths. All user keys share `prefix_len` bytes.
    fn fold_trailers(&mut self, prefix_len: usize) {
        let out = &mut self.folded;
        let spans = || self.entries.iter().map(|(span, _)| span);
        let seqnos = || spans().map(|span| span.trailer.seqno().get());
        let kinds = || spans().map(|span| span.trailer.kind_byte());
        let (kind, key_len, value_len) = (
            one(kinds()),
            one(spans().map(|span| prefix_len + span.suffix_len())),
            one(spans().map(|span| span.value_range().len())),
        );
        let smallest = seqnos().min().unwrap_or(0);
        let width = seqnos().map(|seqno| 64 - (seqno - smallest).leading_zeros()).max();
        let width = width.unwrap_or(0);
        put_varint(out, self.entries.len() as u64);
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
            None => out.extend(kinds()),
        }
        let (mut bits, mut pending) = (0u128, 0);
        for seqno in seqnos() {
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
