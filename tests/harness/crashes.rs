//! Crashes, and recoveries from them that crash again.
//!
//! The oracle is one sentence: after a crash the contents of all keyspaces together equal the model
//! after j steps, with (last durable acknowledgement) <= j <= (last step begun). So no write is
//! lost, torn, resurrected or reordered.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use esker::Durability;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::MemFs;
use parking_lot::Mutex;

use crate::harness::choices::Choices;
use crate::harness::choices::mix;
use crate::harness::state::Change;
use crate::harness::state::contents;
use crate::harness::workload::Progress;
use crate::harness::workload::Workload;

/// So many times in a row a recovery may crash.
const NESTED_MAX: usize = 4;

/// A crash that is to happen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// At which event from now.
    pub(crate) event: u64,
    pub(crate) mode: CrashMode,
    pub(crate) seed: u64,
}

impl Plan {
    pub(crate) fn draw(choices: &mut Choices) -> Plan {
        let (near, event) = (choices.below(4) < 3, choices.below(64));
        Plan {
            event: if near { event % 8 } else { event },
            mode: choices.pick(&CrashMode::ALL),
            seed: mix(choices.below(256)),
        }
    }

    pub(crate) fn number(self) -> u64 {
        self.event * 10 + self.mode as u64
    }
}

/// What a crash has left, and the states that it may hold.
pub(crate) struct Wreck {
    pub(crate) fs: MemFs,
    pub(crate) mode: CrashMode,
    pub(crate) seed: u64,
    pub(crate) low: usize,
    pub(crate) high: usize,
    /// `low`, if power is lost before this wreck is recovered.
    pub(crate) durable: usize,
}

impl Wreck {
    pub(crate) fn take(fs: &MemFs, mode: CrashMode, seed: u64, progress: &Progress) -> Wreck {
        Wreck {
            fs: fs.crash_clone(mode, seed),
            mode,
            seed,
            low: progress.low(mode),
            high: progress.begun.load(Relaxed),
            durable: progress.durable.load(Relaxed),
        }
    }

    /// What is left if the recovery of this wreck, which finds the state `found`, crashes in turn.
    /// The disk says the same as before, but for what was not durable even then.
    pub(crate) fn again(&self, fs: MemFs, mode: CrashMode, seed: u64, found: usize) -> Wreck {
        let within = Wreck { low: found, high: found, fs: self.fs.clone(), ..*self };
        within.again_unseen(fs, mode, seed)
    }

    /// As [`Wreck::again`], if nobody knows what the recovery would have found.
    pub(crate) fn again_unseen(&self, fs: MemFs, mode: CrashMode, seed: u64) -> Wreck {
        let kept = self.mode != CrashMode::KeepAll || mode == CrashMode::KeepAll;
        Wreck {
            fs,
            mode: if self.mode == CrashMode::KeepAll { mode } else { self.mode },
            seed,
            low: if kept { self.low } else { self.durable },
            high: self.high,
            durable: if self.mode == CrashMode::KeepAll { self.durable } else { self.low },
        }
    }
}

pub(crate) type Slot<T> = Arc<Mutex<Option<T>>>;

/// Has a crash taken by `take` when `plan` says.
pub(crate) fn arm<T: Send + 'static>(
    fs: &MemFs,
    plan: Plan,
    take: impl Fn(&MemFs) -> T + Send + Sync + 'static,
) -> Slot<T> {
    let slot: Slot<T> = Arc::default();
    let (taken, at) = (slot.clone(), fs.events() + plan.event);
    fs.on_event(Some(Arc::new(move |event, fs: &MemFs| {
        if event == at {
            *taken.lock() = Some(take(fs));
        }
    })));
    slot
}

impl Workload {
    /// Does `act`, and crashes meanwhile; or behind it, if it has too few events.
    fn crash_in(&mut self, plan: Plan, act: impl FnOnce(&mut Workload)) {
        let progress = self.progress.clone();
        let take = move |fs: &MemFs| Wreck::take(fs, plan.mode, plan.seed, &progress);
        let slot = arm(&self.fs, plan, take.clone());
        act(self);
        self.trail.add("crash", plan.number());
        let wreck = slot.lock().take();
        let wreck = wreck.unwrap_or_else(|| take(&self.fs));
        self.die();
        self.recover(wreck);
    }

    /// Opens what a crash has left, checks it, and goes on with it. If the choices say so, crashes
    /// again on the way.
    pub(crate) fn recover(&mut self, mut wreck: Wreck) {
        for depth in 0.. {
            self.move_to(wreck.fs.clone());
            let plan = (depth < NESTED_MAX && self.choices.below(4) == 3)
                .then(|| Plan::draw(&mut self.choices));
            let slot = plan.map(|plan| {
                arm(&self.fs, plan, move |fs: &MemFs| fs.crash_clone(plan.mode, plan.seed))
            });
            self.change_options();
            self.open();
            self.fs.on_event(None);
            let found = contents(self.db(), &self.trail);
            let step = self.history.find(&found, wreck.low, wreck.high, &self.trail);
            let again = slot.and_then(|slot| slot.lock().take());
            let (Some(plan), Some(fs)) = (plan, again) else {
                self.settle_at(step);
                return;
            };
            self.trail.add("crash of recovery", plan.number());
            self.db = None;
            wreck = wreck.again(fs, plan.mode, plan.seed, step);
        }
    }

    /// The database takes writes, keeps them, and is sound.
    pub(crate) fn finish(&mut self) {
        self.check_live();
        let mut batch = WriteBatch::new();
        batch.put(self.db(), "after", "all").durability(Durability::Sync);
        self.history.push(vec![Change::Put((0, b"after"[..].into()), b"all"[..].into())]);
        self.db().write(batch).unwrap_or_else(|error| panic!("{}: {error}", self.trail));
        let step = self.history.last();
        let fs = self.fs.crash_clone(CrashMode::Strict, 0);
        self.die();
        self.move_to(fs);
        self.open();
        self.history.find(&contents(self.db(), &self.trail), step, step, &self.trail);
        let verified = self.db().verify(&mut |_, _| {});
        verified.unwrap_or_else(|error| panic!("{}: {error}", self.trail));
    }
}

/// Operations, and crashes at any event of some of them and of the recovery from those. The
/// workload goes on with what is left.
pub(crate) fn crash_recovery(data: &[u8]) {
    let mut workload = Workload::new("input".to_owned(), Choices::bytes(data));
    if workload.choices.below(4) == 3 {
        let plan = Plan::draw(&mut workload.choices);
        workload.crash_in(plan, Workload::open);
    } else {
        workload.open();
    }
    while !workload.choices.over() {
        if workload.choices.below(8) == 7 {
            let plan = Plan::draw(&mut workload.choices);
            workload.crash_in(plan, Workload::step);
        } else {
            workload.step();
        }
    }
    workload.finish();
}
