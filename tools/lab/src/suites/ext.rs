// SPDX-License-Identifier: GPL-2.0

//! `rust/ext/` in a guest: the modules of rust/tests/, on an entropy device, on a socket device and on sockets.

use std::{
    collections::HashMap,
    io::Write,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};

use super::{
    our_device::{connect, echoes, Setup},
    programs::{python_runs, unpack},
    Test, LONG,
};
use crate::session::{Session, Side};

/// Our own kernel traces no packets.
pub const TRACED: &str =
    "ext: in a guest: what was sent and read is no drop, what Python leaves unread is";

pub const SETUPS: &[Setup] = &[Setup::alone(
    &["--features", "stream,seqpacket"],
    3,
    &[
        Test {
            name: "ext: in a guest: what is misused on an entropy device says so",
            run: on_entropy,
        },
        Test {
            name: TRACED,
            run: drops_are_told,
        },
        Test {
            name: "ext: in a guest: a device that has less than it should, and reads as lost",
            run: on_fake,
        },
        Test {
            name: "ext: in a guest: what is misused on sockets says so, Python calls",
            run: on_sockets,
        },
        Test {
            name: "ext: in a guest: an interface whose queues order turns, Python sends into it",
            run: on_an_interface,
        },
        Test {
            name: "ext: in a guest: the sample that carries nothing counts its turns",
            run: sample_counts,
        },
    ],
)];

/// What a module has said since `mark`, without its name.
fn said(s: &mut Session, module: &str, mark: usize) -> Result<Vec<String>> {
    // What it says last must have arrived.
    s.guest_sh("echo rvsock: the end of a test >/dev/kmsg")?;
    let serial = &s.machine()?.serial;
    serial
        .wait_for(mark, "rvsock: the end of a test", Duration::from_secs(20))
        .context("the guest's log ends early")?;
    let prefix = format!("{module}: ");
    let lines = serial.since(mark);
    Ok(lines
        .iter()
        .filter_map(|l| Some(l.split_once(&prefix)?.1.trim().to_owned()))
        .collect())
}

fn none_failed(said: &[String]) -> Result<()> {
    let failed: Vec<_> = said.iter().filter(|l| l.starts_with("not ok")).collect();
    ensure!(failed.is_empty(), "{failed:?}");
    Ok(())
}

/// The tests of rust/tests/ext_test.rs, which counts them itself, and what goes on beyond the end of the device.
fn on_entropy(s: &mut Session) -> Result<()> {
    s.discard_guest();
    s.extra_arguments = ["-device", "virtio-rng-pci"].map(str::to_owned).into();
    let outcome = s.ensure_guest();
    s.extra_arguments.clear();
    outcome?;
    let mark = s.machine()?.serial.mark();
    s.guest_sh("insmod /modules/rust_ext_test.ko && sleep 4")?;
    let lines = said(s, "rust_ext_test", mark)?;
    none_failed(&lines)?;
    let planned = lines
        .iter()
        .find_map(|l| l.strip_prefix("1..")?.parse::<usize>().ok())
        .context("the tests did not come to their end")?;
    for number in (1..=planned).chain(101..=104) {
        ensure!(
            lines
                .iter()
                .any(|l| l.starts_with(&format!("ok {number} "))),
            "test {number} of {planned} did not run: {lines:?}"
        );
    }
    s.guest_sh("rmmod rust_ext_test")?;
    let lines = said(s, "rust_ext_test", mark)?;
    none_failed(&lines)?;
    ensure!(
        lines.iter().any(|l| l == "ok last 0 buffers are left"),
        "something is left: {lines:?}"
    );
    // The next test wants a guest without it.
    s.discard_guest();
    Ok(())
}

/// A device without a machine (rust/tests/fake_virtio.c) has a short configuration space, and is removed while its status
/// reads as all ones.
fn on_fake(s: &mut Session) -> Result<()> {
    s.ensure_guest()?;
    s.unload()?;
    let mark = s.machine()?.serial.mark();
    s.guest_sh(
        "insmod /modules/rust_fake_virtio.ko && insmod /modules/rust_net_test.ko && sleep 0.3 &&
         echo 1 >/sys/module/rust_fake_virtio/parameters/reads_lost && rmmod rust_fake_virtio && rmmod rust_net_test",
    )?;
    let driver = said(s, "rust_net_test", mark)?;
    let device = said(s, "rust_fake_virtio", mark)?;
    none_failed(&driver)?;
    none_failed(&device)?;
    for (lines, name) in [
        (driver, "of a shorter configuration space no more is read"),
        (
            device.clone(),
            "the configuration space is not read beyond its end",
        ),
        (device, "a device is reset whatever its status reads as"),
    ] {
        ensure!(
            lines.contains(&format!("ok: {name}")),
            "{name:?} was not tested: {lines:?}"
        );
    }
    s.load()
}

/// Takes a connection, and closes it with what has come for it.
const LEAVES: &str = r#"
import socket, sys, time
l = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
l.bind((socket.VMADDR_CID_ANY, int(sys.argv[1])))
l.listen()
print('READY', flush=True)
c, _ = l.accept()
c.recv(1, socket.MSG_PEEK)
time.sleep(0.3)
c.close()
print('OK', flush=True)
"#;

/// The kernel's trace of lost packets has none of ours, but for what was never read.
fn drops_are_told(s: &mut Session) -> Result<()> {
    s.ensure_guest()?;
    unpack(s)?;
    let trace = "cd /sys/kernel/tracing &&";
    s.guest_sh(&format!(
        "{trace} echo 1 >events/skb/kfree_skb/enable && echo >trace"
    ))?;
    let lost = |s: &Session| -> Result<u32> {
        let text = s.guest_sh(&format!(
            "{trace} grep -c -e '\\[rvsock\\]' -e dev_kfree_skb_any trace || true"
        ))?;
        text.trim()
            .parse()
            .with_context(|| format!("no number: {text:?}"))
    };
    echoes(s)?;
    let without = lost(s)?;
    ensure!(
        without == 0,
        "{without} packets were dropped of what was sent and read"
    );
    let port = s.fresh_port();
    let server = python_runs(s, Side::Guest, LEAVES, &[&port.to_string()])?;
    server.expect("READY", LONG)?;
    let (mut stream, _) = connect(s, port)?;
    stream.write_all(&[1; 1000])?;
    server.success(LONG)?;
    let with = lost(s)?;
    ensure!(with > 0, "what was never read counts as delivered");
    s.guest_sh(&format!("{trace} echo 0 >events/skb/kfree_skb/enable"))?;
    Ok(())
}

/// What the module must have found right.
const ON_SOCKETS: &[&str] = &[
    "the configuration space can be read to its end",
    "and not beyond it",
    "nor where the offset overflows",
    "nor across fields",
    "a way leads nowhere before its socket is served",
    "nor once it is served no longer",
    "a charged buffer takes no block",
    "and is as it was",
    "nor does it grow",
    "a buffer grows by something, and not without limit",
    "nor where there is no fragment left",
    "it has what there is",
    "and takes no more than that, nor what the user has not",
    "two that grow in turns have their own room",
    "and their own bytes",
    "in a bottom half no buffer grows in a thread's memory",
    "what the user has not is not put into a buffer",
    "nor what another buffer has not",
    "nor what nobody has written to a block",
    "which is no fragment either",
    "nothing can be put behind fragments",
    "a buffer that is not filled is none",
    "nor is a longer one that is put in its place",
    "one that is, is",
    "user pages are not charged to nobody",
    "nor are they there without a notification",
    "a notification ends with its call",
    "with both they are",
    "a turn of a socket outlives its packet",
    "a socket's memory is there as long as a turn of it",
];

/// The same of an interface.
const ON_AN_INTERFACE: &[&str] = &[
    "a turn has a header, which its packet has",
    "and no more than fits",
    "a turn is as long as its packet",
    "at first no turn is out",
    "there is one turn of a token at a time",
    "a turn knows its key",
    "a turn is of one token, whatever their keys",
    "a turn that was used is out no more",
    "nor is one that was refused",
    "a turn outlives its token, and is nobody's",
    "before it is registered no turn is taken",
    "and it is said so",
    "an interface has the first name that is free",
    "there is one interface at a time",
    "an interface is dropped",
    "while it is down no turn is kept",
    "once there is a qdisc turns come",
    "a turn comes out of its queue",
    "its end is in the hand of whoever takes it",
    "that of a queue that is none, out of the first",
    "a queue that is stopped keeps turns",
    "and gives them out in order when it is woken",
    "without a carrier turns are lost",
    "with one they come again",
    "more is completed than was sent, and nothing happens",
    "too many bytes in the hardware keep turns",
    "no number of bytes is too large",
    "bytes are sent by many and completed by many",
    "all tests of an interface that is up have run",
    "turns wait while the interface goes",
    "and are lost then",
    "once it is unregistered no turn is taken",
];

/// Sends what is no turn: what looks like one, and what does not.
const SENDS: &str = r#"
import socket, sys
for protocol in 0x88b5, 0x88b5, 0x88b5, 0x0800, 0x86dd:
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind((sys.argv[1], protocol))
    s.send(b'x' * 1000)
    s.close()
"#;

/// Sends; has a connection fail twice; and has a socket served by the loopback's transport afterwards, with nothing in its
/// receive queue, and without lingering.
const CALLS: &str = r#"
import errno, socket, sys, time
# Of these sockets Python takes and gives options as numbers of 64 bits.
SO_ZEROCOPY, SO_MEMINFO, MSG_ZEROCOPY = 60, 55, 0x4000000
def new():
    s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    s.settimeout(None)
    return s
s = new()
s.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
s.connect((2, 2))
s.send(bytes(5000))
s.send(bytes(5000), MSG_ZEROCOPY)
s.close()
others = [new() for _ in range(3)]
s = new()
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 1 | 20 << 32)
for _ in range(3):
    try:
        s.connect((2, 1))
        assert False, 'connected'
    except OSError as e:
        assert e.errno == errno.ECONNRESET, e
    others.pop().connect((2, 2))
if len(sys.argv) < 2:
    sys.exit()
listener = new()
listener.bind((socket.VMADDR_CID_ANY, 777))
listener.listen()
start = time.monotonic()
s.connect((1, 777))
took = time.monotonic() - start
assert took < 10, took
memory = s.getsockopt(socket.SOL_SOCKET, SO_MEMINFO) & 0xffffffff
assert memory == 0, memory
c, _ = listener.accept()
c.send(b'hello')
assert s.recv(10) == b'hello'
"#;

fn on_sockets(s: &mut Session) -> Result<()> {
    s.ensure_guest()?;
    unpack(s)?;
    s.unload()?;
    let mark = s.machine()?.serial.mark();
    s.guest_sh(
        "insmod /modules/rust_net_test.ko && for m in $(cat /modules/loopback); do insmod /modules/$m.ko 2>/dev/null; done; true",
    )?;
    let loopback: &[&str] = if s.config.guest.is_debians {
        &["loopback"]
    } else {
        &[]
    };
    let outcome = python_runs(s, Side::Guest, CALLS, loopback)?
        .success(LONG)
        .map(drop);
    let lines = said(s, "rust_net_test", mark)?;
    none_failed(&lines)?;
    outcome?;
    for name in ON_SOCKETS {
        ensure!(
            lines.contains(&format!("ok: {name}")),
            "{name:?} was not tested: {lines:?}"
        );
    }
    s.guest_sh("rmmod vsock_loopback 2>/dev/null; rmmod rust_net_test")?;
    s.discard_guest();
    Ok(())
}

fn on_an_interface(s: &mut Session) -> Result<()> {
    s.ensure_guest()?;
    unpack(s)?;
    let mark = s.machine()?.serial.mark();
    s.guest_sh("insmod /modules/rust_device_test.ko")?;
    let class = "/sys/class/net/turntest0";
    let reads = |s: &Session, name: &str| -> Result<String> {
        Ok(s.guest_sh(&format!("cat {class}/{name}"))?
            .trim()
            .to_owned())
    };
    for (name, value) in [
        ("mtu", "32768"),
        ("type", "65534"),
        ("addr_len", "0"),
        ("tx_queue_len", "1000"),
        // NOARP alone.
        ("flags", "0x80"),
    ] {
        let text = reads(s, name)?;
        ensure!(text == value, "{name} is {text}, not {value}");
    }
    s.guest_sh("ifconfig turntest0 up")?;
    let end = "all tests of an interface that is up have run";
    let serial = &s.machine()?.serial;
    serial
        .wait_for(mark, end, LONG)
        .context("its tests have not come to an end")?;
    let dropped = |s: &Session| -> Result<u64> { Ok(reads(s, "statistics/tx_dropped")?.parse()?) };
    let before = dropped(s)?;
    python_runs(s, Side::Guest, SENDS, &["turntest0"])?.success(LONG)?;
    let after = dropped(s)?;
    ensure!(
        after == before + 2,
        "of what is no turn {} were dropped, not 2",
        after - before
    );
    for (name, value) in [
        ("rx_packets", "1"),
        ("rx_bytes", "2"),
        ("tx_packets", "3"),
        ("tx_bytes", "4"),
        ("rx_dropped", "5"),
    ] {
        let text = reads(s, &format!("statistics/{name}"))?;
        ensure!(text == value, "{name} is {text}, not {value}");
    }
    s.guest_sh(
        "for i in $(seq 20); do ifconfig turntest0 down; ifconfig turntest0 up; done; rmmod rust_device_test",
    )?;
    let lines = said(s, "rust_device_test", mark)?;
    none_failed(&lines)?;
    for name in ON_AN_INTERFACE {
        ensure!(
            lines.contains(&format!("ok: {name}")),
            "{name:?} was not tested: {lines:?}"
        );
    }
    Ok(())
}

/// What `samples/turnstile.rs` has counted, by name.
fn counted(s: &Session) -> Result<HashMap<String, u64>> {
    let text = s.guest_sh("cat /sys/module/rust_turnstile/parameters/counters")?;
    text.lines()
        .map(|line| {
            let (name, number) = line.split_once(' ').context("no number")?;
            Ok((name.to_owned(), number.parse()?))
        })
        .collect()
}

/// Nothing is in their way: all turns pass, but for what the kernel drops while the interface goes up and down.
fn sample_counts(s: &mut Session) -> Result<()> {
    const FLOWS: u64 = 100;
    s.ensure_guest()?;
    s.guest_sh(&format!(
        "insmod /modules/rust_turnstile.ko flows={FLOWS} length=32812"
    ))?;
    let before = counted(s)?;
    ensure!(before.values().all(|n| *n == 0), "down: {before:?}");
    s.guest_sh("ifconfig turn0 up")?;
    let deadline = Instant::now() + LONG;
    while counted(s)?["passed"] < 10 * FLOWS {
        ensure!(Instant::now() < deadline, "{:?}", counted(s)?);
        std::thread::sleep(Duration::from_millis(50));
    }
    s.guest_sh("ifconfig turn0 down")?;
    let after = counted(s)?;
    ensure!(
        after["given"] == after["passed"] + after["lost"]
            && after["lost"] <= 2 * FLOWS
            && after["strangers"] == 0,
        "up, with room for all, and down again: {after:?}"
    );
    s.guest_sh("rmmod rust_turnstile")?;
    Ok(())
}
