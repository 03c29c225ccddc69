//! The manifest: which files a database consists of, as a log of edits.
//!
//! *Overview of types.* A [`VersionEdit`] changes the trees of one or more keyspaces at once. A
//! [`ManifestWriter`] appends edits, each synced before it counts; [`read_manifest`] reads them
//! back. `CURRENT` names the manifest in force: [`install_current`], [`read_current`].
//!
//! *Format of `MANIFEST-NNNNNN`.* A [file header](crate::record::header), then
//! [records](crate::record) from offset 64 on, whose stamps count 1, 2, 3 … and claim nothing. The
//! payload of each is an edit; the first one makes everything from nothing.
//!
//! An edit is a sequence of fields, each `tag varint | length varint | bytes`. Unknown fields with
//! an even tag are skipped; an unknown odd tag means that a reader which ignored it would be wrong,
//! so it is refused as a newer format. The tags are listed in [`codec`]; they are stored on disk and
//! never reused.
//!
//! *Validity.* A record counts if and only if its checksum, which covers database, file number and
//! offset, is right and it is the next in number. The first invalid record ends the manifest, as a
//! torn append that was never acknowledged; unless a valid record follows it, which is corruption.
//! An edit that was acknowledged and is damaged at the very end of the file is found missing by what
//! it led to: files removed, segments recycled.
//!
//! *Format of `CURRENT`.* 64 bytes: a file header whose file number is the manifest's.

mod codec;
mod current;
mod edit;
mod reader;
mod salvage;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use codec::decode_edit;
#[cfg(any(test, feature = "testing"))]
pub(crate) use codec::encode as encode_edit;
pub(crate) use current::install_current;
pub(crate) use current::read_current;
pub(crate) use edit::BlobMeta;
pub(crate) use edit::KeptSegment;
pub(crate) use edit::KeyspaceEdit;
pub(crate) use edit::SstMeta;
pub(crate) use edit::VersionEdit;
pub(crate) use reader::read_manifest;
pub(crate) use salvage::SalvagedManifest;
pub(crate) use salvage::salvage_manifest;
pub(crate) use writer::ManifestWriter;

use crate::record::header::Format;

/// Manifest files of this version.
pub(crate) const MANIFEST_FORMAT: Format = Format { magic: *b"eskerMAN", version: 1 };
/// `CURRENT` of this version.
pub(crate) const CURRENT_FORMAT: Format = Format { magic: *b"eskerCUR", version: 1 };
