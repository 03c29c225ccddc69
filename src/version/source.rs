//! The kinds of sorted sources that readers and compactions merge, as one type, so that a step
//! costs a predictable branch and no virtual call.

use std::sync::Arc;

use crate::base::error::Result;
use crate::base::internal_iter::InternalIter;
use crate::base::key::KeyRef;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;
use crate::iter::Concat;
use crate::iter::ConcatSource;
use crate::iter::Flat;
use crate::iter::Merging;
use crate::memtable::MemtableIter;
use crate::sst::SstIter;
use crate::version::sst_file::SstFile;

/// What an iterator over files is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A reader's: through the mapping and the block cache.
    Read,
    /// A compaction's: from front to back, past both.
    Compaction,
}

/// Disjoint files in key order, each opened when the walk reaches it.
#[derive(Debug)]
pub(crate) struct Run {
    files: Vec<Arc<SstFile>>,
    purpose: Purpose,
}

impl Run {
    pub(crate) fn new(files: Vec<Arc<SstFile>>, purpose: Purpose) -> Run {
        Run { files, purpose }
    }
}

impl ConcatSource for Run {
    type Iter = SstIter;

    fn len(&self) -> usize {
        self.files.len()
    }

    fn smallest(&self, index: usize) -> KeyRef<'_> {
        self.files[index].meta.smallest.as_ref()
    }

    fn largest(&self, index: usize) -> KeyRef<'_> {
        self.files[index].meta.largest.as_ref()
    }

    fn is_older_than(&self, index: usize, seqno: SeqNo) -> bool {
        self.files[index].meta.max_seqno < seqno
    }

    fn open(&self, index: usize) -> Result<SstIter> {
        let file = &self.files[index];
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

    #[inline]
    fn next(&mut self) -> Result<()> {
        each!(self, source => source.next())
    }

    #[inline]
    fn prev(&mut self) -> Result<()> {
        each!(self, source => source.prev())
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
        each!(self, source => source.key())
    }

    #[inline]
    fn is_sole(&self) -> bool {
        each!(self, source => source.is_sole())
    }

    #[inline]
    fn is_hot(&self) -> bool {
        each!(self, source => source.is_hot())
    }

    #[inline]
    fn value(&self) -> &[u8] {
        each!(self, source => source.value())
    }

    fn value_slice(&self) -> Slice {
        each!(self, source => source.value_slice())
    }
}
