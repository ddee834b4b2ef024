// SPDX-License-Identifier: GPL-2.0

//! AF_VSOCK sockets, as everybody may see them.
//!
//! C headers: [`include/net/sock.h`](srctree/include/net/sock.h),
//! [`include/net/af_vsock.h`](srctree/include/net/af_vsock.h)

use super::SockType;
use crate::ext::{
    bindings,
    net::sock::Sock, //
};
use core::{
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
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

    // The last one ends the socket, which takes locks that only process context and softirqs may take.
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

impl Deref for VsockSock {
    type Target = Sock;

    fn deref(&self) -> &Sock {
        // SAFETY: The socket is alive as long as the reference to it.
        unsafe { Sock::from_raw(self.sock()) }
    }
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

    /// The CID that it is bound to ([`CID_ANY`](super::CID_ANY) for all).
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
}
