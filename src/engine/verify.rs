//! Checks a whole open database against itself, byte by byte.
//!
//! 1. Every file of every version: checksums, order, counts, filters, and what the manifest says.
//!    And every blob file: each of its records.
//! 2. Every keyspace: its sources are walked together in key order, and of each key the newer
//!    version must lie above the older one (I3 of [`crate::version`]).
//! 3. The manifest: it still reads back.
//! 4. The log's history: every segment that is kept for change feeds holds what it should.

use std::sync::Arc;

use crate::base::blob::BlobSource as _;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::internal_iter::InternalIter as _;
use crate::base::key::Trailer;
use crate::base::value::EXPIRY_LEN;
use crate::engine::Core;
use crate::engine::commit::LogSegment;
use crate::fs::ReadMode;
use crate::manifest::read_manifest;
use crate::sst::SstIter;
use crate::version::Version;
use crate::version::invariants;
use crate::version::sst_file::SstFile;

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
            self.verify_order(version, &mut |bytes| progress(done + bytes, total))?;
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

    /// Walks all files of a version together. There are few sources, so the least key is found by
    /// looking at each; the merging iterator is not used, since it is among what is checked.
    fn verify_order(&self, version: &Version, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let mut sources: Vec<Walk> = Vec::new();
        for file in &version.level(0).files {
            sources.push(Walk::new(vec![file.clone()])?);
        }
        for level in &version.levels()[1..] {
            sources.push(Walk::new(level.files.clone())?);
        }
        let mut user: Vec<u8> = Vec::new();
        let mut finished = 0;
        loop {
            let heads = sources.iter().filter_map(|source| source.head()).map(|(key, _)| key);
            let Some(least) = heads.min() else { return Ok(()) };
            user.clear();
            user.extend_from_slice(least);
            let mut above: Option<Trailer> = None;
            let before = finished;
            for source in &mut sources {
                while let Some((key, trailer)) = source.head()
                    && key == user
                {
                    if above.is_some_and(|above| above.seqno() <= trailer.seqno()) {
                        let key = user.escape_ascii();
                        return Err(self.broken(format!(
                            "I3: a version of key \"{key}\" with seqno {} lies below an older one",
                            trailer.seqno()
                        )));
                    }
                    above = Some(trailer);
                    source.check_handle(version)?;
                    finished += source.next()?;
                }
            }
            if finished > before {
                progress(finished);
            }
        }
    }
}

/// The files of one level, one after the other.
struct Walk {
    files: std::vec::IntoIter<Arc<SstFile>>,
    current: Option<(u64, SstIter)>,
}

impl Walk {
    fn new(files: Vec<Arc<SstFile>>) -> Result<Walk> {
        let mut walk = Walk { files: files.into_iter(), current: None };
        walk.next_file()?;
        Ok(walk)
    }

    fn next_file(&mut self) -> Result<()> {
        self.current = None;
        for file in self.files.by_ref() {
            let mut entries = file.scan()?;
            entries.seek_to_first()?;
            if entries.valid() {
                self.current = Some((file.meta.bytes, entries));
                break;
            }
        }
        Ok(())
    }

    fn head(&self) -> Option<(&[u8], Trailer)> {
        let (_, entries) = self.current.as_ref()?;
        let key = entries.key();
        Some((key.user, key.trailer))
    }

    /// If the entry has a handle: does it lead to a value of its key?
    fn check_handle(&self, version: &Version) -> Result<()> {
        let Some((_, entries)) = &self.current else { return Ok(()) };
        let key = entries.key();
        let kind = key.trailer.kind().filter(|kind| kind.is_apart());
        let at = kind.map(|kind| if kind.expires() { EXPIRY_LEN } else { 0 });
        let Some(handle) = at.and_then(|at| entries.value().get(at..)) else { return Ok(()) };
        version.fetch(key.user, handle).map(drop)
    }

    /// One entry on. Returns the bytes of the file whose last entry that was, or 0.
    fn next(&mut self) -> Result<u64> {
        let Some((bytes, entries)) = &mut self.current else { return Ok(0) };
        entries.next()?;
        if entries.valid() {
            return Ok(0);
        }
        let bytes = *bytes;
        self.next_file()?;
        Ok(bytes)
    }
}
