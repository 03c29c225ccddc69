//! Made-up data that can be made up again: random numbers, keys and values.

/// Random numbers from a seed (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

/// Scatters the bits of `x`.
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random { state: mix(seed) }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// Below `end`, which must not be 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// Appends `len` random bytes.
    pub(crate) fn fill(&mut self, out: &mut Vec<u8>, len: usize) {
        let end = out.len() + len;
        while out.len() < end {
            let bytes = self.next().to_le_bytes();
            out.extend_from_slice(&bytes[..bytes.len().min(end - out.len())]);
        }
    }
}

/// A seed that nobody chose.
pub(crate) fn any_seed() -> u64 {
    use std::hash::BuildHasher as _;
    // The standard library seeds each RandomState from the operating system's entropy.
    std::hash::RandomState::new().hash_one(std::process::id()) >> 32
}

/// The key of record `index`: its decimal number, padded with zeros to 16 bytes, as db_bench's.
pub(crate) fn key(index: u64) -> [u8; 16] {
    let mut key = [b'0'; 16];
    let mut rest = index;
    for digit in key.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// Writes a value of `len` bytes into `out`: random bytes and the same again, so that it compresses
/// to half.
pub(crate) fn half_compressible(random: &mut Random, len: usize, out: &mut Vec<u8>) {
    out.clear();
    random.fill(out, len.div_ceil(2));
    out.extend_from_within(..len / 2);
}

/// Writes the value that record `index` has in its `generation` into `out`; 84 to 116 bytes.
pub(crate) fn value(seed: u64, index: u64, generation: u8, out: &mut Vec<u8>) {
    let mut random = Random::new(seed ^ mix(index << 8 | u64::from(generation)));
    let len = 84 + random.below(33) as usize;
    half_compressible(&mut random, len, out);
}

/// Every number below `len` once, in random order: a Feistel cipher over the next even number of
/// bits, applied again where it leads beyond `len`. Takes no memory.
pub(crate) fn shuffled(len: u64, seed: u64) -> impl Iterator<Item = u64> {
    let half_bits = (64 - len.leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half_bits) - 1;
    let encrypt = move |number: u64| {
        let (mut left, mut right) = (number >> half_bits, number & mask);
        for round in 0..4 {
            (left, right) = (right, left ^ (mix(right ^ mix(seed ^ round)) & mask));
        }
        left << half_bits | right
    };
    (0..len).map(move |index| {
        let mut number = encrypt(index);
        while number >= len {
            number = encrypt(number);
        }
        number
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_padded_and_sort_as_their_numbers() {
        let numbers = [0, 1, 9, 10, 99, 12_345, 9_999_999_999_999_999];
        for pair in numbers.windows(2) {
            assert!(key(pair[0]) < key(pair[1]));
        }
        for number in numbers {
            assert_eq!(String::from_utf8(key(number).to_vec()).unwrap(), format!("{number:016}"));
        }
    }

    #[test]
    fn a_shuffle_visits_each_number_once() {
        for len in [0, 1, 2, 10, 1000, 1024, 12_345] {
            let mut seen: Vec<u64> = shuffled(len, 7).collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..len));
        }
    }

    #[test]
    fn values_depend_on_index_and_generation_alone() {
        let make = |index, generation| {
            let mut out = vec![1];
            value(3, index, generation, &mut out);
            out
        };
        assert_eq!(make(5, 1), make(5, 1));
        assert_ne!(make(5, 1), make(5, 2));
        assert_ne!(make(5, 1), make(6, 1));
        assert!((84..=116).contains(&make(9, 1).len()));
    }
}
