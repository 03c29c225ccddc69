//! Opening for reading only: the same phases, but for those that change the disk.

use std::sync::Arc;

use crate::base::clock::Clock;
use crate::base::error::Result;
use crate::base::ids::FileId;
use crate::cache::BlockCache;
use crate::engine::Core;
use crate::engine::recovery::Keyspaces;
use crate::engine::recovery::Parts;
use crate::engine::recovery::Site;
use crate::engine::recovery::assemble;
use crate::engine::recovery::last_seqno;
use crate::engine::recovery::replay::Replay;
use crate::engine::recovery::replay::replay;
use crate::engine::recovery::stated::Catalog;
use crate::wal::ReopenedLog;

/// Reads all of the log into memtables, however long it is, and leaves it as it is.
pub(super) fn recover(
    site: &Site<'_>,
    clock: Arc<dyn Clock>,
    cache: Arc<BlockCache>,
    keyspaces: Keyspaces,
    catalog: &Catalog,
) -> Result<Core> {
    let bytes = site.config.memtable_bytes;
    let log = replay(site, catalog, &Replay::Apply(&keyspaces), &|last| {
        // Several memtables are read faster than one that is far larger than meant.
        for state in keyspaces.values().filter(|state| state.memtable_bytes().0 >= bytes) {
            state.seal(last);
        }
        Ok(())
    })?;
    let reopened = ReopenedLog::for_reading(catalog.db_id, &log, last_seqno(catalog, &log));
    let given_up = log.given_up.clone();
    // Nothing is ever written, so no number is ever taken.
    let next_file = FileId(u64::MAX);
    let parts = Parts { site, clock, cache, keyspaces, reopened, next_file, given_up };
    let core = assemble(parts, catalog)?;
    core.health.refuse_writes();
    Ok(core)
}
