// SPDX-License-Identifier: GPL-2.0

//! Counts results and shows them: one line per test, and a summary that no missing test can slip through.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::events::Event;

/// What a run came to; shown as its last line.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    passed: usize,
    failed: usize,
}

impl Counts {
    pub fn well(self) -> bool {
        self.failed == 0
    }

    pub fn add(&mut self, other: Counts) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

pub struct Report {
    expected: Vec<String>,
    /// Two lanes report at a time.
    results: Mutex<BTreeMap<String, Option<String>>>,
    bar: ProgressBar,
    logs: PathBuf,
}

impl Report {
    pub fn new(expected: Vec<String>, logs: &Path) -> Self {
        // Hidden by itself where there is no terminal.
        let bar = ProgressBar::new(expected.len() as u64);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {pos}/{len} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self {
            expected,
            results: Mutex::default(),
            bar,
            logs: logs.to_owned(),
        }
    }

    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    pub fn say(&self, text: &str) {
        self.bar.suspend(|| {
            println!("{text}");
            let _ = std::io::stdout().flush();
        });
    }

    pub fn busy(&self, with: &str) {
        self.bar.set_message(with.to_owned());
        if !std::io::stderr().is_terminal() && with.ends_with("...") {
            self.say(&format!("      {with}"));
        }
    }

    pub fn end(&self, test: &str, seconds: f64, why: Option<String>) {
        match &why {
            None => self.say(&format!("ok    {test} ({seconds:.1} s)")),
            Some(why) => self.say(&format!("FAIL  {test} ({seconds:.1} s)\n      {why}")),
        }
        let mut results = self.results();
        results.insert(test.to_owned(), why);
        self.bar.set_position(results.len() as u64);
    }

    /// Takes what a rig says; its tests have this prefix here.
    pub fn event(&self, prefix: &str, event: &Event) {
        match event {
            Event::Start { test } => self.busy(&format!("{prefix}{test}")),
            Event::End { test, seconds, why } => {
                self.end(&format!("{prefix}{test}"), *seconds, why.clone());
            }
            Event::Note { text } => self.say(&format!("note  {prefix}{text}")),
            Event::Say { text } => self.say(text),
            Event::Log { .. } | Event::Measure { .. } | Event::Done => {}
        }
    }

    fn results(&self) -> MutexGuard<'_, BTreeMap<String, Option<String>>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of `tests` have passed.
    pub fn passed(&self, tests: &[String]) -> usize {
        let results = self.results();
        tests
            .iter()
            .filter(|t| matches!(results.get(*t), Some(None)))
            .count()
    }

    /// Of `tests`, those without a result yet.
    pub fn missing(&self, tests: &[String]) -> Vec<String> {
        let results = self.results();
        tests
            .iter()
            .filter(|t| !results.contains_key(*t))
            .cloned()
            .collect()
    }

    /// Prints the summary; all is well when everything that was expected ran and passed.
    pub fn finish(self) -> Counts {
        for test in self.missing(&self.expected) {
            self.end(&test, 0.0, Some("it was expected and did not run".into()));
        }
        self.bar.finish_and_clear();
        let results = self.results();
        let failed: BTreeSet<_> = results
            .iter()
            .filter(|(_, why)| why.is_some())
            .map(|(test, _)| test)
            .collect();
        if !failed.is_empty() {
            println!("failed:");
            for test in &failed {
                println!("  {test}");
            }
        }
        println!("logs: {}", self.logs.display());
        let counts = Counts {
            passed: results.len() - failed.len(),
            failed: failed.len(),
        };
        println!("{counts}");
        counts
    }
}
