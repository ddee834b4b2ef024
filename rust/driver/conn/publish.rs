// SPDX-License-Identifier: GPL-2.0

//! What af_vsock has to be told of a connection, and by whom.
//!
//! It reads the socket's fields as the socket's owner, so that only an owner may write them: a user
//! call that has locked the socket, or we, when nobody has.

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

/// What af_vsock has to be told.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct News {
    established: bool,
    error: Option<SockError>,
    peer_shutdown: bool,
    unlink: bool,
    done: bool,
}

impl News {
    pub(super) fn of(actions: &Actions) -> Self {
        let mut news = Self::default();
        news.note(actions);
        news
    }

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
    /// Has af_vsock told what is new, now or when the socket's owner lets go.
    pub(super) fn tell(self: &Arc<Self>) {
        if self.sk.own_or_defer(|sk| self.told(sk)).is_err() {
            self.table.tell_later(self);
        }
    }

    /// Tells af_vsock what is new. Does not sleep.
    pub(in crate::driver) fn told(self: &Arc<Self>, sk: &OwnedSock<'_>) {
        loop {
            let (news, unread, peer_shutdown) = {
                let mut inner = self.inner.lock();
                (
                    core::mem::take(&mut inner.news),
                    inner.credit.rx.unread() > 0,
                    // af_vsock counts as the wire does: receiving is 1, sending 2.
                    inner.state.peer_shutdown().as_raw(),
                )
            };
            if news == News::default() {
                return;
            }
            if news.established {
                if sk.set_connected() {
                    // Of an earlier connection, perhaps.
                    sk.set_peer_shutdown(peer_shutdown);
                } else {
                    // connect() had given up by the time.
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
                sk.disconnect(unread);
            } else if news.peer_shutdown {
                sk.set_peer_shutdown(peer_shutdown);
                sk.state_change();
            }
            if news.unlink || news.done {
                sk.remove_from_tables();
            }
            if news.done {
                // Dropped without the lock: it may be what keeps the socket.
                let closing = self.inner.lock().closing.take();
                drop(closing);
            }
        }
    }
}
