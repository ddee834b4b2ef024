// SPDX-License-Identifier: GPL-2.0

//! Carries out what [`proto::route`] says: whom a received packet is for.

use super::Vsock;
use crate::{
    driver::{
        conn::Key,
        dgram,
        queue::{
            Payload,
            Routed, //
        },
        trace::{
            self,
            Why, //
        }, //
    },
    ext::net::vsock::Addr,
    proto::{
        self,
        Route,
        Stray, //
    },
    wire::Header, //
};
use kernel::sync::Arc;

/// Gives a packet to the connection that it is for, or to the datagram socket where these share the queue.
///
/// # Context
///
/// Called under `Rx::inner`; does not sleep, and takes the spinlock of the socket's lock.
pub(super) fn route(device: &Arc<Vsock>, header: &Header, payload: &mut Payload) -> Routed {
    let link = &device.link;
    let stray = match proto::route(header, link.cid(), &link.profile) {
        Route::Connection(to) => {
            let key = Key {
                peer: Addr {
                    cid: to.peer.cid,
                    port: to.peer.port,
                },
                local_port: to.local_port,
            };
            let found = device.table.find(key);
            let mut is_taken = found.is_some();
            if let Some(conn) = found.filter(|conn| conn.socket_type() == to.ty) {
                if let Some(routed) = conn.receive(key, header, to.op, payload) {
                    return routed;
                }
                is_taken = false;
            }
            to.without_connection(is_taken, payload.is_damaged())
        }
        Route::Datagram => return route_datagram(device, header, payload),
        Route::Nobody(stray) => stray,
        Route::BadAddress => {
            trace::dropped(header, Why::BadAddress);
            Stray::Drop
        }
        Route::BadOp => {
            trace::dropped(header, Why::BadOp);
            Stray::Drop
        }
    };
    match stray {
        Stray::Request => device.handle_later(*header),
        Stray::Refuse => link.refuse(header),
        Stray::Drop => {}
    }
    Routed::Done
}

/// Gives a datagram to the socket that it is for.
///
/// # Context
///
/// Called under `Rx::inner`; does not sleep, and takes `Tx::inner`.
pub(super) fn route_datagram(
    device: &Arc<Vsock>,
    header: &Header,
    payload: &mut Payload,
) -> Routed {
    dgram::receive(&device.link, &device.ports, header, payload);
    Routed::Done
}
