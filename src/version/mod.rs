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
use crate::base::key::is_less;
use crate::base::lookup::Lookup;
pub(crate) use crate::base::options::LEVELS;
use crate::base::range::is_by;
use crate::base::range_tombstone::Fragments;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;
use crate::base::value::head_of;
use crate::manifest::SstMeta;
use crate::sst::Aim;
use crate::sst::SstReader;
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

/// One level: its files, and the heads of their smallest and largest keys side by side, so that
/// finding a key's file touches few cache lines.
#[derive(Debug, Default, Clone)]
pub(crate) struct Level {
    pub(crate) files: Vec<Arc<SstFile>>,
    smallest_heads: Vec<u128>,
    largest_heads: Vec<u128>,
    /// Those of `files` that have range tombstones, in the same order.
    ranged: Vec<Arc<SstFile>>,
}

impl Level {
    fn new(files: Vec<Arc<SstFile>>) -> Level {
        let smallest_heads = files.iter().map(|file| head16(&file.meta.smallest.user)).collect();
        let largest_heads = files.iter().map(|file| head16(&file.meta.largest.user)).collect();
        let ranged = files.iter().filter(|file| file.meta.ranges.is_some()).cloned().collect();
        Level { files, smallest_heads, largest_heads, ranged }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.meta.bytes).sum()
    }

    /// The one file that may hold `key`. Requires: a level from 1 on.
    pub(crate) fn file_for(&self, key: &[u8]) -> Option<&Arc<SstFile>> {
        self.file_for_head(key, head16(key))
    }

    /// The same, with the head of `key`.
    #[inline]
    fn file_for_head(&self, key: &[u8], head: u128) -> Option<&Arc<SstFile>> {
        let at = self.first_from_head(key, head);
        let (file, smallest) = (self.files.get(at)?, self.smallest_heads.get(at)?);
        (*smallest < head || file.meta.smallest.user.as_slice() <= key).then_some(file)
    }

    /// The files whose range covers `key`, which has this head, in their order.
    #[inline]
    fn covering<'a>(&'a self, key: &'a [u8], head: u128) -> impl Iterator<Item = &'a Arc<SstFile>> {
        let heads = self.smallest_heads.iter().zip(&self.largest_heads);
        let covers = move |file: &SstFile, smallest: u128, largest: u128| {
            let is_inside = smallest < head && head < largest;
            // Equal heads say nothing: compare whole keys.
            is_inside || (smallest <= head && head <= largest && file.covers(key))
        };
        let files = self.files.iter().zip(heads);
        files.filter_map(move |(file, heads)| covers(file, *heads.0, *heads.1).then_some(file))
    }

    /// The first file that ends at or after `key`. Requires: a level from 1 on.
    fn file_from(&self, key: &[u8]) -> Option<&Arc<SstFile>> {
        self.files.get(self.first_from(key))
    }

    /// How many files end before `key`. Requires: a level from 1 on.
    fn first_from(&self, key: &[u8]) -> usize {
        self.first_from_head(key, head16(key))
    }

    #[inline]
    fn first_from_head(&self, key: &[u8], head: u128) -> usize {
        let mut at = self.largest_heads.partition_point(|largest| is_less(*largest, head));
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

/// Opens `file`, and aims at `key` in it.
#[cold]
fn aim_at_first<'a>(
    file: &'a SstFile,
    key: &[u8],
    hash: KeyHash,
) -> Result<Option<(&'a SstReader, Aim<'a>)>> {
    let reader = file.reader()?;
    Ok(reader.aim(key, hash).map(|aim| (&**reader, aim)))
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
    /// Those from 1 on that have files.
    deeper: Vec<Arc<Level>>,
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
        let deeper = levels.iter().skip(1).filter(|level| !level.files.is_empty());
        let deeper = deeper.cloned().collect();
        Version { levels, deeper, blobs, has_ranges, all_ranges: OnceLock::new() }
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
        let head = head16(key);
        let newest = self.levels[0].covering(key, head);
        let deeper = self.deeper.iter().filter_map(|level| level.file_for_head(key, head));
        let mut files = newest.chain(deeper);
        loop {
            let mut aimed = [const { None }; AIMED_MAX];
            let mut count = 0;
            while count < AIMED_MAX
                && let Some(file) = files.next()
            {
                // What is not open yet is opened if no newer file has the key.
                let reader = file.opened();
                let aim = reader.map(|reader| reader.aim(key, hash).map(|aim| (&**reader, aim)));
                if aim.as_ref().is_none_or(Option::is_some) {
                    aimed[count] = Some((file, aim.flatten()));
                    count += 1;
                }
            }
            for (file, aim) in aimed.iter().take(count).flatten() {
                let (reader, aim) = match aim {
                    Some(aim) => *aim,
                    None => match aim_at_first(file, key, hash)? {
                        Some(aim) => aim,
                        None => continue,
                    },
                };
                let found = reader.get_from(aim, key, hash, seqno, |trailer, value| {
                    let head = || Slice::copy_from(head_of(trailer, &value));
                    (trailer, if want_value { value.to_slice() } else { head() })
                })?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            if count < AIMED_MAX {
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
