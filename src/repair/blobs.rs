//! Values that lie apart: fetched from what is left of the blob files.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::blob::BlobHandle;
use crate::base::coding::Malformed;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::key::Trailer;
use crate::base::slice::Slice;
use crate::base::sorted::SortedMap;
use crate::base::value::EXPIRY_LEN;
use crate::base::value::ValueKind;
use crate::blob::BlobReader;
use crate::fs::Fs;
use crate::fs::ReadMode;
use crate::fs::names::blob_path;
use crate::repair::report::Loss;
use crate::repair::report::RepairReport;

/// So many files are open at once, at most.
const OPEN_MAX: usize = 64;

/// The blob files of a damaged database.
pub(super) struct BlobFiles {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    db: Option<DbId>,
    /// The identities that the manifest gives.
    uids: SortedMap<FileId, u64>,
    open: SortedMap<FileId, BlobReader>,
    /// Files that were open before, and those that cannot be opened.
    known: SortedMap<FileId, bool>,
}

impl BlobFiles {
    pub(super) fn new(
        fs: Arc<dyn Fs>,
        dir: &Path,
        db: Option<DbId>,
        uids: SortedMap<FileId, u64>,
    ) -> BlobFiles {
        let (open, known) = (SortedMap::new(), SortedMap::new());
        BlobFiles { fs, dir: dir.to_owned(), db, uids, open, known }
    }

    /// The entry with its value in place of its handle, if it has one; nothing if that is lost.
    pub(super) fn resolve(
        &mut self,
        user: &[u8],
        (trailer, stored): (Trailer, &[u8]),
        report: &mut RepairReport,
    ) -> Option<(Trailer, Vec<u8>)> {
        let Some(kind) = trailer.kind().filter(|kind| kind.is_apart()) else {
            return Some((trailer, stored.to_vec()));
        };
        let at = if kind.expires() { EXPIRY_LEN } else { 0 };
        let (expiry, bytes) = stored.split_at_checked(at)?;
        let value = self.fetch(user, bytes, report)?;
        let kind = if kind.expires() { ValueKind::Expiring } else { ValueKind::Put };
        Some((Trailer::new(trailer.seqno(), kind), [expiry, &value].concat()))
    }

    fn fetch(&mut self, user: &[u8], bytes: &[u8], report: &mut RepairReport) -> Option<Slice> {
        let keys = Some((user.to_vec(), user.to_vec()));
        let handle = match BlobHandle::decode(bytes) {
            Ok(handle) => handle,
            Err(Malformed(what)) => {
                let (file, what) = (self.dir.clone(), what.to_owned());
                report.lose(Loss { file, what, keys, ..Loss::default() });
                return None;
            }
        };
        let bytes = u64::from(handle.len);
        let reader = match self.reader(handle.file, report) {
            Ok(reader) => reader?,
            Err(error) => {
                report.lose_file(&blob_path(&self.dir, handle.file), bytes, &error);
                return None;
            }
        };
        match reader.get(user, handle) {
            Ok(value) => Some(value),
            Err(error) => {
                let what = match error {
                    Error::Corruption { what, .. } => what,
                    error => error.to_string(),
                };
                let (file, offset) = (reader.path().to_owned(), handle.offset);
                report.lose(Loss { file, offset, bytes, what, keys });
                None
            }
        }
    }

    /// The file, unless it was found before that it cannot be opened.
    fn reader(&mut self, id: FileId, report: &mut RepairReport) -> Result<Option<&BlobReader>> {
        if self.known.get(&id) == Some(&false) {
            report.remark(LOST);
            return Ok(None);
        }
        if !self.open.contains_key(&id) {
            let opened = self.open_file(id);
            let first = self.known.insert(id, opened.is_ok()).is_none();
            let reader = opened?;
            report.files += u64::from(first);
            if self.open.len() >= OPEN_MAX {
                self.open.clear();
            }
            self.open.insert(id, reader);
        }
        Ok(self.open.get(&id))
    }

    fn open_file(&self, id: FileId) -> Result<BlobReader> {
        let path = blob_path(&self.dir, id);
        let file = self.fs.open(&path, ReadMode::Pread)?;
        let reader = BlobReader::open(file, path.clone(), None)?;
        let header = reader.header();
        let [uid, ..] = header.extra;
        let is_own = header.file == id
            && self.db.is_none_or(|db| db == header.db)
            && self.uids.get(&id).is_none_or(|known| *known == uid);
        if is_own { Ok(reader) } else { Err(Error::corruption(&path, 0, "it is another file")) }
    }
}

const LOST: &str = "all values in blob files that cannot be read are lost";
