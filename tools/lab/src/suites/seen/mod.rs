// SPDX-License-Identifier: GPL-2.0

//! What can be seen of the driver from outside: its tracepoints, drops, connections and events (rules T1 to T6).

pub mod connections;
mod dropped;
mod events;
mod traced;
mod waiting;

use super::{
    our_device::{Machine, Setup, ALL},
    Test,
};

macro_rules! tests {
    ($setup:literal: $($name:literal => $run:expr,)*) => {
        &[$(Test {
            name: concat!("rvsock-device, ", $setup, ": ", $name),
            run: $run,
        },)*]
    };
}

pub const SETUPS: &[Setup] = &[
    Setup::alone(
        ALL,
        5,
        tests! { "seen":
            "T1 a packet that is made, sent and received is traced" => traced::packets,
            "T1 a datagram is traced" => traced::datagrams,
            "T1 the fields of events are plain numbers" => traced::fields,
            "T2 a received packet that is dropped is traced with its reason" => dropped::received,
            "T2 a datagram that is dropped is traced with its reason" => dropped::datagrams,
            "T2 a packet that is not sent is traced with its reason" => dropped::unsent,
            "T3 socket buffers that are dropped have reasons" => dropped::buffers,
            "T3 what is sent and read counts as consumed" => dropped::consumed,
            "T4 each connection has a line with its state and credit" => connections::lines,
            "T4 a line says what waits to be sent" => waiting::lines,
            "T4 more than a page of lines comes out whole, however it is read" => connections::many,
            "T4 connections that stay are there while others come and go" => connections::changing,
            "T5 the host's reset is told to udev, and a flood of them is not" => events::transport_reset,
        },
    )
    .on(Machine::ANY),
    Setup::alone(
        &["--features", "stream,seqpacket"],
        3,
        tests! { "seen, three queues":
            "T2 a received packet that is dropped is traced with its reason" => dropped::without_merging,
        },
    )
    .on(Machine::ANY),
    // In User-mode Linux no device can be reset.
    Setup::alone(
        ALL,
        5,
        tests! { "seen, reset":
            "T5 a device that is reset, as it lost count, is told to udev" => events::framing_lost,
        },
    ),
];
