//! A version and an edit make the next version.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;

use crate::base::ids::FileId;
use crate::base::sorted::sort_by;
use crate::base::sorted::sort_by_key;
use crate::manifest::KeyspaceEdit;
use crate::version::LEVELS;
use crate::version::Level;
use crate::version::Version;
use crate::version::sst_file::SstFile;
use crate::version::sst_file::SstOpener;

/// Why an edit does not fit a version. From disk this is corruption, from the engine a bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadEdit(pub(crate) String);

/// Applies `edit` to `base`. Files that stay keep their open readers.
pub(crate) fn apply(
    base: &Version,
    edit: &KeyspaceEdit,
    opener: &Arc<SstOpener>,
) -> Result<Version, BadEdit> {
    let bad = |what: String| Err(BadEdit(what));
    let mut removed: HashSet<(usize, FileId)> = HashSet::new();
    for (level, id) in &edit.removed {
        removed.insert((usize::from(*level), *id));
    }
    let mut found = 0;
    // A file that moves to another level keeps its reader.
    let mut moved: Vec<Arc<SstFile>> = Vec::new();
    let mut levels: Vec<Vec<Arc<SstFile>>> = Vec::with_capacity(LEVELS);
    for (number, level) in base.levels().iter().enumerate() {
        let mut kept = Vec::with_capacity(level.files.len() + edit.added.len());
        for file in &level.files {
            if removed.contains(&(number, file.meta.id)) {
                found += 1;
                moved.push(file.clone());
            } else {
                kept.push(file.clone());
            }
        }
        levels.push(kept);
    }
    if found != removed.len() {
        return bad("an edit removes a file that is not there".to_owned());
    }
    let mut ids: HashSet<FileId> = levels.iter().flatten().map(|file| file.meta.id).collect();
    for (number, meta) in &edit.added {
        if !ids.insert(meta.id) {
            return bad(format!("an edit adds file {}, which is there already", meta.id));
        }
        let Some(level) = levels.get_mut(usize::from(*number)) else {
            return bad(format!("an edit adds file {} to level {number}", meta.id));
        };
        let known = moved.iter().find(|file| *file.meta == *meta);
        level.push(
            known.map_or_else(|| Arc::new(SstFile::new(meta.clone(), opener.clone())), Arc::clone),
        );
    }
    for (number, files) in levels.iter_mut().enumerate() {
        if number == 0 {
            sort_by_key(files, |file| Reverse((file.meta.max_seqno, file.meta.id)));
        } else {
            sort_by(files, |a, b| a.meta.smallest.as_ref().cmp(&b.meta.smallest.as_ref()));
        }
    }
    let gone = moved.iter().flat_map(|file| &file.meta.blobs);
    let new = edit.added.iter().flat_map(|(_, meta)| &meta.blobs);
    let blobs = base.blobs.apply(&edit.added_blobs, gone, new, opener).map_err(BadEdit)?;
    Ok(Version::new(levels.into_iter().map(|files| Arc::new(Level::new(files))).collect(), blobs))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::base::key::InternalKey;
    use crate::base::key::Trailer;
    use crate::base::seqno::SeqNo;
    use crate::base::value::ValueKind;
    use crate::cache::BlockCache;
    use crate::fs::MemFs;
    use crate::fs::ReadMode;
    use crate::manifest::SstMeta;
    use crate::version::invariants;

    fn file(id: u64, from: &str, to: &str, seqnos: (u64, u64)) -> SstMeta {
        let trailer = Trailer::new(SeqNo::new(seqnos.1), ValueKind::Put);
        SstMeta {
            id: FileId(id),
            smallest: InternalKey::new(from, trailer),
            largest: InternalKey::new(to, trailer),
            min_seqno: SeqNo::new(seqnos.0),
            max_seqno: SeqNo::new(seqnos.1),
            ..SstMeta::default()
        }
    }

    fn edit(added: &[(u8, SstMeta)], removed: &[(u8, u64)]) -> KeyspaceEdit {
        let removed = removed.iter().map(|(level, id)| (*level, FileId(*id))).collect();
        KeyspaceEdit { added: added.to_vec(), removed, ..KeyspaceEdit::default() }
    }

    fn build(base: &Version, edit: &KeyspaceEdit) -> Result<Version, BadEdit> {
        let opener = SstOpener {
            fs: Arc::new(MemFs::new()),
            dir: PathBuf::from("/db"),
            cache: Arc::new(BlockCache::new(0)),
            mode: ReadMode::Pread,
        };
        apply(base, edit, &Arc::new(opener))
    }

    fn ids(version: &Version, level: usize) -> Vec<u64> {
        version.level(level).files.iter().map(|file| file.meta.id.0).collect()
    }

    #[test]
    fn level_0_is_sorted_by_age_and_the_others_by_key() {
        let files = [
            (0, file(1, "a", "z", (1, 5))),
            (0, file(2, "m", "n", (6, 9))),
            (3, file(3, "k", "p", (0, 0))),
            (3, file(4, "b", "c", (0, 0))),
        ];
        let version = build(&Version::default(), &edit(&files, &[])).unwrap();
        assert_eq!((ids(&version, 0), ids(&version, 3)), (vec![2, 1], vec![4, 3]));
        assert_eq!(invariants::check(&version), Ok(()));
        let found = |key: &[u8]| version.level(3).file_for(key).map(|file| file.meta.id.0);
        assert_eq!(
            [found(b"b"), found(b"c"), found(b"d"), found(b"p"), found(b"q")],
            [Some(4), Some(4), None, Some(3), None]
        );
    }

    #[test]
    fn a_file_that_moves_or_stays_is_the_same_one() {
        let (one, two) = (file(1, "a", "c", (1, 2)), file(2, "d", "e", (3, 4)));
        let added = [(5, one.clone()), (5, two)];
        let before = build(&Version::default(), &edit(&added, &[])).unwrap();
        let after = build(&before, &edit(&[(6, one)], &[(5, 1)])).unwrap();
        assert_eq!((ids(&after, 5), ids(&after, 6)), (vec![2], vec![1]));
        let same = |a: (usize, usize), b: (usize, usize)| {
            Arc::ptr_eq(&before.level(a.0).files[a.1], &after.level(b.0).files[b.1])
        };
        assert!(same((5, 0), (6, 0)) && same((5, 1), (5, 0)));
    }

    #[test]
    fn edits_that_do_not_fit_are_refused() {
        let one = file(1, "a", "c", (1, 2));
        let base = build(&Version::default(), &edit(&[(1, one.clone())], &[])).unwrap();
        for (bad, why) in [
            (edit(&[], &[(1, 2)]), "not there"),
            (edit(&[], &[(2, 1)]), "not there"),
            (edit(&[(2, one.clone())], &[]), "there already"),
            (edit(&[(7, file(2, "x", "y", (1, 1)))], &[]), "to level 7"),
        ] {
            let refused = build(&base, &bad).unwrap_err();
            assert!(refused.0.contains(why), "{refused:?}");
        }
    }

    #[test]
    fn violated_invariants_are_named() {
        let cases = [
            (vec![(0, file(1, "a", "b", (1, 5))), (0, file(2, "x", "y", (5, 9)))], "I1"),
            (vec![(2, file(1, "a", "m", (1, 5))), (2, file(2, "m", "z", (6, 9)))], "I2"),
            (vec![(2, file(1, "b", "a", (1, 5)))], "ends before it begins"),
            (vec![(2, file(1, "a", "b", (5, 1)))], "seqnos"),
        ];
        for (files, what) in cases {
            let version = build(&Version::default(), &edit(&files, &[])).unwrap();
            let violated = invariants::check(&version).unwrap_err();
            assert!(violated.contains(what), "{violated}");
        }
    }
}
