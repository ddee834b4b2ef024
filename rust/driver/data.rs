// SPDX-License-Identifier: GPL-2.0

//! A connection's payload: from the user to packets, and from packets to the user.

use super::{
    conn::{
        Conn,
        Inner, //
    },
    inbox::{
        self,
        Message, //
    },
    link::{
        self,
        Link, //
    },
    parameters,
    queue::{
        self,
        Payload,
        Pinned, //
    }, //
};
use crate::{
    ext::{
        error::NetError,
        net::{
            msg::Msg,
            skbuff::SkBuff,
            vsock::{
                OwnedSock,
                UserOwned, //
            },
            zerocopy::ZeroCopy, //
        }, //
    },
    proto::{
        Actions,
        Send,
        SockError, //
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
    /// Sends up to `len` bytes of the user's, as the peer and memory have room. May sleep.
    ///
    /// # Errors
    ///
    /// - `EMSGSIZE`: a message can never be sent, being longer than the window (S4).
    /// - `EPIPE`: the connection is over, or the peer will not receive.
    /// - If nothing was sent: `ENODEV`, `ENOMEM`, `EFAULT`.
    pub(super) fn enqueue(
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

    /// Hands up to `len` received bytes to the user. May sleep.
    ///
    /// The buffers are taken out meanwhile, so that nothing is locked while the user's memory is
    /// touched; what arrives then begins another queue.
    ///
    /// # Errors
    ///
    /// `EFAULT` if nothing could be handed over.
    pub(super) fn dequeue(
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
    pub(super) fn dequeue_message(
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
            let _ = self.send(Some(Send::CreditUpdate), GFP_KERNEL);
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
    pub(super) fn before_read_sleep(self: &Arc<Self>, lowat: u32) {
        let due = {
            let mut inner = self.inner.lock();
            inner.lowat = lowat;
            inner.credit.rx.update_due(lowat)
        };
        if due {
            let _ = self.send(Some(Send::CreditUpdate), GFP_KERNEL);
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
    pub(super) fn read_skbs(self: &Arc<Self>, taker: &mut dyn FnMut(SkBuff) -> bool) -> Result {
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
            let _ = self.send(Some(Send::CreditUpdate), GFP_ATOMIC);
        }
        self.follow(drained);
        read.map(|(skb, _)| skb)
    }
}
