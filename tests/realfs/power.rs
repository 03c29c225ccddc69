//! Power cuts: the file system is shut down amid writes, without flushing its journal, and mounted
//! again. What was acknowledged as durable is there; what is there besides is a prefix of what was
//! written, over all writers.

use std::time::Duration;
use std::time::Instant;

use crate::disk::Disk;
use crate::disk::Kind;
use crate::disk::skip;
use crate::process;
use crate::process::End;
use crate::process::Model;
use crate::process::Running;
use crate::process::from_env;
use crate::process::mix;
use crate::process::options;

fn cut_power(kind: Kind, mib: u64, test: &str) {
    process::write_if_asked();
    let disk = match Disk::new(kind, mib) {
        Ok(disk) => disk,
        Err(why) => return skip(&format!("power cuts on {kind:?}"), &why),
    };
    let seed = process::seed();
    let cuts = from_env("ESKER_POWER_CUTS").unwrap_or(20);
    let dir = disk.path().join("parent").join("db");
    let mut model = Model::default();
    let (mut before_writing, begun) = (0, Instant::now());
    for cycle in 0..cuts {
        let random = mix(seed ^ mix(cycle));
        let micros = Duration::from_micros((random >> 8) % 150_000);
        let what = format!("{kind:?}, seed {seed}, power cut {cycle}, {micros:?}");
        let running = Running::start(test, &dir, seed, cycle);
        // Some in the middle of the open.
        if !random.is_multiple_of(5) {
            running.wait_for_first_line();
        }
        std::thread::sleep(micros);
        disk.cut_power();
        let reported = running.kill();
        before_writing += u64::from(!reported.wrote());
        disk.restart();
        let db = options(cycle + 1).open(&dir);
        let db = db.unwrap_or_else(|error| panic!("{what}: {error}"));
        model.check(&db, seed, &reported, End::PowerCut, &what);
        if random.is_multiple_of(3) {
            db.close().unwrap();
        }
    }
    let (batches, took) = (model.batches(), begun.elapsed());
    eprintln!(
        "{kind:?}: {cuts} power cuts in {took:?}, {before_writing} before writing; \
         {batches} batches; seed {seed}"
    );
    assert!(batches > cuts && before_writing * 2 <= cuts, "seed {seed}: it hardly ran");
}

#[test]
fn power_cuts_on_ext4_lose_nothing_durable() {
    cut_power(Kind::Ext4, 64, "power::power_cuts_on_ext4_lose_nothing_durable");
}

#[test]
fn power_cuts_on_ext4_that_does_not_order_data_lose_nothing_durable() {
    let test = "power::power_cuts_on_ext4_that_does_not_order_data_lose_nothing_durable";
    cut_power(Kind::Ext4Writeback, 64, test);
}

#[test]
fn power_cuts_on_xfs_lose_nothing_durable() {
    cut_power(Kind::Xfs, 320, "power::power_cuts_on_xfs_lose_nothing_durable");
}
