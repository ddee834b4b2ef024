// SPDX-License-Identifier: GPL-2.0

//! Requests for connections (C3), handled where one may sleep.
//!
//! A listener whose socket a user call owns for long holds up its own connections, and no others:
//! they wait here, and are tried again.

use super::{
    conn::Conn,
    device::Vsock,
    stats::{
        Counter,
        STATS, //
    },
    transport::{
        socket_type,
        VirtioTransport, //
    }, //
};
use crate::{
    ext::{
        error::NetError,
        net::vsock::{
            Addr,
            Child,
            Listener,
            Refused,
            VsockSock,
            CID_ANY,
            CID_HOST, //
        },
        sync::{
            new_spinlock_bh,
            SpinLockBh, //
        }, //
    },
    wire::Header, //
};
use kernel::{
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

/// How many requests wait at most; more are refused.
const WAITING_MAX: usize = 256;

/// How long a connection waits for a listener that a user call owns; its peer has a time-out too.
const PATIENCE: Delta = Delta::from_secs(2);

/// Requests that wait to be handled.
#[pin_data]
pub(super) struct Requests {
    #[pin]
    waiting: SpinLockBh<KVec<Header>>,
    #[pin]
    held_up: SpinLockBh<KVec<HeldUp>>,
}

/// A connection whose listener was owned by a user call.
struct HeldUp {
    request: Header,
    listener: Listener,
    child: Child,
    conn: Arc<Conn>,
    since: Instant<Monotonic>,
}

impl Requests {
    /// None. May sleep.
    pub(super) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            waiting <- new_spinlock_bh!(
                KVec::with_capacity(WAITING_MAX, GFP_KERNEL)?,
                "Requests::waiting"
            ),
            held_up <- new_spinlock_bh!(
                KVec::with_capacity(WAITING_MAX, GFP_KERNEL)?,
                "Requests::held_up"
            ),
        })
    }

    /// Notes `request`; false if there are too many. Does not sleep.
    pub(super) fn push(&self, request: Header) -> bool {
        self.waiting.lock().push_within_capacity(request).is_ok()
    }

    /// Answers all requests by RST, as long as there is a way. May sleep.
    pub(super) fn refuse_all(&self, device: &Arc<Vsock>) {
        while let Some(request) = self.pop_waiting() {
            device.refuse(&request);
        }
        while let Some(held_up) = self.pop_held_up() {
            let HeldUp { request, child, .. } = held_up;
            drop(child);
            device.refuse(&request);
        }
    }

    /// Handles what there is; returns whether some have to be tried again later. Sleeps.
    pub(super) fn handle(&self, device: &Arc<Vsock>) -> bool {
        self.retry(device);
        // In the order in which they came.
        let mut index = 0;
        loop {
            let request = {
                let mut waiting = self.waiting.lock();
                match waiting.get(index) {
                    Some(request) => *request,
                    None => {
                        waiting.clear();
                        break;
                    }
                }
            };
            index += 1;
            match self.admit(device, &request) {
                Ok(()) => {}
                // The peer's connect() was interrupted and called again before we came to answer the
                // first: what answers that one answers this one, too. An RST would end it.
                Err(again) if again == NetError::AddrInUse.into() => {
                    STATS.count(Counter::BadOp);
                }
                Err(refused) => {
                    pr_debug!(
                        "request from port {} refused: {refused:?}\n",
                        request.src_port
                    );
                    device.refuse(&request);
                }
            }
        }
        !self.held_up.lock().is_empty()
    }

    fn pop_waiting(&self) -> Option<Header> {
        self.waiting.lock().pop()
    }

    fn pop_held_up(&self) -> Option<HeldUp> {
        let mut held_up = self.held_up.lock();
        (!held_up.is_empty())
            .then(|| held_up.remove(0).ok())
            .flatten()
    }

    fn retry(&self, device: &Arc<Vsock>) {
        let count = self.held_up.lock().len();
        for _ in 0..count {
            if let Some(held_up) = self.pop_held_up() {
                self.enqueue(device, held_up);
            }
        }
    }

    /// Makes a connection of a request, or says why not.
    fn admit(&self, device: &Arc<Vsock>, request: &Header) -> Result {
        let peer = request.src().map_err(|_| EINVAL)?;
        let here = request.dst().map_err(|_| EINVAL)?;
        let ty = request.socket_type().map_err(|_| EINVAL)?;
        let sk = bound(here.cid, here.port).ok_or(NetError::ConnRefused)?;
        if socket_type(sk.sock_type()) != ty {
            return Err(NetError::ConnRefused.into());
        }
        let listener = Listener::new(sk).ok_or(NetError::ConnRefused)?;
        if listener.is_full() {
            return Err(NetError::NoBufs.into());
        }
        let mut conn = None;
        let (local, remote) = (
            Addr {
                cid: here.cid,
                port: here.port,
            },
            Addr {
                cid: peer.cid,
                port: peer.port,
            },
        );
        let child = listener.create_child::<VirtioTransport>(
            local,
            remote,
            &crate::virtio_transport,
            |new, _| {
                let new: Arc<Conn> = new.into();
                new.accept(local.port, remote, request)?;
                conn = Some(new);
                Ok(())
            },
        )?;
        let Some(conn) = conn else {
            return Err(EINVAL);
        };
        self.enqueue(
            device,
            HeldUp {
                request: *request,
                listener,
                child,
                conn,
                since: Instant::now(),
            },
        );
        Ok(())
    }

    /// Queues a connection for `accept()`, or has it wait for its listener.
    fn enqueue(&self, device: &Arc<Vsock>, held_up: HeldUp) {
        let HeldUp {
            request,
            listener,
            child,
            conn,
            since,
        } = held_up;
        // The answer must be on its way before accept() returns, as its user may send at once. Without
        // a device, or memory, the connection is reset sooner or later.
        let respond = || {
            let _ = conn.respond();
        };
        match listener.enqueue(child, respond) {
            Ok(()) => listener.wake(),
            Err((Refused::Busy, child)) if since.elapsed() < PATIENCE => {
                let again = HeldUp {
                    request,
                    listener,
                    child,
                    conn,
                    since,
                };
                let full = self.held_up.lock().push_within_capacity(again).err();
                if let Some(error) = full {
                    drop(error);
                    device.refuse(&request);
                }
            }
            Err((_, child)) => {
                drop(child);
                device.refuse(&request);
            }
        }
    }
}

/// A socket that is bound to `port` of this machine.
///
/// One that was bound to a CID that this machine had before counts as well (C5); one that is bound
/// to the loopback's does not.
fn bound(cid: u32, port: u32) -> Option<ARef<VsockSock>> {
    VsockSock::find_bound(cid, port)
        .or_else(|| VsockSock::find_bound(CID_ANY, port).filter(|sk| sk.local_cid() > CID_HOST))
}
