//! Tests of the log: what was written comes back, and nothing else does.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use super::writer::LogPosition;
use super::*;
use crate::base::batch::Batch;
use crate::base::batch::Op;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::ids::KeyspaceId;
use crate::base::options::Recovery;
use crate::base::seqno::SeqNo;
use crate::base::value::ValueKind;
use crate::fs::Fs;
use crate::fs::MemFs;
use crate::fs::ReadMode;
use crate::fs::names::wal_path;

mod crash;
mod damage;

const DB: DbId = DbId(0xdead_beef_0bad_cafe);
const SEGMENT: u64 = 4096;

/// A sequence number and the batch that has it.
type Written = (u64, Vec<u8>);

fn dir() -> &'static Path {
    Path::new("/db")
}

fn new_fs() -> MemFs {
    let fs = MemFs::new();
    fs.create_dir_all(dir()).unwrap();
    fs
}

/// A batch of `ops` operations, `n` of which can be told from all others.
fn batch(n: u64, ops: u64, value_len: usize) -> Batch {
    let mut batch = Batch::default();
    for op in 0..ops {
        batch.push(Op {
            kind: ValueKind::Put,
            keyspace: KeyspaceId(0),
            key: format!("{n}.{op}").as_bytes(),
            value: &vec![n as u8; value_len],
        });
    }
    batch
}

fn source(fs: &dyn Fs, mode: Recovery) -> LogSource<'_> {
    LogSource { fs, dir: dir(), db: DB, floor: FileId(0), durable: SeqNo::ZERO, mode }
}

fn recover_from(source: &LogSource<'_>) -> Result<(RecoveredLog, Vec<Written>)> {
    let mut written = Vec::new();
    let listing = source.fs.list(source.dir)?;
    let log = recover(source, &listing, &mut |records| {
        written.extend(records.iter().map(|r| (r.seqno.get(), r.payload.to_vec())));
        Ok(())
    })?;
    Ok((log, written))
}

fn recover_all(fs: &dyn Fs) -> Result<(RecoveredLog, Vec<Written>)> {
    recover_from(&source(fs, Recovery::Strict))
}

/// What the engine does with a log, without the locks.
struct Log {
    fs: Arc<dyn Fs>,
    writer: LogWriter,
    next_file: u64,
    next_seqno: u64,
    written: Vec<Written>,
}

impl Log {
    /// Recovers, and goes on where the log ends.
    fn open(fs: Arc<dyn Fs>) -> Result<Log> {
        let source = source(&*fs, Recovery::Strict);
        let (log, written) = recover_from(&source)?;
        let next_file = next_file(&*fs)?;
        let bytes = log.segment_bytes_for_reopen(SEGMENT);
        let prepared = prepare_segment(&*fs, dir(), FileId(next_file), bytes, space_of(next_file))?;
        let next_seqno = log.last_seqno.plus(1);
        let reopened = reopen(&source, &log, prepared, next_seqno)?;
        for id in &reopened.unused {
            fs.remove(&wal_path(dir(), *id))?;
        }
        Ok(Log {
            fs,
            writer: reopened.writer,
            next_file: next_file + 1,
            next_seqno: next_seqno.get(),
            written,
        })
    }

    fn put(&mut self, ops: u64, value_len: usize) -> LogPosition {
        self.try_put(ops, value_len).unwrap()
    }

    fn try_put(&mut self, ops: u64, value_len: usize) -> Result<LogPosition> {
        let mut batch = batch(self.next_seqno, ops, value_len);
        let seqno = SeqNo::new(self.next_seqno);
        let durable = self.durable();
        if !self.writer.room_for(batch.bytes().len()) {
            self.rotate(segment_bytes_for(batch.bytes().len(), SEGMENT))?;
        }
        self.written.push((self.next_seqno, batch.bytes().to_vec()));
        self.next_seqno += ops;
        // Some by the one way, some by the other.
        self.writer.push(seqno, durable, &mut batch, value_len.is_multiple_of(2))?;
        Ok(self.writer.end().position)
    }

    fn rotate(&mut self, bytes: u64) -> Result<()> {
        let id = FileId(self.next_file);
        self.next_file += 1;
        let prepared = prepare_segment(&*self.fs, dir(), id, bytes, space_of(id.0))?;
        prepared.map();
        let next = SeqNo::new(self.next_seqno);
        self.writer.start_segment(prepared, next, self.durable())
    }

    fn sync(&mut self) -> Result<()> {
        let task = self.writer.begin_sync();
        task.run()?;
        self.writer.finish_sync(&task);
        Ok(())
    }

    fn durable(&self) -> SeqNo {
        self.writer.queue().durable().seqno
    }
}

/// Some get their space in one way, some in the other.
fn space_of(id: u64) -> Space {
    if id.is_multiple_of(2) { Space::Written } else { Space::Reserved }
}

fn next_file(fs: &dyn Fs) -> Result<u64> {
    let names = fs.list(dir())?;
    let ids = names.iter().filter_map(|entry| entry.name.strip_suffix(".wal"));
    Ok(ids.map(|id| id.parse::<u64>().unwrap()).max().unwrap_or(0) + 1)
}

fn read(fs: &MemFs, id: u64) -> Vec<u8> {
    let file = fs.open(&wal_path(dir(), FileId(id)), ReadMode::Pread).unwrap();
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Puts a file of these bytes in the place of segment `id`.
fn replace(fs: &MemFs, id: u64, bytes: &[u8]) {
    let path = wal_path(dir(), FileId(id));
    if fs.exists(&path).unwrap() {
        fs.remove(&path).unwrap();
    }
    fs.create(&path).unwrap().write_at(0, bytes).unwrap();
}

/// The file and offset that the error names.
fn place(error: Error) -> (PathBuf, u64) {
    match error {
        Error::Corruption { file, offset, .. } => (file, offset),
        other => panic!("{other}"),
    }
}

#[test]
fn an_empty_directory_is_an_empty_log() {
    let fs = new_fs();
    assert_eq!(recover_all(&fs).unwrap(), (RecoveredLog::default(), vec![]));
}

#[test]
fn a_chain_of_segments_replays_in_order() {
    let fs = new_fs();
    let mut log = Log::open(Arc::new(fs.clone())).unwrap();
    for n in 0..60 {
        log.put(1 + n % 3, 200);
        if n % 7 == 0 {
            log.sync().unwrap();
        }
    }
    let (recovered, written) = recover_all(&fs).unwrap();
    assert!(recovered.segments.len() >= 3);
    assert_eq!(written, log.written);
    assert_eq!(recovered.last_seqno.get(), log.next_seqno - 1);
    assert_eq!((recovered.given_up, recovered.dropped), (None, vec![]));
    let last = recovered.segments.last().unwrap();
    assert_eq!(recovered.tail, Some((last.id, last.end)));
    for pair in recovered.segments.windows(2) {
        assert_eq!(pair[0].last_seqno.plus(1), pair[1].first_seqno);
    }

    // From a floor on, only that part.
    let floor = recovered.segments[1];
    let mut source = source(&fs, Recovery::Strict);
    source.floor = floor.id;
    let (tail, written) = recover_from(&source).unwrap();
    assert_eq!(tail.segments, recovered.segments[1..]);
    assert_eq!(tail.debris, [recovered.segments[0].id]);
    let from = log.written.partition_point(|(seqno, _)| *seqno < floor.first_seqno.get());
    assert_eq!(written, log.written[from..]);
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_of_its_own() {
    let fs = new_fs();
    let mut log = Log::open(Arc::new(fs.clone())).unwrap();
    log.put(1, 10);
    log.put(3, 5000);
    log.put(1, 10);
    log.sync().unwrap();
    assert_eq!(recover_all(&fs).unwrap().1, log.written);
    drop(log);
    let log = Log::open(Arc::new(fs.clone())).unwrap();
    assert_eq!(log.written.len(), 3);
}

#[test]
fn positions_grow_and_syncs_cover_what_was_written_before_them() {
    let fs = new_fs();
    let mut log = Log::open(Arc::new(fs)).unwrap();
    let first = log.put(2, 10);
    let second = log.put(1, 10);
    assert!(first < second);
    let written = log.writer.queue().written();
    assert_eq!((written.position, written.seqno.get()), (second, 3));
    let task = log.writer.begin_sync();
    let third = log.put(1, 10);
    task.run().unwrap();
    assert_eq!(log.writer.finish_sync(&task).position, second);
    // The segment was written to after the task began.
    assert_eq!(log.writer.begin_sync().mark().position, third);
    assert!(!log.writer.queue().is_synced());
    log.sync().unwrap();
    assert_eq!(log.writer.queue().durable().position, third);
    assert!(log.writer.queue().is_synced());
}

#[test]
fn segments_that_the_log_has_left_are_synced_apart() {
    let mut log = Log::open(Arc::new(new_fs())).unwrap();
    log.put(1, 10);
    assert!(log.writer.begin_sync_of_ended().is_none());
    let in_first = log.writer.begin_sync();
    let mut ends = vec![log.writer.end()];
    while ends.len() < 3 {
        let before = log.writer.end();
        let id = log.next_file;
        log.put(1, 1000);
        if log.next_file > id {
            ends.push(before);
        }
    }
    let task = log.writer.begin_sync_of_ended().unwrap();
    assert_eq!(task.mark(), ends[2]);
    // An older sync that ends later takes nothing back.
    task.run().unwrap();
    let written = log.put(1, 10);
    assert_eq!(log.writer.finish_sync(&task), ends[2]);
    assert_eq!(log.writer.finish_sync(&in_first), ends[2]);
    assert!(log.writer.begin_sync_of_ended().is_none());
    assert_eq!(log.writer.begin_sync().mark().position, written);
    log.sync().unwrap();
    assert!(log.writer.queue().is_synced());
}

#[test]
fn stale_records_of_a_recycled_segment_never_replay() {
    let fs = new_fs();
    let mut log = Log::open(Arc::new(fs.clone())).unwrap();
    for _ in 0..3 {
        log.put(1, 1000);
    }
    log.sync().unwrap();
    let old = FileId(1);
    let new = FileId(log.next_file);
    assert!(recycle_segment(&fs, dir(), FileId(77), new, SEGMENT).unwrap().is_none());
    assert!(recycle_segment(&fs, dir(), old, new, SEGMENT + 1).unwrap().is_none());
    let stale = read(&fs, 1);
    let prepared = recycle_segment(&fs, dir(), old, new, SEGMENT).unwrap().unwrap();
    assert_eq!(read(&fs, new.0), stale);

    // Not started: ignored.
    let (recovered, written) = recover_all(&fs).unwrap();
    assert_eq!((recovered.debris, written), (vec![new], vec![]));

    // Started: its own records only, though old ones follow.
    let mut writer = LogWriter::new(DB, SeqNo::new(4));
    writer.start_segment(prepared, SeqNo::new(4), SeqNo::new(3)).unwrap();
    let mut own = batch(4, 1, 1000);
    writer.push(SeqNo::new(4), SeqNo::new(3), &mut own, false).unwrap();
    let (recovered, written) = recover_all(&fs).unwrap();
    assert_eq!(written, [(4, own.bytes().to_vec())]);
    assert_eq!(recovered.given_up, None);
}

#[test]
fn a_log_that_ends_among_many_stale_records_is_whole() {
    const LARGE: u64 = 1 << 20;
    let fs = new_fs();
    let mut old = LogWriter::new(DB, SeqNo::new(1));
    let prepared = prepare_segment(&fs, dir(), FileId(1), LARGE, Space::Written).unwrap();
    old.start_segment(prepared, SeqNo::new(1), SeqNo::ZERO).unwrap();
    let mut seqno = 1;
    while let mut batch = batch(seqno, 1, 80 + seqno as usize % 40)
        && old.room_for(batch.bytes().len())
    {
        old.push(SeqNo::new(seqno), SeqNo::ZERO, &mut batch, false).unwrap();
        seqno += 1;
    }

    // Recycled, and a few records into its new life.
    let prepared = recycle_segment(&fs, dir(), FileId(1), FileId(2), LARGE).unwrap().unwrap();
    assert_eq!(recover_all(&fs).unwrap().0.given_up, None);
    let mut new = LogWriter::new(DB, SeqNo::new(seqno));
    new.start_segment(prepared, SeqNo::new(seqno), SeqNo::new(seqno - 1)).unwrap();
    for n in 0..3 {
        let mut batch = batch(seqno + n, 1, 50);
        new.push(SeqNo::new(seqno + n), SeqNo::new(seqno - 1), &mut batch, false).unwrap();
    }
    let (recovered, written) = recover_all(&fs).unwrap();
    assert_eq!((recovered.given_up, written.len()), (None, 3));
}
