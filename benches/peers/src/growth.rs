//! How throughput falls as the database grows: random puts on the way to each size, random reads
//! once it has settled there.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::engines;
use crate::engines::Name;
use crate::engines::Setup;
use crate::keys::Random;
use crate::keys::Shuffle;
use crate::keys::Values;
use crate::machine;
use crate::measure::Figures;
use crate::measure::Limit;
use crate::measure::Meter;
use crate::plan::Group;
use crate::plan::Plan;
use crate::plan::Seconds;
use crate::plan::Set;
use crate::results::GrowthPoint;
use crate::results::Results;
use crate::rows::tell;
use crate::worker;
use crate::worker::Scratch;

/// The sizes are told by the rows of the plan.
pub(crate) fn work(plan: &Plan) -> Result<()> {
    let engine = engines::open(plan.engine, &plan.dir.join("db"), &plan.setup)?;
    let values = Values::new(plan.set.value_bytes);
    let shuffle = Shuffle::new(plan.set.keys);
    let key = |place: u64| plan.set.shape.key(2 * shuffle.at(place));
    let mut random = Random::new(1);
    let mut size = 0;
    for row in &plan.rows {
        let next: u64 = row.parse()?;
        let writes = Meter::drive(Limit { ops: next - size, time: Duration::MAX }, |n| {
            engine.put(&key(size + n), values.of(n))?;
            Ok(1)
        })?;
        size = next;
        engine.settle()?;
        let mut reader = engine.reader()?;
        let time = Duration::from_secs_f64(plan.seconds.read);
        let mut read = |time| {
            Meter::drive(Limit { ops: u64::MAX, time }, |_| {
                anyhow::ensure!(reader.get(&key(random.below(size)))?, "a key is missing");
                Ok(1)
            })
        };
        // The first time to warm up.
        read(time)?;
        let reads = read(time)?;
        tell(&format!("{size} writes"), Figures::of(&writes))?;
        tell(&format!("{size} reads"), Figures::of(&reads))?;
    }
    Ok(())
}

/// Has each engine grow through `sizes`, and adds the points to the results.
pub(crate) fn run(sizes: &[u64], engines: &[Name], dir: &Path, out: &Path) -> Result<()> {
    let mut results = Results::read_or_new(out)?;
    results.runs.push(machine::describe());
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable();
    for &engine in engines {
        let plan = Plan {
            engine,
            set: Set::plain(sizes.last().copied().unwrap_or(0)),
            setup: Setup::default(),
            group: Group::Growth,
            rows: sizes.iter().map(u64::to_string).collect(),
            seconds: Seconds::FULL,
            repetition: 0,
            dir: dir.join(engine.label()),
            cgroup: None,
        };
        let _scratch = Scratch::new(&plan.dir)?;
        results.growth.retain(|point| point.engine != engine);
        let mut writes = Figures::default();
        worker::spawn(&plan, |told| {
            eprintln!("{}: {} {:.0}/s", engine.label(), told.row, told.figures.ops_per_second);
            match told.row.split_once(' ') {
                Some((keys, "reads")) => results.growth.push(GrowthPoint {
                    engine,
                    keys: keys.parse()?,
                    writes: writes.clone(),
                    reads: told.figures,
                }),
                _ => writes = told.figures,
            }
            Ok(())
        })?;
        results.write(out)?;
    }
    Ok(())
}
