//! One memtable: inserts that split its nodes, versions of a key, and readers beside them.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use esker::bench_api::Memtable;
use shuttle::rand::Rng as _;

use crate::world::join;
use crate::world::spawn;

/// What a node has room for.
const NODE: u64 = 15;
const INSERTS: u64 = 5;

/// Keys with the same first 16 bytes or without, so that readers look into the records too.
fn key(number: u64, tied: bool) -> Vec<u8> {
    if tied { format!("{number:020}") } else { format!("{number:04}") }.into_bytes()
}

/// Two threads insert into a memtable whose nodes are full or nearly so, in some pattern. Two
/// others walk and look, and see everything that was there before, in order and once.
pub(crate) fn inserts_beside_readers() {
    let mut rng = shuttle::rand::thread_rng();
    let (tied, pattern, filled) = (rng.gen_bool(0.3), rng.gen_range(0..4), rng.gen_range(10..36));
    let memtable = Arc::new(Memtable::new(1 << 10));
    let number = move |thread: u64, i: u64| match pattern {
        // Between the others, one thread in front of the other, upwards or downwards, or anywhere.
        0 => 10 * (i + 1) + thread + 1,
        1 => 1000 * (thread + 1) + i,
        2 => 99 - 10 * i - thread,
        _ => 10 * ((i * 7 + thread * 3) % NODE) + 1 + thread * 4 + i,
    };
    for i in 0..filled {
        memtable.put(&key(10 * i, tied), 1, b"v");
    }
    // How many inserts of each thread are done.
    let done = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let mut threads = Vec::new();
    for thread in 0..2 {
        let (memtable, done) = (memtable.clone(), done.clone());
        threads.push(spawn(move || {
            for i in 0..INSERTS {
                memtable.put(&key(number(thread, i), tied), 2 + thread, b"v");
                done[thread as usize].store(i + 1, SeqCst);
            }
        }));
    }
    let sure = move |done: &[AtomicU64; 2]| {
        let mut sure: Vec<Vec<u8>> = (0..filled).map(|i| key(10 * i, tied)).collect();
        for thread in 0..2 {
            let inserted = done[thread as usize].load(SeqCst);
            sure.extend((0..inserted).map(|i| key(number(thread, i), tied)));
        }
        sure.sort();
        sure
    };
    let backward = rng.gen_bool(0.5);
    let (walked, walked_done) = (memtable.clone(), done.clone());
    threads.push(spawn(move || {
        let sure = sure(&walked_done);
        assert_covers(&walk(&walked, backward), &sure);
    }));
    let there = sure(&done);
    let asked = &there[rng.gen_range(0..there.len())];
    assert_eq!(memtable.get(asked), Some(1));
    let mut cursor = memtable.cursor();
    assert!(cursor.seek(asked).unwrap());
    assert_eq!(cursor.key(), asked);
    join(threads);
    let all = sure(&done);
    for backward in [false, true] {
        assert_eq!(walk(&memtable, backward), all);
    }
}

/// Two threads write versions of two keys, which want the same slot of the hash index. A reader
/// always finds the newest that it knows of, or a newer one.
pub(crate) fn versions_beside_readers() {
    let mut rng = shuttle::rand::thread_rng();
    let memtable = Arc::new(Memtable::new(1 << 10));
    let keys: [[u64; INSERTS as usize]; 2] =
        [[(); INSERTS as usize]; 2].map(|thread| thread.map(|()| rng.gen_range(0..2)));
    // The value is as long as the sequence number is large.
    let seqno = |thread: usize, i: usize| (2 * i + thread + 1) as u64;
    let value = [0; 2 * INSERTS as usize];
    let done = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let mut threads = Vec::new();
    for thread in 0..2 {
        let (memtable, done) = (memtable.clone(), done.clone());
        threads.push(spawn(move || {
            for (i, number) in keys[thread].iter().enumerate() {
                let seqno = seqno(thread, i);
                memtable.put(&key(*number, false), seqno, &value[..seqno as usize]);
                done[thread].store(i as u64 + 1, SeqCst);
            }
        }));
    }
    let newest = move |number: u64, done: &[AtomicU64; 2]| {
        let of_thread = |thread: usize| {
            let done = done[thread].load(SeqCst) as usize;
            let inserted = (0..done).filter(move |i| keys[thread][*i] == number);
            inserted.map(move |i| seqno(thread, i)).max()
        };
        of_thread(0).max(of_thread(1)).map(|seqno| seqno as usize)
    };
    for _ in 0..4 {
        let number = rng.gen_range(0..2);
        let known = newest(number, &done);
        let found = memtable.get(&key(number, false));
        assert!(found >= known, "{found:?} instead of {known:?}");
    }
    join(threads);
    for number in 0..2 {
        assert_eq!(memtable.get(&key(number, false)), newest(number, &done));
    }
}

/// All keys, in ascending order.
fn walk(memtable: &Memtable, backward: bool) -> Vec<Vec<u8>> {
    let mut cursor = memtable.cursor();
    let mut keys = Vec::new();
    let mut valid = if backward { cursor.seek_to_last() } else { cursor.seek_to_first() }.unwrap();
    while valid {
        keys.push(cursor.key().to_vec());
        valid = if backward { cursor.prev() } else { cursor.next() }.unwrap();
    }
    if backward {
        keys.reverse();
    }
    keys
}

/// `keys` ascend strictly, and those of `sure` are among them.
fn assert_covers(keys: &[Vec<u8>], sure: &[Vec<u8>]) {
    assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
    for key in sure {
        assert!(keys.binary_search(key).is_ok(), "{key:?} is not among {keys:?}");
    }
}
