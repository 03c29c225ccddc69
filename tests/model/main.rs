//! The whole database against a model that fits on a page: random operations, options and crashes,
//! and after each read the question whether a `BTreeMap` would have answered the same.
//!
//! `PROPTEST_CASES` sets the number of cases (default: 256). A failure prints the shortest list of
//! operations that still fails; paste it into a test of its own.
#![allow(
    clippy::unwrap_used,
    clippy::iter_not_returning_iterator,
    clippy::needless_pass_by_value,
    clippy::trivially_copy_pass_by_ref,
    reason = "a test fails by panicking, and is not in a hurry"
)]

#[path = "../harness/mod.rs"]
mod harness;
mod strategies;

use proptest::prelude::*;

use harness::world::World;
use strategies::ops;
use strategies::settings;

proptest! {
    #![proptest_config(ProptestConfig {
        max_shrink_iters: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn answers_like_a_map(settings in settings(), ops in ops(60..300)) {
        let mut world = World::new(&settings);
        for op in &ops.0 {
            world.run(op);
        }
        world.end();
    }
}
