//! Opening after whatever happened, in phases:
//!
//! 1. Manifest: `CURRENT` names it; its edits make the versions of all keyspaces.
//! 2. Files: every SST that a version names is there, with the size it should have.
//! 3. Log: every batch above what its keyspace has flushed goes into the memtables again.
//! 4. From here on the disk is changed, and nothing can be found wrong any more: a new log segment
//!    takes over what nothing proves durable, so that all that was replayed is; a new manifest
//!    states it all.
//! 5. If the log is larger than the memtables may be, phase 3 only checked it, and it is replayed
//!    now, with flushes in between.
//! 6. Files that nothing names are removed.
//!
//! A crash anywhere leaves what the next recovery reads the same way: no phase removes what an
//! earlier manifest needs before the new one is in force.

use std::collections::HashSet;
use std::collections::VecDeque;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::base::clock::Clock;
use crate::base::clock::ExpiryClock;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::ids::KeyspaceId;
use crate::base::options::Config;
use crate::base::planted::Planted;
use crate::base::seqno::SeqNo;
use crate::base::sorted::SortedMap;
use crate::base::sync::Mutex;
use crate::base::sync::atomic::AtomicBool;
use crate::base::sync::atomic::AtomicU64;
use crate::cache::BlockCache;
use crate::compaction::output::OutputContext;
use crate::engine::Core;
use crate::engine::DEFAULT_KEYSPACE;
use crate::engine::commit::CommitState;
use crate::engine::commit::History;
use crate::engine::commit::LogSegment;
use crate::engine::commit::SegmentEnd;
use crate::engine::conditional::EntryVersions;
use crate::engine::health::Health;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::keyspaces::Registry;
use crate::engine::log_files::segment_bytes_first;
use crate::engine::log_files::space;
use crate::engine::obsolete::Obsolete;
use crate::engine::open::FIRST_MANIFEST;
use crate::engine::read_cost::Quiet;
use crate::engine::recovery::stated::Catalog;
use crate::engine::recovery::stated::KeyspaceEntry;
use crate::engine::recovery::stated::check_files;
use crate::engine::recovery::stated::check_operators;
use crate::engine::recovery::stated::find_kept;
use crate::engine::recovery::stated::read_catalog;
use crate::engine::recovery::stated::retention;
use crate::engine::scheduler::Jobs;
use crate::engine::stats::Metrics;
use crate::engine::throttle::Throttle;
use crate::engine::transaction::Transactions;
use crate::engine::version_set::VersionSet;
use crate::engine::version_set::snapshot_edit;
use crate::fs::DirEntry;
use crate::fs::Fs;
use crate::fs::ReadMode;
use crate::fs::names::FileKind;
use crate::fs::names::NUMBER_USED_MAX;
use crate::fs::names::manifest_path;
use crate::fs::names::wal_path;
use crate::manifest::KeyspaceEdit;
use crate::manifest::ManifestWriter;
use crate::manifest::VersionEdit;
use crate::manifest::install_current;
use crate::memtable::Memtables;
use crate::version::sst_file::SstOpener;
use crate::wal;
use crate::wal::GivenUp;
use crate::wal::LogSource;
use crate::wal::RecoveredLog;
use crate::wal::ReopenedLog;

mod read_only;
mod replay;
mod stated;

use replay::Replay;
use replay::replay;

/// What is added to the names of log segments that were given up.
const SET_ASIDE: &str = ".given-up";

/// A database that claims to have used larger numbers is damaged: what is left is more than will
/// ever be written.
const SEQNO_USED_MAX: u64 = 1 << 55;

/// The directory and what it is opened with.
struct Site<'a> {
    dir: &'a Path,
    config: &'a Config,
    fs: Arc<dyn Fs>,
    opener: Arc<SstOpener>,
    listing: &'a [DirEntry],
}

/// Opens the database in `dir`, which is locked; creates it if it is `new`.
pub(super) fn recover(
    dir: &Path,
    config: &Config,
    fs: &Arc<dyn Fs>,
    clock: Arc<dyn Clock>,
    new: bool,
    listing: &[DirEntry],
) -> Result<Core> {
    let cache = Arc::new(BlockCache::new(config.memory_budget as u64));
    let mode = if config.mmap { ReadMode::Mmap } else { ReadMode::Pread };
    let opener =
        Arc::new(SstOpener { fs: fs.clone(), dir: dir.to_owned(), cache: cache.clone(), mode });
    let site = Site { dir, config, fs: fs.clone(), opener: opener.clone(), listing };
    let catalog = if new { create(&site, clock.as_ref())? } else { read_catalog(&site)? };
    check_operators(&catalog, config)?;
    check_files(&site, &catalog)?;
    let keyspaces = make_keyspaces(&catalog, config);
    if config.read_only {
        return read_only::recover(&site, clock, cache, keyspaces, &catalog);
    }
    let fits = log_bytes(listing, catalog.floor) <= (config.memory_budget / 2) as u64;
    let target = if fits { Replay::Apply(&keyspaces) } else { Replay::Check };
    let log = replay(&site, &catalog, &target, &|_| Ok(()))?;

    // Phase 4.
    if !new && catalog.manifest == FIRST_MANIFEST {
        // The creation may have been killed before `CURRENT` was durable. A segment that survives a
        // power cut without it would look like a database that has lost it.
        fs.sync_dir(dir)?;
    }
    let used = listing.iter().filter_map(|entry| number_of(&entry.name));
    let used = used.filter(|id| id.0 <= NUMBER_USED_MAX).max().unwrap_or_default();
    let segment = catalog.next_file.max(used.next()).max(FIRST_MANIFEST.next());
    let last = last_seqno(&catalog, &log);
    if last.get() > SEQNO_USED_MAX {
        let path = manifest_path(dir, catalog.manifest);
        let what = format!("it, or the log, has the impossible sequence number {last}");
        return Err(Error::corruption(&path, 0, what));
    }
    let (reopened, next_file) = reopen_log(&site, &catalog, &log, segment, last)?;
    let mut unused = reopened.unused.clone();
    let given_up = log.given_up.clone();
    let parts = Parts { site: &site, clock, cache, keyspaces, reopened, next_file, given_up };
    let mut core = assemble(parts, &catalog)?;
    core.begin_manifest(&catalog, new)?;

    // Phases 5 and 6.
    if !fits {
        core.replay_in_parts(&site, &catalog, &log)?;
    }
    let aside = core.set_aside();
    let kept: HashSet<FileId> =
        core.commit.append_lock().history().kept().iter().map(|segment| segment.id).collect();
    unused.retain(|id| !aside.contains(&wal_path(dir, *id)) && !kept.contains(id));
    core.remove_leftovers(listing, &unused);
    core.trim_history();
    Ok(core)
}

/// Bytes of the segments from `floor` on.
fn log_bytes(listing: &[DirEntry], floor: FileId) -> u64 {
    let is_needed = |entry: &&DirEntry| match FileKind::parse(&entry.name) {
        Some(FileKind::Wal(id)) => id >= floor,
        _ => false,
    };
    listing.iter().filter(is_needed).map(|entry| entry.len).sum()
}

fn number_of(name: &str) -> Option<FileId> {
    match FileKind::parse(name)? {
        FileKind::Manifest(id) | FileKind::Wal(id) | FileKind::Sst(id) | FileKind::Blob(id) => {
            Some(id)
        }
        FileKind::Current | FileKind::Lock | FileKind::Temporary => None,
    }
}

/// The first open, up to a durable `CURRENT`.
fn create(site: &Site<'_>, clock: &dyn Clock) -> Result<Catalog> {
    let fs = site.fs.as_ref();
    // What an interrupted creation left.
    for entry in site.listing {
        if let Some(FileKind::Manifest(_) | FileKind::Temporary) = FileKind::parse(&entry.name) {
            fs.remove(&site.dir.join(&entry.name))?;
        }
    }
    let db_id = DbId(clock.unique());
    let mut default = KeyspaceEdit::new(KeyspaceId::DEFAULT);
    default.name = Some(DEFAULT_KEYSPACE.to_owned());
    let snapshot = VersionEdit {
        next_file: Some(FIRST_MANIFEST.next()),
        last_seqno: Some(SeqNo::ZERO),
        next_keyspace: Some(KeyspaceId::DEFAULT.0 + 1),
        keyspaces: vec![default],
        ..VersionEdit::default()
    };
    ManifestWriter::create(fs, site.dir, FIRST_MANIFEST, db_id, &snapshot)?;
    install_current(fs, site.dir, db_id, FIRST_MANIFEST)?;
    read_catalog(site)
}

fn make_keyspaces(catalog: &Catalog, config: &Config) -> Keyspaces {
    let memtables = Arc::new(Memtables::new(config.memtable_bytes));
    let jobs = Arc::new(Jobs::default());
    let make = |(id, entry): (&KeyspaceId, &KeyspaceEntry)| {
        let state = KeyspaceState::new(
            catalog.db_id,
            *id,
            entry.name.clone(),
            entry.version.clone(),
            entry.flushed,
            memtables.clone(),
            jobs.clone(),
        );
        if entry.expiring {
            state.declare_expiring();
        }
        let expires = entry.version.files().any(|file| file.meta.expiry.entries > 0);
        if expires || entry.default_ttl_ms > 0 {
            let _ = state.claim_expiry();
        }
        state.set_default_ttl(entry.default_ttl_ms);
        state.set_separate_from(entry.separate_from);
        if let Some(name) = &entry.operator {
            state.set_operator(name, config.merge_operators.find(name));
        }
        (*id, Arc::new(state))
    };
    catalog.keyspaces.iter().map(make).collect()
}

type Keyspaces = SortedMap<KeyspaceId, Arc<KeyspaceState>>;

fn log_source<'a>(site: &'a Site<'_>, catalog: &Catalog) -> LogSource<'a> {
    // A memtable is flushed only after the log was synced up to its end.
    let flushed = catalog.keyspaces.values().map(|entry| entry.flushed).max().unwrap_or_default();
    LogSource {
        fs: site.fs.as_ref(),
        dir: site.dir,
        db: catalog.db_id,
        floor: catalog.floor,
        durable: flushed.max(catalog.log_durable),
        mode: site.config.recovery,
    }
}

/// Begins segment `id` behind what was recovered, all of it durable; `last` is the last sequence
/// number in use. Returns the next free file number as well.
fn reopen_log(
    site: &Site<'_>,
    catalog: &Catalog,
    log: &RecoveredLog,
    id: FileId,
    last: SeqNo,
) -> Result<(ReopenedLog, FileId)> {
    let bytes = segment_bytes_first(site.config);
    let prepare = |id, bytes| {
        let (fs, space) = (site.fs.as_ref(), space(site.config));
        let prepared = wal::prepare_segment(fs, site.dir, id, bytes, space)?;
        if site.config.mmap {
            prepared.map();
        }
        Ok(prepared)
    };
    let prepared = prepare(id, log.segment_bytes_for_reopen(bytes))?;
    let mut reopened = wal::reopen(&log_source(site, catalog), log, prepared, last.plus(1))?;
    if !reopened.needs_segment() {
        return Ok((reopened, id.next()));
    }
    reopened.begin_segment(prepare(id.next(), wal::segment_bytes_for(0, bytes))?)?;
    Ok((reopened, id.next().next()))
}

fn last_seqno(catalog: &Catalog, log: &RecoveredLog) -> SeqNo {
    if Planted::SeqNoReused.is_on() {
        return log.last_seqno;
    }
    let files = catalog.keyspaces.values().flat_map(|entry| entry.version.files());
    let in_files = files.map(|file| file.meta.max_seqno).max().unwrap_or_default();
    let flushed = catalog.keyspaces.values().map(|entry| entry.flushed).max().unwrap_or_default();
    let last = catalog.last_seqno.max(log.last_seqno).max(in_files).max(flushed);
    match &log.given_up {
        // Somebody may have been told of it: numbers that are known to have been used mean nothing
        // else, nor does the one that the database is at now.
        Some(given_up) => last.max(given_up.last_seqno.unwrap_or_default()).plus(1),
        None => last,
    }
}

/// Everything that a core is made of.
struct Parts<'a> {
    site: &'a Site<'a>,
    clock: Arc<dyn Clock>,
    cache: Arc<BlockCache>,
    keyspaces: Keyspaces,
    reopened: ReopenedLog,
    next_file: FileId,
    given_up: Option<GivenUp>,
}

fn assemble(parts: Parts<'_>, catalog: &Catalog) -> Result<Core> {
    let Parts { site, clock, cache, keyspaces, reopened, next_file, given_up } = parts;
    let registry = Registry::default();
    for state in keyspaces.values() {
        registry.insert(state.clone());
    }
    let default = keyspaces
        .get(&KeyspaceId::DEFAULT)
        .ok_or_else(|| Error::internal("no default keyspace"))?
        .clone();
    let now_ms = clock.wall_ms();
    let mut segments: VecDeque<LogSegment> = reopened
        .segments
        .iter()
        .map(|live| {
            // When it ended, nobody knows: at the latest now.
            let end = SegmentEnd { last: live.last_seqno, offset: live.end, ms: now_ms };
            let mut segment = LogSegment::new(live.id, live.first_seqno, live.bytes);
            segment.end = Some(end);
            segment
        })
        .collect();
    if let Some(active) = segments.back_mut()
        && !site.config.read_only
    {
        active.end = None;
    }
    if let Some(what) = &given_up {
        tracing::warn!("recovery gave up the end of the log: {what}");
    }
    let history = History::new(find_kept(site, catalog));
    let commit = CommitState::new(reopened.writer, segments, history);
    Ok(Core {
        transactions: Transactions::new(site.config.memory_budget),
        entry_versions: EntryVersions::new(SeqNo::new(commit.visible().load(Relaxed))),
        config: site.config.clone(),
        retention: retention(site.config, catalog),
        output: OutputContext {
            db: catalog.db_id,
            fs: site.fs.clone(),
            clock: clock.clone(),
            dir: site.dir.to_owned(),
            next_file: Arc::new(AtomicU64::new(next_file.0)),
        },
        expiry: Arc::new(ExpiryClock::new(clock.clone())),
        clock,
        opener: site.opener.clone(),
        cache,
        health: Health::default(),
        keyspaces: registry,
        jobs: default.jobs.clone(),
        default,
        commit,
        db_id: catalog.db_id,
        versions: Mutex::new(VersionSet::new(catalog.next_keyspace, catalog.manifest)),
        snapshots: Arc::default(),
        throttle: Throttle::default(),
        quiet: Quiet::default(),
        obsolete: Obsolete::default(),
        metrics: Metrics::default(),
        cancel: AtomicBool::new(false),
        replay_from: AtomicU64::new(u64::MAX),
        given_up,
    })
}

impl Core {
    /// Puts a manifest in force that states what was recovered.
    fn begin_manifest(&self, catalog: &Catalog, new: bool) -> Result<()> {
        let log = self.stated_log();
        let fs = self.output.fs.as_ref();
        let dir = &self.output.dir;
        let id = self.output.new_file_id();
        let keyspaces = self.keyspaces.all();
        let snapshot = VersionEdit {
            wal_floor: log.wal_floor,
            log_retention: log.log_retention,
            kept: log.kept,
            next_keyspace: Some(catalog.next_keyspace),
            keyspaces: keyspaces
                .iter()
                .map(|state| snapshot_edit(state, &state.view_full().version))
                .collect(),
            ..self.stamp()
        };
        let manifest = ManifestWriter::create(fs, dir, id, catalog.db_id, &snapshot)?;
        install_current(fs, dir, catalog.db_id, id)?;
        self.versions.lock().put_in_force(manifest, id, &snapshot);
        if new {
            // Not in the listing from before the creation.
            self.remove_leftover(&manifest_path(dir, catalog.manifest));
        }
        Ok(())
    }

    /// Keeps what was given up of the log, under names that nobody looks at. Returns what the files
    /// were called.
    fn set_aside(&mut self) -> Vec<PathBuf> {
        let Some(given_up) = &mut self.given_up else {
            return Vec::new();
        };
        let fs = self.output.fs.as_ref();
        let before = given_up.kept.clone();
        for path in &mut given_up.kept {
            let mut name = path.clone().into_os_string();
            name.push(SET_ASIDE);
            match fs.rename(path, Path::new(&name)) {
                Ok(()) => *path = name.into(),
                Err(error) => {
                    tracing::warn!(%error, "what was given up of the log is not kept");
                }
            }
        }
        if let Err(error) = fs.sync_dir(&self.output.dir) {
            tracing::warn!(%error, "what was given up of the log may not be kept");
        }
        before
    }

    /// Phase 6. Removes what is ours and named by nothing; unknown files are left alone.
    fn remove_leftovers(&self, listing: &[DirEntry], unused: &[FileId]) {
        let dir = &self.output.dir;
        let states = self.keyspaces.all();
        let live: HashSet<FileId> = states
            .iter()
            .flat_map(|state| {
                let version = state.view_full().version.clone();
                let ssts = version.files().map(|file| file.meta.id);
                ssts.chain(version.blobs.files().map(|file| file.meta.id)).collect::<Vec<_>>()
            })
            .collect();
        for entry in listing.iter().filter(|entry| !entry.is_dir) {
            let gone = match FileKind::parse(&entry.name) {
                Some(FileKind::Sst(id) | FileKind::Blob(id)) => !live.contains(&id),
                Some(FileKind::Manifest(id)) => id != self.versions.lock().manifest_id(),
                Some(FileKind::Temporary) => true,
                Some(FileKind::Wal(_) | FileKind::Current | FileKind::Lock) | None => false,
            };
            if gone {
                self.remove_leftover(&dir.join(&entry.name));
            }
        }
        for id in unused {
            self.remove_leftover(&wal_path(dir, *id));
        }
    }

    fn remove_leftover(&self, path: &Path) {
        if let Err(error) = self.output.fs.remove(path) {
            tracing::warn!(%error, "a leftover file stays until the next open");
        }
    }
}
