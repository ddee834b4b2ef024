// SPDX-License-Identifier: GPL-2.0

//! How a connection begins and ends: by the user's calls, with the device, or when its time is over.
//!
//! What connect() has begun and given up, as a signal came or its time was over, the peer may have accepted. Then
//! an RST would end what the next call of connect() is to get: Linux hosts answer that call's REQUEST by RST as
//! long as their application holds the old socket. So nothing is said for a while, and the next call takes what
//! there is.

use super::{
    inbox::Inbox,
    publish::News,
    table::Key,
    Conn,
    Inner, //
};
use crate::{
    driver::{
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
        Connection,
        State, //
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
        Arc, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

/// A socket that was released, kept until the peer has answered or the time is over (C4).
pub(super) struct Closing {
    /// Keeps the socket.
    _sk: ARef<VsockSock>,
    since: Instant<Monotonic>,
}

/// What was begun is not good for ever.
fn is_stale(since: &Instant<Monotonic>) -> bool {
    since.elapsed() >= Delta::from_millis(i64::from(Connection::ABANDONED_TIMEOUT_MS))
}

impl Conn {
    /// Starts to connect (C8: from clean state), or goes on with what an earlier call has begun.
    ///
    /// # Errors
    ///
    /// - `EADDRINUSE`: an old connection between the two ports is not over yet.
    /// - `ENODEV`: there is no device, or the peer is this machine.
    /// - `ENOMEM`: no memory.
    pub(in crate::driver) fn connect(
        self: &Arc<Self>,
        local_port: u32,
        peer: Addr,
        lowat: u32,
    ) -> Result {
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
    pub(in crate::driver) fn response(self: &Arc<Self>) -> Result<Packet> {
        let header = self.header(&self.inner.lock(), Op::Response, 0);
        queue::control(&header, Some(self.clone()), Cause::Call, GFP_KERNEL)
    }

    /// connect() has given up, and is to be told nothing.
    pub(super) fn abandon(self: &Arc<Self>) {
        let abandoned = {
            let mut inner = self.inner.lock();
            inner.state.cancel();
            inner.given_up = Some(Instant::now());
            // A socket that is closing waits for its end to be told.
            if inner.closing.is_none() {
                inner.news = News::default();
            }
            inner.state.is_abandoned()
        };
        if abandoned {
            self.table.look_again();
        }
    }

    /// It is connecting, and the device has seen one REQUEST at the most: an earlier one may have been accepted.
    pub(super) fn is_first_call(&self) -> bool {
        let inner = self.inner.lock();
        inner.state.state() == State::Connecting && inner.given_up.is_none()
    }

    /// Gives up connecting.
    pub(in crate::driver) fn cancel(self: &Arc<Self>) {
        let first = self.is_first_call();
        self.abandon();
        if first && self.withdraw() {
            // The device has not seen the REQUEST, and will not.
            let _ = self.decide(|inner| match inner.state.state() {
                State::Connecting => inner.state.abandoned_timeout(),
                _ => Actions::NONE,
            });
        }
    }

    /// connect() is called again: goes on with what was begun, if it can; returns whether it does. What was
    /// begun between other addresses is let go.
    pub(super) fn take_up(self: &Arc<Self>, key: Key) -> bool {
        let mut claimed = false;
        let actions = self.decide(|inner| {
            if !inner.state.is_abandoned() {
                return Actions::NONE;
            }
            if inner.addresses() != key {
                return inner.state.close();
            }
            let connecting = inner.state.state() == State::Connecting;
            if connecting && inner.requested.as_ref().is_none_or(is_stale) {
                // No answer is to be expected; another REQUEST may get one.
                return Actions::NONE;
            }
            if !inner.state.claim() {
                return inner.state.close();
            }
            claimed = true;
            inner.news.note(&Actions {
                established: !connecting,
                peer_shutdown_changed: !inner.state.peer_shutdown().is_empty(),
                ..Actions::NONE
            });
            Actions::NONE
        });
        self.send_all(&actions, GFP_KERNEL);
        if claimed {
            self.tell();
        }
        claimed
    }

    /// Ends what connect() was not called again for, if it is time. What nobody will read is put into
    /// `unread`, to be freed without the lock.
    pub(super) fn abandoned_too_long(inner: &mut Inner, unread: &mut Inbox) -> Actions {
        if !inner.state.is_abandoned() || !inner.given_up.as_ref().is_some_and(is_stale) {
            return Actions::NONE;
        }
        core::mem::swap(&mut inner.inbox, unread);
        // It counts as read, or a later use of the socket would look for it.
        inner.credit.rx.consume(u32::MAX);
        inner.state.abandoned_timeout()
    }

    /// `shutdown()`.
    pub(in crate::driver) fn shutdown(self: &Arc<Self>, how: ShutdownFlags) -> Result {
        let actions = self.inner.lock().state.shutdown(how);
        match self.send(actions.send, GFP_KERNEL) {
            // It is owed.
            Err(error) if error == ENOMEM => Ok(()),
            result => result,
        }
    }

    /// The socket is released. May sleep, if it lingers.
    pub(in crate::driver) fn release(self: &Arc<Self>, sk: Releasing<'_>) {
        let unseen = self.is_first_call() && self.withdraw();
        let mut unread = Inbox::new();
        let mut actions = self.decide(|inner| {
            core::mem::swap(&mut inner.inbox, &mut unread);
            inner.state.close()
        });
        // Freed without the lock.
        drop(unread);
        if unseen {
            // The device has not seen the REQUEST, and will not.
            actions.send = None;
        }
        self.send_all(&actions, GFP_KERNEL);
        let sk: UserOwned<'_> = if actions.start_close_timer {
            // linger() waits for that.
            let _ = self.unsent();
            let sk = sk.linger();
            let mut inner = self.inner.lock();
            if inner.state.state() == State::Closing && inner.closing.is_none() {
                let sock: &VsockSock = &sk;
                inner.closing = Some(Closing {
                    _sk: ARef::from(sock),
                    since: Instant::now(),
                });
                drop(inner);
                self.table.look_again();
                return;
            }
            drop(inner);
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

    /// The socket is served no longer.
    pub(in crate::driver) fn destruct(self: &Arc<Self>) {
        let unread = {
            let mut inner = self.inner.lock();
            self.unlink(&mut inner);
            core::mem::replace(&mut inner.inbox, Inbox::new())
        };
        drop(unread);
    }

    /// The device has lost the connection: it is over (C5, C7).
    ///
    /// `tell_peer` if there is still a way.
    pub(in crate::driver) fn lost(self: &Arc<Self>, tell_peer: bool) {
        let actions = self.decide(|inner| {
            if tell_peer {
                inner.state.device_leaving()
            } else {
                inner.state.transport_reset()
            }
        });
        self.follow(actions);
    }

    /// Ends what takes too long: a close (C4), or what connect() was not called again for; and looks after
    /// a writer (K6). Returns whether there is something left to look at.
    pub(super) fn tick(self: &Arc<Self>) -> bool {
        let limit = Delta::from_millis(i64::from(Connection::CLOSE_TIMEOUT_MS));
        let mut unread = Inbox::new();
        let actions = self.decide(|inner| match &inner.closing {
            Some(closing) if closing.since.elapsed() >= limit => inner.state.close_timeout(),
            Some(_) => Actions::NONE,
            None => Self::abandoned_too_long(inner, &mut unread),
        });
        // Freed without the lock.
        drop(unread);
        self.follow(actions);
        let writer_waits = self.look_after_writer();
        let inner = self.inner.lock();
        writer_waits || inner.closing.is_some() || inner.state.is_abandoned()
    }
}
