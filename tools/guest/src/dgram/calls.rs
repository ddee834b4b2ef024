// SPDX-License-Identifier: GPL-2.0

//! What the calls give that need nobody at the other end.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use nix::{
    errno::Errno,
    poll::PollFlags,
    sys::socket::{MsgFlags, Shutdown},
    unistd::{setuid, Uid},
};

use super::{
    fails,
    socket::{Address, Dgram, LARGEST, STALL},
};
use crate::{
    errno::errno_name,
    socket::{Kind, Socket, DEFAULT_BUFFER},
};

const ANY_PORT: u32 = u32::MAX;
const NONE: MsgFlags = MsgFlags::empty();
const NOBODY: Uid = Uid::from_raw(65534);

pub fn socket() -> Result<()> {
    let outcome = match Dgram::try_new() {
        Ok(_) => "ok".into(),
        Err(e) => errno_name(&e),
    };
    println!("SOCKET {outcome}");
    Ok(())
}

pub fn bind(port: u32) -> Result<()> {
    let cid = vsock::get_local_cid().context("the local CID")?;
    let first = Dgram::bound(port)?;
    let second = Dgram::new()?;
    fails(
        "a second bind() of the port",
        second.bind(Address::own(port)),
        Errno::EADDRINUSE,
    )?;
    let own = Address { cid, port };
    fails("the same by CID", second.bind(own), Errno::EADDRINUSE)?;
    fails(
        "a second bind() of the socket",
        first.bind(Address::own(port + 1)),
        Errno::EINVAL,
    )?;
    for cid in [0, 1, 2, cid + 1] {
        fails(
            &format!("bind() to CID {cid}"),
            second.bind(Address { cid, port }),
            Errno::EADDRNOTAVAIL,
        )?;
    }
    // A port of streams is another.
    let _listener = Socket::listening(Kind::Stream, DEFAULT_BUFFER, port)?;
    drop(first);
    second.bind(own).context("a port that is free again")?;
    ensure!(second.name()? == own, "bound to {:?}", second.name());

    let picked: Vec<_> = (0..100)
        .map(|_| {
            let socket = Dgram::new()?;
            socket.bind(Address::own(ANY_PORT))?;
            Ok((socket.name()?.port, socket))
        })
        .collect::<Result<_>>()?;
    let mut ports: Vec<_> = picked.iter().map(|(port, _)| *port).collect();
    ports.sort();
    ports.dedup();
    ensure!(ports.len() == 100, "two sockets were given the same port");
    ensure!(
        ports.iter().all(|p| *p > 1023 && *p != ANY_PORT),
        "ports were picked that are none: {ports:?}"
    );

    let reserved = Dgram::new()?;
    reserved
        .bind(Address::own(1023))
        .context("a reserved port, with the privilege for it")?;
    drop(reserved);
    setuid(NOBODY)?;
    for port in [0, 1023] {
        fails(
            &format!("port {port} without the privilege for it"),
            Dgram::new()?.bind(Address::own(port)),
            Errno::EACCES,
        )?;
    }
    Dgram::new()?
        .bind(Address::own(port + 1))
        .context("another port without it")?;
    Dgram::new()?
        .bind(Address::own(ANY_PORT))
        .context("any port without it")?;
    println!("OK");
    Ok(())
}

pub fn destinations(port: u32) -> Result<()> {
    let own = vsock::get_local_cid().context("the local CID")?;
    let socket = Dgram::new()?;
    fails("send() to nobody", socket.send(b"x", NONE), Errno::EINVAL)?;
    // CID_ANY means the machine itself.
    for cid in [0, 1, own, libc::VMADDR_CID_ANY] {
        let to = Address { cid, port };
        for (what, outcome) in [
            ("sendto()", socket.send_to(b"x", to, NONE).map(drop)),
            ("connect()", socket.connect(to)),
        ] {
            fails(&format!("{what} CID {cid}"), outcome, Errno::EINVAL)?;
        }
    }
    let long = vec![0; LARGEST + 1];
    let host = Address::host(port);
    for len in [LARGEST + 1, LARGEST + 2, 1 << 20] {
        let long = if len > long.len() {
            vec![0; len]
        } else {
            long[..len.min(long.len())].to_vec()
        };
        fails(
            &format!("{len} bytes"),
            socket.send_to(&long, host, NONE),
            Errno::EMSGSIZE,
        )?;
    }
    socket.connect(host)?;
    fails("65537 bytes", socket.send(&long, NONE), Errno::EMSGSIZE)?;
    fails(
        "MSG_OOB",
        socket.send(b"x", MsgFlags::MSG_OOB),
        Errno::EOPNOTSUPP,
    )?;
    println!("OK");
    Ok(())
}

pub fn empty() -> Result<()> {
    let socket = Dgram::new()?;
    let mut buffer = [0; 16];
    for bound in [false, true] {
        if bound {
            socket.bind(Address::own(ANY_PORT))?;
        }
        fails(
            "recv() with MSG_DONTWAIT",
            socket.receive(&mut buffer, MsgFlags::MSG_DONTWAIT),
            Errno::EAGAIN,
        )?;
        for flags in [MsgFlags::MSG_OOB, MsgFlags::MSG_ERRQUEUE] {
            fails(
                &format!("recv() with {flags:?}"),
                socket.receive(&mut buffer, flags | MsgFlags::MSG_DONTWAIT),
                Errno::EOPNOTSUPP,
            )?;
        }
        let timeout = Duration::from_millis(200);
        socket.receive_timeout(timeout)?;
        let start = Instant::now();
        fails(
            "recv() with SO_RCVTIMEO",
            socket.receive(&mut buffer, NONE),
            Errno::EAGAIN,
        )?;
        // The kernel's clock ticks every four milliseconds.
        let took = start.elapsed();
        ensure!(
            took + Duration::from_millis(5) > timeout && took < STALL,
            "with a time-out of {timeout:?} recv() came back after {took:?}"
        );
        let all = PollFlags::POLLIN | PollFlags::POLLOUT | PollFlags::POLLPRI;
        let events = socket.poll(all, Duration::ZERO)?;
        ensure!(events == PollFlags::POLLOUT, "poll() says {events:?}");
        let (unread, unsent) = (socket.unread()?, socket.unsent()?);
        ensure!(unread == 0, "SIOCINQ says {unread}");
        ensure!(unsent == 0, "SIOCOUTQ says {unsent}");
        ensure!(socket.error()? == 0, "SO_ERROR says {}", socket.error()?);
    }
    println!("OK");
    Ok(())
}

pub fn names(port: u32) -> Result<()> {
    let cid = vsock::get_local_cid().context("the local CID")?;
    let socket = Dgram::new()?;
    ensure!(
        socket.name()? == Address::own(ANY_PORT),
        "a new socket is {:?}",
        socket.name()?
    );
    fails("getpeername()", socket.peer(), Errno::ENOTCONN)?;
    let peers = [Address::host(port), Address { cid: 77, port: 1 }];
    for peer in peers {
        socket.connect(peer)?;
        ensure!(
            socket.peer()? == peer,
            "connected to {peer:?}, and the peer is {:?}",
            socket.peer()?
        );
    }
    let bound = socket.name()?.port;
    ensure!(
        bound > 1023 && bound != ANY_PORT,
        "connect() picked port {bound}"
    );
    socket.disconnect()?;
    fails("getpeername()", socket.peer(), Errno::ENOTCONN)?;
    fails("send()", socket.send(b"x", NONE), Errno::EINVAL)?;
    ensure!(socket.name()?.port == bound, "the port has changed");

    let socket = Dgram::new()?;
    let own = Address { cid, port };
    socket.bind(own)?;
    ensure!(
        socket.name()? == own,
        "bound to {own:?}, and the name is {:?}",
        socket.name()?
    );
    println!("OK");
    Ok(())
}

pub fn shutdown(port: u32) -> Result<()> {
    let host = Address::host(port);
    let mut buffer = [0; 16];
    for connected in [false, true] {
        let make = || -> Result<Dgram> {
            let socket = Dgram::new()?;
            socket.bind(Address::own(ANY_PORT))?;
            if connected {
                socket.connect(host)?;
            }
            Ok(socket)
        };
        // What af_vsock says of a socket without a peer, though it does it.
        let shut = |socket: &Dgram, how| -> Result<()> {
            let outcome = socket.shutdown(how);
            if connected {
                Ok(outcome?)
            } else {
                fails("shutdown()", outcome, Errno::ENOTCONN)
            }
        };
        let socket = make()?;
        shut(&socket, Shutdown::Write)?;
        fails(
            "sendto() after SHUT_WR",
            socket.send_to(b"x", host, NONE),
            Errno::EPIPE,
        )?;
        fails(
            "recv() after SHUT_WR",
            socket.receive(&mut buffer, MsgFlags::MSG_DONTWAIT),
            Errno::EAGAIN,
        )?;
        let events = socket.poll(PollFlags::POLLOUT, Duration::ZERO)?;
        ensure!(
            !events.contains(PollFlags::POLLOUT),
            "poll() says {events:?} after SHUT_WR"
        );

        let socket = make()?;
        socket.receive_timeout(Duration::from_secs(20))?;
        std::thread::scope(|scope| -> Result<()> {
            // One that waits is woken.
            let reader = scope.spawn(|| socket.receive(&mut [0; 16], NONE));
            std::thread::sleep(Duration::from_millis(100));
            shut(&socket, Shutdown::Read)?;
            let got = reader.join().expect("a reader")?;
            ensure!(got.len == 0, "recv() gave {got:?} after SHUT_RD");
            Ok(())
        })?;
        let got = socket.receive(&mut buffer, NONE)?;
        ensure!(got.len == 0, "recv() gave {got:?} after SHUT_RD");
        let events = socket.poll(PollFlags::POLLIN, Duration::ZERO)?;
        ensure!(
            events.contains(PollFlags::POLLIN),
            "poll() says {events:?} after SHUT_RD"
        );
        ensure!(
            socket.send_to(b"x", host, NONE)? == 1,
            "sendto() after SHUT_RD"
        );
    }
    println!("OK");
    Ok(())
}
