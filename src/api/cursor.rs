//! Cursor: a place among the entries that can be moved anywhere, both ways.

use std::fmt;
use std::ops::Bound;

use crate::api::reader::Reader;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::slice::Key;
use crate::base::slice::Value;
use crate::engine::read_view::TreeIter;

/// A place among the entries of a keyspace, as of the moment the cursor was made. Made by
/// [`Reader::cursor`].
///
/// It lends out keys and values without copying them. Each move tells whether it ended on an entry;
/// off either end, and after an error, only a seek brings it back.
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
    tree: Result<TreeIter, Error>,
}

impl Cursor {
    pub(crate) fn new(reader: &Reader) -> Cursor {
        let view = reader.engine.view(&reader.state, reader.pin());
        let tree = view.and_then(|view| view.open_iter((Bound::Unbounded, Bound::Unbounded)));
        Cursor { tree }
    }

    fn act(&mut self, act: impl FnOnce(&mut TreeIter) -> Result<()>) -> Result<bool> {
        let tree = self.tree.as_mut().map_err(|error| error.clone())?;
        act(tree)?;
        Ok(tree.valid())
    }

    /// To the first entry at or after `key`. O(log n).
    ///
    /// # Errors
    /// `Corruption`; `Io`. The cursor then stands nowhere.
    pub fn seek(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.act(|tree| tree.seek(key.as_ref()))
    }

    /// To the last entry at or before `key`. O(log n).
    ///
    /// # Errors
    /// As [`Cursor::seek`].
    pub fn seek_for_prev(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.act(|tree| tree.seek_for_prev(key.as_ref()))
    }

    /// To the first entry of all.
    ///
    /// # Errors
    /// As [`Cursor::seek`].
    pub fn seek_to_first(&mut self) -> Result<bool> {
        self.act(TreeIter::seek_to_first)
    }

    /// To the last entry of all.
    ///
    /// # Errors
    /// As [`Cursor::seek`].
    pub fn seek_to_last(&mut self) -> Result<bool> {
        self.act(TreeIter::seek_to_last)
    }

    /// One entry on. Nothing happens if the cursor stands nowhere.
    ///
    /// # Errors
    /// As [`Cursor::seek`].
    #[expect(clippy::should_implement_trait, reason = "a lending cursor cannot be an Iterator")]
    pub fn next(&mut self) -> Result<bool> {
        self.act(|tree| if tree.valid() { tree.next() } else { Ok(()) })
    }

    /// One entry back. Nothing happens if the cursor stands nowhere.
    ///
    /// # Errors
    /// As [`Cursor::seek`].
    pub fn prev(&mut self) -> Result<bool> {
        self.act(|tree| if tree.valid() { tree.prev() } else { Ok(()) })
    }

    fn current(&self) -> Option<&TreeIter> {
        self.tree.as_ref().ok().filter(|tree| tree.valid())
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
        self.current().map(TreeIter::value)
    }

    /// The entry it stands on, to keep.
    pub fn entry(&self) -> Option<(Key, Value)> {
        self.current().map(|tree| (tree.key_slice(), tree.value_slice()))
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor").field("valid", &self.valid()).finish_non_exhaustive()
    }
}
