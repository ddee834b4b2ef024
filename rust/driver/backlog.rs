// SPDX-License-Identifier: GPL-2.0

//! What of a connection waits for room in the transmit queue, how much memory that may be (K5), and how its
//! writer comes to room (K6).
//!
//! Small writes would each be a packet, of a kilobyte for a byte: while packets of the connection wait,
//! they are put together in one that stays here, open, until it is full, something else follows, or its
//! turn comes.

use super::{
    conn::Conn,
    data::Stored,
    device,
    packet::{
        self,
        Kind,
        Packet, //
    }, //
};
use crate::{
    ext::sync::{
        new_spinlock_bh,
        SpinLockBh, //
    },
    proto::State,
    wire::Op, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    }, //
};

/// What of a connection waits.
///
/// There is an open packet only while other packets of the connection wait, whose turn comes first: so
/// whoever takes the last of those takes the open one too.
#[pin_data]
pub(super) struct Backlog {
    #[pin]
    inner: SpinLockBh<Inner>,
}

struct Inner {
    /// Packets in the list of all that wait; the open one is not among them.
    packets: usize,
    /// The memory of those with payload, the open one included, in bytes.
    memory: usize,
    /// With so much, the writer has to wait.
    limit: usize,
    open: Option<Packet>,
    /// A writer was told that there is no room.
    refused: bool,
}

/// What may wait of a connection with a buffer of `buf_alloc` bytes, in bytes of memory.
const fn limit(buf_alloc: u32) -> usize {
    (buf_alloc as usize).saturating_mul(2)
}

impl Backlog {
    /// Nothing, of a connection with a buffer of `buf_alloc` bytes.
    pub(super) fn new(buf_alloc: u32) -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_spinlock_bh!(
                Inner {
                    packets: 0,
                    memory: 0,
                    limit: limit(buf_alloc),
                    open: None,
                    refused: false,
                },
                "Backlog::inner"
            ),
        })
    }

    /// The connection's buffer has another size. Returns whether a writer is to be told of room.
    pub(super) fn set_buf_alloc(&self, buf_alloc: u32) -> bool {
        self.inner.lock().limit = limit(buf_alloc);
        self.has_room_again()
    }

    /// Whether packets of the connection wait.
    pub(super) fn has_packets(&self) -> bool {
        self.inner.lock().packets > 0
    }

    /// A packet of the connection goes into the list, of `memory` bytes if it has payload.
    pub(super) fn enters(&self, memory: usize) {
        let mut inner = self.inner.lock();
        inner.packets = inner.packets.saturating_add(1);
        inner.memory = inner.memory.saturating_add(memory);
    }

    /// A packet of the connection has left the list. If it was the last one, returns the open one.
    pub(super) fn leaves(&self, memory: usize) -> Option<Packet> {
        let mut inner = self.inner.lock();
        inner.packets = inner.packets.saturating_sub(1);
        inner.memory = inner.memory.saturating_sub(memory);
        if inner.packets == 0 {
            inner.take_open()
        } else {
            None
        }
    }

    /// Keeps `packet` open behind those that wait; returns it if there are none.
    pub(super) fn park(&self, packet: Packet) -> Option<Packet> {
        let mut inner = self.inner.lock();
        if inner.packets == 0 {
            return Some(packet);
        }
        inner.memory = inner.memory.saturating_add(packet.truesize());
        inner.open.replace(packet)
    }

    /// Takes the open packet out: to be added to, or to be closed.
    pub(super) fn take_open(&self) -> Option<Packet> {
        self.inner.lock().take_open()
    }

    /// Whether there is an open packet.
    pub(super) fn has_open(&self) -> bool {
        self.inner.lock().open.is_some()
    }

    /// Whether a writer has to wait for memory; one that does is told when there is room.
    pub(super) fn is_full(&self) -> bool {
        let mut inner = self.inner.lock();
        let full = inner.memory >= inner.limit;
        inner.refused |= full;
        full
    }

    /// A writer is to be told when there is room, for whatever reason there is none.
    pub(super) fn refuse(&self) {
        self.inner.lock().refused = true;
    }

    /// Whether there is room for one who was told that there is none; who asks tells him.
    pub(super) fn has_room_again(&self) -> bool {
        let mut inner = self.inner.lock();
        inner.memory < inner.limit && core::mem::replace(&mut inner.refused, false)
    }
}

impl Inner {
    fn take_open(&mut self) -> Option<Packet> {
        let open = self.open.take()?;
        self.memory = self.memory.saturating_sub(open.truesize());
        Some(open)
    }
}

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
        self.backlog.is_full() || device::streams_are_full(self)
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
        let sent = packet::control(&header, Some(self.clone()), Kind::Call, GFP_ATOMIC)
            .and_then(device::send);
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

    /// A packet with so many bytes of the user's is made.
    pub(super) fn given_to_device(&self, bytes: u32) {
        self.unsent.add(i64::from(bytes), Relaxed);
    }

    /// A packet with so many bytes has gone, as all do whatever becomes of them. Nothing is locked.
    pub(super) fn taken_by_device(&self, bytes: u32) {
        self.unsent.add(-i64::from(bytes), Relaxed);
        self.tell_of_room();
    }

    /// The number of bytes that the device has not yet taken.
    pub(super) fn unsent(&self) -> usize {
        usize::try_from(self.unsent.load(Relaxed)).unwrap_or(0)
    }
}
