//! Bytes that leave the engine: short ones inline, longer ones shared.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::Hash;
use std::hash::Hasher;
use std::ops::Deref;

use bytes::Bytes;

const INLINE_LEN_MAX: usize = 38;

/// Up to this length bytes are copied out of a block rather than pinned: the copy costs less than
/// bouncing the block's reference count between cores, and keeps no block alive.
pub(crate) const COPY_LEN_MAX: usize = 1024;

/// A key or a value: immutable bytes that are cheap to clone and to send to other threads.
///
/// Up to 38 bytes live inside the `Slice` itself. Longer ones are shared by reference count; a
/// large value may pin the cache block, mapped file or memtable it lies in, and costs no copy.
///
/// It reads as a `&[u8]` and compares and hashes like one.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let db = esker::Db::open(dir.path())?;
/// db.put("city", "Uppsala")?;
/// let value: esker::Slice = db.get("city")?.unwrap();
/// assert_eq!(value, b"Uppsala");
/// assert_eq!(value.len(), 7);
/// assert_eq!(value.to_vec(), b"Uppsala".to_vec());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Slice(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE_LEN_MAX] },
    Shared(Bytes),
}

/// A key as the database returns it.
pub type Key = Slice;
/// A value as the database returns it.
pub type Value = Slice;

impl Slice {
    /// A copy of `bytes`.
    pub fn copy_from(bytes: &[u8]) -> Slice {
        if bytes.len() <= INLINE_LEN_MAX {
            let mut inline = [0; INLINE_LEN_MAX];
            inline[..bytes.len()].copy_from_slice(bytes);
            Slice(Repr::Inline { len: bytes.len() as u8, bytes: inline })
        } else {
            Slice(Repr::Shared(Bytes::copy_from_slice(bytes)))
        }
    }

    /// The part `bytes` of `owner`: shared if it is long, copied if it is short.
    ///
    /// # Panics
    /// If `bytes` is no part of `owner`.
    pub(crate) fn part_of(owner: &Bytes, bytes: &[u8]) -> Slice {
        if bytes.len() <= COPY_LEN_MAX {
            Slice::copy_from(bytes)
        } else {
            Slice(Repr::Shared(owner.slice_ref(bytes)))
        }
    }

    /// The bytes behind the first `len`, if there are so many.
    pub(crate) fn skip(self, len: usize) -> Slice {
        match self.0 {
            Repr::Shared(bytes) if bytes.len() >= len => Slice::from(bytes.slice(len..)),
            repr => Slice::copy_from(Slice(repr).get(len..).unwrap_or_default()),
        }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Shared(bytes) => bytes,
        }
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Borrow<[u8]> for Slice {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Default for Slice {
    fn default() -> Slice {
        Slice::copy_from(&[])
    }
}

impl From<&[u8]> for Slice {
    fn from(bytes: &[u8]) -> Slice {
        Slice::copy_from(bytes)
    }
}

impl From<&str> for Slice {
    fn from(text: &str) -> Slice {
        Slice::copy_from(text.as_bytes())
    }
}

impl From<Vec<u8>> for Slice {
    fn from(bytes: Vec<u8>) -> Slice {
        Slice::from(Bytes::from(bytes))
    }
}

impl From<Bytes> for Slice {
    fn from(bytes: Bytes) -> Slice {
        if bytes.len() <= INLINE_LEN_MAX {
            Slice::copy_from(&bytes)
        } else {
            Slice(Repr::Shared(bytes))
        }
    }
}

impl From<Slice> for Vec<u8> {
    fn from(slice: Slice) -> Vec<u8> {
        match slice.0 {
            Repr::Inline { len, bytes } => bytes[..usize::from(len)].to_vec(),
            Repr::Shared(bytes) => bytes.into(),
        }
    }
}

impl From<Slice> for Bytes {
    fn from(slice: Slice) -> Bytes {
        match slice.0 {
            Repr::Inline { len, bytes } => Bytes::copy_from_slice(&bytes[..usize::from(len)]),
            Repr::Shared(bytes) => bytes,
        }
    }
}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for Slice {
    fn eq(&self, other: &T) -> bool {
        self.as_slice() == other.as_ref()
    }
}

impl Eq for Slice {}

impl<T: AsRef<[u8]> + ?Sized> PartialOrd<T> for Slice {
    fn partial_cmp(&self, other: &T) -> Option<Ordering> {
        Some(self.as_slice().cmp(other.as_ref()))
    }
}

impl Ord for Slice {
    fn cmp(&self, other: &Slice) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl Hash for Slice {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.as_slice().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_bytes_behave_alike() {
        let owner = Bytes::from(vec![7; 5000]);
        for len in [0, 1, INLINE_LEN_MAX, INLINE_LEN_MAX + 1, COPY_LEN_MAX, COPY_LEN_MAX + 1] {
            let bytes = &owner[10..10 + len];
            for slice in [
                Slice::copy_from(bytes),
                Slice::part_of(&owner, bytes),
                Slice::from(bytes.to_vec()),
            ] {
                assert_eq!(slice, bytes);
                assert_eq!(slice.clone(), slice);
                assert_eq!(Vec::from(slice.clone()), bytes);
                assert_eq!(Bytes::from(slice), bytes);
            }
        }
        assert_eq!(format!("{:?}", Slice::from("a\n\u{e9}")), r#"b"a\n\xc3\xa9""#);
        assert_eq!(size_of::<Slice>(), 40);
    }
}
