//! The command line: its commands and options, and what each means.

use std::ops::Bound;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;
use clap::builder::OsStringValueParser;
use clap::builder::TypedValueParser;
use esker::Durability;

use crate::bench::Workload;
use crate::input::Format;
use crate::text;

/// A key-value database in a directory, from the command line.
///
/// Keys and values are bytes. They are typed and printed as text, in which \t, \n, \r, \\ and \xNN
/// stand for tab, line feed, carriage return, backslash and any other byte.
#[derive(Debug, Parser)]
#[command(name = "esker", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What all commands understand.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Print JSON, for programs
    #[arg(long, global = true, help_heading = "Options of all commands")]
    pub(crate) json: bool,
    /// Show no progress and make no remarks
    #[arg(long, short, global = true, help_heading = "Options of all commands")]
    pub(crate) quiet: bool,
    /// The keyspace to work on
    #[arg(
        long,
        short,
        global = true,
        help_heading = "Options of all commands",
        value_name = "NAME",
        default_value = "default"
    )]
    pub(crate) keyspace: String,
    /// Memory for everything together, as in 256M
    #[arg(long, global = true, help_heading = "Options of all commands", value_name = "SIZE", value_parser = parse_size)]
    pub(crate) memory_budget: Option<u64>,
    /// Writes collected in memory before they are flushed to a file, as in 32M
    #[arg(long, global = true, help_heading = "Options of all commands", value_name = "SIZE", value_parser = parse_size)]
    pub(crate) memtable: Option<u64>,
    /// How files are read
    #[arg(
        long,
        global = true,
        help_heading = "Options of all commands",
        value_name = "MODE",
        value_enum,
        default_value = "mmap"
    )]
    pub(crate) read_mode: ReadMode,
    /// What to do about damage in the log that no crash explains
    #[arg(
        long,
        global = true,
        help_heading = "Options of all commands",
        value_name = "HOW",
        value_enum,
        default_value = "strict"
    )]
    pub(crate) recovery: RecoveryMode,
}

/// How files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReadMode {
    /// Through memory mappings
    Mmap,
    /// By system calls
    Pread,
}

/// What to do about a damaged log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecoveryMode {
    /// Refuse to open
    Strict,
    /// Give up everything from the damage on
    ToLastConsistentPoint,
}

/// Bytes from the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The two-minute proof: fill, crash, recover, check, compact and measure a database
    Tour(TourArgs),
    #[command(hide = true)]
    TourWriter(TourWriterArgs),
    /// Load entries from a file or a pipe of any size
    Load(LoadArgs),
    /// Print the value of a key
    Get {
        /// The directory of the database
        db: PathBuf,
        /// The key
        #[arg(value_parser = bytes_parser())]
        key: Bytes,
        /// Print the value's bytes as they are, with nothing added
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
    /// Set the value of a key
    Put {
        /// The directory of the database; created if missing
        db: PathBuf,
        /// The key
        #[arg(value_parser = bytes_parser())]
        key: Bytes,
        /// The value; if missing, all of standard input, its bytes as they are
        #[arg(value_parser = bytes_parser())]
        value: Option<Bytes>,
        /// Let it expire after so long, as in 90, 500ms, 10m, 12h, 7d
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        ttl: Option<Duration>,
        #[command(flatten)]
        durability: DurabilityArg,
    },
    /// Remove a key
    Delete {
        /// The directory of the database
        db: PathBuf,
        /// The key
        #[arg(value_parser = bytes_parser())]
        key: Bytes,
        #[command(flatten)]
        durability: DurabilityArg,
    },
    /// Remove all keys of a range, in one write
    DeleteRange {
        /// The directory of the database
        db: PathBuf,
        #[command(flatten)]
        range: RangeArgs,
        /// All keys there are
        #[arg(long, conflicts_with_all = ["from", "to", "prefix"])]
        all: bool,
        #[command(flatten)]
        durability: DurabilityArg,
    },
    /// Print how long a key still lives, or change that
    Ttl {
        /// The directory of the database
        db: PathBuf,
        /// The key
        #[arg(value_parser = bytes_parser())]
        key: Bytes,
        /// Let it expire after so long from now on, as in 90, 500ms, 10m, 12h, 7d
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        set: Option<Duration>,
        /// Let it live for ever
        #[arg(long, conflicts_with = "set")]
        persist: bool,
    },
    /// Add to a counter, and print what it comes to; its keyspace gets counters as its merge operator
    Incr {
        /// The directory of the database; created if missing
        db: PathBuf,
        /// The key
        #[arg(value_parser = bytes_parser())]
        key: Bytes,
        /// What to add; may be negative
        #[arg(default_value_t = 1, allow_hyphen_values = true)]
        by: i64,
        /// If the counter begins with this, how long it lives, like 30s, 10m, 1h or 7d
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        ttl: Option<Duration>,
        #[command(flatten)]
        durability: DurabilityArg,
    },
    /// Set the value of a key if it is what is expected; else print what it is, and fail
    Cas(CasArgs),
    /// Run a script from standard input as one transaction
    ///
    /// One operation per line, its parts separated by tabs:
    ///
    ///   get KEY            print the value
    ///   scan PREFIX        print the entries whose keys begin so
    ///   put KEY VALUE      set the value
    ///   delete KEY         remove the key
    ///   delete-range A B   remove the keys from A to before B
    ///   expect KEY VALUE   give up unless this is the value
    ///   expect KEY         give up unless the key is absent
    ///   use KEYSPACE       go on in that keyspace
    ///   savepoint NAME     remember this place
    ///   rollback NAME      forget what was written since
    ///
    /// Empty lines and lines that begin with # are skipped. Whatever is wrong, nothing is written.
    #[command(verbatim_doc_comment)]
    Txn {
        /// The directory of the database; created if missing
        db: PathBuf,
        /// What is checked at the end
        #[arg(long, value_name = "LEVEL", value_enum, default_value = "serializable")]
        isolation: IsolationLevel,
        #[command(flatten)]
        durability: DurabilityArg,
    },
    /// Print entries in order
    Scan(ScanArgs),
    /// Count entries
    Count {
        /// The directory of the database
        db: PathBuf,
        #[command(flatten)]
        range: RangeArgs,
    },
    /// Write all entries to a file, in order, such that `load` reads them again
    Export(ExportArgs),
    /// Print what was written, batch by batch, with sequence numbers
    Changes(ChangesArgs),
    /// List the keyspaces
    Keyspaces {
        /// The directory of the database
        db: PathBuf,
    },
    /// Print what the database holds and has done since it was opened
    Stats {
        /// The directory of the database
        db: PathBuf,
    },
    /// Print the shape of the trees
    Levels {
        /// The directory of the database
        db: PathBuf,
        /// List each file
        #[arg(long)]
        files: bool,
    },
    /// Compact entries to the bottom of the tree, dropping what is overwritten or deleted
    Compact {
        /// The directory of the database
        db: PathBuf,
        #[command(flatten)]
        range: RangeArgs,
    },
    /// Read every byte of the database and check it
    Verify {
        /// The directory of the database
        db: PathBuf,
    },
    /// Rebuild what still reads of a damaged database as a new one; the old one stays as it is
    Repair {
        /// The directory of the damaged database
        db: PathBuf,
        /// The directory of the new one: missing or empty
        new: PathBuf,
    },
    /// Print any file of a database as text; the database need not open
    Dump {
        /// The file
        file: PathBuf,
    },
    /// Measure throughput and latencies
    Bench(BenchArgs),
}

/// What a transaction is protected from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IsolationLevel {
    /// From all that was read and has changed
    Serializable,
    /// From others that wrote the same keys
    Snapshot,
    /// From nothing: a batch that reads its own writes
    ReadCommitted,
}

#[derive(Debug, Args)]
pub(crate) struct CasArgs {
    /// The directory of the database; created if missing
    pub(crate) db: PathBuf,
    /// The key
    #[arg(value_parser = bytes_parser())]
    pub(crate) key: Bytes,
    /// The new value; if missing, the key is removed
    #[arg(value_parser = bytes_parser())]
    pub(crate) value: Option<Bytes>,
    /// What the value must be; if missing, the key must be absent
    #[arg(long, value_name = "VALUE", value_parser = bytes_parser())]
    pub(crate) expect: Option<Bytes>,
}

#[derive(Debug, Args)]
pub(crate) struct TourArgs {
    /// How many records to load
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1_000_000,
          value_parser = clap::value_parser!(u64).range(1000..=1_000_000_000))]
    pub(crate) records: u64,
    /// Repeat the run with this seed
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// Crash with a log of this length, as in 1G; scales with --records if missing
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) log: Option<u64>,
    /// Leave the databases behind
    #[arg(long)]
    pub(crate) keep: bool,
    /// Where to make the temporary directory
    #[arg(long, value_name = "PATH")]
    pub(crate) dir: Option<PathBuf>,
}

/// The child process of the tour, which is killed.
#[derive(Debug, Args)]
pub(crate) struct TourWriterArgs {
    pub(crate) db: PathBuf,
    #[arg(long)]
    pub(crate) seed: u64,
    /// The first batch of each thread.
    #[arg(long)]
    pub(crate) start: Vec<u64>,
    /// Write so many records into the log only, then wait for the end.
    #[arg(long)]
    pub(crate) unflushed: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The directory of the database; created if missing
    pub(crate) db: PathBuf,
    /// The file; - or nothing is standard input
    #[arg(default_value = "-")]
    pub(crate) file: PathBuf,
    /// How the file is written; guessed from its name, else tsv
    #[arg(long, short, value_enum)]
    pub(crate) format: Option<Format>,
    /// The key: a column, counted from 1, or a column's name in the header (tsv, csv), or a field
    /// (jsonl). The value is the rest of the line (tsv), the other columns (csv) or the whole line
    /// (jsonl). Without it the key is the first column, and a JSON object holds "key" and "value"
    #[arg(long, value_name = "FIELD")]
    pub(crate) key: Option<String>,
    /// The first line holds the columns' names; implied if --key is a name
    #[arg(long)]
    pub(crate) header: bool,
    /// Take backslashes as they are (tsv)
    #[arg(long)]
    pub(crate) no_escapes: bool,
    /// Records per batch; each batch is written whole or not at all
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) batch: u64,
    /// Go on where an earlier load of this file into this keyspace ended or was killed
    #[arg(long)]
    pub(crate) resume: bool,
    #[command(flatten)]
    pub(crate) durability: DurabilityArg,
}

#[derive(Debug, Args)]
pub(crate) struct ScanArgs {
    /// The directory of the database
    pub(crate) db: PathBuf,
    #[command(flatten)]
    pub(crate) range: RangeArgs,
    /// From the last to the first
    #[arg(long, short)]
    pub(crate) reverse: bool,
    /// At most so many
    #[arg(long, short, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Print no values
    #[arg(long)]
    pub(crate) keys_only: bool,
    /// Print a page of at most N entries, and a token for the next one at its end: on standard
    /// error, or as the last object (--json)
    #[arg(long, value_name = "N", conflicts_with = "limit")]
    pub(crate) page: Option<usize>,
    /// Go on where the page with this token ended, in the same direction and range
    #[arg(long, requires = "page",
          conflicts_with_all = ["from", "to", "prefix", "reverse"])]
    pub(crate) token: Option<String>,
    /// A page holds at most so many bytes of keys and values, as in 64K
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "page")]
    pub(crate) page_bytes: Option<u64>,
}

/// Each line is an operation: the sequence number of its batch, what it does, the keyspace, the key,
/// the value, and when that expires; with --json, a batch. Of all keyspaces, unless --keyspace names
/// another than the default one.
#[derive(Debug, Args)]
pub(crate) struct ChangesArgs {
    /// The directory of the database
    pub(crate) db: PathBuf,
    /// Only what is behind this sequence number
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) since: u64,
    /// Go on, each time another process has written to the database and closed it. One process owns
    /// an open database: what it writes shows here when it closes it, not before. A program follows
    /// its own writes as they come with Db::changes_since
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// From now on keep so much of the log to look back at, as in 1G; 0: nothing
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) keep: Option<u64>,
    /// From now on keep the log for so long, as in 12h, 7d
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) keep_for: Option<Duration>,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RangeArgs {
    /// The first key
    #[arg(long, value_name = "KEY", value_parser = bytes_parser(), allow_hyphen_values = true)]
    pub(crate) from: Option<Bytes>,
    /// The key to stop before
    #[arg(long, value_name = "KEY", value_parser = bytes_parser(), allow_hyphen_values = true)]
    pub(crate) to: Option<Bytes>,
    /// Only keys that begin so
    #[arg(long, value_name = "PREFIX", value_parser = bytes_parser(), allow_hyphen_values = true,
          conflicts_with_all = ["from", "to"])]
    pub(crate) prefix: Option<Bytes>,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The directory of the database
    pub(crate) db: PathBuf,
    /// The file; - or nothing is standard output
    #[arg(default_value = "-")]
    pub(crate) file: PathBuf,
    /// How to write it; guessed from the file's name, else tsv
    #[arg(long, short, value_enum)]
    pub(crate) format: Option<Format>,
    /// Each value is a JSON object and becomes the line, as loaded with this --key (jsonl)
    #[arg(long, value_name = "FIELD")]
    pub(crate) key: Option<String>,
    /// Write bytes as they are, and refuse entries for which that does not do (tsv)
    #[arg(long)]
    pub(crate) no_escapes: bool,
    #[command(flatten)]
    pub(crate) range: RangeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The directory of the database, whose keyspace `esker.bench` is used unless --keyspace names
    /// another; a temporary one if missing
    pub(crate) db: Option<PathBuf>,
    /// What to run, in this order
    #[arg(
        long,
        short,
        value_enum,
        value_delimiter = ',',
        value_name = "NAME,…",
        default_value = "fillseq,fillrandom,overwrite,readrandom,readmissing,seekrandom,readseq,\
                           readreverse,readwhilewriting,deleterandom,fillsync,fillbatch"
    )]
    pub(crate) workloads: Vec<Workload>,
    /// Records, and operations per workload
    #[arg(long, short, value_name = "N", default_value_t = 1_000_000,
          value_parser = clap::value_parser!(u64).range(1..=10_000_000_000))]
    pub(crate) num: u64,
    /// Length of a value, half compressible
    #[arg(long, value_name = "BYTES", default_value_t = 100,
          value_parser = clap::value_parser!(u64).range(0..=(1 << 30)))]
    pub(crate) value_bytes: u64,
    /// Values of so many bytes lie apart, in blob files; otherwise none do
    #[arg(long, value_name = "BYTES")]
    pub(crate) separate: Option<usize>,
    /// Threads that share the operations
    #[arg(long, short, value_name = "T", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) threads: u64,
    /// Overwrite for so many seconds, and tell the throughput of each
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: Option<u64>,
    /// Repeat the run with this seed
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
    /// What a write survives: sync, os, interval=MS (fillsync always syncs)
    #[arg(long, value_name = "MODE", value_parser = parse_durability, default_value = "os")]
    pub(crate) durability: Durability,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct DurabilityArg {
    /// What an acknowledged write survives: sync (everything), os (a crash of this process),
    /// interval=MS (everything but the last milliseconds before a power loss)
    #[arg(long = "durability", value_name = "MODE", value_parser = parse_durability,
          default_value = "sync")]
    pub(crate) mode: Durability,
}

fn bytes_parser() -> impl TypedValueParser<Value = Bytes> {
    OsStringValueParser::new().try_map(|text| text::unescape(text.as_encoded_bytes()).map(Bytes))
}

fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|char: char| !char.is_ascii_digit());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err("write a number of bytes, or one with K, M, G or T behind it".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "write a whole number, as in 256M".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "that is too large".to_owned())
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|char: char| !char.is_ascii_digit());
    let ms = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("write a number of seconds, or one with ms, s, m, h or d".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "write a whole number, as in 10m".to_owned())?;
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(|| "that is too long".to_owned())
}

fn parse_durability(text: &str) -> Result<Durability, String> {
    match text.split_once('=') {
        None if text == "sync" => Ok(Durability::Sync),
        None if text == "os" => Ok(Durability::Os),
        Some(("interval", ms)) => {
            let ms = ms.strip_suffix("ms").unwrap_or(ms).parse::<u64>();
            let ms = ms.ok().filter(|ms| *ms > 0);
            let ms = ms.ok_or("write a number of milliseconds, as in interval=100")?;
            Ok(Durability::Interval(Duration::from_millis(ms)))
        }
        _ => Err("write sync, os or interval=MS".to_owned()),
    }
}

impl RangeArgs {
    /// The entries of `reader` in this range.
    pub(crate) fn iter(&self, reader: &esker::Reader) -> esker::Iter {
        if let Some(Bytes(prefix)) = &self.prefix {
            return reader.prefix(prefix);
        }
        reader.range::<Vec<u8>, _>(self.std_bounds())
    }

    fn std_bounds(&self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
        let bytes = |bound: &Option<Bytes>| bound.as_ref().map(|Bytes(bytes)| bytes.clone());
        let from = bytes(&self.from).map_or(Bound::Unbounded, Bound::Included);
        (from, bytes(&self.to).map_or(Bound::Unbounded, Bound::Excluded))
    }

    /// Appends to `batch` that the keys of this range are removed from `keyspace`.
    pub(crate) fn delete(&self, keyspace: &esker::Keyspace, batch: &mut esker::WriteBatch) {
        match &self.prefix {
            Some(Bytes(prefix)) => batch.delete_prefix(keyspace, prefix),
            None => batch.delete_range::<Vec<u8>, _>(keyspace, self.std_bounds()),
        };
    }

    /// Is this everything?
    pub(crate) fn is_all(&self) -> bool {
        self.from.is_none() && self.to.is_none() && self.prefix.is_none()
    }

    /// The first key and the key to stop before; each unbounded if none.
    pub(crate) fn bounds(&self) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let bytes = |bound: &Option<Bytes>| bound.as_ref().map(|Bytes(bytes)| bytes.clone());
        match &self.prefix {
            Some(Bytes(prefix)) => (Some(prefix.clone()), after_prefix(prefix)),
            None => (bytes(&self.from), bytes(&self.to)),
        }
    }
}

/// The first key behind all that begin with `prefix`; none if that is the end.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte < u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_and_durabilities_read_as_written() {
        assert_eq!(parse_size("256M"), Ok(256 << 20));
        assert_eq!(parse_size("1gib"), Ok(1 << 30));
        assert_eq!(parse_size("77"), Ok(77));
        for bad in ["", "M", "1X", "-1", "99999999999T", "1.5G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        let interval = Durability::Interval(Duration::from_millis(20));
        assert_eq!(parse_durability("interval=20"), Ok(interval));
        assert_eq!(parse_durability("sync"), Ok(Durability::Sync));
        for bad in ["", "interval", "interval=0", "interval=x", "none"] {
            assert!(parse_durability(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_are_typed_with_escapes() {
        let cli = Cli::parse_from(["esker", "get", "db", r"a\xff\\"]);
        let Command::Get { key, .. } = cli.command else { panic!("{cli:?}") };
        assert_eq!(key, Bytes(b"a\xff\\".to_vec()));
        assert!(Cli::try_parse_from(["esker", "get", "db", r"a\q"]).is_err());
    }

    #[test]
    fn a_prefix_ends_where_the_next_begins() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }
}
