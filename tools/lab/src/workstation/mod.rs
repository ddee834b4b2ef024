// SPDX-License-Identifier: GPL-2.0

//! The lab on the workstation: what a person started gathers the suites, has each run where it belongs, and counts.
//!
//! `plan` says what runs, `logs` where it is written down; `cargo`, `headers`, `kunit`, `misuse` and `next` are the suites
//! that need no guest.

mod cargo;
mod headers;
mod kunit;
mod logs;
mod misuse;
mod next;
mod plan;

use std::{fs, path::Path};

use anyhow::{bail, ensure, Result};
use clap::ValueEnum;

pub use self::plan::Choice;
use self::plan::{Plan, LOGS_CLEAN};
use crate::{
    bench::table::{self, Table},
    config::{Driver, Hardware, Job, Kernel, VhostUser},
    events::Event,
    images::Places,
    machine::serial,
    report::{Counts, Report},
    rig::Rig,
    suites::{self, our_device::Setup},
};

/// How often the whole rig is started again after it died.
const RIG_STARTS: u32 = 3;
/// A rig that reports nothing for this long is dead: every test has a shorter limit of its own.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(300);

fn places(choice: &Choice) -> Result<Places> {
    let mut places = Places::from_environment()?;
    places.guest = choice.kernel;
    Ok(places)
}

pub fn list(choice: &Choice) -> Result<()> {
    let plan = Plan::new(&places(choice)?, choice)?;
    for name in plan.all() {
        println!("{name}");
    }
    Ok(())
}

fn need_driver(places: &Places, driver: Driver) -> Result<()> {
    ensure!(
        driver == Driver::C || places.driver().exists(),
        "{} is missing: run 'make' first",
        places.driver().display()
    );
    Ok(())
}

pub fn test(choice: &Choice) -> Result<bool> {
    let places = places(choice)?;
    let plan = Plan::new(&places, choice)?;
    if plan.all().is_empty() {
        bail!("no test's name contains {:?}: see --list", choice.filter);
    }
    need_driver(&places, choice.driver)?;
    let logs = logs::folder(&places)?;
    let mut report = Report::new(plan.all(), &logs);
    if !plan.cargo.is_empty() {
        cargo::run(&places, &mut report)?;
    }
    if !plan.kunit.is_empty() {
        kunit::run(&places, &mut report, &plan.kunit, &logs)?;
    }
    if !plan.misuse.is_empty() {
        misuse::run(&places, &mut report, &plan.misuse)?;
    }
    if !plan.headers.is_empty() {
        headers::run(&places, &mut report, &plan.headers)?;
    }
    if !plan.next.is_empty() {
        next::run(&places, &mut report);
    }
    in_guests(places, &plan, choice.driver, &mut report, &logs)?;
    Ok(report.finish().well())
}

/// The suites that boot guests: on a device in user space, and on the kernel's vhost-vsock.
fn in_guests(
    places: Places,
    plan: &Plan,
    driver: Driver,
    report: &mut Report,
    logs: &Path,
) -> Result<()> {
    if !plan.vhost_user.is_empty() {
        report.busy("guests on vhost-device-vsock ...");
        let mut command = vec![places
            .cache
            .join("vhost-device-vsock-0.3.0/bin/vhost-device-vsock")
            .to_string_lossy()
            .into_owned()];
        command.extend(
            [
                "--guest-cid",
                "3",
                "--socket",
                "SOCKET-3",
                "--uds-path",
                "UDS-3",
            ]
            .map(str::to_owned),
        );
        let device = VhostUser {
            command,
            qemu: "vhost-user-vsock-pci".into(),
            neighbour: None,
            hardware: Hardware::default(),
        };
        let mut rig = Rig::with_vhost_user(places.clone(), logs, device);
        start_until_done(&mut rig, &plan.vhost_user, driver, report, Job::Tests);
    }
    for setup in suites::device_setups() {
        let tests: Vec<String> = setup
            .names(&places)
            .unwrap_or_default()
            .into_iter()
            .filter(|t| plan.our_device.contains(t))
            .collect();
        if !tests.is_empty() {
            report.busy("guests on rvsock-device ...");
            let device = setup.device(&places.built("rvsock-device"), driver);
            let mut rig = Rig::with_vhost_user(places.clone(), logs, device);
            start_until_done(&mut rig, &tests, driver, report, Job::Tests);
        }
    }
    if !plan.hosts.is_empty() {
        report.busy("guests in User-mode Linux on hosts of other kinds ...");
    }
    for setup in suites::hosts::setups() {
        let tests = setup.tests.iter().map(|t| t.name.to_owned());
        let tests: Vec<_> = tests.filter(|t| plan.hosts.contains(t)).collect();
        if !tests.is_empty() {
            let mut places = places.clone();
            places.guest = Kernel::Uml;
            let device = setup.device(&places.built("rvsock-device"), driver);
            let mut rig = Rig::with_vhost_user(places, logs, device);
            start_until_done(&mut rig, &tests, driver, report, Job::Tests);
        }
    }
    if !plan.rig.is_empty() {
        report.busy("guests on vhost-vsock ...");
        let mut rig = Rig::new(places, logs, driver)?;
        report.say(&format!("      {}", rig.describe()));
        start_until_done(&mut rig, &plan.rig, driver, report, Job::Tests);
    }
    if plan.has_guests() {
        let complaints = serial::complaints_in_folder(logs)?;
        let why = complaints
            .first()
            .map(|first| format!("{} lines, the first: {first}", complaints.len()));
        report.end(LOGS_CLEAN, 0.0, why);
    }
    Ok(())
}

/// Runs tests in a rig, and again in a new one what was left when it died.
fn start_until_done(
    rig: &mut Rig,
    tests: &[String],
    driver: Driver,
    report: &mut Report,
    job: fn(Vec<String>) -> Job,
) {
    for number in 1..=RIG_STARTS {
        let missing = report.missing(tests);
        if missing.is_empty() {
            return;
        }
        if let Err(e) = rig.run(job(missing), driver, SILENCE, &mut |event| {
            report.event(event)
        }) {
            report.say(&format!(
                "note  the rig died (start {number} of {RIG_STARTS}): {e:#}"
            ));
        }
    }
}

/// Round after round until one fails; of all suites that run in guests, or, if nothing was asked for, the kernel's.
pub fn soak(choice: &Choice, rounds: u32) -> Result<bool> {
    let mut choice = choice.clone();
    if choice.filter.is_empty() {
        choice.filter = suites::kernel::WITH_HOST
            .map(|d| d.prefix.to_owned())
            .into();
    }
    let mut total = Counts::default();
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        let places = places(&choice)?;
        let plan = Plan::new(&places, &choice)?.rig_only();
        if plan.all().is_empty() {
            bail!("no guest test's name contains {:?}", choice.filter);
        }
        need_driver(&places, choice.driver)?;
        let logs = logs::folder(&places)?;
        let mut report = Report::new(plan.all(), &logs);
        in_guests(places, &plan, choice.driver, &mut report, &logs)?;
        total.add(report.finish());
        if !total.well() {
            println!("stopped after round {round} of {rounds}");
            break;
        }
    }
    println!("in all rounds:\n{total}");
    Ok(total.well())
}

pub fn demo(driver: Driver) -> Result<bool> {
    let places = Places::from_environment()?;
    need_driver(&places, driver)?;
    let logs = logs::folder(&places)?;
    let parts = crate::demo::PARTS.iter().map(|p| (*p).to_owned());
    let parts: Vec<_> = match driver {
        Driver::Rvsock => parts.collect(),
        Driver::C => parts.take(1).collect(),
    };
    let mut report = Report::new(parts.clone(), &logs);
    let mut rig = Rig::new(places.clone(), &logs, driver)?;
    report.say(&format!("      {}", rig.describe()));
    start_until_done(&mut rig, &parts[..1], driver, &mut report, |_| Job::Demo);
    drop(rig);
    if driver == Driver::Rvsock {
        report.say("      datagrams and merged receive buffers, which vhost-vsock has not, on rvsock-device");
        let setup = Setup::alone(suites::our_device::ALL, 5, &[]);
        let device = setup.device(&places.built("rvsock-device"), driver);
        let mut rig = Rig::with_vhost_user(places, &logs, device);
        start_until_done(&mut rig, &parts[1..], driver, &mut report, |_| {
            Job::DemoDevice
        });
    }
    Ok(report.finish().well())
}

/// What the bench measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    All,
    /// The C driver and ours, on vhost-vsock
    Drivers,
    /// Datagrams beside UDP, and merged receive buffers beside single ones, on rvsock-device
    Device,
}

pub fn bench(rounds: u32, quick: bool, part: Part) -> Result<bool> {
    let places = Places::from_environment()?;
    need_driver(&places, Driver::Rvsock)?;
    let logs = logs::folder(&places)?;
    let kernel = fs::read_to_string(places.cache.join("kernel/release")).unwrap_or_default();
    let report = Report::new(Vec::new(), &logs);
    let mut tables = [
        Table::new([("c", "C driver"), ("rvsock", "rvsock")]),
        Table::new([("single", "single buffers"), ("merged", "merged pages")]),
        Table::new([("udp", "UDP"), ("vsock", "vsock")]),
    ];
    let mut measure = |rig: &mut Rig, job: Job, driver: Driver| -> Result<()> {
        let mut whole = false;
        rig.run(job, driver, SILENCE, &mut |event| {
            tables.iter_mut().for_each(|table| table.take(event));
            whole |= matches!(event, Event::Done);
            match event {
                Event::Start { test } => report.say(&format!("      {test}")),
                Event::Note { text } => report.say(&format!("note  {text}")),
                _ => {}
            }
        })?;
        ensure!(whole, "the bench did not come to its end");
        Ok(())
    };
    let mut outcome = Ok(());
    if part != Part::Device {
        let mut rig = Rig::new(places.clone(), &logs, Driver::Rvsock)?;
        report.say(&format!("      {}", rig.describe()));
        outcome = measure(&mut rig, Job::Bench { rounds, quick }, Driver::C);
    }
    for round in (1..=rounds).filter(|_| part != Part::Drivers) {
        for (column, features) in crate::bench::device::COLUMNS {
            if outcome.is_ok() {
                let setup = Setup::alone(features, 5, &[]);
                let device = setup.device(&places.built("rvsock-device"), Driver::Rvsock);
                let mut rig = Rig::with_vhost_user(places.clone(), &logs, device);
                let job = Job::BenchDevice {
                    round,
                    quick,
                    column: (*column).into(),
                };
                report.say(&format!("      round {round} of {rounds}, {column}"));
                outcome = measure(&mut rig, job, Driver::Rvsock);
            }
        }
    }
    report.clear();
    for table in tables.iter().filter(|t| !t.is_empty()) {
        table.print();
    }
    let json = logs.join("bench.json");
    table::write(&tables, &json, kernel.trim())?;
    println!("JSON: {}", json.display());
    println!("logs: {}", logs.display());
    outcome?;
    Ok(true)
}

pub fn shell(driver: Driver) -> Result<bool> {
    let places = Places::from_environment()?;
    need_driver(&places, driver)?;
    let logs = logs::folder(&places)?;
    println!("a guest boots; its console is this terminal");
    Rig::new(places, &logs, driver)?.shell(driver)?;
    Ok(true)
}
