//! Writes sealed memtables as files of level 0.

use std::sync::Arc;

use crate::base::error::Result;
use crate::base::internal_iter::InternalIter as _;
use crate::base::range_tombstone::Fragments;
use crate::compaction::beneath::Beneath;
use crate::compaction::job::Inputs;
use crate::compaction::job::JobContext;
use crate::compaction::job::Written;
use crate::compaction::job::write_survivors;
use crate::iter::Merging;
use crate::memtable::Memtable;
use crate::version::Version;
use crate::version::source::Source;

/// How long the file of [`run`] will become, about: the entries of `version` tell how much one
/// takes on disk.
pub(crate) fn expected_bytes(memtables: &[Arc<Memtable>], version: &Version) -> u64 {
    let in_memory: u64 = memtables.iter().map(|memtable| memtable.bytes() as u64).sum();
    let added: u64 = memtables.iter().map(|memtable| memtable.len() as u64).sum();
    let entries: u64 = version.files().map(|file| file.meta.entries).sum();
    let bytes: u64 = version.files().map(|file| file.meta.bytes).sum();
    let expected = u128::from(bytes) * u128::from(added) / u128::from(entries.max(1));
    if entries == 0 { in_memory } else { in_memory.min(expected as u64) }
}

/// How many bytes of blob files [`run`] will write at most, about: as many as values were left of
/// what was written before, if all that is in memory is large.
pub(crate) fn expected_blob_bytes(memtables: &[Arc<Memtable>], version: &Version) -> u64 {
    let in_memory: u64 = memtables.iter().map(|memtable| memtable.bytes() as u64).sum();
    let stored: u64 = version.blobs.files().map(|file| file.record_bytes()).sum();
    let raw: u64 = version.blobs.files().map(|file| file.meta.raw_bytes).sum();
    let expected = u128::from(in_memory) * u128::from(stored) / u128::from(raw.max(1));
    if raw == 0 { in_memory } else { in_memory.min(expected as u64) }
}

/// Merges `memtables` into one new file, durable on return; into none if nothing survives.
///
/// Requires: `memtables` are the oldest of the keyspace, everything in them is visible, and
/// `beneath` is what the keyspace's version has. Tombstones with nothing beneath are dropped; sequence
/// numbers are kept, since level 0 is ordered by them. The context's files are unbounded in size: two
/// files of one flush would interleave in sequence numbers.
pub(crate) fn run(
    memtables: &[Arc<Memtable>],
    beneath: &Beneath,
    context: &JobContext<'_>,
) -> Result<Written> {
    let sources = memtables.iter().map(|memtable| Source::Memtable(memtable.iter())).collect();
    let mut merged = Merging::new(sources);
    merged.seek_to_first()?;
    let snapshots = &context.snapshots;
    let lists: Vec<_> = memtables.iter().map(|memtable| memtable.ranges_for(snapshots)).collect();
    let ranges = Fragments::union_for(lists.iter(), snapshots);
    let inputs = Inputs { merged, ranges, to: None, beneath };
    write_survivors(inputs, false, context)
}
