//! The results of a bench as a table, for people, and as JSON, for programs.

use std::io;
use std::io::Write as _;

use esker::Stats;
use serde_json::Value;
use serde_json::json;

use crate::bench::run::Measured;
use crate::cli::BenchArgs;
use crate::failure::Result;
use crate::latency::Latency;
use crate::progress::Progress;
use crate::text;

/// What one workload measured.
pub(crate) struct Outcome {
    name: String,
    measured: Measured,
    pub(crate) sustained: Option<Sustained>,
}

/// More about a workload that ran for a time.
pub(crate) struct Sustained {
    per_second: Vec<u64>,
    write_amplification: f64,
    space_amplification: f64,
    peak_anonymous: u64,
}

impl Sustained {
    /// `live_bytes`: what the entries' keys and values take.
    pub(crate) fn new(
        measured: &Measured,
        before: &Stats,
        after: &Stats,
        live_bytes: u64,
    ) -> Sustained {
        let disk = |stats: &Stats| {
            stats.wal.bytes_written
                + stats.background.flush_bytes
                + stats.background.compaction_bytes_written
        };
        let user = after.writes.bytes - before.writes.bytes;
        Sustained {
            per_second: measured.per_second.clone(),
            write_amplification: (disk(after) - disk(before)) as f64 / user.max(1) as f64,
            space_amplification: (after.sst_bytes() + after.blob_bytes()) as f64
                / live_bytes.max(1) as f64,
            peak_anonymous: measured.peak_anonymous,
        }
    }

    fn min(&self) -> u64 {
        self.per_second.iter().copied().min().unwrap_or(0)
    }

    fn median(&self) -> u64 {
        let mut sorted = self.per_second.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(0)
    }
}

impl Outcome {
    pub(crate) fn new(name: &str, measured: Measured) -> Outcome {
        Outcome { name: name.to_owned(), measured, sustained: None }
    }

    fn rate(&self) -> f64 {
        self.measured.ops as f64 / self.measured.elapsed.as_secs_f64().max(1e-9)
    }

    fn megabytes_per_second(&self) -> f64 {
        self.measured.bytes as f64 / 1e6 / self.measured.elapsed.as_secs_f64().max(1e-9)
    }

    fn json(&self) -> Value {
        let mut json = json!({
            "workload": self.name,
            "ops": self.measured.ops,
            "found": self.measured.found,
            "seconds": self.measured.elapsed.as_secs_f64(),
            "ops_per_second": self.rate(),
            "megabytes_per_second": self.megabytes_per_second(),
            "latency": self.measured.latency.json(),
        });
        if let Some(sustained) = &self.sustained {
            json["sustained"] = json!({
                "per_second": sustained.per_second,
                "min_per_second": sustained.min(),
                "median_per_second": sustained.median(),
                "write_amplification": sustained.write_amplification,
                "space_amplification": sustained.space_amplification,
                "peak_anonymous_bytes": sustained.peak_anonymous,
            });
        }
        json
    }
}

/// Prints outcomes as they come, or all at the end to programs.
pub(crate) struct Table<'a> {
    json: bool,
    args: &'a BenchArgs,
    progress: &'a Progress,
    rows: Vec<Value>,
}

impl<'a> Table<'a> {
    pub(crate) fn new(json: bool, args: &'a BenchArgs, progress: &'a Progress) -> Result<Self> {
        let table = Table { json, args, progress, rows: Vec::new() };
        if !json {
            progress.line(format_args!(
                "{}, values of {} bytes, {}, durability {:?}, seed {}\n",
                text::plural(args.num, "record"),
                args.value_bytes,
                text::plural(args.threads, "thread"),
                args.durability,
                args.seed
            ))?;
            progress.line(format_args!(
                "{:<24} {:>11} {:>11} {:>8} {}  found",
                "workload",
                "ops",
                "ops/s",
                "MB/s",
                Latency::headings()
            ))?;
        }
        Ok(table)
    }

    pub(crate) fn row(&mut self, outcome: &Outcome) -> Result<()> {
        self.rows.push(outcome.json());
        if self.json {
            return Ok(());
        }
        let measured = &outcome.measured;
        let found = match measured.found {
            0 => String::new(),
            found => format!("{:>5.1} %", found as f64 * 100.0 / measured.ops.max(1) as f64),
        };
        let row = format!(
            "{:<24} {:>11} {:>11} {:>8.1} {} {found}",
            outcome.name,
            text::count(measured.ops),
            text::rate(measured.ops, measured.elapsed),
            outcome.megabytes_per_second(),
            measured.latency.columns(),
        );
        self.progress.line(row.trim_end())?;
        if let Some(sustained) = &outcome.sustained {
            self.progress.line(format_args!(
                "  per second: min {}, median {}, over {} s\n  \
                 {:.2} bytes written to disk per byte, {:.2} bytes on disk per live byte, \
                 anonymous memory {} at most",
                text::count(sustained.min()),
                text::count(sustained.median()),
                sustained.per_second.len(),
                sustained.write_amplification,
                sustained.space_amplification,
                text::bytes(sustained.peak_anonymous),
            ))?;
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<()> {
        if self.json {
            let json = json!({
                "num": self.args.num,
                "value_bytes": self.args.value_bytes,
                "threads": self.args.threads,
                "seed": self.args.seed,
                "durability": format!("{:?}", self.args.durability),
                "workloads": self.rows,
            });
            writeln!(io::stdout(), "{json}")?;
        }
        Ok(())
    }
}
