//! Times of operations: one look at the clock for each, whatever the engine.

use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use hdrhistogram::Histogram;

const HOUR_NS: u64 = 3_600_000_000_000;

/// When a row ends: at so many operations, or when the time is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) ops: u64,
    pub(crate) time: Duration,
}

/// The times of one thread, or of several put together.
pub(crate) struct Meter {
    histogram: Histogram<u64>,
    started: Instant,
    last: Instant,
    ops: u64,
    per_second: Vec<u64>,
}

impl Meter {
    /// Starts the clock.
    pub(crate) fn start() -> Result<Meter> {
        let histogram = Histogram::new_with_max(HOUR_NS, 3)?;
        let started = Instant::now();
        Ok(Meter { histogram, started, last: started, ops: 0, per_second: Vec::new() })
    }

    /// Takes the time since the last look as that of one call that did `ops` operations. Returns
    /// the time since the start.
    #[inline]
    pub(crate) fn lap(&mut self, ops: u64) -> Duration {
        let (ns, elapsed) = self.look(ops);
        self.histogram.saturating_record(ns);
        elapsed
    }

    /// The same for `ops` operations that are too short to be timed one by one.
    #[inline]
    pub(crate) fn lap_shared(&mut self, ops: u64) -> Duration {
        let (ns, elapsed) = self.look(ops);
        self.histogram.saturating_record_n(ns / ops.max(1), ops);
        elapsed
    }

    #[inline]
    fn look(&mut self, ops: u64) -> (u64, Duration) {
        let now = Instant::now();
        let ns = (now - self.last).as_nanos() as u64;
        self.last = now;
        self.ops += ops;
        let elapsed = now - self.started;
        let second = elapsed.as_secs() as usize;
        if second >= self.per_second.len() {
            self.per_second.resize(second + 1, 0);
        }
        self.per_second[second] += ops;
        (ns, elapsed)
    }

    /// Calls `op` with 0, 1, … until the limit. It returns how many operations it did.
    pub(crate) fn drive(limit: Limit, mut op: impl FnMut(u64) -> Result<u64>) -> Result<Meter> {
        let mut meter = Meter::start()?;
        let mut call = 0;
        while meter.ops < limit.ops {
            let ops = op(call)?;
            call += 1;
            if meter.lap(ops) >= limit.time {
                break;
            }
        }
        Ok(meter)
    }

    /// The same for as long as `go_on` says so.
    pub(crate) fn drive_while(
        go_on: &dyn Fn() -> bool,
        mut op: impl FnMut(u64) -> Result<u64>,
    ) -> Result<Meter> {
        let mut meter = Meter::start()?;
        let mut call = 0;
        while go_on() {
            let ops = op(call)?;
            call += 1;
            meter.lap(ops);
        }
        Ok(meter)
    }

    /// Adds what another thread did at the same time.
    pub(crate) fn merge(&mut self, other: &Meter) -> Result<()> {
        self.histogram.add(&other.histogram)?;
        self.started = self.started.min(other.started);
        self.last = self.last.max(other.last);
        self.ops += other.ops;
        self.per_second.resize(self.per_second.len().max(other.per_second.len()), 0);
        for (mine, theirs) in self.per_second.iter_mut().zip(&other.per_second) {
            *mine += theirs;
        }
        Ok(())
    }

    pub(crate) fn ops(&self) -> u64 {
        self.ops
    }

    pub(crate) fn seconds(&self) -> f64 {
        (self.last - self.started).as_secs_f64().max(1e-9)
    }

    /// In nanoseconds.
    pub(crate) fn quantile(&self, quantile: f64) -> u64 {
        self.histogram.value_at_quantile(quantile)
    }

    /// Of whole seconds; None if there are fewer than three.
    pub(crate) fn worst_over_median_second(&self) -> Option<f64> {
        let whole = (self.last - self.started).as_secs() as usize;
        let mut seconds = self.per_second.get(..whole)?.to_vec();
        seconds.sort_unstable();
        if seconds.len() < 3 {
            return None;
        }
        Some(seconds[0] as f64 / seconds[seconds.len() / 2].max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_ends_at_its_operations_or_at_its_time() {
        let minute = Duration::from_mins(1);
        let meter = Meter::drive(Limit { ops: 1_000, time: minute }, |_| Ok(100)).unwrap();
        assert_eq!(meter.ops(), 1_000);
        let short = Limit { ops: u64::MAX, time: Duration::from_millis(5) };
        let meter = Meter::drive(short, |_| Ok(1)).unwrap();
        assert!((0.005..1.0).contains(&meter.seconds()));
        assert!(meter.worst_over_median_second().is_none());
    }

    #[test]
    fn the_worst_second_is_a_whole_one() {
        let mut meter = Meter::start().unwrap();
        meter.last = meter.started + Duration::from_millis(4_500);
        meter.per_second = vec![100, 80, 120, 110, 1];
        assert!((meter.worst_over_median_second().unwrap() - 80.0 / 110.0).abs() < 1e-9);
    }

    #[test]
    fn threads_add_up() {
        let limit = Limit { ops: 10, time: Duration::from_mins(1) };
        let mut meter = Meter::drive(limit, |_| Ok(1)).unwrap();
        meter.merge(&Meter::drive(limit, |_| Ok(1)).unwrap()).unwrap();
        assert_eq!(meter.ops(), 20);
    }
}
