//! Range tombstones in a flush or compaction: which entries they drop, and what is written of them.
//!
//! - R6: an entry is dropped if a range tombstone of its own stripe covers it: who sees the entry sees
//!   the tombstone as well.
//! - R7: of the tombstones of one stripe over a key only the newest is kept; one of the oldest stripe
//!   only where something older may lie beneath the output, between the first and the last such place.
//!
//! The first half of R7 goes before everything else, since R6 asks for no other tombstone either: what
//! any of a stripe hides of that stripe, its newest hides. All of this file requires it.
//!
//! A put that any range tombstone of the inputs covers keeps its sequence number, whatever R3 says:
//! with 0 it would be older than what it is newer than.

use std::ops::Bound;
use std::sync::Arc;

use crate::base::planted::Planted;
use crate::base::range::later_end;
use crate::base::range_tombstone::Fragment;
use crate::base::range_tombstone::Fragments;
use crate::base::range_tombstone::end_behind;
use crate::base::range_tombstone::is_behind;
use crate::base::seqno::SeqNo;
use crate::compaction::beneath::Beneath;
use crate::version::sst_file::SstFile;

/// Between which live snapshots `seqno` lies. Requires: `snapshots` ascend.
pub(crate) fn stripe(snapshots: &[SeqNo], seqno: SeqNo) -> usize {
    snapshots.partition_point(|snapshot| *snapshot < seqno)
}

/// The range tombstones of the inputs, for a stream of ascending user keys.
#[derive(Debug, Default)]
pub(crate) struct Covering {
    ranges: Arc<Fragments>,
    /// The first fragment that does not end by the last key.
    at: usize,
}

impl Covering {
    pub(crate) fn new(ranges: Arc<Fragments>) -> Covering {
        Covering { ranges, at: 0 }
    }

    /// Is there none?
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The fragment over `user`. Requires: not before the user key of the last call.
    pub(crate) fn over(&mut self, user: &[u8]) -> Option<&Fragment> {
        let list = self.ranges.list();
        while list.get(self.at).is_some_and(|fragment| !is_behind(fragment.to(), user)) {
            self.at += 1;
        }
        list.get(self.at).filter(|fragment| fragment.from.as_slice() <= user)
    }

    /// Does a tombstone of its own stripe hide an entry of `user` at `seqno`? (R6)
    pub(crate) fn hides(&mut self, user: &[u8], seqno: SeqNo, snapshots: &[SeqNo]) -> bool {
        let above = self.over(user).and_then(|fragment| fragment.first_above(seqno));
        above.is_some_and(|above| stripe(snapshots, above) == stripe(snapshots, seqno))
    }

    /// The newest tombstone over `user` that is older than `seqno`, if it is of its stripe. Requires:
    /// none of its stripe hides `seqno`.
    pub(crate) fn right_beneath(
        &mut self,
        user: &[u8],
        seqno: SeqNo,
        snapshots: &[SeqNo],
    ) -> Option<SeqNo> {
        let newest = *self.over(user)?.seqnos.iter().find(|tombstone| **tombstone < seqno)?;
        (stripe(snapshots, newest) == stripe(snapshots, seqno)).then_some(newest)
    }
}

/// What must be written of the tombstones `ranges` of the inputs (R7).
pub(crate) fn kept(ranges: &Fragments, snapshots: &[SeqNo], beneath: &Beneath) -> Fragments {
    let mut pieces: Vec<(Vec<u8>, Option<Vec<u8>>, SeqNo)> = Vec::new();
    for fragment in ranges.list() {
        for seqno in &fragment.seqnos {
            let piece = if stripe(snapshots, *seqno) > 0 {
                Some((fragment.from.clone(), fragment.to.clone()))
            } else if Planted::RangeTombstoneDropped.is_on() {
                None
            } else {
                trimmed(fragment, beneath)
            };
            pieces.extend(piece.map(|(from, to)| (from, to, *seqno)));
        }
    }
    Fragments::cut(pieces.iter().map(|(from, to, seqno)| (&**from, to.as_deref(), *seqno)))
}

/// The part of `fragment` between the first and the last key that may be `beneath`.
fn trimmed(fragment: &Fragment, beneath: &Beneath) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let end = fragment.to().map_or(Bound::Unbounded, Bound::Excluded);
    let mut hull: Option<(&[u8], Bound<&[u8]>)> = None;
    for meta in beneath.overlapping(&fragment.from, end) {
        let (first, last) = (meta.first(), meta.last());
        hull = Some(match hull {
            None => (first, last),
            Some((from, to)) => (from.min(first), later_end(to, last)),
        });
    }
    let (first, last) = hull?;
    let to = match last {
        Bound::Unbounded => None,
        Bound::Excluded(key) => Some(key.to_vec()),
        Bound::Included(key) => end_behind(key),
    };
    let to = match (to, &fragment.to) {
        (Some(to), Some(end)) => Some(to.min(end.clone())),
        (to, end) => to.or_else(|| end.clone()),
    };
    Some((first.max(&fragment.from).to_vec(), to))
}

/// Is all of `file` hidden by `ranges`, so that whoever sees anything of it sees the tombstone too?
/// Requires: `snapshots` ascend.
pub(crate) fn is_dead(file: &SstFile, ranges: &Fragments, snapshots: &[SeqNo]) -> bool {
    let meta = &file.meta;
    let oldest = stripe(snapshots, meta.min_seqno);
    let mut reached = Some(meta.first());
    for fragment in ranges.overlapping(meta.first(), None) {
        let above = fragment.first_above(meta.max_seqno);
        let hides = above.is_some_and(|above| stripe(snapshots, above) == oldest);
        if !hides || reached.is_some_and(|reached| fragment.from.as_slice() > reached) {
            return false;
        }
        reached = fragment.to();
        let is_whole = match meta.last() {
            Bound::Unbounded => reached.is_none(),
            Bound::Included(key) => is_behind(reached, key),
            Bound::Excluded(key) => reached.is_none_or(|to| key <= to),
        };
        if is_whole {
            return true;
        }
    }
    false
}
