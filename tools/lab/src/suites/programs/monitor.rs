// SPDX-License-Identifier: GPL-2.0

//! A vsockmon device, captured by tcpdump: every packet as it was sent.

use anyhow::{ensure, Context, Result};

use super::{start, unpack};
use crate::{
    session::{Session, Side},
    suites::LONG,
};

/// A packet as a vsockmon device gives it: its own header of 32 bytes, the transport's, the payload.
struct Packet {
    source: (u64, u32),
    target: (u64, u32),
    /// 1 connect, 2 disconnect, 3 control, 4 payload.
    op: u16,
    payload: Vec<u8>,
}

const VSOCKMON_HEADER: usize = 32;
/// The number that libpcap has for what a vsockmon device gives.
const LINKTYPE_VSOCK: u32 = 271;
const VIRTIO: u16 = 2;
const CONNECT: u16 = 1;
const DISCONNECT: u16 = 2;
const PAYLOAD: u16 = 4;

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let field = bytes.get(at..at + N).context("the capture ends early")?;
    Ok(field.try_into()?)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(number(bytes, at)?))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(number(bytes, at)?))
}

/// Reads a capture file, and checks what every packet must have.
fn packets(file: &[u8]) -> Result<Vec<Packet>> {
    ensure!(u32_at(file, 0)? == 0xa1b2_c3d4, "this is no capture file");
    let link = u32_at(file, 20)?;
    ensure!(
        link == LINKTYPE_VSOCK,
        "the link type is {link}, not {LINKTYPE_VSOCK}"
    );
    let (mut at, mut packets) = (24, Vec::new());
    while at < file.len() {
        let (len, original) = (
            u32_at(file, at + 8)? as usize,
            u32_at(file, at + 12)? as usize,
        );
        ensure!(
            len == original,
            "a packet of {original} bytes was cut to {len}"
        );
        at += 16;
        let packet = file.get(at..at + len).context("the capture ends early")?;
        at += len;
        let (transport, header_len) = (u16_at(packet, 26)?, usize::from(u16_at(packet, 28)?));
        ensure!(
            transport == VIRTIO,
            "the transport is {transport}, not {VIRTIO}"
        );
        ensure!(
            header_len == 44,
            "the transport's header has {header_len} bytes"
        );
        let (header, payload) = packet[VSOCKMON_HEADER..]
            .split_at_checked(header_len)
            .context("a packet is shorter than its header")?;
        let (announced, op) = (u32_at(header, 24)? as usize, u16_at(packet, 24)?);
        // The transport's own op: 5 is payload.
        let carries = u16_at(header, 30)? == 5;
        ensure!(
            announced == payload.len(),
            "{} bytes of {announced} were captured",
            payload.len()
        );
        ensure!(
            (op == PAYLOAD) == carries,
            "op {op} for the transport's {}",
            u16_at(header, 30)?
        );
        ensure!(
            packet[..8] == header[..8] && packet[8..16] == header[8..16],
            "the CIDs differ"
        );
        ensure!(packet[16..24] == header[16..24], "the ports differ");
        packets.push(Packet {
            source: (u64::from_le_bytes(number(packet, 0)?), u32_at(packet, 16)?),
            target: (u64::from_le_bytes(number(packet, 8)?), u32_at(packet, 20)?),
            op,
            payload: payload.to_vec(),
        });
    }
    Ok(packets)
}

/// What the device has carried so far; packets of earlier tests' connections may be among them.
const CARRIED: &str = "cat /sys/class/net/vsockmon0/statistics/rx_packets";

/// Waits until the device carries no more, and tcpdump has written what it carried since `first`. Not for ever: what
/// it drops it never writes, and says so when it ends.
const WRITTEN: &str = r#"
written() { tcpdump -Z root -nn -r /tmp/mon.pcap 2>/dev/null | grep -c VIRTIO; }
before= tries=0
until [ "$before" = "$(carried)" ] && [ "$(written)" -ge $((before - first)) ] || [ $((tries += 1)) -gt 20 ]; do
    before=$(carried)
    sleep 0.5
done
"#;

pub fn vsockmon(s: &mut Session) -> Result<()> {
    const BYTES: usize = 300_000;
    unpack(s)?;
    s.guest_sh("[ -d /sys/module/vsockmon ] || insmod /modules/vsockmon.ko")?;
    s.guest_sh(
        "/usr/bin/ip link add vsockmon0 type vsockmon && /usr/bin/ip link set vsockmon0 up",
    )?;
    let tcpdump = start(
        s,
        Side::Guest,
        "exec tcpdump -Z root -i vsockmon0 -B 16384 -U -w /tmp/mon.pcap",
    )?;
    tcpdump.expect("tcpdump: listening on vsockmon0", LONG)?;
    let first = s.guest_sh(CARRIED)?;
    let mut ports = Vec::new();
    for client in [Side::Guest, Side::Host] {
        let port = s.fresh_port();
        let _server = s.server(client.other(), &format!("echo-server --port {port}"))?;
        s.rvtest(
            client,
            &format!(
                "echo-client --cid {} --port {port} --bytes {BYTES}",
                client.other().cid()
            ),
        )?
        .success(LONG)?;
        ports.push((u64::from(client.other().cid()), port));
    }
    s.guest_sh(&format!(
        "carried() {{ {CARRIED}; }}\nfirst={}{WRITTEN}",
        first.trim()
    ))?;
    s.guest_sh("killall -INT tcpdump")?;
    let said = tcpdump.success(LONG)?;
    ensure!(
        said.contains("0 packets dropped by kernel"),
        "tcpdump said: {said}"
    );
    s.guest_sh("/usr/bin/ip link del vsockmon0 && rmmod vsockmon")?;

    let hex = s.guest_sh("xxd -p -c 256 /tmp/mon.pcap")?;
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let file = digits
        .chunks(2)
        .map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?))
        .collect::<Result<Vec<_>>>()?;
    let packets = packets(&file)?;
    let mut expected = vec![0; BYTES];
    guest::pattern::fill(&mut expected, 0, 0);
    for server in ports {
        let of = |p: &&Packet| p.source == server || p.target == server;
        for op in [CONNECT, DISCONNECT, PAYLOAD] {
            ensure!(
                packets.iter().filter(of).any(|p| p.op == op),
                "port {}: no op {op}",
                server.1
            );
        }
        for to_server in [true, false] {
            let data: Vec<u8> = packets
                .iter()
                .filter(|p| {
                    if to_server {
                        p.target == server
                    } else {
                        p.source == server
                    }
                })
                .flat_map(|p| p.payload.iter().copied())
                .collect();
            ensure!(
                data == expected,
                "port {}, to the server: {to_server}: the {} bytes captured are not the {BYTES} sent",
                server.1,
                data.len()
            );
        }
    }
    // tcpdump's own reading has a line for each.
    let text = s.guest_sh("tcpdump -Z root -nn -r /tmp/mon.pcap")?;
    let lines = text.lines().filter(|l| l.contains("VIRTIO")).count();
    ensure!(
        lines == packets.len(),
        "{lines} lines for {} packets: {text}",
        packets.len()
    );
    Ok(())
}
