//! A blob file of a version: what the manifest says of it, and its reader, opened when first needed.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use crate::base::blob::BlobHandle;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::slice::Slice;
use crate::blob::BlobExpectation;
use crate::blob::BlobReader;
use crate::blob::HEADER_LEN;
use crate::blob::scan;
use crate::fs::ReadMode;
use crate::fs::names::blob_path;
use crate::manifest::BlobMeta;
use crate::version::sst_file::SstOpener;

/// A blob file that a version has. Shared by all versions that do.
#[derive(Debug)]
pub(crate) struct BlobFile {
    pub(crate) meta: BlobMeta,
    opener: Arc<SstOpener>,
    reader: OnceLock<BlobReader>,
    damaged: AtomicBool,
}

impl BlobFile {
    pub(crate) fn new(meta: BlobMeta, opener: Arc<SstOpener>) -> BlobFile {
        BlobFile { meta, opener, reader: OnceLock::new(), damaged: AtomicBool::new(false) }
    }

    pub(crate) fn path(&self) -> PathBuf {
        blob_path(&self.opener.dir, self.meta.id)
    }

    /// Bytes of its records.
    pub(crate) fn record_bytes(&self) -> u64 {
        self.meta.bytes.saturating_sub(HEADER_LEN)
    }

    /// Was anything in it found damaged since the database was opened?
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Relaxed)
    }

    /// The reader, opened at the first call. Two first callers may both open the file; one of the
    /// two readers is kept.
    fn reader(&self) -> Result<&BlobReader> {
        if let Some(reader) = self.reader.get() {
            return Ok(reader);
        }
        let reader = self.open(self.opener.mode)?;
        Ok(self.reader.get_or_init(|| reader))
    }

    fn open(&self, mode: ReadMode) -> Result<BlobReader> {
        let BlobMeta { id, bytes, uid, .. } = self.meta;
        let file =
            self.opener.fs.open(&self.path(), mode).map_err(|error| match error.io_kind() {
                Some(io::ErrorKind::NotFound) => {
                    Error::corruption(&self.path(), 0, "the file is missing")
                }
                _ => error,
            })?;
        BlobReader::open(file, self.path(), Some(BlobExpectation { id, bytes, uid }))
    }

    /// The value of `key`, whose entry has `handle`. Requires: a handle to this file.
    pub(crate) fn fetch(&self, key: &[u8], handle: BlobHandle) -> Result<Slice> {
        let fetched = self.reader().and_then(|reader| reader.get(key, handle));
        if let Err(Error::Corruption { .. }) = &fetched {
            self.damaged.store(true, Relaxed);
        }
        fetched
    }

    /// Tells the system that the value will be wanted soon.
    pub(crate) fn will_need(&self, handle: BlobHandle) {
        if let Ok(reader) = self.reader() {
            reader.will_need(handle);
        }
    }

    /// Reads every byte and checks it.
    pub(crate) fn verify(&self) -> Result<()> {
        let file = self.opener.fs.open(&self.path(), ReadMode::Sequential)?;
        let reader = self.open(ReadMode::Sequential)?;
        let values = scan(&reader, file.as_ref(), |_, _, _, _| Ok(()))?;
        if values != self.meta.values {
            let what = format!("it has {values} values instead of {}", self.meta.values);
            return Err(Error::corruption(&self.path(), 0, what));
        }
        Ok(())
    }
}
