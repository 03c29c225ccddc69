//! The tables, in Markdown.

mod chart;
#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use crate::bars::BARS;
use crate::bars::Bar;
use crate::bars::Figure;
use crate::bars::Standing;
use crate::engines::Name;
use crate::measure::Figures;
use crate::plan::ROWS;
use crate::results::Results;

/// Writes the tables to stdout, and the pictures to the directory `pictures`.
pub(crate) fn report(results: &Results, pictures: Option<&Path>) -> Result<()> {
    print!("{}", tables(results)?);
    if let Some(dir) = pictures {
        std::fs::create_dir_all(dir)?;
        for (place, set) in results.sets().iter().enumerate() {
            let name =
                if place == 0 { "ratios.svg".to_owned() } else { format!("ratios-{place}.svg") };
            chart::ratios(results, set, &dir.join(name))?;
        }
        if !results.growth.is_empty() {
            chart::growth(results, &dir.join("growth.svg"))?;
        }
    }
    Ok(())
}

fn tables(results: &Results) -> Result<String> {
    let mut out = String::new();
    for run in &results.runs {
        writeln!(out, "- {run}")?;
    }
    for set in results.sets() {
        writeln!(out, "\n## {set}\n")?;
        standings(results, &set, &mut out)?;
        writeln!(out, "\n### Latency in µs: p50 / p99 / p99.9 / max\n")?;
        let latency = |f: &Figures| {
            let parts = [f.p50_us, f.p99_us, f.p999_us, f.max_us].map(number);
            Some(parts.join(" / "))
        };
        details(results, &set, &latency, &mut out)?;
        writeln!(out, "\n### CPU per operation in µs · peak memory in MB (resident)\n")?;
        let resources = |f: &Figures| {
            let (anonymous, resident) = (number(f.peak_anonymous_mb?), number(f.peak_rss_mb?));
            Some(format!("{} · {anonymous} ({resident})", number(f.cpu_us_per_op?)))
        };
        details(results, &set, &resources, &mut out)?;
        writeln!(
            out,
            "\n### Bytes for each byte: written (handed over) · on disk, load · settled\n"
        )?;
        let bytes = |f: &Figures| {
            let or_dash = |bytes: Option<f64>| bytes.map_or("–".to_owned(), number);
            let (load, settled) = (or_dash(f.disk_under_load), or_dash(f.disk_settled));
            let (written, handed) = (or_dash(f.write_amplification), or_dash(f.handed_over));
            (f.write_amplification.or(f.handed_over))
                .map(|_| format!("{written} ({handed}) · {load} · {settled}"))
        };
        details(results, &set, &bytes, &mut out)?;
    }
    growth(results, &mut out)?;
    build_costs(results, &mut out)?;
    for skipped in &results.skipped {
        writeln!(out, "\nNot measured: {skipped}")?;
    }
    Ok(out)
}

/// The table of ratios.
fn standings(results: &Results, set: &str, out: &mut String) -> Result<()> {
    let engines = results.engines();
    let titles: Vec<&str> = engines.iter().map(|engine| engine.label()).collect();
    writeln!(out, "| row | {} | ÷ best | ÷ LSM | wanted | met |", titles.join(" | "))?;
    writeln!(out, "|---|{}---|---|---|---|", "---|".repeat(engines.len()))?;
    let mut met = (0, 0);
    for bar in BARS {
        let standing = bar.standing(results, set);
        if standing.values.is_empty() {
            continue;
        }
        met.0 += u32::from(standing.met == Some(true));
        met.1 += u32::from(standing.met.is_some());
        let cells: Vec<String> =
            engines.iter().map(|engine| cell(&bar, &standing, *engine)).collect();
        let name = match bar.figure {
            Figure::OpsPerSecond => bar.row.to_owned(),
            figure => format!("{}: {}", bar.row, figure.label()),
        };
        let to_best = match (bar.wants_rocksdb(), standing.to_rocksdb) {
            (true, Some(ratio)) => format!("{ratio:.2} rocksdb"),
            _ => standing.to_best.map_or("–".to_owned(), |ratio| {
                format!("{ratio:.2} {}", standing.best_peer.map_or("", Name::label))
            }),
        };
        let to_lsm = standing.to_lsm.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
        let verdict = standing.met.map_or("", |met| if met { "yes" } else { "**no**" });
        let wanted = bar.wanted();
        writeln!(
            out,
            "| {name} | {} | {to_best} | {to_lsm} | {wanted} | {verdict} |",
            cells.join(" | ")
        )?;
    }
    writeln!(
        out,
        "\nThousands of operations per second unless it says otherwise; medians, ± half of the \
         distance from the least to the most in percent. Engines in parentheses promise less in \
         that row; others were at work on the machine where a tilde stands. Ratios are such that more is better. Met: {} of {}.",
        met.0, met.1
    )?;
    Ok(())
}

fn cell(bar: &Bar, standing: &Standing, engine: Name) -> String {
    let Some(spread) = standing.values.get(&engine) else { return "–".to_owned() };
    let scale = if bar.figure == Figure::OpsPerSecond { 1e3 } else { 1.0 };
    let mut text = number(spread.median / scale);
    if spread.percent() >= 2.0 {
        text += &format!(" ±{:.0}%", spread.percent() / 2.0);
    }
    if spread.disturbed {
        text.insert(0, '~');
    }
    if standing.best_peer == Some(engine) {
        text = format!("**{text}**");
    }
    if promises_less(bar.row, engine) { format!("({text})") } else { text }
}

/// Is a returned write worth less than with the other engines in this row?
fn promises_less(row: &str, engine: Name) -> bool {
    let reads = ["read", "multi-get", "seek", "YCSB C", "larger: readrandom", "larger: scans"];
    if row.starts_with("fillsync") {
        !engine.really_syncs()
    } else if row.starts_with("readwhilewriting") {
        !engine.keeps_returned_writes()
    } else {
        !engine.keeps_returned_writes() && !reads.iter().any(|read| row.starts_with(read))
    }
}

/// A table of one text per row and engine, of the repetition in the middle by rate.
fn details(
    results: &Results,
    set: &str,
    text: &dyn Fn(&Figures) -> Option<String>,
    out: &mut String,
) -> Result<()> {
    let engines = results.engines();
    let titles: Vec<&str> = engines.iter().map(|engine| engine.label()).collect();
    writeln!(out, "| row | {} |", titles.join(" | "))?;
    writeln!(out, "|---|{}", "---|".repeat(engines.len()))?;
    for (row, _) in ROWS {
        let cells: Vec<Option<String>> =
            engines.iter().map(|engine| text(middle(results, set, row, *engine)?)).collect();
        if cells.iter().any(Option::is_some) {
            let cells: Vec<String> =
                cells.into_iter().map(|cell| cell.unwrap_or("–".to_owned())).collect();
            writeln!(out, "| {row} | {} |", cells.join(" | "))?;
        }
    }
    Ok(())
}

fn middle<'a>(results: &'a Results, set: &str, row: &str, engine: Name) -> Option<&'a Figures> {
    let mut figures = results.repetitions(set, row, engine);
    figures.sort_unstable_by(|one, other| one.ops_per_second.total_cmp(&other.ops_per_second));
    figures.get(figures.len() / 2).copied()
}

fn growth(results: &Results, out: &mut String) -> Result<()> {
    if results.growth.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n## Growth: entries of 100 bytes, thousands of operations per second\n")?;
    writeln!(out, "| entries | engine | random writes | random reads | read p50 / p99, µs |")?;
    writeln!(out, "|---|---|---|---|---|")?;
    let mut points: Vec<_> = results.growth.iter().collect();
    points.sort_by_key(|point| (point.keys, point.engine));
    for point in points {
        writeln!(
            out,
            "| {} M | {} | {} | {} | {} / {} |",
            number(point.keys as f64 / 1e6),
            point.engine.label(),
            number(point.writes.ops_per_second / 1e3),
            number(point.reads.ops_per_second / 1e3),
            number(point.reads.p50_us),
            number(point.reads.p99_us),
        )?;
    }
    Ok(())
}

fn build_costs(results: &Results, out: &mut String) -> Result<()> {
    if results.build_costs.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n## A program that uses it\n")?;
    writeln!(out, "| engine | cold release build, s | binary, MB | stripped, MB |")?;
    writeln!(out, "|---|---|---|---|")?;
    for cost in &results.build_costs {
        writeln!(
            out,
            "| {} | {} | {} | {} |",
            cost.engine.label(),
            number(cost.seconds),
            number(cost.unstripped_bytes as f64 / 1e6),
            number(cost.stripped_bytes as f64 / 1e6),
        )?;
    }
    let of = |engine| results.build_costs.iter().find(|cost| cost.engine == engine);
    if let (Some(esker), Some(fjall)) = (of(Name::Esker), of(Name::Fjall)) {
        writeln!(
            out,
            "\nTo fjall (wanted: 1.0): build {:.2}, binary {:.2}, stripped {:.2}.",
            fjall.seconds / esker.seconds,
            fjall.unstripped_bytes as f64 / esker.unstripped_bytes as f64,
            fjall.stripped_bytes as f64 / esker.stripped_bytes as f64,
        )?;
    }
    Ok(())
}

/// Three digits that matter.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        least if least >= 100.0 => 0,
        least if least >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}
