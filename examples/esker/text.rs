//! Bytes as text and back: what is printed can be typed, and loaded, again.
//!
//! Printable UTF-8 stands for itself. `\t`, `\n`, `\r` and `\\` stand for tab, line feed, carriage
//! return and backslash, `\xNN` for any other byte: control characters, and whatever is no UTF-8.

/// Appends `bytes` to `out` as text: valid UTF-8 without control characters.
pub(crate) fn escape_into(bytes: &[u8], out: &mut Vec<u8>) {
    if bytes.iter().all(|&byte| (b' '..0x7f).contains(&byte) && byte != b'\\') {
        out.extend_from_slice(bytes);
        return;
    }
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\\' => out.extend_from_slice(b"\\\\"),
                '\t' => out.extend_from_slice(b"\\t"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                _ => {
                    let mut buffer = [0; 4];
                    let encoded = char.encode_utf8(&mut buffer).as_bytes();
                    if char.is_control() {
                        for &byte in encoded {
                            hex_into(byte, out);
                        }
                    } else {
                        out.extend_from_slice(encoded);
                    }
                }
            }
        }
        for &byte in chunk.invalid() {
            hex_into(byte, out);
        }
    }
}

fn hex_into(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS[usize::from(nibble)];
    out.extend_from_slice(&[b'\\', b'x', digit(byte >> 4), digit(byte & 15)]);
}

/// `bytes` as text.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len());
    escape_into(bytes, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// `bytes` as text for a message: quoted, and cut short if it is long.
pub(crate) fn quote(bytes: &[u8]) -> String {
    const LEN_MAX: usize = 80;
    match bytes.get(..LEN_MAX) {
        Some(head) => format!("\"{}…\" ({} bytes)", escape(head), bytes.len()),
        None => format!("\"{}\"", escape(bytes)),
    }
}

/// Appends to `out` the bytes that `text` stands for.
pub(crate) fn unescape_into(text: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        let (byte, len) = match &rest[at + 1..] {
            [b'\\', ..] => (b'\\', 2),
            [b't', ..] => (b'\t', 2),
            [b'n', ..] => (b'\n', 2),
            [b'r', ..] => (b'\r', 2),
            [b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (nibble(*high) << 4 | nibble(*low), 4)
            }
            other => {
                let shown =
                    &other[..other.len().min(if other.first() == Some(&b'x') { 3 } else { 1 })];
                return Err(format!(
                    "'\\{}' is no escape: write \\t, \\n, \\r, \\xNN, or \\\\ for a backslash",
                    String::from_utf8_lossy(shown).escape_default()
                ));
            }
        };
        out.push(byte);
        rest = &rest[at + len..];
    }
    out.extend_from_slice(rest);
    Ok(())
}

fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A') + 10,
    }
}

/// The bytes that `text` stands for.
pub(crate) fn unescape(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    unescape_into(text, &mut out)?;
    Ok(out)
}

/// `bytes` in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Undoes [`hex`].
pub(crate) fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err("a field that ends in _hex must hold pairs of hexadecimal digits".to_owned());
    }
    Ok(digits.chunks_exact(2).map(|pair| nibble(pair[0]) << 4 | nibble(pair[1])).collect())
}

/// Puts `bytes` into a JSON object: as a string under `name` if they are UTF-8, else in
/// hexadecimal under `name_hex`.
pub(crate) fn put_json(
    object: &mut serde_json::Map<String, serde_json::Value>,
    name: &str,
    bytes: &[u8],
) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_hex"), hex(bytes).into()),
    };
}

/// A size with binary units.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut size = count as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// A number with its thousands apart.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A duration in the unit that suits it.
pub(crate) fn duration(duration: std::time::Duration) -> String {
    let ns = duration.as_nanos() as f64;
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.1} µs", ns / 1e3),
        ns if ns < 1e9 => format!("{:.1} ms", ns / 1e6),
        ns => format!("{:.1} s", ns / 1e9),
    }
}

/// So many per second.
pub(crate) fn rate(number: u64, time: std::time::Duration) -> String {
    let ns = time.as_nanos().max(1);
    count((u128::from(number) * 1_000_000_000 / ns) as u64)
}

/// `1 file`, `2 files`, `3 entries`, `4 batches`.
pub(crate) fn plural(number: u64, noun: &str) -> String {
    let number_text = count(number);
    match (number, noun.strip_suffix('y')) {
        (1, _) => format!("{number_text} {noun}"),
        (_, Some(stem)) => format!("{number_text} {stem}ies"),
        (_, None) if noun.ends_with("ch") => format!("{number_text} {noun}es"),
        (_, None) => format!("{number_text} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_survive_the_way_through_text() {
        let mut all: Vec<u8> = (0..=255).collect();
        all.extend("grün\u{85}日本\u{1f600}".as_bytes());
        all.extend([0xe2, 0x82, b'\\', 0xff, b'x', b'4', b'1']);
        for start in 0..all.len() {
            for end in start..=all.len() {
                let text = escape(&all[start..end]);
                assert!(!text.chars().any(char::is_control), "{text:?}");
                assert_eq!(unescape(text.as_bytes()).unwrap(), &all[start..end]);
            }
        }
    }

    #[test]
    fn text_stays_readable() {
        assert_eq!(escape("grün, 日本".as_bytes()), "grün, 日本");
        assert_eq!(escape(b"a\tb\\c\xff\0"), "a\\tb\\\\c\\xff\\x00");
    }

    #[test]
    fn what_is_no_escape_is_refused() {
        for text in ["\\", "a\\q", "\\x", "\\x1", "\\xg0", "\\x\u{fc}"] {
            assert!(unescape(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn hexadecimal_round_trips() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&all)).unwrap(), all);
        assert!(unhex("abc").is_err());
        assert!(unhex("zz").is_err());
    }

    #[test]
    fn figures_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1 << 20), "1.0 MiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(plural(1, "file"), "1 file");
        assert_eq!(plural(0, "file"), "0 files");
        assert_eq!(plural(1234, "entry"), "1,234 entries");
        assert_eq!(plural(2, "batch"), "2 batches");
    }
}
