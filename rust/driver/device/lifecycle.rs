// SPDX-License-Identifier: GPL-2.0

//! From when a device's queues are found until they end.

use super::{
    read_guest_cid,
    Vsock,
    DEVICE, //
};
use crate::{
    driver::{
        link::Link,
        parameters,
        queue::BufferLayout, //
    },
    ext::{
        mm::order_of,
        virtio::{
            self,
            Queue,
            Virtqueue,
            VqSpec, //
        },
        work::Where, //
    },
    proto::{
        Queues,
        DGRAM_MAX, //
    }, //
};
use kernel::{
    device::Core,
    prelude::*,
    sync::{
        Arc, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

/// How long the host has to take what waits and our farewells, in all (C7).
const FAREWELL_TIME: Delta = Delta::from_secs(1);

/// How much of it what waits may take.
const LAST_WORDS_TIME: Delta = Delta::from_millis(700);

/// The memory of the receive buffers of connections that an idle device has, in bytes.
const RX_AT_REST: usize = 384 * 1024;

/// The queues of a device, as they are found.
pub(super) struct Found {
    streams: [Queue; 2],
    datagrams: Option<[Queue; 2]>,
    events: Queue,
}

impl Vsock {
    /// Finds the queues.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// As of [`find_vqs`](virtio::Device::find_vqs).
    pub(super) fn find_queues(self: &Arc<Self>, dev: &virtio::Device<Core<'_>>) -> Result<Found> {
        fn specs<const N: usize>(names: [&'static CStr; N]) -> [VqSpec; N] {
            names.map(|name| VqSpec {
                name,
                callback: true,
            })
        }
        Ok(match self.link.profile.queues {
            Queues::Three => {
                let [rx, tx, events] =
                    dev.find_vqs(self.clone(), specs([c"rx", c"tx", c"event"]))?;
                Found {
                    streams: [rx, tx],
                    datagrams: None,
                    events,
                }
            }
            Queues::Five => {
                let names = [c"rx", c"tx", c"dgram-rx", c"dgram-tx", c"event"];
                let [rx, tx, dgram_rx, dgram_tx, events] =
                    dev.find_vqs(self.clone(), specs(names))?;
                Found {
                    streams: [rx, tx],
                    datagrams: Some([dgram_rx, dgram_tx]),
                    events,
                }
            }
        })
    }

    /// Starts to use the queues that were found.
    ///
    /// # Context
    ///
    /// Sleeps; takes `Vsock::config`.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: the device gives this machine a CID that is reserved.
    /// - `ENOMEM`: no memory.
    /// - Others as of [`read_guest_cid`] and [`ready`](virtio::Device::ready).
    pub(super) fn start(self: &Arc<Self>, dev: &virtio::Device<Core<'_>>, found: Found) -> Result {
        let Found {
            streams: [rx, tx],
            datagrams,
            events,
        } = found;
        let config = rx.config();
        let cid = read_guest_cid(&config)?;
        *self.config.lock() = Some(config);
        let before = self.link.set_cid(cid);
        self.link.streams.start(tx, self.link.profile.header_len());
        self.streams.start(rx, self.layout())?;
        if let Some([rx, tx]) = datagrams {
            self.link
                .datagrams
                .start(tx, self.link.profile.header_len());
            self.datagrams.start(rx, self.datagram_layout())?;
        }
        self.events.start(Virtqueue::new(events))?;
        dev.ready()?;
        self.streams.rx.refill(GFP_KERNEL);
        self.datagrams.rx.refill(GFP_KERNEL);
        self.events.kick();
        self.link.set_leaving(false);
        self.link.publish();
        DEVICE.replace(Some(self.clone()));
        self.rebind(before);
        // Serves what came before DEVICE was set.
        self.streams.schedule(self);
        self.datagrams.schedule(self);
        self.link.streams.schedule_reclaim(&self.link);
        self.link.datagrams.schedule_reclaim(&self.link);
        self.event_work.queue(self, Where::Unbound);
        Ok(())
    }

    /// The receive buffers of connections; half of the memory is for datagrams, if these have queues of their own.
    /// If they share these, each buffer has room for the greatest: some hosts cut off what has none (G5).
    fn layout(&self) -> BufferLayout {
        let profile = &self.link.profile;
        let shares = profile.shares_queues();
        let memory = parameters::rx_pool_kb.get() as usize * 1024;
        let memory = if profile.dgram && !shares {
            memory / 2
        } else {
            memory
        };
        let layout = BufferLayout {
            order: if profile.mrg_rxbuf {
                parameters::mrg_buffer_order.get()
            } else {
                parameters::rx_buffer_order.get()
            },
            memory,
            at_rest: memory.min(RX_AT_REST),
            header_len: profile.header_len(),
            merges: profile.mrg_rxbuf,
        };
        if shares {
            for_datagrams(layout)
        } else {
            layout
        }
    }

    /// The receive buffers of datagrams: where one is all that a datagram has, it must have room for
    /// the greatest (D8). All are there at any time: what finds none is lost.
    fn datagram_layout(&self) -> BufferLayout {
        let mut layout = self.layout();
        if !layout.merges {
            layout = for_datagrams(layout);
        }
        layout.at_rest = layout.memory;
        layout
    }

    /// Finds the queues again, as they were, and goes on.
    ///
    /// # Context
    ///
    /// Sleeps; takes `Vsock::config`.
    ///
    /// # Errors
    ///
    /// As of [`find_queues`](Self::find_queues) and [`start`](Self::start). The device has stopped then.
    pub(super) fn resume(self: &Arc<Self>, dev: &virtio::Device<Core<'_>>) -> Result {
        self.find_queues(dev)
            .and_then(|found| self.start(dev, found))
            .inspect_err(|_| self.stop(dev))
    }

    /// Ends all connections and stops to use the device.
    ///
    /// What waits to be sent goes first, then the peers are told, unless the device is gone (C7).
    ///
    /// # Context
    ///
    /// Sleeps; takes `Requests::held_up`, then `Vsock::config`. The works that it waits for do not call it.
    pub(super) fn stop(self: &Arc<Self>, dev: &virtio::Device<Core<'_>>) {
        // From here on nothing new begins, from either side; what waits to begin is refused.
        self.link.set_leaving(true);
        self.retry_work.cancel_sync();
        self.request_work.cancel_sync();
        self.requests.refuse_all(self);
        // What waits for turns goes without.
        self.link.streams.bypass(&self.link);
        self.link.datagrams.bypass(&self.link);
        let since = Instant::<Monotonic>::now();
        let left = |limit: Delta| limit - since.elapsed();
        self.link.streams.drain(&self.link, left(LAST_WORDS_TIME));
        self.table.for_each(|conn| conn.break_off(true));
        self.link.streams.drain(&self.link, left(FAREWELL_TIME));
        self.link.datagrams.drain(&self.link, left(FAREWELL_TIME));
        Link::unpublish();
        drop(DEVICE.replace(None));
        dev.delete_vqs();
        self.streams.stop();
        self.link.streams.stop();
        self.datagrams.stop();
        self.link.datagrams.stop();
        self.events.stop();
        *self.config.lock() = None;
        self.event_work.cancel_sync();
        // Not waited for: this work may be our caller.
        self.restart_work.cancel();
        self.news.stop();
        self.retry_work.cancel_sync();
        self.request_work.cancel_sync();
        self.requests.refuse_all(self);
        // Connections that were made meanwhile; from here on none is made.
        self.table.for_each(|conn| conn.break_off(false));
    }
}

/// Buffers of which each has room for the greatest datagram; there are four at the least, at rest too (D8, G5).
fn for_datagrams(mut layout: BufferLayout) -> BufferLayout {
    layout.order = order_of(DGRAM_MAX.saturating_add(layout.header_len));
    let four = layout.buffer().saturating_mul(4);
    layout.memory = layout.memory.max(four);
    layout.at_rest = layout.at_rest.max(four);
    layout
}
