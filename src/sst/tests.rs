//! Whole files against models: lookups, cursors, damage.

mod cursors;
mod damage;
mod lookups;
mod residence;
pub(super) mod support;
mod timing;
