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
use crate::config::{Config, Driver, Job, Kernel};

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

/// Where the kernel of the next series is, in the cache.
pub const NEXT: &str = "kernel-7.3";

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

/// The modules that the tests load beside the driver: those of rust/tests/.
const TEST_MODULES: &[&str] = &[
    "rust_ext_test",
    "rust_net_test",
    "rust_fake_virtio",
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
            guest: Kernel::Stock,
            images: own.join(format!("images-{}", std::process::id())),
            own,
        })
    }

    pub fn kernel(&self) -> PathBuf {
        self.cache.join("kernel/vmlinuz")
    }

    pub fn guest_kernel(&self) -> PathBuf {
        match self.guest {
            Kernel::Stock => self.kernel(),
            Kernel::Next => self.cache.join(NEXT).join("vmlinuz"),
            Kernel::Debug => self.cache.join("debug/arch/x86/boot/bzImage"),
            Kernel::Uml => self.cache.join("uml/linux"),
        }
    }

    fn modules(&self) -> Modules {
        Modules::new(self.cache.join("kernel/modules"))
    }

    fn guest_modules(&self) -> Modules {
        match self.guest {
            Kernel::Stock => self.modules(),
            Kernel::Next => Modules::new(self.cache.join(NEXT).join("modules")),
            Kernel::Debug => Modules::new(self.cache.join("debug")),
            Kernel::Uml => Modules::new(self.cache.join("uml/net")),
        }
    }

    pub fn driver(&self) -> PathBuf {
        match self.guest {
            Kernel::Stock => self.checkout.join("rust/rvsock.ko"),
            Kernel::Next => self.driver_for("next"),
            Kernel::Debug => self.driver_for("debug"),
            Kernel::Uml => self.driver_for("uml"),
        }
    }

    /// One of the kernel's tests, or ours beside them.
    pub fn kernel_test(&self, name: &str) -> PathBuf {
        if BUILT.contains(&name) {
            self.built(name)
        } else {
            self.cache.join("selftests").join(name)
        }
    }

    /// A program of this workspace.
    pub fn built(&self, name: &str) -> PathBuf {
        self.own.join("bin").join(name)
    }

    /// A file beside what was built from this checkout.
    pub fn own_file(&self, name: &str) -> PathBuf {
        self.own.join(name)
    }

    /// rvsock.ko for a kernel of our own.
    pub fn driver_for(&self, kernel: &str) -> PathBuf {
        self.own.join(format!("module-{kernel}/rust/rvsock.ko"))
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
        for (name, from) in self.program_files() {
            copy_if_new(&from, &dir.join(name))?;
        }
        Ok(dir)
    }

    fn program_files(&self) -> Vec<(&'static str, PathBuf)> {
        let tests = PROGRAMS.iter().map(|n| {
            let folder = match (self.guest, *n) {
                (Kernel::Debug, "vsock_test") => "selftests-patient",
                _ => "selftests",
            };
            (*n, self.cache.join(folder).join(n))
        });
        tests
            .chain(BUILT.iter().map(|n| (*n, self.built(n))))
            .filter(|(_, from)| from.exists())
            .collect()
    }

    /// The guest's file system: drivers of both kinds are there, and none is loaded.
    pub fn guest(&self) -> Result<PathBuf> {
        let mut fs = Initramfs::new(include_str!("init-guest.sh"))?;
        let modules = self.guest_modules();
        let base = modules.with_dependencies(match self.guest {
            Kernel::Uml => &["vsock", "vsock_diag"],
            _ => &["virtio_net", "vsock", "vsock_diag"],
        })?;
        let drivers = modules.with_dependencies(Driver::C.modules())?;
        let order: Vec<_> = base.iter().map(|(name, _)| name.as_str()).collect();
        fs.file("modules/order", 0o644, (order.join("\n") + "\n").as_bytes());
        // A transport that has datagrams of its own.
        let others = match self.guest {
            Kernel::Stock | Kernel::Next => {
                modules.with_dependencies(&["vmw_vsock_vmci_transport"])?
            }
            Kernel::Debug | Kernel::Uml => Vec::new(),
        };
        for (name, bytes) in base.iter().chain(&drivers).chain(&others) {
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
        let loopback = match self.guest {
            Kernel::Stock | Kernel::Next => modules.with_dependencies(&["vsock_loopback"])?,
            Kernel::Debug | Kernel::Uml => Vec::new(),
        };
        let order: Vec<_> = loopback.iter().map(|(name, _)| name.as_str()).collect();
        fs.file(
            "modules/loopback",
            0o644,
            (order.join("\n") + "\n").as_bytes(),
        );
        for (name, bytes) in &loopback {
            fs.file(&format!("modules/{name}.ko"), 0o644, bytes);
        }
        for (name, from) in self.program_files() {
            fs.program(from, &format!("bin/{name}"))?;
        }
        fs.program_with_libraries("/usr/bin/socat")?;
        let image = self.images()?.join("guest.cpio");
        fs.write(&image)?;
        Ok(image)
    }

    /// Programs of others, which only some tests unpack into their machines: one archive for the guest and the host VM.
    pub fn extras(&self, job: &Job) -> Result<PathBuf> {
        let archive = self.images()?.join("extras.cpio");
        if !matches!(job, Job::Tests(wanted) if wanted.iter().any(|t| extras::wanted_by(t))) {
            return Ok(archive);
        }
        let mut fs = Initramfs::default();
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
        fs.write(&archive)?;
        Ok(archive)
    }

    /// The host VM's file system: KVM, vhost-vsock, QEMU, the lab, and what the guest boots.
    pub fn host(&self, config: &Config, guest: &Path) -> Result<PathBuf> {
        let mut fs = Initramfs::new(include_str!("init-host.sh"))?;
        let modules =
            self.modules()
                .with_dependencies(&["kvm-amd", "vhost_vsock", "vsock_diag"])?;
        let order: Vec<_> = modules.iter().map(|(name, _)| name.as_str()).collect();
        fs.file("modules/order", 0o644, (order.join("\n") + "\n").as_bytes());
        for (name, bytes) in &modules {
            fs.file(&format!("modules/{name}.ko"), 0o644, bytes);
        }
        fs.program_with_libraries("/usr/bin/qemu-system-x86_64")?;
        for firmware in [
            "seabios/bios-256k.bin",
            "qemu/kvmvapic.bin",
            "qemu/linuxboot_dma.bin",
        ] {
            let from = Path::new("/usr/share").join(firmware);
            ensure!(
                from.exists(),
                "QEMU's firmware {} is missing",
                from.display()
            );
            fs.program(&from, &format!("usr/share/{firmware}"))?;
        }
        for (name, from) in self.program_files() {
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
