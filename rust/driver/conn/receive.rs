// SPDX-License-Identifier: GPL-2.0

//! What a connection receives: from packets to the inbox, and from there to the user.

use super::{
    inbox::{
        self,
        Message, //
    },
    Conn,
    Inner, //
};
use crate::{
    driver::{
        link,
        queue::{
            Payload,
            Routed, //
        },
        stats::{
            Counter,
            STATS, //
        }, //
    },
    ext::net::{
        msg::Msg,
        skbuff::SkBuff,
        vsock::OwnedSock, //
    },
    proto::{
        Actions,
        Control,
        SockError,
        State, //
    },
    wire::{
        Header,
        Op,
        SeqFlags,
        SocketType, //
    }, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// What is to be done for the user once a packet's payload is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// Nothing: there is nobody to read it, or not yet enough.
    Silently,
    /// Wake a reader who waits for no more than there is; `most` can come at all.
    Bytes { unread: u32, most: u32 },
    /// Wake a reader: a whole message has arrived (S3).
    Message,
}

impl Inner {
    /// Finds the memory that it takes to store the payload of a packet; false if the packet has to wait.
    pub(super) fn prepare(
        &mut self,
        ty: SocketType,
        header: &Header,
        payload: &mut Payload,
    ) -> bool {
        let message = (ty == SocketType::Seqpacket).then(|| SeqFlags::from_raw(header.flags));
        let (unread, buf_alloc) = (self.credit.rx.unread(), self.credit.rx.buf_alloc());
        self.inbox.prepare(payload, unread, message, buf_alloc)
    }

    /// Stores the payload of a packet for the reader; or, with `discard`, counts it as read.
    pub(super) fn store(
        &mut self,
        ty: SocketType,
        header: &Header,
        payload: &mut Payload,
        discard: bool,
    ) -> Result<Stored, SockError> {
        let unread = self.credit.rx.unread();
        self.credit
            .rx
            .receive(header.len)
            .map_err(|_| SockError::NoBufs)?;
        if discard {
            self.credit.rx.consume(header.len);
            return Ok(Stored::Silently);
        }
        let message = (ty == SocketType::Seqpacket).then(|| SeqFlags::from_raw(header.flags));
        if let Err(error) = self.inbox.store(payload, unread, message) {
            // What is lost must not count as there to be read: a reader would look for it for ever.
            self.credit.rx.consume(header.len);
            return Err(error);
        }
        Ok(match message {
            None => self.bytes_to_read(),
            Some(flags) if flags.contains(SeqFlags::EOM) => Stored::Message,
            Some(_) => Stored::Silently,
        })
    }

    /// What there is to read of a stream.
    pub(super) fn bytes_to_read(&self) -> Stored {
        Stored::Bytes {
            unread: self.credit.rx.unread(),
            most: self.credit.rx.reachable(u32::MAX),
        }
    }

    /// Whether the peer cannot end the message that it has begun without being told of room (K4).
    pub(super) fn message_is_stuck(&self, ty: SocketType) -> bool {
        let unread = self.credit.rx.unread();
        ty == SocketType::Seqpacket
            && self.inbox.messages() == 0
            && self.credit.rx.update_due(unread.saturating_add(1))
    }
}

impl Conn {
    /// A packet from the peer has come.
    pub(in crate::driver) fn receive(
        self: &Arc<Self>,
        header: &Header,
        op: Op,
        payload: &mut Payload,
    ) -> Routed {
        let (mut had_room, mut has_room, mut due, mut asks) = (false, false, false, false);
        let mut stored = Stored::Silently;
        let mut held = false;
        let actions = self.decide(|inner| {
            if payload.is_damaged() {
                // Bytes were lost on the way (M2).
                return inner.state.abort(SockError::ConnReset);
            }
            if op == Op::Rw && !inner.prepare(self.ty, header, payload) {
                held = true;
                return Actions::NONE;
            }
            had_room = inner.credit.tx.free() > 0;
            // A peer that has just told of another buffer may stall earlier than was thought, and stop us
            // later.
            let changed = inner.credit.update(header);
            has_room = inner.credit.tx.free() > 0;
            asks = changed && !has_room;
            let unread = inner.credit.rx.unread();
            let actions = inner.state.packet(op, header.flags, unread > 0);
            if !actions.deliver && !actions.discard {
                if changed && inner.state.state() == State::Established {
                    due = inner.credit.rx.update_due(inner.lowat);
                    if unread > 0 && self.ty == SocketType::Stream {
                        stored = inner.bytes_to_read();
                    }
                }
                return actions;
            }
            match inner.store(self.ty, header, payload, actions.discard) {
                Ok(what) => {
                    stored = what;
                    due = inner.message_is_stuck(self.ty)
                        || (changed && inner.credit.rx.update_due(inner.lowat));
                    actions
                }
                Err(error) => {
                    STATS.count(Counter::Overrun);
                    inner.state.abort(error)
                }
            }
        });
        if held {
            return Routed::Held;
        }
        if actions.reply_rst {
            if let Some(link) = link::running() {
                link.refuse(header);
            }
        }
        self.follow(actions);
        if due {
            let _ = self.send(Some(Control::CreditUpdate), GFP_ATOMIC);
        }
        if asks {
            self.ask_for_credit();
        }
        self.wake(stored, has_room && !had_room);
        Routed::Done
    }

    /// Wakes those who wait for what has come.
    pub(super) fn wake(&self, stored: Stored, room: bool) {
        if stored == Stored::Silently && !room {
            return;
        }
        let Some(sk) = self.sk.upgrade() else {
            return;
        };
        match stored {
            Stored::Silently => {}
            Stored::Bytes { unread, most } if unread < sk.rcvlowat().min(most) => {}
            Stored::Bytes { .. } | Stored::Message => sk.data_ready(),
        }
        if room {
            sk.write_space();
        }
    }

    /// The number of bytes to read.
    pub(in crate::driver) fn readable(self: &Arc<Self>) -> u32 {
        self.unless_withheld(|inner| inner.credit.rx.unread())
    }

    /// Whether a reader who waits for `target` bytes has them, or as many as can come (K6).
    pub(in crate::driver) fn is_readable(self: &Arc<Self>, target: u32) -> bool {
        let unread = self.readable();
        unread > 0 && unread >= self.inner.lock().credit.rx.reachable(target)
    }

    /// The number of whole messages to read.
    pub(in crate::driver) fn messages(self: &Arc<Self>) -> u32 {
        self.unless_withheld(|inner| inner.inbox.messages())
    }

    /// What is `waiting`, or nothing if it came to a connect() that gave up, or if sockmap is to have it: a reader
    /// would overtake what came before and is on its way through a verdict. What nobody hands over just now is
    /// handed over soon.
    fn unless_withheld(self: &Arc<Self>, waiting: impl FnOnce(&Inner) -> u32) -> u32 {
        let waiting = {
            let inner = self.inner.lock();
            if inner.state.is_abandoned() {
                return 0;
            }
            waiting(&inner)
        };
        if waiting == 0 || !self.sk.upgrade().is_some_and(|sk| sk.has_verdict()) {
            return waiting;
        }
        self.table.tell_later(self);
        0
    }

    /// Hands up to `len` received bytes to the user. May sleep.
    ///
    /// The buffers are taken out meanwhile, so that nothing is locked while the user's memory is
    /// touched; what arrives then begins another queue.
    ///
    /// # Errors
    ///
    /// `EFAULT` if nothing could be handed over.
    pub(in crate::driver) fn dequeue(
        self: &Arc<Self>,
        sk: &OwnedSock<'_>,
        msg: &mut Msg,
        len: usize,
        peek: bool,
    ) -> Result<usize> {
        let mut queue = self.inner.lock().inbox.take();
        let mut copied = 0;
        let result = if peek {
            inbox::copy_bytes(&queue, msg, len, &mut copied)
        } else {
            inbox::take_bytes(&mut queue, msg, len, &mut copied)
        };
        self.is_read(sk, queue, if peek { 0 } else { copied }, None);
        match result {
            Err(error) if copied == 0 => Err(error),
            _ => Ok(copied),
        }
    }

    /// Hands the first message to the user, and returns its length (S2). May sleep.
    ///
    /// As [`dequeue`](Self::dequeue). A message that does not fit is cut, and gone.
    ///
    /// # Errors
    ///
    /// `EFAULT`: the user's memory cannot be written; the message is gone, unless it was but to be
    /// looked at.
    pub(in crate::driver) fn dequeue_message(
        self: &Arc<Self>,
        sk: &OwnedSock<'_>,
        msg: &mut Msg,
        peek: bool,
    ) -> Result<usize> {
        let mut queue = {
            let mut inner = self.inner.lock();
            if inner.inbox.messages() == 0 {
                return Ok(0);
            }
            inner.inbox.take()
        };
        let (message, result) = if peek {
            inbox::copy_message(&queue, msg)
        } else {
            inbox::take_message(&mut queue, msg)
        };
        if message.eor {
            msg.set_end_of_record();
        }
        if peek {
            self.is_read(sk, queue, 0, None);
        } else {
            self.is_read(sk, queue, message.len, Some(&message));
        }
        result.map(|()| message.len)
    }

    /// Puts back what was not read of `queue`, and tells the peer of room if it is time.
    fn is_read(
        self: &Arc<Self>,
        sk: &OwnedSock<'_>,
        queue: inbox::Queue,
        bytes: usize,
        message: Option<&Message>,
    ) {
        let (mut due, mut missed) = (false, false);
        let drained = self.decide(|inner| {
            missed = inner.inbox.put_back(queue);
            if let Some(message) = message {
                inner.inbox.message_is_read(message);
            }
            if bytes == 0 {
                return Actions::NONE;
            }
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            inner.credit.rx.consume(bytes);
            inner.lowat = sk.rcvlowat();
            due = inner.credit.rx.update_due(inner.lowat)
                || inner.message_is_stuck(self.socket_type());
            if inner.credit.rx.unread() > 0 {
                return Actions::NONE;
            }
            inner.state.drained()
        });
        if due {
            let _ = self.send(Some(Control::CreditUpdate), GFP_KERNEL);
        }
        if !drained.is_empty() {
            self.send_all(&drained, GFP_KERNEL);
            self.told(sk);
        }
        if missed {
            sk.data_ready();
        }
    }

    /// A reader is going to wait until there are `lowat` bytes: the peer must be able to send them (K6).
    pub(in crate::driver) fn before_read_sleep(self: &Arc<Self>, lowat: u32) {
        let due = {
            let mut inner = self.inner.lock();
            inner.lowat = lowat;
            inner.credit.rx.update_due(lowat)
        };
        if due {
            let _ = self.send(Some(Control::CreditUpdate), GFP_KERNEL);
        }
    }

    /// Hands all that was received to `taker`, for sockmap, until it says no more. Does not sleep.
    ///
    /// One at a time does so, as the order would be lost between two; it does the other's share.
    ///
    /// # Errors
    ///
    /// - `EAGAIN`: there is nothing, or somebody reads just now, and will come to it when he is done.
    /// - `ENOMEM`: no memory; it stays, and is offered again soon.
    pub(in crate::driver) fn read_skbs(
        self: &Arc<Self>,
        taker: &mut dyn FnMut(SkBuff) -> bool,
    ) -> Result {
        if !self.inner.lock().inbox.begin_handing_over() {
            return Err(EAGAIN);
        }
        loop {
            let outcome = loop {
                match self.read_skb().map(&mut *taker) {
                    Ok(true) => {}
                    Ok(false) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            if !self.inner.lock().inbox.end_handing_over() {
                if outcome == Err(ENOMEM) {
                    self.table.tell_later(self);
                }
                return outcome;
            }
        }
    }

    /// Takes the next of what was received as a buffer of its own.
    fn read_skb(self: &Arc<Self>) -> Result<SkBuff> {
        let mut due = false;
        let mut read = Err(EAGAIN);
        let drained = self.decide(|inner| {
            read = inner.inbox.read_skb();
            let Ok((skb, message)) = &read else {
                return Actions::NONE;
            };
            let bytes = u32::try_from(skb.len()).unwrap_or(u32::MAX);
            if let Some(message) = message {
                inner.inbox.message_is_read(message);
            }
            inner.credit.rx.consume(bytes);
            due = inner.credit.rx.update_due(inner.lowat);
            if inner.credit.rx.unread() > 0 {
                return Actions::NONE;
            }
            inner.state.drained()
        });
        if due {
            let _ = self.send(Some(Control::CreditUpdate), GFP_ATOMIC);
        }
        self.follow(drained);
        read.map(|(skb, _)| skb)
    }
}
