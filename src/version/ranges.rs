//! Reads of a version that has range tombstones.
//!
//! On a level from 1 on the tombstones of a file and those of the others have no key in common, as
//! little as their entries have (I2). So of a level, one file says what covers a key; and since a
//! newer version lies above an older one (I3), a read may stop at the first tombstone that it meets.

use std::ops::Bound;
use std::sync::Arc;

use crate::base::error::Result;
use crate::base::key::KeyHash;
use crate::base::key::Trailer;
use crate::base::range::is_by;
use crate::base::range_tombstone::Fragments;
use crate::base::range_tombstone::RangeSource;
use crate::base::range_tombstone::Spot;
use crate::base::range_tombstone::Window;
use crate::base::range_tombstone::is_behind;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;
use crate::base::value::ValueKind;
use crate::base::value::head_of;
use crate::manifest::SstMeta;
use crate::version::Level;
use crate::version::Version;
use crate::version::sst_file::SstFile;

/// The newest version of `key` in one file.
fn get_from(
    file: &SstFile,
    key: &[u8],
    hash: KeyHash,
    seqno: SeqNo,
    want_value: bool,
) -> Result<Option<(Trailer, Slice)>> {
    file.reader()?.get(key, hash, seqno, |trailer, value| {
        let head = || Slice::copy_from(head_of(trailer, &value));
        (trailer, if want_value { value.to_slice() } else { head() })
    })
}

/// What a reader finds of a key in one place: `found`, unless `dead`, the newest tombstone that
/// covers the key there, is newer; then a tombstone of the key.
pub(crate) fn newer_of(found: Option<(Trailer, Slice)>, dead: SeqNo) -> Option<(Trailer, Slice)> {
    match found {
        Some(found) if found.0.seqno() >= dead => Some(found),
        None if dead == SeqNo::ZERO => None,
        _ => Some((Trailer::new(dead, ValueKind::Delete), Slice::default())),
    }
}

impl Level {
    /// The one file whose range tombstones may cover `key`. Requires: a level from 1 on.
    pub(crate) fn ranged_for(&self, key: &[u8]) -> Option<&Arc<SstFile>> {
        let behind = self.ranged().partition_point(|file| begin(&file.meta) <= key);
        let last = self.ranged().get(behind.checked_sub(1)?)?;
        is_behind(end(&last.meta), key).then_some(last)
    }
}

impl Version {
    /// As [`Version::get`], heeding range tombstones.
    pub(crate) fn get_over_ranges(
        &self,
        key: &[u8],
        hash: KeyHash,
        seqno: SeqNo,
        want_value: bool,
    ) -> Result<Option<(Trailer, Slice)>> {
        for file in &self.level(0).files {
            let dead = file.newest_range(|ranges| ranges.newest_over(key, seqno))?;
            let found =
                if file.covers(key) { get_from(file, key, hash, seqno, want_value)? } else { None };
            let found = newer_of(found, dead);
            if found.is_some() {
                return Ok(found);
            }
        }
        for level in &self.levels()[1..] {
            let dead = match level.ranged_for(key) {
                Some(file) => file.newest_range(|ranges| ranges.newest_over(key, seqno))?,
                None => SeqNo::ZERO,
            };
            let found = match level.file_for(key) {
                Some(file) => get_from(file, key, hash, seqno, want_value)?,
                None => None,
            };
            let found = newer_of(found, dead);
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Opens the files that have range tombstones, so that [`Version::all_ranges`] knows them.
    pub(crate) fn open_ranged(&self) -> Result<()> {
        let ranged = self.levels().iter().flat_map(|level| level.ranged());
        ranged.into_iter().try_for_each(|file| file.reader().map(|_| ()))
    }

    /// The range tombstones of all files; nothing if there are none, or if a file that has some is
    /// not open.
    pub(crate) fn all_ranges(&self) -> Option<&Fragments> {
        if !self.has_ranges() {
            return None;
        }
        if let Some(all) = self.all_ranges.get() {
            return Some(all);
        }
        let ranged = self.levels().iter().flat_map(|level| level.ranged());
        let opened: Option<Vec<_>> = ranged.map(|file| file.opened()).collect();
        let opened = opened?;
        let lists = opened.iter().map(|reader| reader.ranges());
        Some(self.all_ranges.get_or_init(|| Fragments::union(lists)))
    }

    /// The range tombstones of all files, for a reader of keys between `from` and `to`. Files are
    /// opened when they are asked.
    pub(crate) fn range_sources(&self, from: &[u8], to: Bound<&[u8]>) -> Vec<Box<dyn RangeSource>> {
        let is_near =
            |file: &&Arc<SstFile>| is_behind(end(&file.meta), from) && is_by(begin(&file.meta), to);
        let mut sources: Vec<Box<dyn RangeSource>> = Vec::new();
        for file in self.level(0).ranged().iter().filter(is_near) {
            sources.push(Box::new(file.clone()));
        }
        for level in &self.levels()[1..] {
            let files: Vec<_> = level.ranged().iter().filter(is_near).cloned().collect();
            if !files.is_empty() {
                sources.push(Box::new(LevelRanges { files }));
            }
        }
        sources
    }
}

/// Where the range tombstones of a file begin. Requires: it has some.
fn begin(meta: &SstMeta) -> &[u8] {
    meta.ranges.as_ref().map_or(&[], |ranges| &ranges.from)
}

/// Where they end.
fn end(meta: &SstMeta) -> Option<&[u8]> {
    meta.ranges.as_ref().and_then(|ranges| ranges.to.as_deref())
}

/// The range tombstones of one level.
#[derive(Debug)]
struct LevelRanges {
    files: Vec<Arc<SstFile>>,
}

impl RangeSource for LevelRanges {
    fn narrow(&self, spot: Spot<'_>, at: SeqNo, window: &mut Window) -> Result<()> {
        let behind = self.files.partition_point(|file| spot.is_from(begin(&file.meta)));
        let last = behind.checked_sub(1).and_then(|last| self.files.get(last));
        window.narrow_to(self.files.get(behind).map(|next| begin(&next.meta)));
        match last {
            Some(last) if spot.is_until(end(&last.meta)) => {
                window.narrow_from(begin(&last.meta));
                window.narrow_to(end(&last.meta));
                last.narrow(spot, at, window)
            }
            Some(last) => {
                window.narrow_from(end(&last.meta).unwrap_or_default());
                Ok(())
            }
            None => Ok(()),
        }
    }
}
