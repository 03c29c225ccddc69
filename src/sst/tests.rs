//! Whole files against models: lookups, cursors, damage.

mod cursors;
mod damage;
mod lookups;
mod residence;
mod support;
mod timing;
