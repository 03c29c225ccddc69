//! `load`: entries from a stream of any size, in batches, so that a load that was killed goes on
//! where it ended.
//!
//! Each batch holds, next to its records, how far it came: the keyspace `esker.load` has for each
//! input and target keyspace one [`Mark`]. Since a batch is written whole or not at all, the mark is
//! always true.

use std::io;
use std::io::Write as _;
use std::path::Path;

use esker::Db;
use esker::Keyspace;
use esker::WriteBatch;

use crate::cli::Global;
use crate::cli::LoadArgs;
use crate::failure::Failure;
use crate::failure::Result;
use crate::input::Broken;
use crate::input::Format;
use crate::input::KeyField;
use crate::input::Source;
use crate::latency;
use crate::progress::Bar;
use crate::progress::Progress;
use crate::records::Layout;
use crate::records::RecordReader;
use crate::text;

/// The keyspace of the marks.
const MARKS: &str = "esker.load";
/// A batch ends at so many bytes, however few records it has.
const BATCH_BYTES: usize = 8 << 20;
const KEY_LEN_MAX: usize = 65_535;
const VALUE_LEN_MAX: usize = 1 << 30;

/// How far a load came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mark {
    offset: u64,
    lines: u64,
    records: u64,
    head_hash: u64,
    columns: usize,
    open_ended: bool,
    /// What the input was taken for.
    layout: String,
}

impl Mark {
    fn encode(&self) -> String {
        format!(
            "esker load 1\noffset={}\nlines={}\nrecords={}\nhead={:016x}\ncolumns={}\nopen={}\n{}\n",
            self.offset,
            self.lines,
            self.records,
            self.head_hash,
            self.columns,
            u8::from(self.open_ended),
            self.layout,
        )
    }

    fn decode(text: &[u8]) -> Option<Mark> {
        let mut lines = std::str::from_utf8(text).ok()?.strip_prefix("esker load 1\n")?.lines();
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix('=');
        Some(Mark {
            offset: field("offset")?.parse().ok()?,
            lines: field("lines")?.parse().ok()?,
            records: field("records")?.parse().ok()?,
            head_hash: u64::from_str_radix(field("head")?, 16).ok()?,
            columns: field("columns")?.parse().ok()?,
            open_ended: field("open")? == "1",
            layout: lines.next()?.to_owned(),
        })
    }
}

pub(crate) fn run(global: &Global, args: &LoadArgs, progress: &Progress) -> Result<()> {
    if global.keyspace == MARKS {
        return Err(Failure::new(format!(
            "the keyspace {MARKS:?} is where loads keep their marks"
        )));
    }
    let layout = layout(args)?;
    let source = Source::open(&args.file)?;
    let name = source.name.clone();
    let size = source.size;
    let fail = |broken: Broken, so_far: &str| failure(&name, layout.format, &broken, so_far);
    let mut reader = RecordReader::new(source, layout.clone())
        .map_err(|broken| fail(broken, "nothing was loaded"))?;
    // An input that is broken from the start shall create no database.
    let mut pending = false;
    if !args.resume {
        pending = reader.read().map_err(|broken| fail(broken, "nothing was loaded"))?;
    }
    let (db, keyspace) = global.create_keyspace(&args.db)?;
    let mut loader = Loader {
        marks: db.keyspace(MARKS)?,
        mark_key: mark_key(&args.file, &global.keyspace)?,
        mark: Mark { layout: signature(&layout), ..Mark::default() },
        batch: WriteBatch::new(),
        db,
        keyspace,
        args,
    };
    if args.resume {
        loader.resume(&mut reader)?;
        pending = reader.read().map_err(|broken| fail(broken, &loader.so_far()))?;
    }
    let skipped = (loader.mark.records, loader.mark.offset);
    let start = latency::now();
    let bar = progress.bytes("loading", size);
    let ended = loader.pump(&mut reader, pending, &bar);
    drop(bar);
    if let Err(broken) = ended? {
        // The database is closed first: its own failure would be worse than a broken line.
        let so_far = loader.so_far();
        loader.db.close()?;
        return Err(fail(broken, &so_far));
    }
    let mark = loader.mark.clone();
    loader.db.close()?;
    report(global, progress, &mark, skipped, start.elapsed())
}

fn report(
    global: &Global,
    progress: &Progress,
    mark: &Mark,
    skipped: (u64, u64),
    elapsed: std::time::Duration,
) -> Result<()> {
    let (records, bytes) = (mark.records - skipped.0, mark.offset - skipped.1);
    let seconds = elapsed.as_secs_f64();
    if global.json {
        let json = serde_json::json!({
            "records": records,
            "bytes": bytes,
            "seconds": seconds,
            "records_before": skipped.0,
            "bytes_before": skipped.1,
        });
        writeln!(io::stdout(), "{json}")?;
        return Ok(());
    }
    let before = if skipped.0 > 0 {
        format!(", after {} before", text::count(skipped.0))
    } else {
        String::new()
    };
    progress.note(format!(
        "loaded {} ({}) in {}{before}: {} records per second",
        text::plural(records, "record"),
        text::bytes(bytes),
        text::duration(elapsed),
        text::rate(records, elapsed),
    ));
    Ok(())
}

fn failure(name: &str, format: Format, broken: &Broken, so_far: &str) -> Failure {
    let unit = if format == Format::Raw { "pair" } else { "line" };
    Failure::new(format!("{name}, {unit} {}: {}; {so_far}", broken.line, broken.what))
}

/// How the arguments say that the input is to be read.
fn layout(args: &LoadArgs) -> Result<Layout> {
    let format = args.format.or_else(|| Format::of_name(&args.file)).unwrap_or(Format::Tsv);
    let key = match (&args.key, format) {
        (None, _) => None,
        (Some(_), Format::Raw) => return Err(Failure::new("--key is not for --format raw")),
        (Some(name), Format::Jsonl) => Some(KeyField::Named(name.clone())),
        (Some(name), Format::Tsv | Format::Csv) => Some(match name.parse::<usize>() {
            Ok(0) => return Err(Failure::new("columns are counted from 1")),
            Ok(column) => KeyField::Column(column - 1),
            Err(_) => KeyField::Named(name.clone()),
        }),
    };
    let columns = matches!(format, Format::Tsv | Format::Csv);
    if args.header && !columns {
        return Err(Failure::new("--header is for --format tsv and csv"));
    }
    let header = args.header || (columns && matches!(key, Some(KeyField::Named(_))));
    Ok(Layout { format, key, header, escapes: !args.no_escapes })
}

/// A layout in one line, to be compared.
fn signature(layout: &Layout) -> String {
    let key = match &layout.key {
        None => "-".to_owned(),
        Some(KeyField::Column(column)) => (column + 1).to_string(),
        Some(KeyField::Named(name)) => format!("{name:?}"),
    };
    let format = layout.format.name();
    format!("format={format} key={key} header={} escapes={}", layout.header, layout.escapes)
}

/// Where the mark of an input is kept: under its path, whatever way leads there.
fn mark_key(file: &Path, keyspace: &str) -> Result<Vec<u8>> {
    let path = if file == Path::new("-") {
        file.to_owned()
    } else {
        std::fs::canonicalize(file).map_err(|error| Failure::io("read", file.display(), &error))?
    };
    let mut key = path.as_os_str().as_encoded_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(keyspace.as_bytes());
    Ok(key)
}

struct Loader<'a> {
    db: Db,
    keyspace: Keyspace,
    marks: Keyspace,
    mark_key: Vec<u8>,
    mark: Mark,
    batch: WriteBatch,
    args: &'a LoadArgs,
}

impl Loader<'_> {
    /// Goes to where the last load ended.
    fn resume(&mut self, reader: &mut RecordReader) -> Result<()> {
        let Some(text) = self.marks.get(&self.mark_key)? else {
            return Ok(());
        };
        let name = reader.source.name.clone();
        let cannot = |what: String| Failure::new(format!("cannot resume {name}: {what}"));
        let mark = Mark::decode(&text)
            .ok_or_else(|| cannot("a newer esker has loaded it, or its mark is damaged".into()))?;
        if mark.layout != self.mark.layout {
            return Err(cannot(format!("it was begun with other settings: {}", mark.layout)));
        }
        reader.source.resume_at(mark.offset, mark.lines, mark.head_hash)?;
        reader.columns = mark.columns;
        if mark.open_ended {
            reader.source.open_ended = true;
            reader.source.skip_line_end().map_err(|broken| cannot(broken.what))?;
        }
        self.mark = mark;
        Ok(())
    }

    /// Loads the rest of the input. `pending`: the reader holds a record that is to be loaded.
    fn pump(
        &mut self,
        reader: &mut RecordReader,
        pending: bool,
        bar: &Bar,
    ) -> Result<Result<(), Broken>> {
        let mut more = pending;
        let mut committed = false;
        while more {
            if let Err(what) = check(reader) {
                self.commit(reader, bar)?;
                return Ok(Err(Broken { line: reader.source.record_line, what }));
            }
            self.batch.put(&self.keyspace, reader.key(), reader.value());
            self.mark.records += 1;
            self.advance(reader);
            let full = self.batch.len() as u64 >= self.args.batch;
            if full || self.batch.bytes() >= BATCH_BYTES {
                self.commit(reader, bar)?;
                committed = true;
            }
            more = match reader.read() {
                Ok(more) => more,
                Err(broken) => {
                    self.commit(reader, bar)?;
                    return Ok(Err(broken));
                }
            };
        }
        if !self.batch.is_empty() || !committed {
            self.advance(reader);
            self.commit(reader, bar)?;
        }
        Ok(Ok(()))
    }

    /// Moves the mark behind the record that the reader holds.
    fn advance(&mut self, reader: &RecordReader) {
        self.mark.offset = reader.source.offset;
        self.mark.lines = reader.source.lines;
        self.mark.open_ended = reader.source.open_ended;
    }

    /// Writes the batch with the mark behind its last record.
    fn commit(&mut self, reader: &RecordReader, bar: &Bar) -> Result<()> {
        self.mark.head_hash = reader.source.head_hash(self.mark.offset);
        self.mark.columns = reader.columns;
        let mut batch = std::mem::take(&mut self.batch);
        batch.put(&self.marks, &self.mark_key, self.mark.encode());
        batch.durability(self.args.durability.mode);
        self.db.write(batch)?;
        bar.set(self.mark.offset);
        bar.message(format!("{} records", text::count(self.mark.records)));
        Ok(())
    }

    /// What a message about a broken line says of those before it.
    fn so_far(&self) -> String {
        match self.mark.records {
            0 => "nothing was loaded".to_owned(),
            1 => "the record before it is loaded".to_owned(),
            records => format!("the {} records before it are loaded", text::count(records)),
        }
    }
}

/// Can the record be stored?
fn check(reader: &RecordReader) -> Result<(), String> {
    let (key, value) = (reader.key().len(), reader.value().len());
    if key > KEY_LEN_MAX {
        return Err(format!("the key has {key} bytes, and {KEY_LEN_MAX} is the most"));
    }
    if value > VALUE_LEN_MAX {
        return Err(format!("the value has {value} bytes, and {VALUE_LEN_MAX} is the most"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back() {
        let mark = Mark {
            offset: 12,
            lines: 3,
            records: 2,
            head_hash: u64::MAX,
            columns: 2,
            open_ended: true,
            layout: "format=csv key=\"a b\" header=true escapes=true".to_owned(),
        };
        assert_eq!(Mark::decode(mark.encode().as_bytes()), Some(mark));
        assert_eq!(Mark::decode(b"esker load 2\n"), None);
        assert_eq!(Mark::decode(b"\xff"), None);
    }
}
