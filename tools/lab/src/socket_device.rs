// SPDX-License-Identifier: GPL-2.0

//! The socket device of a guest: what QEMU is told of it, and the program behind it, if it is one in user space.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Result};

use crate::{
    config::{Backend, Bus, Config, VhostUser},
    kernel::Arch,
    process::Process,
};

/// The machine type: with PCI Express, or without any PCI.
fn machine(arch: Arch, bus: Bus) -> &'static str {
    match (arch, bus) {
        (Arch::Arm64, _) => "virt,gic-version=3",
        (_, Bus::Pci) => "q35,usb=off,vmport=off,smbus=off,hpet=off",
        (_, Bus::Mmio | Bus::LegacyMmio) => "microvm,acpi=on,rtc=on,pit=on",
    }
}

/// QEMU's arguments for the machine type, which a device in user space has a say in, and the device.
pub fn arguments(config: &Config) -> Vec<String> {
    match &config.backend {
        Backend::Vhost => {
            let mut machine = machine(config.guest.arch, Bus::Pci).to_owned();
            let mut arguments = Vec::new();
            if !config.has_kvm() {
                // In User-mode Linux pages are mapped one by one, and the workstation counts what is not in a row.
                let size = config.memory_mib();
                machine += ",memory-backend=memory";
                arguments.extend([
                    "-object".into(),
                    format!("memory-backend-ram,id=memory,size={size}M,prealloc=on"),
                ]);
            }
            arguments.extend([
                "-M".into(),
                machine,
                "-device".into(),
                format!(
                    "vhost-vsock-pci,id=vsock,guest-cid={},modern-pio-notify=on",
                    config.cid
                ),
            ]);
            arguments
        }
        Backend::VhostUser(program) => {
            let bus = program.hardware.bus;
            let machine = machine(config.guest.arch, bus);
            let mut arguments = vec![
                "-object".into(),
                format!(
                    "memory-backend-memfd,id=memory,size={}M,share=on",
                    config.memory_mib()
                ),
                "-M".into(),
                format!("{machine},memory-backend=memory"),
                "-chardev".into(),
                format!(
                    "socket,id=device,path={}",
                    config.vhost_user_socket().display()
                ),
                "-device".into(),
                format!("{},chardev=device", program.qemu),
            ];
            if bus != Bus::Pci {
                let legacy = bus == Bus::LegacyMmio;
                arguments.extend([
                    "-global".into(),
                    format!("virtio-mmio.force-legacy={legacy}"),
                ]);
            }
            arguments
        }
    }
}

/// What QEMU calls the guest's network device.
pub fn network(bus: Bus) -> &'static str {
    match bus {
        Bus::Pci => "virtio-net-pci,netdev=net,romfile=,modern-pio-notify=on",
        Bus::Mmio | Bus::LegacyMmio => "virtio-net-device,netdev=net",
    }
}

impl VhostUser {
    /// Starts the program for a guest and, if there is one, its neighbour; waits until QEMU can connect to it.
    pub fn start(&self, guest: &Config, neighbour: Option<&Config>) -> Result<Process> {
        let mut named: Vec<(String, PathBuf)> =
            vec![("CONTROL".into(), guest.vhost_user_control())];
        for config in [Some(guest), neighbour].into_iter().flatten() {
            let uds = config.vhost_user_uds().unwrap_or_default();
            named.push((format!("SOCKET-{}", config.cid), config.vhost_user_socket()));
            named.push((format!("UDS-{}", config.cid), uds));
        }
        for (_, path) in &named {
            let _ = fs::remove_file(path);
        }
        let meant = |word: &String| {
            named.iter().fold(word.clone(), |word, (name, path)| {
                word.replace(name, &path.to_string_lossy())
            })
        };
        let argv: Vec<String> = self.command.iter().map(meant).collect();
        let device = Process::on_host(&argv)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        let waited_for = named.iter().filter(|(name, _)| name.starts_with("SOCKET"));
        while !waited_for.clone().all(|(_, path)| path.exists()) {
            ensure!(
                !device.ended() && Instant::now() < deadline,
                "the vhost-user device did not start: {}",
                device.text()
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(device)
    }
}
