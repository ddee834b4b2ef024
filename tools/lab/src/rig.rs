// SPDX-License-Identifier: GPL-2.0

//! A rig: a host with its guests, started from the workstation, and what to do when it dies.
//!
//! The host is the workstation itself if KVM and vhost-vsock work there, or if the guests need neither; else User-mode
//! Linux, with vhost-vsock of its own and guests that are emulated in it. Where the cost of leaving a guest is to be that of
//! KVM it is a host VM, whose virtualization is emulated.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context, Result};
use nix::sys::{prctl::set_pdeathsig, signal::Signal};

use crate::{
    config::{Backend, Config, Driver, Job, VhostUser, GUEST_CID},
    events::{Event, Events},
    images::Places,
    kernel::Arch,
    machine::{
        clock,
        serial::HOST_DIED,
        spec::{Spec, Uml},
        Machine,
    },
};

/// How the host VM is emulated: an AMD processor whose virtualization QEMU emulates in software, without what it cannot.
const NESTED: &[&str] = &[
    "-accel",
    "tcg,thread=multi",
    "-smp",
    "2",
    "-cpu",
    "EPYC,+svm,+npt,-xsavec,-xsaves,-fxsr-opt,-misalignsse,-osvw,-topoext,-nrip-save",
    "-M",
    "q35",
];
const DIRECT: &[&str] = &["-accel", "kvm", "-cpu", "host"];

/// How long the host VM may be silent before its processors are looked at.
const LOOK: Duration = Duration::from_secs(60);

/// A guest alone, fully emulated: enough for devices in user space. Its processor is the best that QEMU knows.
fn emulated(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::X86_64 | Arch::Um => &["-accel", "tcg,thread=multi", "-cpu", "max"],
        // Pointers are authenticated by a hash that is quick to emulate.
        Arch::Arm64 => &["-accel", "tcg,thread=multi", "-cpu", "max,pauth-impdef=on"],
    }
}

pub struct Rig {
    places: Places,
    pub logs: PathBuf,
    /// The workstation is the host.
    direct: bool,
    /// The host has KVM, on a processor whose virtualization is emulated.
    nested: bool,
    /// What is behind the guests' device.
    backend: Backend,
}

enum Running {
    InHostVm(Machine),
    Directly(Child),
}

impl Running {
    fn alive(&mut self) -> bool {
        match self {
            Running::InHostVm(machine) => machine.running(),
            Running::Directly(child) => matches!(child.try_wait(), Ok(None)),
        }
    }

    fn kill(&mut self) {
        match self {
            Running::InHostVm(machine) => machine.kill(),
            Running::Directly(child) => drop(child.kill().and_then(|()| child.wait())),
        }
    }
}

impl Rig {
    /// A rig on the workstation's KVM and vhost-vsock, believed in only after a guest has booted on them.
    pub fn on_own_kvm(places: &Places, logs: &Path, driver: Driver) -> Result<Option<Self>> {
        let usable = |path: &str| OpenOptions::new().read(true).write(true).open(path).is_ok();
        if !places.guest.arch.is_own() || !usable("/dev/kvm") || !usable("/dev/vhost-vsock") {
            return Ok(None);
        }
        let mut rig = Self {
            direct: true,
            ..Self::without_kvm(places.clone(), logs, Backend::Vhost)
        };
        let mut up = false;
        let probe = rig.run(Job::Probe, driver, Duration::from_secs(40), &mut |event| {
            up |= matches!(event, Event::Done);
        });
        Ok((probe.is_ok() && up).then_some(rig))
    }

    /// A rig with KVM: the workstation's, or one that is emulated.
    pub fn with_kvm(places: Places, logs: &Path, driver: Driver) -> Result<Self> {
        Ok(match Self::on_own_kvm(&places, logs, driver)? {
            Some(rig) => rig,
            None => Self {
                nested: true,
                ..Self::without_kvm(places, logs, Backend::Vhost)
            },
        })
    }

    /// A rig for guests on a vhost-user device: it needs no KVM.
    pub fn with_vhost_user(places: Places, logs: &Path, device: VhostUser) -> Self {
        Self::without_kvm(places, logs, Backend::VhostUser(device))
    }

    /// The same, or one for guests on vhost-vsock whose processor is emulated, in User-mode Linux.
    pub fn without_kvm(places: Places, logs: &Path, backend: Backend) -> Self {
        Self {
            places,
            logs: logs.to_owned(),
            direct: matches!(backend, Backend::VhostUser(_)),
            nested: false,
            backend,
        }
    }

    pub fn describe(&self) -> &'static str {
        if self.direct {
            "guests run on the workstation's KVM and vhost-vsock"
        } else if self.nested {
            "no working KVM with /dev/vhost-vsock here: guests run in an emulated host VM (slow, and as real)"
        } else if self.places.guest.arch.is_own() {
            "no working KVM with /dev/vhost-vsock here: guests are emulated, on the vhost-vsock of User-mode Linux"
        } else {
            "guests are emulated, on the vhost-vsock of User-mode Linux"
        }
    }

    /// Runs a job and hands its events over as they come. An error means that the rig itself failed.
    pub fn run(
        &mut self,
        job: Job,
        driver: Driver,
        silence: Duration,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        fs::create_dir_all(&self.logs)?;
        let file = self.logs.join("events.jsonl");
        File::create(&file)?;
        let mut running = if self.direct {
            let config = self.direct_config(job, driver)?;
            Running::Directly(
                self.on_host(&config)?
                    .stdin(Stdio::null())
                    .spawn()
                    .context("cannot start the lab on the host")?,
            )
        } else {
            let own_log = Arc::new(Events::to(Path::new("/dev/null"))?);
            let spec = self.host_vm(job, driver, "")?;
            let machine = Machine::boot(&spec, own_log)?;
            if spec.uml.is_none() {
                machine.be_nice();
            }
            Running::InHostVm(machine)
        };
        let silence = silence * self.places.guest.slowness();
        let outcome = self.follow(&mut running, &file, silence, on_event);
        if let Running::InHostVm(machine) = &mut running {
            machine.wait_end(Duration::from_secs(15));
            std::thread::sleep(Duration::from_millis(200));
            if self.nested && outcome.is_err() {
                machine.serial.push(format!("lab: {HOST_DIED}"));
            }
            let log = (1..)
                .map(|n| self.logs.join(format!("host-vm-{n}.log")))
                .find(|path| !path.exists());
            let text = machine.serial.since(0).join("\n") + "\n";
            log.map_or(Ok(()), |path| fs::write(path, text))?;
        }
        running.kill();
        outcome
    }

    /// Hands the terminal to a guest.
    pub fn shell(&self, driver: Driver) -> Result<()> {
        if self.direct {
            let status = self
                .on_host(&self.direct_config(Job::Shell, driver)?)?
                .status()?;
            ensure!(status.success(), "the lab on the host ended with {status}");
            return Ok(());
        }
        self.host_vm(Job::Shell, driver, "quiet loglevel=3")?
            .on_terminal()
    }

    /// The lab on the host, where that is the workstation.
    fn on_host(&self, config: &Config) -> Result<Command> {
        fs::create_dir_all(&config.scratch)?;
        let path = config.scratch.join("lab.json");
        fs::write(&path, serde_json::to_vec(config)?)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("on-host").arg(&path);
        // SAFETY: Between fork and exec only a system call is made.
        unsafe {
            command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?));
        }
        Ok(command)
    }

    fn direct_config(&self, job: Job, driver: Driver) -> Result<Config> {
        let (accelerator, append) = match (&self.backend, self.places.guest.arch) {
            // KVM says itself how fast its clock is.
            (Backend::Vhost, _) => (DIRECT, String::new()),
            (_, Arch::X86_64) => (emulated(Arch::X86_64), clock::append()),
            (_, arch) => (emulated(arch), String::new()),
        };
        Ok(Config {
            extras: self.places.extras(&job)?,
            job,
            cid: GUEST_CID,
            driver,
            guest: self.places.guest.clone(),
            kernel: self.places.guest_kernel(),
            guest_initramfs: match &self.backend {
                Backend::VhostUser(d) if d.hardware.wants_small_image() => {
                    self.places.small_guest()?
                }
                _ => self.places.guest()?,
            },
            accelerator: accelerator.iter().map(|s| s.to_string()).collect(),
            append,
            backend: self.backend.clone(),
            programs: self.places.programs()?,
            scratch: self.logs.join("scratch"),
            events: self.logs.join("events.jsonl"),
        })
    }

    /// The host VM, whose first program runs the lab.
    fn host_vm(&self, job: Job, driver: Driver, append: &str) -> Result<Spec> {
        let host = Places::host_kernel(self.nested)?;
        let guest = self.places.guest.arch;
        let (accelerator, tells) = match host.arch {
            Arch::Um => (emulated(guest), "/dev/tty1"),
            Arch::X86_64 | Arch::Arm64 => (DIRECT, "/dev/vport0p1"),
        };
        let clock = match (host.arch, guest) {
            (Arch::Um, Arch::X86_64) => clock::append(),
            _ => String::new(),
        };
        let config = Config {
            job,
            cid: GUEST_CID,
            driver,
            guest: self.places.guest.clone(),
            kernel: "/guest/vmlinuz".into(),
            guest_initramfs: "/guest/initramfs".into(),
            accelerator: accelerator.iter().map(|s| s.to_string()).collect(),
            append: clock,
            backend: Backend::Vhost,
            programs: "/bin".into(),
            extras: "/guest/extras".into(),
            scratch: "/tmp".into(),
            events: tells.into(),
        };
        let image = self.places.host(&host, &config, &self.places.guest()?)?;
        let events = self.logs.join("events.jsonl");
        let mut spec = Spec {
            name: "host-vm".into(),
            arch: host.arch,
            kernel: host.folder(&self.places.cache).join("vmlinuz"),
            initramfs: image,
            append: format!("rdinit=/init panic=-1 {append}"),
            // A guest, a file with another one's memory, its initramfs twice, and what runs there.
            memory_mib: 2560 + 2 * self.places.guest.memory_mib(),
            arguments: Vec::new(),
            uml: None,
            scratch: std::env::temp_dir(),
        };
        if host.arch == Arch::Um {
            spec.uml = Some(Uml::Host { events });
            // Where several may be at once.
            spec.scratch = self.logs.clone();
            return Ok(spec);
        }
        let mut arguments: Vec<String> = NESTED.iter().map(|s| s.to_string()).collect();
        arguments.extend([
            "-device".into(),
            "virtio-serial-pci".into(),
            "-chardev".into(),
            format!("file,id=events,path={}", events.display()),
            "-device".into(),
            "virtserialport,chardev=events,name=rvsock.events,nr=1".into(),
        ]);
        spec.arguments = arguments;
        // A busy machine has an emulated timer tick too late for the kernel's check of it.
        spec.append += &format!(" mitigations=off no_timer_check {}", clock::append());
        Ok(spec)
    }

    fn follow(
        &self,
        running: &mut Running,
        file: &Path,
        silence: Duration,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        let mut reader = BufReader::new(File::open(file)?);
        let (mut line, mut heard) = (String::new(), Instant::now());
        let mut looked = heard;
        loop {
            let ended = !running.alive();
            while reader.read_line(&mut line)? > 0 {
                if !line.ends_with('\n') {
                    break;
                }
                heard = Instant::now();
                let event: Event = serde_json::from_str(&line)
                    .with_context(|| format!("an event that cannot be read: {line}"))?;
                line.clear();
                if let Event::Log { file, line } = &event {
                    self.keep(file, line)?;
                }
                on_event(&event);
                if matches!(event, Event::Done) {
                    return Ok(());
                }
            }
            if ended {
                let last = match running {
                    Running::InHostVm(machine) => {
                        machine.serial.since(0).last().cloned().unwrap_or_default()
                    }
                    Running::Directly(_) => String::new(),
                };
                bail!("the rig ended before its job was done; its last line: {last}");
            }
            if let Running::InHostVm(machine) = running {
                if heard.elapsed().min(looked.elapsed()) > LOOK {
                    looked = Instant::now();
                    if let Some(cpu) = machine.deaf_processor() {
                        bail!("processor {cpu} of the host VM hears no interrupts any more");
                    }
                }
            }
            ensure!(
                heard.elapsed() < silence,
                "the rig said nothing for {silence:?}"
            );
            std::thread::sleep(Duration::from_millis(40));
        }
    }

    fn keep(&self, name: &str, line: &str) -> Result<()> {
        let path = self.logs.join(format!("{name}.log"));
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        Ok(writeln!(file, "{line}")?)
    }
}
