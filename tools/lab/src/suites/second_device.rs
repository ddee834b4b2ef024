// SPDX-License-Identifier: GPL-2.0

//! H5: a second device beside the first, which is refused; and a reset of the function that it is.

use anyhow::{ensure, Context, Result};

use super::{
    faults::{failing, FIND_QUEUES},
    Test, AT_ONCE, LONG,
};
use crate::{
    config::Driver,
    session::{Session, Side, GUEST_CID},
};

/// The first one cannot be reset: it is no express device, as nothing on a root bus is.
pub const TESTS: &[Test] = &[
    Test {
        name: "device: H5, a second device is refused, and serves when the first is unbound",
        run: |s| with_two(s, refused),
    },
    Test {
        name: "device: H5, a reset of the PCI function ends connections, and listeners go on",
        run: |s| with_two(s, function_reset),
    },
    Test {
        name: "faults: H5, a device that does not come back can be unbound, and bound again",
        run: |s| with_two(s, never_comes_back),
    },
];

const SECOND_CID: u32 = GUEST_CID + 41;

/// Runs a test in a guest with two devices, of which the first has the driver before and after it.
fn with_two(s: &mut Session, test: fn(&mut Session, &Devices) -> Result<()>) -> Result<()> {
    if Devices::of(s).is_err() {
        s.discard_guest();
        s.extra_arguments = ["-device", "pcie-root-port,id=second,chassis=1", "-device"]
            .map(str::to_owned)
            .into();
        s.extra_arguments.push(format!(
            "vhost-vsock-pci,bus=second,guest-cid={SECOND_CID},modern-pio-notify=on"
        ));
        let outcome = s.ensure_guest();
        s.extra_arguments.clear();
        outcome?;
    }
    let devices = Devices::of(s)?;
    test(s, &devices)?;
    devices.tell_driver(s, "unbind", &devices.other)?;
    devices.tell_driver(s, "bind", &devices.bound)
}

struct Devices {
    driver: String,
    /// The one that has the driver.
    bound: String,
    other: String,
}

impl Devices {
    fn of(s: &Session) -> Result<Self> {
        let text = s.guest_sh(
            "cd /sys/bus/virtio/devices; for d in *; do [ $(cat $d/device) = 0x0013 ] && echo $d; done; true",
        )?;
        let (bound, driver) = s.device()?;
        let mut all = text.lines().map(str::to_owned).filter(|d| *d != bound);
        let other = all.next().context("the guest has no second device")?;
        Ok(Self {
            driver,
            bound,
            other,
        })
    }

    fn tell_driver(&self, s: &Session, word: &str, device: &str) -> Result<()> {
        let driver = &self.driver;
        s.guest_sh(&format!(
            "echo {device} > /sys/bus/virtio/drivers/{driver}/{word}"
        ))
        .map(drop)
    }

    /// Gives the driver the second device instead of the first.
    fn swap(&self, s: &Session) -> Result<()> {
        self.tell_driver(s, "unbind", &self.bound)?;
        self.tell_driver(s, "bind", &self.other)
    }
}

fn echo(s: &Session, cid: u32, port: u32) -> Result<()> {
    let client = format!("echo-client --cid {cid} --port {port} --connections 4 --bytes 50000");
    s.rvtest(Side::Host, &client)?.success(LONG).map(drop)
}

fn refused(s: &mut Session, devices: &Devices) -> Result<()> {
    let port = s.fresh_port();
    let _server = s.server(Side::Guest, &format!("echo-server --port {port}"))?;
    if s.driver == Driver::Rvsock {
        let log = s.guest_sh("dmesg")?;
        let line = format!(
            "rvsock: {}: there is a virtio socket device already",
            devices.other
        );
        ensure!(log.contains(&line), "the log does not say {line:?}: {log}");
    }
    echo(s, GUEST_CID, port).context("the first device beside the second")?;

    let error = devices.tell_driver(s, "bind", &devices.other).err();
    let error = error.context("the second device was bound")?.to_string();
    ensure!(
        error.contains("Device or resource busy"),
        "binding the second device does not give EBUSY: {error}"
    );
    echo(s, GUEST_CID, port).context("the first device after the second was refused")?;

    devices.swap(s)?;
    let text = s.rvtest(Side::Guest, "cid")?.success(LONG)?;
    ensure!(
        text == format!("CID {SECOND_CID}\n"),
        "the guest's CID is {SECOND_CID}; it says: {text}"
    );
    echo(s, SECOND_CID, port).context("the second device, alone")
}

/// The PCI function of the second device.
fn function(devices: &Devices) -> String {
    format!("/sys/bus/virtio/devices/{}/..", devices.other)
}

fn function_reset(s: &mut Session, devices: &Devices) -> Result<()> {
    devices.swap(s)?;
    let function = function(devices);
    let methods = s.guest_sh(&format!("cat {function}/reset_method"))?;
    ensure!(
        methods.contains("flr"),
        "its function has the resets {methods:?}"
    );

    for round in 0..3 {
        let [echoes, out, back] = std::array::from_fn(|_| s.fresh_port());
        let _server = s.server(Side::Guest, &format!("echo-server --port {echoes}"))?;
        let mut ends = Vec::new();
        for (port, server, cid) in [
            (out, Side::Host, Side::Host.cid()),
            (back, Side::Guest, SECOND_CID),
        ] {
            let listener = s.server(server, &format!("wait-end-server --port {port}"))?;
            let client = s.rvtest(
                server.other(),
                &format!("wait-end-client --cid {cid} --port {port}"),
            )?;
            listener.expect("ACCEPTED", LONG)?;
            client.expect("CONNECTED", LONG)?;
            ends.extend([(listener, server), (client, server.other())]);
        }
        s.guest_sh(&format!("echo 1 > {function}/reset"))
            .with_context(|| format!("reset number {round}"))?;
        for (end, side) in ends {
            end.expect("END", AT_ONCE)
                .with_context(|| format!("the {side:?}'s end after reset number {round}"))?;
        }
        echo(s, SECOND_CID, echoes).with_context(|| format!("after reset number {round}"))?;
    }
    Ok(())
}

/// There is no memory for its queues after a reset.
fn never_comes_back(s: &mut Session, devices: &Devices) -> Result<()> {
    devices.swap(s)?;
    let port = s.fresh_port();
    let _server = s.server(Side::Guest, &format!("echo-server --port {port}"))?;
    echo(s, SECOND_CID, port)?;
    let reset = format!("echo 1 > {}/reset", function(devices));
    failing(s, &FIND_QUEUES, |s| s.guest_sh(&reset).map(drop)).context("the reset")?;
    let text = s
        .rvtest(Side::Guest, "connect --cid 2 --port 1")?
        .success(LONG)?;
    ensure!(
        text.contains("ENODEV"),
        "without a device connect() gives ENODEV; it gave: {text}"
    );
    devices.tell_driver(s, "unbind", &devices.other)?;
    devices.tell_driver(s, "bind", &devices.other)?;
    echo(s, SECOND_CID, port).context("after it was unbound and bound")
}
