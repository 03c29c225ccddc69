//! Values that expire: by which time, and changing that of a value that is there.

use std::sync::Arc;
use std::time::Duration;

use crate::base::batch::Batch;
use crate::base::batch::Op;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::value::NEVER_MS;
use crate::base::value::ValueKind;
use crate::base::value::with_expiry;
use crate::engine::Core;
use crate::engine::commit::WriteMode;
use crate::engine::keyspaces::KeyspaceState;

/// So often a change is tried again because something else was written meanwhile.
const TRIES: u32 = 1000;

impl Core {
    /// When a value expires that is written now and lives for `ttl`.
    pub(crate) fn expiry_in(&self, ttl: Duration) -> u64 {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(NEVER_MS);
        self.expiry.now_ms().saturating_add(ttl_ms)
    }

    /// What expires then or before has expired for every reader, now and later.
    pub(crate) fn expired_ms(&self) -> u64 {
        let now = self.expiry.now_ms();
        self.snapshots.oldest_ms().map_or(now, |oldest| oldest.min(now))
    }

    /// Has the value of `key` expire at `expiry_ms`, if there is one: atomically, by writing it again
    /// provided that nothing at all was written since it was read. True if there is one.
    pub(crate) fn set_expiry(
        &self,
        state: &Arc<KeyspaceState>,
        key: &[u8],
        expiry_ms: u64,
    ) -> Result<bool> {
        if expiry_ms != NEVER_MS {
            state.claim_expiry()?;
        }
        for _ in 0..TRIES {
            let since = self.visible();
            let Some(value) = self.get(state, None, key)? else { return Ok(false) };
            let (kind, bytes) = match expiry_ms {
                NEVER_MS => (ValueKind::Put, value.to_vec()),
                _ => (ValueKind::Expiring, with_expiry(expiry_ms, &value)),
            };
            let mut batch = Batch::default();
            batch.push(Op { kind, keyspace: state.id, key, value: &bytes });
            let mode = WriteMode { unchanged_since: Some(since), ..WriteMode::default() };
            match self.commit(&mut batch, std::slice::from_ref(state), mode) {
                Err(Error::Conflict) => {
                    let last = self.commit.append_lock().last_seqno();
                    self.wait_visible(last)?;
                }
                result => return result.map(|()| true),
            }
        }
        Err(Error::Conflict)
    }

    /// Seals memtables with values that expired so long ago that they should be gone from memory and
    /// log, though nobody writes any more.
    pub(crate) fn seal_expired(&self) {
        for state in self.keyspaces.all() {
            let Some(first_ms) = state.first_expiry_ms() else { continue };
            let age_ms = u64::try_from(self.config.tombstone_age.as_millis()).unwrap_or(u64::MAX);
            if first_ms.saturating_add(age_ms) <= self.expiry.now_ms() {
                let append = self.commit.append_lock();
                state.seal(append.last_seqno());
            }
        }
    }
}
