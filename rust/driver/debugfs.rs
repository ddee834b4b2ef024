// SPDX-License-Identifier: GPL-2.0

//! What debugfs shows: the device and the counters, and the connections.

use super::{
    conn::{
        self,
        Conn, //
    },
    device::{
        self,
        Offers,
        Vsock, //
    },
    link,
    queue::{
        Rx,
        Tx, //
    },
    stats::{
        Counter,
        STATS, //
    },
};
use crate::ext::debugfs::{
    Dir,
    Lines, //
};
use kernel::{
    fmt,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
};

/// Shows all that there is, until what is returned is dropped.
///
/// # Context
///
/// May sleep.
pub(crate) fn show() -> Dir {
    let dir = Dir::new(c"rvsock");
    dir.lines::<Stats>(c"stats");
    dir.lines::<Connections>(c"connections");
    dir
}

/// `stats`: the device and the counters, a name and a value per line.
struct Stats;

impl Lines for Stats {
    type Line = ();

    fn find(position: u64) -> Option<(u64, ())> {
        (position == 0).then_some((0, ()))
    }

    fn show((): (), f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_stats(f)
    }
}

/// `connections`: a line for each.
struct Connections;

impl Lines for Connections {
    type Line = Arc<Conn>;

    fn find(position: u64) -> Option<(u64, Arc<Conn>)> {
        conn::all()?.find_from(position)
    }

    fn show(conn: ArcBorrow<'_, Conn>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        conn.show(link::guest_cid(), f)
    }
}

/// Shows the device and the counters.
///
/// # Context
///
/// May sleep; takes `Vsock::registration`.
///
/// # Errors
///
/// What `f` returns.
fn show_stats(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match device::running() {
        None => writeln!(f, "device: none")?,
        Some(device) => show_device(&device, f)?,
    }
    for (counter, name) in Counter::ALL {
        writeln!(f, "{name}: {}", STATS.get(*counter))?;
    }
    Ok(())
}

/// Shows the device.
///
/// # Context
///
/// May sleep; takes `Vsock::registration`.
///
/// # Errors
///
/// What `f` returns.
fn show_device(device: &Vsock, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let link = &device.link;
    writeln!(f, "device: running")?;
    writeln!(f, "guest_cid: {}", link.cid())?;
    writeln!(f, "features: {:#x}", device.features)?;
    writeln!(f, "profile: {}", device.dialect())?;
    f.write_fmt(fmt!("offers:{}\n", Offers(&link.profile)))?;
    writeln!(f, "queues: {}", link.profile.queues.count())?;
    show_queues(f, "", device.rx(), link.streams.tx())?;
    if link.profile.dgram {
        let registered = device.has_registered_datagrams();
        writeln!(
            f,
            "dgram_registered: {}",
            if registered { "yes" } else { "no" }
        )?;
        if !link.profile.shares_queues() {
            show_queues(f, "dgram_", device.dgram_rx(), link.datagrams.tx())?;
        }
    }
    Ok(())
}

/// Shows a pair of queues.
///
/// # Context
///
/// Does not sleep; takes `Rx::inner`, then `Tx::inner`.
///
/// # Errors
///
/// What `f` returns.
fn show_queues(f: &mut fmt::Formatter<'_>, prefix: &str, rx: &Rx, tx: &Tx) -> fmt::Result {
    let sizes = rx.sizes();
    writeln!(f, "{prefix}rx_queue: {}", sizes.queue)?;
    writeln!(f, "{prefix}rx_buffers: {}", sizes.buffers)?;
    writeln!(f, "{prefix}rx_buffer_bytes: {}", sizes.buffer_bytes)?;
    writeln!(f, "{prefix}tx_queue: {}", tx.size())?;
    let gauge = tx.gauge();
    writeln!(f, "{prefix}tx_in_flight: {}", gauge.in_flight)?;
    writeln!(f, "{prefix}tx_waiting: {}", gauge.waiting)?;
    writeln!(f, "{prefix}tx_waiting_bytes: {}", gauge.memory)
}
