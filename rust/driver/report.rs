// SPDX-License-Identifier: GPL-2.0

//! What the driver says of the device: a line of the log, and the head of what debugfs shows.

use super::device::{
    running,
    Vsock, //
};
use crate::{
    ext::virtio,
    wire::{
        Dialect,
        Profile, //
    }, //
};
use kernel::{
    device::Core,
    fmt,
    prelude::*, //
};

impl Vsock {
    /// What was negotiated, as one line of the log.
    pub(super) fn announce(&self, dev: &virtio::Device<Core<'_>>) {
        let (rx_size, rx_buffers, rx_bytes) = self.streams.rx.sizes();
        pr_info!(
            "virtio{}: guest CID {}, features {:#x} ({}:{}), {} queues, rx {} deep with {} buffers of {} bytes, tx {} deep\n",
            dev.index(),
            self.cid(),
            self.features,
            self.dialect(),
            Offers(&self.profile),
            self.profile.queues.count(),
            rx_size,
            rx_buffers,
            rx_bytes,
            self.streams.tx.size(),
        );
    }

    fn dialect(&self) -> &'static str {
        match self.profile.dialect {
            Dialect::Ratified => "ratified",
            Dialect::Draft => "draft",
        }
    }
}

/// Shows the device that runs, or that there is none.
pub(super) fn show(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Some(device) = running() else {
        return writeln!(f, "device: none");
    };
    let (rx_size, rx_buffers, rx_bytes) = device.streams.rx.sizes();
    writeln!(f, "device: running")?;
    writeln!(f, "guest_cid: {}", device.cid())?;
    writeln!(f, "features: {:#x}", device.features)?;
    writeln!(f, "profile: {}", device.dialect())?;
    f.write_fmt(fmt!("offers:{}\n", Offers(&device.profile)))?;
    writeln!(f, "queues: {}", device.profile.queues.count())?;
    writeln!(f, "rx_queue: {rx_size}")?;
    writeln!(f, "rx_buffers: {rx_buffers}")?;
    writeln!(f, "rx_buffer_bytes: {rx_bytes}")?;
    writeln!(f, "tx_queue: {}", device.streams.tx.size())?;
    let gauge = device.streams.tx.gauge();
    writeln!(f, "tx_in_flight: {}", gauge.in_flight)?;
    writeln!(f, "tx_waiting: {}", gauge.waiting)?;
    writeln!(f, "tx_waiting_bytes: {}", gauge.memory)?;
    if device.profile.dgram {
        let (rx_size, rx_buffers, rx_bytes) = device.datagrams.rx.sizes();
        let registered = device.has_registered_datagrams();
        writeln!(
            f,
            "dgram_registered: {}",
            if registered { "yes" } else { "no" }
        )?;
        writeln!(f, "dgram_rx_queue: {rx_size}")?;
        writeln!(f, "dgram_rx_buffers: {rx_buffers}")?;
        writeln!(f, "dgram_rx_buffer_bytes: {rx_bytes}")?;
        writeln!(f, "dgram_tx_queue: {}", device.datagrams.tx.size())?;
        let gauge = device.datagrams.tx.gauge();
        writeln!(f, "dgram_tx_in_flight: {}", gauge.in_flight)?;
        writeln!(f, "dgram_tx_waiting: {}", gauge.waiting)?;
        writeln!(f, "dgram_tx_waiting_bytes: {}", gauge.memory)?;
    }
    Ok(())
}

/// What a device offers, each after a space.
struct Offers<'a>(&'a Profile);

impl fmt::Display for Offers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let profile = self.0;
        for (offered, name) in [
            (profile.stream, "stream"),
            (profile.seqpacket, "seqpacket"),
            (profile.dgram, "dgram"),
            (profile.mrg_rxbuf, "mrg_rxbuf"),
            (profile.no_implied_stream, "no_implied_stream"),
        ] {
            if offered {
                write!(f, " {name}")?;
            }
        }
        Ok(())
    }
}
