//! Live snapshots: which sequence numbers compaction must keep readable.

use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Release;

use crate::base::clock::ExpiryClock;
use crate::base::clock::FirstExpiry;
use crate::base::seqno::SeqNo;
use crate::base::sorted::SortedMap;
use crate::base::sync::Mutex;
use crate::base::sync::atomic::AtomicU64;

/// The live snapshots.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    live: Mutex<Live>,
}

#[derive(Debug, Default)]
struct Live {
    /// Their sequence numbers, with how many hold each.
    pinned: SortedMap<SeqNo, usize>,
    /// The times that they were taken at, likewise.
    instants: SortedMap<u64, usize>,
    /// How many keyspaces were dropped so far. Sequence numbers do not tell whether a snapshot was
    /// taken before or after that: a drop has none.
    drops: u64,
}

impl Snapshots {
    /// Pins what is visible now. The number is read under the lock: a compaction that lists the
    /// snapshots before sees none, and keeps the newest version of everything visible then; one
    /// that lists them after sees this one.
    ///
    /// So is the time: a compaction that reads it first, and lists the snapshots then, drops nothing
    /// that has not expired for a snapshot that it does not see.
    pub(crate) fn pin(
        self: &Arc<Self>,
        visible: &AtomicU64,
        expiry: &ExpiryClock,
    ) -> Arc<SnapshotPin> {
        let mut live = self.live.lock();
        let seqno = SeqNo::new(visible.load(Acquire));
        let now_ms = expiry.now_ms();
        *live.pinned.get_or_insert_with(seqno, || 0) += 1;
        *live.instants.get_or_insert_with(now_ms, || 0) += 1;
        let first_expiry = Arc::default();
        let (drops, snapshots) = (live.drops, self.clone());
        Arc::new(SnapshotPin { seqno, now_ms, first_expiry, drops, snapshots })
    }

    /// Counts the drop of a keyspace, notes it in `dropped`, and returns whether any snapshot may
    /// still read what is dropped: all that live now, and none that is taken later.
    pub(crate) fn note_drop(&self, dropped: &AtomicU64) -> bool {
        let mut live = self.live.lock();
        live.drops += 1;
        dropped.store(live.drops, Release);
        !live.pinned.is_empty()
    }

    /// All pinned numbers, ascending.
    pub(crate) fn list(&self) -> Vec<SeqNo> {
        self.live.lock().pinned.keys().copied().collect()
    }

    /// When the one was taken that was first, if there is any.
    pub(crate) fn oldest_ms(&self) -> Option<u64> {
        self.live.lock().instants.keys().next().copied()
    }

    pub(crate) fn count(&self) -> usize {
        self.live.lock().pinned.values().sum()
    }
}

/// Keeps the versions that are visible at its sequence number, until it is dropped.
#[derive(Debug)]
pub(crate) struct SnapshotPin {
    seqno: SeqNo,
    now_ms: u64,
    /// Of what was read by it.
    first_expiry: Arc<FirstExpiry>,
    /// Drops of keyspaces before it was taken.
    drops: u64,
    snapshots: Arc<Snapshots>,
}

impl SnapshotPin {
    pub(crate) fn seqno(&self) -> SeqNo {
        self.seqno
    }

    /// When it was taken: what has expired since is there for it.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The first time at which anything expires that was read by it.
    pub(crate) fn first_expiry(&self) -> &Arc<FirstExpiry> {
        &self.first_expiry
    }

    /// Was it taken before the `nth` drop of a keyspace?
    pub(crate) fn precedes_drop(&self, nth: u64) -> bool {
        self.drops < nth
    }
}

impl Drop for SnapshotPin {
    fn drop(&mut self) {
        let mut live = self.snapshots.live.lock();
        release(&mut live.pinned, &self.seqno);
        release(&mut live.instants, &self.now_ms);
    }
}

fn release<K: Ord>(held: &mut SortedMap<K, usize>, key: &K) {
    if let Some(count) = held.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            held.remove(key);
        }
    }
}
