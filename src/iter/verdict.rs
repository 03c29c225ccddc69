//! What the newest visible version of a key makes of it, by its kind.

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::key::Trailer;
use crate::base::value::ValueKind;

/// What the newest visible version of a key makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Live,
    /// It, and what lies beneath it, must be folded.
    Operand,
    /// Live until it expires.
    Expiring,
    /// Live, with a handle for the value.
    Handle,
    /// Both.
    ExpiringHandle,
    Gone,
}

/// What the newest visible version of a key, which has this trailer, makes of it.
#[inline]
pub(super) fn verdict(trailer: Trailer) -> Result<Verdict> {
    match trailer.kind() {
        Some(ValueKind::Put) => Ok(Verdict::Live),
        Some(ValueKind::Delete) => Ok(Verdict::Gone),
        Some(ValueKind::Merge) => Ok(Verdict::Operand),
        Some(ValueKind::Expiring) => Ok(Verdict::Expiring),
        Some(ValueKind::BlobRef) => Ok(Verdict::Handle),
        Some(ValueKind::ExpiringBlobRef) => Ok(Verdict::ExpiringHandle),
        _ => Err(unexpected(trailer)),
    }
}

/// What reads files and logs refuses such entries.
#[cold]
pub(super) fn unexpected(trailer: Trailer) -> Error {
    Error::internal(format!("an entry of kind {}", trailer.kind_byte()))
}
