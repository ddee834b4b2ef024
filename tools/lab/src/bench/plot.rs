// SPDX-License-Identifier: GPL-2.0

//! The bench's result as plots: throughput over size, how long round trips take, and what idle connections cost those that
//! are used.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use guest::bench::PERCENTILES;
use plotters::{
    coord::ranged1d::{AsRangedCoord, ValueFormatter},
    prelude::*,
};

use super::{
    drivers::{share, way, COPY, HOSTS, IDLE_CONNECTIONS, SIZES},
    table::Table,
};
use crate::session::Side;

const GREY: RGBColor = RGBColor(110, 110, 110);
const BLUE: RGBColor = RGBColor(20, 90, 170);
const RED: RGBColor = RGBColor(190, 50, 30);
/// What is compared, with its name and colour in the plots.
const DRIVERS: [(&str, &str, RGBColor); 2] = [("c", "C driver", GREY), ("rvsock", "rvsock", BLUE)];

struct Line {
    name: String,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Draws what the table has, and returns the files.
pub fn draw(table: &Table, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let hosts = HOSTS.iter().map(|(name, _)| format!("{name}: "));
    for host in std::iter::once(String::new()).chain(hosts) {
        let at = |name: &str| {
            let host = host.trim_end_matches(": ");
            folder.join(match host {
                "" => format!("vhost-{name}.svg"),
                host => format!("{host}-{name}.svg"),
            })
        };
        let on = match host.trim_end_matches(": ") {
            "" => "vhost-vsock",
            host => host,
        };
        for client in [Side::Guest, Side::Host] {
            let lines = throughput(table, &host, client);
            let file = at(&way(client).replace(' ', "-"));
            let title = format!("{on}: throughput, {}", way(client));
            if plot_throughput(&file, &title, &lines)? {
                files.push(file);
            }
        }
        for (what, name) in [
            ("round trip from the guest, 64 B", "round-trip-from-guest"),
            ("round trip from the host, 64 B", "round-trip-from-host"),
            (
                "round trip beside 4 streams, from the guest",
                "beside-bulk-from-guest",
            ),
            (
                "round trip beside 4 streams, from the host",
                "beside-bulk-from-host",
            ),
        ] {
            let lines = latency(table, &format!("{host}{what}"));
            let file = at(name);
            if plot_latency(&file, &format!("{on}: {what}"), &lines)? {
                files.push(file);
            }
        }
        let lines = beside_idle(table, &host);
        let file = at("idle-connections");
        if plot_idle(
            &file,
            &format!("{on}: a round trip beside idle connections"),
            &lines,
        )? {
            files.push(file);
        }
    }
    Ok(files)
}

/// A line for each driver, of the points that `of` says for it.
fn lines(of: impl Fn(&str) -> Vec<(f64, f64)>) -> Vec<Line> {
    let lines = DRIVERS.iter().map(|(driver, name, color)| Line {
        name: (*name).into(),
        color: *color,
        points: of(driver),
    });
    lines.filter(|line| !line.points.is_empty()).collect()
}

fn throughput(table: &Table, host: &str, client: Side) -> Vec<Line> {
    let mut lines = lines(|driver| {
        let points = SIZES.iter().filter_map(|(size, name)| {
            let cell = format!("{host}throughput, {}, {name}", way(client));
            Some((*size as f64, table.median_of(&cell, "MB/s", driver)?))
        });
        points.collect()
    });
    if lines.is_empty() {
        return lines;
    }
    // What the way allows that ends where the reader's copy would begin; and what a copy alone allows.
    let dropped = format!("{host}messages, {}, 64 KiB, dropped", way(client));
    for (cell, name) in [
        (format!("{host}{COPY}"), "a copy in the guest"),
        (dropped, "messages of 64 KiB that are dropped"),
    ] {
        if let Some(rate) = table.median_of(&cell, "MB/s", "rvsock") {
            let ends = [SIZES.first(), SIZES.last()];
            lines.push(Line {
                name: name.into(),
                color: RED,
                points: ends
                    .into_iter()
                    .flatten()
                    .map(|(size, _)| (*size as f64, rate))
                    .collect(),
            });
        }
    }
    lines
}

fn latency(table: &Table, cell: &str) -> Vec<Line> {
    lines(|driver| {
        let points = PERCENTILES.iter().filter_map(|percent| {
            let time = table.median_of(cell, &share(*percent), driver)?;
            Some((time, f64::from(*percent)))
        });
        points.collect()
    })
}

fn beside_idle(table: &Table, host: &str) -> Vec<Line> {
    lines(|driver| {
        let points = IDLE_CONNECTIONS.iter().filter_map(|(count, name)| {
            let cell = format!("{host}round trip beside {name} idle connections, from the guest");
            Some((*count as f64, table.median_of(&cell, &share(50), driver)?))
        });
        points.collect()
    })
}

/// The range of all values that `of` picks, and some room around it; none if there are no values.
fn range(lines: &[Line], of: fn(&(f64, f64)) -> f64) -> Option<Range<f64>> {
    let values = || lines.iter().flat_map(|line| line.points.iter().map(of));
    let (low, high) = (
        values().fold(f64::MAX, f64::min),
        values().fold(0.0, f64::max),
    );
    (low > 0.0 && low <= high).then(|| low / 1.3..high * 1.3)
}

fn plot_throughput(file: &Path, title: &str, lines: &[Line]) -> Result<bool> {
    let (Some(x), Some(y)) = (range(lines, |p| p.0), range(lines, |p| p.1)) else {
        return Ok(false);
    };
    let (x, y) = (x.log_scale(), y.log_scale());
    plot(file, title, ["bytes of a write", "MB/s"], x, y, lines)
}

fn plot_latency(file: &Path, title: &str, lines: &[Line]) -> Result<bool> {
    let Some(x) = range(lines, |p| p.0) else {
        return Ok(false);
    };
    let names = ["microseconds", "percent that take no longer"];
    plot(file, title, names, x.log_scale(), 0.0..100.0, lines)
}

fn plot_idle(file: &Path, title: &str, lines: &[Line]) -> Result<bool> {
    let (Some(x), Some(y)) = (range(lines, |p| p.0), range(lines, |p| p.1)) else {
        return Ok(false);
    };
    let names = ["idle connections", "microseconds, median"];
    plot(file, title, names, x.log_scale(), 0.0..y.end, lines)
}

/// Draws lines into a file; says so, as its callers may have none to draw.
fn plot<X, Y>(
    file: &Path,
    title: &str,
    [x_name, y_name]: [&str; 2],
    x: X,
    y: Y,
    lines: &[Line],
) -> Result<bool>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut text = String::from("<!-- SPDX-License-Identifier: GPL-2.0 -->\n");
    let root = SVGBackend::with_string(&mut text, (720, 440)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(68)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .x_desc(x_name)
        .y_desc(y_name)
        .light_line_style(WHITE)
        .draw()?;
    for line in lines {
        let style = line.color.stroke_width(2);
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), style).point_size(3))?
            .label(line.name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    // They write into the text.
    drop(chart);
    drop(root);
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Event;

    #[test]
    fn a_plot_is_drawn_of_what_there_is() {
        let mut table = Table::new([("c", "C driver"), ("rvsock", "rvsock")]);
        let folder = std::env::temp_dir().join(format!("rvsock-plots-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        assert!(draw(&table, &folder).unwrap().is_empty());
        for (driver, rate) in [("c", 1.0), ("rvsock", 2.0)] {
            for (size, name) in SIZES {
                table.take(
                    &Event::Measure {
                        driver: driver.into(),
                        round: 1,
                        cell: format!("throughput, guest to host, {name}"),
                        values: [("MB/s".into(), rate * *size as f64)].into(),
                    },
                    "",
                );
            }
        }
        let files = draw(&table, &folder).unwrap();
        let text = std::fs::read_to_string(&files[0]).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(files.len(), 1);
        assert!(text.starts_with("<!-- SPDX"));
        assert!(text.contains("guest to host") && text.contains("C driver"));
        let points = text.matches("<circle").count();
        assert_eq!(points, 2 * SIZES.len(), "a point for each value");
    }
}
