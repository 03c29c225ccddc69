//! Values that expire: by which time, and changing that of a value that is there.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::base::error::Result;
use crate::base::value::NEVER_MS;
use crate::base::value::ValueKind;
use crate::base::value::put_until;
use crate::engine::Core;
use crate::engine::conditional::Change;
use crate::engine::keyspaces::KeyspaceState;

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

    /// How a put of `value` is stored: with an expiry, if values of the keyspace have one by default.
    #[inline]
    pub(crate) fn put_form<'a>(
        &self,
        state: &KeyspaceState,
        value: Cow<'a, [u8]>,
    ) -> Result<(ValueKind, Cow<'a, [u8]>)> {
        match state.default_ttl_ms() {
            0 => Ok((ValueKind::Put, value)),
            ttl_ms => self.expiring_form(state, value, ttl_ms),
        }
    }

    fn expiring_form<'a>(
        &self,
        state: &KeyspaceState,
        value: Cow<'a, [u8]>,
        ttl_ms: u64,
    ) -> Result<(ValueKind, Cow<'a, [u8]>)> {
        state.claim_expiry()?;
        put_until(self.expiry_in(Duration::from_millis(ttl_ms)), value)
    }

    /// Has the value of `key` expire at `expiry_ms`, if there is one, with nothing in between. True
    /// if there is one.
    pub(crate) fn set_expiry(
        &self,
        state: &Arc<KeyspaceState>,
        key: &[u8],
        expiry_ms: u64,
    ) -> Result<bool> {
        if expiry_ms != NEVER_MS {
            state.claim_expiry()?;
        }
        let changed = self.change_key(state, key, |value, _| {
            Ok(value.map_or(Change::Keep, |value| {
                Change::PutUntil(expiry_ms, Cow::Owned(value.to_vec()))
            }))
        })?;
        Ok(changed.before.is_some())
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
