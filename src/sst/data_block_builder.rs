//! Builds a data block: collects entries, then writes its parts one behind the other.
//!
//! What all user keys share is known when the last one has come, so the entries are kept whole until
//! then.
#![deny(clippy::indexing_slicing)]

use crate::base::coding::put_varint;
use crate::base::key::KeyHash;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::key::head4;
use crate::sst::data_block::HEAD_LEN;
use crate::sst::data_block::HEADER_LEN;
use crate::sst::data_block::Places;
use crate::sst::data_block::UNIFORM_LEN;
use crate::sst::data_block::WHOLE_MAX;
use crate::sst::data_block::header_of;
use crate::sst::data_block::is_wide;
use crate::sst::data_block::rest_of;
use crate::sst::data_block::shared_prefix_len;
use crate::sst::data_block::trailer_len;
use crate::sst::data_block::varint_len;

/// Collects the entries of a data block.
#[derive(Debug, Default)]
pub(super) struct DataBlockBuilder {
    /// User keys, whole, each with its value behind it.
    entries: Vec<u8>,
    starts: Vec<u32>,
    key_lens: Vec<u16>,
    trailers: Vec<Trailer>,
    fingerprints: Vec<u8>,
    extent: Extent,
}

/// What decides how long a block is.
#[derive(Clone, Copy, Debug)]
struct Extent {
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
        self.starts.is_empty()
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Size of the payload, a little overestimated.
    #[inline]
    pub(super) fn size(&self) -> usize {
        self.extent.size()
    }

    /// Would the block be longer than `limit` with one more entry? Then another is to be begun.
    #[inline]
    pub(super) fn is_full_for(&self, key: KeyRef<'_>, value: &[u8], limit: usize) -> bool {
        let extent = self.extent_with(key, value);
        let is_long = extent.size() > limit || extent.whole_len > WHOLE_MAX.saturating_mul(limit);
        is_long && !self.is_empty()
    }

    #[inline]
    fn extent_with(&self, key: KeyRef<'_>, value: &[u8]) -> Extent {
        let before = &self.extent;
        let shared = self.entries.get(..before.shared_len).unwrap_or(key.user);
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

    /// Adds an entry. Requires: `key` sorts after all before it and has at most 65535 bytes, and
    /// the entries together have less than 4 GiB.
    pub(super) fn add(&mut self, key: KeyRef<'_>, hash: KeyHash, value: &[u8]) {
        self.extent = self.extent_with(key, value);
        self.starts.push(self.entries.len() as u32);
        self.key_lens.push(key.user.len() as u16);
        self.trailers.push(key.trailer);
        self.fingerprints.push(hash.fingerprint());
        self.entries.extend_from_slice(key.user);
        self.entries.extend_from_slice(value);
    }

    /// The suffix of the key of entry `i`, and its value.
    fn entry(&self, i: usize) -> (&[u8], &[u8]) {
        let start = self.starts[i] as usize;
        let end = self.starts.get(i + 1).map_or(self.entries.len(), |n| *n as usize);
        let (key, value) = self.entries[start..end].split_at(usize::from(self.key_lens[i]));
        (&key[self.extent.shared_len..], value)
    }

    /// Appends the payload to `out` and starts anew. Requires: not empty.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        let Extent { count, shared_len, least, greatest, .. } = self.extent;
        let trailer_len = trailer_len(least, greatest);
        let lens =
            (0..count).map(|i| self.entry(i)).map(|(suffix, value)| (suffix.len(), value.len()));
        let (places, _) = Places::of(trailer_len, lens);
        out.reserve(self.size());
        out.extend_from_slice(&header_of(count, shared_len, places, least, trailer_len));
        out.extend_from_slice(&self.entries[..shared_len]);
        out.extend_from_slice(&self.fingerprints);
        let places_at = out.len();
        out.resize(places_at + places.len(count), 0);
        if let Places::Uniform(uniform) = places {
            out[places_at..].copy_from_slice(&uniform.encode());
        }
        for i in 0..count {
            out.extend_from_slice(&head4(self.entry(i).0).to_le_bytes());
        }
        let entries_at = out.len();
        for i in 0..=count {
            let width = places.width();
            let offset = ((out.len() - entries_at) as u32).to_le_bytes();
            out[places_at + width * i..][..width].copy_from_slice(&offset[..width]);
            if i == count {
                break;
            }
            let (suffix, value) = self.entry(i);
            if places.has_varints() {
                put_varint(out, suffix.len() as u64);
            }
            out.extend_from_slice(rest_of(suffix));
            let beyond = self.trailers[i].0 - least.0;
            out.extend_from_slice(&beyond.to_le_bytes()[..trailer_len]);
            out.extend_from_slice(value);
        }
        self.clear();
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.starts.clear();
        self.key_lens.clear();
        self.trailers.clear();
        self.fingerprints.clear();
        self.extent = Extent::default();
    }
}
