// SPDX-License-Identifier: GPL-2.0

//! The callbacks of a transport, as af_vsock calls them.
//!
//! C header: [`include/net/af_vsock.h`](srctree/include/net/af_vsock.h)
//!
//! What is promised for all of them, and how they come to the socket's data, is in [`served`](super::served).

use super::{
    served::{
        data,
        destruct,
        init,
        release,
        with, //
    },
    Addr,
    Serves,
    SockType,
    Transport,
    UserOwned,
    VsockSock, //
};
use crate::ext::{
    bindings,
    error::NetError,
    module_info::THIS_MODULE,
    net::{
        msg::Msg,
        skbuff::SkBuff, //
    }, //
};
use core::marker::PhantomData;
use kernel::{
    error::from_result,
    prelude::*,
    sync::ArcBorrow, //
};

/// The callbacks of a transport, in the form that af_vsock wants.
#[repr(transparent)]
pub(super) struct RawTable(bindings::vsock_transport);

// SAFETY: Nothing in it ever changes.
unsafe impl Sync for RawTable {}

impl RawTable {
    /// The table as C knows it.
    pub(super) fn get(&'static self) -> &'static bindings::vsock_transport {
        &self.0
    }
}

/// The callbacks of the transport `T`.
///
/// # Invariants
///
/// All of them are those of `T`, whose code is in this module, which the table says.
#[repr(transparent)]
pub(crate) struct Table<T> {
    raw: RawTable,
    _transport: PhantomData<fn() -> T>,
}

/// The module that a table's code is in: this one.
pub(super) const MODULE: *mut bindings::module = THIS_MODULE.cast();

impl<T> Table<T> {
    /// Wraps a table.
    ///
    /// # Safety
    ///
    /// As the type invariant says.
    pub(super) const unsafe fn new(raw: bindings::vsock_transport) -> Self {
        // INVARIANT: By the safety requirement.
        Self {
            raw: RawTable(raw),
            _transport: PhantomData,
        }
    }

    pub(super) fn raw(&'static self) -> &'static RawTable {
        &self.raw
    }
}

impl<T: Transport> Table<T> {
    /// The table of `T`, a transport of connections.
    pub(crate) const fn connections() -> Self {
        let table = bindings::vsock_transport {
            module: MODULE,
            init: Some(init::<T>),
            destruct: Some(destruct::<T>),
            release: Some(release::<T>),
            cancel_pkt: Some(cancel_pkt::<T>),
            connect: Some(connect::<T>),
            dgram_bind: Some(dgram_bind),
            dgram_dequeue: Some(dgram_dequeue),
            dgram_enqueue: Some(dgram_enqueue),
            dgram_allow: Some(dgram_allow),
            stream_dequeue: Some(stream_dequeue::<T>),
            stream_enqueue: Some(stream_enqueue::<T>),
            stream_has_data: Some(stream_has_data::<T>),
            stream_has_space: Some(stream_has_space::<T>),
            stream_rcvhiwat: Some(stream_rcvhiwat::<T>),
            stream_is_active: Some(stream_is_active),
            stream_allow: Some(stream_allow::<T>),
            seqpacket_dequeue: Some(seqpacket_dequeue::<T>),
            seqpacket_enqueue: Some(seqpacket_enqueue::<T>),
            seqpacket_allow: Some(seqpacket_allow::<T>),
            seqpacket_has_data: Some(seqpacket_has_data::<T>),
            notify_poll_in: Some(notify_poll_in::<T>),
            notify_poll_out: Some(notify_poll_out::<T>),
            notify_recv_init: Some(notify_recv),
            notify_recv_pre_block: Some(notify_recv_pre_block::<T>),
            notify_recv_pre_dequeue: Some(notify_recv),
            notify_recv_post_dequeue: Some(notify_recv_post_dequeue),
            notify_send_init: Some(notify_send),
            notify_send_pre_block: Some(notify_send_pre_block::<T>),
            notify_send_pre_enqueue: Some(notify_send),
            notify_send_post_enqueue: Some(notify_send_post_enqueue),
            notify_buffer_size: Some(notify_buffer_size::<T>),
            notify_set_rcvlowat: Some(notify_set_rcvlowat::<T>),
            unsent_bytes: Some(unsent_bytes::<T>),
            shutdown: Some(shutdown::<T>),
            get_local_cid: Some(get_local_cid::<T>),
            has_remote_cid: Some(has_remote_cid::<T>),
            read_skb: reads_skb(read_skb::<T>),
            msgzerocopy_allow: Some(msgzerocopy_allow::<T>),
        };
        // SAFETY: All functions above are those of `T`.
        unsafe { Self::new(table) }
    }
}

extern "C" fn cancel_pkt<T: Transport>(vsk: *mut bindings::vsock_sock) -> c_int {
    // SAFETY: As af_vsock promises.
    from_result(|| unsafe { with::<T, _>(vsk, T::cancel) }.map(|()| 0))
}

extern "C" fn connect<T: Transport>(vsk: *mut bindings::vsock_sock) -> c_int {
    // SAFETY: As af_vsock promises.
    from_result(|| unsafe { with::<T, _>(vsk, T::connect) }.map(|()| 0))
}

extern "C" fn dgram_bind(
    _vsk: *mut bindings::vsock_sock,
    _addr: *mut bindings::sockaddr_vm,
) -> c_int {
    Error::from(NetError::OpNotSupp).to_errno()
}

extern "C" fn dgram_dequeue(
    _vsk: *mut bindings::vsock_sock,
    _msg: *mut bindings::msghdr,
    _len: usize,
    _flags: c_int,
) -> c_int {
    Error::from(NetError::OpNotSupp).to_errno()
}

extern "C" fn dgram_enqueue(
    _vsk: *mut bindings::vsock_sock,
    _addr: *mut bindings::sockaddr_vm,
    _msg: *mut bindings::msghdr,
    _len: usize,
) -> c_int {
    Error::from(NetError::OpNotSupp).to_errno()
}

extern "C" fn dgram_allow(_vsk: *mut bindings::vsock_sock, _cid: u32, _port: u32) -> bool {
    false
}

extern "C" fn stream_dequeue<T: Transport>(
    vsk: *mut bindings::vsock_sock,
    msg: *mut bindings::msghdr,
    len: usize,
    flags: c_int,
) -> isize {
    // SAFETY: The message is this call's.
    let msg = unsafe { Msg::from_raw(msg) };
    let peek = flags as u32 & bindings::MSG_PEEK != 0;
    // SAFETY: As af_vsock promises.
    count(unsafe { with::<T, _>(vsk, |data, sk| T::stream_dequeue(data, sk, msg, len, peek)) })
}

extern "C" fn stream_enqueue<T: Transport>(
    vsk: *mut bindings::vsock_sock,
    msg: *mut bindings::msghdr,
    len: usize,
) -> isize {
    // SAFETY: The message is this call's.
    let msg = unsafe { Msg::from_raw(msg) };
    // SAFETY: As af_vsock promises.
    count(unsafe { with::<T, _>(vsk, |data, sk| T::stream_enqueue(data, sk, msg, len)) })
}

/// A count or an errno, as C returns them.
pub(super) fn count(result: Result<usize>) -> isize {
    match result {
        Ok(count) => isize::try_from(count).unwrap_or(isize::MAX),
        Err(error) => error.to_errno() as isize,
    }
}

extern "C" fn stream_has_data<T: Transport>(vsk: *mut bindings::vsock_sock) -> i64 {
    // SAFETY: As af_vsock promises.
    i64::from(T::stream_has_data(unsafe { data::<T>(vsk) }))
}

extern "C" fn stream_has_space<T: Transport>(vsk: *mut bindings::vsock_sock) -> i64 {
    // SAFETY: As af_vsock promises.
    i64::from(T::stream_has_space(unsafe { data::<T>(vsk) }))
}

extern "C" fn stream_rcvhiwat<T: Transport>(vsk: *mut bindings::vsock_sock) -> u64 {
    // SAFETY: As af_vsock promises.
    unsafe { with::<T, _>(vsk, |_, sk| T::stream_rcvhiwat(sk)) }
}

extern "C" fn stream_is_active(_vsk: *mut bindings::vsock_sock) -> bool {
    true
}

extern "C" fn stream_allow<T: Transport>(
    vsk: *mut bindings::vsock_sock,
    cid: u32,
    port: u32,
) -> bool {
    // SAFETY: As af_vsock promises.
    T::stream_allow(unsafe { VsockSock::from_raw(vsk) }, Addr { cid, port })
}

extern "C" fn seqpacket_dequeue<T: Transport>(
    vsk: *mut bindings::vsock_sock,
    msg: *mut bindings::msghdr,
    flags: c_int,
) -> isize {
    // SAFETY: The message is this call's.
    let msg = unsafe { Msg::from_raw(msg) };
    let peek = flags as u32 & bindings::MSG_PEEK != 0;
    // SAFETY: As af_vsock promises.
    count(unsafe { with::<T, _>(vsk, |data, sk| T::seqpacket_dequeue(data, sk, msg, peek)) })
}

extern "C" fn seqpacket_enqueue<T: Transport>(
    vsk: *mut bindings::vsock_sock,
    msg: *mut bindings::msghdr,
    len: usize,
) -> c_int {
    // SAFETY: The message is this call's.
    let msg = unsafe { Msg::from_raw(msg) };
    // SAFETY: As af_vsock promises.
    let sent = unsafe { with::<T, _>(vsk, |data, sk| T::seqpacket_enqueue(data, sk, msg, len)) };
    // CAST: A message is shorter than a window, whose length af_vsock takes as an `int` too.
    count(sent) as c_int
}

extern "C" fn seqpacket_has_data<T: Transport>(vsk: *mut bindings::vsock_sock) -> u32 {
    // SAFETY: As af_vsock promises.
    T::seqpacket_has_data(unsafe { data::<T>(vsk) })
}

extern "C" fn seqpacket_allow<T: Transport>(
    vsk: *mut bindings::vsock_sock,
    remote_cid: u32,
) -> bool {
    // SAFETY: As af_vsock promises.
    T::seqpacket_allow(unsafe { VsockSock::from_raw(vsk) }, remote_cid)
}

extern "C" fn notify_poll_in<T: Transport>(
    vsk: *mut bindings::vsock_sock,
    target: usize,
    ready: *mut bool,
) -> c_int {
    // SAFETY: As af_vsock promises.
    let (sk, data) = unsafe { (VsockSock::from_raw(vsk), data::<T>(vsk)) };
    let is_ready = if sk.sock_type() == SockType::Seqpacket {
        // A part of a message is nothing to read.
        T::seqpacket_has_data(data) > 0
    } else {
        T::stream_is_readable(data, target)
    };
    // SAFETY: The caller's variable.
    unsafe { *ready = is_ready };
    0
}

extern "C" fn notify_poll_out<T: Transport>(
    vsk: *mut bindings::vsock_sock,
    _target: usize,
    ready: *mut bool,
) -> c_int {
    // SAFETY: As af_vsock promises.
    let space = T::stream_has_space(unsafe { data::<T>(vsk) });
    // SAFETY: The caller's variable.
    unsafe { *ready = space > 0 };
    0
}

pub(super) extern "C" fn notify_recv(
    _vsk: *mut bindings::vsock_sock,
    _target: usize,
    _data: *mut bindings::vsock_transport_recv_notify_data,
) -> c_int {
    0
}

extern "C" fn notify_recv_pre_block<T: Transport>(
    vsk: *mut bindings::vsock_sock,
    target: usize,
    _data: *mut bindings::vsock_transport_recv_notify_data,
) -> c_int {
    let notify = |data: ArcBorrow<'_, T::Socket>, sk: &UserOwned<'_>| {
        T::notify_recv_pre_block(data, sk, target)
    };
    // SAFETY: As af_vsock promises.
    from_result(|| unsafe { with::<T, _>(vsk, notify) }.map(|()| 0))
}

pub(super) extern "C" fn notify_recv_post_dequeue(
    _vsk: *mut bindings::vsock_sock,
    _target: usize,
    _copied: isize,
    _data_read: bool,
    _data: *mut bindings::vsock_transport_recv_notify_data,
) -> c_int {
    0
}

extern "C" fn notify_send_pre_block<T: Transport>(
    vsk: *mut bindings::vsock_sock,
    _data: *mut bindings::vsock_transport_send_notify_data,
) -> c_int {
    // SAFETY: As af_vsock promises.
    from_result(|| unsafe { with::<T, _>(vsk, T::notify_send_pre_block) }.map(|()| 0))
}

pub(super) extern "C" fn notify_send(
    _vsk: *mut bindings::vsock_sock,
    _data: *mut bindings::vsock_transport_send_notify_data,
) -> c_int {
    0
}

pub(super) extern "C" fn notify_send_post_enqueue(
    _vsk: *mut bindings::vsock_sock,
    _written: isize,
    _data: *mut bindings::vsock_transport_send_notify_data,
) -> c_int {
    0
}

extern "C" fn notify_buffer_size<T: Transport>(vsk: *mut bindings::vsock_sock, value: *mut u64) {
    // SAFETY: The caller's variable.
    let value = unsafe { &mut *value };
    // SAFETY: As af_vsock promises.
    *value = unsafe { with::<T, _>(vsk, |data, sk| T::notify_buffer_size(data, sk, *value)) };
}

extern "C" fn notify_set_rcvlowat<T: Transport>(
    vsk: *mut bindings::vsock_sock,
    value: c_int,
) -> c_int {
    let notify = |data: ArcBorrow<'_, T::Socket>, sk: &UserOwned<'_>| {
        T::notify_set_rcvlowat(data, sk, u32::try_from(value).unwrap_or(0))
    };
    // SAFETY: As af_vsock promises.
    from_result(|| unsafe { with::<T, _>(vsk, notify) }.map(|()| 0))
}

extern "C" fn unsent_bytes<T: Transport>(vsk: *mut bindings::vsock_sock) -> isize {
    // SAFETY: As af_vsock promises.
    count(Ok(T::unsent_bytes(unsafe { data::<T>(vsk) })))
}

extern "C" fn shutdown<T: Transport>(vsk: *mut bindings::vsock_sock, mode: c_int) -> c_int {
    let shutdown =
        |data: ArcBorrow<'_, T::Socket>, sk: &UserOwned<'_>| T::shutdown(data, sk, mode as u32);
    // SAFETY: As af_vsock promises.
    from_result(|| unsafe { with::<T, _>(vsk, shutdown) }.map(|()| 0))
}

pub(super) extern "C" fn get_local_cid<T: Serves>() -> u32 {
    T::local_cid()
}

pub(super) extern "C" fn has_remote_cid<T: Serves>(
    _vsk: *mut bindings::vsock_sock,
    cid: u32,
) -> bool {
    T::has_remote_cid(cid)
}

/// What takes the buffers that `read_skb` finds; never null. kCFI knows functions by their types, and an `Option` of one has
/// another than C's pointer.
pub(super) type ReadActor =
    unsafe extern "C" fn(*mut bindings::sock, *mut bindings::sk_buff) -> c_int;

/// A function that calls it.
type Reader = extern "C" fn(*mut bindings::vsock_sock, ReadActor) -> c_int;

/// The form in which a table has it.
type ReadSkb = unsafe extern "C" fn(*mut bindings::vsock_sock, bindings::skb_read_actor_t) -> c_int;

/// `f` in that form.
pub(super) const fn reads_skb(f: Reader) -> Option<ReadSkb> {
    // SAFETY: A pointer to a function and an `Option` of one are passed alike, and sockmap, which alone calls it, passes one.
    Some(unsafe { core::mem::transmute::<Reader, ReadSkb>(f) })
}

extern "C" fn read_skb<T: Transport>(vsk: *mut bindings::vsock_sock, actor: ReadActor) -> c_int {
    let (mut taken, mut refused): (c_int, c_int) = (0, 0);
    let mut taker = |skb: SkBuff| {
        let (skb, ()) = skb.into_raw();
        // SAFETY: The buffer becomes the actor's; it carries nothing of ours.
        let used = unsafe { actor(vsk.cast(), skb.as_ptr()) };
        if used < 0 {
            refused = used;
        } else {
            taken = taken.saturating_add(used);
        }
        used >= 0
    };
    // SAFETY: As af_vsock promises.
    let read = T::read_skbs(unsafe { data::<T>(vsk) }, &mut taker);
    match read {
        _ if taken > 0 => taken,
        _ if refused < 0 => refused,
        Err(error) => error.to_errno(),
        Ok(()) => 0,
    }
}

extern "C" fn msgzerocopy_allow<T: Transport>() -> bool {
    T::ZEROCOPY
}
