//! Live snapshots: which sequence numbers compaction must keep readable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;

use crate::base::seqno::SeqNo;
use crate::base::sync::Mutex;
use crate::base::sync::atomic::AtomicU64;

/// The sequence numbers of all live snapshots, with how many hold each.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    live: Mutex<BTreeMap<SeqNo, usize>>,
}

impl Snapshots {
    /// Pins what is visible now. The number is read under the lock: a compaction that lists the
    /// snapshots before sees none, and keeps the newest version of everything visible then; one
    /// that lists them after sees this one.
    pub(crate) fn pin(self: &Arc<Self>, visible: &AtomicU64) -> Arc<SnapshotPin> {
        let mut live = self.live.lock();
        let seqno = SeqNo::new(visible.load(Acquire));
        *live.entry(seqno).or_insert(0) += 1;
        Arc::new(SnapshotPin { seqno, snapshots: self.clone() })
    }

    /// All pinned numbers, ascending.
    pub(crate) fn list(&self) -> Vec<SeqNo> {
        self.live.lock().keys().copied().collect()
    }

    /// The oldest pinned number, if there is any.
    pub(crate) fn oldest(&self) -> Option<SeqNo> {
        self.live.lock().keys().next().copied()
    }

    pub(crate) fn count(&self) -> usize {
        self.live.lock().values().sum()
    }
}

/// Keeps the versions that are visible at its sequence number, until it is dropped.
#[derive(Debug)]
pub(crate) struct SnapshotPin {
    seqno: SeqNo,
    snapshots: Arc<Snapshots>,
}

impl SnapshotPin {
    pub(crate) fn seqno(&self) -> SeqNo {
        self.seqno
    }
}

impl Drop for SnapshotPin {
    fn drop(&mut self) {
        let mut live = self.snapshots.live.lock();
        if let Some(count) = live.get_mut(&self.seqno) {
            *count -= 1;
            if *count == 0 {
                live.remove(&self.seqno);
            }
        }
    }
}
