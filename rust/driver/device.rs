// SPDX-License-Identifier: GPL-2.0

//! The device: from probe to remove, and how socket calls reach it.

use super::{
    dgram,
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
    payload::Payload,
    request::Requests,
    rx::{
        self,
        Rest,
        Rx,
        Shape, //
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
        mm::PageBlock,
        net::{
            msg::Msg,
            vsock::{
                self,
                CID_ANY, //
            }, //
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
        after_no_five_queues,
        first_attempt,
        Choice,
        Dialect,
        Feature,
        Header,
        Profile,
        Queues,
        SocketType, //
    }, //
};
use kernel::{
    device::Core,
    fmt,
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        aref::ARef,
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

/// How long a device that has lost count waits for its reset, in milliseconds: it may do so again.
const RESTART_DELAY: u32 = 1000;

/// How long the peers have to take our farewells, in all (C7).
const FAREWELL_TIME: Delta = Delta::from_secs(1);

/// The device that socket calls use: none, or the one that runs.
static DEVICE: RcuArc<Vsock> = RcuArc::new();

/// There is a device, running or not; there is never a second (H5).
static TAKEN: AtomicFlag = AtomicFlag::new(false);

/// A pair of queues, and what works on them: there is one for connections, and one for datagrams.
#[pin_data]
struct Pair {
    #[pin]
    rx: Rx,
    #[pin]
    tx: Tx,
    #[pin]
    rx_work: Work<Vsock>,
    #[pin]
    tx_work: Work<Vsock>,
    #[pin]
    refill_work: DelayedWork<Vsock>,
    #[pin]
    reclaim_work: DelayedWork<Vsock>,
}

/// Makes a [`Pair`] initialiser; what the works do is for the pair in this field.
macro_rules! new_pair {
    ($field:ident, $route:path) => {
        pin_init!(Pair {
            rx <- Rx::new(),
            tx <- Tx::new(),
            rx_work <- new_work!(
                |device: Arc<Vsock>| device.$field.receive(&device, $route),
                "Vsock::rx_work"
            ),
            tx_work <- new_work!(
                |device: Arc<Vsock>| device.$field.sent(&device, false),
                "Vsock::tx_work"
            ),
            refill_work <- new_delayed_work!(
                |device: Arc<Vsock>| device.$field.refill(&device),
                "Vsock::refill_work"
            ),
            reclaim_work <- new_delayed_work!(
                |device: Arc<Vsock>| device.$field.sent(&device, true),
                "Vsock::reclaim_work"
            ),
        })
    };
}

impl Pair {
    fn receive(&self, device: &Arc<Vsock>, route: fn(&Arc<Vsock>, &Header, &mut Payload)) {
        match self.rx.poll(device, route) {
            Rest::Nothing => {}
            Rest::More => {
                self.rx_work.queue(device, Where::Bh);
            }
            Rest::Refill => {
                self.refill_work.queue_in(device, 0);
            }
            Rest::Reset => {
                device
                    .restart_work
                    .queue_in(device, msecs_to_jiffies(RESTART_DELAY));
            }
        }
    }

    fn refill(&self, device: &Arc<Vsock>) {
        if !self.rx.refill(GFP_KERNEL) {
            self.refill_work
                .queue_in(device, msecs_to_jiffies(RETRY_INTERVAL));
        }
    }

    fn sent(&self, device: &Arc<Vsock>, timer: bool) {
        let afterwards = self.tx.reclaim(timer);
        self.follow(device, afterwards);
    }

    fn send(&self, device: &Arc<Vsock>, packet: Packet) -> Result {
        let afterwards = self.tx.send(packet)?;
        self.follow(device, afterwards);
        Ok(())
    }

    fn follow(&self, device: &Arc<Vsock>, afterwards: Afterwards) {
        if afterwards.start_timer {
            self.reclaim_work
                .queue_in(device, msecs_to_jiffies(RECLAIM_INTERVAL));
        }
    }

    fn start(&self, rx: Queue, tx: Queue, shape: Shape) -> Result {
        self.tx.start(Virtqueue::new(tx), shape.header_len);
        self.rx.start(Virtqueue::new(rx), shape)
    }

    /// The queues are no more. Sleeps.
    fn stop(&self) {
        self.rx.stop();
        self.tx.stop();
        self.rx_work.cancel_sync();
        self.tx_work.cancel_sync();
        self.refill_work.cancel_sync();
        self.reclaim_work.cancel_sync();
    }
}

/// A virtio socket device.
#[pin_data]
pub(crate) struct Vsock {
    table: Arc<Connections>,
    profile: Profile,
    features: u64,
    /// The device on its bus.
    dev: ARef<virtio::Device>,
    /// Our own CID.
    cid: Atomic<u32>,
    /// The device is about to go: no connection begins any more.
    leaving: AtomicFlag,
    /// The queues of connections.
    #[pin]
    streams: Pair,
    /// The queues of datagrams, where there are some.
    #[pin]
    datagrams: Pair,
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
    #[pin]
    event_work: Work<Vsock>,
    #[pin]
    request_work: Work<Vsock>,
    #[pin]
    retry_work: DelayedWork<Vsock>,
    #[pin]
    restart_work: DelayedWork<Vsock>,
}

/// The queues of a device, as they are found.
struct Found {
    streams: [Queue; 2],
    datagrams: Option<[Queue; 2]>,
    events: Queue,
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

/// Whether sockets of type `ty` work: there is a device, and it has said so.
pub(super) fn serves(ty: SocketType) -> bool {
    with(|device| device.serves(ty)).unwrap_or(false)
}

/// Whether there is a device for which sockets of type `ty` do not work.
pub(super) fn refuses(ty: SocketType) -> bool {
    with(|device| !device.serves(ty)).unwrap_or(false)
}

/// Whether what is left of `msg` can be sent from where it lies: the transmit queue can take it, and
/// the administrator does not forbid it.
pub(super) fn can_pin(msg: &Msg) -> bool {
    // The header takes a descriptor too.
    let most = with(|device| device.streams.tx.size())
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

/// Sends the datagram `packet`. Does not sleep.
///
/// # Errors
///
/// `ENODEV` if there is no device, or none for datagrams.
pub(super) fn send_datagram(packet: Packet) -> Result {
    let device = DEVICE.load().ok_or(ENODEV)?;
    device.datagrams.send(&device, packet)
}

/// Answers `header`'s packet by RST, if there is a device. Does not sleep.
pub(super) fn refuse(header: &Header) {
    if let Some(device) = DEVICE.load() {
        device.refuse(header);
    }
}

impl Vsock {
    fn new(
        table: Arc<Connections>,
        profile: Profile,
        dev: &virtio::Device<Core<'_>>,
    ) -> Result<Arc<Self>> {
        let features = dev.features();
        let dev: ARef<virtio::Device> = dev.into();
        Arc::pin_init(
            try_pin_init!(Self {
                table,
                profile,
                features,
                dev,
                cid: Atomic::new(CID_ANY),
                leaving: AtomicFlag::new(false),
                streams <- new_pair!(streams, rx::route),
                datagrams <- new_pair!(datagrams, dgram::receive),
                events <- Events::new(),
                requests <- Requests::new(),
                config <- new_mutex!(None, "Vsock::config"),
                registration <- new_mutex!(None, "Vsock::registration"),
                event_work <- new_work!(Self::event, "Vsock::event_work"),
                request_work <- new_work!(Self::requested, "Vsock::request_work"),
                retry_work <- new_delayed_work!(Self::retry, "Vsock::retry_work"),
                restart_work <- new_delayed_work!(Self::restart, "Vsock::restart_work"),
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

    /// Whether sockets of type `ty` work.
    pub(super) fn serves(&self, ty: SocketType) -> bool {
        match ty {
            SocketType::Stream => self.profile.stream,
            SocketType::Seqpacket => self.profile.seqpacket,
            SocketType::Dgram => self.profile.dgram,
        }
    }

    fn send(self: &Arc<Self>, packet: Packet) -> Result {
        self.streams.send(self, packet)
    }

    /// The RST that answers `header`'s packet, unless it is one itself (C2), or memory is lacking.
    fn refusal(&self, header: &Header) -> Option<Packet> {
        let mut reply = reset_reply(header)?;
        STATS.count(Counter::Refused);
        reply.src_cid = u64::from(self.cid());
        packet::control(&reply, None, Kind::Reply).ok()
    }

    /// Answers `header`'s packet by RST. Without memory the peer has its time-out.
    pub(super) fn refuse(self: &Arc<Self>, header: &Header) {
        if let Some(packet) = self.refusal(header) {
            let _ = self.send(packet);
        }
    }

    /// Answers a datagram by RST, if there is room to (D6).
    pub(super) fn refuse_datagram(self: &Arc<Self>, header: &Header) {
        if let Some(packet) = self.refusal(header) {
            let afterwards = self.datagrams.tx.send_if_room(packet);
            self.datagrams.follow(self, afterwards);
        }
    }

    /// Has `request` handled where one may sleep.
    pub(super) fn request(self: &Arc<Self>, request: Header) {
        if !self.leaving.load(Relaxed) && self.requests.push(request) {
            self.request_work.queue(self, Where::Percpu);
        } else {
            self.refuse(&request);
        }
    }

    /// Drops the packets that wait to be sent and for which `unwanted` says so.
    pub(super) fn purge(&self, unwanted: impl Fn(&Sent) -> bool) {
        self.streams.tx.purge(unwanted);
    }

    /// Somebody waits until packets are sent.
    pub(super) fn want_sent(&self) {
        self.streams.tx.want_interrupt();
    }

    /// Somebody waits until datagrams are sent.
    pub(super) fn want_datagrams_sent(&self) {
        self.datagrams.tx.want_interrupt();
    }

    fn requested(self: Arc<Self>) {
        if self.leaving.load(Relaxed) {
            self.requests.refuse_all(&self);
        } else if self.requests.handle(&self) {
            self.retry_work
                .queue_in(&self, msecs_to_jiffies(RETRY_INTERVAL));
        }
    }

    /// Some requests wait for their listeners.
    fn retry(self: Arc<Self>) {
        self.request_work.queue(&self, Where::Percpu);
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
        let before = self.cid();
        if let Some(Ok(cid)) = config.as_ref().map(read_guest_cid) {
            self.cid.store(cid, Relaxed);
        }
        self.streams.tx.purge(|_| true);
        self.datagrams.tx.purge(|_| true);
        self.rebind(before);
        self.table.for_each(|conn| conn.lost(false));
        pr_info!(
            "the host has reset its connections; guest CID {}\n",
            self.cid()
        );
    }

    /// Has the datagram sockets that are bound to another CID follow this machine's, which was `before`.
    fn rebind(&self, before: u32) {
        let cid = self.cid();
        if before != cid && before != CID_ANY {
            pr_info!("guest CID was {before}, is {cid}\n");
        }
        self.table.ports.rebind(cid);
    }

    /// Where framing was lost, only a reset helps (M2). Sleeps.
    fn restart(self: Arc<Self>) {
        let done = virtio::Adapter::<Driver>::restart(&self.dev, |bound| {
            // It may have stopped meanwhile, or be another one's device.
            core::ptr::eq(&raw const **bound, &raw const *self)
                && with(|device| core::ptr::eq(device, &raw const *self)).unwrap_or(false)
        });
        pr_warn!("the device has lost count of its receive buffers, and was reset: {done:?}\n");
    }

    /// Finds the queues. Sleeps.
    fn find_queues(self: &Arc<Self>, dev: &virtio::Device<Core<'_>>) -> Result<Found> {
        fn specs<const N: usize>(names: [&'static CStr; N]) -> [VqSpec; N] {
            names.map(|name| VqSpec {
                name,
                callback: true,
            })
        }
        Ok(match self.profile.queues {
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

    /// Starts to use the queues that were found. Sleeps.
    fn start(self: &Arc<Self>, dev: &virtio::Device<Core<'_>>, found: Found) -> Result {
        let Found {
            streams: [rx, tx],
            datagrams,
            events,
        } = found;
        let config = rx.config();
        let cid = read_guest_cid(&config)?;
        *self.config.lock() = Some(config);
        let before = self.cid.xchg(cid, Relaxed);
        self.streams.start(rx, tx, self.shape())?;
        if let Some([rx, tx]) = datagrams {
            self.datagrams.start(rx, tx, self.datagram_shape())?;
        }
        self.events.start(Virtqueue::new(events))?;
        dev.ready();
        self.streams.rx.refill(GFP_KERNEL);
        self.datagrams.rx.refill(GFP_KERNEL);
        self.events.kick();
        self.leaving.store(false, Relaxed);
        DEVICE.replace(Some(self.clone()));
        self.rebind(before);
        // What came before DEVICE was set.
        self.streams.rx_work.queue(self, Where::Bh);
        self.datagrams.rx_work.queue(self, Where::Bh);
        self.event_work.queue(self, Where::Unbound);
        Ok(())
    }

    /// The receive buffers of connections; with datagrams they have half of the memory.
    fn shape(&self) -> Shape {
        let memory = crate::rx_pool_kb.get() as usize * 1024;
        let merges = self.profile.mrg_rxbuf;
        Shape {
            order: if merges {
                crate::mrg_buffer_order.get()
            } else {
                crate::rx_buffer_order.get()
            },
            memory: if self.profile.dgram {
                memory / 2
            } else {
                memory
            },
            header_len: self.profile.header_len(),
            merges,
        }
    }

    /// The receive buffers of datagrams: where one is all that a datagram has, it must have room for
    /// the greatest, and there are four at the least (D8).
    fn datagram_shape(&self) -> Shape {
        let shape = self.shape();
        if shape.merges {
            return shape;
        }
        let order = PageBlock::MAX_ORDER;
        Shape {
            order,
            memory: shape.memory.max(4 * (PAGE_SIZE << order)),
            ..shape
        }
    }

    /// Finds the queues again, as they were, and goes on. Sleeps.
    fn resume(self: &Arc<Self>, dev: &virtio::Device<Core<'_>>) -> Result {
        self.find_queues(dev)
            .and_then(|found| self.start(dev, found))
            .inspect_err(|_| self.stop(dev))
    }

    /// Ends all connections and stops to use the device. Sleeps.
    ///
    /// The peers are told first, unless the device is gone (C7).
    fn stop(self: &Arc<Self>, dev: &virtio::Device<Core<'_>>) {
        // From here on nothing new begins, from either side; what waits to begin is refused.
        self.leaving.store(true, Relaxed);
        self.retry_work.cancel_sync();
        self.request_work.cancel_sync();
        self.requests.refuse_all(self);
        self.streams.tx.purge(|sent| sent.kind() != Kind::Reply);
        self.table.for_each(|conn| conn.lost(true));
        self.streams.tx.drain(FAREWELL_TIME);
        drop(DEVICE.replace(None));
        dev.delete_vqs();
        self.streams.stop();
        self.datagrams.stop();
        self.events.stop();
        *self.config.lock() = None;
        self.event_work.cancel_sync();
        self.retry_work.cancel_sync();
        self.request_work.cancel_sync();
        self.requests.refuse_all(self);
        // Those that were made meanwhile; nothing makes any more.
        self.table.for_each(|conn| conn.lost(false));
    }

    /// What was negotiated, as one line of the log.
    fn announce(&self, dev: &virtio::Device<Core<'_>>) {
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

    /// Makes SOCK_DGRAM exist, if the device has datagrams (D9). Sleeps.
    ///
    /// Whether or not it can, streams work.
    fn register_datagrams(&self) {
        if !self.profile.dgram {
            return;
        }
        match vsock::Registration::new(&crate::virtio_dgram_transport, vsock::Role::Datagrams) {
            Ok(registration) => *self.registration.lock() = Some(registration),
            Err(error) => {
                let reason = if error == EBUSY {
                    "another transport has it (vmw_vsock_vmci_transport?)"
                } else {
                    "registration was interrupted; bind the device again"
                };
                pr_warn!("no SOCK_DGRAM: {reason}\n");
            }
        }
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
    if device.profile.dgram {
        let (rx_size, rx_buffers, rx_bytes) = device.datagrams.rx.sizes();
        let registered = device.registration.lock().is_some();
        writeln!(
            f,
            "dgram_registered: {}",
            if registered { "yes" } else { "no" }
        )?;
        writeln!(f, "dgram_rx_queue: {rx_size}")?;
        writeln!(f, "dgram_rx_buffers: {rx_buffers}")?;
        writeln!(f, "dgram_rx_buffer_bytes: {rx_bytes}")?;
        writeln!(f, "dgram_tx_queue: {}", device.datagrams.tx.size())?;
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

impl Handler for Vsock {
    fn used(self: ArcBorrow<'_, Self>, index: usize) {
        // Set by `start()`; until then nobody waits for anything.
        if DEVICE.is_empty() {
            return;
        }
        let queues = self.profile.queues;
        if index == Queues::RX {
            self.streams.rx_work.queue(&self, Where::Bh);
        } else if index == Queues::TX {
            self.streams.tx_work.queue(&self, Where::Bh);
        } else if queues.dgram_rx() == Some(index) {
            self.datagrams.rx_work.queue(&self, Where::Bh);
        } else if queues.dgram_tx() == Some(index) {
            self.datagrams.tx_work.queue(&self, Where::Bh);
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
    const FEATURES: &'static [u32] = &[
        Feature::Stream.bit(),
        Feature::Seqpacket.bit(),
        Feature::Dgram.bit(),
        Feature::MrgRxbuf.bit(),
    ];
    type Data = Vsock;

    fn validate(dev: &virtio::Device<Core<'_>>) -> Result {
        let accept = first_attempt(dev.features(), choice()).accept;
        for feature in Feature::ALL {
            if !feature.is_in(accept) {
                dev.clear_feature(feature.bit());
            }
        }
        Ok(())
    }

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
        drop(data.registration.lock().take());
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
        data.resume(dev)
    }

    fn reset_prepare(dev: &virtio::Device<Core<'_>>, data: &Arc<Vsock>) -> Result {
        data.stop(dev);
        Ok(())
    }

    fn reset_done(dev: &virtio::Device<Core<'_>>, data: &Arc<Vsock>) -> Result {
        data.resume(dev)
    }
}

/// The administrator's word on what the feature bits mean.
fn choice() -> Choice {
    match crate::profile.get() {
        1 => Choice::Ratified,
        2 => Choice::Draft,
        _ => Choice::Auto,
    }
}

impl Driver {
    fn set_up(dev: &virtio::Device<Core<'_>>) -> Result<Arc<Vsock>> {
        let result = Self::try_to_set_up(dev);
        if let Err(error) = &result {
            pr_err!("virtio{}: cannot be used: {error:?}\n", dev.index());
        }
        result
    }

    fn try_to_set_up(dev: &virtio::Device<Core<'_>>) -> Result<Arc<Vsock>> {
        let (vsock, found) = Self::negotiate(dev)?;
        vsock.start(dev, found).inspect_err(|_| vsock.stop(dev))?;
        vsock.announce(dev);
        vsock.register_datagrams();
        Ok(vsock)
    }

    /// Finds out what the device is, by the number of its queues. Sleeps.
    fn negotiate(dev: &virtio::Device<Core<'_>>) -> Result<(Arc<Vsock>, Found)> {
        let (offered, choice) = (dev.features(), choice());
        let mut attempt = first_attempt(offered, choice);
        loop {
            let table = crate::connections().ok_or(ENODEV)?;
            let profile = attempt.profile();
            if profile.is_useless() {
                pr_err!("the device offers no type of socket (features {offered:#x})\n");
                return Err(ENODEV);
            }
            let vsock = Vsock::new(table, profile, dev)?;
            match vsock.find_queues(dev) {
                Ok(found) => return Ok((vsock, found)),
                Err(error) => {
                    let next = (attempt.queues == Queues::Five)
                        .then(|| after_no_five_queues(offered, choice))
                        .flatten();
                    attempt = next.ok_or(error)?;
                    dev.renegotiate(attempt.accept)?;
                }
            }
        }
    }
}
