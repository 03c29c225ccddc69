//! Reader: everything that reads one keyspace, now or as of a snapshot.

use std::fmt;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Duration;

use crate::api::cursor::Cursor;
use crate::api::iter::Iter;
use crate::api::iter::owned_bounds;
use crate::api::iter::prefix_bounds;
use crate::api::keys::Keys;
use crate::base::error::Result;
use crate::base::slice::Key;
use crate::base::slice::Value;
use crate::base::value::NEVER_MS;
use crate::engine::Engine;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::snapshots::SnapshotPin;

/// How long a key still lives: see [`Reader::ttl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// It does not expire.
    Forever,
    /// For so long; to the millisecond.
    For(Duration),
}

/// Reads one keyspace: the newest state through a [`Keyspace`](crate::Keyspace) or a
/// [`Db`](crate::Db), the state of one instant through a [`Snapshot`](crate::Snapshot).
///
/// Reads take no lock that a writer, a flush or a compaction can hold. What they return lives on
/// its own: it borrows nothing from the database.
#[derive(Clone)]
pub struct Reader {
    pub(crate) engine: Arc<Engine>,
    pub(crate) state: Arc<KeyspaceState>,
    pin: Option<Arc<SnapshotPin>>,
}

impl Reader {
    pub(crate) fn latest(engine: Arc<Engine>, state: Arc<KeyspaceState>) -> Reader {
        Reader { engine, state, pin: None }
    }

    pub(crate) fn at(
        engine: Arc<Engine>,
        state: Arc<KeyspaceState>,
        pin: Arc<SnapshotPin>,
    ) -> Reader {
        Reader { engine, state, pin: Some(pin) }
    }

    /// The value of `key`.
    ///
    /// Cost: one look into memory, then for each level that may hold the key one filter line; the
    /// level that has it costs an index and a block access. At most one disk read per level,
    /// usually one in all, none if the block is cached.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("k", "v")?;
    /// assert_eq!(db.get("k")?.as_deref(), Some(&b"v"[..]));
    /// assert_eq!(db.get("no")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Corruption`; `Io`; `NoSuchKeyspace` if it was dropped; `Closed`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.engine.get(&self.state, self.pin.as_deref(), key.as_ref())
    }

    /// Is `key` there? As [`Reader::get`], without touching the value.
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.engine.contains_key(&self.state, self.pin.as_deref(), key.as_ref())
    }

    /// How many bytes the value of `key` has. As [`Reader::get`], without fetching a value that lies in
    /// a blob file.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("k", "value")?;
    /// assert_eq!(db.size_of("k")?, Some(5));
    /// assert_eq!(db.size_of("no")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub fn size_of(&self, key: impl AsRef<[u8]>) -> Result<Option<usize>> {
        self.engine.size_of(&self.state, self.pin.as_deref(), key.as_ref())
    }

    /// How long `key` still lives; `None` if it is absent.
    ///
    /// ```
    /// use esker::Ttl;
    /// use std::time::Duration;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("k", "v")?;
    /// assert_eq!(db.ttl("k")?, Some(Ttl::Forever));
    /// db.put_with_ttl("k", "v", Duration::from_secs(60))?;
    /// assert!(matches!(db.ttl("k")?, Some(Ttl::For(left)) if left <= Duration::from_secs(60)));
    /// assert_eq!(db.ttl("no")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Option<Ttl>> {
        let found = self.engine.expiry(&self.state, self.pin.as_deref(), key.as_ref())?;
        Ok(found.map(|(expiry_ms, now_ms)| match expiry_ms {
            NEVER_MS => Ttl::Forever,
            _ => Ttl::For(Duration::from_millis(expiry_ms - now_ms)),
        }))
    }

    /// The values of many keys, in the order of the keys, all as of one instant. They are looked
    /// up side by side, which takes less time than one after the other.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("a", "1")?;
    /// db.put("c", "3")?;
    /// let values = db.multi_get(["c", "b", "a"])?;
    /// assert_eq!(values[0].as_deref(), Some(&b"3"[..]));
    /// assert_eq!(values[1], None);
    /// assert_eq!(values[2].as_deref(), Some(&b"1"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Value>>> {
        let keys: Vec<K> = keys.into_iter().collect();
        let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
        self.engine.multi_get(&self.state, self.pin.as_deref(), &keys)
    }

    /// The entries whose keys lie in `range`, in order; from either end. A range that ends before
    /// it begins is empty.
    ///
    /// Nothing is read until the first entry is asked for; a step costs about as much as copying
    /// the entry.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// for key in ["a", "b", "c"] {
    ///     db.put(key, "")?;
    /// }
    /// let keys: Vec<_> = db.range("a".."c").rev().map(|entry| entry.unwrap().0).collect();
    /// assert_eq!(keys, ["b", "a"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn range<K: AsRef<[u8]>, R: RangeBounds<K>>(&self, range: R) -> Iter {
        Iter::new(self, owned_bounds(&range))
    }

    /// The entries whose keys begin with `prefix`, in order.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("user/1", "Ada")?;
    /// db.put("user/2", "Grace")?;
    /// db.put("x", "")?;
    /// assert_eq!(db.prefix("user/").count(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Iter {
        Iter::new(self, prefix_bounds(prefix.as_ref()))
    }

    /// All entries, in order.
    pub fn iter(&self) -> Iter {
        self.range::<&[u8], _>(..)
    }

    /// The keys that lie in `range`, in order; from either end. No value is copied, nor fetched if it
    /// lies in a blob file.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// for key in ["a", "b", "c"] {
    ///     db.put(key, "")?;
    /// }
    /// let keys = db.keys("a".."c").collect::<esker::Result<Vec<_>>>()?;
    /// assert_eq!(keys, ["a", "b"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn keys<K: AsRef<[u8]>, R: RangeBounds<K>>(&self, range: R) -> Keys {
        self.range(range).into_keys()
    }

    /// A cursor over all entries, which can be placed anywhere and moved both ways.
    pub fn cursor(&self) -> Cursor {
        Cursor::new(self)
    }

    /// The first entry.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// assert!(db.first_key_value()?.is_none());
    /// db.put("b", "2")?;
    /// db.put("a", "1")?;
    /// assert_eq!(db.first_key_value()?.unwrap().0, "a");
    /// assert_eq!(db.last_key_value()?.unwrap().0, "b");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub fn first_key_value(&self) -> Result<Option<(Key, Value)>> {
        self.iter().next().transpose()
    }

    /// The last entry.
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub fn last_key_value(&self) -> Result<Option<(Key, Value)>> {
        self.iter().next_back().transpose()
    }

    pub(crate) fn pin(&self) -> Option<&Arc<SnapshotPin>> {
        self.pin.as_ref()
    }
}

impl IntoIterator for &Reader {
    type Item = Result<(Key, Value)>;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("keyspace", &self.state.name)
            .field("seqno", &self.pin.as_ref().map(|pin| pin.seqno()))
            .finish_non_exhaustive()
    }
}
