//! The orchestrator: repetition by repetition, group by group, it has every engine do the same, each
//! in a process and a directory of its own, and writes down what they say as it comes.

use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use regex_lite::Regex;

use crate::cgroup::Cgroup;
use crate::engines::Name;
use crate::engines::Setup;
use crate::machine;
use crate::plan::Group;
use crate::plan::LARGER_MEMORY_BYTES;
use crate::plan::Plan;
use crate::plan::ROWS;
use crate::plan::Seconds;
use crate::plan::Set;
use crate::results::Record;
use crate::results::Results;
use crate::worker;
use crate::worker::Scratch;

/// In the order in which they are done.
const GROUPS: [Group; 6] = [
    Group::FillSeq,
    Group::FillBatch,
    Group::FillSync,
    Group::Update,
    Group::Loaded,
    Group::ReopenOpen,
];

/// What a run is asked for.
pub(crate) struct Asked {
    pub(crate) sets: Vec<Set>,
    pub(crate) rows: Regex,
    pub(crate) engines: Vec<Name>,
    pub(crate) seconds: Seconds,
    pub(crate) repetitions: u32,
    pub(crate) larger: bool,
    /// Where databases are made: on the disk that is measured.
    pub(crate) dir: PathBuf,
    pub(crate) out: PathBuf,
    /// Add to what the file holds.
    pub(crate) append: bool,
}

struct Run<'a> {
    asked: &'a Asked,
    results: Results,
    started: Instant,
}

pub(crate) fn run(asked: &Asked) -> Result<()> {
    let results = if asked.append { Results::read_or_new(&asked.out)? } else { Results::default() };
    let mut run = Run { asked, results, started: Instant::now() };
    run.results.runs.push(machine::describe());
    for set in &asked.sets {
        for repetition in 0..asked.repetitions {
            for group in GROUPS {
                run.group(set, repetition, group, None)?;
            }
        }
    }
    if asked.larger {
        run.larger()?;
    }
    run.results.write(&asked.out)
}

impl Run<'_> {
    /// The rows of a group that are wanted of a set.
    fn rows(&self, set: &Set, group: Group) -> Vec<String> {
        let of_group = ROWS.iter().filter(|(_, its)| *its == group).map(|(row, _)| *row);
        let wanted = of_group.filter(|row| self.asked.rows.is_match(row));
        wanted.filter(|row| set.has_row(row)).map(str::to_owned).collect()
    }

    fn group(
        &mut self,
        set: &Set,
        repetition: u32,
        group: Group,
        cgroup: Option<&Cgroup>,
    ) -> Result<()> {
        let rows = self.rows(set, group);
        if rows.is_empty() {
            return Ok(());
        }
        let mut engines = self.asked.engines.clone();
        // Nobody is always the first, or always after the same.
        engines.rotate_left(repetition as usize % self.asked.engines.len().max(1));
        for engine in engines {
            let mut plan = Plan {
                engine,
                set: set.clone(),
                setup: Setup::default(),
                group,
                rows: rows.clone(),
                seconds: self.asked.seconds,
                // Added ones count on, so that they differ.
                repetition: repetition + self.repetitions_before(set, &rows, engine, repetition),
                dir: self.asked.dir.join(engine.label()),
                cgroup: None,
            };
            if let Some(cgroup) = cgroup {
                plan.setup.memory_bytes = 256 << 20;
                plan.setup.larger_than_memory = true;
                plan.cgroup = Some(cgroup.dir().to_owned());
            }
            self.engine(&plan)?;
        }
        Ok(())
    }

    /// How many repetitions the file held before this run.
    fn repetitions_before(&self, set: &Set, rows: &[String], engine: Name, now: u32) -> u32 {
        let same = |record: &&Record| {
            record.set == set.name && record.engine == engine && rows.contains(&record.row)
        };
        let next = self.results.records.iter().filter(same).map(|record| record.repetition + 1);
        next.max().unwrap_or(0).saturating_sub(now)
    }

    fn engine(&mut self, plan: &Plan) -> Result<()> {
        let dir = plan.dir.clone();
        let _scratch = Scratch::new(&dir)?;
        let before = Instant::now();
        if plan.group == Group::ReopenOpen {
            let fill = Plan { group: Group::ReopenFill, ..plan.clone() };
            worker::spawn(&fill, |_| Ok(()))?;
        }
        let records = &mut self.results.records;
        let done = worker::spawn(plan, |told| {
            records.push(Record {
                set: plan.set.name.clone(),
                row: told.row,
                engine: plan.engine,
                repetition: plan.repetition,
                figures: told.figures,
            });
            Ok(())
        });
        if let Err(error) = done {
            // The others go on; the table has a hole.
            let what =
                format!("{}, {}, {:?}: {error:#}", plan.set.name, plan.engine.label(), plan.group);
            eprintln!("{what}");
            self.results.skipped.push(what);
        }
        eprintln!(
            "{:>5.0} s  {}, repetition {}: {:?} by {} in {:.1} s",
            self.started.elapsed().as_secs_f64(),
            plan.set.name,
            plan.repetition,
            plan.group,
            plan.engine.label(),
            before.elapsed().as_secs_f64(),
        );
        self.results.write(&self.asked.out)
    }

    /// The rows of more data than memory, if there can be a cgroup.
    fn larger(&mut self) -> Result<()> {
        let set = Set::larger_than_memory();
        if self.rows(&set, Group::Larger).is_empty() {
            return Ok(());
        }
        match Cgroup::create(LARGER_MEMORY_BYTES) {
            Ok(cgroup) => self.group(&set, 0, Group::Larger, Some(&cgroup)),
            Err(error) => {
                let what = format!("{}: {error:#}", set.name);
                eprintln!("skipped: {what}");
                self.results.skipped.push(what);
                Ok(())
            }
        }
    }
}

/// The directory `dir`, made if it is missing, as an absolute path.
pub(crate) fn scratch_root(dir: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(dir)?;
    dir.canonicalize().with_context(|| format!("no directory {}", dir.display()))
}
