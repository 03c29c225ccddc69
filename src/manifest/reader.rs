//! Reads a manifest back.
#![deny(clippy::indexing_slicing)]

use std::io;
use std::path::Path;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::fs::Fs;
use crate::fs::names::manifest_path;
use crate::manifest::MANIFEST_FORMAT;
use crate::manifest::codec;
use crate::manifest::codec::BadEdit;
use crate::manifest::edit::VersionEdit;
use crate::record;
use crate::record::Context;
use crate::record::Decoded;
use crate::record::Record;
use crate::record::Scan;
use crate::record::file;
use crate::record::header::FILE_HEADER_LEN;
use crate::record::header::FileHeader;
use crate::record::header::Unusable;

/// The edits of manifest `id` of database `db`, oldest first.
///
/// # Errors
/// `Corruption` naming file and offset; `UnsupportedFormat`; `Io`.
pub(crate) fn read_manifest(
    fs: &dyn Fs,
    dir: &Path,
    id: FileId,
    db: DbId,
) -> Result<Vec<VersionEdit>> {
    let path = manifest_path(dir, id);
    let content = match file::read(fs, &path, u64::MAX) {
        Err(error) if error.io_kind() == Some(io::ErrorKind::NotFound) => {
            return Err(Error::corruption(&path, 0, "the file is missing, and CURRENT names it"));
        }
        content => content?.bytes,
    };
    let header = FileHeader::decode(MANIFEST_FORMAT, &content);
    let header = header.map_err(|unusable| unusable_header(&path, &unusable))?;
    if header.db != db || header.file != id {
        let what = "it belongs to another database, or is another manifest under this name";
        return Err(Error::corruption(&path, 16, what));
    }
    let context = Context::new(db, id);
    let mut edits = Vec::new();
    let mut offset = FILE_HEADER_LEN as u64;
    loop {
        let record = match record::decode_at(context, &content, offset) {
            Decoded::Record(record) if is_next(&record, edits.len()) => record,
            Decoded::Record(_) => {
                return Err(Error::corruption(&path, offset, "a record is not next in number"));
            }
            Decoded::End => {
                check_tail(&path, context, &content, offset, "there are zeros between records")?;
                break;
            }
            Decoded::Invalid(what) => {
                check_tail(&path, context, &content, offset, what)?;
                break;
            }
        };
        let payload = content.get(record.payload.clone()).unwrap_or_default();
        let edit = codec::decode(payload).map_err(|bad| match bad {
            BadEdit::Malformed(what) => Error::corruption(&path, offset, what),
            BadEdit::Newer => newer(&path, MANIFEST_FORMAT.version + 1),
        })?;
        edits.push(edit);
        offset = record.end;
    }
    if edits.is_empty() {
        return Err(Error::corruption(&path, offset, "it holds no valid record"));
    }
    Ok(edits)
}

fn is_next(record: &Record, edits: usize) -> bool {
    record.stamp.is_some_and(|stamp| stamp.seqno == edits as u64 + 1)
}

/// What is no record is the end, or a torn append, only if nothing valid follows.
fn check_tail(
    path: &Path,
    context: Context,
    content: &[u8],
    offset: u64,
    what: &str,
) -> Result<()> {
    let rest = offset + 1..content.len() as u64;
    match record::scan_for_valid(context, content, rest, &|_| true) {
        Scan::Nothing => Ok(()),
        Scan::Found(..) => Err(Error::corruption(path, offset, what)),
    }
}

fn newer(path: &Path, found: u32) -> Error {
    Error::UnsupportedFormat { file: path.to_owned(), found, supported: MANIFEST_FORMAT.version }
}

/// The error for a header that cannot be used; all formats are at version 1 so far.
pub(super) fn unusable_header(path: &Path, unusable: &Unusable) -> Error {
    match unusable {
        Unusable::Damaged(what) => Error::corruption(path, 0, *what),
        Unusable::Newer(found) => newer(path, *found),
    }
}
