// SPDX-License-Identifier: GPL-2.0

//! The driver's receive buffers: what is in them, and when the device hears of them.

use anyhow::{ensure, Result};

use super::{
    control::{say, stats},
    streams,
    victim::{flood, Bystander, Watch},
};
use crate::session::Session;

/// Buffers that come back as if they held a packet, and to which nothing was written: what they brought before is not
/// received again.
pub fn unwritten(s: &mut Session, header: u32) -> Result<()> {
    const COUNT: u32 = 200;
    let mut bystander = Bystander::new(s)?;
    // Each buffer has brought a part of the stream.
    for _ in 0..COUNT {
        bystander.is_well()?;
    }
    let watch = Watch::new(s)?;
    flood(s, COUNT, |_| format!("inject rx raw= used={header}"))?;
    watch.expect(s, &[("rx_unwritten", COUNT.into()), ("rx_damaged", 0)])?;
    bystander.is_well()
}

/// The device is told of new buffers when it may want them, and not of each.
pub fn kicks(s: &mut Session) -> Result<()> {
    const ROUNDS: u32 = 300;
    let mut bystander = Bystander::new(s)?;
    say(s, "loud rx on")?;
    let watch = Watch::new(s)?;
    let outcome = (0..ROUNDS).try_for_each(|_| bystander.is_well());
    say(s, "loud rx off")?;
    outcome?;
    let (packets, kicks) = (watch.moved(s, "rx_packets")?, watch.moved(s, "rx_kicks")?);
    ensure!(
        packets >= ROUNDS.into() && kicks * 9 <= packets + 9,
        "for {packets} packets the device was told of buffers {kicks} times"
    );
    Ok(())
}

/// With as few buffers as can be, streams flow.
pub fn two_buffers(s: &mut Session) -> Result<()> {
    s.unload_when_free()?;
    s.guest_sh("insmod /modules/rvsock.ko rx_pool_kb=64")?;
    let outcome = (|| {
        let buffers = stats(s)?["rx_buffers"];
        ensure!(buffers == 2, "there are {buffers} buffers");
        streams::from_guest(s)?;
        streams::from_host(s)
    })();
    s.unload_when_free()?;
    s.load()?;
    outcome
}
