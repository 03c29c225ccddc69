//! What a repair saved and what it could not.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;

use crate::base::error::Error;

/// What a repair saved and lost: see [`Options::repair`](crate::Options::repair).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairReport {
    /// The keyspaces of the new database, sorted by name.
    pub keyspaces: Vec<RepairedKeyspace>,
    /// Entries in the new database.
    pub entries: u64,
    /// Batches that were taken from the log.
    pub batches: u64,
    /// SSTs, log segments and manifests that were read.
    pub files: u64,
    /// Those of them, and of the files that are missing, in which something is damaged.
    pub files_damaged: u64,
    /// Files of which nothing could be read, missing ones included.
    pub files_unreadable: u64,
    /// Bytes of entries that are lost, as they were stored. Of the log's end it is not known.
    pub bytes_lost: u64,
    /// Everything that is damaged, file by file.
    pub losses: Vec<Loss>,
    /// What the new database may hold, or may have lost, that cannot be proven.
    pub remarks: Vec<String>,
}

/// One keyspace of the new database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairedKeyspace {
    /// Its name; made up if no manifest tells it.
    pub name: String,
    /// Entries in it.
    pub entries: u64,
}

/// A part of a file that a repair could not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// The file.
    pub file: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// Bytes of entries that are lost with it, as they were stored; 0 if none, as with an index.
    pub bytes: u64,
    /// What is wrong there.
    pub what: String,
    /// Keys from the first on, and before the second (or up to it, at the file's end), may be lost
    /// or be there with an older value; `None` where that is not known.
    pub keys: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}: {}", self.file.display(), self.offset, self.what)?;
        if self.bytes > 0 {
            write!(f, "; {} bytes lost", self.bytes)?;
        }
        if let Some((from, to)) = &self.keys {
            write!(f, "; keys \"{}\" to \"{}\"", from.escape_ascii(), to.escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Display for RepairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "saved {} entries in {} keyspaces, {} batches from the log; \
             read {} files: {} damaged, {} unreadable; {} bytes lost",
            self.entries,
            self.keyspaces.len(),
            self.batches,
            self.files,
            self.files_damaged,
            self.files_unreadable,
            self.bytes_lost,
        )?;
        for keyspace in &self.keyspaces {
            writeln!(f, "keyspace {:?}: {} entries", keyspace.name, keyspace.entries)?;
        }
        for loss in &self.losses {
            writeln!(f, "damaged: {loss}")?;
        }
        for remark in &self.remarks {
            writeln!(f, "note: {remark}")?;
        }
        Ok(())
    }
}

impl RepairReport {
    /// Was nothing damaged?
    pub fn is_clean(&self) -> bool {
        self.losses.is_empty()
    }

    pub(super) fn lose(&mut self, loss: Loss) {
        if self.losses.iter().all(|other| other.file != loss.file) {
            self.files_damaged += 1;
        }
        self.bytes_lost += loss.bytes;
        self.losses.push(loss);
    }

    /// A file of which nothing can be read.
    pub(super) fn lose_file(&mut self, path: &Path, bytes: u64, error: &Error) {
        let (offset, what) = match error {
            Error::Corruption { offset, what, .. } => (*offset, what.clone()),
            error => (0, error.to_string()),
        };
        self.files_unreadable += 1;
        self.lose(Loss { file: path.to_owned(), offset, bytes, what, keys: None });
    }

    pub(super) fn remark(&mut self, remark: &str) {
        if !self.remarks.iter().any(|other| other == remark) {
            self.remarks.push(remark.to_owned());
        }
    }
}
