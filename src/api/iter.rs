//! Iter: the entries of a range, in order, from either end.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::Bound;
use std::ops::RangeBounds;

use crate::api::keys::Keys;
use crate::api::reader::Reader;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::KeyspaceId;
use crate::base::range::Bounds;
use crate::base::slice::Key;
use crate::base::slice::Value;
use crate::engine::read_view::TreeIter;
use crate::engine::read_view::TreeView;

/// The entries of a range, in order, as of the moment the iterator was made. Made by
/// [`Reader::range`], [`Reader::prefix`] and [`Reader::iter`].
///
/// Owned and `'static`: it borrows nothing and may be sent to another thread. After an error it
/// ends.
pub struct Iter {
    source: Source,
    bounds: Bounds,
    front: Option<TreeIter>,
    back: Option<TreeIter>,
    done: bool,
}

/// Where the two ends come from, or the error that the first step returns.
enum Source {
    Tree(TreeView),
    Failed(Option<Error>),
}

impl Iter {
    pub(crate) fn new(reader: &Reader, bounds: Bounds) -> Iter {
        Iter::over(reader.engine.view(&reader.state, reader.pin()), bounds)
    }

    pub(crate) fn over(view: Result<TreeView>, bounds: Bounds) -> Iter {
        let source = match view {
            Ok(view) => Source::Tree(view),
            Err(error) => Source::Failed(Some(error)),
        };
        Iter { source, bounds, front: None, back: None, done: false }
    }

    /// Its keys alone, as [`Reader::keys`] gives them.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("user/1", "Ada")?;
    /// let keys = db.prefix("user/").into_keys().collect::<esker::Result<Vec<_>>>()?;
    /// assert_eq!(keys, ["user/1"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_keys(self) -> Keys {
        Keys(self)
    }

    fn open(&mut self) -> Result<Option<TreeIter>> {
        match &mut self.source {
            Source::Tree(view) => {
                view.check_open()?;
                Ok(Some(view.clone().open(self.bounds.clone())))
            }
            Source::Failed(error) => error.take().map_or(Ok(None), Err),
        }
    }

    fn step_front<T>(&mut self, read: fn(&TreeIter) -> Result<T>) -> Result<Option<T>> {
        if let Some(front) = &mut self.front {
            front.next()?;
        } else {
            let Some(mut front) = self.open()? else { return Ok(None) };
            front.seek_to_first()?;
            self.front = Some(front);
        }
        let Some(front) = self.front.as_ref().filter(|front| front.valid()) else {
            return Ok(None);
        };
        // The other end stands on the last entry it returned.
        if let Some(back) = &self.back
            && (!back.valid() || front.key() >= back.key())
        {
            return Ok(None);
        }
        read(front).map(Some)
    }

    fn step_back<T>(&mut self, read: fn(&TreeIter) -> Result<T>) -> Result<Option<T>> {
        if let Some(back) = &mut self.back {
            back.prev()?;
        } else {
            let Some(mut back) = self.open()? else { return Ok(None) };
            back.seek_to_last()?;
            self.back = Some(back);
        }
        let Some(back) = self.back.as_ref().filter(|back| back.valid()) else {
            return Ok(None);
        };
        if let Some(front) = &self.front
            && (!front.valid() || back.key() <= front.key())
        {
            return Ok(None);
        }
        read(back).map(Some)
    }

    /// The database and the keyspace that it reads.
    pub(crate) fn place(&self) -> (DbId, KeyspaceId) {
        match &self.source {
            Source::Tree(view) => view.place(),
            // Its first step fails.
            Source::Failed(_) => (DbId::default(), KeyspaceId::DEFAULT),
        }
    }

    /// What is left to be read behind `last`, or before it.
    pub(crate) fn rest(&self, last: Vec<u8>, backward: bool) -> Bounds {
        let beyond = |end: &Option<TreeIter>, bound: &Bound<Vec<u8>>| match end {
            Some(end) if end.valid() => Bound::Excluded(end.key().to_vec()),
            _ => bound.clone(),
        };
        if backward {
            (beyond(&self.front, &self.bounds.0), Bound::Excluded(last))
        } else {
            (Bound::Excluded(last), beyond(&self.back, &self.bounds.1))
        }
    }

    /// Ends the iteration for good after an error or the last entry.
    fn finish<T>(&mut self, step: Result<Option<T>>) -> Option<Result<T>> {
        if !matches!(step, Ok(Some(_))) {
            self.done = true;
            self.front = None;
            self.back = None;
        }
        step.transpose()
    }

    /// What `read` takes of the next entry.
    #[inline]
    pub(crate) fn next_with<T>(&mut self, read: fn(&TreeIter) -> Result<T>) -> Option<Result<T>> {
        if self.done {
            return None;
        }
        let step = self.step_front(read);
        self.finish(step)
    }

    /// What `read` takes of the next entry from the back.
    #[inline]
    pub(crate) fn next_back_with<T>(
        &mut self,
        read: fn(&TreeIter) -> Result<T>,
    ) -> Option<Result<T>> {
        if self.done {
            return None;
        }
        let step = self.step_back(read);
        self.finish(step)
    }
}

fn entry(tree: &TreeIter) -> Result<(Key, Value)> {
    Ok((tree.key_slice(), tree.value_slice()?))
}

impl Iterator for Iter {
    type Item = Result<(Key, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_with(entry)
    }
}

impl DoubleEndedIterator for Iter {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.next_back_with(entry)
    }
}

impl FusedIterator for Iter {}

impl fmt::Debug for Iter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

/// The bounds of `range`, owned.
pub(crate) fn owned_bounds<K: AsRef<[u8]>>(range: &impl RangeBounds<K>) -> Bounds {
    let own = |bound: Bound<&K>| bound.map(|key| key.as_ref().to_vec());
    (own(range.start_bound()), own(range.end_bound()))
}

/// The range of all keys that begin with `prefix`.
pub(crate) fn prefix_bounds(prefix: &[u8]) -> Bounds {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return (Bound::Included(prefix.to_vec()), Bound::Excluded(end));
        }
        end.pop();
    }
    (Bound::Included(prefix.to_vec()), Bound::Unbounded)
}
