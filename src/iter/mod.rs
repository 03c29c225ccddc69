//! Adapters over cursors: the stack that turns sorted sources into what a reader sees.
//!
//! ```text
//!               Visible          one entry per user key, as of a seqno, within bounds
//!                  |
//!               Merging          all entries in order
//!     .------.-----+-----.---------.
//!  memtable  |   SST    SST      Concat        one level: disjoint files, opened lazily
//!        memtable  (level 0)    /  |  \
//!                             SST SST SST
//! ```
//!
//! Compaction uses the same [`Merging`] and [`Concat`], with the rules of survival on top instead of
//! [`Visible`]. A point read uses none of this. In a transaction the whole stack, as [`Flat`], is the
//! source beneath its own writes.

mod concat;
mod flat;
mod merging;
#[cfg(test)]
mod tests;
mod visible;

pub(crate) use concat::Concat;
pub(crate) use concat::ConcatSource;
pub(crate) use flat::Flat;
pub(crate) use merging::Merging;
pub(crate) use visible::Visible;
