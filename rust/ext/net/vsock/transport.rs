// SPDX-License-Identifier: GPL-2.0

//! Transports: what carries AF_VSOCK sockets' data.
//!
//! C header: [`include/net/af_vsock.h`](srctree/include/net/af_vsock.h)

use super::{
    callbacks::{
        RawTable,
        Table, //
    },
    Addr,
    NewSock,
    OwnedSock,
    Releasing,
    UserOwned,
    VsockSock,
    WeakSock, //
};
use crate::ext::{
    bindings,
    error::NetError,
    net::{
        msg::Msg,
        skbuff::SkBuff, //
    }, //
};
use kernel::{
    error::to_result,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    }, //
};

/// What every transport has: data for each socket, and an address.
///
/// Unless a function says otherwise it runs in process context, may sleep, and its socket is owned
/// by the call that it serves (`lock_sock()`), as the [`UserOwned`] shows. None of them is called
/// before [`init`](Serves::init) nor after [`destruct`](Serves::destruct), except for those that are
/// given no socket data.
pub(crate) trait Serves: Sized + 'static {
    /// What the transport keeps for each socket.
    type Socket: Send + Sync + 'static;

    /// Makes the data of a socket that this transport is going to serve.
    ///
    /// `listener` is where the connection came from, if it came. `way` leads to the socket once the
    /// function has returned.
    fn init(
        sk: &NewSock<'_>,
        way: WeakSock,
        listener: Option<&VsockSock>,
    ) -> Result<Arc<Self::Socket>>;

    /// The socket is served by this transport no longer, or is being freed.
    ///
    /// Any context; must not sleep. The [`WeakSock`] leads nowhere already.
    fn destruct(data: Arc<Self::Socket>);

    /// The socket is being closed, or connected by another transport.
    fn release(data: ArcBorrow<'_, Self::Socket>, sk: Releasing<'_>);

    /// The user call that [`own_or_defer`](WeakSock::own_or_defer) met has ended.
    fn deferred(_data: ArcBorrow<'_, Self::Socket>, _sk: &OwnedSock<'_>) {}

    /// The CID of this machine, or [`CID_ANY`](super::CID_ANY) if there is none.
    ///
    /// Called under af_vsock's registration mutex: it must take no lock that is held while a
    /// [`Registration`] is made or dropped.
    fn local_cid() -> u32;

    /// Whether a CID that is not the host's can be reached. As [`local_cid`](Self::local_cid).
    fn has_remote_cid(_cid: u32) -> bool {
        false
    }
}

/// A transport of connections.
pub(crate) trait Transport: Serves {
    /// Starts to connect to the socket's remote address.
    fn connect(data: ArcBorrow<'_, Self::Socket>, sk: &UserOwned<'_>) -> Result;

    /// `connect()` has been given up: by a time-out or a signal.
    fn cancel(data: ArcBorrow<'_, Self::Socket>, sk: &UserOwned<'_>) -> Result;

    /// Sends what the peer and memory have room for, at most `len` bytes. Returns how many.
    fn stream_enqueue(
        data: ArcBorrow<'_, Self::Socket>,
        sk: &UserOwned<'_>,
        msg: &mut Msg,
        len: usize,
    ) -> Result<usize>;

    /// Hands received bytes to the user, at most `len`. Returns how many.
    ///
    /// With `peek` they stay to be read again.
    fn stream_dequeue(
        data: ArcBorrow<'_, Self::Socket>,
        sk: &UserOwned<'_>,
        msg: &mut Msg,
        len: usize,
        peek: bool,
    ) -> Result<usize>;

    /// The number of bytes to read. Any context; must not sleep.
    fn stream_has_data(data: ArcBorrow<'_, Self::Socket>) -> u32;

    /// Whether a reader who waits for `target` bytes (`SO_RCVLOWAT`) is to read now. Must not sleep.
    fn stream_is_readable(data: ArcBorrow<'_, Self::Socket>, target: usize) -> bool {
        Self::stream_has_data(data) as usize >= target
    }

    /// The number of bytes that the peer has room for. Must not sleep.
    fn stream_has_space(data: ArcBorrow<'_, Self::Socket>) -> u32;

    /// How many bytes a reader may wait for at once.
    fn stream_rcvhiwat(sk: &UserOwned<'_>) -> u64 {
        sk.buffer_size()
    }

    /// Whether `sk` may connect to `remote` at all. No socket data may be expected.
    fn stream_allow(sk: &VsockSock, remote: Addr) -> bool;

    /// Whether `sk` may be a `SOCK_SEQPACKET` socket to `remote_cid`.
    ///
    /// No socket data may be expected.
    fn seqpacket_allow(_sk: &VsockSock, _remote_cid: u32) -> bool {
        false
    }

    /// Sends a message, or the rest of one: what the peer and memory have room for, of `len` bytes.
    /// Returns how many were sent; the last of them end the message.
    fn seqpacket_enqueue(
        _data: ArcBorrow<'_, Self::Socket>,
        _sk: &UserOwned<'_>,
        _msg: &mut Msg,
        _len: usize,
    ) -> Result<usize> {
        Err(NetError::OpNotSupp.into())
    }

    /// Hands the first message to the user, as far as there is room. Returns its length.
    ///
    /// With `peek` it stays to be read again.
    fn seqpacket_dequeue(
        _data: ArcBorrow<'_, Self::Socket>,
        _sk: &UserOwned<'_>,
        _msg: &mut Msg,
        _peek: bool,
    ) -> Result<usize> {
        Err(NetError::OpNotSupp.into())
    }

    /// The number of whole messages to read. Any context; must not sleep.
    fn seqpacket_has_data(_data: ArcBorrow<'_, Self::Socket>) -> u32 {
        0
    }

    /// A reader is about to wait until there are `target` bytes.
    fn notify_recv_pre_block(
        _data: ArcBorrow<'_, Self::Socket>,
        _sk: &UserOwned<'_>,
        _target: usize,
    ) -> Result {
        Ok(())
    }

    /// Whether `MSG_ZEROCOPY` is known: then the functions that send look for it.
    const ZEROCOPY: bool = false;

    /// Hands all that was received to `_taker`, in order and as socket buffers of its own, until it
    /// says no more. Any context; must not sleep.
    ///
    /// # Errors
    ///
    /// - `EAGAIN`: there is nothing.
    /// - `ENOMEM`: no memory; nothing is lost.
    fn read_skbs(
        _data: ArcBorrow<'_, Self::Socket>,
        _taker: &mut dyn FnMut(SkBuff) -> bool,
    ) -> Result {
        Err(NetError::OpNotSupp.into())
    }

    /// A writer is about to wait for room.
    fn notify_send_pre_block(_data: ArcBorrow<'_, Self::Socket>, _sk: &UserOwned<'_>) -> Result {
        Ok(())
    }

    /// `SO_RCVLOWAT` is about to become `_value`.
    fn notify_set_rcvlowat(
        _data: ArcBorrow<'_, Self::Socket>,
        _sk: &UserOwned<'_>,
        _value: u32,
    ) -> Result {
        Ok(())
    }

    /// `SO_VM_SOCKETS_BUFFER_SIZE` is about to become `size`; returns what it does become.
    fn notify_buffer_size(
        _data: ArcBorrow<'_, Self::Socket>,
        _sk: &UserOwned<'_>,
        size: u64,
    ) -> u64 {
        size
    }

    /// The number of bytes that the device has not yet taken (`SIOCOUTQ`).
    ///
    /// The socket may not be owned.
    fn unsent_bytes(data: ArcBorrow<'_, Self::Socket>) -> usize;

    /// `shutdown()` of the directions in `mode`: `RCV_SHUTDOWN`, `SEND_SHUTDOWN`.
    fn shutdown(data: ArcBorrow<'_, Self::Socket>, sk: &UserOwned<'_>, mode: u32) -> Result;
}

/// What a transport is registered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Connections from a guest to its host.
    GuestToHost,
    /// Datagrams.
    Datagrams,
}

/// A transport that af_vsock knows, until this is dropped.
///
/// As with a [`driver::Registration`](kernel::driver::Registration), the module's end must drop it: a
/// registration that is leaked ([`core::mem::forget`]) outlives the code that it refers to.
pub(crate) struct Registration(&'static RawTable);

impl Registration {
    /// Registers `table`. May sleep.
    ///
    /// # Errors
    ///
    /// - `EBUSY`: there is a transport for this role.
    /// - `EINTR`: a signal came.
    pub(crate) fn new<T: Serves>(table: &'static Table<T>, role: Role) -> Result<Self> {
        let features = match role {
            Role::GuestToHost => bindings::VSOCK_TRANSPORT_F_G2H,
            Role::Datagrams => bindings::VSOCK_TRANSPORT_F_DGRAM,
        };
        // SAFETY: The table is static, and names the module that holds it.
        to_result(unsafe { bindings::vsock_core_register(table.raw().get(), features as i32) })?;
        Ok(Self(table.raw()))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: Registered in `new()`.
        unsafe { bindings::vsock_core_unregister(self.0.get()) };
    }
}

/// Declares the static table of a transport, for a module's root.
///
/// `NAME: connections::<T>` for a [`Transport`], `NAME: datagrams::<T>` for [`Datagrams`]. The table's
/// name is a symbol that tools look for in `/proc/kallsyms`.
///
/// [`Datagrams`]: super::Datagrams
macro_rules! declare_vsock_transport {
    ($(#[$attr:meta])* $name:ident: $new:ident::<$transport:ty>) => {
        $(#[$attr])*
        // The name is the transport's own: modules have no two of the same.
        #[allow(non_upper_case_globals, unsafe_code)]
        #[no_mangle]
        pub(crate) static $name: $crate::ext::net::vsock::Table<$transport> =
            $crate::ext::net::vsock::Table::$new();
    };
}
pub(crate) use declare_vsock_transport;
