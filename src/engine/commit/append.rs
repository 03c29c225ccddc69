//! Step 2 of a commit: sequence numbers, and a place in the log.

use std::collections::VecDeque;
use std::sync::Arc;

use arc_swap::Guard;

use crate::base::batch::Batch;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::base::seqno::SeqNo;
use crate::engine::Core;
use crate::engine::commit::CommitState;
use crate::engine::commit::checked::Recent;
use crate::engine::commit::folded::must_fold;
use crate::engine::commit::segments::History;
use crate::engine::commit::segments::LogSegment;
use crate::engine::commit::segments::SegmentEnd;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::keyspaces::ReadView;
use crate::engine::throttle::LOOKS_PER_LIMIT;
use crate::wal::LogWriter;
use crate::wal::PreparedSegment;
use crate::wal::segment_bytes_for;

/// What an entry takes in a memtable besides its key and value, about.
const ENTRY_BYTES: usize = 64;
/// In front of a range tombstone a memtable is sealed from this part of its size on: readers seek over
/// what they know to be older than the tombstone, and step over the rest.
const OLDER_SHARE: usize = 16;

/// The end of the log, and what goes with it.
#[derive(Debug)]
pub(crate) struct Append {
    pub(super) log: LogWriter,
    /// Last sequence number given out.
    pub(super) last: u64,
    /// Ready for when the active segment is full.
    spare: Option<PreparedSegment>,
    /// The log lane was asked for a spare since the active segment was started.
    spare_asked: bool,
    /// The log lane is at it.
    spare_coming: bool,
    /// Bytes that memtables have grown by, about, since somebody looked at their sum.
    grown_bytes: usize,
    written: Written,
    pub(super) recent: Recent,
    /// Every segment that recovery would read, oldest first; the last one is active.
    segments: VecDeque<LogSegment>,
    /// Those before them that are kept.
    history: History,
}

/// What was written since the database was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    pub(crate) batches: u64,
    pub(crate) batch_bytes: u64,
}

impl Append {
    pub(super) fn new(log: LogWriter, segments: VecDeque<LogSegment>, history: History) -> Append {
        Append {
            last: log.end().seqno.get(),
            log,
            spare: None,
            spare_asked: false,
            spare_coming: false,
            grown_bytes: 0,
            written: Written::default(),
            recent: Recent::default(),
            segments,
            history,
        }
    }

    /// Begins `prepared` as the active segment, at `now_ms`. Returns the spare, for removal, if its
    /// number is smaller: numbers ascend along the log. Requires: everything up to `durable` is durable.
    /// After an error the log must not be written to any more.
    fn start(
        &mut self,
        prepared: PreparedSegment,
        durable: SeqNo,
        now_ms: u64,
    ) -> Result<Option<PreparedSegment>> {
        let (id, bytes) = (prepared.id(), prepared.bytes());
        let first = SeqNo::new(self.last + 1);
        let offset = self.log.active_bytes();
        self.log.start_segment(prepared, first, durable)?;
        if let Some(active) = self.segments.back_mut() {
            active.end = Some(SegmentEnd { last: SeqNo::new(self.last), offset, ms: now_ms });
        }
        self.segments.push_back(LogSegment::new(id, first, bytes));
        self.spare_asked = false;
        Ok(self.spare.take_if(|spare| spare.id() < id))
    }

    pub(crate) fn written(&self) -> Written {
        self.written
    }

    /// Bytes written to the log since the database was opened.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.log.end().position.0
    }

    pub(crate) fn last_seqno(&self) -> SeqNo {
        SeqNo::new(self.last)
    }

    /// If it is time to prepare the next segment, its length, which is at most `most`.
    fn begin_spare(&mut self, most: u64) -> Option<u64> {
        let wanted = self.spare_wanted(most).filter(|_| self.spare_asked);
        self.spare_coming = wanted.is_some();
        wanted
    }

    /// Bytes that the next segment should have, unless it is there already: twice as many as the
    /// active one, up to `most`. So a database that is written little stays small.
    pub(crate) fn spare_wanted(&self, most: u64) -> Option<u64> {
        let active = self.segments.back().map_or(0, |segment| segment.bytes);
        self.spare.is_none().then(|| (2 * active).min(most))
    }

    /// Takes a segment for later; gives it back if there is one already, or if a segment with a
    /// larger number was started while this one was prepared: numbers ascend along the log.
    pub(crate) fn offer_spare(&mut self, segment: PreparedSegment) -> Option<PreparedSegment> {
        let active = self.segments.back().map(|active| active.id);
        if self.spare.is_some() || active > Some(segment.id()) {
            return Some(segment);
        }
        self.spare = Some(segment);
        None
    }

    /// Takes the segment that was ready for later. The log lane may be asked for another.
    pub(crate) fn take_spare(&mut self) -> Option<PreparedSegment> {
        self.spare_asked = false;
        self.spare.take()
    }

    /// Bytes of the segment that is ready for later.
    pub(crate) fn spare_bytes(&self) -> u64 {
        self.spare.as_ref().map_or(0, PreparedSegment::bytes)
    }

    pub(crate) fn segments(&self) -> &VecDeque<LogSegment> {
        &self.segments
    }

    pub(crate) fn wal_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The segments that are kept.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    pub(crate) fn history_mut(&mut self) -> &mut History {
        &mut self.history
    }

    /// The segment that holds `next`, or is to; `None` if the log ends before.
    ///
    /// # Errors
    /// The number before the first that is there, if the log begins behind `next` or skips it.
    pub(crate) fn find(&self, next: SeqNo) -> Result<Option<LogSegment>, SeqNo> {
        let is_before = |segment: &LogSegment| segment.last().is_some_and(|last| last < next);
        let kept = self.history.kept();
        let (old, live) =
            (kept.partition_point(is_before), self.segments.partition_point(is_before));
        let at = old + if old == kept.len() { live } else { 0 };
        let segment = |at: usize| kept.get(at).or_else(|| self.segments.get(at - kept.len()));
        let Some(found) = segment(at) else { return Ok(None) };
        let before = at.checked_sub(1).and_then(segment).and_then(LogSegment::last);
        if found.first <= next || before.is_some_and(|last| last.plus(1) == next) {
            Ok(Some(found.clone()))
        } else {
            Err(SeqNo::new(found.first.get() - 1))
        }
    }

    /// Is the active segment so full that the next one should be on its way? A quarter: it is
    /// written at the speed of memory, and the next one prepared at that of the disk.
    fn is_filling(&self) -> bool {
        let capacity = self.segments.back().map_or(0, |segment| segment.bytes);
        4 * self.log.active_bytes() >= capacity
    }

    /// Forgets the segments before `floor`, and returns them.
    pub(crate) fn cut(&mut self, floor: FileId) -> Vec<LogSegment> {
        let mut gone = Vec::new();
        while self.segments.len() > 1
            && self.segments.front().is_some_and(|segment| segment.id < floor)
        {
            gone.extend(self.segments.pop_front());
        }
        gone
    }
}

impl Core {
    /// Step 2. Sequence numbers, and the views whose active memtables take the batch; `None`, and
    /// nothing is done, if `may_follow` says no to what is in the log.
    #[inline]
    pub(super) fn append(
        &self,
        batch: &mut Batch,
        keyspaces: &[Arc<KeyspaceState>],
        sync_follows: bool,
        may_follow: impl FnOnce(&mut Append) -> Result<bool>,
    ) -> Result<Option<Appended>> {
        let mut append = self.commit.append.lock();
        loop {
            // Under the lock: what failed before us must not be followed by our record (C3).
            self.health.check_writable()?;
            for state in keyspaces {
                state.check_exists()?;
            }
            if append.log.room_for(batch.bytes().len()) {
                break;
            }
            if append.spare_coming && append.spare.is_none() {
                // To make another one takes longer, and the disk is busy with the first.
                self.commit.spare_ended.wait(&mut append);
                continue;
            }
            self.start_segment(&mut append, batch.bytes().len())?;
        }
        if must_fold(batch, keyspaces) {
            // Since a moment ago: from then on the log has no operands of it (M1).
            return Err(Error::Conflict);
        }
        if !may_follow(&mut append)? {
            return Ok(None);
        }
        let mut sealed = false;
        let share = if batch.has_ranges() { OLDER_SHARE } else { 1 };
        let room = self.config.memtable_bytes / share;
        let (head, rest) = views(keyspaces, |state| {
            let view = state.view();
            if view.active.bytes() < room || !state.seal(append.last_seqno()) {
                return view;
            }
            sealed = true;
            state.view()
        });
        let first = append.last + 1;
        let pushed = append.log.push(SeqNo::new(first), self.synced(), batch, sync_follows);
        if let Err(error) = pushed {
            // Under the lock, as above.
            return Err(self.fail(error));
        }
        append.last += batch.len();
        let last = append.last;
        if append.recent.is_watched() {
            append.recent.note(batch, last);
        }
        for state in keyspaces {
            state.note_append(SeqNo::new(first));
        }
        append.written.batches += 1;
        append.written.batch_bytes += batch.bytes().len() as u64;
        let ask_for_spare = !append.spare_asked && append.is_filling();
        append.spare_asked |= ask_for_spare;
        append.grown_bytes += batch.bytes().len() + batch.len() as usize * ENTRY_BYTES;
        let look = append.grown_bytes >= self.memtables_limit() / LOOKS_PER_LIMIT;
        if look {
            append.grown_bytes = 0;
        }
        drop(append);
        if ask_for_spare {
            self.jobs.notify_log();
        }
        if sealed {
            self.jobs.notify_flush();
        }
        if look {
            self.look_at_memory();
        }
        Ok(Some(Appended { first, last, head, rest }))
    }

    /// Begins a new log segment with room for a record of `payload` bytes (C4). Usually one is
    /// ready; otherwise this writer makes it.
    fn start_segment(&self, append: &mut Append, payload: usize) -> Result<()> {
        let wanted = append.spare_wanted(self.segment_bytes_max());
        let bytes = segment_bytes_for(payload, wanted.unwrap_or(0));
        let prepared = match append.spare.take_if(|spare| spare.bytes() >= bytes) {
            Some(spare) => spare,
            None => self.prepare_segment(bytes)?,
        };
        self.start(append, prepared)?;
        self.bound_log(append);
        Ok(())
    }

    /// Goes on in `prepared`, whose number is greater than that of any segment in the log.
    pub(crate) fn start(&self, append: &mut Append, prepared: PreparedSegment) -> Result<()> {
        let outrun = append.start(prepared, self.synced(), self.clock.wall_ms());
        if let Some(outrun) = outrun.map_err(|error| self.fail(error))? {
            self.remove_segment(outrun.id());
        }
        Ok(())
    }

    /// Seals the memtables that hold up the oldest segment once the log is too long: so a keyspace
    /// that is written rarely cannot keep the whole log. Those that are sealed already are on their
    /// way, and to seal more behind them would make many small files.
    fn bound_log(&self, append: &Append) {
        if append.wal_bytes() <= self.config.wal_bytes {
            return;
        }
        let Some(oldest) = append.segments.front().and_then(LogSegment::last) else { return };
        for state in self.keyspaces.all() {
            if state.first_active().is_some_and(|first| first <= oldest) {
                state.seal(append.last_seqno());
            }
        }
        self.jobs.notify_flush();
    }
}

/// Sequence numbers of a batch in the log, and where it is to be applied.
pub(super) struct Appended {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) head: Guard<Arc<ReadView>>,
    pub(super) rest: Vec<Guard<Arc<ReadView>>>,
}

fn views(
    keyspaces: &[Arc<KeyspaceState>],
    mut view: impl FnMut(&KeyspaceState) -> Guard<Arc<ReadView>>,
) -> (Guard<Arc<ReadView>>, Vec<Guard<Arc<ReadView>>>) {
    // A batch that is not empty names at least one keyspace.
    let head = view(&keyspaces[0]);
    let rest = match &keyspaces[1..] {
        [] => Vec::new(),
        others => others.iter().map(|state| view(state)).collect(),
    };
    (head, rest)
}

/// The work of the log lane on a spare segment, which writers may wait for.
pub(crate) struct SpareWork<'a>(&'a CommitState);

impl CommitState {
    /// Begins to make a spare segment of at most `most` bytes, if it is time; how long it has to be.
    pub(crate) fn begin_spare(&self, most: u64) -> Option<(u64, SpareWork<'_>)> {
        let bytes = self.append.lock().begin_spare(most)?;
        Some((bytes, SpareWork(self)))
    }
}

impl Drop for SpareWork<'_> {
    fn drop(&mut self) {
        self.0.append.lock().spare_coming = false;
        self.0.spare_ended.notify_all();
    }
}
