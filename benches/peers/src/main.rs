//! Compares esker with its peers: the same work, the same promises, in one run.
//!
//! `peers run` measures, `peers report` prints what it has measured. See the README beside it for
//! what is fair about it and what is not.

mod bars;
mod build_cost;
mod cgroup;
mod engines;
mod growth;
mod keys;
mod machine;
mod measure;
mod plan;
mod report;
mod results;
mod rows;
mod run;
mod worker;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use regex_lite::Regex;

use engines::Name;
use keys::Shape;
use plan::Seconds;
use plan::Set;
use results::Results;
use run::Asked;

/// The same work over esker, rocksdb, fjall, redb, sled and LMDB.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure
    Run(RunArgs),
    /// Print the tables of a results file, and draw it
    Report {
        results: PathBuf,
        /// A directory for the pictures
        #[arg(long)]
        pictures: Option<PathBuf>,
    },
    /// Measure random writes and reads as the database grows
    Growth {
        /// Numbers of entries
        #[arg(long, value_delimiter = ',', default_values_t = [1_000_000, 5_000_000, 20_000_000, 50_000_000])]
        sizes: Vec<u64>,
        #[arg(long, value_delimiter = ',', default_values_t = [Name::Esker, Name::Rocksdb, Name::Fjall])]
        engines: Vec<Name>,
        #[command(flatten)]
        places: Places,
    },
    /// Measure what a program costs to build, and its size
    BuildCost {
        #[arg(long, value_delimiter = ',', default_values_t = build_cost::ENGINES)]
        engines: Vec<Name>,
        #[command(flatten)]
        places: Places,
    },
    /// What `run` starts for each engine
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        plan: String,
    },
}

#[derive(Args)]
struct Places {
    /// Where databases are made: on the disk that is to be measured
    #[arg(long, default_value = "target/peers")]
    dir: PathBuf,
    /// The results file
    #[arg(long, default_value = "results.json")]
    out: PathBuf,
}

#[derive(Args)]
struct RunArgs {
    /// A million entries, short rows (the default): at most 15 minutes
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// One and five million entries, other values and keys, more data than memory: hours
    #[arg(long)]
    full: bool,
    /// Another number of entries, of the plain kind
    #[arg(long)]
    keys: Option<u64>,
    /// Bytes of a value, with --keys
    #[arg(long, requires = "keys", default_value_t = 100)]
    value_bytes: usize,
    /// Kind of keys, with --keys
    #[arg(long, requires = "keys", value_enum, default_value_t = Shape::Decimal)]
    shape: Shape,
    /// Only rows that this regular expression matches
    #[arg(long, default_value = "")]
    rows: Regex,
    #[arg(long, value_delimiter = ',', default_values_t = Name::ALL)]
    engines: Vec<Name>,
    /// How often all is done (default: 2 for --quick, 3 for --full)
    #[arg(long)]
    repetitions: Option<u32>,
    /// Add to the results file instead of replacing it
    #[arg(long)]
    append: bool,
    /// The rows with more data than memory too, in a quick run
    #[arg(long)]
    larger: bool,
    #[command(flatten)]
    places: Places,
}

impl RunArgs {
    fn sets(&self) -> Vec<Set> {
        match self.keys {
            Some(keys) if self.value_bytes == 100 && self.shape == Shape::Decimal => {
                vec![Set::plain(keys)]
            }
            Some(keys) => {
                let name = format!("{keys} keys, {:?}, values of {}", self.shape, self.value_bytes);
                vec![Set::new(&name, keys, self.value_bytes, self.shape)]
            }
            None if self.full => Set::full(),
            None => vec![Set::plain(1_000_000)],
        }
    }
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Run(args) => run::run(&Asked {
            sets: args.sets(),
            rows: args.rows,
            engines: args.engines,
            seconds: if args.full { Seconds::FULL } else { Seconds::QUICK },
            repetitions: args.repetitions.unwrap_or(if args.full { 3 } else { 2 }),
            larger: args.full || args.larger,
            dir: run::scratch_root(&args.places.dir)?,
            out: args.places.out,
            append: args.append,
        }),
        Command::Report { results, pictures } => {
            report::report(&Results::read(&results)?, pictures.as_deref())
        }
        Command::Growth { sizes, engines, places } => {
            growth::run(&sizes, &engines, &run::scratch_root(&places.dir)?, &places.out)
        }
        Command::BuildCost { engines, places } => {
            build_cost::run(&engines, &run::scratch_root(&places.dir)?, &places.out)
        }
        Command::Worker { plan } => worker::work(&serde_json::from_str(&plan)?),
    }
}
