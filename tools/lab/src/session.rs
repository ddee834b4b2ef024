// SPDX-License-Identifier: GPL-2.0

//! A guest under test: booted when first needed, with a driver loaded, and booted anew after a failure.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context, Result};
use serde_json::json;

pub use crate::config::{GUEST_CID, HOST_CID, NEIGHBOUR_CID};
use crate::{
    config::{Backend, Config, Driver},
    events::Events,
    kernel::{Arch, Kernel},
    machine::{
        spec::{Spec, Uml},
        Machine, RigDied,
    },
    process::Process,
    socket_device,
};

/// How long a guest may take to boot, and how long it may say nothing meanwhile.
const BOOT_TIME: Duration = Duration::from_secs(240);
const BOOT_SILENCE: Duration = Duration::from_secs(40);
/// The port of vsock_test's control connection in a guest.
pub const CONTROL: u16 = 12345;

/// Where a program of a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Guest,
    Host,
}

impl Side {
    pub fn other(self) -> Side {
        match self {
            Side::Guest => Side::Host,
            Side::Host => Side::Guest,
        }
    }

    /// The CID by which the other side reaches this one.
    pub fn cid(self) -> u32 {
        match self {
            Side::Guest => GUEST_CID,
            Side::Host => HOST_CID,
        }
    }
}

/// TCP ports on the host that lead into the guest.
#[derive(Clone, Copy, Default)]
struct Ports {
    agent: u16,
    control: u16,
}

/// A TCP port of the host that nobody listens on.
pub fn free_tcp_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("a free TCP port")?;
    Ok(listener.local_addr()?.port())
}

pub struct Session {
    pub config: Config,
    pub driver: Driver,
    pub events: Arc<Events>,
    guest: Option<Machine>,
    ports: Ports,
    /// The vhost-user device of the running guest.
    device: Option<Process>,
    /// The other guest on that device, if there is to be one. It comes and goes with ours.
    neighbour: Option<Box<Session>>,
    /// What QEMU is told besides, of the next guest.
    pub extra_arguments: Vec<String>,
    /// What its kernel is told besides.
    pub extra_append: &'static str,
    boots: u32,
    port: u32,
    checked: usize,
}

impl Drop for Session {
    fn drop(&mut self) {
        // User-mode Linux complains of a device that goes first.
        self.discard_guest();
    }
}

impl Session {
    /// The kernel of its guests.
    pub fn kernel(&self) -> &Kernel {
        &self.config.guest
    }

    pub fn new(config: Config, events: Arc<Events>) -> Self {
        crate::process::allow(config.guest.slowness());
        let neighbour = config.neighbour().map(|c| Self::new(c, events.clone()));
        Self {
            driver: config.driver,
            config,
            events,
            guest: None,
            ports: Ports::default(),
            device: None,
            neighbour: neighbour.map(Box::new),
            extra_arguments: Vec::new(),
            extra_append: "",
            boots: 0,
            port: 5000,
            checked: 0,
        }
    }

    fn agent(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.agent))
    }

    /// The TCP port on the host that leads to [`CONTROL`] in the guest.
    pub fn control_port(&self) -> u16 {
        self.ports.control
    }

    /// The other guest.
    pub fn neighbour(&self) -> Result<&Session> {
        self.neighbour.as_deref().context("there is no other guest")
    }

    /// A vsock port that no earlier test has used.
    pub fn fresh_port(&mut self) -> u32 {
        self.port += 1;
        self.port
    }

    pub fn machine(&mut self) -> Result<&mut Machine> {
        self.guest.as_mut().context("no guest is running")
    }

    /// The guest as it is booted; a vhost-user device is started for it.
    fn spec(&mut self, name: String, append: &str) -> Result<Spec> {
        let hardware = self.config.hardware();
        let mut arguments = self.config.accelerator.clone();
        let (agent, control) = (free_tcp_port()?, free_tcp_port()?);
        self.ports = Ports { agent, control };
        arguments.extend(
            [
                "-smp", &hardware.processors.to_string(),
                "-netdev", &format!("user,id=net,hostfwd=tcp:127.0.0.1:{agent}-:9000,hostfwd=tcp:127.0.0.1:{control}-:{CONTROL}"),
                "-device", socket_device::network(hardware.bus),
                "-rtc", "base=utc",
            ]
            .map(str::to_owned),
        );
        arguments.extend(self.start_device()?);
        let uml = (self.config.guest.arch == Arch::Um).then(|| Uml::Guest {
            device: self.config.vhost_user_socket(),
            ports: vec![(agent, 9000), (control, CONTROL)],
        });
        arguments.extend(self.extra_arguments.clone());
        Ok(Spec {
            name,
            kernel: self.config.kernel.clone(),
            arch: self.config.guest.arch,
            initramfs: self.config.guest_initramfs.clone(),
            append: format!(
                "rdinit=/init panic=-1 oops=panic {} {} {} {} {append}",
                self.config.guest.append(),
                self.config.append,
                hardware.append,
                self.extra_append,
            ),
            memory_mib: self.config.memory_mib(),
            arguments,
            uml,
            scratch: self.config.scratch.clone(),
        })
    }

    /// Makes sure that a guest runs with the driver loaded.
    pub fn ensure_guest(&mut self) -> Result<()> {
        if self.runs() {
            return Ok(());
        }
        self.discard_guest();
        let outcome = match self.boot().and_then(|()| self.come_up()) {
            // The rig may have died under it.
            Err(e) if !Self::is_rig_death(&e) => self.settle(Err(e)),
            outcome => outcome,
        };
        if outcome.is_err() {
            self.discard_guest();
        }
        outcome
    }

    fn runs(&mut self) -> bool {
        self.guest.as_mut().is_some_and(Machine::running)
            && self.neighbour.as_mut().is_none_or(|n| n.runs())
    }

    fn boot(&mut self) -> Result<()> {
        self.boots += 1;
        let name = format!(
            "{}-{}-{}",
            self.config.guest_name(),
            self.driver.name(),
            self.boots
        );
        let spec = self.spec(name, "no_console_suspend")?;
        self.guest = Some(self.start(&spec)?);
        self.checked = 0;
        self.neighbour.as_mut().map_or(Ok(()), |n| n.boot())
    }

    fn start(&self, spec: &Spec) -> Result<Machine> {
        let guest = Machine::boot(spec, self.events.clone())?;
        // Only a processor whose virtualisation is emulated is ever not run.
        if self.config.has_kvm() {
            guest.watch();
        }
        Ok(guest)
    }

    fn come_up(&mut self) -> Result<()> {
        self.be_booted()?;
        self.load()?;
        self.neighbour.as_mut().map_or(Ok(()), |n| n.come_up())
    }

    fn be_booted(&mut self) -> Result<()> {
        let slowness = self.config.guest.slowness();
        let guest = self.guest.as_mut().context("no guest is running")?;
        if !guest.comes_up(BOOT_SILENCE * slowness, BOOT_TIME * slowness) {
            return Err(guest.did_not_come_up());
        }
        Ok(())
    }

    /// Saves the running guest to a file; its emulator ends.
    pub fn save(&mut self, file: &Path) -> Result<()> {
        let mut guest = self.guest.take().context("no guest is running")?;
        let uri = format!("file:{}", file.display());
        guest.monitor("stop", json!({}))?;
        guest.monitor("migrate", json!({ "uri": uri }))?;
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let state = guest.monitor("query-migrate", json!({}))?;
            match state["status"].as_str() {
                Some("completed") => break,
                Some("failed" | "cancelled") => bail!("the guest could not be saved: {state}"),
                _ => ensure!(
                    Instant::now() < deadline,
                    "saving the guest takes too long: {state}"
                ),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let complaint = guest
            .serial
            .complaints_since(self.checked)
            .into_iter()
            .next();
        guest.kill();
        ensure!(
            complaint.is_none(),
            "the guest's kernel said: {complaint:?}"
        );
        Ok(())
    }

    /// Starts an emulator with the guest that a file holds, under this CID, and waits until it runs.
    pub fn restore(&mut self, file: &Path, cid: u32) -> Result<()> {
        self.boots += 1;
        let name = format!("guest-{}-{}-restored", self.driver.name(), self.boots);
        let mut spec = self.spec(name, "no_console_suspend")?;
        let (old, new) = (format!("guest-cid={GUEST_CID}"), format!("guest-cid={cid}"));
        for word in &mut spec.arguments {
            *word = word.replace(&old, &new);
        }
        spec.arguments
            .extend(["-incoming".into(), format!("file:{}", file.display())]);
        let mut guest = self.start(&spec)?;
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match guest.monitor("query-status", json!({})) {
                Ok(state) if state["status"] == "running" => break,
                // As it was saved.
                Ok(state) if state["status"] == "paused" => drop(guest.monitor("cont", json!({}))?),
                _ if guest.running() && Instant::now() < deadline => {}
                state => {
                    let why = guest.diagnose(0)?;
                    bail!("the saved guest does not run ({state:?}): {why}");
                }
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        self.guest = Some(guest);
        self.checked = 0;
        Ok(())
    }

    /// The machine type and socket device for QEMU; a vhost-user device is started anew for every guest.
    fn start_device(&mut self) -> Result<Vec<String>> {
        // The other guest's is there already.
        if let (Backend::VhostUser(program), GUEST_CID) = (&self.config.backend, self.config.cid) {
            if let Some(old) = self.device.take() {
                // While it is there, so are its sockets.
                old.kill();
                old.wait(Duration::from_secs(10))?;
            }
            let neighbour = self.neighbour.as_ref().map(|n| &n.config);
            self.device = Some(program.start(&self.config, neighbour)?);
        }
        Ok(socket_device::arguments(&self.config))
    }

    /// The vhost-user device of the running guest.
    pub fn vhost_user_device(&self) -> Result<&Process> {
        self.device.as_ref().context("no vhost-user device runs")
    }

    /// A guest whose console is this program's own terminal, with the driver loaded.
    pub fn shell(&mut self) -> Result<()> {
        let modules = self.driver.modules().join(",");
        self.spec("shell".into(), &format!("quiet rvsock.shell={modules}"))?
            .on_terminal()
    }

    pub fn discard_guest(&mut self) {
        self.guest = None;
        if let Some(neighbour) = &mut self.neighbour {
            neighbour.discard_guest();
        }
    }

    /// Starts a program on one side.
    pub fn spawn(&self, side: Side, argv: &[&str]) -> Result<Process> {
        let mut argv: Vec<String> = argv.iter().map(|s| s.to_string()).collect();
        match side {
            Side::Guest => Process::in_guest(self.agent(), &argv),
            Side::Host => {
                let program = self.config.programs.join(&argv[0]);
                if program.exists() {
                    argv[0] = program.to_string_lossy().into_owned();
                }
                if let Some(uds) = self.config.vhost_user_uds() {
                    let uds = format!("{}={}", guest::unix::VARIABLE, uds.display());
                    argv.splice(0..0, ["env".into(), uds]);
                }
                Process::on_host(&argv)
            }
        }
    }

    /// Starts rvtest with the words of `command` on one side.
    pub fn rvtest(&self, side: Side, command: &str) -> Result<Process> {
        let argv: Vec<&str> = std::iter::once("rvtest")
            .chain(command.split_whitespace())
            .collect();
        self.spawn(side, &argv)
    }

    /// Starts a server of rvtest and waits until it listens.
    pub fn server(&self, side: Side, command: &str) -> Result<Process> {
        let server = self.rvtest(side, command)?;
        server.expect("READY", Duration::from_secs(20))?;
        Ok(server)
    }

    /// Runs a shell command in the guest; it must succeed.
    pub fn guest_sh(&self, script: &str) -> Result<String> {
        self.spawn(Side::Guest, &["sh", "-c", script])?
            .success(Duration::from_secs(30))
    }

    /// Runs a shell command in the guest; gives its exit code too.
    pub fn guest_try(&self, script: &str, timeout: Duration) -> Result<(i32, String)> {
        self.spawn(Side::Guest, &["sh", "-c", script])?
            .wait(timeout)
    }

    /// Loads the driver, if it is not in the kernel itself.
    pub fn load(&self) -> Result<()> {
        for module in self.driver.modules() {
            let parameters = self.parameters();
            self.guest_sh(&format!(
                "[ ! -e /modules/{module}.ko ] && [ -e /sys/module/{module} ] || insmod /modules/{module}.ko {parameters}"
            ))
                .with_context(|| format!("loading {module} into the guest"))?;
        }
        match (&self.config.backend, self.driver) {
            (Backend::VhostUser(device), Driver::Rvsock) if !device.then.is_empty() => {
                self.guest_sh(&device.then).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// What our driver is loaded with.
    fn parameters(&self) -> &str {
        match (&self.config.backend, self.driver) {
            (Backend::VhostUser(device), Driver::Rvsock) => &device.parameters,
            _ => "",
        }
    }

    /// Loads the driver under test anew, with `parameters`; gives the place in the guest's log before that. User-mode Linux
    /// cannot give a device to a second driver, and boots anew.
    pub fn load_anew(&mut self, parameters: &str) -> Result<usize> {
        if self.config.guest.arch == Arch::Um {
            self.discard_guest();
            self.boot()?;
            self.be_booted()?;
        } else {
            self.unload_when_free()?;
        }
        let mark = self.machine()?.serial.mark();
        self.guest_sh(&format!("insmod /modules/rvsock.ko {parameters}"))?;
        Ok(mark)
    }

    pub fn unload(&self) -> Result<()> {
        for module in self.driver.modules().iter().rev() {
            self.guest_sh(&format!("rmmod {module}"))
                .with_context(|| format!("unloading {module}"))?;
        }
        Ok(())
    }

    /// rmmod works as soon as the last closing socket is gone, which may take the eight seconds of an unanswered close, and
    /// more where much else runs.
    pub fn unload_when_free(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match self.unload() {
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(200))
                }
                outcome => return outcome,
            }
        }
    }

    /// The virtio device of the socket: its name on the bus, and its driver's.
    pub fn device(&self) -> Result<(String, String)> {
        let text = self.guest_sh(
            "for d in /sys/bus/virtio/devices/*; do [ $(cat $d/device) = 0x0013 ] && echo ${d##*/} $(basename $(readlink $d/driver)); done; true",
        )?;
        let mut words = text.split_whitespace().map(str::to_owned);
        let device = words.next().context("the guest has no virtio device 19")?;
        let driver = words
            .next()
            .with_context(|| format!("no driver is bound to {device}"))?;
        Ok((device, driver))
    }

    /// Ends a test: asks whether the guest is well, and turns a dead rig into `RigDied`.
    pub fn settle(&mut self, outcome: Result<()>) -> Result<()> {
        let outcome = self.settle_alone(outcome);
        match &mut self.neighbour {
            Some(neighbour) => neighbour.settle(outcome),
            None => outcome,
        }
    }

    fn settle_alone(&mut self, outcome: Result<()>) -> Result<()> {
        let agent = self.agent();
        let mark = self.checked;
        let Some(guest) = &mut self.guest else {
            return outcome;
        };
        let well = Process::in_guest(agent, &["true".into()])
            .and_then(|p| p.success(Duration::from_secs(15)))
            .is_ok();
        if !well {
            let verdict = guest.diagnose(mark);
            self.guest = None;
            return match verdict {
                Err(died) => Err(died.into()),
                Ok(why) => match outcome {
                    Ok(()) => bail!("the guest did not survive: {why}"),
                    Err(e) => Err(e.context(format!("the guest did not survive: {why}"))),
                },
            };
        }
        self.check_own_log(outcome)
    }

    /// A complaint in the guest's log fails whatever test it came in.
    pub fn check_log(&mut self, outcome: Result<()>) -> Result<()> {
        let outcome = self.check_own_log(outcome);
        match &mut self.neighbour {
            Some(neighbour) => neighbour.check_log(outcome),
            None => outcome,
        }
    }

    fn check_own_log(&mut self, outcome: Result<()>) -> Result<()> {
        let Some(guest) = &self.guest else {
            return outcome;
        };
        let complaints = guest.serial.complaints_since(self.checked);
        self.checked = guest.serial.mark();
        match complaints.first() {
            Some(line) => {
                self.guest = None;
                bail!("the guest's kernel said: {}", line.trim())
            }
            None => outcome,
        }
    }

    pub fn is_rig_death(e: &anyhow::Error) -> bool {
        e.downcast_ref::<RigDied>().is_some()
    }

    /// Asks the driver's name of the running guest; fails when it is another than the one under test.
    pub fn confirm_driver(&self) -> Result<()> {
        let (device, driver) = self.device()?;
        let want = self.driver.modules().last().copied().unwrap_or_default();
        ensure!(
            driver == want || driver.starts_with("rv") == want.starts_with("rv"),
            "{device} is bound to {driver}, not to {want}"
        );
        Ok(())
    }
}
