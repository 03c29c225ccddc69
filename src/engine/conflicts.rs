//! What was written after a snapshot, range tombstones included: looked for where it can be, and nowhere else. Memtables are
//! searched; files only if their largest sequence number is above the snapshot's.
//!
//! Requires, throughout: the snapshot is pinned. How the answer becomes a validation is told
//! [there](crate::engine::commit).

use std::ops::Bound;
use std::sync::Arc;

use crate::base::error::Result;
use crate::base::internal_iter::InternalIter;
use crate::base::key::KeyHash;
use crate::base::key::KeyRef;
use crate::base::seqno::SeqNo;
use crate::base::spans::Spans;
use crate::base::spans::is_key;
use crate::engine::keyspaces::ReadView;
use crate::engine::range_read::newest_in;
use crate::memtable::Memtable;
use crate::version::Level;
use crate::version::sst_file::SstFile;

impl ReadView {
    fn memtables(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.active).chain(&self.sealed)
    }

    /// The sequence number of the newest version of `key`, if it is above `since`.
    pub(crate) fn newer_version(&self, key: &[u8], since: SeqNo) -> Result<Option<SeqNo>> {
        let hash = KeyHash::of(key);
        let newest = |memtable| newest_in(memtable, key, hash, SeqNo::MAX, false);
        if let Some((trailer, _)) = self.memtables().find_map(newest) {
            return Ok(Some(trailer.seqno()).filter(|newest| *newest > since));
        }
        let here = (key, Bound::Included(key));
        let level0 =
            self.version.level(0).files.iter().filter(|file| file.meta.overlaps(here.0, here.1));
        let of =
            |level: &'_ Arc<Level>| level.file_for(key).or_else(|| level.ranged_for(key)).cloned();
        let deeper = self.version.levels()[1..].iter().filter_map(of);
        for file in level0.cloned().chain(deeper) {
            if file.is_older_than(since) {
                continue;
            }
            let newest = file.reader()?.get(key, hash, SeqNo::MAX, |trailer, _| trailer.seqno())?;
            let deleted = file.newest_range(|ranges| ranges.newest_over(key, SeqNo::MAX))?;
            let newest = newest.max(Some(deleted).filter(|deleted| *deleted > SeqNo::ZERO));
            if newest.is_some() {
                return Ok(newest.filter(|newest| *newest > since));
            }
        }
        Ok(None)
    }

    /// The sequence number of any version above `since` of any key of `spans`.
    pub(crate) fn newer_within(&self, spans: &Spans, since: SeqNo) -> Result<Option<SeqNo>> {
        for (from, to) in spans.iter() {
            let newer = if is_key(from, to) {
                self.newer_version(from, since)?
            } else {
                self.newer_between(from, to, since)?
            };
            if newer.is_some() {
                return Ok(newer);
            }
        }
        Ok(None)
    }

    fn newer_between(&self, from: &[u8], to: Option<&[u8]>, since: SeqNo) -> Result<Option<SeqNo>> {
        for memtable in self.memtables() {
            let deleted = memtable.newest_range_within(from, to);
            if deleted > since {
                return Ok(Some(deleted));
            }
            let newer = first_newer(&mut memtable.iter(), from, to, since)?;
            if newer.is_some() {
                return Ok(newer);
            }
        }
        let end = to.map_or(Bound::Unbounded, Bound::Excluded);
        let overlaps = |file: &&Arc<SstFile>| file.meta.overlaps(from, end);
        for file in self.version.files().filter(overlaps) {
            if file.is_older_than(since) {
                continue;
            }
            let deleted = file.newest_range(|ranges| ranges.newest_within(from, to))?;
            if deleted > since {
                return Ok(Some(deleted));
            }
            let newer = first_newer(&mut file.reader()?.iter(), from, to, since)?;
            if newer.is_some() {
                return Ok(newer);
            }
        }
        Ok(None)
    }
}

/// The sequence number of the first entry between `from` and `to` that is above `since`.
fn first_newer(
    entries: &mut impl InternalIter,
    from: &[u8],
    to: Option<&[u8]>,
    since: SeqNo,
) -> Result<Option<SeqNo>> {
    entries.seek(KeyRef::before_all(from))?;
    while entries.valid() {
        let key = entries.key();
        if to.is_some_and(|to| key.user >= to) {
            break;
        }
        if key.trailer.seqno() > since {
            return Ok(Some(key.trailer.seqno()));
        }
        entries.next()?;
    }
    Ok(None)
}
