// SPDX-License-Identifier: GPL-2.0

//! What a run reports, as lines of JSON: written where the tests run, read where they are counted.

use std::{fs::File, io::Write, path::Path, sync::Mutex, time::Duration};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A test begins.
    Start { test: String },
    /// A test has ended; `why` is set when it failed.
    End {
        test: String,
        seconds: f64,
        why: Option<String>,
    },
    /// A word for the reader.
    Note { text: String },
    /// A line of the demo.
    Say { text: String },
    /// A line of a machine's log.
    Log { file: String, line: String },
    /// A measured cell of the bench.
    Measure {
        driver: String,
        round: u32,
        cell: String,
        values: std::collections::BTreeMap<String, f64>,
    },
    /// The run has come to its end.
    Done,
}

/// Where events go.
pub struct Events {
    to: Mutex<File>,
}

impl Events {
    pub fn to(path: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot open {} for events", path.display()))?;
        Ok(Self {
            to: Mutex::new(file),
        })
    }

    pub fn send(&self, event: Event) {
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        let _ = self
            .to
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .write_all(&line);
    }

    pub fn note(&self, text: impl Into<String>) {
        self.send(Event::Note { text: text.into() });
    }

    pub fn log(&self, file: &str, line: &str) {
        self.send(Event::Log {
            file: file.into(),
            line: line.into(),
        });
    }

    pub fn start(&self, test: &str) {
        self.send(Event::Start { test: test.into() });
    }

    pub fn end(&self, test: &str, time: Duration, outcome: Result<()>) {
        let why = outcome.err().map(|e| format!("{e:#}"));
        self.send(Event::End {
            test: test.into(),
            seconds: time.as_secs_f64(),
            why,
        });
    }
}
