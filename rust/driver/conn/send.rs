// SPDX-License-Identifier: GPL-2.0

//! What a connection's user sends, and how a writer comes to room and credit (K5, K6).

use super::Conn;
use crate::{
    driver::{
        link::{
            self,
            Link, //
        },
        parameters,
        queue::{
            self,
            Open,
            Packets,
            Pinned, //
        },
        stats::{
            Counter,
            STATS, //
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
    proto::{
        Actions,
        SendError, //
    },
    wire::{
        Header,
        Op,
        SocketType, //
    }, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    }, //
};

/// So many packets of a call go to the device at once, which is told of them once; it takes them while the next are
/// made.
const AT_ONCE: usize = 2;

fn errno(error: SendError) -> Error {
    match error {
        SendError::Over => EPIPE,
        SendError::TooLong => NetError::MsgSize.into(),
    }
}

impl Conn {
    /// Sends up to `len` bytes of the user's, as the peer and memory have room.
    ///
    /// # Context
    ///
    /// May sleep.
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
        let sent = self.join_or_send(sk, msg, len);
        if msg.more_follows() && self.backlog.has_open() {
            // Should the rest not come, or the device have nothing of this connection.
            self.table.try_later(self);
        }
        sent
    }

    /// As [`enqueue`](Self::enqueue), but for what the user says of the bytes that follow.
    fn join_or_send(
        self: &Arc<Self>,
        sk: &UserOwned<'_>,
        msg: &mut Msg,
        len: usize,
    ) -> Result<usize> {
        let want = u32::try_from(len).unwrap_or(u32::MAX);
        // There it needs no more memory, and meets nobody.
        if self.backlog.has_open() && !msg.asks_for_zerocopy() {
            let reserved = self.inner.lock().end.reserve(want).map_err(errno)?;
            if reserved == 0 {
                return Ok(0);
            }
            let added = msg.unmoved_on_error(|msg| self.add_to_open(msg, reserved as usize));
            if let Some(added) = added.transpose() {
                return self.settle_reserved(reserved, added);
            }
            self.inner.lock().end.give_back(reserved);
        }
        let link = link::running();
        if self.has_too_much_waiting(link.as_deref()) {
            return Ok(0);
        }
        // The socket may not have been told yet that the connection is over: we own it.
        let reserved = self.inner.lock().end.reserve(want).map_err(errno)?;
        if reserved == 0 {
            return Ok(0);
        }
        let result = link
            .ok_or(ENODEV)
            .and_then(|link| self.send_reserved(&link, sk, msg, reserved as usize, len));
        self.settle_reserved(reserved, result)
    }

    /// Gives back credit for what was reserved and not `sent`.
    fn settle_reserved(&self, reserved: u32, sent: Result<usize>) -> Result<usize> {
        let bytes = sent.map_or(0, |sent| u32::try_from(sent).unwrap_or(u32::MAX));
        if bytes < reserved {
            let unsent = reserved.saturating_sub(bytes);
            self.inner.lock().end.give_back(unsent);
        }
        sent
    }

    /// Adds up to `len` bytes, for which there is credit, to the packet that waits for them, if there is one.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// - `ENODEV`: there is no device.
    /// - `EFAULT`: the user's memory cannot be read.
    fn add_to_open(self: &Arc<Self>, msg: &mut Msg, len: usize) -> Result<Option<usize>> {
        let add = |open: &mut Open| queue::extend(open, msg, len);
        let Some((added, open)) = self.backlog.add_to_open(add) else {
            return Ok(None);
        };
        if added.is_ok() {
            STATS.count(Counter::TxJoined);
        }
        if let Some(open) = open {
            link::running().ok_or(ENODEV)?.send(open)?;
        }
        added.map(Some)
    }

    /// Sends up to `reserved` bytes of the `len` that the user wants to send; fewer of a stream if too much waits.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// If nothing was sent: `ENODEV`, `ENOMEM`, `EFAULT`.
    fn send_reserved(
        self: &Arc<Self>,
        link: &Arc<Link>,
        sk: &UserOwned<'_>,
        msg: &mut Msg,
        reserved: usize,
        len: usize,
    ) -> Result<usize> {
        let header = self.header(link.cid(), &self.inner.lock(), Op::Rw, 0);
        let zerocopy = ZeroCopy::begin(sk, msg, reserved)?;
        let pinned = match &zerocopy {
            Some(zerocopy) => {
                // All of it, or none: the notification speaks of the whole call.
                let pinned = reserved == len && parameters::zerocopy.get() && link.can_pin(msg);
                if !pinned {
                    zerocopy.mark_copied();
                }
                Some((zerocopy, if pinned { Pinned::Yes } else { Pinned::No }))
            }
            None => None,
        };
        let mut sent = 0;
        let mut result = Ok(());
        while sent < reserved && result.is_ok() {
            let left = reserved.saturating_sub(sent);
            // The caller goes on from where the message stands: it must stand behind what is reported.
            result = msg
                .unmoved_on_error(|msg| self.send_some(link, header, sk, msg, left, pinned))
                .map(|len| {
                    sent = sent.saturating_add(len);
                });
            // Of a message all goes for which there is credit: who sends without waiting would be told that nothing has.
            let may_stop = self.ty == SocketType::Stream && sent < reserved;
            if may_stop && self.has_too_much_waiting(Some(link)) {
                break;
            }
        }
        let within = self.ty == SocketType::Seqpacket && sent < len;
        // Relaxed: who sends owns the socket.
        self.is_within_message.store(
            within && (sent > 0 || self.is_within_message.load(Relaxed)),
            Relaxed,
        );
        if let Some(zerocopy) = zerocopy {
            zerocopy.end(sent > 0);
            // The user waits for the notification, which shall wait for no timer.
            link.streams.ask_for_completion(link);
        }
        match result {
            Err(error) if sent == 0 => Err(error),
            _ => Ok(sent),
        }
    }

    /// Sends up to `len` bytes as a few packets, or adds them to one that waits.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// - `ENODEV`: there is no device.
    /// - `ENOMEM`: no memory.
    /// - `EFAULT`: the user's memory cannot be read.
    fn send_some(
        self: &Arc<Self>,
        link: &Arc<Link>,
        header: Header,
        sk: &OwnedSock<'_>,
        msg: &mut Msg,
        len: usize,
        zerocopy: Option<(&ZeroCopy<'_>, Pinned)>,
    ) -> Result<usize> {
        if zerocopy.is_none() {
            if let Some(added) = self.add_to_open(msg, len)? {
                return Ok(added);
            }
            if let Some(room) = self.opens(msg, len) {
                let (open, len) = queue::open(header, self.clone(), sk, msg, len, room)?;
                link.join(open)?;
                return Ok(len);
            }
        }
        let (mut packets, mut sent) = (Packets::new(), 0);
        while sent < len && packets.len() < AT_ONCE {
            let left = len.saturating_sub(sent);
            // What is left may wait for the next writes.
            if !packets.is_empty() && zerocopy.is_none() && self.opens(msg, left).is_some() {
                break;
            }
            let packet = msg
                .unmoved_on_error(|msg| queue::data(header, self.clone(), sk, msg, left, zerocopy));
            match packet {
                Ok((packet, len)) => {
                    packets.push_back(packet);
                    sent = sent.saturating_add(len);
                }
                // It comes again when what is there has gone.
                Err(_) if !packets.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        link.send_all(packets)?;
        Ok(sent)
    }

    /// The room of the packet that a write of `len` bytes is to begin, if others may be added to it.
    fn opens(&self, msg: &Msg, len: usize) -> Option<usize> {
        (self.ty == SocketType::Stream && parameters::cork.get())
            .then(|| self.backlog.begin(len, msg.more_follows()))
            .flatten()
    }

    /// Sends what small writes were put together in, as there is a reason not to wait for more.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(super) fn send_open(&self) {
        if !self.backlog.has_open() {
            return;
        }
        match link::running() {
            Some(link) => link.send_open(&self.backlog),
            None => drop(self.backlog.take_open()),
        }
    }

    /// Wakes a writer who was told that too much waits, if there is room now.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Backlog::inner`, and may let the socket go.
    pub(super) fn tell_of_room(&self) {
        if !self.backlog.has_room_again() {
            return;
        }
        if let Some(sk) = self.sk.upgrade() {
            sk.write_space();
        }
    }

    /// Whether too much waits for the device to be sent, of this connection or of all; a writer who is told
    /// so is woken when there is room. What is left of a message goes all the same: its length is bounded by the credit.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    fn has_too_much_waiting(&self, link: Option<&Link>) -> bool {
        // Relaxed: who polls meanwhile is told what was true a moment ago.
        if self.is_within_message.load(Relaxed) {
            return false;
        }
        self.backlog.is_full() || link.is_some_and(|link| link.is_full_for(&self.backlog))
    }

    /// The number of bytes that may be sent. A peer that does not know that there is no room is asked, since
    /// a writer who polls comes by here alone (K6).
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn writable(self: &Arc<Self>) -> u32 {
        let mut free = 0;
        let actions = self.decide(|inner| {
            free = inner.end.free();
            if free == 0 {
                inner.end.on_wait_to_write()
            } else {
                Actions::NONE
            }
        });
        if free == 0 {
            let _ = self.carry_out(&actions, GFP_ATOMIC);
        } else if self.has_too_much_waiting(link::running().as_deref()) {
            return 0;
        }
        free
    }

    /// Asks the peer for credit, unless it knows that a writer is going to wait (K6).
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn before_write_sleep(self: &Arc<Self>) {
        let actions = self.decide(|inner| inner.end.on_wait_to_write());
        let _ = self.carry_out(&actions, GFP_ATOMIC);
    }

    /// The number of bytes that the device has not yet taken; asks it to say when it has, as the caller waits
    /// for that.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn unsent(&self) -> usize {
        if self.backlog.unsent() > 0 {
            if let Some(link) = link::running() {
                link.streams.ask_for_completion(&link);
            }
        }
        self.backlog.unsent()
    }
}
