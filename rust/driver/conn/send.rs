// SPDX-License-Identifier: GPL-2.0

//! What a connection's user sends, and how a writer comes to room and credit (K5, K6).

use super::{
    receive::Stored,
    Conn, //
};
use crate::{
    driver::{
        link::{
            self,
            Link, //
        },
        parameters,
        queue::{
            self,
            Cause,
            Pinned, //
        }, //
    },
    ext::{
        error::NetError,
        net::{
            msg::Msg,
            vsock::{
                OwnedSock,
                UserOwned, //
            },
            zerocopy::ZeroCopy, //
        }, //
    },
    proto::State,
    wire::{
        Header,
        Op,
        SocketType, //
    }, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

impl Conn {
    /// Sends up to `len` bytes of the user's, as the peer and memory have room. May sleep.
    ///
    /// # Errors
    ///
    /// - `EMSGSIZE`: a message can never be sent, being longer than the window (S4).
    /// - `EPIPE`: the connection is over, or the peer will not receive.
    /// - If nothing was sent: `ENODEV`, `ENOMEM`, `EFAULT`.
    pub(in crate::driver) fn enqueue(
        self: &Arc<Self>,
        sk: &UserOwned<'_>,
        msg: &mut Msg,
        len: usize,
    ) -> Result<usize> {
        if self.has_too_much_waiting() {
            return Ok(0);
        }
        let link = link::running();
        let want = u32::try_from(len).unwrap_or(u32::MAX);
        let message = self.socket_type() == SocketType::Seqpacket;
        let (granted, header) = {
            let mut inner = self.inner.lock();
            // The socket may not have been told yet: we own it.
            if !inner.state.may_send() {
                return Err(EPIPE);
            }
            if message && want > inner.credit.tx.window() {
                return Err(NetError::MsgSize.into());
            }
            let header = self.header(&inner, Op::Rw, 0);
            (inner.credit.tx.take(want) as usize, header)
        };
        if granted == 0 {
            return Ok(0);
        }
        let Some(link) = link else {
            let unsent = u32::try_from(granted).unwrap_or(u32::MAX);
            self.inner.lock().credit.tx.give_back(unsent);
            return Err(ENODEV);
        };
        let zerocopy = match ZeroCopy::begin(sk, msg, granted) {
            Ok(zerocopy) => zerocopy,
            Err(error) => {
                let unsent = u32::try_from(granted).unwrap_or(u32::MAX);
                self.inner.lock().credit.tx.give_back(unsent);
                return Err(error);
            }
        };
        let pinned = match &zerocopy {
            Some(zerocopy) => {
                // All of it, or none: the notification speaks of the whole call.
                let pinned = granted == len && parameters::zerocopy.get() && link.can_pin(msg);
                if !pinned {
                    zerocopy.is_copied();
                }
                Some((zerocopy, if pinned { Pinned::Yes } else { Pinned::No }))
            }
            None => None,
        };
        let mut sent = 0;
        let mut result = Ok(());
        while sent < granted && result.is_ok() {
            let left = granted.saturating_sub(sent);
            result = self
                .send_piece(&link, header, sk, msg, left, pinned)
                .map(|len| {
                    sent = sent.saturating_add(len);
                });
            if sent < granted && self.has_too_much_waiting() {
                break;
            }
        }
        if let Some(zerocopy) = zerocopy {
            zerocopy.end(sent > 0);
            // The user waits for the notification, which shall wait for no timer.
            link.streams.want_sent();
        }
        if sent < granted {
            let unsent = u32::try_from(granted.saturating_sub(sent)).unwrap_or(u32::MAX);
            self.inner.lock().credit.tx.give_back(unsent);
        }
        match result {
            Err(error) if sent == 0 => Err(error),
            _ => Ok(sent),
        }
    }

    /// Sends up to `len` bytes as one packet, or adds them to one that waits. May sleep.
    fn send_piece(
        self: &Arc<Self>,
        link: &Arc<Link>,
        header: Header,
        sk: &OwnedSock<'_>,
        msg: &mut Msg,
        len: usize,
        zerocopy: Option<(&ZeroCopy<'_>, Pinned)>,
    ) -> Result<usize> {
        if zerocopy.is_none() && queue::is_small(len) {
            if let Some(mut open) = link.take_open(&self.backlog) {
                let added = queue::extend(&mut open, msg, len);
                link.send(open)?;
                return added;
            }
        }
        let (packet, len) = queue::data(header, self.clone(), sk, msg, len, zerocopy)?;
        link.send(packet)?;
        Ok(len)
    }

    /// Wakes a writer who was told that too much waits, if there is room now. Nothing is locked.
    pub(in crate::driver) fn tell_of_room(&self) {
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
    pub(in crate::driver) fn writable(self: &Arc<Self>) -> u32 {
        let free = self.inner.lock().credit.tx.free();
        if free == 0 {
            self.ask_for_credit();
        } else if self.has_too_much_waiting() {
            return 0;
        }
        free
    }

    /// Asks a peer for credit that does not know that we wait.
    pub(in crate::driver) fn ask_for_credit(self: &Arc<Self>) {
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

    /// The number of bytes that the device has not yet taken, which it is to say when it has: somebody waits for
    /// that. Does not sleep.
    pub(in crate::driver) fn unsent(&self) -> usize {
        if self.backlog.unsent() > 0 {
            link::with(|link| link.streams.want_sent());
        }
        self.backlog.unsent()
    }
}
