//! Files that the current versions no longer name, until their last reader is gone.
//!
//! Deletion is explicit, never in a `Drop`: so an error is seen, and a test can drive it.

use std::sync::Arc;

use crate::base::sync::Mutex;
use crate::version::sst_file::SstFile;

/// Obsolete SSTs. The list holds one reference to each; readers' views hold the others.
#[derive(Debug, Default)]
pub(crate) struct Obsolete {
    files: Mutex<Vec<Arc<SstFile>>>,
}

impl Obsolete {
    pub(crate) fn add(&self, files: impl Iterator<Item = Arc<SstFile>>) {
        self.files.lock().extend(files);
    }

    /// Takes the files that nobody reads any more. Nobody can begin to: only old versions name
    /// them, and a file with one reference is named by none.
    pub(crate) fn take_unused(&self) -> Vec<Arc<SstFile>> {
        let mut files = self.files.lock();
        files.extract_if(.., |file| Arc::strong_count(file) == 1).collect()
    }

    /// Number of files that wait for their last reader.
    pub(crate) fn len(&self) -> usize {
        self.files.lock().len()
    }
}
