// SPDX-License-Identifier: GPL-2.0

//! What the driver takes a device for: each row of the table of feature bits and queues, and the parameter that
//! overrides it.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::{
    our_device::{self, Machine, Setup},
    Test, LONG,
};
use crate::session::{Session, Side};

/// How the name of the test ends for which VMware's transport must be there.
pub const BESIDE_ANOTHER: &str = "streams work beside another transport of datagrams";

macro_rules! setup {
    ($features:literal, $queues:literal: $($name:literal => $run:expr,)*) => {
        Setup::alone(
            &["--features", $features],
            $queues,
            &[$(Test {
                name: concat!("profiles, ", $features, " with ", $queues, " queues: ", $name),
                run: $run,
            },)*],
        )
    };
}

/// User-mode Linux warns when it is asked for more queues than there are, as the driver does where bits are in doubt.
pub const SETUPS: &[Setup] = &[
    setup! { "none", 3:
        "streams are implied" => |s| is_and_works(s, "", "ratified", "stream", 3),
    }
    .on(Machine::ANY),
    setup! { "stream,seqpacket,no-implied-stream,mrg-rxbuf", 3:
        "virtio 1.3, without bit 3" => |s| {
            is_and_works(s, "", "ratified", "stream seqpacket no_implied_stream", 3)?;
            accepts(s, 0b0111)
        },
        "profile=draft insists on five queues" => |s| {
            is_unused(s, "profile=draft", "cannot be used: ")
        },
    },
    setup! { "seqpacket,no-implied-stream", 3:
        "streams are not implied" => |s| {
            is(s, "", "ratified", "seqpacket no_implied_stream", 3)?;
            connect_says(s, "ENETUNREACH")
        },
    },
    setup! { "no-implied-stream", 3:
        "of no use, and said so" => |s| is_unused(s, "", "offers no type of socket"),
    },
    setup! { "stream,mrg-rxbuf", 3:
        "bit 3 alone is not accepted" => |s| {
            is_and_works(s, "", "ratified", "stream", 3)?;
            accepts(s, 0b0001)
        },
        "profile=draft accepts it" => |s| {
            is_and_works(s, "profile=draft", "draft", "stream mrg_rxbuf", 3)
        },
    }
    .on(Machine::ANY),
    setup! { "stream,seqpacket,dgram,mrg-rxbuf", 5:
        "the drafts" => |s| {
            is_and_works(s, "", "draft", "stream seqpacket dgram mrg_rxbuf", 5)
        },
        "profile=ratified leaves three queues, and no SOCK_DGRAM" => |s| {
            is_and_works(s, "profile=ratified", "ratified", "stream seqpacket no_implied_stream", 3)?;
            has_no_datagrams(s)
        },
    }
    .on(Machine::ANY),
    // User-mode Linux has no VMCI.
    setup! { "stream,seqpacket,dgram,mrg-rxbuf", 5:
        "streams work beside another transport of datagrams" => beside_vmci,
    },
];

fn stats(s: &Session) -> Result<String> {
    s.guest_sh("cat /sys/kernel/debug/rvsock/stats")
}

fn is(s: &mut Session, parameters: &str, profile: &str, offers: &str, queues: u8) -> Result<()> {
    s.load_anew(parameters)?;
    let stats = stats(s)?;
    for line in [
        format!("profile: {profile}"),
        format!("offers: {offers}"),
        format!("queues: {queues}"),
    ] {
        ensure!(
            stats.lines().any(|l| l == line),
            "{line:?} was expected: {stats}"
        );
    }
    Ok(())
}

fn is_and_works(
    s: &mut Session,
    parameters: &str,
    profile: &str,
    offers: &str,
    queues: u8,
) -> Result<()> {
    is(s, parameters, profile, offers, queues)?;
    our_device::echoes(s)
}

/// The feature bits that were negotiated.
pub fn features(s: &Session) -> Result<u64> {
    let stats = stats(s)?;
    stats
        .lines()
        .find_map(|l| l.strip_prefix("features: 0x"))
        .and_then(|hex| u64::from_str_radix(hex, 16).ok())
        .with_context(|| format!("no features: {stats}"))
}

/// Which of bits 0 to 3 were accepted.
fn accepts(s: &Session, bits: u64) -> Result<()> {
    let features = features(s)?;
    ensure!(
        features & 0xf == bits,
        "bits {bits:#06b} were expected, {features:#x} are accepted"
    );
    Ok(())
}

/// The driver does not use the device, and its log says why.
fn is_unused(s: &mut Session, parameters: &str, why: &str) -> Result<()> {
    let mark = s.load_anew(parameters)?;
    ensure!(
        s.machine()?
            .serial
            .wait_for(mark, why, Duration::from_secs(5))
            .is_some(),
        "no line of the log says {why:?}"
    );
    let stats = stats(s)?;
    ensure!(
        stats.starts_with("device: none"),
        "the device is in use: {stats}"
    );
    connect_says(s, "ENODEV")
}

fn connect_says(s: &mut Session, errno: &str) -> Result<()> {
    let port = s.fresh_port();
    let text = s
        .rvtest(Side::Guest, &format!("connect --cid 2 --port {port}"))?
        .success(LONG)?;
    ensure!(
        text.contains(errno),
        "connect() was to give {errno}: {text}"
    );
    Ok(())
}

/// A program that prefers datagrams finds none, and goes on (D9).
fn has_no_datagrams(s: &mut Session) -> Result<()> {
    let text = s.rvtest(Side::Guest, "dgram socket")?.success(LONG)?;
    ensure!(
        text.trim() == "SOCKET ENODEV",
        "socket() was to give ENODEV: {text}"
    );
    Ok(())
}

fn beside_vmci(s: &mut Session) -> Result<()> {
    s.unload_when_free()?;
    for module in ["vmw_vmci", "vmw_vsock_vmci_transport"] {
        s.guest_sh(&format!("insmod /modules/{module}.ko"))?;
    }
    let mark = s.machine()?.serial.mark();
    s.load()?;
    let outcome = s
        .machine()?
        .serial
        .wait_for(
            mark,
            "no SOCK_DGRAM: another transport has it",
            Duration::from_secs(5),
        )
        .context("no line of the log says that another transport has SOCK_DGRAM")
        .and_then(|_| our_device::echoes(s));
    // The other tests want it gone.
    s.unload_when_free()?;
    s.guest_sh("rmmod vmw_vsock_vmci_transport vmw_vmci")?;
    s.load()?;
    outcome
}
