//! Writes one blob file.

use crate::base::blob::BlobHandle;
use crate::base::compression::Compression;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::ids::KeyspaceId;
use crate::base::key::KEY_LEN_MAX;
use crate::base::key::VALUE_LEN_MAX;
use crate::base::planted::Planted;
use crate::blob::FORMAT;
use crate::blob::record;
use crate::fs::Growth;
use crate::fs::WritableFile;
use crate::record::header::FileHeader;

/// Bytes are handed to the file in pieces of at least this size.
const WRITE_LEN: usize = 256 * 1024;

/// What a finished file is, for the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlobSummary {
    pub(crate) id: FileId,
    /// Length of the file.
    pub(crate) bytes: u64,
    pub(crate) uid: u64,
    pub(crate) values: u64,
    /// Bytes of keys and values, uncompressed.
    pub(crate) raw_bytes: u64,
}

/// Writes one blob file. One whose writer failed, or was dropped before [`BlobWriter::finish`], is
/// garbage for the caller to remove.
#[derive(Debug)]
pub(crate) struct BlobWriter {
    file: Box<dyn WritableFile>,
    compression: Compression,
    /// Not yet handed to the file, and where it belongs.
    out: Vec<u8>,
    out_at: u64,
    growth: Growth,
    packed: Vec<u8>,
    summary: BlobSummary,
}

impl BlobWriter {
    /// A writer of the empty file `file`, number `id` of the database `db`. `uid` is a random number
    /// that no other file has.
    pub(crate) fn new(
        file: Box<dyn WritableFile>,
        (db, keyspace, id): (DbId, KeyspaceId, FileId),
        uid: u64,
        compression: Compression,
    ) -> BlobWriter {
        let header = FileHeader { db, file: id, extra: [uid, u64::from(keyspace.0), 0, 0] };
        BlobWriter {
            file,
            compression,
            out: header.encode(FORMAT),
            out_at: 0,
            growth: Growth::default(),
            packed: Vec::new(),
            summary: BlobSummary { id, bytes: 0, uid, values: 0, raw_bytes: 0 },
        }
    }

    /// As `SstWriter::reserve`.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Result<()> {
        debug_assert_eq!(self.out_at, 0);
        self.growth.reserve(&*self.file, bytes)
    }

    /// Length of the file so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.out_at + self.out.len() as u64
    }

    /// Appends the value of `key`.
    ///
    /// # Errors
    /// `Io`; `Internal` if key or value exceed their limits.
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<BlobHandle> {
        if key.len() > KEY_LEN_MAX || value.len() > VALUE_LEN_MAX {
            return Err(Error::internal("a value is too large for a blob file"));
        }
        let offset = self.bytes();
        let place = (self.summary.uid, offset);
        record::append(&mut self.out, &mut self.packed, place, self.compression, key, value);
        let len = self.bytes() - offset;
        self.summary.values += 1;
        self.summary.raw_bytes += (key.len() + value.len()) as u64;
        if self.out.len() >= WRITE_LEN {
            self.write_out()?;
        }
        let (len, value_len) = (len as u32, value.len() as u32);
        Ok(BlobHandle { file: self.summary.id, offset, len, value_len })
    }

    fn write_out(&mut self) -> Result<()> {
        self.file.write_at(self.out_at, &self.out)?;
        self.out_at = self.bytes();
        self.out.clear();
        self.growth.wrote(&*self.file, self.out_at)
    }

    /// Writes the rest of the file and makes it durable. (That its name is, too, is up to the
    /// caller: `Fs::sync_dir`.)
    pub(crate) fn finish(mut self) -> Result<BlobSummary> {
        self.write_out()?;
        // Gives back what was reserved behind the end.
        self.file.set_len(self.out_at)?;
        if !Planted::BlobNotSynced.is_on() {
            self.file.sync_data()?;
        }
        Ok(BlobSummary { bytes: self.out_at, ..self.summary })
    }
}
