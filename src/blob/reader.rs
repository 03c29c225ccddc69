//! Reads values of one blob file by their handles.
#![deny(clippy::indexing_slicing)]

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::blob::BlobHandle;
use crate::base::coding::Malformed;
use crate::base::compression::Compression;
use crate::base::compression::decompress_lz4;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::base::slice::Slice;
use crate::blob::FORMAT;
use crate::blob::record;
use crate::blob::record::Record;
use crate::fs::ReadableFile;
use crate::record::header::FILE_HEADER_LEN;
use crate::record::header::FileHeader;
use crate::record::header::Unusable;

/// Where the first record begins.
pub(crate) const HEADER_LEN: u64 = FILE_HEADER_LEN as u64;

/// What the manifest says of a file; one that differs is another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlobExpectation {
    pub(crate) id: FileId,
    pub(crate) bytes: u64,
    pub(crate) uid: u64,
}

/// One open blob file. Shared by all readers; nothing in it changes.
#[derive(Debug)]
pub(crate) struct BlobReader {
    path: PathBuf,
    file: Arc<dyn ReadableFile>,
    header: FileHeader,
}

pub(super) fn damaged(path: &Path, offset: u64, malformed: Malformed) -> Error {
    Error::corruption(path, offset, malformed.0)
}

impl BlobReader {
    /// Opens a file: reads its header, and nothing else. Without expectation any blob file will do.
    pub(crate) fn open(
        file: Arc<dyn ReadableFile>,
        path: PathBuf,
        expected: Option<BlobExpectation>,
    ) -> Result<BlobReader> {
        let bytes = file.len();
        if let Some(expected) = expected.filter(|expected| bytes != expected.bytes) {
            let what = format!("it has {bytes} bytes instead of {}", expected.bytes);
            return Err(Error::corruption(&path, bytes, what));
        }
        let mut head = vec![0; FILE_HEADER_LEN.min(usize::try_from(bytes).unwrap_or(usize::MAX))];
        file.read_at(0, &mut head)?;
        let header = FileHeader::decode(FORMAT, &head).map_err(|unusable| match unusable {
            Unusable::Damaged(what) => Error::corruption(&path, 0, what),
            Unusable::Newer(found) => {
                Error::UnsupportedFormat { file: path.clone(), found, supported: FORMAT.version }
            }
        })?;
        let [uid, ..] = header.extra;
        if expected.is_some_and(|expected| (uid, header.file) != (expected.uid, expected.id)) {
            let what = "it is another file than the manifest means";
            return Err(Error::corruption(&path, 0, what));
        }
        // What lies beside a value is seldom wanted with it.
        file.random(0..bytes);
        Ok(BlobReader { path, file, header })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn header(&self) -> &FileHeader {
        &self.header
    }

    pub(super) fn uid(&self) -> u64 {
        let [uid, ..] = self.header.extra;
        uid
    }

    /// The value of `key`, whose entry has `handle`.
    ///
    /// # Errors
    /// `Corruption` with file and offset if that is not what lies there; `Io`.
    pub(crate) fn get(&self, key: &[u8], handle: BlobHandle) -> Result<Slice> {
        let bytes = self.record_bytes(handle)?;
        self.value_of(&bytes, key, handle).map_err(|bad| damaged(&self.path, handle.offset, bad))
    }

    /// Tells the system that the value will be wanted soon.
    pub(crate) fn will_need(&self, handle: BlobHandle) {
        self.file.will_need(handle.offset..handle.offset.saturating_add(u64::from(handle.len)));
    }

    fn record_bytes(&self, handle: BlobHandle) -> Result<Bytes> {
        let (from, len) = (handle.offset, u64::from(handle.len));
        let end = from.checked_add(len).filter(|end| *end <= self.file.len());
        let Some(end) = end.filter(|_| from >= HEADER_LEN) else {
            let what = "a value should be where there is no file";
            return Err(Error::corruption(&self.path, from.min(self.file.len()), what));
        };
        if let Some(mapping) = self.file.mapping() {
            let range = usize::try_from(from).ok().zip(usize::try_from(end).ok());
            let range = range.filter(|(_, end)| *end <= mapping.len());
            let (from, end) = range.ok_or_else(|| {
                Error::corruption(&self.path, from, "its mapping is shorter than the file")
            })?;
            return Ok(mapping.slice(from..end));
        }
        let mut bytes = vec![0; handle.len as usize];
        self.file.read_at(from, &mut bytes)?;
        Ok(bytes.into())
    }

    fn value_of(&self, bytes: &Bytes, key: &[u8], handle: BlobHandle) -> Result<Slice, Malformed> {
        let record = record::check(bytes, self.uid(), handle.offset)?;
        if record.key != key {
            return Err(Malformed("the value there is another key's"));
        }
        let value = match record.compression {
            Compression::None => Slice::part_of(bytes, record.stored),
            Compression::Lz4 => Slice::from(unpack(&record)?),
        };
        if value.len() != handle.value_len as usize {
            return Err(Malformed("the value there has another length"));
        }
        Ok(value)
    }
}

fn unpack(record: &Record<'_>) -> Result<Vec<u8>, Malformed> {
    let mut value = Vec::new();
    let len = decompress_lz4(record.stored, &mut value)?.len();
    value.truncate(len);
    Ok(value)
}
