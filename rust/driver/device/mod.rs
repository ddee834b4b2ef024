// SPDX-License-Identifier: GPL-2.0

//! The device: what belongs to one, and how socket calls reach it.

mod bus;
mod lifecycle;
mod news;
mod receiver;
mod registrations;
mod route;

pub(crate) use bus::Driver;
pub(super) use bus::Offers;

use self::{
    news::News,
    receiver::{
        new_receiver,
        Receiver, //
    }, //
};
use super::{
    accept::{
        self,
        Requests, //
    },
    conn::{
        self,
        Connections, //
    },
    dgram::{
        self,
        Ports, //
    },
    link::Link,
    queue::{
        Events,
        Rx, //
    },
};
use crate::{
    ext::{
        net::{
            device,
            net_ratelimit,
            vsock::{
                self,
                CID_ANY, //
            }, //
        },
        sync::RcuArc,
        virtio::{
            self,
            ConfigSpace,
            Handler, //
        },
        work::{
            new_delayed_work,
            new_work,
            DelayedWork,
            Where,
            Work, //
        }, //
    },
    proto::{
        Profile,
        Queues, //
    },
    wire::{
        Config,
        Header, //
    }, //
};
use kernel::{
    device::Core,
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        ArcBorrow,
        Mutex, //
    },
    time::msecs_to_jiffies, //
};

/// When a listener is tried again, in milliseconds.
const RETRY_INTERVAL: u32 = 10;

/// How long a device that has lost count waits for its reset, in milliseconds: it may do so again.
const RESTART_DELAY: u32 = 1000;

/// The device that runs, if there is one.
static DEVICE: RcuArc<Vsock> = RcuArc::new();

/// The device that runs, if there is one.
///
/// # Context
///
/// Does not sleep.
pub(super) fn running() -> Option<Arc<Vsock>> {
    DEVICE.load()
}

/// A virtio socket device.
#[pin_data]
pub(crate) struct Vsock {
    /// The way out through it.
    pub(super) link: Arc<Link>,
    table: Arc<Connections>,
    ports: Arc<Ports>,
    pub(super) features: u64,
    /// The device on its bus.
    dev: ARef<virtio::Device>,
    /// What comes for connections.
    #[pin]
    streams: Receiver,
    /// Datagrams that come, where they have queues of their own.
    #[pin]
    datagrams: Receiver,
    #[pin]
    events: Events,
    #[pin]
    requests: Requests,
    /// Where the CID is to be read; none unless the device runs.
    #[pin]
    config: Mutex<Option<ConfigSpace>>,
    /// What makes SOCK_DGRAM exist (D9).
    #[pin]
    registration: Mutex<Option<vsock::Registration>>,
    /// What makes the network interface exist.
    #[pin]
    interface: Mutex<Option<device::Registration>>,
    #[pin]
    event_work: Work<Vsock>,
    #[pin]
    request_work: Work<Vsock>,
    #[pin]
    retry_work: DelayedWork<Vsock>,
    #[pin]
    restart_work: DelayedWork<Vsock>,
    #[pin]
    news: News,
}

impl Vsock {
    /// A device that is `profile`, and does not run yet.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// - `ENODEV`: the module is being unloaded.
    /// - `ENOMEM`: no memory.
    pub(super) fn new(profile: Profile, dev: &virtio::Device<Core<'_>>) -> Result<Arc<Self>> {
        let features = dev.features();
        let dev: ARef<virtio::Device> = dev.into();
        let table = conn::all().ok_or(ENODEV)?;
        let ports = dgram::ports().ok_or(ENODEV)?;
        let streams = Arc::pin_init(Rx::new(), GFP_KERNEL)?;
        let datagrams = Arc::pin_init(Rx::new(), GFP_KERNEL)?;
        let streams_have_room = if profile.shares_queues() {
            tell_all_of_room
        } else {
            conn::tell_of_room
        };
        let link = Link::new(
            profile,
            (streams.clone(), streams_have_room),
            (datagrams.clone(), dgram::tell_of_room),
        )?;
        Arc::pin_init(
            try_pin_init!(Self {
                link,
                table,
                ports,
                features,
                dev,
                streams <- new_receiver!(
                    streams,
                    streams,
                    |device| device.requests.has_room(),
                    route::route
                ),
                datagrams <- new_receiver!(datagrams, datagrams, |_| true, route::route_datagram),
                events <- Events::new(),
                requests <- Requests::new(),
                config <- new_mutex!(None, "Vsock::config"),
                registration <- new_mutex!(None, "Vsock::registration"),
                interface <- new_mutex!(None, "Vsock::interface"),
                event_work <- new_work!(Self::run_event_work, "Vsock::event_work"),
                request_work <- new_work!(Self::run_request_work, "Vsock::request_work"),
                retry_work <- new_delayed_work!(Self::run_retry_work, "Vsock::retry_work"),
                restart_work <- new_delayed_work!(Self::restart, "Vsock::restart_work"),
                news <- News::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// Has `request` handled where one may sleep, or answers it by RST.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    fn handle_later(self: &Arc<Self>, request: Header) {
        if !self.link.is_leaving() && self.requests.push(request) {
            self.request_work.queue(self, Where::Percpu);
        } else {
            self.link.refuse_request(&request);
        }
    }

    /// The receive queue of connections.
    pub(super) fn rx(&self) -> &Rx {
        &self.streams.rx
    }

    /// The receive queue of datagrams.
    pub(super) fn dgram_rx(&self) -> &Rx {
        &self.datagrams.rx
    }

    /// Handles requests.
    ///
    /// # Context
    ///
    /// Sleeps.
    fn run_request_work(self: Arc<Self>) {
        // What the host told before it made these requests comes first (C5).
        if self.handle_events() {
            self.event_work.queue(&self, Where::Unbound);
        }
        if self.link.is_leaving() {
            self.requests.refuse_all(&self);
        } else if self.requests.handle(&self) {
            self.retry_work
                .queue_in(&self, msecs_to_jiffies(RETRY_INTERVAL));
        }
    }

    /// Has requests tried again that wait for their listeners, and buffers of events that could not be mapped.
    fn run_retry_work(self: Arc<Self>) {
        self.request_work.queue(&self, Where::Percpu);
    }

    /// Handles events.
    ///
    /// # Context
    ///
    /// Sleeps.
    fn run_event_work(self: Arc<Self>) {
        if self.handle_events() {
            self.event_work.queue(&self, Where::Unbound);
        }
    }

    /// Handles the events that there are; returns whether there are, or may be, more.
    ///
    /// They are handled when this returns, by whichever caller: no other passes the lock meanwhile.
    ///
    /// # Context
    ///
    /// Sleeps; takes `Vsock::config`.
    fn handle_events(self: &Arc<Self>) -> bool {
        let config = self.config.lock();
        let taken = self.events.take();
        if taken.reset {
            self.handle_transport_reset(config.as_ref());
        }
        // Some hosts wait for this before they let new connections in (C5).
        if self.events.give_back() {
            return taken.more;
        }
        // By way of the requests' work, which looks at the events first.
        self.retry_work
            .queue_in(self, msecs_to_jiffies(RETRY_INTERVAL));
        false
    }

    /// Ends all connections, which the host has lost; we may have become another machine (C5).
    ///
    /// The connections end before `guest_cid` is read, which some hosts take for the word that they have.
    /// What was begun since then with the old CID has to end too, and its peer is told.
    ///
    /// # Context
    ///
    /// Sleeps; called under `Vsock::config`.
    fn handle_transport_reset(self: &Arc<Self>, config: Option<&ConfigSpace>) {
        let before = self.link.cid();
        self.drop_connections(false);
        if let Some(Ok(cid)) = config.map(read_guest_cid) {
            if cid != before {
                let _ = self.link.set_cid(cid);
                self.drop_connections(true);
                self.rebind(before);
            }
        }
        if net_ratelimit() {
            pr_info!(
                "the host has reset its connections; guest CID {}\n",
                self.link.cid()
            );
        }
        self.tell_reset_soon();
    }

    /// Ends all connections, and drops what waits to be sent.
    ///
    /// # Context
    ///
    /// Does not sleep; takes the spinlock of the socket's lock.
    fn drop_connections(&self, tell_peers: bool) {
        self.link.purge();
        self.table.for_each(|conn| conn.break_off(tell_peers));
    }

    /// Has the datagram sockets that are bound to another CID follow this machine's, which was `before`.
    ///
    /// # Context
    ///
    /// Does not sleep; takes the spinlock of the socket's lock.
    fn rebind(&self, before: u32) {
        let cid = self.link.cid();
        if before != cid && before != CID_ANY && net_ratelimit() {
            pr_info!("guest CID was {before}, is {cid}\n");
        }
        self.ports.rebind(cid);
    }

    /// Has the device reset, as its framing was lost, which nothing else helps (M2).
    ///
    /// # Context
    ///
    /// Does not sleep.
    fn restart_later(self: &Arc<Self>) {
        self.restart_work
            .queue_in(self, msecs_to_jiffies(RESTART_DELAY));
    }

    /// Resets the device and starts it again.
    ///
    /// # Context
    ///
    /// Sleeps; takes the device's lock.
    fn restart(self: Arc<Self>) {
        let done = virtio::Adapter::<Driver>::restart(&self.dev, |bound| {
            // The device may have stopped meanwhile, or be bound anew, with other data.
            core::ptr::eq(&raw const **bound, &raw const *self)
                && DEVICE
                    .with(|device| core::ptr::eq(device, &raw const *self))
                    .unwrap_or(false)
        });
        if done != Err(EAGAIN) {
            self.tell_framing_lost();
        }
        if net_ratelimit() {
            pr_warn!("the device has lost count of its receive buffers, and was reset: {done:?}\n");
        }
    }
}

/// Tells writers of either kind of room that had to wait, where they share a queue.
///
/// # Context
///
/// Does not sleep; may let a socket go.
fn tell_all_of_room() {
    conn::tell_of_room();
    dgram::tell_of_room();
}

/// Our own CID, as the device says now.
///
/// # Context
///
/// May sleep.
///
/// # Errors
///
/// - `EINVAL`: it is one that no machine can have.
/// - `EIO` and others: it cannot be read, as of [`ConfigSpace::read_u64`].
fn read_guest_cid(config: &ConfigSpace) -> Result<u32> {
    let guest_cid = config.read_u64(0)?;
    Config { guest_cid }.cid().map_err(|cid| {
        if net_ratelimit() {
            pr_err!("the device gives this machine CID {cid}, which is reserved\n");
        }
        EINVAL
    })
}

impl accept::Device for Arc<Vsock> {
    fn link(&self) -> &Arc<Link> {
        &self.link
    }

    fn has_become(&self, cid: u32) -> bool {
        let config = self.config.lock();
        let is = config.as_ref().map(read_guest_cid);
        if cid != self.link.cid() && is == Some(Ok(cid)) {
            self.handle_transport_reset(config.as_ref());
        }
        cid == self.link.cid()
    }

    fn receive_again(&self) {
        if self.streams.rx.is_running() {
            self.streams.schedule(self);
        }
    }
}

impl Handler for Vsock {
    fn used(self: ArcBorrow<'_, Self>, index: usize) {
        // Set by `start()`; until then no packet is expected.
        if DEVICE.is_empty() {
            return;
        }
        let queues = self.link.profile.queues;
        if index == Queues::RX {
            self.streams.schedule(&self.into());
        } else if index == Queues::TX {
            self.link.streams.schedule_reclaim(&self.link);
        } else if queues.dgram_rx() == Some(index) {
            self.datagrams.schedule(&self.into());
        } else if queues.dgram_tx() == Some(index) {
            self.link.datagrams.schedule_reclaim(&self.link);
        } else {
            self.event_work.queue(&self, Where::Unbound);
        }
    }
}
