// SPDX-License-Identifier: GPL-2.0

//! A machine that is a process: User-mode Linux. The network of a guest is that of a QEMU which runs no machine; a host has
//! none but its own, as its guests run in it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, Command},
    thread,
};

use anyhow::{Context, Result};
use nix::{
    fcntl::OFlag,
    sys::{
        socket::{socketpair, AddressFamily, SockFlag, SockType},
        statvfs::statvfs,
    },
    unistd::pipe2,
};

use super::spec::{self, Spec, Uml};

/// The number under which a program finds its end of the wire to another.
const WIRE: i32 = 9;

/// Starts the kernel, and the network of a guest beside it.
pub fn start(uml: &Uml, spec: &Spec) -> Result<(Child, Option<Child>)> {
    match uml {
        Uml::Guest { device, ports } => {
            let (kernel, network) = guest(device, ports, spec)?;
            Ok((kernel, Some(network)))
        }
        Uml::Host { events } => Ok((host(events, spec)?, None)),
    }
}

fn guest(device: &Path, ports: &[(u16, u16)], spec: &Spec) -> Result<(Child, Child)> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Datagram,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .context("a wire for the guest's network")?;
    let network = spec::start(&mut wired(network(ports), &theirs))?;
    let mut kernel = kernel(spec);
    kernel
        .arg(format!("vec0:transport=fd,fd={WIRE}"))
        .arg(format!("virtio_uml.device={}:19", device.display()));
    let kernel = spec::start(&mut wired(kernel, &ours))?;
    Ok((kernel, network))
}

/// What it writes to its second console is added to a file.
fn host(events: &Path, spec: &Spec) -> Result<Child> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).context("a pipe for the host's events")?;
    let mut file = OpenOptions::new()
        .append(true)
        .open(events)
        .with_context(|| format!("cannot write {}", events.display()))?;
    let mut kernel = kernel(spec);
    kernel.arg(format!("con1=null,fd:{WIRE}"));
    let kernel = spec::start(&mut wired(kernel, &theirs))?;
    // It ends with the kernel, which alone has the other end then.
    thread::spawn(move || io::copy(&mut File::from(ours), &mut file));
    Ok(kernel)
}

/// Where User-mode Linux has the file that is its memory.
const MEMORY: &str = "/dev/shm";

/// The kernel; its memory is a file on disk where there is no room for that, and for another one's, which grows as well.
fn kernel(spec: &Spec) -> Command {
    let mut command = Command::new(&spec.kernel);
    let room = statvfs(MEMORY).map_or(0, |s| s.blocks_available() * s.fragment_size());
    if room >> 20 < 2 * u64::from(spec.memory_mib) {
        command.env("TMPDIR", &spec.scratch);
    }
    command
        .arg(format!("mem={}M", spec.memory_mib))
        .arg(format!("initrd={}", spec.initramfs.display()))
        .arg(format!("uml_dir={}", spec.scratch.display()))
        .arg(format!("umid={}", spec.name))
        .args(["con=null", "con0=null,fd:1", "ssl0=null"])
        .args(spec.append.split_whitespace());
    command
}

fn network(ports: &[(u16, u16)]) -> Command {
    let mut user = "user,id=user".to_owned();
    for (here, there) in ports {
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
