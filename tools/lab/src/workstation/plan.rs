// SPDX-License-Identifier: GPL-2.0

//! Which tests a run consists of, suite by suite.

use anyhow::Result;
use clap::Args;

use super::{cargo, headers, kunit, misuse};
use crate::{
    config::Driver,
    images::Places,
    kernel::{Arch, Kernel},
    suites,
};

/// The test that every run with guests ends with.
pub const LOGS_CLEAN: &str = "logs: no kernel complains in any serial log";

/// What runs in the guests.
#[derive(Args, Clone)]
pub struct InGuest {
    /// The driver
    #[arg(long, value_enum, default_value = "rvsock")]
    pub driver: Driver,
    /// The kernel, by its name in scripts/kernels
    #[arg(long, value_name = "NAME")]
    pub kernel: Option<Kernel>,
}

/// Which tests are meant, and what they are to run.
#[derive(Args, Clone)]
pub struct Choice {
    #[command(flatten)]
    pub guest: InGuest,
    /// Run only the tests whose name contains this; may be given several times
    #[arg(long)]
    pub filter: Vec<String>,
    /// Machines of other kinds, too, and the core of the suites on every other kernel
    #[arg(long)]
    pub wide: bool,
    /// The core of the suites on this kernel, too; may be given several times
    #[arg(long = "other", value_name = "NAME")]
    pub others: Vec<Kernel>,
}

/// What is to run, suite by suite.
#[derive(Default)]
pub struct Plan {
    pub cargo: Vec<String>,
    pub kunit: Vec<String>,
    pub misuse: Vec<String>,
    pub headers: Vec<String>,
    pub vhost_user: Vec<String>,
    pub our_device: Vec<String>,
    pub hosts: Vec<String>,
    pub rig: Vec<String>,
    /// The core on other kernels.
    pub others: Vec<(Kernel, Vec<String>)>,
}

impl Plan {
    pub fn new(places: &Places, choice: &Choice) -> Result<Self> {
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
        let guest = &places.guest;
        let first = guest.is_first();
        let ours = choice.guest.driver == Driver::Rvsock;
        let mut plan = Self {
            vhost_user: pick(own(suites::vhost_user::TESTS.iter().collect())),
            our_device: pick(suites::on_our_device(choice.guest.driver, places)?),
            ..Self::default()
        };
        // The kernel's own tests run where the host VM's processor is that of the workstation.
        let mut rig = match guest.arch {
            Arch::X86_64 => suites::kernel::names(places, &suites::kernel::WITH_HOST)?,
            Arch::Arm64 | Arch::Um => Vec::new(),
        };
        if guest.arch != Arch::Um {
            rig.extend(own(suites::own(guest)));
        }
        plan.rig = pick(rig);
        if !choice.wide && choice.filter.is_empty() {
            for tests in [&mut plan.our_device, &mut plan.rig] {
                let watched = guest.is_debug() && guest.arch == Arch::Um;
                let long = |t: &str| !watched && suites::turns::is_long(t);
                tests.retain(|t| !suites::is_wide(t) && !long(t));
            }
        }
        // Their guests have a kernel of their own.
        if first || guest.arch == Arch::Um {
            plan.hosts = pick(suites::hosts::names());
        }
        // The C driver has no pure code.
        if first && ours {
            plan.cargo = pick(cargo::names(places)?);
            plan.kunit = pick(kunit::names(places)?);
            plan.misuse = pick(misuse::names(places)?);
            plan.headers = pick(headers::names());
        }
        if first && ours {
            let meant = |k: &Kernel| !k.is_first() && (choice.wide || choice.others.contains(k));
            for kernel in Kernel::all()?.into_iter().filter(meant) {
                plan.add(places, kernel, &pick)?;
            }
        }
        Ok(plan)
    }

    /// The core of the suites on one more kernel, where it is one of Debian's that could be obtained.
    fn add(
        &mut self,
        places: &Places,
        kernel: Kernel,
        pick: &dyn Fn(Vec<String>) -> Vec<String>,
    ) -> Result<()> {
        if kernel.is_debians && kernel.folder(&places.cache).join(".complete").exists() {
            let tests = suites::core(&kernel).into_iter();
            let tests = tests.map(|t| format!("{}{}", kernel.prefix(), t.name));
            let tests = pick(tests.collect());
            if !tests.is_empty() {
                self.others.push((kernel, tests));
            }
        }
        Ok(())
    }

    /// The core on all kernels, and machines of other kinds.
    pub fn matrix(places: &Places) -> Result<Self> {
        let wide = |tests: Vec<String>| tests.into_iter().filter(|t| suites::is_wide(t)).collect();
        let own = suites::own(&places.guest).into_iter();
        let mut plan = Self {
            our_device: wide(suites::on_our_device(Driver::Rvsock, places)?),
            rig: wide(own.map(|t| t.name.to_owned()).collect()),
            ..Self::default()
        };
        for kernel in Kernel::all()? {
            plan.add(places, kernel, &|names| names)?;
        }
        Ok(plan)
    }

    /// Only what runs in guests on vhost-vsock.
    pub fn rig_only(mut self) -> Self {
        (self.cargo, self.kunit) = Default::default();
        (self.misuse, self.others) = Default::default();
        (self.vhost_user, self.our_device, self.hosts) = Default::default();
        self
    }

    /// Those on machines of other kinds, by machine, in their order.
    pub fn machines(&self) -> Vec<(&str, Vec<String>)> {
        let mut machines: Vec<(&str, Vec<String>)> = Vec::new();
        for test in self.our_device.iter().chain(&self.rig) {
            let Some(machine) = suites::wide_machine(test) else {
                continue;
            };
            match machines.last_mut() {
                Some((last, tests)) if *last == machine => tests.push(test.clone()),
                _ => machines.push((machine, vec![test.clone()])),
            }
        }
        machines
    }

    pub fn has_guests(&self) -> bool {
        !self.others.is_empty()
            || [&self.vhost_user, &self.our_device, &self.hosts, &self.rig]
                .iter()
                .any(|s| !s.is_empty())
    }

    pub fn all(&self) -> Vec<String> {
        let mut all = [
            &self.cargo,
            &self.kunit,
            &self.misuse,
            &self.vhost_user,
            &self.our_device,
            &self.hosts,
            &self.rig,
        ]
        .map(|s| s.as_slice())
        .concat();
        all.extend(self.others.iter().flat_map(|(_, tests)| tests.clone()));
        if self.has_guests() {
            all.push(LOGS_CLEAN.into());
        }
        all
    }
}
