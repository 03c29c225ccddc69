//! Edits as bytes. See [`crate::manifest`] for the rule about unknown tags.
//!
//! ```text
//! edit                          keyspace                      SST
//! 1 next file number  varint    1 number           varint     1 level              varint
//! 2 last seqno        varint    3 name             bytes      3 file number        varint
//! 3 log floor         varint    5 dropped          empty      5 size               varint
//! 4 log durable       varint    6 flushed seqno    varint     7 uid                u64
//! 5 next keyspace     varint    7 SST added        fields     9 smallest key       trailer u64, bytes
//! 7 keyspace          fields    9 SST removed      fields    11 largest key        trailer u64, bytes
//!                               11 merge operator bytes     13 seqnos             two varints
//!                               13 default time to live, ms  14 entries            varint
//!  8 log retention: bytes,      15 blob file added fields    16 tombstones         varint
//!    ms                varints  16 values apart from varint  17 blob files: for each its number
//! 10 log segment kept: number,  17 merges and expires empty     and bytes          varints
//!    first and last seqno, end,                              18 raw bytes          varint
//!    when it ended, ms varints  blob file                    19 range tombstones: count varint,
//!                               3 file number       varint      first key bytes, end
//!                               5 size              varint   20 oldest tombstone   varint, ms
//!                               7 uid               u64      22 entries that expire, first
//!                               14 values           varint      and last expiry    varints, ms
//!                               18 raw bytes        varint
//!
//! reserved for later            SST: 15 seqno of all entries (ingested)
//! ```
#![deny(clippy::indexing_slicing)]

use crate::base::blob::BlobUse;
use crate::base::coding::Decoder;
use crate::base::coding::Malformed;
use crate::base::coding::put_bytes;
use crate::base::coding::put_varint;
use crate::base::ids::FileId;
use crate::base::ids::KeyspaceId;
use crate::base::key::InternalKey;
use crate::base::key::KEY_LEN_MAX;
use crate::base::key::Trailer;
use crate::base::options::LEVELS;
use crate::base::options::Retention;
use crate::base::range_tombstone::RangeFacts;
use crate::base::range_tombstone::end_of;
use crate::base::range_tombstone::is_behind;
use crate::base::range_tombstone::stored_end;
use crate::base::seqno::SeqNo;
use crate::base::value::Expiry;
use crate::manifest::edit::BlobMeta;
use crate::manifest::edit::KeptSegment;
use crate::manifest::edit::KeyspaceEdit;
use crate::manifest::edit::SstMeta;
use crate::manifest::edit::VersionEdit;

/// No file has so many entries or bytes.
const AMOUNT_MAX: u64 = 1 << 52;

/// Why an edit cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadEdit {
    Malformed(&'static str),
    /// It has a field that a newer version wrote and that must not be ignored.
    Newer,
}

impl From<Malformed> for BadEdit {
    fn from(malformed: Malformed) -> BadEdit {
        BadEdit::Malformed(malformed.0)
    }
}

#[inline(never)]
fn put_field(out: &mut Vec<u8>, tag: u64, bytes: &[u8]) {
    put_varint(out, tag);
    put_bytes(out, bytes);
}

#[inline(never)]
fn put_number(out: &mut Vec<u8>, tag: u64, n: u64) {
    let mut bytes = Vec::new();
    put_varint(&mut bytes, n);
    put_field(out, tag, &bytes);
}

fn put_key(out: &mut Vec<u8>, tag: u64, key: &InternalKey) {
    let mut bytes = key.trailer.0.to_le_bytes().to_vec();
    bytes.extend_from_slice(&key.user);
    put_field(out, tag, &bytes);
}

pub(crate) fn encode(edit: &VersionEdit) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(next_file) = edit.next_file {
        put_number(&mut out, 1, next_file.0);
    }
    if let Some(last_seqno) = edit.last_seqno {
        put_number(&mut out, 2, last_seqno.get());
    }
    if let Some(floor) = edit.wal_floor {
        put_number(&mut out, 3, floor.0);
    }
    if let Some(durable) = edit.log_durable {
        put_number(&mut out, 4, durable.get());
    }
    if let Some(next_keyspace) = edit.next_keyspace {
        put_number(&mut out, 5, u64::from(next_keyspace));
    }
    for keyspace in &edit.keyspaces {
        put_field(&mut out, 7, &encode_keyspace(keyspace));
    }
    if let Some(retention) = edit.log_retention {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, retention.bytes);
        put_varint(&mut bytes, retention.age_ms);
        put_field(&mut out, 8, &bytes);
    }
    for kept in &edit.kept {
        let mut bytes = Vec::new();
        for n in [kept.id.0, kept.first.get(), kept.last.get(), kept.end, kept.ended_ms] {
            put_varint(&mut bytes, n);
        }
        put_field(&mut out, 10, &bytes);
    }
    out
}

fn encode_keyspace(edit: &KeyspaceEdit) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, 1, u64::from(edit.id.0));
    if let Some(name) = &edit.name {
        put_field(&mut out, 3, name.as_bytes());
    }
    if let Some(operator) = &edit.merge_operator {
        put_field(&mut out, 11, operator.as_bytes());
    }
    if let Some(ttl) = edit.default_ttl_ms {
        put_number(&mut out, 13, ttl);
    }
    if let Some(bytes) = edit.separate_from {
        put_number(&mut out, 16, bytes);
    }
    if edit.expiring {
        put_field(&mut out, 17, &[]);
    }
    if edit.dropped {
        put_field(&mut out, 5, &[]);
    }
    if let Some(flushed) = edit.flushed_seqno {
        put_number(&mut out, 6, flushed.get());
    }
    for meta in &edit.added_blobs {
        put_field(&mut out, 15, &encode_blob(meta));
    }
    for (level, meta) in &edit.added {
        put_field(&mut out, 7, &encode_sst(*level, meta));
    }
    for (level, id) in &edit.removed {
        let mut sst = Vec::new();
        put_number(&mut sst, 1, u64::from(*level));
        put_number(&mut sst, 3, id.0);
        put_field(&mut out, 9, &sst);
    }
    out
}

fn encode_blob(meta: &BlobMeta) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, 3, meta.id.0);
    put_number(&mut out, 5, meta.bytes);
    put_field(&mut out, 7, &meta.uid.to_le_bytes());
    put_number(&mut out, 14, meta.values);
    put_number(&mut out, 18, meta.raw_bytes);
    out
}

fn encode_sst(level: u8, meta: &SstMeta) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, 1, u64::from(level));
    put_number(&mut out, 3, meta.id.0);
    put_number(&mut out, 5, meta.bytes);
    put_field(&mut out, 7, &meta.uid.to_le_bytes());
    put_key(&mut out, 9, &meta.smallest);
    put_key(&mut out, 11, &meta.largest);
    let mut seqnos = Vec::new();
    put_varint(&mut seqnos, meta.min_seqno.get());
    put_varint(&mut seqnos, meta.max_seqno.get());
    put_field(&mut out, 13, &seqnos);
    put_number(&mut out, 14, meta.entries);
    put_number(&mut out, 16, meta.tombstones);
    put_number(&mut out, 18, meta.raw_bytes);
    put_number(&mut out, 20, meta.oldest_tombstone_ms);
    if meta.expiry.entries > 0 {
        let mut expiry = Vec::new();
        put_varint(&mut expiry, meta.expiry.entries);
        put_varint(&mut expiry, meta.expiry.min_ms);
        put_varint(&mut expiry, meta.expiry.max_ms);
        put_field(&mut out, 22, &expiry);
    }
    if !meta.blobs.is_empty() {
        let mut blobs = Vec::new();
        for blob in &meta.blobs {
            put_varint(&mut blobs, blob.file.0);
            put_varint(&mut blobs, blob.bytes);
        }
        put_field(&mut out, 17, &blobs);
    }
    if let Some(ranges) = &meta.ranges {
        let mut field = Vec::new();
        put_varint(&mut field, ranges.count);
        put_bytes(&mut field, &ranges.from);
        field.extend_from_slice(stored_end(ranges.to.as_deref()));
        put_field(&mut out, 19, &field);
    }
    out
}

/// A field's value, which must be used up.
struct Field<'a>(Decoder<'a>);

impl<'a> Field<'a> {
    fn end<T>(&self, value: T) -> Result<T, BadEdit> {
        if self.0.is_empty() { Ok(value) } else { Err(BadEdit::Malformed("a field is too long")) }
    }

    fn number(mut self) -> Result<u64, BadEdit> {
        let n = self.0.varint()?;
        self.end(n)
    }

    fn file(self) -> Result<FileId, BadEdit> {
        let id = FileId(self.number()?);
        let possible = id <= FileId::STORED_MAX;
        if possible { Ok(id) } else { Err(BadEdit::Malformed("a file number is too large")) }
    }

    /// A count, or a number of bytes: small enough that those of all files can be added up.
    fn amount(self) -> Result<u64, BadEdit> {
        let n = self.number()?;
        if n <= AMOUNT_MAX { Ok(n) } else { Err(BadEdit::Malformed("an amount is too large")) }
    }

    fn number32(self) -> Result<u32, BadEdit> {
        u32::try_from(self.number()?).map_err(|_| BadEdit::Malformed("a number is too large"))
    }

    fn u64(mut self) -> Result<u64, BadEdit> {
        let n = self.0.u64()?;
        self.end(n)
    }

    fn seqno(self) -> Result<SeqNo, BadEdit> {
        seqno(self.number()?)
    }

    fn level(self) -> Result<u8, BadEdit> {
        let level = self.number()?;
        let known = level < LEVELS as u64;
        if known { Ok(level as u8) } else { Err(BadEdit::Malformed("there is no such level")) }
    }

    fn key(mut self) -> Result<InternalKey, BadEdit> {
        let trailer = Trailer(self.0.u64()?);
        let user = self.0.rest();
        if user.len() > KEY_LEN_MAX {
            return Err(BadEdit::Malformed("a key exceeds the limit"));
        }
        Ok(InternalKey::new(user, trailer))
    }

    fn expiry(mut self) -> Result<Expiry, BadEdit> {
        let (entries, min_ms) = (self.0.varint()?, self.0.varint()?);
        let max_ms = self.0.varint()?;
        if entries == 0 || entries > AMOUNT_MAX || min_ms > max_ms {
            return Err(BadEdit::Malformed("times of expiry that cannot be"));
        }
        self.end(Expiry { entries, min_ms, max_ms })
    }

    fn retention(mut self) -> Result<Retention, BadEdit> {
        let retention = Retention { bytes: self.0.varint()?, age_ms: self.0.varint()? };
        self.end(retention)
    }

    fn kept(mut self) -> Result<KeptSegment, BadEdit> {
        let kept = KeptSegment {
            id: FileId(self.0.varint()?),
            first: seqno(self.0.varint()?)?,
            last: seqno(self.0.varint()?)?,
            end: self.0.varint()?,
            ended_ms: self.0.varint()?,
        };
        let is_possible = kept.id <= FileId::STORED_MAX && kept.first <= kept.last.plus(1);
        if !is_possible {
            return Err(BadEdit::Malformed("a log segment that cannot be"));
        }
        self.end(kept)
    }

    fn blobs(mut self) -> Result<Vec<BlobUse>, BadEdit> {
        let mut blobs: Vec<BlobUse> = Vec::new();
        while !self.0.is_empty() {
            let (file, bytes) = (FileId(self.0.varint()?), self.0.varint()?);
            let ascends = blobs.last().is_none_or(|last| last.file < file);
            if !ascends || file > FileId::STORED_MAX || bytes == 0 || bytes > AMOUNT_MAX {
                return Err(BadEdit::Malformed("blob files that cannot be"));
            }
            blobs.push(BlobUse { file, bytes });
        }
        Ok(blobs)
    }

    fn ranges(mut self) -> Result<RangeFacts, BadEdit> {
        let (count, from) = (self.0.varint()?, self.0.bytes()?);
        let to = end_of(self.0.rest());
        let longest = from.len().max(to.map_or(0, <[u8]>::len));
        if count == 0 || count > AMOUNT_MAX || longest > KEY_LEN_MAX || !is_behind(to, from) {
            return Err(BadEdit::Malformed("range tombstones that cannot be"));
        }
        Ok(RangeFacts { count, from: from.to_vec(), to: to.map(<[u8]>::to_vec) })
    }

    fn text(self) -> Result<String, BadEdit> {
        let text = std::str::from_utf8(self.0.rest());
        text.map(str::to_owned).map_err(|_| BadEdit::Malformed("a name is no UTF-8"))
    }

    fn fields(self) -> Fields<'a> {
        Fields(self.0)
    }
}

fn seqno(n: u64) -> Result<SeqNo, BadEdit> {
    let seqno = SeqNo::new(n);
    let possible = n <= SeqNo::STORED_MAX.get();
    if possible { Ok(seqno) } else { Err(BadEdit::Malformed("a seqno is too large")) }
}

/// A sequence of fields.
struct Fields<'a>(Decoder<'a>);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, BadEdit> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.0.varint()?;
        Ok(Some((tag, Field(Decoder::new(self.0.bytes()?)))))
    }
}

/// What to do with a tag that is not in the table.
fn unknown(tag: u64) -> Result<(), BadEdit> {
    if tag.is_multiple_of(2) { Ok(()) } else { Err(BadEdit::Newer) }
}

pub(super) fn decode(bytes: &[u8]) -> Result<VersionEdit, BadEdit> {
    let mut edit = VersionEdit::default();
    let mut fields = Fields(Decoder::new(bytes));
    while let Some((tag, field)) = fields.next()? {
        match tag {
            1 => edit.next_file = Some(field.file()?),
            2 => edit.last_seqno = Some(field.seqno()?),
            3 => edit.wal_floor = Some(field.file()?),
            4 => edit.log_durable = Some(field.seqno()?),
            5 => edit.next_keyspace = Some(field.number32()?),
            7 => edit.keyspaces.push(decode_keyspace(field.fields())?),
            8 => edit.log_retention = Some(field.retention()?),
            10 => edit.kept.push(field.kept()?),
            _ => unknown(tag)?,
        }
    }
    Ok(edit)
}

fn decode_keyspace(mut fields: Fields<'_>) -> Result<KeyspaceEdit, BadEdit> {
    let mut edit = KeyspaceEdit::default();
    let mut id = None;
    while let Some((tag, field)) = fields.next()? {
        match tag {
            1 => id = Some(KeyspaceId(field.number32()?)),
            3 => edit.name = Some(field.text()?),
            5 => edit.dropped = field.end(true)?,
            6 => edit.flushed_seqno = Some(field.seqno()?),
            7 => edit.added.push(decode_sst(field.fields())?),
            9 => {
                let (level, meta) = decode_sst(field.fields())?;
                edit.removed.push((level, meta.id));
            }
            11 => edit.merge_operator = Some(field.text()?),
            13 => edit.default_ttl_ms = Some(field.number()?),
            15 => edit.added_blobs.push(decode_blob(field.fields())?),
            16 => edit.separate_from = Some(field.number()?),
            17 => edit.expiring = field.end(true)?,
            _ => unknown(tag)?,
        }
    }
    edit.id = id.ok_or(BadEdit::Malformed("a keyspace without a number"))?;
    Ok(edit)
}

fn decode_sst(mut fields: Fields<'_>) -> Result<(u8, SstMeta), BadEdit> {
    let mut meta = SstMeta { oldest_tombstone_ms: u64::MAX, ..SstMeta::default() };
    let (mut level, mut id) = (None, None);
    while let Some((tag, field)) = fields.next()? {
        match tag {
            1 => level = Some(field.level()?),
            3 => id = Some(field.file()?),
            5 => meta.bytes = field.amount()?,
            7 => meta.uid = field.u64()?,
            9 => meta.smallest = field.key()?,
            11 => meta.largest = field.key()?,
            13 => {
                let mut seqnos = field.0;
                meta.min_seqno = seqno(seqnos.varint()?)?;
                meta.max_seqno = seqno(seqnos.varint()?)?;
            }
            14 => meta.entries = field.amount()?,
            16 => meta.tombstones = field.amount()?,
            18 => meta.raw_bytes = field.amount()?,
            20 => meta.oldest_tombstone_ms = field.number()?,
            17 => meta.blobs = field.blobs()?,
            19 => meta.ranges = Some(field.ranges()?),
            22 => meta.expiry = field.expiry()?,
            _ => unknown(tag)?,
        }
    }
    let level = level.ok_or(BadEdit::Malformed("an SST without a level"))?;
    meta.id = id.ok_or(BadEdit::Malformed("an SST without a number"))?;
    Ok((level, meta))
}

fn decode_blob(mut fields: Fields<'_>) -> Result<BlobMeta, BadEdit> {
    let mut meta = BlobMeta::default();
    let mut id = None;
    while let Some((tag, field)) = fields.next()? {
        match tag {
            3 => id = Some(field.file()?),
            5 => meta.bytes = field.amount()?,
            7 => meta.uid = field.u64()?,
            14 => meta.values = field.amount()?,
            18 => meta.raw_bytes = field.amount()?,
            _ => unknown(tag)?,
        }
    }
    meta.id = id.ok_or(BadEdit::Malformed("a blob file without a number"))?;
    Ok(meta)
}

/// The edit in `bytes`, or what is wrong with it.
pub(crate) fn decode_edit(bytes: &[u8]) -> Result<VersionEdit, &'static str> {
    decode(bytes).map_err(|bad| match bad {
        BadEdit::Malformed(what) => what,
        BadEdit::Newer => "it has a field of a newer version",
    })
}
