//! Repair: what still reads of a database, put into a new one.
//!
//! 1. [`inventory`]: what manifest there is says which keyspaces, SSTs and log segments count.
//! 2. The log ([`log`]): each operation that still reads goes into a keyspace of the new database
//!    that exists for this only, of each key what counts staying.
//! 3. Each keyspace: the SSTs' entries ([`entries`]), as far as their blocks verify, are merged with
//!    what the log gave; of each key the version with the highest sequence number is written, and
//!    if that is a merge operand, the others down to a put as well. Values that lie apart are fetched
//!    from the blob files ([`blobs`]).
//!
//! It stands above the public interface, whose writes fill the new database. The old one is only
//! read. Memory holds a block of each run of SSTs and a segment of the log, beside the new
//! database's own budget.

use std::cmp::Reverse;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::api::batch::WriteBatch;
use crate::api::db::Db;
use crate::api::keyspace::Keyspace;
use crate::api::options::KeyspaceOptions;
use crate::api::options::Options;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::KeyspaceId;
use crate::base::key::Trailer;
use crate::base::options::Durability;
use crate::base::options::Recovery;
use crate::base::sorted::sort_by;
use crate::base::sorted::sort_by_key;
use crate::base::value::EXPIRY_LEN;
use crate::base::value::ValueKind;
use crate::base::value::expiry_of;
use crate::base::value::put_until;
use crate::fs::DirEntry;
use crate::fs::Fs;
use crate::fs::LockMode;
use crate::fs::names::FileKind;
use crate::fs::names::LOCK;

mod blobs;
mod entries;
mod inventory;
mod log;
mod report;

use blobs::BlobFiles;
use entries::Entries;
use inventory::Home;
use inventory::Inventory;
use log::RangeTombstone;
pub use report::Loss;
pub use report::RepairReport;
pub use report::RepairedKeyspace;

/// Bytes of entries that are written at once.
const BATCH_BYTES: usize = 1 << 20;

const OLDER: &str = "where blocks or files with entries were lost, older values of keys may be \
                     back, deleted keys too, and batches may be there in part";

const UNKNOWN_OPERATOR: &str = "merge operands of keyspaces whose merge operator is not known are \
                                left out";

const UNKNOWN_KIND: &str = "entries of a kind that this version does not read are left out";

/// Rebuilds what still reads of the database in `from` as a new one in `to`, with the default
/// options: see [`Options::repair`].
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let (old, new) = (dir.path().join("old"), dir.path().join("new"));
/// # let db = esker::Db::open(&old)?;
/// # db.put("k", "v")?;
/// # db.close()?;
/// std::fs::remove_file(old.join("CURRENT"))?; // An accident.
/// let report = esker::repair(&old, &new)?;
/// println!("{report}");
/// let db = esker::Db::open(&new)?;
/// assert_eq!(db.get("k")?.unwrap(), "v");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// See [`Options::repair`].
pub fn repair(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<RepairReport> {
    Options::new().repair(from, to, &mut |_, _| {})
}

impl Options {
    /// Rebuilds what still reads of the database in the directory `from` as a new one in `to`,
    /// which does not exist yet or is empty, and tells what was saved and what was lost. `progress`
    /// is called with bytes done and bytes in all.
    ///
    /// Nothing in `from` is created, changed or removed. Everything is taken that verifies: of SSTs
    /// with damaged blocks all others, with a damaged index all blocks that are found without it,
    /// of a damaged log the records behind the damage too. Without `CURRENT` or a whole manifest all
    /// files count that are not proven obsolete. Of each key the newest version that reads is the
    /// one that counts, and a deleted key stays deleted, as far as that reads; the report says what
    /// cannot be proven. Keyspaces whose names are lost are called `keyspace-N`.
    ///
    /// The new database holds the newest version of each key, and is durable on return. These
    /// options are its own; it need not fit into memory.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    /// # esker::Db::open(&old)?.put("k", "v")?;
    /// let options = esker::Options::new().memory_budget(64 << 20).memtable_bytes(8 << 20);
    /// let report = options.repair(&old, &new, &mut |done, total| println!("{done} of {total}"))?;
    /// assert!(report.is_clean() && report.entries == 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `NotADatabase` if `from` has no file of a database; `InvalidArgument` if `to` holds anything
    /// or lies in `from`; `Locked` if somebody has `from` open for writing; `Io`. After an error
    /// `to` holds a part, and is to be removed.
    pub fn repair(
        self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<RepairReport> {
        let fs = self.file_system().clone();
        let dir = fs.canonical(from.as_ref())?;
        let listing = fs.list(&dir)?;
        if !inventory::holds_a_database(&listing) {
            return Err(inventory::no_database(from.as_ref()));
        }
        check_target(fs.as_ref(), &dir, to.as_ref())?;
        // Creates nothing, and keeps writers out.
        let lock = fs.lock(&dir.join(LOCK), LockMode::Shared)?;
        // Again under the lock.
        let listing = fs.list(&dir)?;
        let mut report = RepairReport::default();
        let inventory = Inventory::read(fs.as_ref(), &dir, &listing, &mut report);
        let total = listing
            .iter()
            .filter(|entry| {
                matches!(FileKind::parse(&entry.name), Some(FileKind::Sst(_) | FileKind::Wal(_)))
            })
            .map(|entry| entry.len)
            .sum();
        let options = self
            .create_if_missing(true)
            .read_only(false)
            .recovery(Recovery::Strict)
            .durability(Durability::Os);
        let db = options.open(to)?;
        let uids = inventory.blob_uids();
        let blobs = BlobFiles::new(fs.clone(), &dir, inventory.db, uids);
        let mut repair = Repair { fs, dir, db, inventory, blobs, report, progress, done: 0, total };
        repair.run(&listing)?;
        drop(lock);
        Ok(repair.report)
    }
}

/// Fails unless `to` is nothing yet, or an empty directory, and not within `dir`.
fn check_target(fs: &dyn Fs, dir: &Path, to: &Path) -> Result<()> {
    let shown = to.display();
    if fs.exists(to)? && !fs.list(to)?.is_empty() {
        return Err(Error::argument(format!("{shown} is not empty: choose a new directory")));
    }
    for ancestor in to.ancestors() {
        let ancestor = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        match fs.canonical(ancestor) {
            Ok(ancestor) if ancestor.starts_with(dir) => {
                let what = format!("{shown} lies in the damaged database: choose another place");
                return Err(Error::argument(what));
            }
            Ok(_) => return Ok(()),
            Err(error) if error.io_kind() == Some(io::ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A repair under way.
struct Repair<'a> {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    db: Db,
    inventory: Inventory,
    blobs: BlobFiles,
    report: RepairReport,
    progress: &'a mut dyn FnMut(u64, u64),
    done: u64,
    total: u64,
}

impl Repair<'_> {
    fn run(&mut self, listing: &[DirEntry]) -> Result<()> {
        let staged = self.stage_log(listing)?;
        let mut ssts = std::mem::take(&mut self.inventory.ssts);
        let named = self.inventory.names.keys().map(|id| Home::Keyspace(*id));
        let logged = staged.keyspaces().map(Home::Keyspace);
        let mut homes: Vec<Home> = ssts.keys().copied().chain(named).chain(logged).collect();
        homes.push(Home::Keyspace(KeyspaceId::DEFAULT));
        sort_by_key(&mut homes, |home| *home);
        homes.dedup();
        for home in homes {
            let files = ssts.remove(&home).unwrap_or_default();
            let mut options = KeyspaceOptions::new();
            if let Some(name) = self.inventory.operator_of(home) {
                options = options.merge_operator_named(name);
            }
            if let Some(bytes) = self.inventory.separate_from(home) {
                options = options.separate_values(usize::try_from(bytes).unwrap_or(usize::MAX));
            }
            if let Some(ttl) = self.inventory.default_ttl(home) {
                options = options.default_ttl(ttl);
            }
            let keyspace = self.db.keyspace_with(&self.inventory.name_of(home), options)?;
            let log = match home {
                Home::Keyspace(id) => staged.keyspace(id),
                Home::File(_) => None,
            };
            let ranges = match home {
                Home::Keyspace(id) => staged.ranges(id),
                Home::File(_) => &[],
            };
            let is_expiring = self.inventory.is_expiring(home);
            let entries = self.merge(&keyspace, is_expiring, files, log, ranges)?;
            let name = keyspace.name().to_owned();
            if is_expiring {
                // Not before: what it had of operands is written as it was.
                self.db.keyspace_with(&name, KeyspaceOptions::new().expiring(true))?;
            }
            self.report.entries += entries;
            self.report.keyspaces.push(RepairedKeyspace { name, entries });
        }
        sort_by(&mut self.report.keyspaces, |a, b| a.name.cmp(&b.name));
        if self.report.bytes_lost > 0 {
            self.report.remark(OLDER);
        }
        staged.drop_all(&self.db)?;
        (self.progress)(self.total, self.total);
        self.db.flush()?;
        self.db.clone().close()
    }

    /// Writes the newest version of each key of SSTs and log, with the operands on top of it;
    /// returns for how many keys.
    fn merge(
        &mut self,
        keyspace: &Keyspace,
        is_expiring: bool,
        files: Vec<inventory::SstSource>,
        log: Option<&Keyspace>,
        ranges: &[RangeTombstone],
    ) -> Result<u64> {
        let fs = self.fs.clone();
        let is_proven = self.inventory.is_proven;
        let mut ssts = Entries::new(fs.as_ref(), files, ranges, is_proven, &mut self.report);
        let mut logged = log.map(|log| log.iter());
        let mut next_logged = logged.as_mut().and_then(Iterator::next).transpose()?;
        let batch = WriteBatch::new();
        let mut out = Output { db: &self.db, keyspace, is_expiring, batch, entries: 0 };
        let base = self.done;
        loop {
            let heads =
                [ssts.key().map(|key| &key.user[..]), next_logged.as_ref().map(|l| &l.0[..])];
            let Some(user) = heads.into_iter().flatten().min().map(<[u8]>::to_vec) else { break };
            let mut versions = Vec::new();
            if let Some((_, staged)) = next_logged.take_if(|(logged, _)| logged == &user[..]) {
                versions = log::unpack(&staged)?;
                next_logged = logged.as_mut().and_then(Iterator::next).transpose()?;
            }
            ssts.take_versions(&user, &mut versions, &mut self.blobs, &mut self.report);
            ssts.hide_dead(&user, &mut versions);
            if let Some(remark) = out.add(&user, versions) {
                self.report.remark(remark);
            }
            out.write_if_full()?;
            self.done = base + ssts.done;
            if out.is_fresh() {
                (self.progress)(self.done.min(self.total), self.total);
            }
        }
        out.finish()
    }
}

/// Entries on their way into a keyspace of the new database.
struct Output<'a> {
    db: &'a Db,
    keyspace: &'a Keyspace,
    /// Its values may expire, though it has an operator.
    is_expiring: bool,
    batch: WriteBatch,
    entries: u64,
}

impl Output<'_> {
    /// Adds what `versions` of a key come to. Returns what must be remarked.
    fn add(&mut self, key: &[u8], mut versions: Vec<(Trailer, Vec<u8>)>) -> Option<&'static str> {
        let is_operand = |trailer: Trailer| trailer.kind() == Some(ValueKind::Merge);
        // Newest first; of an operand, and what it was folded into, the latter.
        sort_by_key(&mut versions, |(trailer, _)| {
            Reverse((trailer.seqno(), !is_operand(*trailer)))
        });
        versions.dedup_by_key(|(trailer, _)| trailer.seqno());
        let operands = versions.iter().position(|(trailer, _)| !is_operand(*trailer));
        let operands = operands.unwrap_or(versions.len());
        let mut remark = None;
        let mut is_there = false;
        if let Some((trailer, value)) = versions.get(operands) {
            match trailer.kind() {
                Some(ValueKind::Put) => {
                    self.batch.put(self.keyspace, key, value);
                    is_there = true;
                }
                Some(ValueKind::Expiring)
                    if self.is_expiring || self.keyspace.state().claim_expiry().is_ok() =>
                {
                    let rest = value.get(EXPIRY_LEN..).unwrap_or_default();
                    let form = put_until(expiry_of(value), rest.into());
                    self.batch.push_form(self.keyspace, key, form);
                    is_there = true;
                }
                Some(ValueKind::Delete) => {}
                _ => remark = Some(UNKNOWN_KIND),
            }
        }
        if operands > 0 && self.keyspace.merge_operator().is_none() {
            remark = Some(UNKNOWN_OPERATOR);
        } else if operands > 0 {
            versions.iter().take(operands).rev().for_each(|(_, operand)| {
                self.batch.merge(self.keyspace, key, operand);
            });
            is_there = true;
        }
        self.entries += u64::from(is_there);
        remark
    }

    fn write_if_full(&mut self) -> Result<()> {
        if self.batch.bytes() >= BATCH_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        self.db.write(std::mem::take(&mut self.batch))
    }

    /// Was everything written a moment ago?
    fn is_fresh(&self) -> bool {
        self.batch.is_empty()
    }

    fn finish(mut self) -> Result<u64> {
        self.write()?;
        Ok(self.entries)
    }
}
