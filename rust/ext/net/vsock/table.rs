// SPDX-License-Identifier: GPL-2.0

//! Look-ups in af_vsock's tables.
//!
//! C header: [`include/net/af_vsock.h`](srctree/include/net/af_vsock.h)

use super::VsockSock;
use crate::ext::bindings;
use kernel::sync::aref::ARef;

impl VsockSock {
    /// A socket that is bound to `port`, on `cid` or on any.
    ///
    /// With [`CID_ANY`](super::CID_ANY) as `cid`, one that is bound to `port` on any CID at all.
    /// Only sockets of global namespaces are seen. Never sleeps.
    pub(crate) fn find_bound(cid: u32, port: u32) -> Option<ARef<Self>> {
        let mut addr = bindings::sockaddr_vm {
            svm_family: bindings::AF_VSOCK as u16,
            svm_cid: cid,
            svm_port: port,
            ..Default::default()
        };
        // SAFETY: `addr` is valid.
        let sk = unsafe { bindings::vsock_find_bound_socket(&mut addr) };
        // SAFETY: The function takes a reference for its caller; what it finds is an AF_VSOCK
        // socket.
        unsafe { Self::from_owned(sk) }
    }
}
