//! The bytes of an input of any size, counted as they are consumed, so that a load can go on where
//! it ended; and the formats that they may have.

use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::path::Path;

use crate::failure::Failure;
use crate::failure::Result;

/// Longest record: an escaped value of 1 GiB with its key.
pub(crate) const RECORD_BYTES_MAX: usize = 4 * ((1 << 30) + (1 << 16));
/// So much of the input's beginning tells it from another.
const HEAD_LEN: usize = 4096;

/// How entries are written in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Key, tab, value; tab, line feed, carriage return, backslash and bytes that are no UTF-8
    /// as \t \n \r \\ \xNN
    Tsv,
    /// Comma-separated, quoted as RFC 4180 says
    Csv,
    /// One JSON object per line
    Jsonl,
    /// Key, a zero byte, value, a zero byte, and so on
    Raw,
}

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Tsv => "tsv",
            Format::Csv => "csv",
            Format::Jsonl => "jsonl",
            Format::Raw => "raw",
        }
    }

    /// The format that a file's name suggests.
    pub(crate) fn of_name(name: &Path) -> Option<Format> {
        let extension = name.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "tsv" | "tab" | "txt" => Some(Format::Tsv),
            "csv" => Some(Format::Csv),
            "jsonl" | "ndjson" => Some(Format::Jsonl),
            "raw" => Some(Format::Raw),
            _ => None,
        }
    }
}

/// Where the key stands in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyField {
    /// In this column, counted from 0.
    Column(usize),
    /// In the field of this name.
    Named(String),
}

/// A broken record.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) line: u64,
    pub(crate) what: String,
}

/// The bytes of an input, counted.
pub(crate) struct Source {
    reader: BufReader<Box<dyn Read>>,
    seekable: Option<File>,
    pub(crate) name: String,
    pub(crate) size: Option<u64>,
    /// Bytes consumed.
    pub(crate) offset: u64,
    /// Line ends consumed.
    pub(crate) lines: u64,
    /// Line where the record begins that was read last, counted from 1.
    pub(crate) record_line: u64,
    /// Did the last line lack its end?
    pub(crate) open_ended: bool,
    head: Vec<u8>,
}

impl Source {
    /// Opens a file, or standard input for `-`.
    pub(crate) fn open(path: &Path) -> Result<Source> {
        let name = path.display().to_string();
        if path == Path::new("-") {
            return Ok(Source::new(Box::new(io::stdin()), None, "standard input".to_owned()));
        }
        let fail = |error: io::Error| Failure::io("read", &name, &error);
        let file = File::open(path).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        if meta.is_dir() {
            return Err(Failure::new(format!("cannot read {name}: it is a directory")));
        }
        let seekable = if meta.is_file() { Some(file.try_clone().map_err(fail)?) } else { None };
        let size = meta.is_file().then_some(meta.len());
        let mut source = Source::new(Box::new(file), size, name.clone());
        source.seekable = seekable;
        Ok(source)
    }

    pub(crate) fn new(reader: Box<dyn Read>, size: Option<u64>, name: String) -> Source {
        Source {
            reader: BufReader::with_capacity(1 << 18, reader),
            seekable: None,
            name,
            size,
            offset: 0,
            lines: 0,
            record_line: 1,
            open_ended: false,
            head: Vec::new(),
        }
    }

    /// The next bytes, none at the end of the input.
    pub(crate) fn peek(&mut self) -> Result<&[u8], Broken> {
        let line = self.lines + 1;
        loop {
            match self.reader.fill_buf() {
                // Asked for again below, since a borrow that is returned from a loop must not end.
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Broken { line, what: format!("cannot read: {error}") });
                }
            }
        }
        Ok(self.reader.buffer())
    }

    pub(crate) fn consume(&mut self, len: usize) {
        let room = HEAD_LEN - self.head.len();
        let fresh = self.reader.buffer();
        self.head.extend_from_slice(&fresh[..len.min(room).min(fresh.len())]);
        self.reader.consume(len);
        self.offset += len as u64;
    }

    /// Appends the bytes up to `end` to `out`, and consumes `end` too; false at the end of input
    /// with nothing left.
    pub(crate) fn read_until(&mut self, end: u8, out: &mut Vec<u8>) -> Result<bool, Broken> {
        let start = out.len();
        loop {
            let fresh = self.peek()?;
            if fresh.is_empty() {
                let partial = out.len() > start;
                self.open_ended |= partial;
                return Ok(partial);
            }
            let (len, ended) = match memchr(end, fresh) {
                Some(at) => (at, true),
                None => (fresh.len(), false),
            };
            out.extend_from_slice(&fresh[..len]);
            self.consume(len + usize::from(ended));
            if ended {
                self.open_ended = false;
                return Ok(true);
            }
            if out.len() - start > RECORD_BYTES_MAX {
                return Err(self.broken("the record is longer than any that could be stored"));
            }
        }
    }

    /// A broken record in the line that is being read.
    pub(crate) fn broken(&self, what: impl Into<String>) -> Broken {
        Broken { line: self.lines + 1, what: what.into() }
    }

    /// Skips what an earlier load has consumed; fails if the input begins differently now.
    pub(crate) fn resume_at(&mut self, offset: u64, lines: u64, head_hash: u64) -> Result<()> {
        let name = self.name.clone();
        let changed = |what: &str| Failure::new(format!("cannot resume {name}: {what}"));
        if self.size.is_some_and(|size| size < offset) {
            return Err(changed("it is shorter than what was loaded of it"));
        }
        let head_len = offset.min(HEAD_LEN as u64);
        self.skip_to(head_len).map_err(|broken| changed(&broken.what))?;
        if self.offset < head_len || self.head_hash(head_len) != head_hash {
            return Err(changed("it is not the input that was begun: its first bytes differ"));
        }
        if let Some(mut file) = self.seekable.take() {
            // The clone shares its position with the file that the buffer reads.
            file.seek(SeekFrom::Start(offset))
                .map_err(|error| Failure::io("read", &self.name, &error))?;
            let buffered = self.reader.buffer().len();
            self.reader.consume(buffered);
            self.offset = offset;
        }
        self.skip_to(offset).map_err(|broken| changed(&broken.what))?;
        if self.offset < offset {
            return Err(changed("it is shorter than what was loaded of it"));
        }
        self.lines = lines;
        Ok(())
    }

    fn skip_to(&mut self, offset: u64) -> Result<(), Broken> {
        while self.offset < offset {
            let left = offset - self.offset;
            let len = self.peek()?.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if len == 0 {
                return Ok(());
            }
            self.consume(len);
        }
        Ok(())
    }

    /// A byte order mark may precede text; in tab-separated values it could belong to a key.
    pub(crate) fn skip_byte_order_mark(&mut self, format: Format) -> Result<(), Broken> {
        let text = matches!(format, Format::Csv | Format::Jsonl);
        if text && self.offset == 0 && self.peek()?.starts_with(b"\xef\xbb\xbf") {
            self.consume(3);
        }
        Ok(())
    }

    /// After an input whose last line had no end has grown: a line end must come first.
    pub(crate) fn skip_line_end(&mut self) -> Result<(), Broken> {
        let fresh = self.peek()?;
        let len = match fresh {
            [] => return Ok(()),
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            _ => return Err(self.broken("this line has grown since it was loaded")),
        };
        self.consume(len);
        self.lines += 1;
        self.open_ended = false;
        Ok(())
    }

    /// A hash of the first bytes of the input, of those before `offset` at most.
    pub(crate) fn head_hash(&self, offset: u64) -> u64 {
        // FNV-1a.
        let len = self.head.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        self.head[..len].iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

fn memchr(needle: u8, haystack: &[u8]) -> Option<usize> {
    // In steps of a size that the compiler turns into vector instructions.
    let mut chunks = haystack.chunks_exact(64);
    let mut at = 0;
    for chunk in chunks.by_ref() {
        if chunk.iter().fold(0, |found, &byte| found | u8::from(byte == needle)) != 0 {
            break;
        }
        at += 64;
    }
    haystack[at..].iter().position(|&byte| byte == needle).map(|found| at + found)
}
