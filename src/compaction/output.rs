//! Cuts a stream of entries into SSTs.
//!
//! A file is cut between two user keys, never between two versions of one, when it has reached its
//! size; or earlier, where it would overlap too much of the level beneath the output (which would
//! make its own compaction expensive); or, from half its size on, where a file of that level ends,
//! so that the two levels' files line up and later compactions rewrite fewer bytes beside the ones
//! they must. Range tombstones are cut where files are: each file has those between its first key
//! and the first key of the next one, so that no two files of a level cover a key.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::base::clock::Clock;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::ids::KeyspaceId;
use crate::base::key::InternalKey;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::options::SstOptions;
use crate::base::planted::Planted;
use crate::base::range_tombstone::Fragments;
use crate::base::sync::atomic::AtomicU64;
use crate::base::value::ValueKind;
use crate::fs::Fs;
use crate::fs::names::sst_path;
use crate::manifest::SstMeta;
use crate::sst::SstSummary;
use crate::sst::SstWriter;

/// A file may overlap this many times its own target size on the level beneath the output.
const GRANDPARENT_OVERLAP_MAX: u64 = 10;

/// Where files are created, and how.
#[derive(Debug)]
pub(crate) struct OutputContext {
    pub(crate) db: DbId,
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) dir: PathBuf,
    pub(crate) next_file: Arc<AtomicU64>,
}

impl OutputContext {
    /// The file number that will be given out next.
    pub(crate) fn peek_file_id(&self) -> FileId {
        FileId(self.next_file.load(Relaxed))
    }

    /// A file number that was never used before.
    pub(crate) fn new_file_id(&self) -> FileId {
        FileId(self.next_file.fetch_add(1, Relaxed))
    }
}

/// How the files of one job look.
#[derive(Clone, Debug)]
pub(crate) struct OutputSpec {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) sst: SstOptions,
    pub(crate) file_bytes: u64,
    /// Bytes that are expected to be written, about. Room for them is asked for file by file.
    pub(crate) input_bytes: u64,
    /// What is known of the files of the level beneath the output, sorted; empty at the bottom and for
    /// flushes.
    pub(crate) grandparents: Vec<Arc<SstMeta>>,
    /// Age of the oldest tombstone among the inputs; `None` if the job's own tombstones are new.
    pub(crate) oldest_tombstone_ms: Option<u64>,
}

/// Blocks of a new file, most of whose entries readers have in the cache, in older files.
#[derive(Clone, Debug)]
pub(crate) struct HotBlocks {
    pub(crate) file: FileId,
    /// Their numbers, ascending.
    pub(crate) blocks: Vec<u32>,
}

/// The files being written by one job. Unless it is finished, its files are removed on drop.
pub(crate) struct Output<'a> {
    context: &'a OutputContext,
    spec: OutputSpec,
    open: Option<(FileId, SstWriter)>,
    done: Vec<SstMeta>,
    hot: Vec<HotBlocks>,
    /// First grandparent whose largest key is not before the last key added.
    grandparent: usize,
    /// Bytes of grandparents passed since the open file began.
    overlap: u64,
    created: Vec<FileId>,
    /// The range tombstones to write, and from where on they are not written yet.
    ranges: Fragments,
    ranges_from: Vec<u8>,
}

impl<'a> Output<'a> {
    /// Requires: `ranges` lie within what the output may have.
    pub(crate) fn new(
        context: &'a OutputContext,
        spec: OutputSpec,
        ranges: Fragments,
    ) -> Output<'a> {
        Output {
            context,
            spec,
            open: None,
            done: Vec::new(),
            hot: Vec::new(),
            grandparent: 0,
            overlap: 0,
            created: Vec::new(),
            ranges,
            ranges_from: Vec::new(),
        }
    }

    /// Appends an entry; a hot one comes from a block that readers have in the cache. Requires:
    /// internal keys ascend.
    pub(crate) fn add(&mut self, key: KeyRef<'_>, value: &[u8], is_hot: bool) -> Result<()> {
        if self.open.as_ref().is_none_or(|(_, writer)| writer.last_user() != key.user) {
            let passed_border = self.pass_grandparents(key.user);
            if self.should_cut(passed_border) {
                self.finish_file(Some(key.user))?;
            }
        }
        if self.open.is_none() {
            self.open = Some(self.create_file()?);
        }
        if let Some((_, writer)) = &mut self.open {
            writer.add(key, value)?;
            if is_hot {
                writer.note_hot();
            }
        }
        Ok(())
    }

    /// Moves on to the grandparent that `user` lies in or before. True if a file's end was passed.
    fn pass_grandparents(&mut self, user: &[u8]) -> bool {
        let mut passed = false;
        while let Some(meta) = self.spec.grandparents.get(self.grandparent)
            && meta.largest.user.as_slice() < user
        {
            self.overlap += meta.bytes;
            self.grandparent += 1;
            passed = true;
        }
        passed
    }

    fn should_cut(&self, passed_border: bool) -> bool {
        let Some((_, writer)) = &self.open else { return false };
        let bytes = writer.estimated_bytes();
        bytes >= self.spec.file_bytes
            || (passed_border && bytes >= self.spec.file_bytes / 2)
            || self.overlap >= self.spec.file_bytes.saturating_mul(GRANDPARENT_OVERLAP_MAX)
    }

    fn create_file(&mut self) -> Result<(FileId, SstWriter)> {
        let id = self.context.new_file_id();
        let path = sst_path(&self.context.dir, id);
        let file = self.context.fs.create(&path)?;
        self.created.push(id);
        self.overlap = 0;
        let uid = self.context.clock.unique();
        let now = self.context.clock.wall_ms();
        let mut writer = SstWriter::new(file, uid, self.spec.keyspace, self.spec.sst, now);
        let done: u64 = self.done.iter().map(|meta| meta.bytes).sum();
        let left = self.spec.input_bytes.saturating_sub(done);
        writer.reserve(left.min(self.spec.file_bytes))?;
        if let Some(oldest) = self.spec.oldest_tombstone_ms {
            writer.set_oldest_tombstone(oldest);
        }
        Ok((id, writer))
    }

    /// Completes the open file, with the range tombstones up to `to`, where the next one begins.
    fn finish_file(&mut self, to: Option<&[u8]>) -> Result<()> {
        let Some((id, mut writer)) = self.open.take() else { return Ok(()) };
        if !self.ranges.is_empty() {
            writer.set_ranges(self.ranges.clip(&self.ranges_from, to));
            self.ranges_from.clear();
            self.ranges_from.extend_from_slice(to.unwrap_or_default());
        }
        let mut summary = writer.finish()?;
        let blocks = std::mem::take(&mut summary.hot_blocks);
        if !blocks.is_empty() {
            self.hot.push(HotBlocks { file: id, blocks });
        }
        self.done.push(describe(id, summary));
        Ok(())
    }

    /// Completes the last file. All files are durable, content and names, on return.
    pub(crate) fn finish(mut self) -> Result<(Vec<SstMeta>, Vec<HotBlocks>)> {
        if self.open.is_none() && !self.ranges.is_empty() {
            // There are no entries that they could be written with.
            self.open = Some(self.create_file()?);
        }
        self.finish_file(None)?;
        if !self.done.is_empty() && !Planted::DirNotSynced.is_on() {
            self.context.fs.sync_dir(&self.context.dir)?;
        }
        self.created.clear();
        Ok((std::mem::take(&mut self.done), std::mem::take(&mut self.hot)))
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        self.open = None;
        for id in &self.created {
            remove_debris(self.context, &sst_path(&self.context.dir, *id));
        }
    }
}

/// What the manifest says of a finished file.
fn describe(id: FileId, mut summary: SstSummary) -> SstMeta {
    if let Some(ranges) = summary.ranges.as_ref().filter(|_| summary.entries == 0) {
        let trailer = Trailer::new(summary.max_seqno, ValueKind::DeleteRange);
        summary.smallest = InternalKey::new(ranges.from.as_slice(), trailer);
        summary.largest = summary.smallest.clone();
    }
    SstMeta {
        id,
        bytes: summary.bytes,
        uid: summary.uid,
        smallest: summary.smallest,
        largest: summary.largest,
        min_seqno: summary.min_seqno,
        max_seqno: summary.max_seqno,
        entries: summary.entries,
        tombstones: summary.tombstones,
        raw_bytes: summary.raw_bytes,
        oldest_tombstone_ms: summary.oldest_tombstone_wall_ms,
        expiry: summary.expiry,
        blobs: summary.blobs,
        ranges: summary.ranges,
    }
}

/// Removes a file that no edit names. What cannot be removed now is swept at the next open.
pub(crate) fn remove_debris(context: &OutputContext, path: &Path) {
    if let Err(error) = context.fs.remove(path) {
        tracing::warn!(%error, "an unfinished file stays until the next open");
    }
}
