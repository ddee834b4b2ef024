// SPDX-License-Identifier: GPL-2.0

//! A virtio socket device in user space, for guests of QEMU and others that speak vhost-user.
//!
//! # The modules
//!
//! What one guest's thread works on:
//!
//! - [`guest`]: one guest and its round of the queues; in the files of the folder what it does there: `transmit` and
//!   `receive`, `streams`, `dgram`, `wakeups`, `commands`, `gate` (after a reset), `hostile` (what no honest device
//!   does).
//! - [`connection`], [`credit`]: one connection with a program on the host.
//! - [`ring`], [`packet`]: a queue, and what is on it.
//! - [`fault`]: what is done to a queue on command.
//!
//! What all guests share:
//!
//! - [`switch`]: who has which CID; packets from guest to guest.
//! - [`host`]: the unix sockets on the host.
//! - [`counters`]: what is counted.
//!
//! How it is told what to be:
//!
//! - [`options`], [`features`]: the command line.
//! - [`habits`]: what hosts of other kinds do differently.
//! - [`control`], [`command`]: the control socket, and what it can ask for.
//! - [`backend`]: what the vhost-user library asks of a device.

mod backend;
mod command;
mod connection;
mod control;
mod counters;
mod credit;
mod fault;
mod features;
mod guest;
mod habits;
mod host;
mod options;
mod packet;
mod ring;
mod switch;

use std::{path::Path, process::ExitCode, sync::Arc, thread};

use anyhow::{Context, Result};
use clap::Parser;
use log::{info, warn};
use nix::sys::signal::{SigSet, Signal};
use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use vm_memory::GuestMemoryAtomic;
use vmm_sys_util::epoll::EventSet;

use crate::{
    backend::Backend,
    guest::{Guest, Limits},
    host::Host,
    options::Options,
    ring::{Memory, Space},
    switch::{Shared, Switch},
};

/// One guest after the other on the same socket: each has the device as new.
fn serve(
    mut listener: Listener,
    shared: Arc<Shared>,
    switch: Arc<Switch>,
    host: Arc<Host>,
    limits: Limits,
) -> Result<()> {
    loop {
        let space: Space = GuestMemoryAtomic::new(Memory::new());
        let guest = Guest::new(
            shared.clone(),
            switch.clone(),
            host.clone(),
            limits.clone(),
            space.clone(),
        )
        .context("cannot prepare a guest")?;
        let backend = Arc::new(Backend::new(guest)?);
        let mut daemon =
            VhostUserDaemon::new(shared.name.clone(), backend.clone(), space).map_err(said)?;
        for handler in daemon.get_epoll_handlers() {
            handler.register_listener(backend.epoll_fd(), EventSet::IN, backend.other_events())?;
        }
        daemon.start(&mut listener).map_err(said)?;
        info!("{}: connected", shared.name);
        shared.set_connected(true);
        let outcome = daemon.wait();
        shared.set_connected(false);
        drop(daemon);
        shared.set_running(false);
        match outcome {
            Ok(()) => info!("{}: disconnected", shared.name),
            Err(e) => info!("{}: disconnected: {e}", shared.name),
        }
    }
}

/// The library's errors are no [`std::error::Error`].
fn said(e: vhost_user_backend::Error) -> anyhow::Error {
    anyhow::anyhow!("{e}")
}

fn listen(path: &Path) -> Result<Listener> {
    host::make_way(path)?;
    Listener::new(path, false).with_context(|| format!("cannot listen on {}", path.display()))
}

fn run(options: &Options) -> Result<()> {
    options.check()?;
    let habits = options.habits()?;
    let profile = options.profile(&habits)?;
    // Threads inherit this, so that the signals come here alone.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    if let Err(e) = host::raise_descriptor_limit() {
        warn!("the limit of open files stays as it is: {e}");
    }

    let switch = Arc::new(Switch::default());
    let limits = Limits::new(options, profile, habits);
    let (mut parts, mut files) = (Vec::new(), Vec::new());
    for guest in &options.guest {
        let shared = Arc::new(Shared::new(guest.socket.display().to_string(), guest.cid)?);
        let host = Arc::new(Host::new(&guest.uds, &profile)?);
        parts.push((listen(&guest.socket)?, shared, host));
        files.push(guest.socket.clone());
    }
    let hosts: Vec<_> = parts.iter().map(|(_, _, host)| host.clone()).collect();
    for (listener, shared, host) in parts {
        switch.add(shared.clone());
        let (switch, limits, name) = (switch.clone(), limits.clone(), shared.name.clone());
        thread::Builder::new().name(name).spawn(move || {
            let name = shared.name.clone();
            if let Err(e) = serve(listener, shared, switch, host, limits) {
                // Without this guest's device nothing here is as it was asked for.
                eprintln!("rvsock-device: error: {name}: {e:#}");
                std::process::exit(1);
            }
        })?;
    }
    if let Some(control) = &options.control {
        control::start(control, switch)?;
        files.push(control.clone());
    }
    let signal = signals.wait()?;
    info!("{signal}: the end");
    for file in files {
        let _ = std::fs::remove_file(file);
    }
    for host in hosts {
        host.remove_all();
    }
    Ok(())
}

fn main() -> ExitCode {
    let options = Options::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("rvsock-device: error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
