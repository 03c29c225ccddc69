//! What lies beneath the output of a job: what the manifest says of the files there, not the files
//! themselves, so that these can go while the job runs.
//!
//! It stays true meanwhile: no key of the job gets an older version beneath the output that it had
//! not when the job was planned. What is there moves further down, or goes. What comes down from
//! above comes from files that have the key; of these, those on the levels that the job reads are its
//! inputs, which no other job may take, and those above hold newer versions.

use std::ops::Bound;
use std::sync::Arc;

use crate::manifest::SstMeta;
use crate::version::LEVELS;
use crate::version::Version;
use crate::version::overlapping;

/// The files that may say something of the keys of a job, from some level on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beneath {
    /// Of level 0, if it is one of those levels.
    unsorted: Vec<Arc<SstMeta>>,
    /// Of the levels from 1 on, the upper ones first.
    sorted: Vec<Vec<Arc<SstMeta>>>,
}

impl Beneath {
    /// What `version` has from `level` on of keys between `from` and `to`.
    pub(crate) fn new(version: &Version, level: usize, from: &[u8], to: Bound<&[u8]>) -> Beneath {
        let newest = if level == 0 { version.level(0).files.as_slice() } else { &[] };
        let unsorted = newest.iter().filter(|file| file.meta.overlaps(from, to));
        let sorted = (level.max(1)..LEVELS).map(|level| {
            let files = version.level(level).overlapping(from, to);
            files.iter().map(|file| file.meta.clone()).collect()
        });
        Beneath {
            unsorted: unsorted.map(|file| file.meta.clone()).collect(),
            sorted: sorted.collect(),
        }
    }

    /// What `version` has of any key: what lies beneath memtables.
    pub(crate) fn all(version: &Version) -> Beneath {
        Beneath::new(version, 0, &[], Bound::Unbounded)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.unsorted.is_empty() && self.sorted.iter().all(Vec::is_empty)
    }

    /// The files of the uppermost of the levels, which is not level 0.
    pub(crate) fn uppermost(&self) -> &[Arc<SstMeta>] {
        self.sorted.first().map_or(&[], Vec::as_slice)
    }

    /// Those that may say something of a key between `from` and `to`.
    pub(crate) fn overlapping<'a>(
        &'a self,
        from: &'a [u8],
        to: Bound<&'a [u8]>,
    ) -> impl Iterator<Item = &'a SstMeta> {
        let unsorted = self.unsorted.iter().filter(move |meta| meta.overlaps(from, to));
        let sorted =
            self.sorted.iter().flat_map(move |files| overlapping(files, |meta| meta, from, to));
        unsorted.chain(sorted).map(Arc::as_ref)
    }

    /// Asks of ascending user keys.
    pub(crate) fn walk(&self) -> Walk<'_> {
        let sorted = self.sorted.iter().filter(|files| !files.is_empty());
        Walk { sorted: sorted.map(|files| (files.as_slice(), 0)).collect(), beneath: self }
    }
}

/// Tells, for ascending user keys, whether any file may hold one.
pub(crate) struct Walk<'a> {
    /// Sorted files and how far the keys have come in them.
    sorted: Vec<(&'a [Arc<SstMeta>], usize)>,
    beneath: &'a Beneath,
}

impl Walk<'_> {
    /// Is no file's range around `user`? Requires: not before the user key of the last call.
    pub(crate) fn is_free_of(&mut self, user: &[u8]) -> bool {
        for (files, at) in &mut self.sorted {
            while files.get(*at).is_some_and(|meta| meta.is_before(user)) {
                *at += 1;
            }
            if files.get(*at).is_some_and(|meta| meta.first() <= user) {
                return false;
            }
        }
        let mut unsorted = self.beneath.unsorted.iter();
        !unsorted.any(|meta| meta.overlaps(user, Bound::Included(user)))
    }
}
