//! How fast a large file in memory is written, searched and scanned: prints figures, asserts that
//! the work was done. Set `SST_N` for another number of entries.
#![expect(clippy::disallowed_methods, reason = "it measures real time")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::base::internal_iter::InternalIter;
use crate::base::key::KeyHash;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::seqno::SeqNo;
use crate::base::value::ValueKind;
use crate::sst::SstIter;
use crate::sst::SstReader;
use crate::sst::SstSummary;
use crate::sst::tests::support::*;

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn write_key(mut n: u64, user: &mut [u8; 16]) {
    for digit in user.iter_mut().rev() {
        *digit = b'0' + (n % 10) as u8;
        n /= 10;
    }
}

/// Nanoseconds for each of `count` repetitions that `work` does.
fn timed(count: u64, work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_nanos() as f64 / count as f64
}

/// Keys of 16 bytes, values of 100 that compress to about half.
fn fill(count: u64, shape: Shape) -> (Bytes, SstSummary) {
    let mut state = 1;
    let noise: Vec<u8> = (0..1 << 20).map(|_| next(&mut state) as u8).collect();
    let mut file = None;
    let ns = timed(count, || {
        let (mut writer, disk) = writer(shape);
        let (mut user, mut value) = ([b'0'; 16], [b'v'; 100]);
        for n in 0..count {
            write_key(n, &mut user);
            let from = (n * 50) as usize % (noise.len() - 50);
            value[..50].copy_from_slice(&noise[from..from + 50]);
            let trailer = Trailer::new(SeqNo::new(n), ValueKind::Put);
            writer.add(KeyRef::new(&user, trailer), &value).unwrap();
        }
        file = Some(finish(writer, &disk));
    });
    let (bytes, summary) = file.unwrap();
    let each = summary.bytes as f64 / count as f64;
    println!("  write {:.0} MB/s, {each:.0} bytes per entry", 116e3 / ns);
    (bytes, summary)
}

fn scan(iter: &mut SstIter, summary: &SstSummary) -> f64 {
    timed(summary.entries, || {
        let mut sum = 0;
        iter.seek_to_first().unwrap();
        while iter.valid() {
            sum += iter.value().len() + iter.key().user.len();
            iter.next().unwrap();
        }
        assert_eq!(sum as u64, summary.raw_bytes);
    })
}

fn gets(reader: &SstReader, count: u64, present: bool) -> f64 {
    let (mut state, mut user) = (3, [b'0'; 16]);
    timed(count, || {
        let mut found = 0;
        for _ in 0..count {
            write_key(next(&mut state) % count, &mut user);
            if !present {
                user[15] = b'x';
            }
            let hash = KeyHash::of(&user);
            let len = reader.get(&user, hash, SeqNo::MAX, |_, value| value.len());
            found += u64::from(len.unwrap() == Some(100));
        }
        assert_eq!(found, if present { count } else { 0 });
    })
}

fn seeks(iter: &mut SstIter, count: u64, steps: usize) -> f64 {
    let (mut state, mut user) = (5, [b'0'; 16]);
    timed(count / 4, || {
        for _ in 0..count / 4 {
            write_key(next(&mut state) % count, &mut user);
            iter.seek(KeyRef::seek(&user, SeqNo::MAX)).unwrap();
            assert_eq!(iter.key().user, user);
            for _ in 0..steps {
                black_box(iter.value().first());
                iter.next().unwrap();
            }
        }
    })
}

#[test]
fn speed() {
    let count = std::env::var("SST_N").map_or(20_000, |n| n.parse().unwrap());
    for shape in
        sources(Shape { block_bytes: 4096, partition_blocks: 256, cache_bytes: 2 << 30, ..SMALL })
    {
        println!("mapped {}, {:?}:", shape.mapped, shape.compression);
        let (bytes, summary) = fill(count, shape);
        let reader: Arc<SstReader> = open(&bytes, shape);
        let mut iter = reader.iter();
        let first = scan(&mut iter, &summary);
        let again = scan(&mut iter, &summary);
        let once = scan(&mut reader.scan_iter(MemFile::new(&bytes, false)), &summary);
        println!("  scan, ns per entry: {first:.1}, again {again:.1}, for compaction {once:.1}");
        let (get, miss) = (gets(&reader, count, true), gets(&reader, count, false));
        println!("  get {get:.0} ns, miss {miss:.0} ns");
        let [s0, s10, s100] = [0, 10, 100].map(|steps| seeks(&mut iter, count, steps));
        println!("  seek {s0:.0} ns, + 10 next {s10:.0} ns, + 100 next {s100:.0} ns");
    }
}
