//! `tour`: the proof that the engine does what it says, in a temporary directory.
//!
//! While a child process is killed again and again in mid-write (`crash`), the big database is
//! loaded (`store`); then it is overwritten, deleted from, compacted, read in every way, and
//! reopened, each time against what must be there.

mod crash;
mod report;
mod store;
pub(crate) mod writer;

use std::path::Path;
use std::time::Duration;

use esker::Db;
use esker::Durability;
use esker::Options;
use serde_json::json;

use crate::cli::Global;
use crate::cli::TourArgs;
use crate::data;
use crate::failure::Failure;
use crate::failure::Result;
use crate::latency;
use crate::latency::Latency;
use crate::latency::Timings;
use crate::picture;
use crate::process;
use crate::progress::Progress;
use crate::text;
use crate::tour::report::Check;
use crate::tour::report::Report;
use crate::tour::store::Store;
use crate::tour::store::Tally;
use crate::tour::store::Way;

/// Runs the tour; false if a check failed.
pub(crate) fn run(global: &Global, args: &TourArgs, progress: &Progress) -> Result<bool> {
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::Builder::new()
        .prefix("esker-tour-")
        .tempdir_in(&parent)
        .map_err(|error| Failure::io("create a directory in", parent.display(), &error))?;
    let seed = args.seed.unwrap_or_else(data::any_seed);
    let start = latency::now();
    let mut report = Report::new(progress, global.json);
    report.say(format_args!(
        "esker {}: {} records in {}; --seed {seed} repeats this run\n",
        env!("CARGO_PKG_VERSION"),
        text::count(args.records),
        dir.path().display()
    ))?;
    report.fact("seed", seed.into());
    report.fact("records", args.records.into());
    let options = options(global, args.records);
    let log_bytes = args.log.unwrap_or((args.records * LOG_BYTES_PER_RECORD).min(1 << 30));
    let toured =
        Tour { options, seed, progress, dir: dir.path(), log_bytes }.run(args.records, &mut report);
    if args.keep {
        let path = dir.keep();
        progress.note(format_args!("the databases are in {}", path.display()));
    }
    toured?;
    report.finish(start.elapsed().as_secs_f64())
}

/// Such a log takes a few seconds to write, however long the tour.
const LOG_BYTES_PER_RECORD: u64 = 256;
const DURABILITY: Durability = Durability::Interval(Duration::from_millis(100));

/// Options that give even a small tour a tree of several levels.
fn options(global: &Global, records: u64) -> Options {
    let mut options = global.options().durability(DURABILITY);
    if global.memtable.is_none() && global.memory_budget.is_none() {
        let bytes = (records * 116 / 32).clamp(16 << 10, 16 << 20);
        options = options.memtable_bytes(bytes as usize).file_bytes(bytes);
    }
    options
}

struct Tour<'a> {
    options: Options,
    seed: u64,
    progress: &'a Progress,
    dir: &'a Path,
    /// Length of the log of one crash.
    log_bytes: u64,
}

impl Tour<'_> {
    fn run(&self, records: u64, report: &mut Report<'_>) -> Result<()> {
        let mut timings = Timings::default();
        let mut store = self.load_and_crash(records, &mut timings, report)?;
        self.change(&mut store, report)?;
        self.read(&store, &mut timings, report)?;
        Tour::measure(&store, &timings, report)?;
        self.reopen(store, report)
    }

    /// Loads the big database while another one is crashed.
    fn load_and_crash(
        &self,
        records: u64,
        timings: &mut Timings,
        report: &mut Report<'_>,
    ) -> Result<Store> {
        let path = self.dir.join("big");
        let mut store = Store::new(self.options.clone().open(path)?, self.seed, DURABILITY);
        let crashed_path = self.dir.join("crashed");
        let start = latency::now();
        let (loaded, crashes, elapsed) = std::thread::scope(|scope| {
            let crashes =
                scope.spawn(|| crash::run(&crashed_path, self.seed, self.log_bytes, self.progress));
            let mut bar = self.progress.entries("loading", Some(records));
            let loaded = store.load(records, &mut bar, &mut timings.put);
            let elapsed = start.elapsed();
            drop(bar);
            (loaded, crashes.join(), elapsed)
        });
        loaded?;
        let crashes = crashes.map_err(|_| Failure::new("a thread of the tour panicked"))??;
        let rate = records as f64 / elapsed.as_secs_f64();
        report.fact("load_records_per_second", rate.into());
        report.say(format_args!(
            "Loaded {} in random order, one by one, in {} ({} per second), while another \
             process wrote and was killed.",
            text::plural(records, "record"),
            text::duration(elapsed),
            text::rate(records, elapsed)
        ))?;
        report.fact("crashes", crashes.json);
        crashes.checks.into_iter().try_for_each(|check| report.check(check))?;
        Ok(store)
    }

    /// Overwrites, deletes and compacts, under a snapshot that must not notice.
    fn change(&self, store: &mut Store, report: &mut Report<'_>) -> Result<()> {
        let snapshot = store.db.snapshot();
        let mut bar = self.progress.entries("overwriting", Some(store.len() / 5));
        let overwritten = store.overwrite(20, &mut bar)?;
        drop(bar);
        let mut bar = self.progress.entries("deleting", Some(store.len() / 10));
        let deleted = store.delete(10, &mut bar)?;
        drop(bar);
        let (overwritten, deleted) = (text::count(overwritten), text::count(deleted));
        report.say(format_args!("\nOverwrote {overwritten} records and deleted {deleted}."))?;
        let tally = store.reads_of(&snapshot, (store.len() / 10).max(1000))?;
        report.check(compare(
            "a snapshot from before still sees everything as it was",
            &tally,
            "random read",
        ))?;
        drop(snapshot);
        let stats = store.db.stats();
        report.say(format_args!("\n{}", picture::draw(&stats, false)))?;
        report.fact("levels_before_compaction", picture::json(&stats, false));
        let bar = self.progress.wait("compacting");
        let start = latency::now();
        store.db.compact_range::<&[u8], _>(..)?;
        drop(bar);
        let stats = store.db.stats();
        let time = text::duration(start.elapsed());
        report.say(format_args!("Compacted in {time}.\n\n{}", picture::draw(&stats, false)))?;
        report.fact("levels", picture::json(&stats, false));
        Ok(())
    }

    /// Reads in every way there is.
    fn read(&self, store: &Store, timings: &mut Timings, report: &mut Report<'_>) -> Result<()> {
        let len = store.len();
        let tour = [
            ("a scan of everything", 0, len, Way::Forwards),
            ("the same scan backwards", 0, len, Way::Backwards),
            ("a range from both its ends", len / 3, len / 3 * 2, Way::FromBothEnds),
        ];
        for (what, from, to, way) in tour {
            let mut bar = self.progress.entries("scanning", Some(to - from));
            let start = latency::now();
            let tally = store.scan(from, to, way, &mut bar)?;
            drop(bar);
            let rate = text::rate(tally.right + tally.wrong, start.elapsed());
            let what = format!("{what} finds every record, as it was last written, and no other");
            let mut check = compare(&what, &tally, "entry");
            check.add(&format!("{rate} per second"));
            report.check(check)?;
        }
        let reads = (len / 2).clamp(1000, 200_000);
        let mut bar = self.progress.entries("reading", Some(reads));
        let tally = store.random_reads(reads, &mut bar, &mut timings.get)?;
        drop(bar);
        report.check(compare(
            "random reads find what is there and nothing else",
            &tally,
            "read",
        ))?;
        let scans = (len / 20).clamp(100, 20_000);
        let mut bar = self.progress.entries("seeking", Some(scans));
        let tally = store.random_scans(scans, &mut bar, &mut timings.scan)?;
        drop(bar);
        report.check(compare("scans from random places find what comes next", &tally, "scan"))
    }

    /// Tells the latencies and what it costs in space and writes.
    fn measure(store: &Store, timings: &Timings, report: &mut Report<'_>) -> Result<()> {
        let rows: [(&str, &str, &Latency); 3] = [
            ("put", "put", &timings.put),
            ("get", "get", &timings.get),
            ("scan_100", "scan of 100", &timings.scan),
        ];
        report.say(format_args!("\n{:<12} {:>9} {}", "latency", "count", Latency::headings()))?;
        let mut json = serde_json::Map::new();
        for (name, title, latency) in rows {
            let count = text::count(latency.count());
            report.say(format_args!("{title:<12} {count:>9} {}", latency.columns()))?;
            json.insert(name.to_owned(), latency.json());
        }
        report.fact("latency", json.into());
        let stats = store.db.stats();
        let (records, live_bytes) = store.live_size();
        let disk = stats.sst_bytes();
        let space = disk as f64 / live_bytes.max(1) as f64;
        let writes = stats.write_amplification();
        report.fact("live_records", records.into());
        report.fact("live_bytes", live_bytes.into());
        report.fact("sst_bytes", disk.into());
        report.fact("space_amplification", space.into());
        report.fact("write_amplification", writes.into());
        report.fact("peak_memory_bytes", json!(process::peak_memory()));
        report.say(format_args!(
            "\nspace: {} in files for {} of keys and values, {space:.2} bytes per byte\n\
             writes: {writes:.2} bytes to disk per byte written, the log included\n\
             memory: {} of a budget of {}\n",
            text::bytes(disk),
            text::bytes(live_bytes),
            text::bytes(memory_in_use(&store.db)),
            text::bytes(stats.memory.budget),
        ))
    }

    /// Checks every byte, closes, opens, and counts.
    fn reopen(&self, store: Store, report: &mut Report<'_>) -> Result<()> {
        let bar = self.progress.bytes("verifying", Some(0));
        let verified = store.db.verify(&mut |done, total| {
            bar.set_total(total);
            bar.set(done);
        });
        drop(bar);
        report.check(Check::new(
            "every byte on disk checks out",
            verified.is_ok(),
            match verified {
                Ok(found) => format!(
                    "{}, {}, {}",
                    text::plural(found.files, "file"),
                    text::plural(found.blocks, "block"),
                    text::bytes(found.bytes)
                ),
                Err(error) => error.to_string(),
            },
        ))?;
        store.db.clone().close()?;
        let what = "closed and opened again, everything is there";
        let start = latency::now();
        let opened = self.options.clone().create_if_missing(false).open(self.dir.join("big"));
        let db = match opened {
            Ok(db) => db,
            Err(error) => return report.check(Check::new(what, false, error.to_string())),
        };
        let opening = start.elapsed();
        report.fact("reopening_ms", (opening.as_secs_f64() * 1e3).into());
        let store = store.reopened(db);
        let mut bar = self.progress.entries("scanning", Some(store.len()));
        let tally = store.scan(0, store.len(), Way::Forwards, &mut bar)?;
        drop(bar);
        let mut check = compare(what, &tally, "entry");
        check.add(&format!("opened in {}", text::duration(opening)));
        report.check(check)?;
        store.db.close()?;
        Ok(())
    }
}

fn memory_in_use(db: &Db) -> u64 {
    let memory = db.stats().memory;
    memory.memtables + memory.block_cache + memory.files + memory.jobs
}

fn compare(what: &str, tally: &Tally, noun: &str) -> Check {
    Check::new(what, tally.wrong == 0 && tally.right > 0, tally.to_text(noun))
}
