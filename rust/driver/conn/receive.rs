// SPDX-License-Identifier: GPL-2.0

//! What a connection receives: from packets to the inbox, and from there to the user.

use super::{
    inbox::{
        self,
        Message, //
    },
    publish::News,
    table::Key,
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
        trace::{
            self,
            Why, //
        }, //
    },
    ext::net::{
        msg::Msg,
        skbuff::SkBuff,
        vsock::OwnedSock, //
    },
    proto::{
        Actions,
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

impl Inner {
    /// Tells the rules of a packet, and stores its payload, if there is some and it is wanted; none if it has to
    /// wait for memory, and nothing has happened.
    fn take_in(&mut self, header: &Header, op: Op, payload: &mut Payload) -> Option<Actions> {
        let message = (self.end.socket_type() == SocketType::Seqpacket)
            .then(|| SeqFlags::from_raw(header.flags));
        let (unread, buf_alloc) = (self.end.unread(), self.end.buf_alloc());
        if op == Op::Rw
            && !payload.is_damaged()
            && !self.inbox.prepare(payload, unread, message, buf_alloc)
        {
            return None;
        }
        let actions = self.end.on_packet(header, op, payload.is_damaged());
        if !actions.deliver {
            return Some(actions);
        }
        let stored = self.inbox.store(payload, unread, message);
        Some(self.end.on_stored(header, actions, stored))
    }

    /// Tells the rules that `bytes` were taken out of the inbox for good, or `message` was.
    fn on_read(&mut self, bytes: usize, message: Option<&Message>, lowat: u32) -> Actions {
        if let Some(message) = message {
            self.inbox.forget(message);
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let messages = message.map_or(0, |message| u32::from(message.whole));
        self.end.on_read(bytes, messages, lowat)
    }
}

impl Conn {
    /// Receives a packet between the addresses of `key`, by which the table has led to this connection; none if
    /// connect() has taken it to another peer since, and the packet is nobody's.
    ///
    /// # Context
    ///
    /// Called under `Rx::inner`; does not sleep, and takes the spinlock of the socket's lock.
    pub(in crate::driver) fn receive(
        self: &Arc<Self>,
        key: Key,
        header: &Header,
        op: Op,
        payload: &mut Payload,
    ) -> Option<Routed> {
        let mut routed = Some(Routed::Done);
        let actions = self.decide(|inner| {
            if inner.addresses() != key {
                routed = None;
                return Actions::NONE;
            }
            inner.take_in(header, op, payload).unwrap_or_else(|| {
                routed = Some(Routed::Held);
                Actions::NONE
            })
        });
        if routed != Some(Routed::Done) {
            return routed;
        }
        let why = match actions.error {
            Some(SockError::NoBufs | SockError::NoMem) => Some(Why::Overrun),
            _ if actions.count_bad_op => Some(Why::BadOp),
            _ if actions.discard && header.len > 0 => Some(Why::Unwanted),
            _ => None,
        };
        if let Some(why) = why {
            self.count_drop();
            trace::dropped(header, why);
        }
        if actions.reply_rst {
            link::refuse(header);
        }
        // What it could not send is owed, or no peer is left to be told.
        let _ = self.carry_out(&actions, GFP_ATOMIC);
        self.publish_if_new(&actions);
        routed
    }

    /// The number of bytes to read. Where there are none, the peer may wait for what waits here.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Connections::unsettled` and `Tx::inner`, and may let the socket go.
    pub(in crate::driver) fn readable(self: &Arc<Self>) -> u32 {
        let readable = self.inner.lock().end.readable();
        if readable == 0 {
            self.send_open();
        }
        self.unless_withheld(readable)
    }

    /// Whether a reader who waits for `target` bytes has them, or as many as can come (K6).
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Connections::unsettled`, and may let the socket go.
    pub(in crate::driver) fn is_readable(self: &Arc<Self>, target: u32) -> bool {
        self.readable() > 0 && self.inner.lock().end.is_readable(target)
    }

    /// The number of whole messages to read.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Connections::unsettled`, and may let the socket go.
    pub(in crate::driver) fn messages(self: &Arc<Self>) -> u32 {
        let messages = self.inner.lock().end.messages();
        self.unless_withheld(messages)
    }

    /// What is `waiting`, or nothing if sockmap is to have it: a reader would overtake what came before and
    /// is on its way through a verdict. What no call hands over just now is handed over soon.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Connections::unsettled`, and may let the socket go.
    fn unless_withheld(self: &Arc<Self>, waiting: u32) -> u32 {
        if waiting == 0 || !self.sk.upgrade().is_some_and(|sk| sk.has_verdict()) {
            return waiting;
        }
        self.table.try_later(self);
        0
    }

    /// Hands up to `len` received bytes to the user.
    ///
    /// The buffers are taken out meanwhile, so that nothing is locked while the user's memory is
    /// touched; what arrives then begins another queue.
    ///
    /// # Context
    ///
    /// May sleep.
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
        self.finish_read(sk, queue, if peek { 0 } else { copied }, None);
        match result {
            Err(error) if copied == 0 => Err(error),
            _ => Ok(copied),
        }
    }

    /// Hands the first message to the user, and returns its length (S2).
    ///
    /// As [`dequeue`](Self::dequeue). A message that does not fit is cut, and gone.
    ///
    /// # Context
    ///
    /// May sleep.
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
            if inner.end.messages() == 0 {
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
            self.finish_read(sk, queue, 0, None);
        } else {
            self.finish_read(sk, queue, message.len, Some(&message));
        }
        result.map(|()| message.len)
    }

    /// Puts back what was not read of `queue`, and tells the peer of room if it is time.
    ///
    /// # Context
    ///
    /// May sleep.
    fn finish_read(
        self: &Arc<Self>,
        sk: &OwnedSock<'_>,
        queue: inbox::Queue,
        bytes: usize,
        message: Option<&Message>,
    ) {
        let mut missed = false;
        let actions = self.decide(|inner| {
            missed = inner.inbox.put_back(queue);
            inner.on_read(bytes, message, sk.rcvlowat())
        });
        // What it could not send is owed, or no peer is left to be told.
        let _ = self.carry_out(&actions, GFP_KERNEL);
        if News::is_in(&actions) {
            self.publish(sk);
        }
        if missed {
            sk.data_ready();
        }
    }

    /// Sees to it that the peer can send `lowat` bytes, for which a reader is going to wait (K6).
    ///
    /// # Context
    ///
    /// Does not sleep: the reader is about to. What finds no memory is tried again later.
    pub(in crate::driver) fn before_read_sleep(self: &Arc<Self>, lowat: u32) {
        let actions = self.decide(|inner| inner.end.on_wait_to_read(lowat));
        let _ = self.carry_out(&actions, GFP_ATOMIC);
    }

    /// Hands all that was received to `taker`, for sockmap, until it says no more.
    ///
    /// One call at a time does so, as the order would be lost between two; it does the share of the other.
    ///
    /// # Context
    ///
    /// Does not sleep; takes the spinlock of the socket's lock.
    ///
    /// # Errors
    ///
    /// - `EAGAIN`: there is nothing, or another call reads or hands over just now, and comes to it.
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
                    self.table.try_later(self);
                }
                return outcome;
            }
        }
    }

    /// Takes the next of what was received as a buffer of its own.
    ///
    /// # Context
    ///
    /// Does not sleep; takes the spinlock of the socket's lock.
    ///
    /// # Errors
    ///
    /// As of [`Inbox::read_skb`](inbox::Inbox::read_skb).
    fn read_skb(self: &Arc<Self>) -> Result<SkBuff> {
        let mut read = Err(EAGAIN);
        self.act(|inner| {
            read = inner.inbox.read_skb();
            let Ok((skb, message)) = &read else {
                return Actions::NONE;
            };
            inner.on_read(skb.len(), message.as_ref(), inner.end.lowat())
        });
        read.map(|(skb, _)| skb)
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(rvsock_conn_receive)]
mod tests {
    use super::*;
    use crate::{
        ext::net::vsock::Addr,
        proto::State, //
    };

    fn header(op: Op) -> Header {
        Header {
            op: op.into(),
            buf_alloc: 1000,
            ..Header::default()
        }
    }

    /// connect() may take a socket to another peer after the table has led to it, and before the packet is there.
    #[test]
    fn c2_a_packet_of_the_peer_before_is_nobodys() -> Result {
        let conn = Conn::of_nobody()?;
        let key = |cid| Key {
            peer: Addr { cid, port: 1 },
            local_port: 2,
        };
        let before = key(3);
        {
            let mut inner = conn.inner.lock();
            (inner.peer, inner.local_port) = (key(4).peer, 2);
            inner.end.accept(&header(Op::Request));
        }
        let receive = |key| conn.receive(key, &header(Op::Rst), Op::Rst, &mut Payload::new());
        assert_eq!(receive(before), None);
        assert_eq!(conn.inner.lock().end.state(), State::Established);
        assert_eq!(receive(key(4)), Some(Routed::Done));
        assert_eq!(conn.inner.lock().end.state(), State::Closed);
        Ok(())
    }
}
