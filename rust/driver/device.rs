// SPDX-License-Identifier: GPL-2.0

//! The device: what belongs to one, and how socket calls reach it.

mod lifecycle;

pub(super) use lifecycle::Found;

use super::{
    conn::Conn,
    dgram::{
        self,
        Ports, //
    },
    pair::{
        new_pair,
        Pair, //
    },
    parameters,
    probe::Driver,
    queue::{
        self,
        Cause,
        Events,
        Packet, //
    },
    request::Requests,
    route,
    stats::{
        Counter,
        STATS, //
    },
    table::{
        self,
        Connections, //
    },
};
use crate::{
    ext::{
        net::{
            msg::Msg,
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
    proto::reset_reply,
    wire::{
        Config,
        Header,
        Profile,
        Queues,
        SocketType, //
    }, //
};
use kernel::{
    device::Core,
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            AtomicFlag,
            Relaxed, //
        },
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

/// The device that socket calls use: none, or the one that runs.
static DEVICE: RcuArc<Vsock> = RcuArc::new();

/// A virtio socket device.
#[pin_data]
pub(crate) struct Vsock {
    table: Arc<Connections>,
    ports: Arc<Ports>,
    pub(super) profile: Profile,
    pub(super) features: u64,
    /// The device on its bus.
    dev: ARef<virtio::Device>,
    /// Our own CID.
    cid: Atomic<u32>,
    /// The device is about to go: no connection begins any more.
    leaving: AtomicFlag,
    /// The queues of connections.
    #[pin]
    pub(super) streams: Pair,
    /// The queues of datagrams, where there are some.
    #[pin]
    pub(super) datagrams: Pair,
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

/// The device that runs, if there is one.
pub(super) fn running() -> Option<Arc<Vsock>> {
    DEVICE.load()
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
    parameters::zerocopy.get() && msg.can_be_pinned(most)
}

/// Takes the packet out that small writes of `conn` are put together in while others wait, if there is one.
/// It is to be sent again.
pub(super) fn take_open(conn: &Conn) -> Option<Packet> {
    if !conn.backlog.has_open() {
        return None;
    }
    with(|device| device.streams.tx.take_open(&conn.backlog)).flatten()
}

/// Whether so much waits to be sent that all writers have to wait; `conn`'s, if so, is woken when they need
/// not.
pub(super) fn streams_are_full(conn: &Conn) -> bool {
    if !with(|device| device.streams.tx.is_full()).unwrap_or(false) {
        return false;
    }
    conn.backlog.refuse();
    // Those that were refused before it was full no longer are woken.
    with(|device| device.streams.tx.is_full_still()).unwrap_or(false)
}

/// Whether so many datagrams wait to be sent that more have to wait for them.
pub(super) fn datagrams_are_full() -> bool {
    with(|device| device.datagrams.tx.is_full()).unwrap_or(false)
}

/// The same, for one who waits to be told of room.
pub(super) fn datagrams_are_full_still() -> bool {
    with(|device| device.datagrams.tx.is_full_still()).unwrap_or(false)
}

/// Sends `packet`. Does not sleep.
///
/// # Errors
///
/// `ENODEV` if there is no device.
pub(super) fn send(packet: Packet) -> Result {
    let device = running().ok_or(ENODEV)?;
    device.send(packet)
}

/// Sends the datagram `packet`. Does not sleep.
///
/// # Errors
///
/// `ENODEV` if there is no device, or none for datagrams.
pub(super) fn send_datagram(packet: Packet) -> Result {
    let device = running().ok_or(ENODEV)?;
    device.datagrams.send(&device, packet)
}

/// Answers `header`'s packet by RST, if there is a device. Does not sleep.
pub(super) fn refuse(header: &Header) {
    if let Some(device) = running() {
        device.refuse(header);
    }
}

impl Vsock {
    pub(super) fn new(profile: Profile, dev: &virtio::Device<Core<'_>>) -> Result<Arc<Self>> {
        let features = dev.features();
        let dev: ARef<virtio::Device> = dev.into();
        let table = table::all().ok_or(ENODEV)?;
        let ports = dgram::ports().ok_or(ENODEV)?;
        Arc::pin_init(
            try_pin_init!(Self {
                table,
                ports,
                profile,
                features,
                dev,
                cid: Atomic::new(CID_ANY),
                leaving: AtomicFlag::new(false),
                streams <- new_pair!(streams, |device: &Vsock| device.requests.has_room(), route::route, Self::streams_have_room),
                datagrams <- new_pair!(datagrams, |_: &Vsock| true, dgram::receive, Self::datagrams_have_room),
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

    /// The ports of datagram sockets.
    pub(super) fn ports(&self) -> &Ports {
        &self.ports
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
        queue::control(&reply, None, Cause::Reply, GFP_ATOMIC).ok()
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
            self.refuse_request(&request);
        }
    }

    /// Answers `request` by RST, if it is for this machine: an RST would bear our CID (C1), and to the sender
    /// of another it would be about another connection, maybe one that lives.
    pub(super) fn refuse_request(self: &Arc<Self>, request: &Header) {
        if request.dst_cid == u64::from(self.cid()) {
            self.refuse(request);
        } else {
            STATS.count(Counter::BadAddress);
        }
    }

    /// There is room for requests again.
    pub(super) fn receive_again(self: &Arc<Self>) {
        if self.streams.rx.is_running() {
            self.streams.rx_work.queue(self, Where::Bh);
        }
    }

    /// Drops the packets of `conn` that wait to be sent; returns whether there were any. Does not sleep.
    pub(super) fn withdraw(&self, conn: &Arc<Conn>) -> bool {
        self.streams.tx.withdraw(&**conn)
    }

    /// Writers may go on that had to wait, as too much did.
    fn streams_have_room(&self) {
        self.table.for_each(|conn| conn.tell_of_room());
    }

    /// The same for datagrams.
    fn datagrams_have_room(&self) {
        self.ports.tell_of_room();
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
        // What the host told before it made these requests comes first (C5).
        if self.handle_events() {
            self.event_work.queue(&self, Where::Unbound);
        }
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
        if self.handle_events() {
            self.event_work.queue(&self, Where::Unbound);
        }
    }

    /// Handles the events that there are; returns whether there are, or may be, more. Sleeps.
    ///
    /// They are handled when this returns, whoever does it: nobody passes the lock meanwhile.
    fn handle_events(&self) -> bool {
        let config = self.config.lock();
        let taken = self.events.take();
        if taken.reset {
            self.transport_reset(config.as_ref());
        }
        // Some hosts wait for this before they let new connections in (C5).
        self.events.give_back();
        taken.more
    }

    /// Whether this machine has become `cid` without being told: some hosts restore a guest so. Sleeps.
    pub(super) fn has_become(&self, cid: u32) -> bool {
        let config = self.config.lock();
        let is = config.as_ref().map(read_guest_cid);
        if cid != self.cid() && is == Some(Ok(cid)) {
            self.transport_reset(config.as_ref());
        }
        cid == self.cid()
    }

    /// The host has lost all connections, and we may have become another machine (C5). Sleeps.
    ///
    /// The connections end before `guest_cid` is read, which some hosts take for the word that they have. What
    /// was begun since then with the old CID has to end too, and its peer is told.
    fn transport_reset(&self, config: Option<&ConfigSpace>) {
        let before = self.cid();
        self.drop_connections(false);
        if let Some(Ok(cid)) = config.map(read_guest_cid) {
            if cid != before {
                self.cid.store(cid, Relaxed);
                self.drop_connections(true);
                self.rebind(before);
            }
        }
        if net_ratelimit() {
            pr_info!(
                "the host has reset its connections; guest CID {}\n",
                self.cid()
            );
        }
    }

    fn drop_connections(&self, tell_peers: bool) {
        self.streams.tx.purge(|_| true);
        self.datagrams.tx.purge(|_| true);
        self.table.for_each(|conn| conn.lost(tell_peers));
    }

    /// Has the datagram sockets that are bound to another CID follow this machine's, which was `before`.
    fn rebind(&self, before: u32) {
        let cid = self.cid();
        if before != cid && before != CID_ANY && net_ratelimit() {
            pr_info!("guest CID was {before}, is {cid}\n");
        }
        self.ports.rebind(cid);
    }

    /// Where framing was lost, only a reset helps (M2). Does not sleep.
    pub(super) fn restart_later(self: &Arc<Self>) {
        self.restart_work
            .queue_in(self, msecs_to_jiffies(RESTART_DELAY));
    }

    /// Resets the device and starts it again. Sleeps.
    fn restart(self: Arc<Self>) {
        let done = virtio::Adapter::<Driver>::restart(&self.dev, |bound| {
            // It may have stopped meanwhile, or be another one's device.
            core::ptr::eq(&raw const **bound, &raw const *self)
                && with(|device| core::ptr::eq(device, &raw const *self)).unwrap_or(false)
        });
        if net_ratelimit() {
            pr_warn!("the device has lost count of its receive buffers, and was reset: {done:?}\n");
        }
    }

    /// Whether SOCK_DGRAM is ours.
    pub(super) fn has_registered_datagrams(&self) -> bool {
        self.registration.lock().is_some()
    }

    /// SOCK_DGRAM exists no longer. Sleeps.
    pub(super) fn unregister_datagrams(&self) {
        drop(self.registration.lock().take());
    }

    /// Makes SOCK_DGRAM exist, if the device has datagrams (D9). Sleeps.
    ///
    /// Whether or not it can, streams work.
    pub(super) fn register_datagrams(&self) {
        if !self.profile.dgram {
            return;
        }
        match vsock::Registration::new(&dgram::virtio_dgram_transport, vsock::Role::Datagrams) {
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
}

/// Our own CID, as the device says now. May sleep.
///
/// # Errors
///
/// `EINVAL` if it is one that no machine can have; `EIO` and others if it cannot be read.
pub(super) fn read_guest_cid(config: &ConfigSpace) -> Result<u32> {
    let guest_cid = config.read_u64(0)?;
    Config { guest_cid }.cid().map_err(|cid| {
        if net_ratelimit() {
            pr_err!("the device gives this machine CID {cid}, which is reserved\n");
        }
        EINVAL
    })
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
