//! Memtables against a sorted map and another skiplist, alone and with several threads.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::AtomicU64;
use std::thread;

use crossbeam_skiplist::SkipMap;
use proptest::prelude::*;

use super::*;
use crate::base::internal_iter::InternalIter;
use crate::base::internal_iter::next_by_trying;
use crate::base::slice::COPY_LEN_MAX;
use crate::base::value::ValueKind;

fn put(seqno: u64) -> Trailer {
    Trailer::new(SeqNo::new(seqno), ValueKind::Put)
}

/// Entries in THE order: user key up, trailer down.
type Model = BTreeMap<(Vec<u8>, Reverse<u64>), Vec<u8>>;

fn build(keys: &[Vec<u8>]) -> (Arc<Memtable>, Model) {
    let memtable = Arc::new(Memtables::new(1 << 16).make(1));
    let mut model = Model::new();
    for (i, key) in keys.iter().enumerate() {
        let seqno = i as u64 + 1;
        let value = vec![i as u8; i % 7 * 300];
        memtable.insert(key, put(seqno), &value);
        model.insert((key.clone(), Reverse(put(seqno).0)), value);
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
    PassVersions(usize),
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
        2 => (1..20_usize).prop_map(Walk::PassVersions),
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
                    let bound = (key.clone(), Reverse(target.trailer.0));
                    at = sorted.iter().position(|(key, _)| **key >= bound);
                }
                Walk::SeekForPrev(key, seqno) => {
                    let target = KeyRef::seek(key, SeqNo::new(*seqno));
                    iter.seek_for_prev(target).unwrap();
                    let bound = (key.clone(), Reverse(target.trailer.0));
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
                Walk::Next(n) | Walk::Prev(n) | Walk::PassVersions(n) => steps = *n,
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
                    let trying = steps % 2 == 1;
                    let moved = if trying { next_by_trying(&mut iter) } else { iter.next() };
                    moved.unwrap();
                    at = Some(i + 1).filter(|i| *i < sorted.len());
                } else if matches!(walk, Walk::PassVersions(_)) {
                    iter.pass_versions(&key.0).unwrap();
                    at = sorted.iter().position(|(other, _)| other.0 > key.0);
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

/// Keys in a row: how they look, where they start, how they go on, how many there are.
#[derive(Clone, Debug)]
struct Row {
    shape: u8,
    start: u16,
    step: i16,
    len: u16,
}

impl Row {
    fn keys(&self) -> impl Iterator<Item = Vec<u8>> {
        let (shape, start, step) = (self.shape, self.start, self.step);
        (0..self.len).map(move |i| {
            let n = start.wrapping_add_signed(step.wrapping_mul(i.cast_signed())) % 2000;
            match shape {
                0 => format!("{n:016}").into_bytes(),
                // The first 16 bytes tie.
                1 => format!("{n:020}").into_bytes(),
                // They tie, and some keys end with them or before.
                2 => vec![0; usize::from(n % 24)],
                3 => [&[7; 15][..], &n.to_be_bytes()[..usize::from(n % 3)]].concat(),
                // More of them tie, with each other and with those of some short keys.
                4 => format!("{}{n:016}", "0".repeat(40)).into_bytes(),
                5 => [&vec![b'0'; usize::from(n % 60)][..], &n.to_be_bytes()].concat(),
                _ => n.to_be_bytes().to_vec(),
            }
        })
    }
}

fn row() -> impl Strategy<Value = Row> {
    let step = prop_oneof![Just(1), Just(-1), Just(3), Just(0), any::<i16>()];
    let len = if cfg!(miri) { 1..20_u16 } else { 1..200 };
    (0..7_u8, 0..2000_u16, step, len).prop_map(|(shape, start, step, len)| Row {
        shape,
        start,
        step,
        len,
    })
}

type Held = (Vec<u8>, Reverse<u64>);

/// What the cursor stands on.
fn held(iter: &MemtableIter) -> Option<Held> {
    iter.valid().then(|| (iter.key().user.to_vec(), Reverse(iter.key().trailer.0)))
}

proptest! {
    #![proptest_config(config())]

    /// While rows of keys go in, a cursor keeps walking: it passes nothing that was there when it was
    /// placed, and shows nothing twice.
    #[test]
    fn cursors_walk_on_while_rows_of_keys_go_in(
        rows in prop::collection::vec((row(), any::<prop::sample::Index>(), 0..40_usize), 1..12),
        backward: bool,
    ) {
        let memtable = Arc::new(Memtables::new(1 << 16).make(1));
        let mut model = Model::new();
        let mut seqno = 0;
        let mut iter = memtable.iter();
        // What was there when the cursor was placed.
        let mut seen = Model::new();
        for (row, place, steps) in rows {
            for key in row.keys() {
                seqno += 1;
                memtable.insert(&key, put(seqno), &seqno.to_be_bytes());
                model.insert((key, Reverse(put(seqno).0)), seqno.to_be_bytes().to_vec());
            }
            for step in 0..steps {
                let Some(from) = held(&iter) else { break };
                let due = if backward {
                    iter.prev().unwrap();
                    seen.range(..&from).next_back()
                } else if step % 3 == 2 {
                    iter.pass_versions(&from.0).unwrap();
                    let behind = (from.0.clone(), Reverse(0));
                    seen.range((Bound::Excluded(&behind), Bound::Unbounded)).next()
                } else {
                    iter.next().unwrap();
                    seen.range((Bound::Excluded(&from), Bound::Unbounded)).next()
                };
                let due = due.map(|(key, _)| key.clone());
                let Some(to) = held(&iter) else {
                    prop_assert_eq!(due, None);
                    break;
                };
                prop_assert!(model.contains_key(&to));
                let on = |from: &Held, to: &Held| if backward { to < from } else { to > from };
                prop_assert!(on(&from, &to));
                prop_assert!(due.is_none_or(|due| !on(&due, &to)));
            }
            let (target, _) = model.iter().nth(place.index(model.len())).unwrap();
            let trailer = Trailer(target.1.0 ^ 1);
            let bound = (target.0.clone(), Reverse(trailer.0));
            let expected = if backward {
                iter.seek_for_prev(KeyRef::new(&target.0, trailer)).unwrap();
                model.range(..=&bound).next_back()
            } else {
                iter.seek(KeyRef::new(&target.0, trailer)).unwrap();
                model.range(&bound..).next()
            };
            prop_assert_eq!(held(&iter), expected.map(|(key, _)| key.clone()));
            seen.clone_from(&model);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "crossbeam-skiplist breaks both aliasing models on its own")]
    fn another_skiplist_agrees(rows in prop::collection::vec(row(), 1..12)) {
        let (memtable, other) = (Arc::new(Memtables::new(1 << 16).make(1)), SkipMap::new());
        for (seqno, key) in (1..).zip(rows.iter().flat_map(Row::keys)) {
            memtable.insert(&key, put(seqno), &seqno.to_be_bytes());
            other.insert((key, Reverse(put(seqno).0)), seqno);
        }
        prop_assert_eq!(memtable.len(), other.len());
        let mut iter = memtable.iter();
        iter.seek_to_first().unwrap();
        for entry in &other {
            prop_assert_eq!(held(&iter), Some(entry.key().clone()));
            prop_assert_eq!(iter.value(), &entry.value().to_be_bytes());
            iter.next().unwrap();
        }
        prop_assert!(!iter.valid());
        iter.seek_to_last().unwrap();
        for entry in other.iter().rev() {
            prop_assert_eq!(held(&iter), Some(entry.key().clone()));
            iter.prev().unwrap();
        }
        prop_assert!(!iter.valid());
    }
}

#[test]
fn sorted_rows_fill_their_nodes() {
    let n: u64 = if cfg!(miri) { 300 } else { 3000 };
    let descending = |i: u64| n - i;
    let between = |i: u64| if i < 2 { i * 2 * n } else { i };
    let key_of: [&dyn Fn(u64) -> u64; 3] = [&|i| i, &descending, &between];
    for key_of in key_of {
        let memtable = Memtables::new(1 << 20).make(1);
        for i in 0..n {
            memtable.insert(&key_of(i).to_be_bytes(), put(i + 1), &[]);
        }
        // Of 15 entries each, with a few levels above.
        let nodes = memtable.list.bytes() / (5 * 64);
        assert!(nodes as u64 <= n * 11 / (15 * 10) + 5, "{nodes} nodes");
    }
}

#[test]
fn what_is_there_already_is_not_added_again() {
    let memtable = Memtables::new(1 << 20).make(1);
    for i in (0..200_u64).chain(0..200) {
        memtable.insert(&i.to_be_bytes(), put(i), &[1]);
    }
    assert_eq!(memtable.len(), 200);
}

#[test]
fn empty_memtables_are_cheap() {
    let memtable = Arc::new(Memtables::new(64 << 20).make(7));
    assert_eq!((memtable.id(), memtable.len(), memtable.bytes()), (7, 0, 0));
    assert!(memtable.is_empty());
    assert_eq!(memtable.get(b"a", KeyHash::of(b"a"), SeqNo::MAX), None);
    let mut iter = memtable.iter();
    iter.seek_to_last().unwrap();
    assert!(!iter.valid());
}

#[test]
fn memtables_with_little_in_them_are_cheap() {
    let memtable = Memtables::new(64 << 20).make(7);
    memtable.insert(b"a", put(1), b"");
    // A page of each table, and lists of their pages; a chunk of nodes and one of records.
    assert!(memtable.bytes() < 24 << 10, "{}", memtable.bytes());
    let tables = memtable.filter.bytes() + memtable.index.bytes();
    assert!((8 << 10..memtable.bytes()).contains(&tables), "{tables}");
}

#[test]
fn bytes_cover_what_was_inserted() {
    let memtable = Memtables::new(1 << 20).make(1);
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
    let memtable = Arc::new(Memtables::new(1 << 20).make(1));
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
    // Number of the i-th insert of thread t: spread, so that threads insert between each other;
    // sorted, each thread in a part of its own; or next to each other.
    insert_beside_readers(|t, i| (i * 4 + t).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    insert_beside_readers(|t, i| t << 32 | i);
    insert_beside_readers(|t, i| u64::MAX - (i * 4 + t));
}

fn insert_beside_readers(number: fn(u64, u64) -> u64) {
    let per_thread: u64 = if cfg!(miri) { 20 } else { 5_000 };
    let memtable = Arc::new(Memtables::new(1 << 20).make(1));
    let key = |t: u64, i: u64| number(t, i).to_be_bytes();
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

#[test]
fn the_newest_version_is_found_while_others_are_written() {
    const THREADS: u64 = 3;
    // More keys than slots of the hash index, each written several times.
    let (per_thread, keys) = if cfg!(miri) { (24, 6) } else { (20_000, 40) };
    let memtable = Arc::new(Memtables::new(if cfg!(miri) { 1 << 12 } else { 1 << 15 }).make(1));
    let key = |i: u64| (i % keys).to_be_bytes();
    let done = [const { AtomicU64::new(0) }; THREADS as usize];
    thread::scope(|scope| {
        for t in 0..THREADS {
            let (memtable, done, key) = (&memtable, &done, &key);
            scope.spawn(move || {
                for i in 0..per_thread {
                    // All threads write the same keys, in about the same order.
                    let seqno = i * THREADS + t;
                    memtable.insert(&key(i), put(seqno), &seqno.to_be_bytes());
                    done[t as usize].store(i + 1, Ordering::Release);
                }
            });
        }
        for _ in 0..2 {
            let (memtable, done, key) = (&memtable, &done, &key);
            scope.spawn(move || {
                while done.iter().any(|done| done.load(Ordering::Acquire) < per_thread) {
                    for t in 0..THREADS {
                        let written = done[t as usize].load(Ordering::Acquire);
                        let Some(i) = written.checked_sub(1) else { continue };
                        let (user, least) = (key(i), put(i * THREADS + t));
                        let hash = KeyHash::of(&user);
                        let newest = memtable.get(&user, hash, SeqNo::MAX).unwrap().0;
                        assert!(newest >= least, "{newest:?} instead of {least:?}");
                        let then = memtable.get(&user, hash, least.seqno()).unwrap();
                        assert_eq!(then, (least, &least.seqno().get().to_be_bytes()[..]));
                    }
                }
            });
        }
    });
    for i in per_thread - keys..per_thread {
        let newest = memtable.get(&key(i), KeyHash::of(&key(i)), SeqNo::MAX).unwrap().0;
        assert_eq!(newest, put(i * THREADS + THREADS - 1));
    }
}

#[test]
fn keys_of_one_hash_are_told_apart() {
    let memtable = Memtables::new(1 << 20).make(1);
    let hash = KeyHash::of(b"a");
    memtable.insert(b"a", put(1), b"of a");
    assert_eq!(memtable.get(b"b", hash, SeqNo::MAX), None);
    memtable.insert(b"b", put(2), b"of b");
    assert_eq!(memtable.get(b"b", hash, SeqNo::MAX), Some((put(2), &b"of b"[..])));
    assert_eq!(memtable.get(b"a", hash, SeqNo::MAX), Some((put(1), &b"of a"[..])));
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
