// SPDX-License-Identifier: GPL-2.0

//! The lab: boots machines, runs the suites in and against them, shows and measures the driver.
//!
//! # The machines
//!
//! - The *workstation* is where somebody started the lab.
//! - The *host* runs the guests, and is the other end of their sockets. It is the workstation itself, or, where that
//!   has no working KVM with vhost-vsock, a *host VM*: User-mode Linux, or, to measure, one that is emulated and has KVM.
//! - The *guest* is under test; the *neighbour* is a second one on the same device.
//! - A *rig* is a host with its guests: what may die of its own fault, and is tried again then.
//! - A *session* is a guest as its tests see it: booted when needed, and anew after a failure.
//! - A *side* is guest or host: where a program of a test runs.
//!
//! The same program runs on both: `lab test` on the workstation, and, started by that, `lab on-host` on the host, which
//! reports by a file of events.
//!
//! # The modules, from the top
//!
//! - [`workstation`]: what somebody starts: tests, demo, bench, a shell; and the suites that need no guest.
//! - [`rig`]: starts a host with its guests, follows its events, and knows when it has died.
//! - [`host`]: the lab on the host: does the job that it is given.
//! - [`suites`]: the tests that need a guest; a file or a folder each.
//! - [`mod@bench`], [`demo`]: measure the driver, and show it.
//! - [`session`]: a guest as its tests see it.
//! - [`socket_device`]: the guest's device, and the program behind it.
//! - [`machine`]: one virtual machine: emulator, console, monitor; how it fails.
//! - [`process`]: a program that a test drives, on either side.
//! - [`images`]: the file systems that machines boot, and where all that goes into them lies.
//! - [`kernel`]: which kernels there are.
//! - [`report`]: counts, and shows.
//! - [`events`], [`config`]: what the host tells the workstation, and the other way round.
//!
//! To add a test: write a function over a [`session::Session`] in the file of [`suites`] that it belongs to, and an
//! entry with its name in the list there.

mod bench;
mod config;
mod demo;
mod events;
mod host;
mod images;
mod kernel;
mod machine;
mod process;
mod report;
mod rig;
mod session;
mod socket_device;
mod suites;
mod workstation;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use kernel::Kernel;
use workstation::{Choice, InGuest};

/// Boots guests with the driver and shows, tests or measures it.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything that must hold
    Test {
        #[command(flatten)]
        choice: Choice,
        /// Only say which tests there are
        #[arg(long)]
        list: bool,
    },
    /// Run the kernel's tests, or those that a filter picks, again and again until one fails
    Soak {
        #[command(flatten)]
        choice: Choice,
        #[arg(long, default_value_t = 10)]
        rounds: u32,
    },
    /// Show the driver at work
    Demo {
        #[command(flatten)]
        guest: InGuest,
    },
    /// Measure the C driver and this one in turn
    Bench {
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// Short cells: to see that it works
        #[arg(long)]
        quick: bool,
        /// Measure only the cells of both drivers whose name contains this; may be given several times
        #[arg(long = "cell", value_name = "TEXT")]
        cells: Vec<String>,
        /// What is measured
        #[arg(long, value_enum, default_value = "all")]
        part: workstation::Part,
        /// The kernel of the guests, by its name in scripts/kernels
        #[arg(long, value_name = "NAME")]
        kernel: Option<Kernel>,
    },
    /// The core of the suites on every kernel, machines of other kinds, and a table
    Matrix,
    /// An interactive guest
    Shell {
        #[command(flatten)]
        guest: InGuest,
    },
    /// What the workstation starts on the host
    #[command(hide = true)]
    OnHost { config: PathBuf },
}

fn run() -> Result<bool> {
    match Cli::parse().command {
        Command::Test { choice, list: true } => workstation::list(&choice).map(|()| true),
        Command::Test {
            choice,
            list: false,
        } => workstation::test(&choice),
        Command::Soak { choice, rounds } => workstation::soak(&choice, rounds),
        Command::Demo { guest } => workstation::demo(&guest),
        Command::Bench {
            rounds,
            quick,
            cells,
            part,
            kernel,
        } => workstation::bench(rounds, quick, &cells, part, kernel),
        Command::Matrix => workstation::matrix(),
        Command::Shell { guest } => workstation::shell(&guest),
        Command::OnHost { config } => host::run(&config).map(|()| true),
    }
}

fn main() -> ExitCode {
    let outcome = run();
    if let Ok(places) = images::Places::from_environment() {
        places.remove_images();
    }
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("lab: error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
