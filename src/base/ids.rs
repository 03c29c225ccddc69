//! Identities: numbers that must not be mixed up, each with a type of its own.

use std::fmt;

/// Number of a file in a database directory; never used twice in the life of a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileId(pub(crate) u64);

impl FileId {
    /// No stored number is larger, so that there always is a next one.
    pub(crate) const STORED_MAX: FileId = FileId(1 << 62);

    /// The following number.
    #[must_use]
    pub(crate) fn next(self) -> FileId {
        FileId(self.0 + 1)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}", self.0)
    }
}

/// Number of a keyspace; never used twice in the life of a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyspaceId(pub(crate) u32);

impl KeyspaceId {
    /// The keyspace that `Db` itself reads and writes.
    pub(crate) const DEFAULT: KeyspaceId = KeyspaceId(0);
}

/// Identity of a database, drawn at random when it is created and stored in each of its files, so
/// that a file of another database is never taken for one of this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct DbId(pub(crate) u64);

impl fmt::Display for DbId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
