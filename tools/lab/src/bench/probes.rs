// SPDX-License-Identifier: GPL-2.0

//! Counts what does not depend on the machine's mood: packets, kicks, interrupts and exits.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::{Context, Result};

use crate::session::Session;

const TRACING: &str = "/sys/kernel/tracing";

/// Counters in both kernels: used buffers (packets) and exits in the host's, kicks and interrupts in the guest's. A host in
/// User-mode Linux has none.
pub struct Probes {
    exits: Option<f64>,
    interrupts: f64,
}

impl Probes {
    pub fn start(s: &Session) -> Result<Self> {
        s.guest_sh(&format!(
            "cd {TRACING}; echo 'p:kicks vp_notify' > kprobe_events; echo 1 > events/kprobes/kicks/enable"
        ))?;
        let exits = exits()?;
        if exits.is_some() {
            let tracing = Path::new(TRACING);
            fs::write(tracing.join("kprobe_events"), "p:packets vhost_add_used\n")
                .context("a kprobe in the host's kernel")?;
            fs::write(tracing.join("events/kprobes/packets/enable"), "1")?;
        }
        Ok(Self {
            exits,
            interrupts: interrupts(s)?,
        })
    }

    pub fn stop(self, s: &Session) -> Result<Vec<(&'static str, f64)>> {
        let interrupts = interrupts(s)? - self.interrupts;
        let kicks = s.guest_sh(&format!(
            "cd {TRACING}; cat kprobe_profile; echo 0 > events/kprobes/kicks/enable; echo > kprobe_events"
        ))?;
        let mut counts = vec![
            ("kicks", hits(&kicks, "kicks")?),
            ("interrupts", interrupts),
        ];
        if let (Some(before), Some(now)) = (self.exits, exits()?) {
            let tracing = Path::new(TRACING);
            let packets = fs::read_to_string(tracing.join("kprobe_profile"))?;
            fs::write(tracing.join("events/kprobes/packets/enable"), "0")?;
            fs::write(tracing.join("kprobe_events"), "\n")?;
            counts.extend([
                ("packets", hits(&packets, "packets")?),
                ("exits", now - before),
            ]);
        }
        Ok(counts)
    }
}

fn hits(profile: &str, event: &str) -> Result<f64> {
    profile
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .find(|w| w.first().is_some_and(|w| w.ends_with(event)))
        .and_then(|w| w.get(1)?.parse().ok())
        .with_context(|| format!("no hits of {event} in {profile:?}"))
}

/// Exits of all guests, as KVM counts them, where it runs them.
fn exits() -> Result<Option<f64>> {
    match fs::read_to_string("/sys/kernel/debug/kvm/exits") {
        Ok(text) => Ok(Some(text.trim().parse()?)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context("KVM's counters in debugfs"),
    }
}

/// Interrupts of the socket device so far.
fn interrupts(s: &Session) -> Result<f64> {
    let (device, _) = s.device()?;
    let text = s.guest_sh(&format!("grep {device}- /proc/interrupts"))?;
    Ok(text
        .split_whitespace()
        .filter_map(|w| w.parse::<f64>().ok())
        .sum())
}
