//! Locks and threads, from one place, so that a scheduler that tries all interleavings can take
//! theirs.

pub(crate) use parking_lot::Condvar;
pub(crate) use parking_lot::Mutex;
pub(crate) use parking_lot::MutexGuard;
pub(crate) use parking_lot::RwLock;

pub(crate) mod atomic {
    //! Atomics that carry a protocol between threads. Counters that nobody waits for stay std's.

    pub(crate) use std::sync::atomic::AtomicBool;
    pub(crate) use std::sync::atomic::AtomicU32;
    pub(crate) use std::sync::atomic::AtomicU64;
}
