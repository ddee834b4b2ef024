// SPDX-License-Identifier: GPL-2.0

//! The proofs of owning an AF_VSOCK socket, and what they allow.
//!
//! Which proof a callback gets says what it may do: [`OwnedSock`] is what all of them come to,
//! [`UserOwned`] is for calls that may sleep. What lets the socket go for a while is done by a proof that
//! one callback alone gets, and by value: [`Releasing`], [`Sending`](super::Sending).
//!
//! C headers: [`include/net/sock.h`](srctree/include/net/sock.h),
//! [`include/net/af_vsock.h`](srctree/include/net/af_vsock.h)

use super::{
    Addr,
    ConnectState,
    VsockSock,
    CID_ANY, //
};
use crate::ext::bindings;
use core::ops::Deref;
use kernel::{
    prelude::*,
    types::NotThreadSafe, //
};

/// A socket that nobody else can own meanwhile.
///
/// What can be done here neither sleeps nor lets the socket go, so that it may be the spinlock that is
/// held.
///
/// # Invariants
///
/// Either a user call owns the socket (`lock_sock()`) and we run in it, or the spinlock of the
/// socket's lock is held and nobody owns it, or nobody else knows of the socket yet.
pub(crate) struct OwnedSock<'a> {
    sk: &'a VsockSock,
    /// What holds the socket is this CPU, or this call.
    _not_send: NotThreadSafe,
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
        Self {
            sk,
            _not_send: NotThreadSafe,
        }
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
        // SAFETY: The socket is alive and owned. The function sees to it that it is in the table once.
        unsafe { bindings::rvsock_helper_vsock_insert_connected(self.raw()) };
        self.state_change();
        true
    }

    /// Ends the connection with an error, which the user's next call reports.
    ///
    /// It leaves af_vsock's table of connected sockets, which holds no others.
    pub(crate) fn fail(&self, error: Error) {
        // SAFETY: The socket is alive; it may or may not be in the table.
        unsafe { bindings::vsock_remove_connected(self.raw()) };
        self.set_connect_state(bindings::TCP_CLOSE);
        // SAFETY: The socket is alive and owned.
        unsafe {
            (*self.sock()).sk_err = -error.to_errno();
            bindings::sk_error_report(self.sock());
        }
    }

    /// Ends the connection as a user sees it: what is unread can be read, then comes the end.
    ///
    /// With `looks_connected`, the state remains that of a connection: nothing else can be read from.
    pub(crate) fn disconnect(&self, looks_connected: bool) {
        // SAFETY: The socket is alive and owned.
        unsafe {
            bindings::rvsock_helper_sock_set_flag(self.sock(), bindings::sock_flags_SOCK_DONE)
        };
        self.set_peer_shutdown(bindings::SHUTDOWN_MASK);
        if !looks_connected {
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
}

/// A socket that is owned by the user call that we run in, so that we may sleep.
///
/// # Invariants
///
/// A user call owns the socket (`lock_sock()`), and we run in it.
pub(crate) struct UserOwned<'a>(OwnedSock<'a>);

impl<'a> UserOwned<'a> {
    /// Asserts that we run in the user call that owns the socket.
    ///
    /// # Safety
    ///
    /// As the type invariant says, for `'a`.
    pub(super) unsafe fn new(sk: &'a VsockSock) -> Self {
        // SAFETY: By the safety requirements.
        //
        // INVARIANT: As above.
        Self(unsafe { OwnedSock::new(sk) })
    }
}

impl<'a> Deref for UserOwned<'a> {
    type Target = OwnedSock<'a>;

    fn deref(&self) -> &OwnedSock<'a> {
        &self.0
    }
}

/// A socket that a transport is about to serve, in [`Serves::init`](super::Serves::init).
///
/// It has no transport yet, and may be known to nobody: there is little that can be done with it.
///
/// # Invariants
///
/// As of [`OwnedSock`].
pub(crate) struct NewSock<'a>(OwnedSock<'a>);

impl<'a> NewSock<'a> {
    /// Asserts that nobody else owns the socket, or comes to know of it.
    ///
    /// # Safety
    ///
    /// As the type invariant says, for `'a`.
    pub(super) unsafe fn new(sk: &'a VsockSock) -> Self {
        // SAFETY: By the safety requirements.
        //
        // INVARIANT: As above.
        Self(unsafe { OwnedSock::new(sk) })
    }

    /// As [`OwnedSock::buffer_size`].
    pub(crate) fn buffer_size(&self) -> u64 {
        self.0.buffer_size()
    }

    /// As [`OwnedSock::buffer_max_size`].
    pub(crate) fn buffer_max_size(&self) -> u64 {
        self.0.buffer_max_size()
    }

    /// As [`OwnedSock::set_buffer_size`].
    pub(crate) fn set_buffer_size(&self, size: u64) {
        self.0.set_buffer_size(size);
    }

    /// Has what [`Sending::datagram`](super::Sending::datagram) allocates count for the memory cgroup of who
    /// sends.
    pub(crate) fn account_memory(&self) {
        // SAFETY: The socket is alive, and new.
        unsafe { bindings::rvsock_helper_sk_account_memory(self.0.sock()) };
    }
}

impl Deref for NewSock<'_> {
    type Target = VsockSock;

    fn deref(&self) -> &VsockSock {
        &self.0
    }
}

/// A socket that its transport is to let go, in [`Serves::release`](super::Serves::release).
pub(crate) struct Releasing<'a>(UserOwned<'a>);

impl<'a> Releasing<'a> {
    /// Wraps what the release callback was called with.
    pub(super) fn new(sk: UserOwned<'a>) -> Self {
        Self(sk)
    }

    /// Waits for what is unsent if `SO_LINGER` says so, and the process is not about to end. Does
    /// nothing for a socket that is not being closed, but is to be connected by another transport.
    ///
    /// Sleeps, and lets the socket go meanwhile.
    pub(crate) fn linger(self) -> UserOwned<'a> {
        // SAFETY: The socket is alive, and owned by the user call that we run in. Nobody holds on to
        // the proof of that, which is this value. While a socket that is being closed is let go, it has
        // no other user, so that it keeps its transport; others are not let go.
        unsafe { bindings::rvsock_helper_vsock_linger(self.0.raw()) };
        self.0
    }
}

impl<'a> From<Releasing<'a>> for UserOwned<'a> {
    /// Without lingering.
    fn from(sk: Releasing<'a>) -> Self {
        sk.0
    }
}

impl<'a> Deref for Releasing<'a> {
    type Target = UserOwned<'a>;

    fn deref(&self) -> &UserOwned<'a> {
        &self.0
    }
}
