//! `changes`: what was written, batch by batch.

use std::fs;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;
use std::time::SystemTime;

use esker::Change;
use esker::ChangeBatch;
use esker::ChangeOp;
use esker::Db;
use esker::ErrorKind;
use esker::SeqNo;

use crate::cli::ChangesArgs;
use crate::cli::Global;
use crate::failure::Result;
use crate::text;

/// So often `--follow` looks whether somebody has written.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) fn run(global: &Global, args: &ChangesArgs) -> Result<()> {
    if args.keep.is_some() || args.keep_for.is_some() {
        let age = args.keep_for.unwrap_or(Duration::MAX);
        let options = global.options().log_retention(args.keep.unwrap_or(u64::MAX), age);
        global.open_with(options, &args.db)?.close()?;
    }
    if !args.follow {
        let db = global.open_to_read(&args.db)?;
        return print_since(global, db, SeqNo::new(args.since)).map(drop);
    }
    let mut since = SeqNo::new(args.since);
    let mut read = None;
    loop {
        // Before it is read: what is written later is seen next time.
        let opened = last_opened(&args.db);
        if opened.is_none() || opened != read {
            match global.options().read_only(true).open(&args.db) {
                Err(error) if error.kind() == ErrorKind::Busy => {}
                db => {
                    since = print_since(global, db?, since)?;
                    read = opened;
                }
            }
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Prints what is there behind `since`, and closes the database; up to where that was.
fn print_since(global: &Global, db: Db, since: SeqNo) -> Result<SeqNo> {
    let mut changes = db.changes_since(since)?;
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    for batch in &mut changes {
        let batch = batch?;
        if global.json {
            write_json(global, &batch, &mut out)?;
        } else {
            write(global, &batch, &mut out)?;
        }
    }
    let seqno = changes.seqno();
    drop(changes);
    // Whoever sees the last line may open the database.
    db.close()?;
    out.flush()?;
    Ok(seqno)
}

/// When somebody last opened the database to write: each time that makes a new `CURRENT`. Until it
/// has changed there is nothing to read, and no need to be in the way of who wants to write.
fn last_opened(path: &Path) -> Option<SystemTime> {
    fs::metadata(path.join("CURRENT")).and_then(|current| current.modified()).ok()
}

/// Is it of a keyspace that is asked for? Without `--keyspace` all are.
fn is_wanted(global: &Global, change: &Change<'_>) -> bool {
    global.keyspace == "default" || change.keyspace == Some(&global.keyspace)
}

fn keyspace(change: &Change<'_>) -> String {
    change.keyspace.map_or_else(|| format!("#{}", change.keyspace_id), str::to_owned)
}

fn write(global: &Global, batch: &ChangeBatch, out: &mut impl Write) -> Result<()> {
    let last = batch.last_seqno();
    let mut line = Vec::new();
    for change in batch.iter().filter(|change| is_wanted(global, change)) {
        let (name, parts, expiry_ms) = parts(change.op);
        line.clear();
        write!(line, "{last}\t{name}\t")?;
        text::escape_into(keyspace(&change).as_bytes(), &mut line);
        for (_, bytes) in parts {
            line.push(b'\t');
            text::escape_into(bytes, &mut line);
        }
        if let Some(expiry_ms) = expiry_ms {
            write!(line, "\t{expiry_ms}")?;
        }
        line.push(b'\n');
        out.write_all(&line)?;
    }
    Ok(())
}

fn write_json(global: &Global, batch: &ChangeBatch, out: &mut impl Write) -> Result<()> {
    let operations: Vec<_> = batch
        .iter()
        .filter(|change| is_wanted(global, change))
        .map(|change| {
            let (name, parts, expiry_ms) = parts(change.op);
            let mut object = serde_json::Map::new();
            object.insert("op".to_owned(), name.into());
            object.insert("keyspace".to_owned(), keyspace(&change).into());
            for (field, bytes) in parts {
                text::put_json(&mut object, field, bytes);
            }
            if let Some(expiry_ms) = expiry_ms {
                object.insert("expiry_ms".to_owned(), expiry_ms.into());
            }
            object
        })
        .collect();
    if !operations.is_empty() {
        let [first, last] = [batch.first_seqno(), batch.last_seqno()].map(SeqNo::get);
        let json = serde_json::json!({ "first": first, "seqno": last, "operations": operations });
        writeln!(out, "{json}")?;
    }
    Ok(())
}

/// The name of an operation, the bytes that it has, each with what it is, and when it expires.
type Parts<'a> = (&'static str, Vec<(&'static str, &'a [u8])>, Option<u64>);

fn parts(op: ChangeOp<'_>) -> Parts<'_> {
    match op {
        ChangeOp::Put { key, value } => ("put", vec![("key", key), ("value", value)], None),
        ChangeOp::PutUntil { key, value, expiry_ms } => {
            ("put", vec![("key", key), ("value", value)], Some(expiry_ms))
        }
        ChangeOp::Delete { key } => ("delete", vec![("key", key)], None),
        ChangeOp::DeleteRange { from, to } => {
            let to = to.map(|to| ("to", to));
            ("delete-range", std::iter::once(("from", from)).chain(to).collect(), None)
        }
        ChangeOp::Merge { key, operand } => {
            ("merge", vec![("key", key), ("operand", operand)], None)
        }
        _ => ("other", Vec::new(), None),
    }
}
