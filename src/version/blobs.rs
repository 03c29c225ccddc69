//! The blob files of a version, and how much of each is referred to.
//!
//! *Garbage* is what no SST of the version refers to. Nobody counts it apart: the manifest says of
//! each SST how many bytes of which blob files its entries refer to, and a blob file is in a version
//! as long as that is any. So an edit that takes a handle away, by leaving an entry out or by
//! replacing the SST, makes garbage in the same instant, and a file that nothing refers to leaves the
//! version without being named.
//!
//! *Collection.* When there is more garbage than half of what is referred to, the files with the
//! largest shares of it are *condemned*, so many that without theirs a third is left; every
//! compaction moves the values that it finds in condemned files, and the picker has compacted what
//! still refers to them. What is moved is garbage where it was: so the choice stays the same until it
//! is done.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::blob::BlobHandle;
use crate::base::blob::BlobSource;
use crate::base::blob::BlobUse;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::base::slice::Slice;
use crate::base::sorted::SortedMap;
use crate::base::sorted::sort_by_key;
use crate::manifest::BlobMeta;
use crate::manifest::SstMeta;
use crate::version::Version;
use crate::version::blob_file::BlobFile;
use crate::version::sst_file::SstOpener;

/// Garbage is collected from this share of what is referred to on…
const GARBAGE_SHARE_MAX: u64 = 2;
/// …until at most this share is left.
const GARBAGE_SHARE_LEFT: u64 = 3;

#[derive(Clone, Debug)]
struct Used {
    file: Arc<BlobFile>,
    /// Bytes of its records that SSTs refer to.
    live_bytes: u64,
}

impl Used {
    fn garbage_bytes(&self) -> u64 {
        self.file.record_bytes().saturating_sub(self.live_bytes)
    }
}

/// The blob files of one version.
#[derive(Clone, Debug, Default)]
pub(crate) struct Blobs {
    files: SortedMap<FileId, Used>,
    /// Where they are.
    dir: PathBuf,
}

impl Blobs {
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &Arc<BlobFile>> {
        self.files.values().map(|used| &used.file)
    }

    pub(crate) fn get(&self, id: FileId) -> Option<&Arc<BlobFile>> {
        self.files.get(&id).map(|used| &used.file)
    }

    /// Bytes of their records that no SST refers to.
    pub(crate) fn garbage_bytes(&self) -> u64 {
        self.files.values().map(Used::garbage_bytes).sum()
    }

    /// Is there so much garbage that it should be collected before all else?
    pub(crate) fn is_collection_urgent(&self) -> bool {
        let (live, garbage) = self.movable();
        garbage > live
    }

    /// Live and garbage bytes of the files whose values can be moved: of damaged ones they cannot.
    fn movable(&self) -> (u64, u64) {
        let movable = self.files.values().filter(|used| !used.file.is_damaged());
        movable.fold((0, 0), |(live, garbage), used| {
            (live + used.live_bytes, garbage + used.garbage_bytes())
        })
    }

    /// The files whose values should be moved, so that they can go; only the one with the largest
    /// share of garbage where there is no room for more.
    pub(crate) fn condemned(&self, is_space_scarce: bool) -> HashSet<FileId> {
        let (live, mut garbage) = self.movable();
        let mut condemned = HashSet::new();
        if garbage <= live / GARBAGE_SHARE_MAX {
            return condemned;
        }
        let mut files: Vec<(u128, &Used)> = Vec::new();
        for used in self.files.values() {
            if used.garbage_bytes() > 0 && !used.file.is_damaged() {
                let share = u128::from(used.live_bytes) << 32;
                files.push((share / u128::from(used.file.record_bytes().max(1)), used));
            }
        }
        // Of equal ones the older first.
        sort_by_key(&mut files, |(share, _)| *share);
        for (_, used) in files {
            if garbage <= live / GARBAGE_SHARE_LEFT {
                break;
            }
            garbage -= used.garbage_bytes();
            condemned.insert(used.file.meta.id);
            if is_space_scarce {
                break;
            }
        }
        condemned
    }

    /// These, with the `added` ones, after SSTs with the uses `gone` were replaced by those with
    /// `new` uses.
    pub(super) fn apply<'a>(
        &self,
        added: &[BlobMeta],
        gone: impl Iterator<Item = &'a BlobUse>,
        new: impl Iterator<Item = &'a BlobUse>,
        opener: &Arc<SstOpener>,
    ) -> Result<Blobs, String> {
        let mut files = self.files.clone();
        for meta in added {
            let file = Arc::new(BlobFile::new(meta.clone(), opener.clone()));
            if files.insert(meta.id, Used { file, live_bytes: 0 }).is_some() {
                return Err(format!("an edit adds blob file {}, which is there already", meta.id));
            }
        }
        let missing = |id| format!("an SST refers to blob file {id}, which is not there");
        for new in new {
            let used = files.get_mut(&new.file).ok_or_else(|| missing(new.file))?;
            used.live_bytes = used.live_bytes.saturating_add(new.bytes);
        }
        for gone in gone {
            let used = files.get_mut(&gone.file).ok_or_else(|| missing(gone.file))?;
            used.live_bytes = used.live_bytes.saturating_sub(gone.bytes);
        }
        files.retain(|_, used| used.live_bytes > 0);
        Ok(Blobs { files, dir: opener.dir.clone() })
    }

    /// Those that `ssts` refer to.
    pub(crate) fn used_by<'a>(&self, ssts: impl Iterator<Item = &'a SstMeta>) -> Blobs {
        let used = ssts.flat_map(|meta| &meta.blobs);
        let files = used
            .filter_map(|used| Some((used.file, self.files.get(&used.file)?.clone())))
            .collect();
        Blobs { files, dir: self.dir.clone() }
    }

    /// The blob file that a handle leads to.
    pub(crate) fn locate(&self, handle: &[u8]) -> Result<(&Arc<BlobFile>, BlobHandle)> {
        // An SST holds what it should not.
        let broken = |what: &str| Error::corruption(&self.dir, 0, what);
        let handle = BlobHandle::decode(handle).map_err(|bad| broken(bad.0))?;
        let missing =
            || format!("an entry refers to blob file {}, which is not there", handle.file);
        let file = self.get(handle.file).ok_or_else(|| broken(&missing()))?;
        Ok((file, handle))
    }

    /// Do SSTs refer to more of a file than it has?
    pub(super) fn check(&self) -> Result<(), String> {
        match self.files.values().find(|used| used.live_bytes > used.file.record_bytes()) {
            Some(used) => {
                Err(format!("I5: more of blob file {} is used than it has", used.file.meta.id))
            }
            None => Ok(()),
        }
    }
}

impl BlobSource for Blobs {
    fn fetch(&self, key: &[u8], handle: &[u8]) -> Result<Slice> {
        let (file, handle) = self.locate(handle)?;
        file.fetch(key, handle)
    }
}

impl BlobSource for Version {
    fn fetch(&self, key: &[u8], handle: &[u8]) -> Result<Slice> {
        self.blobs.fetch(key, handle)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::blob::HEADER_LEN;

    fn uses(files: &[(u64, u64)]) -> Vec<BlobUse> {
        let of =
            |(n, (live, _)): (usize, &(u64, u64))| BlobUse { file: FileId(n as u64), bytes: *live };
        files.iter().enumerate().map(of).filter(|used| used.bytes > 0).collect()
    }

    /// Blob files with so many live and garbage bytes.
    fn blobs(files: &[(u64, u64)]) -> Blobs {
        let meta = |(n, (live, garbage)): (usize, &(u64, u64))| BlobMeta {
            id: FileId(n as u64),
            bytes: HEADER_LEN + live + garbage,
            ..BlobMeta::default()
        };
        let metas: Vec<BlobMeta> = files.iter().enumerate().map(meta).collect();
        Blobs::default()
            .apply(&metas, [].iter(), uses(files).iter(), &SstOpener::of_nothing())
            .unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn enough_is_condemned_and_no_more(
            files in prop::collection::vec((0..1000_u64, 0..1000_u64), 0..20),
            is_space_scarce: bool,
        ) {
            let blobs = blobs(&files);
            prop_assert_eq!(blobs.check(), Ok(()));
            let there = || files.iter().enumerate().filter(|(_, (live, _))| *live > 0);
            let live: u64 = there().map(|(_, (live, _))| live).sum();
            let garbage: u64 = there().map(|(_, (_, garbage))| garbage).sum();
            prop_assert_eq!(blobs.garbage_bytes(), garbage);
            prop_assert_eq!(blobs.files().count(), there().count());
            let condemned = blobs.condemned(is_space_scarce);
            if garbage <= live / 2 {
                prop_assert!(condemned.is_empty());
                return Ok(());
            }
            let gone = || there().filter(|(n, _)| condemned.contains(&FileId(*n as u64)));
            let left = garbage - gone().map(|(_, (_, garbage))| garbage).sum::<u64>();
            if is_space_scarce {
                prop_assert_eq!(condemned.len(), 1);
            } else {
                prop_assert!(left <= live / 3);
            }
            // The one with the smallest share of garbage goes last, and without it that would not be
            // enough; none that stays has a larger share.
            let order = |n: usize, live: u64, garbage: u64| ((live << 32) / (live + garbage), n);
            let key = |(n, (live, garbage)): (usize, &(u64, u64))| (order(n, *live, *garbage), *garbage);
            let (last, garbage) = gone().map(key).max().unwrap();
            prop_assert!(left + garbage > live / 3);
            let mut stays = there().filter(|(n, (_, garbage))| {
                *garbage > 0 && !condemned.contains(&FileId(*n as u64))
            });
            prop_assert!(stays.all(|stays| key(stays).0 > last));
        }

        #[test]
        fn what_nothing_refers_to_leaves_the_version(
            files in prop::collection::vec((1..1000_u64, 0..1000_u64), 1..10),
            moved: prop::sample::Index,
        ) {
            let before = blobs(&files);
            let gone = BlobUse {
                file: FileId(moved.index(files.len()) as u64),
                bytes: files[moved.index(files.len())].0,
            };
            let new = BlobMeta { id: FileId(99), bytes: HEADER_LEN + gone.bytes, ..BlobMeta::default() };
            let used = BlobUse { file: new.id, bytes: gone.bytes };
            let after = before.apply(&[new], [gone].iter(), [used].iter(), &SstOpener::of_nothing()).unwrap();
            prop_assert!(after.get(gone.file).is_none() && after.get(FileId(99)).is_some());
            prop_assert_eq!(after.files().count(), files.len());
            prop_assert!(after.garbage_bytes() <= before.garbage_bytes());
            let strange = BlobUse { file: FileId(1000), bytes: 1 };
            prop_assert!(before.apply(&[], [].iter(), [strange].iter(), &SstOpener::of_nothing()).is_err());
        }
    }
}
