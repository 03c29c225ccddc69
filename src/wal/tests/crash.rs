//! Crashes at every event, of writing and of recovering: what comes back is a prefix that holds
//! everything durable.

use proptest::prelude::*;

use super::*;
use crate::base::sync::Mutex;
use crate::fs::CrashMode;
use crate::fs::FaultEffect;
use crate::fs::FaultError;
use crate::fs::FaultFs;
use crate::fs::FaultOp;
use crate::fs::FaultRule;

/// How many batches must be there after a crash of the system, and after one of the process.
#[derive(Clone, Copy, Default)]
struct Acknowledged {
    durable: usize,
    written: usize,
}

/// A state of the file system that a crash may leave, and what must be in it.
struct State {
    fs: MemFs,
    at_least: usize,
    /// How much of it a crash of the system must leave.
    durable: usize,
}

/// Takes crash clones of a file system before each event.
#[derive(Clone, Default)]
struct Crashes {
    acknowledged: Arc<Mutex<Acknowledged>>,
    states: Arc<Mutex<Vec<State>>>,
}

impl Crashes {
    fn watch(&self, fs: &MemFs, subsets: u64) {
        let crashes = self.clone();
        fs.on_event(Some(Arc::new(move |event, fs| {
            crashes.take(fs, event, subsets);
        })));
    }

    fn take(&self, fs: &MemFs, event: u64, subsets: u64) {
        let Acknowledged { durable, written } = *self.acknowledged.lock();
        let add = |mode, seed, at_least| {
            let fs = fs.crash_clone(mode, seed);
            self.states.lock().push(State { fs, at_least, durable });
        };
        add(CrashMode::KeepAll, 0, written);
        add(CrashMode::Strict, 0, durable);
        for n in 0..subsets {
            add(CrashMode::Prefix, event * 31 + n, durable);
            add(CrashMode::Subset, event * 37 + n, durable);
        }
    }

    fn acknowledge(&self, log: &Log) {
        let durable = log.durable().get();
        *self.acknowledged.lock() = Acknowledged {
            durable: log.written.partition_point(|(seqno, _)| *seqno <= durable),
            written: log.written.len(),
        };
    }

    fn states(&self) -> Vec<State> {
        std::mem::take(&mut self.states.lock())
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Put(u64, usize),
    Sync,
    Rotate,
}

fn run(log: &mut Log, steps: &[Step], crashes: &Crashes) {
    for step in steps {
        match *step {
            Step::Put(ops, value_len) => {
                log.put(ops, value_len);
            }
            Step::Sync => log.sync().unwrap(),
            Step::Rotate => log.rotate(SEGMENT).unwrap(),
        }
        crashes.acknowledge(log);
    }
}

/// Checks that a prefix of `all` comes back from `state`; returns its length.
fn check(state: &State, all: &[Written]) -> usize {
    let (_, written) = recover_all(&state.fs).unwrap();
    assert!(written.len() <= all.len());
    assert_eq!(written, all[..written.len()]);
    assert!(written.len() >= state.at_least, "{} < {}", written.len(), state.at_least);
    written.len()
}

/// Opens `state` for writing, with a crash before each event, and checks that all comes back; then
/// writes, and checks that what is synced then is there too. Returns what crashes left.
fn check_reopening(state: &State, all: &[Written]) -> Vec<State> {
    let found = check(state, all);
    // A crash of the system before it is open may take more of what was not durable.
    let crashes = Crashes::default();
    *crashes.acknowledged.lock() = Acknowledged { durable: state.durable, written: found };
    crashes.watch(&state.fs, 1);
    let mut log = Log::open(Arc::new(state.fs.clone())).unwrap();
    assert_eq!(log.written, all[..found]);
    let nested = crashes.states();
    for state in &nested {
        check(state, all);
    }
    // Once open, all that came back is durable.
    crashes.acknowledge(&log);
    assert_eq!(crashes.acknowledged.lock().durable, found);
    let steps = [Step::Put(2, 100), Step::Rotate, Step::Put(1, 50), Step::Sync];
    run(&mut log, &steps, &crashes);
    state.fs.on_event(None);
    crashes.take(&state.fs, 0, 1);
    for state in crashes.states() {
        check(&state, &log.written);
    }
    nested
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1u64..4, 1usize..900).prop_map(|(ops, len)| Step::Put(ops, len)),
        2 => Just(Step::Sync),
        1 => Just(Step::Rotate),
    ];
    prop::collection::vec(step, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn every_crash_leaves_a_prefix_with_all_that_was_durable(steps in steps(), pick: u64) {
        let fs = new_fs();
        let crashes = Crashes::default();
        crashes.watch(&fs, 2);
        let mut log = Log::open(Arc::new(fs.clone())).unwrap();
        run(&mut log, &steps, &crashes);
        crashes.take(&fs, 1000, 4);
        for (n, state) in crashes.states().iter().enumerate() {
            if (n as u64 ^ pick).is_multiple_of(8) {
                for state in check_reopening(state, &log.written).iter().step_by(7) {
                    check_reopening(state, &log.written);
                }
            } else {
                check(state, &log.written);
            }
        }
    }
}

#[test]
fn what_a_failed_sync_left_in_memory_is_made_durable_by_reopening() {
    for rotate in [false, true] {
        for nth in 0..7 {
            let mem = new_fs();
            let faults = FaultFs::new(Arc::new(mem.clone()));
            let mut log = Log::open(Arc::new(faults.clone())).unwrap();
            let rule = FaultRule::new(FaultOp::SyncData, FaultError::EIO)
                .nth(nth)
                .effect(FaultEffect::SyncFailsAndDropsPages);
            faults.inject(rule);
            let mut durable = 0;
            for n in 0..20 {
                let rotated = !rotate || n % 4 != 2 || log.rotate(SEGMENT).is_ok();
                if !rotated || log.try_put(1, 300).is_err() {
                    break;
                }
                if n % 3 == 0 {
                    if log.sync().is_err() {
                        break;
                    }
                    durable = log.written.len();
                }
            }
            assert_eq!(faults.injected(), 1);

            // The database is reopened by the same process, and goes on.
            let all = log.written;
            let mut log = match Log::open(Arc::new(faults.clone())) {
                Ok(log) => log,
                Err(_) => Log::open(Arc::new(faults)).unwrap(),
            };
            assert!((durable..=all.len()).contains(&log.written.len()));
            assert_eq!(log.written, all[..log.written.len()]);
            log.put(1, 300);
            log.sync().unwrap();
            let state = State {
                fs: mem.crash_clone(CrashMode::Strict, 0),
                at_least: log.written.len(),
                durable: log.written.len(),
            };
            check_reopening(&state, &log.written);
        }
    }
}

#[test]
fn any_failure_while_reopening_leaves_the_log_intact() {
    let fs = new_fs();
    let mut log = Log::open(Arc::new(fs.clone())).unwrap();
    for n in 0..30 {
        log.put(1, 300);
        if n == 10 {
            log.sync().unwrap();
        }
    }
    for op in FaultOp::ALL {
        for effect in [
            FaultEffect::Fail,
            FaultEffect::ShortWriteThenFail,
            FaultEffect::SyncFailsAndDropsPages,
            FaultEffect::FailAfterDoing,
        ] {
            for nth in 0.. {
                let mem = fs.crash_clone(CrashMode::KeepAll, 0);
                let faults = FaultFs::new(Arc::new(mem.clone()));
                let rule = FaultRule::new(op, FaultError::EIO).nth(nth).effect(effect);
                faults.inject(rule);
                let opened = Log::open(Arc::new(faults.clone()));
                if faults.injected() == 0 {
                    assert_eq!(opened.unwrap().written, log.written);
                    break;
                }
                drop(opened);
                let state = State { fs: mem, at_least: log.written.len(), durable: 11 };
                check_reopening(&state, &log.written);
            }
        }
    }
}

#[test]
fn a_crash_while_recycling_is_harmless() {
    let fs = new_fs();
    let crashes = Crashes::default();
    let mut log = Log::open(Arc::new(fs.clone())).unwrap();
    for _ in 0..30 {
        log.put(1, 300);
    }
    log.sync().unwrap();
    crashes.acknowledge(&log);
    let oldest = recover_all(&fs).unwrap().0.segments[0];
    // As if the floor were raised to the second segment: count from there.
    let gone = log.written.partition_point(|(seqno, _)| *seqno <= oldest.last_seqno.get());
    let floor = recover_all(&fs).unwrap().0.segments[1].id;
    crashes.watch(&fs, 4);
    let id = FileId(log.next_file);
    log.next_file += 1;
    let prepared = recycle_segment(&fs, dir(), oldest.id, id, SEGMENT).unwrap().unwrap();
    let next = SeqNo::new(log.next_seqno);
    let durable = log.durable();
    log.writer.start_segment(prepared, next, durable).unwrap();
    run(&mut log, &[Step::Put(1, 100), Step::Sync, Step::Put(1, 101)], &crashes);
    crashes.take(&fs, 1000, 20);
    for state in crashes.states() {
        let mut source = source(&state.fs, Recovery::Strict);
        source.floor = floor;
        let (_, written) = recover_from(&source).unwrap();
        assert_eq!(written, log.written[gone..gone + written.len()]);
        assert!(gone + written.len() >= state.at_least);
    }
}
