// SPDX-License-Identifier: GPL-2.0

//! One rule after the other, with few datagrams.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Result};
use guest::{
    dgram::{check, LARGEST, READS, SIZES},
    pattern,
};

use super::{
    host::{command, has_come, Counters, Port, Since, STALL},
    number,
};
use crate::{
    process::{allowed, Process},
    session::{Session, Side},
    suites::{
        played::{dgram_tx, shares_dgrams},
        until, LONG,
    },
};

/// Runs `rvtest dgram NAME` in the guest with a port of the host's as its peer.
fn with_peer(s: &Session, name: &str, port: &Port) -> Result<Process> {
    s.rvtest(
        Side::Guest,
        &format!("dgram {name} --cid 2 --port {}", port.number),
    )
}

/// What the device must not have seen.
const WRONG: &[&str] = &[
    "tx_malformed",
    "tx_wrong_source",
    "tx_wrong_kind",
    "tx_unknown_op",
    "rx_bad_buffers",
];

pub fn d1(s: &mut Session) -> Result<()> {
    const SOCKETS: u64 = 20;
    let port = Port::new(s)?;
    let since = Since::now(s)?;
    let client = with_peer(s, &format!("many --count {SOCKETS}"), &port)?;
    let echoed = port.echo_while(&client)?;
    client.success(LONG)?;
    let now = Counters::read(s)?;
    for name in WRONG {
        let count = since.device(&now, name)?;
        ensure!(count == 0, "{name} went up by {count}");
    }
    ensure!(echoed == 2 * SOCKETS, "{echoed} datagrams came");
    // On shared queues they are packets as others are, and there is none but them.
    let others = if shares_dgrams(s) { echoed } else { 0 };
    for (name, wanted) in [
        ("dgram_tx_packets", echoed),
        ("dgram_rx_packets", echoed),
        ("tx_packets", others),
        ("rx_packets", others),
    ] {
        let count = since.device(&now, name)?;
        ensure!(count == wanted, "{name} went up by {count}, not {wanted}");
    }
    Ok(())
}

pub fn d2_from_guest(s: &mut Session) -> Result<()> {
    let port = Port::new(s)?;
    let client = with_peer(s, "sizes-send", &port)?;
    let mut expected = (0..).zip(SIZES);
    let outcome = port.while_runs(&client, |bytes, from| {
        let (seed, size) = expected.next().unwrap_or((0, &usize::MAX));
        ensure!(
            bytes.len() == *size,
            "{} bytes came where {size} were due",
            bytes.len()
        );
        ensure!(
            pattern::mismatch(bytes, seed, 0).is_none(),
            "of {size} bytes some came changed"
        );
        port.answer(bytes, from)
    });
    client.success(LONG)?;
    outcome?;
    ensure!(expected.next().is_none(), "some did not come");
    Ok(())
}

pub fn d2_from_host(s: &mut Session) -> Result<()> {
    let port = Port::new(s)?;
    let guest = s.fresh_port();
    let server = s.server(Side::Guest, &format!("dgram sizes-receive --port {guest}"))?;
    port.aim(guest)?;
    send_sizes(&port)?;
    server.success(LONG).map(drop)
}

fn send_sizes(port: &Port) -> Result<()> {
    let mut bytes = vec![0; LARGEST];
    for (seed, size) in (0..).zip(SIZES) {
        let bytes = &mut bytes[..*size];
        pattern::fill(bytes, seed, 0);
        for _ in 0..READS {
            port.send(bytes)?;
        }
    }
    Ok(())
}

pub fn d3(s: &mut Session) -> Result<()> {
    let port = Port::new(s)?;
    let client = with_peer(s, "full", &port)?;
    client.expect("READY", LONG)?;
    let since = Since::now(s)?;
    // The guest's port has the same number.
    let teller = Port::new(s)?;
    teller.aim(port.number)?;
    command(s, &format!("pause {}", dgram_tx(s)))?;
    teller.send(b"paused")?;
    let waits = client.expect("WAITING", LONG).and_then(|_| {
        teller.send(b"hello")?;
        client.expect("HEARD", LONG)
    });
    command(s, &format!("resume {}", dgram_tx(s)))?;
    waits?;
    let (mut next, mut own, mut others) = (0, 0, 0);
    port.while_runs(&client, |bytes, _| {
        match check(bytes)? {
            number if number < 1_000_000 => {
                ensure!(number >= next, "datagram {number} came after {next}");
                next = number + 1;
                own += 1;
            }
            _ => others += 1,
        }
        Ok(())
    })?;
    let text = client.success(LONG)?;
    let line = text.lines().last().unwrap_or_default();
    let sent = number(line, "sent")? + number(line, "others")?;
    let now = Counters::read(s)?;
    let dropped = since.device(&now, "dgram_to_host_full")?;
    ensure!(
        own + others + dropped == sent,
        "{sent} were sent, {own} and {others} came, {dropped} were dropped by the host"
    );
    Ok(())
}

pub fn many_sockets(s: &mut Session) -> Result<()> {
    let port = Port::new(s)?;
    let client = with_peer(s, "many --count 200", &port)?;
    let echoed = port.echo_while(&client);
    client.success(LONG)?;
    ensure!(echoed? == 400, "not every datagram came");
    Ok(())
}

pub fn many_senders(s: &mut Session) -> Result<()> {
    const SENDERS: usize = 60;
    let guest = s.fresh_port();
    let server = s.server(Side::Guest, &format!("dgram echo --port {guest}"))?;
    let ports = (0..SENDERS)
        .map(|_| {
            let port = Port::new(s)?;
            port.aim(guest)?;
            Ok(port)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut buffer = [0; 64];
    for round in 0..2 {
        for port in &ports {
            port.send(format!("round {round} of {}", port.number).as_bytes())?;
        }
    }
    for round in 0..2 {
        for port in &ports {
            let got = port.receive(&mut buffer, LONG)?;
            let (len, _) = got.unwrap_or_default();
            let (text, want) = (
                String::from_utf8_lossy(&buffer[..len]),
                format!("round {round} of {}", port.number),
            );
            ensure!(text == want, "{text:?} came back, not {want:?}");
        }
    }
    ports[0].send(b"end")?;
    server.success(LONG).map(drop)
}

pub fn refused(s: &mut Session) -> Result<()> {
    let since = Since::now(s)?;
    let port = s.fresh_port();
    super::alone(s, &format!("refused --cid 2 --port {port}"))?;
    let now = Counters::read(s)?;
    let refused = since.device(&now, "dgram_to_host_nobody")?;
    ensure!(refused == 5, "the device refused {refused} datagrams");
    Ok(())
}

pub fn nobody(s: &mut Session) -> Result<()> {
    let port = Port::new(s)?;
    let since = Since::now(s)?;
    port.aim(s.fresh_port())?;
    for _ in 0..3 {
        port.send(b"is anybody there?")?;
    }
    until(STALL, || {
        let now = Counters::read(s)?;
        let (resets, refused) = (
            since.device(&now, "dgram_resets_received")?,
            since.driver(&now, "rx_refused")?,
        );
        ensure!(
            resets == 3 && refused == 3,
            "of 3 datagrams the driver refused {refused}, and {resets} refusals came"
        );
        Ok(())
    })
}

pub fn only_peer(s: &mut Session) -> Result<()> {
    let (peer, other) = (Port::new(s)?, Port::new(s)?);
    let guest = s.fresh_port();
    let server = s.server(
        Side::Guest,
        &format!("dgram only-peer --port {guest} --peer-port {}", peer.number),
    )?;
    peer.aim(guest)?;
    other.aim(guest)?;
    other.send(b"other one")?;
    peer.send(b"peer one")?;
    server.expect("CONNECTED", LONG)?;
    let since = Since::now(s)?;
    other.send(b"other two")?;
    peer.send(b"peer two")?;
    server.expect("DISCONNECTED", LONG)?;
    other.send(b"other three")?;
    server.success(LONG)?;
    // Nobody refuses anything on shared queues.
    let counter = if shares_dgrams(s) {
        "rx_dgram_dropped"
    } else {
        "rx_refused"
    };
    let refused = since.driver(&Counters::read(s)?, counter)?;
    ensure!(
        refused == 1,
        "the driver refused {refused} datagrams, not 1"
    );
    Ok(())
}

pub fn d8(s: &mut Session) -> Result<()> {
    const BURST: usize = 4;
    let port = Port::new(s)?;
    let guest = s.fresh_port();
    let server = s.server(Side::Guest, &format!("dgram echo --port {guest}"))?;
    port.aim(guest)?;
    let since = Since::now(s)?;
    // Without the guest nobody posts a buffer again.
    s.machine()?.freeze(true)?;
    let bytes = vec![b'x'; LARGEST];
    let sent: Result<()> = (0..BURST).try_for_each(|_| port.send(&bytes));
    // Nor can it be asked for the driver's counters.
    let taken = sent.and_then(|()| since.taken(s, BURST as u64));
    s.machine()?.freeze(false)?;
    taken?;
    let now = Counters::read(s)?;
    for (name, want) in [
        ("dgram_rx_packets", BURST as u64),
        ("dgram_rx_buffers", BURST as u64),
        ("dgram_rx_too_big", 0),
        ("dgram_rx_no_buffers", 0),
    ] {
        let count = since.device(&now, name)?;
        ensure!(count == want, "{name} went up by {count}, not {want}");
    }
    port.send(b"end")?;
    let text = server.success(LONG)?;
    ensure!(
        number(&text, "count")? == BURST as u64 + 1,
        "the guest's socket took {text:?}"
    );
    Ok(())
}

pub fn m1(s: &mut Session) -> Result<()> {
    const HEADER: usize = 46;
    let since = Since::now(s)?;
    d2_from_host(s)?;
    let now = Counters::read(s)?;
    let buffer = now.driver("dgram_rx_buffer_bytes")? as usize;
    let want: usize = SIZES
        .iter()
        .map(|size| READS * (HEADER + size).div_ceil(buffer))
        .sum();
    let count = since.device(&now, "dgram_rx_buffers")?;
    ensure!(
        count == want as u64,
        "{count} buffers were taken, not {want}"
    );
    let damaged = since.driver(&now, "rx_damaged")?;
    ensure!(damaged == 0, "the driver saw {damaged} damaged packets");
    Ok(())
}

/// Datagrams of a device that lies. Each of them is lost and counted, and the next honest one arrives.
pub fn m2(s: &mut Session, merges: bool) -> Result<()> {
    let buffer = Counters::read(s)?.driver(if shares_dgrams(s) {
        "rx_buffer_bytes"
    } else {
        "dgram_rx_buffer_bytes"
    })?;
    let two = |first: u64, second: u64| {
        let zeros = buffer + 904;
        format!("zeros={zeros} spread={buffer} used={first},{second} num_buffers=2")
    };
    let (longer, shorter) = (two(buffer, 2000), two(buffer - 1, 950));
    let mut lies = vec![
        ("len=101 zeros=100", "rx_damaged"),
        ("len=65537 zeros=100", "rx_damaged"),
        ("zeros=100 used=20", "rx_short"),
    ];
    if merges {
        lies.pop();
        lies.extend([
            ("len=99 zeros=100 num_buffers=1", "rx_damaged"),
            ("zeros=5000 spread=2000 num_buffers=2", "rx_damaged"),
            (longer.as_str(), "rx_damaged"),
            (shorter.as_str(), "rx_damaged"),
            ("zeros=100 num_buffers=0", "rx_framing_lost"),
            ("zeros=100 num_buffers=2", "rx_framing_lost"),
            ("zeros=100 num_buffers=65535", "rx_framing_lost"),
            ("zeros=100 used=20", "rx_framing_lost"),
        ]);
    }
    let guest = s.fresh_port();
    let server = s.server(Side::Guest, &format!("dgram echo --port {guest}"))?;
    let (mut honest, start) = (0, Since::now(s)?);
    for (lie, counter) in &lies {
        let since = Since::now(s)?;
        command(s, &format!("inject dgram-rx dst_port={guest} {lie}"))?;
        until(STALL, || {
            let count = since.driver(&Counters::read(s)?, counter)?;
            ensure!(count > 0, "{counter} did not go up for {lie:?}");
            Ok(())
        })?;
        let deadline = Instant::now() + allowed(STALL);
        // A device that was reset for it has forgotten whom its sockets are for, and may not run yet.
        let mut buffer = [0; 16];
        loop {
            let port = Port::new(s)?;
            port.aim(guest)?;
            port.send(b"honest")?;
            honest += 1;
            match port.receive(&mut buffer, Duration::from_millis(500))? {
                Some((6, _)) if &buffer[..6] == b"honest" => break,
                None if Instant::now() < deadline => {}
                other => bail!("after {lie:?} the guest answered {other:?}"),
            }
        }
    }
    let now = Counters::read(s)?;
    let wanted = |name| lies.iter().filter(|l| l.1 == name).count() as u64;
    for name in ["rx_damaged", "rx_framing_lost", "rx_short"] {
        let (count, want) = (start.driver(&now, name)?, wanted(name));
        ensure!(count == want, "{name} went up by {count}, not {want}");
    }
    let port = Port::new(s)?;
    port.aim(guest)?;
    port.send(b"end")?;
    let took = number(&server.success(LONG)?, "count")?;
    ensure!(
        took <= honest + 1,
        "the guest's socket took {took} datagrams, of which {honest} were honest"
    );
    Ok(())
}

pub fn notify(s: &mut Session) -> Result<()> {
    let port = Port::new(s)?;
    let client = with_peer(s, "notify", &port)?;
    let mut heard = Vec::new();
    let hear = |bytes: &[u8], from: &str| {
        let port: Option<u32> = from.rsplit('_').next().and_then(|p| p.parse().ok());
        ensure!(
            port.is_some_and(|p| p < 1024),
            "it came from {from}, which is no privileged port"
        );
        heard.push(String::from_utf8_lossy(bytes).into_owned());
        Ok(())
    };
    port.until_all(&client, hear, has_come)?;
    let text = client.success(LONG)?;
    ensure!(text.trim() == "NOTIFIED Datagram", "it said {text:?}");
    ensure!(heard == ["READY=1"], "the host heard {heard:?}");
    Ok(())
}

pub fn outlive(s: &mut Session) -> Result<()> {
    let port = Port::new(s)?;
    let (guest, second) = (s.fresh_port(), s.fresh_port());
    let (device, driver) = s.device()?;
    let program = s.rvtest(
        Side::Guest,
        &format!("dgram outlive --port {guest} --peer-port {}", port.number),
    )?;
    program.expect("READY", LONG)?;
    s.guest_sh(&format!(
        "echo {device} > /sys/bus/virtio/drivers/{driver}/unbind"
    ))?;
    let gone = program.expect("GONE", LONG);
    s.guest_sh(&format!(
        "echo {device} > /sys/bus/virtio/drivers/{driver}/bind"
    ))?;
    gone?;
    program.expect("BACK", LONG)?;
    for guest in [guest, second] {
        let teller = Port::new(s)?;
        teller.aim(guest)?;
        teller.send(b"again")?;
    }
    program.success(LONG).map(drop)
}
