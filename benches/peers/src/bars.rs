//! Which ratio to the peers each row wants, and whether it is met.

use std::collections::BTreeMap;

use crate::engines::Name;
use crate::measure::Figures;
use crate::results::Results;
use crate::results::Spread;

/// What is compared of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    OpsPerSecond,
    Milliseconds,
    P999,
    Max,
    WorstSecond,
    WriteAmplification,
    DiskUnderLoad,
    DiskSettled,
    PeakMemory,
}

impl Figure {
    pub(crate) fn of(self, figures: &Figures) -> Option<f64> {
        match self {
            Figure::OpsPerSecond => Some(figures.ops_per_second),
            Figure::Milliseconds => Some(figures.seconds * 1e3),
            Figure::P999 => Some(figures.p999_us),
            Figure::Max => Some(figures.max_us),
            Figure::WorstSecond => figures.worst_over_median_second,
            Figure::WriteAmplification => figures.write_amplification,
            Figure::DiskUnderLoad => figures.disk_under_load,
            Figure::DiskSettled => figures.disk_settled,
            Figure::PeakMemory => figures.peak_anonymous_mb,
        }
    }

    fn more_is_better(self) -> bool {
        matches!(self, Figure::OpsPerSecond | Figure::WorstSecond)
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Figure::OpsPerSecond => "k/s",
            Figure::Milliseconds => "ms",
            Figure::P999 => "p99.9, µs",
            Figure::Max => "max, µs",
            Figure::WorstSecond => "worst ÷ median second",
            Figure::WriteAmplification => "bytes written per byte",
            Figure::DiskUnderLoad => "disk per live byte, under load",
            Figure::DiskSettled => "disk per live byte, settled",
            Figure::PeakMemory => "peak memory, MB",
        }
    }
}

/// What a row wants. Ratios are such that more is better, whatever the figure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bar {
    pub(crate) row: &'static str,
    pub(crate) figure: Figure,
    to_best: Option<f64>,
    to_lsm: Option<f64>,
    to_rocksdb: Option<f64>,
    /// Of the figure itself, and not of a ratio.
    least: Option<f64>,
}

const fn bar(row: &'static str, figure: Figure) -> Bar {
    Bar { row, figure, to_best: None, to_lsm: None, to_rocksdb: None, least: None }
}

const fn rate(row: &'static str, to_best: f64) -> Bar {
    Bar { to_best: Some(to_best), ..bar(row, Figure::OpsPerSecond) }
}

const fn read(row: &'static str, to_lsm: f64) -> Bar {
    Bar { to_lsm: Some(to_lsm), ..rate(row, 1.0) }
}

const fn against_lsm(row: &'static str, to_lsm: f64) -> Bar {
    Bar { to_lsm: Some(to_lsm), ..bar(row, Figure::OpsPerSecond) }
}

const fn against_rocksdb(row: &'static str, figure: Figure) -> Bar {
    Bar { to_rocksdb: Some(1.0), ..bar(row, figure) }
}

/// In the order of the tables. A row without a bar is there to be seen.
pub(crate) const BARS: [Bar; 46] = [
    rate("fillseq", 2.0),
    rate("fillrandom", 2.0),
    rate("fillbatch", 1.5),
    rate("fillsync, 1 thread", 1.3),
    bar("fillsync, 2 threads", Figure::OpsPerSecond),
    bar("fillsync, 4 threads", Figure::OpsPerSecond),
    rate("fillsync, 8 threads", 2.0),
    rate("overwrite", 2.0),
    bar("overwrite, 2 threads", Figure::OpsPerSecond),
    rate("sustained overwrite", 2.0),
    rate("deleterandom", 2.0),
    read("readrandom", 2.5),
    read("readrandom, 2 threads", 2.5),
    rate("readmissing", 2.0),
    read("readhot", 2.5),
    read("multi-get", 2.5),
    read("seekrandom, 10 next", 3.0),
    read("seekrandom, 100 next", 3.0),
    read("readseq", 3.0),
    read("readreverse", 3.0),
    against_lsm("readwhilewriting, reads", 2.5),
    against_lsm("readwhilewriting, writes", 1.5),
    rate("YCSB A", 2.0),
    read("YCSB B", 2.5),
    read("YCSB C", 2.5),
    rate("YCSB D", 1.5),
    read("YCSB E", 3.0),
    rate("YCSB F", 2.0),
    Bar { to_rocksdb: Some(4.0), ..bar("reopen after a kill", Figure::Milliseconds) },
    rate("larger: readrandom", 1.0),
    rate("larger: scans of 100", 1.0),
    rate("larger: overwrite", 1.0),
    Bar { to_best: Some(1.0), ..bar("sustained overwrite", Figure::P999) },
    Bar { to_best: Some(1.0), ..bar("sustained overwrite", Figure::Max) },
    Bar { to_best: Some(1.0), least: Some(0.8), ..bar("sustained overwrite", Figure::WorstSecond) },
    against_rocksdb("fillrandom", Figure::WriteAmplification),
    against_rocksdb("overwrite", Figure::WriteAmplification),
    against_rocksdb("sustained overwrite", Figure::WriteAmplification),
    against_rocksdb("fillrandom", Figure::DiskSettled),
    against_rocksdb("sustained overwrite", Figure::DiskSettled),
    against_rocksdb("fillrandom", Figure::DiskUnderLoad),
    against_rocksdb("sustained overwrite", Figure::DiskUnderLoad),
    against_rocksdb("fillrandom", Figure::PeakMemory),
    against_rocksdb("sustained overwrite", Figure::PeakMemory),
    against_rocksdb("readrandom", Figure::PeakMemory),
    against_rocksdb("readseq", Figure::PeakMemory),
];

/// How esker stands in a row.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) values: BTreeMap<Name, Spread>,
    pub(crate) best_peer: Option<Name>,
    pub(crate) to_best: Option<f64>,
    pub(crate) to_lsm: Option<f64>,
    pub(crate) to_rocksdb: Option<f64>,
    /// None where nothing is wanted, or something is missing that it takes to tell.
    pub(crate) met: Option<bool>,
}

impl Bar {
    /// Does this engine count as a peer in this row?
    pub(crate) fn counts(&self, engine: Name) -> bool {
        engine.really_syncs() || !self.row.starts_with("fillsync")
    }

    /// Is it RocksDB that it is measured by?
    pub(crate) fn wants_rocksdb(&self) -> bool {
        self.to_rocksdb.is_some()
    }

    /// What is wanted, in words.
    pub(crate) fn wanted(&self) -> String {
        let parts = [
            self.to_best.map(|ratio| format!("{ratio:.1}")),
            self.to_lsm.map(|ratio| format!("LSM {ratio:.1}")),
            self.to_rocksdb.map(|ratio| format!("rocksdb {ratio:.1}")),
            self.least.map(|least| format!("≥ {least}")),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn standing(&self, results: &Results, set: &str) -> Standing {
        let values = results.values(set, self.row, |figures| self.figure.of(figures));
        self.judge(values)
    }

    fn judge(&self, values: BTreeMap<Name, Spread>) -> Standing {
        let esker = values.get(&Name::Esker).map(|spread| spread.median);
        let ratio = |theirs: f64| {
            let (ours, theirs) =
                if self.figure.more_is_better() { (esker?, theirs) } else { (theirs, esker?) };
            (theirs > 0.0).then(|| ours / theirs)
        };
        // The hardest peer is the one with the least ratio.
        let hardest = |lsm_only: bool| {
            values
                .iter()
                .filter(|(engine, _)| **engine != Name::Esker && self.counts(**engine))
                .filter(|(engine, _)| engine.is_lsm() || !lsm_only)
                .filter_map(|(engine, spread)| Some((*engine, ratio(spread.median)?)))
                .min_by(|one, other| one.1.total_cmp(&other.1))
        };
        let (best, lsm) = (hardest(false), hardest(true));
        let to_rocksdb = values.get(&Name::Rocksdb).and_then(|spread| ratio(spread.median));
        let checks = [
            (self.to_best, best.map(|(_, ratio)| ratio)),
            (self.to_lsm, lsm.map(|(_, ratio)| ratio)),
            (self.to_rocksdb, to_rocksdb),
            (self.least, esker),
        ];
        let wanted = checks.into_iter().filter_map(|(wanted, is)| Some((wanted?, is)));
        let met = wanted.map(|(wanted, is)| is.map(|is| is >= wanted)).collect::<Option<Vec<_>>>();
        Standing {
            values,
            best_peer: best.map(|(engine, _)| engine),
            to_best: best.map(|(_, ratio)| ratio),
            to_lsm: lsm.map(|(_, ratio)| ratio),
            to_rocksdb,
            met: met.filter(|met| !met.is_empty()).map(|met| met.iter().all(|met| *met)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(medians: &[(Name, f64)]) -> BTreeMap<Name, Spread> {
        let spread = |median| Spread { median, least: median, most: median, disturbed: false };
        medians.iter().map(|(name, median)| (*name, spread(*median))).collect()
    }

    #[test]
    fn rates_are_compared_with_the_fastest() {
        let bar = read("readrandom", 2.5);
        let standing = bar.judge(values(&[
            (Name::Esker, 900.0),
            (Name::Rocksdb, 300.0),
            (Name::Fjall, 450.0),
            (Name::Lmdb, 860.0),
        ]));
        assert_eq!(standing.best_peer, Some(Name::Lmdb));
        assert!((standing.to_best.unwrap() - 900.0 / 860.0).abs() < 1e-9);
        assert!((standing.to_lsm.unwrap() - 2.0).abs() < 1e-9);
        assert_eq!(standing.met, Some(false));
    }

    #[test]
    fn where_less_is_better_the_ratio_is_turned_round() {
        let bar = Bar { to_rocksdb: Some(4.0), ..bar("reopen after a kill", Figure::Milliseconds) };
        let standing =
            bar.judge(values(&[(Name::Esker, 400.0), (Name::Rocksdb, 1_800.0), (Name::Lmdb, 0.2)]));
        assert!((standing.to_rocksdb.unwrap() - 4.5).abs() < 1e-9);
        assert_eq!(standing.best_peer, Some(Name::Lmdb));
        assert_eq!(standing.met, Some(true));
    }

    #[test]
    fn who_does_not_really_sync_does_not_count_where_that_is_the_point() {
        let medians = [(Name::Esker, 6.0), (Name::Sled, 11.0), (Name::Fjall, 4.0)];
        let standing = rate("fillsync, 1 thread", 1.3).judge(values(&medians));
        assert_eq!((standing.best_peer, standing.met), (Some(Name::Fjall), Some(true)));
        let standing = rate("fillseq", 1.3).judge(values(&medians));
        assert_eq!((standing.best_peer, standing.met), (Some(Name::Sled), Some(false)));
    }

    #[test]
    fn nothing_is_told_without_peers() {
        let standing = rate("fillseq", 2.0).judge(values(&[(Name::Esker, 1.0)]));
        assert!(standing.met.is_none() && standing.to_best.is_none());
        let unbarred = bar("fillsync, 4 threads", Figure::OpsPerSecond);
        let standing = unbarred.judge(values(&[(Name::Esker, 1.0), (Name::Fjall, 1.0)]));
        assert!(standing.met.is_none() && standing.to_best.is_some());
    }

    #[test]
    fn every_row_has_a_line() {
        for (row, _) in crate::plan::ROWS {
            assert!(BARS.iter().any(|bar| bar.row == row), "{row}");
        }
    }
}
