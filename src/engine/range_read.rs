//! Reads of a keyspace with range tombstones. One without them asks once whether it has any.

use std::ops::Bound;
use std::sync::Arc;

use crate::base::error::Result;
use crate::base::key::KeyHash;
use crate::base::key::Trailer;
use crate::base::lookup::Lookup;
use crate::base::range::Bounds;
use crate::base::range_tombstone::RangeSource;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;
use crate::base::value::head_of;
use crate::engine::keyspaces::ReadView;
use crate::iter::Cover;
use crate::memtable::Memtable;
use crate::version::ranges::newer_of;

/// The newest version of `key` in `memtable` at or before `seqno`, be it a range tombstone. Without
/// `want_value` of the value only what [`head_of`] it.
pub(crate) fn newest_in(
    memtable: &Arc<Memtable>,
    key: &[u8],
    hash: KeyHash,
    seqno: SeqNo,
    want_value: bool,
) -> Option<(Trailer, Slice)> {
    let dead = memtable.newest_range_over(key, seqno);
    let found = if want_value {
        memtable.get_slice(key, hash, seqno)
    } else {
        let found = memtable.get(key, hash, seqno);
        found.map(|(trailer, value)| (trailer, Slice::copy_from(head_of(trailer, value))))
    };
    newer_of(found, dead)
}

fn sources_in(memtable: &Memtable) -> impl Iterator<Item = Box<dyn RangeSource>> + use<> {
    memtable.ranges().into_iter().map(|run| Box::new(run) as Box<dyn RangeSource>)
}

/// The range tombstones of `memtable`, for a reader at `seqno`.
pub(crate) fn cover_of(memtable: &Memtable, seqno: SeqNo) -> Option<Cover> {
    memtable.has_ranges().then(|| Cover::new(sources_in(memtable).collect(), seqno))
}

impl ReadView {
    /// May a reader meet range tombstones? Requires: the sequence number that it reads at is known
    /// already.
    #[inline]
    pub(crate) fn has_ranges(&self) -> bool {
        self.active.has_ranges()
            || self.version.has_ranges()
            || self.sealed.iter().any(|memtable| memtable.has_ranges())
    }

    /// The newest version of `key` at or before `seqno`, tombstones of both kinds included: from the
    /// newest source to the oldest, up to the first that has one.
    #[cold]
    pub(crate) fn lookup_over_ranges(
        &self,
        key: &[u8],
        hash: KeyHash,
        seqno: SeqNo,
        want_value: bool,
    ) -> Result<Option<(Trailer, Slice)>> {
        for memtable in std::iter::once(&self.active).chain(&self.sealed) {
            let found = newest_in(memtable, key, hash, seqno, want_value);
            if found.is_some() {
                return Ok(found);
            }
        }
        self.version.get_over_ranges(key, hash, seqno, want_value)
    }

    /// What hides entries within `bounds` from a reader at `seqno`, if anything may.
    pub(crate) fn cover(&self, seqno: SeqNo, bounds: &Bounds) -> Option<Cover> {
        if !self.has_ranges() {
            return None;
        }
        let from = match &bounds.0 {
            Bound::Included(key) | Bound::Excluded(key) => key.as_slice(),
            Bound::Unbounded => &[],
        };
        let to = bounds.1.as_ref().map(Vec::as_slice);
        let memtables = std::iter::once(&self.active).chain(&self.sealed);
        let mut sources: Vec<_> = memtables.flat_map(|memtable| sources_in(memtable)).collect();
        sources.extend(self.version.range_sources(from, to));
        Some(Cover::new(sources, seqno))
    }

    /// Takes away from `lookups` what range tombstones hide from a reader at `seqno`.
    #[cold]
    pub(crate) fn hide_dead(&self, lookups: &mut [Lookup<'_>], seqno: SeqNo) -> Result<()> {
        let (Some(first), Some(last)) = (lookups.first(), lookups.last()) else { return Ok(()) };
        let bounds = (Bound::Included(first.key.to_vec()), Bound::Included(last.key.to_vec()));
        let Some(mut cover) = self.cover(seqno, &bounds) else { return Ok(()) };
        for lookup in lookups {
            if let Some((trailer, _)) = lookup.found
                && trailer.seqno() < cover.newest_over(lookup.key)?
            {
                lookup.found = None;
            }
        }
        Ok(())
    }
}
