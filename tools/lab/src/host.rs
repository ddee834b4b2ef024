// SPDX-License-Identifier: GPL-2.0

//! The lab on the host: boots the guests, runs the tests in and against them, and tells the workstation what came of it.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result};

use crate::{
    config::{Config, Job},
    events::{Event, Events},
    session::{Session, Side},
    suites,
};

pub fn run(config: &Path) -> Result<()> {
    let text =
        std::fs::read(config).with_context(|| format!("cannot read {}", config.display()))?;
    let config: Config = serde_json::from_slice(&text).context("the lab's configuration")?;
    std::fs::create_dir_all(&config.scratch)?;
    let events = Arc::new(Events::to(&config.events)?);
    let job = config.job.clone();
    let measures = matches!(job, Job::Bench { .. } | Job::BenchDevice { .. });
    let mut session = Session::new(config, events.clone());
    let outcome = match job {
        Job::Tests(wanted) => suites::run(&mut session, &wanted),
        Job::Probe => session.ensure_guest(),
        Job::Demo => crate::demo::run(&mut session),
        Job::DemoDevice => crate::demo::run_on_device(&mut session),
        Job::Shell => shell(&mut session),
        Job::Bench {
            compared,
            round,
            quick,
            cells,
        } => crate::bench::drivers::run(&mut session, compared, round, quick, &cells),
        Job::BenchDevice {
            round,
            quick,
            column,
        } => crate::bench::device::run(&mut session, round, quick, &column),
    };
    drop(session);
    if let Err(e) = &outcome {
        events.note(format!("the run in the rig ended early: {e:#}"));
    }
    // Of tests the workstation sees for itself which are missing.
    if outcome.is_ok() || !measures {
        events.send(Event::Done);
    }
    outcome
}

/// Hands the terminal to a guest; an echo server listens on the host.
fn shell(session: &mut Session) -> Result<()> {
    let _echo = session.server(Side::Host, "echo-server --port 1234")?;
    session.shell()
}
