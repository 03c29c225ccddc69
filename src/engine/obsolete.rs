//! Files that the current versions no longer name, until their last reader is gone.
//!
//! Deletion is explicit, never in a `Drop`: so an error is seen, and a test can drive it.

use std::path::PathBuf;
use std::sync::Arc;

use crate::base::ids::FileId;
use crate::base::sync::Mutex;
use crate::version::blob_file::BlobFile;
use crate::version::sst_file::SstFile;

/// A file that is on its way out.
#[derive(Debug)]
pub(crate) enum OldFile {
    Sst(Arc<SstFile>),
    Blob(Arc<BlobFile>),
}

impl OldFile {
    /// Is this the only reference to it?
    fn is_unused(&self) -> bool {
        match self {
            OldFile::Sst(file) => Arc::strong_count(file) == 1,
            OldFile::Blob(file) => Arc::strong_count(file) == 1,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        match self {
            OldFile::Sst(file) => file.path(),
            OldFile::Blob(file) => file.path(),
        }
    }

    /// Takes its blocks out of the cache: nobody reads them any more.
    pub(crate) fn forget_blocks(&self) {
        if let OldFile::Sst(file) = self {
            file.forget_blocks();
        }
    }
}

/// Obsolete SSTs and blob files. The list holds one reference to each; readers' views hold the
/// others, and jobs, of the files that they read.
#[derive(Debug, Default)]
pub(crate) struct Obsolete {
    files: Mutex<Vec<OldFile>>,
}

impl Obsolete {
    pub(crate) fn add(&self, files: impl Iterator<Item = OldFile>) {
        self.files.lock().extend(files);
    }

    /// Takes the files that nobody reads any more. Nobody can begin to: only old versions and plans
    /// name them, and a file with one reference is named by none.
    pub(crate) fn take_unused(&self) -> Vec<OldFile> {
        self.files.lock().extract_if(.., |file| file.is_unused()).collect()
    }

    /// Does any of these SSTs wait for its last reader?
    pub(crate) fn has_any(&self, ids: &[FileId]) -> bool {
        let is_one = |file: &OldFile| match file {
            OldFile::Sst(file) => ids.contains(&file.meta.id),
            OldFile::Blob(_) => false,
        };
        self.files.lock().iter().any(is_one)
    }

    /// Number of files that wait for their last reader.
    pub(crate) fn len(&self) -> usize {
        self.files.lock().len()
    }
}
