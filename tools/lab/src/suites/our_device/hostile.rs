// SPDX-License-Identifier: GPL-2.0

//! A device that breaks the rules of single packets (H1 to H4), or sends too much (K3, C6).

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};

use super::{
    connect,
    control::{counters, say, stats},
    victim::{flood, Bystander, Letterbox, Victim, Watch, SEQPACKET, STREAM},
    STALL,
};
use crate::{
    process::allowed,
    session::{Session, Side, GUEST_CID},
};

/// Packets that mean nothing are counted, and nothing else comes of them.
pub fn unknown_ops(s: &mut Session) -> Result<()> {
    for kind in [STREAM, SEQPACKET] {
        let victim = Victim::new(s, kind)?;
        let watch = Watch::new(s)?;
        let words = ["op=0", "op=8", "op=0xffff", "op=8 zeros=1000"];
        // Of those that exist, what makes no sense here.
        let senseless = ["op=1", "op=2", "op=4 flags=0", "op=4 flags=0xfffffffc"];
        for words in words.iter().chain(&senseless) {
            victim.inject(s, words)?;
        }
        watch.expect(s, &[("rx_bad_op", 8)])?;
        victim.survives()?;
    }
    Ok(())
}

/// A type that does not exist, or is another's, is answered by RST (C2), and the connection lives.
pub fn unknown_types(s: &mut Session) -> Result<()> {
    let victim = Victim::new(s, STREAM)?;
    let watch = Watch::new(s)?;
    for kind in [0, 2, 4, 0xffff] {
        victim.inject_as(s, kind, "zeros=10")?;
    }
    watch.expect(s, &[("rx_refused", 4)])?;
    victim.survives()
}

/// Flags that do not exist are ignored.
pub fn unknown_flags(s: &mut Session) -> Result<()> {
    let watch = Watch::new(s)?;
    let victim = Victim::new(s, STREAM)?;
    victim.inject(s, "op=5 flags=0xffffffff zeros=10")?;
    victim.inject(s, "op=6 flags=0xffffffff")?;
    victim.inject(s, "op=7 flags=0xffffffff")?;
    victim.survives()?;
    // All but the end of the message, then its end.
    let victim = Victim::new(s, SEQPACKET)?;
    victim.inject(s, "op=5 flags=0xfffffffc zeros=10")?;
    victim.inject(s, "op=6 flags=0xffffffff")?;
    drop(victim);
    let victim = Victim::new(s, STREAM)?;
    victim.inject(s, "op=4 flags=0xffffffff")?;
    victim.is_over("eof")?;
    watch.expect(s, &[("rx_bad_op", 0), ("rx_damaged", 0)])
}

/// Upper halves of CIDs, and CIDs of others: dropped, counted, and not answered to a CID that nobody can have.
pub fn addresses(s: &mut Session) -> Result<()> {
    let victim = Victim::new(s, STREAM)?;
    let watch = Watch::new(s)?;
    let words = [
        "src_cid=0x100000002",
        "dst_cid=0x100000003",
        "src_cid=0xffffffffffffffff",
        "dst_cid=0xffffffffffffffff",
    ];
    for words in words {
        victim.inject(s, &format!("op=3 {words}"))?;
        victim.inject(s, &format!("op=5 zeros=10 {words}"))?;
    }
    watch.expect(s, &[("rx_bad_address", 8), ("rx_refused", 0)])?;
    // An RST would bear the CID of this guest, and end the connection for the host.
    victim.inject(s, "op=5 zeros=10 dst_cid=9")?;
    watch.expect(s, &[("rx_bad_address", 9), ("rx_refused", 0)])?;
    // The ports are the victim's, and who sends is not its peer.
    victim.inject(s, "op=3 src_cid=9")?;
    victim.inject(s, "op=5 zeros=10 src_cid=9")?;
    // Not an RST, which is never answered.
    watch.expect(s, &[("rx_bad_address", 9), ("rx_refused", 1)])?;
    victim.survives()
}

/// The same on the queue of datagrams, and each queue's packets on the other's.
pub fn datagrams(s: &mut Session) -> Result<()> {
    let mut letterbox = Letterbox::new(s, u32::MAX)?;
    let victim = Victim::new(s, STREAM)?;
    let watch = Watch::new(s)?;
    let before = letterbox.text();
    let port = letterbox.port;
    let inject = |queue: &str, words: &str| {
        say(s, &format!("inject {queue} dst_port={port} {words}")).map(drop)
    };
    for op in [0, 1, 2, 4, 6, 7, 8, 0xffff] {
        inject("dgram-rx", &format!("op={op} zeros=10"))?;
    }
    for kind in [0, 1, 2, 4, 0xffff] {
        inject("dgram-rx", &format!("type={kind} zeros=10"))?;
    }
    inject("rx", "type=3 zeros=10")?;
    // One byte too long.
    let buffer = stats(s)?["dgram_rx_buffer_bytes"];
    let (bytes, mut left, mut spread) = (65_537_u64, 65_537 + 46, Vec::new());
    while left > 0 {
        spread.push(left.min(buffer).to_string());
        left -= left.min(buffer);
    }
    inject(
        "dgram-rx",
        &format!("zeros={bytes} spread={}", spread.join(",")),
    )?;
    watch.expect(s, &[("rx_bad_op", 15)])?;
    for words in [
        "src_cid=0x100000002",
        "dst_cid=0x100000003",
        "dst_cid=9",
        "dst_cid=0xffffffff",
    ] {
        inject("dgram-rx", &format!("zeros=10 {words}"))?;
        inject("dgram-rx", &format!("op=3 {words}"))?;
    }
    watch.expect(s, &[("rx_bad_address", 8), ("rx_damaged", 0)])?;
    ensure!(letterbox.text() == before, "one of them was delivered");
    letterbox.gets(s)?;
    victim.survives()
}

/// Events that are none.
pub fn events(s: &mut Session) -> Result<()> {
    let mut bystander = Bystander::new(s)?;
    let watch = Watch::new(s)?;
    let words = [
        "raw=01000000",
        "raw=ffffffff",
        "raw=00",
        "raw=00000000 used=0",
        "raw=00000000 used=3",
    ];
    for words in words {
        say(s, &format!("inject event {words}"))?;
    }
    watch.expect(s, &[("events", 5), ("rx_bad_op", 5)])?;
    bystander.is_well()
}

/// Without merging, a used length is no more than a hint (H2).
pub fn lengths(s: &mut Session) -> Result<()> {
    let mut bystander = Bystander::new(s)?;
    let victim = Victim::new(s, STREAM)?;
    let watch = Watch::new(s)?;
    victim.inject(s, "zeros=10 used=0xffffffff")?;
    victim.inject(s, "zeros=10 used=43")?;
    victim.inject(s, "zeros=10 used=0")?;
    watch.expect(s, &[("rx_short", 2), ("rx_damaged", 0)])?;
    victim.survives()?;
    for kind in [STREAM, SEQPACKET] {
        for words in [
            "zeros=10 len=11",
            "zeros=10 len=0xffffffff",
            "zeros=10 used=53",
        ] {
            let victim = Victim::new(s, kind)?;
            let watch = Watch::new(s)?;
            victim.inject(s, words)?;
            victim.is_over("ECONNRESET").context(words)?;
            watch.expect(s, &[("rx_damaged", 1)])?;
        }
    }
    bystander.is_well()
}

/// A used element that names no buffer breaks the queue, for the kernel; binding the device again mends it.
pub fn foreign_head(s: &mut Session) -> Result<()> {
    let mut bystander = Bystander::new(s)?;
    for head in [5000, 255] {
        let (device, driver) = s.device()?;
        say(s, &format!("inject rx zeros=10 head={head}"))?;
        // Nothing comes in any more, and nothing must spin for it.
        thread::sleep(Duration::from_millis(300));
        let folder = format!("/sys/bus/virtio/drivers/{driver}");
        s.guest_sh(&format!("echo {device} > {folder}/unbind"))?;
        s.guest_sh(&format!("echo {device} > {folder}/bind"))?;
        bystander.takes_new_again(s)?;
    }
    bystander.is_well()
}

/// More than the connection's credit: that connection is reset, and no other.
pub fn beyond_credit(s: &mut Session) -> Result<()> {
    const PIECE: usize = 3000;
    const WINDOW: usize = 256 << 10;
    let mut bystander = Bystander::new(s)?;
    for (kind, name) in [(STREAM, "stream"), (SEQPACKET, "seqpacket")] {
        let port = s.fresh_port();
        let server = s.server(
            Side::Guest,
            &format!("hold-server --port {port} --connections 1 --kind {name}"),
        )?;
        let (stream, messages, host_port) = if kind == STREAM {
            let (stream, host_port) = connect(s, port)?;
            (Some(stream), None, host_port)
        } else {
            let (messages, host_port) = super::messages::Messages::connect(s, port)?;
            (None, Some(messages), host_port)
        };
        server.expect("HELD", Duration::from_secs(20))?;
        let watch = Watch::new(s)?;
        let packets = |count| {
            flood(s, count, |_| {
                format!("inject rx type={kind} src_port={host_port} dst_port={port} zeros={PIECE}")
            })
        };
        // What the credit allows is taken.
        packets((WINDOW / PIECE) as u32)?;
        watch.expect(s, &[("rx_overrun", 0)])?;
        packets(1)?;
        watch.expect(s, &[("rx_overrun", 1)])?;
        let ended = match (stream, messages) {
            (Some(mut stream), _) => std::io::Read::read(&mut stream, &mut [0; 1]),
            (_, Some(messages)) => messages.receive(&mut [0; 1]),
            _ => Ok(0),
        };
        ensure!(
            matches!(&ended, Ok(0))
                || matches!(&ended, Err(e) if e.raw_os_error() == Some(libc::ECONNRESET)),
            "the host was not told: {ended:?}"
        );
        bystander.is_well()?;
    }
    Ok(())
}

/// Requests by the thousand: to a listener, and to nobody.
pub fn requests(s: &mut Session) -> Result<()> {
    const COUNT: u32 = 2000;
    let mut bystander = Bystander::new(s)?;
    let nobody = s.fresh_port();
    for port in [bystander.port(), nobody] {
        flood(s, COUNT, |i| {
            format!("inject rx op=1 src_port={} dst_port={port}", 100_000 + i)
        })?;
        bystander.is_well()?;
        // While too many wait, more are refused.
        bystander.takes_new_soon(s)?;
    }
    Ok(())
}

/// RST to all that there is: nobody answers one (C2).
pub fn resets(s: &mut Session) -> Result<()> {
    let mut bystander = Bystander::new(s)?;
    let victim = Victim::new(s, STREAM)?;
    let messages = Victim::new(s, SEQPACKET)?;
    let watch = Watch::new(s)?;
    let received = |s: &Session| -> Result<u64> {
        let json = counters(s)?;
        let count = &json[GUEST_CID.to_string()]["resets_received"];
        count.as_u64().context("no resets_received")
    };
    let before = received(s)?;
    victim.inject(s, "op=3")?;
    messages.inject(s, "op=3")?;
    victim.is_over_in_guest("eof")?;
    messages.is_over_in_guest("eof")?;
    let listener = bystander.port();
    for words in [
        format!("dst_port={listener}"),
        format!("dst_port={}", s.fresh_port()),
        format!("type=2 dst_port={listener}"),
        format!("type=9 dst_port={listener}"),
        format!("dst_cid=9 dst_port={listener}"),
    ] {
        say(s, &format!("inject rx op=3 {words}"))?;
    }
    bystander.is_well()?;
    watch.expect(s, &[("rx_refused", 0)])?;
    let answers = received(s)? - before;
    ensure!(answers == 0, "{answers} RST were sent");
    bystander.takes_new(s)
}

/// What comes from another CID or port than the peer's is not the connection's: it is answered by RST (C2).
pub fn strangers(s: &mut Session) -> Result<()> {
    for kind in [STREAM, SEQPACKET] {
        let victim = Victim::new(s, kind)?;
        let watch = Watch::new(s)?;
        // All but REQUEST, which is for the listener, and RST, which is not answered.
        let ops = ["op=2", "op=4 flags=3", "op=5 zeros=10", "op=6", "op=7"];
        let (host_port, guest_port, _) = victim.ports();
        for other in [
            format!("src_cid=9 src_port={host_port}"),
            "src_port=9".to_owned(),
        ] {
            let to = format!("type={kind} dst_port={guest_port} {other}");
            for op in ops {
                say(s, &format!("inject rx {to} {op} buf_alloc=0"))?;
            }
            say(s, &format!("inject rx {to} op=3"))?;
        }
        watch.expect(s, &[("rx_refused", 10), ("rx_bad_op", 0)])?;
        victim.survives()?;
    }
    Ok(())
}

/// While the device takes nothing, what it sends is received, and what would have to be answered is bounded (C6).
pub fn deaf(s: &mut Session) -> Result<()> {
    const COUNT: u32 = 4000;
    let mut bystander = Bystander::new(s)?;
    let victim = Victim::new(s, STREAM)?;
    let nobody = s.fresh_port();
    let watch = Watch::new(s)?;
    say(s, "pause tx")?;
    let outcome = (|| {
        flood(s, COUNT, |i| {
            format!("inject rx op=5 src_port={} dst_port={nobody}", 100_000 + i)
        })?;
        watch.expect(s, &[("rx_refused", u64::from(COUNT))])?;
        let dropped = watch.moved(s, "tx_reply_dropped")?;
        ensure!(
            dropped > u64::from(COUNT) / 2,
            "of {COUNT} replies only {dropped} were dropped: where are the others?"
        );
        // The end of a connection is seen.
        victim.inject(s, "op=4 flags=3")?;
        victim.is_over_in_guest("eof")
    })();
    say(s, "resume tx")?;
    outcome?;
    let start = Instant::now();
    bystander.is_well()?;
    bystander.takes_new(s)?;
    ensure!(
        start.elapsed() < allowed(STALL),
        "it took {:?} to go on",
        start.elapsed()
    );
    Ok(())
}
