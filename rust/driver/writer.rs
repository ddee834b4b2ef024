// SPDX-License-Identifier: GPL-2.0

//! How a connection's writer comes to room and credit (K5, K6).

use super::{
    conn::Conn,
    data::Stored,
    link,
    queue::{
        self,
        Cause, //
    }, //
};
use crate::{
    proto::State,
    wire::Op, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

impl Conn {
    /// Wakes a writer who was told that too much waits, if there is room now. Nothing is locked.
    pub(super) fn tell_of_room(&self) {
        if self.backlog.has_room_again() {
            self.wake(Stored::Silently, true);
        }
    }

    /// Whether too much waits for the device to be sent, of this connection or of all; a writer who is told
    /// so is woken when there is room.
    pub(super) fn has_too_much_waiting(&self) -> bool {
        self.backlog.is_full()
            || link::with(|link| link.is_full_for(&self.backlog)).unwrap_or(false)
    }

    /// The number of bytes that may be sent. A peer that does not know that there is no room is asked, since
    /// a writer who polls comes by here alone (K6).
    pub(super) fn writable(self: &Arc<Self>) -> u32 {
        let free = self.inner.lock().credit.tx.free();
        if free == 0 {
            self.ask_for_credit();
        } else if self.has_too_much_waiting() {
            return 0;
        }
        free
    }

    /// Asks a peer for credit that does not know that we wait.
    pub(super) fn ask_for_credit(self: &Arc<Self>) {
        let asks = {
            let mut inner = self.inner.lock();
            inner.state.state() == State::Established && inner.credit.tx.ask()
        };
        if asks {
            self.request_credit();
            self.table.look_again();
        }
    }

    fn request_credit(self: &Arc<Self>) {
        let header = self.header(&self.inner.lock(), Op::CreditRequest, 0);
        let sent = queue::control(&header, Some(self.clone()), Cause::Call, GFP_ATOMIC)
            .and_then(link::send);
        if sent.is_err() {
            self.inner.lock().credit.tx.could_not_ask();
        }
    }

    /// Looks after a writer whom the peer leaves without room (K6); returns whether to look again.
    pub(super) fn look_after_writer(self: &Arc<Self>) -> bool {
        let (asks, stuck, room) = {
            let mut inner = self.inner.lock();
            if inner.state.state() != State::Established {
                return false;
            }
            let tx = &mut inner.credit.tx;
            let had_room = tx.free() > 0;
            (tx.look(), tx.is_stuck(), tx.free() > 0 && !had_room)
        };
        if asks {
            self.request_credit();
        }
        self.wake(Stored::Silently, room);
        stuck
    }
}
