//! Puts large values into blob files on their way into SSTs, and moves those that lie in condemned
//! ones.
//!
//! It stands between the survivors and the output, of flushes and compactions alike: so what a merge
//! operator makes of operands is treated like what was put, and a keyspace's values follow its
//! settings as they are rewritten. All other handles pass through as they are.

use std::collections::HashSet;

use crate::base::blob::NEVER_APART;
use crate::base::compression::Compression;
use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::base::ids::KeyspaceId;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::value::EXPIRY_LEN;
use crate::base::value::ValueKind;
use crate::blob::BlobSummary;
use crate::blob::BlobWriter;
use crate::compaction::output::OutputContext;
use crate::compaction::output::remove_debris;
use crate::fs::names::blob_path;
use crate::manifest::BlobMeta;
use crate::version::blobs::Blobs;

/// What one job does with large values.
#[derive(Clone, Debug)]
pub(crate) struct ApartSpec {
    /// Values of so many bytes lie apart.
    pub(crate) from: u64,
    /// Size at which a blob file is cut.
    pub(crate) file_bytes: u64,
    /// Bytes of records that are expected to be written, about. Room is asked for file by file.
    pub(crate) expected_bytes: u64,
    /// Values in these are moved.
    pub(crate) condemned: HashSet<FileId>,
    /// Where the values are that the job's inputs refer to.
    pub(crate) blobs: Blobs,
}

/// The blob files being written by one job. Unless they are kept, they are removed on drop.
pub(crate) struct Apart<'a> {
    context: &'a OutputContext,
    keyspace: KeyspaceId,
    compression: Compression,
    spec: &'a ApartSpec,
    open: Option<BlobWriter>,
    done: Vec<BlobMeta>,
    created: Vec<FileId>,
    /// What replaces the value of an entry.
    bytes: Vec<u8>,
}

impl<'a> Apart<'a> {
    pub(crate) fn new(
        context: &'a OutputContext,
        keyspace: KeyspaceId,
        compression: Compression,
        spec: &'a ApartSpec,
    ) -> Apart<'a> {
        Apart {
            context,
            keyspace,
            compression,
            spec,
            open: None,
            done: Vec::new(),
            created: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// How the entry is to be stored: with its value where that belongs.
    #[inline]
    pub(crate) fn place<'v>(
        &'v mut self,
        key: KeyRef<'_>,
        value: &'v [u8],
    ) -> Result<(Trailer, &'v [u8])> {
        let is_small = self.spec.from == NEVER_APART || (value.len() as u64) < self.spec.from;
        match key.trailer.kind() {
            Some(kind @ (ValueKind::Put | ValueKind::Expiring)) if !is_small => {
                self.separate(key, kind.expires(), value)
            }
            Some(kind) if kind.is_apart() && !self.spec.condemned.is_empty() => {
                self.move_condemned(key, kind.expires(), value)
            }
            _ => Ok((key.trailer, value)),
        }
    }

    /// Of an entry with its value.
    fn separate<'v>(
        &'v mut self,
        key: KeyRef<'_>,
        expires: bool,
        stored: &'v [u8],
    ) -> Result<(Trailer, &'v [u8])> {
        let (expiry, value) = split(expires, stored);
        if (value.len() as u64) < self.spec.from {
            return Ok((key.trailer, stored));
        }
        self.bytes.clear();
        self.bytes.extend_from_slice(expiry);
        self.write(key, expires, value)
    }

    /// Appends the handle of `value`, which is written, to what replaces the entry's.
    fn write(&mut self, key: KeyRef<'_>, expires: bool, value: &[u8]) -> Result<(Trailer, &[u8])> {
        if self.open.as_ref().is_some_and(|writer| writer.bytes() >= self.spec.file_bytes) {
            self.finish_file()?;
        }
        let writer = match self.open.take() {
            Some(writer) => writer,
            None => self.create_file()?,
        };
        let handle = self.open.insert(writer).add(key.user, value)?;
        handle.encode(&mut self.bytes);
        let kind = if expires { ValueKind::ExpiringBlobRef } else { ValueKind::BlobRef };
        Ok((Trailer::new(key.trailer.seqno(), kind), &self.bytes))
    }

    /// Of an entry with a handle.
    fn move_condemned<'v>(
        &'v mut self,
        key: KeyRef<'_>,
        expires: bool,
        stored: &'v [u8],
    ) -> Result<(Trailer, &'v [u8])> {
        let (expiry, bytes) = split(expires, stored);
        let (file, handle) = self.spec.blobs.locate(bytes)?;
        if !self.spec.condemned.contains(&handle.file) {
            return Ok((key.trailer, stored));
        }
        let value = file.fetch(key.user, handle)?;
        self.bytes.clear();
        self.bytes.extend_from_slice(expiry);
        if value.len() as u64 >= self.spec.from {
            return self.write(key, expires, &value);
        }
        self.bytes.extend_from_slice(&value);
        let kind = if expires { ValueKind::Expiring } else { ValueKind::Put };
        Ok((Trailer::new(key.trailer.seqno(), kind), &self.bytes))
    }

    fn create_file(&mut self) -> Result<BlobWriter> {
        let id = self.context.new_file_id();
        let file = self.context.fs.create(&blob_path(&self.context.dir, id))?;
        self.created.push(id);
        let uid = self.context.clock.unique();
        let place = (self.context.db, self.keyspace, id);
        let mut writer = BlobWriter::new(file, place, uid, self.compression);
        let done: u64 = self.done.iter().map(|meta| meta.bytes).sum();
        let left = self.spec.expected_bytes.saturating_sub(done);
        writer.reserve(left.min(self.spec.file_bytes))?;
        Ok(writer)
    }

    fn finish_file(&mut self) -> Result<()> {
        if let Some(writer) = self.open.take() {
            let BlobSummary { id, bytes, uid, values, raw_bytes } = writer.finish()?;
            self.done.push(BlobMeta { id, bytes, uid, values, raw_bytes });
        }
        Ok(())
    }

    /// Completes the last file. The content of all files is durable on return.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.finish_file()
    }

    /// The files, which stay. Requires: they are finished, and durable under their names.
    pub(crate) fn keep(mut self) -> Vec<BlobMeta> {
        self.created.clear();
        std::mem::take(&mut self.done)
    }
}

impl Drop for Apart<'_> {
    fn drop(&mut self) {
        self.open = None;
        for id in &self.created {
            remove_debris(self.context, &blob_path(&self.context.dir, *id));
        }
    }
}

/// The expiry in front of a value, if it has one, and the rest.
fn split(expires: bool, stored: &[u8]) -> (&[u8], &[u8]) {
    let at = if expires { EXPIRY_LEN.min(stored.len()) } else { 0 };
    stored.split_at(at)
}
