//! The one error type: what went wrong, where, and what to do about it.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::base::seqno::SeqNo;

/// The result of anything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong. [`Error::kind`] groups it by what a program can do about it.
///
/// Errors are cheap to clone: when one sync fails, every writer that waited for it gets the error.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was tried: "open", "sync", …
        op: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// A file does not hold what was written to it. The rest of the database still reads; restore
    /// the file from a backup, or salvage what is readable.
    #[error("{} is damaged at offset {offset}: {what}", file.display())]
    Corruption {
        /// The damaged file.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The file was written by a newer version of esker.
    #[error(
        "{} has format version {found}, and this version of esker reads up to {supported}: \
         use a newer esker",
        file.display()
    )]
    UnsupportedFormat {
        /// The file that says so.
        file: PathBuf,
        /// The version in the file.
        found: u32,
        /// The newest version that this esker reads.
        supported: u32,
    },
    /// The directory exists and holds no database, and the options forbid to create one.
    #[error("{} holds no esker database: {what}", path.display())]
    NotADatabase {
        /// The directory.
        path: PathBuf,
        /// What is missing or in the way.
        what: String,
    },
    /// Another process, or another handle in this one, has the database open.
    #[error(
        "{} is in use by another process or by another handle in this one: \
         close that first, or share it by cloning the handle",
        path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The database takes no writes: it was opened read-only, or an earlier failure made it unsafe
    /// to acknowledge any more. Reads go on; reopen the database to write again.
    #[error("{}", why_read_only(cause.as_deref()))]
    ReadOnly {
        /// The failure; `None` if the database was opened read-only.
        cause: Option<Arc<Error>>,
    },
    /// There is no keyspace of this name, or it was dropped.
    #[error("there is no keyspace {name:?}")]
    NoSuchKeyspace {
        /// The name.
        name: String,
    },
    /// A keyspace's merge operator could not fold what is stored under a key, or panicked. Nothing
    /// is lost and nothing else is affected: put or delete the key, or open the database with an
    /// operator of that name that can.
    #[error("the merge operator {operator:?} of keyspace {keyspace:?} failed: {what}")]
    Merge {
        /// The keyspace.
        keyspace: String,
        /// The operator's name.
        operator: String,
        /// What it said.
        what: String,
    },
    /// A keyspace has another merge operator than the program thinks, or none, or one that the
    /// database was not opened with. Nothing was changed.
    #[error("{}", which_operator(keyspace, stored.as_deref(), given.as_deref()))]
    MergeOperator {
        /// The keyspace.
        keyspace: String,
        /// The name of its operator, if it has one.
        stored: Option<String>,
        /// The name of the operator that the program gave, if it gave one.
        given: Option<String>,
    },
    /// A key, value, name or range that cannot be stored. Nothing was changed.
    #[error("{what}")]
    InvalidArgument {
        /// Which limit was exceeded.
        what: String,
    },
    /// Options that cannot work together. Nothing was opened.
    #[error("invalid options: {what}")]
    InvalidOptions {
        /// Which, and what would be valid.
        what: String,
    },
    /// Compaction is behind and the write would have waited beyond its deadline. Nothing was
    /// written; try again later.
    #[error("the write would have waited longer than its deadline of {deadline:?}: {reason}")]
    Stalled {
        /// How long the write was allowed to wait.
        deadline: Duration,
        /// What it waited for.
        reason: String,
    },
    /// A concurrent write conflicts with this transaction. Nothing was written, and what it conflicts
    /// with is visible: begin anew.
    #[error("a concurrent write conflicts with this one: try again")]
    Conflict,
    /// A transaction, and with it all others that are open, would take more memory than
    /// transactions may: an eighth of the memory budget. The call did nothing.
    #[error(
        "a transaction would take {bytes} bytes, and all that are open may take {limit}: \
         commit in smaller parts, or allow a larger memory_budget"
    )]
    TransactionMemory {
        /// What this transaction would take.
        bytes: u64,
        /// What all of them together may take.
        limit: u64,
    },
    /// The changes that were asked for are not there: they are no longer kept, or the database never
    /// had them. Start over: take a snapshot, read all of it, and go on with the changes since
    /// [`Snapshot::seqno`](crate::Snapshot::seqno).
    #[error(
        "the changes since {since} are not there, those since {oldest} are, up to {newest}: \
         start over from a snapshot, or keep more of the log (log_retention)"
    )]
    ChangesGone {
        /// What was asked for.
        since: SeqNo,
        /// The least number that could be asked for.
        oldest: SeqNo,
        /// The newest change.
        newest: SeqNo,
    },
    /// The database was closed.
    #[error("the database is closed")]
    Closed,
    /// esker contradicted itself. The database is read-only until it is reopened.
    #[error("esker has a bug, please report it: {what}")]
    Internal {
        /// What should never have happened.
        what: String,
    },
}

fn which_operator(keyspace: &str, stored: Option<&str>, given: Option<&str>) -> String {
    match (stored, given) {
        (Some(stored), Some(given)) => format!(
            "keyspace {keyspace:?} has the merge operator {stored:?}, and not {given:?}: \
             the operator of a keyspace cannot be changed"
        ),
        (Some(stored), None) => format!(
            "keyspace {keyspace:?} has the merge operator {stored:?}, which is not built in: \
             give it to Options::merge_operator"
        ),
        (None, _) => format!(
            "keyspace {keyspace:?} has no merge operator: \
             give it one with Db::keyspace_with and KeyspaceOptions::merge_operator"
        ),
    }
}

fn why_read_only(cause: Option<&Error>) -> String {
    match cause {
        Some(cause) => format!(
            "the database takes no more writes since an earlier failure ({cause}): \
             mend the cause, then close and reopen it"
        ),
        None => "the database was opened read-only".to_owned(),
    }
}

/// What a program can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Stored data is damaged: restore it from a backup, or salvage it.
    Corruption,
    /// The environment failed (disk full, permission, too many files): mend it and try again.
    Io,
    /// The database takes no writes until it is reopened for them; reads go on.
    ReadOnly,
    /// A concurrent write got in the way: try again.
    Conflict,
    /// What was asked for is not there any more: start over from what is.
    Gone,
    /// Something is in use or overloaded: try again later.
    Busy,
    /// The call was wrong: change the program.
    Misuse,
}

impl Error {
    /// What a program can do about it.
    ///
    /// ```
    /// let error = esker::Db::open("/dev/null/nowhere").unwrap_err();
    /// assert_eq!(error.kind(), esker::ErrorKind::Io);
    /// ```
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Corruption { .. } => ErrorKind::Corruption,
            Error::Io { .. } => ErrorKind::Io,
            Error::ReadOnly { .. } | Error::Internal { .. } => ErrorKind::ReadOnly,
            Error::Conflict => ErrorKind::Conflict,
            Error::ChangesGone { .. } => ErrorKind::Gone,
            Error::TransactionMemory { bytes, limit } if bytes > limit => ErrorKind::Misuse,
            Error::Locked { .. } | Error::Stalled { .. } | Error::TransactionMemory { .. } => {
                ErrorKind::Busy
            }
            Error::UnsupportedFormat { .. }
            | Error::NotADatabase { .. }
            | Error::NoSuchKeyspace { .. }
            | Error::Merge { .. }
            | Error::MergeOperator { .. }
            | Error::InvalidArgument { .. }
            | Error::InvalidOptions { .. }
            | Error::Closed => ErrorKind::Misuse,
        }
    }

    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Io { op, path: path.to_owned(), source: Arc::new(source) }
    }

    pub(crate) fn corruption(file: &Path, offset: u64, what: impl Into<String>) -> Error {
        Error::Corruption { file: file.to_owned(), offset, what: what.into() }
    }

    pub(crate) fn argument(what: impl Into<String>) -> Error {
        Error::InvalidArgument { what: what.into() }
    }

    pub(crate) fn internal(what: impl Into<String>) -> Error {
        Error::Internal { what: what.into() }
    }

    /// The sticky form of a failure after which nothing may be acknowledged any more.
    pub(crate) fn read_only(cause: Error) -> Error {
        match cause {
            Error::ReadOnly { .. } => cause,
            _ => Error::ReadOnly { cause: Some(Arc::new(cause)) },
        }
    }

    /// The system's error kind, where there is one.
    pub(crate) fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Error::Io { source, .. } => Some(source.kind()),
            _ => None,
        }
    }
}
