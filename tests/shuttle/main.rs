//! Many interleavings of the threads of a whole database, or of one memtable, chosen by shuttle. Each lock, each atomic
//! that carries a protocol, each wait and each call of the file system is a place to switch.
//!
//! ```text
//! bash .ci/shuttle                                          all tests
//! ESKER_SHUTTLE_ITERATIONS=1000000 bash .ci/shuttle NAME    one test, for long
//! ESKER_SHUTTLE_REPLAY=FILE bash .ci/shuttle NAME           the schedule that a failure printed
//! ```
//!
//! Half of the schedules are random, half are of PCT with two and with one change of priority: bugs
//! that take few switches at the right places are found by that sooner.
#![cfg(esker_shuttle)]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and measures time"
)]

mod changes;
mod commits;
mod handles;
mod memtables;
mod transactions;
mod trees;
mod world;

use std::env;
use std::time::Instant;

use shuttle::Config;
use shuttle::Runner;
use shuttle::scheduler::PctScheduler;
use shuttle::scheduler::RandomScheduler;
use shuttle::scheduler::ReplayScheduler;
use shuttle::scheduler::Scheduler;
use shuttle::scheduler::UncontrolledNondeterminismCheckScheduler;

/// Schedules per test in a default run.
const ITERATIONS: usize = 10_000;
/// The stack of each thread: recovery and compaction are not small.
const STACK_BYTES: usize = 512 << 10;

/// Says how to see a failure again, if there is one.
struct Hint(&'static str);

impl Drop for Hint {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "\nto see this again, put the schedule above into a FILE:\n  \
                 ESKER_SHUTTLE_REPLAY=FILE bash .ci/shuttle {}\n",
                self.0
            );
        }
    }
}

fn execute(scheduler: impl Scheduler + 'static, run: fn()) -> usize {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.silence_warnings = true;
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    Runner::new(scheduler, config).run(run)
}

/// Runs `run` under many schedules, or under the one to be replayed.
fn explore(test: &'static str, run: fn()) {
    if let Some(file) = env::var_os("ESKER_SHUTTLE_REPLAY") {
        execute(ReplayScheduler::new_from_file(file).unwrap(), run);
        return;
    }
    let _hint = Hint(test);
    let wanted = env::var("ESKER_SHUTTLE_ITERATIONS").map(|n| n.parse().unwrap());
    let n = wanted.unwrap_or(ITERATIONS).max(4);
    let began = Instant::now();
    let mut schedules = execute(RandomScheduler::new(n / 2), run);
    schedules += execute(PctScheduler::new(2, n / 4), run);
    schedules += execute(PctScheduler::new(3, n / 4), run);
    let rate = schedules as f64 / began.elapsed().as_secs_f64();
    eprintln!("{test}: {schedules} schedules, {rate:.0} a second");
}

#[test]
fn acknowledged_writes_are_visible_whole_and_survive_a_power_cut() {
    explore(
        "acknowledged_writes_are_visible_whole_and_survive_a_power_cut",
        commits::writers_of_all_durabilities,
    );
}

#[test]
fn after_a_failed_sync_nobody_is_acknowledged() {
    explore("after_a_failed_sync_nobody_is_acknowledged", commits::a_failing_sync);
}

#[test]
fn writers_without_room_go_on_when_there_is_some() {
    explore("writers_without_room_go_on_when_there_is_some", commits::writers_without_room);
}

#[test]
fn reads_see_every_write_while_memtables_are_switched() {
    explore("reads_see_every_write_while_memtables_are_switched", trees::switched_memtables);
}

#[test]
fn a_read_is_as_of_one_instant() {
    explore("a_read_is_as_of_one_instant", trees::one_reader);
}

#[test]
fn no_key_vanishes_while_versions_are_installed() {
    explore("no_key_vanishes_while_versions_are_installed", trees::installed_versions);
}

#[test]
fn what_is_written_where_nothing_lived_is_found() {
    explore("what_is_written_where_nothing_lived_is_found", trees::dead_spans);
}

#[test]
fn what_is_written_behind_a_readers_view_is_not_taken_for_dead() {
    explore(
        "what_is_written_behind_a_readers_view_is_not_taken_for_dead",
        trees::dead_spans_of_older_views,
    );
}

#[test]
fn snapshots_read_the_same_during_compactions() {
    explore("snapshots_read_the_same_during_compactions", trees::snapshots);
}

#[test]
fn a_snapshot_keeps_what_a_later_range_delete_hides() {
    explore(
        "a_snapshot_keeps_what_a_later_range_delete_hides",
        trees::snapshots_before_range_deletes,
    );
}

#[test]
fn iterators_outlive_their_keyspace_and_its_files() {
    explore("iterators_outlive_their_keyspace_and_its_files", handles::iterators_and_drops);
}

#[test]
fn no_follower_sleeps_through_a_batch() {
    explore("no_follower_sleeps_through_a_batch", changes::followers_beside_writers);
}

#[test]
fn a_close_wakes_who_follows() {
    explore("a_close_wakes_who_follows", changes::followers_at_a_close);
}

#[test]
fn close_lets_every_write_return() {
    explore("close_lets_every_write_return", handles::close_under_writers);
}

#[test]
fn dropped_keyspaces_take_no_writes_and_return_empty() {
    explore("dropped_keyspaces_take_no_writes_and_return_empty", handles::created_and_dropped);
}

#[test]
fn a_dropped_keyspace_is_never_read_as_an_empty_one() {
    explore(
        "a_dropped_keyspace_is_never_read_as_an_empty_one",
        handles::one_reader_of_a_dropped_keyspace,
    );
}

#[test]
fn readers_see_what_was_there_while_nodes_are_split() {
    explore("readers_see_what_was_there_while_nodes_are_split", memtables::inserts_beside_readers);
}

#[test]
fn the_newest_version_is_found_while_others_are_written() {
    explore(
        "the_newest_version_is_found_while_others_are_written",
        memtables::versions_beside_readers,
    );
}

#[test]
fn transactions_beside_plain_writes_are_serializable() {
    explore("transactions_beside_plain_writes_are_serializable", transactions::beside_plain_writes);
}

#[test]
fn transactions_meet_no_phantoms() {
    explore("transactions_meet_no_phantoms", transactions::phantoms);
}

#[test]
fn conditional_operations_lose_no_update() {
    explore("conditional_operations_lose_no_update", transactions::counters);
}

#[test]
fn merges_into_values_that_expire_lose_nothing() {
    explore("merges_into_values_that_expire_lose_nothing", transactions::folded_merges);
}

#[test]
fn checked_commits_return_when_the_database_fails_or_closes() {
    explore(
        "checked_commits_return_when_the_database_fails_or_closes",
        transactions::failures_and_closes,
    );
}

/// Without this a failure could not be replayed.
#[test]
fn an_execution_depends_on_its_schedule_alone() {
    for run in
        [commits::writers_of_all_durabilities, trees::snapshots, handles::created_and_dropped]
    {
        execute(UncontrolledNondeterminismCheckScheduler::new(RandomScheduler::new(20)), run);
    }
}
