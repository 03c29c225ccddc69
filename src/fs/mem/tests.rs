//! What a crash leaves, held against what was synced.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::base::sync::Mutex;
use crate::fs::CrashMode;
use crate::fs::Fs;
use crate::fs::LockMode;
use crate::fs::MemFs;
use crate::fs::ReadMode;
use crate::fs::WritableFile;

const SEEDS: u64 = 200;

/// Crashes of the system, as opposed to the process.
const POWER_LOSS: [CrashMode; 3] = [CrashMode::Strict, CrashMode::Prefix, CrashMode::Subset];

fn path(name: &str) -> &Path {
    Path::new(name)
}

fn create(fs: &MemFs, name: &str, content: &[u8]) -> Box<dyn WritableFile> {
    let file = fs.create(path(name)).unwrap();
    file.write_at(0, content).unwrap();
    file
}

fn create_durable(fs: &MemFs, name: &str, content: &[u8]) -> Box<dyn WritableFile> {
    let file = create(fs, name, content);
    file.sync_data().unwrap();
    fs.sync_dir(path(name).parent().unwrap()).unwrap();
    file
}

/// The content of a file, or `None` if it does not exist.
fn read(fs: &MemFs, name: &str) -> Option<Vec<u8>> {
    let file = fs.open(path(name), ReadMode::Pread).ok()?;
    let mut content = vec![0; file.len() as usize];
    file.read_at(0, &mut content).unwrap();
    Some(content)
}

/// What may be read under `name` after a crash in `mode`.
fn outcomes(fs: &MemFs, mode: CrashMode, name: &str) -> BTreeSet<Option<Vec<u8>>> {
    let read_after = |seed| read(&fs.crash_clone(mode, seed), name);
    (0..SEEDS).map(read_after).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "what `read` returns, to compare with")]
fn some(content: &[u8]) -> Option<Vec<u8>> {
    Some(content.to_vec())
}

#[test]
fn what_is_synced_survives_every_crash() {
    let fs = MemFs::new();
    fs.create_dir_all(path("/a/b")).unwrap();
    create_durable(&fs, "/a/b/file", b"durable");
    for mode in CrashMode::ALL {
        assert_eq!(outcomes(&fs, mode, "/a/b/file"), [some(b"durable")].into());
    }
}

#[test]
fn a_process_crash_loses_nothing_and_makes_nothing_durable() {
    let fs = MemFs::new();
    let file = create_durable(&fs, "/file", b"old");
    file.write_at(0, b"new").unwrap();
    create(&fs, "/another", b"1").sync_data().unwrap();
    let mut survivor = fs;
    for _ in 0..2 {
        survivor = survivor.crash_clone(CrashMode::KeepAll, 0);
        assert_eq!(read(&survivor, "/file"), some(b"new"));
        assert_eq!(read(&survivor, "/another"), some(b"1"));
    }
    let lost = survivor.crash_clone(CrashMode::Strict, 0);
    assert_eq!(read(&lost, "/file"), some(b"old"));
    assert_eq!(read(&lost, "/another"), None);
    // A later process can make it durable: the logs went along, and refer to the new files.
    survivor.open_writable(path("/file")).unwrap().sync_data().unwrap();
    survivor.sync_dir(path("/")).unwrap();
    let kept = survivor.crash_clone(CrashMode::Strict, 0);
    assert_eq!(read(&kept, "/file"), some(b"new"));
    assert_eq!(read(&kept, "/another"), some(b"1"));
}

#[test]
fn content_without_a_sync_and_names_without_a_directory_sync_are_lost() {
    let fs = MemFs::new();
    create(&fs, "/unsynced", b"1");
    fs.sync_dir(path("/")).unwrap();
    create(&fs, "/unnamed", b"1").sync_data().unwrap();
    assert_eq!(outcomes(&fs, CrashMode::Strict, "/unsynced"), [some(b"")].into());
    assert_eq!(outcomes(&fs, CrashMode::Strict, "/unnamed"), [None].into());
    for mode in [CrashMode::Prefix, CrashMode::Subset] {
        let either = [None, some(b"1")].into();
        assert_eq!(outcomes(&fs, mode, "/unnamed"), either, "{mode:?}");
        assert!(outcomes(&fs, mode, "/unsynced").is_superset(&[some(b""), some(b"1")].into()));
    }
}

#[test]
fn closing_a_file_syncs_nothing() {
    let fs = MemFs::new();
    let file = create_durable(&fs, "/file", b"");
    file.write_at(0, b"1").unwrap();
    drop(file);
    assert_eq!(outcomes(&fs, CrashMode::Strict, "/file"), [some(b"")].into());
}

#[test]
fn a_rename_is_atomic_and_durable_with_its_directory() {
    let fs = MemFs::new();
    create_durable(&fs, "/CURRENT", b"old");
    create_durable(&fs, "/tmp", b"new");
    fs.rename(path("/tmp"), path("/CURRENT")).unwrap();
    let mut seen = BTreeSet::new();
    for mode in POWER_LOSS {
        for seed in 0..SEEDS {
            let fs = fs.crash_clone(mode, seed);
            let state = (read(&fs, "/CURRENT").unwrap(), read(&fs, "/tmp"));
            seen.insert((mode == CrashMode::Strict, state));
        }
    }
    let before = (b"old".to_vec(), some(b"new"));
    let after = (b"new".to_vec(), None);
    assert_eq!(seen, [(true, before.clone()), (false, before), (false, after)].into());
    fs.sync_dir(path("/")).unwrap();
    assert_eq!(outcomes(&fs, CrashMode::Strict, "/CURRENT"), [some(b"new")].into());
    assert_eq!(outcomes(&fs, CrashMode::Strict, "/tmp"), [None].into());
}

#[test]
fn a_durable_file_is_never_lost_to_a_reused_name() {
    let fs = MemFs::new();
    create_durable(&fs, "/a", b"precious");
    fs.rename(path("/a"), path("/b")).unwrap();
    create(&fs, "/a", b"");
    for mode in POWER_LOSS {
        for seed in 0..SEEDS {
            let fs = fs.crash_clone(mode, seed);
            let names = ["/a", "/b"].map(|name| read(&fs, name));
            assert!(names.contains(&some(b"precious")), "{mode:?} {seed}");
        }
    }
}

#[test]
fn a_removed_file_may_come_back_until_its_directory_is_synced() {
    let fs = MemFs::new();
    create_durable(&fs, "/file", b"1");
    fs.remove(path("/file")).unwrap();
    assert_eq!(outcomes(&fs, CrashMode::KeepAll, "/file"), [None].into());
    assert_eq!(outcomes(&fs, CrashMode::Strict, "/file"), [some(b"1")].into());
    for mode in [CrashMode::Prefix, CrashMode::Subset] {
        assert_eq!(outcomes(&fs, mode, "/file"), [None, some(b"1")].into());
    }
    fs.sync_dir(path("/")).unwrap();
    for mode in CrashMode::ALL {
        assert_eq!(outcomes(&fs, mode, "/file"), [None].into());
    }
}

#[test]
fn directory_changes_are_lost_one_by_one_only_in_subset() {
    let fs = MemFs::new();
    create(&fs, "/1", b"");
    create(&fs, "/2", b"");
    let both = |mode| -> BTreeSet<[bool; 2]> {
        let exist = |seed| {
            let fs = fs.crash_clone(mode, seed);
            ["/1", "/2"].map(|name| fs.exists(path(name)).unwrap())
        };
        (0..SEEDS).map(exist).collect()
    };
    let prefixes = BTreeSet::from([[false, false], [true, false], [true, true]]);
    assert_eq!(both(CrashMode::Prefix), prefixes);
    assert_eq!(both(CrashMode::Subset).len(), 4);
}

#[test]
fn directories_are_durable_in_their_parents_once_created() {
    let fs = MemFs::new();
    fs.create_dir_all(path("/a/b")).unwrap();
    create_durable(&fs, "/a/b/file", b"1");
    assert_eq!(outcomes(&fs, CrashMode::Strict, "/a/b/file"), [some(b"1")].into());

    // Even if the process died between creating a directory and making it durable.
    let states = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&states);
    let fs = MemFs::new();
    fs.on_event(Some(Arc::new(move |_, fs: &MemFs| {
        sink.lock().push(fs.crash_clone(CrashMode::KeepAll, 0));
    })));
    fs.create_dir_all(path("/a/b")).unwrap();
    let states = std::mem::take(&mut *states.lock());
    assert!(states.len() >= 4);
    for fs in states {
        fs.create_dir_all(path("/a/b")).unwrap();
        create_durable(&fs, "/a/b/file", b"1");
        assert_eq!(outcomes(&fs, CrashMode::Strict, "/a/b/file"), [some(b"1")].into());
    }
}

#[test]
fn a_rename_between_directories_is_synced_by_either() {
    for synced in ["/a", "/b"] {
        let fs = MemFs::new();
        fs.create_dir_all(path("/a")).unwrap();
        fs.create_dir_all(path("/b")).unwrap();
        create(&fs, "/a/file", b"1").sync_data().unwrap();
        fs.rename(path("/a/file"), path("/b/file")).unwrap();
        fs.sync_dir(path(synced)).unwrap();
        for mode in CrashMode::ALL {
            assert_eq!(outcomes(&fs, mode, "/a/file"), [None].into());
            assert_eq!(outcomes(&fs, mode, "/b/file"), [some(b"1")].into());
        }
    }
}

#[test]
fn syncing_one_directory_leaves_others_alone() {
    let fs = MemFs::new();
    fs.create_dir_all(path("/a")).unwrap();
    create(&fs, "/a/file", b"1");
    fs.sync_dir(path("/")).unwrap();
    assert_eq!(outcomes(&fs, CrashMode::Strict, "/a/file"), [None].into());
}

#[test]
fn growth_may_hold_zeros_garbage_or_a_removed_files_bytes() {
    let fs = MemFs::new();
    create_durable(&fs, "/old", &[7; 8192]);
    fs.remove(path("/old")).unwrap();
    let file = create_durable(&fs, "/file", b"");
    file.write_at(0, &[1; 8192]).unwrap();
    let mut pieces = BTreeSet::new();
    let mut lens = BTreeSet::new();
    for content in outcomes(&fs, CrashMode::Subset, "/file").into_iter().flatten() {
        lens.insert(content.len());
        pieces.extend(content.chunks_exact(512).map(|piece| match piece {
            _ if piece.iter().all(|&byte| byte == piece[0]) => Some(piece[0]),
            _ => None,
        }));
    }
    assert_eq!(pieces, [None, Some(0), Some(1), Some(7)].into());
    assert!(lens.contains(&0) && lens.contains(&8192) && lens.len() > 4);
}

#[test]
fn overwritten_bytes_may_be_old_or_new_piece_by_piece() {
    let fs = MemFs::new();
    let file = create_durable(&fs, "/file", &[1; 2048]);
    file.write_at(512, &[2; 1024]).unwrap();
    let mut middles = BTreeSet::new();
    for content in outcomes(&fs, CrashMode::Subset, "/file").into_iter().flatten() {
        assert_eq!(content.len(), 2048);
        assert!(content[..512].iter().chain(&content[1536..]).all(|&byte| byte == 1));
        middles.insert((content[512], content[1024]));
    }
    assert!(middles.is_superset(&[(1, 1), (1, 2), (2, 1), (2, 2)].into()));
}

#[test]
fn a_failed_sync_leaves_content_that_reads_and_is_never_durable() {
    let fs = MemFs::new();
    let file = create_durable(&fs, "/file", b"old");
    file.write_at(0, b"new").unwrap();
    file.drop_unsynced();
    file.write_at(3, b"!").unwrap();
    file.sync_data().unwrap();
    assert_eq!(outcomes(&fs, CrashMode::KeepAll, "/file"), [some(b"new!")].into());
    for mode in POWER_LOSS {
        assert_eq!(outcomes(&fs, mode, "/file"), [some(b"old!")].into());
    }
}

#[test]
fn clones_and_originals_go_separate_ways() {
    let fs = MemFs::new();
    let file = create_durable(&fs, "/file", b"1");
    let reader = fs.open(path("/file"), ReadMode::Mmap).unwrap();
    for mode in CrashMode::ALL {
        let clone = fs.crash_clone(mode, 0);
        file.write_at(0, b"2").unwrap();
        file.sync_data().unwrap();
        assert_eq!(read(&clone, "/file"), some(b"1"));
        let other = clone.open_writable(path("/file")).unwrap();
        other.write_at(0, b"3").unwrap();
        other.sync_data().unwrap();
        clone.create_dir_all(path("/dir")).unwrap();
        assert_eq!(read(&fs, "/file"), some(b"2"));
        assert!(!fs.exists(path("/dir")).unwrap());
        file.write_at(0, b"1").unwrap();
        file.sync_data().unwrap();
    }
    assert_eq!(reader.mapping().unwrap(), &b"1"[..]);
}

#[test]
fn a_crash_forgets_locks() {
    let fs = MemFs::new();
    let _lock = fs.lock(path("/LOCK"), LockMode::Exclusive).unwrap();
    for mode in CrashMode::ALL {
        fs.crash_clone(mode, 0).lock(path("/LOCK"), LockMode::Exclusive).unwrap();
    }
    fs.lock(path("/LOCK"), LockMode::Exclusive).unwrap_err();
}

#[test]
fn the_hook_sees_the_state_before_each_event() {
    let fs = MemFs::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    fs.on_event(Some(Arc::new(move |index, fs: &MemFs| {
        let state = read(&fs.crash_clone(CrashMode::KeepAll, 0), "/file");
        let durable = read(&fs.crash_clone(CrashMode::Strict, 0), "/file");
        sink.lock().push((index, state, durable));
    })));
    let file = create(&fs, "/file", b"12");
    file.sync_data().unwrap();
    fs.sync_dir(path("/")).unwrap();
    file.set_len(1).unwrap();
    fs.rename(path("/file"), path("/other")).unwrap();
    fs.remove(path("/other")).unwrap();
    fs.on_event(None);
    fs.create_dir_all(path("/dir")).unwrap();
    let expected = [
        (0, None, None),
        (1, some(b""), None),
        (2, some(b"12"), None),
        (3, some(b"12"), None),
        (4, some(b"12"), some(b"12")),
        (5, some(b"1"), some(b"12")),
        (6, None, some(b"12")),
    ];
    assert_eq!(*seen.lock(), expected);
    // The root, that it exists; the directory; the root again, for its name.
    assert_eq!(fs.events(), 10);
}

#[test]
fn the_same_seed_gives_the_same_crash() {
    let fs = MemFs::new();
    for name in ["/1", "/2", "/3"] {
        create(&fs, name, &[1; 10_000]);
    }
    for mode in POWER_LOSS {
        for seed in 0..20 {
            let state = || {
                let fs = fs.crash_clone(mode, seed);
                ["/1", "/2", "/3"].map(|name| read(&fs, name))
            };
            assert_eq!(state(), state());
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write(usize, Vec<u8>),
    SetLen(usize),
    Sync,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..6000usize, 1..2000usize, 1..=255u8)
            .prop_map(|(offset, len, byte)| Op::Write(offset, vec![byte; len])),
        1 => (0..8000usize).prop_map(Op::SetLen),
        2 => Just(Op::Sync),
    ]
}

fn apply(content: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write(offset, bytes) => {
            let end = offset + bytes.len();
            content.resize(content.len().max(end), 0);
            content[*offset..end].copy_from_slice(bytes);
        }
        Op::SetLen(len) => content.resize(*len, 0),
        Op::Sync => {}
    }
}

/// Is `content` what a prefix of `pending` makes of `durable`, the last write cut anywhere?
fn is_prefix(content: &[u8], durable: &[u8], pending: &[Op]) -> bool {
    let mut model = durable.to_vec();
    if content == model {
        return true;
    }
    pending.iter().any(|op| {
        let before = model.clone();
        apply(&mut model, op);
        let Op::Write(offset, bytes) = op else {
            return content == model;
        };
        (1..=bytes.len()).any(|len| {
            let mut torn = before.clone();
            apply(&mut torn, &Op::Write(*offset, bytes[..len].to_vec()));
            content == torn
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn files_crash_into_states_that_their_history_allows(ops in vec(op(), 1..12), seed: u64) {
        let fs = MemFs::new();
        let file = create_durable(&fs, "/file", b"");
        let (mut seen, mut durable, mut pending) = (Vec::new(), Vec::new(), Vec::new());
        for op in ops {
            apply(&mut seen, &op);
            match &op {
                Op::Write(offset, bytes) => file.write_at(*offset as u64, bytes).unwrap(),
                Op::SetLen(len) => file.set_len(*len as u64).unwrap(),
                Op::Sync => {
                    file.sync_data().unwrap();
                    durable.clone_from(&seen);
                    pending.clear();
                    continue;
                }
            }
            pending.push(op);
        }
        let crash = |mode| read(&fs.crash_clone(mode, seed), "/file").unwrap();
        prop_assert_eq!(crash(CrashMode::KeepAll), seen);
        prop_assert_eq!(crash(CrashMode::Strict), durable.clone());
        prop_assert!(is_prefix(&crash(CrashMode::Prefix), &durable, &pending));

        // Bytes that no unsynced change touched are as they were.
        let subset = crash(CrashMode::Subset);
        let mut safe = vec![true; durable.len()];
        for op in &pending {
            let touched = match op {
                Op::Write(offset, bytes) => *offset..offset + bytes.len(),
                Op::SetLen(len) => *len..usize::MAX,
                Op::Sync => continue,
            };
            let end = touched.end.min(safe.len());
            safe[touched.start.min(end)..end].fill(false);
        }
        for (at, _) in safe.iter().enumerate().filter(|(_, safe)| **safe) {
            prop_assert_eq!(subset.get(at), durable.get(at), "byte {}", at);
        }
    }
}
