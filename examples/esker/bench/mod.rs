//! `bench`: throughput and latencies of the workloads that db_bench made customary.
//!
//! Keys are 16 bytes, a decimal number padded with zeros; values compress to half. A workload whose
//! name begins with `fill` starts from nothing; the others go on with what is there, or with
//! `num` records written in random order if that is nothing.

mod report;
mod run;
mod workloads;

use std::path::Path;
use std::path::PathBuf;

use clap::ValueEnum;
use esker::Db;
use esker::Keyspace;
use esker::KeyspaceOptions;

use crate::bench::report::Table;
use crate::bench::workloads::Bench;
use crate::cli::BenchArgs;
use crate::cli::Global;
use crate::failure::Failure;
use crate::failure::Result;
use crate::progress::Progress;

/// The keyspace that is used unless another one is named.
const KEYSPACE: &str = "esker.bench";

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum Workload {
    /// Write every key in order
    FillSeq,
    /// Write every key in random order
    FillRandom,
    /// Write every key in random order, 100 per batch
    FillBatch,
    /// Write a hundredth of the keys in random order, each synced to disk
    FillSync,
    /// Write random keys that exist
    Overwrite,
    /// Delete random keys
    DeleteRandom,
    /// Read random keys
    ReadRandom,
    /// Read keys that do not exist
    ReadMissing,
    /// Open a cursor, seek a random key and read the 10 entries behind it
    SeekRandom,
    /// Read everything in order
    ReadSeq,
    /// Read all keys in order, without their values
    ReadKeys,
    /// Read everything backwards
    ReadReverse,
    /// Read random keys while one more thread overwrites
    ReadWhileWriting,
    /// Replace the values of random keys, each with nothing between its read and its write
    Update,
    /// Transactions that exchange the values of two random keys
    Transfer,
    /// The same with ten keys for all
    TransferHot,
    /// Compact everything
    Compact,
}

impl Workload {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Does it start from nothing?
    fn fills(self) -> bool {
        matches!(
            self,
            Workload::FillSeq | Workload::FillRandom | Workload::FillBatch | Workload::FillSync
        )
    }
}

/// Where the workloads run.
struct Place<'a> {
    global: &'a Global,
    args: &'a BenchArgs,
    /// A temporary directory, if no database was named.
    scratch: Option<tempfile::TempDir>,
    databases: u64,
}

impl Place<'_> {
    fn path(&self) -> Result<PathBuf> {
        match (&self.args.db, &self.scratch) {
            (Some(path), _) => Ok(path.clone()),
            (None, Some(scratch)) => Ok(scratch.path().join(self.databases.to_string())),
            (None, None) => Err(Failure::new("there is no place for a database")),
        }
    }

    fn keyspace_name(&self) -> &str {
        if self.global.keyspace == "default" { KEYSPACE } else { &self.global.keyspace }
    }

    fn open(&self, path: &Path) -> Result<(Db, Keyspace)> {
        let db = self.global.options().durability(self.args.durability).open(path)?;
        let keyspace = self.keyspace(&db)?;
        Ok((db, keyspace))
    }

    fn keyspace(&self, db: &Db) -> Result<Keyspace> {
        let apart = self.args.separate.unwrap_or(usize::MAX);
        let options = KeyspaceOptions::new().separate_values(apart);
        Ok(db.keyspace_with(self.keyspace_name(), options)?)
    }

    /// An empty keyspace: in a new temporary database, or in the user's if it is ours there. A
    /// keyspace that the user named is written over, never emptied.
    fn renew(&mut self, (db, keyspace): (Db, Keyspace)) -> Result<(Db, Keyspace)> {
        if self.scratch.is_some() {
            let old = self.path()?;
            db.close()?;
            std::fs::remove_dir_all(&old)
                .map_err(|error| Failure::io("remove", old.display(), &error))?;
            self.databases += 1;
            let path = self.path()?;
            return self.open(&path);
        }
        if keyspace.name() == KEYSPACE {
            db.drop_keyspace(KEYSPACE)?;
            let keyspace = self.keyspace(&db)?;
            return Ok((db, keyspace));
        }
        Ok((db, keyspace))
    }
}

pub(crate) fn run(global: &Global, args: &BenchArgs, progress: &Progress) -> Result<()> {
    let scratch = match &args.db {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("esker-bench-")
                .tempdir()
                .map_err(|error| Failure::io("create", "a temporary directory", &error))?,
        ),
    };
    let mut place = Place { global, args, scratch, databases: 0 };
    let path = place.path()?;
    let mut open = place.open(&path)?;
    let mut table = Table::new(global.json, args, progress)?;
    for &workload in &args.workloads {
        if workload.fills() && open.1.first_key_value()?.is_some() {
            open = place.renew(open)?;
        }
        let bench = Bench::new(&open.0, &open.1, args, progress);
        if !workload.fills() && open.1.first_key_value()?.is_none() {
            bench.run(Workload::FillRandom)?;
        }
        for outcome in bench.run(workload)? {
            table.row(&outcome)?;
        }
    }
    table.finish()?;
    let (db, keyspace) = open;
    drop(keyspace);
    db.close()?;
    Ok(())
}
