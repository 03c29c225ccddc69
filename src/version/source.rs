//! The kinds of sorted sources that readers and compactions merge, as one type, so that a step
//! costs a predictable branch and no virtual call.

use std::ops::Range;
use std::sync::Arc;

use crate::base::error::Result;
use crate::base::internal_iter::InternalIter;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;
use crate::iter::Concat;
use crate::iter::ConcatSource;
use crate::iter::Flat;
use crate::iter::Merging;
use crate::memtable::MemtableIter;
use crate::sst::SstIter;
use crate::version::Level;
use crate::version::sst_file::SstFile;

/// What an iterator over files is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// A reader's: through the mapping and the block cache.
    Read,
    /// A compaction's: from front to back, past both.
    Compaction,
}

/// Disjoint files in key order, each opened when the walk reaches it. However many they are, to have
/// them takes one reference count.
#[derive(Debug)]
pub(crate) struct Run {
    level: Arc<Level>,
    range: Range<usize>,
    purpose: Purpose,
}

impl Run {
    /// The files of `level` at `range`, for a reader. Requires: a level from 1 on, or one file.
    pub(crate) fn of_level(level: Arc<Level>, range: Range<usize>) -> Run {
        Run { level, range, purpose: Purpose::Read }
    }

    /// Some files for a compaction.
    pub(crate) fn of_files(files: &[Arc<SstFile>]) -> Run {
        let level = Arc::new(Level::new(files.to_vec()));
        Run { level, range: 0..files.len(), purpose: Purpose::Compaction }
    }

    fn file(&self, index: usize) -> &Arc<SstFile> {
        &self.level.files[self.range.start + index]
    }
}

impl ConcatSource for Run {
    type Iter = SstIter;

    fn len(&self) -> usize {
        self.range.len()
    }

    fn smallest(&self, index: usize) -> KeyRef<'_> {
        self.file(index).meta.smallest.as_ref()
    }

    fn largest(&self, index: usize) -> KeyRef<'_> {
        self.file(index).meta.largest.as_ref()
    }

    fn first_from(&self, user: &[u8]) -> usize {
        if self.range.len() == 1 {
            // Of level 0, perhaps, which is in another order. Its own index tells as soon.
            return 0;
        }
        self.level.first_from(user).clamp(self.range.start, self.range.end) - self.range.start
    }

    fn is_older_than(&self, index: usize, seqno: SeqNo) -> bool {
        self.file(index).meta.max_seqno < seqno
    }

    fn open(&self, index: usize) -> Result<SstIter> {
        let file = self.file(index);
        match self.purpose {
            Purpose::Read => Ok(file.reader()?.iter()),
            Purpose::Compaction => file.scan(),
        }
    }
}

/// A sorted source of entries.
pub(crate) enum Source {
    Memtable(MemtableIter),
    Sst(SstIter),
    Run(Concat<Run>),
    /// What lies beneath a transaction's own writes.
    Tree(Box<Flat<Merging<Source>>>),
}

/// Calls one method on whichever source it is.
macro_rules! each {
    ($self:ident, $source:ident => $call:expr) => {
        match $self {
            Source::Memtable($source) => $call,
            Source::Sst($source) => $call,
            Source::Run($source) => $call,
            Source::Tree($source) => $call,
        }
    };
}

/// Calls one method on the SST's cursor where the source stands in one, so that this common case is
/// there once and short enough to be inlined; else on whichever source it is.
macro_rules! sst_or_each {
    ($self:ident, $sst:ident, $source:ident => $call:expr) => {
        match $self.$sst() {
            Some($source) => $call,
            None => match $self {
                Source::Memtable($source) => $call,
                Source::Tree($source) => $call,
                Source::Sst(_) | Source::Run(_) => unreachable!("a source that stands nowhere"),
            },
        }
    };
}

impl Source {
    /// The cursor over the SST that it stands in, if it does.
    #[inline]
    fn sst(&self) -> Option<&SstIter> {
        match self {
            Source::Sst(sst) => Some(sst),
            Source::Run(run) => run.open(),
            Source::Memtable(_) | Source::Tree(_) => None,
        }
    }

    #[inline]
    fn sst_mut(&mut self) -> Option<&mut SstIter> {
        match self {
            Source::Sst(sst) => Some(sst),
            Source::Run(run) => run.open_mut(),
            Source::Memtable(_) | Source::Tree(_) => None,
        }
    }
}

impl InternalIter for Source {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        each!(self, source => source.seek(target))
    }

    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        each!(self, source => source.seek_for_prev(target))
    }

    fn seek_to_first(&mut self) -> Result<()> {
        each!(self, source => source.seek_to_first())
    }

    fn seek_to_last(&mut self) -> Result<()> {
        each!(self, source => source.seek_to_last())
    }

    fn next(&mut self) -> Result<()> {
        each!(self, source => source.next())
    }

    fn prev(&mut self) -> Result<()> {
        each!(self, source => source.prev())
    }

    #[inline]
    fn try_next(&mut self) -> Option<Trailer> {
        sst_or_each!(self, sst_mut, source => source.try_next())
    }

    #[inline]
    fn try_prev(&mut self) -> Option<Trailer> {
        sst_or_each!(self, sst_mut, source => source.try_prev())
    }

    #[inline]
    fn try_next_head(&mut self) -> Option<(Trailer, u128)> {
        sst_or_each!(self, sst_mut, source => source.try_next_head())
    }

    #[inline]
    fn try_prev_head(&mut self) -> Option<(Trailer, u128)> {
        sst_or_each!(self, sst_mut, source => source.try_prev_head())
    }

    fn pass_versions(&mut self, user: &[u8]) -> Result<()> {
        each!(self, source => source.pass_versions(user))
    }

    fn skip_forward(&mut self, to: Option<&[u8]>, below: SeqNo) -> Result<()> {
        each!(self, source => source.skip_forward(to, below))
    }

    fn skip_backward(&mut self, from: &[u8], below: SeqNo) -> Result<()> {
        each!(self, source => source.skip_backward(from, below))
    }

    #[inline]
    fn valid(&self) -> bool {
        each!(self, source => source.valid())
    }

    #[inline]
    fn key(&self) -> KeyRef<'_> {
        sst_or_each!(self, sst, source => source.key())
    }

    #[inline]
    fn is_sole(&self) -> bool {
        sst_or_each!(self, sst, source => source.is_sole())
    }

    #[inline]
    fn is_hot(&self) -> bool {
        sst_or_each!(self, sst, source => source.is_hot())
    }

    #[inline]
    fn value(&self) -> &[u8] {
        sst_or_each!(self, sst, source => source.value())
    }

    fn value_slice(&self) -> Slice {
        each!(self, source => source.value_slice())
    }
}
