//! Commands on the database as a whole: `keyspaces`, `stats`, `levels`, `compact`, `verify`,
//! `repair`, `dump`.

use std::fmt::Write as _;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use esker::RepairReport;
use esker::Stats;
use serde_json::json;

use crate::cli::Global;
use crate::cli::RangeArgs;
use crate::failure::Failure;
use crate::failure::Result;
use crate::latency;
use crate::picture;
use crate::progress::Progress;
use crate::text;

fn print(text: impl std::fmt::Display) -> Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

pub(crate) fn keyspaces(global: &Global, path: &Path) -> Result<()> {
    let db = global.open_to_read(path)?;
    let names = db.keyspaces();
    if global.json {
        print(format_args!("{}\n", json!(names)))?;
    } else {
        let lines: String = names.iter().map(|name| text::escape(name.as_bytes()) + "\n").collect();
        print(lines)?;
    }
    db.close()?;
    Ok(())
}

pub(crate) fn levels(global: &Global, path: &Path, files: bool) -> Result<()> {
    let db = global.open_to_read(path)?;
    let stats = db.stats();
    if global.json {
        print(format_args!("{}\n", picture::json(&stats, files)))?;
    } else {
        print(picture::draw(&stats, files))?;
    }
    db.close()?;
    Ok(())
}

pub(crate) fn stats(global: &Global, path: &Path) -> Result<()> {
    let db = global.open_to_read(path)?;
    let stats = db.stats();
    if global.json {
        print(format_args!("{}\n", stats_json(&stats)))?;
    } else {
        print(stats_text(&stats))?;
    }
    db.close()?;
    Ok(())
}

/// Statistics for people.
fn stats_text(stats: &Stats) -> String {
    let mut out = picture::draw(stats, false);
    let mut line = |name: &str, text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<12} {text}");
    };
    let bytes = text::bytes;
    let memory = &stats.memory;
    line(
        "memory",
        format!(
            "{} of memtables, {} of blocks, {} of open files, {} of jobs; the budget is {}",
            bytes(memory.memtables),
            bytes(memory.block_cache),
            bytes(memory.files),
            bytes(memory.jobs),
            bytes(memory.budget),
        ),
    );
    let wal = &stats.wal;
    line(
        "log",
        format!(
            "{} in {}; {} written, {}",
            bytes(wal.bytes),
            text::plural(wal.segments as u64, "segment"),
            bytes(wal.bytes_written),
            text::plural(wal.syncs, "sync")
        ),
    );
    let batches = text::plural(stats.writes.batches, "batch");
    line("writes", format!("{batches}, {}", bytes(stats.writes.bytes)));
    let background = &stats.background;
    line(
        "background",
        format!(
            "flushes: {}, {} written; compactions: {}, {} read, {} written; {} moved; \
             {} running, {} failed",
            text::count(background.flushes),
            bytes(background.flush_bytes),
            text::count(background.compactions),
            bytes(background.compaction_bytes_read),
            bytes(background.compaction_bytes_written),
            text::plural(background.moves, "file"),
            background.running,
            background.failures,
        ),
    );
    let stall = |name: &str, stall: esker::Stall| {
        format!("{name}: {} ({})", text::count(stall.count), text::duration(stall.total))
    };
    line(
        "delays",
        [
            stall("compaction debt", stats.stalls.slowdown),
            stall("memtables", stats.stalls.memtables),
            stall("level 0", stats.stalls.level0),
        ]
        .join(", "),
    );
    if let Some(cause) = &stats.read_only {
        line("read-only", cause.clone());
    }
    if let Some(given_up) = &stats.given_up {
        line("given up", given_up.to_string());
    }
    out
}

/// Statistics for programs.
pub(crate) fn stats_json(stats: &Stats) -> serde_json::Value {
    let (memory, wal, background) = (&stats.memory, &stats.wal, &stats.background);
    let us = |duration: Duration| duration.as_nanos() as f64 / 1e3;
    let stall = |stall: esker::Stall| json!({ "count": stall.count, "total_us": us(stall.total) });
    let sync = &stats.writes.sync_latency;
    json!({
        "keyspaces": picture::json(stats, false),
        "memory": {
            "budget": memory.budget,
            "memtables": memory.memtables,
            "block_cache": memory.block_cache,
            "files": memory.files,
            "jobs": memory.jobs,
        },
        "wal": {
            "segments": wal.segments,
            "bytes": wal.bytes,
            "kept_segments": wal.kept_segments,
            "kept_bytes": wal.kept_bytes,
            "bytes_written": wal.bytes_written,
            "syncs": wal.syncs,
        },
        "writes": {
            "batches": stats.writes.batches,
            "bytes": stats.writes.bytes,
            "sync_us": {
                "count": sync.count,
                "p50": us(sync.p50),
                "p99": us(sync.p99),
                "p99_9": us(sync.p999),
                "max": us(sync.max),
            },
        },
        "background": {
            "flushes": background.flushes,
            "flush_bytes": background.flush_bytes,
            "compactions": background.compactions,
            "compaction_bytes_read": background.compaction_bytes_read,
            "compaction_bytes_written": background.compaction_bytes_written,
            "moves": background.moves,
            "running": background.running,
            "failures": background.failures,
        },
        "stalls": {
            "slowdown": stall(stats.stalls.slowdown),
            "memtables": stall(stats.stalls.memtables),
            "level0": stall(stats.stalls.level0),
        },
        "write_amplification": stats.write_amplification(),
        "sst_bytes": stats.sst_bytes(),
        "blob_bytes": stats.blob_bytes(),
        "snapshots": stats.snapshots,
        "read_only": stats.read_only,
        "given_up": stats.given_up.as_ref().map(given_up_json),
    })
}

fn given_up_json(given_up: &esker::GivenUp) -> serde_json::Value {
    json!({
        "file": given_up.file,
        "offset": given_up.offset,
        "what": given_up.what,
        "first_seqno": given_up.first_seqno.get(),
        "last_seqno": given_up.last_seqno.map(esker::SeqNo::get),
        "batches": given_up.batches,
        "bytes": given_up.bytes,
        "kept": given_up.kept,
    })
}

pub(crate) fn compact(
    global: &Global,
    path: &Path,
    range: &RangeArgs,
    progress: &Progress,
) -> Result<()> {
    let (db, keyspace) = global.open_keyspace(path)?;
    let bytes = || db.stats().sst_bytes() + db.stats().blob_bytes();
    let before = bytes();
    let start = latency::now();
    let bar = progress.wait("compacting");
    let done = std::thread::scope(|scope| {
        let compaction = scope.spawn(|| {
            let bounds = match range.bounds() {
                (None, None) => return keyspace.compact_range::<&[u8], _>(..),
                (Some(from), None) => return keyspace.compact_range(from..),
                (None, Some(to)) => return keyspace.compact_range(..to),
                (Some(from), Some(to)) => from..to,
            };
            keyspace.compact_range(bounds)
        });
        while !compaction.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
            if start.elapsed().subsec_millis() % 500 < 5 {
                let written = db.stats().background.compaction_bytes_written;
                bar.message(format!("{} written", text::bytes(written)));
            }
        }
        compaction.join()
    });
    drop(bar);
    done.map_err(|_| Failure::new("the compaction panicked"))??;
    let after = bytes();
    if global.json {
        let json = json!({
            "bytes_before": before,
            "bytes_after": after,
            "seconds": start.elapsed().as_secs_f64(),
        });
        print(format_args!("{json}\n"))?;
    } else {
        let (before, after) = (text::bytes(before), text::bytes(after));
        let time = text::duration(start.elapsed());
        print(format_args!("compacted {before} to {after} in {time}\n"))?;
    }
    db.close()?;
    Ok(())
}

pub(crate) fn verify(global: &Global, path: &Path, progress: &Progress) -> Result<()> {
    let db = global.open_to_read(path)?;
    let start = latency::now();
    let bar = progress.bytes("verifying", Some(0));
    let found = db.verify(&mut |done, total| {
        bar.set_total(total);
        bar.set(done);
    });
    drop(bar);
    let found = found?;
    if global.json {
        let json = json!({
            "ok": true,
            "files": found.files,
            "blocks": found.blocks,
            "entries": found.entries,
            "bytes": found.bytes,
            "seconds": start.elapsed().as_secs_f64(),
        });
        print(format_args!("{json}\n"))?;
    } else {
        print(format_args!(
            "all is well: {}, {}, {} entries, {} read in {}\n",
            text::plural(found.files, "file"),
            text::plural(found.blocks, "block"),
            text::count(found.entries),
            text::bytes(found.bytes),
            text::duration(start.elapsed()),
        ))?;
    }
    db.close()?;
    Ok(())
}

pub(crate) fn repair(global: &Global, from: &Path, to: &Path, progress: &Progress) -> Result<()> {
    let start = latency::now();
    let bar = progress.bytes("repairing", Some(0));
    let report = global.options().repair(from, to, &mut |done, total| {
        bar.set_total(total);
        bar.set(done);
    });
    drop(bar);
    let report = report?;
    if global.json {
        let mut json = repair_json(&report);
        json["seconds"] = start.elapsed().as_secs_f64().into();
        return print(format_args!("{json}\n"));
    }
    print(repair_text(&report, to, start.elapsed()))
}

/// The report for people.
fn repair_text(report: &RepairReport, to: &Path, time: Duration) -> String {
    let mut out = format!(
        "saved {} in {}, {} from the log, in {}\n",
        text::plural(report.entries, "entry"),
        text::plural(report.keyspaces.len() as u64, "keyspace"),
        text::plural(report.batches, "batch"),
        text::duration(time),
    );
    let mut line = |name: &str, text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<12} {text}");
    };
    for keyspace in &report.keyspaces {
        let name = text::escape(keyspace.name.as_bytes());
        line("keyspace", format!("{name}: {}", text::plural(keyspace.entries, "entry")));
    }
    let files = text::plural(report.files, "file");
    let (damaged, unreadable) = (report.files_damaged, report.files_unreadable);
    line(
        "read",
        format!("{files}; {damaged} damaged, of which {unreadable} unreadable or missing"),
    );
    for loss in &report.losses {
        line("damaged", loss.to_string());
    }
    for remark in &report.remarks {
        line("note", remark.clone());
    }
    line(
        "lost",
        match (report.is_clean(), report.bytes_lost) {
            (true, _) => "nothing".to_owned(),
            (false, 0) => "nothing that is known".to_owned(),
            (false, bytes) => format!("{} of stored entries", text::bytes(bytes)),
        },
    );
    line("new", to.display().to_string());
    out
}

/// The report for programs.
fn repair_json(report: &RepairReport) -> serde_json::Value {
    let keyspaces: Vec<_> = report
        .keyspaces
        .iter()
        .map(|keyspace| json!({ "name": keyspace.name, "entries": keyspace.entries }))
        .collect();
    let losses: Vec<_> = report
        .losses
        .iter()
        .map(|loss| {
            let keys = loss.keys.as_ref();
            json!({
                "file": loss.file,
                "offset": loss.offset,
                "bytes": loss.bytes,
                "what": loss.what,
                "from": keys.map(|(from, _)| text::escape(from)),
                "to": keys.map(|(_, to)| text::escape(to)),
            })
        })
        .collect();
    json!({
        "ok": report.is_clean(),
        "entries": report.entries,
        "keyspaces": keyspaces,
        "batches": report.batches,
        "files": report.files,
        "files_damaged": report.files_damaged,
        "files_unreadable": report.files_unreadable,
        "bytes_lost": report.bytes_lost,
        "losses": losses,
        "remarks": report.remarks,
    })
}

pub(crate) fn dump(path: &Path) -> Result<()> {
    // Checked here, since the message is about the argument rather than a database.
    match std::fs::metadata(path) {
        Err(error) => return Err(Failure::io("read", path.display(), &error)),
        Ok(meta) if meta.is_dir() => {
            let path = path.display();
            return Err(Failure::new(format!("{path} is a directory: name a file in it")));
        }
        Ok(_) => {}
    }
    let mut out = ErrorKeeper { out: BufWriter::new(io::stdout().lock()), failed: None };
    let dumped = esker::dump(path, &mut out);
    // An output that fails is told apart from a file that does: the engine sees one for the other.
    if let Some(error) = out.failed {
        return Err(error.into());
    }
    dumped?;
    out.out.flush()?;
    Ok(())
}

/// Remembers why writing failed.
struct ErrorKeeper<W> {
    out: W,
    failed: Option<io::Error>,
}

impl<W: Write> Write for ErrorKeeper<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes).map_err(|error| {
            let kind = error.kind();
            self.failed = Some(error);
            kind.into()
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
