//! The machine: all shared state, all locks, all threads.
//!
//! *Overview of types.* An [`Engine`] owns the threads and, with them, shares a [`Core`]. The core
//! has the keyspaces ([`keyspaces`]), the write path ([`commit`], [`throttle`], [`health`]), the
//! manifest ([`version_set`]), the jobs ([`scheduler`], [`jobs`], [`workers`]), live snapshots
//! ([`snapshots`]) and files on their way out ([`obsolete`], [`log_files`]). [`open`] and
//! [`recovery`] bring it to life. [`read_view`] reads, and [`read_cost`] has reads pay for
//! compactions. [`transaction`] and [`conditional`] are built on both; [`conflicts`] says what was
//! written meanwhile. [`feed`] shows what was committed, from the log and what [`history`] keeps of it.
//!
//! *Locks*, in the order in which they are taken. A thread that holds one may take only locks
//! further down. Readers take none of them, but `Snapshots.live` and `Registry` for a moment, and
//! `Jobs.state` once per view.
//!
//! | lock | guards | I/O under it |
//! |---|---|---|
//! | a transaction's own | its writes and what it has read | none |
//! | `KeyspaceState.turns` | nothing: who merges into a key waits for the others that do | all of a commit |
//! | `Engine.threads` | the close | all of it |
//! | `Core.versions` | manifest, changes of versions, create and drop of keyspaces | manifest append, sync and rollover |
//! | `CommitState.append` | sequence numbers, end of the log, sealing | write of a record; preparing a segment, if none is ready |
//! | `Jobs.state` | what runs, what is busy | none |
//! | `KeyspaceState.inner` | sealed memtables, changes of the view | none |
//! | `CommitState.publish` | what is visible, who syncs the log | none; the sync runs without a lock |
//! | `Snapshots.live`, `Registry.by_name`, `Obsolete.files`, `Core.quiet` | their own | none |

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use crate::base::clock::Clock;
use crate::base::clock::ExpiryClock;
use crate::base::ids::DbId;
use crate::base::options::Config;
use crate::base::options::Retention;
use crate::base::sync::Mutex;
use crate::base::sync::atomic::AtomicBool;
use crate::base::sync::atomic::AtomicU64;
use crate::base::sync::thread::JoinHandle;
use crate::cache::BlockCache;
use crate::compaction::output::OutputContext;
use crate::engine::commit::CommitState;
use crate::engine::conditional::EntryVersions;
use crate::engine::health::Health;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::keyspaces::Registry;
use crate::engine::obsolete::Obsolete;
use crate::engine::read_cost::Quiet;
use crate::engine::scheduler::Jobs;
use crate::engine::snapshots::SnapshotPin;
use crate::engine::snapshots::Snapshots;
use crate::engine::stats::Metrics;
use crate::engine::throttle::Throttle;
use crate::engine::transaction::Transactions;
use crate::engine::version_set::VersionSet;
use crate::fs::DirLock;
use crate::version::sst_file::SstOpener;
use crate::wal::GivenUp;

mod catalog;
pub(crate) mod commit;
pub(crate) mod conditional;
mod conflicts;
mod expiry;
pub(crate) mod feed;
mod health;
mod history;
mod jobs;
pub(crate) mod keyspaces;
mod log_files;
mod manual;
mod obsolete;
mod open;
mod range_read;
mod read_cost;
pub(crate) mod read_view;
mod recovery;
mod report;
mod scheduler;
pub(crate) mod snapshots;
pub(crate) mod stats;
mod throttle;
pub(crate) mod transaction;
pub(crate) mod verify;
mod version_set;
mod workers;

/// Name of the keyspace that `Db` itself reads and writes.
pub(crate) const DEFAULT_KEYSPACE: &str = "default";

/// What the threads and the handles of a database share.
#[derive(Debug)]
pub(crate) struct Core {
    db_id: DbId,
    config: Config,
    /// What is kept of the log for change feeds.
    retention: Retention,
    clock: Arc<dyn Clock>,
    /// What expires.
    expiry: Arc<ExpiryClock>,
    output: OutputContext,
    opener: Arc<SstOpener>,
    cache: Arc<BlockCache>,
    health: Health,
    keyspaces: Registry,
    default: Arc<KeyspaceState>,
    commit: CommitState,
    versions: Mutex<VersionSet>,
    snapshots: Arc<Snapshots>,
    transactions: Transactions,
    entry_versions: EntryVersions,
    jobs: Arc<Jobs>,
    throttle: Throttle,
    quiet: Quiet,
    obsolete: Obsolete,
    metrics: Metrics,
    cancel: AtomicBool,
    /// While the log is replayed: nothing from this sequence number on may be cut off it.
    replay_from: AtomicU64,
    /// What a lenient recovery gave up.
    given_up: Option<GivenUp>,
}

/// An open database. Handles share it; when the last one is dropped, it closes.
#[derive(Debug)]
pub(crate) struct Engine {
    core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<Box<dyn DirLock>>>,
}

impl Deref for Engine {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Core {
    pub(crate) fn default_keyspace(&self) -> Arc<KeyspaceState> {
        self.default.clone()
    }

    pub(crate) fn db_id(&self) -> DbId {
        self.db_id
    }

    /// Where the database is.
    pub(crate) fn directory(&self) -> &Path {
        &self.output.dir
    }

    /// Pins what is visible now.
    pub(crate) fn pin_snapshot(&self) -> Arc<SnapshotPin> {
        self.snapshots.pin(self.commit.visible(), &self.expiry)
    }

    /// Are there no threads, so that callers run the jobs?
    fn is_manual(&self) -> bool {
        self.config.background_threads == 0
    }

    /// One of the background threads flushes, the others compact.
    fn compaction_threads(&self) -> usize {
        self.config.background_threads.saturating_sub(1).max(1)
    }
}
