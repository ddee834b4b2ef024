// SPDX-License-Identifier: GPL-2.0

//! AF_VSOCK, as a transport sees it.
//!
//! C header: [`include/net/af_vsock.h`](srctree/include/net/af_vsock.h)

mod callbacks;
mod dgram;
mod listener;
mod owned;
mod sending;
mod served;
mod socket;
mod table;
mod tap;
mod transport;
mod weak;

pub(crate) use self::{
    callbacks::Table,
    dgram::{
        may_bind_reserved_port,
        random,
        Datagrams, //
    },
    listener::{
        Child,
        Listener,
        Refused, //
    },
    owned::{
        NewSock,
        OwnedSock,
        Releasing,
        UserOwned, //
    },
    sending::Sending,
    socket::{
        ConnectState,
        VsockSock, //
    },
    tap::{
        deliver,
        Tapped, //
    },
    transport::{
        declare_vsock_transport,
        Registration,
        Role,
        Serves,
        Transport, //
    },
    weak::WeakSock,
};
use crate::ext::bindings;

/// `VMADDR_CID_ANY`: any CID, or none.
pub(crate) const CID_ANY: u32 = u32::MAX;
/// `VMADDR_PORT_ANY`: any port, or none.
pub(crate) const PORT_ANY: u32 = u32::MAX;
/// `VMADDR_CID_HOST`: the host.
pub(crate) const CID_HOST: u32 = bindings::VMADDR_CID_HOST;

/// An address: a context (a machine) and a port on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addr {
    /// The context identifier.
    pub(crate) cid: u32,
    /// The port.
    pub(crate) port: u32,
}

impl From<&bindings::sockaddr_vm> for Addr {
    fn from(addr: &bindings::sockaddr_vm) -> Self {
        Self {
            cid: addr.svm_cid,
            port: addr.svm_port,
        }
    }
}

/// The types of AF_VSOCK sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SockType {
    /// `SOCK_STREAM`.
    Stream,
    /// `SOCK_SEQPACKET`.
    Seqpacket,
    /// `SOCK_DGRAM`.
    Dgram,
}
