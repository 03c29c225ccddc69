//! Sequence numbers: the one order in which all writes of a database happened.

use std::fmt;

/// A sequence number. Every operation of a batch takes the next one; 0 means "before all writes".
///
/// 56 bits are used: at ten million writes per second they last for 228 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqNo(u64);

impl SeqNo {
    /// Before every write. Also what compaction writes at the bottom of the tree, where the order
    /// of versions no longer matters.
    pub const ZERO: SeqNo = SeqNo(0);
    /// The largest sequence number: reading at it sees everything.
    pub const MAX: SeqNo = SeqNo((1 << 56) - 1);

    /// No stored number is larger, so that there are always some left for the next writes.
    pub(crate) const STORED_MAX: SeqNo = SeqNo(SeqNo::MAX.0 - (1 << 48));

    /// The sequence number `n`, or [`SeqNo::MAX`] when `n` does not fit.
    pub fn new(n: u64) -> SeqNo {
        SeqNo(n.min(SeqNo::MAX.0))
    }

    /// As a plain number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// `self + n`, saturating at [`SeqNo::MAX`].
    #[must_use]
    pub fn plus(self, n: u64) -> SeqNo {
        SeqNo::new(self.0.saturating_add(n))
    }
}

impl fmt::Display for SeqNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
