//! The parts of a file by themselves, opened for tests that feed them arbitrary bytes.

use std::ops::Range;

use crate::base::checksum::block_checksum;
use crate::base::coding::Malformed;
use crate::base::compression::Compression;
use crate::base::error::Result;
use crate::base::key::KEY_LEN_MAX;
use crate::base::key::KeyHash;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::seqno::SeqNo;
use crate::sst::block::BlockHandle;
use crate::sst::block::BlockKind;
use crate::sst::block::TRAILER_LEN;
use crate::sst::block::seal;
use crate::sst::data_block::DataBlock;
use crate::sst::data_block_builder::DataBlockBuilder;
use crate::sst::filter;
pub(crate) use crate::sst::folded::unpack;
use crate::sst::footer::FOOTER_LEN;
use crate::sst::footer::Footer;
use crate::sst::index_block::IndexBlock;
use crate::sst::index_block::IndexBuilder;
use crate::sst::packer::Packer;
use crate::sst::properties::Properties;
use crate::sst::reader::SstReader;
use crate::sst::top_index::Partition;
use crate::sst::top_index::encode_partition;

/// Bytes of the footer that its checksum covers; the checksum follows them.
const FOOTER_SUMMED_LEN: usize = 56;

/// An entry: what its user key has behind the prefix, trailer, value.
pub(crate) type Entry<'a> = (Vec<u8>, u64, &'a [u8]);

/// What is in a data block: what all user keys begin with; the entries by number, up to the first
/// that cannot be read; and whether all can, and heads and fingerprints fit the keys.
pub(crate) type DataEntries<'a> = (&'a [u8], Vec<Entry<'a>>, bool);

/// The entries of a data block.
pub(crate) fn data_entries(payload: &[u8]) -> Result<DataEntries<'_>, Malformed> {
    let block = DataBlock::parse(payload)?;
    let (mut entries, mut consistent, mut user) = (Vec::new(), true, Vec::new());
    for i in 0..block.table().count {
        let Ok(span) = block.span(i) else {
            consistent = false;
            break;
        };
        let hash = KeyHash::of(block.key(&span, &mut user).user);
        consistent &= block.entry_is_consistent(i, &span, hash);
        let value = payload.get(span.value_range()).unwrap_or_default();
        let suffix = user.get(block.prefix.len()..).unwrap_or_default().to_vec();
        entries.push((suffix, span.trailer.0, value));
    }
    Ok((block.prefix, entries, consistent))
}

/// The newest version of `user` in a data block that a reader at `seqno` sees: trailer and value.
pub(crate) fn data_find<'a>(
    payload: &'a [u8],
    user: &[u8],
    seqno: SeqNo,
) -> Result<Option<(u64, &'a [u8])>, Malformed> {
    let found = DataBlock::parse(payload)?.find(user, KeyHash::of(user), seqno)?;
    Ok(found.map(|span| (span.trailer.0, payload.get(span.value_range()).unwrap_or_default())))
}

/// How many entries of a data block come before `(user, trailer)`, or up to it.
pub(crate) fn data_rank(
    payload: &[u8],
    user: &[u8],
    trailer: u64,
    or_equal: bool,
) -> Result<usize, Malformed> {
    DataBlock::parse(payload)?.rank(KeyRef::new(user, Trailer(trailer)), or_equal)
}

/// What an index partition says of one data block: separator, continues, offset, length.
pub(crate) type IndexEntry<'a> = (&'a [u8], bool, u64, u32);

/// The entries of an index partition by number, up to the first that cannot be read, and how many
/// it claims to have.
pub(crate) fn index_entries(payload: &[u8]) -> Result<(Vec<IndexEntry<'_>>, usize), Malformed> {
    let index = IndexBlock::parse(payload)?;
    let mut entries = Vec::new();
    for i in 0..index.len() {
        let (Ok(separator), Ok(handle)) = (index.separator(i), index.block(i)) else { break };
        entries.push((separator, index.continues(i), handle.offset, handle.len));
    }
    Ok((entries, index.len()))
}

/// The first data block of an index partition that may hold `user`.
pub(crate) fn index_find(payload: &[u8], user: &[u8]) -> Result<usize, Malformed> {
    IndexBlock::parse(payload)?.find(user)
}

/// The payload of an index partition over blocks of these separators.
pub(crate) fn index_block(separators: &[(&[u8], bool)], base: u64) -> Vec<u8> {
    let mut builder = IndexBuilder::default();
    let mut offset = base;
    for (separator, continues) in separators {
        let handle = BlockHandle { offset, len: 100 };
        builder.add(handle, separator, *continues);
        offset = handle.end();
    }
    let mut out = Vec::new();
    builder.finish(&mut out);
    out
}

/// The payload of a filter over these keys.
pub(crate) fn filter<'a>(keys: impl Iterator<Item = &'a [u8]>, bits_per_key: u32) -> Vec<u8> {
    let hashes: Vec<KeyHash> = keys.map(KeyHash::of).collect();
    let mut out = Vec::new();
    filter::build(&hashes, bits_per_key, &mut out);
    out
}

/// What the filter with this payload says of `user`.
pub(crate) fn filter_may_contain(payload: &[u8], user: &[u8]) -> Result<bool, Malformed> {
    filter::may_contain(payload, KeyHash::of(user))
}

/// The entries of the data block with this payload, to be written anew.
fn builder_of(payload: &[u8]) -> Result<DataBlockBuilder, Malformed> {
    let block = DataBlock::parse(payload)?;
    let (mut builder, mut user) = (DataBlockBuilder::default(), Vec::new());
    for i in 0..block.table().count {
        let span = block.span(i)?;
        let key = block.key(&span, &mut user);
        if key.user.len() > KEY_LEN_MAX {
            return Err(Malformed("a key of a data block is too long"));
        }
        let value = payload.get(span.value_range()).unwrap_or_default();
        builder.add(key, KeyHash::of(key.user), value, builder.extent_with(key, value));
    }
    Ok(builder)
}

/// A file whose only data block has this payload, whatever it is, all checksums right.
pub(crate) fn file_around(payload: &[u8], lz4: bool, uid: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let append = |out: &mut Vec<u8>, payload: &[u8], kind, compression| {
        let (offset, start) = (out.len() as u64, out.len());
        out.extend_from_slice(payload);
        let handle = BlockHandle { offset, len: payload.len() as u32 };
        seal(out, start, kind, compression, uid, offset);
        handle
    };
    let mut packer = Packer::default();
    let block = builder_of(payload).ok().filter(|_| lz4);
    let data = match block.as_ref().and_then(|block| packer.pack(block)) {
        Some(packed) => append(&mut out, packed, BlockKind::Data, Compression::Lz4),
        None => append(&mut out, payload, BlockKind::Data, Compression::None),
    };
    let mut separator = Vec::new();
    if let Ok(block) = DataBlock::parse(payload)
        && let Ok(first) = block.span(0)
    {
        block.key(&first, &mut separator);
    }
    let mut index = IndexBuilder::default();
    index.add(data, &separator, false);
    let mut index_payload = Vec::new();
    index.finish(&mut index_payload);
    let index = append(&mut out, &index_payload, BlockKind::Index, Compression::None);
    let partition = Partition { index, blocks: 1, ..Partition::default() };
    let mut top = vec![1];
    encode_partition(&partition, &separator, &mut top);
    let mut properties = Vec::new();
    Properties::default().encode(&mut properties);
    let footer = Footer {
        properties: append(&mut out, &properties, BlockKind::Properties, Compression::None),
        top: append(&mut out, &top, BlockKind::Top, Compression::None),
        ranges: BlockHandle::NONE,
        uid,
    };
    footer.encode(out.len() as u64, &mut out);
    out
}

/// Where the blocks of an intact file lie, with kind, compression and checksum; data blocks first.
pub(crate) fn blocks(reader: &SstReader) -> Result<Vec<Range<usize>>> {
    let mut data = Vec::new();
    let mut rest = Vec::new();
    let place = |handle: BlockHandle| {
        let start = handle.offset as usize;
        start..start + handle.stored_len() as usize
    };
    for p in 0..reader.top().len() {
        let Some(partition) = reader.top().partition(p) else { break };
        let bytes = reader.fetch_from(reader.file(), partition.index, BlockKind::Index)?;
        let (entries, _) = reader.whole(partition.index.offset, index_entries(&bytes))?;
        for (_, _, offset, len) in entries {
            data.push(place(BlockHandle { offset, len }));
        }
        rest.push(place(partition.index));
        if !partition.filter.is_none() {
            rest.push(place(partition.filter));
        }
    }
    data.append(&mut rest);
    Ok(data)
}

/// Makes the checksums of `blocks` and of the footer what they should be, whatever the bytes are.
pub(crate) fn reseal(file: &mut [u8], blocks: &[Range<usize>], uid: u64) {
    for block in blocks {
        let Some(stored) = file.get_mut(block.clone()) else { continue };
        let Some((body, sum)) = stored.split_last_chunk_mut::<8>() else { continue };
        *sum = block_checksum(uid, block.start as u64, body).to_le_bytes();
    }
    let Some(at) = file.len().checked_sub(FOOTER_LEN) else { return };
    let Some(footer) = file.get_mut(at..) else { return };
    // The footer may name another uid by now: then all the others do not fit it.
    let (body, rest) = footer.split_at_mut(FOOTER_SUMMED_LEN);
    let uid = body.get(36..44).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
    let sum = block_checksum(u64::from_le_bytes(uid), at as u64, body);
    if let Some(place) = rest.first_chunk_mut::<8>() {
        *place = sum.to_le_bytes();
    }
}

/// Where range tombstones, if there are any, properties and top index of an intact file lie.
pub(crate) fn tail_blocks(file: &[u8]) -> Option<Vec<Range<usize>>> {
    let at = file.len().checked_sub(FOOTER_LEN)?;
    let footer = Footer::decode(file.get(at..)?.first_chunk()?, at as u64).ok()?;
    let handles = [footer.ranges, footer.properties, footer.top].into_iter();
    let place = |handle: BlockHandle| {
        let start = handle.offset as usize;
        start..start + handle.len as usize + TRAILER_LEN
    };
    Some(handles.filter(|handle| !handle.is_none()).map(place).collect())
}
