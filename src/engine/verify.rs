//! Checks a whole open database against itself, byte by byte.
//!
//! 1. Every file of every version: checksums, order, counts, filters, and what the manifest says.
//!    And every blob file: each of its records.
//! 2. Every keyspace: its sources are walked together in key order, and of each key the newer
//!    version, be it a range tombstone over it, must lie above the older one (I3 of
//!    [`crate::version`]).
//! 3. The manifest: it still reads back.
//! 4. The log's history: every segment that is kept for change feeds holds what it should.

use std::sync::Arc;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::engine::Core;
use crate::engine::commit::LogSegment;
use crate::fs::ReadMode;
use crate::manifest::read_manifest;
use crate::version::Version;
use crate::version::invariants;
use crate::version::sst_file::SstFile;

mod order;

/// What [`Db::verify`](crate::Db::verify) read and found in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// SSTs.
    pub files: u64,
    /// Data blocks in them.
    pub blocks: u64,
    /// Entries in them, overwritten versions and tombstones included.
    pub entries: u64,
    /// Bytes of the SSTs and blob files.
    pub bytes: u64,
    /// Segments of the log that are kept for change feeds.
    pub kept_segments: u64,
    /// Blob files.
    pub blob_files: u64,
}

impl Core {
    /// See [`Db::verify`](crate::Db::verify).
    pub(crate) fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Verified> {
        self.health.check_open()?;
        let versions: Vec<Arc<Version>> =
            self.keyspaces.all().iter().map(|state| state.view_full().version.clone()).collect();
        let files = || versions.iter().flat_map(|version| version.files());
        // Each byte is read twice: for itself, and for its place among the others.
        let kept: Vec<LogSegment> =
            self.commit.append_lock().history().kept().iter().cloned().collect();
        let blobs = || versions.iter().flat_map(|version| version.blobs.files());
        let total = files().map(|file| 2 * file.meta.bytes).sum::<u64>()
            + blobs().map(|file| file.meta.bytes).sum::<u64>()
            + kept.iter().map(|segment| segment.bytes).sum::<u64>();
        let mut done = 0;
        let mut verified = Verified::default();
        for file in files() {
            self.verify_file(file, &mut verified)?;
            done += file.meta.bytes;
            progress(done, total);
        }
        for file in blobs() {
            file.verify()?;
            verified.blob_files += 1;
            verified.bytes += file.meta.bytes;
            done += file.meta.bytes;
            progress(done, total);
        }
        for version in &versions {
            invariants::check(version).map_err(|what| self.broken(what))?;
            order::check(version, &self.output.dir, &mut |bytes| progress(done + bytes, total))?;
            done += version.files().map(|file| file.meta.bytes).sum::<u64>();
        }
        for segment in &kept {
            self.verify_kept(segment)?;
            verified.kept_segments += 1;
            done += segment.bytes;
            progress(done, total);
        }
        let set = self.versions.lock();
        let fs = self.output.fs.as_ref();
        read_manifest(fs, &self.output.dir, set.manifest_id(), self.db_id)?;
        Ok(verified)
    }

    fn broken(&self, what: impl Into<String>) -> Error {
        Error::corruption(&self.output.dir, 0, what)
    }

    fn verify_file(&self, file: &SstFile, verified: &mut Verified) -> Result<()> {
        let path = file.path();
        let bytes = self.output.fs.open(&path, ReadMode::Sequential)?;
        let reader = file.reader()?;
        let check = reader.verify(bytes.as_ref())?;
        let meta = &file.meta;
        let is_empty = check.entries == 0;
        let entries = (check.min_seqno, check.max_seqno);
        let seqnos = match reader.ranges().seqnos() {
            None => entries,
            Some(ranges) if is_empty => ranges,
            Some((oldest, newest)) => (entries.0.min(oldest), entries.1.max(newest)),
        };
        let agrees = check.entries == meta.entries
            && check.tombstones == meta.tombstones
            && (is_empty || check.smallest == meta.smallest)
            && (is_empty || check.largest == meta.largest)
            && seqnos == (meta.min_seqno, meta.max_seqno)
            && reader.ranges().facts() == meta.ranges
            && check.expiry == meta.expiry
            && check.blobs == meta.blobs;
        if !agrees {
            return Err(Error::corruption(&path, 0, "it is not what the manifest says it is"));
        }
        verified.files += 1;
        verified.blocks += check.data_blocks;
        verified.entries += check.entries;
        verified.bytes += meta.bytes;
        Ok(())
    }
}
