// SPDX-License-Identifier: GPL-2.0

//! Which tests a run consists of, suite by suite.

use anyhow::Result;
use clap::Args;

use super::{cargo, headers, kunit, misuse, next};
use crate::{
    config::{Driver, Kernel},
    images::Places,
    suites,
};

/// The test that every run with guests ends with.
pub const LOGS_CLEAN: &str = "logs: no kernel complains in any serial log";

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

/// What is to run, suite by suite.
pub struct Plan {
    pub cargo: Vec<String>,
    pub kunit: Vec<String>,
    pub misuse: Vec<String>,
    pub headers: Vec<String>,
    pub next: Vec<String>,
    pub vhost_user: Vec<String>,
    pub our_device: Vec<String>,
    pub hosts: Vec<String>,
    pub rig: Vec<String>,
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
        let mut rig = suites::kernel::names(places, &suites::kernel::WITH_HOST)?;
        rig.extend(own(suites::own(choice.kernel)));
        // The C driver has no pure code, and which kernel a guest has is nothing to it.
        let (cargo, kunit, misuse, headers, next) = match (choice.driver, choice.kernel) {
            (Driver::Rvsock, Kernel::Stock) => (
                cargo::names(places)?,
                kunit::names(places)?,
                misuse::names(places)?,
                headers::names(),
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
            headers: pick(headers),
            next: pick(next),
            vhost_user: pick(own(suites::vhost_user::TESTS.iter().collect())),
            our_device: pick(suites::on_our_device(choice.driver, places)?),
            hosts: pick(hosts),
            rig: pick(rig),
        })
    }

    /// Only what runs in guests on vhost-vsock.
    pub fn rig_only(mut self) -> Self {
        (self.cargo, self.kunit) = Default::default();
        (self.misuse, self.headers, self.next) = Default::default();
        (self.vhost_user, self.our_device, self.hosts) = Default::default();
        self
    }

    pub fn has_guests(&self) -> bool {
        [&self.vhost_user, &self.our_device, &self.hosts, &self.rig]
            .iter()
            .any(|s| !s.is_empty())
    }

    pub fn all(&self) -> Vec<String> {
        let mut all = [
            &self.cargo,
            &self.kunit,
            &self.misuse,
            &self.headers,
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
