// SPDX-License-Identifier: GPL-2.0

//! The device: from probe to remove, and how socket calls reach it.

use super::{
    event::{
        read_guest_cid,
        Events, //
    },
    packet::{
        self,
        Kind,
        Packet,
        Sent, //
    },
    request::Requests,
    rx::{
        Rest,
        Rx, //
    },
    stats::{
        Counter,
        STATS, //
    },
    table::Connections,
    tx::{
        Afterwards,
        Tx, //
    }, //
};
use crate::{
    ext::{
        net::{
            msg::Msg,
            vsock::CID_ANY, //
        },
        sync::RcuArc,
        virtio::{
            self,
            virtio_device_table,
            ConfigSpace,
            Handler,
            Queue,
            Virtqueue,
            VqSpec, //
        },
        work::{
            new_delayed_work,
            new_work,
            DelayedWork,
            Where,
            Work, //
        }, //
    },
    proto::reset_reply,
    wire::{
        Attempt,
        Dialect,
        Feature,
        Header,
        Profile,
        Queues, //
    }, //
};
use kernel::{
    device::Core,
    fmt,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            AtomicFlag,
            Full,
            Relaxed, //
        },
        Arc,
        ArcBorrow,
        Mutex, //
    },
    time::{
        msecs_to_jiffies,
        Delta, //
    }, //
};

/// `VIRTIO_ID_VSOCK`.
const ID_VSOCK: u32 = 19;

virtio_device_table!(ID_TABLE, MODULE_ID_TABLE, [virtio::DeviceId::new(ID_VSOCK)]);

/// When sent packets are reclaimed that nobody else reclaims, in milliseconds.
const RECLAIM_INTERVAL: u32 = 20;

/// When buffers, or a listener, are tried again, in milliseconds.
const RETRY_INTERVAL: u32 = 10;

/// How long the peers have to take our farewells, in all (C7).
const FAREWELL_TIME: Delta = Delta::from_secs(1);

/// The device that socket calls use: none, or the one that runs.
static DEVICE: RcuArc<Vsock> = RcuArc::new();

/// There is a device, running or not; there is never a second (H5).
static TAKEN: AtomicFlag = AtomicFlag::new(false);

/// A virtio socket device.
#[pin_data]
pub(crate) struct Vsock {
    table: Arc<Connections>,
    profile: Profile,
    features: u64,
    /// Our own CID.
    cid: Atomic<u32>,
    /// The device is about to go: no connection begins any more.
    leaving: AtomicFlag,
    #[pin]
    rx: Rx,
    #[pin]
    tx: Tx,
    #[pin]
    events: Events,
    #[pin]
    requests: Requests,
    /// Where the CID is to be read; none unless the device runs.
    #[pin]
    config: Mutex<Option<ConfigSpace>>,
    #[pin]
    rx_work: Work<Vsock>,
    #[pin]
    tx_work: Work<Vsock>,
    #[pin]
    event_work: Work<Vsock>,
    #[pin]
    request_work: DelayedWork<Vsock>,
    #[pin]
    refill_work: DelayedWork<Vsock>,
    #[pin]
    reclaim_work: DelayedWork<Vsock>,
}

/// Calls `f` with the device that runs, if there is one. Nothing in it may sleep.
pub(super) fn with<R>(f: impl FnOnce(&Vsock) -> R) -> Option<R> {
    DEVICE.with(f)
}

/// Our own CID, or [`CID_ANY`] if there is no device.
pub(super) fn guest_cid() -> u32 {
    with(Vsock::cid).unwrap_or(CID_ANY)
}

/// Whether connections may begin: there is a device, and it is not about to go.
pub(super) fn takes_connections() -> bool {
    with(|device| !device.leaving.load(Relaxed)).unwrap_or(false)
}

/// Whether SOCK_SEQPACKET was negotiated.
pub(super) fn allows_seqpacket() -> bool {
    with(|device| device.profile.seqpacket).unwrap_or(false)
}

/// Whether what is left of `msg` can be sent from where it lies: the transmit queue can take it, and
/// the administrator does not forbid it.
pub(super) fn can_pin(msg: &Msg) -> bool {
    // The header takes a descriptor too.
    let most = with(|device| device.tx.size())
        .unwrap_or(0)
        .saturating_sub(1);
    crate::zerocopy.get() && msg.can_be_pinned(most)
}

/// Sends `packet`. Does not sleep.
///
/// # Errors
///
/// `ENODEV` if there is no device.
pub(super) fn send(packet: Packet) -> Result {
    let device = DEVICE.load().ok_or(ENODEV)?;
    device.send(packet)
}

/// Answers `header`'s packet by RST, if there is a device. Does not sleep.
pub(super) fn refuse(header: &Header) {
    if let Some(device) = DEVICE.load() {
        device.refuse(header);
    }
}

impl Vsock {
    fn new(table: Arc<Connections>, profile: Profile, features: u64) -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                table,
                profile,
                features,
                cid: Atomic::new(CID_ANY),
                leaving: AtomicFlag::new(false),
                rx <- Rx::new(),
                tx <- Tx::new(),
                events <- Events::new(),
                requests <- Requests::new(),
                config <- new_mutex!(None, "Vsock::config"),
                rx_work <- new_work!(Self::receive, "Vsock::rx_work"),
                tx_work <- new_work!(Self::sent, "Vsock::tx_work"),
                event_work <- new_work!(Self::event, "Vsock::event_work"),
                request_work <- new_delayed_work!(Self::requested, "Vsock::request_work"),
                refill_work <- new_delayed_work!(Self::refill, "Vsock::refill_work"),
                reclaim_work <- new_delayed_work!(Self::reclaim, "Vsock::reclaim_work"),
            }),
            GFP_KERNEL,
        )
    }

    /// Our own CID.
    pub(super) fn cid(&self) -> u32 {
        self.cid.load(Relaxed)
    }

    /// All connections.
    pub(super) fn connections(&self) -> &Arc<Connections> {
        &self.table
    }

    fn send(self: &Arc<Self>, packet: Packet) -> Result {
        let afterwards = self.tx.send(packet)?;
        self.follow(afterwards);
        Ok(())
    }

    fn follow(self: &Arc<Self>, afterwards: Afterwards) {
        if afterwards.start_timer {
            self.reclaim_work
                .queue_in(self, msecs_to_jiffies(RECLAIM_INTERVAL));
        }
    }

    /// Answers `header`'s packet by RST, unless it is one itself (C2).
    pub(super) fn refuse(self: &Arc<Self>, header: &Header) {
        let Some(mut reply) = reset_reply(header) else {
            return;
        };
        STATS.count(Counter::Refused);
        reply.src_cid = u64::from(self.cid());
        // Without memory the peer has its time-out.
        let _ = packet::control(&reply, None, Kind::Reply).and_then(|packet| self.send(packet));
    }

    /// Has `request` handled where one may sleep.
    pub(super) fn request(self: &Arc<Self>, request: Header) {
        if !self.leaving.load(Relaxed) && self.requests.push(request) {
            self.request_work.requeue_in(self, 0);
        } else {
            self.refuse(&request);
        }
    }

    /// Drops the packets that wait to be sent and for which `unwanted` says so.
    pub(super) fn purge(&self, unwanted: impl Fn(&Sent) -> bool) {
        self.tx.purge(unwanted);
    }

    /// Somebody waits until packets are sent.
    pub(super) fn want_sent(&self) {
        self.tx.want_interrupt();
    }

    fn receive(self: Arc<Self>) {
        match self.rx.poll(&self) {
            Rest::Nothing => {}
            Rest::More => {
                self.rx_work.queue(&self, Where::Bh);
            }
            Rest::Refill => {
                self.refill_work.queue_in(&self, 0);
            }
        }
    }

    fn sent(self: Arc<Self>) {
        self.follow(self.tx.reclaim(false));
    }

    fn reclaim(self: Arc<Self>) {
        self.follow(self.tx.reclaim(true));
    }

    fn refill(self: Arc<Self>) {
        if !self.rx.refill(GFP_KERNEL) {
            self.refill_work
                .queue_in(&self, msecs_to_jiffies(RETRY_INTERVAL));
        }
    }

    fn requested(self: Arc<Self>) {
        if self.leaving.load(Relaxed) {
            self.requests.refuse_all(&self);
        } else if self.requests.handle(&self) {
            self.request_work
                .queue_in(&self, msecs_to_jiffies(RETRY_INTERVAL));
        }
    }

    fn event(self: Arc<Self>) {
        let taken = self.events.take();
        if taken.reset {
            self.transport_reset();
        }
        if taken.more {
            self.event_work.queue(&self, Where::Unbound);
        }
    }

    /// The host has lost all connections, and we may have become another machine (C5).
    fn transport_reset(&self) {
        let config = self.config.lock().clone();
        if let Some(Ok(cid)) = config.as_ref().map(read_guest_cid) {
            self.cid.store(cid, Relaxed);
        }
        self.tx.purge(|_| true);
        self.table.for_each(|conn| conn.lost(false));
        pr_info!(
            "the host has reset its connections; guest CID {}\n",
            self.cid()
        );
    }

    /// Finds the queues and starts to use them. Sleeps.
    fn start(self: &Arc<Self>, dev: &virtio::Device<Core<'_>>) -> Result {
        let [rx, tx, events] = dev.find_vqs(
            self.clone(),
            [c"rx", c"tx", c"event"].map(|name| VqSpec {
                name,
                callback: true,
            }),
        )?;
        let config = rx.config();
        let cid = read_guest_cid(&config)?;
        let before = self.cid.xchg(cid, Relaxed);
        *self.config.lock() = Some(config);
        self.start_queues(rx, tx, events)?;
        dev.ready();
        self.rx.refill(GFP_KERNEL);
        self.events.kick();
        self.leaving.store(false, Relaxed);
        DEVICE.replace(Some(self.clone()));
        if before != cid && before != CID_ANY {
            pr_info!("guest CID was {before}, is {cid}\n");
        }
        // What came before DEVICE was set.
        self.rx_work.queue(self, Where::Bh);
        self.event_work.queue(self, Where::Unbound);
        Ok(())
    }

    fn start_queues(&self, rx: Queue, tx: Queue, events: Queue) -> Result {
        self.tx.start(Virtqueue::new(tx));
        self.events.start(Virtqueue::new(events))?;
        let bytes = crate::rx_pool_kb.get() as usize * 1024;
        self.rx
            .start(Virtqueue::new(rx), crate::rx_buffer_order.get(), bytes);
        Ok(())
    }

    /// Ends all connections and stops to use the device. Sleeps.
    ///
    /// The peers are told first, unless the device is gone (C7).
    fn stop(self: &Arc<Self>, dev: &virtio::Device<Core<'_>>) {
        // From here on nothing new begins, from either side; what waits to begin is refused.
        self.leaving.store(true, Relaxed);
        self.request_work.cancel_sync();
        self.requests.refuse_all(self);
        self.tx.purge(|sent| sent.kind() != Kind::Reply);
        self.table.for_each(|conn| conn.lost(true));
        self.tx.drain(FAREWELL_TIME);
        drop(DEVICE.replace(None));
        dev.delete_vqs();
        self.rx.stop();
        self.tx.stop();
        self.events.stop();
        *self.config.lock() = None;
        self.rx_work.cancel_sync();
        self.tx_work.cancel_sync();
        self.event_work.cancel_sync();
        self.request_work.cancel_sync();
        self.refill_work.cancel_sync();
        self.reclaim_work.cancel_sync();
        self.requests.refuse_all(self);
        // Those that were made meanwhile; nothing makes any more.
        self.table.for_each(|conn| conn.lost(false));
    }

    /// What was negotiated, as one line of the log.
    fn announce(&self, dev: &virtio::Device<Core<'_>>) {
        let (rx_size, rx_buffers, rx_bytes) = self.rx.sizes();
        pr_info!(
            "virtio{}: guest CID {}, features {:#x} ({}), {} queues, rx {} deep with {} buffers of {} bytes, tx {} deep\n",
            dev.index(),
            self.cid(),
            self.features,
            self.dialect(),
            self.profile.queues.count(),
            rx_size,
            rx_buffers,
            rx_bytes,
            self.tx.size(),
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
    let Some(device) = DEVICE.load() else {
        return writeln!(f, "device: none");
    };
    let (rx_size, rx_buffers, rx_bytes) = device.rx.sizes();
    writeln!(f, "device: running")?;
    writeln!(f, "guest_cid: {}", device.cid())?;
    writeln!(f, "features: {:#x}", device.features)?;
    writeln!(f, "profile: {}", device.dialect())?;
    writeln!(f, "queues: {}", device.profile.queues.count())?;
    writeln!(f, "rx_queue: {rx_size}")?;
    writeln!(f, "rx_buffers: {rx_buffers}")?;
    writeln!(f, "rx_buffer_bytes: {rx_bytes}")?;
    writeln!(f, "tx_queue: {}", device.tx.size())
}

impl Handler for Vsock {
    fn used(self: ArcBorrow<'_, Self>, index: usize) {
        // Set by `start()`; until then nobody waits for anything.
        if DEVICE.is_empty() {
            return;
        }
        if index == Queues::RX {
            self.rx_work.queue(&self, Where::Bh);
        } else if index == Queues::TX {
            self.tx_work.queue(&self, Where::Bh);
        } else {
            self.event_work.queue(&self, Where::Unbound);
        }
    }
}

/// The driver of virtio socket devices.
pub(crate) struct Driver;

#[vtable]
impl virtio::Driver for Driver {
    const ID_TABLE: virtio::IdTable = &ID_TABLE;
    const FEATURES: &'static [u32] = &[Feature::Stream as u32, Feature::Seqpacket as u32];
    type Data = Vsock;

    fn probe(dev: &virtio::Device<Core<'_>>) -> Result<Arc<Vsock>> {
        if TAKEN.cmpxchg(false, true, Full).is_err() {
            pr_err!(
                "virtio{}: there is a virtio socket device already, and only one is supported\n",
                dev.index()
            );
            return Err(EBUSY);
        }
        let result = Self::set_up(dev);
        if result.is_err() {
            TAKEN.store(false, Relaxed);
        }
        result
    }

    fn remove(dev: &virtio::Device<Core<'_>>, data: &Arc<Vsock>) {
        data.stop(dev);
        TAKEN.store(false, Relaxed);
    }

    fn shutdown(dev: &virtio::Device<Core<'_>>, data: &Arc<Vsock>) {
        data.stop(dev);
    }

    fn freeze(dev: &virtio::Device<Core<'_>>, data: &Arc<Vsock>) -> Result {
        data.stop(dev);
        Ok(())
    }

    fn restore(dev: &virtio::Device<Core<'_>>, data: &Arc<Vsock>) -> Result {
        data.start(dev).inspect_err(|_| data.stop(dev))
    }

    fn reset_prepare(dev: &virtio::Device<Core<'_>>, data: &Arc<Vsock>) -> Result {
        data.stop(dev);
        Ok(())
    }

    fn reset_done(dev: &virtio::Device<Core<'_>>, data: &Arc<Vsock>) -> Result {
        data.start(dev).inspect_err(|_| data.stop(dev))
    }
}

impl Driver {
    fn set_up(dev: &virtio::Device<Core<'_>>) -> Result<Arc<Vsock>> {
        let attempt = Attempt {
            accept: dev.features(),
            queues: Queues::Three,
            dialect: Dialect::Ratified,
        };
        let table = crate::connections().ok_or(ENODEV)?;
        let vsock = Vsock::new(table, attempt.profile(), dev.features())?;
        vsock.start(dev).inspect_err(|error| {
            pr_err!("virtio{}: cannot be used: {error:?}\n", dev.index());
            vsock.stop(dev);
        })?;
        vsock.announce(dev);
        Ok(vsock)
    }
}
