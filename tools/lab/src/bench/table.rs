// SPDX-License-Identifier: GPL-2.0

//! The bench's result: medians, spread and ratios of two of a kind, as a table and as JSON.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::json;

use super::drivers::share;
use crate::events::Event;

/// Values by round; a round that was measured again counts once.
type Rounds = BTreeMap<u32, f64>;

pub struct Table {
    /// What is compared: its name in the measurements, and in the table's head.
    columns: [(&'static str, &'static str); 2],
    /// (cell, unit) in the order of arrival.
    order: Vec<(String, String)>,
    known: BTreeSet<(String, String)>,
    values: BTreeMap<(String, String, String), Rounds>,
}

/// What is better.
fn higher_is_better(unit: &str) -> bool {
    unit.starts_with("MB/s") || matches!(unit, "per second" | "least flow's share of even")
}

/// Of round trips, the table has two shares; the plots have all.
fn is_shown(unit: &str) -> bool {
    !unit.starts_with("us, p") || unit == share(50) || unit == share(99)
}

fn median(rounds: &Rounds) -> Option<f64> {
    let mut sorted: Vec<f64> = rounds.values().copied().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// Half the range, in percent of the median.
fn spread(rounds: &Rounds) -> f64 {
    let (low, high) = rounds
        .values()
        .fold((f64::MAX, f64::MIN), |(low, high), v| {
            (low.min(*v), high.max(*v))
        });
    match median(rounds) {
        Some(m) if m != 0.0 => ((high - low) / 2.0 / m * 100.0).abs(),
        _ => 0.0,
    }
}

impl Table {
    /// Of those measurements that are of one of the two.
    pub fn new(columns: [(&'static str, &'static str); 2]) -> Self {
        Self {
            columns,
            order: Vec::new(),
            known: BTreeSet::new(),
            values: BTreeMap::new(),
        }
    }

    /// Takes what was measured `on` something, by which the name of its cell begins.
    pub fn take(&mut self, event: &Event, on: &str) {
        let Event::Measure {
            driver,
            round,
            cell,
            values,
        } = event
        else {
            return;
        };
        if self.columns.iter().all(|(name, _)| name != driver) {
            return;
        }
        let cell = format!("{on}{cell}");
        for (unit, value) in values {
            let key = (cell.clone(), unit.clone());
            if self.known.insert(key.clone()) {
                self.order.push(key);
            }
            self.values
                .entry((cell.clone(), unit.clone(), driver.clone()))
                .or_default()
                .insert(*round, *value);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The median of what was measured of one of the two.
    pub fn median_of(&self, cell: &str, unit: &str, driver: &str) -> Option<f64> {
        median(
            self.values
                .get(&(cell.to_owned(), unit.to_owned(), driver.to_owned()))?,
        )
    }

    fn pair(&self, cell: &str, unit: &str) -> Option<(&Rounds, &Rounds)> {
        let of = |driver: &str| {
            self.values
                .get(&(cell.to_owned(), unit.to_owned(), driver.to_owned()))
        };
        let [(first, _), (second, _)] = self.columns;
        Some((of(first)?, of(second)?))
    }

    pub fn print(&self) {
        let [(_, first), (_, second)] = self.columns;
        println!(
            "{:<46} {:<27} {first:>18} {second:>18} {:>7}",
            "what", "unit", "ratio"
        );
        for (cell, unit) in self.order.iter().filter(|(_, unit)| is_shown(unit)) {
            let Some((c, ours)) = self.pair(cell, unit) else {
                continue;
            };
            let (Some(a), Some(b)) = (median(c), median(ours)) else {
                continue;
            };
            let ratio = if a == 0.0 {
                "-".into()
            } else {
                format!("{:.2}", b / a)
            };
            let sign = match (higher_is_better(unit), b > a) {
                _ if a == 0.0 || (b / a - 1.0).abs() < 0.03 => "=",
                (true, true) | (false, false) => "+",
                _ => "-",
            };
            println!(
                "{cell:<46} {unit:<27} {:>10} ±{:>4.0} % {:>10} ±{:>4.0} % {ratio:>6} {sign}",
                number(a),
                spread(c),
                number(b),
                spread(ours)
            );
        }
        println!("medians ± half the range over the rounds; ratio is {second} / {first}; + better, - worse, = within 3 %");
    }

    fn cells(&self) -> impl Iterator<Item = serde_json::Value> + '_ {
        let [(first, _), (second, _)] = self.columns;
        self.order.iter().filter_map(move |(cell, unit)| {
            let (a, b) = self.pair(cell, unit)?;
            Some(json!({
                "cell": cell,
                "unit": unit,
                "higher_is_better": higher_is_better(unit),
                first: a.values().collect::<Vec<_>>(),
                second: b.values().collect::<Vec<_>>(),
                format!("median_{first}"): median(a),
                format!("median_{second}"): median(b),
            }))
        })
    }
}

/// Writes what several tables hold.
pub fn write(tables: &[Table], to: &Path, kernel: &str) -> Result<()> {
    let cells: Vec<_> = tables.iter().flat_map(Table::cells).collect();
    let text = serde_json::to_string_pretty(&json!({ "kernel": kernel, "cells": cells }))?;
    std::fs::write(to, text).with_context(|| format!("cannot write {}", to.display()))
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_spread() {
        let rounds: Rounds = [(1, 10.0), (2, 30.0), (3, 20.0)].into();
        assert_eq!(median(&rounds), Some(20.0));
        assert_eq!(spread(&rounds), 50.0);
        assert_eq!(median(&[(1, 1.0), (2, 2.0)].into()), Some(1.5));
        assert_eq!(median(&Rounds::new()), None);
    }
}
