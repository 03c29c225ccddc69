//! Many keys at once: each step is done for a group of them before the next, so that their cache
//! misses pass side by side instead of one after the other.
//!
//! What a step will touch is asked for by the step before: the filter's line, then the part of the
//! index that the search ends in, the block's slot, the block's first lines, and the entry. Blocks that
//! the cache does not have are searched at once if the page cache has them; of the others the system
//! is asked for all before the first is read.
#![deny(clippy::indexing_slicing)]

use crate::base::error::Result;
use crate::base::lookup::Lookup;
use crate::base::prefetch::CACHE_LINE;
use crate::base::prefetch::prefetch;
use crate::base::seqno::SeqNo;
use crate::sst::block::BlockHandle;
use crate::sst::data_block::DataBlock;
use crate::sst::filter;
use crate::sst::index_block::IndexBlock;
use crate::sst::load::Wanted;
use crate::sst::reader::Known;
use crate::sst::reader::Located;
use crate::sst::reader::SstReader;
use crate::sst::samples::Part;

/// Keys that go side by side: more than a processor has misses under way.
const GROUP: usize = 16;
/// Blocks that are borrowed at a time: a thread has eight to borrow before they cost more, and the
/// reader's view is one.
const BORROWED: usize = 6;
/// Of a block: what lies in front of its entries, if they are of a hundred bytes.
const BLOCK_FRONT: usize = 5 * CACHE_LINE;
/// Of an entry: more than this is copied as fast as it comes.
const ENTRY_FRONT: usize = 4 * CACHE_LINE;

/// A key on its way, by its number in the group, and the block that may hold it: by its number in
/// the partition, of which the search may end in a known part, and in the file.
struct Place {
    lookup: usize,
    partition: usize,
    part: Option<Part>,
    block: usize,
    block_of_file: usize,
    handle: BlockHandle,
    /// Can it be had without reading it from the file?
    at_hand: bool,
    /// Was the system asked for it? Then it comes from the disk, as a rule.
    asked: bool,
}

impl SstReader {
    /// Finds, for those of `lookups` that have found nothing yet, the newest version that a reader
    /// at `seqno` may see.
    pub(crate) fn get_many(&self, lookups: &mut [Lookup<'_>], seqno: SeqNo) -> Result<()> {
        let mut places = Vec::with_capacity(GROUP);
        for group in lookups.chunks_mut(GROUP) {
            places.clear();
            self.find_partitions(group, &mut places);
            self.find_blocks(group, &mut places)?;
            self.ask_for_blocks(group, &mut places, seqno)?;
            for places in places.chunks(BORROWED) {
                self.search_blocks(places, group, seqno)?;
            }
        }
        Ok(())
    }

    fn find_partitions(&self, group: &[Lookup<'_>], places: &mut Vec<Place>) {
        for (i, lookup) in group.iter().enumerate().filter(|(_, lookup)| lookup.found.is_none()) {
            let Some(p) = self.top().find(lookup.key) else { continue };
            let (handle, at_hand, asked) = (BlockHandle::NONE, false, false);
            places.push(Place {
                lookup: i,
                partition: p,
                part: None,
                block: 0,
                block_of_file: 0,
                handle,
                at_hand,
                asked,
            });
            if let Some(partition) = self.top().partition(p)
                && let Some(filter) = self.in_place(self.filter_no(p), partition.filter)
            {
                filter::prefetch_line(filter, lookup.hash);
            }
        }
    }

    /// Drops the places that a filter rules out, and finds the blocks of the others.
    fn find_blocks(&self, group: &[Lookup<'_>], places: &mut Vec<Place>) -> Result<()> {
        let mut failed = Ok(());
        places.retain_mut(|place| {
            let p = place.partition;
            let (Some(lookup), Some(partition)) =
                (group.get(place.lookup), self.top().partition(p))
            else {
                return false;
            };
            let admits = self.filter_admits(p, partition, lookup.hash).unwrap_or_else(|error| {
                failed = Err(error);
                false
            });
            if admits {
                place.part = self.part_of(p, partition, lookup.key);
            }
            admits
        });
        failed?;
        for place in places {
            let p = place.partition;
            let (Some(lookup), Some(partition)) =
                (group.get(place.lookup), self.top().partition(p))
            else {
                continue;
            };
            let index = self.load_index(p, partition)?;
            let at = partition.index.offset;
            let index = self.whole(at, IndexBlock::parse(index.get(self.mapping())))?;
            self.whole(at, index.check_len(partition.blocks))?;
            let block = self.find_block(p, &index, place.part, lookup.key);
            place.block = self.whole(at, block)?;
            place.handle = self.whole(at, index.block(place.block))?;
            place.block_of_file = partition.first_block + place.block;
            self.cached().prefetch(place.block_of_file, 1);
        }
        Ok(())
    }

    /// Searches what the page cache has, drops the places of what is found, and asks the system for
    /// other blocks that are not at hand.
    fn ask_for_blocks(
        &self,
        group: &mut [Lookup<'_>],
        places: &mut Vec<Place>,
        seqno: SeqNo,
    ) -> Result<()> {
        let mut missing = 0;
        for place in &mut *places {
            place.at_hand = self.is_at_hand(place.block_of_file);
            missing += usize::from(!place.at_hand);
        }
        if missing < 2 {
            return Ok(());
        }
        let mut failed = Ok(());
        places.retain_mut(|place| {
            let Some(lookup) = group.get_mut(place.lookup).filter(|_| !place.at_hand) else {
                return true;
            };
            let wanted = Wanted { user: lookup.key, hash: lookup.hash, seqno };
            match self.find_at_once(place.block_of_file, place.handle, wanted) {
                Ok(Some(located)) => self.note_found(lookup, &located),
                Ok(None) => {
                    self.file().will_need(place.handle.offset..place.handle.end());
                    place.asked = true;
                }
                Err(error) => failed = Err(error),
            }
            lookup.found.is_none()
        });
        failed
    }

    fn search_blocks(
        &self,
        places: &[Place],
        group: &mut [Lookup<'_>],
        seqno: SeqNo,
    ) -> Result<()> {
        let mut blocks = [const { None }; BORROWED];
        for (place, block) in places.iter().zip(&mut blocks).filter(|(place, _)| place.at_hand) {
            let loaded = self.load_data(place.block_of_file, place.handle)?;
            let payload = loaded.get(self.mapping());
            prefetch(payload.get(..BLOCK_FRONT).unwrap_or(payload));
            *block = Some(loaded);
        }
        for (place, block) in places.iter().zip(&blocks) {
            let (Some(lookup), Some(block)) = (group.get(place.lookup), block) else { continue };
            let payload = block.get(self.mapping());
            let data = self.whole(place.handle.offset, DataBlock::parse(payload))?;
            if let Some(entry) = data.first_candidate(lookup.hash) {
                prefetch(entry.get(..ENTRY_FRONT).unwrap_or(entry));
            }
        }
        for (place, block) in places.iter().zip(blocks) {
            let Some(lookup) = group.get_mut(place.lookup) else { continue };
            let known = Known::Block(place.block, block);
            let wanted = Wanted { user: lookup.key, hash: lookup.hash, seqno };
            if place.asked && !self.is_at_hand(place.block_of_file) {
                self.load_to_keep(place.block_of_file, place.handle)?;
            }
            if let Some(located) = self.locate_from(place.partition, known, wanted)? {
                self.note_found(lookup, &located);
            }
        }
        Ok(())
    }

    fn note_found(&self, lookup: &mut Lookup<'_>, located: &Located) {
        lookup.found = Some((located.trailer, self.value_of(located).to_slice()));
    }
}
