// SPDX-License-Identifier: GPL-2.0

//! Two drivers for one device: AF_VSOCK has one place for a transport to the host, and who takes it first keeps it.

use anyhow::{bail, ensure, Result};

use super::super::{lifecycle, vhost_user, LONG};
use crate::{config::Driver, session::Session};

/// While rvsock has the device, the C driver is refused as a module; and the other way round, where both are modules.
pub fn first_has_it(s: &mut Session) -> Result<()> {
    // A kernel may have neither as a module.
    if s.driver == Driver::C || !has_module(s, Driver::C)? {
        return Ok(());
    }
    refused(s)?;
    if has_module(s, Driver::Rvsock)? {
        // af_vsock keeps each socket whose connect() did not wait for as long as it was given, and so the module.
        s.discard_guest();
        s.ensure_guest()?;
        lifecycle::beside_c_driver(s)?;
    }
    Ok(())
}

fn refused(s: &mut Session) -> Result<()> {
    let [common, transport] = *Driver::C.modules() else {
        bail!("the C driver is not of two modules");
    };
    s.guest_sh(&format!("insmod /modules/{common}.ko"))?;
    let outcome = s.guest_try(&format!("insmod /modules/{transport}.ko"), LONG);
    s.guest_sh(&format!(
        "[ ! -e /sys/module/{transport} ] || rmmod {transport}; rmmod {common}"
    ))?;
    let (code, text) = outcome?;
    ensure!(
        code != 0 && text.contains("Device or resource busy"),
        "the C driver was to be refused by EBUSY: {text}"
    );
    s.confirm_driver()?;
    vhost_user::guest_to_host(s)
}

fn has_module(s: &Session, driver: Driver) -> Result<bool> {
    let paths: Vec<_> = driver
        .modules()
        .iter()
        .map(|name| format!("[ -e /modules/{name}.ko ]"))
        .collect();
    Ok(s.guest_try(&paths.join(" && "), LONG)?.0 == 0)
}
