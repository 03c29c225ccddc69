//! The operating system.

/// Stub.
#[derive(Debug)]
pub struct OsFs;
