// SPDX-License-Identifier: GPL-2.0

//! SOCK_SEQPACKET: what a message is, and what many small ones cost.

use anyhow::{ensure, Context, Result};

use super::{Test, LONG};
use crate::session::{Session, Side};

pub const TESTS: &[Test] = &[
    Test {
        name: "messages: 50000 unread ones of 1 to 64 bytes, host to guest, in buffers of 4 MiB",
        run: |s| flood(s, 50_000, 4 << 20),
    },
    Test {
        name: "messages: 5000 unread ones of 1 to 64 bytes, host to guest, in default buffers",
        run: |s| flood(s, 5_000, 256 << 10),
    },
    Test {
        name: "messages: from 1 byte to the window, read whole, cut and looked at, host to guest",
        run: |s| pair(s, Side::Guest, "sizes", "").map(drop),
    },
    Test {
        name: "messages: from 1 byte to the window, read whole, cut and looked at, guest to host",
        run: |s| pair(s, Side::Host, "sizes", "").map(drop),
    },
    Test {
        name: "messages: poll() and recv() see nothing of a part, until the rest has come",
        run: |s| pair(s, Side::Guest, "part", "").map(drop),
    },
    Test {
        name: "messages: a bad address loses that message alone",
        run: |s| pair(s, Side::Guest, "fault", "--kind seqpacket").map(drop),
    },
    Test {
        name: "messages: a bad address loses no byte of a stream",
        run: |s| pair(s, Side::Guest, "fault", "--kind stream").map(drop),
    },
];

/// Runs `messages NAME-server` on `reader`'s side and `messages NAME-client` on the other; gives what the server said.
pub(super) fn pair(s: &mut Session, reader: Side, name: &str, arguments: &str) -> Result<String> {
    // The port after it is for what the two tell each other.
    let port = s.fresh_port();
    s.fresh_port();
    let server = s.server(
        reader,
        &format!("messages {name}-server --port {port} {arguments}"),
    )?;
    let client = s.rvtest(
        reader.other(),
        &format!(
            "messages {name}-client --cid {} --port {port} {arguments}",
            reader.cid()
        ),
    )?;
    // The reader's words come first: they say what is wrong.
    let text = server.success(LONG)?;
    client.success(LONG)?;
    Ok(text)
}

/// What unread messages may hold: so much for each byte, and what a kernel at rest moves by.
const HELD_PER_BYTE: f64 = 1.5;
const NOISE: f64 = 256.0 * 1024.0;

/// All of it is within the sender's credit, so the connection must live; and what the guest holds must stay near
/// what was sent, though every message came in a buffer of 32 KiB.
fn flood(s: &mut Session, count: u64, buffer: u64) -> Result<()> {
    let text = pair(
        s,
        Side::Guest,
        "flood",
        &format!("--count {count} --buffer {buffer}"),
    )?;
    let number = |name: &str| -> Result<f64> {
        text.split_whitespace()
            .find_map(|w| w.strip_prefix(name)?.parse().ok())
            .with_context(|| format!("no {name} in {text:?}"))
    };
    let (held, unread) = (number("bytes=")?, number("unread=")?);
    ensure!(
        held <= unread * HELD_PER_BYTE + NOISE,
        "{unread} unread bytes hold {held} bytes of memory"
    );
    Ok(())
}
