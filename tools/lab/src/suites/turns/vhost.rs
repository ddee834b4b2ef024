// SPDX-License-Identifier: GPL-2.0

//! The core on the kernel's vhost-vsock: echoes of both types, both ways, on a qdisc; asleep and awake with it.

use anyhow::{ensure, Result};

use super::control::{scheduled, Counted};
use crate::{
    config::Driver,
    session::{Session, Side},
    suites::{device, messages, LONG},
};

/// The driver with its interface, for as long as `body` runs.
fn with_interface(s: &mut Session, body: impl FnOnce(&mut Session) -> Result<()>) -> Result<()> {
    if s.driver == Driver::C {
        // It has none.
        return Ok(());
    }
    s.load_anew("interface=1")?;
    body(s)?;
    s.load_anew("").map(drop)
}

fn echoes(s: &mut Session) -> Result<()> {
    for side in [Side::Guest, Side::Host] {
        let port = s.fresh_port();
        let _server = s.server(side.other(), &format!("echo-server --port {port}"))?;
        let client = format!(
            "echo-client --cid {} --port {port} --connections 4 --bytes 1000000",
            side.other().cid()
        );
        s.rvtest(side, &client)?.success(LONG)?;
        messages::pair(s, side, "sizes", "")?;
    }
    Ok(())
}

/// On a qdisc, which has turns.
fn carries(s: &mut Session, commands: &[&str]) -> Result<()> {
    with_interface(s, |s| {
        scheduled(s, commands, |s| {
            echoes(s)?;
            let counted = Counted::now(s)?;
            ensure!(counted.packets > 100, "the qdisc has counted {counted:?}");
            Ok(())
        })
    })
}

pub fn fq_codel(s: &mut Session) -> Result<()> {
    carries(s, &["qdisc add DEV root handle 1: fq_codel"])
}

pub fn lossy(s: &mut Session) -> Result<()> {
    carries(
        s,
        &["qdisc add DEV root handle 1: netem delay 3ms 2ms loss 10%"],
    )
}

pub fn asleep(s: &mut Session) -> Result<()> {
    with_interface(s, |s| {
        scheduled(s, &["qdisc add DEV root handle 1: fq_codel"], |s| {
            device::suspend(s, "mem")?;
            echoes(s)
        })
    })
}
