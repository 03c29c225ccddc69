//! What this process takes from the machine, as Linux counts it.
//!
//! - CPU: the process's clock, user and system time of all its threads.
//! - Bytes written: `write_bytes` of `/proc/self/io`, which counts pages as they become dirty, be it
//!   by a write or through a mapping. A page that is appended to many times before it is written out
//!   counts once. A page that is dirtied and then truncated or deleted unwritten counts as well.
//! - Memory: the peak of the resident set, reset at the start; and the highest of samples of its
//!   anonymous part, which leaves out the pages of mapped files.
//! - Disk: the blocks that the files of the directory occupy, so holes are free and room that is
//!   reserved is not.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use rustix::time::ClockId;

use super::Figures;

const SAMPLE_EVERY: Duration = Duration::from_millis(20);
const KIB_PER_MB: f64 = 1024.0 / 1e6;

/// Counts from its start to its end.
pub(crate) struct Watch {
    cpu_at_start: Duration,
    written_at_start: u64,
    anonymous_kib: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sampler: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start() -> Result<Watch> {
        fs::write("/proc/self/clear_refs", "5").context("resetting the peak of memory")?;
        let anonymous_kib = Arc::new(AtomicU64::new(status_kib("RssAnon:")?));
        let stop = Arc::new(AtomicBool::new(false));
        let (peak, stopped) = (anonymous_kib.clone(), stop.clone());
        let sampler = thread::spawn(move || {
            while !stopped.load(Relaxed) {
                thread::sleep(SAMPLE_EVERY);
                peak.fetch_max(status_kib("RssAnon:").unwrap_or(0), Relaxed);
            }
        });
        Ok(Watch {
            cpu_at_start: cpu(),
            written_at_start: bytes_written()?,
            anonymous_kib,
            stop,
            sampler: Some(sampler),
        })
    }

    /// Completes the figures. `user_bytes` are those of the keys and values that were written.
    pub(crate) fn stop(mut self, user_bytes: Option<u64>, figures: &mut Figures) -> Result<()> {
        let cpu = cpu().saturating_sub(self.cpu_at_start);
        let written = bytes_written()? - self.written_at_start;
        self.end_sampler();
        figures.cpu_us_per_op = Some(cpu.as_secs_f64() * 1e6 / figures.ops.max(1) as f64);
        figures.peak_rss_mb = Some(status_kib("VmHWM:")? as f64 * KIB_PER_MB);
        figures.peak_anonymous_mb = Some(self.anonymous_kib.load(Relaxed) as f64 * KIB_PER_MB);
        figures.write_amplification =
            user_bytes.filter(|bytes| *bytes > 0).map(|bytes| written as f64 / bytes as f64);
        Ok(())
    }

    fn end_sampler(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(sampler) = self.sampler.take() {
            // It cannot panic, and if it did, the samples until then would stand.
            drop(sampler.join());
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end_sampler();
    }
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn bytes_written() -> Result<u64> {
    // What is dirty is counted already; after a sync nobody writes it later, in another row.
    rustix::fs::sync();
    number_after(&fs::read_to_string("/proc/self/io")?, "write_bytes:")
}

fn status_kib(field: &str) -> Result<u64> {
    number_after(&fs::read_to_string("/proc/self/status")?, field)
}

/// The number in the line that begins with `field`.
fn number_after(text: &str, field: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).with_context(|| format!("no {field} in /proc"))
}

/// Bytes of disk that the files in `dir` occupy.
pub(crate) fn disk_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // A file may be deleted while we look.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes +=
            if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_field() {
        let text = "VmPeak:\t 1 kB\nVmHWM:\t   92344 kB\n";
        assert_eq!(number_after(text, "VmHWM:").unwrap(), 92_344);
        assert!(number_after(text, "VmRSS:").is_err());
    }

    #[test]
    fn a_watch_sees_memory_and_time() {
        let watch = Watch::start().unwrap();
        let memory = vec![1_u8; 64 << 20];
        thread::sleep(3 * SAMPLE_EVERY);
        let mut figures = Figures { ops: 1, ..Figures::default() };
        watch.stop(None, &mut figures).unwrap();
        drop(memory);
        assert!(figures.peak_anonymous_mb.unwrap() > 64.0);
        assert!(figures.cpu_us_per_op.unwrap() > 0.0);
    }
}
