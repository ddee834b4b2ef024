// SPDX-License-Identifier: GPL-2.0

//! A socket's connection: its state, its credit, and what it has received.
//!
//! The state machine of [`proto`](crate::proto) runs under a spinlock of ours, in whatever context a
//! packet comes. What af_vsock must be told is noted there, and told by the socket's owner: by us, if
//! nobody owns the socket, or by the user call that does, when it ends. So a user call that sleeps
//! with the socket locked holds up nobody but itself.

use super::{
    closing::Closing,
    data::Stored,
    device,
    inbox::Inbox,
    news::News,
    packet::{
        self,
        Kind, //
    },
    payload::Payload,
    stats::{
        Counter,
        STATS, //
    },
    table::{
        Connections,
        Key, //
    },
};
use crate::{
    ext::{
        net::vsock::{
            Addr,
            WeakSock, //
        },
        sync::{
            new_spinlock_bh,
            SpinLockBh, //
        }, //
    },
    proto::{
        Actions,
        Connection,
        Credit,
        Send,
        SockError,
        State, //
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
        atomic::{
            Atomic,
            AtomicFlag,
            Relaxed, //
        },
        Arc, //
    },
    time::{
        Instant,
        Monotonic, //
    }, //
};

/// The connection of a socket that this driver serves.
#[pin_data]
pub(crate) struct Conn {
    #[pin]
    pub(super) sk: WeakSock,
    ty: SocketType,
    /// Bytes that the device has not yet taken.
    unsent: Atomic<i64>,
    /// A credit update waits for room in the transmit queue, and will tell the newest.
    update_waits: AtomicFlag,
    pub(super) table: Arc<Connections>,
    #[pin]
    pub(super) inner: SpinLockBh<Inner>,
}

/// What the connection's lock guards.
pub(super) struct Inner {
    pub(super) state: Connection,
    pub(super) credit: Credit,
    pub(super) inbox: Inbox,
    /// Where the connection is to be found; none unless it is in the table.
    key: Option<Key>,
    /// Who we are to the peer, and who the peer is.
    local_port: u32,
    peer: Addr,
    pub(super) news: News,
    /// There was no memory for a credit update.
    update_owed: bool,
    /// It is in the list of those that could not tell their news, before the next one.
    untold: bool,
    next_untold: Option<Arc<Conn>>,
    /// A released socket, kept until the peer has answered or the time is over.
    pub(super) closing: Option<Closing>,
    /// When connect() last sent a REQUEST.
    pub(super) requested: Option<Instant<Monotonic>>,
    /// When connect() last gave up.
    pub(super) given_up: Option<Instant<Monotonic>>,
}

impl Inner {
    /// Who we are to the peer, and who the peer is.
    pub(super) fn addresses(&self) -> Key {
        Key {
            peer: self.peer,
            local_port: self.local_port,
        }
    }
}

impl AsRef<WeakSock> for Conn {
    fn as_ref(&self) -> &WeakSock {
        &self.sk
    }
}

impl Conn {
    /// The connection of a new socket, not connected to anything. May sleep.
    pub(super) fn new(
        ty: SocketType,
        buf_alloc: u32,
        table: Arc<Connections>,
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                sk <- WeakSock::new(),
                ty,
                unsent: Atomic::new(0),
                update_waits: AtomicFlag::new(false),
                table,
                inner <- new_spinlock_bh!(
                    Inner {
                        state: Connection::new(),
                        credit: Credit::new(buf_alloc),
                        inbox: Inbox::new(),
                        key: None,
                        local_port: 0,
                        peer: Addr { cid: 0, port: 0 },
                        news: News::default(),
                        update_owed: false,
                        untold: false,
                        next_untold: None,
                        closing: None,
                        requested: None,
                        given_up: None,
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

    /// A header of a packet to the peer; the source's CID is the device's to fill in.
    pub(super) fn header(&self, inner: &Inner, op: Op, flags: u32) -> Header {
        let src = Address {
            cid: device::guest_cid(),
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

    /// What packets say of our buffer; from now on the peer counts as told.
    pub(super) fn advertise(&self) -> (u32, u32) {
        self.inner.lock().credit.rx.advertise()
    }

    pub(super) fn given_to_device(&self, bytes: u32) {
        self.unsent.add(i64::from(bytes), Relaxed);
    }

    pub(super) fn taken_by_device(&self, bytes: u32) {
        self.unsent.add(-i64::from(bytes), Relaxed);
    }

    /// The number of bytes that the device has not yet taken.
    pub(super) fn unsent(&self) -> usize {
        usize::try_from(self.unsent.load(Relaxed)).unwrap_or(0)
    }

    /// The number of bytes to read.
    pub(super) fn readable(self: &Arc<Self>) -> u32 {
        self.unless_withheld(|inner| inner.credit.rx.unread())
    }

    /// The number of whole messages to read.
    pub(super) fn messages(self: &Arc<Self>) -> u32 {
        self.unless_withheld(|inner| inner.inbox.messages())
    }

    /// What is `waiting`, or nothing if it came to a connect() that gave up, or if sockmap is to have it: a reader
    /// would overtake what came before and is on its way through a verdict. What nobody hands over just now is
    /// handed over soon.
    fn unless_withheld(self: &Arc<Self>, waiting: impl FnOnce(&Inner) -> u32) -> u32 {
        let waiting = {
            let inner = self.inner.lock();
            if inner.state.is_abandoned() {
                return 0;
            }
            waiting(&inner)
        };
        if waiting == 0 || !self.sk.upgrade().is_some_and(|sk| sk.has_verdict()) {
            return waiting;
        }
        self.table.tell_later(self);
        0
    }

    /// Does what could not be done at its time: sends a credit update, and has a verdict, if there is
    /// one, take what waits. Does not sleep.
    pub(super) fn catch_up(self: &Arc<Self>) {
        let (owed, unread) = {
            let mut inner = self.inner.lock();
            (
                core::mem::take(&mut inner.update_owed),
                inner.credit.rx.unread() > 0,
            )
        };
        if owed {
            let _ = self.send(Some(Send::CreditUpdate));
        }
        if let Some(sk) = self.sk.upgrade().filter(|sk| unread && sk.has_verdict()) {
            sk.data_ready();
        }
    }

    /// The number of bytes that may be sent.
    pub(super) fn writable(&self) -> u32 {
        self.inner.lock().credit.tx.free()
    }

    /// Starts to connect (C8: from clean state), or goes on with what an earlier call has begun.
    ///
    /// # Errors
    ///
    /// - `EADDRINUSE`: an old connection between the two ports is not over yet.
    /// - `ENODEV`: there is no device, or the peer is this machine.
    /// - `ENOMEM`: no memory.
    pub(super) fn connect(self: &Arc<Self>, local_port: u32, peer: Addr) -> Result {
        let key = Key { peer, local_port };
        if self.take_up(key) {
            return Ok(());
        }
        let actions = {
            let mut inner = self.inner.lock();
            inner.news = News::default();
            inner.inbox = Inbox::new();
            inner.credit.reset();
            inner.requested = Some(Instant::now());
            // Its place is not left for a moment: an answer to an earlier call may just come.
            if inner.key != Some(key) {
                self.unlink(&mut inner);
                inner.local_port = local_port;
                inner.peer = peer;
                self.table.insert(key, self)?;
                inner.key = Some(key);
            }
            inner.state.connect()
        };
        let sent = self.send(actions.send);
        if sent.is_err() {
            let mut inner = self.inner.lock();
            let _ = inner.state.device_gone();
            inner.news = News::default();
            self.unlink(&mut inner);
        }
        sent
    }

    /// Takes the part of the one who was connected to (C3); the peer sent `request`.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub(super) fn accept(
        self: &Arc<Self>,
        local_port: u32,
        peer: Addr,
        request: &Header,
    ) -> Result {
        let key = Key { peer, local_port };
        let mut inner = self.inner.lock();
        self.table.insert(key, self)?;
        inner.key = Some(key);
        inner.local_port = local_port;
        inner.peer = peer;
        inner.state = Connection::accepted();
        inner.credit.update(request);
        Ok(())
    }

    /// Answers the REQUEST of [`accept`](Self::accept).
    pub(super) fn respond(self: &Arc<Self>) -> Result {
        let header = self.header(&self.inner.lock(), Op::Response, 0);
        device::send(packet::control(&header, Some(self.clone()), Kind::Reply)?)
    }

    pub(super) fn unlink(self: &Arc<Self>, inner: &mut Inner) {
        if let Some(key) = inner.key.take() {
            self.table.remove(key, self);
        }
    }

    /// Has the state machine decide, and notes what follows from it at once.
    ///
    /// The table is left under the same lock: afterwards the socket may connect anew.
    pub(super) fn decide(
        self: &Arc<Self>,
        decision: impl FnOnce(&mut Inner) -> Actions,
    ) -> Actions {
        let mut inner = self.inner.lock();
        let wanted = !inner.state.is_abandoned();
        let actions = decision(&mut inner);
        if actions.unlink {
            self.unlink(&mut inner);
        }
        if wanted {
            inner.news.note(&actions);
        }
        actions
    }

    /// A packet from the peer has come.
    pub(super) fn receive(self: &Arc<Self>, header: &Header, op: Op, payload: &mut Payload) {
        let (mut had_room, mut has_room, mut due) = (false, false, false);
        let mut stored = Stored::Silently;
        let actions = self.decide(|inner| {
            if payload.is_damaged() {
                // Bytes were lost on the way (M2).
                return inner.state.abort(SockError::ConnReset);
            }
            had_room = inner.credit.tx.free() > 0;
            inner.credit.update(header);
            has_room = inner.credit.tx.free() > 0;
            let unread = inner.credit.rx.unread() > 0;
            let actions = inner.state.packet(op, header.flags, unread);
            if !actions.deliver && !actions.discard {
                // A peer that has just told of a smaller buffer may stall earlier than was thought.
                due = actions.write_space && inner.credit.rx.update_due(0);
                return actions;
            }
            match inner.store(self.ty, header, payload, actions.discard) {
                Ok(what) => {
                    stored = what;
                    due = inner.message_is_stuck(self.ty);
                    actions
                }
                Err(error) => {
                    STATS.count(Counter::Overrun);
                    inner.state.abort(error)
                }
            }
        });
        if actions.reply_rst {
            device::refuse(header);
        }
        self.follow(actions);
        if due {
            let _ = self.send(Some(Send::CreditUpdate));
        }
        self.wake(stored, has_room && !had_room);
    }

    /// Wakes those who wait for what has come.
    fn wake(&self, stored: Stored, room: bool) {
        if stored == Stored::Silently && !room {
            return;
        }
        let Some(sk) = self.sk.upgrade() else {
            return;
        };
        match stored {
            Stored::Silently => {}
            Stored::Bytes(bytes) if bytes < sk.rcvlowat() => {}
            Stored::Bytes(_) | Stored::Message => sk.data_ready(),
        }
        if room {
            sk.write_space();
        }
    }

    /// Carries out what [`decide`](Self::decide) returned, where the socket is not owned by us.
    pub(super) fn follow(self: &Arc<Self>, actions: Actions) {
        if actions.count_bad_op {
            STATS.count(Counter::BadOp);
        }
        // Without a device there is nobody to tell; without memory the peer has its time-outs.
        let _ = self.send(actions.send);
        if News::of(&actions) != News::default() {
            self.tell();
        }
    }

    pub(super) fn send(self: &Arc<Self>, what: Option<Send>) -> Result {
        let (op, flags, kind) = match what {
            None => return Ok(()),
            Some(Send::Request) => (Op::Request, 0, Kind::Call),
            Some(Send::Rst) => (Op::Rst, 0, Kind::Call),
            Some(Send::Shutdown(flags)) => (Op::Shutdown, flags.as_raw(), Kind::Call),
            Some(Send::CreditUpdate) => (Op::CreditUpdate, 0, Kind::CreditUpdate),
        };
        if kind == Kind::CreditUpdate && self.update_waits.xchg(true, kernel::sync::atomic::Full) {
            return Ok(());
        }
        let header = {
            let inner = self.inner.lock();
            let wanted = match kind {
                // The peer of a connection that is over could take it for another's.
                Kind::CreditUpdate => inner.state.state() == State::Established,
                _ => op != Op::Rst || !self.is_replaced(&inner),
            };
            wanted.then(|| self.header(&inner, op, flags))
        };
        let result = header.map_or(Ok(()), |header| {
            packet::control(&header, Some(self.clone()), kind).and_then(device::send)
        });
        if (header.is_none() || result.is_err()) && kind == Kind::CreditUpdate {
            self.update_is_sent();
            if result == Err(ENOMEM) {
                self.inner.lock().update_owed = true;
                self.table.tell_later(self);
            }
        }
        result
    }

    /// There is another connection between the addresses of this one, which has left the table.
    fn is_replaced(&self, inner: &Inner) -> bool {
        inner.key.is_none() && self.table.find(inner.addresses()).is_some()
    }

    /// A credit update does not wait any more: it was sent, or dropped.
    pub(super) fn update_is_sent(&self) {
        self.update_waits.store(false, Relaxed);
    }

    /// Puts itself at the front of a list, unless it is in it; returns whether it is alone there. The list's
    /// lock is held.
    pub(super) fn enlist(self: &Arc<Self>, first: &mut Option<Arc<Self>>) -> bool {
        let mut inner = self.inner.lock();
        if inner.untold {
            return false;
        }
        inner.untold = true;
        inner.next_untold = first.replace(self.clone());
        inner.next_untold.is_none()
    }

    /// Leaves the list, at whose front it was; returns the rest.
    pub(super) fn delist(&self) -> Option<Arc<Self>> {
        let mut inner = self.inner.lock();
        inner.untold = false;
        inner.next_untold.take()
    }

    /// Sets the size of our buffer and tells the peer.
    pub(super) fn set_buf_alloc(self: &Arc<Self>, buf_alloc: u32) {
        let (tell, room) = {
            let mut inner = self.inner.lock();
            let had_room = inner.credit.tx.free() > 0;
            let changed = inner.credit.set_buf_alloc(buf_alloc);
            (
                changed && inner.state.state() == State::Established,
                inner.credit.tx.free() > 0 && !had_room,
            )
        };
        if tell {
            let _ = self.send(Some(Send::CreditUpdate));
        }
        self.wake(Stored::Silently, room);
    }
}
