// SPDX-License-Identifier: GPL-2.0

//! What the kernel can do with a socket besides read and write: files, io_uring, BPF.

use std::time::Duration;

use anyhow::{ensure, Result};

use super::{kernel, Test, LONG};
use crate::session::{Session, Side};

pub const TESTS: &[Test] = &[
    Test {
        name: "interfaces: sendfile() and splice(), guest to host",
        run: |s| files(s, Side::Host),
    },
    Test {
        name: "interfaces: sendfile() and splice(), host to guest",
        run: |s| files(s, Side::Guest),
    },
    Test {
        name: "interfaces: buffer_kb gives a buffer to those who ask for none",
        run: default_buffer,
    },
    Test {
        name: "interfaces: the kernel's vsock_uring_test, guest is client",
        run: |s| uring(s, &kernel::GUEST_IS_CLIENT),
    },
    Test {
        name: "interfaces: the kernel's vsock_uring_test, guest is server",
        run: |s| uring(s, &kernel::GUEST_IS_SERVER),
    },
    Test {
        name: "interfaces: sockmap passes a stream of 1 MiB on to its reader",
        run: |s| sockmap(s, "pass", "stream", 1 << 20, 20_000, ""),
    },
    Test {
        name: "interfaces: sockmap passes a stream of small writes on to its reader",
        run: |s| sockmap(s, "pass", "stream", 300_000, 100, ""),
    },
    Test {
        name: "interfaces: sockmap passes on what came before the program was there",
        run: |s| sockmap(s, "pass", "stream", 300_000, 100, "--late"),
    },
    Test {
        name: "interfaces: sockmap redirects a stream of 1 MiB into a unix socket",
        run: |s| sockmap(s, "unix", "stream", 1 << 20, 20_000, ""),
    },
    Test {
        name: "interfaces: sockmap redirects a stream of small writes into a unix socket",
        run: |s| sockmap(s, "unix", "stream", 100_000, 100, ""),
    },
    Test {
        name: "interfaces: sockmap redirects messages into a unix socket",
        run: |s| sockmap(s, "unix", "seqpacket", 300_000, 300, ""),
    },
    Test {
        name: "interfaces: sockmap sends a stream of 1 MiB back by another virtio socket",
        run: |s| sockmap(s, "vsock", "stream", 1 << 20, 20_000, ""),
    },
];

fn files(s: &mut Session, reader: Side) -> Result<()> {
    const BYTES: u32 = 3_000_000;
    let port = s.fresh_port();
    let server = s.server(reader, &format!("files server --port {port}"))?;
    let client = s.rvtest(
        reader.other(),
        &format!(
            "files client --cid {} --port {port} --bytes {BYTES}",
            reader.cid()
        ),
    )?;
    client.success(LONG)?;
    let text = server.success(LONG)?;
    ensure!(
        text.contains(&format!("OK received={BYTES}")),
        "not all of {BYTES} bytes came: {text}"
    );
    Ok(())
}

fn default_buffer(s: &mut Session) -> Result<()> {
    const PARAMETER: &str = "/sys/module/rvsock/parameters/buffer_kb";
    let port = s.fresh_port();
    let _echo = s.server(Side::Host, &format!("echo-server --port {port}"))?;
    s.guest_sh(&format!("echo 1024 > {PARAMETER}"))?;
    let sizes = [262_144, 131_072, 524_288].map(|buffer| {
        let command = format!(
            "buffer-size --cid {} --port {port} --buffer {buffer}",
            Side::Host.cid()
        );
        s.rvtest(Side::Guest, &command)?.success(LONG)
    });
    s.guest_sh(&format!("echo 0 > {PARAMETER}"))?;
    for (text, want) in sizes
        .into_iter()
        .zip(["262144 1048576", "131072 131072", "524288 524288"])
    {
        let text = text?;
        ensure!(
            text.trim() == format!("BUFFER {want}"),
            "sizes before and after connect(): {want} were expected: {text}"
        );
    }
    Ok(())
}

fn uring(s: &mut Session, direction: &kernel::Direction) -> Result<()> {
    let (server, client) = kernel::start(s, direction, "vsock_uring_test", &[])?;
    kernel::both(&server, &client, Duration::from_secs(60))
}

/// A BPF program in the guest decides about what the host sends; `server` has options of that side alone.
pub(super) fn sockmap(
    s: &mut Session,
    verdict: &str,
    kind: &str,
    bytes: u32,
    size: u32,
    server: &str,
) -> Result<()> {
    // Three ports: the connection, what the two tell each other, and the way back.
    let port = s.fresh_port();
    s.fresh_port();
    s.fresh_port();
    let words = format!("--port {port} --bytes {bytes} --kind {kind} --verdict {verdict}");
    let server = s.server(Side::Guest, &format!("sockmap server {words} {server}"))?;
    let client = s.rvtest(
        Side::Host,
        &format!(
            "sockmap client --cid {} {words} --write-size {size}",
            Side::Guest.cid()
        ),
    )?;
    server.success(LONG)?;
    client.success(LONG)?;
    Ok(())
}
