//! `CURRENT`: which manifest is in force.

use std::io;
use std::path::Path;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::fs::Fs;
use crate::fs::names::CURRENT;
use crate::fs::names::CURRENT_TMP;
use crate::fs::names::NUMBER_USED_MAX;
use crate::manifest::CURRENT_FORMAT;
use crate::manifest::reader::unusable_header;
use crate::record::file;
use crate::record::header::FILE_HEADER_LEN;
use crate::record::header::FileHeader;

/// Makes `CURRENT` name manifest `id`, which is durable. Atomic: until this returns, a crash leaves
/// the old content or the new one; after an error it is unknown which.
pub(crate) fn install_current(fs: &dyn Fs, dir: &Path, db: DbId, id: FileId) -> Result<()> {
    let temporary = dir.join(CURRENT_TMP);
    let file = match fs.create(&temporary) {
        Err(error) if error.io_kind() == Some(io::ErrorKind::AlreadyExists) => {
            fs.remove(&temporary)?;
            fs.create(&temporary)?
        }
        file => file?,
    };
    file.write_at(0, &FileHeader { db, file: id, extra: [0; 4] }.encode(CURRENT_FORMAT))?;
    file.sync_data()?;
    drop(file);
    fs.rename(&temporary, &dir.join(CURRENT))?;
    fs.sync_dir(dir)
}

/// The database's identity and the manifest in force.
///
/// # Errors
/// `Corruption` if `CURRENT` is damaged or too short; `Io` if it is missing.
pub(crate) fn read_current(fs: &dyn Fs, dir: &Path) -> Result<(DbId, FileId)> {
    let path = dir.join(CURRENT);
    let content = file::read(fs, &path, 2 * FILE_HEADER_LEN as u64)?.bytes;
    if content.len() != FILE_HEADER_LEN {
        let what = format!("it has {} bytes, and should have {FILE_HEADER_LEN}", content.len());
        return Err(Error::corruption(&path, 0, what));
    }
    let header = FileHeader::decode(CURRENT_FORMAT, &content);
    let header = header.map_err(|unusable| unusable_header(&path, &unusable))?;
    if header.file.0 > NUMBER_USED_MAX {
        return Err(Error::corruption(&path, 0, "it names a manifest with an impossible number"));
    }
    Ok((header.db, header.file))
}
