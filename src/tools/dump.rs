//! Prints any file of a database as text, told by its magic and not by its name.

use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::batch::Ops;
use crate::base::blob::BlobHandle;
use crate::base::coding::Malformed;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::base::internal_iter::InternalIter as _;
use crate::base::range_tombstone::end_of;
use crate::base::seqno::SeqNo;
use crate::base::value::EXPIRY_LEN;
use crate::base::value::ValueKind;
use crate::base::value::expiry_of;
use crate::blob;
use crate::blob::BlobReader;
use crate::cache::BlockCache;
use crate::fs::Fs;
use crate::fs::OsFs;
use crate::fs::ReadMode;
use crate::manifest;
use crate::record;
use crate::record::Context;
use crate::record::Decoded;
use crate::record::Stamp;
use crate::record::header::FILE_HEADER_LEN;
use crate::record::header::FileHeader;
use crate::record::header::Format;
use crate::record::header::Unusable;
use crate::sst::SstReader;
use crate::wal;

/// Keys and values are printed up to this many bytes.
const SHOWN_LEN_MAX: usize = 200;

/// Prints the file `path`, of whatever kind, as text: headers, then one line per record, operation
/// or entry. Needs no open database and takes no lock. O(size of the file).
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let db = esker::Db::open(dir.path())?;
/// let mut text = Vec::new();
/// esker::dump(dir.path().join("CURRENT"), &mut text)?;
/// assert!(String::from_utf8_lossy(&text).contains("MANIFEST-"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// `Corruption` at the first thing that cannot be read, after everything before it was printed;
/// `InvalidArgument` if it is no file of esker's; `Io`, also of `out`.
pub fn dump(path: impl AsRef<Path>, out: &mut dyn Write) -> Result<()> {
    let path = path.as_ref();
    let file = OsFs.open(path, ReadMode::Pread)?;
    let mut magic = [0; 8];
    if file.len() >= magic.len() as u64 {
        file.read_at(0, &mut magic)?;
    }
    let mut dump = Dump { path: path.to_owned(), out };
    if magic == manifest::MANIFEST_FORMAT.magic {
        dump.log(manifest::MANIFEST_FORMAT, Dump::edit)
    } else if magic == wal::FORMAT.magic {
        dump.log(wal::FORMAT, Dump::batch)
    } else if magic == manifest::CURRENT_FORMAT.magic {
        dump.current()
    } else if magic == blob::FORMAT.magic {
        dump.blobs()
    } else {
        dump.sst()
    }
}

struct Dump<'a> {
    path: PathBuf,
    out: &'a mut dyn Write,
}

impl Dump<'_> {
    fn line(&mut self, text: &str) -> Result<()> {
        let written = writeln!(self.out, "{text}");
        written.map_err(|error: io::Error| Error::io("print", &self.path, error))
    }

    fn header(&self, format: Format, content: &[u8]) -> Result<FileHeader> {
        FileHeader::decode(format, content).map_err(|unusable| match unusable {
            Unusable::Damaged(what) => Error::corruption(&self.path, 0, what),
            Unusable::Newer(found) => Error::UnsupportedFormat {
                file: self.path.clone(),
                found,
                supported: format.version,
            },
        })
    }

    fn current(&mut self) -> Result<()> {
        let content = record::file::read(&OsFs, &self.path, u64::MAX)?.bytes;
        let header = self.header(manifest::CURRENT_FORMAT, &content)?;
        self.line(&format!("CURRENT of database {}: MANIFEST-{}", header.db, header.file))
    }

    /// A file of records; `print` prints the payload of one, and returns how many sequence numbers
    /// it takes.
    fn log(
        &mut self,
        format: Format,
        print: fn(&mut Self, seqno: u64, payload: &[u8]) -> Result<u64>,
    ) -> Result<()> {
        let content = record::file::read(&OsFs, &self.path, u64::MAX)?.bytes;
        let header = self.header(format, &content)?;
        let kind = if format.magic == wal::FORMAT.magic { "log segment" } else { "manifest" };
        self.line(&format!("{kind} {} of database {}", header.file, header.db))?;
        if format.magic == wal::FORMAT.magic {
            let [prev, prev_end, first, durable] = header.extra;
            self.line(&format!(
                "after segment {prev} up to offset {prev_end}; first seqno {first}; \
                 durable up to {durable}"
            ))?;
        }
        let context = Context::new(header.db, header.file);
        let [_, _, first, _] = header.extra;
        let (mut offset, mut next) = (FILE_HEADER_LEN as u64, first);
        loop {
            match record::decode_at(context, &content, offset) {
                Decoded::Record(record) => {
                    let seqno = record.stamp.map_or(next, |stamp| stamp.seqno);
                    let seqno = seqno.min(SeqNo::MAX.get());
                    let durable = record.stamp.and_then(Stamp::durable);
                    let durable = durable
                        .map_or_else(String::new, |durable| format!(", durable up to {durable}"));
                    let len = record.payload.len();
                    self.line(&format!("offset {offset}: record {seqno}, {len} bytes{durable}"))?;
                    let payload = content.get(record.payload.clone()).unwrap_or_default();
                    next = seqno.saturating_add(print(self, seqno, payload)?);
                    offset = record.end;
                }
                Decoded::End => return self.line(&format!("offset {offset}: end")),
                Decoded::Invalid(what) => {
                    return self.line(&format!("offset {offset}: end, no valid record ({what})"));
                }
            }
        }
    }

    fn edit(&mut self, _: u64, payload: &[u8]) -> Result<u64> {
        let edit = manifest::decode_edit(payload);
        let edit = edit.map_err(|what| Error::corruption(&self.path, 0, what))?;
        self.line(&format!("    {edit:?}"))?;
        Ok(1)
    }

    fn batch(&mut self, seqno: u64, payload: &[u8]) -> Result<u64> {
        let mut ops = 0;
        for (seqno, op) in (seqno..).zip(Ops::new(payload)) {
            ops += 1;
            let op = op.map_err(|bad| Error::corruption(&self.path, 0, bad.0))?;
            let (key, value) = (shown(op.key), shown_value(Some(op.kind), op.value));
            let text = match op.kind {
                ValueKind::Delete => format!("delete {key}"),
                ValueKind::DeleteRange => {
                    format!("delete {}", shown_range(op.key, end_of(op.value)))
                }
                kind => format!("{kind:?} {key} = {value}").to_lowercase(),
            };
            self.line(&format!("    {seqno} keyspace {}: {text}", op.keyspace.0))?;
        }
        Ok(ops)
    }

    fn blobs(&mut self) -> Result<()> {
        let file = OsFs.open(&self.path, ReadMode::Sequential)?;
        let reader = BlobReader::open(file.clone(), self.path.clone(), None)?;
        let FileHeader { db, file: id, extra: [uid, keyspace, ..] } = *reader.header();
        self.line(&format!(
            "blob file {id} of database {db}: keyspace {keyspace}, uid {uid:016x}"
        ))?;
        let values = blob::scan(&reader, file.as_ref(), |offset, len, key, stored| {
            let (key, stored) = (shown(key), stored.len());
            self.line(&format!("offset {offset}: {len} bytes, value of {key}, {stored} as stored"))
        })?;
        self.line(&format!("{values} values"))
    }

    fn sst(&mut self) -> Result<()> {
        let file = OsFs.open(&self.path, ReadMode::Sequential)?;
        let cache = Arc::new(BlockCache::new(0));
        let reader = SstReader::open(file, self.path.clone(), FileId(0), None, cache)?;
        self.line(&format!("SST: {:#?}", reader.properties()))?;
        for (from, to, seqno) in reader.ranges().pieces() {
            self.line(&format!("{seqno} delete {}", shown_range(from, to)))?;
        }
        let mut entries = Arc::new(reader).iter();
        entries.seek_to_first()?;
        while entries.valid() {
            let key = entries.key();
            let kind = match key.trailer.kind() {
                Some(kind) => format!("{kind:?}"),
                None => format!("kind {}", key.trailer.kind_byte()),
            };
            let (user, value) = (shown(key.user), shown_value(key.trailer.kind(), entries.value()));
            let text = format!("{} {} {user} = {value}", key.trailer.seqno(), kind.to_lowercase());
            self.line(&text)?;
            entries.next()?;
        }
        Ok(())
    }
}

/// A range of keys, as Rust writes one.
fn shown_range(from: &[u8], to: Option<&[u8]>) -> String {
    format!("{}..{}", shown(from), to.map(shown).unwrap_or_default())
}

/// A value, and when it expires if it does.
fn shown_value(kind: Option<ValueKind>, value: &[u8]) -> String {
    if kind.is_some_and(ValueKind::is_apart) {
        return shown_handle(kind, value);
    }
    match (kind, value.get(EXPIRY_LEN..)) {
        (Some(ValueKind::Expiring), Some(rest)) => {
            format!("{} until {} ms", shown(rest), expiry_of(value))
        }
        _ => shown(value),
    }
}

/// Where a value lies, and when it expires if it does.
fn shown_handle(kind: Option<ValueKind>, stored: &[u8]) -> String {
    let expires = kind.is_some_and(ValueKind::expires);
    let handle = stored.get(if expires { EXPIRY_LEN } else { 0 }..).unwrap_or_default();
    let place = match BlobHandle::decode(handle) {
        Ok(BlobHandle { file, offset, len, value_len }) => {
            format!("{value_len} bytes in blob file {file}, offset {offset}, record of {len}")
        }
        Err(Malformed(what)) => what.to_owned(),
    };
    if expires { format!("{place}, until {} ms", expiry_of(stored)) } else { place }
}

/// Bytes in quotes, escaped, cut where they are long.
fn shown(bytes: &[u8]) -> String {
    match bytes.get(..SHOWN_LEN_MAX) {
        Some(head) if bytes.len() > SHOWN_LEN_MAX => {
            format!("\"{}\"... ({} bytes)", head.escape_ascii(), bytes.len())
        }
        _ => format!("\"{}\"", bytes.escape_ascii()),
    }
}
