//! Records from an input, one at a time, in each of the formats.

use crate::csv;
use crate::input::Broken;
use crate::input::Format;
use crate::input::KeyField;
use crate::input::Source;
use crate::text;

/// How a stream is to be read.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) format: Format,
    pub(crate) key: Option<KeyField>,
    /// The first line holds names.
    pub(crate) header: bool,
    /// `\` begins an escape (tab-separated only).
    pub(crate) escapes: bool,
}

/// Reads records.
pub(crate) struct RecordReader {
    pub(crate) source: Source,
    layout: Layout,
    column: usize,
    /// Columns of the first record.
    pub(crate) columns: usize,
    line: Vec<u8>,
    ends: Vec<usize>,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl RecordReader {
    /// Reads the header, if there is one.
    pub(crate) fn new(source: Source, layout: Layout) -> Result<RecordReader, Broken> {
        let column = match layout.key {
            Some(KeyField::Column(column)) => column,
            _ => 0,
        };
        let (line, ends) = (Vec::new(), Vec::new());
        let (key, value) = (Vec::new(), Vec::new());
        let mut reader =
            RecordReader { source, layout, column, columns: 0, line, ends, key, value };
        reader.source.skip_byte_order_mark(reader.layout.format)?;
        if reader.layout.header {
            reader.read_header()?;
        }
        Ok(reader)
    }

    fn read_header(&mut self) -> Result<(), Broken> {
        if !self.read_line()? {
            return Ok(());
        }
        self.columns = self.ends.len();
        if let Some(KeyField::Named(name)) = &self.layout.key {
            let found = (0..self.ends.len()).find(|&at| self.column(at) == name.as_bytes());
            self.column = found.ok_or_else(|| Broken {
                line: self.source.record_line,
                what: format!("the header has no column {name:?}"),
            })?;
        }
        Ok(())
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(crate) fn value(&self) -> &[u8] {
        &self.value
    }

    /// Reads the next record; false at the end of the input.
    pub(crate) fn read(&mut self) -> Result<bool, Broken> {
        match self.layout.format {
            Format::Tsv | Format::Csv => self.read_columns(),
            Format::Jsonl => self.read_json(),
            Format::Raw => self.read_raw(),
        }
    }

    /// Reads a line into `line`, its columns' ends into `ends`.
    fn read_line(&mut self) -> Result<bool, Broken> {
        self.line.clear();
        self.ends.clear();
        if self.layout.format == Format::Csv {
            return csv::read(&mut self.source, &mut self.line, &mut self.ends);
        }
        if !self.source.read_until(b'\n', &mut self.line)? {
            return Ok(false);
        }
        if self.layout.escapes && self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        // Of the columns behind the key's only a header needs the bounds.
        let wanted =
            if self.columns == 0 && self.layout.header { usize::MAX } else { self.column + 1 };
        let tabs = self.line.iter().enumerate().filter(|(_, byte)| **byte == b'\t');
        self.ends.extend(tabs.map(|(at, _)| at).take(wanted));
        self.ends.push(self.line.len());
        self.source.lines += 1;
        self.source.record_line = self.source.lines;
        Ok(true)
    }

    fn separator_len(&self) -> usize {
        usize::from(self.layout.format == Format::Tsv)
    }

    fn column(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] + self.separator_len() };
        &self.line[start..self.ends[index]]
    }

    fn read_columns(&mut self) -> Result<bool, Broken> {
        if !self.read_line()? {
            return Ok(false);
        }
        let line = self.source.record_line;
        let broken = |what: String| Broken { line, what };
        let columns = self.ends.len();
        if columns < 2 {
            let separator = if self.separator_len() == 1 { "tab" } else { "comma" };
            return Err(broken(format!("there is no {separator} between a key and a value")));
        }
        if self.column >= columns {
            let wanted = self.column + 1;
            return Err(broken(format!("there is no column {wanted}, only {columns}")));
        }
        self.key.clear();
        self.value.clear();
        if self.layout.format == Format::Csv {
            if self.columns == 0 {
                self.columns = columns;
            } else if self.columns != columns {
                let first = self.columns;
                return Err(broken(format!("{columns} columns, where the first line has {first}")));
            }
            self.take_csv();
            return Ok(true);
        }
        self.take_tsv().map_err(broken)?;
        Ok(true)
    }

    /// The key's column is the key, the other one the value; if there are more, then as CSV.
    fn take_csv(&mut self) {
        let mut key = std::mem::take(&mut self.key);
        let mut value = std::mem::take(&mut self.value);
        key.extend_from_slice(self.column(self.column));
        let others = (0..self.ends.len()).filter(|&index| index != self.column);
        for (nth, index) in others.enumerate() {
            if self.ends.len() == 2 {
                value.extend_from_slice(self.column(index));
            } else {
                if nth > 0 {
                    value.push(b',');
                }
                csv::write_field(self.column(index), &mut value);
            }
        }
        (self.key, self.value) = (key, value);
    }

    /// The key's column is the key, the rest of the line the value.
    fn take_tsv(&mut self) -> Result<(), String> {
        let start = if self.column == 0 { 0 } else { self.ends[self.column - 1] + 1 };
        let end = self.ends[self.column];
        let before = &self.line[..start.saturating_sub(1)];
        let after = self.line.get(end + 1..).unwrap_or_default();
        let both: &[&[u8]] = if self.column == 0 {
            &[after]
        } else if end == self.line.len() {
            &[before]
        } else {
            &[before, b"\t", after]
        };
        let key = &self.line[start..end];
        if self.layout.escapes {
            text::unescape_into(key, &mut self.key)?;
            both.iter().try_for_each(|part| text::unescape_into(part, &mut self.value))
        } else {
            self.key.extend_from_slice(key);
            for part in both {
                self.value.extend_from_slice(part);
            }
            Ok(())
        }
    }

    fn read_raw(&mut self) -> Result<bool, Broken> {
        self.key.clear();
        self.value.clear();
        if !self.source.read_until(0, &mut self.key)? {
            return Ok(false);
        }
        if self.source.open_ended {
            return Err(self.source.broken("the last key is not ended by a zero byte"));
        }
        if !self.source.read_until(0, &mut self.value)? || self.source.open_ended {
            return Err(self.source.broken("the last value is not ended by a zero byte"));
        }
        self.source.lines += 1;
        Ok(true)
    }

    fn read_json(&mut self) -> Result<bool, Broken> {
        loop {
            self.line.clear();
            if !self.source.read_until(b'\n', &mut self.line)? {
                return Ok(false);
            }
            self.source.lines += 1;
            if self.line.last() == Some(&b'\r') {
                self.line.pop();
            }
            if !self.line.iter().all(u8::is_ascii_whitespace) {
                break;
            }
        }
        let broken = |what| Broken { line: self.source.lines, what };
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&self.line).map_err(|error| broken(json_message(&error)))?;
        if let Some(KeyField::Named(name)) = &self.layout.key {
            self.key = json_field(&object, name).map_err(broken)?;
            self.value.clear();
            self.value.extend_from_slice(&self.line);
        } else {
            self.key = json_field(&object, "key").map_err(broken)?;
            self.value = json_field(&object, "value").map_err(broken)?;
        }
        Ok(true)
    }
}

fn json_message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    // The line within the line is always the first.
    let text = text.split(" at line ").next().unwrap_or(&text);
    format!("no JSON object: {text} (column {})", error.column())
}

/// The bytes in field `name`: its text, or those that `name_hex` holds in hexadecimal.
fn json_field(
    object: &serde_json::Map<String, serde_json::Value>,
    name: &str,
) -> Result<Vec<u8>, String> {
    match object.get(name) {
        Some(serde_json::Value::String(text)) => Ok(text.clone().into_bytes()),
        Some(serde_json::Value::Number(number)) if !number.is_f64() => {
            Ok(number.to_string().into_bytes())
        }
        Some(_) => Err(format!("field {name:?} is neither a string nor a whole number")),
        None => match object.get(&format!("{name}_hex")) {
            Some(serde_json::Value::String(digits)) => text::unhex(digits),
            _ => Err(format!("the object has no field {name:?}; --key names the key's field")),
        },
    }
}

#[cfg(test)]
mod tests;
