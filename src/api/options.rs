//! Options: how a database is opened.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::api::db::Db;
use crate::base::blob::NEVER_APART;
use crate::base::clock::Clock;
use crate::base::clock::SystemClock;
use crate::base::compression::Compression;
use crate::base::error::Result;
use crate::base::hooks::MergeOperator;
use crate::base::options::Config;
use crate::base::options::Durability;
use crate::base::options::KeyspaceConfig;
use crate::base::options::Recovery;
use crate::base::options::Retention;
use crate::base::options::WantedOperator;
use crate::fs::Fs;
use crate::fs::OsFs;

/// Settings of a database, checked when it is opened. The defaults are safe and fast; most programs
/// set `memory_budget` and perhaps `durability`.
///
/// ```
/// use esker::{Durability, Options};
/// use std::time::Duration;
///
/// # let dir = tempfile::tempdir()?;
/// let db = Options::new()
///     .memory_budget(512 << 20)
///     .durability(Durability::Interval(Duration::from_millis(100)))
///     .open(dir.path())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Options {
    config: Config,
    fs: Arc<dyn Fs>,
    clock: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Options {
        Options::new()
    }
}

impl Options {
    /// The defaults.
    pub fn new() -> Options {
        Options { config: Config::default(), fs: Arc::new(OsFs), clock: Arc::new(SystemClock) }
    }

    /// Create the database if the directory is missing or empty (default: true). Otherwise opening
    /// one that does not exist is [`Error::NotADatabase`](crate::Error::NotADatabase).
    pub fn create_if_missing(mut self, yes: bool) -> Options {
        self.config.create_if_missing = yes;
        self
    }

    /// Open for reading only (default: false): nothing on disk is created, changed or removed, so
    /// that it does on a read-only file system, in a directory without write permission, and for a
    /// database of which nothing must be lost before it was looked at.
    ///
    /// Everything that reads works: what the log holds is read into memory. All of it, so that
    /// memory is bounded by the budget and the length of the log together. Everything that writes
    /// is [`Error::ReadOnly`](crate::Error::ReadOnly), a database that does not exist is
    /// [`Error::NotADatabase`](crate::Error::NotADatabase), and no threads run.
    /// [`recovery`](Options::recovery) says what becomes of damage in the log, as ever: with
    /// [`Recovery::ToLastConsistentPoint`] what is in front of it can be read, and what is behind
    /// it is still there.
    ///
    /// Any number of processes may have a database open for reading at once, while nobody has it
    /// open for writing. A directory without the file `LOCK`, which only a copy can be, is read
    /// without a lock: nothing keeps other processes from writing to it meanwhile.
    ///
    /// ```
    /// use esker::{Db, ErrorKind, Options};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// Db::open(dir.path())?.put("k", "v")?;
    /// let reader = Options::new().read_only(true).open(dir.path())?;
    /// let another = Options::new().read_only(true).open(dir.path())?;
    /// assert_eq!(reader.get("k")?.unwrap(), "v");
    /// assert_eq!(reader.put("k", "w").unwrap_err().kind(), ErrorKind::ReadOnly);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_only(mut self, yes: bool) -> Options {
        self.config.read_only = yes;
        self
    }

    /// What an acknowledged write survives, unless its batch says otherwise (default:
    /// [`Durability::Sync`]).
    pub fn durability(mut self, durability: Durability) -> Options {
        self.config.durability = durability;
        self
    }

    /// What to do about damage in the log that no crash explains (default: [`Recovery::Strict`]).
    pub fn recovery(mut self, recovery: Recovery) -> Options {
        self.config.recovery = recovery;
        self
    }

    /// Bytes of memory for memtables, block cache, indexes and compaction together (default:
    /// 256 MiB). At least four times `memtable_bytes`.
    pub fn memory_budget(mut self, bytes: usize) -> Options {
        self.config.memory_budget = bytes;
        self
    }

    /// Bytes of writes that a keyspace collects in memory before they are flushed to a file
    /// (default: 32 MiB; at least 1 KiB).
    pub fn memtable_bytes(mut self, bytes: usize) -> Options {
        self.config.memtable_bytes = bytes;
        self
    }

    /// Bytes of a data block before compression (default: 4 KiB; 256 bytes to 16 MiB): the least
    /// that is read from disk for one key. Larger blocks compress better and read more slowly.
    pub fn block_bytes(mut self, bytes: usize) -> Options {
        self.config.block_bytes = bytes;
        self
    }

    /// Bytes at which compaction begins a new file (default: 64 MiB; at least 4 KiB).
    pub fn file_bytes(mut self, bytes: u64) -> Options {
        self.config.file_bytes = bytes;
        self
    }

    /// Bytes that the write-ahead log may grow to before the memtables that hold it up are flushed
    /// (default: 256 MiB; at least 16 KiB). Bounds the time to open after a crash.
    pub fn wal_bytes(mut self, bytes: u64) -> Options {
        self.config.wal_bytes = bytes;
        self
    }

    /// Keep what recovery no longer needs of the log for [change feeds](crate::Changes): up to so
    /// many bytes of files, and what is in a file until so long after its last write. `u64::MAX`
    /// bytes, or an age of `Duration::MAX`: the other one alone decides. See
    /// [`Db::changes_since`].
    ///
    /// The limits are stored with the database: who opens it without this option, as a tool would,
    /// leaves them as they are (a new database: nothing is kept). With 0 bytes nothing is kept any
    /// more. A file of the log goes as a whole. Time is told by the system's clock, and looked at
    /// when memtables are flushed and about once a second.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let day = Duration::from_secs(24 * 60 * 60);
    /// let db = esker::Options::new().log_retention(1 << 30, 7 * day).open(dir.path())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn log_retention(mut self, bytes: u64, age: Duration) -> Options {
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.config.log_retention = Some(Retention { bytes, age_ms });
        self
    }

    /// How data blocks are compressed (default: [`Compression::Lz4`]).
    pub fn compression(mut self, compression: Compression) -> Options {
        self.config.compression = compression;
        self
    }

    /// Bits per key of the filters that spare reads of absent keys (default: 10, about one false
    /// alarm in a hundred; 0: no filters). Small levels get more at no cost worth counting.
    pub fn filter_bits_per_key(mut self, bits: u32) -> Options {
        self.config.filter_bits_per_key = bits;
        self
    }

    /// Read files through memory mappings (default: true), or else by system calls; and write the
    /// log through one, where the file system allows that without risk (on Linux, ext4 and tmpfs). A
    /// mapping saves a copy, and a put a system call; but an I/O error on a mapped file, or its
    /// truncation by another program, ends the process with SIGBUS instead of an error.
    pub fn mmap(mut self, yes: bool) -> Options {
        self.config.mmap = yes;
        self
    }

    /// Threads that flush (one) and compact (the others, at least one), beside one that tends the
    /// log (default: the number of cores, 2 to 8). With 0 there are no background threads at all:
    /// flushes and compactions run when a writer needs their room or when [`Db::run_one_job`] is
    /// called, and the sync of [`Durability::Interval`] is left to the next write; so a test run is
    /// reproducible.
    pub fn background_threads(mut self, threads: usize) -> Options {
        self.config.background_threads = threads;
        self
    }

    /// Age at which tombstones are driven to the bottom of the tree and dropped, with what they
    /// delete, even if nothing else is written (default: one day).
    pub fn tombstone_age(mut self, age: Duration) -> Options {
        self.config.tombstone_age = age;
        self
    }

    /// Longest time a write may wait for compaction to catch up; beyond it the write fails with
    /// [`Error::Stalled`](crate::Error::Stalled) and changes nothing (default: none, it waits).
    pub fn write_deadline(mut self, deadline: Option<Duration>) -> Options {
        self.config.write_deadline = deadline;
        self
    }

    /// A merge operator that keyspaces of the database may have, told by its name. The built-in ones
    /// need not be given. Opening a database with a keyspace whose operator is neither is
    /// [`Error::MergeOperator`](crate::Error::MergeOperator).
    pub fn merge_operator(mut self, operator: impl MergeOperator) -> Options {
        self.config.merge_operators.add(Arc::new(operator));
        self
    }

    /// Open the database though it has keyspaces whose merge operators were not given (default:
    /// false), for tools that do not know them. Keys with operands in such a keyspace cannot be
    /// read, which is [`Error::MergeOperator`](crate::Error::MergeOperator); all else works, and
    /// flushes and compactions keep the operands as they are.
    pub fn missing_merge_operators(mut self, yes: bool) -> Options {
        self.config.missing_operators = yes;
        self
    }

    /// The file system to use (default: the operating system's). For tests: see
    /// [`fs`](crate::fs).
    pub fn fs(mut self, fs: Arc<dyn Fs>) -> Options {
        self.fs = fs;
        self
    }

    /// The clock to use (default: the operating system's). For tests.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Options {
        self.clock = clock;
        self
    }

    pub(crate) fn file_system(&self) -> &Arc<dyn Fs> {
        &self.fs
    }

    /// Opens the database in the directory `path`, recovering it if the last process crashed.
    ///
    /// # Errors
    /// `InvalidOptions`; `Locked` if it is open already (but see [`Options::read_only`]);
    /// `Corruption`; `UnsupportedFormat`; `NotADatabase`; `Io`. A failed open changes nothing that
    /// a later open needs.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Db> {
        self.config.validate()?;
        Db::open_with(path.as_ref(), &self.config, &self.fs, self.clock)
    }
}

/// What a keyspace is for, stored with it: see [`Db::keyspace_with`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct KeyspaceOptions {
    config: KeyspaceConfig,
}

impl KeyspaceOptions {
    /// Nothing in particular.
    pub fn new() -> KeyspaceOptions {
        KeyspaceOptions::default()
    }

    /// How [`Keyspace::merge`](crate::Keyspace::merge) changes values (default: not at all). For
    /// good: a keyspace cannot get another one. Later opens of the database need the operator too:
    /// [`Options::merge_operator`], unless it is a built-in one.
    pub fn merge_operator(mut self, operator: impl MergeOperator) -> KeyspaceOptions {
        let name = operator.name().to_owned();
        self.config.operator = Some(WantedOperator { name, operator: Some(Arc::new(operator)) });
        self
    }

    /// How long the values of later [puts](crate::Keyspace::put) live, to the millisecond (default:
    /// for ever, which `Duration::MAX` says). May be changed whenever the keyspace is opened;
    /// [`Keyspace::put_with_ttl`](crate::Keyspace::put_with_ttl) goes before it. Of a keyspace with a
    /// merge operator it says that its values are [expiring](KeyspaceOptions::expiring).
    ///
    /// ```
    /// use esker::{KeyspaceOptions, Ttl};
    /// use std::time::Duration;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// let day = Duration::from_secs(24 * 60 * 60);
    /// let sessions = db.keyspace_with("sessions", KeyspaceOptions::new().default_ttl(day))?;
    /// sessions.put("1", "Ada")?;
    /// assert!(matches!(sessions.ttl("1")?, Some(Ttl::For(_))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn default_ttl(mut self, ttl: Duration) -> KeyspaceOptions {
        // What is too long for the type is for ever, which 0 stands for.
        self.config.default_ttl_ms = Some(u64::try_from(ttl.as_millis().max(1)).unwrap_or(0));
        self
    }

    /// Values may expire in a keyspace with a merge operator, too: counters for a window of time, say
    /// (default: false; without an operator they may anyway). For good: what is `true` once stays so.
    ///
    /// [`Keyspace::merge`](crate::Keyspace::merge) is not blind then: it folds the operand at once into
    /// the value that the key has, if that has not expired, and writes what comes of it with the expiry
    /// of that value; a value that begins with the merge gets the keyspace's
    /// [default](KeyspaceOptions::default_ttl), if there is one. That costs a read and a conditional
    /// write instead of a write; and merges of one key run one after the other.
    ///
    /// ```
    /// use esker::{Add, KeyspaceOptions, Ttl};
    /// use std::time::Duration;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// let minute = Duration::from_secs(60);
    /// let options = KeyspaceOptions::new().merge_operator(Add).expiring(true);
    /// let requests = db.keyspace_with("requests", options.default_ttl(minute))?;
    /// for _ in 0..3 {
    ///     requests.merge("203.0.113.7", 1_i64.to_le_bytes())?;
    /// }
    /// assert_eq!(Add::value(&requests.get("203.0.113.7")?.unwrap()), Some(3));
    /// // A minute after the first one the count begins anew.
    /// assert!(matches!(requests.ttl("203.0.113.7")?, Some(Ttl::For(left)) if left <= minute));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn expiring(mut self, yes: bool) -> KeyspaceOptions {
        self.config.expiring = yes;
        self
    }

    /// Values of `bytes` and more lie in files of their own, *blob files*, and the tree keeps handles to
    /// them (default: none do; `usize::MAX` says so). Then flushes write such a value once, and
    /// compactions move its handle alone: with values of 4 KiB that are overwritten at random, half of
    /// what is written to disk and less. A read of the value costs one access more, and the values of
    /// a range do not lie side by side. Pays from some KiB on, where values are overwritten or many.
    ///
    /// What lies in blob files and is not referred to any more is collected in the background: it is
    /// at most half as much as what is referred to, once compaction has come to rest.
    ///
    /// May be changed whenever the keyspace is opened: values follow as they are rewritten.
    ///
    /// ```
    /// use esker::KeyspaceOptions;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// let images = db.keyspace_with("images", KeyspaceOptions::new().separate_values(4096))?;
    /// images.put("logo", vec![7; 100_000])?;
    /// db.flush()?;
    /// assert_eq!(images.size_of("logo")?, Some(100_000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn separate_values(mut self, bytes: usize) -> KeyspaceOptions {
        let from = if bytes == usize::MAX { NEVER_APART } else { bytes as u64 };
        self.config.separate_from = Some(from);
        self
    }

    /// With the merge operator of this name, whether the database knows it or not.
    pub(crate) fn merge_operator_named(mut self, name: &str) -> KeyspaceOptions {
        self.config.operator = Some(WantedOperator { name: name.to_owned(), operator: None });
        self
    }

    pub(crate) fn into_config(self) -> KeyspaceConfig {
        self.config
    }
}
