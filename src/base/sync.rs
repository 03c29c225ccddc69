//! Locks, atomics and threads, from one place, so that a scheduler that tries many interleavings
//! can take theirs.

#[cfg(not(esker_shuttle))]
pub(crate) use parking_lot::Condvar;
#[cfg(not(esker_shuttle))]
pub(crate) use parking_lot::Mutex;
#[cfg(not(esker_shuttle))]
pub(crate) use parking_lot::MutexGuard;
#[cfg(not(esker_shuttle))]
pub(crate) use parking_lot::RwLock;

#[cfg(esker_shuttle)]
mod simulated;
#[cfg(esker_shuttle)]
pub(crate) use simulated::Condvar;
#[cfg(esker_shuttle)]
pub(crate) use simulated::Mutex;
#[cfg(esker_shuttle)]
pub(crate) use simulated::MutexGuard;
#[cfg(esker_shuttle)]
pub(crate) use simulated::RwLock;
#[cfg(esker_shuttle)]
pub(crate) use simulated::pause;
#[cfg(esker_shuttle)]
pub(crate) use simulated::spin_until;
#[cfg(esker_shuttle)]
pub(crate) use simulated::step;
#[cfg(esker_shuttle)]
pub(crate) use simulated::wait_a_moment;

/// Looks so often, which takes a microsecond or two.
#[cfg(not(esker_shuttle))]
const SPINS: usize = 48;

/// A step of a protocol that is neither a lock nor one of the atomics below: another thread may go
/// on here.
#[cfg(not(esker_shuttle))]
pub(crate) fn step() {}

/// Waits a moment for what another thread is about to do: to sleep and to be woken takes both
/// longer. Afterwards look, and sleep if it has not been done.
#[cfg(not(esker_shuttle))]
pub(crate) fn spin_until(is_done: impl Fn() -> bool) {
    for _ in 0..SPINS {
        if is_done() {
            return;
        }
        std::hint::spin_loop();
    }
}

/// Waits for a notification that need not come, for at most `limit`; true if it did not.
#[cfg(not(esker_shuttle))]
pub(crate) fn wait_a_moment<T>(
    condvar: &Condvar,
    guard: &mut MutexGuard<'_, T>,
    limit: std::time::Duration,
) -> bool {
    condvar.wait_for(guard, limit).timed_out()
}

/// Lets so much time pass.
#[cfg(not(esker_shuttle))]
pub(crate) fn pause(time: std::time::Duration) {
    std::thread::sleep(time);
}

pub(crate) mod atomic {
    //! Atomics that carry a protocol between threads. Counters that nobody waits for stay std's.

    #[cfg(esker_shuttle)]
    pub(crate) use shuttle::sync::atomic::AtomicBool;
    #[cfg(esker_shuttle)]
    pub(crate) use shuttle::sync::atomic::AtomicPtr;
    #[cfg(esker_shuttle)]
    pub(crate) use shuttle::sync::atomic::AtomicU32;
    #[cfg(esker_shuttle)]
    pub(crate) use shuttle::sync::atomic::AtomicU64;
    #[cfg(not(esker_shuttle))]
    pub(crate) use std::sync::atomic::AtomicBool;
    #[cfg(not(esker_shuttle))]
    pub(crate) use std::sync::atomic::AtomicPtr;
    #[cfg(not(esker_shuttle))]
    pub(crate) use std::sync::atomic::AtomicU32;
    #[cfg(not(esker_shuttle))]
    pub(crate) use std::sync::atomic::AtomicU64;
}

pub(crate) mod thread {
    //! Threads. Only `engine` starts any, or lets one sleep.

    #[cfg(esker_shuttle)]
    pub(crate) use crate::base::sync::simulated::Builder;
    #[cfg(esker_shuttle)]
    pub(crate) use shuttle::thread::JoinHandle;
    #[cfg(esker_shuttle)]
    pub(crate) use shuttle::thread::current;
    #[cfg(esker_shuttle)]
    pub(crate) use shuttle::thread::scope;
    #[cfg(esker_shuttle)]
    pub(crate) use shuttle::thread::sleep;
    #[cfg(not(esker_shuttle))]
    pub(crate) use std::thread::Builder;
    #[cfg(not(esker_shuttle))]
    pub(crate) use std::thread::JoinHandle;
    #[cfg(not(esker_shuttle))]
    pub(crate) use std::thread::current;
    #[cfg(not(esker_shuttle))]
    pub(crate) use std::thread::scope;
    #[cfg(not(esker_shuttle))]
    pub(crate) use std::thread::sleep;
}
