//! The log: what may be lost to damage is modelled exactly. The contents are those before the first
//! damaged record, unless something behind it, or the manifest, proves that it was durable: then
//! it is an error.

use std::collections::BTreeMap;
use std::ops::Range;

use esker::Durability;
use esker::Recovery;
use esker::fs::Fs as _;
use esker::fs::MemFs;

use crate::frames::frame_at;
use crate::image::DIR;
use crate::image::Image;
use crate::image::State;
use crate::image::each_zeroed;
use crate::image::flipped;
use crate::image::mix;
use crate::image::one_in;
use crate::image::options;
use crate::image::path;
use crate::image::read;
use crate::image::replace;
use crate::image::with_log;
use crate::manifest::manifest;
use crate::verdict::contents;
use crate::verdict::open_or_named;

/// A record, or a segment's header: where it is, and what it claims.
#[derive(Clone, Debug)]
struct Piece {
    bytes: Range<usize>,
    /// What is lost with it, and all behind it.
    first: u64,
    /// Everything up to here was durable when it was written.
    durable: u64,
    is_header: bool,
}

/// The segments that are part of the log, oldest first.
type Log = Vec<(String, Vec<Piece>)>;

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn parse(image: &Image) -> Log {
    let next_after: BTreeMap<u64, u64> =
        image.steps.windows(2).map(|pair| (pair[0].0 + 1, pair[1].0 + 1)).collect();
    let mut log = Log::new();
    for name in image.files(".wal") {
        let bytes = read(&image.fs, &name);
        let number: u64 = name.strip_suffix(".wal").unwrap().parse().unwrap();
        if u64_at(&bytes, 24) != number {
            continue; // Prepared, not started.
        }
        let (first, durable) = (u64_at(&bytes, 48), u64_at(&bytes, 56));
        let mut pieces = vec![Piece { bytes: 0..64, first, durable, is_header: true }];
        let (mut at, mut next) = (64, first);
        while let Some(frame) = frame_at(&bytes, at) {
            let durable = frame.stamp.map_or(0, |(seqno, lag)| {
                assert_eq!(seqno, next);
                let lag = u64::from(lag);
                // From 16 on a lag is stored with four bits.
                let lag = if lag < 16 { lag } else { (8 + (lag & 7)) << ((lag >> 3) - 1) };
                next.saturating_sub(lag)
            });
            at = frame.bytes.end;
            pieces.push(Piece { bytes: frame.bytes, first: next, durable, is_header: false });
            next = next_after[&next];
        }
        log.push((name, pieces));
    }
    log
}

/// Fields of an edit: `tag varint | length varint | bytes`.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let (tag, len) = (varint(&mut bytes), varint(&mut bytes) as usize);
        fields.push((tag, &bytes[..len]));
        bytes = &bytes[len..];
    }
    fields
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let len = 1 + bytes.iter().position(|byte| *byte < 0x80).unwrap();
    let low = |n: u64, byte: &u8| n << 7 | u64::from(byte & 0x7f);
    let n = bytes[..len].iter().rev().fold(0, low);
    *bytes = &bytes[len..];
    n
}

/// The manifest says that the log was durable up to here, itself or by what was flushed.
fn said_by_manifest(image: &Image) -> u64 {
    let (_, bytes, records) = manifest(image);
    let mut said = 0;
    for record in records {
        for (tag, mut value) in fields(&bytes[record.payload]) {
            match tag {
                4 => said = said.max(varint(&mut value)),
                7 => {
                    for (tag, mut value) in fields(value) {
                        said = said.max(if tag == 6 { varint(&mut value) } else { 0 });
                    }
                }
                _ => {}
            }
        }
    }
    assert!(said >= image.flushed && (!image.closed || said == image.steps.last().unwrap().0));
    said
}

/// What must be found.
#[derive(Debug, PartialEq)]
enum Expected {
    /// Everything up to this sequence number.
    UpTo(u64),
    /// An error; and when the damage is given up, what is left is everything up to here.
    Proven(u64),
}

/// What must be found if those pieces of segment `segment` are damaged that `hit` says.
fn expect(image: &Image, log: &Log, segment: usize, hit: impl Fn(&Piece) -> bool) -> Expected {
    let all =
        || log.iter().enumerate().flat_map(|(n, (_, pieces))| pieces.iter().map(move |p| (n, p)));
    let is_hit = |n: usize, piece: &Piece| n == segment && hit(piece);
    let Some(start) = all().position(|(n, piece)| is_hit(n, piece)) else {
        return Expected::UpTo(image.steps.last().unwrap().0);
    };
    let (n, lost) = all().nth(start).unwrap();
    let header_of_it = if lost.is_header { 0 } else { log[n].1[0].durable };
    let behind = all().skip(start + 1).filter(|(n, piece)| !is_hit(*n, piece));
    let claims =
        behind.map(|(_, piece)| piece.durable).chain([said_by_manifest(image), header_of_it]);
    // Without its first segment there is no log.
    if claims.max() >= Some(lost.first) || (lost.is_header && n == 0) {
        Expected::Proven(image.flushed.max(lost.first - 1))
    } else {
        Expected::UpTo(lost.first - 1)
    }
}

fn state_at(image: &Image, seqno: u64) -> &State {
    let (at, state) = image.steps.iter().rev().find(|(at, _)| *at <= seqno).unwrap();
    assert_eq!(*at, seqno, "a batch would be torn");
    state
}

/// Opens the damaged `fs` in both modes and compares.
fn judge(image: &Image, fs: &MemFs, expected: &Expected, what: &str) {
    let what = format!("{}: {what}; {expected:?} of {}", image.name, image.steps.last().unwrap().0);
    let salvaged = fs.crash_clone(esker::fs::CrashMode::KeepAll, 0);
    let (upto, proven) = match expected {
        Expected::UpTo(upto) => (*upto, false),
        Expected::Proven(upto) => (*upto, true),
    };
    let model = state_at(image, upto);
    match open_or_named(fs, true, &[".wal"], &what) {
        None => assert!(proven, "{what}: an error, though nothing proves what is lost"),
        Some(db) => {
            let found = contents(&db);
            assert!(!proven, "{what}: opened, with {} keyspaces", found.len());
            assert!(&found == model, "{what}: wrong contents");
            assert_eq!(db.stats().given_up, None);
        }
    }
    let db = options(&salvaged).recovery(Recovery::ToLastConsistentPoint).open(DIR);
    let db = db.unwrap_or_else(|error| panic!("{what}: cannot be salvaged: {error}"));
    assert!(&contents(&db) == model, "{what}: salvaged wrong contents");
    assert_eq!(db.stats().given_up.is_some(), proven, "{what}: {:?}", db.stats().given_up);
    // And it goes on.
    db.put("after", "it").unwrap();
    db.close().unwrap();
    let db = options(&salvaged).open(DIR);
    let db = db.unwrap_or_else(|error| panic!("{what}, and again: {error}"));
    let mut after = model.clone();
    after.entry("default".to_owned()).or_default().insert(b"after".to_vec(), b"it".to_vec());
    assert!(contents(&db) == after, "{what}: lost afterwards");
}

fn images() -> Vec<Image> {
    let reopened = || {
        let mut maker = with_log(2).reopen();
        for n in 0..9 {
            let durability = if n == 4 { Durability::Sync } else { Durability::Os };
            maker.put("default", &[n, 3 * n], 30, durability);
        }
        maker
    };
    vec![
        with_log(0).crashed("crashed"),
        with_log(6).crashed("crashed with an unsynced tail"),
        with_log(3).closed("closed"),
        reopened().crashed("reopened and crashed"),
        reopened().closed("reopened and closed"),
    ]
}

/// Damages each segment of each image by `damage` and compares.
fn each(mut damage: impl FnMut(&mut dyn FnMut(&str, &[u8]), &[u8], &[Piece])) {
    for image in images() {
        let log = parse(&image);
        assert!(log.len() >= 2, "{}: {log:?}", image.name);
        let end = log.last().unwrap().1.last().unwrap().bytes.end;
        assert!(end > 64, "{}: no record in the active segment", image.name);
        for (n, (name, pieces)) in log.iter().enumerate() {
            let intact = read(&image.fs, name);
            let mut try_it = |what: &str, damaged: &[u8]| {
                let hit = |piece: &Piece| {
                    damaged.get(piece.bytes.clone()) != intact.get(piece.bytes.clone())
                };
                let expected = expect(&image, &log, n, hit);
                let fs = image.copy();
                replace(&fs, name, damaged);
                judge(&image, &fs, &expected, &format!("{name}, {what}"));
            };
            damage(&mut try_it, &intact, pieces);
        }
    }
}

#[test]
fn a_flip_in_the_log_loses_only_what_nothing_proves() {
    each(|try_it, intact, pieces| {
        let end = pieces.last().unwrap().bytes.end + 40;
        for piece in pieces {
            // All of the headers, and some of the payload.
            let dense = piece.bytes.start..(piece.bytes.start + 64).min(piece.bytes.end);
            let stride = one_in(64);
            let sparse = (dense.end..piece.bytes.end + 8).step_by(stride);
            for at in
                dense.step_by(one_in(3)).chain(sparse).filter(|at| *at < intact.len().min(end))
            {
                let mut damaged = intact.to_vec();
                damaged[at] ^= 1 << (mix(at as u64) % 8);
                try_it(&format!("byte {at}"), &damaged);
            }
        }
    });
}

#[test]
fn zeros_in_the_log_lose_only_what_nothing_proves() {
    each(|try_it, intact, pieces| {
        let end = pieces.last().unwrap().bytes.end;
        let step = |len: usize| one_in(3) * len.min(128);
        each_zeroed(intact, end, step, |zeros, damaged| {
            try_it(&format!("zeros in {zeros:?}"), damaged);
        });
    });
}

#[test]
fn a_cut_segment_loses_only_what_nothing_proves() {
    each(|try_it, intact, pieces| {
        let end = pieces.last().unwrap().bytes.end + 20;
        for len in (0..end.min(intact.len())).step_by(one_in(37)) {
            try_it(&format!("cut to {len}"), &intact[..len]);
        }
        for piece in pieces {
            try_it(&format!("cut at {:?}", piece.bytes), &intact[..piece.bytes.start]);
        }
        for more in [1, 8, 4096] {
            let garbage: Vec<u8> = (0..more).map(|n| mix(n) as u8).collect();
            try_it(&format!("{more} bytes of garbage behind"), &[intact, &garbage].concat());
        }
        try_it("written twice", &[intact, intact].concat());
    });
}

#[test]
fn a_missing_segment_is_an_error_unless_it_was_the_last() {
    for image in images() {
        let log = parse(&image);
        for (n, (name, _)) in log.iter().enumerate() {
            let fs = image.copy();
            fs.remove(&path(name)).unwrap();
            let mut expected = expect(&image, &log, n, |_| true);
            if let (Expected::UpTo(upto), true) = (&expected, n + 1 < log.len()) {
                expected = Expected::Proven(*upto);
            }
            judge(&image, &fs, &expected, &format!("{name} is missing"));
        }
    }
}

#[test]
fn an_older_copy_of_a_segment_loses_only_what_nothing_proves() {
    let mut maker = with_log(0);
    let mut copies = Vec::new();
    for n in 0..60_u32 {
        let durability = if n % 7 == 3 { Durability::Sync } else { Durability::Os };
        maker.put(if n % 2 == 0 { "side" } else { "default" }, &[n % 12], 200, durability);
        if n % 4 == 0 {
            let names = maker.fs.list(DIR.as_ref()).unwrap().into_iter().map(|entry| entry.name);
            let segments = names.filter(|name| name.contains(".wal"));
            copies.extend(segments.map(|name| (n, read(&maker.fs, &name), name)));
        }
    }
    let image = maker.crashed("with older copies");
    let log = parse(&image);
    let mut older = 0;
    for (moment, bytes, name) in copies {
        let Some(n) = log.iter().position(|(live, _)| *live == name) else { continue };
        let intact = read(&image.fs, &name);
        if bytes == intact {
            continue;
        }
        older += 1;
        let hit = |piece: &Piece| bytes.get(piece.bytes.clone()) != intact.get(piece.bytes.clone());
        let expected = expect(&image, &log, n, hit);
        let fs = image.copy();
        replace(&fs, &name, &bytes);
        judge(&image, &fs, &expected, &format!("{name} of moment {moment}"));
    }
    assert!(older > 5, "only {older} older copies");
}

/// How many segments have been prepared and not started.
fn prepared(fs: &MemFs) -> usize {
    let names = fs.list(DIR.as_ref()).unwrap().into_iter().map(|entry| entry.name);
    let unstarted = |name: &String| {
        let number = name.strip_suffix(".wal").map(|number| number.parse::<u64>().unwrap());
        number.is_some_and(|number| u64_at(&read(fs, name), 24) != number)
    };
    names.filter(unstarted).count()
}

/// Prepared segments, with an older life in them or not, are no part of the log whatever they hold.
#[test]
fn damage_to_a_prepared_segment_is_harmless() {
    let mut seen = 0;
    let mut recycled = with_log(0);
    // No job more than that: at rest the log would give it back.
    recycled.flush();
    let mut fresh = with_log(0);
    // Until the next segment is prepared.
    while prepared(&fresh.fs) == 0 {
        fresh.put("side", &[4], 300, Durability::Os);
        while fresh.db.run_one_job().unwrap() {}
    }
    recycled.put("default", &[1, 2], 20, Durability::Os);
    for image in [recycled.crashed("recycled"), fresh.crashed("fresh")] {
        let image = &image;
        let log = parse(image);
        let last = image.steps.last().unwrap().0;
        for name in image.files(".wal") {
            if log.iter().any(|(live, _)| *live == name) {
                continue;
            }
            seen += 1;
            let intact = read(&image.fs, &name);
            let judge = |what: &str, bytes: &[u8]| {
                let fs = image.copy();
                replace(&fs, &name, bytes);
                judge(image, &fs, &Expected::UpTo(last), &format!("{name}, {what}"));
            };
            for at in (0..intact.len()).step_by(one_in(257)).chain(0..64) {
                judge(&format!("byte {at}"), &flipped(&intact, at));
            }
            for len in [0, 1, 63, 64, 100, intact.len() - 1] {
                judge(&format!("cut to {len}"), &intact[..len]);
            }
            let fs = image.copy();
            fs.remove(&path(&name)).unwrap();
            self::judge(image, &fs, &Expected::UpTo(last), "a prepared segment is missing");
        }
    }
    assert!(seen >= 2, "only {seen} prepared segments");
}
