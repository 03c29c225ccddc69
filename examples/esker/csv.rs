//! Comma-separated values as RFC 4180 has them, read byte by byte and written.

use crate::input::Broken;
use crate::input::RECORD_BYTES_MAX;
use crate::input::Source;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    FieldStart,
    Plain,
    Quoted,
    /// After a quote within a quoted field: its end, or the first of two.
    Quote,
    /// After a carriage return outside of quotes.
    Return,
}

/// Reads a record's fields, one after the other, into `out`, and where each ends into `ends`;
/// false at the end of the input. Skips empty lines.
pub(crate) fn read(
    source: &mut Source,
    out: &mut Vec<u8>,
    ends: &mut Vec<usize>,
) -> Result<bool, Broken> {
    let mut state = State::FieldStart;
    let mut begun = source.lines + 1;
    loop {
        let mut len = 0;
        let mut ended = false;
        let mut lines = 0;
        let lines_before = source.lines;
        let fresh = source.peek()?;
        if fresh.is_empty() {
            return finish(source, state, out, ends, begun);
        }
        for &byte in fresh {
            len += 1;
            lines += u64::from(byte == b'\n');
            match step(state, byte, out, ends) {
                Ok(Some(next)) => state = next,
                Ok(None) if out.is_empty() && ends.len() == 1 && state != State::Quote => {
                    // An empty line.
                    ends.clear();
                    state = State::FieldStart;
                    begun = lines_before + lines + 1;
                }
                Ok(None) => {
                    ended = true;
                    break;
                }
                Err(what) => {
                    return Err(Broken { line: begun, what: what.to_owned() });
                }
            }
        }
        source.consume(len);
        source.lines += lines;
        if ended {
            source.record_line = begun;
            source.open_ended = false;
            return Ok(true);
        }
        if out.len() > RECORD_BYTES_MAX {
            let what = "the record is longer than any that could be stored: is a quote missing?";
            return Err(Broken { line: begun, what: what.to_owned() });
        }
    }
}

/// Takes one byte; none after the record's last.
fn step(
    state: State,
    byte: u8,
    out: &mut Vec<u8>,
    ends: &mut Vec<usize>,
) -> Result<Option<State>, &'static str> {
    Ok(match (state, byte) {
        (State::Quoted, b'"') => Some(State::Quote),
        (State::Quote, b'"') | (State::Quoted, _) => {
            out.push(byte);
            Some(State::Quoted)
        }
        (State::FieldStart, b'"') => Some(State::Quoted),
        (State::Return | State::FieldStart | State::Plain | State::Quote, b'\n') => {
            ends.push(out.len());
            None
        }
        (State::Return, _) => return Err("a carriage return without a line feed: quote it"),
        (_, b'\r') => Some(State::Return),
        (_, b',') => {
            ends.push(out.len());
            Some(State::FieldStart)
        }
        (State::Quote, _) => return Err("there is text after a closing quote"),
        (State::FieldStart | State::Plain, _) => {
            out.push(byte);
            Some(State::Plain)
        }
    })
}

fn finish(
    source: &mut Source,
    state: State,
    out: &[u8],
    ends: &mut Vec<usize>,
    begun: u64,
) -> Result<bool, Broken> {
    let broken = |what: &str| Err(Broken { line: begun, what: what.to_owned() });
    match state {
        State::Quoted => return broken("a quote is opened and never closed"),
        State::Return => return broken("a carriage return without a line feed: quote it"),
        State::FieldStart if ends.is_empty() => return Ok(false),
        State::FieldStart | State::Plain | State::Quote => {}
    }
    ends.push(out.len());
    source.record_line = begun;
    source.open_ended = true;
    Ok(true)
}

/// Appends one field, quoted if it must be.
pub(crate) fn write_field(field: &[u8], out: &mut Vec<u8>) {
    // An empty field is quoted, lest a line of one look empty; one with a byte order mark,
    // lest a reader take it for one.
    let plain = !field.is_empty()
        && !field.starts_with(b"\xef\xbb\xbf")
        && !field.iter().any(|byte| matches!(byte, b',' | b'"' | b'\r' | b'\n'));
    if plain {
        out.extend_from_slice(field);
        return;
    }
    out.push(b'"');
    for &byte in field {
        if byte == b'"' {
            out.push(byte);
        }
        out.push(byte);
    }
    out.push(b'"');
}
