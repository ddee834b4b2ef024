// SPDX-License-Identifier: GPL-2.0

//! The module's life: loading and unloading beside sockets, beside the C driver, and without a device.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::{Test, LONG};
use crate::{
    config::Driver,
    session::{Session, Side},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "lifecycle: rmmod is refused while a connection is open, and harms nothing",
        run: rmmod_refused,
    },
    Test {
        name: "lifecycle: 20 rounds of rmmod and insmod with an open listener",
        run: reload_with_listener,
    },
    Test {
        name: "lifecycle: beside the C driver a device is refused with EBUSY, and a line says what to unload",
        run: beside_c_driver,
    },
    Test {
        name: "lifecycle: without a device the slot for connections to the host stays free",
        run: slot_stays_free,
    },
    Test {
        name: "lifecycle: connect without a device gives the C driver's errno",
        run: without_device,
    },
];

fn rmmod_refused(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let _server = s.server(Side::Host, &format!("echo-server --port {port}"))?;
    let traffic = s.rvtest(
        Side::Guest,
        &format!(
            "traffic --cid {} --port {port} --flows 3 --seconds 8",
            Side::Host.cid()
        ),
    )?;
    traffic.expect("RUNNING", LONG)?;
    std::thread::sleep(Duration::from_millis(500));
    let module = s.driver.modules().last().copied().unwrap_or_default();
    // Well within the traffic's time: afterwards nothing would refuse.
    let since = Instant::now();
    for attempt in 0..5 {
        if attempt > 0 && since.elapsed() > Duration::from_secs(4) {
            break;
        }
        let (code, text) = s.guest_try(&format!("rmmod {module}"), LONG)?;
        ensure!(
            code != 0,
            "rmmod of {module} succeeded while connections were open"
        );
        ensure!(
            text.contains("Resource temporarily unavailable"),
            "rmmod was refused with another error than EAGAIN: {text}"
        );
    }
    let text = traffic.success(LONG)?;
    ensure!(
        !text.contains("ERROR"),
        "the open connections noticed the refused rmmod: {text}"
    );
    Ok(())
}

fn reload_with_listener(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let server = s.server(Side::Guest, &format!("echo-server --port {port}"))?;
    for round in 1..=20 {
        s.rvtest(
            Side::Host,
            &format!(
                "echo-client --cid {} --port {port} --connections 3 --bytes 20000",
                Side::Guest.cid()
            ),
        )?
        .success(LONG)
        .with_context(|| format!("round {round}: echo with the listener that was open before"))?;
        s.unload_when_free()
            .with_context(|| format!("round {round}"))?;
        s.load().with_context(|| format!("round {round}"))?;
        ensure!(
            !server.ended(),
            "round {round}: the listener ended: {}",
            server.text()
        );
    }
    Ok(())
}

pub fn beside_c_driver(s: &mut Session) -> Result<()> {
    if s.driver == Driver::C {
        // Only to validate the test itself: the C driver beside itself would be "File exists".
        return Ok(());
    }
    s.unload_when_free()?;
    for module in Driver::C.modules() {
        s.guest_sh(&format!("insmod /modules/{module}.ko"))?;
    }
    // It has the device, and the slot for connections to the host, which it keeps.
    s.guest_sh("insmod /modules/rvsock.ko")?;
    let mark = s.machine()?.serial.mark();
    let device = s.guest_sh(
        "cd /sys/bus/virtio/drivers/vmw_vsock_virtio_transport && ls -d virtio[0-9]* | tee /tmp/device; cat /tmp/device > unbind",
    )?;
    let (code, text) = s.guest_try(
        &format!(
            "echo {} > /sys/bus/virtio/drivers/rvsock/bind",
            device.trim()
        ),
        LONG,
    )?;
    ensure!(
        code != 0,
        "rvsock was bound to a device though the C driver is loaded"
    );
    ensure!(
        text.contains("Device or resource busy"),
        "the device was refused with another error than EBUSY: {text}"
    );
    let line =
        s.machine()?
            .serial
            .wait_for(mark, "vmw_vsock_virtio_transport", Duration::from_secs(5));
    ensure!(
        line.is_some_and(|l| l.contains("rvsock")),
        "no log line of rvsock names vmw_vsock_virtio_transport as what to unload"
    );
    for module in Driver::C.modules().iter().rev() {
        s.guest_sh(&format!("rmmod {module}"))?;
    }
    s.unload()?;
    s.load()
        .context("loading again after the C driver has gone")?;
    s.confirm_driver()
}

/// The C driver takes the slot when it is loaded, device or not: with rvsock loaded, and no device, it can.
fn slot_stays_free(s: &mut Session) -> Result<()> {
    if s.driver == Driver::C {
        return Ok(());
    }
    s.unload_when_free()?;
    s.guest_sh("echo 0 > /sys/bus/virtio/drivers_autoprobe; insmod /modules/rvsock.ko")?;
    let outcome = (|| {
        for module in Driver::C.modules() {
            s.guest_sh(&format!("insmod /modules/{module}.ko"))
                .context("the C driver beside rvsock, which has no device")?;
        }
        for module in Driver::C.modules().iter().rev() {
            s.guest_sh(&format!("rmmod {module}"))?;
        }
        Ok(())
    })();
    s.guest_sh("rmmod rvsock; echo 1 > /sys/bus/virtio/drivers_autoprobe")?;
    s.load()?;
    outcome
}

fn without_device(s: &mut Session) -> Result<()> {
    let (device, driver) = s.device()?;
    s.guest_sh(&format!(
        "echo {device} > /sys/bus/virtio/drivers/{driver}/unbind"
    ))?;
    let text = s
        .rvtest(Side::Guest, "connect --cid 2 --port 9999")?
        .success(LONG)?;
    s.guest_sh(&format!(
        "echo {device} > /sys/bus/virtio/drivers/{driver}/bind"
    ))?;
    ensure!(
        text.starts_with("CONNECT ENODEV"),
        "connect() without a device: {}, the C driver gives ENODEV",
        text.trim()
    );
    s.confirm_driver()
}
