//! What a reader at a sequence number sees: one entry per user key, tombstones hidden.
//!
//! *Where the inner cursor stands*, while this one stands on user key k:
//! - forwards, and backwards if k has no further versions: on the entry that is returned, the newest
//!   visible version of k; key and value are borrowed from it;
//! - backwards otherwise: before every entry of k, since the newest version is the last one met on
//!   the way back; key and value of k are kept in buffers.
//!
//! Requires: all entries at or before the sequence number were there when the sources were opened.

use std::ops::Bound;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::internal_iter::InternalIter;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::range::is_above;
use crate::base::range::is_below;
use crate::base::seqno::SeqNo;
use crate::base::slice::COPY_LEN_MAX;
use crate::base::slice::Slice;
use crate::base::value::ValueKind;

/// After this many steps over versions of one key, seek past the rest.
const STEPS_BEFORE_SEEK: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Nowhere,
    /// The inner cursor stands on the entry.
    On,
    /// The inner cursor stands before all entries of the key, or nowhere.
    Before,
}

/// A cursor over what is visible of `I`, within bounds.
#[derive(Debug)]
pub(crate) struct Visible<I> {
    inner: I,
    seqno: SeqNo,
    lower: Bound<Vec<u8>>,
    upper: Bound<Vec<u8>>,
    state: State,
    /// `Before`: the current entry. `On`: scratch for the key to get past.
    key: Vec<u8>,
    value: Vec<u8>,
    /// `Before`: the current value if it is large, and pinned rather than copied.
    large: Option<Slice>,
}

impl<I: InternalIter> Visible<I> {
    pub(crate) fn new(
        inner: I,
        seqno: SeqNo,
        lower: Bound<Vec<u8>>,
        upper: Bound<Vec<u8>>,
    ) -> Visible<I> {
        Visible {
            inner,
            seqno,
            lower,
            upper,
            state: State::Nowhere,
            key: Vec::new(),
            value: Vec::new(),
            large: None,
        }
    }

    #[inline]
    pub(crate) fn valid(&self) -> bool {
        self.state != State::Nowhere
    }

    /// Requires: valid.
    #[inline]
    pub(crate) fn user_key(&self) -> &[u8] {
        match self.state {
            State::Before => &self.key,
            _ => self.inner.key().user,
        }
    }

    /// Requires: valid.
    #[inline]
    pub(crate) fn value(&self) -> &[u8] {
        match (&self.large, self.state) {
            (Some(large), State::Before) => large,
            (None, State::Before) => &self.value,
            _ => self.inner.value(),
        }
    }

    /// Requires: valid.
    pub(crate) fn key_slice(&self) -> Slice {
        Slice::copy_from(self.user_key())
    }

    /// Requires: valid.
    pub(crate) fn value_slice(&self) -> Slice {
        match (&self.large, self.state) {
            (Some(large), State::Before) => large.clone(),
            (None, State::Before) => Slice::copy_from(&self.value),
            _ => self.inner.value_slice(),
        }
    }

    /// To the first visible key at or after `target`.
    pub(crate) fn seek(&mut self, target: &[u8]) -> Result<()> {
        self.state = State::Nowhere;
        if is_below(target, &self.lower) {
            return self.seek_to_first();
        }
        self.inner.seek(KeyRef::seek(target, self.seqno))?;
        self.find_forward()
    }

    /// To the last visible key at or before `target`.
    pub(crate) fn seek_for_prev(&mut self, target: &[u8]) -> Result<()> {
        self.state = State::Nowhere;
        if is_above(target, &self.upper) {
            return self.seek_to_last();
        }
        self.inner.seek_for_prev(KeyRef::after_all(target))?;
        self.find_backward()
    }

    pub(crate) fn seek_to_first(&mut self) -> Result<()> {
        self.state = State::Nowhere;
        match &self.lower {
            Bound::Included(lower) => self.inner.seek(KeyRef::seek(lower, self.seqno))?,
            Bound::Excluded(lower) => {
                self.inner.seek(KeyRef::after_all(lower))?;
                // The one entry that `after_all` may stand at.
                while self.inner.valid() && self.inner.key().user == lower {
                    self.inner.next()?;
                }
            }
            Bound::Unbounded => self.inner.seek_to_first()?,
        }
        self.find_forward()
    }

    pub(crate) fn seek_to_last(&mut self) -> Result<()> {
        self.state = State::Nowhere;
        match &self.upper {
            Bound::Included(upper) => self.inner.seek_for_prev(KeyRef::after_all(upper))?,
            Bound::Excluded(upper) => self.inner.seek_for_prev(KeyRef::before_all(upper))?,
            Bound::Unbounded => self.inner.seek_to_last()?,
        }
        self.find_backward()
    }

    /// Requires: valid.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<()> {
        let state = std::mem::replace(&mut self.state, State::Nowhere);
        if state == State::Before {
            self.inner.seek(KeyRef::after_all(&self.key))?;
            self.pass_key()?;
        } else {
            self.leave_key()?;
        }
        self.find_forward()
    }

    /// Requires: valid.
    #[inline]
    pub(crate) fn prev(&mut self) -> Result<()> {
        let state = std::mem::replace(&mut self.state, State::Nowhere);
        if state == State::On {
            if self.inner.is_sole() {
                // What is behind it of the same key, on a cursor that came forwards, is too new.
                self.inner.prev()?;
            } else {
                self.leave_key_backward()?;
            }
        }
        self.find_backward()
    }

    /// Forwards from the entry of a key over its further versions.
    #[inline]
    fn leave_key(&mut self) -> Result<()> {
        if self.inner.is_sole() {
            return self.inner.next();
        }
        self.remember_key();
        self.inner.next()?;
        self.pass_key()
    }

    /// Backwards from the newest visible version of a key over those that are newer still.
    fn leave_key_backward(&mut self) -> Result<()> {
        self.remember_key();
        self.inner.prev()?;
        let mut steps = 0;
        while self.inner.valid() && self.inner.key().user == self.key {
            if steps < STEPS_BEFORE_SEEK {
                self.inner.prev()?;
            } else {
                self.inner.seek_for_prev(KeyRef::before_all(&self.key))?;
            }
            steps += 1;
        }
        Ok(())
    }

    /// Requires: the inner cursor is valid.
    fn remember_key(&mut self) {
        let user = self.inner.key().user;
        self.key.clear();
        self.key.extend_from_slice(user);
    }

    /// Forwards over all further versions of `self.key`.
    fn pass_key(&mut self) -> Result<()> {
        let mut steps = 0;
        while self.inner.valid() && self.inner.key().user == self.key {
            if steps == STEPS_BEFORE_SEEK {
                self.inner.seek(KeyRef::after_all(&self.key))?;
            } else {
                self.inner.next()?;
            }
            steps += 1;
        }
        Ok(())
    }

    /// From the inner cursor's place on to the first key that is visible and no tombstone.
    #[inline]
    fn find_forward(&mut self) -> Result<()> {
        let mut steps = 0;
        while self.inner.valid() {
            let key = self.inner.key();
            if is_above(key.user, &self.upper) {
                break;
            }
            if key.trailer.seqno() > self.seqno {
                // Written after this reader's instant.
                steps += 1;
                if steps > STEPS_BEFORE_SEEK {
                    self.remember_key();
                    self.inner.seek(KeyRef::seek(&self.key, self.seqno))?;
                    steps = 0;
                } else {
                    self.inner.next()?;
                }
                continue;
            }
            if is_live(key.trailer)? {
                self.state = State::On;
                return Ok(());
            }
            self.leave_key()?;
        }
        Ok(())
    }

    /// From the inner cursor's place back to the first key that is visible and no tombstone.
    #[inline]
    fn find_backward(&mut self) -> Result<()> {
        while self.inner.valid() {
            let key = self.inner.key();
            if is_below(key.user, &self.lower) {
                break;
            }
            if self.inner.is_sole() {
                if key.trailer.seqno() <= self.seqno && is_live(key.trailer)? {
                    self.state = State::On;
                    return Ok(());
                }
                self.inner.prev()?;
                continue;
            }
            self.remember_key();
            if self.take_newest()? {
                self.state = State::Before;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Backwards over all versions of `self.key`; keeps the newest visible one. True if that is no
    /// tombstone.
    fn take_newest(&mut self) -> Result<bool> {
        let mut newest = None;
        let mut steps = 0;
        while self.inner.valid() && self.inner.key().user == self.key {
            if steps == STEPS_BEFORE_SEEK {
                // A long chain of versions: look at the newest visible one, then get past all.
                self.inner.seek(KeyRef::seek(&self.key, self.seqno))?;
                newest = Some(self.keep_current());
                self.inner.seek_for_prev(KeyRef::before_all(&self.key))?;
                break;
            }
            if self.inner.key().trailer.seqno() > self.seqno {
                // This one and all further ones are too new.
                self.inner.seek_for_prev(KeyRef::before_all(&self.key))?;
                break;
            }
            newest = Some(self.keep_current());
            self.inner.prev()?;
            steps += 1;
        }
        newest.map_or(Ok(false), is_live)
    }

    /// Keeps the value of the entry that the inner cursor stands on. Returns what the entry is.
    fn keep_current(&mut self) -> Trailer {
        let value = self.inner.value();
        if value.len() > COPY_LEN_MAX {
            self.large = Some(self.inner.value_slice());
        } else {
            self.large = None;
            self.value.clear();
            self.value.extend_from_slice(value);
        }
        self.inner.key().trailer
    }
}

#[inline]
fn is_live(trailer: Trailer) -> Result<bool> {
    match trailer.kind() {
        Some(ValueKind::Put) => Ok(true),
        Some(ValueKind::Delete) => Ok(false),
        // What reads files and logs refuses such entries.
        _ => Err(Error::internal(format!("an entry of kind {}", trailer.kind_byte()))),
    }
}
