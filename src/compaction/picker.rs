//! Which compaction to run next: pure, from a version and the settings.
//!
//! Leveled, with dynamic level sizes: the deepest level is as large as it is, and each level above
//! aims at a tenth of the one below, up to the first that fits `base_bytes`. Level 0 is compacted
//! straight into that *base level*, and the levels between stay empty; so nine tenths of the data
//! lie on the deepest level, whatever the size of the database. (RocksDB's
//! `level_compaction_dynamic_level_bytes`.)
//!
//! Level 0 goes down as a whole, and all that it is merged with is written once more. So where readers
//! have few other runs to look into, small files count for little, and it waits for more of them if it
//! has less than what it is merged with.
//!
//! From a level that is too large the file goes down whose overlap beneath is smallest for its
//! size, which writes least. Where the disk is full the cheapest of the compactions that are due goes
//! first, rather than the most urgent.
//!
//! Values are moved out of blob files before all else once these are mostly garbage; but that may take
//! minutes, so where level 0 slows writers down it goes first.

use std::collections::HashSet;
use std::sync::Arc;

use crate::base::ids::FileId;
use crate::base::seqno::SeqNo;
use crate::base::sorted::sort_by;
use crate::compaction::plan::Plan;
use crate::compaction::plan::Reason;
use crate::compaction::plan::hull;
use crate::compaction::ranges;
use crate::version::LEVELS;
use crate::version::Level;
use crate::version::Version;
use crate::version::sst_file::SstFile;

/// Each level aims at this many times the size of the one above.
const FANOUT: u64 = 10;
/// So many tombstones are worth a compaction of their own, if each drops an entry.
const DENSE_MIN: u64 = 64;
/// Level 0 is compacted from this many files on, unless it may wait. It may in a tree that has one
/// level besides: what goes down together is merged once, and reads lose little by a few more runs.
/// In larger trees they would: scans of what is not in memory read the disk for each run.
const L0_TRIGGER: usize = 4;
/// From this many on it does not wait although it has less than what it is merged with.
pub(crate) const L0_TRIGGER_MOST: usize = 6;
/// A flush that did not wait for a full memtable leaves a small file, which is no reason to write all
/// that lies beneath once more. So where it may wait files count by what they have, until there are so
/// many more.
const L0_SMALL_MOST: usize = 2;
/// A flush seldom writes more memtables than this.
const MEMTABLES_PER_FLUSH: u64 = 4;
/// Files of level 0 from which writers are slowed down.
pub(crate) const L0_SLOW: usize = 12;

/// What the picker needs to know besides the version.
#[derive(Clone)]
pub(crate) struct PickContext<'a> {
    /// Size up to which a level may be the base level.
    pub(crate) base_bytes: u64,
    /// Files that running compactions read.
    pub(crate) busy: &'a HashSet<FileId>,
    /// Tombstones written before this time (wall clock) should reach the bottom.
    pub(crate) expire_before_ms: u64,
    /// The last compaction found the disk full: a smaller one may fit.
    pub(crate) is_space_scarce: bool,
    /// Lists the live snapshots, ascending. What is decided by them must be asked for after the version
    /// was loaded: one that is taken later sees all that the version hides, hidden.
    pub(crate) snapshots: &'a dyn Fn() -> Vec<SeqNo>,
    /// What expires then or before has expired for every reader.
    pub(crate) expired_ms: u64,
    /// How long what is deleted or has expired may stay.
    pub(crate) tombstone_age_ms: u64,
}

/// Target sizes of the levels of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Targets {
    /// Where level 0 is compacted to.
    pub(crate) base_level: usize,
    /// Target in bytes by level; meaningless above the base level.
    pub(crate) bytes: [u64; LEVELS],
}

/// Derives the targets from the deepest level's size.
pub(crate) fn targets(version: &Version, base_bytes: u64) -> Targets {
    let sizes: Vec<u64> = version.levels().iter().map(|level| level.bytes()).collect();
    let largest = sizes[1..].iter().copied().max().unwrap_or(0);
    let first_used = (1..LEVELS).find(|level| sizes[*level] > 0).unwrap_or(LEVELS - 1);
    let mut base_level = LEVELS - 1;
    let mut base_target = largest;
    while base_level > 1 && (base_target > base_bytes || base_level > first_used) {
        base_level -= 1;
        base_target /= FANOUT;
    }
    // A target near zero would push every byte through a level that holds next to nothing.
    base_target = base_target.clamp(base_bytes / FANOUT + 1, base_bytes.max(1));
    let mut bytes = [u64::MAX; LEVELS];
    let mut target = base_target;
    for slot in &mut bytes[base_level..] {
        *slot = target;
        target = target.saturating_mul(FANOUT);
    }
    Targets { base_level, bytes }
}

/// Is level 0 to be compacted, for its size and that of what it is merged with?
fn is_level0_due(version: &Version, targets: &Targets) -> bool {
    let l0 = version.level(0);
    if targets.base_level < LEVELS - 1 {
        return l0.files.len() >= L0_TRIGGER;
    }
    let full = full_files(l0);
    let is_due_from = |trigger| full >= trigger as u64 || l0.files.len() >= trigger + L0_SMALL_MOST;
    let Some((from, to)) = hull(l0.files.iter()).filter(|_| is_due_from(L0_TRIGGER)) else {
        return false;
    };
    let beneath = version.level(targets.base_level).overlapping(from, to);
    is_due_from(L0_TRIGGER_MOST) || l0.bytes() >= beneath.iter().map(|file| file.meta.bytes).sum()
}

/// How many full files a level has, rounded: each is as much of one as it has of the largest but one.
/// (The largest may be that of a flush of several memtables, beside which all others look small. But
/// not more than some: where there is only one full file it is what the others are measured by.)
fn full_files(level: &Level) -> u64 {
    let mut sizes: Vec<u64> = level.files.iter().map(|file| file.meta.bytes).collect();
    sort_by(&mut sizes, |a, b| b.cmp(a));
    let size = |n: usize| sizes.get(n).copied().unwrap_or_default();
    let full = size(1).max(size(0) / MEMTABLES_PER_FLUSH).max(1);
    let bytes: u64 = sizes.iter().map(|size| size.min(&full)).sum();
    (bytes + full / 2) / full
}

/// Bytes that must still be moved down until every level is within its target.
pub(crate) fn debt_bytes(version: &Version, base_bytes: u64) -> u64 {
    let targets = targets(version, base_bytes);
    let l0 = version.level(0);
    let is_more = l0.files.len() > L0_TRIGGER && is_level0_due(version, &targets);
    let mut debt = if is_more { l0.bytes() } else { 0 };
    let mut carried = 0;
    for level in targets.base_level..LEVELS - 1 {
        let size = version.level(level).bytes() + carried;
        carried = size.saturating_sub(targets.bytes[level]);
        debt += carried;
    }
    debt
}

/// The most urgent compaction that can run now.
pub(crate) fn pick(version: &Arc<Version>, context: &PickContext<'_>) -> Option<Plan> {
    if let Some(plan) = pick_all_expired(version, context) {
        return Some(plan);
    }
    if let Some(plan) = pick_range_deleted(version, context) {
        return Some(plan);
    }
    let targets = targets(version, context.base_bytes);
    if version.blobs.is_collection_urgent() {
        let level0 = is_level0_behind(version, context)
            .then(|| plan_level0(version, targets.base_level, context, Reason::Level0));
        let plan = level0.flatten().or_else(|| pick_by_garbage(version, &targets, context));
        if plan.is_some() {
            return plan;
        }
    }
    let mut scores: Vec<(f64, usize)> = Vec::with_capacity(LEVELS);
    if is_level0_due(version, &targets) {
        scores.push((version.level(0).files.len() as f64 / L0_TRIGGER as f64, 0));
    }
    for level in targets.base_level..LEVELS - 1 {
        let idle = version.level(level).files.iter().filter(|file| is_idle(file, context));
        let bytes: u64 = idle.map(|file| file.meta.bytes).sum();
        let target = targets.bytes[level].max(1);
        if bytes > target {
            scores.push((bytes as f64 / target as f64, level));
        }
    }
    sort_by(&mut scores, |a, b| b.0.total_cmp(&a.0));
    let mut plans = scores.into_iter().filter_map(|(_, level)| match level {
        0 => plan_level0(version, targets.base_level, context, Reason::Level0),
        _ => pick_by_overlap(version, level, level + 1, context, Reason::LevelSize),
    });
    // Where there is no room for the most urgent one there may be for another, which makes some.
    let plan =
        if context.is_space_scarce { plans.min_by_key(Plan::input_bytes) } else { plans.next() };
    plan.or_else(|| pick_by_density(version, &targets, context))
        .or_else(|| pick_by_garbage(version, &targets, context))
        .or_else(|| pick_by_tombstone_age(version, &targets, context))
        .or_else(|| pick_by_expiry(version, &targets, context))
}

/// A compaction that leaves fewer runs for reads to merge, whatever the sizes of the levels: the
/// cheapest one of those in which what goes down is at least 1/`share` of what it is merged with.
/// Its price is what it reads.
pub(crate) fn pick_for_reads(
    version: &Arc<Version>,
    context: &PickContext<'_>,
    share: u64,
) -> Option<Plan> {
    if version.files().take(2).count() < 2 {
        // Where one file lies makes no difference.
        return None;
    }
    if !version.level(0).files.is_empty() {
        let base_level = targets(version, context.base_bytes).base_level;
        let plan = plan_level0(version, base_level, context, Reason::Reads);
        return plan.filter(|plan| is_worth_it(plan, share));
    }
    let levels = version.levels().iter().enumerate().skip(1);
    let filled: Vec<usize> =
        levels.filter(|(_, level)| !level.files.is_empty()).map(|(n, _)| n).collect();
    // Levels between two filled ones are passed over.
    let pairs = filled.iter().zip(filled.iter().skip(1)).filter_map(|(upper, lower)| {
        pick_by_overlap(version, *upper, *lower, context, Reason::Reads)
    });
    let worthy = pairs.filter(|plan| is_worth_it(plan, share));
    worthy.min_by_key(Plan::input_bytes)
}

fn is_worth_it(plan: &Plan, share: u64) -> bool {
    let upper: u64 = plan.upper.iter().map(|file| file.meta.bytes).sum();
    let lower = plan.input_bytes() - upper;
    // A tombstone is small, and counts for what it drops.
    let entries: u64 = plan.lower.iter().map(|file| file.meta.entries).sum();
    let dropped = u128::from(lower) * u128::from(plan.tombstones()) / u128::from(entries.max(1));
    let weight = upper.saturating_add(dropped as u64);
    lower <= weight.saturating_mul(share)
}

/// The compaction of all of level 0 into the base level. Where space is scarce, of its oldest file
/// only, which leaves the newer ones where they belong: so a level 0 that has grown larger than what
/// is free on the disk gets smaller again, and the writers that it stopped go on. (Four of them may
/// be too much, and one that has nothing to merge with takes no space at all.)
pub(crate) fn plan_level0(
    version: &Arc<Version>,
    base_level: usize,
    context: &PickContext<'_>,
    reason: Reason,
) -> Option<Plan> {
    let newest_first = &version.level(0).files;
    let least = if context.is_space_scarce { 1 } else { newest_first.len() };
    let oldest = newest_first.len().saturating_sub(least);
    plan(version, 0, newest_first[oldest..].to_vec(), base_level, context, reason)
}

/// The compaction of `upper` into `output_level`, if none of its inputs is busy.
pub(crate) fn plan(
    version: &Arc<Version>,
    upper_level: usize,
    upper: Vec<Arc<SstFile>>,
    output_level: usize,
    context: &PickContext<'_>,
    reason: Reason,
) -> Option<Plan> {
    let (from, to) = hull(upper.iter())?;
    // The whole hull, not only what overlaps a file: an output may span the gap between two inputs.
    let lower = if upper_level == output_level {
        Vec::new()
    } else {
        version.level(output_level).overlapping(from, to).to_vec()
    };
    let idle = upper.iter().chain(&lower).all(|file| is_idle(file, context));
    idle.then(|| Plan::new(version, reason, (upper_level, upper), (output_level, lower)))
}

/// Are writers slowed down by level 0? Not where the disk is full: then what makes room goes first.
fn is_level0_behind(version: &Version, context: &PickContext<'_>) -> bool {
    version.level(0).files.len() >= L0_SLOW && !context.is_space_scarce
}

fn is_idle(file: &SstFile, context: &PickContext<'_>) -> bool {
    !context.busy.contains(&file.meta.id)
}

/// The file of `level` that is cheapest to merge into `output_level`. Requires: levels between are
/// empty.
fn pick_by_overlap(
    version: &Arc<Version>,
    level: usize,
    output_level: usize,
    context: &PickContext<'_>,
    reason: Reason,
) -> Option<Plan> {
    let below = version.level(output_level);
    let mut candidates: Vec<(f64, &Arc<SstFile>)> = Vec::new();
    for file in version.level(level).files.iter().filter(|file| is_idle(file, context)) {
        let overlap = below.overlapping(file.meta.first(), file.meta.last());
        if overlap.iter().all(|file| is_idle(file, context)) {
            let bytes: u64 = overlap.iter().map(|file| file.meta.bytes).sum();
            candidates.push((bytes as f64 / file.meta.bytes.max(1) as f64, file));
        }
    }
    let (_, file) = candidates.into_iter().min_by(|a, b| a.0.total_cmp(&b.0))?;
    plan(version, level, vec![file.clone()], output_level, context, reason)
}

/// Files of one level in which everything has expired, tombstones aside, and beneath which there is
/// nothing that has not: what they hide is as invisible as they are. So they can go unread.
fn pick_all_expired(version: &Arc<Version>, context: &PickContext<'_>) -> Option<Plan> {
    let has_expired = |file: &SstFile| {
        let (meta, expiry) = (&file.meta, &file.meta.expiry);
        expiry.entries > 0
            && meta.ranges.is_none()
            && expiry.entries + meta.tombstones == meta.entries
            && expiry.max_ms <= context.expired_ms
    };
    let hides_nothing = |level: usize, file: &SstFile| {
        let (from, to) = (file.meta.first(), file.meta.last());
        let older = version.level(0).files.iter().filter(|other| {
            level == 0
                && other.meta.max_seqno < file.meta.min_seqno
                && other.meta.overlaps(from, to)
        });
        let mut beneath = (level + 1..LEVELS).flat_map(|n| version.level(n).overlapping(from, to));
        older.clone().all(|other| has_expired(other)) && beneath.all(|other| has_expired(other))
    };
    (0..LEVELS).rev().find_map(|level| {
        let files = version.level(level).files.iter();
        let gone = files.filter(|file| {
            has_expired(file) && is_idle(file, context) && hides_nothing(level, file)
        });
        let upper: Vec<_> = gone.cloned().collect();
        removal(version, Reason::AllExpired, level, upper)
    })
}

/// The plan that removes `files` of one level unread, if there are any.
fn removal(
    version: &Arc<Version>,
    reason: Reason,
    level: usize,
    files: Vec<Arc<SstFile>>,
) -> Option<Plan> {
    (!files.is_empty()).then(|| Plan::new(version, reason, (level, files), (level, Vec::new())))
}

/// Files of one level that range tombstones hide, all of them: what lies beneath these files is older,
/// and as hidden, so they can go unread. Not while a snapshot sees something of them.
fn pick_range_deleted(version: &Arc<Version>, context: &PickContext<'_>) -> Option<Plan> {
    let ranges = version.all_ranges()?;
    let snapshots = (context.snapshots)();
    (0..LEVELS).rev().find_map(|level| {
        let files = version.level(level).files.iter();
        let dead = files
            .filter(|file| is_idle(file, context) && ranges::is_dead(file, ranges, &snapshots));
        removal(version, Reason::RangeDeleted, level, dead.cloned().collect())
    })
}

/// A file that refers to condemned blob files is rewritten where it is; level 0 goes down, since it
/// is ordered by age. While writers wait for that, the level that it goes to is left alone: or there
/// would always be a file of it that another thread is busy with.
fn pick_by_garbage(
    version: &Arc<Version>,
    targets: &Targets,
    context: &PickContext<'_>,
) -> Option<Plan> {
    let condemned = version.blobs.condemned(context.is_space_scarce);
    if condemned.is_empty() {
        return None;
    }
    let is_due = |file: &&Arc<SstFile>| {
        file.meta.blobs.iter().any(|used| condemned.contains(&used.file)) && is_idle(file, context)
    };
    let reason = Reason::Garbage;
    if version.level(0).files.iter().any(|file| is_due(&file)) {
        let plan = plan_level0(version, targets.base_level, context, reason);
        if plan.is_some() {
            return plan;
        }
    }
    let first = targets.base_level + usize::from(is_level0_behind(version, context));
    (first..LEVELS).find_map(|level| {
        let file = version.level(level).files.iter().find(is_due)?;
        plan(version, level, vec![file.clone()], level, context, reason)
    })
}

/// A file with values that have expired is compacted as one with tombstones is: once they did so
/// longer ago than deleted data may stay; or earlier, once half of the time is over in which they
/// expire, if most of its entries do: so each rewriting drops about half of what there is.
fn pick_by_expiry(
    version: &Arc<Version>,
    targets: &Targets,
    context: &PickContext<'_>,
) -> Option<Plan> {
    let now = context.expired_ms;
    let is_due = |file: &&Arc<SstFile>| {
        let expiry = &file.meta.expiry;
        let half = expiry.min_ms + (expiry.max_ms - expiry.min_ms) / 2;
        let mostly = expiry.entries >= file.meta.entries / 2;
        expiry.entries > 0
            && expiry.min_ms <= now
            && (expiry.min_ms.saturating_add(context.tombstone_age_ms) <= now
                || mostly && half <= now)
            && is_idle(file, context)
    };
    if version.level(0).files.iter().any(|file| is_due(&file)) {
        let plan = plan_level0(version, targets.base_level, context, Reason::Expired);
        if plan.is_some() {
            return plan;
        }
    }
    (targets.base_level..LEVELS).find_map(|level| {
        let due = version.level(level).files.iter().filter(is_due);
        let file = due.min_by_key(|file| file.meta.expiry.min_ms)?;
        let output = (level + 1).min(LEVELS - 1);
        plan(version, level, vec![file.clone()], output, context, Reason::Expired)
    })
}

/// Tombstones that are at least half of what goes down, and of what they go down to: to be rid of
/// them costs about what it would cost to write what they drop, and scans need not step over
/// either. What is deleted here and there stays for the picks above.
fn pick_by_density(
    version: &Arc<Version>,
    targets: &Targets,
    context: &PickContext<'_>,
) -> Option<Plan> {
    let is_dense = |plan: &Plan| {
        let entries = |files: &[Arc<SstFile>]| files.iter().map(|file| file.meta.entries).sum();
        let most: u64 = u64::max(entries(&plan.upper), entries(&plan.lower));
        plan.tombstones() >= DENSE_MIN && plan.tombstones() >= most / 2
    };
    let reason = Reason::TombstoneDensity;
    let level0 = plan_level0(version, targets.base_level, context, reason).filter(is_dense);
    level0.or_else(|| {
        (targets.base_level..LEVELS).find_map(|level| {
            let files = version.level(level).files.iter();
            let many = files.filter(|file| {
                file.meta.tombstones >= (file.meta.entries / 2).max(DENSE_MIN)
                    && is_idle(file, context)
                    && may_go_down(level, file, context)
            });
            let output = (level + 1).min(LEVELS - 1);
            let mut plans = many.filter_map(|file| {
                plan(version, level, vec![file.clone()], output, context, reason)
            });
            plans.find(is_dense)
        })
    })
}

/// Does a compaction of `file` get rid of its tombstones, or bring them down? On the deepest level only
/// if all of them are dropped, which no snapshot may need; else the same would be picked again and
/// again.
fn may_go_down(level: usize, file: &SstFile, context: &PickContext<'_>) -> bool {
    level + 1 < LEVELS
        || file.is_older_than((context.snapshots)().first().copied().unwrap_or(SeqNo::MAX))
}

/// A file whose tombstones are older than the user wants goes one level down, whatever the sizes;
/// on the deepest level it is rewritten without them. So an idle database converges to its live
/// data. (Lethe, SIGMOD 2020.) What a snapshot may still need stays on the deepest level until that
/// is gone: a rewrite would change nothing, and be due again at once.
fn pick_by_tombstone_age(
    version: &Arc<Version>,
    targets: &Targets,
    context: &PickContext<'_>,
) -> Option<Plan> {
    let expired = |file: &&Arc<SstFile>| {
        file.meta.has_tombstones()
            && file.meta.oldest_tombstone_ms < context.expire_before_ms
            && is_idle(file, context)
    };
    let reason = Reason::TombstoneAge;
    if version.level(0).files.iter().any(|file| expired(&file)) {
        let plan = plan_level0(version, targets.base_level, context, reason);
        if plan.is_some() {
            return plan;
        }
    }
    for level in targets.base_level..LEVELS {
        let file = version.level(level).files.iter().filter(expired);
        let file = file.filter(|file| may_go_down(level, file, context));
        let oldest = file.min_by_key(|file| file.meta.oldest_tombstone_ms);
        if let Some(file) = oldest {
            let output = (level + 1).min(LEVELS - 1);
            let plan = plan(version, level, vec![file.clone()], output, context, reason);
            if plan.is_some() {
                return plan;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests;
