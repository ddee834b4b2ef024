// SPDX-License-Identifier: GPL-2.0

//! What the lab on the host must know; a file, since the host may be another machine than the workstation.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::kernel::Kernel;

pub const HOST_CID: u32 = 2;
pub const GUEST_CID: u32 = 3;
/// The other guest, where there are two.
pub const NEIGHBOUR_CID: u32 = 4;

/// The driver that a guest loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// The kernel's own modules, for comparison.
    C,
    /// This project's.
    Rvsock,
}

impl Driver {
    /// Its modules, in the order of loading.
    pub fn modules(self) -> &'static [&'static str] {
        match self {
            Driver::C => &[
                "vmw_vsock_virtio_transport_common",
                "vmw_vsock_virtio_transport",
            ],
            Driver::Rvsock => &["rvsock"],
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Driver::C => "c",
            Driver::Rvsock => "rvsock",
        }
    }
}

/// By which bus a guest finds its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bus {
    /// PCI Express.
    Pci,
    /// Registers in memory, which ACPI tells of, on QEMU's "microvm".
    Mmio,
    /// The same as they were before virtio 1.0: no VIRTIO_F_VERSION_1.
    LegacyMmio,
}

/// What a guest's machine has, where tests want another one than usual.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    pub bus: Bus,
    pub processors: u8,
    /// So much memory in MiB; otherwise what the kernel needs.
    pub memory_mib: Option<u32>,
    /// More for the kernel's command line.
    pub append: String,
}

impl Hardware {
    /// Whether the file system is to hold no more than our driver's tests on our device need: for little memory, or for
    /// devices that only its modules find.
    pub fn wants_small_image(&self) -> bool {
        self.memory_mib.is_some() || self.bus != Bus::Pci
    }
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            bus: Bus::Pci,
            processors: 2,
            memory_mib: None,
            append: String::new(),
        }
    }
}

/// What to do once the rig is up.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// Run these tests.
    Tests(Vec<String>),
    /// Show the driver at work.
    Demo,
    /// Show what it does on our device alone.
    DemoDevice,
    /// Measure both of what is compared once.
    Bench {
        compared: Compared,
        round: u32,
        quick: bool,
        /// Only cells whose name contains one of these; all if there are none.
        cells: Vec<String>,
    },
    /// Measure datagrams, and receive buffers of this kind, on our device.
    BenchDevice {
        round: u32,
        quick: bool,
        column: String,
    },
    /// A guest whose console is the terminal.
    Shell,
    /// Boot a guest and do nothing else.
    Probe,
}

/// What guests are measured with in turn that differ in nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compared {
    /// The C driver, and ours.
    Drivers,
    /// Our driver without its interface, and with it, down.
    Interface,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// Its name in the measurements.
    pub name: &'static str,
    pub driver: Driver,
    /// What our driver is loaded with.
    pub parameters: &'static str,
}

impl Compared {
    pub fn subjects(self) -> [Subject; 2] {
        match self {
            Self::Drivers => [Driver::C, Driver::Rvsock].map(|driver| Subject {
                name: driver.name(),
                driver,
                parameters: "",
            }),
            Self::Interface => {
                [("without", ""), ("with", "interface=1")].map(|(name, parameters)| Subject {
                    name,
                    driver: Driver::Rvsock,
                    parameters,
                })
            }
        }
    }
}

/// What is behind the guest's socket device, on the host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// The kernel's vhost-vsock.
    Vhost,
    /// A program that speaks vhost-user.
    VhostUser(VhostUser),
}

/// A device in user space.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VhostUser {
    /// The program and its arguments, in which UDS-3 stands for its unix socket on the host for the guest with CID 3,
    /// SOCKET-3 for QEMU's, and CONTROL for that of its commands.
    pub command: Vec<String>,
    /// What QEMU calls its part of it, without the chardev.
    pub qemu: String,
    /// The driver of the other guest, if there are two.
    pub neighbour: Option<Driver>,
    /// What our driver is loaded with.
    pub parameters: String,
    /// What is done in the guest once it is, as a shell has it.
    pub then: String,
    pub hardware: Hardware,
}

/// All that the lab on the host is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    pub job: Job,
    /// The guest's own.
    pub cid: u32,
    pub driver: Driver,
    pub guest: Kernel,
    pub kernel: PathBuf,
    pub guest_initramfs: PathBuf,
    /// Accelerator and CPU arguments of QEMU.
    pub accelerator: Vec<String>,
    /// What the guest's kernel is told of that.
    pub append: String,
    pub backend: Backend,
    /// Where rvtest, vsock_test and the others are on the host.
    pub programs: PathBuf,
    /// An archive of further programs, for the tests that need them.
    pub extras: PathBuf,
    pub scratch: PathBuf,
    pub events: PathBuf,
}

impl Config {
    /// The same for the other guest, if there is to be one.
    pub fn neighbour(&self) -> Option<Self> {
        match &self.backend {
            Backend::VhostUser(device) => Some(Self {
                cid: NEIGHBOUR_CID,
                driver: device.neighbour?,
                backend: Backend::VhostUser(VhostUser {
                    neighbour: None,
                    ..device.clone()
                }),
                ..self.clone()
            }),
            Backend::Vhost => None,
        }
    }

    /// Whether the guest's processor is that of its host, whose virtualization may be emulated.
    pub fn has_kvm(&self) -> bool {
        self.accelerator.iter().any(|word| word == "kvm")
    }

    /// The guest's machine.
    pub fn hardware(&self) -> Hardware {
        match &self.backend {
            Backend::VhostUser(device) => device.hardware.clone(),
            Backend::Vhost => Hardware::default(),
        }
    }

    pub fn memory_mib(&self) -> u32 {
        let own = self.hardware().memory_mib;
        own.unwrap_or_else(|| self.guest.memory_mib())
    }

    /// What the guest's log begins with.
    pub fn guest_name(&self) -> &'static str {
        if self.cid == NEIGHBOUR_CID {
            "neighbour"
        } else {
            "guest"
        }
    }

    /// The unix socket by which a vhost-user device is reached.
    pub fn vhost_user_uds(&self) -> Option<PathBuf> {
        let uds = self.scratch.join(format!("device-{}.uds", self.cid));
        matches!(self.backend, Backend::VhostUser(_)).then_some(uds)
    }

    /// The socket for commands to our own device.
    pub fn vhost_user_control(&self) -> PathBuf {
        self.scratch.join("device.control")
    }

    /// The socket between such a device and QEMU.
    pub fn vhost_user_socket(&self) -> PathBuf {
        self.scratch.join(format!("device-{}.vhost", self.cid))
    }
}
