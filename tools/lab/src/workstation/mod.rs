// SPDX-License-Identifier: GPL-2.0

//! The lab on the workstation: what a person started gathers the suites, has each run where it belongs, and counts.
//!
//! The modules are the suites that need no guest.

mod cargo;
mod kunit;
mod misuse;
mod next;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{bail, ensure, Context, Result};
use clap::{Args, ValueEnum};

use crate::{
    config::{Driver, Job, Kernel, VhostUser},
    events::Event,
    images::Places,
    report::{Counts, Report},
    rig::Rig,
    serial,
    suites::{self, our_device::Setup},
    table::{self, Table},
};

/// Which tests are meant, and what they are to run.
#[derive(Args, Clone)]
pub struct Choice {
    /// The driver in the guest
    #[arg(long, value_enum, default_value = "rvsock")]
    pub driver: Driver,
    /// The guests' kernel
    #[arg(long, value_enum, default_value = "stock")]
    pub kernel: Kernel,
    /// Run only the tests whose name contains this; may be given several times
    #[arg(long)]
    pub filter: Vec<String>,
}

/// How often the whole rig is started again after it died.
const RIG_STARTS: u32 = 3;
/// A rig that reports nothing for this long is dead: every test has a shorter limit of its own.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(300);
const LOGS_CLEAN: &str = "logs: no kernel complains in any serial log";

/// A folder for this run's logs; `latest` points to it.
fn log_folder(places: &Places) -> Result<PathBuf> {
    let stamp = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs();
    forget_old_logs(&places.cache.join("logs"))?;
    let name = format!("run-{stamp}-{}", std::process::id());
    let dir = places.cache.join("logs").join(&name);
    fs::create_dir_all(&dir)?;
    let latest = places.cache.join("logs/latest");
    let _ = fs::remove_file(&latest);
    std::os::unix::fs::symlink(&name, &latest)?;
    Ok(dir)
}

/// The last runs are kept, and no more.
fn forget_old_logs(folder: &Path) -> Result<()> {
    const KEEP: usize = 40;
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    let mut runs: Vec<_> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| {
            p.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("run-"))
        })
        .collect();
    runs.sort();
    for old in runs.iter().rev().skip(KEEP) {
        fs::remove_dir_all(old).with_context(|| format!("cannot remove {}", old.display()))?;
    }
    Ok(())
}

/// What is to run, suite by suite.
struct Plan {
    cargo: Vec<String>,
    kunit: Vec<String>,
    misuse: Vec<String>,
    next: Vec<String>,
    vhost_user: Vec<String>,
    our_device: Vec<String>,
    hosts: Vec<String>,
    rig: Vec<String>,
}

impl Plan {
    fn new(places: &Places, choice: &Choice) -> Result<Self> {
        let pick = |names: Vec<String>| -> Vec<String> {
            names
                .into_iter()
                .filter(|n| {
                    choice.filter.is_empty() || choice.filter.iter().any(|f| n.contains(f.as_str()))
                })
                .collect()
        };
        let own = |tests: Vec<&suites::Test>| {
            tests
                .into_iter()
                .map(|t| t.name.to_owned())
                .collect::<Vec<_>>()
        };
        let mut rig = suites::kernel::names(places, &suites::kernel::WITH_HOST)?;
        rig.extend(own(suites::own(choice.kernel)));
        // The C driver has no pure code, and which kernel a guest has is nothing to it.
        let (cargo, kunit, misuse, next) = match (choice.driver, choice.kernel) {
            (Driver::Rvsock, Kernel::Stock) => (
                cargo::names(places)?,
                kunit::names(places)?,
                misuse::names(places)?,
                next::names(places),
            ),
            _ => Default::default(),
        };
        // Their guests have a kernel of their own.
        let hosts = match choice.kernel {
            Kernel::Stock => suites::hosts::names(),
            _ => Vec::new(),
        };
        Ok(Self {
            cargo: pick(cargo),
            kunit: pick(kunit),
            misuse: pick(misuse),
            next: pick(next),
            vhost_user: pick(own(suites::vhost_user::TESTS.iter().collect())),
            our_device: pick(suites::our_device::names(choice.driver, places)?),
            hosts: pick(hosts),
            rig: pick(rig),
        })
    }

    /// Only what runs in guests on vhost-vsock.
    fn rig_only(mut self) -> Self {
        (self.cargo, self.kunit) = Default::default();
        (self.misuse, self.next) = Default::default();
        (self.vhost_user, self.our_device, self.hosts) = Default::default();
        self
    }

    fn has_guests(&self) -> bool {
        [&self.vhost_user, &self.our_device, &self.hosts, &self.rig]
            .iter()
            .any(|s| !s.is_empty())
    }

    fn all(&self) -> Vec<String> {
        let mut all = [
            &self.cargo,
            &self.kunit,
            &self.misuse,
            &self.next,
            &self.vhost_user,
            &self.our_device,
            &self.hosts,
            &self.rig,
        ]
        .map(|s| s.as_slice())
        .concat();
        if self.has_guests() {
            all.push(LOGS_CLEAN.into());
        }
        all
    }
}

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
    let logs = log_folder(&places)?;
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
        let logs = log_folder(&places)?;
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
    let logs = log_folder(&places)?;
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
    let logs = log_folder(&places)?;
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
        for (column, features) in crate::bench_device::COLUMNS {
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
    let logs = log_folder(&places)?;
    println!("a guest boots; its console is this terminal");
    Rig::new(places, &logs, driver)?.shell(driver)?;
    Ok(true)
}
