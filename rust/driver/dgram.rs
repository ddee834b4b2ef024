// SPDX-License-Identifier: GPL-2.0

//! Datagrams: sockets without connections, on queues of their own, or on those of connections, as the link knows.
//!
//! A datagram is sent at once or waits for the device, charged to its socket's send buffer (D3). One
//! that was received is offered to the socket at its port, or refused (D4, D6); no socket waits for
//! another. Ports are a space of our own (D5). A socket outlives the device: without one it sends
//! nothing (ENODEV), and goes on with the next.

use super::{
    hash_table::{
        self,
        HashTable, //
    },
    link::{
        self,
        Link, //
    },
    queue::{
        self,
        Payload, //
    },
    trace::{
        self,
        Why, //
    },
};
use crate::{
    ext::{
        error::NetError,
        net::{
            msg::Msg,
            skbuff::SkBuff,
            vsock::{
                declare_vsock_transport,
                may_bind_reserved_port,
                random,
                Addr,
                Datagrams,
                NewSock,
                OwnedSock,
                Releasing,
                Sending,
                Serves,
                UserOwned,
                VsockSock,
                WeakSock,
                CID_ANY, //
            }, //
        },
        sync::{
            new_spinlock_bh,
            Kept,
            RcuArc,
            SpinLockBh, //
        }, //
    },
    proto::{
        self,
        mix,
        Candidates,
        Datagram,
        DGRAM_MAX,
        LAST_RESERVED_PORT,
        PORT_ANY, //
    },
    wire::{
        Address,
        Header,
        Op,
        SocketType, //
    }, //
};
use kernel::{
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        ArcBorrow, //
    }, //
};

/// Datagrams through the virtio socket device.
pub(super) struct DatagramTransport;

declare_vsock_transport! {
    /// Registered while the device has datagrams.
    virtio_dgram_transport: datagrams::<DatagramTransport>
}

/// What we keep for a datagram socket.
pub(super) struct DgramSock {
    sk: WeakSock,
    ports: Arc<Ports>,
}

/// A port of datagram sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Port(u32);

impl hash_table::Key for Port {
    fn mixed(&self, seed: u64) -> u64 {
        mix(seed ^ u64::from(self.0))
    }
}

/// The ports, while the module is loaded.
static PORTS: RcuArc<Ports> = RcuArc::new();

/// The ports; none when the module is being unloaded.
pub(super) fn ports() -> Option<Arc<Ports>> {
    PORTS.load()
}

/// Tells senders of room that had to wait, as too much waited of all.
///
/// # Context
///
/// Does not sleep; may let a socket go.
pub(super) fn tell_of_room() {
    let Some(ports) = ports() else {
        return;
    };
    ports.bound.for_each(|sock| {
        if let Some(sk) = sock.sk.upgrade() {
            sk.write_space();
        }
    });
}

/// The ports that datagram sockets are bound to.
#[pin_data]
pub(super) struct Ports {
    #[pin]
    bound: HashTable<Port, DgramSock>,
    /// Where to look for a port that is free.
    #[pin]
    next: SpinLockBh<u32>,
}

impl Ports {
    /// Makes [`ports`] find ports that no socket is bound to, for as long as what is returned is kept.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(super) fn keep() -> Result<Kept<Self>> {
        let ports = Arc::pin_init(
            pin_init!(Self {
                bound <- HashTable::new(),
                next <- new_spinlock_bh!(random(), "Ports::next"),
            }),
            GFP_KERNEL,
        )?;
        Ok(PORTS.keep(ports))
    }

    /// Binds `sock` to `port`, or to one that is free (D5).
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Ports::next`.
    ///
    /// # Errors
    ///
    /// - `EACCES`: the port is reserved.
    /// - `EADDRINUSE`: it is taken.
    /// - `EADDRNOTAVAIL`: none was found that is free.
    /// - `ENOMEM`: no memory.
    fn bind(&self, port: u32, sock: &Arc<DgramSock>) -> Result<u32> {
        if port != PORT_ANY {
            if port <= LAST_RESERVED_PORT && !may_bind_reserved_port() {
                return Err(EACCES);
            }
            return self.bound.insert(Port(port), sock).map(|()| port);
        }
        let mut next = self.next.lock();
        for port in Candidates::new(*next, random()) {
            // Taken or not, the next search need not try it again.
            *next = port.wrapping_add(1);
            match self.bound.insert(Port(port), sock) {
                Ok(()) => return Ok(port),
                Err(error) if error == NetError::AddrInUse.into() => {}
                Err(error) => return Err(error),
            }
        }
        Err(NetError::AddrNotAvail.into())
    }

    /// Has sockets that were bound to the CID that this machine had before answer on `cid` (C5).
    ///
    /// # Context
    ///
    /// Does not sleep; takes the spinlock of the socket's lock.
    pub(super) fn rebind(&self, cid: u32) {
        self.bound.for_each(|sock| {
            // Without memory for a note the socket tells the old one; it works on the new.
            let _ = sock.sk.own_or_defer(|sk| sk.rebind_cid(cid));
        });
    }
}

impl Serves for DatagramTransport {
    type Socket = DgramSock;

    fn init(
        sk: &NewSock<'_>,
        way: WeakSock,
        _listener: Option<&VsockSock>,
    ) -> Result<Arc<DgramSock>> {
        sk.account_memory();
        let ports = ports().ok_or(ENODEV)?;
        Ok(Arc::new(DgramSock { sk: way, ports }, GFP_KERNEL)?)
    }

    fn destruct(_sock: Arc<DgramSock>) {}

    fn release(sock: ArcBorrow<'_, DgramSock>, sk: Releasing<'_>) {
        let port = Port(sk.local_addr().port);
        sock.ports.bound.remove(port, &sock.into());
        sk.remove_from_tables();
    }

    fn deferred(_sock: ArcBorrow<'_, DgramSock>, sk: &OwnedSock<'_>) {
        // The only news is that of `Ports::rebind`.
        let cid = link::guest_cid();
        if cid != CID_ANY {
            sk.rebind_cid(cid);
        }
    }

    fn local_cid() -> u32 {
        link::guest_cid()
    }

    fn has_remote_cid(_cid: u32) -> bool {
        true
    }
}

impl Datagrams for DatagramTransport {
    fn bind(sock: ArcBorrow<'_, DgramSock>, sk: &UserOwned<'_>, addr: Addr) -> Result {
        // af_vsock has seen that it is a CID of this machine; it may be one of another transport.
        if !sk.is_global() || (addr.cid != CID_ANY && addr.cid != link::guest_cid()) {
            return Err(NetError::AddrNotAvail.into());
        }
        let port = sock.ports.bind(addr.port, &sock.into())?;
        sk.set_local_addr(Addr {
            cid: addr.cid,
            port,
        });
        Ok(())
    }

    fn allow(sk: &VsockSock, remote: Addr) -> bool {
        sk.is_global() && proto::is_destination(remote.cid, link::guest_cid())
    }

    fn enqueue(
        _sock: ArcBorrow<'_, DgramSock>,
        mut sk: Sending<'_>,
        to: Addr,
        msg: &mut Msg,
        len: usize,
    ) -> Result {
        if len > DGRAM_MAX {
            return Err(NetError::MsgSize.into());
        }
        if !link::serves(SocketType::Dgram) {
            return Err(ENODEV);
        }
        // The buffers of sockets that were closed hold memory still (K5).
        if link::with(Link::is_full_of_datagrams) == Some(true) {
            sk = sk.wait_until(msg, || {
                link::with(Link::is_full_of_datagrams_still) != Some(true)
            })?;
        }
        if sk.sndbuf_is_full() {
            // What the device has taken makes room at once, and what it takes from now on, when it
            // does.
            if let Some(link) = link::running() {
                link.ask_for_datagrams();
            }
        }
        let bytes = u32::try_from(len).map_err(|_| NetError::MsgSize)?;
        // The CID, like the device, may be another after the waiting.
        let header = |sk: &UserOwned<'_>| Header {
            len: bytes,
            ..Header::new(
                Address {
                    cid: link::guest_cid(),
                    port: sk.local_addr().port,
                },
                Address {
                    cid: to.cid,
                    port: to.port,
                },
                SocketType::Dgram,
                Op::Rw,
            )
        };
        // Hosts of streams' queues want what is behind the header in one piece (G9).
        let whole = link::with(|link| link.profile.shares_queues()).unwrap_or(false);
        let packet = queue::datagram(header, sk, msg, len, whole)?;
        link::running().ok_or(ENODEV)?.send_datagram(packet)
    }
}

/// Gives the socket that it is for a packet that brings a datagram.
///
/// # Context
///
/// Does not sleep; takes `Tx::inner`.
pub(super) fn receive(link: &Arc<Link>, ports: &Ports, header: &Header, payload: &mut Payload) {
    match proto::datagram(header, link.cid(), &link.profile) {
        // It is counted already, and what remains of it is for no socket (M2).
        _ if payload.is_damaged() => {}
        Datagram::Payload { from, port } => {
            let Some(sk) = find(ports, from, port) else {
                link.refuse_datagram(header);
                return;
            };
            if !deliver(&sk, from, payload) {
                trace::dropped(header, Why::NoRoom);
            }
        }
        Datagram::Refused { by, port } => {
            // Only a connected socket is told: another would not know what of.
            if let Some(sk) = find(ports, by, port).filter(|sk| sk.datagram_peer().is_some()) {
                sk.report_error(NetError::ConnRefused.into());
            }
        }
        Datagram::BadAddress => trace::dropped(header, Why::BadAddress),
        Datagram::BadOp => trace::dropped(header, Why::BadOp),
    }
}

/// The socket at `port`, if it wants to hear from `from`.
///
/// # Context
///
/// Does not sleep; may let a socket go.
fn find(ports: &Ports, from: Address, port: u32) -> Option<ARef<VsockSock>> {
    let sock = ports.bound.find(Port(port))?;
    let sk = sock.sk.upgrade()?;
    let peer = sk.datagram_peer().map(|peer| Address {
        cid: peer.cid,
        port: peer.port,
    });
    proto::takes(peer, from).then_some(sk)
}

/// Offers a datagram to a socket; false if it is dropped (D4).
///
/// # Context
///
/// Does not sleep.
fn deliver(sk: &VsockSock, from: Address, payload: &mut Payload) -> bool {
    if sk.is_shut_for_receiving() {
        return false;
    }
    let Ok(skb) = buffer(payload) else {
        sk.count_drop();
        return false;
    };
    sk.queue_datagram(
        skb,
        Addr {
            cid: from.cid,
            port: from.port,
        },
    )
}

/// The payload as a buffer of its own: its pages, where it fills them well, or else a copy.
///
/// # Context
///
/// Does not sleep.
///
/// # Errors
///
/// `ENOMEM`, `ENOBUFS`: no memory.
fn buffer(payload: &mut Payload) -> Result<SkBuff> {
    let len = payload.len();
    if payload.fits_pages() && len.saturating_mul(2) >= payload.memory() {
        let mut skb = payload.take_spare_skb()?;
        return if payload.move_to(&mut skb) {
            Ok(skb)
        } else {
            Err(ENOMEM)
        };
    }
    SkBuff::alloc_paged(len, GFP_ATOMIC, (), |skb| {
        payload.try_for_each(|block, offset, len| skb.put_block(block, offset, len))
    })
}
