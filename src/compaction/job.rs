//! Runs a plan: merges its inputs, keeps the survivors, writes the files, returns the edit.
//!
//! A large plan is split into disjoint key ranges that run side by side ([`split`]); each writes
//! files of its own, and one edit installs them all.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::internal_iter::InternalIter as _;
use crate::base::key::KeyRef;
use crate::base::range_tombstone::Fragments;
use crate::base::seqno::SeqNo;
use crate::base::sorted::sort_by;
use crate::base::sync::atomic::AtomicBool;
use crate::compaction::apart::Apart;
use crate::compaction::apart::ApartSpec;
use crate::compaction::beneath::Beneath;
use crate::compaction::output::HotBlocks;
use crate::compaction::output::Output;
use crate::compaction::output::OutputContext;
use crate::compaction::output::OutputSpec;
use crate::compaction::output::remove_debris;
use crate::compaction::pace::Pace;
use crate::compaction::plan::Plan;
use crate::compaction::ranges;
use crate::compaction::stream::Rules;
use crate::compaction::stream::Survivors;
use crate::fs::names::blob_path;
use crate::fs::names::sst_path;
use crate::iter::Concat;
use crate::iter::Fold;
use crate::iter::Merging;
use crate::manifest::BlobMeta;
use crate::manifest::KeyspaceEdit;
use crate::manifest::SstMeta;
use crate::version::source::Run;
use crate::version::source::Source;
use crate::version::sst_file::SstFile;

/// Entries between two looks at the cancel flag and the pace.
const LOOK_INTERVAL: u32 = 1024;

/// User keys from `from` (inclusive) to `to` (exclusive); `None` is unbounded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) from: Option<Vec<u8>>,
    pub(crate) to: Option<Vec<u8>>,
}

/// What a job needs besides its plan.
#[derive(Clone, Debug)]
pub(crate) struct JobContext<'a> {
    pub(crate) output: &'a OutputContext,
    pub(crate) spec: OutputSpec,
    pub(crate) apart: ApartSpec,
    /// Live snapshots, ascending.
    pub(crate) snapshots: Vec<SeqNo>,
    /// Of the keyspace, if it has a merge operator.
    pub(crate) fold: Option<Arc<Fold>>,
    /// What expires then or before has expired for every reader.
    pub(crate) expired_ms: u64,
    /// May sequence numbers be replaced by 0 where order does not need them (R3)?
    pub(crate) zero_seqnos: bool,
    /// Set when the database closes.
    pub(crate) cancel: &'a AtomicBool,
    /// Of a job that only serves readers; others run as fast as they can.
    pub(crate) pace: Option<Pace<'a>>,
}

/// The files that a job, or a part of one, has written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    pub(crate) ssts: Vec<SstMeta>,
    pub(crate) blobs: Vec<BlobMeta>,
    pub(crate) hot: Vec<HotBlocks>,
}

impl Written {
    /// Bytes of all of them.
    pub(crate) fn bytes(&self) -> u64 {
        let ssts: u64 = self.ssts.iter().map(|meta| meta.bytes).sum();
        ssts + self.blobs.iter().map(|meta| meta.bytes).sum::<u64>()
    }

    /// These, and `others`.
    pub(crate) fn add(&mut self, others: Written) {
        self.ssts.extend(others.ssts);
        self.blobs.extend(others.blobs);
        self.hot.extend(others.hot);
    }
}

/// Cuts the plan into at most `parts` ranges of about equal input, at borders of input files.
pub(crate) fn split(plan: &Plan, parts: usize) -> Vec<KeyRange> {
    let mut borders: Vec<(&[u8], u64)> =
        plan.inputs().map(|file| (file.meta.smallest.user.as_slice(), file.meta.bytes)).collect();
    sort_by(&mut borders, Ord::cmp);
    let share = plan.input_bytes() / parts.max(1) as u64 + 1;
    let mut ranges = vec![KeyRange::default()];
    let mut bytes = 0;
    for (index, (smallest, file_bytes)) in borders.iter().enumerate() {
        let is_border = index > 0 && borders[index - 1].0 < *smallest;
        if is_border && bytes >= share && ranges.len() < parts {
            bytes = 0;
            if let Some(range) = ranges.last_mut() {
                range.to = Some(smallest.to_vec());
            }
            ranges.push(KeyRange { from: Some(smallest.to_vec()), to: None });
        }
        bytes += file_bytes;
    }
    ranges
}

/// Merges the part of the plan's inputs that lies in `range` into new files, durable on return.
pub(crate) fn run_range(
    plan: &Plan,
    range: &KeyRange,
    context: &JobContext<'_>,
) -> Result<Written> {
    let mut sources = Vec::new();
    if plan.upper_level == 0 {
        for file in &plan.upper {
            sources.push(Source::Sst(file.scan()?));
        }
    } else {
        sources.push(run_source(&plan.upper));
    }
    if !plan.lower.is_empty() {
        sources.push(run_source(&plan.lower));
    }
    let mut merged = Merging::new(sources);
    match &range.from {
        Some(from) => merged.seek(KeyRef::before_all(from))?,
        None => merged.seek_to_first()?,
    }
    let mut lists = Vec::new();
    for file in plan.inputs().filter(|file| file.meta.ranges.is_some()) {
        lists.push(file.reader()?.ranges());
    }
    let from = range.from.as_deref().unwrap_or_default();
    let inputs = Inputs {
        merged,
        ranges: Fragments::union_for(lists.into_iter(), &context.snapshots)
            .clip(from, range.to.as_deref()),
        to: range.to.as_deref(),
        beneath: &plan.beneath,
    };
    write_survivors(inputs, true, context)
}

fn run_source(files: &[Arc<SstFile>]) -> Source {
    Source::Run(Concat::new(Run::of_files(files)))
}

/// What a job merges.
pub(crate) struct Inputs<'a> {
    /// Stands on the first entry.
    pub(crate) merged: Merging<Source>,
    /// Clipped to where the job begins and ends, and of each stripe over a key only the newest (R7).
    pub(crate) ranges: Fragments,
    /// Where the job ends.
    pub(crate) to: Option<&'a [u8]>,
    pub(crate) beneath: &'a Beneath,
}

/// Writes what survives of `inputs`.
pub(crate) fn write_survivors(
    inputs: Inputs<'_>,
    zero_seqnos: bool,
    context: &JobContext<'_>,
) -> Result<Written> {
    let Inputs { merged, ranges, to, beneath } = inputs;
    let kept = ranges::kept(&ranges, &context.snapshots, beneath);
    let (keyspace, compression) = (context.spec.keyspace, context.spec.sst.compression);
    let mut apart = Apart::new(context.output, keyspace, compression, &context.apart);
    let mut output = Output::new(context.output, context.spec.clone(), kept);
    let mut beneath = beneath.walk();
    let is_bottom = |user: &[u8]| beneath.is_free_of(user);
    let rules = Rules {
        snapshots: context.snapshots.clone(),
        zero_seqnos: zero_seqnos && context.zero_seqnos,
        fold: context.fold.clone(),
        expired_ms: context.expired_ms,
        ranges: Arc::new(ranges),
    };
    let mut survivors = Survivors::new(merged, is_bottom, rules, &context.apart.blobs)?;
    let mut until_look = LOOK_INTERVAL;
    let mut pace = context.pace.map(|pace| (pace, pace.begin()));
    while survivors.valid() {
        let (key, value) = survivors.entry();
        if to.is_some_and(|to| key.user >= to) {
            break;
        }
        let (trailer, value) = apart.place(key, value)?;
        output.add(KeyRef::new(key.user, trailer), value, survivors.is_hot())?;
        survivors.next()?;
        until_look -= 1;
        if until_look == 0 {
            until_look = LOOK_INTERVAL;
            if context.cancel.load(Relaxed) {
                return Err(Error::Closed);
            }
            if let Some((pace, since)) = &mut pace {
                *since = pace.rest(*since);
            }
        }
    }
    // Before what refers to them.
    apart.finish()?;
    let (ssts, hot) = output.finish()?;
    Ok(Written { ssts, blobs: apart.keep(), hot })
}

/// The edit that replaces the plan's inputs by `added`.
pub(crate) fn edit(plan: &Plan, context: &JobContext<'_>, added: Written) -> KeyspaceEdit {
    let mut edit = KeyspaceEdit::new(context.spec.keyspace);
    let output_level = plan.output_level as u8;
    edit.added = added.ssts.into_iter().map(|meta| (output_level, meta)).collect();
    edit.added_blobs = added.blobs;
    edit.removed = plan.upper.iter().map(|file| (plan.upper_level as u8, file.meta.id)).collect();
    edit.removed.extend(plan.lower.iter().map(|file| (output_level, file.meta.id)));
    edit
}

/// The edit of a trivial move: the same files, one level down.
pub(crate) fn move_edit(plan: &Plan, context: &JobContext<'_>) -> KeyspaceEdit {
    let ssts = plan.upper.iter().map(|file| SstMeta::clone(&file.meta)).collect();
    edit(plan, context, Written { ssts, ..Written::default() })
}

/// Removes the files of ranges that finished when another range of the same job failed.
pub(crate) fn discard(context: &JobContext<'_>, files: &Written) {
    let dir = &context.output.dir;
    let ssts = files.ssts.iter().map(|meta| sst_path(dir, meta.id));
    let blobs = files.blobs.iter().map(|meta| blob_path(dir, meta.id));
    ssts.chain(blobs).for_each(|path| remove_debris(context.output, &path));
}
