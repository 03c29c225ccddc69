//! What the manifest says, and whether that can be.

use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::blob::NEVER_APART;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::ids::KeyspaceId;
use crate::base::options::Config;
use crate::base::options::Retention;
use crate::base::seqno::SeqNo;
use crate::base::sorted::SortedMap;
use crate::engine::DEFAULT_KEYSPACE;
use crate::engine::commit::LogSegment;
use crate::engine::recovery::Site;
use crate::fs::DirEntry;
use crate::fs::names::FileKind;
use crate::fs::names::NUMBER_USED_MAX;
use crate::fs::names::blob_path;
use crate::fs::names::manifest_path;
use crate::fs::names::sst_path;
use crate::manifest::KeptSegment;
use crate::manifest::VersionEdit;
use crate::manifest::read_current;
use crate::manifest::read_manifest;
use crate::version::Version;
use crate::version::builder;
use crate::version::invariants;
use crate::version::sst_file::SstOpener;

/// What the manifest says.
pub(super) struct Catalog {
    pub(super) db_id: DbId,
    pub(super) manifest: FileId,
    pub(super) next_file: FileId,
    pub(super) next_keyspace: u32,
    pub(super) last_seqno: SeqNo,
    pub(super) log_durable: SeqNo,
    pub(super) floor: FileId,
    pub(super) keyspaces: SortedMap<KeyspaceId, KeyspaceEntry>,
    pub(super) retention: Retention,
    /// Segments of the log below the floor that were kept, some of which may be gone.
    pub(super) kept: Vec<KeptSegment>,
}

pub(super) struct KeyspaceEntry {
    pub(super) name: String,
    pub(super) flushed: SeqNo,
    pub(super) operator: Option<String>,
    pub(super) default_ttl_ms: u64,
    pub(super) expiring: bool,
    pub(super) separate_from: u64,
    pub(super) version: Version,
}

impl KeyspaceEntry {
    fn new(name: String) -> KeyspaceEntry {
        KeyspaceEntry {
            name,
            flushed: SeqNo::ZERO,
            operator: None,
            default_ttl_ms: 0,
            expiring: false,
            separate_from: NEVER_APART,
            version: Version::default(),
        }
    }
}

/// Phase 1.
pub(super) fn read_catalog(site: &Site<'_>) -> Result<Catalog> {
    let fs = site.fs.as_ref();
    let (db_id, manifest) = read_current(fs, site.dir)?;
    let path = manifest_path(site.dir, manifest);
    let mut catalog = Catalog {
        db_id,
        manifest,
        next_file: manifest.next(),
        next_keyspace: 0,
        last_seqno: SeqNo::ZERO,
        log_durable: SeqNo::ZERO,
        floor: FileId(0),
        keyspaces: SortedMap::new(),
        retention: Retention::default(),
        kept: Vec::new(),
    };
    for edit in read_manifest(fs, site.dir, manifest, db_id)? {
        let applied = apply_edit(&mut catalog, edit, &site.opener);
        applied.map_err(|what| Error::corruption(&path, 0, what))?;
    }
    check_catalog(&catalog).map_err(|what| Error::corruption(&path, 0, what))?;
    Ok(catalog)
}

/// What holds of all keyspaces together.
fn check_catalog(catalog: &Catalog) -> Result<(), String> {
    let default = catalog.keyspaces.get(&KeyspaceId::DEFAULT);
    if default.is_none_or(|entry| entry.name != DEFAULT_KEYSPACE) {
        return Err("it has no default keyspace".to_owned());
    }
    if catalog.next_file.0 > NUMBER_USED_MAX {
        return Err("it claims to have used an impossible number of files".to_owned());
    }
    for (kept, next) in catalog.kept.iter().zip(catalog.kept.iter().skip(1)) {
        if kept.id >= next.id || kept.last >= next.first {
            return Err(format!("log segment {} is kept in the wrong place", next.id));
        }
    }
    if catalog.kept.last().is_some_and(|last| last.id >= catalog.floor) {
        return Err("a log segment is kept that is needed".to_owned());
    }
    let (mut names, mut files) = (HashSet::new(), HashSet::new());
    for (id, entry) in catalog.keyspaces.iter() {
        if id.0 >= catalog.next_keyspace || !names.insert(&entry.name) {
            return Err(format!("keyspace {} has a number or a name that is not its own", id.0));
        }
        invariants::check(&entry.version)?;
        let ssts = entry.version.files().map(|file| file.meta.id);
        for file in ssts.chain(entry.version.blobs.files().map(|file| file.meta.id)) {
            if file >= catalog.next_file || !files.insert(file) {
                return Err(format!("file {file} has a number that is not its own"));
            }
        }
    }
    Ok(())
}

fn apply_edit(
    catalog: &mut Catalog,
    edit: VersionEdit,
    opener: &Arc<SstOpener>,
) -> Result<(), String> {
    catalog.next_file = catalog.next_file.max(edit.next_file.unwrap_or_default());
    catalog.last_seqno = catalog.last_seqno.max(edit.last_seqno.unwrap_or_default());
    catalog.log_durable = catalog.log_durable.max(edit.log_durable.unwrap_or_default());
    catalog.floor = catalog.floor.max(edit.wal_floor.unwrap_or_default());
    catalog.next_keyspace = catalog.next_keyspace.max(edit.next_keyspace.unwrap_or_default());
    catalog.retention = edit.log_retention.unwrap_or(catalog.retention);
    catalog.kept.extend(edit.kept);
    for change in edit.keyspaces {
        if change.dropped {
            if catalog.keyspaces.remove(&change.id).is_none() {
                return Err(format!("an edit drops keyspace {}, which is not there", change.id.0));
            }
            continue;
        }
        if let Some(name) = &change.name {
            let entry = KeyspaceEntry::new(name.clone());
            if catalog.keyspaces.insert(change.id, entry).is_some() {
                return Err(format!("an edit creates keyspace {} again", change.id.0));
            }
        }
        let Some(entry) = catalog.keyspaces.get_mut(&change.id) else {
            return Err(format!("an edit names keyspace {}, which is not there", change.id.0));
        };
        if change.merge_operator.is_some() {
            entry.operator.clone_from(&change.merge_operator);
        }
        entry.default_ttl_ms = change.default_ttl_ms.unwrap_or(entry.default_ttl_ms);
        entry.expiring |= change.expiring;
        entry.separate_from = change.separate_from.unwrap_or(entry.separate_from);
        entry.flushed = entry.flushed.max(change.flushed_seqno.unwrap_or_default());
        entry.version = builder::apply(&entry.version, &change, opener).map_err(|bad| bad.0)?;
    }
    Ok(())
}

/// What is to be kept of the log: what the options say, or else what the database has.
pub(super) fn retention(config: &Config, catalog: &Catalog) -> Retention {
    config.log_retention.unwrap_or(catalog.retention)
}

/// The kept segments that are there, without one missing in between. None if none are wanted: then
/// they are leftovers.
pub(super) fn find_kept(site: &Site<'_>, catalog: &Catalog) -> VecDeque<LogSegment> {
    if !retention(site.config, catalog).keeps() && !site.config.read_only {
        return VecDeque::new();
    }
    let wals: SortedMap<FileId, u64> = site
        .listing
        .iter()
        .filter_map(|entry| match FileKind::parse(&entry.name) {
            Some(FileKind::Wal(id)) if !entry.is_dir => Some((id, entry.len)),
            _ => None,
        })
        .collect();
    let mut found = VecDeque::new();
    for kept in catalog.kept.iter().rev() {
        let Some(bytes) = wals.get(&kept.id) else { break };
        found.push_front(LogSegment::kept(kept, *bytes));
    }
    found
}

/// A keyspace's operands mean nothing without its merge operator.
pub(super) fn check_operators(catalog: &Catalog, config: &Config) -> Result<()> {
    for entry in catalog.keyspaces.values() {
        let missing = entry.operator.as_ref().filter(|name| {
            !config.missing_operators && config.merge_operators.find(name).is_none()
        });
        if let Some(name) = missing {
            return Err(Error::MergeOperator {
                keyspace: entry.name.clone(),
                stored: Some(name.clone()),
                given: None,
            });
        }
    }
    Ok(())
}

/// Phase 2.
pub(super) fn check_files(site: &Site<'_>, catalog: &Catalog) -> Result<()> {
    let sizes: SortedMap<&str, &DirEntry> =
        site.listing.iter().map(|entry| (entry.name.as_str(), entry)).collect();
    let versions = || catalog.keyspaces.values().map(|entry| &entry.version);
    let ssts = versions().flat_map(Version::files);
    let ssts = ssts.map(|file| (sst_path(site.dir, file.meta.id), file.meta.bytes));
    let blobs = versions().flat_map(|version| version.blobs.files());
    let blobs = blobs.map(|file| (blob_path(site.dir, file.meta.id), file.meta.bytes));
    for (path, bytes) in ssts.chain(blobs) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(entry) = sizes.get(name).filter(|entry| !entry.is_dir) else {
            return Err(Error::corruption(&path, 0, "the file is missing"));
        };
        if entry.len != bytes {
            let what = format!("it has {} bytes, and should have {bytes}", entry.len);
            return Err(Error::corruption(&path, entry.len.min(bytes), what));
        }
    }
    Ok(())
}
