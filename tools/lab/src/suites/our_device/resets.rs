// SPDX-License-Identifier: GPL-2.0

//! C5: the device resets the transport, and may give the guest another CID.

use std::{thread, time::Duration};

use anyhow::{ensure, Result};

use super::{
    connect,
    control::{paused, say},
    victim::{Bystander, Letterbox, Victim, SEQPACKET, STREAM},
};
use crate::{
    session::{Session, Side, GUEST_CID, HOST_CID},
    suites::{seen::connections::is_connecting, AT_ONCE, LONG},
};

const OTHER_CID: u32 = 77;

pub fn same_cid(s: &mut Session) -> Result<()> {
    reset(s, "reset", GUEST_CID, false)
}

pub fn same_cid_with_datagrams(s: &mut Session) -> Result<()> {
    reset(s, "reset", GUEST_CID, true)
}

pub fn other_cid(s: &mut Session) -> Result<()> {
    there_and_back(s, false)
}

pub fn other_cid_with_datagrams(s: &mut Session) -> Result<()> {
    there_and_back(s, true)
}

fn there_and_back(s: &mut Session, datagrams: bool) -> Result<()> {
    let outcome = reset(s, &format!("reset cid={OTHER_CID}"), OTHER_CID, datagrams);
    // Later tests know the guest by its first one.
    say(s, &format!("reset cid={GUEST_CID}"))?;
    outcome?;
    wait_for_cid(s, GUEST_CID)
}

fn wait_for_cid(s: &Session, cid: u32) -> Result<()> {
    let mut text = String::new();
    for _ in 0..50 {
        text = s.rvtest(Side::Guest, "cid")?.success(LONG)?;
        if text.contains(&format!("CID {cid}\n")) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(40));
    }
    anyhow::bail!("the guest's CID was to be {cid}: {text}")
}

fn reset(s: &mut Session, command: &str, cid: u32, datagrams: bool) -> Result<()> {
    let victims = [Victim::new(s, STREAM)?, Victim::new(s, SEQPACKET)?];
    let mut any = Bystander::new(s)?;
    // A listener, and a port of datagrams, that are bound to the CID of before.
    let port = s.fresh_port();
    let _bound = s.server(
        Side::Guest,
        &format!("echo-server --port {port} --cid {GUEST_CID}"),
    )?;
    let mut letterboxes = Vec::new();
    if datagrams {
        letterboxes.push(Letterbox::new(s, u32::MAX)?);
        letterboxes.push(Letterbox::new(s, GUEST_CID)?);
    }
    // One that is only connecting: the device does not answer.
    let text = paused(s, "tx", |s| {
        let connecting = s.rvtest(
            Side::Guest,
            &format!("connect --cid {HOST_CID} --port {port} --patience 60"),
        )?;
        is_connecting(s, HOST_CID, port)?;
        say(s, command)?;
        connecting.success(AT_ONCE)
    })?;
    ensure!(
        text.contains("ECONNRESET"),
        "connect() gave something else than ECONNRESET: {text}"
    );
    for victim in &victims {
        victim.is_over("ECONNRESET")?;
    }
    any.is_over()?;
    wait_for_cid(s, cid)?;
    any.takes_new(s)?;
    drop(connect(s, port)?);
    for letterbox in &mut letterboxes {
        letterbox.gets(s)?;
    }
    Ok(())
}
