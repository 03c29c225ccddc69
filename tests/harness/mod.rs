//! What tests of crashes, of failing calls and of damage share with the fuzz targets: one function
//! for each target, which takes the bytes of an input and panics if a promise is broken.
//!
//! All that happens is drawn from [`choices::Choices`]: from a seed in tests, from the input in
//! fuzz targets. So both run the same code, and an input that fails can be made a test as it is.
#![allow(dead_code, unused_imports, reason = "each crate that includes this uses a part of it")]

pub(crate) mod choices;
pub(crate) mod crashes;
pub(crate) mod damage;
pub(crate) mod failures;
pub(crate) mod frames;
pub(crate) mod held;
pub(crate) mod ops;
pub(crate) mod state;
pub(crate) mod workload;
pub(crate) mod world;

pub(crate) use crashes::crash_recovery;
pub(crate) use damage::files_on_disk;
pub(crate) use failures::fault_injection;
pub(crate) use world::ops_model;
