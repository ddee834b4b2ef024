// SPDX-License-Identifier: GPL-2.0

//! T6: what is counted, traced and shown is documented, by its name, and nothing else is.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf, //
};

fn read(file: &str) -> String {
    let checkout: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", ".."].iter().collect();
    let path = checkout.join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The rows of the first table in the section `title` of a document, as the texts of their columns in the first line.
fn table(file: &str, title: &str) -> Vec<Vec<String>> {
    let text = read(file);
    let lines: Vec<_> = text.lines().collect();
    let is_title = |i: &usize| lines[*i] == title && lines[i + 1].starts_with("===");
    let begin = (0..lines.len() - 1).find(is_title);
    let begin = begin.unwrap_or_else(|| panic!("{file} has no section {title:?}"));
    let is_ruler = |line: &&str| line.starts_with("==") && line.contains(" =");
    let rulers: Vec<_> = (begin + 2..lines.len())
        .filter(|i| is_ruler(&lines[*i]))
        .collect();
    // With a head there are three rulers, which an empty line follows in either case.
    let end = rulers.iter().position(|i| lines[i + 1].is_empty()).unwrap();
    let (first, last) = (rulers[end - 1], rulers[end]);
    let columns: Vec<_> = (0..lines[first].len())
        .filter(|i| lines[first][..*i].is_empty() || lines[first][..*i].ends_with(' '))
        .filter(|i| lines[first][*i..].starts_with('='))
        .collect();
    let rows = lines[first + 1..last]
        .iter()
        .filter(|line| !line.starts_with(' '));
    rows.map(|row| {
        let ends = columns.iter().skip(1).copied().chain([row.len()]);
        let cells = columns.iter().zip(ends);
        cells
            .map(|(from, to)| {
                row.get(*from..to.min(row.len()))
                    .unwrap_or("")
                    .trim()
                    .to_owned()
            })
            .collect()
    })
    .collect()
}

fn column(rows: &[Vec<String>], number: usize) -> Vec<String> {
    rows.iter().map(|row| row[number].clone()).collect()
}

/// What stands between `before` and `after`, in each line that has both.
fn between(text: &str, before: &str, after: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| {
        let rest = line.split_once(before)?.1;
        Some(rest.split_once(after)?.0.to_owned())
    });
    lines.collect()
}

/// The counters: the name in the driver, and the one that is shown.
fn counters() -> Vec<(String, String)> {
    let text = read("rust/driver/stats.rs");
    let lines = text.lines().filter_map(|line| {
        let (name, shown) = line.trim().split_once(" = \"")?;
        Some((name.to_owned(), shown.strip_suffix("\",")?.to_owned()))
    });
    lines.collect()
}

#[test]
fn t6_each_counter_has_a_row() {
    let shown: Vec<_> = counters().into_iter().map(|(_, shown)| shown).collect();
    assert!(shown.len() > 10, "the counters were not found: {shown:?}");
    let rows = table("Documentation/admin-guide.rst", "Counters");
    assert_eq!(column(&rows, 0), shown);
    assert!(rows.iter().all(|row| !row[1].is_empty()));
}

#[test]
fn t6_each_value_of_a_connection_has_a_row() {
    let text = read("rust/driver/conn/show.rs");
    let text = text.split("#[cfg(CONFIG_KUNIT").next().unwrap();
    let mut names = Vec::new();
    for literal in text.split('"').skip(1).step_by(2) {
        let words = literal.split_whitespace();
        let values = words.filter_map(|word| word.split_once("={"));
        names.extend(values.map(|(name, _)| name.to_owned()));
    }
    assert!(names.len() > 10, "the values were not found: {names:?}");
    let rows = table("Documentation/tracing.rst", "Connections");
    assert_eq!(column(&rows, 0), names);
}

#[test]
fn t6_each_tracepoint_has_a_row() {
    let text = read("rust/ext/rvsock_trace.h");
    let mut names = between(&text, "DEFINE_EVENT(rvsock_pkt, ", ",");
    names.extend(between(&text, "TRACE_EVENT(", ","));
    let rows = table("Documentation/tracing.rst", "Tracepoints");
    assert_eq!(column(&rows, 0), names);
    assert_eq!(names.len(), 4);
}

#[test]
fn t6_each_reason_has_a_row_and_one_number_and_name() {
    let rows = table("Documentation/tracing.rst", "Why packets are dropped");
    let (numbers, reasons) = (column(&rows, 0), column(&rows, 1));
    assert!(!reasons.is_empty());
    let wanted: Vec<_> = (0..reasons.len()).map(|n| n.to_string()).collect();
    assert_eq!(numbers, wanted);
    // In the order of the numbers.
    let upper: Vec<_> = reasons.iter().map(|r| r.to_uppercase()).collect();
    let enumerators = between(&read("rust/ext/trace_helpers.h"), "\tRVSOCK_DROP_", ",");
    assert_eq!(enumerators, upper);
    let header = read("rust/ext/rvsock_trace.h");
    assert_eq!(
        between(&header, "TRACE_DEFINE_ENUM(RVSOCK_DROP_", ")"),
        upper
    );
    assert_eq!(between(&header, "{ RVSOCK_DROP_", ","), upper);
    let shown: Vec<_> = header
        .lines()
        .filter(|line| line.contains("{ RVSOCK_DROP_"))
        .flat_map(|line| between(line, "\"", "\""))
        .collect();
    assert_eq!(shown, reasons);
    let rust = read("rust/ext/trace.rs");
    let constants = rust
        .lines()
        .filter_map(|l| l.trim().split_once(" = rvsock_drop_reason_RVSOCK_DROP_"));
    let constants: Vec<_> = constants.collect();
    assert!(constants
        .iter()
        .all(|(name, raw)| Some(*name) == raw.strip_suffix(',')));
    let names: Vec<_> = constants.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, upper);
}

#[test]
fn t6_reasons_are_counted_and_told_of_as_documented() {
    let counters: BTreeMap<_, _> = counters().into_iter().collect();
    let text = read("rust/driver/trace.rs");
    let mut found = Vec::new();
    for line in text
        .lines()
        .filter(|l| l.ends_with(';') && l.matches(", ").count() == 2)
    {
        let Some((_, rest)) = line.split_once(" = ") else {
            continue;
        };
        let parts: Vec<_> = rest.trim_end_matches(';').split(", ").collect();
        let [reason, counter, buffer] = parts[..] else {
            continue;
        };
        let reason = reason.to_lowercase();
        let counter = counter
            .strip_prefix("Some(Counter::")
            .and_then(|c| c.strip_suffix(')'));
        if let Some(counter) = counter {
            assert_eq!(counters.get(counter), Some(&reason), "{line}");
        }
        found.push(vec![
            reason,
            if counter.is_some() { "yes" } else { "no" }.to_owned(),
            if buffer == "NOT_SPECIFIED" {
                ""
            } else {
                buffer
            }
            .to_owned(),
        ]);
    }
    let rows = table("Documentation/tracing.rst", "Why packets are dropped");
    let rows: Vec<_> = rows.iter().map(|row| row[1..4].to_vec()).collect();
    assert_eq!(found, rows);
}
