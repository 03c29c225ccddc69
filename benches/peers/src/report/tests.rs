//! Tables of made-up results.

use super::*;
use crate::results::BuildCost;
use crate::results::GrowthPoint;
use crate::results::Record;

fn results() -> Results {
    let record = |row: &str, engine, ops_per_second| Record {
        set: "1 M".to_owned(),
        row: row.to_owned(),
        engine,
        repetition: 0,
        figures: Figures { ops_per_second, p50_us: 1.5, ..Figures::default() },
    };
    let figures = Figures { ops_per_second: 250_000.0, ..Figures::default() };
    let point = |keys| GrowthPoint {
        engine: Name::Esker,
        keys,
        writes: figures.clone(),
        reads: figures.clone(),
    };
    let cost = |engine, seconds| BuildCost {
        engine,
        seconds,
        stripped_bytes: 1_000_000,
        unstripped_bytes: 2_000_000,
    };
    Results {
        runs: vec!["a machine".to_owned()],
        records: vec![
            record("fillseq", Name::Esker, 1_500_000.0),
            record("fillseq", Name::Rocksdb, 677_000.0),
            record("fillseq", Name::Fjall, 691_000.0),
            record("fillseq", Name::Sled, 148_000.0),
            record("readrandom", Name::Esker, 700_000.0),
            record("readrandom", Name::Rocksdb, 316_000.0),
        ],
        growth: vec![point(1_000_000), point(5_000_000)],
        build_costs: vec![cost(Name::Esker, 10.0), cost(Name::Fjall, 12.0)],
        skipped: Vec::new(),
    }
}

#[test]
fn the_table_has_ratios_and_verdicts() {
    let text = tables(&results()).unwrap();
    let line = |begins: &str| text.lines().find(|line| line.starts_with(begins)).unwrap();
    assert_eq!(
        line("| fillseq"),
        "| fillseq | 1500 | 677 | **691** | (148) | 2.17 fjall | 2.17 | 2.0 | yes |"
    );
    assert_eq!(
        line("| readrandom |"),
        "| readrandom | 700 | **316** | – | – | 2.22 rocksdb | 2.22 | 1.0, LSM 2.5 | **no** |"
    );
    assert!(text.contains("Met: 1 of 2."));
    assert!(text.contains("| 5.00 M | esker | 250 | 250 |"));
    assert!(text.contains("build 1.20, binary 1.00"));
}

#[test]
fn numbers_have_three_digits() {
    assert_eq!(
        [0.123, 1.234, 12.34, 123.4, 1_234.0].map(number),
        ["0.12", "1.23", "12.3", "123", "1234"]
    );
}

#[test]
fn pictures_are_drawn() {
    let dir = std::env::temp_dir().join(format!("peers-pictures-{}", std::process::id()));
    report(&results(), Some(&dir)).unwrap();
    for name in ["ratios.svg", "growth.svg"] {
        let svg = std::fs::read_to_string(dir.join(name)).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("esker"), "{name}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
