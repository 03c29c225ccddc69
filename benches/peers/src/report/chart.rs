//! The pictures: how esker stands in each row, and how engines grow.

use std::path::Path;

use anyhow::Result;
use anyhow::anyhow;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;
use plotters::style::text_anchor::Pos;
use plotters::style::text_anchor::VPos;

use crate::bars::BARS;
use crate::bars::Figure;
use crate::engines::Name;
use crate::results::GrowthPoint;
use crate::results::Results;

const WIDTH: u32 = 900;
const ROW_HEIGHT: u32 = 20;
const MARGIN_TOP: u32 = 60;
const LABELS: u32 = 210;
const RATIO_LEAST: f64 = 0.1;
const RATIO_MOST: f64 = 20.0;
const BLUE: RGBColor = RGBColor(0x1f, 0x5f, 0xa8);
const ORANGE: RGBColor = RGBColor(0xd9, 0x77, 0x1f);
const GREEN: RGBColor = RGBColor(0x3a, 0x8f, 0x4a);
const GREY: RGBColor = RGBColor(0x77, 0x77, 0x77);
const PALE: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

/// One row of the picture.
struct Line {
    label: String,
    to_best: f64,
    to_lsm: Option<f64>,
}

/// Errors of the backend borrow what they are about.
fn drawing<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T> {
    result.map_err(|error| anyhow!("drawing: {error}"))
}

/// For each row a dot at the ratio to the best peer and one at that to the best LSM tree, on a
/// logarithmic scale with a line at 1.
pub(super) fn ratios(results: &Results, set: &str, path: &Path) -> Result<()> {
    let lines: Vec<Line> = BARS
        .iter()
        .filter(|bar| matches!(bar.figure, Figure::OpsPerSecond | Figure::Milliseconds))
        .filter_map(|bar| {
            let standing = bar.standing(results, set);
            let label = bar.row.to_owned();
            Some(Line { label, to_best: standing.to_best?, to_lsm: standing.to_lsm })
        })
        .collect();
    let height = MARGIN_TOP + ROW_HEIGHT * lines.len() as u32 + 40;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    drawing(area.fill(&WHITE))?;
    let title = format!("esker ÷ peers, {set}: right of 1 esker is faster");
    drawing(area.draw(&Text::new(title, (12, 10), ("sans-serif", 17))))?;
    legend(&area, (LABELS as i32, 36), &[(BLUE, "best peer"), (ORANGE, "best LSM tree")])?;
    for ratio in [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0] {
        let (x, end) = (place(ratio), (height - 34) as i32);
        let style = if (ratio - 1.0_f64).abs() < 1e-9 { BLACK } else { PALE };
        let points = vec![(x, MARGIN_TOP as i32 - 4), (x, end)];
        drawing(area.draw(&PathElement::new(points, style.stroke_width(1))))?;
        let text = anchored(12, HPos::Center);
        drawing(area.draw(&Text::new(ratio.to_string(), (x, end + 10), text)))?;
    }
    for (i, line) in lines.iter().enumerate() {
        let y = (MARGIN_TOP + ROW_HEIGHT * i as u32 + ROW_HEIGHT / 2) as i32;
        let text = anchored(13, HPos::Right);
        drawing(area.draw(&Text::new(line.label.clone(), (LABELS as i32 - 10, y), text)))?;
        if let Some(ratio) = line.to_lsm {
            drawing(area.draw(&Circle::new((place(ratio), y), 4, ORANGE.filled())))?;
        }
        drawing(area.draw(&Circle::new((place(line.to_best), y), 5, BLUE.filled())))?;
        let value = format!("{:.2}", line.to_best);
        let at = ((WIDTH - 12) as i32, y);
        drawing(area.draw(&Text::new(value, at, anchored(12, HPos::Right))))?;
    }
    drawing(area.present())
}

fn anchored(size: u32, horizontal: HPos) -> TextStyle<'static> {
    let style = TextStyle::from(("sans-serif", size).into_font());
    style.pos(Pos::new(horizontal, VPos::Center))
}

/// Where a ratio lies; those beyond the scale lie at its end.
fn place(ratio: f64) -> i32 {
    let span = f64::from(WIDTH - LABELS - 70);
    let part =
        (ratio.clamp(RATIO_LEAST, RATIO_MOST) / RATIO_LEAST).ln() / (RATIO_MOST / RATIO_LEAST).ln();
    LABELS as i32 + (span * part).round() as i32
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn legend(area: &Area<'_>, at: (i32, i32), entries: &[(RGBColor, &str)]) -> Result<()> {
    let (mut x, y) = at;
    for (color, label) in entries {
        drawing(area.draw(&Circle::new((x, y), 5, color.filled())))?;
        let text = anchored(13, HPos::Left);
        drawing(area.draw(&Text::new((*label).to_owned(), (x + 10, y), text)))?;
        x += 40 + 8 * label.len() as i32;
    }
    Ok(())
}

/// Random writes and random reads over the number of entries, side by side.
pub(super) fn growth(results: &Results, path: &Path) -> Result<()> {
    let area = SVGBackend::new(path, (WIDTH, 380)).into_drawing_area();
    drawing(area.fill(&WHITE))?;
    let (left, right) = area.split_horizontally(WIDTH / 2);
    panel(&left, results, "random writes, thousands per second", &|point| {
        point.writes.ops_per_second / 1e3
    })?;
    panel(&right, results, "random reads, thousands per second", &|point| {
        point.reads.ops_per_second / 1e3
    })?;
    drawing(area.present())
}

fn panel(
    area: &Area<'_>,
    results: &Results,
    title: &str,
    figure: &dyn Fn(&GrowthPoint) -> f64,
) -> Result<()> {
    let points = &results.growth;
    let sizes = || points.iter().map(|point| point.keys as f64 / 1e6);
    let (least, most) = (sizes().fold(f64::MAX, f64::min), sizes().fold(0.0, f64::max));
    let top = points.iter().map(figure).fold(0.0, f64::max) * 1.1;
    let mut builder = ChartBuilder::on(area);
    builder.caption(title, ("sans-serif", 15)).margin(10);
    builder.x_label_area_size(40).y_label_area_size(50);
    let mut chart =
        drawing(builder.build_cartesian_2d((least * 0.9..most * 1.1).log_scale(), 0.0..top))?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("million entries").light_line_style(WHITE).bold_line_style(PALE);
    drawing(mesh.x_label_formatter(&|size| format!("{size:.0}")).draw())?;
    for (engine, color) in
        [(Name::Esker, BLUE), (Name::Rocksdb, ORANGE), (Name::Fjall, GREEN), (Name::Lmdb, GREY)]
    {
        let of_engine = || points.iter().filter(move |point| point.engine == engine);
        let mut line: Vec<(f64, f64)> =
            of_engine().map(|point| (point.keys as f64 / 1e6, figure(point))).collect();
        if line.is_empty() {
            continue;
        }
        line.sort_by(|one, other| one.0.total_cmp(&other.0));
        let circles = line.iter().map(|point| Circle::new(*point, 3, color.filled()));
        drawing(chart.draw_series(circles))?;
        let series = drawing(chart.draw_series(LineSeries::new(line, color.stroke_width(2))))?;
        series.label(engine.label()).legend(move |(x, y)| {
            PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(2))
        });
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperRight).background_style(WHITE).border_style(PALE);
    drawing(labels.label_font(("sans-serif", 13)).draw())
}
