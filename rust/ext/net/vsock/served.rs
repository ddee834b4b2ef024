// SPDX-License-Identifier: GPL-2.0

//! What a transport keeps for a socket, from when it comes to serve it until it does no longer.
//!
//! C header: [`include/net/af_vsock.h`](srctree/include/net/af_vsock.h)
//!
//! For all callbacks of a transport it is promised that the socket is valid. Those that take the
//! socket's data are called only after `init`, and before `destruct`. Those that use [`with`] or
//! [`with_kept`] are called with the socket locked by the call that they serve, and the lock is not let
//! go before they return, but by what [`with_kept`] is for. The `SAFETY` comments say "as af_vsock
//! promises" for this.

use super::{
    NewSock,
    Releasing,
    Serves,
    UserOwned,
    VsockSock,
    WeakSock, //
};
use crate::ext::{
    bindings,
    net::skbuff::SkBuff, //
};
use core::ptr::NonNull;
use kernel::{
    error::from_result,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
    types::ForeignOwnable, //
};

/// What a socket's `trans` points to while `T` serves it.
struct Served<T: Serves> {
    /// The same as the transport was given. Here it is found whatever the transport does with its own.
    way: WeakSock,
    data: Arc<T::Socket>,
}

/// What `init` has set for a socket.
///
/// # Safety
///
/// `vsk` is valid for `'a`, and served by `T`: `init` has set its data, which `destruct` has not taken.
unsafe fn served<'a, T: Serves>(vsk: *mut bindings::vsock_sock) -> &'a Served<T> {
    // SAFETY: By the safety requirements the pointer is from `into_foreign()`.
    unsafe { <KBox<Served<T>> as ForeignOwnable>::borrow((*vsk).trans.cast()) }
}

/// The socket data of a callback.
///
/// # Safety
///
/// As [`served`].
pub(super) unsafe fn data<'a, T: Serves>(
    vsk: *mut bindings::vsock_sock,
) -> ArcBorrow<'a, T::Socket> {
    // SAFETY: By the safety requirements.
    unsafe { served::<T>(vsk) }.data.as_arc_borrow()
}

/// Calls `f` with the socket and its data.
///
/// # Safety
///
/// As [`served`]; besides, the caller runs in the call that owns the socket.
pub(super) unsafe fn with<T: Serves, R>(
    vsk: *mut bindings::vsock_sock,
    f: impl FnOnce(ArcBorrow<'_, T::Socket>, &UserOwned<'_>) -> R,
) -> R {
    // SAFETY: By the safety requirements. What `f` is lent does not let the socket go, so that it stays
    // served by `T`.
    let (data, sk) = unsafe { (data::<T>(vsk), UserOwned::new(VsockSock::from_raw(vsk))) };
    f(data, &sk)
}

/// As [`with`], for callbacks that may let the socket go for a while: its data are kept meanwhile.
///
/// # Safety
///
/// As [`with`].
pub(super) unsafe fn with_kept<T: Serves, R>(
    vsk: *mut bindings::vsock_sock,
    f: impl FnOnce(ArcBorrow<'_, T::Socket>, UserOwned<'_>) -> R,
) -> R {
    // SAFETY: By the safety requirements.
    let (data, sk) = unsafe { (data::<T>(vsk), UserOwned::new(VsockSock::from_raw(vsk))) };
    let data: Arc<T::Socket> = data.into();
    f(data.as_arc_borrow(), sk)
}

pub(super) extern "C" fn init<T: Serves>(
    vsk: *mut bindings::vsock_sock,
    psk: *mut bindings::vsock_sock,
) -> c_int {
    // SAFETY: As af_vsock promises.
    let sock = unsafe { VsockSock::from_raw(vsk) };
    // SAFETY: The socket is locked by the call that we run in, or known to nobody else.
    let sk = unsafe { NewSock::new(sock) };
    // SAFETY: The parent is null or alive.
    let parent = (!psk.is_null()).then(|| unsafe { VsockSock::from_raw(psk) });
    from_result(|| {
        let served = KBox::new_uninit(GFP_KERNEL)?;
        let way = WeakSock::new()?;
        let data = T::init(&sk, way.clone(), parent)?;
        let served = KBox::write(
            served,
            Served::<T> {
                way: way.clone(),
                data,
            },
        );
        // SAFETY: As af_vsock promises, nobody else looks at it.
        unsafe { (*vsk).trans = served.into_foreign().cast() };
        // SAFETY: The socket is locked by the call that we run in, or known to nobody else. `destruct`
        // calls `leave()`, of this very way, and runs before the socket's memory goes.
        unsafe { way.lead_to(sock, Some(backlog_rcv::<T>)) };
        Ok(0)
    })
}

pub(super) extern "C" fn destruct<T: Serves>(vsk: *mut bindings::vsock_sock) {
    // SAFETY: As af_vsock promises; what `init` has put there is taken away, and nobody takes it twice.
    let served = unsafe {
        let trans = core::mem::replace(&mut (*vsk).trans, core::ptr::null_mut());
        <KBox<Served<T>> as ForeignOwnable>::from_foreign(trans.cast())
    };
    let Served { way, data } = KBox::into_inner(served);
    // SAFETY: Either the socket is owned by the call that we run in, or nobody can reach it any more.
    // `init` has it led to.
    unsafe { way.leave(VsockSock::from_raw(vsk)) };
    T::destruct(data);
}

// Works off what `WeakSock::own_or_defer` has put into the backlog.
extern "C" fn backlog_rcv<T: Serves>(
    sk: *mut bindings::sock,
    skb: *mut bindings::sk_buff,
) -> c_int {
    if let Some(skb) = NonNull::new(skb) {
        // SAFETY: The backlog's buffer is ours.
        unsafe { SkBuff::from_raw(skb, ()) }.consume();
    }
    // SAFETY: The function is set between `init` and `destruct`.
    unsafe { served::<T>(sk.cast()) }.way.forget_note();
    // SAFETY: As above; it is the owner that works off the backlog.
    unsafe { with::<T, _>(sk.cast(), |data, sk| T::deferred(data, sk)) };
    0
}

pub(super) extern "C" fn release<T: Serves>(vsk: *mut bindings::vsock_sock) {
    // SAFETY: As af_vsock promises.
    unsafe { with_kept::<T, _>(vsk, |data, sk| T::release(data, Releasing::new(sk))) }
}
