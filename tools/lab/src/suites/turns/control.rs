// SPDX-License-Identifier: GPL-2.0

//! The interface in the guest, what `tc` sets up there, and what it counts.

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use crate::{
    session::Session,
    suites::{our_device::STALL, programs::unpack_in_guest, until, LONG},
};

/// The first socket device's.
pub const INTERFACE: &str = "vsock0";
/// Busybox has others of these names.
pub const TC: &str = "/usr/sbin/tc";
pub const IP: &str = "/usr/bin/ip";
pub const ETHTOOL: &str = "/usr/sbin/ethtool";

/// Unpacks the programs, and loads what they ask the kernel for.
pub fn prepare(s: &Session) -> Result<()> {
    unpack_in_guest(s)?;
    s.guest_sh(
        r#"[ -e /etc/schedulers ] && exit
while read -r module; do [ -z "$module" ] || insmod "/modules/$module.ko" || exit; done </modules/schedulers
touch /etc/schedulers"#,
    )
    .context("loading schedulers and classifiers")?;
    Ok(())
}

/// Gives a command to `tc`.
pub fn tc(s: &Session, words: &str) -> Result<String> {
    s.guest_sh(&format!("{TC} {words}"))
}

/// Switches the interface on or off.
pub fn switch(s: &Session, to: &str) -> Result<()> {
    s.guest_sh(&format!("{IP} link set {INTERFACE} {to}"))
        .map(drop)
}

/// Has the interface up with what these commands of `tc` set up, in which DEV stands for it, while `body` runs.
pub fn scheduled<T>(
    s: &mut Session,
    commands: &[impl AsRef<str>],
    body: impl FnOnce(&mut Session) -> Result<T>,
) -> Result<T> {
    prepare(s)?;
    switch(s, "up")?;
    for command in commands {
        let command = command.as_ref().replace("DEV", &format!("dev {INTERFACE}"));
        tc(s, &command)?;
    }
    let value = body(s)?;
    // Either may not be there.
    for qdisc in ["root", "clsact"] {
        let command = format!("{TC} qdisc del dev {INTERFACE} {qdisc}");
        s.guest_try(&command, LONG)?;
    }
    switch(s, "down")?;
    Ok(value)
}

/// What a qdisc has counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    pub packets: u64,
    pub bytes: u64,
    pub drops: u64,
    /// What waits there, in bytes and turns.
    pub backlog: u64,
    pub waiting: u64,
}

impl Counted {
    /// By the root of an interface.
    pub fn at(s: &Session, interface: &str) -> Result<Self> {
        let text = tc(s, &format!("-s -j qdisc show dev {interface}"))?;
        let all: Vec<Value> =
            serde_json::from_str(&text).with_context(|| format!("tc said {text:?}"))?;
        let root = all.iter().find(|q| q["root"] == true);
        let root = root.with_context(|| format!("there is no root qdisc: {text}"))?;
        let number = |name: &str| root[name].as_u64().unwrap_or(0);
        Ok(Self {
            packets: number("packets"),
            bytes: number("bytes"),
            drops: number("drops"),
            backlog: number("backlog"),
            waiting: number("qlen"),
        })
    }

    /// By the interface's own.
    pub fn now(s: &Session) -> Result<Self> {
        Self::at(s, INTERFACE)
    }

    /// Waits until its own has something that waits.
    pub fn until_waiting(s: &Session) -> Result<Self> {
        until(STALL, || {
            let now = Self::now(s)?;
            ensure!(
                now.waiting > 0 && now.backlog > 0,
                "nothing waits in the qdisc: {now:?}"
            );
            Ok(now)
        })
    }
}

/// What `u32` finds at the place of a port, which is little-endian there.
fn port_at(port: u32, at: u32) -> String {
    format!(
        "u32 match u32 {:#010x} 0xffffffff at {at}",
        port.swap_bytes()
    )
}

/// A match of packets for this port.
pub fn for_port(port: u32) -> String {
    port_at(port, 20)
}

/// A classic BPF program that knows packets for this port.
pub fn bpf_for_port(port: u32) -> String {
    // ld [20]; jeq #port, 0, 1; ret #-1; ret #0
    format!(
        "4,32 0 0 20,21 0 1 {},6 0 0 4294967295,6 0 0 0",
        port.swap_bytes()
    )
}
