// SPDX-License-Identifier: GPL-2.0

//! The unix sockets on the host: the ones that the device listens on, and those that it connects to.

use std::{
    collections::HashSet,
    fs,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::{fs::FileTypeExt, net::UnixDatagram},
    },
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::{bail, Context, Result};
use nix::{
    errno::Errno,
    sys::socket::{
        accept4, bind, connect, listen, setsockopt, socket, sockopt, AddressFamily, Backlog,
        SockFlag, SockType, UnixAddr,
    },
};

use crate::{features::SEQPACKET, options::Profile, packet::kind, switch::lock};

/// What a unix socket of ours may hold: a datagram of 64 KiB must fit with room to spare.
const SEND_BUFFER: usize = 1 << 20;

/// The sockets of one guest that are there as long as the device runs.
pub struct Host {
    uds: PathBuf,
    stream: OwnedFd,
    seqpacket: Option<OwnedFd>,
    pub dgram: Option<UnixDatagram>,
    /// What is to be removed in the end.
    files: Mutex<HashSet<PathBuf>>,
}

impl Host {
    pub fn new(uds: &Path, profile: &Profile) -> Result<Self> {
        let mut files = HashSet::new();
        let mut add = |path: PathBuf, ty| -> Result<OwnedFd> {
            let fd = bound(&path, ty)?;
            files.insert(path);
            Ok(fd)
        };
        let stream = add(uds.to_owned(), SockType::Stream)?;
        let mut seqpacket = None;
        if profile.features & SEQPACKET != 0 {
            seqpacket = Some(add(named(uds, ".seqpacket"), SockType::SeqPacket)?);
        }
        let mut dgram = None;
        if profile.has_dgrams() {
            dgram = Some(add(named(uds, ".dgram"), SockType::Datagram)?.into());
        }
        for fd in [Some(&stream), seqpacket.as_ref()].into_iter().flatten() {
            listen(fd, Backlog::MAXCONN).context("listen")?;
        }
        Ok(Self {
            uds: uds.to_owned(),
            stream,
            seqpacket,
            dgram,
            files: Mutex::new(files),
        })
    }

    /// The listeners, each with the kind of connection that it brings.
    pub fn listeners(&self) -> impl Iterator<Item = (u16, &OwnedFd)> {
        [
            (kind::STREAM, Some(&self.stream)),
            (kind::SEQPACKET, self.seqpacket.as_ref()),
        ]
        .into_iter()
        .filter_map(|(kind, fd)| Some((kind, fd?)))
    }

    pub fn accept(&self, kind: u16) -> Result<OwnedFd, Errno> {
        let listener = match (kind, &self.seqpacket) {
            (kind::SEQPACKET, Some(fd)) => fd,
            _ => &self.stream,
        };
        let fd = accept4(
            listener.as_raw_fd(),
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        )?;
        // SAFETY: The descriptor is new, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        prepare(&fd, kind);
        Ok(fd)
    }

    /// Connects to the program that listens for connections to this port.
    pub fn connect(&self, kind: u16, port: u32) -> Result<OwnedFd, Errno> {
        let ty = if kind == kind::SEQPACKET {
            SockType::SeqPacket
        } else {
            SockType::Stream
        };
        let fd = new_socket(ty)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(&self.path_of(port))?)?;
        prepare(&fd, kind);
        Ok(fd)
    }

    /// Where a program listens for this port.
    pub fn path_of(&self, port: u32) -> PathBuf {
        named(&self.uds, &format!("_{port}"))
    }

    /// The port whose path this is.
    pub fn port_of(&self, path: &Path) -> Option<u32> {
        let (path, uds) = (path.to_str()?, self.uds.to_str()?);
        let port = path.strip_prefix(uds)?.strip_prefix('_')?;
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        port.parse().ok()
    }

    /// A datagram socket that stands for a port of the guest's.
    pub fn dgram_port(&self, port: u32) -> Result<(UnixDatagram, PathBuf)> {
        let path = named(&self.uds, &format!(".dgram_{port}"));
        let fd = bound(&path, SockType::Datagram)?;
        lock(&self.files).insert(path.clone());
        Ok((fd.into(), path))
    }

    /// A socket is done with.
    pub fn remove(&self, path: &Path) {
        let _ = fs::remove_file(path);
        lock(&self.files).remove(path);
    }

    /// The device is done with all.
    pub fn remove_all(&self) {
        for path in lock(&self.files).drain() {
            let _ = fs::remove_file(path);
        }
    }
}

fn named(uds: &Path, suffix: &str) -> PathBuf {
    let mut path = uds.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn new_socket(ty: SockType) -> Result<OwnedFd, Errno> {
    socket(
        AddressFamily::Unix,
        ty,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        None,
    )
}

/// Gives a socket of a connection room, and for messages a way to tell an empty one from the end.
fn prepare(fd: &OwnedFd, kind: u16) {
    if kind == kind::SEQPACKET {
        let _ = setsockopt(fd, sockopt::PassCred, &true);
    }
    widen(fd);
}

fn widen(fd: &impl AsFd) {
    if setsockopt(fd, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
        let _ = setsockopt(fd, sockopt::SndBuf, &SEND_BUFFER);
    }
}

/// Makes way for a socket: what a dead program left behind goes.
pub fn make_way(path: &Path) -> Result<()> {
    let shown = path.display();
    let file = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("cannot look at {shown}"))?,
    };
    if !file.file_type().is_socket() {
        bail!("{shown} is there already, and is no socket");
    }
    for ty in [SockType::Stream, SockType::SeqPacket, SockType::Datagram] {
        let fd = new_socket(ty).context("socket")?;
        match connect(fd.as_raw_fd(), &UnixAddr::new(path)?) {
            Err(Errno::EPROTOTYPE) => {}
            Err(Errno::ECONNREFUSED) => break,
            Err(e) => bail!("{shown} is there already: {e}"),
            Ok(()) => bail!("{shown} is in use by another program"),
        }
    }
    fs::remove_file(path).with_context(|| format!("cannot remove {shown}"))
}

fn bound(path: &Path, ty: SockType) -> Result<OwnedFd> {
    make_way(path)?;
    let fd = new_socket(ty).context("socket")?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)
        .with_context(|| format!("cannot bind to {}", path.display()))?;
    widen(&fd);
    Ok(fd)
}

/// Lets the process have as many descriptors as it may.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    use nix::sys::resource::{getrlimit, setrlimit, Resource};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// The port in the line `CONNECT port`.
pub fn wanted_port(line: &[u8]) -> Option<u32> {
    let line = std::str::from_utf8(line).ok()?;
    let port = line.strip_prefix("CONNECT ")?.trim_end();
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    port.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings() {
        assert_eq!(wanted_port(b"CONNECT 1234\n"), Some(1234));
        assert_eq!(wanted_port(b"CONNECT 4294967295\n"), Some(u32::MAX));
        for bad in [
            &b"CONNECT 4294967296\n"[..],
            b"CONNECT -1\n",
            b"CONNECT +1\n",
            b"connect 1\n",
            b"CONNECT\n",
            b"CONNECT \n",
            b"\xff\n",
        ] {
            assert_eq!(wanted_port(bad), None);
        }
    }
}
