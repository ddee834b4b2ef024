// SPDX-License-Identifier: GPL-2.0

//! Hosts of other kinds: the streams and messages on a device with the habits of each, in User-mode Linux.
//!
//! Where a habit makes a test mean something else, [`played`](super::played) says so.

mod both;
mod reset;
mod stale;

use super::{
    our_device::{self, Setup},
    streams, vhost_user, Test,
};
use crate::session::Side;

/// The tests of one host: the streams, what it alone is tried with, and the messages.
macro_rules! host {
    ($name:literal, $messages:ident, $($test:literal => $run:expr,)*) => {
        Setup::with_either(
            &["--host", $name],
            host!(@$messages $name,
                "64 connections echo at once, guest to host" => |s| streams::echo_64(s, Side::Guest),
                "64 connections echo at once, host to guest" => |s| streams::echo_64(s, Side::Host),
                "2000 connections open at once, guest to host" => |s| streams::open_at_once(s, Side::Guest, 2000),
                "2000 connections open at once, host to guest" => |s| streams::open_at_once(s, Side::Host, 2000),
                "C3 1000 connects in a burst, guest to host" => |s| streams::burst(s, Side::Guest),
                "C3 1000 connects in a burst, host to guest" => |s| streams::burst(s, Side::Host),
                "echo with writes of 64 KiB, guest to host" => vhost_user::guest_to_host,
                "echo with writes of 64 KiB, host to guest" => vhost_user::host_to_guest,
                "a slow reader in the guest stops nobody else" => |s| streams::slow_reader(s, Side::Guest),
                "a slow reader on the host stops nobody else" => |s| streams::slow_reader(s, Side::Host),
                "a reader in a page fault inside recv() stops nobody else" => streams::stuck_reader,
                "one-byte writes to a sleeping reader, host to guest" => |s| streams::one_byte_writes(s, Side::Host),
                "one-byte writes to a sleeping reader, guest to host" => |s| streams::one_byte_writes(s, Side::Guest),
                "connect to a port where nobody listens, from the guest" => |s| streams::nobody_listens(s, Side::Guest),
                "connect to a port where nobody listens, from the host" => |s| streams::nobody_listens(s, Side::Host),
                "C8 connect() interrupted by a signal and called again" => |s| streams::interrupted(s, Side::Guest, "again"),
                "C8 connect() interrupted and called again after the peer's answer" => |s| streams::interrupted(s, Side::Guest, "later"),
                "C8 connect() interrupted and called for another port" => |s| streams::interrupted(s, Side::Guest, "elsewhere"),
                "connect() interrupted and not called again" => |s| streams::interrupted(s, Side::Guest, "nothing"),
                "connect() interrupted and the socket closed" => |s| streams::interrupted(s, Side::Guest, "close"),
                "SIGKILL of the guest's side is seen by the host" => |s| streams::sigkill(s, Side::Guest),
                "SIGKILL of the host's side is seen by the guest" => |s| streams::sigkill(s, Side::Host),
                $($test => $run,)*
            ),
        )
    };
    (@messages $name:literal, $($test:literal => $run:expr,)*) => {
        host!(@tests $name,
            $($test => $run,)*
            "messages of 1 byte to 256 KiB from the guest, and back" => our_device::messages::from_guest,
            "messages of 1 byte to 256 KiB from the host, and back" => our_device::messages::from_host,
            "3000 small messages before one is read" => our_device::messages::small,
        )
    };
    (@no_messages $name:literal, $($test:literal => $run:expr,)*) => {
        host!(@tests $name,
            $($test => $run,)*
            "it has no SOCK_SEQPACKET, and connect() says so" => vhost_user::no_messages,
        )
    };
    (@tests $name:literal, $($test:literal => $run:expr,)*) => {
        &[$(Test {
            name: concat!("hosts: ", $name, ": ", $test),
            run: $run,
        },)*]
    };
}

static SETUPS: &[Setup] = &[
    host! { "firecracker", no_messages,
        "C5 twenty connections that the host opens during a reset all live, on one processor" => reset::twenty,
    },
    host! { "cloud-hypervisor", no_messages,
        "64 MiB from the guest and back, with half-closes" => our_device::streams::from_guest,
        "64 MiB from the host and back, with half-closes" => our_device::streams::from_host,
    },
    host! { "libkrun", no_messages, },
    host! { "libkrun-1.19", no_messages, },
    host! { "vhost-device-vsock", no_messages,
        "H1 a header that nobody wrote ends no connection" => stale::headers,
        "C5 twenty connections that the host opens during a reset all live, on one processor" => reset::twenty,
    },
    host! { "linux-old", messages,
        "64 MiB from the guest and back, with half-closes" => our_device::streams::from_guest,
        "64 MiB from the host and back, with half-closes" => our_device::streams::from_host,
    },
    host! { "default", messages,
        "64 MiB from the guest and back, with half-closes" => our_device::streams::from_guest,
        "64 MiB from the host and back, with half-closes" => our_device::streams::from_host,
        "of two drivers the one that is there first has the device" => both::first_has_it,
    },
];

/// What needs several processors runs in emulated guests.
pub static EMULATED: &[Setup] = &[
    Setup::with_either(
        &["--host", "firecracker"],
        &[Test {
            name: "hosts: firecracker: C5 twenty connections that the host opens during a reset all live",
            run: reset::twenty,
        }],
    ),
    Setup::with_either(
        &["--host", "vhost-device-vsock", "--stale", "off"],
        &[Test {
            name: "hosts: vhost-device-vsock: C5 twenty connections that the host opens during a reset all live",
            run: reset::twenty,
        }],
    ),
];

/// All hosts, each with its tests.
pub fn setups() -> impl Iterator<Item = &'static Setup> {
    SETUPS.iter()
}

/// The tests' names.
pub fn names() -> Vec<String> {
    let tests = setups().flat_map(|s| s.tests);
    tests.map(|t| t.name.to_owned()).collect()
}
