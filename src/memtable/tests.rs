//! Memtables against a sorted map, alone and with several threads.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::base::internal_iter::InternalIter;
use crate::base::slice::COPY_LEN_MAX;
use crate::base::value::ValueKind;

fn put(seqno: u64) -> Trailer {
    Trailer::new(SeqNo::new(seqno), ValueKind::Put)
}

/// Entries in THE order: user key up, trailer down.
type Model = BTreeMap<(Vec<u8>, std::cmp::Reverse<u64>), Vec<u8>>;

fn build(keys: &[Vec<u8>]) -> (Arc<Memtable>, Model) {
    let memtable = Arc::new(Memtable::new(1, 1 << 16));
    let mut model = Model::new();
    for (i, key) in keys.iter().enumerate() {
        let seqno = i as u64 + 1;
        let value = vec![i as u8; i % 7 * 300];
        memtable.insert(key, put(seqno), &value);
        model.insert((key.clone(), std::cmp::Reverse(put(seqno).0)), value);
    }
    (memtable, model)
}

#[derive(Clone, Debug)]
enum Walk {
    Seek(Vec<u8>, u64),
    SeekForPrev(Vec<u8>, u64),
    First,
    Last,
    Next(usize),
    Prev(usize),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(0..3_u8, 0..4),
        (0..200_u32).prop_map(|n| format!("{n:020}").into_bytes()),
    ]
}

fn walk() -> impl Strategy<Value = Walk> {
    prop_oneof![
        2 => (key(), 0..100_u64).prop_map(|(key, seqno)| Walk::Seek(key, seqno)),
        2 => (key(), 0..100_u64).prop_map(|(key, seqno)| Walk::SeekForPrev(key, seqno)),
        1 => Just(Walk::First),
        1 => Just(Walk::Last),
        4 => (1..100_usize).prop_map(Walk::Next),
        4 => (1..100_usize).prop_map(Walk::Prev),
    ]
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 256 },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn iterator_walks_like_a_sorted_map(
        keys in prop::collection::vec(key(), 0..300),
        walks in prop::collection::vec(walk(), 1..20),
    ) {
        let (memtable, model) = build(&keys);
        let sorted: Vec<_> = model.iter().collect();
        let mut iter = memtable.iter();
        let mut at: Option<usize> = None;
        for walk in walks {
            let mut steps = 0;
            match &walk {
                Walk::Seek(key, seqno) => {
                    let target = KeyRef::seek(key, SeqNo::new(*seqno));
                    iter.seek(target).unwrap();
                    let bound = (key.clone(), std::cmp::Reverse(target.trailer.0));
                    at = sorted.iter().position(|(key, _)| **key >= bound);
                }
                Walk::SeekForPrev(key, seqno) => {
                    let target = KeyRef::seek(key, SeqNo::new(*seqno));
                    iter.seek_for_prev(target).unwrap();
                    let bound = (key.clone(), std::cmp::Reverse(target.trailer.0));
                    at = sorted.iter().rposition(|(key, _)| **key <= bound);
                }
                Walk::First => {
                    iter.seek_to_first().unwrap();
                    at = (!sorted.is_empty()).then_some(0);
                }
                Walk::Last => {
                    iter.seek_to_last().unwrap();
                    at = sorted.len().checked_sub(1);
                }
                Walk::Next(n) | Walk::Prev(n) => steps = *n,
            }
            loop {
                prop_assert_eq!(iter.valid(), at.is_some());
                let Some(i) = at else { break };
                let (key, value) = sorted[i];
                prop_assert_eq!(iter.key(), KeyRef::new(&key.0, Trailer(key.1.0)));
                prop_assert_eq!(iter.value(), &value[..]);
                prop_assert_eq!(iter.value_slice(), value);
                if steps == 0 {
                    break;
                }
                steps -= 1;
                if matches!(walk, Walk::Next(_)) {
                    iter.next().unwrap();
                    at = Some(i + 1).filter(|i| *i < sorted.len());
                } else {
                    iter.prev().unwrap();
                    at = i.checked_sub(1);
                }
            }
        }
    }

    #[test]
    fn get_finds_the_newest_visible_version(
        keys in prop::collection::vec(key(), 0..300),
        questions in prop::collection::vec((key(), 0..310_u64), 1..50),
    ) {
        let (memtable, model) = build(&keys);
        for (key, seqno) in questions {
            let expected = model
                .iter()
                .find(|((user, trailer), _)| *user == key && trailer.0 >> 8 <= seqno)
                .map(|((_, trailer), value)| (Trailer(trailer.0), &value[..]));
            let found = memtable.get(&key, KeyHash::of(&key), SeqNo::new(seqno));
            prop_assert_eq!(found, expected);
        }
        prop_assert_eq!(memtable.len(), keys.len());
    }
}

#[test]
fn empty_memtables_are_cheap() {
    let memtable = Arc::new(Memtable::new(7, 64 << 20));
    assert_eq!((memtable.id(), memtable.len(), memtable.bytes()), (7, 0, 0));
    assert!(memtable.is_empty());
    assert_eq!(memtable.get(b"a", KeyHash::of(b"a"), SeqNo::MAX), None);
    let mut iter = memtable.iter();
    iter.seek_to_last().unwrap();
    assert!(!iter.valid());
}

#[test]
fn bytes_cover_what_was_inserted() {
    let memtable = Memtable::new(1, 1 << 20);
    let mut payload = 0;
    for i in 0..100_u64 {
        memtable.insert(&i.to_be_bytes(), put(i), &[0; 100]);
        payload += 108;
        assert!(memtable.bytes() > payload);
    }
    assert!(memtable.bytes() < 3 * payload + (1 << 20) / 16);
}

#[test]
fn large_values_outlive_the_iterator_and_the_last_handle() {
    let memtable = Arc::new(Memtable::new(1, 1 << 20));
    memtable.insert(b"key", put(1), &[7; COPY_LEN_MAX + 1]);
    let mut iter = memtable.iter();
    iter.seek_to_first().unwrap();
    let value = iter.value_slice();
    let pinned = std::ptr::eq(value.as_slice(), iter.value());
    drop((iter, memtable));
    assert!(pinned);
    assert_eq!(value, [7; COPY_LEN_MAX + 1]);
}

#[test]
fn readers_see_all_that_was_there_when_they_began() {
    let per_thread: u64 = if cfg!(miri) { 30 } else { 5_000 };
    let memtable = Arc::new(Memtable::new(1, 1 << 20));
    // Key of the i-th insert of thread t: spread, so that threads insert between each other.
    let key = |t: u64, i: u64| ((i * 4 + t).wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes();
    let done = [const { AtomicU64::new(0) }; 4];
    thread::scope(|scope| {
        for t in 0..4 {
            let (memtable, done, key) = (&memtable, &done, &key);
            scope.spawn(move || {
                for i in 0..per_thread {
                    memtable.insert(&key(t, i), put(i * 4 + t), &i.to_be_bytes());
                    done[t as usize].store(i + 1, Ordering::Release);
                }
            });
        }
        for backward in [false, true] {
            let (memtable, done, key) = (&memtable, &done, &key);
            scope.spawn(move || {
                loop {
                    let seen = [0, 1, 2, 3].map(|t| done[t].load(Ordering::Acquire));
                    for t in 0..4 {
                        let Some(i) = seen[t as usize].checked_sub(1) else {
                            continue;
                        };
                        let user = key(t, i);
                        let found = memtable.get(&user, KeyHash::of(&user), SeqNo::MAX);
                        assert_eq!(found, Some((put(i * 4 + t), &i.to_be_bytes()[..])));
                    }
                    let walked = walk_all(memtable, backward);
                    assert!(walked >= seen.iter().sum());
                    if seen == [per_thread; 4] {
                        assert_eq!(walked, 4 * per_thread);
                        break;
                    }
                }
            });
        }
    });
    assert_eq!(memtable.len() as u64, 4 * per_thread);
}

/// Counts the entries and checks their order.
fn walk_all(memtable: &Arc<Memtable>, backward: bool) -> u64 {
    let mut iter = memtable.iter();
    if backward {
        iter.seek_to_last().unwrap();
    } else {
        iter.seek_to_first().unwrap();
    }
    let mut walked = 0;
    let mut last: Option<[u8; 8]> = None;
    while iter.valid() {
        let key: [u8; 8] = iter.key().user.try_into().unwrap();
        assert!(last.is_none_or(|last| if backward { key < last } else { key > last }));
        last = Some(key);
        walked += 1;
        if backward {
            iter.prev().unwrap();
        } else {
            iter.next().unwrap();
        }
    }
    walked
}
