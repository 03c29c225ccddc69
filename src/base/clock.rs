//! The clock and the source of randomness, both replaceable, so that a test run is reproducible.

use std::fmt::Debug;
use std::hash::BuildHasher as _;
use std::hash::Hasher as _;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use crate::base::sync::atomic::AtomicU64;
use crate::base::value::NEVER_MS;

/// Where the engine takes the time and its few random numbers from.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Time since a fixed point in this process's life; never goes back.
    fn monotonic(&self) -> Duration;
    /// Milliseconds since 1970 as the system's clock tells it; may jump.
    fn wall_ms(&self) -> u64;
    /// A number that is different at each call (identities of databases and files).
    fn unique(&self) -> u64;
    /// For how long processors have worked for this thread, if that is known.
    fn thread_time(&self) -> Option<Duration> {
        None
    }
}

/// The time by which values expire: the wall clock's, except that it never goes back in the life of
/// a database handle. While the wall clock shows an earlier time than before, it stands still.
#[derive(Debug)]
pub(crate) struct ExpiryClock {
    clock: Arc<dyn Clock>,
    latest_ms: AtomicU64,
}

impl ExpiryClock {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> ExpiryClock {
        ExpiryClock { clock, latest_ms: AtomicU64::new(0) }
    }

    /// Milliseconds since 1970. Whoever learns of a call's result gets no smaller one.
    pub(crate) fn now_ms(&self) -> u64 {
        let wall = self.clock.wall_ms();
        let latest = self.latest_ms.load(Acquire);
        // Mostly another thread has just stored the same.
        if wall > latest { wall.max(self.latest_ms.fetch_max(wall, AcqRel)) } else { latest }
    }
}

/// The first time at which any of the values expires that somebody has read.
#[derive(Debug)]
pub(crate) struct FirstExpiry(AtomicU64);

impl Default for FirstExpiry {
    fn default() -> FirstExpiry {
        FirstExpiry(AtomicU64::new(NEVER_MS))
    }
}

impl FirstExpiry {
    pub(crate) fn note(&self, expiry_ms: u64) {
        // Mostly one before was earlier.
        if expiry_ms < self.0.load(Relaxed) {
            self.0.fetch_min(expiry_ms, Relaxed);
        }
    }

    /// [`NEVER_MS`] if there is none.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The clock of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

/// Now, relative to the first call in this process.
#[expect(clippy::disallowed_methods, reason = "this is the one place that asks the system")]
pub(crate) fn monotonic_now() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        monotonic_now()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the system")]
    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        since.as_millis() as u64
    }

    fn unique(&self) -> u64 {
        // The standard library seeds each RandomState from the operating system's entropy.
        let mut hasher = std::hash::RandomState::new().build_hasher();
        hasher.write_u64(monotonic_now().as_nanos() as u64);
        hasher.finish()
    }

    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "no safe interface exists in the standard library")]
    fn thread_time(&self) -> Option<Duration> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes to `time`, and to nothing else.
        let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        (failed == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }
}
