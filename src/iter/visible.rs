//! What a reader at a sequence number sees: one entry per user key, tombstones hidden.
//!
//! *Where the inner cursor stands*, while this one stands on user key k:
//! - forwards, and backwards if k has no further versions: on the entry that is returned, the newest
//!   visible version of k; key and value are borrowed from it;
//! - backwards otherwise: before every entry of k, since the newest version is the last one met on
//!   the way back; key and value of k are kept in buffers;
//! - if the newest visible version is a merge operand, either way: on or behind the last entry that
//!   went into the value; that and k are kept in buffers.
//!
//! *Range tombstones* hide entries below their number. One that is met is got past together with all
//! around it that is as dead, each source by a seek if it can tell that it has nothing newer there.
//!
//! A value that lies apart is not fetched here, unless operands are folded into it: who asks for it gets
//! the handle.
//!
//! Requires: all entries at or before the sequence number were there when the sources were opened.

use std::ops::Bound;
use std::sync::Arc;

use crate::base::blob::BlobSource;
use crate::base::clock::FirstExpiry;
use crate::base::error::Result;
use crate::base::internal_iter::InternalIter;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::range::is_above;
use crate::base::range::is_below;
use crate::base::seqno::SeqNo;
use crate::base::slice::COPY_LEN_MAX;
use crate::base::slice::Slice;
use crate::base::value::EXPIRY_LEN;
use crate::base::value::ValueKind;
use crate::iter::cover::Cover;
use crate::iter::dead::DeadSpans;
use crate::iter::dead::STRIDE;
use crate::iter::dead::Walk;
use crate::iter::fold::Fold;
use crate::iter::verdict::Verdict;
use crate::iter::verdict::verdict;

mod entry;

/// After this many steps over versions of one key, seek past the rest.
const STEPS_BEFORE_SEEK: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Nowhere,
    /// The inner cursor stands on the entry.
    On,
    /// The inner cursor stands on the entry, whose value lies behind its expiry.
    OnExpiring,
    /// The same, with a handle for the value.
    OnExpiringHandle,
    /// The inner cursor stands on the entry, which has a handle for the value.
    OnHandle,
    /// As `Before`, with a handle for the value.
    BeforeHandle,
    /// The inner cursor stands before all entries of the key, or nowhere.
    Before,
    /// The inner cursor stands on or behind the last entry that was folded into the value.
    Folded,
}

/// As of when, and by which rules, somebody reads.
#[derive(Clone, Debug)]
pub(crate) struct ReadAt {
    pub(crate) seqno: SeqNo,
    /// What expires then or before is gone. 0 if nothing can.
    pub(crate) now_ms: u64,
    /// Is told when what is read expires, if anybody wants to know.
    pub(crate) first_expiry: Option<Arc<FirstExpiry>>,
    /// Of the keyspace, if it has a merge operator. Requires: asked for after `seqno` was known.
    pub(crate) fold: Option<Arc<Fold>>,
    /// Of the keyspace, if what is read is all of it.
    pub(crate) dead: Option<Arc<DeadSpans>>,
    /// Where values are that lie apart, if there are any.
    pub(crate) blobs: Option<Arc<dyn BlobSource>>,
}

/// A cursor over what is visible of `I`, within bounds.
#[derive(Debug)]
pub(crate) struct Visible<I> {
    inner: I,
    at: ReadAt,
    lower: Bound<Vec<u8>>,
    upper: Bound<Vec<u8>>,
    state: State,
    /// `Before`, `Folded`: the current entry. `On`: scratch for the key to get past.
    key: Vec<u8>,
    value: Vec<u8>,
    /// `Before`: the current value if it is large, and pinned rather than copied.
    large: Option<Slice>,
    /// What was come past since the last entry that lives, if there is much of it.
    walk: Option<Box<Walk>>,
    /// Dead entries that were stepped over, about.
    dead_steps: u64,
    /// The range tombstones, if there may be any.
    cover: Option<Box<Cover>>,
}

impl<I: InternalIter> Visible<I> {
    pub(crate) fn new(
        inner: I,
        at: ReadAt,
        lower: Bound<Vec<u8>>,
        upper: Bound<Vec<u8>>,
    ) -> Visible<I> {
        Visible {
            inner,
            at,
            lower,
            upper,
            state: State::Nowhere,
            key: Vec::new(),
            value: Vec::new(),
            large: None,
            walk: None,
            dead_steps: 0,
            cover: None,
        }
    }

    /// The same, but for what is hidden by `cover`.
    pub(crate) fn under(mut self, cover: Option<Cover>) -> Visible<I> {
        self.cover = cover.map(Box::new);
        self
    }

    /// To nowhere.
    pub(super) fn leave(&mut self) {
        self.state = State::Nowhere;
    }

    /// How many dead entries were stepped over since this was last asked, about.
    pub(crate) fn take_dead_steps(&mut self) -> u64 {
        std::mem::take(&mut self.dead_steps)
    }

    #[inline]
    pub(crate) fn valid(&self) -> bool {
        self.state != State::Nowhere
    }

    /// Requires: valid.
    #[inline]
    pub(crate) fn user_key(&self) -> &[u8] {
        match self.state {
            State::Before | State::BeforeHandle | State::Folded => &self.key,
            _ => self.inner.key().user,
        }
    }

    /// Is what [`Visible::value`] gives a handle? Requires: valid.
    #[inline]
    pub(crate) fn is_apart(&self) -> bool {
        matches!(self.state, State::OnHandle | State::BeforeHandle | State::OnExpiringHandle)
    }

    /// Requires: valid.
    #[inline]
    pub(crate) fn value(&self) -> &[u8] {
        match self.state {
            State::Before | State::BeforeHandle => self.large.as_deref().unwrap_or(&self.value),
            State::Folded => &self.value,
            State::OnExpiring | State::OnExpiringHandle => {
                self.inner.value().get(EXPIRY_LEN..).unwrap_or_default()
            }
            State::On | State::OnHandle | State::Nowhere => self.inner.value(),
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
            (None, State::Before) | (_, State::Folded) => Slice::copy_from(&self.value),
            (_, State::OnHandle | State::BeforeHandle | State::OnExpiringHandle) => {
                Slice::copy_from(self.value())
            }
            (_, State::OnExpiring) => self.inner.value_slice().skip(EXPIRY_LEN),
            _ => self.inner.value_slice(),
        }
    }

    /// To the first visible key at or after `target`.
    pub(crate) fn seek(&mut self, target: &[u8]) -> Result<()> {
        self.state = State::Nowhere;
        if is_below(target, &self.lower) {
            return self.seek_to_first();
        }
        self.inner.seek(KeyRef::seek(target, self.at.seqno))?;
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
            Bound::Included(lower) => self.inner.seek(KeyRef::seek(lower, self.at.seqno))?,
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
        if self.state != State::On {
            return self.next_slowly();
        }
        let Some(trailer) = self.inner.try_next() else { return self.next_slowly() };
        if self.is_plainly_live(trailer) && !self.is_above() {
            return Ok(());
        }
        self.state = State::Nowhere;
        self.find_forward()
    }

    /// Requires: valid.
    #[inline]
    pub(crate) fn prev(&mut self) -> Result<()> {
        if self.state != State::On {
            return self.prev_slowly();
        }
        let Some(trailer) = self.inner.try_prev() else { return self.prev_slowly() };
        if self.is_plainly_live(trailer) && !self.is_below() && self.inner.is_sole() {
            return Ok(());
        }
        self.state = State::Nowhere;
        self.find_backward()
    }

    /// Is an entry one that this reader sees as it is?
    #[inline]
    fn is_plainly_live(&self, trailer: Trailer) -> bool {
        let is_put = trailer.kind_byte() == ValueKind::Put as u8;
        is_put && trailer.seqno() <= self.at.seqno && self.cover.is_none()
    }

    /// Does the inner cursor stand behind the bounds? Requires: it is valid.
    #[inline]
    fn is_above(&self) -> bool {
        !matches!(self.upper, Bound::Unbounded) && is_above(self.inner.key().user, &self.upper)
    }

    /// Does it stand before them? Requires: it is valid.
    #[inline]
    fn is_below(&self) -> bool {
        !matches!(self.lower, Bound::Unbounded) && is_below(self.inner.key().user, &self.lower)
    }

    #[inline(never)]
    fn next_slowly(&mut self) -> Result<()> {
        let state = std::mem::replace(&mut self.state, State::Nowhere);
        match state {
            State::Before | State::BeforeHandle => {
                self.inner.seek(KeyRef::after_all(&self.key))?;
                self.pass_key()?;
            }
            State::Folded => self.pass_key()?,
            // Who stands on a plain entry has tried.
            State::On => self.leave_key_slowly()?,
            _ => self.leave_key()?,
        }
        self.find_forward()
    }

    #[inline(never)]
    fn prev_slowly(&mut self) -> Result<()> {
        let state = std::mem::replace(&mut self.state, State::Nowhere);
        if is_on(state) {
            if self.inner.is_sole() {
                // What is behind it of the same key, on a cursor that came forwards, is too new.
                self.inner.prev()?;
            } else {
                self.leave_key_backward()?;
            }
        } else if state == State::Folded {
            self.inner.seek_for_prev(KeyRef::before_all(&self.key))?;
        }
        self.find_backward()
    }

    /// Forwards from the entry of a key over its further versions.
    fn leave_key(&mut self) -> Result<()> {
        if self.inner.try_next().is_some() {
            return Ok(());
        }
        self.leave_key_slowly()
    }

    /// The same, where a step was tried in vain.
    fn leave_key_slowly(&mut self) -> Result<()> {
        if self.inner.is_sole() {
            return self.inner.next();
        }
        self.remember_key();
        self.inner.pass_versions(&self.key)?;
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
            if steps >= STEPS_BEFORE_SEEK {
                // Only the source that has so many versions seeks. The next key there can be.
                self.key.push(0);
                let skipped = self.inner.skip_forward(Some(&self.key), SeqNo::MAX);
                self.key.pop();
                skipped?;
            } else {
                self.inner.pass_versions(&self.key)?;
            }
            steps += 1;
        }
        Ok(())
    }

    /// From the inner cursor's place on to the first key that is visible and no tombstone.
    fn find_forward(&mut self) -> Result<()> {
        if self.cover.is_some() { self.find_forward_covered() } else { self.forward::<false>() }
    }

    #[inline(never)]
    fn find_forward_covered(&mut self) -> Result<()> {
        self.forward::<true>()
    }

    #[inline]
    fn forward<const COVERED: bool>(&mut self) -> Result<()> {
        let (mut steps, mut dead) = (0, 0_u32);
        while self.inner.valid() {
            let key = self.inner.key();
            if is_above(key.user, &self.upper) {
                break;
            }
            if key.trailer.seqno() > self.at.seqno {
                // Written after this reader's instant.
                steps += 1;
                if steps > STEPS_BEFORE_SEEK {
                    self.remember_key();
                    self.inner.seek(KeyRef::seek(&self.key, self.at.seqno))?;
                    steps = 0;
                } else {
                    self.inner.next()?;
                }
                continue;
            }
            let trailer = key.trailer;
            if COVERED && self.pass_dead(true)? {
                continue;
            }
            if self.stand_on(trailer)? {
                break;
            }
            dead += 1;
            if dead.is_multiple_of(STRIDE) {
                self.remember_key();
                if let Some((_, to)) = self.find_span(dead == STRIDE) {
                    self.inner.seek(KeyRef::before_all(&to))?;
                    continue;
                }
            }
            self.leave_key()?;
        }
        if dead >= STRIDE {
            self.learn();
        }
        Ok(())
    }

    /// Of the walk that has come to `self.key`, which is dead: the ends of the span around it, if there
    /// is one to go past. `first`: the walk begins.
    #[cold]
    fn find_span(&mut self, first: bool) -> Option<(Vec<u8>, Vec<u8>)> {
        self.dead_steps += u64::from(STRIDE);
        let dead = self.at.dead.as_ref()?;
        let span = dead.around(&self.key, self.at.seqno, self.at.now_ms);
        if first {
            // What is left of an earlier one ended in an error.
            self.walk = None;
        }
        let walk = self.walk.get_or_insert_with(|| Box::new(Walk::at(&self.key)));
        match &span {
            Some(span) => walk.pass(span),
            None => walk.reach(&self.key),
        }
        span.map(|span| (span.from, span.to))
    }

    /// The walk has ended.
    #[cold]
    fn learn(&mut self) {
        if let (Some(walk), Some(dead)) = (self.walk.take(), &self.at.dead) {
            dead.learn(*walk, self.at.seqno, self.at.now_ms);
        }
    }

    /// Stands on the entry that the inner cursor stands on, unless that says that the key is gone.
    #[inline]
    fn stand_on(&mut self, trailer: Trailer) -> Result<bool> {
        if !trailer.is_plain() {
            return self.stand_on_special(trailer);
        }
        let is_live = trailer.kind_byte() == ValueKind::Put as u8;
        if is_live {
            self.state = State::On;
        }
        Ok(is_live)
    }

    /// From the inner cursor's place back to the first key that is visible and no tombstone.
    fn find_backward(&mut self) -> Result<()> {
        if self.cover.is_some() { self.find_backward_covered() } else { self.backward::<false>() }
    }

    #[inline(never)]
    fn find_backward_covered(&mut self) -> Result<()> {
        self.backward::<true>()
    }

    #[inline]
    fn backward<const COVERED: bool>(&mut self) -> Result<()> {
        let mut dead = 0_u32;
        while self.inner.valid() {
            let key = self.inner.key();
            if is_below(key.user, &self.lower) {
                break;
            }
            let trailer = key.trailer;
            if COVERED && self.pass_dead(false)? {
                continue;
            }
            if self.inner.is_sole() {
                if trailer.seqno() <= self.at.seqno && self.stand_on(trailer)? {
                    break;
                }
                dead += 1;
                if dead.is_multiple_of(STRIDE) {
                    self.remember_key();
                    if self.pass_span_backward(dead == STRIDE)? {
                        continue;
                    }
                }
                self.inner.prev()?;
                continue;
            }
            self.remember_key();
            match self.take_newest()? {
                Verdict::Live => {
                    self.state = State::Before;
                    break;
                }
                Verdict::Operand => {
                    self.inner.seek(KeyRef::seek(&self.key, self.at.seqno))?;
                    self.fold()?;
                    self.state = State::Folded;
                    break;
                }
                Verdict::Expiring if self.keep_behind_expiry() => {
                    self.state = State::Before;
                    break;
                }
                Verdict::Handle => {
                    self.state = State::BeforeHandle;
                    break;
                }
                Verdict::ExpiringHandle if self.keep_behind_expiry() => {
                    self.state = State::BeforeHandle;
                    break;
                }
                Verdict::Expiring | Verdict::ExpiringHandle | Verdict::Gone => {
                    dead += 1;
                    if dead.is_multiple_of(STRIDE) {
                        self.pass_span_backward(dead == STRIDE)?;
                    }
                }
            }
        }
        if dead >= STRIDE {
            self.learn();
        }
        Ok(())
    }

    /// As [`Visible::find_span`], and goes backwards past it. False if there is none.
    fn pass_span_backward(&mut self, first: bool) -> Result<bool> {
        let Some((from, _)) = self.find_span(first) else { return Ok(false) };
        self.inner.seek_for_prev(KeyRef::before_all(&from))?;
        Ok(true)
    }

    /// Backwards over all versions of `self.key`; keeps the newest visible one, and tells what it is.
    fn take_newest(&mut self) -> Result<Verdict> {
        let mut newest = None;
        let mut steps = 0;
        while self.inner.valid() && self.inner.key().user == self.key {
            if steps == STEPS_BEFORE_SEEK {
                // A long chain of versions: look at the newest visible one, then get past all.
                self.inner.seek(KeyRef::seek(&self.key, self.at.seqno))?;
                newest = Some(self.keep_current());
                self.inner.seek_for_prev(KeyRef::before_all(&self.key))?;
                break;
            }
            if self.inner.key().trailer.seqno() > self.at.seqno {
                // This one and all further ones are too new.
                self.inner.seek_for_prev(KeyRef::before_all(&self.key))?;
                break;
            }
            newest = Some(self.keep_current());
            self.inner.prev()?;
            steps += 1;
        }
        newest.map_or(Ok(Verdict::Gone), verdict)
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

/// Does the inner cursor stand on the entry?
fn is_on(state: State) -> bool {
    let on_handle = matches!(state, State::OnHandle | State::OnExpiringHandle);
    on_handle || matches!(state, State::On | State::OnExpiring)
}
