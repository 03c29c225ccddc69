//! Sticky failure: after a write, sync or manifest append failed, nothing more is acknowledged. A
//! database that was opened read-only is in that state from the start.
//!
//! After a failed sync the kernel may have marked the lost pages clean, so that a second sync
//! succeeds without having written them ("fsyncgate"; Rebello et al., ATC 2020). And a failed
//! append may or may not be on disk. So no later record may be acknowledged on top of either: the
//! database turns read-only until it is reopened and recovery has looked at what is really there.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Release;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::sync::atomic::AtomicBool;

/// Whether the database may still acknowledge writes.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failure: OnceLock<Error>,
    failed: AtomicBool,
    closed: AtomicBool,
}

impl Health {
    /// Turns the database read-only. The first failure stays.
    pub(crate) fn fail(&self, error: &Error) {
        let sticky = Error::read_only(error.clone());
        if self.failure.set(sticky).is_ok() {
            tracing::error!(%error, "the database takes no more writes until it is reopened");
        }
        self.failed.store(true, Release);
    }

    /// Nothing is ever written: the database was opened read-only.
    pub(crate) fn refuse_writes(&self) {
        let refused = self.failure.set(Error::ReadOnly { cause: None });
        debug_assert!(refused.is_ok());
        self.failed.store(true, Release);
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Release);
    }

    /// May something be written?
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        if self.failed.load(Acquire)
            && let Some(error) = self.failure.get()
        {
            return Err(error.clone());
        }
        Ok(())
    }

    /// May something be read?
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failure.get()
    }
}
