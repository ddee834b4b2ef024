//! What a person started: gathers the suites, runs each where it belongs, and counts.

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{bail, ensure, Result};

use crate::{
    config::{Driver, Job},
    images::Places,
    report::Report,
    rig::Rig,
    suites, Choice,
};

/// How often the whole rig is started again after it died.
const RIG_STARTS: u32 = 3;
/// A rig that reports nothing for this long is dead: every test has a shorter limit of its own.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(300);
const LOGS_CLEAN: &str = "logs: no kernel complains in any serial log";

/// A folder for this run's logs; `latest` points to it.
fn log_folder(places: &Places) -> Result<PathBuf> {
    let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let name = format!("run-{stamp}-{}", std::process::id());
    let dir = places.cache.join("logs").join(&name);
    fs::create_dir_all(&dir)?;
    let latest = places.cache.join("logs/latest");
    let _ = fs::remove_file(&latest);
    std::os::unix::fs::symlink(&name, &latest)?;
    Ok(dir)
}

struct Plan {
    rig: Vec<String>,
}

impl Plan {
    fn new(places: &Places, choice: &Choice) -> Result<Self> {
        let wanted = |name: &String| choice.filter.is_empty() || choice.filter.iter().any(|f| name.contains(f.as_str()));
        let kernel = suites::kernel::names(&places.cache.join("selftests"))?;
        let own = suites::own().into_iter().map(|t| t.name.to_owned());
        Ok(Self { rig: kernel.into_iter().chain(own).filter(wanted).collect() })
    }

    fn all(&self) -> Vec<String> {
        let mut all = self.rig.clone();
        if !self.rig.is_empty() {
            all.push(LOGS_CLEAN.into());
        }
        all
    }
}

pub fn list(choice: &Choice) -> Result<()> {
    let plan = Plan::new(&Places::from_environment()?, choice)?;
    for name in plan.all() {
        println!("{name}");
    }
    Ok(())
}

fn need_driver(places: &Places, driver: Driver) -> Result<()> {
    ensure!(driver == Driver::C || places.driver().exists(), "{} is missing: run 'make' first", places.driver().display());
    Ok(())
}

pub fn test(choice: &Choice) -> Result<bool> {
    let places = Places::from_environment()?;
    let plan = Plan::new(&places, choice)?;
    if plan.all().is_empty() {
        bail!("no test's name contains {:?}: see --list", choice.filter);
    }
    need_driver(&places, choice.driver)?;
    let logs = log_folder(&places)?;
    let mut report = Report::new(plan.all(), &logs);
    in_rig(places, &plan, choice.driver, &mut report, &logs)?;
    Ok(report.finish())
}

/// The suites whose guests talk to vhost-vsock.
fn in_rig(places: Places, plan: &Plan, driver: Driver, report: &mut Report, logs: &std::path::Path) -> Result<()> {
    if plan.rig.is_empty() {
        return Ok(());
    }
    report.busy("starting the rig ...");
    let start = Instant::now();
    let mut rig = Rig::new(places, logs, driver)?;
    report.say(&format!("      {}", rig.describe()));
    for number in 1..=RIG_STARTS {
        let missing = report.missing(&plan.rig);
        if missing.is_empty() {
            break;
        }
        if let Err(e) = rig.run(Job::Tests(missing), driver, SILENCE, &mut |event| report.event(event)) {
            report.say(&format!("note  the rig died (start {number} of {RIG_STARTS}): {e:#}"));
        }
    }
    let mut complaints = rig.complaints_in_logs()?;
    complaints.extend(rig.complaints.iter().map(|l| format!("host VM: {l}")));
    complaints.sort();
    complaints.dedup();
    let why = complaints.first().map(|first| format!("{} lines, the first: {first}", complaints.len()));
    report.end(LOGS_CLEAN, start.elapsed().as_secs_f64(), why);
    Ok(())
}

pub fn soak(choice: &Choice, rounds: u32) -> Result<bool> {
    let mut well = true;
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        let places = Places::from_environment()?;
        let plan = Plan::new(&places, choice)?;
        need_driver(&places, choice.driver)?;
        let logs = log_folder(&places)?;
        let mut report = Report::new(plan.all(), &logs);
        in_rig(places, &plan, choice.driver, &mut report, &logs)?;
        well &= report.finish();
    }
    Ok(well)
}

pub fn demo(driver: Driver) -> Result<bool> {
    let places = Places::from_environment()?;
    need_driver(&places, driver)?;
    let logs = log_folder(&places)?;
    let mut report = Report::new(vec!["demo".into()], &logs);
    let mut rig = Rig::new(places, &logs, driver)?;
    report.say(&format!("      {}", rig.describe()));
    rig.run(Job::Demo, driver, SILENCE, &mut |event| report.event(event))?;
    Ok(report.finish())
}

pub fn bench(_rounds: u32, _quick: bool) -> Result<bool> {
    bail!("the bench is not there yet")
}

pub fn shell(_driver: Driver) -> Result<bool> {
    bail!("the shell is not there yet")
}
