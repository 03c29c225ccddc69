//! Entries written to a stream, in each of the formats that can be loaded again.

use std::io::Write;

use crate::csv;
use crate::failure::Failure;
use crate::failure::Result;
use crate::input::Format;
use crate::text;

/// Writes entries.
pub(crate) struct RecordWriter<W> {
    out: W,
    format: Format,
    escapes: bool,
    /// JSON Lines: the values are the lines.
    values_are_lines: bool,
    buffer: Vec<u8>,
}

impl<W: Write> RecordWriter<W> {
    pub(crate) fn new(out: W, format: Format) -> RecordWriter<W> {
        RecordWriter { out, format, escapes: true, values_are_lines: false, buffer: Vec::new() }
    }

    /// Tab-separated: bytes as they are; entries that would need escapes are refused.
    pub(crate) fn without_escapes(mut self) -> RecordWriter<W> {
        self.escapes = false;
        self
    }

    /// JSON Lines: each value is the line, as loaded with `--key`.
    pub(crate) fn values_as_lines(mut self) -> RecordWriter<W> {
        self.values_are_lines = true;
        self
    }

    pub(crate) fn write(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.buffer.clear();
        match self.format {
            Format::Tsv => self.tsv(key, value)?,
            Format::Csv => {
                csv::write_field(key, &mut self.buffer);
                self.buffer.push(b',');
                csv::write_field(value, &mut self.buffer);
                self.buffer.push(b'\n');
            }
            Format::Jsonl if self.values_are_lines => self.line(key, value)?,
            Format::Jsonl => {
                let mut object = serde_json::Map::new();
                text::put_json(&mut object, "key", key);
                text::put_json(&mut object, "value", value);
                serde_json::to_writer(&mut self.buffer, &object)?;
                self.buffer.push(b'\n');
            }
            Format::Raw => self.raw(key, value)?,
        }
        self.out.write_all(&self.buffer)?;
        Ok(())
    }

    /// Writes a key alone.
    pub(crate) fn write_key(&mut self, key: &[u8]) -> Result<()> {
        self.buffer.clear();
        if self.format == Format::Jsonl {
            let mut object = serde_json::Map::new();
            text::put_json(&mut object, "key", key);
            serde_json::to_writer(&mut self.buffer, &object)?;
        } else {
            text::escape_into(key, &mut self.buffer);
        }
        self.buffer.push(b'\n');
        self.out.write_all(&self.buffer)?;
        Ok(())
    }

    fn tsv(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if self.escapes {
            text::escape_into(key, &mut self.buffer);
            self.buffer.push(b'\t');
            text::escape_into(value, &mut self.buffer);
        } else {
            if key.iter().any(|byte| matches!(byte, b'\t' | b'\n')) || value.contains(&b'\n') {
                return Err(unfit(key, "needs escapes"));
            }
            self.buffer.extend_from_slice(key);
            self.buffer.push(b'\t');
            self.buffer.extend_from_slice(value);
        }
        self.buffer.push(b'\n');
        Ok(())
    }

    fn line(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if value.contains(&b'\n') || serde_json::from_slice::<serde_json::Map<_, _>>(value).is_err()
        {
            return Err(unfit(key, "has a value that is no JSON object on one line"));
        }
        self.buffer.extend_from_slice(value);
        self.buffer.push(b'\n');
        Ok(())
    }

    fn raw(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if key.contains(&0) || value.contains(&0) {
            return Err(unfit(key, "holds a zero byte: export another format"));
        }
        self.buffer.extend_from_slice(key);
        self.buffer.push(0);
        self.buffer.extend_from_slice(value);
        self.buffer.push(0);
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

fn unfit(key: &[u8], what: &str) -> Failure {
    Failure::new(format!("the entry with the key {} {what}", text::quote(key)))
}
