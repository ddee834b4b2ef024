// SPDX-License-Identifier: GPL-2.0

//! What the machines boot: the guest's file system, and that of the host VM, from the toolchain, the kernel and the build.

pub mod extras;
pub mod initramfs;
mod small;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{ensure, Context, Result};

use self::initramfs::{Initramfs, Modules};
use crate::{
    config::{Config, Driver, Job},
    kernel::{Arch, Kernel},
};

/// Where everything lies; scripts/enter says it through the environment.
#[derive(Clone)]
pub struct Places {
    pub checkout: PathBuf,
    pub cache: PathBuf,
    /// The guests' kernel.
    pub guest: Kernel,
    /// What was built from this checkout.
    own: PathBuf,
    /// What this run makes for its machines; it goes when the run ends.
    images: PathBuf,
}

const PROGRAMS: &[&str] = &[
    "vsock_test",
    "vsock_diag_test",
    "vsock_uring_test",
    "vsock_perf",
];

/// Built from this checkout.
const BUILT: &[&str] = &[
    "rvtest",
    "sample-dgram",
    "sample-seqpacket",
    "sample-stream",
    "vsock_dgram_test",
];

/// The modules that the tests load beside the driver: those of rust/tests/, and a sample.
const TEST_MODULES: &[&str] = &[
    "rust_device_test",
    "rust_ext_test",
    "rust_net_test",
    "rust_fake_virtio",
    "rust_turnstile",
    "rvsock_namesake",
];

impl Places {
    pub fn from_environment() -> Result<Self> {
        let get = |name: &str| -> Result<PathBuf> {
            Ok(std::env::var_os(name)
                .with_context(|| {
                    format!("{name} is not set: start this through 'make' or scripts/lab")
                })?
                .into())
        };
        let own = get("RVSOCK_OWN")?;
        Ok(Self {
            checkout: get("RVSOCK_CHECKOUT")?,
            cache: get("RVSOCK_CACHE")?,
            guest: Kernel::first()?,
            images: own.join(format!("images-{}", std::process::id())),
            own,
        })
    }

    /// The host's kernel: one that has KVM, or else one that runs emulators at the workstation's speed.
    pub fn host_kernel(has_kvm: bool) -> Result<Kernel> {
        if has_kvm {
            Kernel::first()
        } else {
            Kernel::uml()
        }
    }

    /// As `uname -r` says it.
    pub fn release(&self, kernel: &Kernel) -> Result<String> {
        let file = kernel.folder(&self.cache).join("release");
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(text.trim().to_owned())
    }

    pub fn guest_kernel(&self) -> PathBuf {
        self.guest.folder(&self.cache).join("vmlinuz")
    }

    pub fn guest_modules(&self) -> Modules {
        Modules::new(self.guest.folder(&self.cache).join("modules"))
    }

    /// The driver for the guests' kernel, if it is not built into that.
    pub fn driver(&self) -> PathBuf {
        if self.guest.has_driver {
            let modules = self.guest.folder(&self.cache).join("modules");
            modules.join("net/vmw_vsock/rvsock/rvsock.ko")
        } else if self.guest.is_first() {
            self.checkout.join("rust/rvsock.ko")
        } else {
            self.own
                .join(format!("module-{}/rust/rvsock.ko", self.guest.name))
        }
    }

    /// One of the kernel's tests, or ours beside them.
    pub fn kernel_test(&self, name: &str) -> PathBuf {
        self.program(Arch::X86_64, name)
    }

    /// Where a program of [`PROGRAMS`] or [`BUILT`] is, for a processor.
    fn program(&self, arch: Arch, name: &str) -> PathBuf {
        if BUILT.contains(&name) {
            return match arch {
                Arch::Arm64 => self.own.join("bin-arm64").join(name),
                Arch::X86_64 | Arch::Um => self.built(name),
            };
        }
        let arch = match arch {
            Arch::Um => Arch::X86_64.name(),
            arch => arch.name(),
        };
        let source = self.guest.folder(&self.cache).join("source");
        source.join(format!("vsock_tests-{arch}")).join(name)
    }

    /// A program of this workspace, for the workstation.
    pub fn built(&self, name: &str) -> PathBuf {
        self.own.join("bin").join(name)
    }

    pub fn vhost_device(&self) -> PathBuf {
        self.cache
            .join("vhost-device-vsock-0.3.0/bin/vhost-device-vsock")
    }

    /// The same with another kernel in the guests.
    pub fn with_guest(&self, guest: Kernel) -> Self {
        Self {
            guest,
            ..self.clone()
        }
    }

    /// The same with images of its own, for rigs that run beside others.
    pub fn for_lane(&self, lane: &str) -> Self {
        Self {
            images: self.images.join(lane),
            ..self.clone()
        }
    }

    pub fn images(&self) -> Result<&Path> {
        fs::create_dir_all(&self.images)?;
        Ok(&self.images)
    }

    pub fn remove_images(&self) {
        let _ = fs::remove_dir_all(&self.images);
    }

    /// The programs that tests run on the host, gathered in one folder.
    pub fn programs(&self) -> Result<PathBuf> {
        let dir = self.images()?.join("programs");
        fs::create_dir_all(&dir)?;
        for (name, from) in self.program_files(Arch::X86_64) {
            copy_if_new(&from, &dir.join(name))?;
        }
        Ok(dir)
    }

    fn program_files(&self, arch: Arch) -> Vec<(&'static str, PathBuf)> {
        PROGRAMS
            .iter()
            .chain(BUILT)
            .map(|n| (*n, self.program(arch, n)))
            .filter(|(_, from)| from.exists())
            .collect()
    }

    /// The file system that a machine with this processor begins with.
    fn file_system(&self, arch: Arch, init: &str) -> Result<Initramfs> {
        let busybox = match arch {
            Arch::Arm64 => self.cache.join("programs-arm64/usr/bin/busybox"),
            Arch::X86_64 | Arch::Um => "/bin/busybox".into(),
        };
        Initramfs::new(&busybox, init)
    }

    /// The guest's file system: drivers of both kinds are there, and none is loaded.
    pub fn guest(&self) -> Result<PathBuf> {
        let arch = self.guest.arch;
        let mut fs = self.file_system(arch, include_str!("init-guest.sh"))?;
        let modules = self.guest_modules();
        let base = modules.with_dependencies(match arch {
            Arch::Um => &["vsock", "vsock_diag"],
            Arch::X86_64 | Arch::Arm64 => &["virtio_net", "vsock", "vsock_diag"],
        })?;
        let mut c_driver = Driver::C.modules().to_vec();
        if self.guest.has_driver {
            // It may be left out there.
            c_driver.retain(|name| modules.has(name).unwrap_or(true));
        }
        let drivers = modules.with_dependencies(&c_driver)?;
        // A transport that has datagrams of its own.
        let others = if self.guest.is_debians && modules.has("vmw_vsock_vmci_transport")? {
            modules.with_dependencies(&["vmw_vsock_vmci_transport"])?
        } else {
            Vec::new()
        };
        let loopback = if self.guest.is_debians {
            modules.with_dependencies(&["vsock_loopback"])?
        } else {
            Vec::new()
        };
        for (list, modules) in [("order", &base), ("loopback", &loopback)] {
            let names: Vec<_> = modules.iter().map(|(name, _)| name.as_str()).collect();
            let text = names.join("\n") + "\n";
            fs.file(&format!("modules/{list}"), 0o644, text.as_bytes());
        }
        for (name, bytes) in [base, drivers, others, loopback].iter().flatten() {
            fs.file(&format!("modules/{name}.ko"), 0o644, bytes);
        }
        if self.driver().exists() {
            fs.file("modules/rvsock.ko", 0o644, &fs::read(self.driver())?);
        }
        for name in TEST_MODULES {
            let module = self.driver().with_file_name(format!("{name}.ko"));
            if module.exists() {
                fs.program(module, &format!("modules/{name}.ko"))?;
            }
        }
        for (name, from) in self.program_files(arch) {
            fs.program(from, &format!("bin/{name}"))?;
        }
        if arch.is_own() {
            fs.program_with_libraries("/usr/bin/socat")?;
        }
        let image = self.images()?.join("guest.cpio");
        fs.write(&image)?;
        Ok(image)
    }

    /// Programs of others, which only some tests unpack into their machines: one archive for the guest and the host VM.
    pub fn extras(&self, job: &Job) -> Result<PathBuf> {
        let archive = self.images()?.join("extras.cpio");
        let Job::Tests(tests) = job else {
            return Ok(archive);
        };
        let wanted = |by: fn(&str) -> bool| tests.iter().any(|t| by(t));
        let (programs, traffic_control) =
            (wanted(extras::wanted_by), wanted(extras::controls_traffic));
        let mut fs = Initramfs::default();
        if programs {
            self.programs_of_others(&mut fs)?;
        }
        if traffic_control {
            self.traffic_control(&mut fs)?;
        }
        if programs || traffic_control {
            // Says that it has been unpacked.
            fs.file("etc/extras", 0o644, &[]);
            fs.write(&archive)?;
        }
        Ok(archive)
    }

    fn programs_of_others(&self, fs: &mut Initramfs) -> Result<()> {
        for program in extras::PROGRAMS {
            fs.program_with_libraries(program)?;
        }
        // Python says itself which of its files it needs.
        let list = format!(
            "import {}, sys\nfor m in list(sys.modules.values()): print(getattr(m, '__file__', None) or '')",
            extras::PYTHON_MODULES
        );
        let output = Command::new("/usr/bin/python3")
            .args(["-S", "-I", "-c", &list])
            .output()
            .context("cannot run python3")?;
        ensure!(output.status.success(), "python3 cannot {list:?}");
        for file in String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|l| !l.is_empty())
        {
            fs.program_with_libraries(file)?;
        }
        for (name, bytes) in self.guest_modules().with_dependencies(&["vsockmon"])? {
            fs.file(&format!("modules/{name}.ko"), 0o644, &bytes);
        }
        for (name, text) in extras::FILES {
            fs.file(name, 0o644, text.as_bytes());
        }
        fs.dir("run/sshd");
        Ok(())
    }

    fn traffic_control(&self, fs: &mut Initramfs) -> Result<()> {
        for program in extras::TRAFFIC_CONTROL {
            fs.program_with_libraries(program)?;
        }
        for file in extras::TRAFFIC_CONTROL_FILES {
            fs.program(file, file.trim_start_matches('/'))?;
        }
        let modules = self.guest_modules().with_dependencies(extras::SCHEDULERS)?;
        let order: Vec<_> = modules.iter().map(|(name, _)| name.as_str()).collect();
        fs.file(
            "modules/schedulers",
            0o644,
            (order.join("\n") + "\n").as_bytes(),
        );
        for (name, bytes) in &modules {
            fs.file(&format!("modules/{name}.ko"), 0o644, bytes);
        }
        Ok(())
    }

    /// The host's file system: KVM where it has that, vhost-vsock, QEMU, the lab, and what the guest boots.
    pub fn host(&self, kernel: &Kernel, config: &Config, guest: &Path) -> Result<PathBuf> {
        let mut fs = self.file_system(Arch::X86_64, include_str!("init-host.sh"))?;
        let emulator = self.guest.arch.emulator();
        let names: &[&str] = match kernel.arch {
            Arch::Um => &["vhost_vsock", "vsock_diag"],
            Arch::X86_64 | Arch::Arm64 => &["kvm-amd", "vhost_vsock", "vsock_diag"],
        };
        let firmware: &[&str] = match self.guest.arch {
            Arch::Arm64 | Arch::Um => &[],
            Arch::X86_64 => &[
                "seabios/bios-256k.bin",
                "qemu/kvmvapic.bin",
                "qemu/linuxboot_dma.bin",
            ],
        };
        let modules = Modules::new(kernel.folder(&self.cache).join("modules"));
        let modules = modules.with_dependencies(names)?;
        let order: Vec<_> = modules.iter().map(|(name, _)| name.as_str()).collect();
        fs.file("modules/order", 0o644, (order.join("\n") + "\n").as_bytes());
        for (name, bytes) in &modules {
            fs.file(&format!("modules/{name}.ko"), 0o644, bytes);
        }
        fs.program_with_libraries(&format!("/usr/bin/{emulator}"))?;
        for firmware in firmware {
            let from = Path::new("/usr/share").join(firmware);
            ensure!(
                from.exists(),
                "QEMU's firmware {} is missing",
                from.display()
            );
            fs.program(&from, &format!("usr/share/{firmware}"))?;
        }
        for (name, from) in self.program_files(Arch::X86_64) {
            fs.program(from, &format!("bin/{name}"))?;
        }
        fs.program(self.built("lab"), "bin/lab")?;
        fs.program(self.guest_kernel(), "guest/vmlinuz")?;
        fs.program(guest, "guest/initramfs")?;
        let extras = self.extras(&config.job)?;
        if extras.exists() {
            fs.program(extras, "guest/extras")?;
        }
        fs.file("lab.json", 0o644, &serde_json::to_vec(config)?);
        let image = self.images()?.join("host.cpio");
        fs.write(&image)?;
        Ok(image)
    }
}

fn copy_if_new(from: &Path, to: &Path) -> Result<()> {
    let new = match (fs::metadata(from), fs::metadata(to)) {
        (Ok(from), Ok(to)) => from.modified()? > to.modified()? || from.len() != to.len(),
        _ => true,
    };
    if new {
        let _ = fs::remove_file(to);
        fs::copy(from, to)
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}
