//! The immutable shape of one keyspace's tree: which SSTs it consists of, on which level.
//!
//! *Overview of types.* A [`Version`] has [`LEVELS`] levels of [`SstFile`]s. A
//! [`builder`] turns a version and an edit into the next version; [`invariants`] checks one.
//! Versions are never changed: readers keep the one they started with.
//!
//! *Invariants.*
//! - I1: files of level 0 may overlap; sorted newest first, and their sequence numbers do not
//!   interleave: each file is newer than every file behind it.
//! - I2: files of a level from 1 on are sorted by key, and no user key is in two of them, whether as
//!   that of an entry or covered by a range tombstone.
//! - I3: of two versions of one user key, the newer one lies on the lower-numbered level, or in the
//!   newer file of level 0, or in the same file; a range tombstone is a version of each key in it.
//! - I4: no file is on two levels.
//! - I5: it has the blob files that its SSTs refer to, and no others.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::OnceLock;

use crate::base::error::Result;
use crate::base::key::KeyHash;
use crate::base::key::Trailer;
use crate::base::key::head16;
use crate::base::lookup::Lookup;
pub(crate) use crate::base::options::LEVELS;
use crate::base::range::is_by;
use crate::base::range_tombstone::Fragments;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;
use crate::base::value::head_of;
use crate::manifest::SstMeta;
use crate::version::blobs::Blobs;
use crate::version::sst_file::SstFile;

pub(crate) mod blob_file;
pub(crate) mod blobs;
pub(crate) mod builder;
pub(crate) mod invariants;
pub(crate) mod ranges;
pub(crate) mod source;
pub(crate) mod sst_file;

/// So many files are asked at once for what tells whether they may hold a key, newest first: where
/// several may, their cache misses overlap.
const AIMED_MAX: usize = 4;

/// One level: its files, and for levels from 1 on the heads of their largest keys side by side, so
/// that finding a key's file touches few cache lines.
#[derive(Debug, Default, Clone)]
pub(crate) struct Level {
    pub(crate) files: Vec<Arc<SstFile>>,
    largest_heads: Vec<u128>,
    /// Those of `files` that have range tombstones, in the same order.
    ranged: Vec<Arc<SstFile>>,
}

impl Level {
    fn new(files: Vec<Arc<SstFile>>) -> Level {
        let largest_heads = files.iter().map(|file| head16(&file.meta.largest.user)).collect();
        let ranged = files.iter().filter(|file| file.meta.ranges.is_some()).cloned().collect();
        Level { files, largest_heads, ranged }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.meta.bytes).sum()
    }

    /// The one file that may hold `key`. Requires: a level from 1 on.
    pub(crate) fn file_for(&self, key: &[u8]) -> Option<&Arc<SstFile>> {
        let file = self.file_from(key);
        file.filter(|file| file.meta.smallest.user.as_slice() <= key)
    }

    /// The first file that ends at or after `key`. Requires: a level from 1 on.
    fn file_from(&self, key: &[u8]) -> Option<&Arc<SstFile>> {
        self.files.get(self.first_from(key))
    }

    /// How many files end before `key`. Requires: a level from 1 on.
    fn first_from(&self, key: &[u8]) -> usize {
        let head = head16(key);
        let mut at = self.largest_heads.partition_point(|largest| *largest < head);
        // Equal heads say nothing: compare whole keys. There are as many heads as files.
        while self.largest_heads.get(at) == Some(&head)
            && self.files[at].meta.largest.user.as_slice() < key
        {
            at += 1;
        }
        at
    }

    /// The files that may say something of a key between `from` and `to`, by entries or range
    /// tombstones. Requires: a level from 1 on.
    pub(crate) fn overlapping(&self, from: &[u8], to: Bound<&[u8]>) -> &[Arc<SstFile>] {
        overlapping(&self.files, |file| &file.meta, from, to)
    }

    /// Its files with range tombstones.
    pub(crate) fn ranged(&self) -> &[Arc<SstFile>] {
        &self.ranged
    }
}

/// Those of `files` that may say something of a key between `from` and `to`. Requires: they are
/// files of one level from 1 on.
pub(crate) fn overlapping<'a, F>(
    files: &'a [F],
    meta: impl Fn(&F) -> &SstMeta,
    from: &[u8],
    to: Bound<&[u8]>,
) -> &'a [F] {
    let start = files.partition_point(|file| meta(file).is_before(from));
    let rest = &files[start..];
    &rest[..rest.partition_point(|file| is_by(meta(file).first(), to))]
}

/// Opens no file in which nothing is looked for.
fn get_many_from(file: &SstFile, lookups: &mut [Lookup<'_>], seqno: SeqNo) -> Result<()> {
    if lookups.iter().all(|lookup| lookup.found.is_some()) {
        return Ok(());
    }
    file.reader()?.get_many(lookups, seqno)
}

/// One keyspace's files at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    levels: Vec<Arc<Level>>,
    pub(crate) blobs: Blobs,
    has_ranges: bool,
    /// Those of all files together.
    all_ranges: OnceLock<Fragments>,
}

impl Default for Version {
    fn default() -> Version {
        Version::new(vec![Arc::default(); LEVELS], Blobs::default())
    }
}

impl Version {
    fn new(levels: Vec<Arc<Level>>, blobs: Blobs) -> Version {
        let has_ranges = levels.iter().any(|level| !level.ranged.is_empty());
        Version { levels, blobs, has_ranges, all_ranges: OnceLock::new() }
    }

    /// Has any file range tombstones?
    #[inline]
    pub(crate) fn has_ranges(&self) -> bool {
        self.has_ranges
    }

    pub(crate) fn levels(&self) -> &[Arc<Level>] {
        &self.levels
    }

    pub(crate) fn level(&self, level: usize) -> &Level {
        &self.levels[level]
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &Arc<SstFile>> {
        self.levels.iter().flat_map(|level| &level.files)
    }

    /// The newest version of `key` that a reader at `seqno` may see, tombstones included. An
    /// absent value was not asked for.
    pub(crate) fn get(
        &self,
        key: &[u8],
        hash: KeyHash,
        seqno: SeqNo,
        want_value: bool,
    ) -> Result<Option<(Trailer, Slice)>> {
        let newest = self.levels[0].files.iter().filter(|file| file.covers(key));
        let deeper = self.levels[1..].iter().filter_map(|level| level.file_for(key));
        let mut files = newest.chain(deeper);
        loop {
            let mut aimed = [const { None }; AIMED_MAX];
            let mut ends = false;
            for slot in &mut aimed {
                let Some(file) = files.next() else {
                    ends = true;
                    break;
                };
                // What is not open yet is opened if no newer file has the key.
                *slot = Some((file, file.opened().map(|reader| reader.aim(key, hash))));
            }
            for (file, aim) in aimed.into_iter().flatten() {
                let reader = file.reader()?;
                let Some(partition) = aim.unwrap_or_else(|| reader.aim(key, hash)) else {
                    continue;
                };
                let found = reader.get_from(partition, key, hash, seqno, |trailer, value| {
                    let head = || Slice::copy_from(head_of(trailer, &value));
                    (trailer, if want_value { value.to_slice() } else { head() })
                })?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            if ends {
                return Ok(None);
            }
        }
    }

    /// The same for each of `lookups` that has found nothing yet.
    pub(crate) fn get_many(&self, lookups: &mut [Lookup<'_>], seqno: SeqNo) -> Result<()> {
        for file in &self.levels[0].files {
            let (from, to) = (&file.meta.smallest.user, &file.meta.largest.user);
            let from = lookups.partition_point(|lookup| lookup.key < from.as_slice());
            let to = lookups.partition_point(|lookup| lookup.key <= to.as_slice());
            get_many_from(file, lookups.get_mut(from..to).unwrap_or_default(), seqno)?;
        }
        for level in &self.levels[1..] {
            let mut rest = &mut *lookups;
            while let Some(first) = rest.first()
                && let Some(file) = level.file_from(first.key)
            {
                let largest = file.meta.largest.user.as_slice();
                let end = rest.partition_point(|lookup| lookup.key <= largest);
                let (within, behind) = rest.split_at_mut(end);
                let from = file.meta.smallest.user.as_slice();
                let start = within.partition_point(|lookup| lookup.key < from);
                get_many_from(file, &mut within[start..], seqno)?;
                rest = behind;
            }
        }
        Ok(())
    }

    /// The deepest level that holds a file, if any does.
    pub(crate) fn deepest(&self) -> Option<usize> {
        self.levels.iter().rposition(|level| !level.files.is_empty())
    }
}
