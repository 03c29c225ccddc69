//! Putting blocks of a new file into the cache, because readers had their entries there before.
#![deny(clippy::indexing_slicing)]

use crate::base::error::Result;
use crate::sst::index_block::IndexBlock;
use crate::sst::reader::SstReader;
use crate::sst::top_index::Partition;

impl SstReader {
    /// Loads the data blocks with these numbers, ascending, as if they had been read twice, for as
    /// long as there is room for them and `go_on` says so.
    pub(crate) fn warm(&self, blocks: &[u32], go_on: impl Fn() -> bool) -> Result<()> {
        let mut rest = blocks;
        for p in 0..self.top().len() {
            let Some(partition) = self.top().partition(p) else { break };
            let end = partition.first_block + partition.blocks;
            let (here, beyond) = rest.split_at(rest.partition_point(|n| (*n as usize) < end));
            if !here.is_empty() && !self.warm_partition(p, partition, here, &go_on)? {
                break;
            }
            rest = beyond;
        }
        Ok(())
    }

    /// False if that is enough.
    fn warm_partition(
        &self,
        p: usize,
        partition: &Partition,
        blocks: &[u32],
        go_on: &impl Fn() -> bool,
    ) -> Result<bool> {
        let at = partition.index.offset;
        let loaded = self.load_index(p, partition)?;
        let index = self.whole(at, IndexBlock::parse(loaded.get(self.mapping())))?;
        self.whole(at, index.check_len(partition.blocks))?;
        for n in blocks.iter().map(|n| *n as usize) {
            if !self.cached().has_room() || !go_on() {
                return Ok(false);
            }
            // Readers are at it as well.
            if !self.is_at_hand(n) {
                let handle =
                    self.whole(at, index.block(n.saturating_sub(partition.first_block)))?;
                self.load_to_keep(n, handle)?;
                self.cached().keep(n);
            }
        }
        Ok(true)
    }
}
