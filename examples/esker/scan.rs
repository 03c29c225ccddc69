//! `scan`, `count`, `delete-range` and `export`: commands on many entries.

use std::fs::File;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use esker::Db;
use esker::Durability;
use esker::PageLimit;
use esker::PageToken;
use esker::Reader;
use esker::WriteBatch;

use crate::cli::ExportArgs;
use crate::cli::Global;
use crate::cli::RangeArgs;
use crate::cli::ScanArgs;
use crate::failure::Failure;
use crate::failure::Result;
use crate::input::Format;
use crate::output::RecordWriter;
use crate::point::done;
use crate::progress::Progress;
use crate::text;

pub(crate) fn scan(global: &Global, args: &ScanArgs) -> Result<()> {
    let (db, keyspace) = global.open_keyspace_to_read(&args.db)?;
    let format = if global.json { Format::Jsonl } else { Format::Tsv };
    let out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut writer = RecordWriter::new(out, format);
    if let Some(items) = args.page {
        let next = write_page(&keyspace, args, items, &mut writer)?;
        tell_next(global, next, writer.finish()?)?;
        db.close()?;
        return Ok(());
    }
    let mut left = args.limit.unwrap_or(u64::MAX);
    if args.keys_only {
        let mut keys = args.range.iter(&keyspace).into_keys();
        while left > 0 {
            let key = if args.reverse { keys.next_back() } else { keys.next() };
            let Some(key) = key else { break };
            writer.write_key(&key?)?;
            left -= 1;
        }
        writer.finish()?;
        drop(keys);
        db.close()?;
        return Ok(());
    }
    let mut entries = args.range.iter(&keyspace);
    while left > 0 {
        let entry = if args.reverse { entries.next_back() } else { entries.next() };
        let Some(entry) = entry else { break };
        let (key, value) = entry?;
        writer.write(&key, &value)?;
        left -= 1;
    }
    writer.finish()?;
    drop(entries);
    db.close()?;
    Ok(())
}

/// Writes one page; the token of the next one.
fn write_page(
    reader: &Reader,
    args: &ScanArgs,
    items: usize,
    writer: &mut RecordWriter<impl Write>,
) -> Result<Option<PageToken>> {
    let limit = PageLimit::items(items);
    let limit = args.page_bytes.map_or(limit, |bytes| limit.bytes(bytes as usize));
    let page = match &args.token {
        Some(token) => reader.next_page(&token.parse()?, limit)?,
        None if args.reverse => args.range.iter(reader).page_back(limit)?,
        None => args.range.iter(reader).page(limit)?,
    };
    for (key, value) in &page.entries {
        if args.keys_only {
            writer.write_key(key)?;
        } else {
            writer.write(key, value)?;
        }
    }
    Ok(page.next)
}

fn tell_next(global: &Global, next: Option<PageToken>, mut out: impl Write) -> Result<()> {
    let next = next.map(|token| token.to_string());
    if global.json {
        writeln!(out, "{}", serde_json::json!({ "next": next }))?;
        out.flush()?;
    } else if let Some(token) = next {
        writeln!(io::stderr(), "next: --token {token}")?;
    }
    Ok(())
}

/// Calls `each` with the entries of a range, in order.
fn for_each(
    reader: &Reader,
    range: &RangeArgs,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    // A cursor lends what an iterator would copy.
    let mut cursor = reader.cursor();
    let (from, to) = range.bounds();
    let mut valid = match from {
        Some(from) => cursor.seek(from)?,
        None => cursor.seek_to_first()?,
    };
    while valid {
        let (Some(key), Some(value)) = (cursor.key(), cursor.value()) else {
            break;
        };
        if to.as_deref().is_some_and(|to| key >= to) {
            break;
        }
        each(key, value)?;
        valid = cursor.next()?;
    }
    Ok(())
}

/// About how many entries there are, if the whole keyspace is asked for.
fn estimate(db: &Db, global: &Global, range: &RangeArgs) -> Option<u64> {
    let stats = db.stats();
    let keyspace = stats.keyspaces.iter().find(|keyspace| keyspace.name == global.keyspace)?;
    let files: u64 = keyspace.levels.iter().map(|level| level.entries).sum();
    range.is_all().then_some(files + keyspace.memtable_entries)
}

pub(crate) fn count(
    global: &Global,
    path: &Path,
    range: &RangeArgs,
    progress: &Progress,
) -> Result<()> {
    let (db, keyspace) = global.open_keyspace_to_read(path)?;
    let mut bar = progress.entries("counting", estimate(&db, global, range));
    let mut found = 0u64;
    for key in range.iter(&keyspace).into_keys() {
        key?;
        found += 1;
        bar.tick();
    }
    drop(bar);
    let mut out = io::stdout().lock();
    if global.json {
        writeln!(out, "{}", serde_json::json!({ "count": found }))?;
    } else {
        writeln!(out, "{found}")?;
    }
    db.close()?;
    Ok(())
}

/// Removes the keys of a range; all keys only if `all` says so.
pub(crate) fn delete_range(
    global: &Global,
    path: &Path,
    range: &RangeArgs,
    all: bool,
    durability: Durability,
) -> Result<()> {
    if range.is_all() && !all {
        let what = "say which keys: --from, --to or --prefix; or --all of them";
        return Err(Failure::new(what));
    }
    let (db, keyspace) = global.open_keyspace(path)?;
    let mut batch = WriteBatch::new();
    range.delete(&keyspace, &mut batch);
    batch.durability(durability);
    db.write(batch)?;
    db.close()?;
    done(global)
}

/// Where an export goes: a file gets its name only when it is whole.
enum Target {
    Stdout(BufWriter<io::StdoutLock<'static>>),
    File { out: BufWriter<File>, partial: PathBuf, path: PathBuf },
}

impl Target {
    fn open(path: &Path) -> Result<Target> {
        const CAPACITY: usize = 1 << 18;
        if path == Path::new("-") {
            return Ok(Target::Stdout(BufWriter::with_capacity(CAPACITY, io::stdout().lock())));
        }
        // What is no regular file (a pipe, /dev/null) is written to as it is.
        let special = std::fs::metadata(path).is_ok_and(|meta| !meta.is_file());
        let mut partial = path.as_os_str().to_owned();
        if !special {
            partial.push(".partial");
        }
        let partial = PathBuf::from(partial);
        let file = File::create(&partial)
            .map_err(|error| Failure::io("create", partial.display(), &error))?;
        let out = BufWriter::with_capacity(CAPACITY, file);
        Ok(Target::File { out, partial, path: path.to_owned() })
    }

    fn finish(self) -> Result<()> {
        match self {
            Target::Stdout(mut out) => out.flush()?,
            Target::File { mut out, partial, path } => {
                let mut publish = || {
                    out.flush()?;
                    if partial == path {
                        return Ok(());
                    }
                    out.get_ref().sync_all()?;
                    std::fs::rename(&partial, &path)
                };
                publish().map_err(|error| Failure::io("write", path.display(), &error))?;
            }
        }
        Ok(())
    }

    /// Removes what was written of a file.
    fn abandon(path: &Path) {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        // If it is not there, there is nothing to clean up.
        let _ = std::fs::remove_file(partial);
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Target::Stdout(out) => out.write(bytes),
            Target::File { out, .. } => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Target::Stdout(out) => out.flush(),
            Target::File { out, .. } => out.flush(),
        }
    }
}

pub(crate) fn export(global: &Global, args: &ExportArgs, progress: &Progress) -> Result<()> {
    let format = args.format.or_else(|| Format::of_name(&args.file)).unwrap_or(Format::Tsv);
    if args.key.is_some() && format != Format::Jsonl {
        return Err(Failure::new("--key is for --format jsonl"));
    }
    let (db, keyspace) = global.open_keyspace_to_read(&args.db)?;
    let target = Target::open(&args.file)?;
    let bar = progress.entries("exporting", estimate(&db, global, &args.range));
    let written = write_all(&keyspace, args, format, target, bar);
    if written.is_err() && args.file != Path::new("-") {
        Target::abandon(&args.file);
    }
    let (entries, bytes) = written?;
    progress.note(format!("exported {} ({})", text::plural(entries, "record"), text::bytes(bytes)));
    if global.json && args.file != Path::new("-") {
        let json = serde_json::json!({ "entries": entries, "bytes": bytes });
        writeln!(io::stdout(), "{json}")?;
    }
    db.close()?;
    Ok(())
}

/// Writes the entries, and returns their number and the bytes of their keys and values.
fn write_all(
    reader: &Reader,
    args: &ExportArgs,
    format: Format,
    target: Target,
    mut bar: crate::progress::Bar,
) -> Result<(u64, u64)> {
    let mut writer = RecordWriter::new(target, format);
    if args.no_escapes {
        writer = writer.without_escapes();
    }
    if args.key.is_some() {
        writer = writer.values_as_lines();
    }
    let (mut entries, mut bytes) = (0u64, 0u64);
    for_each(reader, &args.range, |key, value| {
        entries += 1;
        bytes += (key.len() + value.len()) as u64;
        bar.tick();
        writer.write(key, value)
    })?;
    writer.finish()?.finish()?;
    Ok((entries, bytes))
}
