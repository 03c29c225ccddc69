//! The trees as a picture, for people, and as JSON, for programs.

use std::fmt::Write as _;

use esker::Stats;
use serde_json::Value;
use serde_json::json;

use crate::text;

const WIDTH: u64 = 32;

/// What bars are drawn with.
struct Ink {
    full: char,
    room: char,
    rule: char,
}

impl Ink {
    /// Plain characters where the locale asks for them.
    fn of_locale() -> Ink {
        if plain() {
            Ink { full: '#', room: '.', rule: '-' }
        } else {
            Ink { full: '█', room: '░', rule: '─' }
        }
    }
}

/// Does the locale ask for plain ASCII?
pub(crate) fn plain() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    locale.is_some_and(|locale| locale == "C" || locale == "POSIX")
}

/// The shape of all trees that hold anything.
pub(crate) fn draw(stats: &Stats, files: bool) -> String {
    let mut out = String::new();
    for keyspace in &stats.keyspaces {
        draw_keyspace(keyspace, files, &Ink::of_locale(), &mut out);
    }
    out
}

fn draw_keyspace(keyspace: &esker::KeyspaceStats, files: bool, ink: &Ink, out: &mut String) {
    let bytes: u64 = keyspace.levels.iter().map(|level| level.bytes).sum();
    let number: usize = keyspace.levels.iter().map(|level| level.files.len()).sum();
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(
        out,
        "{} {} {} in {}",
        keyspace.name,
        ink.rule,
        text::bytes(bytes),
        text::plural(number as u64, "file")
    );
    let widest = keyspace
        .levels
        .iter()
        .map(|level| level.bytes.max(if level.files.is_empty() { 0 } else { level.target_bytes }))
        .chain([keyspace.memtable_bytes, 1])
        .max()
        .unwrap_or(1);
    let memtables = 1 + keyspace.sealed_memtables as u64;
    let _ = writeln!(
        out,
        "  mem {} {:>10}  {:>12}  {}",
        bar(keyspace.memtable_bytes, 0, widest, ink),
        text::bytes(keyspace.memtable_bytes),
        text::plural(memtables, "memtable"),
        entries(keyspace.memtable_entries, 0),
    );
    for (number, level) in keyspace.levels.iter().enumerate() {
        if level.files.is_empty() {
            continue;
        }
        let target = match level.target_bytes {
            0 => String::new(),
            target => format!(", target {}", text::bytes(target)),
        };
        let _ = writeln!(
            out,
            "  L{number:<2} {} {:>10}  {:>12}  {}{target}",
            bar(level.bytes, level.target_bytes, widest, ink),
            text::bytes(level.bytes),
            text::plural(level.files.len() as u64, "file"),
            entries(level.entries, level.tombstones),
        );
        for file in level.files.iter().filter(|_| files) {
            let _ = writeln!(
                out,
                "        {:06}.sst {:>10}  {}  {} .. {}",
                file.number,
                text::bytes(file.bytes),
                entries(file.entries, 0),
                text::quote(&file.smallest),
                text::quote(&file.largest),
            );
        }
    }
    let blobs = &keyspace.blobs;
    if blobs.files > 0 {
        let _ = writeln!(
            out,
            "  blobs: {} in {}, {} of it garbage",
            text::bytes(blobs.bytes),
            text::plural(blobs.files as u64, "file"),
            text::bytes(blobs.garbage_bytes),
        );
    }
    if keyspace.debt_bytes > 0 {
        let debt = text::bytes(keyspace.debt_bytes);
        let _ = writeln!(out, "  compaction has {debt} to move");
    }
}

fn entries(number: u64, tombstones: u64) -> String {
    let dead = match tombstones {
        0 => String::new(),
        dead => format!(" ({} deleted)", text::count(dead)),
    };
    format!("{}{dead}", text::plural(number, "entry"))
}

/// A bar of `bytes`, with the room that is left up to `target`, where `widest` fills the width.
fn bar(bytes: u64, target: u64, widest: u64, ink: &Ink) -> String {
    let cells = |bytes: u64| (u128::from(bytes) * u128::from(WIDTH)).div_ceil(u128::from(widest));
    let full = cells(bytes).min(u128::from(WIDTH));
    let end = cells(target).clamp(full, u128::from(WIDTH));
    (0..u128::from(WIDTH))
        .map(|cell| match cell {
            cell if cell < full => ink.full,
            cell if cell < end => ink.room,
            _ => ' ',
        })
        .collect()
}

/// The shape of all trees, for programs.
pub(crate) fn json(stats: &Stats, files: bool) -> Value {
    stats.keyspaces.iter().map(|keyspace| keyspace_json(keyspace, files)).collect()
}

fn keyspace_json(keyspace: &esker::KeyspaceStats, files: bool) -> Value {
    let levels: Vec<Value> = keyspace
        .levels
        .iter()
        .enumerate()
        .map(|(number, level)| {
            let mut json = json!({
                "level": number,
                "files": level.files.len(),
                "bytes": level.bytes,
                "target_bytes": level.target_bytes,
                "entries": level.entries,
                "tombstones": level.tombstones,
                "range_tombstones": level.range_tombstones,
                "raw_bytes": level.raw_bytes,
            });
            if files {
                json["file_list"] = level.files.iter().map(file_json).collect();
            }
            json
        })
        .collect();
    json!({
        "name": keyspace.name,
        "memtable_bytes": keyspace.memtable_bytes,
        "memtable_entries": keyspace.memtable_entries,
        "sealed_memtables": keyspace.sealed_memtables,
        "base_level": keyspace.base_level,
        "debt_bytes": keyspace.debt_bytes,
        "levels": levels,
        "blobs": {
            "files": keyspace.blobs.files,
            "bytes": keyspace.blobs.bytes,
            "garbage_bytes": keyspace.blobs.garbage_bytes,
        },
    })
}

fn file_json(file: &esker::FileStats) -> Value {
    let mut object = serde_json::Map::new();
    object.insert("number".to_owned(), file.number.into());
    object.insert("bytes".to_owned(), file.bytes.into());
    object.insert("entries".to_owned(), file.entries.into());
    text::put_json(&mut object, "smallest", &file.smallest);
    text::put_json(&mut object, "largest", &file.largest);
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_bytes_and_room() {
        let ink = Ink { full: '#', room: '.', rule: '-' };
        let trim = |bar: String| bar.trim_end().to_owned();
        assert_eq!(trim(bar(0, 0, 100, &ink)), "");
        assert_eq!(trim(bar(1, 0, 1000, &ink)), "#");
        assert_eq!(trim(bar(100, 0, 100, &ink)), "#".repeat(32));
        assert_eq!(trim(bar(50, 100, 100, &ink)), "#".repeat(16) + &".".repeat(16));
        assert_eq!(bar(0, 0, 1, &ink).len(), 32);
        assert_eq!(trim(bar(u64::MAX, u64::MAX, u64::MAX, &ink)).len(), 32);
    }
}
