// SPDX-License-Identifier: GPL-2.0

//! SOCK_DGRAM, rule by rule, on our device: with merging receive buffers and without, and on the streams' queues.

mod fallback;
pub mod flow;
pub mod host;
pub mod rules;
mod shared;
mod users;

use anyhow::Result;

use super::{
    kernel::Direction,
    our_device::{self, Machine, Setup},
    samples, Test, LONG,
};
use crate::session::{Session, Side};

macro_rules! tests {
    ($setup:literal: $($rule:literal $name:literal => $run:expr,)*) => {
        &[$(Test {
            name: concat!("dgram ", $rule, ", ", $setup, ": ", $name),
            run: $run,
        },)*]
    };
}

macro_rules! any_tests {
    ($setup:literal: $($rule:literal $name:literal => $run:expr,)*) => {
        tests! { $setup:
            $($rule $name => $run,)*
            "D1" "no packet for credit, and none on the streams' queues" => rules::d1,
            "D2" "boundaries and content from 0 to 65536 bytes, guest to host" => rules::d2_from_guest,
            "D2" "boundaries and content from 0 to 65536 bytes, host to guest, read in all ways" => rules::d2_from_host,
            "D2" "100000 datagrams, each received or counted as dropped, guest to host" => flow::many_from_guest,
            "D2" "100000 datagrams, each received or counted as dropped, host to guest" => flow::many_from_host,
            "D3" "a full buffer: EAGAIN, time-outs, signals, and success when room returns" => rules::d3,
            "D4" "what a full receive buffer drops is counted, and comes with SO_RXQ_OVFL" => flow::sleepy,
            "D4" "time-outs, poll() and ioctls of an empty socket" => |s| alone(s, "empty"),
            "D5" "ports in use, reserved and picked" => |s| alone_at(s, "bind"),
            "D5" "who holds 1024 ports in a row leaves others" => |s| alone(s, "crowd-ports"),
            "D5" "names, peers, and their end" => |s| alone_at(s, "names"),
            "D5" "200 sockets at once, guest to host and back" => rules::many_sockets,
            "D5" "60 senders to one socket, host to guest and back" => rules::many_senders,
            "D6" "EINVAL where nobody can be, EMSGSIZE for 65537 bytes" => |s| alone_at(s, "destinations"),
            "D6" "EPIPE after shutdown(), and the end of receiving" => |s| alone_at(s, "shutdown"),
            "D6" "who is connected hears the peer only" => rules::only_peer,
            "D9" "a notify socket is one of datagrams" => rules::notify,
            "D9" "systemd's own program for that" => users::systemd,
            "D9" "a socket outlives its device" => rules::outlive,
        }
    };
}

/// Where they have queues of their own.
macro_rules! common_tests {
    ($setup:literal: $($rule:literal $name:literal => $run:expr,)*) => {
        any_tests! { $setup:
            $($rule $name => $run,)*
            "D6" "ECONNREFUSED, once, for who is connected" => rules::refused,
            "D6" "what is for nobody in the guest is refused" => rules::nobody,
            "D7" "streams go on while the datagrams' queues stand still" => flow::stalled,
        }
    };
}

pub const SETUPS: &[Setup] = &[
    Setup::alone(
        &["--features", "stream,seqpacket,dgram,mrg-rxbuf"],
        5,
        common_tests! { "merging":
            "D9" "Python's socket module" => users::python,
            "D9" "ss --vsock shows sockets while they are there" => users::ss,
            "M1" "a datagram takes as many pages as it fills" => rules::m1,
        },
    )
    .on(Machine::ANY),
    // What resets the device, which User-mode Linux cannot, and what is no fair race on its one processor.
    Setup::alone(
        &["--features", "stream,seqpacket,dgram,mrg-rxbuf"],
        5,
        tests! { "merging":
            "D7" "streams keep a fair share in a flood of datagrams" => flow::flood,
            "M2" "what is no packet is dropped and counted, and what follows is received" => |s| rules::m2(s, true),
        },
    ),
    Setup::alone(
        &["--features", "stream,seqpacket,dgram"],
        5,
        tests! { "not merging":
            "D7" "streams keep a fair share in a flood of datagrams" => flow::flood,
        },
    ),
    Setup::alone(
        &["--features", "stream,seqpacket,dgram"],
        5,
        common_tests! { "not merging":
            "D8" "four datagrams of 64 KiB fit, each in a buffer" => rules::d8,
            "M2" "what is no packet is dropped and counted, and what follows is received" => |s| rules::m2(s, false),
        },
    )
    .on(Machine::ANY),
    Setup::alone(
        &["--host", "libkrun"],
        3,
        any_tests! { "libkrun":
            "G3 G5" "longer than a buffer is dropped and counted, longer than a datagram received" => shared::lengths,
            "G5" "four datagrams of 64 KiB fit, each in a buffer" => rules::d8,
            "G7" "who sends to nobody hears nothing" => shared::silence,
            "G7" "what is for nobody in the guest is counted, and no more" => shared::nobody,
            "G8" "datagrams go on beside streams that stand still, both ways" => shared::stalled,
            "G8" "a stream goes on while all the memory of datagrams is full" => shared::full,
            "K5" "datagrams of closed sockets hold a bounded memory" => our_device::memory::closed_datagram_sockets,
            "M2" "what is no packet is dropped and counted, and what follows is received" => |s| rules::m2(s, false),
            "streams" "of either side, beside datagrams" => our_device::echoes,
        },
    )
    .given("profile=shared")
    .on(Machine::ANY),
    Setup::alone(
        &["--host", "libkrun", "--swap-cids", "on", "--contiguous", "65536"],
        3,
        tests! { "libkrun's proxies":
            "G6" "what comes with its CIDs the wrong way round comes from the host" => shared::swapped,
            "G9" "each lies in one piece, from 0 to 65536 bytes" => shared::pieces,
        },
    )
    .given("profile=shared")
    .on(Machine::ANY),
    Setup::alone(
        &["--features", "stream,seqpacket,shared-dgram"],
        3,
        tests! { "shared":
            "G1" "all types of sockets work, by the parameter" => shared::works,
            "G7" "ECONNREFUSED, once, for who is connected, of a host that says so" => rules::refused,
            "D2" "boundaries and content from 0 to 65536 bytes, guest to host" => rules::d2_from_guest,
            "D2" "boundaries and content from 0 to 65536 bytes, host to guest, read in all ways" => rules::d2_from_host,
            "C5" "the transport is reset" => our_device::resets::same_cid_with_datagrams,
            "C5" "the transport is reset, and the CID is another" => our_device::resets::other_cid_with_datagrams,
            "H3" "3200 packets in which anything may be" => our_device::anything::all_queues,
            "messages" "of 1 byte to 256 KiB from the guest, and back" => our_device::messages::from_guest,
        },
    )
    .given("profile=shared")
    .on(Machine::ANY),
    // With windows so wide that a stream waits for nothing but its turn.
    Setup::alone(
        &["--features", "stream,shared-dgram", "--buffer", "4194304"],
        3,
        tests! { "shared, wide":
            "G8" "a stream keeps half of the way in a flood of datagrams of eight sockets" => shared::half,
        },
    )
    .given("profile=shared buffer_kb=2048")
    .on(Machine::ANY),
    Setup::pair(
        &["--features", "stream,seqpacket,dgram,mrg-rxbuf"],
        5,
        &[
            Direction::to_neighbour("dgram, two guests, 3 is client: ").datagrams(),
            Direction::from_neighbour("dgram, two guests, 4 is client: ").datagrams(),
        ],
        samples::BETWEEN_GUESTS,
    )
    .on(Machine::ANY),
];

/// On vhost-vsock.
pub const WITHOUT: &[Test] = tests! { "no datagrams":
    "D9" "a notify socket is one of messages" => fallback::notify,
};

/// Runs `rvtest dgram ...` in the guest.
fn alone(s: &mut Session, command: &str) -> Result<()> {
    let command = format!("dgram {command}");
    s.rvtest(Side::Guest, &command)?.success(LONG).map(drop)
}

/// The same, for what needs two ports.
fn alone_at(s: &mut Session, command: &str) -> Result<()> {
    let port = s.fresh_port();
    s.fresh_port();
    alone(s, &format!("{command} --port {port}"))
}

/// The number that a line of a program's calls `name`.
pub fn number(line: &str, name: &str) -> Result<u64> {
    use anyhow::Context;
    let found = line.split_whitespace().find_map(|w| {
        let (word, value) = w.split_once('=')?;
        (word == name).then(|| value.parse().ok())?
    });
    found.with_context(|| format!("no {name} in {line:?}"))
}
