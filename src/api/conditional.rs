//! Conditional operations on one key: they write only what their condition allows, with nothing in
//! between.

use std::borrow::Cow;

use crate::api::batch::check_limits;
use crate::api::keyspace::Keyspace;
use crate::base::error::Result;
use crate::base::seqno::SeqNo;
use crate::base::slice::Value;
use crate::engine::conditional::Change;

/// What [`Keyspace::compare_and_swap`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the swap may not have happened"]
pub enum Swap {
    /// The value was as expected, and is the new one now.
    Done,
    /// The value is another one, or absent. Nothing was written.
    Differs(Option<Value>),
}

impl Swap {
    /// Did it happen?
    pub fn is_done(&self) -> bool {
        matches!(self, Swap::Done)
    }
}

/// What [`Keyspace::fetch_update`] is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Leave everything as it is.
    Keep,
    /// Set the value.
    Put(Vec<u8>),
    /// Remove the key.
    Delete,
}

/// Conditional operations. Each is atomic: no other write of the key comes between its look and its
/// write. They never fail with a conflict: if another one was faster, they look again. Durability and
/// errors are those of [`Keyspace::put`]; the cost that of a read and a put.
impl Keyspace {
    /// Replaces the value of `key` by `new`, if it is `expected`; `None` stands for an absent key.
    ///
    /// ```
    /// use esker::Swap;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// assert!(db.compare_and_swap("leader", None, Some(b"node 1"))?.is_done());
    /// let swap = db.compare_and_swap("leader", None, Some(b"node 2"))?;
    /// assert_eq!(swap, Swap::Differs(Some("node 1".into())));
    /// assert!(db.compare_and_swap("leader", Some(b"node 1"), None)?.is_done());
    /// assert!(!db.contains_key("leader")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put`] and [`Reader::get`](crate::Reader::get).
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<Swap> {
        let key = key.as_ref();
        check_limits(key, new.unwrap_or_default())?;
        let changed = self.engine().change_key(self.state(), key, |value, _| {
            Ok(match new {
                _ if value.map(|value| &value[..]) != expected => Change::Keep,
                Some(new) => Change::Put(Cow::Borrowed(new)),
                None if expected.is_none() => Change::Keep,
                None => Change::Delete,
            })
        })?;
        let is_as_expected = changed.before.as_deref() == expected;
        Ok(if is_as_expected { Swap::Done } else { Swap::Differs(changed.before) })
    }

    /// Sets the value of `key` if it is absent. The value that is in the way, if there is one.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// assert_eq!(db.put_if_absent("name/ada", "1")?, None);
    /// assert_eq!(db.put_if_absent("name/ada", "2")?.unwrap(), "1");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put`] and [`Reader::get`](crate::Reader::get).
    pub fn put_if_absent(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<Option<Value>> {
        let (key, new) = (key.as_ref(), value.as_ref());
        check_limits(key, new)?;
        let changed = self.engine().change_key(self.state(), key, |value, _| {
            Ok(if value.is_none() { Change::Put(Cow::Borrowed(new)) } else { Change::Keep })
        })?;
        Ok(changed.before)
    }

    /// Shows `update` the value of `key` and does what it says. The value that was there before.
    /// `update` is called again if the key was written meanwhile, or its value has expired.
    ///
    /// ```
    /// use esker::Update;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// for _ in 0..3 {
    ///     db.fetch_update("count", |count| {
    ///         let count = count.map_or(0, |count| u64::from_le_bytes(count.try_into().unwrap()));
    ///         Update::Put((count + 1).to_le_bytes().to_vec())
    ///     })?;
    /// }
    /// assert_eq!(db.get("count")?.unwrap(), 3_u64.to_le_bytes());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put`] and [`Reader::get`](crate::Reader::get).
    pub fn fetch_update(
        &self,
        key: impl AsRef<[u8]>,
        mut update: impl FnMut(Option<&[u8]>) -> Update,
    ) -> Result<Option<Value>> {
        let key = key.as_ref();
        let changed = self.engine().change_key(self.state(), key, |value, _| {
            Ok(match update(value.map(|value| &value[..])) {
                Update::Keep => Change::Keep,
                Update::Put(new) => {
                    check_limits(key, &new)?;
                    Change::Put(Cow::Owned(new))
                }
                Update::Delete => Change::Delete,
            })
        })?;
        Ok(changed.before)
    }

    /// Removes `key`, and returns its value: of all that call it at once, one gets it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("ticket", "A17")?;
    /// assert_eq!(db.take("ticket")?.unwrap(), "A17");
    /// assert_eq!(db.take("ticket")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put`] and [`Reader::get`](crate::Reader::get).
    pub fn take(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        let changed = self.engine().change_key(self.state(), key.as_ref(), |value, _| {
            Ok(if value.is_some() { Change::Delete } else { Change::Keep })
        })?;
        Ok(changed.before)
    }

    /// The value of `key` and its version: the sequence number of the write that set it. With
    /// [`Keyspace::put_if_version`] this is optimistic locking without a transaction, as with the
    /// `ETag` and `If-Match` of HTTP.
    ///
    /// A version is never that of a newer value, not even of a key that was deleted and put again.
    /// An unchanged value keeps its version while the database is open; from one opening to the next
    /// it may get a larger one, so that a write with the old one is refused: compactions forget the
    /// numbers of old entries unless somebody has called this since the database was opened. A write
    /// that was lost with the power, since it was not synced, takes its version with it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("page", "draft")?;
    /// let (text, version) = db.get_versioned("page")?.unwrap();
    /// // Somebody else is faster.
    /// db.put("page", "their text")?;
    /// assert_eq!(db.put_if_version("page", Some(version), "my text")?, None);
    /// # assert_eq!(text, "draft");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Reader::get`](crate::Reader::get).
    #[doc(alias = "ETag")]
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, SeqNo)>> {
        self.engine().get_versioned(self.state(), key.as_ref())
    }

    /// Sets the value of `key` if it still has `version`; `None` stands for an absent key. The new
    /// version; or `None`, and nothing was written, if the version is another one.
    ///
    /// # Errors
    /// As [`Keyspace::put`] and [`Reader::get`](crate::Reader::get).
    #[doc(alias = "If-Match")]
    pub fn put_if_version(
        &self,
        key: impl AsRef<[u8]>,
        version: Option<SeqNo>,
        value: impl AsRef<[u8]>,
    ) -> Result<Option<SeqNo>> {
        let (key, new) = (key.as_ref(), value.as_ref());
        check_limits(key, new)?;
        let changed = self.engine().change_version(self.state(), key, |_, found| {
            Ok(if found == version { Change::Put(Cow::Borrowed(new)) } else { Change::Keep })
        })?;
        Ok(changed.written)
    }
}
