// SPDX-License-Identifier: GPL-2.0

//! The way out: who this machine is, what its device offers, and the queues that packets leave by.
//!
//! Whoever sends needs no more than this; socket calls find it by RCU, as it may go at any time. It knows no
//! connection: those are above it.

mod datagrams;
mod outbox;

use self::outbox::{
    new_outbox,
    Outbox, //
};
use super::{
    queue::{
        self,
        Backlog,
        Cause,
        Crowd,
        Open,
        Packet,
        Packets,
        Rx,
        Sender,
        Whose, //
    },
    trace::{
        self,
        Why, //
    },
};
use crate::{
    ext::{
        net::{
            msg::Msg,
            vsock::CID_ANY, //
        },
        sync::RcuArc,
        work::{
            new_delayed_work,
            new_work, //
        }, //
    },
    proto::{
        reset_reply,
        Profile, //
    },
    wire::{
        Header,
        SocketType, //
    }, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            AtomicFlag,
            Relaxed, //
        },
        Arc, //
    }, //
};

/// The way out through the device that runs, if there is one.
static LINK: RcuArc<Link> = RcuArc::new();

/// The way out through a virtio socket device.
#[pin_data]
pub(super) struct Link {
    pub(super) profile: Profile,
    /// Our own CID.
    cid: Atomic<u32>,
    /// The device is about to go: no connection begins any more.
    leaving: AtomicFlag,
    /// For the packets of connections.
    #[pin]
    pub(super) streams: Outbox,
    /// For datagrams, where they have queues of their own.
    #[pin]
    pub(super) datagrams: Outbox,
    /// Who sends datagrams where they have none (G8).
    crowd: Option<Arc<Crowd>>,
}

/// The way out, if there is one.
///
/// # Context
///
/// Does not sleep.
pub(super) fn running() -> Option<Arc<Link>> {
    LINK.load()
}

/// Calls `f` with the way out, if there is one.
///
/// # Context
///
/// Does not sleep, nor may `f`.
pub(super) fn with<R>(f: impl FnOnce(&Link) -> R) -> Option<R> {
    LINK.with(f)
}

/// Our own CID, or [`CID_ANY`] if there is no device.
pub(super) fn guest_cid() -> u32 {
    with(Link::cid).unwrap_or(CID_ANY)
}

/// Whether connections may begin: there is a device, and it is not about to go.
pub(super) fn takes_connections() -> bool {
    with(|link| !link.is_leaving()).unwrap_or(false)
}

/// Whether sockets of type `ty` work: there is a device, and it has said so.
pub(super) fn serves(ty: SocketType) -> bool {
    with(|link| link.serves(ty)).unwrap_or(false)
}

/// Whether there is a device for which sockets of type `ty` do not work.
pub(super) fn lacks(ty: SocketType) -> bool {
    with(|link| !link.serves(ty)).unwrap_or(false)
}

/// Answers `header`'s packet by RST, if there is a device.
///
/// # Context
///
/// Does not sleep; takes `Tx::inner`.
pub(super) fn refuse(header: &Header) {
    if let Some(link) = running() {
        link.refuse(header);
    }
}

impl Link {
    /// The way out through a device that is `profile`, whose receive queues are `streams` and `datagrams`.
    /// The functions tell writers of room that had to wait.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(super) fn new(
        profile: Profile,
        (streams, streams_have_room): (Arc<Rx>, fn()),
        (datagrams, datagrams_have_room): (Arc<Rx>, fn()),
    ) -> Result<Arc<Self>> {
        let crowd = profile.shares_queues().then(Crowd::new).transpose()?;
        Arc::pin_init(
            pin_init!(Self {
                profile,
                cid: Atomic::new(CID_ANY),
                leaving: AtomicFlag::new(false),
                streams <- new_outbox!(streams, true, streams, streams_have_room),
                datagrams <- new_outbox!(datagrams, false, datagrams, datagrams_have_room),
                crowd,
            }),
            GFP_KERNEL,
        )
    }

    /// Has socket calls find it.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(super) fn publish(self: &Arc<Self>) {
        drop(LINK.replace(Some(self.clone())));
    }

    /// Has socket calls find none any more.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(super) fn unpublish() {
        drop(LINK.replace(None));
    }

    /// Our own CID.
    pub(super) fn cid(&self) -> u32 {
        // Relaxed: a number by itself; a packet with an old one is one that was sent before.
        self.cid.load(Relaxed)
    }

    /// Sets our own CID; returns what it was.
    pub(super) fn set_cid(&self, cid: u32) -> u32 {
        self.cid.xchg(cid, Relaxed)
    }

    /// Whether the device is about to go, and no connection begins any more.
    pub(super) fn is_leaving(&self) -> bool {
        // Relaxed: it spares what begins late. What begins in spite of it, `stop()` finds when it has waited for
        // the works, and nothing can be sent any more.
        self.leaving.load(Relaxed)
    }

    /// Notes that the device is about to go, or goes on.
    pub(super) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Relaxed);
    }

    /// Whether sockets of type `ty` work.
    fn serves(&self, ty: SocketType) -> bool {
        self.profile.serves(ty)
    }

    /// Sends a packet of a connection, or an answer to one.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the queue does not run.
    pub(super) fn send(self: &Arc<Self>, packet: Packet) -> Result {
        self.send_all(Packets::from(packet))
    }

    /// Sends packets of a connection, of which the device is told once.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the queue does not run.
    pub(super) fn send_all(self: &Arc<Self>, packets: Packets) -> Result {
        self.streams.send(self, packets)
    }

    /// The RST that answers `header`'s packet, unless it is one itself (C2), or memory is lacking.
    ///
    /// # Context
    ///
    /// Does not sleep.
    fn refusal(&self, header: &Header) -> Option<Packet> {
        let Some(mut reply) = reset_reply(header) else {
            trace::dropped(header, Why::Stray);
            return None;
        };
        trace::dropped(header, Why::Refused);
        reply.src_cid = u64::from(self.cid());
        queue::control(&reply, None, Cause::Reply, GFP_ATOMIC).ok()
    }

    /// Answers `header`'s packet by RST. Without memory the peer has its time-out.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(super) fn refuse(self: &Arc<Self>, header: &Header) {
        if let Some(packet) = self.refusal(header) {
            let _ = self.send(packet);
        }
    }

    /// Answers `request` by RST, if it is for this machine: an RST would bear our CID (C1), and to the sender
    /// of another it would be about another connection, maybe one that lives.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(super) fn refuse_request(self: &Arc<Self>, request: &Header) {
        if request.dst_cid == u64::from(self.cid()) {
            self.refuse(request);
        } else {
            trace::dropped(request, Why::BadAddress);
        }
    }

    /// Whether what is left of `msg` can be sent from where it lies: the transmit queue can take it.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(super) fn can_pin(&self, msg: &Msg) -> bool {
        // The header takes a descriptor too.
        msg.can_be_pinned(self.streams.tx.size().saturating_sub(1))
    }

    /// Has `packet` wait for its connection's next writes, or sends it if there is nothing to wait for.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the queue does not run.
    pub(super) fn join(self: &Arc<Self>, packet: Open) -> Result {
        let afterwards = self.streams.tx.join(packet)?;
        self.streams.follow(self, afterwards);
        Ok(())
    }

    /// Sends the packet of `backlog` that small writes are put together in, if there is one.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(super) fn send_open(self: &Arc<Self>, backlog: &Backlog) {
        if backlog.has_open() {
            let afterwards = self.streams.tx.send_open(backlog);
            self.streams.follow(self, afterwards);
        }
    }

    /// Whether so much waits to be sent that all writers have to wait; if so, the writer of `backlog` is to
    /// be told when he need not.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(super) fn is_full_for(&self, backlog: &Backlog) -> bool {
        if !self.streams.tx.is_full(Whose::Connections) {
            return false;
        }
        backlog.note_refusal();
        // Writers that are noted before the queue ceases to be full are woken.
        self.streams.tx.is_full_still(Whose::Connections)
    }

    /// Drops the packets of `sender` that wait to be sent; returns whether there were any.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`, and may let sockets go.
    pub(super) fn withdraw(self: &Arc<Self>, sender: &dyn Sender) -> bool {
        let (some, afterwards) = self.streams.tx.withdraw(sender);
        self.streams.follow(self, afterwards);
        some
    }

    /// Drops all packets that wait to be sent.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`, and may let sockets go.
    pub(super) fn purge(self: &Arc<Self>) {
        for outbox in [&self.streams, &self.datagrams] {
            outbox.follow(self, outbox.tx.purge());
        }
    }
}
