// SPDX-License-Identifier: GPL-2.0

//! How a connection ends: by the user's calls, with the device, or when its time is over.

use super::{
    conn::Conn,
    inbox::Inbox,
    link,
    news::News, //
};
use crate::{
    ext::net::vsock::{
        Releasing,
        UserOwned,
        VsockSock, //
    },
    proto::{
        Actions,
        Connection,
        State, //
    },
    wire::ShutdownFlags, //
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

impl Conn {
    /// `shutdown()`.
    pub(super) fn shutdown(self: &Arc<Self>, how: ShutdownFlags) -> Result {
        let actions = self.inner.lock().state.shutdown(how);
        match self.send(actions.send, GFP_KERNEL) {
            // It is owed.
            Err(error) if error == ENOMEM => Ok(()),
            result => result,
        }
    }

    /// The socket is released. May sleep, if it lingers.
    pub(super) fn release(self: &Arc<Self>, sk: Releasing<'_>) {
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
            if self.backlog.unsent() > 0 {
                link::with(|link| link.streams.want_sent());
            }
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
    pub(super) fn destruct(self: &Arc<Self>) {
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
    pub(super) fn lost(self: &Arc<Self>, tell_peer: bool) {
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
