//! Do newer versions lie above older ones (I3 of [`crate::version`])? All files of a version are walked
//! together.
//!
//! A range tombstone is a version of each key that it covers. Between levels its number must lie
//! below all those above it over a key, those of entries and of range tombstones; within a file it may
//! lie where it likes among them.

use std::path::Path;
use std::sync::Arc;

use crate::base::blob::BlobSource as _;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::internal_iter::InternalIter as _;
use crate::base::key::Trailer;
use crate::base::range_tombstone::Fragment;
use crate::base::range_tombstone::Fragments;
use crate::base::seqno::SeqNo;
use crate::base::value::EXPIRY_LEN;
use crate::sst::SstIter;
use crate::version::Version;
use crate::version::sst_file::SstFile;

/// Checks the order of `version`, in the database `dir`, and where the handles of its entries lead.
/// `progress` gets the bytes of the files that were walked. There are few sources, so the least key
/// is found by looking at each; the merging iterator is not used, since it is among what is checked.
pub(super) fn check(version: &Version, dir: &Path, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let mut sources: Vec<Walk> = Vec::new();
    for file in &version.level(0).files {
        sources.push(Walk::new(vec![file.clone()])?);
    }
    for level in &version.levels()[1..] {
        sources.push(Walk::new(level.files.clone())?);
    }
    check_ranges(&sources, dir)?;
    let mut user: Vec<u8> = Vec::new();
    let mut finished = 0;
    loop {
        let heads = sources.iter().filter_map(|source| source.head()).map(|(key, _)| key);
        let Some(least) = heads.min() else { return Ok(()) };
        user.clear();
        user.extend_from_slice(least);
        let mut above = SeqNo::MAX;
        let before = finished;
        for source in &mut sources {
            let covered = source.ranges.over(&user).and_then(Fragment::bounds);
            if let Some((_, newest)) = covered {
                check_older(newest, above, "a range tombstone over", &user, dir)?;
            }
            while let Some((key, trailer)) = source.head()
                && key == user
            {
                check_older(trailer.seqno(), above, "a version of", &user, dir)?;
                above = trailer.seqno();
                source.check_handle(version)?;
                finished += source.next()?;
            }
            above = covered.map_or(above, |(oldest, _)| above.min(oldest));
        }
        if finished > before {
            progress(finished);
        }
    }
}

/// The same where no key has an entry: among range tombstones.
fn check_ranges(sources: &[Walk], dir: &Path) -> Result<()> {
    let mut above = Fragments::default();
    for source in sources.iter().filter(|source| !source.ranges.is_empty()) {
        for fragment in source.ranges.list() {
            let Some((_, newest)) = fragment.bounds() else { continue };
            for upper in above.overlapping(&fragment.from, fragment.to()) {
                let Some((oldest, _)) = upper.bounds() else { continue };
                let key = upper.from.as_slice().max(&fragment.from);
                check_older(newest, oldest, "a range tombstone over", key, dir)?;
            }
        }
        above = Fragments::union([&above, &source.ranges].into_iter());
    }
    Ok(())
}

fn check_older(seqno: SeqNo, above: SeqNo, what: &str, key: &[u8], dir: &Path) -> Result<()> {
    if seqno < above {
        return Ok(());
    }
    let key = key.escape_ascii();
    let what = format!("I3: {what} key \"{key}\" with seqno {seqno} lies below an older one");
    Err(Error::corruption(dir, 0, what))
}

/// The files of one level, one after the other.
struct Walk {
    files: std::vec::IntoIter<Arc<SstFile>>,
    current: Option<(u64, SstIter)>,
    /// The range tombstones of all of them.
    ranges: Fragments,
}

impl Walk {
    fn new(files: Vec<Arc<SstFile>>) -> Result<Walk> {
        let mut readers = Vec::new();
        for file in files.iter().filter(|file| file.meta.ranges.is_some()) {
            readers.push(file.reader()?);
        }
        let ranges = Fragments::union(readers.into_iter().map(|reader| reader.ranges()));
        let mut walk = Walk { files: files.into_iter(), current: None, ranges };
        walk.next_file()?;
        Ok(walk)
    }

    fn next_file(&mut self) -> Result<()> {
        self.current = None;
        for file in self.files.by_ref() {
            let mut entries = file.scan()?;
            entries.seek_to_first()?;
            if entries.valid() {
                self.current = Some((file.meta.bytes, entries));
                break;
            }
        }
        Ok(())
    }

    fn head(&self) -> Option<(&[u8], Trailer)> {
        let (_, entries) = self.current.as_ref()?;
        let key = entries.key();
        Some((key.user, key.trailer))
    }

    /// If the entry has a handle: does it lead to a value of its key?
    fn check_handle(&self, version: &Version) -> Result<()> {
        let Some((_, entries)) = &self.current else { return Ok(()) };
        let key = entries.key();
        let kind = key.trailer.kind().filter(|kind| kind.is_apart());
        let at = kind.map(|kind| if kind.expires() { EXPIRY_LEN } else { 0 });
        let Some(handle) = at.and_then(|at| entries.value().get(at..)) else { return Ok(()) };
        version.fetch(key.user, handle).map(drop)
    }

    /// One entry on. Returns the bytes of the file whose last entry that was, or 0.
    fn next(&mut self) -> Result<u64> {
        let Some((bytes, entries)) = &mut self.current else { return Ok(0) };
        entries.next()?;
        if entries.valid() {
            return Ok(0);
        }
        let bytes = *bytes;
        self.next_file()?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::base::clock::SystemClock;
    use crate::base::compression::Compression;
    use crate::base::ids::DbId;
    use crate::base::ids::KeyspaceId;
    use crate::base::key::KeyRef;
    use crate::base::options::SstOptions;
    use crate::base::sync::atomic::AtomicU64;
    use crate::base::value::ValueKind;
    use crate::cache::BlockCache;
    use crate::compaction::output::Output;
    use crate::compaction::output::OutputContext;
    use crate::compaction::output::OutputSpec;
    use crate::fs::Fs as _;
    use crate::fs::MemFs;
    use crate::fs::ReadMode;
    use crate::manifest::KeyspaceEdit;
    use crate::version::builder;
    use crate::version::sst_file::SstOpener;

    /// A file: level, keys with their numbers, range tombstones.
    type File<'a> = (u8, &'a [(&'a str, u64)], &'a [(&'a str, &'a str, u64)]);

    /// What is wrong with a version of these files, if anything is.
    fn violated(files: &[File<'_>]) -> Option<String> {
        let fs = Arc::new(MemFs::new());
        let dir = PathBuf::from("/db");
        fs.create_dir_all(&dir).unwrap();
        let cache = Arc::new(BlockCache::new(0));
        let context = OutputContext {
            db: DbId(1),
            fs: fs.clone(),
            clock: Arc::new(SystemClock),
            dir: dir.clone(),
            next_file: Arc::new(AtomicU64::new(1)),
        };
        let sst = SstOptions {
            block_bytes: 4096,
            compression: Compression::None,
            filter_bits_per_key: 10,
        };
        let spec = OutputSpec {
            keyspace: KeyspaceId::DEFAULT,
            sst,
            file_bytes: 1 << 20,
            input_bytes: 0,
            grandparents: Vec::new(),
            oldest_tombstone_ms: None,
        };
        let mut edit = KeyspaceEdit::default();
        for (level, entries, ranges) in files {
            let pieces = ranges.iter().map(|(from, to, seqno)| {
                (from.as_bytes(), Some(to.as_bytes()), SeqNo::new(*seqno))
            });
            let mut output = Output::new(&context, spec.clone(), Fragments::cut(pieces));
            for (key, seqno) in *entries {
                let trailer = Trailer::new(SeqNo::new(*seqno), ValueKind::Put);
                output.add(KeyRef::new(key.as_bytes(), trailer), b"value", false).unwrap();
            }
            let (written, _) = output.finish().unwrap();
            edit.added.extend(written.into_iter().map(|meta| (*level, meta)));
        }
        let opener = Arc::new(SstOpener { fs, dir: dir.clone(), cache, mode: ReadMode::Pread });
        let version = builder::apply(&Version::default(), &edit, &opener).unwrap();
        check(&version, &dir, &mut |_| {}).err().map(|error| error.to_string())
    }

    #[test]
    fn newer_versions_lie_above_older_ones_range_tombstones_among_them() {
        let sound: [&[File<'_>]; 4] = [
            &[(0, &[("b", 9)], &[]), (1, &[("b", 8)], &[("a", "c", 7)])],
            &[(0, &[("b", 9)], &[("a", "c", 8)]), (1, &[("b", 7)], &[("a", "z", 6)])],
            // Within a file anything may lie on anything.
            &[(1, &[("b", 3), ("b", 1)], &[("a", "c", 2)])],
            // Keys side by side.
            &[(1, &[("c", 1)], &[("c", "e", 2)]), (2, &[("b", 9)], &[("a", "c", 5)])],
        ];
        for files in sound {
            assert_eq!(violated(files), None, "{files:?}");
        }
        let broken: [(&[File<'_>], &str); 6] = [
            (
                &[(0, &[("b", 7)], &[]), (1, &[("b", 8)], &[])],
                "a version of key \"b\" with seqno 8",
            ),
            (
                &[(1, &[("b", 5)], &[]), (2, &[], &[("a", "c", 6)])],
                "a range tombstone over key \"b\" with seqno 6",
            ),
            (
                &[(1, &[], &[("a", "c", 5)]), (3, &[("a", 1), ("b", 6)], &[])],
                "a version of key \"b\" with seqno 6",
            ),
            // The older one of two in the file above.
            (
                &[(1, &[("b", 9)], &[("a", "c", 5), ("b", "c", 8)]), (3, &[("b", 6)], &[])],
                "a version of key \"b\" with seqno 6",
            ),
            // No entry is near, and the two touch in a part of each.
            (
                &[(1, &[("x", 9)], &[("a", "e", 5)]), (2, &[], &[("d", "f", 6)])],
                "a range tombstone over key \"d\" with seqno 6",
            ),
            (
                &[(1, &[], &[("a", "e", 7)]), (4, &[], &[("d", "f", 7)])],
                "a range tombstone over key \"d\" with seqno 7",
            ),
        ];
        for (files, what) in broken {
            let violated = violated(files).unwrap_or_default();
            assert!(violated.contains(what), "{files:?}: {violated}");
        }
    }
}
