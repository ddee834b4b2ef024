// SPDX-License-Identifier: GPL-2.0

//! The programs of `samples/sockets`, each as the server and as the client, on each side.

use anyhow::{ensure, Context, Result};

use super::{programs::unpack, Test, LONG};
use crate::session::{Session, Side, GUEST_CID, HOST_CID, NEIGHBOUR_CID};

/// Between the guest and the host.
pub const TESTS: &[Test] = &[
    Test {
        name: "samples: streams, in Rust, guest and host",
        run: |s| with_host(s, &STREAM, false),
    },
    Test {
        name: "samples: streams, in Python and with Rust, guest and host",
        run: |s| with_host(s, &STREAM, true),
    },
    Test {
        name: "samples: messages, in Rust, guest and host",
        run: |s| with_host(s, &SEQPACKET, false),
    },
    Test {
        name: "samples: messages, in Python and with Rust, guest and host",
        run: |s| with_host(s, &SEQPACKET, true),
    },
];

/// Between two guests.
pub const BETWEEN_GUESTS: &[Test] = &[
    Test {
        name: "samples: datagrams, in Rust, between two guests",
        run: |s| between_guests(s, &DGRAM, false),
    },
    Test {
        name: "samples: datagrams, in Python and with Rust, between two guests",
        run: |s| between_guests(s, &DGRAM, true),
    },
];

struct Sample {
    rust: &'static str,
    python: &'static str,
    /// What the client prints.
    prints: &'static str,
}

const STREAM: Sample = Sample {
    rust: "sample-stream",
    python: include_str!("../../../../samples/sockets/stream.py"),
    prints: "hello, world\n",
};
const SEQPACKET: Sample = Sample {
    rust: "sample-seqpacket",
    python: include_str!("../../../../samples/sockets/seqpacket.py"),
    prints: "hello\nworld\n",
};
const DGRAM: Sample = Sample {
    rust: "sample-dgram",
    python: include_str!("../../../../samples/sockets/dgram.py"),
    prints: "hello, world\n",
};

/// Where a program runs, and the CID of that machine.
type Place<'a> = (&'a Session, Side, u32);

fn with_host(s: &mut Session, sample: &Sample, python: bool) -> Result<()> {
    let port = s.fresh_port();
    if python {
        unpack(s)?;
    }
    let places = [(&*s, Side::Guest, GUEST_CID), (&*s, Side::Host, HOST_CID)];
    both_ways(places, sample, python, port)
}

fn between_guests(s: &mut Session, sample: &Sample, python: bool) -> Result<()> {
    let port = s.fresh_port();
    let neighbour = s.neighbour()?;
    if python {
        unpack(s)?;
        unpack(neighbour)?;
    }
    let places = [
        (&*s, Side::Guest, GUEST_CID),
        (neighbour, Side::Guest, NEIGHBOUR_CID),
    ];
    both_ways(places, sample, python, port)
}

/// With Python: of the pairs of programs those in which one is Python's.
fn both_ways(places: [Place; 2], sample: &Sample, python: bool, port: u32) -> Result<()> {
    let [one, other] = places;
    let (rust, py) = (
        vec![sample.rust],
        vec!["python3", "-S", "-I", "-u", "-c", sample.python],
    );
    let pairs = if python {
        vec![(&py, &py), (&rust, &py), (&py, &rust)]
    } else {
        vec![(&rust, &rust)]
    };
    for (server_program, client_program) in pairs {
        for (server_place, client_place) in [(one, other), (other, one)] {
            serves(
                sample,
                server_place,
                server_program,
                client_place,
                client_program,
                port,
            )
            .with_context(|| {
                let (server, client) = (server_program[0], client_program[0]);
                format!(
                    "{server} on CID {}, {client} on CID {}",
                    server_place.2, client_place.2
                )
            })?;
        }
    }
    Ok(())
}

/// One server, and two clients in turn.
fn serves(
    sample: &Sample,
    (server_session, server_side, cid): Place,
    server_program: &[&str],
    (client_session, client_side, _): Place,
    client_program: &[&str],
    port: u32,
) -> Result<()> {
    let (cid, port) = (cid.to_string(), port.to_string());
    let server =
        server_session.spawn(server_side, &[server_program, &["server", &port]].concat())?;
    server.expect("waiting on port", LONG)?;
    for _ in 0..2 {
        let words = [client_program, &["client", &cid, &port]].concat();
        let client = client_session.spawn(client_side, &words)?;
        let text = client.success(LONG)?;
        ensure!(
            text == sample.prints,
            "the client printed {text:?}, not {:?}; the server: {:?}",
            sample.prints,
            server.text()
        );
    }
    ensure!(!server.ended(), "the server ended: {}", server.text());
    server.kill();
    server.wait(LONG).map(drop)
}
