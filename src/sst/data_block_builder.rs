//! Builds a data block: collects entries, then writes its parts one behind the other, or lets
//! [`Packer`](crate::sst::packer::Packer) write them as they are compressed.
//!
//! What all user keys share is known when the last one has come, so the entries are kept whole until
//! then.
#![deny(clippy::indexing_slicing)]

use crate::base::coding::put_varint;
use crate::base::key::KeyHash;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::key::head4;
use crate::base::key::shared_prefix_len;
use crate::sst::data_block::HEAD_LEN;
use crate::sst::data_block::HEADER_LEN;
use crate::sst::data_block::Places;
use crate::sst::data_block::UNIFORM_LEN;
use crate::sst::data_block::WHOLE_MAX;
use crate::sst::data_block::header_of;
use crate::sst::data_block::is_wide;
use crate::sst::data_block::rest_of;
use crate::sst::data_block::trailer_len;
use crate::sst::data_block::varint_len;

/// Collects the entries of a data block.
#[derive(Debug, Default)]
pub(super) struct DataBlockBuilder {
    /// User keys, whole, one behind the other, as are values.
    keys: Vec<u8>,
    values: Vec<u8>,
    entries: Vec<Entry>,
    extent: Extent,
}

/// What is known of an entry beside its key and value.
#[derive(Clone, Copy, Debug)]
struct Entry {
    trailer: Trailer,
    value_len: u32,
    key_len: u16,
    fingerprint: u8,
}

/// What decides how long a block is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    count: usize,
    /// Bytes of user keys, whole, and values.
    whole_len: usize,
    shared_len: usize,
    key_len_min: usize,
    key_len_max: usize,
    value_len_min: usize,
    value_len_max: usize,
    least: Trailer,
    greatest: Trailer,
}

impl Default for Extent {
    fn default() -> Extent {
        Extent {
            count: 0,
            whole_len: 0,
            shared_len: usize::MAX,
            key_len_min: usize::MAX,
            key_len_max: 0,
            value_len_min: usize::MAX,
            value_len_max: 0,
            least: Trailer(u64::MAX),
            greatest: Trailer(0),
        }
    }
}

impl Extent {
    /// Size of the block, a little overestimated.
    #[inline]
    fn size(&self) -> usize {
        if self.count == 0 {
            return 0;
        }
        let in_head = (self.key_len_min - self.shared_len).min(HEAD_LEN);
        let trailer_len = trailer_len(self.least, self.greatest);
        let bare =
            self.whole_len - self.count * (self.shared_len + in_head) + self.count * trailer_len;
        let front = HEADER_LEN + self.shared_len + self.count * (1 + HEAD_LEN);
        if self.key_len_min == self.key_len_max && self.value_len_min == self.value_len_max {
            return front + UNIFORM_LEN + bare;
        }
        let entries = bare + self.count * varint_len(self.key_len_max - self.shared_len);
        let offset = if is_wide(entries) { 4 } else { 2 };
        front + offset * (self.count + 1) + entries
    }
}

#[expect(clippy::indexing_slicing, reason = "the builder only reads back its own bytes")]
impl DataBlockBuilder {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Size of the payload, a little overestimated.
    #[inline]
    pub(super) fn size(&self) -> usize {
        self.extent.size()
    }

    /// Would the block be longer than `limit` with one more entry, with which it has this extent?
    /// Then another is to be begun.
    #[inline]
    pub(super) fn is_full_for(&self, extent: &Extent, limit: usize) -> bool {
        let is_long = extent.size() > limit || extent.whole_len > WHOLE_MAX.saturating_mul(limit);
        is_long && !self.is_empty()
    }

    /// The extent with one more entry.
    #[inline]
    pub(super) fn extent_with(&self, key: KeyRef<'_>, value: &[u8]) -> Extent {
        let before = &self.extent;
        // The first key has all that they share.
        let shared = self.keys.get(..before.shared_len).unwrap_or(key.user);
        Extent {
            count: before.count + 1,
            whole_len: before.whole_len + key.user.len() + value.len(),
            shared_len: if key.user.starts_with(shared) {
                shared.len()
            } else {
                shared_prefix_len(shared, key.user)
            },
            key_len_min: before.key_len_min.min(key.user.len()),
            key_len_max: before.key_len_max.max(key.user.len()),
            value_len_min: before.value_len_min.min(value.len()),
            value_len_max: before.value_len_max.max(value.len()),
            least: Trailer(before.least.0.min(key.trailer.0)),
            greatest: Trailer(before.greatest.0.max(key.trailer.0)),
        }
    }

    /// Adds an entry, with which the block has this extent. Requires: `key` sorts after all before
    /// it and has at most 65535 bytes, and the entries together have less than 4 GiB.
    #[inline]
    pub(super) fn add(&mut self, key: KeyRef<'_>, hash: KeyHash, value: &[u8], extent: Extent) {
        self.extent = extent;
        self.entries.push(Entry {
            trailer: key.trailer,
            value_len: value.len() as u32,
            key_len: key.user.len() as u16,
            fingerprint: hash.fingerprint(),
        });
        self.keys.extend_from_slice(key.user);
        self.values.extend_from_slice(value);
    }

    /// User keys, whole.
    pub(super) fn keys(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let mut rest = self.keys.as_slice();
        self.entries.iter().map(move |entry| {
            let (key, more) = rest.split_at(usize::from(entry.key_len));
            rest = more;
            key
        })
    }

    pub(super) fn trailers(&self) -> impl Iterator<Item = Trailer> + Clone {
        self.entries.iter().map(|entry| entry.trailer)
    }

    pub(super) fn value_lens(&self) -> impl Iterator<Item = usize> + Clone {
        self.entries.iter().map(|entry| entry.value_len as usize)
    }

    /// The values, one behind the other.
    pub(super) fn values(&self) -> &[u8] {
        &self.values
    }

    /// How long all user keys are, and all values, if they are equally long.
    pub(super) fn lens_of_all(&self) -> (Option<usize>, Option<usize>) {
        let Extent { key_len_min, key_len_max, value_len_min, value_len_max, .. } = self.extent;
        let of_all = |min, max| (min == max).then_some(max);
        (of_all(key_len_min, key_len_max), of_all(value_len_min, value_len_max))
    }

    /// The least and the greatest.
    pub(super) fn seqnos(&self) -> (u64, u64) {
        (self.extent.least.seqno().get(), self.extent.greatest.seqno().get())
    }

    /// Appends the payload to `out`. Requires: not empty.
    pub(super) fn write_to(&self, out: &mut Vec<u8>) {
        let Extent { count, shared_len, least, greatest, .. } = self.extent;
        let trailer_len = trailer_len(least, greatest);
        let suffixes = || self.keys().map(|key| &key[shared_len..]);
        let lens = suffixes().map(<[u8]>::len).zip(self.value_lens());
        let (places, _) = Places::of(trailer_len, lens);
        out.reserve(self.size());
        out.extend_from_slice(&header_of(count, shared_len, places, least, trailer_len));
        out.extend_from_slice(&self.keys[..shared_len]);
        out.extend(self.entries.iter().map(|entry| entry.fingerprint));
        let places_at = out.len();
        out.resize(places_at + places.len(count), 0);
        if let Places::Uniform(uniform) = places {
            out[places_at..].copy_from_slice(&uniform.encode());
        }
        for suffix in suffixes() {
            out.extend_from_slice(&head4(suffix).to_le_bytes());
        }
        let entries_at = out.len();
        let width = places.width();
        let put_place = |out: &mut Vec<u8>, i: usize| {
            let offset = ((out.len() - entries_at) as u32).to_le_bytes();
            out[places_at + width * i..][..width].copy_from_slice(&offset[..width]);
        };
        let mut values = self.values.as_slice();
        for (i, (suffix, entry)) in suffixes().zip(&self.entries).enumerate() {
            put_place(out, i);
            if places.has_varints() {
                put_varint(out, suffix.len() as u64);
            }
            out.extend_from_slice(rest_of(suffix));
            let beyond = entry.trailer.0 - least.0;
            out.extend_from_slice(&beyond.to_le_bytes()[..trailer_len]);
            let (value, more) = values.split_at(entry.value_len as usize);
            out.extend_from_slice(value);
            values = more;
        }
        put_place(out, count);
    }

    /// Starts anew.
    pub(super) fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
        self.entries.clear();
        self.extent = Extent::default();
    }
}
