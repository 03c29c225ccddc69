//! Bugs that the tests must catch: tests of the tests.
//!
//! A build with `--cfg esker_planted` has the one that the environment variable `ESKER_PLANTED`
//! names. Any other build has none, and pays nothing. `.ci/planted` demands that each is caught.

/// A mistake that a storage engine could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Planted {
    /// An SST is named in the manifest before its content is synced.
    SstNotSynced,
    /// An SST is named in the manifest before the blobs that it refers to are synced.
    BlobNotSynced,
    /// An SST is named in the manifest before its name is synced.
    DirNotSynced,
    /// An SST is named in the manifest before the log is synced to where it ends.
    LogNotSynced,
    /// An edit counts before the manifest is synced.
    ManifestNotSynced,
    /// A log segment is removed before the manifest says that it is not needed.
    LogRemovedEarly,
    /// A write returns, and the system has not got it.
    AckedBeforeWritten,
    /// A durable write returns before the log is synced.
    AckedBeforeSynced,
    /// Compaction drops tombstones that still hide something.
    TombstoneDropped,
    /// Compaction drops range tombstones that still hide something.
    RangeTombstoneDropped,
    /// Blocks are used whatever their checksum says.
    ChecksumIgnored,
    /// A record is taken whichever log it was written to.
    ForeignRecord,
    /// After a failed sync the next one is believed.
    SyncRetried,
    /// What could not be written back is left to the sync that follows.
    WriteBackErrorIgnored,
    /// Filters forget keys.
    FilterForgets,
    /// After recovery sequence numbers are given out again.
    SeqNoReused,
    /// Recovery applies the first half of a batch.
    HalfBatch,
    /// Snapshots do not keep what they see from compaction.
    SnapshotIgnored,
    /// A commit looks only at what was written while it is checked.
    ConflictMissed,
    /// What was read of a range is not looked at again.
    PhantomMissed,
    /// Recovery forgets merge operands.
    OperandForgotten,
    /// Flushes and compactions drop what will expire.
    ExpiredEarly,
    /// What is written into a dead span stays unseen.
    DeadSpanKept,
    /// A memtable's hash index stays at the first version of a key.
    OldVersionKept,
}

impl Planted {
    /// Does this build have this bug?
    #[cfg(not(esker_planted))]
    #[expect(clippy::unused_self, reason = "the other one looks at it")]
    #[inline]
    pub(crate) const fn is_on(self) -> bool {
        false
    }

    /// Does this build have this bug?
    #[cfg(esker_planted)]
    pub(crate) fn is_on(self) -> bool {
        static CHOSEN: std::sync::LazyLock<String> =
            std::sync::LazyLock::new(|| std::env::var("ESKER_PLANTED").unwrap_or_default());
        *CHOSEN == format!("{self:?}")
    }
}
