// SPDX-License-Identifier: GPL-2.0

//! One virtual machine: its emulator, its console, its monitor; and how to tell a dead rig from a dead guest.

pub mod clock;
pub mod monitor;
pub mod serial;
pub mod spec;
pub mod uml;

use std::{
    fmt,
    process::Child,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{anyhow, Context, Result};
use nix::{
    sys::signal::{kill, Signal},
    unistd::Pid,
};
use serde_json::{json, Value};

use self::{
    monitor::Monitor,
    serial::{is_stall, Serial, ASKED, NOT_RUN, NOT_UP},
    spec::{start, Spec},
};
use crate::events::Events;

/// The emulator failed, not what runs in it: the only failure that may be tried again.
#[derive(Debug)]
pub struct RigDied(pub String);

impl RigDied {
    /// Before there was a guest to speak of.
    pub fn is_at_boot(&self) -> bool {
        self.0.contains(NOT_UP)
    }
}

impl fmt::Display for RigDied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the rig died: {}", self.0)
    }
}

impl std::error::Error for RigDied {}

pub struct Machine {
    pub name: String,
    pub serial: Arc<Serial>,
    child: Child,
    /// The network of a guest that is a process.
    network: Option<Child>,
    monitor: Monitor,
    events: Arc<Events>,
}

impl Machine {
    pub fn boot(spec: &Spec, events: Arc<Events>) -> Result<Self> {
        let monitor = Monitor::at(spec.scratch.join(format!("{}.qmp", spec.name)));
        let (mut child, network) = match &spec.uml {
            Some(uml) => uml::start(uml, spec)?,
            None => {
                let mut command = spec.command();
                command.arg("-qmp").arg(monitor.argument());
                (start(&mut command)?, None)
            }
        };
        let (console, emulator) = (child.stdout.take(), child.stderr.take());
        let serial = Serial::follow(
            &spec.name,
            console.context("no console pipe")?,
            emulator.context("no pipe for the emulator's messages")?,
            events.clone(),
        );
        Ok(Self {
            name: spec.name.clone(),
            serial,
            child,
            network,
            monitor,
            events,
        })
    }

    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until the agent answers in it; false if nothing is heard of the machine for `silence`, or it takes
    /// longer than `limit`.
    pub fn comes_up(&mut self, silence: Duration, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let before = self.serial.mark();
            if self
                .serial
                .wait_for(0, "agent: listening", silence)
                .is_some()
            {
                return true;
            }
            let silent = self.serial.mark() == before;
            if silent || Instant::now() > deadline || !self.running() {
                return false;
            }
        }
    }

    /// Why: the emulator's fault, unless its kernel says something else, as no driver of ours is loaded yet.
    pub fn did_not_come_up(&mut self) -> anyhow::Error {
        if let Some(status) = self.child.try_wait().ok().flatten() {
            if !status.success() && self.serial.rig_failure().is_none() {
                let said = self.serial.since(0).join("\n");
                return anyhow!("QEMU of {} ended with {status}: {said}", self.name);
            }
        }
        if self.network.is_some() {
            let last = self.serial.since(0).last().cloned().unwrap_or_default();
            return anyhow!("User-mode Linux did not come up; its last line: {last}");
        }
        let mut complaints = self.serial.complaints_since(0).into_iter();
        match complaints.find(|l| !l.starts_with("qemu: ") && !is_stall(l)) {
            Some(complaint) => anyhow!("the guest did not come up: {}", complaint.trim()),
            None => {
                let line = format!("lab: {} {NOT_UP}", self.name);
                self.log(line.clone());
                RigDied(line).into()
            }
        }
    }

    /// Adds a line of our own to the machine's log, where every later look finds it.
    fn log(&self, line: String) {
        self.events.log(&self.name, &line);
        self.serial.push(line);
    }

    /// Waits for the emulator to end by itself.
    pub fn wait_end(&mut self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while self.running() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    pub fn kill(&mut self) {
        for child in std::iter::once(&mut self.child).chain(&mut self.network) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Has the machine stand still, or go on. Unlike the monitor's "stop" it tells nobody: devices in other processes
    /// work on.
    pub fn freeze(&self, still: bool) -> Result<()> {
        let signal = if still {
            Signal::SIGSTOP
        } else {
            Signal::SIGCONT
        };
        Ok(kill(Pid::from_raw(self.child.id() as i32), signal)?)
    }

    /// Sends one command to the monitor and gives its answer.
    pub fn monitor(&self, command: &str, arguments: Value) -> Result<Value> {
        self.monitor.ask(command, arguments)
    }

    /// Ends the machine as soon as the emulator is found not to run one of its processors.
    pub fn watch(&self) {
        let (serial, events, name) = (self.serial.clone(), self.events.clone(), self.name.clone());
        self.monitor.clone().watch(move |cpu| {
            let line = format!("lab: {cpu} of {name} {NOT_RUN}");
            events.log(&name, &line);
            serial.push(line);
        });
    }

    /// A processor of it that hears no interrupts: see [`Monitor::deaf_processor`].
    pub fn deaf_processor(&self) -> Option<usize> {
        self.monitor.deaf_processor()
    }

    /// Has its processors' threads give way to the emulator's others: see `Monitor::be_nice`.
    pub fn be_nice(&self) {
        self.monitor.clone().be_nice();
    }

    /// Finds out why a machine fell silent. `Err(RigDied)`: the emulator's fault; otherwise the words to fail with.
    pub fn diagnose(&mut self, mark: usize) -> Result<String, RigDied> {
        // What the console still has to say comes through a pipe.
        std::thread::sleep(Duration::from_millis(300));
        if self.running() {
            if let Some(cpu) = self.monitor.stopped_processor() {
                self.log(format!("lab: {cpu} of {} {NOT_RUN}", self.name));
            }
        }
        // Who asked by the NMI says what it has learnt a little later.
        if self
            .serial
            .complaints_since(mark)
            .iter()
            .any(|l| l.contains(ASKED))
        {
            self.serial.wait_for(mark, NOT_RUN, Duration::from_secs(2));
        }
        let rig_failure = self.serial.rig_failure();
        let mut complaints = self.serial.complaints_since(mark).into_iter();
        if let Some(complaint) = complaints.find(|l| !l.starts_with("qemu: ")) {
            // What follows the first word of a stall follows from it.
            if rig_failure.is_none() || !is_stall(&complaint) {
                return Ok(format!("its kernel said: {}", complaint.trim()));
            }
        }
        if self.network.is_some() {
            // Nothing is emulated that could fail in its place.
            let end = self.child.try_wait().ok().flatten();
            return Ok(end.map_or("it fell silent".into(), |e| format!("it ended ({e})")));
        }
        if let Some(line) = rig_failure {
            return Err(RigDied(line));
        }
        if let Some(status) = self.child.try_wait().ok().flatten() {
            let last = self.serial.since(0).last().cloned().unwrap_or_default();
            return Err(RigDied(format!(
                "QEMU of {} ended ({status}) without a word from its kernel; the last line: {last}",
                self.name
            )));
        }
        // A guest that still runs answers an NMI with a panic (the init script asked for that) or at least a line.
        let before = self.serial.mark();
        if let Err(e) = self.monitor("inject-nmi", json!({})) {
            return Err(RigDied(format!("QEMU of {} is stuck: {e:#}", self.name)));
        }
        for _ in 0..40 {
            std::thread::sleep(Duration::from_millis(500));
            if self.serial.mark() > before {
                std::thread::sleep(Duration::from_secs(2));
                return Ok("it fell silent, though its processors run: see its log for where they were when an NMI came".into());
            }
        }
        let status = self.monitor("query-status", json!({})).unwrap_or_default();
        Err(RigDied(format!(
            "{} stands still, even for an NMI (QEMU says {status})",
            self.name
        )))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}
