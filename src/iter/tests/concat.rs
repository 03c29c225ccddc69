//! Concat walks like one sorted source, and keeps at most one of its sources open.

use std::cell::Cell;
use std::rc::Rc;

use proptest::prelude::*;

use crate::base::error::Result;
use crate::base::internal_iter::InternalIter;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::value::ValueKind;
use crate::iter::Concat;
use crate::iter::ConcatSource;
use crate::iter::tests::sources::*;

/// Runs of entries; knows how many cursors over them are open.
struct Runs {
    files: Vec<Vec<Entry>>,
    fuse: Fuse,
    open: Rc<Cell<usize>>,
}

struct Counted {
    iter: VecIter,
    open: Rc<Cell<usize>>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
    }
}

impl InternalIter for Counted {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.iter.seek(target)
    }
    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.iter.seek_for_prev(target)
    }
    fn seek_to_first(&mut self) -> Result<()> {
        self.iter.seek_to_first()
    }
    fn seek_to_last(&mut self) -> Result<()> {
        self.iter.seek_to_last()
    }
    fn next(&mut self) -> Result<()> {
        self.iter.next()
    }
    fn prev(&mut self) -> Result<()> {
        self.iter.prev()
    }
    fn try_next(&mut self) -> Option<Trailer> {
        self.iter.try_next()
    }
    fn try_prev(&mut self) -> Option<Trailer> {
        self.iter.try_prev()
    }
    fn valid(&self) -> bool {
        self.iter.valid()
    }
    fn key(&self) -> KeyRef<'_> {
        self.iter.key()
    }
    fn value(&self) -> &[u8] {
        self.iter.value()
    }
}

impl ConcatSource for Runs {
    type Iter = Counted;

    fn len(&self) -> usize {
        self.files.len()
    }
    fn smallest(&self, i: usize) -> KeyRef<'_> {
        self.files[i].first().unwrap().0.as_ref()
    }
    fn largest(&self, i: usize) -> KeyRef<'_> {
        self.files[i].last().unwrap().0.as_ref()
    }
    fn open(&self, i: usize) -> Result<Counted> {
        self.fuse.burn()?;
        self.open.set(self.open.get() + 1);
        assert_eq!(self.open.get(), 1, "one source is open at a time");
        Ok(Counted {
            iter: VecIter::new(self.files[i].clone(), self.fuse.clone()),
            open: Rc::clone(&self.open),
        })
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn walks_like_one_sorted_source(
        keys in prop::collection::btree_set((user_key(), 0..30_u64), 0..60),
        cuts in prop::collection::vec(1..10_usize, 1..20),
        steps in steps(),
        fail_after in prop_oneof![Just(u64::MAX), 0..40_u64],
    ) {
        let mut entries: Vec<Entry> = keys
            .iter()
            .map(|(key, seqno)| entry(key, *seqno, ValueKind::Put, &seqno.to_be_bytes()))
            .collect();
        sort(&mut entries);
        let mut rest = &entries[..];
        let mut runs = Vec::new();
        for cut in cuts.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            // The versions of a key are never parted.
            let is_parted =
                |at: &usize| rest.get(*at).is_some_and(|next| next.0.user == rest[at - 1].0.user);
            let cut = (cut.min(rest.len())..=rest.len()).find(|at| !is_parted(at)).unwrap();
            let (run, behind) = rest.split_at(cut);
            runs.push(run.to_vec());
            rest = behind;
        }
        let (fuse, open) = (Fuse::never(), Rc::new(Cell::new(0)));
        let source = Runs { files: runs, fuse: fuse.clone(), open: Rc::clone(&open) };
        check_walk(Concat::new(source), entries, &steps, &fuse, fail_after);
        prop_assert_eq!(open.get(), 0);
    }
}
