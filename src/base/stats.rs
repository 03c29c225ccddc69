//! Counters and histograms that cost little enough to be always on.

use std::cell::Cell;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const STRIPES: usize = 16;

#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(AtomicU64);

/// A counter that threads bump without sharing a cache line: each has a stripe of its own.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    stripes: [Stripe; STRIPES],
}

fn stripe_of_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    STRIPE.with(|stripe| {
        if stripe.get() == usize::MAX {
            stripe.set(NEXT.fetch_add(1, Relaxed) % STRIPES);
        }
        stripe.get()
    })
}

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.stripes[stripe_of_thread()].0.fetch_add(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.stripes.iter().map(|stripe| stripe.0.load(Relaxed)).sum()
    }
}

/// Durations in buckets of powers of two of nanoseconds, each split in eight.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: Vec<AtomicU64>,
    max_ns: AtomicU64,
}

const SUB_BITS: u32 = 3;

fn bucket_of(ns: u64) -> usize {
    if ns < 1 << SUB_BITS {
        return ns as usize;
    }
    let exponent = ns.ilog2();
    let sub = (ns >> (exponent - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    (((exponent - SUB_BITS + 1) as usize) << SUB_BITS) + sub as usize
}

fn bucket_top(bucket: usize) -> u64 {
    if bucket < 1 << SUB_BITS {
        return bucket as u64;
    }
    let exponent = (bucket >> SUB_BITS) as u32 + SUB_BITS - 1;
    let sub = (bucket & ((1 << SUB_BITS) - 1)) as u64;
    let width = 1u64 << (exponent - SUB_BITS);
    (1u64 << exponent) + (sub + 1) * width - 1
}

impl Default for Histogram {
    fn default() -> Histogram {
        // Durations beyond 2^40 ns (18 minutes) share the last bucket.
        let buckets = (0..=bucket_of(1 << 40)).map(|_| AtomicU64::new(0)).collect();
        Histogram { buckets, max_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    pub(crate) fn record(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let last = self.buckets.len() - 1;
        self.buckets[bucket_of(ns).min(last)].fetch_add(1, Relaxed);
        self.max_ns.fetch_max(ns, Relaxed);
    }

    /// Count, p50, p99, p99.9 and maximum.
    pub(crate) fn summary(&self) -> LatencySummary {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let max = self.max_ns.load(Relaxed);
        let quantile = |permille: u64| {
            let rank = (total * permille).div_ceil(1000);
            let mut seen = 0;
            for (bucket, count) in counts.iter().enumerate() {
                seen += count;
                if *count > 0 && seen >= rank {
                    return Duration::from_nanos(bucket_top(bucket).min(max));
                }
            }
            Duration::ZERO
        };
        LatencySummary {
            count: total,
            p50: quantile(500),
            p99: quantile(990),
            p999: quantile(999),
            max: Duration::from_nanos(max),
        }
    }
}

/// A distribution of durations in five figures, each exact to an eighth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LatencySummary {
    /// How many were measured.
    pub count: u64,
    /// Half took at most this long.
    pub p50: Duration,
    /// 99 in 100 took at most this long.
    pub p99: Duration,
    /// 999 in 1,000 took at most this long.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_hold_what_they_say() {
        for ns in (0..100_000).chain([1 << 30, (1 << 30) + 1, (1 << 39) + 12345]) {
            let bucket = bucket_of(ns);
            assert!(ns <= bucket_top(bucket));
            assert!(bucket == 0 || ns > bucket_top(bucket - 1));
        }
    }

    #[test]
    fn quantiles_are_exact_to_an_eighth() {
        let histogram = Histogram::default();
        for us in 1..=1000 {
            histogram.record(Duration::from_micros(us));
        }
        let summary = histogram.summary();
        assert_eq!(summary.count, 1000);
        assert_eq!(summary.max, Duration::from_millis(1));
        for (found, exact) in [(summary.p50, 500), (summary.p99, 990), (summary.p999, 999)] {
            let exact = Duration::from_micros(exact);
            assert!(found >= exact && found <= exact + exact / 8, "{found:?} for {exact:?}");
        }
    }
}
