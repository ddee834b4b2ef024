// SPDX-License-Identifier: GPL-2.0

//! Python's socket module, and what ss shows of such sockets.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};

use super::{sockets, unpack};
use crate::{
    process::{allowed, Process},
    session::{Session, Side},
    suites::{AT_ONCE, LONG},
};

/// A server and a client of Python's socket module; arguments: role, CID, port, socket type.
const PYTHON: &str = r#"
import errno, fcntl, socket, struct, sys
role, cid, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
kind = getattr(socket, sys.argv[4])
whole = kind == socket.SOCK_SEQPACKET
s = socket.socket(socket.AF_VSOCK, kind)
s.settimeout(30)
if role == 'server':
    s.bind((socket.VMADDR_CID_ANY, port))
    s.listen()
    print('READY', flush=True)
    c, peer = s.accept()
    c.settimeout(30)
    assert peer[0] == cid, peer
    while True:
        data, _, flags, _ = c.recvmsg(1 << 20)
        if not data:
            break
        c.sendmsg([data], [], flags & socket.MSG_EOR)
    c.close()
else:
    size = 1 << 20
    s.setsockopt(socket.AF_VSOCK, socket.SO_VM_SOCKETS_BUFFER_MAX_SIZE, size)
    s.setsockopt(socket.AF_VSOCK, socket.SO_VM_SOCKETS_BUFFER_SIZE, size)
    got = s.getsockopt(socket.AF_VSOCK, socket.SO_VM_SOCKETS_BUFFER_SIZE)
    assert got == size, got
    s.connect((cid, port))
    assert s.getpeername() == (cid, port), s.getpeername()
    with open('/dev/vsock', 'rb') as device:
        own = struct.unpack('I', fcntl.ioctl(device, socket.IOCTL_VM_SOCKETS_GET_LOCAL_CID, bytes(4)))[0]
    assert s.getsockname()[0] in (own, socket.VMADDR_CID_ANY), (s.getsockname(), own)
    for i, length in enumerate([1, 100, 4096, 65536, 200000, 2]):
        data = bytes((i + j * j) % 251 for j in range(length))
        mark = socket.MSG_EOR if whole and i % 2 else 0
        if whole:
            assert s.sendmsg([data], [], mark) == length
            back, _, flags, _ = s.recvmsg(1 << 20)
            assert flags & socket.MSG_EOR == mark, (i, flags)
        else:
            s.sendall(data)
            back = b''
            while len(back) < length:
                part = s.recv(length - len(back))
                assert part, (i, len(back))
                back += part
        assert back == data, (i, len(back), length)
    s.shutdown(socket.SHUT_WR)
    assert s.recv(10) == b''
    print('OK', own, flush=True)
"#;

pub fn python_runs(s: &Session, side: Side, script: &str, arguments: &[&str]) -> Result<Process> {
    let argv = [&["python3", "-S", "-I", "-c", script], arguments].concat();
    s.spawn(side, &argv)
}

pub fn python(s: &mut Session, client_side: Side) -> Result<()> {
    unpack(s)?;
    let server_side = client_side.other();
    for kind in ["SOCK_STREAM", "SOCK_SEQPACKET"] {
        let port = s.fresh_port().to_string();
        let run = |side: Side, role: &str| {
            let peer = side.other().cid().to_string();
            python_runs(s, side, PYTHON, &[role, &peer, &port, kind])
        };
        let server = run(server_side, "server")?;
        server.expect("READY", LONG).context(kind)?;
        let client = run(client_side, "client")?;
        let text = client.success(LONG).context(kind)?;
        server.success(LONG).context(kind)?;
        let own = client_side.cid();
        ensure!(
            client_side == Side::Host || text.contains(&format!("OK {own}\n")),
            "{kind}: the guest's own CID is {own}, and Python read: {text}"
        );
    }
    // The device offers no datagrams: a program must learn that from socket() itself.
    let datagram = "import errno, socket\ntry: socket.socket(socket.AF_VSOCK, socket.SOCK_DGRAM)\nexcept OSError as e: print(errno.errorcode[e.errno])";
    let text = python_runs(s, Side::Guest, datagram, &[])?.success(LONG)?;
    ensure!(
        text.trim() == "ENODEV",
        "socket(SOCK_DGRAM) gave {text:?}, not ENODEV"
    );
    Ok(())
}

pub fn ss(s: &mut Session) -> Result<()> {
    unpack(s)?;
    for kind in ["SOCK_STREAM", "SOCK_SEQPACKET"] {
        // Not every ss has a name for the other type.
        let stream = kind == "SOCK_STREAM";
        let port = s.fresh_port();
        let script = format!(
            "import socket, sys
s = socket.socket(socket.AF_VSOCK, socket.{kind})
if sys.argv[1] == 'server':
    s.bind((socket.VMADDR_CID_ANY, {port})); s.listen(); print('READY', flush=True)
    s = s.accept()[0]
else:
    s.connect(({}, {port})); print('OPEN', s.getsockname()[1], flush=True)
s.recv(1)",
            Side::Guest.cid()
        );
        let has = |side: Side, options: &str, words: &[&str]| -> Result<bool> {
            let table = sockets(s, side, options)?;
            let found = table.lines().any(|line| {
                let line: Vec<_> = line.split_whitespace().collect();
                (line.first() == Some(&"v_str")) == stream && words.iter().all(|w| line.contains(w))
            });
            Ok(found)
        };
        let server = python_runs(s, Side::Guest, &script, &["server"])?;
        server.expect("READY", LONG)?;
        let at_guest = format!("{}:{port}", Side::Guest.cid());
        ensure!(
            has(
                Side::Guest,
                "--listening",
                &["LISTEN", &format!("*:{port}")]
            )?,
            "{kind}: the listener is not shown: {}",
            sockets(s, Side::Guest, "--all")?
        );
        let client = python_runs(s, Side::Host, &script, &["client"])?;
        let open = client.expect("OPEN", LONG)?;
        let host_port = open.split_whitespace().nth(1).unwrap_or_default();
        let at_host = format!("{}:{host_port}", Side::Host.cid());
        ensure!(
            has(Side::Guest, "", &["ESTAB", &at_guest, &at_host])?,
            "{kind}: {at_guest} to {at_host} is not shown: {}",
            sockets(s, Side::Guest, "--all")?
        );
        client.kill();
        server.success(LONG)?;
        let deadline = Instant::now() + allowed(AT_ONCE);
        while has(Side::Guest, "--all", &[&at_guest])? {
            ensure!(
                Instant::now() < deadline,
                "{kind}: a closed connection is still shown: {}",
                sockets(s, Side::Guest, "--all")?
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}
