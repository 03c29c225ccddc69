//! Checks what every version must satisfy: after reading a manifest, where a violation is
//! corruption, and in debug builds after every edit, where it is a bug.

use std::collections::HashSet;

use crate::version::Version;

/// Checks I1, I2 and I4, and of I5 what the builder does not; returns what is violated. (I3 needs
/// the entries; `verify` checks it.)
pub(crate) fn check(version: &Version) -> Result<(), String> {
    let mut ids = HashSet::new();
    for file in version.files() {
        if !ids.insert(file.meta.id) {
            return Err(format!("I4: file {} is in a version twice", file.meta.id));
        }
        if file.meta.smallest.as_ref() > file.meta.largest.as_ref() {
            return Err(format!("file {} ends before it begins", file.meta.id));
        }
        if file.meta.min_seqno > file.meta.max_seqno {
            return Err(format!("file {} has an empty range of seqnos", file.meta.id));
        }
    }
    for pair in version.level(0).files.windows(2) {
        let [newer, older] = pair else { continue };
        if newer.meta.min_seqno <= older.meta.max_seqno {
            return Err(format!(
                "I1: files {} and {} of level 0 interleave",
                newer.meta.id, older.meta.id
            ));
        }
    }
    for (number, level) in version.levels().iter().enumerate().skip(1) {
        for pair in level.files.windows(2) {
            let [left, right] = pair else { continue };
            if !left.meta.is_before(right.meta.first()) {
                return Err(format!(
                    "I2: files {} and {} of level {number} overlap",
                    left.meta.id, right.meta.id
                ));
            }
        }
    }
    version.blobs.check()
}
