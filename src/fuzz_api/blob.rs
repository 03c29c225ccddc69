//! Blob files for the fuzz targets.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::blob::BlobHandle;
use crate::base::compression::Compression;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::ids::KeyspaceId;
use crate::blob::BlobExpectation;
use crate::blob::BlobReader;
use crate::blob::BlobWriter;
use crate::blob::parts;
use crate::blob::scan;
use crate::fs::ReadableFile;
use crate::fuzz_api::Stored;
use crate::fuzz_api::Written;

const FILE: FileId = FileId(1);

/// Where a value lies: offset of its record, bytes of the record, bytes of the value.
pub type BlobPlace = (u64, u32, u32);

/// A record: where it begins, its bytes, its key, and its value as stored.
pub type BlobRecord = (u64, u64, Vec<u8>, Vec<u8>);

/// The file of these keys and values, and where each of them lies.
pub fn build_blob(
    values: &[(Vec<u8>, Vec<u8>)],
    lz4: bool,
    uid: u64,
) -> Result<(Vec<u8>, Vec<BlobPlace>)> {
    let compression = if lz4 { Compression::Lz4 } else { Compression::None };
    let file = Written::default();
    let place = (DbId(1), KeyspaceId::DEFAULT, FILE);
    let mut writer = BlobWriter::new(Box::new(file.clone()), place, uid, compression);
    let mut places = Vec::new();
    for (key, value) in values {
        let handle = writer.add(key, value)?;
        places.push((handle.offset, handle.len, handle.value_len));
    }
    writer.finish()?;
    let bytes = std::mem::take(&mut *file.0.lock());
    Ok((bytes, places))
}

/// Makes the checksums of all records right, whatever the bytes are.
pub fn reseal_blobs(file: &mut [u8], uid: u64) {
    parts::reseal(file, uid);
}

/// The handle in `bytes`: number of the file, and where the value lies in it.
pub fn decode_handle(bytes: &[u8]) -> Result<(u64, BlobPlace), &'static str> {
    let handle = BlobHandle::decode(bytes).map_err(|bad| bad.0)?;
    Ok((handle.file.0, (handle.offset, handle.len, handle.value_len)))
}

/// An open blob file.
pub struct Blob {
    reader: BlobReader,
    file: Arc<dyn ReadableFile>,
}

impl Blob {
    /// `expected` is what a manifest says: its length, and its uid.
    pub fn open(bytes: &[u8], mapped: bool, expected: Option<(u64, u64)>) -> Result<Blob> {
        let file = Stored { bytes: Bytes::copy_from_slice(bytes), mapped };
        let file: Arc<dyn ReadableFile> = Arc::new(file);
        let expected = expected.map(|(bytes, uid)| BlobExpectation { id: FILE, bytes, uid });
        let reader = BlobReader::open(file.clone(), PathBuf::from("000001.blob"), expected)?;
        Ok(Blob { reader, file })
    }

    /// The value of `key` that lies there.
    pub fn get(&self, key: &[u8], (offset, len, value_len): BlobPlace) -> Result<Vec<u8>> {
        let handle = BlobHandle { file: FILE, offset, len, value_len };
        Ok(self.reader.get(key, handle)?.to_vec())
    }

    /// Its records up to the first that does not verify, and whether that is all of the file.
    pub fn scan(&self) -> (Vec<BlobRecord>, Result<u64>) {
        let mut records = Vec::new();
        let scanned = scan(&self.reader, &*self.file, |offset, len, key, stored| {
            records.push((offset, len, key.to_vec(), stored.to_vec()));
            Ok(())
        });
        (records, scanned)
    }
}
