//! What is measured of a row: times by a [`Meter`] in each thread, what the process took by a
//! [`Watch`] around all of them.

mod meter;
mod process;

pub(crate) use meter::Limit;
pub(crate) use meter::Meter;
pub(crate) use process::Watch;
pub(crate) use process::disk_bytes;

use serde::Deserialize;
use serde::Serialize;

/// One row of one engine in one repetition. What a row has no notion of is left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) ops: u64,
    pub(crate) seconds: f64,
    pub(crate) ops_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    /// Of all threads, those in the background too, until what was written has settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_us_per_op: Option<f64>,
    /// With the pages of mapped files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peak_rss_mb: Option<f64>,
    /// Without them: what the program itself holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peak_anonymous_mb: Option<f64>,
    /// Bytes written to files, log included, for each byte of keys and values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) write_amplification: Option<f64>,
    /// The same by what was handed to system calls, which leaves out what is written through a
    /// mapping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) handed_over: Option<f64>,
    /// Bytes on disk for each live byte of keys and values when the last write had returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) disk_under_load: Option<f64>,
    /// The same after it has settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) disk_settled: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) worst_over_median_second: Option<f64>,
    /// Cores that others kept busy meanwhile, or the host kept to itself.
    #[serde(default)]
    pub(crate) others_cores: f64,
    /// What a reader of the figures has to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

/// Above this, in cores, a row was disturbed. The system's own work for a row, such as writing its
/// pages to disk, stays below.
const OTHERS_CORES_MAX: f64 = 0.25;

impl Figures {
    pub(crate) fn disturbed(&self) -> bool {
        self.others_cores > OTHERS_CORES_MAX
    }

    pub(crate) fn of(meter: &Meter) -> Figures {
        let us = |ns: u64| ns as f64 / 1e3;
        Figures {
            ops: meter.ops(),
            seconds: meter.seconds(),
            ops_per_second: meter.ops() as f64 / meter.seconds(),
            p50_us: us(meter.quantile(0.5)),
            p99_us: us(meter.quantile(0.99)),
            p999_us: us(meter.quantile(0.999)),
            max_us: us(meter.quantile(1.0)),
            worst_over_median_second: meter.worst_over_median_second(),
            ..Figures::default()
        }
    }

    pub(crate) fn with_note(mut self, note: &str) -> Figures {
        self.note = Some(note.to_owned());
        self
    }
}
