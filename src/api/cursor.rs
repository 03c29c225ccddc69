//! Cursor: a place among the entries that can be moved anywhere, both ways.

use std::fmt;
use std::ops::Bound;

use crate::api::reader::Reader;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::slice::Key;
use crate::base::slice::Value;
use crate::engine::read_view::TreeIter;
use crate::engine::read_view::TreeView;

/// A place among the entries of a keyspace, as of the moment the cursor was made. Made by
/// [`Reader::cursor`].
///
/// It lends out keys and values without copying them. Each move tells whether it ended on an entry;
/// off either end only a seek brings it back. After an error it stands nowhere, and steps return
/// that error again until a seek succeeds: so no error is taken for the end.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let db = esker::Db::open(dir.path())?;
/// for key in ["a", "c", "e"] {
///     db.put(key, "")?;
/// }
/// let mut cursor = db.cursor();
/// assert!(cursor.seek("b")?);
/// assert_eq!(cursor.key(), Some(&b"c"[..]));
/// assert!(cursor.next()?);
/// assert_eq!(cursor.key(), Some(&b"e"[..]));
/// assert!(!cursor.next()?);
/// assert!(cursor.seek_for_prev("d")?);
/// assert_eq!(cursor.key(), Some(&b"c"[..]));
/// assert!(cursor.prev()?);
/// assert_eq!(cursor.key(), Some(&b"a"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Cursor {
    /// What it will read, until it is first placed.
    view: Result<Option<TreeView>>,
    tree: Option<TreeIter>,
    /// What the last move failed with.
    failed: Option<Error>,
    value_at: ValueAt,
}

/// Where the value of the entry is.
#[derive(Debug)]
enum ValueAt {
    /// In the entry.
    Entry,
    /// It lies apart, and was fetched.
    Fetched(Value),
    /// Nobody wants it.
    Nowhere,
}

impl Cursor {
    pub(crate) fn new(reader: &Reader) -> Cursor {
        Cursor::over(reader.engine.view(&reader.state, reader.pin()))
    }

    pub(crate) fn over(view: Result<TreeView>) -> Cursor {
        let failed = view.as_ref().err().cloned();
        Cursor { failed, view: view.map(Some), tree: None, value_at: ValueAt::Entry }
    }

    /// This cursor, for keys alone: it fetches no value that lies in a blob file, and has none to give.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("a", "1")?;
    /// let mut cursor = db.cursor().keys_only();
    /// assert!(cursor.seek_to_first()?);
    /// assert_eq!((cursor.key(), cursor.value()), (Some(&b"a"[..]), None));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn keys_only(mut self) -> Cursor {
        self.value_at = ValueAt::Nowhere;
        self
    }

    fn place(&mut self, seek: impl FnOnce(&mut TreeIter) -> Result<()>) -> Result<bool> {
        let placed = self.try_place(seek);
        self.failed = placed.as_ref().err().cloned();
        placed
    }

    fn try_place(&mut self, seek: impl FnOnce(&mut TreeIter) -> Result<()>) -> Result<bool> {
        let tree = match &mut self.tree {
            Some(tree) => tree,
            none => {
                let view = self.view.as_mut().map_err(|error| error.clone())?;
                view.as_ref().map_or(Ok(()), TreeView::check_open)?;
                let Some(view) = view.take() else { return Ok(false) };
                none.insert(view.open((Bound::Unbounded, Bound::Unbounded)))
            }
        };
        seek(tree)?;
        if tree.is_apart() || !matches!(self.value_at, ValueAt::Entry) {
            fetch(tree, &mut self.value_at)?;
        }
        Ok(tree.valid())
    }

    fn step(&mut self, step: impl FnOnce(&mut TreeIter) -> Result<()>) -> Result<bool> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let Some(tree) = self.tree.as_mut().filter(|tree| tree.valid()) else { return Ok(false) };
        if let Err(error) = step(tree) {
            self.failed = Some(error.clone());
            return Err(error);
        }
        if (tree.is_apart() || !matches!(self.value_at, ValueAt::Entry))
            && let Err(error) = fetch(tree, &mut self.value_at)
        {
            self.failed = Some(error.clone());
            return Err(error);
        }
        Ok(tree.valid())
    }

    /// To the first entry at or after `key`. O(log n).
    ///
    /// # Errors
    /// `Corruption`; `Io`. The cursor then stands nowhere.
    pub fn seek(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.place(|tree| tree.seek(key.as_ref()))
    }

    /// To the last entry at or before `key`. O(log n).
    ///
    /// # Errors
    /// As [`Cursor::seek`].
    pub fn seek_for_prev(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.place(|tree| tree.seek_for_prev(key.as_ref()))
    }

    /// To the first entry of all.
    ///
    /// # Errors
    /// As [`Cursor::seek`].
    pub fn seek_to_first(&mut self) -> Result<bool> {
        self.place(TreeIter::seek_to_first)
    }

    /// To the last entry of all.
    ///
    /// # Errors
    /// As [`Cursor::seek`].
    pub fn seek_to_last(&mut self) -> Result<bool> {
        self.place(TreeIter::seek_to_last)
    }

    /// One entry on. Nothing happens if the cursor stands nowhere.
    ///
    /// # Errors
    /// As [`Cursor::seek`].
    #[expect(clippy::should_implement_trait, reason = "a lending cursor cannot be an Iterator")]
    pub fn next(&mut self) -> Result<bool> {
        self.step(TreeIter::next)
    }

    /// One entry back. Nothing happens if the cursor stands nowhere.
    ///
    /// # Errors
    /// As [`Cursor::seek`].
    pub fn prev(&mut self) -> Result<bool> {
        self.step(TreeIter::prev)
    }

    /// Leaves it nowhere, because of `error`.
    pub(crate) fn fail(&mut self, error: Error) {
        self.failed = Some(error);
    }

    fn current(&self) -> Option<&TreeIter> {
        self.tree.as_ref().filter(|tree| self.failed.is_none() && tree.valid())
    }

    /// Does the cursor stand on an entry?
    pub fn valid(&self) -> bool {
        self.current().is_some()
    }

    /// The key it stands on.
    pub fn key(&self) -> Option<&[u8]> {
        self.current().map(TreeIter::key)
    }

    /// The value it stands on.
    pub fn value(&self) -> Option<&[u8]> {
        let tree = self.current()?;
        match &self.value_at {
            ValueAt::Entry => Some(tree.stored()),
            ValueAt::Fetched(value) => Some(value),
            ValueAt::Nowhere => None,
        }
    }

    /// The entry it stands on, to keep.
    pub fn entry(&self) -> Option<(Key, Value)> {
        let tree = self.current()?;
        let value = match &self.value_at {
            ValueAt::Entry => tree.stored_slice(),
            ValueAt::Fetched(value) => value.clone(),
            ValueAt::Nowhere => return None,
        };
        Some((tree.key_slice(), value))
    }
}

/// Has the value of the entry at hand, if it lies apart and anybody wants it.
#[cold]
fn fetch(tree: &TreeIter, value_at: &mut ValueAt) -> Result<()> {
    if !matches!(value_at, ValueAt::Nowhere) {
        let fetched = tree.is_apart().then(|| tree.value_slice()).transpose()?;
        *value_at = fetched.map_or(ValueAt::Entry, ValueAt::Fetched);
    }
    Ok(())
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor").field("valid", &self.valid()).finish_non_exhaustive()
    }
}
