//! The log's part of a repair: every operation that still reads, of each key the newest put or delete
//! staying, and the merge operands behind it.
//!
//! Whether an operation of the log or an entry of an SST is newer is decided when they are merged.
//! Until then operations lie in keyspaces of the new database, each with its trailer and its length,
//! those of a key in a row: so a log of any length needs no more memory than the database has.

use std::path::Path;

use crate::api::batch::WriteBatch;
use crate::api::db::Db;
use crate::api::keyspace::Keyspace;
use crate::api::options::KeyspaceOptions;
use crate::base::batch::Ops;
use crate::base::coding::Decoder;
use crate::base::coding::put_bytes;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::ids::KeyspaceId;
use crate::base::key::Trailer;
use crate::base::key::VALUE_LEN_MAX;
use crate::base::operators::Append;
use crate::base::options::Recovery;
use crate::base::range_tombstone::end_of;
use crate::base::seqno::SeqNo;
use crate::base::sorted::SortedMap;
use crate::base::spans::SpanEnd;
use crate::base::value::ValueKind;
use crate::fs::DirEntry;
use crate::fs::names::wal_path;
use crate::repair::BATCH_BYTES;
use crate::repair::Repair;
use crate::repair::report::Loss;
use crate::wal;
use crate::wal::LogRecord;
use crate::wal::LogSource;

const HOLES: &str = "the log is damaged, and what is behind the damage is taken all the same: \
                     later batches are there though earlier ones are not";

/// The keyspaces that hold what the log gave.
#[derive(Default)]
pub(super) struct Staged {
    keyspaces: SortedMap<KeyspaceId, Keyspace>,
    /// Range tombstones.
    ranges: SortedMap<KeyspaceId, Vec<RangeTombstone>>,
}

/// First key, end, and sequence number.
pub(super) type RangeTombstone = (Vec<u8>, SpanEnd, SeqNo);

impl Staged {
    /// Those with entries.
    pub(super) fn keyspaces(&self) -> impl Iterator<Item = KeyspaceId> {
        self.keyspaces.keys().copied()
    }

    /// The range tombstones of a keyspace.
    pub(super) fn ranges(&self, id: KeyspaceId) -> &[RangeTombstone] {
        self.ranges.get(&id).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn keyspace(&self, id: KeyspaceId) -> Option<&Keyspace> {
        self.keyspaces.get(&id)
    }

    pub(super) fn drop_all(self, db: &Db) -> Result<()> {
        self.keyspaces.values().try_for_each(|keyspace| db.drop_keyspace(keyspace.name()))
    }
}

/// What a staged operation takes beside its value, at most.
const STAGED_ROOM: usize = 18;

/// Trailers and values of the staged operations of a key, in the order of the log.
pub(super) fn unpack(staged: &[u8]) -> Result<Vec<(Trailer, Vec<u8>)>> {
    let mut decoder = Decoder::new(staged);
    let mut operations = Vec::new();
    while !decoder.is_empty() {
        let operation = decoder.u64().and_then(|trailer| Ok((trailer, decoder.bytes()?)));
        let (trailer, value) = operation.map_err(|bad| Error::internal(bad.0))?;
        operations.push((Trailer(trailer), value.to_vec()));
    }
    Ok(operations)
}

impl Repair<'_> {
    /// Puts the log into keyspaces that are dropped in the end.
    pub(super) fn stage_log(&mut self, listing: &[DirEntry]) -> Result<Staged> {
        let mut staged = Staged::default();
        if self.is_log_whole(listing) {
            self.stage_whole(listing, &mut staged)?;
        } else {
            self.stage_pieces(listing, &mut staged)?;
        }
        Ok(staged)
    }

    fn source<'a>(&self, fs: &'a dyn crate::fs::Fs, dir: &'a Path) -> LogSource<'a> {
        LogSource {
            fs,
            dir,
            db: self.inventory.db.unwrap_or_default(),
            floor: self.inventory.floor,
            durable: self.inventory.durable_behind(SeqNo::ZERO).unwrap_or_default(),
            mode: Recovery::Strict,
        }
    }

    /// Would the database open with this log? Then it counts for what recovery makes of it.
    fn is_log_whole(&self, listing: &[DirEntry]) -> bool {
        let source = self.source(self.fs.as_ref(), &self.dir);
        self.inventory.is_proven && wal::recover(&source, listing, &mut |_| Ok(())).is_ok()
    }

    fn stage_whole(&mut self, listing: &[DirEntry], staged: &mut Staged) -> Result<()> {
        let (fs, dir) = (self.fs.clone(), self.dir.clone());
        let source = self.source(fs.as_ref(), &dir);
        let log = wal::recover(&source, listing, &mut |records| self.stage(records, staged))?;
        self.report.files += log.segments.len() as u64;
        Ok(())
    }

    fn stage_pieces(&mut self, listing: &[DirEntry], staged: &mut Staged) -> Result<()> {
        let (fs, dir) = (self.fs.clone(), self.dir.clone());
        let (db, floor) = (self.inventory.db, self.inventory.floor);
        let found = wal::find_segments(fs.as_ref(), &dir, db, floor, listing);
        for (path, error) in &found.unusable {
            self.report.lose_file(path, 0, error);
            self.report.remark(HOLES);
        }
        if self.inventory.is_proven
            && floor != FileId(0)
            && found.segments.iter().all(|segment| segment.id != floor)
        {
            self.lose_segment(&wal_path(&dir, floor));
        }
        let Some(db) = found.db else { return Ok(()) };
        let mut last = SeqNo::ZERO;
        for (n, segment) in found.segments.iter().enumerate() {
            self.note_missing(&found, n, &dir);
            last = last.max(self.stage_segment(db, segment, staged)?);
        }
        if let Some(durable) = self.inventory.durable_behind(last)
            && self.inventory.is_proven
        {
            let what = format!(
                "the log ends at sequence number {last}, and went on to {durable} at least"
            );
            let file = found.segments.last().map_or_else(|| dir.clone(), |s| wal_path(&dir, s.id));
            self.report.lose(Loss { file, what, ..Loss::default() });
            self.report.remark(HOLES);
        }
        Ok(())
    }

    /// The segment in front of the n-th one may be gone.
    fn note_missing(&mut self, found: &wal::FoundLog, n: usize, dir: &Path) {
        let Some(segment) = found.segments.get(n) else { return };
        let floor = self.inventory.floor;
        let Some(prev) = segment.prev().filter(|prev| *prev >= floor && segment.id != floor) else {
            return;
        };
        // Without a whole manifest it is not known where the log begins.
        let is_first = n == 0 && !self.inventory.is_proven;
        if !is_first && found.segments.iter().all(|other| other.id != prev) {
            self.lose_segment(&wal_path(dir, prev));
        }
    }

    fn lose_segment(&mut self, file: &Path) {
        if self.report.losses.iter().all(|loss| loss.file != file) {
            let (file, what) = (file.to_owned(), "the file is missing".to_owned());
            self.report.files_unreadable += 1;
            self.report.lose(Loss { file, what, ..Loss::default() });
            self.report.remark(HOLES);
        }
    }

    /// Returns the last sequence number in the segment.
    fn stage_segment(
        &mut self,
        db: DbId,
        segment: &wal::FoundSegment,
        staged: &mut Staged,
    ) -> Result<SeqNo> {
        let file = wal_path(&self.dir, segment.id);
        let salvaged = match wal::salvage_segment(self.fs.as_ref(), &self.dir, db, segment) {
            Ok(salvaged) => salvaged,
            Err(error) => {
                self.report.lose_file(&file, 0, &error);
                self.report.remark(HOLES);
                return Ok(SeqNo::ZERO);
            }
        };
        let is_used = segment.is_started() || !salvaged.records.is_empty();
        if !is_used {
            return Ok(SeqNo::ZERO);
        }
        self.report.files += 1;
        if !segment.is_started() {
            let what = "its header is damaged".to_owned();
            self.report.lose(Loss { file: file.clone(), what, ..Loss::default() });
        }
        for gap in &salvaged.gaps {
            self.report.lose(Loss {
                file: file.clone(),
                offset: gap.start,
                bytes: gap.end - gap.start,
                what: "no record that verifies".to_owned(),
                keys: None,
            });
            self.report.remark(HOLES);
        }
        self.stage(&salvaged.records, staged)?;
        self.done += salvaged.end;
        Ok(salvaged.last_seqno().unwrap_or_default())
    }

    fn stage<P: AsRef<[u8]>>(
        &mut self,
        records: &[LogRecord<P>],
        staged: &mut Staged,
    ) -> Result<()> {
        let mut batch = WriteBatch::new();
        for record in records {
            self.report.batches += 1;
            for (seqno, op) in (record.seqno.get()..).zip(Ops::new(record.payload.as_ref())) {
                let op = op.map_err(|bad| Error::internal(bad.0))?;
                let seqno = SeqNo::new(seqno);
                if !self.inventory.wants(op.keyspace, seqno) {
                    continue;
                }
                if op.kind == ValueKind::DeleteRange {
                    let to = end_of(op.value).map(<[u8]>::to_vec);
                    let ranges = staged.ranges.get_or_insert_with(op.keyspace, Vec::new);
                    ranges.push((op.key.to_vec(), to, seqno));
                    continue;
                }
                if op.value.len() > VALUE_LEN_MAX - STAGED_ROOM {
                    let what = "a value of the greatest length there is cannot be taken".to_owned();
                    self.report.lose(Loss { what, ..Loss::default() });
                    continue;
                }
                let keyspace = self.staging(op.keyspace, staged)?;
                let mut staged = Vec::with_capacity(op.value.len() + STAGED_ROOM);
                staged.extend_from_slice(&Trailer::new(seqno, op.kind).0.to_le_bytes());
                put_bytes(&mut staged, op.value);
                if op.kind == ValueKind::Merge {
                    batch.merge(&keyspace, op.key, &staged);
                } else {
                    batch.put(&keyspace, op.key, &staged);
                }
            }
            if batch.bytes() >= BATCH_BYTES {
                self.db.write(std::mem::take(&mut batch))?;
                (self.progress)(self.done.min(self.total), self.total);
            }
        }
        self.db.write(batch)
    }

    fn staging(&self, id: KeyspaceId, staged: &mut Staged) -> Result<Keyspace> {
        if let Some(keyspace) = staged.keyspaces.get(&id) {
            return Ok(keyspace.clone());
        }
        let name = self.inventory.free_name(format!("esker.repair.{}", id.0));
        let in_a_row = KeyspaceOptions::new().merge_operator(Append::new(""));
        let keyspace = self.db.keyspace_with(&name, in_a_row)?;
        staged.keyspaces.insert(id, keyspace.clone());
        Ok(keyspace)
    }
}
