// SPDX-License-Identifier: GPL-2.0

//! The lab on the workstation: what a person started gathers the suites, has each run where it belongs, and counts.
//!
//! `plan` says what runs, `logs` where it is written down; `pieces` are the suites on devices in user space; `cargo`,
//! `headers`, `kunit` and `misuse` those that need no guest.

mod cargo;
mod headers;
mod kunit;
mod logs;
mod misuse;
mod pieces;
mod plan;

use std::{collections::HashMap, path::Path};

use anyhow::{bail, ensure, Result};
use clap::ValueEnum;

pub use self::plan::{Choice, InGuest};
use self::plan::{Plan, LOGS_CLEAN};
use crate::{
    bench::{
        plot,
        table::{self, Table},
    },
    config::{Backend, Compared, Driver, Job},
    events::Event,
    images::Places,
    kernel::{Arch, Kernel},
    machine::serial,
    report::{Counts, Report},
    rig::Rig,
    suites::{self, our_device::Setup},
};

/// How often in a row the whole rig is started that dies without a result.
const RIG_STARTS: u32 = 6;
/// How often a rig may die while the same test is under way.
const DEATHS_OF_A_TEST: u32 = 3;
/// A rig that reports nothing for this long is dead: every test has a shorter limit of its own.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(300);

fn places(guest: &InGuest) -> Result<Places> {
    let mut places = Places::from_environment()?;
    if let Some(kernel) = &guest.kernel {
        places.guest = kernel.clone();
    }
    Ok(places)
}

pub fn list(choice: &Choice) -> Result<()> {
    let plan = Plan::new(&places(&choice.guest)?, choice)?;
    for name in plan.all() {
        println!("{name}");
    }
    Ok(())
}

fn need_driver(places: &Places, driver: Driver) -> Result<()> {
    ensure!(
        driver == Driver::C
            || places.driver().exists()
            || places.guest_modules().is_built_in("rvsock"),
        "{} is missing: run 'make' first",
        places.driver().display()
    );
    Ok(())
}

pub fn test(choice: &Choice) -> Result<bool> {
    let places = places(&choice.guest)?;
    let plan = Plan::new(&places, choice)?;
    if plan.all().is_empty() {
        bail!("no test's name contains {:?}: see --list", choice.filter);
    }
    need_driver(&places, choice.guest.driver)?;
    let logs = logs::folder(&places)?;
    let report = Report::new(plan.all(), &logs);
    run(places, &plan, choice.guest.driver, &report, &logs)?;
    Ok(report.finish().well())
}

/// Runs what is planned: what needs no guest beside guests on devices in user space, and those on vhost-vsock beside them,
/// or, on the workstation's own, after them.
fn run(places: Places, plan: &Plan, driver: Driver, report: &Report, logs: &Path) -> Result<()> {
    let first = || without_guests(&places.for_lane("pure"), plan, report, logs);
    if plan.rig.is_empty() {
        pieces::run(&places, plan, driver, report, logs, &[], first)?;
    } else if let Some(mut rig) = Rig::on_own_kvm(&places, logs, driver)? {
        report.say(&format!("      {}", rig.describe()));
        pieces::run(&places, plan, driver, report, logs, &[], first)?;
        start_until_done(&mut rig, &plan.rig, "", driver, report, Job::Tests);
    } else {
        let rig = Rig::without_kvm(places.clone(), logs, Backend::Vhost);
        report.say(&format!("      {}", rig.describe()));
        pieces::run(&places, plan, driver, report, logs, &plan.rig, first)?;
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

fn without_guests(places: &Places, plan: &Plan, report: &Report, logs: &Path) -> Result<()> {
    if !plan.cargo.is_empty() {
        cargo::run(places, report)?;
    }
    if !plan.kunit.is_empty() {
        kunit::run(places, report, &plan.kunit, logs)?;
    }
    if !plan.misuse.is_empty() {
        misuse::run(places, report, &plan.misuse)?;
    }
    if !plan.headers.is_empty() {
        headers::run(places, report, &plan.headers)?;
    }
    Ok(())
}

/// Runs tests in a rig, and again in a new one what was left when it died, until too many in a row bring no result. A test
/// that was under way at several deaths has failed. There tests are called without the prefix.
fn start_until_done(
    rig: &mut Rig,
    tests: &[String],
    prefix: &str,
    driver: Driver,
    report: &Report,
    job: fn(Vec<String>) -> Job,
) {
    let (mut in_vain, mut deaths) = (0, HashMap::<String, u32>::new());
    for number in 1.. {
        let missing = report.missing(tests);
        if missing.is_empty() || in_vain == RIG_STARTS {
            return;
        }
        let names = missing.iter().filter_map(|t| t.strip_prefix(prefix));
        let names = names.map(str::to_owned).collect();
        let mut under_way = None;
        let outcome = rig.run(job(names), driver, SILENCE, &mut |event| {
            match event {
                Event::Start { test } => under_way = Some(format!("{prefix}{test}")),
                Event::End { .. } => under_way = None,
                _ => {}
            }
            report.event(prefix, event);
        });
        if let Err(e) = outcome {
            report.say(&format!("note  the rig died (start {number}): {e:#}"));
            if let Some(test) = under_way.filter(|t| missing.contains(t)) {
                let times = deaths.entry(test.clone()).or_default();
                *times += 1;
                if *times == DEATHS_OF_A_TEST {
                    let why = format!("the rig died of it {times} times: {e:#}");
                    report.end(&test, 0.0, Some(why));
                }
            }
        }
        in_vain = match report.missing(tests).len() < missing.len() {
            true => 0,
            false => in_vain + 1,
        };
    }
}

/// The core of the suites on every kernel of Debian's, machines of other kinds, and a table.
pub fn matrix() -> Result<bool> {
    let places = Places::from_environment()?;
    let plan = Plan::matrix(&places)?;
    let logs = logs::folder(&places)?;
    let report = Report::new(plan.all(), &logs);
    run(places.clone(), &plan, Driver::Rvsock, &report, &logs)?;
    report.clear();
    let row = |what: &str, release: &str, tests: &[String]| {
        println!(
            "{what:<44} {release:<28} {:>6} of {}",
            report.passed(tests),
            tests.len()
        );
    };
    for (kernel, tests) in &plan.others {
        row(&kernel.name, places.release(kernel)?.trim(), tests);
    }
    for (machine, tests) in plan.machines() {
        row(machine, places.release(&places.guest)?.trim(), &tests);
    }
    Ok(report.finish().well())
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
        let places = places(&choice.guest)?;
        let plan = Plan::new(&places, &choice)?.rig_only();
        if plan.all().is_empty() {
            bail!("no guest test's name contains {:?}", choice.filter);
        }
        need_driver(&places, choice.guest.driver)?;
        let logs = logs::folder(&places)?;
        let report = Report::new(plan.all(), &logs);
        run(places, &plan, choice.guest.driver, &report, &logs)?;
        total.add(report.finish());
        if !total.well() {
            println!("stopped after round {round} of {rounds}");
            break;
        }
    }
    println!("in all rounds:\n{total}");
    Ok(total.well())
}

pub fn demo(guest: &InGuest) -> Result<bool> {
    let places = places(guest)?;
    let driver = guest.driver;
    need_driver(&places, driver)?;
    let logs = logs::folder(&places)?;
    let [on_vhost, on_device] = crate::demo::PARTS.map(|p| vec![p.to_owned()]);
    // The host VM's processor is that of the workstation, and the C driver has none of what the device shows.
    let vhost = places.guest.arch == Arch::X86_64;
    let device = driver == Driver::Rvsock;
    let parts = [(vhost, &on_vhost), (device, &on_device)];
    let parts = parts.iter().filter(|(shown, _)| *shown);
    let report = Report::new(parts.flat_map(|(_, part)| part.to_vec()).collect(), &logs);
    if vhost {
        let mut rig = Rig::with_kvm(places.clone(), &logs, driver)?;
        report.say(&format!("      {}", rig.describe()));
        start_until_done(&mut rig, &on_vhost, "", driver, &report, |_| Job::Demo);
    }
    if device {
        report.say("      datagrams and merged receive buffers, which vhost-vsock has not, on rvsock-device");
        let setup = Setup::alone(suites::our_device::ALL, 5, &[]);
        let device = setup.device(&places.built("rvsock-device"), driver);
        let mut rig = Rig::with_vhost_user(places, &logs, device);
        start_until_done(&mut rig, &on_device, "", driver, &report, |_| {
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
    /// The same on the vhost-vsock of User-mode Linux, where one processor does all the work: only when it is asked for
    Work,
    /// The same on hosts of other kinds, in User-mode Linux
    Hosts,
    /// Datagrams beside UDP, and merged receive buffers beside single ones, on rvsock-device
    Device,
    /// What an interface that is down costs, on rvsock-device, in User-mode Linux: only when it is asked for
    Interface,
}

pub fn bench(
    rounds: u32,
    quick: bool,
    cells: &[String],
    part: Part,
    kernel: Option<Kernel>,
) -> Result<bool> {
    let guest = InGuest {
        driver: Driver::Rvsock,
        kernel,
    };
    let places = places(&guest)?;
    need_driver(&places, Driver::Rvsock)?;
    let logs = logs::folder(&places)?;
    let kernel = places.release(&places.guest)?;
    let report = Report::new(Vec::new(), &logs);
    let mut tables = [
        Table::new([("c", "C driver"), ("rvsock", "rvsock")]),
        Table::new([("single", "single buffers"), ("merged", "merged pages")]),
        Table::new([("udp", "UDP"), ("vsock", "vsock")]),
        Table::new([("without", "no interface"), ("with", "down")]),
    ];
    let mut measure = |rig: &mut Rig, job: Job, driver: Driver, on: &str| -> Result<()> {
        let mut whole = false;
        rig.run(job, driver, SILENCE, &mut |event| {
            tables.iter_mut().for_each(|table| table.take(event, on));
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
    let job = |compared, round| Job::Bench {
        compared,
        round,
        quick,
        cells: cells.to_owned(),
    };
    let mut outcome = Ok(());
    if matches!(part, Part::All | Part::Drivers | Part::Work) {
        let mut rig = match part {
            Part::Work => Rig::without_kvm(places.clone(), &logs, Backend::Vhost),
            _ => Rig::with_kvm(places.clone(), &logs, Driver::Rvsock)?,
        };
        report.say(&format!("      {}", rig.describe()));
        for round in 1..=rounds {
            for start in 1..=RIG_STARTS {
                outcome = measure(&mut rig, job(Compared::Drivers, round), Driver::C, "");
                let Err(e) = &outcome else { break };
                report.say(&format!(
                    "note  the rig died (start {start} of {RIG_STARTS}), and the round is measured again: {e:#}"
                ));
            }
            if outcome.is_err() {
                break;
            }
        }
    }
    let compared = match part {
        Part::Interface => Compared::Interface,
        _ => Compared::Drivers,
    };
    let in_user_space = matches!(part, Part::All | Part::Hosts | Part::Interface);
    for round in (1..=rounds).filter(|_| in_user_space) {
        for (name, host) in crate::bench::drivers::HOSTS {
            if outcome.is_err() {
                break;
            }
            let setup = Setup::with_either(host, &[]);
            let device = setup.device(&places.built("rvsock-device"), Driver::C);
            let mut rig = Rig::with_vhost_user(places.with_guest(Kernel::uml()?), &logs, device);
            report.say(&format!("      round {round} of {rounds}, {name}"));
            outcome = measure(
                &mut rig,
                job(compared, round),
                Driver::C,
                &format!("{name}: "),
            );
        }
    }
    for round in (1..=rounds).filter(|_| matches!(part, Part::All | Part::Device)) {
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
                outcome = measure(&mut rig, job, Driver::Rvsock, "");
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
    for file in plot::draw(&tables[0], &logs)? {
        println!("plot: {}", file.display());
    }
    println!("logs: {}", logs.display());
    outcome?;
    Ok(true)
}

pub fn shell(guest: &InGuest) -> Result<bool> {
    let places = places(guest)?;
    let driver = guest.driver;
    need_driver(&places, driver)?;
    if places.guest.arch != Arch::X86_64 {
        bail!("a shell is there in guests with the workstation's processor only");
    }
    let logs = logs::folder(&places)?;
    println!("a guest boots; its console is this terminal");
    Rig::with_kvm(places, &logs, driver)?.shell(driver)?;
    Ok(true)
}
