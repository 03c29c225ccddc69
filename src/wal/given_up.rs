//! What a lenient recovery gives up: where the log was cut, why, and how much lay behind.

use std::fmt;
use std::path::PathBuf;

use crate::base::seqno::SeqNo;

/// What [`Recovery::ToLastConsistentPoint`](crate::Recovery::ToLastConsistentPoint) gave up of a
/// damaged log: everything from one place on. Told by [`Stats::given_up`](crate::Stats::given_up).
///
/// The files are not destroyed. Those that hold anything of what was given up are set aside under
/// their name with `.given-up` behind it; the database never looks at them again, and they may be
/// removed when nobody wants them any more. A database that is opened read-only leaves them as they
/// are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GivenUp {
    /// The damaged file.
    pub file: PathBuf,
    /// Where in it the damage begins, in bytes.
    pub offset: u64,
    /// What is wrong there, and how it is known that no crash did it.
    pub what: String,
    /// The first sequence number that was given up. All before it are there.
    pub first_seqno: SeqNo,
    /// The last sequence number that is known to have existed. There may have been more.
    pub last_seqno: Option<SeqNo>,
    /// Batches behind the damage that can still be read.
    pub batches: u64,
    /// Bytes behind the damage, at most: leftovers of recycled files may be among them.
    pub bytes: u64,
    /// Where the files with what was given up are now.
    pub kept: Vec<PathBuf>,
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, offset) = (self.file.display(), self.offset);
        write!(f, "{file} is damaged at offset {offset}: {}; given up: ", self.what)?;
        match self.last_seqno {
            Some(last) => write!(f, "sequence numbers {} to {last} or more", self.first_seqno)?,
            None => write!(f, "sequence numbers from {} on", self.first_seqno)?,
        }
        write!(f, ", at most {} bytes, {} batches of which still read", self.bytes, self.batches)?;
        for (n, kept) in self.kept.iter().enumerate() {
            let before = if n == 0 { "; kept in " } else { ", " };
            write!(f, "{before}{}", kept.display())?;
        }
        Ok(())
    }
}
