//! What a cursor does at an entry that is neither a put nor a tombstone, or that a range tombstone
//! hides.

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::internal_iter::InternalIter;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::seqno::SeqNo;
use crate::base::value::EXPIRY_LEN;
use crate::base::value::expiry_of;
use crate::iter::fold::LONG_CHAIN;
use crate::iter::fold::Operands;
use crate::iter::verdict::Verdict;
use crate::iter::verdict::unexpected;
use crate::iter::verdict::verdict;
use crate::iter::visible::State;
use crate::iter::visible::Visible;

impl<I: InternalIter> Visible<I> {
    /// If a range tombstone hides the entry that the inner cursor stands on: past it, and past what else
    /// is as dead around it, on or back. True if so.
    #[inline(never)]
    pub(super) fn pass_dead(&mut self, forward: bool) -> Result<bool> {
        let Some(cover) = &mut self.cover else { return Ok(false) };
        let KeyRef { user, trailer } = self.inner.key();
        let Some(dead) = cover.dead_stretch(user, trailer.seqno(), forward)? else {
            return Ok(false);
        };
        if forward {
            self.inner.skip_forward(dead.to.as_deref(), dead.seqno)?;
        } else {
            self.inner.skip_backward(&dead.from, dead.seqno)?;
        }
        Ok(true)
    }

    /// As [`Visible::stand_on`], of an entry that is neither a put nor a tombstone.
    #[cold]
    pub(super) fn stand_on_special(&mut self, trailer: Trailer) -> Result<bool> {
        self.state = match verdict(trailer)? {
            Verdict::Live => State::On,
            Verdict::Operand => {
                self.fold()?;
                State::Folded
            }
            Verdict::Expiring if self.is_alive(self.inner.value()) => State::OnExpiring,
            Verdict::Handle => State::OnHandle,
            Verdict::ExpiringHandle if self.is_alive(self.inner.value()) => State::OnExpiringHandle,
            Verdict::Expiring | Verdict::ExpiringHandle | Verdict::Gone => return Ok(false),
        };
        Ok(true)
    }

    #[cold]
    pub(super) fn is_alive(&self, bytes: &[u8]) -> bool {
        let expiry_ms = expiry_of(bytes);
        let alive = expiry_ms > self.at.now_ms;
        if let Some(first) = self.at.first_expiry.as_ref().filter(|_| alive) {
            first.note(expiry_ms);
        }
        alive
    }

    /// Of the kept entry, which expires, keeps the value. False if it has expired.
    #[cold]
    pub(super) fn keep_behind_expiry(&mut self) -> bool {
        if !self.is_alive(self.large.as_deref().unwrap_or(&self.value)) {
            return false;
        }
        match self.large.take() {
            Some(large) => self.large = Some(large.skip(EXPIRY_LEN)),
            None => drop(self.value.drain(..EXPIRY_LEN)),
        }
        true
    }

    /// Folds the operand that the inner cursor stands on with all that it rests on.
    #[cold]
    pub(super) fn fold(&mut self) -> Result<()> {
        self.remember_key();
        let newest = self.inner.key().trailer.seqno();
        let fold = self.at.fold.clone();
        let fold = fold.ok_or_else(|| Error::internal("an operand without a merge operator"))?;
        let mut operands = Operands::default();
        let (mut known, mut met) = (None, false);
        let mut base = None;
        let dead = match &mut self.cover {
            Some(cover) => cover.newest_over(&self.key)?,
            None => SeqNo::ZERO,
        };
        while self.inner.valid() && self.inner.key().user == self.key {
            let trailer = self.inner.key().trailer;
            // Before what is remembered is asked, which may be as dead.
            if trailer.seqno() < dead {
                break;
            }
            if operands.count == LONG_CHAIN {
                known = fold.recall(&self.key, self.at.seqno);
                met = known.as_ref().is_some_and(|known| operands.has(known.seqno));
            }
            let known_here = known.as_ref().filter(|known| met || trailer.seqno() == known.seqno);
            if let Some(known) = known_here {
                operands.forget_up_to(known.seqno);
                base = Some(known.value.clone());
                break;
            }
            match verdict(trailer)? {
                Verdict::Operand => {
                    operands.push(&fold, &self.key, trailer, self.inner.value());
                    self.inner.next()?;
                    continue;
                }
                Verdict::Live => base = Some(self.inner.value().to_vec()),
                Verdict::Gone => {}
                Verdict::Handle => {
                    let blobs = self.at.blobs.as_ref().ok_or_else(|| unexpected(trailer))?;
                    base = Some(blobs.fetch(&self.key, self.inner.value())?.to_vec());
                }
                // Only what a transaction has put there itself: see `engine::commit::folded`.
                Verdict::Expiring => {
                    let bytes = self.inner.value();
                    let value = bytes.get(EXPIRY_LEN..).unwrap_or_default();
                    base = self.is_alive(bytes).then(|| value.to_vec());
                }
                Verdict::ExpiringHandle => return Err(unexpected(trailer)),
            }
            break;
        }
        self.value = fold.merge(&self.key, base.as_deref(), &operands)?;
        if operands.count > LONG_CHAIN {
            fold.remember(&self.key, newest, &self.value);
        }
        self.large = None;
        Ok(())
    }
}
