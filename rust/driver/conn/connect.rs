// SPDX-License-Identifier: GPL-2.0

//! How a connection begins and ends: by the user's calls, with the device, or when its time is over.
//!
//! What connect() has begun and given up, as a signal came or its time was over, the peer may have accepted. Then
//! an RST would end what the next call of connect() is to get: Linux hosts answer that call's REQUEST by RST as
//! long as their application holds the old socket. So nothing is said for a while, and the next call takes what
//! there is.

use super::{
    decided::Decided,
    now,
    publish::News,
    table::Key,
    Conn, //
};
use crate::{
    driver::{
        link,
        queue::{
            self,
            Cause,
            Packet, //
        }, //
    },
    ext::net::vsock::{
        Addr,
        Releasing,
        UserOwned,
        VsockSock, //
    },
    proto::{
        Actions,
        Retry,
        SockError, //
    },
    wire::{
        Header,
        Op,
        ShutdownFlags, //
    }, //
};
use kernel::{
    prelude::*,
    sync::{
        aref::ARef,
        atomic::Relaxed,
        Arc, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

/// How long connect() gives those who carry out the end of what was before.
const PAUSE: Delta = Delta::from_millis(1);

/// What a call of connect() does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It takes what an earlier call has begun.
    GoOn,
    /// It has let that go, and looks again.
    LetGo,
    /// It has begun, unless the addresses are taken.
    Begin(Result),
    /// It waits for whoever ends what was before.
    Wait,
}

impl Conn {
    /// Starts to connect (C8: from clean state), or goes on with what an earlier call has begun.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// - `EADDRINUSE`: an old connection between the two ports is not over yet.
    /// - `ENODEV`: there is no device.
    /// - `ENOMEM`: no memory.
    pub(in crate::driver) fn connect(
        self: &Arc<Self>,
        local_port: u32,
        peer: Addr,
        lowat: u32,
    ) -> Result {
        let key = Key { peer, local_port };
        loop {
            let (next, actions) = self.go_on_or_begin(key, lowat);
            match next {
                Next::GoOn => {
                    // It sends nothing.
                    let _ = self.carry_out(&actions, GFP_KERNEL);
                    self.publish_if_new(&actions);
                    return Ok(());
                }
                Next::Begin(entered) => {
                    return entered.and_then(|()| self.carry_out(&actions, GFP_KERNEL));
                }
                Next::LetGo => {
                    // This call is not about it.
                    let _ = self.carry_out(&actions, GFP_KERNEL);
                }
                Next::Wait => fsleep(PAUSE),
            }
        }
    }

    /// Goes on with what an earlier call has begun, lets that go, or begins from clean state, which waits as long as
    /// somebody carries out the end of what was before.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Conn::inner`.
    fn go_on_or_begin(self: &Arc<Self>, key: Key, lowat: u32) -> (Next, Decided<'_>) {
        let mut next = Next::Wait;
        let actions = self.decide(|inner| {
            let same = inner.addresses() == key;
            match inner.end.retry(same, now()) {
                Retry::GoOn(actions) => {
                    next = Next::GoOn;
                    return actions;
                }
                Retry::LetGo(actions) => {
                    next = Next::LetGo;
                    return actions;
                }
                Retry::Begin if inner.ending > 0 => return Actions::NONE,
                Retry::Begin => {}
            }
            inner.news = News::default();
            self.has_gap.store(false, Relaxed);
            // The table is not left for a moment: an answer to an earlier call may just come.
            if inner.key != Some(key) {
                self.unlink(inner);
                inner.local_port = key.local_port;
                inner.peer = key.peer;
                let entered = self.table.insert(key, self);
                next = Next::Begin(entered);
                if entered.is_err() {
                    return Actions::NONE;
                }
                inner.key = Some(key);
            }
            next = Next::Begin(Ok(()));
            inner.end.connect(now(), lowat)
        });
        (next, actions)
    }

    /// Takes the part of the one who was connected to (C3); the peer sent `request`.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Conn::inner`.
    ///
    /// # Errors
    ///
    /// - `EADDRINUSE`: there is a connection between the addresses.
    /// - `ENOMEM`: no memory.
    pub(in crate::driver) fn accept(
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
        inner.end.accept(request);
        Ok(())
    }

    /// The answer to the REQUEST of [`accept`](Self::accept). The backlogs of the listeners bound how many
    /// there are.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(in crate::driver) fn response(self: &Arc<Self>) -> Result<Packet> {
        let header = self.header(link::guest_cid(), &self.inner.lock(), Op::Response, 0);
        queue::control(&header, Some(self.clone()), Cause::Call, GFP_KERNEL)
    }

    /// Gives up connecting, without telling the user, who knows.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`, and may let sockets go.
    pub(super) fn abandon(self: &Arc<Self>) {
        let actions = self.decide(|inner| {
            // A socket that is closing waits for its end to be told.
            if inner.released.is_none() {
                inner.news = News::default();
            }
            inner.end.give_up(now())
        });
        let _ = self.carry_out(&actions, GFP_ATOMIC);
    }

    /// Takes the REQUEST back, if the device has not seen it and it is of the first call; returns whether it
    /// could.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`, and may let sockets go.
    fn take_request_back(self: &Arc<Self>, is_first_call: bool) -> bool {
        is_first_call && self.withdraw()
    }

    /// Gives up connecting.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`, and may let sockets go.
    pub(in crate::driver) fn cancel(self: &Arc<Self>) {
        let is_first_call = self.inner.lock().end.is_first_call();
        self.abandon();
        if self.take_request_back(is_first_call) {
            let actions = self.decide(|inner| inner.end.on_request_withdrawn());
            let _ = self.carry_out(&actions, GFP_ATOMIC);
        }
    }

    /// Ends the directions `how`, for `shutdown()`.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV`: there is no device.
    pub(in crate::driver) fn shutdown(self: &Arc<Self>, how: ShutdownFlags) -> Result {
        let actions = self.decide(|inner| inner.end.shutdown(how));
        match self.carry_out(&actions, GFP_KERNEL) {
            // The timer sends it later.
            Err(error) if error == ENOMEM => Ok(()),
            result => result,
        }
    }

    /// Ends the connection as its user closes the socket, or connects it by another transport.
    ///
    /// # Context
    ///
    /// May sleep, and lets the socket go meanwhile, if it lingers.
    pub(in crate::driver) fn release(self: &Arc<Self>, sk: Releasing<'_>) {
        let is_first_call = self.inner.lock().end.is_first_call();
        let unseen = self.take_request_back(is_first_call);
        let actions = self.decide(|inner| inner.end.close(unseen));
        // What it could not send is owed, or no peer is left to be told.
        let _ = self.carry_out(&actions, GFP_KERNEL);
        let sk: UserOwned<'_> = if actions.start_close_timer {
            // linger() waits until the device has taken all: this asks it to say so.
            let _ = self.unsent();
            let sk = sk.linger();
            let mut inner = self.inner.lock();
            let waits = inner.end.wait_for_close(now());
            if waits {
                let sock: &VsockSock = &sk;
                inner.released = Some(ARef::from(sock));
            }
            drop(inner);
            if waits {
                self.table.look_again();
                return;
            }
            sk
        } else {
            sk.into()
        };
        {
            let mut inner = self.inner.lock();
            self.unlink(&mut inner);
            inner.news = News::default();
        }
        sk.disconnect(false);
        sk.remove_from_tables();
    }

    /// Leaves the socket, which this transport serves no longer.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Conn::inner`.
    pub(in crate::driver) fn destruct(self: &Arc<Self>) {
        let _ = self.decide(|_| Actions {
            unlink: true,
            drop_unread: true,
            ..Actions::NONE
        });
    }

    /// Ends the connection, as a packet of it was lost.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`, and may let sockets go. Another socket may be locked.
    pub(super) fn end_at_gap(&self) {
        let addresses = self.inner.lock().addresses();
        let found = self.table.find(addresses);
        // One that has left the table is over.
        let Some(conn) = found.filter(|conn| core::ptr::eq(&raw const **conn, self)) else {
            return;
        };
        let actions = conn.decide(|inner| {
            // Relaxed: who begins another connection says so under this lock.
            if conn.has_gap.load(Relaxed) {
                inner.end.abort(SockError::ConnReset)
            } else {
                Actions::NONE
            }
        });
        let _ = conn.carry_out(&actions, GFP_ATOMIC);
        if News::is_in(&actions) {
            // Who frees the packet may have another socket locked.
            conn.table.try_later(&conn);
        }
    }

    /// Ends the connection, which the device has lost (C5, C7).
    ///
    /// `tell_peer` if there is still a way.
    ///
    /// # Context
    ///
    /// Does not sleep; takes the spinlock of the socket's lock, and may let sockets go.
    pub(in crate::driver) fn break_off(self: &Arc<Self>, tell_peer: bool) {
        self.act(|inner| {
            if tell_peer {
                inner.end.device_leaving()
            } else {
                inner.end.transport_reset()
            }
        });
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(rvsock_conn_connect)]
mod tests {
    use super::*;
    use crate::proto::{
        Control,
        State, //
    };

    /// Who carries out the end of a connection takes back what waits of it, and may send an RST: not those of the next.
    #[test]
    fn c8_none_begins_while_another_is_being_ended() -> Result {
        let conn = Conn::of_nobody()?;
        let key = Key {
            peer: Addr { cid: 2, port: 1 },
            local_port: 3,
        };
        let begin = || conn.go_on_or_begin(key, 1).0;
        assert_eq!(begin(), Next::Begin(Ok(())));
        let timer = conn.decide(|inner| inner.end.abort(SockError::ConnReset));
        let owed = conn.decide(|_| Actions {
            send: Some(Control::Rst),
            ..Actions::NONE
        });
        drop(conn.decide(|_| Actions::NONE));
        assert_eq!(begin(), Next::Wait);
        drop(timer);
        assert_eq!(begin(), Next::Wait);
        assert_eq!(conn.inner.lock().end.state(), State::Closed);
        drop(owed);
        assert_eq!(begin(), Next::Begin(Ok(())));
        assert_eq!(conn.inner.lock().end.state(), State::Connecting);
        conn.destruct();
        Ok(())
    }
}
