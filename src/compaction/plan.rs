//! What one compaction will do, as data.

use std::ops::Bound;
use std::sync::Arc;

use crate::base::ids::FileId;
use crate::base::range::is_by;
use crate::base::range::later_end;
use crate::base::sorted::sort_by;
use crate::compaction::beneath::Beneath;
use crate::version::Version;
use crate::version::blobs::Blobs;
use crate::version::sst_file::SstFile;

/// A file is small if it has less than this part of what files should grow to.
const SMALL_SHARE: u64 = 8;

/// Why a compaction was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// Level 0 has too many files.
    Level0,
    /// A level exceeds its target size.
    LevelSize,
    /// A file holds tombstones older than `tombstone_age`.
    TombstoneAge,
    /// Tombstones are at least half of what is compacted.
    TombstoneDensity,
    /// Everything in the files has expired: they are removed without being read.
    AllExpired,
    /// Range tombstones hide all of the files: likewise.
    RangeDeleted,
    /// A file holds values that have expired.
    Expired,
    /// It holds handles to values in blob files with much garbage.
    Garbage,
    /// Reads have paid for it.
    Reads,
    /// The user asked.
    Manual,
}

/// Inputs and output of one compaction.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) reason: Reason,
    /// Files of the upper level (newest first if that is level 0).
    pub(crate) upper: Vec<Arc<SstFile>>,
    pub(crate) upper_level: usize,
    /// Files of the output level that overlap them.
    pub(crate) lower: Vec<Arc<SstFile>>,
    pub(crate) output_level: usize,
    /// What lies beneath the output level.
    pub(crate) beneath: Beneath,
    /// The blob files that the inputs refer to.
    pub(crate) blobs: Blobs,
}

impl Plan {
    /// The compaction of `upper` and `lower`, files of `version`, of which the plan keeps no others: so
    /// what else becomes obsolete while it runs can go.
    pub(crate) fn new(
        version: &Version,
        reason: Reason,
        (upper_level, upper): (usize, Vec<Arc<SstFile>>),
        (output_level, lower): (usize, Vec<Arc<SstFile>>),
    ) -> Plan {
        let (beneath, blobs) = (Beneath::default(), Blobs::default());
        let plan = Plan { reason, upper, upper_level, lower, output_level, beneath, blobs };
        let hull = plan.hull();
        let beneath = hull.map(|(from, to)| Beneath::new(version, output_level + 1, from, to));
        Plan {
            beneath: beneath.unwrap_or_default(),
            blobs: version.blobs.used_by(plan.inputs().map(|file| file.meta.as_ref())),
            ..plan
        }
    }

    pub(crate) fn inputs(&self) -> impl Iterator<Item = &Arc<SstFile>> + Clone {
        self.upper.iter().chain(&self.lower)
    }

    pub(crate) fn input_ids(&self) -> impl Iterator<Item = FileId> {
        self.inputs().map(|file| file.meta.id)
    }

    pub(crate) fn input_bytes(&self) -> u64 {
        self.inputs().map(|file| file.meta.bytes).sum()
    }

    /// Tombstones that go down.
    pub(crate) fn tombstones(&self) -> u64 {
        self.upper.iter().map(|file| file.meta.tombstones).sum()
    }

    /// Where the inputs begin and end, range tombstones included.
    pub(crate) fn hull(&self) -> Option<Hull<'_>> {
        hull(self.inputs())
    }

    /// Can the files be moved down as they are? Not if there is something to merge with or to drop,
    /// nor if they are much smaller than `file_bytes`, which files should grow to.
    pub(crate) fn is_trivial_move(&self, file_bytes: u64) -> bool {
        let bottom = self.beneath.is_empty();
        self.lower.is_empty()
            && self.upper_level != self.output_level
            && (self.upper_level > 0 || self.upper.len() == 1 || self.is_row_of_files(file_bytes))
            && self.upper.iter().all(|file| !bottom || !file.meta.has_tombstones())
    }

    /// Has no two of the upper files a key in common, as when keys are written in order, and are they
    /// large enough to be left alone?
    fn is_row_of_files(&self, file_bytes: u64) -> bool {
        let mut files: Vec<&Arc<SstFile>> = self.upper.iter().collect();
        sort_by(&mut files, |a, b| a.meta.first().cmp(b.meta.first()));
        let apart = files.windows(2).all(|pair| !is_by(pair[1].meta.first(), pair[0].meta.last()));
        let bytes: u64 = files.iter().map(|file| file.meta.bytes).sum();
        apart && bytes >= files.len() as u64 * (file_bytes / SMALL_SHARE)
    }

    /// Are the inputs removed without being read?
    pub(crate) fn is_removal(&self) -> bool {
        matches!(self.reason, Reason::AllExpired | Reason::RangeDeleted)
    }
}

/// The smallest key that files have or cover, and up to where they go.
pub(crate) type Hull<'a> = (&'a [u8], Bound<&'a [u8]>);

/// Where `files` begin and end, range tombstones included.
pub(crate) fn hull<'a>(files: impl Iterator<Item = &'a Arc<SstFile>> + Clone) -> Option<Hull<'a>> {
    let from = files.clone().map(|file| file.meta.first()).min()?;
    let to = files.map(|file| file.meta.last()).reduce(later_end)?;
    Some((from, to))
}
