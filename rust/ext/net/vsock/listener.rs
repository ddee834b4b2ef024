// SPDX-License-Identifier: GPL-2.0

//! Listening sockets and the connections that they are given.
//!
//! C header: [`include/net/af_vsock.h`](srctree/include/net/af_vsock.h)

use super::{
    served::with,
    Addr,
    ConnectState,
    Table,
    Transport,
    UserOwned,
    VsockSock, //
};
use crate::ext::{
    bindings,
    error::NetError, //
};
use core::ptr::NonNull;
use kernel::{
    error::to_result,
    prelude::*,
    sync::{
        aref::ARef,
        ArcBorrow, //
    }, //
};

/// A socket that was listening when it was found.
#[derive(Clone)]
pub(crate) struct Listener(ARef<VsockSock>);

impl PartialEq for Listener {
    /// Whether it is the same socket.
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq::<VsockSock>(&*self.0, &*other.0)
    }
}

/// Why a connection was not queued for `accept()`.
#[derive(Debug)]
pub(crate) enum Refused {
    /// A user call owns the listener just now: try again later.
    Busy,
    /// It does not listen any more, or its backlog is full.
    Never,
}

impl Listener {
    /// Takes `sk` as a listener if it listens.
    pub(crate) fn new(sk: ARef<VsockSock>) -> Option<Self> {
        (sk.connect_state() == ConnectState::Listening).then_some(Self(sk))
    }

    /// Whether the backlog was full a moment ago.
    pub(crate) fn is_full(&self) -> bool {
        // SAFETY: The socket is alive; the values are read whole.
        unsafe { bindings::rvsock_helper_sk_acceptq_is_full(self.0.sock()) }
    }

    /// How many connections may wait for `accept()`, `listen()`'s number; one more may, as everywhere in the
    /// kernel.
    pub(crate) fn backlog(&self) -> usize {
        // SAFETY: The socket is alive; the value is read whole.
        let most = unsafe { (&raw const (*self.0.sock()).sk_max_ack_backlog).read_volatile() };
        most as usize
    }

    /// Makes a connected socket for `accept()` to return, with this transport assigned to it.
    ///
    /// `set_up` sees the new socket's transport data before anybody else does. Sleeps; takes no
    /// lock of the listener.
    ///
    /// # Errors
    ///
    /// - `ENOMEM`: no memory.
    /// - `ENODEV`: the transport is going away.
    /// - `EOPNOTSUPP`: another transport serves these addresses.
    /// - What the transport's `init` callback or `set_up` returns.
    pub(crate) fn create_child<T: Transport>(
        &self,
        local: Addr,
        remote: Addr,
        table: &'static Table<T>,
        set_up: impl FnOnce(ArcBorrow<'_, T::Socket>, &UserOwned<'_>) -> Result,
    ) -> Result<Child> {
        // SAFETY: The listener is alive.
        let sk = unsafe { bindings::vsock_create_connected(self.0.sock()) };
        let child = NonNull::new(sk.cast::<VsockSock>()).ok_or(ENOMEM)?;
        // SAFETY: The only reference to the new socket.
        let child = Child(unsafe { ARef::from_raw(child) });
        let vsk = child.0.raw();
        // SAFETY: The new socket is valid and known to nobody else. Its lock is taken all the same,
        // since that is what the callbacks are promised; one socket's lock within another's is
        // what the class is for. With this table as its transport, its data are those of `T`, whose
        // table it is.
        let result = unsafe {
            bindings::lock_sock_nested(sk, bindings::SINGLE_DEPTH_NESTING as i32);
            bindings::vsock_addr_init(&raw mut (*vsk).local_addr, local.cid, local.port);
            bindings::vsock_addr_init(&raw mut (*vsk).remote_addr, remote.cid, remote.port);
            bindings::rvsock_helper_sk_set_state(sk, bindings::TCP_ESTABLISHED as i32);
            let mut result = to_result(bindings::vsock_assign_transport(vsk, self.0.raw()));
            if result.is_ok() {
                result = if core::ptr::eq((*vsk).transport, table.raw().get()) {
                    bindings::rvsock_helper_vsock_insert_connected(vsk);
                    with::<T, _>(vsk, set_up)
                } else {
                    Err(NetError::OpNotSupp.into())
                };
            }
            bindings::release_sock(sk);
            result
        };
        result.map(|()| child)
    }

    /// Queues `child` for `accept()`; `before` is called once that is certain, and before `accept()`
    /// can return it.
    ///
    /// Never sleeps, nor waits for a user call; nor may `before`.
    ///
    /// # Errors
    ///
    /// Gives the child back, and says whether to try again.
    pub(crate) fn enqueue(
        &self,
        child: Child,
        before: impl FnOnce(),
    ) -> Result<(), (Refused, Child)> {
        let sk = self.0.sock();
        // SAFETY: The listener is alive; unlocked below.
        unsafe { bindings::rvsock_helper_bh_lock_sock(sk) };
        // SAFETY: The spinlock is held; nobody can come to own the socket meanwhile, so that its
        // state, shutdown mask and accept queue are ours. The queue takes references to both.
        let result = unsafe {
            if bindings::rvsock_helper_sock_owned_by_user(sk) {
                Err(Refused::Busy)
            } else if self.0.connect_state() != ConnectState::Listening
                || u32::from((*sk).sk_shutdown) == bindings::SHUTDOWN_MASK
                || bindings::rvsock_helper_sk_acceptq_is_full(sk)
            {
                Err(Refused::Never)
            } else {
                before();
                bindings::vsock_enqueue_accept(sk, child.0.sock());
                Ok(())
            }
        };
        // SAFETY: Locked above.
        unsafe { bindings::rvsock_helper_bh_unlock_sock(sk) };
        match result {
            Ok(()) => {
                // The reference that creation gave is from now on the one that `accept()` and
                // then `release()` account for.
                let _ = ARef::into_raw(child.into_sock());
                Ok(())
            }
            Err(refused) => Err((refused, child)),
        }
    }

    /// Wakes those who wait in `accept()`.
    pub(crate) fn wake(&self) {
        self.0.data_ready();
    }
}

/// A connected socket that no user has yet; dropping it ends it.
///
/// # Invariants
///
/// The socket comes from [`Listener::create_child`], and is in no accept queue. The reference is the one
/// that it was made with.
pub(crate) struct Child(ARef<VsockSock>);

impl Child {
    /// The socket.
    pub(crate) fn sock(&self) -> &ARef<VsockSock> {
        &self.0
    }

    fn into_sock(self) -> ARef<VsockSock> {
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: Moved out of `this`, which is not dropped.
        unsafe { core::ptr::read(&this.0) }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: The socket is alive. It may or may not be in the table.
        unsafe { bindings::vsock_remove_connected(self.0.raw()) };
    }
}
