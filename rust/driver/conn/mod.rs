// SPDX-License-Identifier: GPL-2.0

//! A socket's connection: its state, its credit, and what it has received.
//!
//! The rules, an [`Endpoint`], and what was received, an [`Inbox`], stand under one spinlock of ours, in whatever
//! context a packet comes. What struct sock must say is noted there, and written by the socket's owner: by us, if
//! no user call owns the socket, or by the user call that does, when it ends. So a user call that sleeps
//! with the socket locked holds up itself alone.

mod connect;
mod decided;
mod inbox;
mod publish;
mod receive;
mod send;
mod show;
mod table;
#[cfg(CONFIG_KUNIT = "y")]
mod testing;
mod unread;

pub(super) use self::table::{
    all,
    tell_of_room,
    Connections,
    Key, //
};

use self::{
    decided::Decided,
    inbox::Inbox,
    publish::News, //
};
use crate::{
    driver::{
        link,
        queue::{
            self,
            Backlog,
            Cause,
            Sender, //
        }, //
    },
    ext::{
        net::vsock::{
            Addr,
            VsockSock,
            WeakSock, //
        },
        sync::{
            new_spinlock_bh,
            SpinLockBh, //
        },
        time::monotonic_ms, //
    },
    proto::{
        Actions,
        Advertised,
        Control,
        Endpoint,
        Time, //
    },
    wire::{
        Address,
        Header,
        Op,
        SocketType, //
    }, //
};
use kernel::{
    alloc::Flags,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            AtomicFlag,
            Full,
            Relaxed, //
        },
        Arc, //
    }, //
};

/// The connection of a socket that this driver serves.
#[pin_data]
pub(super) struct Conn {
    sk: WeakSock,
    ty: SocketType,
    /// A credit update waits for room in the transmit queue, and will tell the newest.
    update_waits: AtomicFlag,
    /// A packet was lost on its way to the device, and the connection is to end.
    has_gap: AtomicFlag,
    /// A message of which a part was sent waits for the credit for its rest.
    is_within_message: AtomicFlag,
    /// Packets of the peer's that were dropped.
    dropped: Atomic<u32>,
    table: Arc<Connections>,
    /// What waits for room in the transmit queue.
    #[pin]
    backlog: Backlog,
    #[pin]
    inner: SpinLockBh<Inner>,
}

/// What the connection's lock guards: nothing of it sleeps.
struct Inner {
    /// All that the rules know of it.
    end: Endpoint,
    inbox: Inbox,
    /// Where the connection is to be found; none unless it is in the table.
    key: Option<Key>,
    /// Who we are to the peer, and who the peer is.
    local_port: u32,
    peer: Addr,
    /// What struct sock must still say.
    news: News,
    /// How many are carrying out the end of a connection: until they are done, no other begins.
    ending: u32,
    /// It is in the list of those that are to be tried again, before the next one.
    is_listed: bool,
    next_listed: Option<Arc<Conn>>,
    /// A socket that was released is kept until the peer has answered, or the time is over (C4).
    released: Option<ARef<VsockSock>>,
}

impl Inner {
    /// Who we are to the peer, and who the peer is.
    fn addresses(&self) -> Key {
        Key {
            peer: self.peer,
            local_port: self.local_port,
        }
    }
}

/// The time, as the rules know it.
fn now() -> Time {
    Time::from_millis(monotonic_ms())
}

impl Conn {
    /// The connection of a new socket, to which `sk` is the way, not connected to anything.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(super) fn new(
        sk: WeakSock,
        ty: SocketType,
        buf_alloc: u32,
        table: Arc<Connections>,
    ) -> Result<Arc<Self>> {
        let end = Endpoint::new(ty, buf_alloc);
        Arc::pin_init(
            pin_init!(Self {
                sk,
                ty,
                update_waits: AtomicFlag::new(false),
                has_gap: AtomicFlag::new(false),
                is_within_message: AtomicFlag::new(false),
                dropped: Atomic::new(0),
                table,
                backlog <- Backlog::new(buf_alloc),
                inner <- new_spinlock_bh!(
                    Inner {
                        end,
                        inbox: Inbox::new(),
                        key: None,
                        local_port: 0,
                        peer: Addr { cid: 0, port: 0 },
                        news: News::default(),
                        ending: 0,
                        is_listed: false,
                        next_listed: None,
                        released: None,
                    },
                    "Conn::inner"
                ),
            }),
            GFP_KERNEL,
        )
    }

    /// The type of the socket.
    pub(super) fn socket_type(&self) -> SocketType {
        self.ty
    }

    /// A header of a packet to the peer; the fields that speak of credit are filled in when it is sent.
    fn header(&self, own_cid: u32, inner: &Inner, op: Op, flags: u32) -> Header {
        let src = Address {
            cid: own_cid,
            port: inner.local_port,
        };
        let dst = Address {
            cid: inner.peer.cid,
            port: inner.peer.port,
        };
        Header {
            flags,
            ..Header::new(src, dst, self.ty, op)
        }
    }

    /// Takes itself out of the table, if it is there.
    ///
    /// # Context
    ///
    /// Called under `Conn::inner`; takes a bucket's lock.
    fn unlink(self: &Arc<Self>, inner: &mut Inner) {
        if let Some(key) = inner.key.take() {
            self.table.remove(key, self);
        }
    }

    /// Has the rules decide, and notes what follows from it at once. The rest is to be [carried
    /// out](Self::carry_out), and [published](Self::publish_or_defer).
    ///
    /// The table is left under the same lock: afterwards the socket may connect anew.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Conn::inner`. It calls `decision` under it.
    fn decide(self: &Arc<Self>, decision: impl FnOnce(&mut Inner) -> Actions) -> Decided<'_> {
        // There may be many buffers: they are freed without the lock.
        let mut dropped = None;
        let mut inner = self.inner.lock();
        let actions = decision(&mut inner);
        if actions.unlink {
            self.unlink(&mut inner);
        }
        if !actions.silent {
            inner.news.note(&actions);
        }
        if actions.drop_unread {
            dropped = Some(core::mem::replace(&mut inner.inbox, Inbox::new()));
        }
        let decided = Decided::new(self, &mut inner, actions);
        drop(inner);
        drop(dropped);
        decided
    }

    /// Carries out what [`decide`](Self::decide) returned, but for what struct sock must say.
    ///
    /// When the connection is over, what waits of it is dropped: between the same ports there may soon be
    /// another.
    ///
    /// # Context
    ///
    /// Sleeps if `gfp` allows it; takes `Tx::inner`, and may let sockets go.
    ///
    /// # Errors
    ///
    /// What became of [`Actions::send`], as [`send`](Self::send).
    fn carry_out(self: &Arc<Self>, actions: &Actions, gfp: Flags) -> Result {
        if actions.done {
            self.withdraw();
        }
        let mut sent = Ok(());
        for packet in actions.packets() {
            let result = self.send(packet, gfp);
            if actions.send == Some(packet) {
                sent = result;
            }
        }
        if actions.wake_reader || actions.wake_writer {
            if let Some(sk) = self.sk.upgrade() {
                if actions.wake_reader {
                    sk.data_ready();
                }
                if actions.wake_writer {
                    sk.write_space();
                }
            }
        }
        if actions.catch_up_soon {
            self.table.try_later(self);
        }
        if actions.start_timer {
            self.table.look_again();
        }
        sent
    }

    /// Has the rules decide, and carries that out, where the socket is not owned by us.
    ///
    /// # Context
    ///
    /// Does not sleep; takes the spinlock of the socket's lock, and may let sockets go.
    fn act(self: &Arc<Self>, decision: impl FnOnce(&mut Inner) -> Actions) {
        let actions = self.decide(decision);
        // What it could not send is owed, or no peer is left to be told.
        let _ = self.carry_out(&actions, GFP_ATOMIC);
        self.publish_if_new(&actions);
    }

    /// Takes back the packets that the device has not yet seen; returns whether there were any.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`, and may let sockets go.
    fn withdraw(self: &Arc<Self>) -> bool {
        match link::running() {
            Some(link) => link.withdraw(&**self),
            None => self.backlog.take_open().is_some(),
        }
    }

    /// Sends a control packet.
    ///
    /// # Context
    ///
    /// Sleeps if `gfp` allows it; takes `Tx::inner`.
    ///
    /// # Errors
    ///
    /// - `ENODEV`: there is no device.
    /// - `ENOMEM`: no memory; it is sent later, unless it is the REQUEST.
    fn send(self: &Arc<Self>, what: Control, gfp: Flags) -> Result {
        let is_update = what == Control::CreditUpdate;
        if is_update && self.update_waits.xchg(true, Full) {
            return Ok(());
        }
        let result = self.send_now(what, gfp);
        let Err(error) = result else {
            return result;
        };
        if is_update {
            self.update_left();
        }
        if (error == ENOMEM || matches!(what, Control::Request | Control::CreditRequest))
            && self.decide(|inner| inner.end.on_unsent(what)).catch_up_soon
        {
            self.table.try_later(self);
        }
        result
    }

    /// Makes a control packet, and sends it, unless the rules hold it back.
    ///
    /// # Context
    ///
    /// Sleeps if `gfp` allows it; takes `Tx::inner`.
    ///
    /// # Errors
    ///
    /// - `ENODEV`: there is no device.
    /// - `ENOMEM`: no memory.
    fn send_now(self: &Arc<Self>, what: Control, gfp: Flags) -> Result {
        let link = link::running().ok_or(ENODEV)?;
        let (op, flags, cause) = match what {
            Control::Request => (Op::Request, 0, Cause::Call),
            Control::Rst => (Op::Rst, 0, Cause::Last),
            Control::Shutdown(flags) => (Op::Shutdown, flags.as_raw(), Cause::Call),
            Control::CreditUpdate => (Op::CreditUpdate, 0, Cause::CreditUpdate),
            Control::CreditRequest => (Op::CreditRequest, 0, Cause::Call),
        };
        let header = {
            let inner = self.inner.lock();
            inner
                .end
                .may_send_control(what, || self.is_replaced(inner.key, inner.addresses()))
                .then(|| self.header(link.cid(), &inner, op, flags))
        };
        let Some(header) = header else {
            if what == Control::CreditUpdate {
                self.update_left();
            }
            return Ok(());
        };
        link.send(queue::control(&header, Some(self.clone()), cause, gfp)?)
    }

    /// Whether there is another connection between the addresses of this one, which has left the table.
    ///
    /// # Context
    ///
    /// Does not sleep; takes a bucket's lock.
    fn is_replaced(&self, key: Option<Key>, addresses: Key) -> bool {
        key.is_none() && self.table.find(addresses).is_some()
    }

    /// Does what could not be done at its time: sends what is owed, publishes what is new, and has a verdict,
    /// if there is one, take what waits.
    ///
    /// # Context
    ///
    /// Does not sleep; takes the spinlock of the socket's lock, and may let sockets go.
    fn catch_up(self: &Arc<Self>) {
        self.send_open();
        self.publish_or_defer();
        let actions = self.decide(|inner| inner.end.catch_up());
        let _ = self.carry_out(&actions, GFP_ATOMIC);
        let unread = self.inner.lock().end.unread() > 0;
        if let Some(sk) = self.sk.upgrade().filter(|sk| unread && sk.has_verdict()) {
            sk.data_ready();
        }
    }

    /// Ends what its time is over for: see [`Endpoint::on_timeout`].
    ///
    /// # Context
    ///
    /// Does not sleep; takes the spinlock of the socket's lock, and may let sockets go.
    fn tick(self: &Arc<Self>) {
        self.act(|inner| inner.end.on_timeout(now()));
    }

    /// Puts itself at the front of a list, unless it is in it; returns whether it is alone there.
    ///
    /// # Context
    ///
    /// Called under `Connections::unsettled`; does not sleep, and takes `Conn::inner`.
    fn enlist(self: &Arc<Self>, first: &mut Option<Arc<Self>>) -> bool {
        let mut inner = self.inner.lock();
        if inner.is_listed {
            return false;
        }
        inner.is_listed = true;
        inner.next_listed = first.replace(self.clone());
        inner.next_listed.is_none()
    }

    /// Leaves the list, at whose front it was; returns the rest.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Conn::inner`.
    fn delist(&self) -> Option<Arc<Self>> {
        let mut inner = self.inner.lock();
        inner.is_listed = false;
        inner.next_listed.take()
    }

    /// Sets the size of our buffer and tells the peer.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(super) fn set_buf_alloc(self: &Arc<Self>, buf_alloc: u32) {
        let mut actions = self.decide(|inner| inner.end.set_buf_alloc(buf_alloc));
        actions.wake_writer |= self.backlog.set_buf_alloc(buf_alloc);
        let _ = self.carry_out(&actions, GFP_KERNEL);
    }
}

impl Sender for Conn {
    fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    fn advertise(&self, last: bool) -> Option<Advertised> {
        // Relaxed: noted under `Tx::inner`, which the caller holds.
        if self.has_gap.load(Relaxed) && !last {
            return None;
        }
        let mut inner = self.inner.lock();
        let (key, addresses) = (inner.key, inner.addresses());
        inner
            .end
            .advertise(last, || self.is_replaced(key, addresses))
    }

    fn taken(&self) {
        self.tell_of_room();
        // Relaxed: who drops the packet that was lost has noted it.
        if self.has_gap.load(Relaxed) {
            self.end_at_gap();
        }
    }

    fn begin_gap(&self) {
        self.has_gap.store(true, Relaxed);
    }

    fn update_left(&self) {
        // Relaxed: what a reader takes before this is told, as `advertise()` then finds it under the lock; if it is
        // taken after, the reader sees this, by the same lock.
        self.update_waits.store(false, Relaxed);
    }
}
