// SPDX-License-Identifier: GPL-2.0

//! The suites in pieces: each is one way to start a device, with a rig of its own, so that some can run beside each other.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{anyhow, Result};

use super::{plan::Plan, start_until_done};
use crate::{
    config::{Backend, Driver, Job},
    images::Places,
    kernel::{Arch, Kernel},
    report::Report,
    rig::Rig,
    suites,
};

/// Tests that share a rig.
struct Piece {
    kernel: Kernel,
    backend: Backend,
    /// What their names have before them in the report.
    prefix: String,
    /// By those names.
    tests: Vec<String>,
}

impl Piece {
    /// All that `wanted` has, of a kernel's suites on devices in user space. User-mode Linux runs for the first kernel what
    /// needs no machine of its own, where no kernel is named before the tests.
    fn all(places: &Places, driver: Driver, prefix: &str, wanted: &[String]) -> Result<Vec<Self>> {
        let own: Vec<_> = wanted
            .iter()
            .filter_map(|t| t.strip_prefix(prefix))
            .collect();
        let pick = |tests: &'static [suites::Test], more: Vec<String>| -> Vec<String> {
            let names = more
                .into_iter()
                .chain(tests.iter().map(|t| t.name.to_owned()));
            names.filter(|t| own.contains(&t.as_str())).collect()
        };
        let guest = &places.guest;
        let uml = Kernel::uml()?;
        let of = |kernel: &Kernel, backend, tests: Vec<String>| Self {
            kernel: kernel.clone(),
            backend,
            prefix: prefix.into(),
            tests: tests.iter().map(|t| format!("{prefix}{t}")).collect(),
        };
        let program = places.built("rvsock-device");
        let others = of(
            guest,
            Backend::VhostUser(suites::vhost_user::device(places)),
            pick(suites::vhost_user::TESTS, Vec::new()),
        );
        let vhost = suites::own(guest).into_iter().map(|t| t.name.to_owned());
        let vhost = of(guest, Backend::Vhost, pick(&[], vhost.collect()));
        let ours = suites::device_setups().map(|setup| {
            let names = setup.names(places).unwrap_or_default();
            let tests = names.into_iter().filter(|t| own.contains(&t.as_str()));
            let native = guest.is_first() && setup.machine.any && prefix.is_empty();
            let kernel = if native { &uml } else { guest };
            let device = setup.device(&program, driver);
            of(kernel, Backend::VhostUser(device), tests.collect())
        });
        Ok([others, vhost]
            .into_iter()
            .chain(ours)
            .filter(|p| !p.tests.is_empty())
            .collect())
    }

    /// Those on vhost-vsock, where the workstation has none that works: each has a host of its own.
    fn on_vhost(places: &Places, wanted: &[String]) -> Vec<Self> {
        let parts = suites::kernel::WITH_HOST.iter().map(|d| Some(d.prefix));
        let belongs = |part: Option<&str>, test: &str| match part {
            Some(prefix) => test.starts_with(prefix),
            None => !suites::kernel::WITH_HOST
                .iter()
                .any(|d| test.starts_with(d.prefix)),
        };
        let all = parts.chain([None]).map(|part| Self {
            kernel: places.guest.clone(),
            backend: Backend::Vhost,
            prefix: String::new(),
            tests: wanted
                .iter()
                .filter(|t| belongs(part, t))
                .cloned()
                .collect(),
        });
        all.filter(|p| !p.tests.is_empty()).collect()
    }

    /// Those on hosts of other kinds, in User-mode Linux.
    fn hosts(places: &Places, driver: Driver, wanted: &[String]) -> Result<Vec<Self>> {
        let program = places.built("rvsock-device");
        let kernel = match places.guest.arch {
            Arch::Um => places.guest.clone(),
            _ => Kernel::uml()?,
        };
        let all = suites::hosts::setups().map(|setup| Self {
            kernel: kernel.clone(),
            backend: Backend::VhostUser(setup.device(&program, driver)),
            prefix: String::new(),
            tests: setup
                .tests
                .iter()
                .map(|t| t.name.to_owned())
                .filter(|t| wanted.contains(t))
                .collect(),
        });
        Ok(all.filter(|p| !p.tests.is_empty()).collect())
    }

    fn run(self, places: &Places, driver: Driver, report: &Report, logs: &Path) {
        report.busy(&format!("guests of the kernel '{}' ...", self.kernel.name));
        let mut rig = Rig::without_kvm(places.with_guest(self.kernel), logs, self.backend);
        start_until_done(
            &mut rig,
            &self.tests,
            &self.prefix,
            driver,
            report,
            Job::Tests,
        );
    }
}

/// How much User-mode Linux gives way to what is emulated: it gets a quarter of a processor still, as some of its tests wait
/// for no more than seconds.
const NICE: i32 = 5;

/// Has this thread, and the programs that it starts, give way to others.
fn give_way() {
    // SAFETY: A system call without pointers, about the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// Runs what the plan has of them, `first` before them, and those of User-mode Linux beside all of it, where it finds time.
pub fn run(
    places: &Places,
    plan: &Plan,
    driver: Driver,
    report: &Report,
    logs: &Path,
    on_vhost: &[String],
    first: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let own = [plan.vhost_user.as_slice(), &plan.our_device].concat();
    let mut pieces = Piece::on_vhost(places, on_vhost);
    pieces.extend(Piece::all(places, driver, "", &own)?);
    pieces.extend(Piece::hosts(places, driver, &plan.hosts)?);
    for (kernel, tests) in &plan.others {
        let places = places.with_guest(kernel.clone());
        pieces.extend(Piece::all(&places, driver, &kernel.prefix(), tests)?);
    }
    let (native, emulated): (Vec<_>, Vec<_>) =
        pieces.into_iter().partition(|p| p.kernel.arch == Arch::Um);
    let (native, emulated) = (
        Mutex::new(native.into_iter()),
        Mutex::new(emulated.into_iter()),
    );
    let run_lane = |lane, pieces: &Mutex<std::vec::IntoIter<Piece>>| loop {
        let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(piece) = next else { return };
        piece.run(&places.for_lane(lane), driver, report, &logs.join(lane));
    };
    // Whoever finds nothing more to emulate helps.
    let run_both = |lane| {
        run_lane(lane, &emulated);
        run_lane(lane, &native);
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            give_way();
            run_lane("lane-3", &native);
        });
        let other = scope.spawn(|| run_both("lane-2"));
        first()?;
        run_both("lane-1");
        other
            .join()
            .map_err(|_| anyhow!("what runs the suites panicked"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_runs_whole_on_the_kernel_that_its_names_say() {
        let places = Places::from_environment().unwrap();
        for kernel in Kernel::all().unwrap().iter().filter(|k| k.is_debians) {
            let prefix = kernel.prefix();
            let mut wanted: Vec<_> = suites::core(kernel)
                .iter()
                .map(|t| format!("{prefix}{}", t.name))
                .collect();
            let places = places.with_guest(kernel.clone());
            let pieces = Piece::all(&places, Driver::Rvsock, &prefix, &wanted).unwrap();
            assert!(pieces.iter().all(|p| p.kernel == *kernel));
            let mut found: Vec<_> = pieces.into_iter().flat_map(|p| p.tests).collect();
            wanted.sort();
            found.sort();
            assert_eq!(found, wanted);
        }
    }
}
