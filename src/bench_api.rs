//! The machine's parts, opened for `benches/parts.rs` and `tests/shuttle/` and for nothing else: no
//! promise holds here.

use std::path::Path;
use std::sync::Arc;

use crate::base::compression::Compression;
use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::base::ids::KeyspaceId;
use crate::base::internal_iter::InternalIter as _;
use crate::base::key::KeyHash;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::options::SstOptions;
use crate::base::seqno::SeqNo;
use crate::base::value::ValueKind;
use crate::cache::BlockCache;
use crate::fs::Fs as _;
use crate::fs::MemFs;
use crate::fs::ReadMode;
use crate::iter::Merging;
use crate::sst::SstExpectation;
use crate::sst::SstReader;
use crate::sst::SstWriter;
use crate::version::source::Source;

/// Makes memtables, of the memory of those that are gone.
pub struct Memtables(crate::memtable::Memtables);

impl Memtables {
    /// Those made will be expected to grow to `bytes`.
    pub fn new(bytes: usize) -> Memtables {
        Memtables(crate::memtable::Memtables::new(bytes))
    }

    pub fn make(&self) -> Memtable {
        Memtable(Arc::new(self.0.make(0)))
    }
}

/// A memtable.
pub struct Memtable(Arc<crate::memtable::Memtable>);

impl Memtable {
    pub fn new(bytes: usize) -> Memtable {
        Memtables::new(bytes).make()
    }

    pub fn put(&self, key: &[u8], seqno: u64, value: &[u8]) {
        self.0.insert(key, Trailer::new(SeqNo::new(seqno), ValueKind::Put), value);
    }

    /// The length of the value.
    pub fn get(&self, key: &[u8]) -> Option<usize> {
        self.0.get(key, KeyHash::of(key), SeqNo::MAX).map(|(_, value)| value.len())
    }

    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    pub fn cursor(&self) -> Cursor {
        Cursor::over(vec![Source::Memtable(self.0.iter())])
    }
}

/// An open SST in memory. One with a single data block is that block, and little else.
pub struct Sst(Arc<SstReader>);

impl Sst {
    /// Builds the file of `entries`, which ascend; with 0 bits per key it has no filter.
    pub fn build<'a>(
        entries: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        block_bytes: usize,
        lz4: bool,
        filter_bits_per_key: u32,
    ) -> Result<Sst> {
        let fs = MemFs::new();
        let path = Path::new("/000001.sst");
        let compression = if lz4 { Compression::Lz4 } else { Compression::None };
        let options = SstOptions { block_bytes, compression, filter_bits_per_key };
        let file = fs.create(path)?;
        let mut writer = SstWriter::new(file, 7, KeyspaceId::DEFAULT, options, 0);
        for (key, value) in entries {
            let trailer = Trailer::new(SeqNo::new(1), ValueKind::Put);
            writer.add(KeyRef::new(key, trailer), value)?;
        }
        let summary = writer.finish()?;
        let expected = SstExpectation { bytes: summary.bytes, uid: summary.uid, ranges: None };
        let file = fs.open(path, ReadMode::Mmap)?;
        let cache = Arc::new(BlockCache::new(256 << 20));
        let reader = SstReader::open(file, path.to_owned(), FileId(1), Some(expected), cache)?;
        Ok(Sst(Arc::new(reader)))
    }

    pub fn data_blocks(&self) -> u64 {
        self.0.properties().data_blocks
    }

    /// The length of the value.
    pub fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        self.0.get(key, KeyHash::of(key), SeqNo::MAX, |_, value| value.len())
    }

    /// What the filter says.
    pub fn may_contain(&self, key: &[u8]) -> Result<bool> {
        self.0.may_contain(key, KeyHash::of(key))
    }

    pub fn cursor(&self) -> Cursor {
        Cursor::over(vec![Source::Sst(self.0.iter())])
    }
}

/// A cursor over one source or the merge of several.
pub struct Cursor(Merging<Source>);

impl Cursor {
    fn over(sources: Vec<Source>) -> Cursor {
        Cursor(Merging::new(sources))
    }

    pub fn merge(files: &[Sst]) -> Cursor {
        Cursor::over(files.iter().map(|file| Source::Sst(file.0.iter())).collect())
    }

    /// To the first entry at or after `key`; true if there is one. So do the others.
    pub fn seek(&mut self, key: &[u8]) -> Result<bool> {
        self.0.seek(KeyRef::seek(key, SeqNo::MAX))?;
        Ok(self.0.valid())
    }

    pub fn seek_to_first(&mut self) -> Result<bool> {
        self.0.seek_to_first()?;
        Ok(self.0.valid())
    }

    pub fn seek_to_last(&mut self) -> Result<bool> {
        self.0.seek_to_last()?;
        Ok(self.0.valid())
    }

    #[expect(clippy::should_implement_trait, reason = "a lending cursor cannot be an Iterator")]
    pub fn next(&mut self) -> Result<bool> {
        self.0.next()?;
        Ok(self.0.valid())
    }

    pub fn prev(&mut self) -> Result<bool> {
        self.0.prev()?;
        Ok(self.0.valid())
    }

    /// The key of the entry it stands on.
    pub fn key(&self) -> &[u8] {
        self.0.key().user
    }

    /// Bytes of the entry it stands on.
    pub fn entry_len(&self) -> usize {
        self.0.key().user.len() + self.0.value().len()
    }
}
