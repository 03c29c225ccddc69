//! Where blocks lie, and which chunks go back when.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Of 4 KiB and a header.
const TYPICAL: u32 = 65;
const LEN: u64 = CHUNK_LEN as u64;

fn take(pool: &mut Pool, units: u32) -> usize {
    pool.take(units).unwrap().0.addr().get()
}

/// A pool with some thirty chunks full of blocks, of which caches may hold so many, and their slots.
fn filled(allowed: u64) -> (Pool, Vec<usize>) {
    let mut pool = Pool::new();
    pool.allowed = allowed * LEN;
    let slots = (0..16_000).map(|_| take(&mut pool, TYPICAL)).collect();
    (pool, slots)
}

#[test]
fn blocks_that_come_together_lie_together() {
    let mut pool = Pool::new();
    let slots: Vec<usize> = (0..400).map(|_| take(&mut pool, TYPICAL)).collect();
    assert!(slots.iter().all(|slot| slot % UNIT == 0));
    // They leave in another order than they came.
    (0..400).for_each(|n| assert!(pool.give(slots[n * 77 % 400]).is_none()));
    let again: Vec<usize> = (0..400).map(|_| take(&mut pool, TYPICAL)).collect();
    assert_eq!(again, slots);
    assert!(again.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(pool.chunks.len(), 1);
}

#[test]
fn a_slot_is_hardly_longer_than_the_block() {
    let mut pool = Pool::new();
    for units in (1..=UNITS_MAX).rev() {
        let (_, slot) = pool.take(units).unwrap();
        let wanted = units.max(UNITS_MIN) | 1;
        assert!((wanted..=wanted + wanted / WASTE_IF_SPARSE).contains(&slot));
    }
}

#[test]
fn blocks_of_another_length_fill_what_others_left() {
    let mut pool = Pool::new();
    let slots: Vec<usize> = (0..8000).map(|_| take(&mut pool, TYPICAL)).collect();
    let chunks = pool.chunks.len();
    slots.iter().skip(1).step_by(2).for_each(|slot| assert!(pool.give(*slot).is_none()));
    (0..3000).for_each(|_| assert!(pool.take(TYPICAL - 4).is_some()));
    assert_eq!(pool.chunks.len(), chunks);
}

#[test]
fn chunks_without_blocks_go_back() {
    let mut pool = Pool::new();
    let slots: Vec<usize> = (0..8000).map(|_| take(&mut pool, TYPICAL)).collect();
    let chunks = pool.chunks.len();
    assert!(chunks > SMALL_CHUNKS + 2);
    let gone = slots.iter().filter(|slot| pool.give(**slot).is_some()).count();
    assert_eq!((gone, pool.chunks.len()), (chunks - 1, 1));
    assert_eq!((pool.taken, pool.open.len(), pool.empty.len()), (0, 0, SPANS));
}

#[test]
fn a_spare_is_wanted_when_the_last_huge_chunk_is_nearly_used() {
    let mut pool = Pool::new();
    let mut slots = Vec::new();
    while !pool.wants_spare() {
        slots.push(take(&mut pool, TYPICAL));
    }
    assert_eq!((pool.chunks.len(), pool.empty.len()), (SMALL_CHUNKS, SPANS_LEFT));
    pool.spare = Chunk::new(Pages::Touched);
    let start = pool.spare.as_ref().unwrap().start;
    while pool.spare.is_some() {
        assert!(!pool.wants_spare());
        slots.push(take(&mut pool, TYPICAL));
    }
    assert_eq!((pool.chunks.len(), pool.empty.len()), (SMALL_CHUNKS + 1, SPANS - 1));
    assert!(pool.chunks.iter().any(|chunk| chunk.start == start) && !pool.wants_spare());
    // What is not needed goes first.
    pool.spare = Chunk::new(Pages::Touched);
    let start = pool.spare.as_ref().unwrap().start;
    let gone = slots.into_iter().find_map(|slot| pool.give(slot)).unwrap();
    assert!(gone.start == start && pool.spare.is_none());
}

/// Who needed a chunk before it was ready has waited for it, so the next one is made earlier.
#[test]
fn the_next_spare_is_wanted_earlier_if_the_last_one_came_too_late() {
    let mut pool = Pool::new();
    let mut use_chunk = |spare: bool| {
        while !pool.wants_spare() {
            take(&mut pool, TYPICAL);
        }
        let left = pool.empty.len();
        pool.spare = Chunk::new(Pages::Small).filter(|_| spare);
        let chunks = pool.chunks.len();
        while pool.chunks.len() == chunks {
            take(&mut pool, TYPICAL);
        }
        left
    };
    let lefts = [false, false, false, true, true].map(&mut use_chunk);
    assert_eq!(lefts, [SPANS_LEFT, 2 * SPANS_LEFT, SPANS_LEFT_MOST, SPANS_LEFT_MOST, SPANS - 2]);
    let in_time = [true; SPANS].map(&mut use_chunk);
    assert_eq!(in_time.last(), Some(&SPANS_LEFT));
}

#[test]
fn who_prepares_makes_a_spare_only_if_it_is_wanted() {
    let pool = Mutex::new(Pool::new());
    let spare = || lock(&pool).spare.as_ref().map(|chunk| chunk.start);
    prepare_in(&pool, false);
    assert_eq!(spare(), None);
    while !lock(&pool).wants_spare() {
        take(&mut lock(&pool), TYPICAL);
    }
    prepare_in(&pool, false);
    let made = spare();
    assert!(made.is_some());
    prepare_in(&pool, false);
    assert_eq!(spare(), made);
}

#[test]
fn the_sparsest_chunks_are_left_when_caches_may_hold_less() {
    let (mut pool, mut slots) = filled(40);
    let chunks = pool.chunks.len();
    assert!(chunks > 20 && !pool.has_surplus() && pool.surplus() == 0);
    // All lose some blocks, and two more than others.
    let sparse: Vec<_> = [3, 7].map(|n| pool.chunks[n].start).into();
    let lies_in = |slot: usize, starts: &[usize]| {
        starts.iter().any(|start| (*start..start + CHUNK_LEN).contains(&slot))
    };
    slots.retain(|slot| {
        let part = if lies_in(*slot, &sparse) { 2 } else { 7 };
        let stays = !(slot / UNIT).is_multiple_of(part);
        assert!(stays || pool.give(*slot).is_none());
        stays
    });
    assert_eq!(pool.chunks.len(), chunks);
    pool.allowed = (chunks as u64 - 2) * LEN;
    assert!(!pool.has_surplus());
    pool.allowed -= LEN;
    // Of three, half of the two that may be too many stays.
    assert!(pool.has_surplus() && pool.take_surplus().is_empty());
    let starts: Vec<usize> = pool.sparsest().iter().map(|chunk| chunk.start).collect();
    assert_eq!(starts, sparse);
    let mut free = |slot: &usize| pool.give(*slot).is_some();
    let freed = slots.iter().filter(|slot| lies_in(**slot, &starts) && free(slot)).count();
    assert_eq!((freed, pool.take_surplus().len(), pool.chunks.len()), (1, 1, chunks - 2));
    assert!(!pool.has_surplus() && pool.surplus() == 0);
}

#[test]
fn what_others_hold_on_to_is_tried_again_when_something_changes() {
    let (mut pool, slots) = filled(40);
    pool.allowed = (pool.chunks.len() as u64 - 8) * LEN;
    assert!(pool.has_surplus());
    pool.left = pool.excess();
    assert!(!pool.has_surplus());
    pool.allowed -= 2 * LEN;
    assert!(pool.has_surplus());
    pool.left = pool.excess();
    let lowest = pool.chunks[0].start..pool.chunks[0].start + CHUNK_LEN;
    slots.iter().filter(|slot| lowest.contains(*slot)).for_each(|slot| drop(pool.give(*slot)));
    assert!(!pool.has_surplus());
    pool.allow(LEN, 0);
    assert!(pool.has_surplus());
}

#[test]
fn chunks_without_blocks_are_left_first() {
    let (mut pool, slots) = filled(4000);
    let chunks = pool.chunks.len();
    // One or two of them stay, empty.
    let (low, high) = (pool.chunks[5].start, pool.chunks[7].start);
    let gone = slots.iter().filter(|slot| (low..high).contains(*slot));
    let freed = gone.filter(|slot| pool.give(**slot).is_some()).count();
    pool.allowed = 0;
    let empty = pool.take_surplus();
    assert_eq!(freed + empty.len(), 2);
    assert_eq!(pool.chunks.len(), chunks - 2);
    assert!(pool.sparsest().len() == chunks - 3 && pool.take_empty().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 64 }))]
    #[test]
    fn slots_lie_apart(ops in prop::collection::vec((1..=UNITS_MAX, any::<u16>()), 1..400)) {
        let (mut pool, mut taken) = (Pool::new(), BTreeMap::new());
        for (units, what) in ops {
            // Lengths are alike, as a rule.
            let units = if what % 4 > 0 { TYPICAL + units % 8 } else { units };
            if what % 5 > 1 || taken.is_empty() {
                let (at, got) = pool.take(units).unwrap();
                prop_assert!(got >= units);
                let (start, end) = (at.addr().get(), at.addr().get() + got as usize * UNIT);
                let before = taken.range(..end).next_back();
                prop_assert!(before.is_none_or(|(_, end)| *end <= start));
                taken.insert(start, end);
            } else {
                let slot = *taken.keys().nth(what as usize % taken.len()).unwrap();
                taken.remove(&slot);
                pool.give(slot);
            }
            let bytes: usize = taken.iter().map(|(start, end)| end - start).sum();
            prop_assert_eq!(pool.taken * UNIT, bytes);
        }
        taken.keys().for_each(|slot| drop(pool.give(*slot)));
        prop_assert_eq!((pool.taken, pool.chunks.len(), pool.empty.len()), (0, 1, SPANS));
    }
}
