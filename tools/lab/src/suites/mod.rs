// SPDX-License-Identifier: GPL-2.0

//! The suites: what each test is called and how it runs.
//!
//! The head of each file says what its tests are about. Against vhost-vsock, or whatever the session has: [`kernel`] (the
//! kernel's own), [`streams`], [`messages`], [`zerocopy`], [`interfaces`], [`programs`], [`samples`], [`faults`],
//! [`lifecycle`], [`device`], [`second_device`], [`snapshot`], [`platform`]. On devices in user space: [`vhost_user`] (another's),
//! [`our_device`], [`profiles`], [`machines`], [`dgram`], [`seen`], [`hosts`] (ours, as others) with [`played`], [`ext`].
//! On either: [`turns`].

pub mod device;
pub mod dgram;
pub mod ext;
pub mod faults;
pub mod hosts;
pub mod interfaces;
pub mod kernel;
pub mod lifecycle;
pub mod machines;
pub mod messages;
pub mod our_device;
pub mod platform;
pub mod played;
pub mod profiles;
pub mod programs;
pub mod samples;
pub mod second_device;
pub mod seen;
pub mod snapshot;
pub mod streams;
pub mod turns;
pub mod vhost_user;
pub mod zerocopy;

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Result};

use crate::{
    config::Driver,
    images::Places,
    kernel::{Arch, Kernel},
    machine::RigDied,
    process::allowed,
    session::Session,
};

/// A test of our own: a name and a function over a session whose guest runs with the driver loaded.
pub struct Test {
    pub name: &'static str,
    pub run: fn(&mut Session) -> Result<()>,
}

/// Our own tests that need a guest, in the order in which they run. The ones that may leave a guest behind come last.
pub fn own(kernel: &Kernel) -> Vec<&'static Test> {
    streams::TESTS
        .iter()
        .chain(messages::TESTS)
        .chain(zerocopy::TESTS)
        .chain(interfaces::TESTS)
        .chain(programs::TESTS)
        .chain(samples::TESTS)
        .chain(turns::TESTS)
        .chain(dgram::WITHOUT)
        .chain(faults::TESTS)
        .chain(lifecycle::TESTS)
        .chain(device::TESTS)
        .chain(second_device::TESTS)
        .chain(snapshot::TESTS)
        .chain(platform::TESTS)
        .filter(|t| !(kernel.has_driver && turns::has(t.name)))
        .filter(|t| {
            platform::runs_on(kernel, t.name) && (kernel.is_debug() || !needs_debug(t.name))
        })
        .collect()
}

/// Whether a test needs what our own kernel alone has: to find leaks, and to fail where memory is asked for.
pub fn needs_debug(test: &str) -> bool {
    ["leaks: ", "faults: ", our_device::STARVED]
        .iter()
        .any(|p| test.starts_with(p))
}

/// The machine of a test that runs only when it is asked for: one of another kind, where the driver does nothing else.
pub fn wide_machine(test: &str) -> Option<&str> {
    if let Some(rest) = test.strip_prefix("machines, ") {
        return rest.split(": ").next();
    }
    test.strip_prefix("platform: ")?.split(", streams").next()
}

/// Whether a test runs only when it is asked for.
pub fn is_wide(test: &str) -> bool {
    wide_machine(test).is_some()
}

/// All ways to start our device, each with its tests.
pub fn device_setups() -> impl Iterator<Item = &'static our_device::Setup> {
    our_device::SETUPS
        .iter()
        .chain(profiles::SETUPS)
        .chain(machines::SETUPS)
        .chain(dgram::SETUPS)
        .chain(seen::SETUPS)
        .chain(turns::SETUPS)
        .chain(hosts::EMULATED)
        .chain(ext::SETUPS)
}

/// The tests on our device that a driver can run in guests with this kernel.
pub fn on_our_device(driver: Driver, places: &Places) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for setup in device_setups() {
        let fits = places.guest.arch != Arch::Um || setup.fits_user_mode();
        if fits && (driver == Driver::Rvsock || setup.c_driver) {
            names.extend(setup.names(places)?);
        }
    }
    // Our own kernel has no other transport of datagrams, nor another bus, and needs much memory.
    let stock = |n: &str| {
        n.ends_with(profiles::BESIDE_ANOTHER) || n == ext::TRACED || machines::needs_stock(n)
    };
    // What of Debian's packages runs in guests is of the workstation's processor, and arm64 has no VMCI.
    let own = |n: &str| {
        ["Python", "ss --vsock", profiles::BESIDE_ANOTHER]
            .iter()
            .any(|w| n.contains(w))
            || turns::has(n)
    };
    // A kernel that has the driver in it has no schedulers.
    names.retain(|n| !(places.guest.has_driver && turns::has(n)));
    names.retain(|n| {
        if !places.guest.arch.is_own() && own(n) {
            false
        } else if places.guest.is_debians {
            !needs_debug(n)
        } else {
            !stock(n)
        }
    });
    Ok(names)
}

/// What shows on one more kernel that the driver works there: each kind of socket, both ways; of arm64 also on vhost-vsock,
/// which guests of x86 have in all other suites.
pub fn core(kernel: &Kernel) -> Vec<&'static Test> {
    const CORE: &[&str] = &[
        "vhost-device-vsock: ",
        "rvsock-device, five queues: ",
        "dgram D2, merging: boundaries",
        "dgram D5, merging: 200 sockets",
    ];
    let all = vhost_user::TESTS.iter();
    let mut core: Vec<_> = all
        .chain(device_setups().flat_map(|s| s.tests))
        .filter(|t| CORE.iter().any(|c| t.name.starts_with(c)))
        .collect();
    if kernel.arch == Arch::Arm64 {
        core.extend(own(kernel));
    }
    core
}

/// How often a dead guest is replaced before its host is.
const RIG_RETRIES: u32 = 4;
/// How many guests in a row may fail to boot: where one more has, all that follow do, and another host VM has other luck.
const DEAD_AT_BOOT: u32 = 1;

/// Runs the named tests and reports each.
pub fn run(session: &mut Session, wanted: &[String]) -> Result<()> {
    let (mut deaths, mut at_boot) = (0, 0);
    let mut survive = |session: &mut Session, died: RigDied| -> Result<()> {
        deaths += 1;
        session.events.note(format!(
            "{died} (number {deaths}; the test under way is run again in a new guest)"
        ));
        session.discard_guest();
        at_boot = if died.is_at_boot() { at_boot + 1 } else { 0 };
        if deaths > RIG_RETRIES || at_boot > DEAD_AT_BOOT {
            return Err(died.into());
        }
        Ok(())
    };

    let directions = || {
        kernel::WITH_HOST
            .iter()
            .chain(device_setups().flat_map(|s| s.directions))
    };
    // In all directions first those that count sockets: others may be closing for seconds.
    let rounds = [true, false].into_iter();
    for (direction, counts) in rounds.flat_map(|counts| directions().map(move |d| (d, counts))) {
        let mut left: Vec<String> = wanted
            .iter()
            .filter(|t| direction.owns(t) && kernel::counts_sockets(t) == counts)
            .cloned()
            .collect();
        while !left.is_empty() {
            match kernel::run(session, direction, &mut left) {
                Ok(()) => {}
                Err(e) => survive(session, e.downcast::<RigDied>()?)?,
            }
        }
    }
    for test in own(&session.config.guest)
        .into_iter()
        .chain(vhost_user::TESTS)
        .chain(device_setups().flat_map(|s| s.tests))
        .chain(hosts::setups().flat_map(|s| s.tests))
        .filter(|t| wanted.iter().any(|w| w == t.name))
    {
        loop {
            let start = Instant::now();
            session.events.start(test.name);
            let outcome = session.ensure_guest().and_then(|()| (test.run)(session));
            let outcome = session.settle(outcome);
            match outcome {
                Err(e) if Session::is_rig_death(&e) => {
                    survive(session, e.downcast::<RigDied>()?)?;
                    continue;
                }
                Err(e) => {
                    // What a failed test left behind must not reach the next one.
                    session.discard_guest();
                    session.events.end(test.name, start.elapsed(), Err(e));
                }
                Ok(()) => session.events.end(test.name, start.elapsed(), Ok(())),
            }
            break;
        }
    }
    Ok(())
}

/// How long a peer may take to see what it must see at once, on an emulated machine: less than the eight seconds after which
/// the driver gives up a close that nobody answers.
pub const AT_ONCE: Duration = Duration::from_secs(7);
/// How long a load may take.
pub const LONG: Duration = Duration::from_secs(120);

/// How often is tried what other programs of a busy workstation may spoil.
pub const TRIES: usize = 3;

/// Asks again and again until there is no error, within `time`; then the last one is the outcome.
pub fn until<T>(time: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + allowed(time);
    loop {
        match ask() {
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            outcome => return outcome,
        }
    }
}

/// Tries up to three times what gives an inner error; the last of these is the outcome, and those before it are noted. An
/// outer one is no matter of time, and the outcome at once.
pub fn tried<T>(
    s: &mut Session,
    mut test: impl FnMut(&mut Session) -> Result<Result<T>>,
) -> Result<T> {
    for _ in 1..TRIES {
        match test(s)? {
            Err(e) => s.events.note(format!("tried again: {e:#}")),
            done => return done,
        }
    }
    test(s)?
}

/// What was measured, in words: an error where it is not as it must be.
pub fn measured(is_right: bool, text: String) -> Result<String> {
    ensure!(is_right, "{text}");
    Ok(text)
}
