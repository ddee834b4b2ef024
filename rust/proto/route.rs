// SPDX-License-Identifier: GPL-2.0

//! Whom a received packet is for, if it is none of the queues of datagrams: a connection, a listener, a datagram
//! socket where these share the queue, or nobody.
//!
//! [`route`] says it of the header alone; whether there is such a connection is the caller's to find out, and
//! [`Destination::without_connection`] says what to do if there is none. Datagrams have
//! [`datagram`](super::datagram).

use super::Profile;
use crate::wire::{
    Address,
    Header,
    Op,
    SocketType, //
};

/// Whom a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The connection between two addresses.
    Connection(Destination),
    /// A datagram socket, as [`datagram`](super::datagram) says (G2).
    Datagram,
    /// No connection.
    Nobody(Stray),
    /// Not from or for an address of a machine, or for another machine than this one: drop it and count it (H4).
    BadAddress,
    /// An op that is none, or a datagram, which has queues of its own: drop it and count it (H4, D1).
    BadOp,
}

/// What to do with a packet for which there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stray {
    /// Have it handled as a request for a connection (C3).
    Request,
    /// Answer it by RST, unless it is one (C2): [`reset_reply`](super::reset_reply).
    Refuse,
    /// Drop it.
    Drop,
}

/// A connection that a packet is for, and what it does to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The other end.
    pub peer: Address,
    /// The port at this end.
    pub local_port: u32,
    /// The type that the connection must have.
    pub ty: SocketType,
    /// What the packet does.
    pub op: Op,
}

/// Finds whom a packet is for, where `own_cid` is this machine's, and `profile` what the device offers.
pub fn route(header: &Header, own_cid: u32, profile: &Profile) -> Route {
    let (Ok(peer), Ok(to)) = (header.src(), header.dst()) else {
        return Route::BadAddress;
    };
    let ty = match header.socket_type() {
        Ok(SocketType::Dgram) if profile.shares_queues() => return Route::Datagram,
        Ok(SocketType::Dgram) if profile.serves(SocketType::Dgram) => return Route::BadOp,
        Ok(ty) if profile.serves(ty) => ty,
        Ok(_) | Err(_) => return Route::Nobody(Stray::Refuse),
    };
    let Ok(op) = header.operation() else {
        return Route::BadOp;
    };
    if to.cid != own_cid {
        // A request may be the first that is heard of a new CID. An RST would bear our own (C1): to the
        // sender it would be about another connection, maybe one that lives.
        return match op {
            Op::Request => Route::Nobody(Stray::Request),
            _ => Route::BadAddress,
        };
    }
    Route::Connection(Destination {
        peer,
        local_port: to.port,
        ty,
        op,
    })
}

impl Destination {
    /// What to do where there is no connection of this type. `is_taken`: there is one of another type between
    /// the addresses; `is_damaged`: bytes of the packet were lost on the way (M2).
    pub fn without_connection(&self, is_taken: bool, is_damaged: bool) -> Stray {
        match self.op {
            // Of what nobody knows, nothing is lost.
            _ if is_damaged => Stray::Drop,
            Op::Request if !is_taken => Stray::Request,
            _ => Stray::Refuse,
        }
    }
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_route))]
mod tests {
    use super::*;
    use crate::{
        proto::{
            first_attempt,
            Choice, //
        },
        wire::CID_HOST, //
    };

    const HERE: Address = Address { cid: 3, port: 1024 };
    const THERE: Address = Address {
        cid: CID_HOST,
        port: 80,
    };
    const OPS: [Op; 7] = [
        Op::Request,
        Op::Response,
        Op::Rst,
        Op::Shutdown,
        Op::Rw,
        Op::CreditUpdate,
        Op::CreditRequest,
    ];

    /// What a device that offers these bits, and has the queues for them, is taken for.
    fn profile(offered: u64) -> Profile {
        first_attempt(offered, Choice::Auto).profile()
    }

    fn packet(ty: SocketType, op: Op) -> Header {
        Header::new(THERE, HERE, ty, op)
    }

    fn destination(ty: SocketType, op: Op) -> Destination {
        Destination {
            peer: THERE,
            local_port: HERE.port,
            ty,
            op,
        }
    }

    #[test]
    fn a_packet_for_this_machine_is_for_a_connection() {
        for op in OPS {
            for ty in [SocketType::Stream, SocketType::Seqpacket] {
                let expected = Route::Connection(destination(ty, op));
                assert_eq!(route(&packet(ty, op), 3, &profile(2)), expected);
            }
        }
    }

    #[test]
    fn c1_what_is_for_another_machine_is_not_answered_by_rst() {
        for op in OPS {
            let header = packet(SocketType::Stream, op);
            let expected = match op {
                // That may be who we have become (C5).
                Op::Request => Route::Nobody(Stray::Request),
                _ => Route::BadAddress,
            };
            assert_eq!(route(&header, 4, &profile(0)), expected);
        }
    }

    #[test]
    fn c2_a_type_that_does_not_work_is_refused() {
        let seqpacket = packet(SocketType::Seqpacket, Op::Rw);
        let refuse = Route::Nobody(Stray::Refuse);
        assert_eq!(route(&seqpacket, 3, &profile(0)), refuse);
        // NO_IMPLIED_STREAM, and SEQPACKET alone.
        let ratified = first_attempt(6, Choice::Ratified).profile();
        let stream = packet(SocketType::Stream, Op::Request);
        assert_eq!(route(&stream, 3, &ratified), refuse);
        for ty in [0, 4, u16::MAX] {
            let mut unknown = seqpacket;
            unknown.ty = ty;
            assert_eq!(route(&unknown, 3, &profile(2)), refuse);
            // Also with an op that is none.
            unknown.op = 0;
            assert_eq!(route(&unknown, 3, &profile(2)), refuse);
        }
    }

    #[test]
    fn d1_a_datagram_has_queues_of_its_own() {
        let header = packet(SocketType::Dgram, Op::Rw);
        assert_eq!(route(&header, 3, &profile(4)), Route::BadOp);
        // To a device without datagrams it is one of the types that do not work.
        let refuse = Route::Nobody(Stray::Refuse);
        assert_eq!(route(&header, 3, &profile(3)), refuse);
    }

    #[test]
    fn g2_a_datagram_comes_on_the_streams_queue_where_they_share_it() {
        let shared = first_attempt(8, Choice::Shared).profile();
        for op in OPS {
            let header = packet(SocketType::Dgram, op);
            assert_eq!(route(&header, 3, &shared), Route::Datagram);
            // Whatever machine it is for (G6).
            assert_eq!(route(&header, 4, &shared), Route::Datagram);
        }
        let stream = packet(SocketType::Stream, Op::Rw);
        let expected = Route::Connection(destination(SocketType::Stream, Op::Rw));
        assert_eq!(route(&stream, 3, &shared), expected);
    }

    #[test]
    fn h4_ops_and_addresses_that_are_none() {
        let good = packet(SocketType::Stream, Op::Rw);
        for op in [0, 8, u16::MAX] {
            let mut header = good;
            header.op = op;
            assert_eq!(route(&header, 3, &profile(0)), Route::BadOp);
            // Whatever machine it is for.
            assert_eq!(route(&header, 4, &profile(0)), Route::BadOp);
        }
        let mut header = good;
        header.src_cid |= 1 << 32;
        assert_eq!(route(&header, 3, &profile(0)), Route::BadAddress);
        // No type is looked at before.
        header.ty = 9;
        assert_eq!(route(&header, 3, &profile(0)), Route::BadAddress);
        let mut header = good;
        header.dst_cid |= 1 << 63;
        assert_eq!(route(&header, 3, &profile(0)), Route::BadAddress);
    }

    #[test]
    fn c2_c3_without_a_connection_a_request_is_heard_and_all_else_refused() {
        for op in OPS {
            let packet = destination(SocketType::Stream, op);
            let expected = match op {
                Op::Request => Stray::Request,
                _ => Stray::Refuse,
            };
            assert_eq!(packet.without_connection(false, false), expected);
            // A type that does not match the socket's.
            assert_eq!(packet.without_connection(true, false), Stray::Refuse);
        }
    }

    #[test]
    fn m2_what_is_damaged_and_for_nobody_is_dropped() {
        for op in OPS {
            let packet = destination(SocketType::Stream, op);
            assert_eq!(packet.without_connection(false, true), Stray::Drop);
            assert_eq!(packet.without_connection(true, true), Stray::Drop);
        }
    }
}
