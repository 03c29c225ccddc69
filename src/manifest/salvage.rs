//! Reads what still reads of a manifest, also behind damage.
#![deny(clippy::indexing_slicing)]

use std::path::Path;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::fs::Fs;
use crate::fs::names::manifest_path;
use crate::manifest::MANIFEST_FORMAT;
use crate::manifest::codec;
use crate::manifest::edit::VersionEdit;
use crate::record::Context;
use crate::record::Decoded;
use crate::record::Scan;
use crate::record::decode_at;
use crate::record::file;
use crate::record::header::FILE_HEADER_LEN;
use crate::record::header::FileHeader;
use crate::record::scan_for_valid;

/// What is left of a manifest.
#[derive(Debug, Default)]
pub(crate) struct SalvagedManifest {
    pub(crate) db: Option<DbId>,
    /// In the order of the file.
    pub(crate) edits: Vec<VersionEdit>,
    /// Where something else than an edit lies, and what is wrong there.
    pub(crate) damage: Vec<(u64, String)>,
}

/// The edits of manifest `id` that can still be read; `db` is the database's identity, if that is
/// known from elsewhere.
///
/// # Errors
/// `Io` if the file cannot be read at all.
pub(crate) fn salvage_manifest(
    fs: &dyn Fs,
    dir: &Path,
    id: FileId,
    db: Option<DbId>,
) -> Result<SalvagedManifest> {
    let path = manifest_path(dir, id);
    let content = file::read(fs, &path, u64::MAX)?.bytes;
    let mut found = SalvagedManifest { db, ..SalvagedManifest::default() };
    match FileHeader::decode(MANIFEST_FORMAT, &content) {
        Ok(header) if header.file == id && db.is_none_or(|db| db == header.db) => {
            found.db = Some(header.db);
        }
        Ok(_) => {
            let what = "it belongs to another database, or is another manifest under this name";
            return Err(Error::corruption(&path, 16, what));
        }
        Err(_) => found.damage.push((0, "its header is damaged".to_owned())),
    }
    let Some(db) = found.db else { return Ok(found) };
    let context = Context::new(db, id);
    let mut offset = FILE_HEADER_LEN as u64;
    let end = content.len() as u64;
    let mut ordinal = 1;
    while offset < end {
        let record = match decode_at(context, &content, offset) {
            Decoded::Record(record) if record.stamp.is_some() => record,
            Decoded::Record(_) | Decoded::End | Decoded::Invalid(_) => {
                let rest = offset + 1..end;
                let Scan::Found(at, record) = scan_for_valid(context, &content, rest, &|_| true)
                else {
                    break;
                };
                found.damage.push((offset, format!("{} bytes are no edit", at - offset)));
                record
            }
        };
        let seqno = record.stamp.map_or(ordinal, |stamp| stamp.seqno);
        if seqno != ordinal && found.damage.is_empty() {
            found.damage.push((offset, "an edit is missing in front".to_owned()));
        }
        ordinal = seqno.saturating_add(1);
        match codec::decode_edit(content.get(record.payload).unwrap_or_default()) {
            Ok(edit) => found.edits.push(edit),
            Err(what) => found.damage.push((offset, what.to_owned())),
        }
        offset = record.end;
    }
    Ok(found)
}
