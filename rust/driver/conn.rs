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
    inbox::Inbox,
    link,
    news::News,
    queue::{
        self,
        Advertised,
        Backlog,
        Cause,
        Packet,
        Payload,
        Routed,
        Sender, //
    },
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
    alloc::Flags,
    prelude::*,
    sync::{
        atomic::{
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
    pub(super) sk: WeakSock,
    ty: SocketType,
    /// A credit update waits for room in the transmit queue, and will tell the newest.
    update_waits: AtomicFlag,
    pub(super) table: Arc<Connections>,
    /// What waits for room in the transmit queue.
    #[pin]
    pub(super) backlog: Backlog,
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
    /// There was no memory for this: the last word, as it says all that those before it did.
    owed: Option<Send>,
    /// How many bytes the reader waits for, `SO_RCVLOWAT`.
    pub(super) lowat: u32,
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

impl Conn {
    /// The connection of a new socket, to which `sk` is the way, not connected to anything. May sleep.
    pub(super) fn new(
        sk: WeakSock,
        ty: SocketType,
        buf_alloc: u32,
        table: Arc<Connections>,
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                sk,
                ty,
                update_waits: AtomicFlag::new(false),
                table,
                backlog <- Backlog::new(buf_alloc),
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
                        owed: None,
                        lowat: 1,
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

    /// A header of a packet to the peer; the fields that speak of credit are filled in when it is sent.
    pub(super) fn header(&self, inner: &Inner, op: Op, flags: u32) -> Header {
        let src = Address {
            cid: link::guest_cid(),
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

    /// The number of bytes to read.
    pub(super) fn readable(self: &Arc<Self>) -> u32 {
        self.unless_withheld(|inner| inner.credit.rx.unread())
    }

    /// Whether a reader who waits for `target` bytes has them, or as many as can come (K6).
    pub(super) fn is_readable(self: &Arc<Self>, target: u32) -> bool {
        let unread = self.readable();
        unread > 0 && unread >= self.inner.lock().credit.rx.reachable(target)
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

    /// Does what could not be done at its time: sends what is owed, and has a verdict, if there is
    /// one, take what waits. Does not sleep.
    pub(super) fn catch_up(self: &Arc<Self>) {
        let (update, owed, unread) = {
            let mut inner = self.inner.lock();
            (
                core::mem::take(&mut inner.update_owed).then_some(Send::CreditUpdate),
                inner.owed.take(),
                inner.credit.rx.unread() > 0,
            )
        };
        let _ = self.send(owed, GFP_ATOMIC);
        let _ = self.send(update, GFP_ATOMIC);
        if let Some(sk) = self.sk.upgrade().filter(|sk| unread && sk.has_verdict()) {
            sk.data_ready();
        }
    }

    /// Starts to connect (C8: from clean state), or goes on with what an earlier call has begun.
    ///
    /// # Errors
    ///
    /// - `EADDRINUSE`: an old connection between the two ports is not over yet.
    /// - `ENODEV`: there is no device, or the peer is this machine.
    /// - `ENOMEM`: no memory.
    pub(super) fn connect(self: &Arc<Self>, local_port: u32, peer: Addr, lowat: u32) -> Result {
        let key = Key { peer, local_port };
        if self.take_up(key) {
            return Ok(());
        }
        // What an earlier connection has left is freed without the lock.
        let left;
        let actions = {
            let mut inner = self.inner.lock();
            inner.news = News::default();
            left = core::mem::replace(&mut inner.inbox, Inbox::new());
            inner.lowat = lowat;
            inner.owed = None;
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
        drop(left);
        let sent = self.send(actions.send, GFP_KERNEL);
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
        let _ = inner.credit.update(request);
        Ok(())
    }

    /// The answer to the REQUEST of [`accept`](Self::accept). The backlogs of the listeners bound how many
    /// there are. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(super) fn response(self: &Arc<Self>) -> Result<Packet> {
        let header = self.header(&self.inner.lock(), Op::Response, 0);
        queue::control(&header, Some(self.clone()), Cause::Call, GFP_KERNEL)
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
    pub(super) fn receive(
        self: &Arc<Self>,
        header: &Header,
        op: Op,
        payload: &mut Payload,
    ) -> Routed {
        let (mut had_room, mut has_room, mut due, mut asks) = (false, false, false, false);
        let mut stored = Stored::Silently;
        let mut held = false;
        let actions = self.decide(|inner| {
            if payload.is_damaged() {
                // Bytes were lost on the way (M2).
                return inner.state.abort(SockError::ConnReset);
            }
            if op == Op::Rw && !inner.prepare(self.ty, header, payload) {
                held = true;
                return Actions::NONE;
            }
            had_room = inner.credit.tx.free() > 0;
            // A peer that has just told of another buffer may stall earlier than was thought, and stop us
            // later.
            let changed = inner.credit.update(header);
            has_room = inner.credit.tx.free() > 0;
            asks = changed && !has_room;
            let unread = inner.credit.rx.unread();
            let actions = inner.state.packet(op, header.flags, unread > 0);
            if !actions.deliver && !actions.discard {
                if changed && inner.state.state() == State::Established {
                    due = inner.credit.rx.update_due(inner.lowat);
                    if unread > 0 && self.ty == SocketType::Stream {
                        stored = inner.bytes_to_read();
                    }
                }
                return actions;
            }
            match inner.store(self.ty, header, payload, actions.discard) {
                Ok(what) => {
                    stored = what;
                    due = inner.message_is_stuck(self.ty)
                        || (changed && inner.credit.rx.update_due(inner.lowat));
                    actions
                }
                Err(error) => {
                    STATS.count(Counter::Overrun);
                    inner.state.abort(error)
                }
            }
        });
        if held {
            return Routed::Held;
        }
        if actions.reply_rst {
            if let Some(link) = link::running() {
                link.refuse(header);
            }
        }
        self.follow(actions);
        if due {
            let _ = self.send(Some(Send::CreditUpdate), GFP_ATOMIC);
        }
        if asks {
            self.ask_for_credit();
        }
        self.wake(stored, has_room && !had_room);
        Routed::Done
    }

    /// Wakes those who wait for what has come.
    pub(super) fn wake(&self, stored: Stored, room: bool) {
        if stored == Stored::Silently && !room {
            return;
        }
        let Some(sk) = self.sk.upgrade() else {
            return;
        };
        match stored {
            Stored::Silently => {}
            Stored::Bytes { unread, most } if unread < sk.rcvlowat().min(most) => {}
            Stored::Bytes { .. } | Stored::Message => sk.data_ready(),
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
        self.send_all(&actions, GFP_ATOMIC);
        if News::of(&actions) != News::default() {
            self.tell();
        }
    }

    /// Sends what `actions` say. Sleeps if `flags` allow it.
    ///
    /// When the connection is over, nobody wants what waits of it: between the same ports there may soon be
    /// another.
    pub(super) fn send_all(self: &Arc<Self>, actions: &Actions, flags: Flags) {
        if actions.done {
            self.withdraw();
        }
        // Without a device there is nobody to tell.
        let _ = self.send(actions.send, flags);
    }

    /// Takes back the packets that the device has not yet seen; returns whether there were any.
    pub(super) fn withdraw(self: &Arc<Self>) -> bool {
        link::with(|link| link.withdraw(&**self)).unwrap_or(false)
    }

    /// Sends a control packet. Sleeps if `gfp` allows it.
    ///
    /// # Errors
    ///
    /// - `ENODEV`: there is no device.
    /// - `ENOMEM`: no memory; it is sent later, unless it is the REQUEST.
    pub(super) fn send(self: &Arc<Self>, what: Option<Send>, gfp: Flags) -> Result {
        let Some(what) = what else {
            return Ok(());
        };
        let (op, flags, cause) = match what {
            Send::Request => (Op::Request, 0, Cause::Call),
            Send::Rst => (Op::Rst, 0, Cause::Last),
            Send::Shutdown(flags) => (Op::Shutdown, flags.as_raw(), Cause::Call),
            Send::CreditUpdate => (Op::CreditUpdate, 0, Cause::CreditUpdate),
        };
        if cause == Cause::CreditUpdate && self.update_waits.xchg(true, kernel::sync::atomic::Full)
        {
            return Ok(());
        }
        let header = {
            let inner = self.inner.lock();
            // The peer of a connection that is over could take it for another's.
            let wanted = match what {
                Send::Request => true,
                Send::CreditUpdate => inner.state.state() == State::Established,
                Send::Shutdown(_) | Send::Rst => !self.is_replaced(&inner),
            };
            wanted.then(|| self.header(&inner, op, flags))
        };
        let result = header.map_or(Ok(()), |header| {
            queue::control(&header, Some(self.clone()), cause, gfp).and_then(link::send)
        });
        if (header.is_none() || result.is_err()) && cause == Cause::CreditUpdate {
            self.update_left();
        }
        if result == Err(ENOMEM) && what != Send::Request {
            {
                let mut inner = self.inner.lock();
                match what {
                    Send::CreditUpdate => inner.update_owed = true,
                    _ => inner.owed = Some(what),
                }
            }
            self.table.tell_later(self);
        }
        result
    }

    /// There is another connection between the addresses of this one, which has left the table.
    fn is_replaced(&self, inner: &Inner) -> bool {
        inner.key.is_none() && self.table.find(inner.addresses()).is_some()
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
        let room = self.backlog.set_buf_alloc(buf_alloc) || room;
        if tell {
            let _ = self.send(Some(Send::CreditUpdate), GFP_KERNEL);
        }
        // A writer who waits in poll() does not come by again.
        self.ask_for_credit();
        self.wake(Stored::Silently, room);
    }
}

impl Sender for Conn {
    fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    fn advertise(&self, last: bool) -> Option<Advertised> {
        let mut inner = self.inner.lock();
        let live = matches!(
            inner.state.state(),
            State::Connecting | State::Established | State::Closing
        );
        // A successor between the same ports would suffer for it.
        if !live && (!last || self.is_replaced(&inner)) {
            return None;
        }
        let (buf_alloc, fwd_cnt) = inner.credit.rx.advertise();
        Some(Advertised { buf_alloc, fwd_cnt })
    }

    fn taken(&self) {
        self.tell_of_room();
    }

    fn update_left(&self) {
        self.update_waits.store(false, Relaxed);
    }
}
