//! The log's way into the memtables, and from there into files where it is too long for memory.

use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use crate::base::batch::Op;
use crate::base::batch::Ops;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::KeyspaceId;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::options::cores;
use crate::base::planted::Planted;
use crate::base::seqno::SeqNo;
use crate::base::sorted::SortedMap;
use crate::base::value::ValueKind;
use crate::base::value::expiry_of;
use crate::engine::Core;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::recovery::Keyspaces;
use crate::engine::recovery::Site;
use crate::engine::recovery::log_source;
use crate::engine::recovery::stated::Catalog;
use crate::engine::workers::run_side_by_side;
use crate::fs::names::manifest_path;
use crate::memtable::Insert;
use crate::memtable::Memtable;
use crate::wal;
use crate::wal::LogRecord;
use crate::wal::RecoveredLog;

/// A segment is replayed by as many threads as there are cores, but not in parts of fewer bytes.
const PART_BYTES_MIN: usize = 128 << 10;

/// So many entries are sorted at a time, in all parts together: some tens of megabytes.
const SORTED_MAX: usize = 1 << 19;

/// What becomes of the log's batches.
pub(super) enum Replay<'a> {
    /// They are only looked at.
    Check,
    /// They go into the memtables.
    Apply(&'a Keyspaces),
    /// They go into the memtables, while those of the segment before are flushed.
    Flush(&'a Core, &'a Keyspaces),
}

/// A part of a segment's replay, done beside the others.
enum Part<'a> {
    Flush(&'a Core),
    /// Which of how many parts, and its records.
    Records(usize, usize, &'a [LogRecord<&'a [u8]>]),
}

/// What goes to a keyspace, if that still exists.
struct Target<'a, 'r> {
    state: &'a KeyspaceState,
    memtable: Arc<Memtable>,
    flushed: SeqNo,
    entries: Vec<Insert<'r>>,
}

/// Phase 3. `after` is called behind each segment with its last sequence number.
pub(super) fn replay(
    site: &Site<'_>,
    catalog: &Catalog,
    target: &Replay<'_>,
    after: &dyn Fn(SeqNo) -> Result<()>,
) -> Result<RecoveredLog> {
    let source = log_source(site, catalog);
    let threads = cores();
    let mut log = wal::recover(&source, site.listing, &mut |records| {
        let mut parts = Vec::new();
        if let Replay::Flush(core, keyspaces) = target {
            if core.fit_beside_each_other(keyspaces, records) {
                parts.push(Part::Flush(core));
            } else {
                core.flush_sealed()?;
            }
        }
        let bytes: usize = records.iter().map(|record| record.payload.len()).sum();
        let part = records.len().div_ceil((bytes / PART_BYTES_MIN).clamp(1, threads)).max(1);
        let count = records.len().div_ceil(part);
        let chunks = records.chunks(part).enumerate();
        parts.extend(chunks.map(|(n, records)| Part::Records(n, count, records)));
        let run = |part: &Part<'_>| match (part, target) {
            (Part::Flush(core), _) => core.flush_sealed(),
            (Part::Records(.., records), Replay::Check) => check_records(site, catalog, records),
            (Part::Records(n, of, records), Replay::Apply(to) | Replay::Flush(_, to)) => {
                apply_records(site, catalog, records, to, (*n, *of))
            }
        };
        run_side_by_side(&parts, run).into_iter().collect::<Result<()>>()?;
        if let (Replay::Apply(to) | Replay::Flush(_, to), Some(first)) = (target, records.first()) {
            note_records(to, first.seqno);
        }
        match records.last() {
            Some(last) => after(last.last_seqno()),
            None => Ok(()),
        }
    })?;
    if Planted::SeqNoReused.is_on() {
        log.last_seqno = SeqNo::new(log.last_seqno.get().saturating_sub(1));
    }
    Ok(log)
}

fn check_records(site: &Site<'_>, catalog: &Catalog, records: &[LogRecord<&[u8]>]) -> Result<()> {
    for op in records.iter().flat_map(|record| Ops::new(record.payload)) {
        check_keyspace(site, catalog, op.map_err(|bad| Error::internal(bad.0))?.keyspace)?;
    }
    Ok(())
}

/// A log that names a keyspace which the manifest does not know is newer than the manifest.
fn check_keyspace(site: &Site<'_>, catalog: &Catalog, id: KeyspaceId) -> Result<()> {
    if id.0 < catalog.next_keyspace {
        return Ok(());
    }
    let path = manifest_path(site.dir, catalog.manifest);
    let what = format!("it does not know keyspace {}, which the log writes to", id.0);
    Err(Error::corruption(&path, 0, what))
}

/// Applies the n-th of so many parts.
fn apply_records(
    site: &Site<'_>,
    catalog: &Catalog,
    records: &[LogRecord<&[u8]>],
    keyspaces: &Keyspaces,
    (n, parts): (usize, usize),
) -> Result<()> {
    let mut targets = SortedMap::new();
    let mut waiting = 0;
    for record in records {
        let mut ops = usize::MAX;
        if Planted::HalfBatch.is_on() {
            ops = Ops::new(record.payload).count().div_ceil(2);
        }
        for (seqno, op) in (record.seqno.get()..).zip(Ops::new(record.payload)).take(ops) {
            let op = op.map_err(|bad| Error::internal(bad.0))?;
            let target = targets.get_or_insert_with(op.keyspace, || {
                keyspaces.get(&op.keyspace).map(|state| Target::of(state))
            });
            let Some(target) = target else {
                check_keyspace(site, catalog, op.keyspace)?;
                continue; // It was dropped.
            };
            target.add(&op, SeqNo::new(seqno));
            waiting += 1;
        }
        if waiting >= SORTED_MAX / parts {
            targets.values_mut().flatten().for_each(|target| target.apply(n, parts));
            waiting = 0;
        }
    }
    targets.values_mut().flatten().for_each(|target| target.apply(n, parts));
    Ok(())
}

impl<'a, 'r> Target<'a, 'r> {
    fn of(state: &'a KeyspaceState) -> Target<'a, 'r> {
        let memtable = state.view_full().active.clone();
        Target { state, memtable, flushed: state.flushed(), entries: Vec::new() }
    }

    fn add(&mut self, op: &Op<'r>, seqno: SeqNo) {
        let is_forgotten = op.kind == ValueKind::Merge && Planted::OperandForgotten.is_on();
        if seqno <= self.flushed || is_forgotten {
            return;
        }
        if op.kind == ValueKind::Expiring {
            let _ = self.state.claim_expiry();
            self.state.note_expiry(expiry_of(op.value));
        }
        let key = KeyRef::new(op.key, Trailer::new(seqno, op.kind));
        self.entries.push(Insert::new(key, op.value));
    }

    fn apply(&mut self, n: usize, parts: usize) {
        self.memtable.insert_sorted(&mut self.entries, n, parts);
    }
}

/// The log is needed from `first` on for every memtable that is not empty.
fn note_records(keyspaces: &Keyspaces, first: SeqNo) {
    for state in keyspaces.values() {
        if !state.view().active.is_empty() {
            state.note_append(first);
        }
    }
}

impl Core {
    /// Phase 5. While a segment goes into memtables, those of the one before are flushed.
    pub(super) fn replay_in_parts(
        &self,
        site: &Site<'_>,
        catalog: &Catalog,
        log: &RecoveredLog,
    ) -> Result<()> {
        let states = self.keyspaces.all();
        let keyspaces: Keyspaces = states.into_iter().map(|state| (state.id, state)).collect();
        let first = log.segments.first().map_or(SeqNo::ZERO, |segment| segment.first_seqno);
        self.replay_from.store(first.get(), Release);
        replay(site, catalog, &Replay::Flush(self, &keyspaces), &|last| {
            for state in keyspaces.values() {
                state.seal(last);
            }
            // What is sealed holds up the log by itself.
            self.replay_from.store(last.get() + 1, Release);
            Ok(())
        })?;
        self.flush_sealed()?;
        self.replay_from.store(u64::MAX, Release);
        Ok(())
    }

    fn flush_sealed(&self) -> Result<()> {
        while self.flush_next()? {}
        Ok(())
    }

    /// Is there memory for what waits for its flush, and for `records`? The block cache is empty
    /// yet, so that they may have its share.
    fn fit_beside_each_other(&self, keyspaces: &Keyspaces, records: &[LogRecord<&[u8]>]) -> bool {
        let waiting: usize = keyspaces.values().map(|state| state.memtable_bytes().1).sum();
        let coming: usize = records.iter().map(|record| 2 * record.payload.len()).sum();
        waiting.saturating_add(coming) <= self.config.memory_budget
    }
}
