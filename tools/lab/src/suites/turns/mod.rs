// SPDX-License-Identifier: GPL-2.0

//! The interface whose queues order turns (Documentation/scheduling.rst): rule by rule, with each qdisc.

mod carried;
mod changes;
mod control;
mod seen;
mod shares;
mod streams;
mod table;
mod vhost;

use self::carried::{everything, streams_alone, Loss};
use super::{
    dgram::{flow, rules},
    kernel::Direction,
    our_device::{self, Machine, Setup, ALL},
    Test,
};

macro_rules! tests {
    ($setup:literal: $($rule:literal $name:literal => $run:expr,)*) => {
        &[$(Test {
            name: concat!("turns ", $rule, ", ", $setup, ": ", $name),
            run: $run,
        },)*]
    };
}

/// Whether a test has programs that control traffic in its machines.
pub fn has(test: &str) -> bool {
    test.contains("turns N")
}

/// What the names of tests have that run where memory and locks are watched, or when they are asked for.
const LONG: &str = ", long: ";

/// Whether it is one of those.
pub fn is_long(test: &str) -> bool {
    has(test) && test.contains(LONG)
}

/// The interface up, with the qdisc that distributions have by default.
const UP: &str = "echo fq_codel >/proc/sys/net/core/default_qdisc && ifconfig vsock0 up";
/// The same with one that drops nothing because it has waited, as the other does of datagrams.
const UP_IN_ORDER: &str = "echo pfifo_fast >/proc/sys/net/core/default_qdisc && ifconfig vsock0 up";

pub const SETUPS: &[Setup] = &[
    Setup::alone(
        ALL,
        5,
        tests! { "five queues":
            "N1" "down, nothing passes the qdisc" => carried::down,
            "N2" "prio carries everything" => |s| everything(s, &["qdisc add DEV root handle 1: prio"], Loss::None),
            "N2" "fq_codel carries everything" => |s| everything(s, &["qdisc add DEV root handle 1: fq_codel"], Loss::Any),
            "N2 N3" "netem with delay and loss carries everything, but datagrams" => |s| everything(s, &["qdisc add DEV root handle 1: netem delay 3ms 2ms loss 10% limit 10000"], Loss::Some),
            "N3" "what is closed is open again" => carried::closed,
            "N6" "connections begin and end at 8 kbit/s as fast as ever" => carried::control,
            "N4" "htb by the port" => shares::htb_by_port,
            "N4" "prio by SO_PRIORITY" => shares::prio_by_priority,
            "N2" "tbf reaches its rate" => carried::rate,
            "N7" "what a slow device does not take waits in the qdisc" => seen::bql,
            "N5" "100 times down and up under traffic" => changes::switched_at_times,
            "N5" "what is in the qdisc goes out when it is down" => changes::down_while_full,
            "N5" "what is in the qdisc of a closed socket is not lost" => changes::closed_while_full,
            "N5" "connections are reset with much in the qdisc" => changes::reset_while_full,
            "N3" "a filter that drops a stream's turns, for a while" => changes::dropped,
            "N9" "ip, tc and ethtool have the numbers of debugfs" => seen::numbers,
            "N10" "what a program sends into the interface is dropped and counted" => seen::foreign,
            "N10" "turns that a filter has come out of the other queue" => seen::moved,
        },
    )
    .given("interface=1")
    .on(Machine::ANY),
    Setup::alone(
        ALL,
        5,
        tests! { "five queues, long":
            "N2" "htb carries everything" => |s| everything(s, HTB, Loss::None),
            "N2" "tbf carries everything" => |s| everything(s, &["qdisc add DEV root handle 1: tbf rate 80mbit burst 70kb limit 4mb"], Loss::None),
            "N2" "sfq carries everything" => |s| everything(s, &["qdisc add DEV root handle 1: sfq"], Loss::Any),
            "N2" "fq carries everything" => |s| everything(s, &["qdisc add DEV root handle 1: fq"], Loss::Any),
            "N2" "cake carries everything" => |s| everything(s, &["qdisc add DEV root handle 1: cake bandwidth 400mbit"], Loss::Any),
            "N2" "netem that has turns overtake carries everything" => |s| everything(s, &["qdisc add DEV root handle 1: netem delay 10ms reorder 25% 50% limit 10000"], Loss::None),
            "N2" "netem that doubles turns carries everything" => |s| everything(s, &["qdisc add DEV root handle 1: netem duplicate 20%"], Loss::None),
            "N2" "netem that damages turns carries everything" => |s| everything(s, &["qdisc add DEV root handle 1: netem corrupt 10%"], Loss::Any),
            "N3" "netem that loses every other turn carries a stream" => carried::lossy,
            "N4" "htb by SO_MARK" => shares::htb_by_mark,
            "N4" "prio by an ematch" => shares::prio_by_match,
            "N4" "prio by BPF" => shares::prio_by_bpf,
            "N4" "prio by cgroup" => shares::prio_by_cgroup,
            "N4" "fq, fq_codel, cake, and sfq by the hash, know connections" => shares::flows,
            "N5" "1000 times down and up under traffic" => changes::switched,
            "N5" "the qdisc is replaced under traffic" => changes::replaced,
            "N10" "a tap sees each turn" => seen::tap,
            "N10" "turns by way of another interface, and copies of them" => seen::redirected,
            "N10" "turns whose priority and mark are changed" => seen::edited,
            "N2" "what each qdisc leaves whom: a table" => table::all,
        },
    )
    .given("interface=1")
    .on(Machine::ANY),
    Setup::alone(
        &["--host", "libkrun"],
        3,
        tests! { "libkrun":
            "N2" "fq_codel carries datagrams" => |s| datagrams_on(s, "fq_codel", Loss::Any),
            "N3" "netem with loss carries datagrams but those it loses" => |s| datagrams_on(s, "netem loss 10%", Loss::Some),
            "N2" "fq_codel carries streams" => |s| streams_alone(s, &["qdisc add DEV root handle 1: fq_codel"]),
        },
    )
    .given("interface=1 profile=shared")
    .on(Machine::ANY),
    Setup::alone(
        &["--host", "vhost-device-vsock"],
        3,
        tests! { "vhost-device-vsock":
            "N2" "fq_codel carries streams" => |s| streams_alone(s, &["qdisc add DEV root handle 1: fq_codel"]),
            "N3" "netem with loss carries streams" => |s| streams_alone(s, &["qdisc add DEV root handle 1: netem loss 10%"]),
        },
    )
    .given("interface=1")
    .on(Machine::ANY),
    Setup::alone(
        &["--host", "firecracker"],
        3,
        tests! { "firecracker":
            "N2" "fq_codel carries streams" => |s| streams_alone(s, &["qdisc add DEV root handle 1: fq_codel"]),
            "N3" "netem with loss carries streams" => |s| streams_alone(s, &["qdisc add DEV root handle 1: netem loss 10%"]),
        },
    )
    .given("interface=1")
    .on(Machine::ANY),
    // In User-mode Linux no device can be bound anew.
    Setup::alone(
        ALL,
        5,
        tests! { "bound anew":
            "N5" "the device is unbound while its qdisc is full, and bound" => changes::unbound_while_full,
            "N5" "the module is unloaded while its interface is up" => changes::unloaded,
        },
    )
    .given("interface=1"),
    // What is tested without it, with the interface up.
    Setup::alone(
        ALL,
        5,
        tests! { "up":
            "N2" "64 MiB from the guest and back, with half-closes" => our_device::streams::from_guest,
            "N2" "64 MiB from the host and back, with half-closes" => our_device::streams::from_host,
            "N2" "64 connections echo at once, from the guest" => our_device::streams::many_from_guest,
            "N2" "2000 connections of the host's" => our_device::streams::many_from_host,
            "N2" "nobody listens, on either side" => our_device::streams::nobody_listens,
            "N2" "a program on the host that reads nothing stops nobody else" => our_device::streams::reads_nothing,
            "N2" "messages of 1 byte to 256 KiB from the guest, and back" => our_device::messages::from_guest,
            "N2" "messages of 1 byte to 256 KiB from the host, and back" => our_device::messages::from_host,
            "N2" "3000 small messages before one is read" => our_device::messages::small,
        },
    )
    .given("interface=1")
    .then(UP)
    .on(Machine::ANY),
    Setup::alone(
        ALL,
        5,
        tests! { "up, in order":
            "N2" "boundaries and content from 0 to 65536 bytes, guest to host" => rules::d2_from_guest,
            "N2" "a full buffer: EAGAIN, time-outs, signals, and success when room returns" => rules::d3,
            "N2" "200 sockets at once, guest to host and back" => rules::many_sockets,
            "N2" "ECONNREFUSED, once, for who is connected" => rules::refused,
            "N8" "streams go on while the datagrams' queues stand still" => flow::stalled,
        },
    )
    .given("interface=1")
    .then(UP_IN_ORDER)
    .on(Machine::ANY),
    Setup::pair(
        ALL,
        5,
        &[
            Direction::to_neighbour("turns N2, two guests: kernel, 3 is client: "),
            Direction::from_neighbour("turns N2, two guests, long: kernel, 4 is client: "),
        ],
        &[],
    )
    .given("interface=1")
    .then(UP),
];

/// On vhost-vsock.
pub const TESTS: &[Test] = tests! { "vhost-vsock":
    "N2" "fq_codel carries streams and messages" => vhost::fq_codel,
    "N3" "netem with delay and loss carries streams and messages" => vhost::lossy,
    "N5" "asleep and awake with the interface up" => vhost::asleep,
};

/// Two classes without a filter: all is in the second.
const HTB: &[&str] = &[
    "qdisc add DEV root handle 1: htb default 20",
    "class add DEV parent 1: classid 1:1 htb rate 400mbit burst 200kb cburst 200kb",
    "class add DEV parent 1:1 classid 1:20 htb rate 100mbit ceil 400mbit burst 200kb cburst 200kb quantum 66000",
];

fn datagrams_on(s: &mut crate::session::Session, qdisc: &str, loss: Loss) -> anyhow::Result<()> {
    let command = format!("qdisc add DEV root handle 1: {qdisc}");
    control::scheduled(s, &[command], |s| {
        carried::datagrams_through(s, qdisc, 2000, loss).map(drop)
    })
}
