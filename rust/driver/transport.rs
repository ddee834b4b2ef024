// SPDX-License-Identifier: GPL-2.0

//! The transport: what AF_VSOCK calls, passed on to the connection.

use super::{
    conn::{
        self,
        Conn, //
    },
    link,
    parameters, //
};
use crate::{
    ext::{
        net::{
            msg::Msg,
            skbuff::SkBuff,
            vsock::{
                declare_vsock_transport,
                Addr,
                NewSock,
                OwnedSock,
                Registration,
                Releasing,
                Role,
                Serves,
                SockType,
                Transport,
                UserOwned,
                VsockSock,
                WeakSock, //
            }, //
        },
        sync::{
            Kept,
            RcuArc, //
        }, //
    },
    wire::{
        ShutdownFlags,
        SocketType, //
    }, //
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow,
        Mutex, //
    }, //
};

/// Connections through the virtio socket device.
pub(super) struct VirtioTransport;

declare_vsock_transport! {
    /// Named as the kernel's own tests look for it.
    virtio_transport: connections::<VirtioTransport>
}

/// The guest-to-host slot, while the module is loaded.
static SLOT: RcuArc<Slot> = RcuArc::new();

/// What makes af_vsock's connections from this guest ours: taken by the first device, then kept.
#[pin_data]
pub(super) struct Slot {
    #[pin]
    registration: Mutex<Option<Registration>>,
}

impl Slot {
    /// Not taken yet.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(super) fn keep() -> Result<Kept<Self>> {
        let slot = Arc::pin_init(
            pin_init!(Self { registration <- new_mutex!(None, "Slot::registration") }),
            GFP_KERNEL,
        )?;
        Ok(SLOT.keep(slot))
    }
}

/// Has af_vsock give us its connections, from the first device on: before, others may serve them.
///
/// # Context
///
/// Sleeps; takes `Slot::registration`.
///
/// # Errors
///
/// - `EBUSY`: another transport has them.
/// - `EINTR`: a signal came.
/// - `ENODEV`: the module is being unloaded.
pub(super) fn register() -> Result {
    let slot = SLOT.load().ok_or(ENODEV)?;
    let mut registration = slot.registration.lock();
    if registration.is_none() {
        let new = Registration::new(&virtio_transport, Role::GuestToHost);
        *registration = Some(new.inspect_err(|error| {
            if *error == EBUSY {
                pr_err!(
                    "another guest-to-host transport is in use; unload it first: rmmod vmw_vsock_virtio_transport (or vmw_vsock_vmci_transport, hv_sock)\n"
                );
            }
        })?);
    }
    Ok(())
}

/// What a socket's type is on the wire.
pub(super) fn socket_type(ty: SockType) -> SocketType {
    match ty {
        SockType::Stream => SocketType::Stream,
        SockType::Seqpacket => SocketType::Seqpacket,
        SockType::Dgram => SocketType::Dgram,
    }
}

/// The size and the bound of a socket's buffer that never asked for any, in bytes.
const DEFAULT_BUFFER: u64 = 256 * 1024;

/// The size of the buffer of a new connection in bytes: the user's, or the administrator's.
///
/// af_vsock keeps no note of whether its default was asked for, so a user who asks for just that,
/// and no other bound, gets the administrator's too.
fn wanted_buffer(sk: &NewSock<'_>) -> u64 {
    let (size, bound) = (sk.buffer_size(), sk.buffer_max_size());
    match parameters::buffer_kb.get() {
        kb @ 1.. if size == DEFAULT_BUFFER && bound == DEFAULT_BUFFER => {
            u64::from(kb).saturating_mul(1024)
        }
        _ => size,
    }
}

/// The greatest buffer that a packet can speak of.
fn buf_alloc(size: u64) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

impl Serves for VirtioTransport {
    type Socket = Conn;

    fn init(sk: &NewSock<'_>, way: WeakSock, _listener: Option<&VsockSock>) -> Result<Arc<Conn>> {
        let size = buf_alloc(wanted_buffer(sk));
        sk.set_buffer_size(u64::from(size));
        let table = conn::all().ok_or(ENODEV)?;
        Conn::new(way, socket_type(sk.sock_type()), size, table)
    }

    fn destruct(conn: Arc<Conn>) {
        conn.destruct();
    }

    fn release(conn: ArcBorrow<'_, Conn>, sk: Releasing<'_>) {
        Arc::from(conn).release(sk);
    }

    fn deferred(conn: ArcBorrow<'_, Conn>, sk: &OwnedSock<'_>) {
        Arc::from(conn).publish(sk);
    }

    fn local_cid() -> u32 {
        link::guest_cid()
    }

    fn has_remote_cid(_cid: u32) -> bool {
        // Other guests are the host's to find (C9).
        true
    }
}

impl Transport for VirtioTransport {
    const ZEROCOPY: bool = true;

    fn connect(conn: ArcBorrow<'_, Conn>, sk: &UserOwned<'_>) -> Result {
        let remote = sk.remote_addr();
        if remote.cid == link::guest_cid() || !link::takes_connections() {
            return Err(ENODEV);
        }
        Arc::from(conn).connect(sk.local_addr().port, remote, sk.rcvlowat())
    }

    fn cancel(conn: ArcBorrow<'_, Conn>, _sk: &UserOwned<'_>) -> Result {
        Arc::from(conn).cancel();
        Ok(())
    }

    fn stream_enqueue(
        conn: ArcBorrow<'_, Conn>,
        sk: &UserOwned<'_>,
        msg: &mut Msg,
        len: usize,
    ) -> Result<usize> {
        Arc::from(conn).enqueue(sk, msg, len)
    }

    fn stream_dequeue(
        conn: ArcBorrow<'_, Conn>,
        sk: &UserOwned<'_>,
        msg: &mut Msg,
        len: usize,
        peek: bool,
    ) -> Result<usize> {
        Arc::from(conn).dequeue(sk, msg, len, peek)
    }

    fn stream_has_data(conn: ArcBorrow<'_, Conn>) -> u32 {
        Arc::from(conn).readable()
    }

    fn stream_is_readable(conn: ArcBorrow<'_, Conn>, target: usize) -> bool {
        Arc::from(conn).is_readable(u32::try_from(target).unwrap_or(u32::MAX))
    }

    fn stream_has_space(conn: ArcBorrow<'_, Conn>) -> u32 {
        Arc::from(conn).writable()
    }

    fn seqpacket_enqueue(
        conn: ArcBorrow<'_, Conn>,
        sk: &UserOwned<'_>,
        msg: &mut Msg,
        len: usize,
    ) -> Result<usize> {
        Arc::from(conn).enqueue(sk, msg, len)
    }

    fn seqpacket_dequeue(
        conn: ArcBorrow<'_, Conn>,
        sk: &UserOwned<'_>,
        msg: &mut Msg,
        peek: bool,
    ) -> Result<usize> {
        Arc::from(conn).dequeue_message(sk, msg, peek)
    }

    fn seqpacket_has_data(conn: ArcBorrow<'_, Conn>) -> u32 {
        Arc::from(conn).messages()
    }

    fn seqpacket_allow(sk: &VsockSock, _remote_cid: u32) -> bool {
        sk.is_global() && link::serves(SocketType::Seqpacket)
    }

    fn stream_allow(sk: &VsockSock, _remote: Addr) -> bool {
        sk.is_global() && !link::lacks(socket_type(sk.sock_type()))
    }

    fn read_skbs(conn: ArcBorrow<'_, Conn>, taker: &mut dyn FnMut(SkBuff) -> bool) -> Result {
        Arc::from(conn).read_skbs(taker)
    }

    fn notify_recv_pre_block(
        conn: ArcBorrow<'_, Conn>,
        sk: &UserOwned<'_>,
        _target: usize,
    ) -> Result {
        // Not the rest of what the call wants: SO_RCVLOWAT is what wakes it.
        Arc::from(conn).before_read_sleep(sk.rcvlowat());
        Ok(())
    }

    fn notify_send_pre_block(conn: ArcBorrow<'_, Conn>, _sk: &UserOwned<'_>) -> Result {
        Arc::from(conn).before_write_sleep();
        Ok(())
    }

    fn notify_set_rcvlowat(conn: ArcBorrow<'_, Conn>, _sk: &UserOwned<'_>, value: u32) -> Result {
        Arc::from(conn).before_read_sleep(value.max(1));
        Ok(())
    }

    fn notify_buffer_size(conn: ArcBorrow<'_, Conn>, _sk: &UserOwned<'_>, size: u64) -> u64 {
        let size = buf_alloc(size);
        Arc::from(conn).set_buf_alloc(size);
        u64::from(size)
    }

    fn unsent_bytes(conn: ArcBorrow<'_, Conn>) -> usize {
        conn.unsent()
    }

    fn shutdown(conn: ArcBorrow<'_, Conn>, _sk: &UserOwned<'_>, mode: u32) -> Result {
        Arc::from(conn).shutdown(ShutdownFlags::from_raw(mode))
    }
}
