// SPDX-License-Identifier: GPL-2.0

//! Requests for connections (C3), handled where one may sleep.
//!
//! A listener whose socket a user call owns for long holds up its own connections, and no others:
//! they wait here, and are tried again.

use super::{
    conn::Conn,
    link::Link,
    trace::{
        self,
        Why, //
    },
    transport::{
        socket_type,
        virtio_transport,
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
        new_mutex,
        Arc,
        Mutex, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

/// How many requests wait here to be handled. The others wait in the queue, and behind them all else, so
/// that no burst is refused, and the host can withdraw those whose callers have given up.
const WAITING_MAX: usize = 64;

/// How long a connection waits for a listener that a user call owns; its peer has a time-out too.
const PATIENCE: Delta = Delta::from_secs(10);

/// A listener is mostly owned for a moment, by `accept()`: so long it is tried again at once, and so
/// often while others are handled.
const MOMENT: Delta = Delta::from_millis(1);

/// The pause between such tries.
const PAUSE: Delta = Delta::from_micros(50);

/// What the device does for those who want to connect.
pub(super) trait Device {
    /// The way out through it.
    fn link(&self) -> &Arc<Link>;

    /// Whether this machine has become `cid` without being told: some hosts restore a guest so.
    ///
    /// # Context
    ///
    /// Sleeps; takes `Vsock::config`.
    fn has_become(&self, cid: u32) -> bool;

    /// Receives what waits: there is room for requests again.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Rx::inner`.
    fn receive_again(&self);
}

/// Requests that wait to be handled.
#[pin_data]
pub(super) struct Requests {
    #[pin]
    waiting: SpinLockBh<Waiting>,
    #[pin]
    held_up: Mutex<KVVec<Queue>>,
}

struct Waiting {
    requests: KVec<Header>,
    /// Receiving has paused, as there are as many as may wait.
    paused: bool,
}

impl Waiting {
    fn is_full(&self) -> bool {
        self.requests.len() >= WAITING_MAX
    }
}

/// Connections whose listener was owned by a user call, in the order in which they came. There are no more
/// than it would have in its backlog.
struct Queue {
    listener: Listener,
    connections: KVVec<HeldUp>,
}

/// A connection that waits for its listener.
struct HeldUp {
    request: Header,
    child: Child,
    conn: Arc<Conn>,
    since: Instant<Monotonic>,
}

impl Requests {
    /// None.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(super) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            waiting <- new_spinlock_bh!(
                Waiting {
                    requests: KVec::with_capacity(WAITING_MAX, GFP_KERNEL)?,
                    paused: false,
                },
                "Requests::waiting"
            ),
            held_up <- new_mutex!(KVVec::new(), "Requests::held_up"),
        })
    }

    /// Whether there is room for one more; if not, the device is told to receive again when there is.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Requests::waiting`.
    pub(super) fn has_room(&self) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.paused = waiting.is_full();
        !waiting.paused
    }

    /// Notes `request`; false if there are too many, or no memory for more.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Requests::waiting`.
    pub(super) fn push(&self, request: Header) -> bool {
        let mut waiting = self.waiting.lock();
        !waiting.is_full() && waiting.requests.push(request, GFP_ATOMIC).is_ok()
    }

    /// Answers all requests by RST, as long as there is a way.
    ///
    /// # Context
    ///
    /// Sleeps; takes `Requests::held_up`.
    pub(super) fn refuse_all(&self, device: &impl Device) {
        while let Some(request) = self.next(device) {
            device.link().refuse_request(&request);
        }
        for queue in self.take_held_up() {
            for connection in queue.connections {
                refuse(device.link(), connection);
            }
        }
    }

    /// Handles what there is; returns whether some have to be tried again later.
    ///
    /// # Context
    ///
    /// Sleeps; takes `Vsock::config`, or `Requests::held_up`.
    pub(super) fn handle(&self, device: &impl Device) -> bool {
        loop {
            self.retry(device);
            self.admit_all(device);
            // The latest to come of each listener.
            let waits = (self.held_up.lock().iter())
                .filter_map(|queue| queue.connections.last())
                .map(|connection| connection.since.elapsed())
                .min();
            match waits {
                None => return false,
                Some(waits) if waits >= MOMENT => return true,
                Some(_) => fsleep(PAUSE),
            }
        }
    }

    /// Handles what waits, in the order in which it came.
    ///
    /// # Context
    ///
    /// Sleeps.
    fn admit_all(&self, device: &impl Device) {
        let mut tried = Instant::<Monotonic>::now();
        while let Some(request) = self.next(device) {
            self.admit_or_refuse(device, &request);
            if tried.elapsed() >= MOMENT {
                self.retry(device);
                tried = Instant::now();
            }
        }
    }

    /// Makes a connection of a request, or answers it by RST.
    ///
    /// # Context
    ///
    /// Sleeps.
    fn admit_or_refuse(&self, device: &impl Device, request: &Header) {
        match self.admit(device, request) {
            Ok(()) => {}
            // The peer's connect() was interrupted and called again before we came to answer the
            // first: what answers that one answers this one, too. An RST would end it.
            Err(again) if again == NetError::AddrInUse.into() => {
                trace::dropped(request, Why::BadOp);
            }
            Err(refused) => {
                pr_debug!(
                    "request from port {} refused: {refused:?}\n",
                    request.src_port
                );
                device.link().refuse_request(request);
            }
        }
    }

    /// Takes the first that waits to be handled. The device receives again when half of them have room.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Rx::inner`.
    fn next(&self, device: &impl Device) -> Option<Header> {
        let (request, resume) = {
            let mut waiting = self.waiting.lock();
            let request = waiting.requests.remove(0).ok()?;
            let resume = waiting.paused && waiting.requests.len() <= WAITING_MAX / 2;
            waiting.paused &= !resume;
            (request, resume)
        };
        if resume {
            device.receive_again();
        }
        Some(request)
    }

    fn take_held_up(&self) -> KVVec<Queue> {
        core::mem::replace(&mut self.held_up.lock(), KVVec::new())
    }

    /// Tries again what was held up; of those whose listener is owned still, the first alone.
    ///
    /// # Context
    ///
    /// Sleeps; takes `Requests::held_up`.
    fn retry(&self, device: &impl Device) {
        for queue in self.take_held_up() {
            let Queue {
                listener,
                connections,
            } = queue;
            let mut owned = false;
            for connection in connections {
                let again = if owned {
                    Some(connection)
                } else {
                    enqueue(device.link(), &listener, connection)
                };
                if let Some(connection) = again {
                    owned = true;
                    self.hold_up(device, &listener, connection);
                }
            }
        }
    }

    /// Has a connection wait for its listener; refuses it if it has waited for long, or as many do as the
    /// listener would have wait in its backlog.
    ///
    /// # Context
    ///
    /// Sleeps; takes `Requests::held_up`.
    fn hold_up(&self, device: &impl Device, listener: &Listener, connection: HeldUp) {
        if connection.since.elapsed() >= PATIENCE {
            return refuse(device.link(), connection);
        }
        if let Err(connection) = keep(&mut self.held_up.lock(), listener, connection) {
            refuse(device.link(), connection);
        }
    }

    /// Makes a connection of a request, or says why not.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: it is none of this machine's, or makes no sense.
    /// - `ECONNREFUSED`: no socket of its type listens there.
    /// - `ENOBUFS`: the listener's backlog is full.
    /// - `EADDRINUSE`: there is a connection between the addresses.
    /// - `ENOMEM`: no memory.
    /// - Others as of [`Listener::create_child`].
    fn admit(&self, device: &impl Device, request: &Header) -> Result {
        let peer = request.src().map_err(|_| EINVAL)?;
        let here = request.dst().map_err(|_| EINVAL)?;
        if here.cid != device.link().cid() && !device.has_become(here.cid) {
            return Err(EINVAL);
        }
        let ty = request.socket_type().map_err(|_| EINVAL)?;
        let sk = find_bound(here.cid, here.port).ok_or(NetError::ConnRefused)?;
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
            &virtio_transport,
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
        let connection = HeldUp {
            request: *request,
            child,
            conn,
            since: Instant::now(),
        };
        if let Some(connection) = enqueue(device.link(), &listener, connection) {
            self.hold_up(device, &listener, connection);
        }
        Ok(())
    }
}

/// Puts `connection` last among those that wait for `listener`.
///
/// # Context
///
/// May sleep. Called under `Requests::held_up`.
///
/// # Errors
///
/// Gives it back if too many wait, or memory is lacking.
fn keep(held_up: &mut KVVec<Queue>, listener: &Listener, connection: HeldUp) -> Result<(), HeldUp> {
    let index = match held_up.iter().position(|q| q.listener == *listener) {
        Some(index) => index,
        None => {
            let queue = Queue {
                listener: listener.clone(),
                connections: KVVec::new(),
            };
            if held_up.push(queue, GFP_KERNEL).is_err() {
                return Err(connection);
            }
            held_up.len().saturating_sub(1)
        }
    };
    let Some(queue) = held_up.get_mut(index) else {
        return Err(connection);
    };
    // One more, as everywhere in the kernel.
    let full = queue.connections.len() > listener.backlog();
    if full || queue.connections.reserve(1, GFP_KERNEL).is_err() {
        return Err(connection);
    }
    queue
        .connections
        .push_within_capacity(connection)
        .map_err(|error| error.0)
}

/// Ends `connection`, and tells its peer.
///
/// # Context
///
/// Sleeps.
fn refuse(link: &Arc<Link>, connection: HeldUp) {
    let HeldUp { request, child, .. } = connection;
    drop(child);
    link.refuse_request(&request);
}

/// Queues a connection for `accept()`, or refuses it; gives it back if a user call owns its listener.
///
/// # Context
///
/// Sleeps.
fn enqueue(link: &Arc<Link>, listener: &Listener, connection: HeldUp) -> Option<HeldUp> {
    // Found before the listener's lock is taken: an answer that is not sent leaves both sides waiting.
    let Ok(response) = connection.conn.response() else {
        refuse(link, connection);
        return None;
    };
    let HeldUp {
        request,
        child,
        conn,
        since,
    } = connection;
    // The answer must be on its way before accept() returns, as its user may send at once. Without
    // a device the connection is reset sooner or later.
    let respond = || {
        let _ = link.send(response);
    };
    match listener.enqueue(child, respond) {
        Ok(()) => listener.wake(),
        Err((Refused::Busy, child)) => {
            return Some(HeldUp {
                request,
                child,
                conn,
                since,
            });
        }
        Err((Refused::Never, child)) => {
            drop(child);
            link.refuse_request(&request);
        }
    }
    None
}

/// A socket that is bound to `port` of this machine.
///
/// One that was bound to a CID that this machine had before counts as well (C5); one that is bound
/// to the loopback's does not.
fn find_bound(cid: u32, port: u32) -> Option<ARef<VsockSock>> {
    VsockSock::find_bound(cid, port)
        .or_else(|| VsockSock::find_bound(CID_ANY, port).filter(|sk| sk.local_cid() > CID_HOST))
}
