//! Adapters over cursors: the stack that turns sorted sources into what a reader sees.
//!
//! ```text
//!               Visible          one entry per user key, as of a seqno and a time; operands folded
//!                  |
//!               Merging          all entries in order
//!     .------.-----+-----.---------.
//!  memtable  |   SST    SST      Concat        one level: disjoint files, opened lazily
//!        memtable  (level 0)    /  |  \
//!                             SST SST SST
//! ```
//!
//! Compaction uses the same [`Merging`] and [`Concat`], with the rules of survival on top instead of
//! [`Visible`]. A point read uses none of this, unless it meets a merge operand. [`Fold`] calls the
//! merge operator, for both. [`DeadSpans`] tells readers where nothing lives, and [`Cover`] what range
//! tombstones hide. In a transaction the whole stack, as [`Flat`], is the source beneath its own writes.

mod concat;
mod cover;
mod dead;
mod flat;
mod fold;
mod merging;
#[cfg(test)]
mod tests;
mod verdict;
mod visible;

pub(crate) use concat::Concat;
pub(crate) use concat::ConcatSource;
pub(crate) use cover::Cover;
pub(crate) use dead::DeadSpans;
pub(crate) use flat::Flat;
pub(crate) use fold::Fold;
pub(crate) use fold::Operands;
pub(crate) use merging::Merging;
pub(crate) use visible::ReadAt;
pub(crate) use visible::Visible;
