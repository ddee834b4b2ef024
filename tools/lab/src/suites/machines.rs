// SPDX-License-Identifier: GPL-2.0

//! Streams, messages and datagrams on our device in machines of other kinds: packed rings, memory that the device
//! reaches through bounce buffers, another bus, one processor and four, little memory.
//!
//! What only vhost-vsock can be given is in [`platform`](super::platform): an IOMMU, and PCI as it was before virtio 1.0.

use std::time::Instant;

use anyhow::{ensure, Context, Result};

use super::{
    dgram::rules,
    our_device::{
        control::{paused, stats},
        joined, listen, messages, resets, streams, Machine, Setup,
    },
    profiles, Test, LONG,
};
use crate::{
    config::Bus,
    process::allowed,
    session::{Session, Side},
};

macro_rules! setup {
    ($options:expr, $machine:expr, $setup:literal: $($name:literal => $run:expr,)*) => {
        Setup::alone(
            $options,
            5,
            &[
                test!($setup, "streams of either side, and 64 at once" => streams::both_ways),
                test!($setup, "messages of 1 byte to 256 KiB, both ways" => all_messages),
                test!($setup, "datagrams from 0 to 65536 bytes, both ways" => datagrams),
                $(test!($setup, $name => $run),)*
            ],
        )
        .on($machine)
    };
}

macro_rules! test {
    ($setup:literal, $name:literal => $run:expr) => {
        Test {
            name: concat!("machines, ", $setup, ": ", $name),
            run: $run,
        }
    };
}

const FEATURES: &str = "stream,seqpacket,dgram,mrg-rxbuf";

pub const SETUPS: &[Setup] = &[
    setup! {
        &["--features", FEATURES, "--packed", "on"],
        Machine { dma: true, append: FORCED, ..Machine::USUAL },
        "packed rings and bounce buffers":
        "they are packed" => |s| has_features(s, 1 << 34, 0),
        "the device was reached through bounce buffers" => is_bounced,
        "C5 the transport is reset" => resets::same_cid_with_datagrams,
        "unbound and bound, a listener goes on" => bound_again,
    },
    setup! {
        &[
            "--features", FEATURES, "--packed", "on", "--in-order", "on", "--event-idx", "off", "--indirect", "off",
        ],
        Machine { processors: 4, ..Machine::USUAL },
        "packed rings in order, four processors":
        "they are packed and in order" => |s| has_features(s, (1 << 34) | (1 << 35), (1 << 28) | (1 << 29)),
    },
    setup! {
        &["--features", FEATURES],
        Machine { dma: true, append: SCARCE, ..Machine::USUAL },
        "scarce bounce buffers":
        "they were used up at times" => are_used_up,
        "C5 the transport is reset" => resets::same_cid_with_datagrams,
    },
    setup! {
        &["--features", FEATURES, "--packed", "on"],
        Machine { dma: true, append: SCARCE, ..Machine::USUAL },
        "scarce bounce buffers and packed rings":
        "they were used up at times" => are_used_up,
    },
    setup! {
        &["--features", FEATURES],
        Machine { bus: Bus::Mmio, processors: 4, ..Machine::USUAL },
        "MMIO, four processors":
        "the device is one of virtio 1.0" => |s| has_features(s, 1 << 32, 0),
        "C5 the transport is reset" => resets::same_cid,
        "unbound and bound, a listener goes on" => bound_again,
    },
    setup! {
        &["--features", FEATURES],
        Machine { bus: Bus::LegacyMmio, processors: 1, ..Machine::USUAL },
        "legacy MMIO, one processor":
        "the device is older than virtio 1.0" => |s| has_features(s, 0, 1 << 32),
        "unbound and bound, a listener goes on" => bound_again,
    },
    setup! {
        &["--features", FEATURES],
        Machine { memory_mib: Some(96), ..Machine::USUAL },
        "96 MiB":
        "its memory is as small as that, and none was lacking" => was_enough,
    },
];

/// Linux 7.3 counts how many are in use only if it is told to, and 7.2 takes the whole word for another.
const FORCED: &str = "swiotlb=force swiotlb=force,track_hiwater";

/// Two MiB of bounce buffers, of which receive buffers fill one.
const SCARCE: &str = "swiotlb=1024,force swiotlb=1024,force,track_hiwater";

/// Whether our own kernel cannot run the test: it has neither that bus nor does it live in so little memory.
pub fn needs_stock(test: &str) -> bool {
    [
        "machines, MMIO",
        "machines, legacy MMIO",
        "machines, 96 MiB",
    ]
    .iter()
    .any(|start| test.starts_with(start))
}

fn all_messages(s: &mut Session) -> Result<()> {
    messages::from_guest(s)?;
    messages::from_host(s)
}

fn datagrams(s: &mut Session) -> Result<()> {
    rules::d2_from_guest(s)?;
    rules::d2_from_host(s)
}

/// These features were negotiated, and those were not.
pub fn has_features(s: &mut Session, these: u64, not_those: u64) -> Result<()> {
    let features = profiles::features(s)?;
    ensure!(
        features & these == these && features & not_those == 0,
        "{these:#x} without {not_those:#x} was expected, {features:#x} was negotiated"
    );
    Ok(())
}

/// A listener serves before its device is unbound, and after it is bound.
fn bound_again(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let _server = s.server(Side::Guest, &format!("echo-server --port {port}"))?;
    let echo = format!("echo-client --cid 3 --port {port} --connections 4 --bytes 50000");
    s.rvtest(Side::Host, &echo)?.success(LONG)?;
    let (device, driver) = s.device()?;
    for round in 0..3 {
        for word in ["unbind", "bind"] {
            s.guest_sh(&format!(
                "echo {device} > /sys/bus/virtio/drivers/{driver}/{word}"
            ))
            .with_context(|| format!("round {round}: {word}"))?;
        }
        s.rvtest(Side::Host, &echo)?
            .success(LONG)
            .with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// The greatest memory that lay in bounce buffers at a time, in slots of 2 KiB.
fn bounced(s: &Session) -> Result<u64> {
    let text = s.guest_sh("cat /sys/kernel/debug/swiotlb/io_tlb_used_hiwater")?;
    text.trim()
        .parse()
        .with_context(|| format!("io_tlb_used_hiwater is {text:?}"))
}

fn is_bounced(s: &mut Session) -> Result<()> {
    // Receive buffers at rest alone fill as much.
    let slots = bounced(s)?;
    ensure!(
        slots >= (384 << 10) / (2 << 10),
        "only {slots} slots were ever in use"
    );
    Ok(())
}

/// 64 connections lose nothing, though what they send fills the bounce buffers while the ring has room.
fn are_used_up(s: &mut Session) -> Result<()> {
    is_bounced(s)?;
    let packets = stats(s)?["tx_packets"];
    let (port, listener) = listen(s)?;
    let echo = streams::echo(listener, 64);
    let load = "--connections 64 --bytes 300000 --write-size 10007";
    let client = s.rvtest(
        Side::Guest,
        &format!("echo-client --cid 2 --port {port} {load}"),
    )?;
    let wait = |s: &Session, what: &str, least: u64| -> Result<()> {
        let deadline = Instant::now() + allowed(LONG);
        while stats(s)?[what] < least {
            ensure!(Instant::now() < deadline, "{what} stays below {least}");
        }
        Ok(())
    };
    // By then most are open.
    wait(s, "tx_packets", packets + 100)?;
    let (given, size) = paused(s, "tx", |s| {
        wait(s, "tx_waiting", 1)?;
        let stats = stats(s)?;
        Ok((stats["tx_in_flight"], stats["tx_queue"]))
    })?;
    client.success(LONG)?;
    joined(echo)?;
    ensure!(
        given < size - size / 5,
        "{given} packets were in the ring of {size}: there was always room in the bounce buffers"
    );
    Ok(())
}

fn was_enough(s: &mut Session) -> Result<()> {
    let text = s.guest_sh("cat /proc/meminfo; dmesg | grep -i 'out of memory' || true")?;
    let total: u64 = text
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.split_whitespace().next()?.parse().ok())
        .context("no MemTotal")?;
    ensure!(
        total < 96 << 10 && !text.to_lowercase().contains("out of memory"),
        "the guest has {total} KiB, and says: {text}"
    );
    Ok(())
}
