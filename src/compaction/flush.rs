//! Writes sealed memtables as files of level 0.

use std::sync::Arc;

use crate::base::error::Result;
use crate::base::internal_iter::InternalIter as _;
use crate::compaction::job::Beneath;
use crate::compaction::job::JobContext;
use crate::compaction::job::write_survivors;
use crate::iter::Merging;
use crate::manifest::SstMeta;
use crate::memtable::Memtable;
use crate::version::Version;
use crate::version::source::Source;

/// Merges `memtables` into one new file, durable on return; into none if nothing survives.
///
/// Requires: `memtables` are the oldest of the keyspace, everything in them is visible, and
/// `version` is the keyspace's current one. Tombstones with nothing beneath are dropped; sequence
/// numbers are kept, since level 0 is ordered by them. The context's files are unbounded in size: two
/// files of one flush would interleave in sequence numbers.
pub(crate) fn run(
    memtables: &[Arc<Memtable>],
    version: &Version,
    context: &JobContext<'_>,
) -> Result<Vec<SstMeta>> {
    let sources = memtables.iter().map(|memtable| Source::Memtable(memtable.iter())).collect();
    let mut merged = Merging::new(sources);
    merged.seek_to_first()?;
    write_survivors(merged, None, Beneath::new(version, 0), false, context)
}
