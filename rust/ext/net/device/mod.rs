// SPDX-License-Identifier: GPL-2.0

//! Network devices whose packets the kernel's scheduling orders, and never loses.
//!
//! A packet that goes to a qdisc may be dropped there: it is how queues are kept short. Whoever must not lose any has
//! it order *turns* instead: a [`Turn`] is a buffer of the length of a packet, with its header and its socket, so that
//! a qdisc delays, shapes and drops it as it would the packet. The driver keeps the packet, and a [`Token`] by which it
//! knows the turn: when that comes out at [`Interface::transmit`], the packet goes; when it is dropped, the driver finds
//! that [nothing is out](Token::is_out) any more, and takes another turn.
//!
//! ```text
//!   Token::turn() -> NetDevice::submit() -> qdisc -> Interface::transmit() -> Token::matches()
//!        ^                                    |
//!        +--- Token::is_out() says no <--- dropped
//! ```
//!
//! C header: [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h)

mod callbacks;
mod registration;
mod turn;

pub(crate) use self::{
    registration::Registration,
    turn::{
        Token,
        Turn, //
    }, //
};
use crate::ext::bindings;
use kernel::{
    prelude::*,
    str::CStr,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Release, //
        },
        rcu,
        Arc, //
    }, //
};

/// What a driver does for its interface.
///
/// [`open`](Self::open) and [`stop`](Self::stop) run with RTNL held, in which no [`Registration`] is made or dropped.
pub(crate) trait Interface: Send + Sync + Sized + 'static {
    /// The name, at most 15 bytes; `%d` in it becomes the first number that is free.
    const NAME: &'static CStr;

    /// How many transmit queues there are.
    const TX_QUEUES: u16;

    /// The length of the greatest packet, in bytes. Nobody can set another.
    const MTU: u32;

    /// The names of the counters that `ethtool -S` shows, each at most 31 bytes.
    const COUNTERS: &'static [&'static str];

    /// The interface goes up: all queues are awake. Turns that are submitted before this has returned, or a little later,
    /// are lost: there is no qdisc yet.
    ///
    /// # Context
    ///
    /// May sleep.
    fn open(&self);

    /// The interface goes down: no turn is in the qdisc any more, and none comes.
    ///
    /// # Context
    ///
    /// May sleep. It runs while the [`Registration`] is dropped, too, if the interface is up then.
    fn stop(&self);

    /// A turn has come out of the qdisc of `queue`, or something that looks like one. It is taken in any case.
    ///
    /// `more` says that another one follows at once.
    ///
    /// # Context
    ///
    /// Bottom halves are off, and the queue is locked: one call at a time for each. Does not sleep.
    fn transmit(&self, queue: u16, turn: Turn, more: bool);

    /// What has come out of the qdisc of `queue` was none, and dropped: no turn follows those of which [more](Self::transmit)
    /// were announced.
    ///
    /// # Context
    ///
    /// As of [`transmit`](Self::transmit).
    fn flush(&self, _queue: u16) {}

    /// What `ip -s link` shows.
    ///
    /// # Context
    ///
    /// Any but hard interrupts; does not sleep.
    fn statistics(&self) -> Statistics;

    /// The counter whose name is at `index`.
    ///
    /// # Context
    ///
    /// May sleep.
    fn counter(&self, index: usize) -> u64;
}

/// How much an interface has carried.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Statistics {
    /// Packets that were received.
    pub(crate) rx_packets: u64,
    /// Their bytes.
    pub(crate) rx_bytes: u64,
    /// Packets that were sent.
    pub(crate) tx_packets: u64,
    /// Their bytes.
    pub(crate) tx_bytes: u64,
    /// Packets that were received and dropped.
    pub(crate) rx_dropped: u64,
    /// Packets that were to be sent and were dropped. What is no turn is counted by the core.
    pub(crate) tx_dropped: u64,
}

/// An interface as its driver reaches it.
///
/// Nothing it is asked to do happens before the interface is registered, or after.
///
/// # Invariants
///
/// `dev` is null, or a `struct net_device` of a [`Registration`] that is registered. It is freed only once RCU readers
/// that found it here are done.
pub(crate) struct NetDevice {
    dev: Atomic<*mut bindings::net_device>,
}

// SAFETY: What is done with the device may be done on any thread.
unsafe impl Send for NetDevice {}

// SAFETY: As for `Send`, and by many at once: the functions say how.
unsafe impl Sync for NetDevice {}

impl NetDevice {
    /// One without an interface.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(crate) fn new() -> Result<Arc<Self>> {
        // INVARIANT: Null.
        let dev = Atomic::new(core::ptr::null_mut());
        Ok(Arc::new(Self { dev }, GFP_KERNEL)?)
    }

    /// Gives `turn` to the scheduler. Returns whether it has taken it; a hint, as it may lose it all the same.
    ///
    /// What it has may come out before this returns, at [`Interface::transmit`]: so the caller must hold no lock that is
    /// taken there. Without a qdisc (`noqueue`) it comes out at once; within `transmit` it is then refused.
    ///
    /// # Context
    ///
    /// Any but hard interrupts, or with interrupts off: there it is refused. Does not sleep.
    pub(crate) fn submit(&self, turn: Turn) -> bool {
        self.with(|dev| {
            // SAFETY: The device is registered, and is there until this returns; the turn is given away.
            let result =
                unsafe { bindings::rvsock_helper_net_device_submit(dev, turn.into_raw().as_ptr()) };
            // CAST: Small numbers.
            result == bindings::NET_XMIT_SUCCESS as i32 || result == bindings::NET_XMIT_CN as i32
        })
        .unwrap_or(false)
    }

    /// Whether `queue` has a qdisc, or is without one on purpose: there is none in [`Interface::open`] yet, without a carrier,
    /// and shortly before [`Interface::stop`], and what is [submitted](Self::submit) then is lost.
    ///
    /// # Context
    ///
    /// Any.
    pub(crate) fn is_ready(&self, queue: u16) -> bool {
        // SAFETY: The device is registered, and is there until this returns.
        self.with(|dev| unsafe { bindings::rvsock_helper_net_device_is_ready(dev, queue) })
            .unwrap_or(false)
    }

    /// Has no turn come out of `queue` until it is [woken](Self::wake_queue); one may be on its way.
    ///
    /// Where there is no qdisc that could keep them, they go on to come.
    ///
    /// # Context
    ///
    /// Any.
    pub(crate) fn stop_queue(&self, queue: u16) {
        // SAFETY: The device is registered, and is there until this returns.
        self.with(|dev| unsafe { bindings::rvsock_helper_net_device_stop_queue(dev, queue) });
    }

    /// Has turns come out of `queue` again, a little later.
    ///
    /// # Context
    ///
    /// Any.
    pub(crate) fn wake_queue(&self, queue: u16) {
        // SAFETY: The device is registered, and is there until this returns.
        self.with(|dev| unsafe { bindings::rvsock_helper_net_device_wake_queue(dev, queue) });
    }

    /// The hardware has `bytes` more of `queue`. No turn comes out while it has as many as the limit of its bytes says
    /// (BQL).
    ///
    /// # Context
    ///
    /// Any.
    pub(crate) fn sent(&self, queue: u16, bytes: u32) {
        // SAFETY: The device is registered, and is there until this returns.
        self.with(|dev| unsafe { bindings::rvsock_helper_net_device_sent(dev, queue, bytes) });
    }

    /// The hardware is done with `bytes` of `queue`, in so many packets. Those that it never [had](Self::sent), as far as
    /// the interface knows, do not count.
    ///
    /// It is to be called once for all that are found done, as the limit learns from that.
    ///
    /// # Context
    ///
    /// Any.
    pub(crate) fn completed(&self, queue: u16, packets: u32, bytes: u32) {
        // SAFETY: The device is registered, and is there until this returns.
        self.with(|dev| unsafe {
            bindings::rvsock_helper_net_device_completed(dev, queue, packets, bytes)
        });
    }

    /// Whether there is somebody at the other end. At first there is; without, turns are lost.
    ///
    /// # Context
    ///
    /// Any.
    pub(crate) fn set_carrier(&self, on: bool) {
        // SAFETY: The device is registered, and is there until this returns.
        self.with(|dev| unsafe {
            if on {
                bindings::netif_carrier_on(dev);
            } else {
                bindings::netif_carrier_off(dev);
            }
        });
    }

    /// Calls `f` with the device, if there is one, which stays until it returns.
    fn with<R>(&self, f: impl FnOnce(*mut bindings::net_device) -> R) -> Option<R> {
        let _rcu = rcu::read_lock();
        // Acquire: what was written before it was published is seen.
        let dev = self.dev.load(Acquire);
        (!dev.is_null()).then(|| f(dev))
    }

    /// Has the device found here.
    ///
    /// # Safety
    ///
    /// It must be registered, and stay so until it is [withdrawn](Self::withdraw) and a grace period is over.
    ///
    /// # Errors
    ///
    /// `EBUSY`: there is one.
    unsafe fn publish(&self, dev: *mut bindings::net_device) -> Result {
        // INVARIANT: By the safety requirement.
        match self.dev.cmpxchg(core::ptr::null_mut(), dev, Full) {
            Ok(_) => Ok(()),
            Err(_) => Err(EBUSY),
        }
    }

    /// Has no device found here. Those who have found it may go on until a grace period is over.
    fn withdraw(&self) {
        // INVARIANT: Null.
        self.dev.store(core::ptr::null_mut(), Release);
    }
}
