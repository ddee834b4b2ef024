// SPDX-License-Identifier: GPL-2.0

//! Boundaries and content.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use nix::{poll::PollFlags, sys::socket::MsgFlags};

use super::socket::{Address, Dgram, LARGEST};
use crate::pattern;

/// Around nothing, a header, a page, what a page holds beside a header of 46 bytes, two of them, and the greatest.
pub const SIZES: &[usize] = &[
    0, 1, 43, 44, 45, 46, 47, 4049, 4050, 4051, 4095, 4096, 4097, 8145, 8146, 8147, 32768, 65535,
    65536,
];

const ANY_PORT: u32 = u32::MAX;
const NONE: MsgFlags = MsgFlags::empty();

/// Says of each of the next datagrams how long it is, and from whom; it may be longer than one that can be sent.
pub fn lengths(port: u32, count: usize) -> Result<()> {
    let socket = Dgram::bound(port)?;
    println!("READY {port}");
    let mut buffer = vec![0; 4 * LARGEST];
    for _ in 0..count {
        let got = socket.receive(&mut buffer, NONE)?;
        let from = got.from.context("a datagram without a sender")?;
        let zeros = buffer[..got.len].iter().all(|byte| *byte == 0);
        println!(
            "GOT len={} cid={} port={} zeros={zeros}",
            got.len, from.cid, from.port
        );
    }
    println!("OK");
    Ok(())
}

/// Sends one of each size; every other by a socket that is connected. The peer sends them back.
pub fn send(peer: Address) -> Result<()> {
    let connected = Dgram::bound(ANY_PORT)?;
    connected.connect(peer)?;
    let unconnected = Dgram::bound(ANY_PORT)?;
    let (mut message, mut back) = (vec![0; LARGEST], vec![0; LARGEST + 1]);
    for (i, size) in (0..).zip(SIZES) {
        let message = &mut message[..*size];
        pattern::fill(message, i, 0);
        let (socket, sent) = if i % 2 == 0 {
            (&connected, connected.send(message, NONE))
        } else {
            (&unconnected, unconnected.send_to(message, peer, NONE))
        };
        let sent = sent.with_context(|| format!("sending {size} bytes"))?;
        ensure!(sent == *size, "{sent} of {size} bytes were sent");
        let got = socket
            .receive(&mut back, NONE)
            .with_context(|| format!("waiting for {size} bytes"))?;
        ensure!(
            got.len == *size && back[..got.len] == *message,
            "of {size} bytes {} came back, or others",
            got.len
        );
        ensure!(
            got.from == Some(peer),
            "{size} bytes came from {:?}",
            got.from
        );
    }
    println!("OK sizes={}", SIZES.len());
    Ok(())
}

/// How many of each size `receive()` reads.
pub const READS: usize = 4;

/// Reads some of each size: looked at and read, cut, cut with the whole length told, and into just enough.
pub fn receive(port: u32) -> Result<()> {
    let socket = Dgram::bound(port)?;
    socket.wide_receive_buffer(8 << 20)?;
    println!("READY {port}");
    let mut buffer = vec![0; LARGEST + 1];
    let mut sender = None;
    for (i, size) in (0..).zip(SIZES) {
        let size = *size;
        let right = |bytes: &[u8]| pattern::mismatch(bytes, i, 0).is_none();
        let events = socket.poll(PollFlags::POLLIN, Duration::from_secs(20))?;
        ensure!(
            events.contains(PollFlags::POLLIN),
            "{size} bytes do not come"
        );
        let unread = socket.unread()?;
        ensure!(
            unread as usize == size,
            "SIOCINQ says {unread} of a datagram of {size} bytes"
        );
        for (flags, room, len) in [
            (MsgFlags::MSG_PEEK, LARGEST + 1, size),
            (MsgFlags::MSG_PEEK, size / 2, size / 2),
            (MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC, size / 2, size),
            (NONE, LARGEST + 1, size),
            (NONE, size / 2, size / 2),
            (MsgFlags::MSG_TRUNC, size / 3, size),
            (MsgFlags::MSG_WAITALL, size, size),
        ] {
            let got = socket
                .receive(&mut buffer[..room], flags)
                .with_context(|| format!("{size} bytes into {room}, {flags:?}"))?;
            ensure!(
                got.len == len && got.truncated == (room < size),
                "{size} bytes into {room}, {flags:?}, gave {got:?}"
            );
            ensure!(
                right(&buffer[..room.min(size)]),
                "{size} bytes into {room}, {flags:?}: others than were sent"
            );
            let first = *sender.get_or_insert(got.from);
            ensure!(
                got.from == first && first.is_some_and(|a| a.cid == libc::VMADDR_CID_HOST),
                "{size} bytes came from {:?}, earlier ones from {first:?}",
                got.from
            );
        }
    }
    println!("OK sizes={}", SIZES.len());
    Ok(())
}
