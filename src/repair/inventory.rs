//! What there is to be saved: which keyspaces, which SSTs, and from where on the log.
//!
//! A manifest that reads from its first edit to its last says all of it. What is left of a damaged
//! one still gives names, and proves which files are obsolete; then every other SST is taken.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::error::Error;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::ids::KeyspaceId;
use crate::base::seqno::SeqNo;
use crate::base::sorted::SortedMap;
use crate::base::sorted::sort_by_key;
use crate::fs::DirEntry;
use crate::fs::Fs;
use crate::fs::ReadMode;
use crate::fs::names::CURRENT;
use crate::fs::names::FileKind;
use crate::fs::names::manifest_path;
use crate::fs::names::sst_path;
use crate::fs::names::wal_path;
use crate::manifest::SalvagedManifest;
use crate::manifest::SstMeta;
use crate::manifest::VersionEdit;
use crate::manifest::read_current;
use crate::manifest::salvage_manifest;
use crate::repair::report::Loss;
use crate::repair::report::RepairReport;
use crate::sst::SalvageIter;

const RESURRECTED: &str = "no manifest is whole, so that files which compaction had replaced cannot \
                           be told from live ones with certainty: what was overwritten or deleted \
                           may be back";

/// Where entries belong: a keyspace, or what a file of an unknown keyspace is put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Home {
    Keyspace(KeyspaceId),
    File(FileId),
}

/// An SST to read.
#[derive(Clone, Debug)]
pub(super) struct SstSource {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// Its identity, if the manifest says.
    pub(super) uid: Option<u64>,
    /// Smallest and largest user key, if known.
    pub(super) keys: Option<(Vec<u8>, Vec<u8>)>,
    /// Not if the manifest says that it has no range tombstones.
    pub(super) may_have_ranges: bool,
}

/// Everything that is known of a database without reading its entries.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub(super) db: Option<DbId>,
    /// Does a manifest read from its first edit to its last?
    is_whole: bool,
    /// And does nothing suggest that there were more edits?
    pub(super) is_proven: bool,
    pub(super) names: SortedMap<KeyspaceId, String>,
    /// Names of merge operators.
    operators: SortedMap<KeyspaceId, String>,
    /// Those whose values expire though they have a merge operator.
    expiring: HashSet<KeyspaceId>,
    /// From how many bytes on their values lie apart.
    separate: SortedMap<KeyspaceId, u64>,
    /// How long their values live.
    default_ttl_ms: SortedMap<KeyspaceId, u64>,
    blobs: SortedMap<FileId, u64>,
    dropped: HashSet<KeyspaceId>,
    /// No number from here on was used for a keyspace.
    next_keyspace: u32,
    /// What is flushed of each keyspace, so that the log is not needed for it.
    flushed: SortedMap<KeyspaceId, SeqNo>,
    pub(super) durable: SeqNo,
    pub(super) floor: FileId,
    live: SortedMap<FileId, (KeyspaceId, Box<SstMeta>)>,
    obsolete: HashSet<FileId>,
    pub(super) ssts: SortedMap<Home, Vec<SstSource>>,
}

impl Inventory {
    pub(super) fn read(
        fs: &dyn Fs,
        dir: &Path,
        listing: &[DirEntry],
        report: &mut RepairReport,
    ) -> Inventory {
        let mut inventory = Inventory::default();
        inventory.read_manifests(fs, dir, listing, report);
        inventory.find_missing(dir, listing, report);
        if !inventory.is_proven {
            report.remark(RESURRECTED);
        }
        for entry in listing.iter().filter(|entry| !entry.is_dir) {
            if let Some(FileKind::Sst(id)) = FileKind::parse(&entry.name) {
                inventory.add_sst(fs, &sst_path(dir, id), id, entry.len, report);
            }
        }
        inventory
    }

    /// May operation `seqno` of the log be missing in the SSTs?
    pub(super) fn wants(&self, keyspace: KeyspaceId, seqno: SeqNo) -> bool {
        let unknown = !self.names.contains_key(&keyspace);
        if self.dropped.contains(&keyspace)
            || unknown && self.is_whole && keyspace.0 < self.next_keyspace
        {
            return false;
        }
        !self.is_proven || self.flushed.get(&keyspace).is_none_or(|flushed| seqno > *flushed)
    }

    /// Does anything say that the log goes on behind `last`?
    pub(super) fn durable_behind(&self, last: SeqNo) -> Option<SeqNo> {
        let flushed = self.flushed.values().copied().max().unwrap_or_default();
        Some(self.durable.max(flushed)).filter(|durable| *durable > last)
    }

    fn read_manifests(
        &mut self,
        fs: &dyn Fs,
        dir: &Path,
        listing: &[DirEntry],
        report: &mut RepairReport,
    ) {
        let mut ids: Vec<FileId> = listing
            .iter()
            .filter_map(|entry| match FileKind::parse(&entry.name) {
                Some(FileKind::Manifest(id)) => Some(id),
                _ => None,
            })
            .collect();
        // The newest one is in force, if CURRENT does not say otherwise.
        sort_by_key(&mut ids, |id| Reverse(*id));
        match read_current(fs, dir) {
            Ok((db, id)) => {
                self.db = Some(db);
                ids.retain(|other| *other != id);
                ids.insert(0, id);
            }
            Err(error) => {
                report.lose_file(&dir.join(CURRENT), 0, &error);
                report.remark("CURRENT cannot be read: the newest manifest is taken");
            }
        }
        for id in ids {
            let path = manifest_path(dir, id);
            let found = match salvage_manifest(fs, dir, id, self.db) {
                Ok(found) => found,
                Err(error) => {
                    report.lose_file(&path, 0, &error);
                    continue;
                }
            };
            report.files += 1;
            let is_whole = found.damage.is_empty() && !found.edits.is_empty();
            if self.take(found, &path, report) {
                self.is_whole = is_whole;
                self.is_proven = is_whole;
                return;
            }
        }
    }

    /// Takes over what a manifest says; false if that is nothing.
    fn take(&mut self, found: SalvagedManifest, path: &Path, report: &mut RepairReport) -> bool {
        self.db = self.db.or(found.db);
        for (offset, what) in found.damage {
            report.lose(Loss { file: path.to_owned(), offset, what, ..Loss::default() });
        }
        let is_any = !found.edits.is_empty();
        for edit in found.edits {
            self.apply(edit);
        }
        is_any
    }

    fn apply(&mut self, edit: VersionEdit) {
        self.floor = self.floor.max(edit.wal_floor.unwrap_or_default());
        self.durable = self.durable.max(edit.log_durable.unwrap_or_default());
        self.next_keyspace = self.next_keyspace.max(edit.next_keyspace.unwrap_or_default());
        for change in edit.keyspaces {
            let id = change.id;
            if change.dropped {
                self.dropped.insert(id);
                self.names.remove(&id);
                let obsolete = &mut self.obsolete;
                self.live.retain(|file, (keyspace, _)| {
                    let is_gone = *keyspace == id;
                    obsolete.extend(is_gone.then_some(*file));
                    !is_gone
                });
                continue;
            }
            self.names.extend(change.name.map(|name| (id, name)));
            self.operators.extend(change.merge_operator.map(|name| (id, name)));
            self.expiring.extend(change.expiring.then_some(id));
            self.separate.extend(change.separate_from.map(|bytes| (id, bytes)));
            self.default_ttl_ms.extend(change.default_ttl_ms.map(|ms| (id, ms)));
            self.blobs.extend(change.added_blobs.iter().map(|meta| (meta.id, meta.uid)));
            let flushed = self.flushed.get_or_insert_with(id, SeqNo::default);
            *flushed = (*flushed).max(change.flushed_seqno.unwrap_or_default());
            for (_, file) in change.removed {
                self.live.remove(&file);
                self.obsolete.insert(file);
            }
            for (_, meta) in change.added {
                self.obsolete.remove(&meta.id);
                self.live.insert(meta.id, (id, Box::new(meta)));
            }
        }
    }

    fn find_missing(&mut self, dir: &Path, listing: &[DirEntry], report: &mut RepairReport) {
        let is_named = |id| self.live.contains_key(&id) || self.obsolete.contains(&id);
        let is_stranger = |entry: &DirEntry| match FileKind::parse(&entry.name) {
            Some(FileKind::Sst(id)) => !is_named(id),
            _ => false,
        };
        let strangers = listing.iter().any(is_stranger);
        let is_floor = |entry: &DirEntry| wal_path(dir, self.floor).ends_with(&entry.name);
        if strangers && self.floor != FileId(0) && !listing.iter().any(is_floor) {
            // A flush lets go of the log when its edit is durable: that may be what is lost.
            self.is_proven = false;
        }
        for (id, (_, meta)) in self.live.iter() {
            let path = sst_path(dir, *id);
            if listing.iter().any(|entry| path.ends_with(&entry.name)) {
                continue;
            }
            // With files that it does not name, the manifest's last edits may be what is lost.
            self.is_proven &= !strangers;
            report.files_unreadable += 1;
            report.lose(Loss {
                file: path,
                offset: 0,
                bytes: meta.bytes,
                what: "the file is missing".to_owned(),
                keys: Some((meta.smallest.user.clone(), meta.largest.user.clone())),
            });
        }
    }

    fn add_sst(
        &mut self,
        fs: &dyn Fs,
        path: &Path,
        id: FileId,
        bytes: u64,
        report: &mut RepairReport,
    ) {
        let path = path.to_owned();
        if let Some((keyspace, meta)) = self.live.get(&id) {
            let keys = Some((meta.smallest.user.clone(), meta.largest.user.clone()));
            let (uid, may_have_ranges) = (Some(meta.uid), meta.ranges.is_some());
            let source = SstSource { path, bytes, uid, keys, may_have_ranges };
            self.ssts.get_or_insert_with(Home::Keyspace(*keyspace), Vec::new).push(source);
            return;
        }
        if self.is_proven || self.obsolete.contains(&id) {
            return;
        }
        let opened = fs
            .open(&path, ReadMode::Pread)
            .and_then(|file| SalvageIter::open(file, path.clone(), None));
        let (home, keys) = match &opened {
            Ok(iter) => match iter.properties() {
                Some(properties) => {
                    let (from, to) = (&properties.smallest.user, &properties.largest.user);
                    (Home::Keyspace(properties.keyspace), Some((from.clone(), to.clone())))
                }
                None => (Home::File(id), None),
            },
            Err(error) => {
                report.lose_file(&path, bytes, error);
                return;
            }
        };
        if matches!(home, Home::Keyspace(keyspace) if self.dropped.contains(&keyspace)) {
            return;
        }
        let source = SstSource { path, bytes, uid: None, keys, may_have_ranges: true };
        self.ssts.get_or_insert_with(home, Vec::new).push(source);
    }

    /// The name of the merge operator that a home is known to have.
    pub(super) fn operator_of(&self, home: Home) -> Option<&str> {
        match home {
            Home::Keyspace(id) => self.operators.get(&id).map(String::as_str),
            Home::File(_) => None,
        }
    }

    /// How long the values of a home are known to live, unless for ever.
    pub(super) fn default_ttl(&self, home: Home) -> Option<Duration> {
        match home {
            Home::Keyspace(id) => {
                let ms = self.default_ttl_ms.get(&id).copied().filter(|ms| *ms > 0);
                ms.map(Duration::from_millis)
            }
            Home::File(_) => None,
        }
    }

    /// Is it known that values of a home expire, be there an operator or not?
    pub(super) fn is_expiring(&self, home: Home) -> bool {
        matches!(home, Home::Keyspace(id) if self.expiring.contains(&id))
    }

    /// From how many bytes on values of a home are known to lie apart.
    pub(super) fn separate_from(&self, home: Home) -> Option<u64> {
        match home {
            Home::Keyspace(id) => self.separate.get(&id).copied(),
            Home::File(_) => None,
        }
    }

    /// The identities of blob files, as far as the manifest gives them.
    pub(super) fn blob_uids(&self) -> SortedMap<FileId, u64> {
        self.blobs.clone()
    }

    /// A name for each home that is no other's.
    pub(super) fn name_of(&self, home: Home) -> String {
        let made_up = match home {
            Home::Keyspace(id) => match self.names.get(&id) {
                Some(name) => return name.clone(),
                None if id == KeyspaceId::DEFAULT => return "default".to_owned(),
                None => format!("keyspace-{}", id.0),
            },
            Home::File(id) => format!("found-in-{id}.sst"),
        };
        self.free_name(made_up)
    }

    /// `name`, or with something behind it, such that no keyspace is called so.
    pub(super) fn free_name(&self, mut name: String) -> String {
        while self.names.values().any(|taken| *taken == name) {
            name.push('-');
        }
        name
    }
}

/// Is there anything of a database in the directory?
pub(super) fn holds_a_database(listing: &[DirEntry]) -> bool {
    listing.iter().any(|entry| {
        let kind = FileKind::parse(&entry.name);
        kind.is_some_and(|kind| !matches!(kind, FileKind::Lock | FileKind::Temporary))
    })
}

/// The error for a directory with nothing of a database in it.
pub(super) fn no_database(dir: &Path) -> Error {
    let what = "it has no file of a database".to_owned();
    Error::NotADatabase { path: dir.to_owned(), what }
}
