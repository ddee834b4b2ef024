// SPDX-License-Identifier: GPL-2.0

//! What struct sock must say of a connection, and who writes it.
//!
//! af_vsock reads the socket's fields as the socket's owner, so that only an owner may write them: a user
//! call that has locked the socket, or we, when none has.

use super::Conn;
use crate::{
    ext::{
        error::NetError,
        net::vsock::{
            ConnectState,
            OwnedSock, //
        }, //
    },
    proto::{
        Actions,
        SockError, //
    },
    wire::ShutdownFlags, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// What struct sock must still say.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct News {
    established: bool,
    error: Option<SockError>,
    peer_shutdown: bool,
    unlink: bool,
    done: bool,
}

impl News {
    /// Whether `actions` bring any.
    pub(super) fn is_in(actions: &Actions) -> bool {
        let mut news = Self::default();
        news.note(actions);
        news != Self::default()
    }

    /// Adds what `actions` bring.
    pub(super) fn note(&mut self, actions: &Actions) {
        self.established |= actions.established;
        self.error = self.error.or(actions.error);
        self.peer_shutdown |= actions.peer_shutdown_changed;
        self.unlink |= actions.unlink;
        self.done |= actions.done;
    }
}

fn errno(error: SockError) -> Error {
    match error {
        SockError::ConnReset => NetError::ConnReset.into(),
        SockError::Proto => NetError::Proto.into(),
        SockError::NoBufs => NetError::NoBufs.into(),
        SockError::NoMem => ENOMEM,
    }
}

impl Conn {
    /// Has struct sock say what `actions` bring, now or when the socket's owner lets go.
    ///
    /// # Context
    ///
    /// Does not sleep; takes the spinlock of the socket's lock.
    pub(super) fn publish_if_new(self: &Arc<Self>, actions: &Actions) {
        if News::is_in(actions) {
            self.publish_or_defer();
        }
    }

    /// Has struct sock say what is new, now or when the socket's owner lets go.
    ///
    /// # Context
    ///
    /// Does not sleep; takes the spinlock of the socket's lock.
    pub(super) fn publish_or_defer(self: &Arc<Self>) {
        if self.sk.own_or_defer(|sk| self.publish(sk)).is_err() {
            self.table.try_later(self);
        }
    }

    /// Has struct sock say what is new.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn publish(self: &Arc<Self>, sk: &OwnedSock<'_>) {
        loop {
            let (news, looks_connected, peer_shutdown) = {
                let mut inner = self.inner.lock();
                (
                    core::mem::take(&mut inner.news),
                    inner.end.looks_connected(),
                    // af_vsock counts as the wire does: receiving is 1, sending 2.
                    inner.end.peer_shutdown().as_raw(),
                )
            };
            if news == News::default() {
                return;
            }
            if news.established {
                if sk.set_connected() {
                    // What it says may be of an earlier connection.
                    sk.set_peer_shutdown(peer_shutdown);
                } else {
                    // connect() has given up meanwhile.
                    self.abandon();
                }
            }
            if let Some(error) = news.error {
                if sk.connect_state() == ConnectState::Connected {
                    // One call alone gets the error; the others must see the end, and not wait for it.
                    sk.set_peer_shutdown(ShutdownFlags::BOTH.as_raw());
                }
                sk.fail(errno(error));
            } else if news.done {
                sk.disconnect(looks_connected);
            } else if news.peer_shutdown {
                sk.set_peer_shutdown(peer_shutdown);
                sk.state_change();
            }
            if news.unlink || news.done {
                sk.remove_from_tables();
            }
            if news.done {
                // Dropped without the lock: it may be what keeps the socket.
                let released = self.inner.lock().released.take();
                drop(released);
            }
        }
    }
}
