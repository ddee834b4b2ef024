// SPDX-License-Identifier: GPL-2.0

//! `rust/ext/` in a guest: the modules of rust/tests/, on an entropy device, on a socket device and on sockets.

use std::{io::Write, time::Duration};

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
    "one that is, is",
    "user pages are not charged to nobody",
    "nor are they there without a notification",
    "a notification ends with its call",
    "with both they are",
];

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
