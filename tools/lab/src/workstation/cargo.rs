// SPDX-License-Identifier: GPL-2.0

//! The tests of the pure code and of the device that cargo runs; each is counted.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{ensure, Context, Result};

use crate::{images::Places, report::Report};

const PREFIX: &str = "cargo: ";

fn cargo(places: &Places, arguments: &str) -> Result<std::process::Child> {
    // One pipe for both outputs: which file a test is of stands on the other one.
    Command::new("sh")
        .args(["-c", &format!("exec cargo test --release --locked --no-fail-fast -p rvsock-hosttest -p device -- {arguments} 2>&1")])
        .current_dir(places.checkout.join("tools"))
        .env("CARGO_TERM_COLOR", "never")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")
}

/// Follows cargo's output; calls back with each line and the test file that it belongs to.
fn follow(
    mut child: std::process::Child,
    mut each: impl FnMut(&str, &str),
) -> Result<(bool, String)> {
    let (mut file, mut all) = (String::new(), String::new());
    for line in BufReader::new(child.stdout.take().context("no pipe from cargo")?).lines() {
        let line = line?;
        if let Some(rest) = line.trim_start().strip_prefix("Running ") {
            file = rest
                .split_whitespace()
                .find(|w| w.ends_with(".rs"))
                .unwrap_or("?")
                .to_owned();
        } else if line.trim_start().starts_with("Doc-tests") {
            file = "doc".into();
        }
        each(&file, &line);
        all.push_str(&line);
        all.push('\n');
    }
    Ok((child.wait()?.success(), all))
}

/// The tests that `list` lists.
fn listed(places: &Places, list: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let (ok, text) = follow(cargo(places, list)?, |file, line| {
        if let Some(name) = line.strip_suffix(": test") {
            names.push(format!("{PREFIX}{file}: {name}"));
        }
    })?;
    ensure!(ok, "the tests that cargo runs do not build:\n{text}");
    Ok(names)
}

pub fn names(places: &Places) -> Result<Vec<String>> {
    let mut names = listed(places, "--list")?;
    // Those will not run.
    let ignored = listed(places, "--list --ignored")?;
    names.retain(|name| !ignored.contains(name));
    ensure!(!names.is_empty(), "tools/hosttest has no tests");
    Ok(names)
}

pub fn run(places: &Places, report: &Report) -> Result<()> {
    report.busy("the tests of the pure code and of the device, by cargo ...");
    let mut begin = Instant::now();
    let mut failed = Vec::new();
    let (_, text) = follow(cargo(places, "--test-threads=2")?, |file, line| {
        let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|l| l.rsplit_once(" ... "))
        else {
            return;
        };
        let name = format!(
            "{PREFIX}{file}: {}",
            name.trim_end_matches(" - should panic")
        );
        if outcome == "ok" {
            report.end(&name, begin.elapsed().as_secs_f64(), None);
        } else if outcome == "FAILED" {
            failed.push(name);
        }
        begin = Instant::now();
    })?;
    for name in failed {
        // cargo prints why at the end, under the test's own name.
        let test = name.rsplit(": ").next().unwrap_or_default();
        let why = text
            .split(&format!("---- {test} stdout ----"))
            .nth(1)
            .unwrap_or("cargo does not say why");
        let why: Vec<_> = why
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .take(6)
            .collect();
        report.end(&name, 0.0, Some(why.join(" | ")));
    }
    Ok(())
}
