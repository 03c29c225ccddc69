//! Disjoint sources in key order as one, each opened when the walk reaches it.

use crate::base::error::Result;
use crate::base::internal_iter::InternalIter;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::range_tombstone::is_behind;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;

/// Sources in key order whose ranges do not overlap, not even in a user key.
pub(crate) trait ConcatSource {
    type Iter: InternalIter;

    fn len(&self) -> usize;
    /// Smallest key of a source. Requires: `index < len`.
    fn smallest(&self, index: usize) -> KeyRef<'_>;
    /// Largest key of a source. Requires: `index < len`.
    fn largest(&self, index: usize) -> KeyRef<'_>;
    /// How many sources end before `user`, or fewer: those that follow are asked one by one.
    fn first_from(&self, user: &[u8]) -> usize {
        partition_point(self.len(), |index| self.largest(index).user < user)
    }
    fn open(&self, index: usize) -> Result<Self::Iter>;
    /// Is every entry of a source older than `seqno`? `false` if that is not known without looking.
    fn is_older_than(&self, index: usize, seqno: SeqNo) -> bool {
        let _ = (index, seqno);
        false
    }
}

/// A cursor over all of them. At most one source is open at a time.
#[derive(Debug)]
pub(crate) struct Concat<S: ConcatSource> {
    sources: S,
    /// The open source. The cursor stands where it stands, and nowhere if it does.
    current: Option<(usize, S::Iter)>,
}

impl<S: ConcatSource> Concat<S> {
    pub(crate) fn new(sources: S) -> Concat<S> {
        Concat { sources, current: None }
    }

    /// The open source `index`, opened if it is not.
    fn enter(&mut self, index: usize) -> Result<&mut S::Iter> {
        if self.current.as_ref().is_none_or(|(at, _)| *at != index) {
            // Closed first: a failed opening must leave the cursor nowhere.
            self.current = None;
            self.current = Some((index, self.sources.open(index)?));
        }
        match &mut self.current {
            Some((_, iter)) => Ok(iter),
            None => unreachable!("a source was opened just now"),
        }
    }

    /// If the open source is at its end, to the first entry of a later one.
    #[inline(never)]
    fn enter_later(&mut self) -> Result<()> {
        while let Some((index, iter)) = &self.current
            && !iter.valid()
        {
            let next = index + 1;
            if next == self.sources.len() {
                self.current = None;
            } else {
                self.enter(next)?.seek_to_first()?;
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn enter_earlier(&mut self) -> Result<()> {
        while let Some((index, iter)) = &self.current
            && !iter.valid()
        {
            match index.checked_sub(1) {
                Some(previous) => self.enter(previous)?.seek_to_last()?,
                None => self.current = None,
            }
        }
        Ok(())
    }

    /// Leaves the cursor nowhere if `step` fails.
    fn guard(&mut self, step: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let result = step(self);
        if result.is_err() {
            self.current = None;
        }
        result
    }
}

impl<S: ConcatSource> InternalIter for Concat<S> {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.guard(|this| {
            let mut index = this.sources.first_from(target.user);
            while index < this.sources.len() && this.sources.largest(index) < target {
                index += 1;
            }
            if index == this.sources.len() {
                this.current = None;
                return Ok(());
            }
            this.enter(index)?.seek(target)?;
            this.enter_later()
        })
    }

    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.guard(|this| {
            let sources = &this.sources;
            let end = partition_point(sources.len(), |index| sources.smallest(index) <= target);
            let Some(index) = end.checked_sub(1) else {
                this.current = None;
                return Ok(());
            };
            this.enter(index)?.seek_for_prev(target)?;
            this.enter_earlier()
        })
    }

    fn seek_to_first(&mut self) -> Result<()> {
        self.guard(|this| {
            if this.sources.len() == 0 {
                return Ok(());
            }
            this.enter(0)?.seek_to_first()?;
            this.enter_later()
        })
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.guard(|this| {
            let Some(last) = this.sources.len().checked_sub(1) else { return Ok(()) };
            this.enter(last)?.seek_to_last()?;
            this.enter_earlier()
        })
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        let Some((_, iter)) = &mut self.current else { return Ok(()) };
        let moved = iter.next();
        if moved.is_ok() && iter.valid() {
            return Ok(());
        }
        self.guard(|this| moved.and_then(|()| this.enter_later()))
    }

    #[inline]
    fn prev(&mut self) -> Result<()> {
        let Some((_, iter)) = &mut self.current else { return Ok(()) };
        let moved = iter.prev();
        if moved.is_ok() && iter.valid() {
            return Ok(());
        }
        self.guard(|this| moved.and_then(|()| this.enter_earlier()))
    }

    #[inline]
    fn try_next(&mut self) -> Option<Trailer> {
        self.open_mut()?.try_next()
    }

    #[inline]
    fn try_prev(&mut self) -> Option<Trailer> {
        self.open_mut()?.try_prev()
    }

    fn skip_forward(&mut self, to: Option<&[u8]>, below: SeqNo) -> Result<()> {
        self.guard(|this| {
            let Some((index, iter)) = &mut this.current else { return Ok(()) };
            iter.skip_forward(to, below)?;
            if iter.valid() {
                return Ok(());
            }
            // Whole sources that nobody needs are not opened.
            let mut next = *index + 1;
            while next < this.sources.len()
                && is_behind(to, this.sources.largest(next).user)
                && this.sources.is_older_than(next, below)
            {
                next += 1;
            }
            if next == this.sources.len() {
                this.current = None;
                return Ok(());
            }
            this.enter(next)?.seek_to_first()?;
            this.enter_later()
        })
    }

    fn skip_backward(&mut self, from: &[u8], below: SeqNo) -> Result<()> {
        self.guard(|this| {
            let Some((index, iter)) = &mut this.current else { return Ok(()) };
            iter.skip_backward(from, below)?;
            if iter.valid() {
                return Ok(());
            }
            let mut left = *index;
            while let Some(last) = left.checked_sub(1)
                && this.sources.smallest(last).user >= from
                && this.sources.is_older_than(last, below)
            {
                left = last;
            }
            let Some(last) = left.checked_sub(1) else {
                this.current = None;
                return Ok(());
            };
            this.enter(last)?.seek_to_last()?;
            this.enter_earlier()
        })
    }

    #[inline]
    fn valid(&self) -> bool {
        self.current.as_ref().is_some_and(|(_, iter)| iter.valid())
    }

    #[inline]
    fn key(&self) -> KeyRef<'_> {
        self.entered().key()
    }

    /// No user key is in two sources.
    #[inline]
    fn is_sole(&self) -> bool {
        self.entered().is_sole()
    }

    #[inline]
    fn is_hot(&self) -> bool {
        self.entered().is_hot()
    }

    #[inline]
    fn value(&self) -> &[u8] {
        self.entered().value()
    }

    fn value_slice(&self) -> Slice {
        self.entered().value_slice()
    }
}

impl<S: ConcatSource> Concat<S> {
    /// The cursor over the open source, if there is one.
    #[inline]
    pub(crate) fn open(&self) -> Option<&S::Iter> {
        self.current.as_ref().map(|(_, iter)| iter)
    }

    /// The same.
    #[inline]
    pub(crate) fn open_mut(&mut self) -> Option<&mut S::Iter> {
        self.current.as_mut().map(|(_, iter)| iter)
    }

    /// Requires: valid.
    #[inline]
    fn entered(&self) -> &S::Iter {
        match &self.current {
            Some((_, iter)) => iter,
            None => unreachable!("the cursor stands nowhere"),
        }
    }
}

/// The first index below `len` for which `before` is false; it holds for a prefix of them.
fn partition_point(len: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low.midpoint(high);
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
