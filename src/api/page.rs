//! Pages: a range read in pieces, with nothing kept in between but a token that the reader has.
//!
//! *Format of a token*, which is the rest of the range:
//!
//! ```text
//! token := version u8 = 1 | backward u8 | keyspace varint | bound | bound | checksum u64 of all that
//! bound := 0 (none) | 1 (included) key | 2 (excluded) key       key := len varint | bytes
//! ```
//!
//! The checksum takes in the database's identity, so that a token of another one is refused; one of
//! another keyspace is by the number in it, which no other keyspace gets, whatever its name.

use std::fmt;
use std::ops::Bound;
use std::str::FromStr;

use crate::api::iter::Iter;
use crate::api::reader::Reader;
use crate::base::checksum::block_checksum;
use crate::base::coding::Decoder;
use crate::base::coding::Malformed;
use crate::base::coding::put_bytes;
use crate::base::coding::put_varint;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::ids::DbId;
use crate::base::ids::KeyspaceId;
use crate::base::range::Bounds;
use crate::base::slice::Key;
use crate::base::slice::Value;

const VERSION: u8 = 1;
const CHECKSUM_LEN: usize = 8;

/// How much a page holds at most.
///
/// ```
/// let limit = esker::PageLimit::items(100).bytes(64 << 10);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit {
    items: usize,
    bytes: usize,
}

impl PageLimit {
    /// At most `items` entries, and a mebibyte of keys and values.
    pub fn items(items: usize) -> PageLimit {
        PageLimit { items, bytes: 1 << 20 }
    }

    /// At most so many bytes of keys and values.
    #[must_use]
    pub fn bytes(self, bytes: usize) -> PageLimit {
        PageLimit { bytes, ..self }
    }
}

/// A part of a range, and how to go on. Made by [`Iter::page`] and [`Reader::next_page`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Page {
    /// The entries, in the order in which they were walked through.
    pub entries: Vec<(Key, Value)>,
    /// The rest of the range; `None` if there was nothing left.
    pub next: Option<PageToken>,
}

/// Where to go on reading. Says nothing to anybody but the keyspace that it is from: hand it to a
/// client and take it back, as text ([`fmt::Display`] and [`FromStr`]) or as bytes. It holds the last
/// key and the end of the range, in clear; it is no secret and proves no right.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PageToken(Vec<u8>);

impl PageToken {
    fn new((db, keyspace): (DbId, KeyspaceId), backward: bool, rest: &Bounds) -> PageToken {
        let mut bytes = vec![VERSION, u8::from(backward)];
        put_varint(&mut bytes, u64::from(keyspace.0));
        for bound in [&rest.0, &rest.1] {
            match bound {
                Bound::Unbounded => bytes.push(0),
                Bound::Included(key) => {
                    bytes.push(1);
                    put_bytes(&mut bytes, key);
                }
                Bound::Excluded(key) => {
                    bytes.push(2);
                    put_bytes(&mut bytes, key);
                }
            }
        }
        let checksum = block_checksum(db.0, 0, &bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        PageToken(bytes)
    }

    /// Direction and rest of the range.
    fn decode(&self, (db, keyspace): (DbId, KeyspaceId)) -> Result<(bool, Bounds), Malformed> {
        let len = self.0.len().checked_sub(CHECKSUM_LEN).ok_or(Malformed("it is too short"))?;
        let (content, checksum) = self.0.split_at(len);
        if block_checksum(db.0, 0, content).to_le_bytes() != checksum {
            return Err(Malformed("it is not of this database, or was changed"));
        }
        let mut decoder = Decoder::new(content);
        if decoder.u8()? != VERSION {
            return Err(Malformed("it is of another version"));
        }
        let backward = decoder.u8()? != 0;
        if decoder.varint()? != u64::from(keyspace.0) {
            return Err(Malformed("it is of another keyspace"));
        }
        let mut bound = || {
            Ok(match decoder.u8()? {
                0 => Bound::Unbounded,
                1 => Bound::Included(decoder.bytes()?.to_vec()),
                2 => Bound::Excluded(decoder.bytes()?.to_vec()),
                _ => return Err(Malformed("it has an unknown bound")),
            })
        };
        Ok((backward, (bound()?, bound()?)))
    }

    /// As bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What [`PageToken::as_bytes`] gave. Whether it is a token shows when it is used.
    pub fn from_bytes(bytes: &[u8]) -> PageToken {
        PageToken(bytes.to_vec())
    }
}

/// Hexadecimal digits, fit for a URL.
impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageToken({self})")
    }
}

impl FromStr for PageToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<PageToken> {
        let digit = |digit: u8| char::from(digit).to_digit(16).map(|digit| digit as u8);
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
        match bytes.collect::<Option<Vec<u8>>>().filter(|_| rest.is_empty()) {
            Some(bytes) => Ok(PageToken(bytes)),
            None => Err(Error::argument("a page token consists of pairs of hexadecimal digits")),
        }
    }
}

impl Iter {
    /// The entries from the front, at most as many as `limit` allows, and a token for the rest: so
    /// that a service can hand out a range in pieces and keep nothing in between. O(entries of the
    /// page).
    ///
    /// Whatever is written between two pages: an entry that is there all the time is in exactly one
    /// page, and what a page holds is as of the moment it was made.
    ///
    /// ```
    /// use esker::PageLimit;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// for key in ["a", "b", "c"] {
    ///     db.put(key, "")?;
    /// }
    /// let page = db.range("a"..).page(PageLimit::items(2))?;
    /// assert_eq!(page.entries[1].0, "b");
    /// let token = page.next.unwrap().to_string();
    /// // … the client comes back …
    /// let page = db.next_page(&token.parse()?, PageLimit::items(2))?;
    /// assert_eq!(page.entries[0].0, "c");
    /// assert_eq!(page.next, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Reader::get`]; `InvalidArgument` for a limit of 0 items, and if the first entry alone has
    /// more bytes than a page may hold.
    pub fn page(self, limit: PageLimit) -> Result<Page> {
        self.page_towards(false, limit)
    }

    /// As [`Iter::page`], from the last entry to the first.
    ///
    /// # Errors
    /// As [`Iter::page`].
    pub fn page_back(self, limit: PageLimit) -> Result<Page> {
        self.page_towards(true, limit)
    }

    fn page_towards(mut self, backward: bool, limit: PageLimit) -> Result<Page> {
        if limit.items == 0 {
            return Err(Error::argument("a page holds at least one entry"));
        }
        let (mut entries, mut bytes) = (Vec::<(Key, Value)>::new(), 0);
        while let Some(entry) = if backward { self.next_back() } else { self.next() } {
            let (key, value) = entry?;
            bytes += key.len() + value.len();
            if entries.len() < limit.items && bytes <= limit.bytes {
                entries.push((key, value));
                continue;
            }
            let Some((last, _)) = entries.last() else {
                let most = limit.bytes;
                return Err(Error::argument(format!(
                    "an entry of {bytes} bytes does not fit a page of {most}"
                )));
            };
            let rest = self.rest(last.to_vec(), backward);
            let next = Some(PageToken::new(self.place(), backward, &rest));
            return Ok(Page { entries, next });
        }
        Ok(Page { entries, next: None })
    }
}

impl Reader {
    /// Goes on where `token` says: in the same direction, to the end of the same range.
    ///
    /// # Errors
    /// As [`Iter::page`]; `InvalidArgument` for a token of another keyspace (one that was dropped is
    /// another than the one that has its name now) or database, or one that was changed.
    pub fn next_page(&self, token: &PageToken, limit: PageLimit) -> Result<Page> {
        let decoded = token.decode((self.engine.db_id(), self.state.id));
        let (backward, rest) = decoded.map_err(|Malformed(what)| {
            Error::argument(format!("the page token cannot be used: {what}"))
        })?;
        Iter::new(self, rest).page_towards(backward, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
        prop_oneof![
            any::<Vec<u8>>().prop_map(Bound::Included),
            any::<Vec<u8>>().prop_map(Bound::Excluded),
            Just(Bound::Unbounded),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn tokens_round_trip_and_nothing_else_passes(
            rest in (bound(), bound()),
            keyspace: u32,
            backward: bool,
            flipped: prop::sample::Index,
            bytes: Vec<u8>,
        ) {
            let here = (DbId(7), KeyspaceId(keyspace));
            let token = PageToken::new(here, backward, &rest);
            let again: PageToken = token.to_string().parse().unwrap();
            prop_assert_eq!(&again, &token);
            prop_assert_eq!(again.decode(here).ok(), Some((backward, rest)));
            prop_assert!(token.decode((DbId(8), here.1)).is_err());
            let elsewhere = token.decode((here.0, KeyspaceId(keyspace ^ 1)));
            prop_assert_eq!(elsewhere, Err(Malformed("it is of another keyspace")));
            let mut damaged = token.as_bytes().to_vec();
            let at = flipped.index(damaged.len());
            damaged[at] ^= 1;
            prop_assert!(PageToken::from_bytes(&damaged).decode(here).is_err());
            prop_assert!(PageToken::from_bytes(&bytes).decode(here).is_err());
        }
    }
}
