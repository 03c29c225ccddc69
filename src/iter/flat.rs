//! What a reader sees, as a source again: so that something newer can be merged over it.
//!
//! Each user key has one entry, a put with sequence number 0, or a handle with it. Whatever is merged over it has larger
//! ones.

use crate::base::error::Result;
use crate::base::internal_iter::InternalIter;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::range_tombstone::is_behind;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;
use crate::base::value::ValueKind;
use crate::iter::Visible;

/// A cursor over what is visible of `I`, with the trailers of a source.
#[derive(Debug)]
pub(crate) struct Flat<I> {
    tree: Visible<I>,
}

impl<I: InternalIter> Flat<I> {
    pub(crate) fn new(tree: Visible<I>) -> Flat<I> {
        Flat { tree }
    }

    /// Requires: valid.
    fn trailer(&self) -> Trailer {
        let kind = if self.tree.is_apart() { ValueKind::BlobRef } else { ValueKind::Put };
        Trailer::new(SeqNo::ZERO, kind)
    }

    fn stands_at(&self, user: &[u8]) -> bool {
        self.tree.valid() && self.tree.user_key() == user
    }
}

impl<I: InternalIter> InternalIter for Flat<I> {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.tree.seek(target.user)?;
        // A larger trailer comes first.
        if self.stands_at(target.user) && self.trailer() > target.trailer {
            self.tree.next()?;
        }
        Ok(())
    }

    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.tree.seek_for_prev(target.user)?;
        if self.stands_at(target.user) && self.trailer() < target.trailer {
            self.tree.prev()?;
        }
        Ok(())
    }

    fn seek_to_first(&mut self) -> Result<()> {
        self.tree.seek_to_first()
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.tree.seek_to_last()
    }

    fn next(&mut self) -> Result<()> {
        self.tree.next()
    }

    fn prev(&mut self) -> Result<()> {
        self.tree.prev()
    }

    fn skip_forward(&mut self, to: Option<&[u8]>, below: SeqNo) -> Result<()> {
        self.tree.next()?;
        let is_behind = self.tree.valid() && is_behind(to, self.tree.user_key());
        if !is_behind || below == SeqNo::ZERO {
            return Ok(());
        }
        // All entries have sequence number 0.
        if let Some(to) = to {
            return self.tree.seek(to);
        }
        self.tree.leave();
        Ok(())
    }

    fn skip_backward(&mut self, from: &[u8], below: SeqNo) -> Result<()> {
        self.tree.prev()?;
        let is_before = self.tree.valid() && self.tree.user_key() >= from;
        if !is_before || below == SeqNo::ZERO {
            return Ok(());
        }
        self.tree.seek_for_prev(from)?;
        if self.stands_at(from) { self.tree.prev() } else { Ok(()) }
    }

    fn valid(&self) -> bool {
        self.tree.valid()
    }

    fn key(&self) -> KeyRef<'_> {
        KeyRef::new(self.tree.user_key(), self.trailer())
    }

    fn is_sole(&self) -> bool {
        true
    }

    fn value(&self) -> &[u8] {
        self.tree.value()
    }

    fn value_slice(&self) -> Slice {
        self.tree.value_slice()
    }
}
