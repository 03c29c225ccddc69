//! What fails, and with which effect.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::fs::CrashMode;
use crate::fs::FaultEffect;
use crate::fs::FaultError;
use crate::fs::FaultFs;
use crate::fs::FaultOp;
use crate::fs::FaultRule;
use crate::fs::Fs;
use crate::fs::LockMode;
use crate::fs::MemFs;
use crate::fs::ReadMode;
use crate::fs::ReadableFile;
use crate::fs::WritableFile;
use crate::fs::fault::FaultReadable;
use crate::fs::fault::FaultWritable;

fn new() -> (FaultFs, MemFs) {
    let mem = MemFs::new();
    (FaultFs::new(Arc::new(mem.clone())), mem)
}

/// Calls everything once, and says what failed.
fn call_everything(fs: &FaultFs, dir: &Path) -> Vec<FaultOp> {
    let mut failed = Vec::new();
    let mut note = |op, result: Result<()>| failed.extend(result.err().map(|_| op));
    note(FaultOp::CreateDir, fs.create_dir_all(dir));
    fs.inner.create_dir_all(dir).unwrap();
    let path = dir.join("file");
    note(FaultOp::Create, fs.create(&path).map(drop));
    drop(fs.inner.create(&path));
    note(FaultOp::OpenWritable, fs.open_writable(&path).map(drop));
    let file = FaultWritable {
        inner: fs.inner.open_writable(&path).unwrap(),
        path: path.clone(),
        faults: Arc::clone(&fs.faults),
    };
    note(FaultOp::Write, file.write_at(0, b"12"));
    note(FaultOp::SyncData, file.sync_data());
    note(FaultOp::WriteBack, file.write_back(0..2));
    note(FaultOp::SetLen, file.set_len(2));
    note(FaultOp::Reserve, file.reserve(0..2).map(drop));
    note(FaultOp::Open, fs.open(&path, ReadMode::Pread).map(drop));
    let file = FaultReadable {
        inner: fs.inner.open(&path, ReadMode::Pread).unwrap(),
        path: path.clone(),
        faults: Arc::clone(&fs.faults),
    };
    note(FaultOp::Read, file.read_at(0, &mut [0]));
    note(FaultOp::Exists, fs.exists(&path).map(drop));
    note(FaultOp::List, fs.list(dir).map(drop));
    note(FaultOp::Lock, fs.lock(&dir.join("LOCK"), LockMode::Exclusive).map(drop));
    note(FaultOp::SyncDir, fs.sync_dir(dir));
    let other = dir.join("other");
    note(FaultOp::Rename, fs.rename(&path, &other));
    drop(fs.inner.rename(&path, &other));
    note(FaultOp::Remove, fs.remove(&other));
    failed
}

#[test]
fn exactly_the_calls_that_were_meant_fail() {
    for (index, op) in FaultOp::ALL.into_iter().enumerate() {
        assert_eq!(op as usize, index);
        let (fs, _) = new();
        let dirs = ["/a", "/b", "/c"].map(Path::new);
        fs.inject(FaultRule::new(op, FaultError::EIO).nth(1));
        let failed = dirs.map(|dir| call_everything(&fs, dir));
        assert_eq!(failed, [vec![], vec![op], vec![]]);
        assert_eq!((fs.calls(op), fs.injected()), (3, 1));
    }
}

#[test]
fn rules_last_until_cleared_and_choose_by_path() {
    let (fs, _) = new();
    fs.create_dir_all(Path::new("/db")).unwrap();
    let rule = FaultRule::new(FaultOp::Create, FaultError::ENOSPC).nth(1).forever();
    fs.inject(rule.path_contains(".sst"));
    let create = |name: &str| fs.create(&Path::new("/db").join(name)).map(drop);
    create("1.wal").unwrap();
    create("1.sst").unwrap();
    create("2.wal").unwrap();
    for _ in 0..2 {
        let error = create("2.sst").unwrap_err();
        assert_eq!(error.io_kind(), Some(io::ErrorKind::StorageFull));
        assert!(error.to_string().starts_with("cannot create /db/2.sst: "), "{error}");
    }
    assert!(!fs.exists(Path::new("/db/2.sst")).unwrap());
    fs.clear();
    create("2.sst").unwrap();
    fs.inject(FaultRule::new(FaultOp::Rename, FaultError::EMFILE).path_contains("new"));
    let error = fs.rename(Path::new("/db/1.sst"), Path::new("/db/new"));
    assert!(matches!(
        error, Err(Error::Io { source, .. }) if source.raw_os_error() == Some(24)
    ));
}

#[test]
fn effects_are_seen() {
    let (fs, mem) = new();
    let path = Path::new("/file");
    let file = fs.create(path).unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    let fail = |op, effect| fs.inject(FaultRule::new(op, FaultError::EIO).effect(effect));
    let content = |mode| {
        let file = mem.crash_clone(mode, 0).open(path, ReadMode::Mmap).unwrap();
        file.mapping().cloned().unwrap_or_default()
    };
    fail(FaultOp::Write, FaultEffect::ShortWriteThenFail);
    file.write_at(0, b"12345678").unwrap_err();
    assert_eq!(content(CrashMode::KeepAll), &b"1234"[..]);
    fail(FaultOp::SyncData, FaultEffect::Fail);
    file.sync_data().unwrap_err();
    assert_eq!(content(CrashMode::Strict), &b""[..]);
    fail(FaultOp::SyncData, FaultEffect::FailAfterDoing);
    file.sync_data().unwrap_err();
    assert_eq!(content(CrashMode::Strict), &b"1234"[..]);
    fail(FaultOp::Write, FaultEffect::FailAfterDoing);
    file.write_at(0, b"abcd").unwrap_err();
    fail(FaultOp::SyncData, FaultEffect::SyncFailsAndDropsPages);
    file.sync_data().unwrap_err();
    file.sync_data().unwrap();
    assert_eq!(content(CrashMode::KeepAll), &b"abcd"[..]);
    assert_eq!(content(CrashMode::Strict), &b"1234"[..]);
    fail(FaultOp::Rename, FaultEffect::FailAfterDoing);
    fs.rename(path, Path::new("/moved")).unwrap_err();
    assert!(mem.exists(Path::new("/moved")).unwrap());
    assert_eq!(fs.injected(), 6);
}
