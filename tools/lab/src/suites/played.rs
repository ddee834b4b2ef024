// SPDX-License-Identifier: GPL-2.0

//! What it means to a test that its device plays a host of another kind.

use crate::{
    config::Backend,
    session::{Session, Side},
};

/// The host that the session's device plays.
fn played(s: &Session) -> &str {
    let Backend::VhostUser(device) = &s.config.backend else {
        return "";
    };
    let mut words = device.command.iter().map(String::as_str);
    words.find(|w| *w == "--host");
    words.next().unwrap_or_default()
}

/// Whether a peer cannot be told that `side` has sent all, and goes on to listen: the host does not pass a
/// half-close on, or makes more of it than it is.
pub fn needs_counting(s: &Session, side: Side) -> bool {
    match played(s) {
        "firecracker" | "vhost-device-vsock" => true,
        "libkrun" | "libkrun-1.19" => side == Side::Host,
        _ => false,
    }
}

/// Whether datagrams share the streams' queues.
pub fn shares_dgrams(s: &Session) -> bool {
    matches!(&s.config.backend, Backend::VhostUser(device) if device.parameters.contains("profile=shared"))
}

/// The queue by which the guest sends datagrams.
pub fn dgram_tx(s: &Session) -> &'static str {
    if shares_dgrams(s) {
        "tx"
    } else {
        "dgram-tx"
    }
}

/// What has rvtest count in place of closing a half, where it must.
pub fn counted(s: &Session, side: Side) -> &'static str {
    if needs_counting(s, side) {
        "--counted"
    } else {
        ""
    }
}

/// How much goes into buffers on the way to a reader that the guest's credit knows nothing of: the device's own for a
/// program on the host, where it is larger than a guest's, and the unix socket's.
pub fn beyond_buffers(s: &Session, reader: Side) -> u64 {
    const SOCKET: u64 = 2 << 20;
    match (played(s), reader) {
        ("", _) | (_, Side::Guest) => 0,
        ("libkrun" | "libkrun-1.19", Side::Host) => SOCKET + (8 << 20),
        ("linux-old", Side::Host) => SOCKET + (2 << 20),
        (_, Side::Host) => SOCKET,
    }
}
