//! A file of a version: what the manifest says of it, and its reader, opened when first needed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;

use crate::base::error::Result;
use crate::base::range_tombstone::Fragments;
use crate::base::range_tombstone::RangeSource;
use crate::base::range_tombstone::Spot;
use crate::base::range_tombstone::Window;
use crate::base::seqno::SeqNo;
use crate::cache::BlockCache;
use crate::fs::Fs;
use crate::fs::ReadMode;
use crate::fs::names::sst_path;
use crate::manifest::SstMeta;
use crate::sst::SstExpectation;
use crate::sst::SstIter;
use crate::sst::SstReader;

/// How the files of a database are opened.
#[derive(Debug)]
pub(crate) struct SstOpener {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    pub(crate) cache: Arc<BlockCache>,
    pub(crate) mode: ReadMode,
}

#[cfg(test)]
impl SstOpener {
    /// For versions of files that exist on paper only.
    pub(crate) fn of_nothing() -> Arc<SstOpener> {
        Arc::new(SstOpener {
            fs: Arc::new(crate::fs::MemFs::new()),
            dir: PathBuf::from("/db"),
            cache: Arc::new(BlockCache::new(0)),
            mode: ReadMode::Pread,
        })
    }
}

/// An SST that a version names. Shared by all versions that do.
#[derive(Debug)]
pub(crate) struct SstFile {
    /// Who only has to know of the file keeps this, and does not keep the file.
    pub(crate) meta: Arc<SstMeta>,
    opener: Arc<SstOpener>,
    reader: OnceLock<Arc<SstReader>>,
}

impl SstFile {
    pub(crate) fn new(meta: SstMeta, opener: Arc<SstOpener>) -> SstFile {
        SstFile { meta: Arc::new(meta), opener, reader: OnceLock::new() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        sst_path(&self.opener.dir, self.meta.id)
    }

    /// The reader, opened at the first call. Two first callers may both open the file; one of the
    /// two readers is kept.
    pub(crate) fn reader(&self) -> Result<&Arc<SstReader>> {
        match self.reader.get() {
            Some(reader) => Ok(reader),
            None => self.open(),
        }
    }

    #[cold]
    #[inline(never)]
    fn open(&self) -> Result<&Arc<SstReader>> {
        let path = self.path();
        let file = self.opener.fs.open(&path, self.opener.mode)?;
        let SstMeta { bytes, uid, ranges, .. } = self.meta.as_ref();
        let expected = SstExpectation { bytes: *bytes, uid: *uid, ranges: ranges.clone() };
        let cache = self.opener.cache.clone();
        let reader = SstReader::open(file, path, self.meta.id, Some(expected), cache)?;
        Ok(self.reader.get_or_init(|| Arc::new(reader)))
    }

    /// An iterator for compaction: reads from front to back past all caches, checks every block.
    pub(crate) fn scan(&self) -> Result<SstIter> {
        let file = self.opener.fs.open(&self.path(), ReadMode::Sequential)?;
        Ok(self.reader()?.scan_iter(file))
    }

    /// Takes its blocks out of the cache: nobody reads them any more.
    pub(crate) fn forget_blocks(&self) {
        if let Some(reader) = self.reader.get() {
            reader.forget_blocks();
        }
    }

    /// Memory that the open reader holds outside the block cache.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.reader.get().map_or(0, |reader| reader.pinned_bytes())
    }

    /// The open reader, if it was opened.
    pub(crate) fn opened(&self) -> Option<&Arc<SstReader>> {
        self.reader.get()
    }

    /// May the file have an entry of `key`, by its range?
    pub(crate) fn covers(&self, key: &[u8]) -> bool {
        self.meta.smallest.user.as_slice() <= key && self.meta.largest.user.as_slice() >= key
    }

    /// The newest number that `ask` gives of its range tombstones; 0 if it has none.
    pub(crate) fn newest_range(&self, ask: impl Fn(&Fragments) -> SeqNo) -> Result<SeqNo> {
        if self.meta.ranges.is_none() {
            return Ok(SeqNo::ZERO);
        }
        Ok(ask(self.reader()?.ranges()))
    }

    /// Does every entry precede `seqno` or equal it?
    pub(crate) fn is_older_than(&self, seqno: SeqNo) -> bool {
        self.meta.max_seqno <= seqno
    }
}

impl RangeSource for Arc<SstFile> {
    fn narrow(&self, spot: Spot<'_>, at: SeqNo, window: &mut Window) -> Result<()> {
        self.reader()?.ranges().narrow(spot, at, window)
    }
}
