// SPDX-License-Identifier: GPL-2.0

//! Datagrams: the transport of sockets without connections, and what is the same for all of them.
//!
//! Received datagrams wait in the socket's receive queue, where poll() looks, and af_vsock's calls to
//! read them need no transport's help. Sent ones are charged to the send buffer.
//!
//! C headers: [`include/net/af_vsock.h`](srctree/include/net/af_vsock.h),
//! [`include/net/sock.h`](srctree/include/net/sock.h)

use super::{
    callbacks::{
        count,
        get_local_cid,
        has_remote_cid,
        notify_recv,
        notify_recv_post_dequeue,
        notify_send,
        notify_send_post_enqueue,
        reads_skb,
        ReadActor,
        Table,
        MODULE, //
    },
    sending::Sending,
    served::{
        destruct,
        init,
        release,
        with,
        with_kept, //
    },
    Addr,
    OwnedSock,
    Serves,
    UserOwned,
    VsockSock,
    PORT_ANY, //
};
use crate::ext::{
    bindings,
    error::NetError,
    net::{
        msg::Msg,
        skbuff::{
            ControlBlock,
            SkBuff, //
        }, //
    },
};
use core::{
    ffi::c_void,
    ptr::NonNull, //
};
use kernel::{
    error::{
        from_result,
        to_result, //
    },
    prelude::*,
    sync::ArcBorrow, //
};

/// A transport of datagrams.
///
/// As [`Serves`] says of its functions.
pub(crate) trait Datagrams: Serves {
    /// Binds the socket, which is not bound, to `addr`; its CID or port may be
    /// [any](super::CID_ANY). What the socket is bound to is set by
    /// [`OwnedSock::set_local_addr`].
    fn bind(data: ArcBorrow<'_, Self::Socket>, sk: &UserOwned<'_>, addr: Addr) -> Result;

    /// Whether `sk` may send to `remote` at all. No socket data may be expected.
    fn allow(sk: &VsockSock, remote: Addr) -> bool;

    /// Sends `len` bytes to `to`. The socket is bound. May sleep.
    fn enqueue(
        data: ArcBorrow<'_, Self::Socket>,
        sk: Sending<'_>,
        to: Addr,
        msg: &mut Msg,
        len: usize,
    ) -> Result;
}

/// What the receive queue's buffers carry besides the payload: who sent it.
///
/// The rest of the control block is the kernel's meanwhile.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct From(Addr);

impl ControlBlock for From {}

impl<T: Datagrams> Table<T> {
    /// The table of `T`, a transport of datagrams.
    ///
    /// All callbacks are there, as af_vsock calls those of connections for datagrams, too.
    pub(crate) const fn datagrams() -> Self {
        let table = bindings::vsock_transport {
            module: MODULE,
            init: Some(init::<T>),
            destruct: Some(destruct::<T>),
            release: Some(release::<T>),
            cancel_pkt: Some(nothing),
            connect: Some(not_supported),
            dgram_bind: Some(bind::<T>),
            dgram_dequeue: Some(dequeue),
            dgram_enqueue: Some(enqueue::<T>),
            dgram_allow: Some(allow::<T>),
            stream_dequeue: Some(stream_dequeue),
            stream_enqueue: Some(stream_enqueue),
            stream_has_data: Some(first_len),
            stream_has_space: Some(no_space),
            stream_rcvhiwat: Some(no_rcvhiwat),
            stream_is_active: Some(inactive),
            stream_allow: Some(allow_no_stream),
            seqpacket_dequeue: Some(seqpacket_dequeue),
            seqpacket_enqueue: Some(seqpacket_enqueue),
            seqpacket_allow: Some(allow_no_seqpacket),
            seqpacket_has_data: Some(no_messages),
            notify_poll_in: Some(not_ready),
            notify_poll_out: Some(not_ready),
            notify_recv_init: Some(notify_recv),
            notify_recv_pre_block: Some(notify_recv),
            notify_recv_pre_dequeue: Some(notify_recv),
            notify_recv_post_dequeue: Some(notify_recv_post_dequeue),
            notify_send_init: Some(notify_send),
            notify_send_pre_block: Some(notify_send),
            notify_send_pre_enqueue: Some(notify_send),
            notify_send_post_enqueue: Some(notify_send_post_enqueue),
            notify_buffer_size: Some(notify_buffer_size),
            notify_set_rcvlowat: Some(notify_set_rcvlowat),
            unsent_bytes: Some(unsent_bytes),
            shutdown: Some(shutdown),
            get_local_cid: Some(get_local_cid::<T>),
            has_remote_cid: Some(has_remote_cid::<T>),
            read_skb: reads_skb(read_skb),
            msgzerocopy_allow: Some(no_zerocopy),
        };
        // SAFETY: All functions above are those of `T`, or look at nothing of a transport's.
        unsafe { Self::new(table) }
    }
}

extern "C" fn bind<T: Datagrams>(
    vsk: *mut bindings::vsock_sock,
    addr: *mut bindings::sockaddr_vm,
) -> c_int {
    // SAFETY: The caller's variable, which nobody changes meanwhile.
    let addr = Addr::from(unsafe { &*addr });
    // SAFETY: As af_vsock promises.
    from_result(|| unsafe { with::<T, _>(vsk, |data, sk| T::bind(data, sk, addr)) }.map(|()| 0))
}

extern "C" fn allow<T: Datagrams>(vsk: *mut bindings::vsock_sock, cid: u32, port: u32) -> bool {
    // SAFETY: As af_vsock promises.
    T::allow(unsafe { VsockSock::from_raw(vsk) }, Addr { cid, port })
}

extern "C" fn enqueue<T: Datagrams>(
    vsk: *mut bindings::vsock_sock,
    addr: *mut bindings::sockaddr_vm,
    msg: *mut bindings::msghdr,
    len: usize,
) -> c_int {
    // A copy: it may lie in the socket, which is let go while one waits.
    //
    // SAFETY: The caller's variable, or one of the socket, which is owned.
    let to = Addr::from(unsafe { &*addr });
    // SAFETY: The message is this call's.
    let msg = unsafe { Msg::from_raw(msg) };
    // SAFETY: As af_vsock promises.
    let sent = unsafe {
        with_kept::<T, _>(vsk, |data, sk| {
            T::enqueue(data, Sending::new(sk), to, msg, len)
        })
    };
    // CAST: The transport bounds what a datagram can be.
    count(sent.map(|()| len)) as c_int
}

extern "C" fn dequeue(
    vsk: *mut bindings::vsock_sock,
    msg: *mut bindings::msghdr,
    len: usize,
    flags: c_int,
) -> c_int {
    // SAFETY: As af_vsock promises.
    let sk = unsafe { VsockSock::from_raw(vsk) };
    // SAFETY: The message is this call's.
    let msg = unsafe { Msg::from_raw(msg) };
    // CAST: As in `enqueue`.
    count(sk.receive_datagram(msg, len, flags as u32)) as c_int
}

// The length of the first datagram that waits: SIOCINQ.
extern "C" fn first_len(vsk: *mut bindings::vsock_sock) -> i64 {
    // SAFETY: As af_vsock promises.
    i64::from(unsafe { bindings::rvsock_helper_sock_first_len(vsk.cast()) })
}

// The memory of what the device has not yet taken: SIOCOUTQ, as of UDP sockets.
extern "C" fn unsent_bytes(vsk: *mut bindings::vsock_sock) -> isize {
    // SAFETY: As af_vsock promises.
    unsafe { bindings::rvsock_helper_sk_wmem_alloc(vsk.cast()) as isize }
}

// Sockmap takes one datagram per call of `data_ready`.
extern "C" fn read_skb(vsk: *mut bindings::vsock_sock, actor: ReadActor) -> c_int {
    let mut error = 0;
    // SAFETY: As af_vsock promises; the call does not sleep.
    let skb =
        unsafe { bindings::skb_recv_datagram(vsk.cast(), bindings::MSG_DONTWAIT, &mut error) };
    if skb.is_null() {
        return error;
    }
    // SAFETY: The buffer becomes the actor's; it carries nothing of ours.
    unsafe { actor(vsk.cast(), skb) }
}

// What follows is never called for datagrams, or need do nothing.

extern "C" fn nothing(_vsk: *mut bindings::vsock_sock) -> c_int {
    0
}

extern "C" fn not_supported(_vsk: *mut bindings::vsock_sock) -> c_int {
    Error::from(NetError::OpNotSupp).to_errno()
}

extern "C" fn stream_dequeue(
    _vsk: *mut bindings::vsock_sock,
    _msg: *mut bindings::msghdr,
    _len: usize,
    _flags: c_int,
) -> isize {
    count(Err(NetError::OpNotSupp.into()))
}

extern "C" fn stream_enqueue(
    _vsk: *mut bindings::vsock_sock,
    _msg: *mut bindings::msghdr,
    _len: usize,
) -> isize {
    count(Err(NetError::OpNotSupp.into()))
}

extern "C" fn seqpacket_dequeue(
    _vsk: *mut bindings::vsock_sock,
    _msg: *mut bindings::msghdr,
    _flags: c_int,
) -> isize {
    count(Err(NetError::OpNotSupp.into()))
}

extern "C" fn seqpacket_enqueue(
    _vsk: *mut bindings::vsock_sock,
    _msg: *mut bindings::msghdr,
    _len: usize,
) -> c_int {
    Error::from(NetError::OpNotSupp).to_errno()
}

extern "C" fn no_space(_vsk: *mut bindings::vsock_sock) -> i64 {
    0
}

extern "C" fn no_rcvhiwat(_vsk: *mut bindings::vsock_sock) -> u64 {
    0
}

extern "C" fn inactive(_vsk: *mut bindings::vsock_sock) -> bool {
    false
}

extern "C" fn allow_no_stream(_vsk: *mut bindings::vsock_sock, _cid: u32, _port: u32) -> bool {
    false
}

extern "C" fn allow_no_seqpacket(_vsk: *mut bindings::vsock_sock, _cid: u32) -> bool {
    false
}

extern "C" fn no_messages(_vsk: *mut bindings::vsock_sock) -> u32 {
    0
}

extern "C" fn not_ready(
    _vsk: *mut bindings::vsock_sock,
    _target: usize,
    ready: *mut bool,
) -> c_int {
    // SAFETY: The caller's variable.
    unsafe { *ready = false };
    0
}

extern "C" fn notify_buffer_size(_vsk: *mut bindings::vsock_sock, _value: *mut u64) {}

extern "C" fn notify_set_rcvlowat(_vsk: *mut bindings::vsock_sock, _value: c_int) -> c_int {
    0
}

extern "C" fn shutdown(_vsk: *mut bindings::vsock_sock, _mode: c_int) -> c_int {
    0
}

extern "C" fn no_zerocopy() -> bool {
    false
}

/// Whether the process may bind ports that are reserved, `CAP_NET_BIND_SERVICE`.
pub(crate) fn may_bind_reserved_port() -> bool {
    // SAFETY: It looks at the process that runs.
    unsafe { bindings::rvsock_helper_may_bind_reserved_port() }
}

/// A number that nobody can foresee.
pub(crate) fn random() -> u32 {
    // SAFETY: No requirements.
    unsafe { bindings::rvsock_helper_get_random_u32() }
}

impl VsockSock {
    /// Who the socket is connected to, if it is a datagram socket and connected.
    ///
    /// While `connect()` changes it the answer may be the old one, the new one, some of both, or none.
    pub(crate) fn datagram_peer(&self) -> Option<Addr> {
        let read = || {
            // SAFETY: The socket is alive; both numbers are read whole.
            unsafe {
                let addr = &raw const (*self.raw()).remote_addr;
                let cid = (&raw const (*addr).svm_cid).read_volatile();
                let port = (&raw const (*addr).svm_port).read_volatile();
                Addr { cid, port }
            }
        };
        let (peer, again) = (read(), read());
        (peer == again && peer.port != PORT_ANY).then_some(peer)
    }

    /// Whether `shutdown()` has ended receiving.
    pub(crate) fn is_shut_for_receiving(&self) -> bool {
        // SAFETY: The socket is alive.
        let shutdown = unsafe { bindings::rvsock_helper_sk_shutdown(self.sock()) };
        shutdown & bindings::RCV_SHUTDOWN != 0
    }

    /// Has the socket's next call fail with `error`, once. Any context.
    pub(crate) fn report_error(&self, error: Error) {
        // SAFETY: The socket is alive.
        unsafe { bindings::rvsock_helper_sk_report_error(self.sock(), -error.to_errno()) };
    }

    /// A datagram for the socket was dropped before it was offered to it. Any context.
    pub(crate) fn count_drop(&self) {
        // SAFETY: The socket is alive.
        unsafe { bindings::rvsock_helper_sk_drops_inc(self.sock()) };
    }

    /// Offers a datagram from `from` to the socket, and wakes its readers. Does not sleep.
    ///
    /// Returns whether the socket took it: its receive buffer may be full, which counts as a drop
    /// (`SO_RXQ_OVFL`), or a filter of its own may not want it.
    pub(crate) fn queue_datagram(&self, datagram: SkBuff, from: Addr) -> bool {
        let (skb, ()) = datagram.into_raw();
        // SAFETY: The buffer was ours alone.
        let (skb, From(_)) = unsafe { SkBuff::from_raw(skb, From(from)) }.into_raw();
        // SAFETY: The socket is alive, and the buffer ours to give. The sender's address is in its
        // control block, of which the kernel uses the end alone.
        let dropped =
            unsafe { bindings::rvsock_helper_sock_queue_rcv_skb(self.sock(), skb.as_ptr()) };
        let taken = dropped == bindings::skb_drop_reason_SKB_NOT_DROPPED_YET;
        if !taken {
            // SAFETY: The buffer is ours still.
            unsafe { bindings::rvsock_helper_free_skb(skb.as_ptr(), dropped) };
        }
        taken
    }

    /// `recvmsg()`: hands the next datagram to the user, and returns its length, or how much of it
    /// the user has room for. Sleeps unless `MSG_DONTWAIT` is among `flags`.
    ///
    /// # Errors
    ///
    /// - `EAGAIN`: there is none, and one may not or no longer wait.
    /// - `EINTR` and its like: a signal came.
    /// - `EOPNOTSUPP`: for `MSG_OOB` and `MSG_ERRQUEUE`.
    /// - `EFAULT`: the user's memory cannot be written; the datagram is gone.
    /// - What [`report_error`](Self::report_error) was told.
    fn receive_datagram(&self, msg: &mut Msg, len: usize, flags: u32) -> Result<usize> {
        if flags & (bindings::MSG_OOB | bindings::MSG_ERRQUEUE) != 0 {
            return Err(NetError::OpNotSupp.into());
        }
        let mut error = 0;
        // SAFETY: The socket is alive, and not owned by us.
        // CAST: As C has it.
        let skb = unsafe { bindings::skb_recv_datagram(self.sock(), flags, &mut error) };
        let Some(skb) = NonNull::new(skb) else {
            // No error: `shutdown()` has ended receiving.
            return to_result(error).map(|()| 0);
        };
        // SAFETY: The buffer is valid; everything in the queue is from `queue_datagram()`.
        let (datagram, From(from)) = unsafe {
            let cb = &raw const (*skb.as_ptr()).cb;
            ((*skb.as_ptr()).len as usize, cb.cast::<From>().read())
        };
        let wanted = datagram.min(len);
        // SAFETY: The buffer and the message are valid; the length is within both.
        let result = to_result(unsafe {
            bindings::skb_copy_datagram_iter(skb.as_ptr(), 0, msg.iter(), wanted as i32)
        });
        if result.is_ok() {
            if wanted < datagram {
                msg.set_truncated();
            }
            set_name(msg, from);
            // SAFETY: The message, the socket and the buffer are valid.
            unsafe {
                bindings::rvsock_helper_sock_recv_cmsgs(msg.raw(), self.sock(), skb.as_ptr());
            }
        }
        // SAFETY: The buffer is a reference of ours, which ends here.
        unsafe { bindings::skb_free_datagram(self.sock(), skb.as_ptr()) };
        let whole = flags & bindings::MSG_TRUNC != 0;
        result.map(|()| if whole { datagram } else { wanted })
    }
}

/// Tells the receiver who sent the datagram, if it wants to know.
fn set_name(msg: &mut Msg, from: Addr) {
    // SAFETY: The message is valid and ours; where it has room for a name, it has room for one of any
    // address family.
    unsafe {
        let msg = msg.raw();
        let name = (*msg).msg_name.cast::<bindings::sockaddr_vm>();
        if !name.is_null() {
            bindings::vsock_addr_init(name, from.cid, from.port);
            (*msg).msg_namelen = core::mem::size_of::<bindings::sockaddr_vm>() as i32;
        }
    }
}

impl OwnedSock<'_> {
    /// Binds the socket.
    pub(crate) fn set_local_addr(&self, addr: Addr) {
        // SAFETY: The socket is alive and owned.
        unsafe {
            bindings::vsock_addr_init(&raw mut (*self.raw()).local_addr, addr.cid, addr.port)
        };
    }

    /// Whether the send buffer (`SO_SNDBUF`) is full just now.
    pub(crate) fn sndbuf_is_full(&self) -> bool {
        // SAFETY: The socket is alive.
        unsafe { bindings::rvsock_helper_sk_sndbuf_is_full(self.sock()) }
    }
}
