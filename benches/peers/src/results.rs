//! The results file: every figure of every repetition, and what it was measured on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use anyhow::Result;
use serde::Deserialize;
use serde::Serialize;

use crate::engines::Name;
use crate::measure::Figures;

/// One row of one engine in one repetition.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) set: String,
    pub(crate) row: String,
    pub(crate) engine: Name,
    pub(crate) repetition: u32,
    pub(crate) figures: Figures,
}

/// A point of the growth curve.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GrowthPoint {
    pub(crate) engine: Name,
    pub(crate) keys: u64,
    pub(crate) writes: Figures,
    pub(crate) reads: Figures,
}

/// What a program costs to build that uses an engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BuildCost {
    pub(crate) engine: Name,
    pub(crate) seconds: f64,
    pub(crate) stripped_bytes: u64,
    pub(crate) unstripped_bytes: u64,
}

/// All that is in the file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    /// When, on what, and with which versions: one line for each run that added something.
    pub(crate) runs: Vec<String>,
    pub(crate) records: Vec<Record>,
    #[serde(default)]
    pub(crate) growth: Vec<GrowthPoint>,
    #[serde(default)]
    pub(crate) build_costs: Vec<BuildCost>,
    /// What could not be measured, and why.
    #[serde(default)]
    pub(crate) skipped: Vec<String>,
}

impl Results {
    pub(crate) fn read(path: &Path) -> Result<Results> {
        let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("understanding {}", path.display()))
    }

    /// What the file holds, or nothing yet.
    pub(crate) fn read_or_new(path: &Path) -> Result<Results> {
        if path.exists() { Results::read(path) } else { Ok(Results::default()) }
    }

    /// Replaces the file, so that it is whole at any time.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let fresh = path.with_extension("json.tmp");
        fs::write(&fresh, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&fresh, path).with_context(|| format!("writing {}", path.display()))
    }

    pub(crate) fn sets(&self) -> Vec<String> {
        let mut sets = Vec::new();
        for record in &self.records {
            if !sets.contains(&record.set) {
                sets.push(record.set.clone());
            }
        }
        sets
    }

    pub(crate) fn engines(&self) -> Vec<Name> {
        let present = |name: &Name| self.records.iter().any(|record| record.engine == *name);
        Name::ALL.into_iter().filter(present).collect()
    }

    /// The repetitions of a row by an engine: those that nothing disturbed, if there are any.
    pub(crate) fn repetitions(&self, set: &str, row: &str, engine: Name) -> Vec<&Figures> {
        let of_row = self
            .records
            .iter()
            .filter(|record| record.set == set && record.row == row && record.engine == engine);
        let all: Vec<&Figures> = of_row.map(|record| &record.figures).collect();
        let calm: Vec<&Figures> =
            all.iter().copied().filter(|figures| !figures.disturbed()).collect();
        if calm.is_empty() { all } else { calm }
    }

    /// What `figure` was in the repetitions of a row, by engine.
    pub(crate) fn values(
        &self,
        set: &str,
        row: &str,
        figure: impl Fn(&Figures) -> Option<f64>,
    ) -> BTreeMap<Name, Spread> {
        let spread = |engine| {
            let repetitions = self.repetitions(set, row, engine);
            let mut spread = Spread::of(repetitions.iter().copied().filter_map(&figure).collect())?;
            spread.disturbed = repetitions.iter().any(|figures| figures.disturbed());
            Some((engine, spread))
        };
        Name::ALL.into_iter().filter_map(spread).collect()
    }
}

/// The repetitions of one figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    /// Others were at work on the machine.
    pub(crate) disturbed: bool,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_unstable_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Spread { median, least, most, disturbed: false })
    }

    /// From least to most, in percent of the median.
    pub(crate) fn percent(self) -> f64 {
        if self.median == 0.0 { 0.0 } else { 100.0 * (self.most - self.least) / self.median }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disturbed_repetitions_are_left_out_if_there_are_others() {
        let mut results = Results::default();
        let values =
            |results: &Results| results.values("1 M", "fillseq", |f| Some(f.ops_per_second));
        let add = |results: &mut Results, ops_per_second, others_cores| {
            results.records.push(Record {
                set: "1 M".to_owned(),
                row: "fillseq".to_owned(),
                engine: Name::Esker,
                repetition: 0,
                figures: Figures { ops_per_second, others_cores, ..Figures::default() },
            });
        };
        add(&mut results, 10.0, 1.0);
        let spread = values(&results)[&Name::Esker];
        assert!(spread.disturbed && (spread.median - 10.0).abs() < 1e-9);
        add(&mut results, 30.0, 0.0);
        let spread = values(&results)[&Name::Esker];
        assert!(!spread.disturbed && (spread.median - 30.0).abs() < 1e-9);
    }

    #[test]
    fn medians_and_spreads() {
        let spread = Spread::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.0, least: 1.0, most: 3.0, disturbed: false });
        assert!((spread.percent() - 100.0).abs() < 1e-9);
        assert!((Spread::of(vec![1.0, 2.0]).unwrap().median - 1.5).abs() < 1e-9);
        assert!(Spread::of(Vec::new()).is_none());
    }
}
