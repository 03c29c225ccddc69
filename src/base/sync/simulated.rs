//! Locks and threads whose interleaving shuttle decides, with the interface of the real ones.
//!
//! Each operation on a lock or an atomic is a place where another thread may go on. All threads of
//! an execution are coroutines on one thread of the system, and memory is sequentially consistent:
//! what a weaker ordering allows is for ThreadSanitizer and for reading.

use std::io;
use std::ops::Deref;
use std::ops::DerefMut;
use std::sync::PoisonError;
use std::time::Duration;

use shuttle::rand::Rng as _;
use shuttle::sync;
use shuttle::thread;

/// One in so many timed waits ends early. The others end only by a notification: so an execution in
/// which progress takes a timeout is a deadlock, which tells of a wake-up that is missing.
const TIMEOUT_ONE_IN: u32 = 4;

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Mutex<T> {
        Mutex(sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, guard: Some(self.take()) }
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> sync::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` only while a [`Condvar`] waits.
    guard: Option<sync::MutexGuard<'a, T>>,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("nobody looks while it waits")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("nobody looks while it waits")
    }
}

/// How a timed wait ended.
#[derive(Debug)]
pub(crate) struct Waited {
    timed_out: bool,
}

impl Waited {
    pub(crate) fn timed_out(&self) -> bool {
        self.timed_out
    }
}

#[derive(Debug, Default)]
pub(crate) struct Condvar(sync::Condvar);

impl Condvar {
    pub(crate) const fn new() -> Condvar {
        Condvar(sync::Condvar::new())
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        if let Some(held) = guard.guard.take() {
            guard.guard = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
        }
    }

    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _limit: Duration) -> Waited {
        let timed_out = shuttle::rand::thread_rng().gen_ratio(1, TIMEOUT_ONE_IN);
        if timed_out {
            drop(guard.guard.take());
            thread::yield_now();
            guard.guard = Some(guard.mutex.take());
        } else {
            self.wait(guard);
        }
        Waited { timed_out }
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn read(&self) -> sync::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> sync::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The moment ends before anybody comes, so that no execution depends on it.
pub(crate) fn wait_a_moment<T>(
    _condvar: &Condvar,
    guard: &mut MutexGuard<'_, T>,
    _limit: Duration,
) -> bool {
    drop(guard.guard.take());
    thread::yield_now();
    guard.guard = Some(guard.mutex.take());
    true
}

pub(crate) fn step() {
    // No time passes: this is a switch and nothing else.
    thread::sleep(Duration::ZERO);
}

/// No time passes.
pub(crate) fn pause(_time: Duration) {
    step();
}

/// No moment is too short for others to go on, so that one look is as good as many.
pub(crate) fn spin_until(is_done: impl Fn() -> bool) {
    is_done();
}

/// As `std::thread::Builder`, which can start scoped threads too.
#[derive(Debug, Default)]
pub(crate) struct Builder(thread::Builder);

impl Builder {
    pub(crate) fn new() -> Builder {
        Builder::default()
    }

    pub(crate) fn name(self, name: String) -> Builder {
        Builder(self.0.name(name))
    }

    pub(crate) fn spawn<F, T>(self, run: F) -> io::Result<thread::JoinHandle<T>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.0.spawn(run)
    }

    #[expect(clippy::unused_self, reason = "scoped threads have no names here")]
    #[expect(clippy::unnecessary_wraps, reason = "as the real one")]
    pub(crate) fn spawn_scoped<'scope, F, T>(
        self,
        scope: &'scope thread::Scope<'scope, '_>,
        run: F,
    ) -> io::Result<thread::ScopedJoinHandle<'scope, T>>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        Ok(scope.spawn(run))
    }
}
