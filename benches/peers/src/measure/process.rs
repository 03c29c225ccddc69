//! What this process takes from the machine, as Linux counts it.
//!
//! - CPU: the process's clock, user and system time of all its threads.
//! - Bytes written: `write_bytes` of `/proc/self/io`, which counts pages as they become dirty, be it
//!   by a write or through a mapping. A page that is appended to many times before it is written out
//!   counts once. A page that is dirtied and then truncated or deleted unwritten counts as well: so
//!   a log does, even if it is gone before it reaches the disk. Where the file system keeps pages in
//!   large folios, a small write counts the whole folio, so the figure is worth nothing where small
//!   writes are synced one by one. Beside it `wchar`, what was handed to system calls.
//! - Memory: the peak of the resident set, reset at the start; and the highest of samples of its
//!   anonymous part, which leaves out the pages of mapped files.
//! - Others: what all CPUs did, `/proc/stat`, less the process's own.
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
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use rustix::time::ClockId;

use super::Figures;

/// `USER_HZ` is 100 wherever Linux runs.
const MS_PER_TICK: u64 = 10;
const SAMPLE_EVERY: Duration = Duration::from_millis(20);
const KIB_PER_MB: f64 = 1024.0 / 1e6;

/// Counts from its start to its end.
pub(crate) struct Watch {
    started: Instant,
    cpu_at_start: Duration,
    machine_at_start: Duration,
    written_at_start: Written,
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
        // First, for it syncs what came before.
        let written_at_start = bytes_written()?;
        Ok(Watch {
            started: Instant::now(),
            cpu_at_start: cpu(),
            machine_at_start: machine_cpu()?,
            written_at_start,
            anonymous_kib,
            stop,
            sampler: Some(sampler),
        })
    }

    /// Completes the figures. `user_bytes` are those of the keys and values that were written.
    pub(crate) fn stop(mut self, user_bytes: Option<u64>, figures: &mut Figures) -> Result<()> {
        let cpu = cpu().saturating_sub(self.cpu_at_start);
        let machine = machine_cpu()?.saturating_sub(self.machine_at_start);
        let elapsed = self.started.elapsed();
        if elapsed > 20 * Duration::from_millis(MS_PER_TICK) {
            let others = machine.saturating_sub(cpu);
            figures.others_cores = others.as_secs_f64() / elapsed.as_secs_f64();
        }
        let written = bytes_written()?;
        self.end_sampler();
        figures.cpu_us_per_op = Some(cpu.as_secs_f64() * 1e6 / figures.ops.max(1) as f64);
        figures.peak_rss_mb = Some(status_kib("VmHWM:")? as f64 * KIB_PER_MB);
        figures.peak_anonymous_mb = Some(self.anonymous_kib.load(Relaxed) as f64 * KIB_PER_MB);
        if let Some(user_bytes) = user_bytes.filter(|bytes| *bytes > 0) {
            let before = &self.written_at_start;
            let per_byte = |bytes: u64| Some(bytes as f64 / user_bytes as f64);
            figures.write_amplification = per_byte(written.pages - before.pages);
            figures.handed_over = per_byte(written.handed_over - before.handed_over);
        }
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

/// Of all processes and the system, with what the host took away.
fn machine_cpu() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().and_then(|line| line.strip_prefix("cpu "));
    let ticks: Vec<u64> =
        line.unwrap_or_default().split_whitespace().map_while(|n| n.parse().ok()).collect();
    let [user, nice, system, _idle, _wait, irq, softirq, steal, ..] = ticks[..] else {
        bail!("no times in /proc/stat");
    };
    Ok(Duration::from_millis((user + nice + system + irq + softirq + steal) * MS_PER_TICK))
}

/// Bytes.
struct Written {
    pages: u64,
    handed_over: u64,
}

fn bytes_written() -> Result<Written> {
    // What is dirty is counted already; after a sync nobody writes it later, in another row.
    rustix::fs::sync();
    let io = fs::read_to_string("/proc/self/io")?;
    let pages = number_after(&io, "write_bytes:")?;
    Ok(Written { pages, handed_over: number_after(&io, "wchar:")? })
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
    use std::hint::black_box;

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
        let memory = black_box(vec![1_u8; 64 << 20]);
        thread::sleep(3 * SAMPLE_EVERY);
        let mut figures = Figures { ops: 1, ..Figures::default() };
        watch.stop(None, &mut figures).unwrap();
        drop(black_box(memory));
        assert!(figures.peak_anonymous_mb.unwrap() > 64.0);
        assert!(figures.cpu_us_per_op.unwrap() > 0.0);
    }
}
