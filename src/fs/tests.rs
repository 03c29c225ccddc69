//! The contract of [`Fs`], held against every implementation.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::fs::DirEntry;
use crate::fs::FaultFs;
use crate::fs::Fs;
use crate::fs::LockMode;
use crate::fs::MemFs;
use crate::fs::OsFs;
use crate::fs::ReadMode;

const MODES: [ReadMode; 3] = [ReadMode::Mmap, ReadMode::Pread, ReadMode::Sequential];

/// Runs `check` with an empty directory of each file system.
fn on_each(check: fn(&dyn Fs, &Path)) {
    let temp = tempfile::tempdir().unwrap();
    check(&OsFs, temp.path());
    check(&MemFs::new(), Path::new("/"));
    let mem = MemFs::new();
    mem.create_dir_all(Path::new("/a/b")).unwrap();
    check(&FaultFs::new(Arc::new(mem)), Path::new("/a/b"));
}

/// The error says which operation failed on which path, and why.
fn assert_fails<T>(result: Result<T>, at: &Path, why: io::ErrorKind) {
    match result.map(drop).unwrap_err() {
        Error::Io { op, path, source } => {
            assert_eq!((path.as_path(), source.kind()), (at, why), "{op}");
        }
        error => panic!("{error}"),
    }
}

fn write(fs: &dyn Fs, path: &Path, content: &[u8]) {
    fs.create(path).unwrap().write_at(0, content).unwrap();
}

fn read(fs: &dyn Fs, path: &Path) -> Vec<u8> {
    let file = fs.open(path, ReadMode::Pread).unwrap();
    let mut content = vec![0; file.len() as usize];
    file.read_at(0, &mut content).unwrap();
    content
}

#[test]
fn what_is_written_is_read_in_every_mode() {
    on_each(|fs, root| {
        let path = root.join("file");
        let file = fs.create(&path).unwrap();
        file.reserve(0..0).unwrap();
        file.reserve(0..1 << 20).unwrap();
        file.write_at(3, b"later").unwrap();
        file.write_at(0, b"now").unwrap();
        file.write_at(100, b"").unwrap();
        let upside_down = Range { start: 4, end: 2 };
        for range in [2..4, 7..1 << 40, u64::MAX - 1..u64::MAX, upside_down] {
            file.write_back(range).unwrap();
        }
        file.sync_data().unwrap();
        for mode in MODES {
            let file = fs.open(&path, mode).unwrap();
            assert_eq!((file.len(), file.is_empty()), (8, false));
            file.random(2..1 << 40);
            file.will_need(2..4);
            file.will_need(7..1 << 40);
            file.will_need(u64::MAX - 1..u64::MAX);
            let mut out = [0; 4];
            file.read_at(2, &mut out).unwrap();
            assert_eq!(&out, b"wlat");
            // Whether a system can say is its own matter.
            assert!(!file.read_at_once(4, &mut out).unwrap() || &out == b"ater");
            assert_eq!(file.mapping().is_some(), mode == ReadMode::Mmap);
            if let Some(mapping) = file.mapping().cloned() {
                drop(file);
                assert_eq!(&mapping[..], b"nowlater");
            }
        }
    });
}

#[test]
fn overwrites_are_writes_however_they_are_done() {
    on_each(|fs, root| {
        let path = root.join("file");
        let file = fs.create(&path).unwrap();
        // Nothing is there yet, then less than was announced, then all of it, then again.
        for (len, announced) in [(0, 0), (0, 100), (5000, 9000), (9000, 9000), (9000, 5000)] {
            file.write_at(0, &vec![0; len]).unwrap();
            file.prepare_overwrites(announced);
            file.overwrite_at(0, b"front").unwrap();
            file.overwrite_at(4090, b"across pages").unwrap();
            file.write_at(4093, b"OSS").unwrap();
            file.overwrite_at(4095, b"s").unwrap();
            file.sync_data().unwrap();
            let content = read(fs, &path);
            assert_eq!(
                (&content[..5], &content[4090..4102]),
                (&b"front"[..], &b"acrOSs pages"[..])
            );
        }
        // Behind what is mapped, and over its end.
        file.overwrite_at(8998, b"over").unwrap();
        file.overwrite_at(20_000, b"behind").unwrap();
        let content = read(fs, &path);
        assert_eq!((&content[8998..9002], &content[20_000..]), (&b"over"[..], &b"behind"[..]));

        // A file that lives on under another name is what it was, and may be mapped anew.
        let moved = root.join("moved");
        fs.rename(&path, &moved).unwrap();
        let again = fs.open_writable(&moved).unwrap();
        again.prepare_overwrites(4096);
        again.overwrite_at(1, b"u").unwrap();
        file.overwrite_at(2, b"r").unwrap();
        drop(file);
        again.overwrite_at(3, b"r").unwrap();
        again.overwrite_at(4095, b"long").unwrap();
        again.finish_overwrites();
        again.overwrite_at(4096, b"o").unwrap();
        let content = read(fs, &moved);
        assert_eq!((&content[..5], &content[4095..4099]), (&b"furrt"[..], &b"long"[..]));
    });
}

#[test]
fn overwrites_by_several_threads_are_whole() {
    on_each(|fs, root| {
        let file = fs.create(&root.join("file")).unwrap();
        file.write_at(0, &[9; 3200]).unwrap();
        file.prepare_overwrites(3200);
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let file = &file;
                scope.spawn(move || {
                    for i in 0..100 {
                        let offset = (i * 4 + u64::from(thread)) * 8;
                        file.overwrite_at(offset, &[thread; 8]).unwrap();
                    }
                });
            }
        });
        let expected: Vec<u8> = (0..3200u32).map(|at| (at / 8 % 4) as u8).collect();
        assert_eq!(read(fs, &root.join("file")), expected);
    });
}

#[test]
#[cfg(target_os = "linux")]
fn a_mapped_file_keeps_its_length() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("file");
    let file = OsFs.create(&path).unwrap();
    file.set_len(8192).unwrap();
    file.prepare_overwrites(8192);
    let is_mapped = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().any(|line| line.ends_with(path.to_str().unwrap()))
    };
    assert_eq!(file.set_len(1).is_err(), is_mapped());
    file.overwrite_at(8000, b"there").unwrap();
    file.finish_overwrites();
    assert!(!is_mapped());
    assert_eq!(&read(&OsFs, &path)[8000..8005], b"there");
}

#[test]
fn a_read_beyond_the_end_is_an_error() {
    on_each(|fs, root| {
        let path = root.join("file");
        write(fs, &path, b"12345678");
        for mode in MODES {
            let file = fs.open(&path, mode).unwrap();
            for offset in [5, 8, 9, u64::MAX - 3, u64::MAX] {
                let read = file.read_at(offset, &mut [0; 4]);
                assert_fails(read, &path, io::ErrorKind::UnexpectedEof);
                assert!(!file.read_at_once(offset, &mut [0; 4]).is_ok_and(|done| done));
            }
            file.read_at(4, &mut [0; 4]).unwrap();
            file.read_at(8, &mut []).unwrap();
        }
    });
}

#[test]
fn an_empty_file_opens_in_every_mode() {
    on_each(|fs, root| {
        let path = root.join("file");
        fs.create(&path).unwrap().reserve(0..1 << 16).unwrap();
        for mode in MODES {
            let file = fs.open(&path, mode).unwrap();
            assert!(file.is_empty() && file.mapping().is_none());
            file.will_need(0..10);
        }
    });
}

#[test]
fn files_are_cut_and_grow_with_zeros() {
    on_each(|fs, root| {
        let path = root.join("file");
        write(fs, &path, b"12345");
        let file = fs.open_writable(&path).unwrap();
        file.set_len(2).unwrap();
        file.set_len(4).unwrap();
        file.write_at(6, b"7").unwrap();
        assert_eq!(read(fs, &path), b"12\0\0\0\x007");
    });
}

#[test]
fn files_can_be_written_by_several_threads() {
    on_each(|fs, root| {
        let file = fs.create(&root.join("file")).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let file = &file;
                scope.spawn(move || {
                    for i in 0..100 {
                        let offset = (i * 4 + u64::from(thread)) * 8;
                        file.write_at(offset, &[thread; 8]).unwrap();
                    }
                });
            }
        });
        let expected: Vec<u8> = (0..3200u32).map(|at| (at / 8 % 4) as u8).collect();
        assert_eq!(read(fs, &root.join("file")), expected);
    });
}

#[test]
fn creating_what_exists_and_opening_what_does_not_are_errors() {
    on_each(|fs, root| {
        let path = root.join("file");
        assert!(!fs.exists(&path).unwrap());
        assert_fails(fs.open_writable(&path), &path, io::ErrorKind::NotFound);
        assert_fails(fs.open(&path, ReadMode::Pread), &path, io::ErrorKind::NotFound);
        assert_fails(fs.remove(&path), &path, io::ErrorKind::NotFound);
        assert_fails(fs.rename(&path, root), &path, io::ErrorKind::NotFound);
        assert_fails(fs.list(&path), &path, io::ErrorKind::NotFound);
        assert_fails(fs.sync_dir(&path), &path, io::ErrorKind::NotFound);
        assert_fails(fs.canonical(&path), &path, io::ErrorKind::NotFound);
        let orphan = path.join("file");
        assert_fails(fs.create(&orphan), &orphan, io::ErrorKind::NotFound);
        write(fs, &path, b"old");
        assert!(fs.exists(&path).unwrap());
        assert_fails(fs.create(&path), &path, io::ErrorKind::AlreadyExists);
        assert_fails(fs.create(&orphan), &orphan, io::ErrorKind::NotADirectory);
        assert_eq!(read(fs, &path), b"old");
    });
}

#[test]
fn directories_are_no_files_and_files_no_directories() {
    on_each(|fs, root| {
        let (dir, file) = (root.join("dir"), root.join("file"));
        fs.create_dir_all(&dir).unwrap();
        write(fs, &file, b"1");
        for mode in MODES {
            assert_fails(fs.open(&dir, mode), &dir, io::ErrorKind::IsADirectory);
        }
        assert_fails(fs.open_writable(&dir), &dir, io::ErrorKind::IsADirectory);
        assert_fails(fs.create(&dir), &dir, io::ErrorKind::AlreadyExists);
        assert_fails(fs.remove(&dir), &dir, io::ErrorKind::IsADirectory);
        assert_fails(fs.rename(&file, &dir), &file, io::ErrorKind::IsADirectory);
        assert_fails(fs.rename(&dir, &file), &dir, io::ErrorKind::NotADirectory);
        assert_fails(fs.list(&file), &file, io::ErrorKind::NotADirectory);
        assert_fails(fs.create_dir_all(&file), &file, io::ErrorKind::NotADirectory);
        let below = file.join("below");
        let created = fs.create_dir_all(&below);
        assert_eq!(created.unwrap_err().io_kind(), Some(io::ErrorKind::NotADirectory));
    });
}

#[test]
fn rename_replaces_and_open_files_live_on() {
    on_each(|fs, root| {
        let (old, new) = (root.join("old"), root.join("new"));
        write(fs, &old, b"old");
        write(fs, &new, b"new");
        let replaced = fs.open(&new, ReadMode::Pread).unwrap();
        let writer = fs.open_writable(&old).unwrap();
        fs.rename(&old, &new).unwrap();
        assert!(!fs.exists(&old).unwrap());
        let mut out = [0; 3];
        replaced.read_at(0, &mut out).unwrap();
        assert_eq!(&out, b"new");
        writer.write_at(3, b"er").unwrap();
        assert_eq!(read(fs, &new), b"older");

        let removed = fs.open(&new, ReadMode::Mmap).unwrap();
        fs.remove(&new).unwrap();
        assert!(!fs.exists(&new).unwrap());
        assert_eq!(removed.mapping().unwrap(), &b"older"[..]);
        writer.sync_data().unwrap();
    });
}

#[test]
fn rename_to_itself_changes_nothing_and_reaches_other_directories() {
    on_each(|fs, root| {
        let (file, dir) = (root.join("file"), root.join("dir"));
        write(fs, &file, b"1");
        fs.create_dir_all(&dir).unwrap();
        fs.rename(&file, &file).unwrap();
        fs.rename(&file, &dir.join("there")).unwrap();
        assert_eq!(read(fs, &dir.join("there")), b"1");
        fs.rename(&dir, &root.join("moved")).unwrap();
        assert_eq!(read(fs, &root.join("moved").join("there")), b"1");
        let below = root.join("moved").join("below");
        assert!(fs.rename(&root.join("moved"), &below).is_err());
    });
}

#[test]
fn listings_are_sorted_and_say_what_is_what() {
    on_each(|fs, root| {
        for (name, len) in [("b", 2), ("a", 1), ("B", 0)] {
            write(fs, &root.join(name), &vec![1; len]);
        }
        fs.create_dir_all(&root.join("c").join("d")).unwrap();
        let mut entries = fs.list(root).unwrap();
        entries[3].len = 0;
        let expected = [("B", false, 0), ("a", false, 1), ("b", false, 2), ("c", true, 0)];
        assert_eq!(entries, expected.map(|(n, dir, len)| DirEntry::new(n, dir, len)));
        assert_eq!(fs.list(&root.join("c")).unwrap().len(), 1);
    });
}

#[test]
fn directories_are_created_with_their_ancestors_again_and_again() {
    on_each(|fs, root| {
        let path = root.join("x").join("y").join("z");
        for _ in 0..2 {
            fs.create_dir_all(&path).unwrap();
        }
        fs.create_dir_all(&root.join("new").join("..").join("beside")).unwrap();
        assert!(fs.exists(&root.join("beside")).unwrap());
        fs.sync_dir(&path).unwrap();
        let crooked = root.join("x").join(".").join("y").join("..");
        let canonical = fs.canonical(root).unwrap().join("x");
        assert_eq!(fs.canonical(&crooked).unwrap(), canonical);
        assert!(canonical.is_absolute());
    });
}

#[test]
fn a_directory_is_locked_once_until_the_lock_is_dropped() {
    on_each(|fs, root| {
        let dir = root.join("db");
        fs.create_dir_all(&dir).unwrap();
        fs.create_dir_all(&root.join("other")).unwrap();
        let path = dir.join("LOCK");
        let lock = fs.lock(&path, LockMode::Exclusive).unwrap();
        assert!(fs.exists(&path).unwrap());
        for again in [path.clone(), root.join("other").join("..").join("db").join("LOCK")] {
            match fs.lock(&again, LockMode::Exclusive).unwrap_err() {
                Error::Locked { path } => assert_eq!(Some(path.as_path()), again.parent()),
                error => panic!("{error}"),
            }
        }
        let other = fs.lock(&root.join("other").join("LOCK"), LockMode::Exclusive).unwrap();
        drop(lock);
        let lock = fs.lock(&path, LockMode::Exclusive).unwrap();
        assert!(fs.lock(&path, LockMode::Exclusive).is_err());
        drop((lock, other));
        fs.lock(&path, LockMode::Exclusive).unwrap();
        let nowhere = root.join("nowhere").join("LOCK");
        assert!(fs.lock(&nowhere, LockMode::Exclusive).is_err());
        assert!(
            fs.lock(&nowhere, LockMode::Exclusive).unwrap_err().io_kind()
                == Some(io::ErrorKind::NotFound)
        );
    });
}

#[test]
#[cfg(unix)]
fn links_to_a_locked_directory_are_locked_too() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, link) = (temp.path().join("dir"), temp.path().join("link"));
    OsFs.create_dir_all(&dir).unwrap();
    std::os::unix::fs::symlink(&dir, &link).unwrap();
    let lock = OsFs.lock(&link.join("LOCK"), LockMode::Exclusive).unwrap();
    let again = OsFs.lock(&dir.join("LOCK"), LockMode::Exclusive);
    assert!(matches!(again, Err(Error::Locked { path }) if path == dir));
    drop(lock);
    OsFs.lock(&dir.join("LOCK"), LockMode::Exclusive).unwrap();
    OsFs.create_dir_all(&link).unwrap();
    assert_eq!(OsFs.canonical(&link).unwrap(), OsFs.canonical(&dir).unwrap());
}

#[test]
fn the_lock_is_one_that_other_processes_see() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("LOCK");
    // What is in the file means nothing.
    std::fs::write(&path, b"damaged").unwrap();
    let stranger = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    stranger.try_lock().unwrap();
    assert!(matches!(OsFs.lock(&path, LockMode::Exclusive), Err(Error::Locked { .. })));
    stranger.unlock().unwrap();
    let lock = OsFs.lock(&path, LockMode::Exclusive).unwrap();
    assert!(stranger.try_lock().is_err());
    drop(lock);
    stranger.try_lock_shared().unwrap();
    assert!(OsFs.lock(&path, LockMode::Exclusive).is_err());
    let lock = OsFs.lock(&path, LockMode::Shared).unwrap();
    assert!(stranger.try_lock().is_err());
    drop(lock);
    stranger.try_lock().unwrap();
    assert!(OsFs.lock(&path, LockMode::Shared).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"damaged");
}

#[test]
fn readers_share_a_lock_that_keeps_writers_out_and_creates_nothing() {
    on_each(|fs, root| {
        let dir = root.join("db");
        fs.create_dir_all(&dir).unwrap();
        let path = dir.join("LOCK");
        for exists in [false, true] {
            let first = fs.lock(&path, LockMode::Shared).unwrap();
            let second = fs.lock(&path, LockMode::Shared).unwrap();
            assert_eq!(fs.exists(&path).unwrap(), exists);
            for reader in [first, second] {
                let writer = fs.lock(&path, LockMode::Exclusive);
                assert!(matches!(writer, Err(Error::Locked { .. })), "{writer:?}");
                drop(reader);
            }
            let writer = fs.lock(&path, LockMode::Exclusive).unwrap();
            let reader = fs.lock(&path, LockMode::Shared);
            assert!(matches!(reader, Err(Error::Locked { .. })), "{reader:?}");
            drop(writer);
        }
        let nowhere = root.join("nowhere").join("LOCK");
        assert!(fs.lock(&nowhere, LockMode::Shared).is_err());
    });
}

#[test]
fn reserved_space_does_not_count_as_length() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("file");
    let file = OsFs.create(&path).unwrap();
    file.write_at(0, b"1").unwrap();
    file.reserve(0..1 << 20).unwrap();
    assert_eq!(read(&OsFs, &path), b"1");
    assert!(file.reserve(0..u64::MAX).is_err() || cfg!(not(target_os = "linux")));
}

#[test]
fn reserved_space_can_become_length_and_is_zeros() {
    on_each(|fs, root| {
        let path = root.join("file");
        let file = fs.create(&path).unwrap();
        if !file.reserve(0..1 << 20).unwrap() {
            return;
        }
        file.set_len(1 << 20).unwrap();
        file.sync_data().unwrap();
        file.prepare_overwrites(1 << 20);
        file.overwrite_at(70_000, b"stored").unwrap();
        assert_eq!(allocated(&path).unwrap_or(1 << 20) >> 20, 1);
        let content = read(fs, &path);
        assert_eq!((content.len(), &content[70_000..70_006]), (1 << 20, &b"stored"[..]));
        assert!(content[..70_000].iter().chain(&content[70_006..]).all(|byte| *byte == 0));
    });
}

/// Bytes of disk that a real file takes.
#[cfg(unix)]
fn allocated(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;

    std::fs::metadata(path).ok().map(|metadata| metadata.blocks() * 512)
}

#[cfg(not(unix))]
fn allocated(_: &Path) -> Option<u64> {
    None
}

#[test]
#[cfg(unix)]
fn listings_leave_out_names_that_are_no_text_and_follow_links() {
    use std::os::unix::ffi::OsStrExt;

    let temp = tempfile::tempdir().unwrap();
    let strange = std::ffi::OsStr::from_bytes(b"\xff.sst");
    std::fs::write(temp.path().join(strange), b"1").unwrap();
    std::fs::write(temp.path().join("file"), b"123").unwrap();
    std::os::unix::fs::symlink("file", temp.path().join("link")).unwrap();
    std::os::unix::fs::symlink("nothing", temp.path().join("loose")).unwrap();
    let entries = OsFs.list(temp.path()).unwrap();
    let names: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.len)).collect();
    assert_eq!(names, [("file", 3), ("link", 3), ("loose", 7)]);
}
