// SPDX-License-Identifier: GPL-2.0

//! A socket's connection: its state, its credit, and what it has received.
//!
//! The state machine of [`proto`](crate::proto) runs under a spinlock of ours, in whatever context a
//! packet comes. What af_vsock must be told is noted there, and told by the socket's owner: by us, if
//! nobody owns the socket, or by the user call that does, when it ends. So a user call that sleeps
//! with the socket locked holds up nobody but itself.

mod connect;
mod inbox;
mod publish;
mod receive;
mod send;
mod table;
mod unread;

pub(super) use self::table::{
    all,
    tell_of_room,
    Connections,
    Key, //
};
pub(super) use self::unread::MARK_LEN;

use self::{
    connect::Closing,
    inbox::Inbox,
    publish::News,
    receive::Stored, //
};
use crate::{
    driver::{
        link,
        queue::{
            self,
            Backlog,
            Cause,
            Sender, //
        },
        stats::{
            Counter,
            STATS, //
        }, //
    },
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
        Advertised,
        Connection,
        Control,
        Credit,
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
pub(super) struct Conn {
    sk: WeakSock,
    ty: SocketType,
    /// A credit update waits for room in the transmit queue, and will tell the newest.
    update_waits: AtomicFlag,
    table: Arc<Connections>,
    /// What waits for room in the transmit queue.
    #[pin]
    backlog: Backlog,
    #[pin]
    inner: SpinLockBh<Inner>,
}

/// What the connection's lock guards.
struct Inner {
    state: Connection,
    credit: Credit,
    inbox: Inbox,
    /// Where the connection is to be found; none unless it is in the table.
    key: Option<Key>,
    /// Who we are to the peer, and who the peer is.
    local_port: u32,
    peer: Addr,
    news: News,
    /// There was no memory for a credit update.
    update_owed: bool,
    /// There was no memory for this: the last word, as it says all that those before it did.
    owed: Option<Control>,
    /// How many bytes the reader waits for, `SO_RCVLOWAT`.
    lowat: u32,
    /// It is in the list of those that could not tell their news, before the next one.
    untold: bool,
    next_untold: Option<Arc<Conn>>,
    /// A released socket, kept until the peer has answered or the time is over.
    closing: Option<Closing>,
    /// When connect() last sent a REQUEST.
    requested: Option<Instant<Monotonic>>,
    /// When connect() last gave up.
    given_up: Option<Instant<Monotonic>>,
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
    fn header(&self, inner: &Inner, op: Op, flags: u32) -> Header {
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

    /// Does what could not be done at its time: sends what is owed, and has a verdict, if there is
    /// one, take what waits. Does not sleep.
    fn catch_up(self: &Arc<Self>) {
        let (update, owed, unread) = {
            let mut inner = self.inner.lock();
            (
                core::mem::take(&mut inner.update_owed).then_some(Control::CreditUpdate),
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

    fn unlink(self: &Arc<Self>, inner: &mut Inner) {
        if let Some(key) = inner.key.take() {
            self.table.remove(key, self);
        }
    }

    /// Has the state machine decide, and notes what follows from it at once.
    ///
    /// The table is left under the same lock: afterwards the socket may connect anew.
    fn decide(self: &Arc<Self>, decision: impl FnOnce(&mut Inner) -> Actions) -> Actions {
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

    /// Carries out what [`decide`](Self::decide) returned, where the socket is not owned by us.
    fn follow(self: &Arc<Self>, actions: Actions) {
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
    fn send_all(self: &Arc<Self>, actions: &Actions, flags: Flags) {
        if actions.done {
            self.withdraw();
        }
        // Without a device there is nobody to tell.
        let _ = self.send(actions.send, flags);
    }

    /// Takes back the packets that the device has not yet seen; returns whether there were any.
    fn withdraw(self: &Arc<Self>) -> bool {
        link::with(|link| link.withdraw(&**self)).unwrap_or(false)
    }

    /// Sends a control packet. Sleeps if `gfp` allows it.
    ///
    /// # Errors
    ///
    /// - `ENODEV`: there is no device.
    /// - `ENOMEM`: no memory; it is sent later, unless it is the REQUEST.
    fn send(self: &Arc<Self>, what: Option<Control>, gfp: Flags) -> Result {
        let Some(what) = what else {
            return Ok(());
        };
        let (op, flags, cause) = match what {
            Control::Request => (Op::Request, 0, Cause::Call),
            Control::Rst => (Op::Rst, 0, Cause::Last),
            Control::Shutdown(flags) => (Op::Shutdown, flags.as_raw(), Cause::Call),
            Control::CreditUpdate => (Op::CreditUpdate, 0, Cause::CreditUpdate),
            Control::CreditRequest => (Op::CreditRequest, 0, Cause::Call),
        };
        if cause == Cause::CreditUpdate && self.update_waits.xchg(true, kernel::sync::atomic::Full)
        {
            return Ok(());
        }
        let header = {
            let inner = self.inner.lock();
            // The peer of a connection that is over could take it for another's.
            let wanted = match what {
                Control::Request => true,
                Control::CreditUpdate | Control::CreditRequest => {
                    inner.state.state() == State::Established
                }
                Control::Shutdown(_) | Control::Rst => !self.is_replaced(&inner),
            };
            wanted.then(|| self.header(&inner, op, flags))
        };
        let result = header.map_or(Ok(()), |header| {
            queue::control(&header, Some(self.clone()), cause, gfp).and_then(link::send)
        });
        if (header.is_none() || result.is_err()) && cause == Cause::CreditUpdate {
            self.update_left();
        }
        if result == Err(ENOMEM) && what != Control::Request {
            {
                let mut inner = self.inner.lock();
                match what {
                    Control::CreditUpdate => inner.update_owed = true,
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
    fn enlist(self: &Arc<Self>, first: &mut Option<Arc<Self>>) -> bool {
        let mut inner = self.inner.lock();
        if inner.untold {
            return false;
        }
        inner.untold = true;
        inner.next_untold = first.replace(self.clone());
        inner.next_untold.is_none()
    }

    /// Leaves the list, at whose front it was; returns the rest.
    fn delist(&self) -> Option<Arc<Self>> {
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
            let _ = self.send(Some(Control::CreditUpdate), GFP_KERNEL);
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
        Some(inner.credit.rx.advertise())
    }

    fn taken(&self) {
        self.tell_of_room();
    }

    fn update_left(&self) {
        self.update_waits.store(false, Relaxed);
    }
}
