//! Which segments there are, and which of them form the log.
#![deny(clippy::indexing_slicing)]

use std::path::Path;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::FileId;
use crate::base::sorted::SortedMap;
use crate::base::sorted::sort_by_key;
use crate::fs::DirEntry;
use crate::fs::Fs;
use crate::fs::ReadMode;
use crate::fs::names::FileKind;
use crate::fs::names::wal_path;
use crate::record::header::FILE_HEADER_LEN;
use crate::record::header::Unusable;
use crate::wal::segment::FORMAT;
use crate::wal::segment::SegmentHeader;

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// It is valid: the segment was started.
    Started(SegmentHeader),
    /// There is no valid one; why.
    Unstarted(&'static str),
    /// It is valid, and that of another database's segment.
    Foreign,
}

/// A segment in the directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// The file's length.
    pub(super) bytes: u64,
    pub(super) start: Start,
}

/// All segments in the directory from the floor on.
#[derive(Debug)]
pub(super) struct Catalog {
    pub(super) segments: SortedMap<FileId, Found>,
    /// Segments below the floor.
    pub(super) obsolete: Vec<FileId>,
}

impl Catalog {
    /// Reads the headers of all segments in `listing`.
    pub(super) fn read(
        fs: &dyn Fs,
        dir: &Path,
        db: DbId,
        floor: FileId,
        listing: &[DirEntry],
    ) -> Result<Catalog> {
        let mut catalog = Catalog { segments: SortedMap::new(), obsolete: Vec::new() };
        for entry in listing.iter().filter(|entry| !entry.is_dir) {
            let Some(FileKind::Wal(id)) = FileKind::parse(&entry.name) else {
                continue;
            };
            if id < floor {
                catalog.obsolete.push(id);
                continue;
            }
            let (bytes, header) = read_header(fs, &wal_path(dir, id))?;
            let start = match header {
                Ok(header) if header.db != db => Start::Foreign,
                Ok(header) if header.id != id => {
                    Start::Unstarted("its header is that of another segment")
                }
                Ok(header) => Start::Started(header),
                Err(what) => Start::Unstarted(what),
            };
            catalog.segments.insert(id, Found { bytes, start });
        }
        sort_by_key(&mut catalog.obsolete, |id| *id);
        Ok(catalog)
    }

    /// The valid header of segment `id`.
    pub(super) fn header(&self, id: FileId) -> Option<SegmentHeader> {
        match self.segments.get(&id)?.start {
            Start::Started(header) => Some(header),
            Start::Unstarted(_) | Start::Foreign => None,
        }
    }

    /// The segments behind `id` by number.
    pub(super) fn after(&self, id: FileId) -> impl Iterator<Item = (FileId, Found)> {
        self.segments.behind(&id).iter().copied()
    }

    /// The log: the floor, or without one the segment that follows none, and what is linked to it.
    /// Empty if there is no such segment.
    pub(super) fn chain(&self, floor: FileId) -> Vec<SegmentHeader> {
        let mut successors = SortedMap::new();
        for found in self.segments.values() {
            if let Start::Started(header) = found.start {
                // Larger numbers come later and win.
                successors.insert(header.prev, header);
            }
        }
        let first = match floor {
            FileId(0) => successors.get(&FileId(0)).copied(),
            _ => self.header(floor),
        };
        let mut chain = Vec::new();
        let mut next = first;
        while let Some(header) = next {
            chain.push(header);
            // Numbers rise along the chain, so that it ends.
            next = successors.get(&header.id).copied();
        }
        chain
    }
}

/// The length of a segment's file, and its header, or why it has no valid one.
pub(super) fn read_header(
    fs: &dyn Fs,
    path: &Path,
) -> Result<(u64, Result<SegmentHeader, &'static str>)> {
    let file = fs.open(path, ReadMode::Sequential)?;
    let mut head = [0; FILE_HEADER_LEN];
    let len = file.len().min(FILE_HEADER_LEN as u64) as usize;
    let (head, _) = head.split_at_mut(len);
    file.read_at(0, head)?;
    let header = match SegmentHeader::decode(head) {
        Ok(header) => Ok(header),
        Err(Unusable::Damaged(what)) => Err(what),
        Err(Unusable::Newer(found)) => {
            let (file, supported) = (path.to_owned(), FORMAT.version);
            return Err(Error::UnsupportedFormat { file, found, supported });
        }
    };
    Ok((file.len(), header))
}
