//! Appends edits; each is durable on return.

use std::path::Path;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::planted::Planted;
use crate::fs::Fs;
use crate::fs::WritableFile;
use crate::fs::names::manifest_path;
use crate::manifest::MANIFEST_FORMAT;
use crate::manifest::codec;
use crate::manifest::edit::VersionEdit;
use crate::record;
use crate::record::Context;
use crate::record::LAG_UNKNOWN;
use crate::record::PAYLOAD_LEN_MAX;
use crate::record::Stamp;
use crate::record::header::FILE_HEADER_LEN;
use crate::record::header::FileHeader;

/// A manifest that is being written.
#[derive(Debug)]
pub(crate) struct ManifestWriter {
    file: Box<dyn WritableFile>,
    context: Context,
    bytes: u64,
    records: u64,
    failed: Option<Error>,
}

impl ManifestWriter {
    /// Creates manifest `id` with `snapshot` as its first edit. Content and name are durable on
    /// return; `CURRENT` does not name it yet. A manifest that could not be completed is removed.
    pub(crate) fn create(
        fs: &dyn Fs,
        dir: &Path,
        id: FileId,
        db: DbId,
        snapshot: &VersionEdit,
    ) -> Result<ManifestWriter> {
        let path = manifest_path(dir, id);
        let file = fs.create(&path)?;
        let context = Context::new(db, id);
        let mut writer = ManifestWriter { file, context, bytes: 0, records: 0, failed: None };
        let header = FileHeader { db, file: id, extra: [0; 4] }.encode(MANIFEST_FORMAT);
        writer.bytes = FILE_HEADER_LEN as u64;
        let written = writer
            .file
            .write_at(0, &header)
            .and_then(|()| writer.append(snapshot))
            .and_then(|()| fs.sync_dir(dir));
        match written {
            Ok(()) => Ok(writer),
            Err(error) => {
                // The first error is the one to report; a leftover is removed at the next open.
                let _ = fs.remove(&path);
                Err(error)
            }
        }
    }

    /// Appends an edit, durably. After an error it is unknown whether the edit is on disk: every
    /// later append fails with the same error.
    pub(crate) fn append(&mut self, edit: &VersionEdit) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let payload = codec::encode(edit);
        if payload.len() > PAYLOAD_LEN_MAX || payload.is_empty() {
            return Err(Error::internal("an edit is empty or exceeds 2 GiB"));
        }
        let mut bytes = Vec::with_capacity(payload.len() + 64);
        let stamp = Stamp { seqno: self.records + 1, lag: LAG_UNKNOWN };
        record::encode_into(&mut bytes, self.context, self.bytes, Some(stamp), &payload);
        let mut result = self.file.write_at(self.bytes, &bytes);
        if result.is_ok() && !Planted::ManifestNotSynced.is_on() {
            result = self.file.sync_data();
        }
        if let Err(error) = result {
            self.failed = Some(error.clone());
            return Err(error);
        }
        self.bytes += bytes.len() as u64;
        self.records += 1;
        Ok(())
    }

    /// Size of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}
