//! File kinds and their names in a database directory.
//!
//! ```text
//! CURRENT           which manifest is in force
//! LOCK              held by the process that has the database open
//! MANIFEST-000007   log of version edits
//! 000012.wal        write-ahead log segment
//! 000013.sst        sorted string table
//! 000014.blob       values that lie apart from their entries
//! *.tmp             being written; garbage after a crash
//! ```

use std::path::Path;
use std::path::PathBuf;

use crate::base::ids::FileId;

/// Name of the pointer to the manifest.
pub(crate) const CURRENT: &str = "CURRENT";
/// Name of the pointer while it is being replaced.
pub(crate) const CURRENT_TMP: &str = "CURRENT.tmp";
/// Name of the lock file.
pub(crate) const LOCK: &str = "LOCK";

/// A database that claims to have used larger numbers is damaged: between this and the largest that
/// a name may have there is room for all files that will ever be.
pub(crate) const NUMBER_USED_MAX: u64 = 1 << 61;

/// A kind of file, with its number where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileKind {
    Current,
    Lock,
    Manifest(FileId),
    Wal(FileId),
    Sst(FileId),
    Blob(FileId),
    Temporary,
}

impl FileKind {
    /// What the file `name` is, or `None` if it is not ours.
    pub(crate) fn parse(name: &str) -> Option<FileKind> {
        let number = |digits: &str| -> Option<FileId> {
            let canonical = digits.len() >= 6 && digits.bytes().all(|b| b.is_ascii_digit());
            let id = FileId(digits.parse().ok()?);
            // With a larger number it is not ours: so no name makes numbers run out.
            let possible = canonical && id <= FileId::STORED_MAX;
            (possible && id.to_string() == digits).then_some(id)
        };
        match name {
            CURRENT => return Some(FileKind::Current),
            CURRENT_TMP => return Some(FileKind::Temporary),
            LOCK => return Some(FileKind::Lock),
            _ => {}
        }
        if let Some(digits) = name.strip_prefix("MANIFEST-") {
            return number(digits).map(FileKind::Manifest);
        }
        let (stem, suffix) = name.split_once('.')?;
        match suffix {
            "wal" => number(stem).map(FileKind::Wal),
            "sst" => number(stem).map(FileKind::Sst),
            "blob" => number(stem).map(FileKind::Blob),
            _ => None,
        }
    }
}

pub(crate) fn manifest_path(dir: &Path, id: FileId) -> PathBuf {
    dir.join(format!("MANIFEST-{id}"))
}

pub(crate) fn wal_path(dir: &Path, id: FileId) -> PathBuf {
    dir.join(format!("{id}.wal"))
}

pub(crate) fn sst_path(dir: &Path, id: FileId) -> PathBuf {
    dir.join(format!("{id}.sst"))
}

pub(crate) fn blob_path(dir: &Path, id: FileId) -> PathBuf {
    dir.join(format!("{id}.blob"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_left_alone() {
        let dir = Path::new("");
        for n in [1, 999_999, 1_000_000] {
            let id = FileId(n);
            for (path, kind) in [
                (manifest_path(dir, id), FileKind::Manifest(id)),
                (wal_path(dir, id), FileKind::Wal(id)),
                (sst_path(dir, id), FileKind::Sst(id)),
                (blob_path(dir, id), FileKind::Blob(id)),
            ] {
                assert_eq!(FileKind::parse(path.to_str().unwrap()), Some(kind));
            }
        }
        for name in
            ["1.sst", "0000001.sst", "+00001.sst", "000001.sst.bak", "._000001.wal", "x", ""]
        {
            assert_eq!(FileKind::parse(name), None, "{name}");
        }
    }
}
