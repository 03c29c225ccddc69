//! Time, and distributions of it.

use std::time::Duration;
use std::time::Instant;

use crate::text;

/// Now.
#[expect(clippy::disallowed_methods, reason = "a command measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

const SUB_BITS: u32 = 5;
const BUCKETS: usize = (64 - SUB_BITS as usize + 1) << SUB_BITS;

/// Durations in buckets of powers of two of nanoseconds, each split in 32: exact to 3 %.
#[derive(Clone)]
pub(crate) struct Latency {
    buckets: Vec<u64>,
    count: u64,
    sum_ns: u64,
    max_ns: u64,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { buckets: vec![0; BUCKETS], count: 0, sum_ns: 0, max_ns: 0 }
    }
}

fn bucket_of(ns: u64) -> usize {
    if ns < 1 << SUB_BITS {
        return ns as usize;
    }
    let exponent = ns.ilog2();
    let sub = (ns >> (exponent - SUB_BITS)) as usize & ((1 << SUB_BITS) - 1);
    ((exponent - SUB_BITS + 1) as usize) << SUB_BITS | sub
}

fn bucket_top(bucket: usize) -> u64 {
    if bucket < 1 << SUB_BITS {
        return bucket as u64;
    }
    let exponent = (bucket >> SUB_BITS) as u32 + SUB_BITS - 1;
    let sub = (bucket & ((1 << SUB_BITS) - 1)) as u64;
    let width = 1u64 << (exponent - SUB_BITS);
    (1u64 << exponent).saturating_add((sub + 1) * width - 1)
}

impl Latency {
    /// Does `act` and records how long it took.
    pub(crate) fn time<T>(&mut self, act: impl FnOnce() -> T) -> T {
        let start = now();
        let result = act();
        self.record(start.elapsed());
        result
    }

    pub(crate) fn record(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(ns)] += 1;
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Adds what another thread measured.
    pub(crate) fn merge(&mut self, other: &Latency) {
        for (bucket, count) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += count;
        }
        self.count += other.count;
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn mean(&self) -> Duration {
        Duration::from_nanos(self.sum_ns / self.count.max(1))
    }

    pub(crate) fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }

    /// The duration that `permille` in 1,000 did not exceed.
    pub(crate) fn quantile(&self, permille: u64) -> Duration {
        let rank = (self.count * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(bucket_top(bucket).min(self.max_ns));
            }
        }
        Duration::ZERO
    }

    /// p50, p99, p99.9 and maximum, each of a fixed width.
    pub(crate) fn columns(&self) -> String {
        let figures = [self.quantile(500), self.quantile(990), self.quantile(999), self.max()];
        figures.map(|figure| format!("{:>9}", text::duration(figure))).join(" ")
    }

    /// The headings of [`Latency::columns`].
    pub(crate) fn headings() -> String {
        ["p50", "p99", "p99.9", "max"].map(|name| format!("{name:>9}")).join(" ")
    }

    /// In microseconds, for programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        let us = |duration: Duration| (duration.as_nanos() as f64) / 1e3;
        serde_json::json!({
            "count": self.count,
            "mean_us": us(self.mean()),
            "p50_us": us(self.quantile(500)),
            "p99_us": us(self.quantile(990)),
            "p99_9_us": us(self.quantile(999)),
            "max_us": us(self.max()),
        })
    }
}

/// Collects latencies in several threads.
#[derive(Default)]
pub(crate) struct Timings {
    pub(crate) put: Latency,
    pub(crate) get: Latency,
    pub(crate) scan: Latency,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_lies_in_its_bucket() {
        let tops = (0..BUCKETS - 1).map(bucket_top);
        for ns in (0..10_000).chain([1 << 40, (1 << 40) - 1, u64::MAX]).chain(tops) {
            let bucket = bucket_of(ns);
            assert!(ns <= bucket_top(bucket), "{ns}");
            assert!(bucket == 0 || ns > bucket_top(bucket - 1), "{ns}");
        }
    }

    #[test]
    fn quantiles_are_exact_to_three_in_a_hundred() {
        let mut halves = [Latency::default(), Latency::default()];
        for us in 1..=1000 {
            halves[us as usize % 2].record(Duration::from_micros(us));
        }
        let mut all = Latency::default();
        halves.iter().for_each(|half| all.merge(half));
        assert_eq!(all.count(), 1000);
        assert_eq!(all.max(), Duration::from_millis(1));
        for (permille, exact_us) in [(500, 500), (990, 990), (999, 999)] {
            let found = all.quantile(permille).as_nanos() as f64 / 1e3;
            assert!((found / f64::from(exact_us) - 1.0).abs() < 0.04, "{found}");
        }
        assert_eq!(Latency::default().quantile(990), Duration::ZERO);
    }
}
