//! Calls that fail, alone or together with crashes.
//!
//! What was acknowledged stays. What failed has not happened, unless it turned the database
//! read-only: then it may be found after the next open, whole or not at all. A database answers
//! right or with an error, and only if a call failed. Once nothing fails any more, it opens.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use esker::Db;
use esker::fs::FaultEffect;
use esker::fs::FaultError;
use esker::fs::FaultFs;
use esker::fs::FaultOp;
use esker::fs::FaultRule;
use esker::fs::MemFs;

use crate::harness::choices::Choices;
use crate::harness::crashes::Plan;
use crate::harness::crashes::Wreck;
use crate::harness::crashes::arm;
use crate::harness::state::State;
use crate::harness::state::try_contents;
use crate::harness::workload::Workload;

/// All that a failing call of this kind may do besides.
pub(crate) fn effects(op: FaultOp) -> &'static [FaultEffect] {
    match op {
        FaultOp::Write => &[FaultEffect::Fail, FaultEffect::ShortWriteThenFail],
        FaultOp::SyncData => &[FaultEffect::Fail, FaultEffect::SyncFailsAndDropsPages],
        FaultOp::Rename | FaultOp::Create | FaultOp::SyncDir | FaultOp::Remove => {
            &[FaultEffect::Fail, FaultEffect::FailAfterDoing]
        }
        _ => &[FaultEffect::Fail],
    }
}

fn draw_rule(choices: &mut Choices) -> FaultRule {
    let op = match choices.below(4) {
        0 => choices.pick(&[FaultOp::Write, FaultOp::SyncData]),
        _ => choices.pick(&FaultOp::ALL),
    };
    let error = choices.pick(&[FaultError::EIO, FaultError::ENOSPC, FaultError::EMFILE]);
    let rule = FaultRule::new(op, error).nth(choices.below(12)).effect(choices.pick(effects(op)));
    let rule = match choices.below(8) {
        3 => rule.path_contains(".blob"),
        4 => rule.path_contains(".wal"),
        5 => rule.path_contains(".sst"),
        6 => rule.path_contains("MANIFEST"),
        7 => rule.path_contains("CURRENT"),
        _ => rule,
    };
    if choices.below(3) == 2 { rule.forever() } else { rule }
}

/// Steps from here on close the database and open it.
const REOPEN: u64 = 96;

struct Faulty {
    workload: Workload,
    faults: FaultFs,
    /// Calls that had failed when the database was opened.
    before: u64,
}

impl Faulty {
    fn new(choices: Choices) -> Faulty {
        let mut workload = Workload::new("input".to_owned(), choices);
        let faults = FaultFs::new(Arc::new(workload.fs.clone()));
        workload.seen_fs = Arc::new(faults.clone());
        Faulty { workload, faults, before: 0 }
    }

    fn move_to(&mut self, fs: MemFs) {
        self.faults = FaultFs::new(Arc::new(fs.clone()));
        self.workload.move_to(fs);
        self.workload.seen_fs = Arc::new(self.faults.clone());
    }

    fn fail(&self, error: &esker::Error) -> ! {
        panic!("{}: {error}", self.workload.trail)
    }

    /// Nothing fails from now on.
    fn mend(&mut self) {
        self.faults.clear();
        self.workload.wait();
    }

    /// Opens with all that fails. An error is fine if a call failed.
    fn try_open(&mut self) -> Option<Db> {
        self.workload.change_options();
        self.before = self.faults.injected();
        match self.workload.try_open() {
            Ok(db) => Some(db),
            Err(error) if self.faults.injected() > self.before => {
                self.workload.trail.add("cannot open", self.faults.injected());
                drop(error);
                None
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Everything that `db` holds. Reads fail only if a call fails meanwhile.
    fn contents(&mut self, db: &Db) -> State {
        let before = self.faults.injected();
        match try_contents(db) {
            Ok(found) => found,
            Err(error) if self.faults.injected() == before => self.fail(&error),
            Err(_) => {
                self.mend();
                try_contents(db).unwrap_or_else(|error| self.fail(&error))
            }
        }
    }

    /// Opens the database, which must be in a state from `low` to `high`. If a call that fails is
    /// in the way, mends it.
    fn open(&mut self, low: usize, high: usize) {
        let db = self.try_open().unwrap_or_else(|| {
            self.mend();
            self.workload.try_open().unwrap_or_else(|error| self.fail(&error))
        });
        self.arrive(db, low, high);
    }

    fn arrive(&mut self, db: Db, low: usize, high: usize) {
        let found = self.contents(&db);
        let step = self.workload.history.find(&found, low, high, &self.workload.trail);
        self.workload.settle_at(step);
        self.workload.db = Some(db);
    }

    fn step(&mut self, choice: u64) {
        if choice >= REOPEN {
            return self.reopen();
        }
        let read_only = self.workload.db().stats().read_only.is_some();
        let result = self.workload.try_step(choice);
        let trail = &self.workload.trail;
        match result {
            Ok(()) => {
                let writes = matches!(choice, 0..68 | 78..82);
                assert!(!read_only || !writes, "{trail}: a read-only database was written to");
            }
            Err(error) if self.faults.injected() == self.before => self.fail(&error),
            Err(_) => {}
        }
        let db = self.workload.db().clone();
        let found = self.contents(&db);
        let visible = self.workload.visible();
        self.workload.history.find(&found, visible, visible, &self.workload.trail);
    }

    fn reopen(&mut self) {
        if self.workload.let_all_go().is_err() {
            assert!(self.faults.injected() > self.before, "{}", self.workload.trail);
        }
        let low = self.workload.visible();
        if let Some(db) = self.workload.db.take() {
            match db.close() {
                Ok(()) => self.workload.durable(),
                Err(error) if self.faults.injected() == self.before => self.fail(&error),
                Err(_) => {}
            }
        }
        self.open(low, self.workload.progress.begun.load(Relaxed));
    }

    /// A step, a crash meanwhile, and a recovery in which calls may fail as well.
    fn crash(&mut self) {
        let plan = Plan::draw(&mut self.workload.choices);
        let progress = self.workload.progress.clone();
        let take = move |fs: &MemFs| Wreck::take(fs, plan.mode, plan.seed, &progress);
        let slot = arm(&self.workload.fs, plan, take.clone());
        let choice = self.workload.choices.below(100);
        if choice < REOPEN {
            self.step(choice);
        } else {
            // It may have decided what the crash leaves open.
            let history = self.workload.history.clone();
            self.reopen();
            self.workload.remember(history);
        }
        self.workload.trail.add("crash", plan.number());
        let mut wreck = slot.lock().take().unwrap_or_else(|| take(&self.workload.fs));
        // What failed without turning the database read-only had not even begun.
        wreck.high = wreck.high.min(self.workload.history.last());
        self.mend();
        self.workload.die();
        self.recover(wreck);
    }

    fn recover(&mut self, mut wreck: Wreck) {
        loop {
            self.move_to(wreck.fs.clone());
            for _ in 0..self.workload.choices.below(3) {
                self.faults.inject(draw_rule(&mut self.workload.choices));
            }
            if self.workload.choices.below(3) < 2 {
                return self.open(wreck.low, wreck.high);
            }
            let plan = Plan::draw(&mut self.workload.choices);
            let slot = arm(&self.workload.fs, plan, move |fs: &MemFs| {
                fs.crash_clone(plan.mode, plan.seed)
            });
            let db = self.try_open();
            self.workload.fs.on_event(None);
            let Some(left) = slot.lock().take() else {
                match db {
                    Some(db) => self.arrive(db, wreck.low, wreck.high),
                    None => self.open(wreck.low, wreck.high),
                }
                return;
            };
            self.workload.trail.add("crash of recovery", plan.number());
            drop(db);
            wreck = wreck.again_unseen(left, plan.mode, plan.seed);
        }
    }
}

/// Operations, calls that fail, crashes, and recoveries with calls that fail.
pub(crate) fn fault_injection(data: &[u8]) {
    let mut faulty = Faulty::new(Choices::bytes(data));
    if faulty.workload.choices.below(4) == 3 {
        faulty.faults.inject(draw_rule(&mut faulty.workload.choices));
    }
    faulty.open(0, 0);
    while !faulty.workload.choices.over() {
        match faulty.workload.choices.below(16) {
            12 | 13 => faulty.faults.inject(draw_rule(&mut faulty.workload.choices)),
            14 => faulty.mend(),
            15 => faulty.crash(),
            _ => {
                let choice = faulty.workload.choices.below(100);
                faulty.step(choice);
            }
        }
    }
    faulty.mend();
    faulty.reopen();
    faulty.workload.finish();
}
