//! The change feed: the log, read behind its end.
//!
//! A feed has a place in the order of sequence numbers and, while it reads, one segment open. It
//! asks under the append lock which segment holds the next number, once per segment and, in the
//! active one, each time its buffer is used up; all else needs no lock. Writers know nothing of it.
//!
//! *Invariants.*
//! - F1 Of what a feed of [`Offer::Durable`] has shown nothing is ever lost or replaced: it was synced
//!   with all in front of it. So recovery finds it, or says that the log is damaged; and numbers
//!   that recovery gives up are not used again, as far as it is known that they were used.
//! - F2 Batches come whole, in order, each once: a record is a batch, and the next one has the number
//!   behind it. Numbers are skipped only where the log skips them, which is said of nothing that
//!   the feed has passed: whoever asks for what follows a number within such a gap has seen what
//!   the database has given up, and is refused as if he had fallen behind.
//! - F3 A feed keeps nothing but the segment that it has open, and that only from being recycled. It
//!   may be removed: then it goes when the feed moves on.

use std::time::Duration;

use bytes::Bytes;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::KeyspaceId;
use crate::base::seqno::SeqNo;
use crate::base::sync::pause;
use crate::base::sync::spin_until;
use crate::engine::Core;
use crate::engine::commit::LogSegment;
pub(crate) use crate::engine::commit::Offer;
use crate::wal::LogRecord;
use crate::wal::SegmentReader;

/// Who has just read something looks again after so long before he asks to be woken: beside a busy
/// writer batches come faster than anybody can be woken, and it is the writer who pays for that.
const PAUSE: Duration = Duration::from_micros(250);
/// Nobody sleeps longer without looking.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// A place in the order of all batches, and what is open there.
#[derive(Debug)]
pub(crate) struct Feed {
    /// The next sequence number.
    next: SeqNo,
    offer: Offer,
    open: Option<Open>,
    /// Something was read since it last waited.
    is_busy: bool,
}

#[derive(Debug)]
struct Open {
    segment: LogSegment,
    reader: SegmentReader,
}

impl Open {
    fn may_hold(&self, next: SeqNo) -> bool {
        self.segment.last().is_none_or(|last| next <= last)
    }

    /// What the reader has just read.
    fn batch(&self, record: LogRecord) -> FeedBatch {
        let last = SeqNo::new(self.reader.next_seqno().get() - 1);
        FeedBatch { first: record.seqno, last, payload: record.payload }
    }
}

/// A batch of the log.
#[derive(Clone, Debug)]
pub(crate) struct FeedBatch {
    pub(crate) first: SeqNo,
    pub(crate) last: SeqNo,
    /// Checked to decode as operations.
    pub(crate) payload: Bytes,
}

impl Feed {
    /// The last sequence number that was read, or passed over because there is none.
    pub(crate) fn seqno(&self) -> SeqNo {
        SeqNo::new(self.next.get() - 1)
    }

    pub(crate) fn set_offer(&mut self, offer: Offer) {
        self.offer = offer;
    }
}

impl Core {
    /// A feed of all batches that end behind `since`.
    ///
    /// # Errors
    /// `ChangesGone` if some of them are not there; `Closed`.
    pub(crate) fn changes_since(&self, since: SeqNo) -> Result<Feed> {
        self.health.check_open()?;
        let visible = self.visible();
        let next = since.plus(1);
        let found = self.commit.append_lock().find(next);
        match found {
            Ok(_) if since <= visible => {
                Ok(Feed { next, offer: Offer::default(), open: None, is_busy: false })
            }
            Ok(_) => Err(self.gone(next, self.oldest())),
            Err(oldest) => Err(self.gone(next, oldest)),
        }
    }

    /// The least number that changes can be asked for from.
    fn oldest(&self) -> SeqNo {
        let append = self.commit.append_lock();
        let first = append.history().kept().front().or_else(|| append.segments().front());
        first.map_or(self.visible(), |first| SeqNo::new(first.first.get() - 1))
    }

    /// The name of a keyspace that exists.
    pub(crate) fn keyspace_name(&self, id: KeyspaceId) -> Option<String> {
        let states = self.keyspaces.all();
        states.iter().find(|state| state.id == id).map(|state| state.name.clone())
    }

    /// The next batch, if it is there. After an error the next call tries the same again.
    pub(crate) fn next_change(&self, feed: &mut Feed) -> Result<Option<FeedBatch>> {
        self.health.check_open()?;
        let offered = self.commit.offered(feed.offer);
        while feed.next <= offered {
            let batch = self.step_feed(feed)?;
            // In front of where the feed begins there may be others in the segment.
            if let Some(batch) = batch.filter(|batch| batch.last >= feed.next) {
                feed.next = batch.last.plus(1);
                feed.is_busy = true;
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    /// The next batch of the segment that is open; `None` if there is none: then another one is, or
    /// is to be, or there is nothing more. Requires: `feed.next` is offered.
    fn step_feed(&self, feed: &mut Feed) -> Result<Option<FeedBatch>> {
        let next = feed.next;
        let Some(open) = feed.open.as_mut().filter(|open| open.may_hold(next)) else {
            return self.move_on(feed).map(|()| None);
        };
        if let Some(record) = open.reader.next_buffered()? {
            return Ok(Some(open.batch(record)));
        }
        if open.segment.end.is_none() {
            let found = self.commit.append_lock().find(next);
            match found {
                Ok(Some(found)) if found.id == open.segment.id => open.segment = found,
                Ok(_) => {
                    feed.open = None;
                    return Ok(None);
                }
                // It was removed while it was read. What it holds still reads.
                Err(oldest) => {
                    let record = open.reader.read_next().map_err(|_| self.gone(next, oldest))?;
                    return Ok(Some(open.batch(record)));
                }
            }
        }
        let record = open.reader.read_next()?;
        Ok(Some(open.batch(record)))
    }

    /// Opens the segment that holds `feed.next`.
    fn move_on(&self, feed: &mut Feed) -> Result<()> {
        feed.open = None;
        let next = feed.next;
        let find = || {
            let found = self.commit.append_lock().find(next);
            found.map_err(|oldest| self.gone(next, oldest))
        };
        let Some(segment) = find()? else {
            // The log ends in front of numbers that were used, and lost in a crash.
            feed.next = self.visible().plus(1);
            return Ok(());
        };
        let end = segment.end.map(|end| end.offset);
        let (fs, dir) = (self.output.fs.as_ref(), &self.output.dir);
        let opened = SegmentReader::open(fs, dir, self.db_id, segment.id, segment.first, end);
        let reader = match opened {
            Ok(reader) => reader,
            // Unless it was removed since it was found.
            Err(error) => return find().and(Err(error)),
        };
        feed.next = next.max(segment.first);
        feed.open = Some(Open { segment, reader });
        Ok(())
    }

    fn gone(&self, next: SeqNo, oldest: SeqNo) -> Error {
        let since = SeqNo::new(next.get() - 1);
        Error::ChangesGone { since, oldest, newest: self.visible() }
    }

    /// The next batch; waits for it at most `limit`.
    ///
    /// # Errors
    /// As of [`Core::next_change`]; `ReadOnly` if nothing more can come.
    pub(crate) fn wait_for_change(
        &self,
        feed: &mut Feed,
        limit: Duration,
    ) -> Result<Option<FeedBatch>> {
        let began = self.clock.monotonic();
        loop {
            if let Some(batch) = self.next_change(feed)? {
                return Ok(Some(batch));
            }
            let left = limit.saturating_sub(self.clock.monotonic().saturating_sub(began));
            if left.is_zero() {
                return Ok(None);
            }
            if let Err(over) = self.health.check_writable() {
                return self.next_change(feed)?.map_or(Err(over), |batch| Ok(Some(batch)));
            }
            let (next, offer) = (feed.next, feed.offer);
            let is_offered = || self.commit.offered(offer) >= next;
            if std::mem::take(&mut feed.is_busy) {
                spin_until(is_offered);
                if !is_offered() {
                    pause(left.min(PAUSE));
                }
                continue;
            }
            let is_over = || self.health.check_writable().is_err();
            let timed_out = self.commit.wait_offered(next, offer, left.min(WAIT_MAX), is_over);
            // Not only by the clock, which may be one that stands still.
            if timed_out && left <= WAIT_MAX {
                return self.next_change(feed);
            }
        }
    }
}
