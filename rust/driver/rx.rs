// SPDX-License-Identifier: GPL-2.0

//! Reception: from the device to the connections.
//!
//! The queue is filled with a few large buffers. What brought a small payload is copied out of and
//! posted again at once; only a large payload takes its pages along, and new ones take their place.

use super::{
    device::Vsock,
    stats::{
        Counter,
        STATS, //
    },
    table::Key,
    tap, //
};
use crate::{
    ext::{
        mm::PageBlock,
        net::vsock::Addr,
        sync::{
            new_spinlock_bh,
            SpinLockBh, //
        },
        virtio::Virtqueue, //
    },
    wire::{
        Header,
        Op,
        SocketType,
        HEADER_LEN, //
    }, //
};
use kernel::{
    alloc::Flags,
    prelude::*,
    sync::Arc, //
};

/// How many packets are received before others may run.
const BUDGET: usize = 64;

/// The receive queue.
#[pin_data]
pub(super) struct Rx {
    #[pin]
    inner: SpinLockBh<Inner>,
}

struct Inner {
    /// None while the device does not run.
    queue: Option<Virtqueue<PageBlock>>,
    /// The buffers' size is a page, doubled as many times.
    order: u32,
    /// How many buffers the device is to have.
    target: usize,
    /// How many it has.
    posted: usize,
}

/// What is left to do after [`Rx::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing before the device's next interrupt.
    Nothing,
    /// There is, or may be, more to receive.
    More,
    /// Memory is lacking: buffers must be found where one may wait for it.
    Refill,
}

impl Rx {
    /// Not running.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_spinlock_bh!(
                Inner {
                    queue: None,
                    order: 0,
                    target: 0,
                    posted: 0,
                },
                "Rx::inner"
            ),
        })
    }

    /// Receives through `queue` from now on, into at most `bytes` of buffers of `PAGE_SIZE << order`.
    pub(super) fn start(&self, queue: Virtqueue<PageBlock>, order: u32, bytes: usize) {
        let mut inner = self.inner.lock();
        let buffer = kernel::page::PAGE_SIZE << order.min(PageBlock::MAX_ORDER);
        inner.target = (bytes / buffer).clamp(1, queue.size());
        inner.order = order;
        inner.posted = 0;
        inner.queue = Some(queue);
    }

    /// Takes back all buffers; the device must not use them any more, or is reset by this.
    pub(super) fn stop(&self) {
        let queue = self.inner.lock().queue.take();
        drop(queue);
    }

    /// Sees to it that the device has the buffers that it is to have. Sleeps if `flags` allow it.
    ///
    /// Returns whether it has enough to go on.
    pub(super) fn refill(&self, flags: Flags) -> bool {
        loop {
            let order = {
                let inner = self.inner.lock();
                if inner.queue.is_none() || inner.posted >= inner.target {
                    return true;
                }
                inner.order
            };
            // Allocated without the lock, as that may sleep.
            let block = PageBlock::alloc(order, flags).or_else(|_| PageBlock::alloc(0, flags));
            let mut inner = self.inner.lock();
            match block {
                Ok(block) => {
                    if !inner.post(block) {
                        return inner.posted > 0 || inner.is_over();
                    }
                    inner.kick();
                }
                Err(_) => return inner.posted > 0,
            }
        }
    }

    /// Receives packets until there are none, or others shall have their turn. Does not sleep.
    pub(super) fn poll(&self, device: &Arc<Vsock>) -> Rest {
        let mut inner = self.inner.lock();
        if let Some(queue) = &mut inner.queue {
            queue.disable_cb();
        }
        for _ in 0..BUDGET {
            let Some((block, len)) = inner.take() else {
                inner.kick();
                let Some(queue) = &mut inner.queue else {
                    return Rest::Nothing;
                };
                // A broken queue has more for ever, and gives none.
                if !queue.enable_cb() && !queue.is_broken() {
                    return Rest::More;
                }
                let starved = inner.posted * 2 < inner.target;
                return if starved { Rest::Refill } else { Rest::Nothing };
            };
            let block = receive(device, block, len);
            inner.post_again(block);
        }
        inner.kick();
        Rest::More
    }

    /// How many buffers the device can have, and how many it is to have, of how many bytes.
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        let inner = self.inner.lock();
        let size = inner.queue.as_ref().map_or(0, Virtqueue::size);
        (size, inner.target, kernel::page::PAGE_SIZE << inner.order)
    }
}

impl Inner {
    fn take(&mut self) -> Option<(PageBlock, usize)> {
        let used = self.queue.as_mut()?.get_used()?;
        self.posted = self.posted.saturating_sub(1);
        Some(used)
    }

    /// The device needs no buffers (any more).
    fn is_over(&self) -> bool {
        self.queue.as_ref().is_none_or(Virtqueue::is_broken)
    }

    fn post(&mut self, block: PageBlock) -> bool {
        let Some(queue) = &mut self.queue else {
            return false;
        };
        // A buffer that does not fit is freed here: no socket hangs on it.
        let posted = queue.add(block).is_ok();
        if posted {
            self.posted += 1;
        }
        posted
    }

    /// Posts `block`, or, if it was kept, new ones in its place and in that of earlier ones.
    fn post_again(&mut self, block: Option<PageBlock>) {
        if let Some(block) = block {
            self.post(block);
            return;
        }
        while self.posted < self.target {
            let block = PageBlock::alloc(self.order, GFP_ATOMIC);
            if !block.is_ok_and(|block| self.post(block)) {
                return;
            }
        }
    }

    fn kick(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.kick();
        }
    }
}

/// A buffer has come back with `len` bytes in it (H1, H2). Returns it unless it was kept.
fn receive(device: &Arc<Vsock>, block: PageBlock, len: usize) -> Option<PageBlock> {
    let mut bytes = [0; HEADER_LEN];
    let (Some(arrived), Ok(())) = (len.checked_sub(HEADER_LEN), block.copy_from(0, &mut bytes))
    else {
        STATS.count(Counter::RxShort);
        return Some(block);
    };
    let header = Header::parse(&bytes);
    let Ok(payload) = header.payload_len(arrived) else {
        STATS.count(Counter::RxShort);
        return Some(block);
    };
    tap::received(&header, &block, payload);
    STATS.count(Counter::RxPackets);
    STATS.add(Counter::RxBytes, header.len);
    route(device, &header, block, payload)
}

/// Finds whom a packet is for.
fn route(
    device: &Arc<Vsock>,
    header: &Header,
    block: PageBlock,
    payload: usize,
) -> Option<PageBlock> {
    let (Ok(src), Ok(dst)) = (header.src(), header.dst()) else {
        STATS.count(Counter::BadAddress);
        return Some(block);
    };
    let ty = match header.socket_type() {
        Ok(ty @ (SocketType::Stream | SocketType::Seqpacket)) => ty,
        Ok(SocketType::Dgram) | Err(_) => {
            device.refuse(header);
            return Some(block);
        }
    };
    let Ok(op) = header.operation() else {
        STATS.count(Counter::BadOp);
        return Some(block);
    };
    if dst.cid != device.cid() {
        STATS.count(Counter::BadAddress);
        device.refuse(header);
        return Some(block);
    }
    let key = Key {
        peer: Addr {
            cid: src.cid,
            port: src.port,
        },
        local_port: dst.port,
    };
    match device.connections().find(key) {
        Some(conn) if conn.socket_type() == ty => conn.receive(header, op, block, payload),
        None if op == Op::Request => {
            device.request(*header);
            Some(block)
        }
        Some(_) | None => {
            device.refuse(header);
            Some(block)
        }
    }
}
