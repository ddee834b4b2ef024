// SPDX-License-Identifier: GPL-2.0

//! Programs that people use, with datagrams: Python's socket module, and ss.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Result};

use super::host::{has_come, Port};
use crate::{
    process::allowed,
    session::{Session, Side},
    suites::{
        programs::{python_runs, sockets, unpack},
        AT_ONCE, LONG,
    },
};

/// Its peer sends everything back; arguments: the peer's port, its own port.
const PYTHON: &str = r#"
import errno, select, socket, sys
port, own = map(int, sys.argv[1:])
peer = (2, port)
s = socket.socket(socket.AF_VSOCK, socket.SOCK_DGRAM)
s.settimeout(30)
s.bind((socket.VMADDR_CID_ANY, own))
assert s.getsockname()[1] == own, s.getsockname()
for i, length in enumerate([0, 1, 100, 4096, 65536, 2]):
    data = bytes((i + j * j) % 251 for j in range(length))
    assert s.sendto(data, peer) == length
    assert select.select([s], [], [], 30)[0] == [s]
    back, sender = s.recvfrom(1 << 17)
    assert sender == peer, sender
    assert back == data, (i, len(back), length)
try:
    s.sendto(bytes(65537), peer)
    assert False, 'a datagram of 65537 bytes was sent'
except OSError as e:
    assert e.errno == errno.EMSGSIZE, e
s.connect(peer)
assert s.getpeername() == peer, s.getpeername()
assert s.send(b'abcdef') == 6
back, _, flags, _ = s.recvmsg(3)
assert back == b'abc' and flags & socket.MSG_TRUNC, (back, flags)
s.setblocking(False)
try:
    s.recv(1)
    assert False, 'the rest of a datagram came'
except BlockingIOError:
    pass
print('OK')
"#;

pub fn python(s: &mut Session) -> Result<()> {
    unpack(s)?;
    let (port, own) = (Port::new(s)?, s.fresh_port().to_string());
    let peer = port.number.to_string();
    let client = python_runs(s, Side::Guest, PYTHON, &[&peer, &own])?;
    let echoed = port.echo_while(&client)?;
    let text = client.success(LONG)?;
    ensure!(
        text.trim() == "OK" && echoed == 7,
        "{echoed} datagrams came, and Python said {text:?}"
    );
    Ok(())
}

/// A bound socket and a connected one, until somebody writes to the first.
const TWO: &str = r#"
import socket, sys
port, own = map(int, sys.argv[1:])
bound, connected = (socket.socket(socket.AF_VSOCK, socket.SOCK_DGRAM) for _ in range(2))
bound.bind((socket.VMADDR_CID_ANY, own))
connected.connect((2, port))
print('READY', connected.getsockname()[1], flush=True)
bound.recv(1)
"#;

/// The message of its own program; SOCK_DGRAM is what that tries first.
pub fn systemd(s: &mut Session) -> Result<()> {
    unpack(s)?;
    let port = Port::new(s)?;
    let address = format!("NOTIFY_SOCKET=vsock:2:{}", port.number);
    let words = ["systemd-notify", "--no-block", "--ready", "--status=up"];
    let client = s.spawn(Side::Guest, &[&["env", &address], &words[..]].concat())?;
    let mut heard = Vec::new();
    let hear = |bytes: &[u8], _: &str| {
        heard.push(String::from_utf8_lossy(bytes).into_owned());
        Ok(())
    };
    port.until_all(&client, hear, has_come)?;
    ensure!(
        heard.len() == 1
            && ["READY=1", "STATUS=up"]
                .iter()
                .all(|line| heard[0].lines().any(|l| l == *line)),
        "the host heard {heard:?}"
    );
    Ok(())
}

pub fn ss(s: &mut Session) -> Result<()> {
    unpack(s)?;
    let (port, own) = (Port::new(s)?, s.fresh_port());
    let numbers = [port.number.to_string(), own.to_string()];
    let program = python_runs(s, Side::Guest, TWO, &[&numbers[0], &numbers[1]])?;
    let ready = program.expect("READY", LONG)?;
    let picked = ready.split_whitespace().nth(1).unwrap_or_default();
    // The CID of a datagram is that of when it is sent.
    let (at_own, at_picked) = (format!("*:{own}"), format!("*:{picked}"));
    let at_port = format!("2:{}", port.number);
    let has = |words: &[&str]| -> Result<bool> {
        let table = sockets(s, Side::Guest, "--all")?;
        let found = table.lines().any(|line| {
            let line: Vec<_> = line.split_whitespace().collect();
            line.first() == Some(&"v_dgr") && words.iter().all(|w| line.contains(w))
        });
        Ok(found)
    };
    for words in [
        &["UNCONN", &at_own, "*:*"],
        &["ESTAB", &at_picked, &at_port],
    ] {
        ensure!(
            has(words)?,
            "{words:?} are not shown: {}",
            sockets(s, Side::Guest, "--all")?
        );
    }
    port.aim(own)?;
    port.send(b"!")?;
    program.success(LONG)?;
    let deadline = Instant::now() + allowed(AT_ONCE);
    while has(&[&at_own])? || has(&[&at_picked])? {
        ensure!(
            Instant::now() < deadline,
            "a closed socket is still shown: {}",
            sockets(s, Side::Guest, "--all")?
        );
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
