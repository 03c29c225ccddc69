//! The cursor that every sorted source of entries offers: memtables, SSTs, levels, and merges of
//! those.

use crate::base::error::Result;
#[cfg(test)]
use crate::base::key::InternalKey;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::key::head16;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;

/// A cursor over internal keys in THE order, in both directions.
///
/// A new cursor stands nowhere: call one of the seeks first. After an error it stands nowhere and
/// stays there until the next seek. `key` and `value` may only be called while `valid`; `next` and
/// `prev` too.
pub(crate) trait InternalIter {
    /// To the first entry at or after `target`.
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()>;
    /// To the last entry at or before `target`.
    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()>;
    /// To the first entry of all.
    fn seek_to_first(&mut self) -> Result<()>;
    /// To the last entry of all.
    fn seek_to_last(&mut self) -> Result<()>;
    /// One entry on.
    fn next(&mut self) -> Result<()>;
    /// One entry back.
    fn prev(&mut self) -> Result<()>;
    /// To the next entry, if that is at hand and of another user key; returns its trailer. Otherwise,
    /// and if that is not known without looking, nothing happens. Requires: valid.
    fn try_next(&mut self) -> Option<Trailer> {
        None
    }
    /// Likewise back.
    fn try_prev(&mut self) -> Option<Trailer> {
        None
    }
    /// As [`InternalIter::try_next`], with the head of the user key: whoever steps has that at hand.
    #[inline]
    fn try_next_head(&mut self) -> Option<(Trailer, u128)> {
        let trailer = self.try_next()?;
        Some((trailer, head16(self.key().user)))
    }
    /// Likewise back.
    #[inline]
    fn try_prev_head(&mut self) -> Option<(Trailer, u128)> {
        let trailer = self.try_prev()?;
        Some((trailer, head16(self.key().user)))
    }
    /// On past the entry that it stands on, a version of `user`, and past as many further versions as
    /// it can pass at once.
    fn pass_versions(&mut self, user: &[u8]) -> Result<()> {
        let _ = user;
        self.next()
    }
    /// On past entries that a reader does not need: the one that it stands on, and none but those
    /// whose user key lies before `to` and whose sequence number is below `below`. One that can tell
    /// that all of them are so old gets past them by a seek.
    fn skip_forward(&mut self, to: Option<&[u8]>, below: SeqNo) -> Result<()> {
        let _ = (to, below);
        self.next()
    }
    /// Likewise back, past entries whose user key lies at or behind `from`.
    fn skip_backward(&mut self, from: &[u8], below: SeqNo) -> Result<()> {
        let _ = (from, below);
        self.prev()
    }
    /// Does the cursor stand on an entry?
    fn valid(&self) -> bool;
    /// The key of the entry.
    fn key(&self) -> KeyRef<'_>;
    /// The value of the entry.
    fn value(&self) -> &[u8];
    /// Is no further entry in the direction of travel one of the same user key? `false` if that is
    /// not known without looking.
    fn is_sole(&self) -> bool {
        false
    }
    /// Do readers have the block of the entry in the cache, or what is in a memtable as well?
    fn is_hot(&self) -> bool {
        false
    }
    /// The value of the entry, to keep: pinned where it is large, copied where it is small.
    fn value_slice(&self) -> Slice {
        Slice::copy_from(self.value())
    }
}

/// As `next`, by [`InternalIter::try_next`] where that does it.
#[cfg(test)]
pub(crate) fn next_by_trying<I: InternalIter>(iter: &mut I) -> Result<()> {
    by_trying(iter, I::try_next, I::next)
}

/// As `prev`, by [`InternalIter::try_prev`] where that does it.
#[cfg(test)]
pub(crate) fn prev_by_trying<I: InternalIter>(iter: &mut I) -> Result<()> {
    by_trying(iter, I::try_prev, I::prev)
}

#[cfg(test)]
fn by_trying<I: InternalIter>(
    iter: &mut I,
    try_step: fn(&mut I) -> Option<Trailer>,
    step: fn(&mut I) -> Result<()>,
) -> Result<()> {
    if !iter.valid() {
        return step(iter);
    }
    let before = InternalKey::from(iter.key());
    let Some(trailer) = try_step(iter) else {
        assert_eq!(iter.key(), before.as_ref(), "nothing has happened");
        return step(iter);
    };
    assert_eq!(iter.key().trailer, trailer);
    assert_ne!(iter.key().user, before.user, "it is of another user key");
    Ok(())
}
