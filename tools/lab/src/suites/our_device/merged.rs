// SPDX-License-Identifier: GPL-2.0

//! M2: merged receive buffers that do not add up.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    control::{say, stats},
    victim::{Bystander, Letterbox, Victim, Watch, SEQPACKET, STREAM},
};
use crate::session::Session;

/// The header with `num_buffers`.
const HEADER: u64 = 46;
/// `VMADDR_CID_ANY`.
const ANY: u32 = u32::MAX;

/// Ways to lose bytes of a packet whose buffers can still be told from others'; B is a buffer's size.
fn damage(buffer: u64) -> Vec<(&'static str, String)> {
    let rest = buffer - HEADER;
    vec![
        (
            "a first buffer that is not full",
            format!("zeros={} spread=100,150", 100 - HEADER + 150),
        ),
        (
            "a middle buffer that is not full",
            format!("zeros={} spread={buffer},100,50", rest + 150),
        ),
        (
            "an empty middle buffer",
            format!("zeros={} spread={buffer},0,50", rest + 50),
        ),
        (
            "an empty last buffer",
            format!("zeros={rest} spread={buffer},0"),
        ),
        (
            "a header that speaks of less than came",
            "zeros=100 len=99".into(),
        ),
        (
            "a header that speaks of more than came",
            "zeros=100 len=101".into(),
        ),
        (
            "a header that speaks of 4 GiB",
            "zeros=100 len=0xffffffff".into(),
        ),
        (
            "more buffers than the payload needs",
            "zeros=100 spread=146,0,0,0".into(),
        ),
        (
            "H2: a used length beyond the buffer",
            "zeros=100 used=0xffffffff".into(),
        ),
    ]
}

/// Ways to lose count of the buffers; the ring has so many.
fn lost_count(ring: u64) -> Vec<(&'static str, String)> {
    vec![
        ("num_buffers of 0", "zeros=100 num_buffers=0".into()),
        (
            "num_buffers beyond the ring",
            format!("zeros=100 num_buffers={}", ring + 1),
        ),
        ("num_buffers of 65535", "zeros=100 num_buffers=65535".into()),
        (
            "more num_buffers than are used",
            "zeros=100 num_buffers=3".into(),
        ),
        (
            "H2: a used length shorter than a header",
            "zeros=100 used=45".into(),
        ),
        ("H2: a used length of 0", "zeros=100 used=0".into()),
    ]
}

fn size(s: &Session, name: &str) -> Result<u64> {
    let stats = stats(s)?;
    let size = stats.get(name).copied();
    size.with_context(|| format!("the driver does not say its {name}: {stats:?}"))
}

/// The connection that lost bytes is reset, and no other.
fn damaged(s: &mut Session, kind: u16) -> Result<()> {
    let buffer = size(s, "rx_buffer_bytes")?;
    let mut bystander = Bystander::new(s)?;
    for (what, words) in damage(buffer) {
        (|| {
            let victim = Victim::new(s, kind)?;
            let watch = Watch::new(s)?;
            victim.inject(s, &words)?;
            victim.is_over("ECONNRESET")?;
            watch.expect(s, &[("rx_damaged", 1), ("rx_framing_lost", 0)])?;
            bystander.is_well()
        })()
        .context(what)?;
    }
    bystander.takes_new(s)
}

pub fn damaged_streams(s: &mut Session) -> Result<()> {
    damaged(s, STREAM)
}

pub fn damaged_messages(s: &mut Session) -> Result<()> {
    damaged(s, SEQPACKET)
}

/// A datagram that lost bytes is dropped, and no other; what comes to nobody's port is counted too.
pub fn damaged_datagrams(s: &mut Session) -> Result<()> {
    let buffer = size(s, "dgram_rx_buffer_bytes")?;
    let mut bystander = Bystander::new(s)?;
    let mut letterbox = Letterbox::new(s, ANY)?;
    let nobody = s.fresh_port();
    for (what, words) in damage(buffer) {
        for port in [letterbox.port, nobody] {
            (|| {
                let watch = Watch::new(s)?;
                let before = letterbox.text();
                say(s, &format!("inject dgram-rx dst_port={port} {words}"))?;
                watch.expect(s, &[("rx_damaged", 1), ("rx_framing_lost", 0)])?;
                anyhow::ensure!(letterbox.text() == before, "it was delivered");
                letterbox.gets(s)
            })()
            .context(what)?;
        }
    }
    bystander.is_well()
}

/// The driver resets a device that has lost count, after a second, and all goes on with new connections.
fn recovers(
    s: &mut Session,
    inject: impl Fn(&mut Session, &str) -> Result<()>,
    ring: &str,
) -> Result<()> {
    let ring = size(s, ring)?;
    let mut bystander = Bystander::new(s)?;
    let mut letterbox = Letterbox::new(s, ANY)?;
    for (what, words) in lost_count(ring) {
        (|| {
            bystander.is_well()?;
            let watch = Watch::new(s)?;
            inject(s, &words)?;
            watch.expect(s, &[("rx_framing_lost", 1)])?;
            bystander.is_over()?;
            bystander.takes_new_again(s)?;
            // Datagram sockets are bound as before.
            letterbox.gets(s)?;
            watch.expect(s, &[("rx_framing_lost", 1)])
        })()
        .context(what)?;
    }
    Ok(())
}

pub fn lost_count_of_streams(s: &mut Session) -> Result<()> {
    recovers(
        s,
        |s, words| {
            let victim = Victim::new(s, STREAM)?;
            victim.inject(s, words)?;
            victim.is_over("ECONNRESET")
        },
        "rx_queue",
    )
}

pub fn lost_count_of_messages(s: &mut Session) -> Result<()> {
    recovers(
        s,
        |s, words| {
            let victim = Victim::new(s, SEQPACKET)?;
            victim.inject(s, words)?;
            victim.is_over("ECONNRESET")
        },
        "rx_queue",
    )
}

pub fn lost_count_of_datagrams(s: &mut Session) -> Result<()> {
    recovers(
        s,
        |s, words| say(s, &format!("inject dgram-rx {words}")).map(drop),
        "dgram_rx_queue",
    )
}

/// A device that loses count again and again is reset once a second, and not more often.
pub fn lost_count_for_ever(s: &mut Session) -> Result<()> {
    let mut bystander = Bystander::new(s)?;
    let (watch, start) = (Watch::new(s)?, Instant::now());
    for _ in 0..60 {
        // While the device is being reset, there is nowhere to put it.
        let _ = say(s, "inject rx num_buffers=0 zeros=1");
        thread::sleep(Duration::from_millis(50));
    }
    let resets = watch.moved(s, "rx_framing_lost")?;
    let took = start.elapsed();
    anyhow::ensure!(
        (1..=took.as_secs() + 2).contains(&resets),
        "in {took:?} the device was to be reset {resets} times"
    );
    bystander.takes_new_again(s)?;
    bystander.is_well()
}
