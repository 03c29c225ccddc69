//! Keys, values and the order they come in: the same for every engine.
//!
//! Keys are made of *slots*. Even slots are loaded, odd ones are not: so a missing key lies between
//! two that exist, in the range of every file. Record number `i` has slot `2 * i`.

use std::ops::Deref;
use std::sync::Arc;

use clap::ValueEnum;
use serde::Deserialize;
use serde::Serialize;

/// 48 bytes that all keys of [`Shape::Prefix`] share.
const PREFIX: &[u8; 48] = b"tenant/0000000000000042/collection/invoices/key/";
const KEY_BYTES_MAX: usize = PREFIX.len() + 16;
/// A pool of values has this many bytes: more than lz4 looks back.
const POOL_BYTES: usize = 4 << 20;
/// Half of each piece repeats the other half, so values compress to half.
const PIECE_BYTES: usize = 100;

/// What keys look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Shape {
    /// 16 decimal digits, padded with zeros, as db_bench has them.
    Decimal,
    /// The same after 48 bytes that are always the same.
    Prefix,
    /// 16 bytes without order.
    Random,
}

/// One key, without an allocation.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    bytes: [u8; KEY_BYTES_MAX],
    len: usize,
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Shape {
    pub(crate) fn key(self, slot: u64) -> Key {
        let mut key = Key { bytes: [0; KEY_BYTES_MAX], len: 16 };
        match self {
            Shape::Decimal => digits(slot, &mut key.bytes[..16]),
            Shape::Prefix => {
                key.len = KEY_BYTES_MAX;
                key.bytes[..PREFIX.len()].copy_from_slice(PREFIX);
                digits(slot, &mut key.bytes[PREFIX.len()..]);
            }
            Shape::Random => {
                key.bytes[..8].copy_from_slice(&mix(slot).to_be_bytes());
                key.bytes[8..16].copy_from_slice(&mix(!slot).to_be_bytes());
            }
        }
        key
    }

    pub(crate) fn key_bytes(self) -> u64 {
        if self == Shape::Prefix { KEY_BYTES_MAX as u64 } else { 16 }
    }
}

fn digits(mut n: u64, out: &mut [u8]) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (n % 10) as u8;
        n /= 10;
    }
}

/// A bijection on 64-bit numbers that leaves no order.
fn mix(n: u64) -> u64 {
    let z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Numbers that look random and are the same each time.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(mix(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// From 0 to 1, without 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// All numbers below `n`, each once, in an order that looks random: a Feistel network of which the
/// results outside of the range are sent through again.
#[derive(Clone, Copy)]
pub(crate) struct Shuffle {
    n: u64,
    half_bits: u32,
}

impl Shuffle {
    pub(crate) fn new(n: u64) -> Shuffle {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        Shuffle { n, half_bits: bits.div_ceil(2).max(1) }
    }

    /// The number at place `i`; places beyond the end begin again.
    pub(crate) fn at(&self, i: u64) -> u64 {
        let mask = (1_u64 << self.half_bits) - 1;
        let mut number = i % self.n;
        loop {
            let (mut left, mut right) = (number >> self.half_bits, number & mask);
            for round in 1..=3_u64 {
                let scrambled = (right ^ (round << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                (left, right) = (right, left ^ ((scrambled >> 29) & mask));
            }
            number = (left << self.half_bits) | right;
            if number < self.n {
                return number;
            }
        }
    }
}

/// Ranks below `n` as popular as Zipf's law has them, after Gray et al., "Quickly generating
/// billion-record synthetic databases".
#[derive(Clone)]
pub(crate) struct Zipf {
    n: f64,
    theta: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipf {
    pub(crate) fn new(n: u64, theta: f64) -> Zipf {
        let zeta_of = |n: u64| (1..=n).map(|i| (i as f64).powf(-theta)).sum::<f64>();
        let zeta = zeta_of(n);
        let eta = (1.0 - (2.0 / n as f64).powf(1.0 - theta)) / (1.0 - zeta_of(2) / zeta);
        Zipf { n: n as f64, theta, zeta, alpha: 1.0 / (1.0 - theta), eta }
    }

    /// 0 is the most popular.
    pub(crate) fn rank(&self, random: &mut Random) -> u64 {
        let unit = random.unit();
        let scaled = unit * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(self.theta) {
            return 1;
        }
        let rank = self.n * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.n as u64 - 1)
    }
}

/// Values of one length.
#[derive(Clone)]
pub(crate) struct Values {
    pool: Arc<[u8]>,
    len: usize,
}

impl Values {
    pub(crate) fn new(len: usize) -> Values {
        let mut random = Random::new(7);
        let mut pool = Vec::with_capacity(POOL_BYTES + len + PIECE_BYTES);
        while pool.len() < POOL_BYTES + len {
            let fresh: Vec<u8> = (0..PIECE_BYTES / 2).map(|_| random.next() as u8).collect();
            pool.extend_from_slice(&fresh);
            pool.extend_from_slice(&fresh);
        }
        Values { pool: pool.into(), len }
    }

    /// Value number `n`.
    pub(crate) fn of(&self, n: u64) -> &[u8] {
        let start = (n as usize).wrapping_mul(self.len.next_multiple_of(PIECE_BYTES)) % POOL_BYTES;
        let start = start - start % PIECE_BYTES;
        &self.pool[start..start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_keys_sort_as_their_slots() {
        assert_eq!(&*Shape::Decimal.key(1_234), b"0000000000001234");
        assert!(*Shape::Prefix.key(9) < *Shape::Prefix.key(10));
        assert_eq!(Shape::Prefix.key(9).len() as u64, Shape::Prefix.key_bytes());
        assert_eq!(Shape::Random.key(9).len() as u64, Shape::Random.key_bytes());
    }

    #[test]
    fn a_shuffle_gives_every_number_once() {
        for n in [1, 2, 3, 1_000, 1_024, 4_097] {
            let shuffle = Shuffle::new(n);
            let mut seen: Vec<u64> = (0..n).map(|i| shuffle.at(i)).collect();
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(0..n), "{n}");
        }
    }

    #[test]
    fn a_shuffle_leaves_no_order() {
        let shuffle = Shuffle::new(100_000);
        let ascents = (1..100_000).filter(|&i| shuffle.at(i) > shuffle.at(i - 1)).count();
        assert!((48_000..52_000).contains(&ascents), "{ascents}");
    }

    #[test]
    fn ranks_follow_the_law() {
        let (zipf, mut random) = (Zipf::new(1_000, 0.99), Random::new(1));
        let mut counts = vec![0_u32; 1_000];
        for _ in 0..200_000 {
            counts[zipf.rank(&mut random) as usize] += 1;
        }
        let first_over_tenth = f64::from(counts[0]) / f64::from(counts[9]);
        assert!((7.0..13.0).contains(&first_over_tenth), "{first_over_tenth}");
        assert!(counts.iter().filter(|count| **count > 0).count() > 900);
    }

    #[test]
    fn values_have_their_length_and_differ() {
        for len in [100, 1_024, 16_384] {
            let values = Values::new(len);
            assert_eq!(values.of(u64::MAX).len(), len);
            assert_ne!(values.of(1), values.of(2));
            assert_eq!(values.of(1)[..50], values.of(1)[50..100]);
        }
    }
}
