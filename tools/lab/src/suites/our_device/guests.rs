// SPDX-License-Identifier: GPL-2.0

//! Two guests on one device (C9).

use anyhow::{ensure, Context, Result};

use super::{control::counters, victim::Watch};
use crate::{
    config::Driver,
    session::{Session, Side, GUEST_CID, NEIGHBOUR_CID},
    suites::LONG,
};

/// The four bits that are the socket device's own.
const ALL_FEATURES: u64 = 15;

/// Each driver has taken what it knows, and what the guests send each other is checked byte by byte.
pub fn echo(s: &mut Session) -> Result<()> {
    let before = counters(s)?;
    for (session, cid) in [(&*s, GUEST_CID), (s.neighbour()?, NEIGHBOUR_CID)] {
        let features = before[cid.to_string()]["features"]
            .as_u64()
            .with_context(|| format!("no features of guest {cid} in {before}"))?;
        ensure!(
            session.driver == Driver::C || features & ALL_FEATURES == ALL_FEATURES,
            "guest {cid} has not taken all features: {features:#x}"
        );
    }
    let port = s.fresh_port();
    for server_is_neighbour in [true, false] {
        let neighbour = s.neighbour()?;
        let (client, server, cid) = if server_is_neighbour {
            (&*s, neighbour, NEIGHBOUR_CID)
        } else {
            (neighbour, &*s, GUEST_CID)
        };
        let _server = server.server(Side::Guest, &format!("echo-server --port {port}"))?;
        for load in [
            "--connections 1 --bytes 33554432 --write-size 65536",
            "--connections 32 --bytes 300000 --write-size 10007",
        ] {
            let command = format!("echo-client --cid {cid} --port {port} {load}");
            client.rvtest(Side::Guest, &command)?.success(LONG)?;
        }
    }
    let after = counters(s)?;
    for cid in [GUEST_CID, NEIGHBOUR_CID].map(|c| c.to_string()) {
        for name in ["switched_in", "switched_out"] {
            let count = |json: &serde_json::Value| json[&cid][name].as_u64().unwrap_or(0);
            ensure!(
                count(&after) > count(&before),
                "guest {cid}: {name} did not move"
            );
        }
    }
    Ok(())
}

/// Nothing is lost, and nobody is asked twice: what a REQUEST does to a connection that is there is up to the peer.
pub fn interrupted(s: &mut Session) -> Result<()> {
    for then in ["again", "later"] {
        // Three ports: two to connect to, and one to ask on.
        let port = s.fresh_port();
        s.fresh_port();
        s.fresh_port();
        let neighbour = s.neighbour()?;
        let watch = match neighbour.driver {
            Driver::Rvsock => Some(Watch::new(neighbour)?),
            Driver::C => None,
        };
        let command = format!("interrupted-server --port {port}");
        let _server = neighbour.server(Side::Guest, &command)?;
        let command = format!(
            "interrupted-client --cid {NEIGHBOUR_CID} --port {port} --times 50 --then {then}"
        );
        s.rvtest(Side::Guest, &command)?.success(LONG)?;
        if let Some(watch) = watch {
            watch.expect(neighbour, &[("rx_bad_op", 0)])?;
        }
    }
    Ok(())
}
