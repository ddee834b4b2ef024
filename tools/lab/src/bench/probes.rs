// SPDX-License-Identifier: GPL-2.0

//! Counts what does not depend on the machine's mood: packets, kicks, interrupts and exits.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::session::Session;

const TRACING: &str = "/sys/kernel/tracing";

/// Counters in both kernels: used buffers (packets) and exits in the host's, kicks and interrupts in the guest's.
pub struct Probes {
    exits: f64,
    interrupts: f64,
}

impl Probes {
    pub fn start(s: &Session) -> Result<Self> {
        s.guest_sh(&format!(
            "cd {TRACING}; echo 'p:kicks vp_notify' > kprobe_events; echo 1 > events/kprobes/kicks/enable"
        ))?;
        let tracing = Path::new(TRACING);
        fs::write(tracing.join("kprobe_events"), "p:packets vhost_add_used\n")
            .context("a kprobe in the host's kernel")?;
        fs::write(tracing.join("events/kprobes/packets/enable"), "1")?;
        Ok(Self {
            exits: exits()?,
            interrupts: interrupts(s)?,
        })
    }

    pub fn stop(self, s: &Session) -> Result<Vec<(&'static str, f64)>> {
        let (exits, interrupts) = (exits()? - self.exits, interrupts(s)? - self.interrupts);
        let kicks = s.guest_sh(&format!(
            "cd {TRACING}; cat kprobe_profile; echo 0 > events/kprobes/kicks/enable; echo > kprobe_events"
        ))?;
        let tracing = Path::new(TRACING);
        let packets = fs::read_to_string(tracing.join("kprobe_profile"))?;
        fs::write(tracing.join("events/kprobes/packets/enable"), "0")?;
        fs::write(tracing.join("kprobe_events"), "\n")?;
        Ok(vec![
            ("packets", hits(&packets, "packets")?),
            ("kicks", hits(&kicks, "kicks")?),
            ("interrupts", interrupts),
            ("exits", exits),
        ])
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

/// Exits of all guests, as KVM counts them.
fn exits() -> Result<f64> {
    let text =
        fs::read_to_string("/sys/kernel/debug/kvm/exits").context("KVM's counters in debugfs")?;
    Ok(text.trim().parse()?)
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
