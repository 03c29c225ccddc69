//! Opens databases and keyspaces as the options of all commands say.

use std::io::Write as _;
use std::path::Path;

use esker::Db;
use esker::Keyspace;
use esker::Options;
use esker::Recovery;

use crate::cli::Global;
use crate::cli::ReadMode;
use crate::cli::RecoveryMode;
use crate::failure::Failure;
use crate::failure::Result;

impl Global {
    /// The options that open a database.
    pub(crate) fn options(&self) -> Options {
        let mut options =
            Options::new().mmap(self.read_mode == ReadMode::Mmap).recovery(match self.recovery {
                RecoveryMode::Strict => Recovery::Strict,
                RecoveryMode::ToLastConsistentPoint => Recovery::ToLastConsistentPoint,
            });
        // Those of other programs are not known here.
        options = options.missing_merge_operators(true);
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        if let Some(budget) = self.memory_budget {
            options = options.memory_budget(size(budget));
            // The default memtable would not fit into a small budget.
            options = options.memtable_bytes(size(budget / 8).clamp(1024, 32 << 20));
        }
        if let Some(memtable) = self.memtable {
            options = options.memtable_bytes(size(memtable));
            if self.memory_budget.is_none() {
                options = options.memory_budget(size(memtable).saturating_mul(4).max(256 << 20));
            }
        }
        options
    }

    /// Opens a database that must exist.
    pub(crate) fn open(&self, path: &Path) -> Result<Db> {
        self.open_with(self.options(), path)
    }

    /// Opens a database for reading, beside others who read it. Nothing in it is changed.
    pub(crate) fn open_to_read(&self, path: &Path) -> Result<Db> {
        self.open_with(self.options().read_only(true), path)
    }

    pub(crate) fn open_with(&self, options: Options, path: &Path) -> Result<Db> {
        match std::fs::metadata(path) {
            Err(error) => Err(Failure::io("open", path.display(), &error)),
            Ok(meta) if !meta.is_dir() => {
                Err(Failure::new(format!("cannot open {}: it is no directory", path.display())))
            }
            Ok(_) => {
                let db = options.create_if_missing(false).open(path)?;
                self.tell_given_up(&db);
                Ok(db)
            }
        }
    }

    /// What recovery gave up is told whatever the command prints.
    fn tell_given_up(&self, db: &Db) {
        if let Some(given_up) = db.stats().given_up.filter(|_| !self.quiet) {
            // A remark that cannot be shown is no reason to fail.
            let _ = writeln!(std::io::stderr(), "warning: {given_up}");
        }
    }

    /// Opens a database and the keyspace to work on, both of which must exist.
    pub(crate) fn open_keyspace(&self, path: &Path) -> Result<(Db, Keyspace)> {
        self.keyspace_of(self.open(path)?)
    }

    /// The same for reading.
    pub(crate) fn open_keyspace_to_read(&self, path: &Path) -> Result<(Db, Keyspace)> {
        self.keyspace_of(self.open_to_read(path)?)
    }

    fn keyspace_of(&self, db: Db) -> Result<(Db, Keyspace)> {
        let names = db.keyspaces();
        if !names.contains(&self.keyspace) {
            let (name, known) = (&self.keyspace, names.join(", "));
            return Err(Failure::new(format!("there is no keyspace {name:?}; there is {known}")));
        }
        let keyspace = db.keyspace(&self.keyspace)?;
        Ok((db, keyspace))
    }

    /// Opens a database and the keyspace to work on, and creates what is missing.
    pub(crate) fn create_keyspace(&self, path: &Path) -> Result<(Db, Keyspace)> {
        let db = self.options().open(path)?;
        self.tell_given_up(&db);
        let keyspace = db.keyspace(&self.keyspace)?;
        Ok((db, keyspace))
    }
}
