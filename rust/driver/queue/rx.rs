// SPDX-License-Identifier: GPL-2.0

//! Reception: from the device to the connections.
//!
//! The queue is filled with a few large buffers. What brought a small payload is copied out of and
//! posted again at once; only a large payload takes its pages along, and new ones take their place.

use super::{
    payload::Payload,
    tap, //
};
use crate::{
    driver::{
        stats::{
            Counter,
            STATS, //
        },
        trace::{
            self,
            Why, //
        }, //
    },
    ext::{
        mm::PageBlock,
        net::skbuff::SkBuff,
        sync::{
            new_spinlock_bh,
            SpinLockBh, //
        },
        virtio::Virtqueue, //
    },
    proto::{
        Assembly,
        Fault,
        Supply,
        Used, //
    },
    wire::{
        Header,
        HeaderMrg,
        HEADER_LEN_MRG, //
    }, //
};
use kernel::{
    alloc::Flags,
    prelude::*, //
};

/// What a buffer holds where a header comes, until the device writes one.
const NO_HEADER: [u8; HEADER_LEN_MRG] = [0; HEADER_LEN_MRG];

/// How many packets are received before others may run.
const BUDGET: usize = 64;

/// A receive queue: of connections, or of datagrams.
#[pin_data]
pub(in crate::driver) struct Rx {
    #[pin]
    inner: SpinLockBh<Inner>,
}

/// The buffers of a receive queue.
#[derive(Clone, Copy, Debug)]
pub(in crate::driver) struct BufferLayout {
    /// The size of each is a page, doubled as many times.
    pub(in crate::driver) order: u32,
    /// The memory of all of them, in bytes.
    pub(in crate::driver) memory: usize,
    /// The memory of those that a device has at rest, in bytes.
    pub(in crate::driver) at_rest: usize,
    /// The length of the header of each packet in bytes.
    pub(in crate::driver) header_len: usize,
    /// Whether a packet may take several of them (M1).
    pub(in crate::driver) merges: bool,
}

impl BufferLayout {
    const NONE: Self = Self {
        order: 0,
        memory: 0,
        at_rest: 0,
        header_len: 0,
        merges: false,
    };

    /// The size of a buffer in bytes.
    pub(in crate::driver) fn buffer(&self) -> usize {
        kernel::page::PAGE_SIZE << self.order.min(PageBlock::MAX_ORDER)
    }
}

/// What the lock guards: nothing of it sleeps.
struct Inner {
    /// None while the device does not run.
    queue: Option<Virtqueue<PageBlock>>,
    layout: BufferLayout,
    /// The buffers that the device has.
    supply: Supply,
    /// The payload of the packet that is being received, and its buffers.
    payload: Payload,
    /// The header of a packet that was taken from the queue and waits for memory.
    held: Option<Header>,
    /// The held packet was counted, and shown to monitors.
    seen: bool,
    /// The device has lost count, so that the next packet may begin anywhere: what comes before the reset is
    /// none (M2).
    lost: bool,
}

/// What the queue has next.
enum Next {
    /// A packet; its payload is in [`Inner::payload`].
    Packet(Header),
    /// One that waits for memory in [`Inner::held`].
    Held,
    /// A buffer that is no packet, for this reason.
    Junk(Why),
    /// Nothing.
    Nothing,
    /// The device has lost count with this packet: the next one may begin anywhere (M2).
    Lost(Header),
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) enum Routed {
    /// All that was to be done.
    Done,
    /// Nothing: it has to wait for [memory](Payload::lacks_room), and is to come again.
    Held,
}

/// What is left to do after [`Rx::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) enum Outcome {
    /// Nothing before the device's next interrupt, or before there is room.
    Nothing,
    /// There is, or may be, more to receive.
    More,
    /// Memory is lacking: it must be found where one may wait for it.
    Refill,
    /// The device must be reset.
    Reset,
}

/// How large a receive queue is.
#[derive(Clone, Copy, Debug)]
pub(in crate::driver) struct Sizes {
    /// How many buffers the device can have.
    pub(in crate::driver) queue: usize,
    /// How many it is to have.
    pub(in crate::driver) buffers: usize,
    /// The size of each in bytes.
    pub(in crate::driver) buffer_bytes: usize,
}

impl Rx {
    /// Not running.
    pub(in crate::driver) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_spinlock_bh!(
                Inner {
                    queue: None,
                    layout: BufferLayout::NONE,
                    supply: Supply::new(0, 0, 1),
                    payload: Payload::new(),
                    held: None,
                    seen: false,
                    lost: false,
                },
                "Rx::inner"
            ),
        })
    }

    /// Receives through `queue` from now on, into buffers of `layout`.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(in crate::driver) fn start(
        &self,
        queue: Virtqueue<PageBlock>,
        layout: BufferLayout,
    ) -> Result {
        let buffers = if layout.merges { queue.size() } else { 1 };
        let payload = Payload::with_capacity(buffers, GFP_KERNEL)?;
        let mut inner = self.inner.lock();
        inner.supply = Supply::divide(
            layout.memory,
            layout.at_rest,
            layout.buffer(),
            layout.merges,
            queue.size(),
        );
        inner.layout = layout;
        inner.payload = payload;
        inner.held = None;
        inner.seen = false;
        inner.lost = false;
        inner.queue = Some(queue);
        Ok(())
    }

    /// Takes back all buffers; the device must not use them any more, or is reset by this.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(in crate::driver) fn stop(&self) {
        let (queue, payload) = {
            let mut inner = self.inner.lock();
            let payload = core::mem::replace(&mut inner.payload, Payload::new());
            inner.held = None;
            (inner.queue.take(), payload)
        };
        drop(queue);
        drop(payload);
    }

    /// Sees to it that the device has the buffers that it is to have.
    ///
    /// Returns whether it has enough to go on.
    ///
    /// # Context
    ///
    /// Sleeps if `flags` allow it; takes `Rx::inner`.
    pub(in crate::driver) fn refill(&self, flags: Flags) -> bool {
        loop {
            let order = {
                let mut inner = self.inner.lock();
                if inner.queue.is_none() || !inner.supply.lacks_some() {
                    inner.tell_if_due();
                    return true;
                }
                if inner.supply.is_enough_just_now() {
                    // Before the search for more memory, which may take its time.
                    inner.tell_if_due();
                }
                inner.layout.order
            };
            // Allocated without the lock, as that may sleep.
            let block = PageBlock::alloc(order, flags).or_else(|_| PageBlock::alloc(0, flags));
            let mut inner = self.inner.lock();
            if !block.is_ok_and(|block| inner.post(block)) {
                inner.tell_if_due();
                return inner.supply.posted() > 0 || inner.is_over();
            }
        }
    }

    /// Finds the memory that a packet waits for; tells whether one did.
    ///
    /// # Context
    ///
    /// May sleep. Takes `Rx::inner`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: it has to wait longer.
    pub(in crate::driver) fn help_held(&self) -> Result<bool> {
        let mut waited = false;
        loop {
            let (spare_skbs, room) = {
                let inner = self.inner.lock();
                waited |= inner.held.is_some();
                let held = inner.held.is_some();
                (
                    held && inner.payload.lacks_spare_skbs(),
                    inner.payload.lacks_room().filter(|_| held),
                )
            };
            if spare_skbs {
                let skb = SkBuff::alloc(0, GFP_KERNEL, ())?;
                self.inner.lock().payload.add_spare_skb(skb);
            } else if let Some(room) = room {
                let room = SkBuff::alloc(room, GFP_KERNEL, ())?;
                self.inner.lock().payload.add_room(room);
            } else {
                return Ok(waited);
            }
        }
    }

    /// Receives packets until there are none, or others shall have their turn, or `has_room` says that there
    /// is no room for one, and has `route` find whom each is for.
    ///
    /// # Context
    ///
    /// Does not sleep. Takes `Rx::inner`, and calls `has_room` and `route` under it, which must not sleep
    /// either.
    pub(in crate::driver) fn poll(
        &self,
        has_room: impl Fn() -> bool,
        mut route: impl FnMut(&Header, &mut Payload) -> Routed,
    ) -> Outcome {
        let mut inner = self.inner.lock();
        if let Some(queue) = &mut inner.queue {
            queue.disable_cb();
        }
        if inner.lost {
            return Outcome::Nothing;
        }
        inner.supply.begin_turn();
        for _ in 0..BUDGET {
            if !has_room() {
                return Outcome::Nothing;
            }
            match inner.next() {
                Next::Packet(header) => {
                    if !core::mem::replace(&mut inner.seen, true) {
                        tap::show_received(&header, &inner.payload);
                        STATS.count(Counter::RxPackets);
                        STATS.add(Counter::RxBytes, header.len);
                        trace::received(&header);
                        if inner.payload.is_damaged() {
                            trace::dropped(&header, Why::Damaged);
                        }
                    }
                    if route(&header, &mut inner.payload) == Routed::Held {
                        inner.held = Some(header);
                        STATS.count(Counter::RxHeld);
                        return Outcome::Refill;
                    }
                    inner.seen = false;
                }
                Next::Held => return Outcome::Refill,
                Next::Junk(why) => trace::dropped(&Header::default(), why),
                Next::Nothing => return inner.pause(),
                Next::Lost(header) => {
                    inner.lost = true;
                    trace::dropped(&header, Why::FramingLost);
                    return Outcome::Reset;
                }
            }
            inner.post_again();
            inner.tell_if_due();
        }
        STATS.count(Counter::RxTurns);
        Outcome::More
    }

    /// Tells the device of buffers though it has not asked for that.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Rx::inner`.
    pub(in crate::driver) fn notify(&self) {
        let mut inner = self.inner.lock();
        inner.supply.tell();
        if let Some(queue) = &mut inner.queue {
            STATS.count(Counter::RxKicks);
            queue.notify();
        }
    }

    /// Whether there is a queue to receive from.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Rx::inner`.
    pub(in crate::driver) fn is_running(&self) -> bool {
        self.inner.lock().queue.is_some()
    }

    /// How large it is.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Rx::inner`.
    pub(in crate::driver) fn sizes(&self) -> Sizes {
        let inner = self.inner.lock();
        Sizes {
            queue: inner.queue.as_ref().map_or(0, Virtqueue::size),
            buffers: inner.supply.target(),
            buffer_bytes: inner.layout.buffer(),
        }
    }
}

impl Inner {
    /// Takes the next buffer that the device has used.
    fn take(&mut self) -> Option<(PageBlock, Used)> {
        let (block, len) = self.queue.as_mut()?.get_used()?;
        self.supply.take();
        let size = block.len();
        Some((block, Used { len, size }))
    }

    /// Takes the next packet, once there is the memory that it may take to store it.
    fn next(&mut self) -> Next {
        let next = match self.held.take() {
            Some(header) => Next::Packet(header),
            None => self.take_packet(),
        };
        let Next::Packet(header) = next else {
            return next;
        };
        while self.payload.lacks_spare_skbs() {
            let Ok(skb) = SkBuff::alloc(0, GFP_ATOMIC, ()) else {
                self.held = Some(header);
                return Next::Held;
            };
            self.payload.add_spare_skb(skb);
        }
        Next::Packet(header)
    }

    /// Takes the buffers of the next packet (H1, H2, M1, M2).
    fn take_packet(&mut self) -> Next {
        let Some((block, first)) = self.take() else {
            return Next::Nothing;
        };
        let BufferLayout {
            header_len, merges, ..
        } = self.layout;
        let mut bytes = [0; HEADER_LEN_MRG];
        if let Some(bytes) = bytes.get_mut(..header_len) {
            // What is shorter than a header is found out below.
            let _ = block.copy_from(0, bytes);
        }
        let HeaderMrg {
            header,
            num_buffers,
        } = HeaderMrg::parse(&bytes);
        if bytes == NO_HEADER && first.len == header_len {
            // Some devices use a buffer for a packet that they then do not send.
            self.payload.add(block, 0, 0);
            return Next::Junk(Why::Unwritten);
        }
        let num_buffers = merges.then_some(num_buffers);
        let most = self.queue.as_ref().map_or(0, Virtqueue::size);
        let begun = Assembly::begin(header_len, header.len, num_buffers, first, most);
        let arrived = begun.as_ref().map_or(0, Assembly::arrived);
        self.payload.add(block, header_len, arrived);
        let mut packet = match begun {
            Ok(packet) => packet,
            Err(Fault::Short) => return Next::Junk(Why::Short),
            Err(Fault::FramingLost) => return Next::Lost(header),
        };
        while packet.left() > 0 {
            let Some((block, next)) = self.take() else {
                return Next::Lost(header);
            };
            packet.add(next);
            self.payload.add(block, 0, next.len);
        }
        self.payload.complete(packet.finish());
        Next::Packet(header)
    }

    /// Ends a turn in which the device has nothing more just now.
    fn pause(&mut self) -> Outcome {
        let Some(queue) = &mut self.queue else {
            return Outcome::Nothing;
        };
        // A broken queue has more for ever, and gives none.
        if !queue.enable_cb() && !queue.is_broken() {
            return Outcome::More;
        }
        if self.supply.lacks_many() {
            Outcome::Refill
        } else {
            Outcome::Nothing
        }
    }

    /// Whether the device needs no buffers (any more).
    fn is_over(&self) -> bool {
        self.queue.as_ref().is_none_or(Virtqueue::is_broken)
    }

    /// Gives `block` to the device; returns whether there was room for it.
    fn post(&mut self, mut block: PageBlock) -> bool {
        let Some(queue) = &mut self.queue else {
            return false;
        };
        // What it brought before must not be taken for what the device writes now, or does not write.
        if block.copy_to(0, &NO_HEADER).is_err() {
            return false;
        }
        // A buffer that does not fit is freed here: no socket hangs on it.
        let posted = queue.add(block).is_ok();
        if posted {
            self.supply.post();
        }
        posted
    }

    /// Posts the packet's buffers, and new ones in the place of those that were taken.
    fn post_again(&mut self) {
        while let Some(block) = self.payload.reclaim() {
            // With fewer wanted than there were, it is freed.
            if self.supply.lacks_some() {
                self.post(block);
            }
        }
        while self.supply.lacks_some() {
            let block = PageBlock::alloc(self.layout.order, GFP_ATOMIC);
            if !block.is_ok_and(|block| self.post(block)) {
                return;
            }
        }
    }

    /// Tells the device of new buffers, if it may sleep for want of them.
    fn tell_if_due(&mut self) {
        if !self.supply.must_tell() {
            return;
        }
        self.supply.tell();
        if let Some(notify) = self.queue.as_mut().and_then(Virtqueue::kick_prepare) {
            STATS.count(Counter::RxKicks);
            notify.notify();
        }
    }
}
