// SPDX-License-Identifier: GPL-2.0

//! What a machine is made of, and how its emulator is started.

use std::{
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{ensure, Context, Result};
use nix::sys::{prctl::set_pdeathsig, signal::Signal};

use crate::kernel::Arch;

/// What to boot.
pub struct Spec {
    pub name: String,
    pub arch: Arch,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    pub append: String,
    pub memory_mib: u32,
    /// Accelerator, CPU, machine type and devices.
    pub arguments: Vec<String>,
    /// It is no machine at all, and these are what it has.
    pub uml: Option<Uml>,
    pub scratch: PathBuf,
}

/// What User-mode Linux has in place of a machine's devices.
pub enum Uml {
    /// A guest.
    Guest {
        /// Where the vhost-user device of the socket listens.
        device: PathBuf,
        /// TCP ports of the host, and those of the guest that they lead to.
        ports: Vec<(u16, u16)>,
    },
    /// A host of guests, which writes to its second console what the lab in it has to tell.
    Host {
        /// The file that this goes to.
        events: PathBuf,
    },
}

impl Spec {
    /// The emulator with everything but its console.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.arch.emulator());
        command
            .args(&self.arguments)
            .args(["-m", &self.memory_mib.to_string()])
            .args(["-nodefaults", "-no-reboot", "-display", "none"])
            .args([
                "-chardev",
                "stdio,id=console,signal=off",
                "-serial",
                "chardev:console",
            ])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs)
            .args([
                "-append",
                &format!("console={} {}", self.arch.console(), self.append),
            ]);
        command
    }

    /// Runs the machine with the terminal as its console, until it switches off.
    pub fn on_terminal(&self) -> Result<()> {
        let status = self.command().status().context("cannot start QEMU")?;
        ensure!(status.success(), "QEMU ended with {status}");
        Ok(())
    }
}

/// Starts a program that must not outlive the lab, however that ends.
pub fn start(command: &mut Command) -> Result<Child> {
    // SAFETY: Between fork and exec only a system call is made.
    unsafe {
        command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?));
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {:?}", command.get_program()))
}
