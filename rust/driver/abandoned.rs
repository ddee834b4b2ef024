// SPDX-License-Identifier: GPL-2.0

//! What connect() has begun and given up, as a signal came, or its time was over.
//!
//! The peer may have accepted it, and then an RST would end what the next call of connect() is to get: Linux
//! hosts answer that call's REQUEST by RST as long as their application holds the old socket. So nothing is
//! said for a while, and the next call takes what there is.

use super::{
    conn::{
        Conn,
        Inner, //
    },
    inbox::Inbox,
    news::News,
    table::Key, //
};
use crate::proto::{
    Actions,
    Connection,
    State, //
};
use kernel::{
    prelude::*,
    sync::Arc,
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

/// What was begun is not good for ever.
fn is_stale(since: &Instant<Monotonic>) -> bool {
    since.elapsed() >= Delta::from_millis(i64::from(Connection::ABANDONED_TIMEOUT_MS))
}

impl Conn {
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
    pub(super) fn cancel(self: &Arc<Self>) {
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
}
