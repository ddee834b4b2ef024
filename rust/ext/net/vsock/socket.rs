// SPDX-License-Identifier: GPL-2.0

//! AF_VSOCK sockets: references, and the proof of owning one.
//!
//! C headers: [`include/net/sock.h`](srctree/include/net/sock.h),
//! [`include/net/af_vsock.h`](srctree/include/net/af_vsock.h)

use super::{
    Addr,
    SockType,
    CID_ANY, //
};
use crate::ext::{
    bindings,
    net::skbuff::SkBuff,
    sync::{
        new_spinlock_bh,
        SpinLockBh, //
    }, //
};
use core::{
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    prelude::*,
    sync::{
        aref::{
            ARef,
            AlwaysRefCounted, //
        },
        atomic::{
            AtomicFlag,
            Full,
            Relaxed, //
        }, //
    },
    types::Opaque, //
};

/// An AF_VSOCK socket: `struct vsock_sock`, which begins with its `struct sock`.
///
/// What can be read or called here is what every context may read or call.
#[repr(transparent)]
pub(crate) struct VsockSock(Opaque<bindings::vsock_sock>);

// SAFETY: A socket is not tied to a thread; what is reachable through a shared reference is either
// read and written whole or guarded by the C side.
unsafe impl Send for VsockSock {}
// SAFETY: As above.
unsafe impl Sync for VsockSock {}

// SAFETY: `sock_hold()` and `sock_put()` count the references that keep a socket alive.
unsafe impl AlwaysRefCounted for VsockSock {
    fn inc_ref(&self) {
        // SAFETY: A reference shows that the socket is alive.
        unsafe { bindings::rvsock_helper_sock_hold(self.sock()) }
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: By the safety requirements there is a reference, which is dropped here.
        unsafe { bindings::rvsock_helper_sock_put(obj.as_ref().sock()) }
    }
}

/// What af_vsock knows of a socket's connection: `sk->sk_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectState {
    /// `TCP_CLOSE`: not connected.
    Unconnected,
    /// `TCP_SYN_SENT`: `connect()` waits.
    Connecting,
    /// `TCP_ESTABLISHED`.
    Connected,
    /// `TCP_CLOSING`: disconnected, with nothing left to read.
    Disconnecting,
    /// `TCP_LISTEN`.
    Listening,
}

impl VsockSock {
    /// Wraps a raw socket.
    ///
    /// # Safety
    ///
    /// `vsk` is valid for `'a`.
    pub(super) unsafe fn from_raw<'a>(vsk: *mut bindings::vsock_sock) -> &'a Self {
        // SAFETY: `VsockSock` is transparent to `struct vsock_sock`; valid by the requirements.
        unsafe { &*vsk.cast() }
    }

    /// Takes over a reference that C has taken.
    ///
    /// # Safety
    ///
    /// `sk` is null or an AF_VSOCK socket with a reference that is the caller's to give.
    pub(super) unsafe fn from_owned(sk: *mut bindings::sock) -> Option<ARef<Self>> {
        // SAFETY: By the safety requirements; `vsk` begins with `sk`.
        NonNull::new(sk.cast()).map(|sk| unsafe { ARef::from_raw(sk) })
    }

    pub(super) fn raw(&self) -> *mut bindings::vsock_sock {
        self.0.get()
    }

    /// The socket's `struct sock`.
    pub(in crate::ext) fn sock(&self) -> *mut bindings::sock {
        self.0.get().cast()
    }

    /// The socket's type.
    pub(crate) fn sock_type(&self) -> SockType {
        // SAFETY: The socket is alive; its type never changes.
        match u32::from(unsafe { (*self.sock()).sk_type }) {
            bindings::sock_type_SOCK_STREAM => SockType::Stream,
            bindings::sock_type_SOCK_SEQPACKET => SockType::Seqpacket,
            _ => SockType::Dgram,
        }
    }

    /// The state of its connection, as it was a moment ago.
    pub(crate) fn connect_state(&self) -> ConnectState {
        // SAFETY: The socket is alive; the state is read whole.
        match unsafe { bindings::rvsock_helper_sk_state(self.sock()) } as u32 {
            bindings::TCP_SYN_SENT => ConnectState::Connecting,
            bindings::TCP_ESTABLISHED => ConnectState::Connected,
            bindings::TCP_CLOSING => ConnectState::Disconnecting,
            bindings::TCP_LISTEN => ConnectState::Listening,
            _ => ConnectState::Unconnected,
        }
    }

    /// The CID that it is bound to ([`CID_ANY`] for all).
    pub(crate) fn local_cid(&self) -> u32 {
        // SAFETY: The socket is alive; the CID is read whole.
        unsafe { (&raw const (*self.raw()).local_addr.svm_cid).read_volatile() }
    }

    /// How many bytes a reader waits for, `SO_RCVLOWAT`; one at the least.
    pub(crate) fn rcvlowat(&self) -> u32 {
        // SAFETY: The socket is alive; the value is read whole.
        u32::try_from(unsafe { bindings::rvsock_helper_sk_rcvlowat(self.sock()) }).unwrap_or(1)
    }

    /// Whether its network namespace is in global mode, the only one that reaches a host here.
    pub(crate) fn is_global(&self) -> bool {
        // SAFETY: The socket is alive, and so is its namespace.
        unsafe { bindings::rvsock_helper_vsock_net_mode_global(self.raw()) }
    }

    /// Wakes readers: there is data, or never will be.
    pub(crate) fn data_ready(&self) {
        // SAFETY: The socket is alive.
        unsafe { bindings::rvsock_helper_sk_data_ready(self.sock()) }
    }

    /// Whether a program of sockmap's gets what is received, by [`data_ready`](Self::data_ready).
    pub(crate) fn has_verdict(&self) -> bool {
        // SAFETY: The socket is alive.
        unsafe { bindings::rvsock_helper_sk_has_verdict(self.sock()) }
    }

    /// Wakes writers: there is room.
    pub(crate) fn write_space(&self) {
        // SAFETY: The socket is alive.
        unsafe { bindings::rvsock_helper_sk_write_space(self.sock()) }
    }

    /// Wakes everybody: the connection's state has changed.
    pub(crate) fn state_change(&self) {
        // SAFETY: The socket is alive.
        unsafe { bindings::rvsock_helper_sk_state_change(self.sock()) }
    }

    /// Puts an empty buffer into the backlog, which the owner works off when it lets go.
    fn note_for_owner(&self) -> Result {
        let (note, ()) = SkBuff::alloc(0, GFP_ATOMIC, ())?.into_raw();
        // SAFETY: The socket is alive and its spinlock held; the buffer is ours to give.
        let full = unsafe { bindings::rvsock_helper_sk_add_backlog(self.sock(), note.as_ptr()) };
        if full != 0 {
            // SAFETY: The buffer has not been taken.
            drop(unsafe { SkBuff::from_raw(note, ()) });
            return Err(ENOMEM);
        }
        Ok(())
    }
}

/// A socket that nobody else can own meanwhile.
///
/// # Invariants
///
/// Either a user call owns the socket (`lock_sock()`) and we run in it, or the spinlock of the
/// socket's lock is held and nobody owns it.
pub(crate) struct OwnedSock<'a> {
    sk: &'a VsockSock,
}

impl Deref for OwnedSock<'_> {
    type Target = VsockSock;

    fn deref(&self) -> &VsockSock {
        self.sk
    }
}

impl<'a> OwnedSock<'a> {
    /// Asserts that the caller owns the socket.
    ///
    /// # Safety
    ///
    /// As the type invariant says, for `'a`.
    pub(super) unsafe fn new(sk: &'a VsockSock) -> Self {
        // INVARIANT: By the safety requirements.
        Self { sk }
    }

    /// The address that it is bound to.
    pub(crate) fn local_addr(&self) -> Addr {
        // SAFETY: The socket is alive and owned, so that nobody binds it.
        Addr::from(unsafe { &(*self.raw()).local_addr })
    }

    /// The address that it is, or is to be, connected to.
    pub(crate) fn remote_addr(&self) -> Addr {
        // SAFETY: The socket is alive and owned, so that nobody connects it.
        Addr::from(unsafe { &(*self.raw()).remote_addr })
    }

    /// Changes the CID that it is bound to, unless it is bound to all of them.
    pub(crate) fn rebind_cid(&self, cid: u32) {
        if self.local_cid() != CID_ANY {
            // SAFETY: The socket is alive and owned; the CID is written whole.
            unsafe { (&raw mut (*self.raw()).local_addr.svm_cid).write_volatile(cid) };
        }
    }

    /// `SO_VM_SOCKETS_BUFFER_SIZE`, in bytes.
    pub(crate) fn buffer_size(&self) -> u64 {
        // SAFETY: The socket is alive and owned.
        unsafe { (*self.raw()).buffer_size }
    }

    /// `SO_VM_SOCKETS_BUFFER_MAX_SIZE`, in bytes.
    pub(crate) fn buffer_max_size(&self) -> u64 {
        // SAFETY: The socket is alive and owned.
        unsafe { (*self.raw()).buffer_max_size }
    }

    /// Sets what `SO_VM_SOCKETS_BUFFER_SIZE` reports, and raises its bound where that is less.
    pub(crate) fn set_buffer_size(&self, size: u64) {
        let vsk = self.raw();
        // SAFETY: The socket is alive and owned.
        unsafe {
            (*vsk).buffer_size = size;
            (*vsk).buffer_max_size = (*vsk).buffer_max_size.max(size);
        }
    }

    fn set_connect_state(&self, state: u32) {
        // SAFETY: The socket is alive and owned; the state is written whole.
        unsafe { bindings::rvsock_helper_sk_set_state(self.sock(), state as i32) };
    }

    /// Completes `connect()`: the socket is connected and in af_vsock's table.
    ///
    /// Returns false, and changes nothing, if nobody connects (any more).
    pub(crate) fn set_connected(&self) -> bool {
        if self.connect_state() != ConnectState::Connecting {
            return false;
        }
        // SAFETY: The socket is alive and owned.
        if !unsafe { bindings::rvsock_helper_sk_mark_connected(self.sock()) } {
            return false;
        }
        self.set_connect_state(bindings::TCP_ESTABLISHED);
        // SAFETY: The socket is alive, and not in the table: it was connecting until now.
        unsafe { bindings::vsock_insert_connected(self.raw()) };
        self.state_change();
        true
    }

    /// Ends the connection with an error, which the user's next call reports.
    pub(crate) fn fail(&self, error: Error) {
        self.set_connect_state(bindings::TCP_CLOSE);
        // SAFETY: The socket is alive and owned.
        unsafe {
            (*self.sock()).sk_err = -error.to_errno();
            bindings::sk_error_report(self.sock());
        }
    }

    /// Ends the connection as a user sees it: what is unread can be read, then comes the end.
    pub(crate) fn disconnect(&self, unread: bool) {
        // SAFETY: The socket is alive and owned.
        unsafe {
            bindings::rvsock_helper_sock_set_flag(self.sock(), bindings::sock_flags_SOCK_DONE)
        };
        self.set_peer_shutdown(bindings::SHUTDOWN_MASK);
        if !unread {
            self.set_connect_state(bindings::TCP_CLOSING);
        }
        self.state_change();
    }

    /// Whether [`disconnect`](Self::disconnect) has happened.
    pub(crate) fn is_disconnected(&self) -> bool {
        // SAFETY: The socket is alive.
        unsafe { bindings::rvsock_helper_sock_flag(self.sock(), bindings::sock_flags_SOCK_DONE) }
    }

    /// Which directions the peer has shut down: `RCV_SHUTDOWN`, `SEND_SHUTDOWN`.
    pub(crate) fn set_peer_shutdown(&self, mask: u32) {
        // SAFETY: The socket is alive and owned; the mask is written whole.
        unsafe { bindings::rvsock_helper_vsock_set_peer_shutdown(self.raw(), mask) };
    }

    /// Takes the socket out of af_vsock's tables: the connected one, and, once it is being
    /// released, the bound one.
    pub(crate) fn remove_from_tables(&self) {
        // SAFETY: The socket is alive.
        unsafe { bindings::vsock_remove_sock(self.raw()) };
    }

    /// Waits for what is unsent if `SO_LINGER` says so, and the process is not about to end.
    ///
    /// Sleeps, and lets the socket go meanwhile: only for the release callback.
    pub(crate) fn linger(&self) {
        // SAFETY: The socket is alive and owned by the user call that we run in, as only such
        // callers are in the release callback.
        unsafe {
            if !bindings::rvsock_helper_current_exiting() {
                bindings::vsock_linger(self.sock());
            }
        }
    }
}

/// A way to a socket that does not keep it.
///
/// It becomes one when the transport's `init` callback returns, and ceases to be in its `destruct`
/// callback.
#[pin_data]
pub(crate) struct WeakSock {
    /// Null, or a socket whose `destruct` callback has not run.
    #[pin]
    sk: SpinLockBh<SockPtr>,
    /// A note to the socket's owner is in its backlog.
    noted: AtomicFlag,
}

struct SockPtr {
    sk: *mut VsockSock,
    /// What worked off the socket's backlog before its transport was this one.
    backlog_rcv: BacklogRcv,
}

type BacklogRcv = Option<unsafe extern "C" fn(*mut bindings::sock, *mut bindings::sk_buff) -> i32>;

// SAFETY: Sockets are not tied to a thread.
unsafe impl Send for SockPtr {}

impl WeakSock {
    /// A way to no socket.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            sk <- new_spinlock_bh!(
                SockPtr {
                    sk: core::ptr::null_mut(),
                    backlog_rcv: None,
                },
                "WeakSock::sk"
            ),
            noted: AtomicFlag::new(false),
        })
    }

    /// The socket, unless it is on its way out.
    pub(crate) fn upgrade(&self) -> Option<ARef<VsockSock>> {
        let sk = self.sk.lock();
        let ptr = NonNull::new(sk.sk)?;
        // SAFETY: The socket's memory is there as long as its `destruct` callback, which would
        // have to take the lock, has not run.
        let alive = unsafe { bindings::rvsock_helper_sock_tryget(sk.sk.cast()) };
        // SAFETY: The reference has just been taken.
        alive.then(|| unsafe { ARef::from_raw(ptr) })
    }

    /// Runs `with` as the socket's owner, unless a user call owns it just now.
    ///
    /// Never sleeps and never waits for a user call; nor may `with` sleep. In the other case
    /// [`Serves::deferred`](super::Serves::deferred) is called once that user call lets the
    /// socket go; several such calls may become one. If there is no socket (any more), nothing
    /// happens.
    ///
    /// Returns whether one of them is certain.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if the socket is owned and the note to its owner could not be allocated.
    pub(crate) fn own_or_defer(&self, with: impl FnOnce(&OwnedSock<'_>)) -> Result {
        let Some(sk) = self.upgrade() else {
            return Ok(());
        };
        // SAFETY: The socket is alive; unlocked below.
        unsafe { bindings::rvsock_helper_bh_lock_sock(sk.sock()) };
        // SAFETY: The spinlock is held.
        let result = if !unsafe { bindings::rvsock_helper_sock_owned_by_user(sk.sock()) } {
            // INVARIANT: The spinlock is held and no user call owns the socket, nor can one come
            // to own it before the spinlock is released.
            with(&OwnedSock { sk: &sk });
            Ok(())
        } else if self.noted.load(Relaxed) {
            Ok(())
        } else {
            sk.note_for_owner()
                .inspect(|()| self.noted.store(true, Relaxed))
        };
        // SAFETY: Locked above.
        unsafe { bindings::rvsock_helper_bh_unlock_sock(sk.sock()) };
        result
    }

    /// The owner has found the note, and is going to look.
    pub(super) fn note_is_found(&self) {
        // Full: a change that came after the owner has looked finds that there is no note.
        self.noted.xchg(false, Full);
    }

    /// Points to `sk` from now on.
    ///
    /// # Safety
    ///
    /// `clear()` is called before the socket's memory goes away.
    pub(super) unsafe fn set(&self, sk: &VsockSock) {
        self.sk.lock().sk = core::ptr::from_ref(sk).cast_mut();
    }

    /// Points to nothing from now on.
    pub(super) fn clear(&self) {
        self.sk.lock().sk = core::ptr::null_mut();
    }

    pub(super) fn save_backlog_rcv(&self, backlog_rcv: BacklogRcv) {
        self.sk.lock().backlog_rcv = backlog_rcv;
    }

    pub(super) fn backlog_rcv(&self) -> BacklogRcv {
        self.sk.lock().backlog_rcv
    }
}
