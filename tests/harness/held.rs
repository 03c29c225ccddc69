//! Iterators and cursors beside what they must show.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ops::Bound;
use std::rc::Rc;

use esker::Cursor;
use esker::Iter;

use crate::harness::ops::Move;

/// What a keyspace holds.
pub(crate) type Map = BTreeMap<Vec<u8>, Rc<Vec<u8>>>;

pub(crate) struct HeldIter {
    pub(crate) iter: Iter,
    pub(crate) left: VecDeque<(Vec<u8>, Rc<Vec<u8>>)>,
}

pub(crate) struct HeldCursor {
    pub(crate) cursor: Cursor,
    pub(crate) map: Map,
    pub(crate) at: Option<Vec<u8>>,
}

/// One step at each of `ends`. True if it is over.
pub(crate) fn step_iter(held: &mut HeldIter, ends: &[bool]) -> bool {
    for back in ends {
        let (found, expected) = if *back {
            (held.iter.next_back(), held.left.pop_back())
        } else {
            (held.iter.next(), held.left.pop_front())
        };
        let found = found.transpose().unwrap();
        let found = found.as_ref().map(|(key, value)| (&key[..], &value[..]));
        let expected = expected.as_ref().map(|(key, value)| (&key[..], &value[..]));
        assert_eq!(found, expected, "back: {back}");
        if expected.is_none() {
            assert!(held.iter.next().is_none() && held.iter.next_back().is_none());
            return true;
        }
    }
    false
}

pub(crate) fn move_cursor(held: &mut HeldCursor, moves: &[Move]) {
    let HeldCursor { cursor, map, at } = held;
    for step in moves {
        let first_from = |bound: Bound<Vec<u8>>| {
            map.range((bound, Bound::Unbounded)).next().map(|(key, _)| key.clone())
        };
        let last_to = |bound: Bound<Vec<u8>>| {
            map.range((Bound::Unbounded, bound)).next_back().map(|(key, _)| key.clone())
        };
        let moved = match step {
            Move::Seek(key) => {
                *at = first_from(Bound::Included(key.bytes()));
                cursor.seek(key.bytes())
            }
            Move::SeekForPrev(key) => {
                *at = last_to(Bound::Included(key.bytes()));
                cursor.seek_for_prev(key.bytes())
            }
            Move::First => {
                *at = first_from(Bound::Unbounded);
                cursor.seek_to_first()
            }
            Move::Last => {
                *at = last_to(Bound::Unbounded);
                cursor.seek_to_last()
            }
            Move::Next => {
                *at = at.take().and_then(|key| first_from(Bound::Excluded(key)));
                cursor.next()
            }
            Move::Prev => {
                *at = at.take().and_then(|key| last_to(Bound::Excluded(key)));
                cursor.prev()
            }
        };
        assert_eq!(moved.unwrap(), at.is_some(), "{step:?}");
        assert_eq!(cursor.valid(), at.is_some(), "{step:?}");
        assert_eq!(cursor.key(), at.as_deref(), "{step:?}");
        let value = at.as_ref().map(|key| map[key].as_slice());
        assert_eq!(cursor.value(), value, "{step:?}");
        if let Some((key, kept)) = cursor.entry() {
            assert_eq!((Some(&key[..]), Some(&kept[..])), (at.as_deref(), value));
        }
    }
}
