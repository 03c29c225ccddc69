//! Filters: does this file hold the key? "No" is certain, "yes" is wrong once in a hundred.
//!
//! A blocked Bloom filter: the upper 32 bits of the key's hash choose a line of 64 bytes, the lower
//! 32 choose all bits in it, so that a probe costs one cache miss. The payload starts at a multiple
//! of 64 in the file.
//!
//! ```text
//! bytes     field
//! 64 each   lines, at least 1
//! 1         probes per key
//! ```
#![deny(clippy::indexing_slicing)]

use crate::base::coding::Malformed;
use crate::base::key::KeyHash;
use crate::base::planted::Planted;
use crate::base::prefetch::prefetch;

pub(super) const LINE_LEN: usize = 64;

/// Number of probes that makes the fewest false positives; fewer than the textbook's `ln 2` per
/// bit, because lines fill unevenly.
fn probes_for(bits_per_key: u32) -> u8 {
    (bits_per_key.saturating_mul(6) / 10).clamp(1, 24) as u8
}

#[inline]
fn line_of(hash: KeyHash, lines: usize) -> usize {
    ((u128::from(hash.0 >> 32) * lines as u128) >> 32) as usize
}

/// The bits of a key in its line, as numbers below 512.
#[derive(Clone, Copy)]
struct Probes(u32);

impl Probes {
    #[inline]
    fn of(hash: KeyHash) -> Probes {
        Probes((hash.0 as u32).wrapping_mul(0x9e37_79b9))
    }

    #[inline]
    fn next_bit(&mut self) -> usize {
        let bit = self.0 >> 23;
        self.0 = self.0.wrapping_mul(0x85eb_ca6b);
        bit as usize
    }
}

/// Appends the payload of a filter over `keys` to `out`. Requires: `bits_per_key` is not 0.
#[expect(clippy::indexing_slicing, reason = "the builder's own bytes")]
pub(super) fn build(keys: &[KeyHash], bits_per_key: u32, out: &mut Vec<u8>) {
    let bits = keys.len().saturating_mul(bits_per_key as usize);
    let lines = bits.div_ceil(8 * LINE_LEN).max(1);
    let probes = probes_for(bits_per_key);
    let start = out.len();
    out.resize(start + lines * LINE_LEN, 0);
    let filter = &mut out[start..];
    for hash in keys {
        let line = &mut filter[line_of(*hash, lines) * LINE_LEN..][..LINE_LEN];
        let mut bits = Probes::of(*hash);
        for _ in 0..probes {
            let bit = bits.next_bit();
            line[bit / 8] |= 1 << (bit % 8);
        }
    }
    out.push(probes);
}

/// Asks for what [`may_contain`] will read.
#[inline]
pub(super) fn prefetch_line(payload: &[u8], hash: KeyHash) {
    let lines = payload.as_chunks::<LINE_LEN>().0;
    if let Some(line) = lines.get(line_of(hash, lines.len())) {
        prefetch(line);
    }
}

/// May the key be among those the filter was built from?
#[inline]
pub(super) fn may_contain(payload: &[u8], hash: KeyHash) -> Result<bool, Malformed> {
    const BAD: Malformed = Malformed("a filter has an impossible length");
    let (probes, lines) = payload.split_last().ok_or(BAD)?;
    let (lines, rest) = lines.as_chunks::<LINE_LEN>();
    if !rest.is_empty() {
        return Err(BAD);
    }
    if Planted::FilterForgets.is_on() && hash.0.is_multiple_of(8) {
        return Ok(false);
    }
    let line = lines.get(line_of(hash, lines.len())).ok_or(BAD)?;
    let mut bits = Probes::of(hash);
    // No early exit: the line is here, and a loop without a guess is faster than a wrong guess.
    let mut all = 1;
    for _ in 0..*probes {
        let bit = bits.next_bit();
        all &= line.get(bit / 8).map_or(0, |byte| byte >> (bit % 8));
    }
    Ok(all & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> KeyHash {
        KeyHash::of(&n.to_le_bytes())
    }

    #[test]
    fn there_are_no_false_negatives_and_few_false_positives() {
        // Theory of the blocked filter, about: 10 bits 1.0 %, 16 bits 0.11 %, 5 bits 10 %.
        for (bits, rate_max) in [(1, 0.7), (5, 0.115), (10, 0.0125), (16, 0.0018), (64, 0.0001)] {
            for count in [1, 2, 60, 10_000, 100_000] {
                let keys: Vec<KeyHash> = (0..count).map(hash).collect();
                let mut payload = Vec::new();
                build(&keys, bits, &mut payload);
                assert!(keys.iter().all(|key| may_contain(&payload, *key).unwrap()));
                if count >= 10_000 {
                    let wrong = (count..count + 100_000)
                        .filter(|n| may_contain(&payload, hash(*n)).unwrap())
                        .count();
                    let rate = wrong as f64 / 100_000.0;
                    assert!(rate <= rate_max, "{bits} bits: {rate}");
                }
            }
        }
    }

    #[test]
    fn a_payload_that_is_no_filter_is_an_error() {
        for len in [0, 1, 2, 63, 64, 66, 128] {
            assert!(may_contain(&vec![1; len], hash(1)).is_err(), "{len}");
        }
        assert!(may_contain(&[0xff; 65], hash(1)).unwrap());
    }
}
