//! Plans for random trees: what they may touch, and that they come to an end.

use std::collections::HashSet;
use std::ops::Bound;
use std::sync::Arc;

use proptest::prelude::*;

use crate::base::blob::BlobUse;
use crate::base::ids::FileId;
use crate::base::key::InternalKey;
use crate::base::key::Trailer;
use crate::base::range::is_by;
use crate::base::seqno::SeqNo;
use crate::base::value::ValueKind;
use crate::compaction::picker::L0_SLOW;
use crate::compaction::picker::L0_SMALL_MOST;
use crate::compaction::picker::L0_TRIGGER;
use crate::compaction::picker::L0_TRIGGER_MOST;
use crate::compaction::picker::PickContext;
use crate::compaction::picker::debt_bytes;
use crate::compaction::picker::full_files;
use crate::compaction::picker::pick;
use crate::compaction::picker::pick_for_reads;
use crate::compaction::picker::targets;
use crate::compaction::plan::Plan;
use crate::compaction::plan::Reason;
use crate::manifest::BlobMeta;
use crate::manifest::KeyspaceEdit;
use crate::manifest::SstMeta;
use crate::version::LEVELS;
use crate::version::Version;
use crate::version::builder;
use crate::version::invariants;
use crate::version::sst_file::SstOpener;

/// A file with keys from `from` to `to`. Its numbers stand for a time: larger is newer.
fn file(id: u64, from: u16, to: u16, bytes: u64) -> SstMeta {
    let trailer = Trailer::new(SeqNo::new(id), ValueKind::Put);
    SstMeta {
        id: FileId(id),
        bytes,
        smallest: InternalKey::new(from.to_be_bytes(), trailer),
        largest: InternalKey::new(to.to_be_bytes(), trailer),
        min_seqno: SeqNo::new(id),
        max_seqno: SeqNo::new(id),
        oldest_tombstone_ms: u64::MAX,
        ..SstMeta::default()
    }
}

fn apply(base: &Version, edit: &KeyspaceEdit) -> Arc<Version> {
    let next = builder::apply(base, edit, &SstOpener::of_nothing()).unwrap();
    assert_eq!(invariants::check(&next), Ok(()));
    Arc::new(next)
}

/// Trees whose levels from some base level on are filled, as the picker leaves them.
fn trees() -> impl Strategy<Value = Arc<Version>> {
    let l0 = prop::collection::vec((0..200_u16, 0..200_u16, 1..3000_u64), 0..10);
    // Borders of files, the size of each, and whether it has old tombstones.
    let files = prop::collection::btree_map(0..200_u16, (1..3000_u64, any::<bool>()), 0..30);
    let levels = prop::collection::vec(files, 0..4);
    (l0, levels).prop_map(|(l0, levels)| {
        let mut edit = KeyspaceEdit::default();
        let mut id = 1;
        for (depth, files) in levels.into_iter().enumerate() {
            let level = (LEVELS - 1 - depth) as u8;
            let borders: Vec<_> = files.into_iter().collect();
            for pair in borders.chunks_exact(2) {
                let mut meta = file(id, pair[0].0, pair[1].0, pair[0].1.0);
                if pair[0].1.1 {
                    // Dense beside files of its kind.
                    (meta.entries, meta.tombstones) = (150, 100);
                    meta.oldest_tombstone_ms = id;
                }
                edit.added.push((level, meta));
                id += 1;
            }
        }
        for (a, b, bytes) in l0 {
            edit.added.push((0, file(id, a.min(b), a.max(b), bytes)));
            id += 1;
        }
        apply(&Version::default(), &edit)
    })
}

fn context(busy: &HashSet<FileId>, expire_before_ms: u64) -> PickContext<'_> {
    PickContext {
        base_bytes: 4000,
        busy,
        expire_before_ms,
        is_space_scarce: false,
        snapshots: &Vec::new,
        expired_ms: 0,
        tombstone_age_ms: 1000,
    }
}

/// What every plan must satisfy.
fn check_plan(plan: &Plan, version: &Version, busy: &HashSet<FileId>) {
    assert!(!plan.upper.is_empty());
    assert!(plan.input_ids().all(|id| !busy.contains(&id)), "a busy file is planned for");
    let (from, to) = plan.hull().unwrap();
    if plan.upper_level == plan.output_level {
        assert!(plan.upper_level == LEVELS - 1 && plan.lower.is_empty());
        return;
    }
    assert!(plan.output_level > plan.upper_level);
    // No level is jumped over that holds anything in the range: newer lies above older.
    for level in plan.upper_level.max(1)..plan.output_level {
        let others = version.level(level).overlapping(from, to).iter();
        let uninvolved = others.filter(|file| plan.input_ids().all(|id| id != file.meta.id));
        assert!(level == plan.upper_level || uninvolved.count() == 0);
    }
    if plan.upper_level == 0 {
        assert_eq!(plan.upper.len(), version.level(0).files.len(), "level 0 goes as a whole");
    }
    let (from, to) = super::hull(plan.upper.iter()).unwrap();
    let lower: Vec<FileId> = plan.lower.iter().map(|file| file.meta.id).collect();
    let overlapping = version.level(plan.output_level).overlapping(from, to);
    assert_eq!(lower, overlapping.iter().map(|file| file.meta.id).collect::<Vec<_>>());
}

/// The edit of the plan, as if its inputs became files of about the same size.
fn run(plan: &Plan, next_id: &mut u64) -> KeyspaceEdit {
    let mut edit = KeyspaceEdit::default();
    let files: Vec<_> = plan.inputs().collect();
    edit.removed.extend(plan.upper.iter().map(|file| (plan.upper_level as u8, file.meta.id)));
    edit.removed.extend(plan.lower.iter().map(|file| (plan.output_level as u8, file.meta.id)));
    let (from, to) = plan.hull().unwrap();
    let number = |key: &[u8]| u16::from_be_bytes(key.try_into().unwrap());
    let Bound::Included(to) = to else { panic!("there are no range tombstones") };
    let (from, to) = (number(from), number(to));
    let pieces = (files.len() as u16).min(to - from + 1);
    let share = plan.input_bytes() / u64::from(pieces);
    for piece in 0..pieces {
        let border =
            |n: u16| from + (u32::from(to - from + 1) * u32::from(n) / u32::from(pieces)) as u16;
        let mut meta = file(*next_id, border(piece), border(piece + 1) - 1, share);
        *next_id += 1;
        let old = files.iter().map(|file| file.meta.oldest_tombstone_ms).min().unwrap();
        if plan.output_level + 1 < LEVELS && old != u64::MAX {
            (meta.entries, meta.tombstones) = (150, 100);
            meta.oldest_tombstone_ms = old;
        }
        edit.added.push((plan.output_level as u8, meta));
    }
    edit
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn targets_grow_with_the_level(version in trees(), base in 1..100_000_u64) {
        let targets = targets(&version, base);
        let first_used = (1..LEVELS).find(|level| !version.level(*level).files.is_empty());
        prop_assert!((1..=first_used.unwrap_or(LEVELS - 1)).contains(&targets.base_level));
        let used = &targets.bytes[targets.base_level..];
        prop_assert!(used.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(used[0] <= base.max(1));
    }

    #[test]
    fn plans_that_run_together_do_not_touch(version in trees(), expire in any::<bool>()) {
        let mut busy = HashSet::new();
        let mut plans: Vec<Plan> = Vec::new();
        while let Some(plan) = pick(&version, &context(&busy, if expire { 20 } else { 0 })) {
            check_plan(&plan, &version, &busy);
            let (from, to) = plan.hull().unwrap();
            for other in plans.iter().filter(|other| other.output_level == plan.output_level) {
                let (other_from, other_to) = other.hull().unwrap();
                let overlap = is_by(other_from, to) && is_by(from, other_to);
                prop_assert!(!overlap, "outputs would overlap");
            }
            busy.extend(plan.input_ids());
            plans.push(plan.clone());
        }
    }

    #[test]
    fn reads_that_pay_enough_get_one_run(tree in trees()) {
        let (mut version, mut next_id) = (tree, 1000);
        let busy = HashSet::new();
        let context = context(&busy, 0);
        let mut jobs = 0;
        while let Some(plan) = pick_for_reads(&version, &context, u64::MAX) {
            check_plan(&plan, &version, &busy);
            version = apply(&version, &run(&plan, &mut next_id));
            jobs += 1;
            prop_assert!(jobs < 1000, "the jobs never end");
        }
        let filled = version.levels().iter().filter(|level| !level.files.is_empty()).count();
        prop_assert!(filled <= 1 && version.level(0).files.len() <= 1);
    }

    #[test]
    fn compaction_comes_to_an_end(tree in trees(), expire in any::<bool>()) {
        let (mut version, mut next_id) = (tree, 1000);
        let busy = HashSet::new();
        let expire = if expire { 1000 } else { 0 };
        let mut jobs = 0;
        while let Some(plan) = pick(&version, &context(&busy, expire)) {
            check_plan(&plan, &version, &busy);
            version = apply(&version, &run(&plan, &mut next_id));
            jobs += 1;
            prop_assert!(jobs < 1000, "the jobs never end");
        }
        let (l0, base) = (version.level(0), targets(&version, 4000).base_level);
        let may_wait = base == LEVELS - 1;
        let waits = may_wait && l0.bytes() < version.level(base).bytes();
        let trigger = if waits { L0_TRIGGER_MOST } else { L0_TRIGGER };
        let largest = l0.files.iter().map(|file| file.meta.bytes).max().unwrap_or(1);
        prop_assert!(2 * l0.bytes() < (2 * trigger as u64 - 1) * largest);
        prop_assert!(full_files(l0) < trigger as u64);
        let small_most = if may_wait { L0_SMALL_MOST } else { 0 };
        prop_assert!(l0.files.len() < trigger + small_most);
        prop_assert_eq!(debt_bytes(&version, 4000), 0);
        let is_expired = |ms| ms < expire;
        prop_assert!(!version.files().any(|file| is_expired(file.meta.oldest_tombstone_ms)));
    }
}

#[test]
fn files_of_level_0_count_by_what_they_have() {
    let is_due = |beneath: u64, sizes: &[u64]| {
        let mut edit = KeyspaceEdit::default();
        edit.added.push((LEVELS as u8 - 1, file(1, 0, 9, beneath)));
        edit.added.extend(sizes.iter().zip(2..).map(|(bytes, id)| (0, file(id, 0, 9, *bytes))));
        pick(&apply(&Version::default(), &edit), &context(&HashSet::new(), 0)).is_some()
    };
    assert!(is_due(100, &[100; 4]) && !is_due(100, &[100; 3]));
    assert!(is_due(100, &[100, 100, 100, 50]) && !is_due(100, &[100, 100, 100, 49]));
    assert!(is_due(100, &[100, 100, 9, 9, 9, 9]) && !is_due(100, &[100, 100, 9, 9, 9]));
    assert!(is_due(100, &[100, 9, 9, 9, 9, 9]) && !is_due(100, &[100, 9, 9, 9, 9]));
    // What lies beneath has more than level 0.
    assert!(is_due(3000, &[100; 6]) && !is_due(3000, &[100; 5]));
    assert!(is_due(3000, &[100, 100, 100, 100, 100, 50]));
    assert!(!is_due(3000, &[100, 100, 100, 100, 100, 49]));
    let small = [100, 100, 9, 9, 9, 9, 9, 9];
    assert!(is_due(3000, &small) && !is_due(3000, &small[..7]));
    // One flush wrote what others write in three.
    assert!(is_due(100, &[300, 100, 100, 100]) && !is_due(100, &[300, 100, 100]));
    assert!(is_due(3000, &[100, 9, 9, 9, 9, 9, 9, 9]) && !is_due(3000, &[100, 9, 9, 9, 9, 9, 9]));
    // What lies beneath is large enough for a level between, in which readers look too.
    assert!(is_due(50_000, &[100, 100, 9, 9]) && !is_due(50_000, &[100, 100, 9]));
}

#[test]
fn tombstones_at_the_bottom_wait_for_the_snapshots_that_need_them() {
    let mut meta = file(7, 0, 9, 100);
    (meta.tombstones, meta.oldest_tombstone_ms) = (1, 50);
    let bottom = LEVELS - 1;
    let mut edit = KeyspaceEdit::default();
    edit.added.push((bottom as u8, meta));
    let version = apply(&Version::default(), &edit);
    let busy = HashSet::new();
    let at = |snapshot: Option<u64>, expire| {
        let snapshots: Vec<SeqNo> = snapshot.into_iter().map(SeqNo::new).collect();
        pick(&version, &PickContext { snapshots: &|| snapshots.clone(), ..context(&busy, expire) })
    };
    let plan = at(None, 51).unwrap();
    assert_eq!(
        (plan.reason, plan.upper_level, plan.output_level),
        (Reason::TombstoneAge, bottom, bottom)
    );
    assert!(at(None, 50).is_none(), "not old enough");
    assert!(at(Some(6), 51).is_none(), "the snapshot is older than the tombstone may be");
    assert!(at(Some(7), 51).is_some());
}

#[test]
fn tombstones_that_drop_half_of_what_is_rewritten_do_not_wait() {
    let bottom = LEVELS - 1;
    let tree = |tombstones, beneath| {
        let mut edit = KeyspaceEdit::default();
        let mut upper = file(2, 0, 9, 100);
        (upper.entries, upper.tombstones) = (1000, tombstones);
        let mut lower = file(1, 0, 20, 1000);
        lower.entries = beneath;
        edit.added.extend([(0, upper), (bottom as u8, lower)]);
        apply(&Version::default(), &edit)
    };
    let busy = HashSet::new();
    let pick = |version: &Arc<Version>| pick(version, &context(&busy, 0));
    let plan = pick(&tree(500, 1000)).unwrap();
    assert_eq!((plan.reason, plan.output_level), (Reason::TombstoneDensity, bottom));
    assert!(pick(&tree(499, 1000)).is_none(), "too few of what goes down");
    assert!(pick(&tree(1000, 2002)).is_none(), "too few of what is beneath");
}

#[test]
fn dense_tombstones_at_the_bottom_wait_for_the_snapshots_that_need_them() {
    let mut meta = file(7, 0, 9, 100);
    (meta.entries, meta.tombstones) = (100, 64);
    let mut edit = KeyspaceEdit::default();
    edit.added.push(((LEVELS - 1) as u8, meta));
    let version = apply(&Version::default(), &edit);
    let busy = HashSet::new();
    let at = |snapshot: Option<u64>| {
        let snapshots: Vec<SeqNo> = snapshot.into_iter().map(SeqNo::new).collect();
        pick(&version, &PickContext { snapshots: &|| snapshots.clone(), ..context(&busy, 0) })
    };
    assert_eq!(at(None).unwrap().reason, Reason::TombstoneDensity);
    assert!(at(Some(6)).is_none());
    assert!(at(Some(7)).is_some());
}

/// How many files of level 0 it takes depends on what they are merged with, where that is the only
/// level.
#[test]
fn level_0_waits_for_more_files_where_it_is_merged_with_more_than_it_has() {
    let busy = HashSet::new();
    let files_until_due = |beneath: SstMeta| {
        (1..20).find(|files| {
            let mut edit = KeyspaceEdit::default();
            edit.added.push((6, beneath.clone()));
            edit.added.extend((2..files + 2).map(|id| (0, file(id, 10, 20, 100))));
            let version = apply(&Version::default(), &edit);
            let due = pick(&version, &context(&busy, 0)).is_some();
            assert!(due || debt_bytes(&version, 4000) == 0);
            due
        })
    };
    assert_eq!(files_until_due(file(1, 0, 99, 400)), Some(4));
    assert_eq!(files_until_due(file(1, 0, 99, 401)), Some(5));
    assert_eq!(files_until_due(file(1, 0, 99, 501)), Some(6));
    assert_eq!(files_until_due(file(1, 0, 99, 4000)), Some(6));
    assert_eq!(files_until_due(file(1, 21, 99, 4000)), Some(4));
    // It goes to the level above.
    assert_eq!(files_until_due(file(1, 0, 99, 4001)), Some(4));
}

/// What was written in the order of its keys need not be written again.
#[test]
fn files_of_level_0_without_a_key_in_common_move_down_as_they_are() {
    let busy = HashSet::new();
    let plan = |fourth: SstMeta| {
        let mut edit = KeyspaceEdit::default();
        edit.added.push((6, file(1, 0, 9, 400)));
        edit.added.extend([(0, file(2, 30, 39, 100)), (0, file(3, 10, 19, 100))]);
        edit.added.extend([(0, file(4, 40, 49, 100)), (0, fourth)]);
        pick(&apply(&Version::default(), &edit), &context(&busy, 0)).unwrap()
    };
    let apart = plan(file(5, 20, 29, 100));
    assert_eq!((apart.upper.len(), apart.lower.len()), (4, 0));
    assert!(apart.is_trivial_move(800));
    // They would stay small for good.
    assert!(!apart.is_trivial_move(808));
    let touching = plan(file(5, 20, 30, 100));
    assert!(!touching.is_trivial_move(800));
    // What lies beneath has a key in common with one of them.
    assert!(!plan(file(5, 5, 29, 100)).is_trivial_move(800));
}

/// A level 0 that is larger than what is free on the disk can still be made smaller.
#[test]
fn where_space_is_scarce_the_oldest_file_of_level_0_goes_first() {
    let mut edit = KeyspaceEdit::default();
    edit.added.extend((1..=12).map(|id| (0, file(id, 10, 20, 100))));
    let version = apply(&Version::default(), &edit);
    let busy = HashSet::new();
    let whole = pick(&version, &context(&busy, 0)).unwrap();
    assert_eq!(whole.upper.len(), 12);
    let scarce = PickContext { is_space_scarce: true, ..context(&busy, 0) };
    let part = pick(&version, &scarce).unwrap();
    assert_eq!(part.upper.iter().map(|file| file.meta.id).collect::<Vec<_>>(), [FileId(1)]);
    assert!(part.is_trivial_move(64 << 20));
}

/// The base level may hold more than is free: then there is room for it only further down.
#[test]
fn where_space_is_scarce_the_cheapest_compaction_goes_first() {
    let mut edit = KeyspaceEdit::default();
    edit.added.extend([(6, file(1, 30, 40, 30_000)), (5, file(2, 10, 15, 4000))]);
    edit.added.extend([(5, file(3, 16, 29, 5000))]);
    edit.added.extend((4..=15).map(|id| (0, file(id, 10, 20, 100))));
    let version = apply(&Version::default(), &edit);
    let busy = HashSet::new();
    let urgent = pick(&version, &context(&busy, 0)).unwrap();
    assert_eq!((urgent.reason, urgent.input_bytes()), (Reason::Level0, 10_200));
    let scarce = PickContext { is_space_scarce: true, ..context(&busy, 0) };
    let plan = pick(&version, &scarce).unwrap();
    assert_eq!((plan.reason, plan.input_bytes()), (Reason::LevelSize, 4000));
}

/// There may be so much of it that collecting it takes minutes.
#[test]
fn where_level_0_slows_writers_down_garbage_waits() {
    let tree = |l0: u64| {
        let mut edit = KeyspaceEdit::default();
        let blob = FileId(1);
        edit.added_blobs.push(BlobMeta { id: blob, bytes: 100_000, ..BlobMeta::default() });
        for (id, level, from, to) in [(2, 6, 0, 100), (3, 6, 101, 200), (4, 5, 0, 100)] {
            let mut meta = file(id, from, to, if level == 6 { 20_000 } else { 1000 });
            meta.blobs.push(BlobUse { file: blob, bytes: 1000 });
            edit.added.push((level, meta));
        }
        edit.added.extend((10..10 + l0).map(|id| (0, file(id, 0, 100, 100))));
        apply(&Version::default(), &edit)
    };
    let few = tree(L0_SLOW as u64 - 1);
    assert!(few.blobs.is_collection_urgent());
    let mut busy = HashSet::new();
    let plan = pick(&few, &context(&busy, 0)).unwrap();
    assert_eq!((plan.reason, plan.output_level), (Reason::Garbage, 5));
    let many = tree(L0_SLOW as u64);
    let plan = pick(&many, &context(&busy, 0)).unwrap();
    assert_eq!((plan.reason, plan.output_level), (Reason::Level0, 5));
    let scarce = PickContext { is_space_scarce: true, ..context(&busy, 0) };
    assert_eq!(pick(&many, &scarce).unwrap().reason, Reason::Garbage);
    // Other threads go on, but not on the level that level 0 waits for.
    busy.insert(FileId(4));
    let plan = pick(&many, &context(&busy, 0)).unwrap();
    assert_eq!((plan.reason, plan.output_level), (Reason::Garbage, 6));
    busy.extend([FileId(2), FileId(3)]);
    busy.remove(&FileId(4));
    busy.insert(FileId(10));
    let plan = pick(&many, &context(&busy, 0));
    assert!(plan.is_none(), "{plan:?}");
}

/// Or a trickle of writes would have everything rewritten for it.
#[test]
fn reads_do_not_pay_for_small_parts_of_much() {
    let bottom = (LEVELS - 1) as u8;
    let mut edit = KeyspaceEdit::default();
    edit.added.extend([(0, file(1, 0, 9, 10)), (bottom, file(2, 0, 9, 101))]);
    let version = apply(&Version::default(), &edit);
    let busy = HashSet::new();
    let pick = |share| pick_for_reads(&version, &context(&busy, 0), share);
    assert!(pick(10).is_none());
    assert_eq!(pick(11).unwrap().input_bytes(), 111);
}

/// A scan has stepped over them again and again.
#[test]
fn tombstones_count_for_what_they_drop_when_reads_pay() {
    let bottom = (LEVELS - 1) as u8;
    let mut edit = KeyspaceEdit::default();
    let (mut upper, mut lower) = (file(1, 0, 9, 1), file(2, 0, 9, 1000));
    (upper.entries, upper.tombstones, lower.entries) = (100, 100, 1000);
    edit.added.extend([(0, upper), (bottom, lower)]);
    let version = apply(&Version::default(), &edit);
    let busy = HashSet::new();
    let pick = |share| pick_for_reads(&version, &context(&busy, 0), share);
    assert!(pick(9).is_none());
    assert!(pick(10).is_some());
}
