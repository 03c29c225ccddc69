//! The command-line tool of esker: `cargo run --release --example esker -- help`.
//!
//! `cli` says what there is; each command has a module, and shares `input`/`output` (formats of
//! entries), `text` (bytes as text), `progress`, `latency` and `picture` with the others.

mod admin;
mod bench;
mod changes;
mod cli;
mod csv;
mod data;
mod failure;
mod input;
mod latency;
mod load;
mod open;
mod output;
mod picture;
mod point;
mod process;
mod progress;
mod records;
mod scan;
mod text;
mod tour;
mod txn;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

use crate::cli::Cli;
use crate::cli::Command;
use crate::failure::Failure;
use crate::failure::Result;
use crate::progress::Progress;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<()> {
    let global = &cli.global;
    let progress = Progress::new(global.quiet || global.json);
    match cli.command {
        Command::Tour(args) => {
            let passed = tour::run(global, &args, &progress)?;
            if passed { Ok(()) } else { Err(Failure::Silent) }
        }
        Command::TourWriter(args) => tour::writer::run(&args),
        Command::Load(args) => load::run(global, &args, &progress),
        Command::Get { db, key, raw } => point::get(global, &db, &key.0, raw),
        Command::Put { db, key, value, ttl, durability } => {
            point::put(global, &db, &key.0, value.map(|value| value.0), ttl, durability.mode)
        }
        Command::Delete { db, key, durability } => {
            point::delete(global, &db, &key.0, durability.mode)
        }
        Command::DeleteRange { db, range, all, durability } => {
            scan::delete_range(global, &db, &range, all, durability.mode)
        }
        Command::Ttl { db, key, set, persist } => {
            let to = set.or(persist.then_some(Duration::MAX));
            point::ttl(global, &db, &key.0, to)
        }
        Command::Incr { db, key, by, ttl, durability } => {
            point::incr(global, &db, &key.0, (by, ttl), durability.mode)
        }
        Command::Cas(args) => point::cas(global, &args),
        Command::Txn { db, isolation, durability } => {
            txn::run(global, &db, isolation, durability.mode)
        }
        Command::Scan(args) => scan::scan(global, &args),
        Command::Count { db, range } => scan::count(global, &db, &range, &progress),
        Command::Export(args) => scan::export(global, &args, &progress),
        Command::Changes(args) => changes::run(global, &args),
        Command::Keyspaces { db } => admin::keyspaces(global, &db),
        Command::Stats { db } => admin::stats(global, &db),
        Command::Levels { db, files } => admin::levels(global, &db, files),
        Command::Compact { db, range } => admin::compact(global, &db, &range, &progress),
        Command::Verify { db } => admin::verify(global, &db, &progress),
        Command::Repair { db, new } => admin::repair(global, &db, &new, &progress),
        Command::Dump { file } => admin::dump(&file),
        Command::Bench(args) => bench::run(global, &args, &progress),
    }
}
