//! The command-line tool as its users meet it: the built example, run in a shell of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

/// The example's binary, built with the profile of this test.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // …/target/debug/deps/cli-0123456789abcdef
        let test = std::env::current_exe().unwrap();
        let profile_dir = test.parent().unwrap().parent().unwrap();
        let profile = match profile_dir.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            name => name,
        };
        // `cargo test --test cli` would not have built it, or not anew.
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--example", "esker", "--profile", profile])
            .arg("--target-dir")
            .arg(profile_dir.parent().unwrap())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(status.success());
        profile_dir.join("examples").join(format!("esker{}", std::env::consts::EXE_SUFFIX))
    })
}

/// A directory in which commands run, with a database called `db`.
struct Shell(tempfile::TempDir);

impl Shell {
    fn new() -> Shell {
        Shell(tempfile::tempdir().unwrap())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// Runs a command with `input` on its standard input.
    fn feed(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            // A command that fails early reads no further.
            scope.spawn(move || drop(stdin.write_all(input)));
            child.wait_with_output().unwrap()
        })
    }

    fn run(&self, args: &[&str]) -> Output {
        self.feed(args, b"")
    }

    /// Runs a command that must succeed; returns its standard output.
    fn ok(&self, args: &[&str]) -> Vec<u8> {
        succeeded(args, self.run(args))
    }

    fn text(&self, args: &[&str]) -> String {
        String::from_utf8(self.ok(args)).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_slice(&self.ok(args)).unwrap()
    }

    /// Runs a command that must fail with one line on stderr, and nothing on stdout; returns the
    /// line.
    fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{args:?}: {output:?}");
        let line = String::from_utf8(output.stderr).unwrap();
        assert!(line.starts_with("error: ") && line.lines().count() == 1, "{args:?}: {line}");
        line
    }

    fn write(&self, name: &str, contents: &[u8]) {
        std::fs::write(self.0.path().join(name), contents).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.path().join(name)).unwrap()
    }

    fn exists(&self, name: &str) -> bool {
        self.0.path().join(name).exists()
    }
}

fn succeeded(args: &[&str], output: Output) -> Vec<u8> {
    assert!(output.status.success(), "{args:?}: {output:?}");
    output.stdout
}

#[test]
fn scan_prints_a_page_and_goes_on_with_a_token() {
    let shell = Shell::new();
    shell.write("in.tsv", b"a\t1\nb\t2\nc\t3\nd\t4\n");
    shell.ok(&["load", "db", "in.tsv"]);
    let output = shell.run(&["scan", "db", "--page", "3", "--reverse"]);
    assert_eq!(output.stdout, b"d\t4\nc\t3\nb\t2\n");
    let told = String::from_utf8(output.stderr).unwrap();
    let token = told.trim().strip_prefix("next: --token ").unwrap();
    let printed = shell.text(&["scan", "db", "--page", "3", "--token", token, "--json"]);
    let lines: Vec<Value> =
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["key"], &lines[1]["next"]), (&Value::from("a"), &Value::Null));
    let args = ["scan", "db", "--page", "9", "--page-bytes", "5", "--keys-only"];
    assert_eq!(shell.text(&args), "a\nb\n");
    assert!(shell.fails(&["scan", "db", "--page", "3", "--token", "00"]).contains("page token"));
}

#[test]
fn changes_are_printed_batch_by_batch_and_from_a_number_on() {
    let shell = Shell::new();
    shell.ok(&["put", "db", "k", "v"]);
    shell.ok(&["changes", "db", "--keep", "1G", "--keep-for", "7d"]);
    shell.feed(&["txn", "db"], b"put\tk\ta\\tb\ndelete\tx\n");
    shell.ok(&["incr", "db", "n", "7", "--keyspace", "counts"]);
    shell.ok(&["put", "db", "t", "v", "--ttl", "1h"]);
    shell.ok(&["compact", "db"]);
    let printed = shell.text(&["changes", "db"]);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(
        lines[..3],
        ["1\tput\tdefault\tk\tv", "3\tput\tdefault\tk\ta\\tb", "3\tdelete\tdefault\tx"]
    );
    assert!(lines[3].starts_with("4\tmerge\tcounts\tn\t"), "{printed}");
    let (put, expiry) = lines[4].rsplit_once('\t').unwrap();
    assert!(put == "5\tput\tdefault\tt\tv" && expiry.parse::<u64>().unwrap() > 1 << 40);
    assert_eq!(
        shell.text(&["changes", "db", "--since", "4"]).lines().collect::<Vec<_>>(),
        lines[4..]
    );
    assert_eq!(shell.text(&["changes", "db", "-k", "counts"]).lines().count(), 1);

    let printed = shell.text(&["changes", "db", "--since", "1", "--json"]);
    let batch: Value = serde_json::from_str(printed.lines().next().unwrap()).unwrap();
    assert_eq!((&batch["first"], &batch["seqno"]), (&2.into(), &3.into()));
    let operations = batch["operations"].as_array().unwrap();
    assert_eq!((&operations[1]["op"], &operations[1]["key"]), (&"delete".into(), &"x".into()));

    assert!(shell.fails(&["changes", "db", "--since", "6"]).contains("start over"));
    shell.ok(&["changes", "db", "--keep", "0"]);
    assert_eq!(shell.json(&["stats", "db", "--json"])["wal"]["kept_segments"], 0);
}

#[test]
fn changes_are_followed_from_one_writer_to_the_next() {
    let shell = Shell::new();
    shell.ok(&["put", "db", "k", "0"]);
    let mut follower =
        shell.command(&["changes", "db", "--follow"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "1\tput\tdefault\tk\t0");
    for n in 1..4 {
        shell.ok(&["put", "db", "k", &n.to_string()]);
        assert_eq!(lines.next().unwrap().unwrap(), format!("{}\tput\tdefault\tk\t{n}", n + 1));
    }
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn cas_swaps_only_what_is_expected() {
    let shell = Shell::new();
    shell.ok(&["cas", "db", "k", "1"]);
    assert_eq!(shell.fails(&["cas", "db", "k", "2"]), "error: the value is \"1\"\n");
    assert_eq!(shell.json(&["cas", "db", "k", "2", "--expect", "1", "--json"])["ok"], true);
    let refused = shell.run(&["cas", "db", "k", "3", "--expect", "1", "--json"]);
    assert_eq!(refused.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!((&told["ok"], &told["value"]), (&Value::Bool(false), &Value::from("2")));
    shell.ok(&["cas", "db", "k", "--expect", "2"]);
    assert!(shell.fails(&["cas", "db", "k", "3", "--expect", "2"]).contains("there is no key"));
}

#[test]
fn delete_range_removes_keys_by_bounds_or_prefix() {
    let shell = Shell::new();
    let fill = || {
        for key in ["a", "b", "c", "user/1", "user/2", "z"] {
            shell.ok(&["put", "db", key, "v"]);
        }
    };
    let keys = || shell.text(&["scan", "db", "--keys-only"]).split_whitespace().collect::<String>();
    fill();
    shell.ok(&["delete-range", "db", "--from", "b", "--to", "c"]);
    assert_eq!(keys(), "acuser/1user/2z");
    let told = shell.json(&["delete-range", "db", "--prefix", "user/", "--json"]);
    assert_eq!((told["ok"] == true, keys()), (true, "acz".to_owned()));
    shell.ok(&["delete-range", "db", "--from", "d", "--to", "b"]);
    assert!(shell.fails(&["delete-range", "db"]).contains("say which keys"));
    assert_eq!(keys(), "acz");
    shell.ok(&["delete-range", "db", "--to", "b", "--durability", "os"]);
    assert_eq!(keys(), "cz");
    shell.ok(&["delete-range", "db", "--all"]);
    assert_eq!(keys(), "");
    fill();
    let args = ["txn", "db"];
    succeeded(&args, shell.feed(&args, b"delete-range\ta\tuser/2\nput\tb\t1\n"));
    assert_eq!(keys(), "buser/2z");
    let levels = shell.json(&["levels", "db", "--json"]);
    assert!(levels.to_string().contains("\"range_tombstones\":0"), "{levels}");
}

#[test]
fn txn_runs_a_script_whole_or_not_at_all() {
    let shell = Shell::new();
    let args = ["txn", "db"];
    let script = "# money\nput\tada\t70\nput\tbob\t30\nsavepoint\ts\ndelete\tada\n\
                  rollback\ts\nuse\tlog\nput\t1\ttransfer\\n\nget\t1\nget\tnone\n\
                  use\tdefault\nscan\t\n";
    let printed = succeeded(&args, shell.feed(&args, script.as_bytes()));
    assert_eq!(printed, b"1\ttransfer\\n\nada\t70\nbob\t30\n");
    assert_eq!(shell.text(&["get", "db", "1", "-k", "log"]), "transfer\\n\n");
    for (bad, why) in [
        ("put\tada\t0\nexpect\tbob\t31\n", "line 2: the value of \"bob\" is \"30\""),
        ("put\tada\t0\nexpect\tada\n", "line 2: the value of \"ada\" is \"0\""),
        ("put\tada\t0\nexpect\tcy\t1\n", "line 2: there is no key \"cy\""),
        ("put\tada\t0\nrollback\tx\n", "line 2: there is no savepoint"),
        ("put\tada\t0\nput\tada\n", "is no operation"),
        ("put\tada\t0\nput\t\\q\t1\n", "is no escape"),
    ] {
        let output = shell.feed(&args, bad.as_bytes());
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{bad}");
        assert!(told.contains(why) && told.contains("nothing was written"), "{told}");
    }
    assert_eq!(shell.text(&["get", "db", "ada"]), "70\n");
    let args = ["txn", "db", "--json", "--isolation", "snapshot", "--durability", "os"];
    let printed = succeeded(&args, shell.feed(&args, b"get\tada\nget\tcy\nput\tcy\t1\n"));
    let lines: Vec<Value> =
        printed.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect();
    assert_eq!(lines[0]["value"], "70");
    assert!(lines[1]["value"].is_null());
    assert_eq!((&lines[2]["ok"], &lines[2]["written"]), (&Value::Bool(true), &Value::from(1)));
}

/// Every byte in keys and values, in the order of the keys, as tab-separated text.
fn nasty() -> String {
    let escape = |byte: u8| match byte {
        b'\t' => "\\t".to_owned(),
        b'\n' => "\\n".to_owned(),
        b'\r' => "\\r".to_owned(),
        b'\\' => "\\\\".to_owned(),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    let mut lines = String::from("\tthe empty key\n");
    for byte in 0..=255 {
        writeln!(lines, "{}\t{}", escape(byte), escape(255 - byte).repeat(3)).unwrap();
    }
    lines.push_str("\\xffgr\u{fc}n, \u{65e5}\u{672c}\t\n");
    lines
}

/// A line for each number.
fn numbered(lines: u32, line: impl Fn(u32) -> String) -> String {
    (0..lines).map(line).collect::<Vec<_>>().concat()
}

#[test]
fn counters_are_incremented_and_read_folded() {
    let shell = Shell::new();
    assert_eq!(shell.ok(&["incr", "db", "k", "-k", "c"]), b"1\n");
    assert_eq!(shell.ok(&["incr", "db", "k", "41", "-k", "c"]), b"42\n");
    assert_eq!(shell.json(&["incr", "db", "k", "-50", "-k", "c", "--json"])["value"], -8);
    assert_eq!(
        shell.ok(&["get", "db", "k", "-k", "c"]),
        b"\\xf8\\xff\\xff\\xff\\xff\\xff\\xff\\xff\n"
    );
    assert!(String::from_utf8_lossy(&shell.ok(&["scan", "db", "-k", "c"])).contains("\\xf8\\xff"));
    shell.ok(&["put", "db", "text", "no number", "-k", "c"]);
    assert!(shell.fails(&["incr", "db", "text", "-k", "c"]).contains("a counter has 8 bytes"));
    assert!(String::from_utf8_lossy(&shell.ok(&["dump", "db/CURRENT"])).contains("MANIFEST"));
}

#[test]
fn counters_expire_if_they_are_told_to() {
    let shell = Shell::new();
    assert_eq!(shell.ok(&["incr", "db", "k", "-k", "c"]), b"1\n");
    let refused = shell.fails(&["ttl", "db", "k", "--set", "1h", "-k", "c"]);
    assert!(refused.contains("expiring"), "{refused}");
    assert_eq!(shell.ok(&["incr", "db", "n", "--ttl", "1h", "-k", "c"]), b"1\n");
    assert_eq!(shell.ok(&["incr", "db", "n", "--ttl", "3h", "-k", "c"]), b"2\n");
    assert_eq!(shell.ok(&["incr", "db", "n", "40", "-k", "c"]), b"42\n");
    let left = shell.json(&["ttl", "db", "n", "-k", "c", "--json"])["ttl_ms"].as_u64().unwrap();
    assert!((3_000_000..=3_600_000).contains(&left), "{left}");
    assert_eq!(shell.text(&["ttl", "db", "k", "-k", "c"]), "for ever\n");
    assert_eq!(shell.ok(&["incr", "db", "k", "--ttl", "1h", "-k", "c"]), b"2\n");
    assert!(shell.text(&["ttl", "db", "n", "--set", "1s", "-k", "c"]).ends_with(" s\n"));
}

#[test]
fn values_expire_and_tell_when() {
    let shell = Shell::new();
    shell.ok(&["put", "db", "k", "v", "--ttl", "1h"]);
    let left = shell.json(&["ttl", "db", "k", "--json"])["ttl_ms"].as_u64().unwrap();
    assert!((3_000_000..=3_600_000).contains(&left), "{left}");
    assert!(shell.text(&["ttl", "db", "k"]).ends_with(" s\n"));
    assert_eq!(shell.text(&["get", "db", "k"]), "v\n");
    assert_eq!(shell.text(&["ttl", "db", "k", "--persist"]), "for ever\n");
    assert!(shell.json(&["ttl", "db", "k", "--json"])["ttl_ms"].is_null());
    assert!(shell.text(&["ttl", "db", "k", "--set", "2d"]).starts_with("172"));
    assert!(shell.fails(&["ttl", "db", "k", "--set", "0"]).contains("no key"));
    assert!(shell.fails(&["get", "db", "k"]).contains("no key"));
    assert!(shell.text(&["scan", "db"]).is_empty());
}

#[test]
fn what_is_put_is_got_and_what_is_deleted_is_gone() {
    let shell = Shell::new();
    shell.ok(&["put", "db", "k", "v"]);
    shell.ok(&["put", "db", r"a\xff", r"\t\\"]);
    assert_eq!(shell.text(&["get", "db", "k"]), "v\n");
    assert_eq!(shell.text(&["get", "db", r"a\xff"]), "\\t\\\\\n");
    assert_eq!(shell.ok(&["get", "db", "--raw", r"a\xff"]), b"\t\\");
    succeeded(&["put"], shell.feed(&["put", "db", "piped"], b"\0any\nbytes\xff"));
    assert_eq!(shell.ok(&["get", "db", "piped", "--raw"]), b"\0any\nbytes\xff");
    shell.ok(&["delete", "db", "k"]);
    assert!(shell.fails(&["get", "db", "k"]).contains("there is no key \"k\""));
    assert_eq!(shell.text(&["count", "db"]), "2\n");
}

#[test]
fn every_format_brings_back_every_byte() {
    let shell = Shell::new();
    shell.write("in.tsv", nasty().as_bytes());
    shell.ok(&["load", "db", "in.tsv"]);
    assert_eq!(shell.text(&["scan", "db"]), nasty());
    for format in ["tsv", "csv", "jsonl"] {
        let (file, copy) = (format!("out.{format}"), format!("copy-{format}"));
        shell.ok(&["export", "db", &file]);
        shell.ok(&["load", &copy, &file]);
        assert_eq!(shell.text(&["export", &copy]), nasty(), "{format}");
        // And through a pipe.
        let piped = shell.ok(&["export", "db", "-f", format]);
        assert_eq!(piped, shell.read(&file), "{format}");
        let copy = format!("piped-{format}");
        succeeded(&["load"], shell.feed(&["load", &copy, "-", "-f", format], &piped));
        assert_eq!(shell.text(&["scan", &copy]), nasty(), "{format}");
    }
}

#[test]
fn raw_pairs_come_back_unless_they_hold_zeros() {
    let shell = Shell::new();
    let raw = b"\0empty key\0a\t\n\0\xff\\\0b\0\0";
    succeeded(&["load"], shell.feed(&["load", "db", "-", "-f", "raw"], raw));
    assert_eq!(shell.ok(&["export", "db", "-f", "raw"]), raw);
    shell.ok(&["put", "db", r"a\x00", ""]);
    let line = shell.fails(&["export", "db", "out.raw"]);
    assert!(line.contains(r"a\x00"), "{line}");
    assert!(!shell.exists("out.raw") && !shell.exists("out.raw.partial"));
}

#[test]
fn json_lines_are_keyed_by_a_field() {
    let shell = Shell::new();
    let lines = "{\"id\": \"a\", \"n\": [1, 2]}\n{\"id\":\"b\",\"n\":null}\n";
    succeeded(
        &["load"],
        shell.feed(&["load", "db", "-", "-f", "jsonl", "--key", "id"], lines.as_bytes()),
    );
    assert_eq!(shell.text(&["get", "db", "b"]), "{\"id\":\"b\",\"n\":null}\n");
    assert_eq!(shell.text(&["export", "db", "-f", "jsonl", "--key", "id"]), lines);
}

#[test]
fn columns_are_chosen_by_number_or_name() {
    let shell = Shell::new();
    shell.write("people.csv", b"id,name,born\r\n1,\"Lovelace, Ada\",1815\r\n2,Grace,1906\r\n");
    shell.ok(&["load", "db", "people.csv", "--key", "name"]);
    assert_eq!(shell.text(&["scan", "db"]), "Grace\t2,1906\nLovelace, Ada\t1,1815\n");
    shell.ok(&["load", "db", "people.csv", "--key", "3", "--header", "-k", "born"]);
    assert_eq!(
        shell.text(&["scan", "db", "-k", "born", "--limit", "1"]),
        "1815\t1,\"Lovelace, Ada\"\n"
    );
    assert_eq!(shell.text(&["keyspaces", "db"]), "born\ndefault\nesker.load\n");
}

#[test]
fn scans_have_bounds_direction_and_limit() {
    let shell = Shell::new();
    succeeded(&["load"], shell.feed(&["load", "db"], b"a\t1\nb1\t2\nb2\t3\nc\t4\n"));
    let keys = |args: &[&str]| {
        let args = [&["scan", "db", "--keys-only"], args].concat();
        shell.text(&args).replace('\n', " ")
    };
    assert_eq!(keys(&[]), "a b1 b2 c ");
    assert_eq!(keys(&["--from", "b1", "--to", "c"]), "b1 b2 ");
    assert_eq!(keys(&["--prefix", "b"]), "b1 b2 ");
    assert_eq!(keys(&["--prefix", "b", "--reverse"]), "b2 b1 ");
    assert_eq!(keys(&["--reverse", "--limit", "2"]), "c b2 ");
    assert_eq!(keys(&["--limit", "0"]), "");
    assert_eq!(keys(&["--from", "z"]), "");
    assert_eq!(keys(&["--from", "c", "--to", "a"]), "");
    assert_eq!(shell.text(&["scan", "db", "--limit", "1"]), "a\t1\n");
    assert_eq!(shell.text(&["count", "db", "--prefix", "b"]), "2\n");
    assert_eq!(shell.text(&["count", "db", "--from", "b2"]), "2\n");
    assert_eq!(shell.text(&["count", "db", "--from", "c", "--to", "a"]), "0\n");
    assert_eq!(shell.text(&["export", "db", "--to", "b2"]), "a\t1\nb1\t2\n");
}

#[test]
fn programs_get_json() {
    let shell = Shell::new();
    succeeded(&["load"], shell.feed(&["load", "db", "--quiet"], b"a\t1\n\\xff\tx\\ny\n"));
    assert_eq!(shell.json(&["get", "db", "a", "--json"])["value"], "1");
    assert_eq!(shell.json(&["count", "db", "--json"])["count"], 2);
    assert_eq!(shell.json(&["keyspaces", "db", "--json"])[0], "default");
    assert_eq!(shell.json(&["put", "db", "b", "2", "--json"])["ok"], true);
    assert_eq!(shell.json(&["delete", "db", "b", "--json"])["ok"], true);
    let scan = shell.text(&["scan", "db", "--json"]);
    let rows: Vec<Value> = scan.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows[0]["key"], "a");
    assert_eq!(rows[1]["key_hex"], "ff");
    assert_eq!(rows[1]["value"], "x\ny");
    let stats = shell.json(&["stats", "db", "--json"]);
    assert!(stats["memory"]["budget"].as_u64().unwrap() > 0);
    let levels = shell.json(&["levels", "db", "--files", "--json"]);
    assert_eq!(levels[0]["name"], "default");
    assert!(shell.json(&["compact", "db", "--json"])["bytes_after"].is_u64());
    assert_eq!(shell.json(&["verify", "db", "--json"])["ok"], true);
    let export = shell.json(&["export", "db", "out.tsv", "--json"]);
    assert_eq!(export["entries"], 2);
    let load = shell.json(&["load", "copy", "out.tsv", "--json"]);
    assert_eq!(load["records"], 2);
    let bench = shell.json(&["bench", "--num", "1000", "--json"]);
    assert_eq!(bench["workloads"].as_array().unwrap().len(), 13);
}

#[test]
fn people_get_pictures() {
    let shell = Shell::new();
    succeeded(&["load"], shell.feed(&["load", "db"], nasty().as_bytes()));
    shell.ok(&["compact", "db"]);
    let levels = shell.text(&["levels", "db", "--files"]);
    assert!(levels.contains("258 entries") && levels.contains(".sst"), "{levels}");
    assert!(shell.text(&["stats", "db"]).contains("memory"));
    assert!(shell.text(&["verify", "db"]).starts_with("all is well"));
    let mut dumped = 0;
    for entry in std::fs::read_dir(shell.0.path().join("db")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            assert!(!shell.ok(&["dump", path.to_str().unwrap()]).is_empty());
            dumped += 1;
        }
    }
    assert!(dumped > 0);
}

#[test]
fn bad_input_is_one_line_and_changes_nothing() {
    let shell = Shell::new();
    assert!(shell.fails(&["count", "missing"]).contains("missing"));
    assert!(shell.fails(&["delete", "missing", "k"]).contains("missing"));
    assert!(shell.fails(&["load", "db", "missing.tsv"]).contains("missing.tsv"));
    assert!(shell.fails(&["load", "db", "."]).contains("directory"));
    assert!(shell.fails(&["dump", "missing"]).contains("missing"));
    shell.write("broken.tsv", b"no tab\na\t1\n");
    assert!(shell.fails(&["load", "db", "broken.tsv"]).contains("broken.tsv, line 1"));
    assert!(!shell.exists("missing") && !shell.exists("db"));

    std::fs::create_dir(shell.0.path().join("other")).unwrap();
    shell.write("other/file", b"not ours");
    for command in ["count", "stats", "verify", "scan"] {
        assert!(shell.fails(&[command, "other"]).contains("other"));
        assert!(shell.fails(&[command, "broken.tsv"]).contains("broken.tsv"));
    }
    assert_eq!(std::fs::read_dir(shell.0.path().join("other")).unwrap().count(), 1);
    assert!(shell.fails(&["dump", "broken.tsv"]).contains("broken.tsv"));

    shell.ok(&["put", "db", "k", "v"]);
    assert!(shell.fails(&["load", "db", "broken.tsv"]).contains("nothing was loaded"));
    assert!(shell.fails(&["count", "db", "-k", "none"]).contains("there is no keyspace \"none\""));
    assert_eq!(shell.text(&["export", "db"]), "k\tv\n");
    assert_eq!(shell.text(&["keyspaces", "db"]), "default\n");
}

#[test]
fn what_lies_before_a_broken_line_is_loaded() {
    let shell = Shell::new();
    let lines = numbered(25, |line| format!("{line:02}\tx\n"));
    shell.write("in.tsv", format!("{lines}broken\n99\tx\n").as_bytes());
    let line = shell.fails(&["load", "db", "in.tsv", "--batch", "10"]);
    assert!(line.contains("in.tsv, line 26: there is no tab"), "{line}");
    assert!(line.contains("the 25 records before it are loaded"), "{line}");
    assert_eq!(shell.text(&["export", "db"]), lines);
    // Mended, it goes on there.
    shell.write("in.tsv", format!("{lines}mended\tx\n99\tx\n").as_bytes());
    let resumed = shell.json(&["load", "db", "in.tsv", "--resume", "--json"]);
    assert_eq!((&resumed["records"], &resumed["records_before"]), (&2.into(), &25.into()));
    assert_eq!(shell.text(&["count", "db"]), "27\n");
}

#[test]
fn a_load_that_was_killed_resumes() {
    let shell = Shell::new();
    let lines = numbered(200_000, |line| format!("{line:06}\tvalue of {line}\n"));
    shell.write("in.tsv", lines.as_bytes());
    let load =
        ["load", "db", "in.tsv", "--batch", "50", "--durability", "os", "--resume", "--json"];
    let mut before = 0;
    let mut killed = 0;
    let mut delay = Duration::from_millis(40);
    for _ in 0..8 {
        let mut child = shell.command(&load).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(delay);
        let running = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        killed += u32::from(running);
        let marks = shell.run(&["scan", "db", "-k", "esker.load"]);
        let marks = String::from_utf8(marks.stdout).unwrap();
        let records = marks.split("records=").nth(1).and_then(|rest| rest.split("\\n").next());
        let records: u64 = records.map_or(0, |records| records.parse().unwrap());
        let found: u64 = match shell.run(&["count", "db"]) {
            output if output.status.success() => {
                String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
            }
            // Killed before the database was there.
            _ => 0,
        };
        assert_eq!(found, records, "what is there and what the mark says");
        assert!(found >= before);
        if found == before {
            delay *= 2;
        }
        before = found;
    }
    assert!(killed > 0 && before > 0);
    let last = shell.json(&load);
    assert_eq!(last["records_before"], before);
    assert_eq!(last["records"], 200_000 - before);
    assert!(shell.text(&["export", "db"]) == lines);
    assert_eq!(shell.json(&["verify", "db", "--json"])["ok"], true);
}

#[test]
fn an_input_that_grew_is_resumed_and_one_that_changed_is_not() {
    let shell = Shell::new();
    shell.write("in.tsv", b"a\t1\nb\t2");
    shell.ok(&["load", "db", "in.tsv"]);
    assert_eq!(shell.json(&["load", "db", "in.tsv", "--resume", "--json"])["records"], 0);
    shell.write("in.tsv", b"a\t1\nb\t2\nc\t3\n");
    assert_eq!(shell.json(&["load", "db", "in.tsv", "--resume", "--json"])["records"], 1);
    assert_eq!(shell.text(&["scan", "db"]), "a\t1\nb\t2\nc\t3\n");
    shell.write("in.tsv", b"A\t1\nb\t2\nc\t3\nd\t4\n");
    assert!(shell.fails(&["load", "db", "in.tsv", "--resume"]).contains("first bytes differ"));
    shell.write("in.tsv", b"a\t1\n");
    assert!(shell.fails(&["load", "db", "in.tsv", "--resume"]).contains("shorter"));
    let other = shell.fails(&["load", "db", "in.tsv", "--resume", "--no-escapes"]);
    assert!(other.contains("other settings"), "{other}");
    assert_eq!(shell.text(&["count", "db"]), "3\n");
}

#[test]
fn a_reader_that_has_enough_ends_a_scan_quietly() {
    let shell = Shell::new();
    let lines = numbered(50_000, |line| format!("{line:06}\tvalue of {line}\n"));
    succeeded(&["load"], shell.feed(&["load", "db"], lines.as_bytes()));
    for command in ["scan", "export"] {
        let mut child = shell
            .command(&[command, "db"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "000000\tvalue of 0\n");
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn a_database_in_use_is_told() {
    let shell = Shell::new();
    let db = esker::Db::open(shell.0.path().join("db")).unwrap();
    db.put("k", "v").unwrap();
    for args in [&["count", "db"][..], &["put", "db", "k", "w"], &["verify", "db"]] {
        assert!(shell.fails(args).contains("in use"));
    }
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
    db.close().unwrap();
    assert_eq!(shell.text(&["count", "db"]), "1\n");
}

/// The files of the database with their contents.
fn contents(shell: &Shell) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(shell.0.path().join("db")).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let shell = Shell::new();
    shell.ok(&["put", "db", "k", "v"]);
    let mut current = shell.read("db/CURRENT");
    // The version, and the checksum of the header, bound to the file number in it.
    current[8..12].copy_from_slice(&7u32.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    for part in [&current[24..32], &[0; 8], &current[..12], &current[16..]] {
        crc.update(part);
    }
    current[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
    shell.write("db/CURRENT", &current);
    let before = contents(&shell);
    for args in [&["count", "db"][..], &["put", "db", "a", "b"], &["load", "db", "/dev/null"]] {
        let line = shell.fails(args);
        assert!(line.contains("format version 7"), "{line}");
    }
    assert!(shell.fails(&["dump", "db/CURRENT"]).contains("format version 7"));
    assert!(contents(&shell) == before);
}

#[test]
fn damage_is_named_and_left_alone() {
    let shell = Shell::new();
    succeeded(&["load"], shell.feed(&["load", "db"], nasty().as_bytes()));
    shell.ok(&["compact", "db"]);
    let files = contents(&shell)
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "sst"));
    for (path, mut bytes) in files {
        let middle = bytes.len() / 4;
        bytes[middle] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
    }
    let line = shell.fails(&["verify", "db"]);
    assert!(line.contains(".sst is damaged at offset"), "{line}");
    let mut current = shell.read("db/CURRENT");
    current[20] ^= 1;
    shell.write("db/CURRENT", &current);
    let before = contents(&shell);
    assert!(shell.fails(&["count", "db"]).contains("CURRENT is damaged"));
    assert!(shell.fails(&["put", "db", "k", "v"]).contains("CURRENT is damaged"));
    assert!(contents(&shell) == before);
}

#[test]
fn a_small_tour_passes() {
    let shell = Shell::new();
    let dir = shell.0.path().to_str().unwrap();
    let text = shell.text(&["tour", "--records", "2000", "--seed", "7", "--dir", dir]);
    assert!(text.contains("All 12 checks passed"), "{text}");
    let json = shell.json(&["tour", "--records", "2000", "--json", "--dir", dir]);
    assert_eq!(json["ok"], true);
    assert_eq!(json["crashes"]["batches_lost"], 0);
    assert!(json["crashes"]["batches_acknowledged"].as_u64().unwrap() > 0);
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0, "nothing is left behind");
}

/// The arguments of every command that only reads, on the database `db`.
const READING: [&[&str]; 8] = [
    &["get", "db", "000001"],
    &["scan", "db"],
    &["count", "db"],
    &["export", "db"],
    &["keyspaces", "db"],
    &["stats", "db"],
    &["levels", "db"],
    &["verify", "db"],
];

#[test]
fn commands_that_read_change_nothing_and_go_beside_each_other() {
    let shell = Shell::new();
    let lines = numbered(2000, |i| format!("{i:06}\tvalue of {i}\n"));
    succeeded(&["load"], shell.feed(&["load", "db"], lines.as_bytes()));
    let before = contents(&shell);
    let options = esker::Options::new().read_only(true);
    let reader = options.open(shell.0.path().join("db")).unwrap();
    for args in READING {
        assert!(!shell.ok(args).is_empty(), "{args:?}");
    }
    assert!(shell.fails(&["put", "db", "k", "v"]).contains("in use"));
    drop(reader);
    assert!(contents(&shell) == before);
}

#[test]
#[cfg(unix)]
fn commands_that_read_need_no_permission_to_write() {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;

    let shell = Shell::new();
    let lines = numbered(2000, |i| format!("{i:06}\tvalue of {i}\n"));
    succeeded(&["load"], shell.feed(&["load", "db"], lines.as_bytes()));
    let permit = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let db = shell.0.path().join("db");
    for (file, _) in contents(&shell) {
        permit(&file, 0o444);
    }
    permit(&db, 0o555);
    permit(shell.0.path(), 0o755);
    let is_root = std::fs::metadata(shell.0.path()).unwrap().uid() == 0;
    // Whoever runs this as root may write everywhere, and somebody else is asked.
    let program = shell.0.path().join("esker");
    std::fs::copy(binary(), &program).unwrap();
    permit(&program, 0o755);
    let run = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).current_dir(shell.0.path()).stdin(Stdio::null());
        if is_root {
            command.uid(65534).gid(65534);
        }
        command.output().unwrap()
    };
    let refused = run(&["put", "db", "k", "v"]);
    assert!(!refused.status.success(), "{refused:?}");
    for lock in [true, false] {
        if !lock {
            permit(&db, 0o755);
            std::fs::remove_file(db.join("LOCK")).unwrap();
            permit(&db, 0o555);
        }
        for args in READING {
            assert!(!succeeded(args, run(args)).is_empty(), "{args:?}");
        }
    }
    assert!(!db.join("LOCK").exists());
    permit(&db, 0o755);
}

#[test]
fn what_recovery_gives_up_is_told() {
    let shell = Shell::new();
    let lines = numbered(5000, |i| format!("{i:06}\tvalue of {i}\n"));
    succeeded(&["load"], shell.feed(&["load", "db", "--batch", "10"], lines.as_bytes()));
    let (wal, mut bytes) = contents(&shell)
        .into_iter()
        .find(|(path, _)| path.extension().is_some_and(|extension| extension == "wal"))
        .unwrap();
    bytes[10_000] ^= 1;
    std::fs::write(&wal, &bytes).unwrap();
    let wal = wal.file_name().unwrap().to_str().unwrap();
    let before = contents(&shell);
    let line = shell.fails(&["count", "db"]);
    assert!(line.contains(wal) && line.contains("is damaged at offset"), "{line}");
    let lenient = &["count", "db", "--recovery", "to-last-consistent-point"];
    let output = shell.run(lenient);
    let told = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(told.starts_with("warning: ") && told.contains(wal), "{told}");
    let count = String::from_utf8(succeeded(&lenient[..], output)).unwrap();
    assert!(contents(&shell) == before);
    let stats = shell.json(&["stats", "db", "--json", "--recovery", "to-last-consistent-point"]);
    let first = stats["given_up"]["first_seqno"].as_u64().unwrap();
    // Each batch of ten has one operation more, which notes how far the load has come.
    let count = count.trim().parse::<u64>().unwrap();
    assert_eq!(first - 1, count / 10 * 11);
    assert_eq!(stats["given_up"]["last_seqno"], 5500);
    // A command that writes cuts the log, and keeps what it cut off.
    let args = &["put", "db", "more", "x", "--recovery", "to-last-consistent-point"];
    let told = String::from_utf8(shell.run(args).stderr).unwrap();
    assert!(told.contains(".given-up"), "{told}");
    assert!(shell.exists(&format!("db/{wal}.given-up")));
    assert_eq!(shell.text(&["count", "db"]), format!("{}\n", count + 1));
}

#[test]
fn a_damaged_database_is_repaired_into_a_new_one() {
    let shell = Shell::new();
    let lines = numbered(20_000, |i| format!("{i:06}\tvalue of {i}\n"));
    succeeded(&["load"], shell.feed(&["load", "db", "--memtable", "64K"], lines.as_bytes()));
    shell.ok(&["put", "db", "-k", "second", "k", "v"]);
    // However far the flushes have come: one file holds the entries.
    shell.ok(&["compact", "db"]);
    let exported = shell.ok(&["export", "db"]);
    let report = shell.json(&["repair", "db", "whole", "--json"]);
    assert_eq!((&report["ok"], &report["bytes_lost"]), (&true.into(), &0.into()), "{report}");
    assert_eq!(shell.ok(&["export", "whole"]), exported);
    assert_eq!(shell.text(&["get", "whole", "-k", "second", "k"]), "v\n");

    // One block of one file, and the pointer to the manifest.
    let mut ssts = contents(&shell);
    ssts.retain(|(path, _)| path.extension().is_some_and(|extension| extension == "sst"));
    let (path, mut bytes) = ssts.into_iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
    bytes[2000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    std::fs::remove_file(shell.0.path().join("db/CURRENT")).unwrap();
    let before = contents(&shell);
    assert!(shell.fails(&["count", "db"]).contains("CURRENT"));
    let text = shell.text(&["repair", "db", "new"]);
    let name = path.file_name().unwrap().to_str().unwrap();
    for part in ["CURRENT", name, "offset", "keyspace     second: 1 entry", "lost"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(contents(&shell) == before);
    let count: u64 = shell.text(&["count", "new"]).trim().parse().unwrap();
    assert!((19_000..20_000).contains(&count), "{count}");
    assert!(shell.text(&["verify", "new"]).starts_with("all is well"));
    let json = shell.json(&["repair", "db", "newer", "--json"]);
    assert_eq!(json["entries"].as_u64().unwrap(), count + 2, "{json}");
    assert_eq!(json["losses"].as_array().unwrap().len(), 2, "{json}");

    assert!(shell.fails(&["repair", "db", "new"]).contains("not empty"));
    assert!(shell.fails(&["repair", "db", "db/new"]).contains("lies in"));
    assert!(shell.fails(&["repair", "nothing", "newest"]).contains("nothing"));
    assert!(!shell.exists("newest"));
}
