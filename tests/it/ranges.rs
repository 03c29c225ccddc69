//! Ranges, prefixes and cursors in every bound and direction.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::support::TestDb;
use crate::support::key;
use crate::support::value;

fn filled() -> (TestDb, BTreeMap<Vec<u8>, Vec<u8>>) {
    let db = TestDb::new();
    let mut model = BTreeMap::new();
    for generation in 0..3 {
        for i in (0..400).step_by(generation + 1) {
            db.put(key(i), value(i, generation)).unwrap();
            model.insert(key(i), value(i, generation));
        }
        db.settle();
    }
    for i in (0..400).step_by(7) {
        db.delete(key(i)).unwrap();
        model.remove(&key(i));
    }
    (db, model)
}

#[test]
fn ranges_agree_with_a_btreemap_in_all_bounds_and_both_directions() {
    let (db, model) = filled();
    let points = [0, 1, 7, 8, 199, 200, 398, 399, 400];
    let bounds = |i: usize| [Bound::Included(key(i)), Bound::Excluded(key(i)), Bound::Unbounded];
    for from in points {
        for to in points.into_iter().filter(|to| *to > from) {
            for lower in bounds(from) {
                for upper in bounds(to) {
                    let range = (lower.clone(), upper);
                    let expected: Vec<_> = model.range(range.clone()).collect();
                    let found: Vec<_> = db.range(range.clone()).map(Result::unwrap).collect();
                    assert!(
                        found
                            .iter()
                            .map(|(k, v)| (&k[..], &v[..]))
                            .eq(expected.iter().map(|(k, v)| (&k[..], &v[..])))
                    );
                    let back: Vec<_> = db.range(range).rev().map(Result::unwrap).collect();
                    assert!(back.iter().rev().eq(found.iter()));
                }
            }
        }
    }
}

#[test]
fn the_two_ends_of_an_iterator_meet_in_the_middle() {
    let (db, model) = filled();
    for pattern in 1..20u32 {
        let mut iter = db.iter();
        let mut expected = model.iter();
        for step in 0.. {
            let front = (pattern >> (step % 5)) & 1 == 0;
            let found = if front { iter.next() } else { iter.next_back() };
            let wanted = if front { expected.next() } else { expected.next_back() };
            let found = found.map(|entry| entry.unwrap().0.to_vec());
            assert_eq!(found, wanted.map(|(key, _)| key.clone()));
            if found.is_none() {
                break;
            }
        }
        assert!(iter.next().is_none() && iter.next_back().is_none());
    }
}

#[test]
fn inverted_and_empty_ranges_are_empty() {
    let (db, _) = filled();
    assert_eq!(db.range("z".."a").count(), 0);
    assert_eq!(db.range(key(5)..key(5)).count(), 0);
    assert_eq!(db.range((Bound::Excluded(key(5)), Bound::Excluded(key(5)))).count(), 0);
    assert_eq!(db.range(key(8)..=key(8)).count(), 1);
    assert_eq!(db.range("z"..).rev().count(), 0);
}

#[test]
fn prefixes_end_where_they_should() {
    let db = TestDb::new();
    let keys: [&[u8]; 7] = [b"", b"a", b"a\xff", b"a\xff\xff\x01", b"b", b"\xff", b"\xff\xff"];
    for key in keys {
        db.put(key, "").unwrap();
    }
    for prefix in [&b""[..], b"a", b"a\xff", b"\xff", b"\xff\xff", b"c"] {
        let expected: Vec<_> = keys.iter().filter(|key| key.starts_with(prefix)).collect();
        assert_eq!(db.prefix(prefix).count(), expected.len(), "{prefix:?}");
        assert_eq!(db.prefix(prefix).rev().count(), expected.len(), "{prefix:?}");
    }
}

#[test]
fn a_cursor_walks_like_a_position_in_a_sorted_list() {
    let (db, model) = filled();
    let entries: Vec<_> = model.into_iter().collect();
    let mut cursor = db.cursor();
    assert!(!cursor.valid() && cursor.key().is_none() && cursor.entry().is_none());
    assert!(!cursor.next().unwrap());
    let mut at: Option<usize> = None;
    let mut state = 12345u64;
    for _ in 0..5000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (action, target) = ((state >> 33) % 8, key(((state >> 40) % 410) as usize));
        let on_entry = match action {
            0 => {
                at = entries.iter().position(|(key, _)| *key >= target);
                cursor.seek(&target).unwrap()
            }
            1 => {
                at = entries.iter().rposition(|(key, _)| *key <= target);
                cursor.seek_for_prev(&target).unwrap()
            }
            2 if state.is_multiple_of(64) => {
                at = Some(0);
                cursor.seek_to_first().unwrap()
            }
            3 if state.is_multiple_of(64) => {
                at = Some(entries.len() - 1);
                cursor.seek_to_last().unwrap()
            }
            2..=4 => {
                at = at.map(|at| at + 1).filter(|at| *at < entries.len());
                cursor.next().unwrap()
            }
            _ => {
                at = at.and_then(|at| at.checked_sub(1));
                cursor.prev().unwrap()
            }
        };
        assert_eq!(on_entry, at.is_some());
        assert_eq!(cursor.key(), at.map(|at| &entries[at].0[..]));
        assert_eq!(cursor.value(), at.map(|at| &entries[at].1[..]));
    }
}
