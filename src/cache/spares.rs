//! Memory of blocks that left the cache, for those to come.
//!
//! An allocator keeps what a thread gives back for the thread that had asked for it. Since blocks are
//! read by one thread and evicted by another, or go with their file, memory that nobody uses would
//! add up to half as much again as the cache may hold. So it stays here: each thread has a few, and
//! the cache has the rest. What is kept and what the cache holds never exceed its capacity together.

use std::cell::Cell;
use std::cmp::Reverse;
use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use crate::base::sync::Mutex;
use crate::cache::block::Shared;
use crate::cache::block::UNIT;

/// So many blocks a thread keeps.
const OF_THREAD_MAX: usize = 4;
/// The part of a block that may stay unused.
const SLACK: usize = 8;

thread_local! {
    static OF_THREAD: Cell<Vec<Shared>> = const { Cell::new(Vec::new()) };
}

/// Memory for a block of `len` bytes, if the thread has some that fits.
pub(super) fn take(len: usize) -> Option<Shared> {
    change(|spares| {
        let fits = |spare: &Shared| (len..=len + len / SLACK + UNIT).contains(&spare.slice.len());
        let at = spares.iter().position(fits);
        if at.is_none() {
            // Blocks are of another size now.
            spares.pop();
        }
        at.map(|at| spares.swap_remove(at))
    })
    .flatten()
}

/// Does nothing when the thread ends.
fn change<T>(change: impl FnOnce(&mut Vec<Shared>) -> T) -> Option<T> {
    let changed = OF_THREAD.try_with(|cell| {
        let mut spares = cell.take();
        let result = change(&mut spares);
        cell.set(spares);
        result
    });
    changed.ok()
}

/// Those of a cache.
#[derive(Default)]
pub(super) struct Spares {
    blocks: Mutex<Vec<Shared>>,
    /// How many there are: none, most of the time, and then nobody takes the lock.
    count: AtomicUsize,
}

impl Spares {
    /// Keeps `spare` for this thread, or else for others if `room` bytes hold all of them then.
    pub(super) fn give(&self, spare: Shared, room: impl FnOnce() -> u64) {
        let mut spare = Some(spare);
        change(|spares| {
            if spares.len() < OF_THREAD_MAX {
                spares.extend(spare.take());
            }
        });
        let Some(spare) = spare else { return };
        let room = room();
        let mut blocks = self.blocks.lock();
        // They are about equal.
        if (blocks.len() as u64 + 1) * spare.slice.len() as u64 <= room {
            blocks.push(spare);
            self.count.store(blocks.len(), Relaxed);
        }
    }

    /// Hands them out in the order of their addresses from now on: so blocks that are loaded one
    /// after the other lie one behind the other, which is worth a third of a scan's time.
    pub(super) fn sort(&self) {
        self.blocks.lock().sort_unstable_by_key(|spare| Reverse(spare.ptr().addr()));
    }

    /// Gives this thread one, if it has none, and frees those beyond `room` bytes.
    pub(super) fn hand_out(&self, room: impl FnOnce() -> u64) {
        if self.count.load(Relaxed) == 0 {
            return;
        }
        let room = room();
        let mut blocks = self.blocks.lock();
        change(|of_thread| {
            if of_thread.is_empty() {
                of_thread.extend(blocks.pop());
            }
        });
        let len = blocks.last().map_or(1, |spare| spare.slice.len() as u64);
        let kept = blocks.len().min((room / len.max(1)) as usize);
        let freed = blocks.split_off(kept);
        self.count.store(kept, Relaxed);
        drop(blocks);
        drop(freed);
    }
}

impl fmt::Debug for Spares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Spares").field(&self.count).finish()
    }
}
