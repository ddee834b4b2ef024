// SPDX-License-Identifier: GPL-2.0

//! A guest that is a process: User-mode Linux. Its network is that of a QEMU which runs no machine.

use std::{
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command},
};

use anyhow::{Context, Result};
use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};

use super::spec::{self, Spec, Uml};

/// The number under which either program finds its end of the wire between them.
const WIRE: i32 = 9;

/// Starts the kernel, and the network beside it.
pub fn start(uml: &Uml, spec: &Spec) -> Result<(Child, Child)> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Datagram,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .context("a wire for the guest's network")?;
    let network = spec::start(&mut wired(network(uml), &theirs))?;
    let kernel = spec::start(&mut wired(kernel(uml, spec), &ours))?;
    Ok((kernel, network))
}

fn kernel(uml: &Uml, spec: &Spec) -> Command {
    let mut command = Command::new(&spec.kernel);
    command
        .arg(format!("mem={}M", spec.memory_mib))
        .arg(format!("initrd={}", spec.initramfs.display()))
        .arg(format!("uml_dir={}", spec.scratch.display()))
        .arg(format!("umid={}", spec.name))
        .arg(format!("vec0:transport=fd,fd={WIRE}"))
        .arg(format!("virtio_uml.device={}:19", uml.device.display()))
        .args(["con=null", "con0=null,fd:1", "ssl0=null"])
        .args(spec.append.split_whitespace());
    command
}

fn network(uml: &Uml) -> Command {
    let mut user = "user,id=user".to_owned();
    for (here, there) in &uml.ports {
        user += &format!(",hostfwd=tcp:127.0.0.1:{here}-:{there}");
    }
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-M", "none", "-nodefaults", "-display", "none"])
        .args(["-netdev", &user])
        .args(["-netdev", "hubport,id=a,hubid=0,netdev=user"])
        .arg("-netdev")
        .arg(format!("dgram,id=wire,local.type=fd,local.str={WIRE}"))
        .args(["-netdev", "hubport,id=b,hubid=0,netdev=wire"]);
    command
}

/// The program gets this end of the wire, which stays ours until it has been started.
fn wired(mut command: Command, end: &OwnedFd) -> Command {
    let end = end.as_raw_fd();
    // SAFETY: Between fork and exec only system calls are made; the number is nobody's there.
    unsafe {
        command.pre_exec(move || {
            if libc::dup2(end, WIRE) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            // It may have had that number before, and would be closed.
            libc::fcntl(WIRE, libc::F_SETFD, 0);
            Ok(())
        });
    }
    command
}
