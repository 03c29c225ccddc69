//! The house rules as a test: who may know whom, what is done in one place only, and how files look.
//!
//! It reads the sources as text, so a macro could get around it: good enough. The layers are drawn
//! and explained in `DESIGN.md`; a new module gets its place in [`LAYERS`] first.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

/// The modules of `src/` from the bottom up. A module may name itself and those of lower layers.
const LAYERS: [&[&str]; 11] = [
    &["base"],
    &["fs"],
    &["memtable", "iter", "record", "cache"],
    &["wal", "manifest", "sst", "blob"],
    &["version"],
    &["compaction"],
    &["engine"],
    &["api", "tools"],
    &["repair"],
    &["fuzz_api"],
    &["bin"],
];

/// What layers alone would allow.
const FORBIDDEN: [(&str, &str); 4] =
    [("tools", "engine"), ("api", "sst"), ("api", "wal"), ("repair", "engine")];

/// Words of production code, and the only files that may hold them.
const CONFINED: [(&str, &[&str]); 17] = [
    ("std::fs", &["src/fs/linux.rs", "src/fs/os.rs", "src/fs/mmap.rs"]),
    (
        "unsafe",
        &[
            "src/base/clock.rs",
            "src/base/prefetch.rs",
            "src/cache/memory.rs",
            "src/fs/linux.rs",
            "src/fs/mmap.rs",
            "src/memtable/arena.rs",
            "src/memtable/node.rs",
            "src/memtable/record.rs",
        ],
    ),
    ("Instant", &["src/base/clock.rs"]),
    ("SystemTime", &["src/base/clock.rs"]),
    ("thread::spawn", &["src/engine/workers.rs"]),
    ("thread::scope", &["src/base/sync.rs", "src/engine/workers.rs"]),
    ("thread::Builder", &["src/base/sync", "src/engine/workers.rs"]),
    ("parking_lot", &["src/base/sync.rs"]),
    (
        "thread::sleep",
        &[
            "src/base/sync",
            "src/compaction/pace.rs",
            "src/engine/jobs.rs",
            "src/engine/throttle.rs",
        ],
    ),
    ("print!", &["src/bin/"]),
    ("println!", &["src/bin/"]),
    ("eprint!", &["src/bin/"]),
    ("eprintln!", &["src/bin/"]),
    ("dbg!", &[]),
    ("todo!", &[]),
    ("unimplemented!", &[]),
    ("crate::{", &[]),
];

/// Names that say nothing.
const BANNED_NAMES: [&str; 8] =
    ["util", "utils", "common", "helper", "helpers", "misc", "manager", "types"];

const LINES_MAX: usize = 600;

#[test]
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in ["src", "tests", "benches", "examples"] {
        collect(root, &root.join(dir), &mut files);
    }
    assert!(files.len() > 50, "the sources were not found");
    let complaints: Vec<String> = files.iter().flat_map(|(path, text)| check(path, text)).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Path from the root with `/`, and text, of every Rust file in `dir`.
fn collect(root: &Path, dir: &Path, files: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.ends_with("target") {
                // Of the workspace in `benches/peers`.
                continue;
            }
            collect(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            files.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Everything that is wrong with one file.
fn check(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let (code, production) = (blank(text), blank(production_part(path, text)));
    if !text.starts_with("//! ") {
        wrong.push("does not open with a sentence that says what it is for".to_owned());
    }
    for part in path.trim_end_matches(".rs").split('/') {
        if BANNED_NAMES.contains(&part) {
            wrong.push(format!("the name {part} says nothing"));
        }
    }
    if production.lines().count() > LINES_MAX {
        wrong.push(format!("more than {LINES_MAX} lines"));
    }
    for line in code.lines() {
        if is_use(line) && line.contains('{') {
            wrong.push(format!("more than one path in: {}", line.trim()));
        }
    }
    if has_word(&code, "super::super") {
        wrong.push("climbs with super::super: say crate::".to_owned());
    }
    if path.starts_with("src/") {
        for (word, allowed) in CONFINED {
            if has_word(&production, word) && !allowed.iter().any(|place| path.starts_with(place)) {
                wrong.push(format!("{word} does not belong here"));
            }
        }
        check_layers(path, &code, &mut wrong);
    }
    wrong.into_iter().map(|what| format!("{path}: {what}")).collect()
}

fn check_layers(path: &str, code: &str, wrong: &mut Vec<String>) {
    let Some((module, rest)) = path["src/".len()..].split_once('/') else { return };
    let layer_of = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    let Some(layer) = layer_of(module) else {
        wrong.push(format!("module {module} has no layer"));
        return;
    };
    if rest == "mod.rs" && has_word(production_part(path, code), "super::") {
        wrong.push("leaves the module with super:: say crate::".to_owned());
    }
    for (at, _) in code.match_indices("crate::") {
        let named = code[at + "crate::".len()..].split(|c: char| !is_word(c)).next().unwrap_or("");
        match layer_of(named) {
            _ if named == module || named.is_empty() => {}
            Some(other) if other < layer && !FORBIDDEN.contains(&(module, named)) => {}
            Some(_) => wrong.push(format!("{module} must not know {named}")),
            None => wrong.push(format!("crate::{named} is no module: name where it is from")),
        }
    }
}

/// The text without its tests.
fn production_part<'a>(path: &str, text: &'a str) -> &'a str {
    if path.split('/').any(|part| part == "tests" || part == "tests.rs") {
        return "";
    }
    let inline = text.match_indices("\n#[cfg(test)]\nmod ").find(|(at, found)| {
        text[at + found.len()..].lines().next().is_some_and(|line| line.ends_with('{'))
    });
    inline.map_or(text, |(at, _)| &text[..at])
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_use(line: &str) -> bool {
    let line = line.trim_start();
    let line = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub ")).unwrap_or(line);
    line.starts_with("use ")
}

/// Is `word` in `code`, not as a part of a longer word?
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let ends_open = word.ends_with(is_word);
        !(before.is_some_and(is_word) || ends_open && after.is_some_and(is_word))
    })
}

/// The text with comments and the content of literals blanked out; lines stay.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(raw) = rest.strip_prefix("r#\"") {
            raw.find("\"#").map_or(rest.len(), |end| end + 5)
        } else if first == '"' {
            string_len(rest)
        } else if ["'\"'", "'{'", "'}'"].iter().any(|literal| rest.starts_with(literal)) {
            3
        } else if rest.starts_with("'\\\"'") {
            4
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        out.extend(rest[..skip].chars().filter(|c| *c == '\n'));
        rest = &rest[skip..];
    }
    out
}

/// Length of the string literal that `text` begins with.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

#[test]
fn each_rule_is_enforced() {
    let long = format!("//! Long.\n{}", "fn f() {}\n".repeat(LINES_MAX));
    let bad = [
        ("src/base/a.rs", "use std::io;\n", "sentence"),
        ("src/base/util.rs", "//! A.\n", "says nothing"),
        ("src/helpers/mod.rs", "//! A.\n", "says nothing"),
        ("src/base/a.rs", long.as_str(), "lines"),
        ("src/base/a.rs", "//! A.\nuse std::{io, fmt};\n", "more than one path"),
        ("tests/a.rs", "//! A.\npub(crate) use a::{b, c};\n", "more than one path"),
        ("src/wal/a.rs", "//! A.\nuse super::super::sst;\n", "super::super"),
        ("src/wal/mod.rs", "//! A.\nuse super::engine::Engine;\n", "leaves the module"),
        ("src/base/a.rs", "//! A.\nuse crate::fs::Fs;\n", "base must not know fs"),
        ("src/sst/a.rs", "//! A.\nuse crate::wal::A;\n", "sst must not know wal"),
        ("src/iter/tests.rs", "//! A.\nuse crate::memtable::A;\n", "iter must not know memtable"),
        ("src/version/a.rs", "//! A.\nfn f(a: &crate::engine::A) {}\n", "must not know engine"),
        ("src/tools/a.rs", "//! A.\nuse crate::engine::Engine;\n", "tools must not know engine"),
        ("src/api/a.rs", "//! A.\nuse crate::sst::SstReader;\n", "api must not know sst"),
        ("src/api/a.rs", "//! A.\nuse crate::tools::A;\n", "api must not know tools"),
        ("src/repair/a.rs", "//! A.\nuse crate::engine::A;\n", "repair must not know engine"),
        ("src/api/a.rs", "//! A.\nuse crate::repair::A;\n", "api must not know repair"),
        ("src/engine/a.rs", "//! A.\nuse crate::Error;\n", "is no module"),
        ("src/dust/a.rs", "//! A.\n", "has no layer"),
        ("src/wal/a.rs", "//! A.\nuse std::fs::File;\n", "std::fs does not belong"),
        ("src/sst/a.rs", "//! A.\nfn f() { unsafe { g() } }\n", "unsafe does not belong"),
        ("src/fs/os.rs", "//! A.\nuse std::time::Instant;\n", "Instant does not belong"),
        ("src/engine/a.rs", "//! A.\nfn f() { thread::spawn(g); }\n", "does not belong"),
        ("src/engine/workers.rs", "//! A.\nfn f() { thread::sleep(d); }\n", "does not belong"),
        ("src/engine/a.rs", "//! A.\nfn f() { println!(\"x\"); }\n", "println! does not belong"),
        ("src/engine/a.rs", "//! A.\nfn f() { todo!() }\n", "todo! does not belong"),
    ];
    for (path, text, expected) in bad {
        let wrong = check(path, text);
        assert!(wrong.iter().any(|what| what.contains(expected)), "{path} {text:?}: {wrong:?}");
    }
    let good = [
        ("src/fs/os.rs", "//! A.\nuse std::fs::File;\nuse crate::base::error::Error;\n"),
        (
            "src/wal/a.rs",
            "//! A.\n// unsafe crate::engine\nconst A: &str = \"todo!() \\\" dbg!\";\n",
        ),
        ("src/wal/a.rs", "//! A.\n#[expect(unsafe_code)]\nfn unsafely() {}\n"),
        ("src/wal/a.rs", "//! A.\n#[cfg(test)]\nmod tests {\n    fn f() { println!(); }\n}\n"),
        ("src/wal/tests.rs", "//! A.\nuse std::fs;\nuse crate::record::A;\nuse crate::wal::B;\n"),
        ("src/lib.rs", "//! A.\npub use api::db::Db;\n"),
    ];
    for (path, text) in good {
        assert_eq!(check(path, text), Vec::<String>::new(), "{text:?}");
    }
}

/// Every fault and every hazard has a row in `DESIGN.md`, and every test that a row names exists.
#[test]
fn every_hazard_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in ["src", "tests"] {
        collect(root, &root.join(dir), &mut files);
    }
    let design = fs::read_to_string(root.join("DESIGN.md")).unwrap();
    let (_, hazards) = design.split_once("\n## 16. Hazards\n").unwrap();
    let rows: Vec<Vec<&str>> = hazards
        .lines()
        .filter(|line| line.starts_with("| F") || line.starts_with("| H"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let expected = (1..=27).map(|n| format!("F{n}")).chain((1..=66).map(|n| format!("H{n}")));
    assert!(rows.iter().map(|row| row[0].to_owned()).eq(expected), "a row is missing");
    let mut wrong = Vec::new();
    for row in rows {
        let is_test = |name: &&str| {
            name.contains('_')
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        let named: Vec<&str> = row[2].split('`').skip(1).step_by(2).filter(is_test).collect();
        let excused = row[2].starts_with("cannot occur: ") || row[2].starts_with("not covered: ");
        if named.is_empty() && !excused {
            wrong.push(format!("{}: neither a test nor a reason", row[0]));
        }
        for name in named {
            let function = format!("fn {name}(");
            let test = files.iter().any(|(_, text)| {
                let mut found = text.match_indices(&function);
                found.any(|(at, _)| text[..at].trim_end().ends_with("#[test]"))
            });
            if !test {
                wrong.push(format!("{}: there is no test {name}", row[0]));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
