//! Live snapshots: which sequence numbers compaction must keep readable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Release;

use crate::base::seqno::SeqNo;
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
    pinned: BTreeMap<SeqNo, usize>,
    /// How many keyspaces were dropped so far. Sequence numbers do not tell whether a snapshot was
    /// taken before or after that: a drop has none.
    drops: u64,
}

impl Snapshots {
    /// Pins what is visible now. The number is read under the lock: a compaction that lists the
    /// snapshots before sees none, and keeps the newest version of everything visible then; one
    /// that lists them after sees this one.
    pub(crate) fn pin(self: &Arc<Self>, visible: &AtomicU64) -> Arc<SnapshotPin> {
        let mut live = self.live.lock();
        let seqno = SeqNo::new(visible.load(Acquire));
        *live.pinned.entry(seqno).or_insert(0) += 1;
        Arc::new(SnapshotPin { seqno, drops: live.drops, snapshots: self.clone() })
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

    /// The oldest pinned number, if there is any.
    pub(crate) fn oldest(&self) -> Option<SeqNo> {
        self.live.lock().pinned.keys().next().copied()
    }

    pub(crate) fn count(&self) -> usize {
        self.live.lock().pinned.values().sum()
    }
}

/// Keeps the versions that are visible at its sequence number, until it is dropped.
#[derive(Debug)]
pub(crate) struct SnapshotPin {
    seqno: SeqNo,
    /// Drops of keyspaces before it was taken.
    drops: u64,
    snapshots: Arc<Snapshots>,
}

impl SnapshotPin {
    pub(crate) fn seqno(&self) -> SeqNo {
        self.seqno
    }

    /// Was it taken before the `nth` drop of a keyspace?
    pub(crate) fn precedes_drop(&self, nth: u64) -> bool {
        self.drops < nth
    }
}

impl Drop for SnapshotPin {
    fn drop(&mut self) {
        let mut live = self.snapshots.live.lock();
        if let Some(count) = live.pinned.get_mut(&self.seqno) {
            *count -= 1;
            if *count == 0 {
                live.pinned.remove(&self.seqno);
            }
        }
    }
}
