// SPDX-License-Identifier: GPL-2.0

//! Whom a received packet is for: a connection, a listener, or nobody.

use super::Vsock;
use crate::{
    driver::{
        conn::Key,
        dgram,
        queue::{
            Payload,
            Routed, //
        },
        stats::{
            Counter,
            STATS, //
        },
    },
    ext::net::vsock::Addr,
    wire::{
        Header,
        Op,
        SocketType, //
    }, //
};
use kernel::sync::Arc;

/// Finds which connection a packet is for.
pub(super) fn route(device: &Arc<Vsock>, header: &Header, payload: &mut Payload) -> Routed {
    let (Ok(src), Ok(dst)) = (header.src(), header.dst()) else {
        STATS.count(Counter::BadAddress);
        return Routed::Done;
    };
    let ty = match header.socket_type() {
        // Datagrams have queues of their own (D1).
        Ok(SocketType::Dgram) if device.link.serves(SocketType::Dgram) => {
            STATS.count(Counter::BadOp);
            return Routed::Done;
        }
        Ok(ty) if device.link.serves(ty) => ty,
        Ok(_) | Err(_) => {
            device.link.refuse(header);
            return Routed::Done;
        }
    };
    let Ok(op) = header.operation() else {
        STATS.count(Counter::BadOp);
        return Routed::Done;
    };
    if dst.cid != device.link.cid() {
        // A request may be the first that is heard of a new CID. An RST would bear our own (C1): to the
        // sender it would be about another connection, maybe one that lives.
        match op {
            Op::Request => device.request(*header),
            _ => STATS.count(Counter::BadAddress),
        }
        return Routed::Done;
    }
    let key = Key {
        peer: Addr {
            cid: src.cid,
            port: src.port,
        },
        local_port: dst.port,
    };
    match device.table.find(key) {
        Some(conn) if conn.socket_type() == ty => return conn.receive(header, op, payload),
        // Of what nobody knows, nothing is lost.
        _ if payload.is_damaged() => {}
        None if op == Op::Request => device.request(*header),
        Some(_) | None => device.link.refuse(header),
    }
    Routed::Done
}

/// Finds which socket a datagram is for.
pub(super) fn route_datagram(
    device: &Arc<Vsock>,
    header: &Header,
    payload: &mut Payload,
) -> Routed {
    dgram::receive(&device.link, &device.ports, header, payload);
    Routed::Done
}
