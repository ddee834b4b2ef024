// SPDX-License-Identifier: GPL-2.0

//! Datagrams: what such a packet means, where one may be sent, and which port is free.
//!
//! Source: the draft "datagram queues" of 2021; for those on the streams' queues, Documentation/shared.rst.

use super::Profile;
use crate::wire::{
    is_reserved_cid,
    Address,
    Header,
    Op,
    SocketType,
    CID_HOST, //
};

/// The greatest payload of a datagram in bytes (D2, G4).
pub const DGRAM_MAX: usize = 64 * 1024;

/// The last of the ports that only the privileged may bind (D5).
pub const LAST_RESERVED_PORT: u32 = 1023;

/// `VMADDR_PORT_ANY`, which is no port.
pub const PORT_ANY: u32 = u32::MAX;

/// What a packet on the queue of datagrams is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// A datagram for a port of ours.
    Payload {
        /// Who sent it.
        from: Address,
        /// Whom it is for.
        port: u32,
    },
    /// What was sent from a port of ours has found nobody (D6).
    Refused {
        /// Where it had gone.
        by: Address,
        /// Whose it was.
        port: u32,
    },
    /// Not from or for an address of a machine.
    BadAddress,
    /// No datagram, not an op of datagrams, or too long (D1, D2).
    BadOp,
}

/// Reads a packet that brings a datagram, where `own_cid` is this machine's, and `profile` what the device
/// offers (D1, G2).
///
/// `buf_alloc` and `fwd_cnt` mean nothing here.
pub fn datagram(header: &Header, own_cid: u32, profile: &Profile) -> Datagram {
    let (Ok(mut from), Ok(mut to)) = (header.src(), header.dst()) else {
        return Datagram::BadAddress;
    };
    if profile.shares_queues() && from.cid == own_cid && to.cid == CID_HOST {
        // From the host, whatever it says: libkrun has the CIDs of what it passes on the wrong way round (G6).
        from.cid = CID_HOST;
        to.cid = own_cid;
    }
    if to.cid != own_cid || to.port == PORT_ANY {
        return Datagram::BadAddress;
    }
    // On the streams' queues the buffer is the bound: libkrun fills its answers up to that (G5).
    let fits =
        profile.shares_queues() || usize::try_from(header.len).is_ok_and(|len| len <= DGRAM_MAX);
    match (header.socket_type(), header.operation()) {
        (Ok(SocketType::Dgram), Ok(Op::Rw)) if fits => Datagram::Payload {
            from,
            port: to.port,
        },
        (Ok(SocketType::Dgram), Ok(Op::Rst)) => Datagram::Refused {
            by: from,
            port: to.port,
        },
        _ => Datagram::BadOp,
    }
}

/// Whether a socket takes a datagram from `from`: one that is connected takes its peer's (D6).
pub fn takes(peer: Option<Address>, from: Address) -> bool {
    peer.is_none_or(|peer| peer == from)
}

/// Whether there can be a machine with this CID that is not our own (D6): CIDs that mean none, or the
/// machine itself, are refused.
pub fn is_destination(cid: u32, own_cid: u32) -> bool {
    cid != own_cid && (cid == CID_HOST || !is_reserved_cid(u64::from(cid)))
}

/// The ports that are tried for a socket that asks for any (D5): some in a row, and if all of those are
/// taken, some more elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Candidates {
    next: u32,
    left: u32,
    /// Where to go on.
    elsewhere: Option<u32>,
}

impl Candidates {
    /// How many ports are tried in a row.
    pub const TRIES: u32 = 1024;

    /// Begins at `start`, whatever it is, and goes on at `elsewhere`, which nobody foresees: who has
    /// taken what lies ahead shall not keep others from what is free.
    pub const fn new(start: u32, elsewhere: u32) -> Self {
        Self {
            next: start,
            left: Self::TRIES,
            elsewhere: Some(elsewhere),
        }
    }
}

impl Iterator for Candidates {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if self.left == 0 {
            self.next = self.elsewhere.take()?;
            self.left = Self::TRIES;
        }
        self.left = self.left.saturating_sub(1);
        if self.next <= LAST_RESERVED_PORT || self.next == PORT_ANY {
            self.next = LAST_RESERVED_PORT + 1;
        }
        let port = self.next;
        self.next = port.wrapping_add(1);
        Some(port)
    }
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_dgram))]
mod tests {
    use super::*;
    use crate::proto::{
        first_attempt,
        Choice, //
    };

    const HERE: Address = Address { cid: 3, port: 1024 };
    const THERE: Address = Address {
        cid: CID_HOST,
        port: 99,
    };

    /// Datagrams have queues of their own.
    fn own_queues() -> Profile {
        first_attempt(4, Choice::Auto).profile()
    }

    /// They go over the streams' queues.
    fn shared_queues() -> Profile {
        first_attempt(8, Choice::Shared).profile()
    }

    fn packet(ty: SocketType, op: Op) -> Header {
        Header::new(THERE, HERE, ty, op)
    }

    #[test]
    fn d1_payload_and_refusals_are_all_there_is() {
        for op in [
            Op::Request,
            Op::Response,
            Op::Rst,
            Op::Shutdown,
            Op::Rw,
            Op::CreditUpdate,
            Op::CreditRequest,
        ] {
            let expected = match op {
                Op::Rw => Datagram::Payload {
                    from: THERE,
                    port: 1024,
                },
                Op::Rst => Datagram::Refused {
                    by: THERE,
                    port: 1024,
                },
                _ => Datagram::BadOp,
            };
            assert_eq!(
                datagram(&packet(SocketType::Dgram, op), 3, &own_queues()),
                expected
            );
        }
    }

    #[test]
    fn d1_other_types_have_no_business_here() {
        for ty in [SocketType::Stream, SocketType::Seqpacket] {
            assert_eq!(
                datagram(&packet(ty, Op::Rw), 3, &own_queues()),
                Datagram::BadOp
            );
            assert_eq!(
                datagram(&packet(ty, Op::Rst), 3, &own_queues()),
                Datagram::BadOp
            );
        }
        let mut unknown = packet(SocketType::Dgram, Op::Rw);
        unknown.ty = 0;
        assert_eq!(datagram(&unknown, 3, &own_queues()), Datagram::BadOp);
    }

    #[test]
    fn d1_credit_fields_mean_nothing() {
        let mut header = packet(SocketType::Dgram, Op::Rw);
        let expected = datagram(&header, 3, &own_queues());
        header.buf_alloc = 7;
        header.fwd_cnt = u32::MAX;
        assert_eq!(datagram(&header, 3, &own_queues()), expected);
    }

    #[test]
    fn d2_no_longer_than_64_kib() {
        let mut header = packet(SocketType::Dgram, Op::Rw);
        for (len, fits) in [
            (0, true),
            (65535, true),
            (65536, true),
            (65537, false),
            (u32::MAX, false),
        ] {
            header.len = len;
            let refused = datagram(&header, 3, &own_queues()) == Datagram::BadOp;
            assert_eq!(refused, !fits);
        }
    }

    #[test]
    fn g2_on_shared_queues_too_payload_and_refusals_are_all_there_is() {
        for op in 0..9 {
            let mut header = packet(SocketType::Dgram, Op::Rw);
            header.op = op;
            let expected = match op {
                5 => Datagram::Payload {
                    from: THERE,
                    port: 1024,
                },
                3 => Datagram::Refused {
                    by: THERE,
                    port: 1024,
                },
                _ => Datagram::BadOp,
            };
            assert_eq!(datagram(&header, 3, &shared_queues()), expected);
        }
    }

    #[test]
    fn g5_the_buffer_bounds_what_comes_on_shared_queues() {
        let mut header = packet(SocketType::Dgram, Op::Rw);
        for len in [0, 65536, 65537, u32::MAX] {
            header.len = len;
            let refused = datagram(&header, 3, &shared_queues()) == Datagram::BadOp;
            assert!(!refused);
        }
    }

    #[test]
    fn g6_what_the_host_passes_on_may_have_its_cids_the_wrong_way_round() {
        let mut header = packet(SocketType::Dgram, Op::Rw);
        (header.src_cid, header.src_port) = (3, 0);
        header.dst_cid = u64::from(CID_HOST);
        let expected = Datagram::Payload {
            from: Address {
                cid: CID_HOST,
                port: 0,
            },
            port: 1024,
        };
        assert_eq!(datagram(&header, 3, &shared_queues()), expected);
        // Nowhere else, and of nobody else.
        assert_eq!(datagram(&header, 3, &own_queues()), Datagram::BadAddress);
        assert_eq!(datagram(&header, 4, &shared_queues()), Datagram::BadAddress);
    }

    #[test]
    fn h4_addresses_that_are_none() {
        let mut header = packet(SocketType::Dgram, Op::Rw);
        assert_eq!(datagram(&header, 4, &own_queues()), Datagram::BadAddress);
        header.src_cid |= 1 << 32;
        assert_eq!(datagram(&header, 3, &own_queues()), Datagram::BadAddress);
        header = packet(SocketType::Dgram, Op::Rw);
        header.dst_port = PORT_ANY;
        assert_eq!(datagram(&header, 3, &own_queues()), Datagram::BadAddress);
    }

    #[test]
    fn d6_a_connected_socket_takes_its_peers_only() {
        let other = Address { port: 98, ..THERE };
        assert!(takes(None, THERE));
        assert!(takes(Some(THERE), THERE));
        assert!(!takes(Some(other), THERE));
        assert!(!takes(Some(Address { cid: 4, ..THERE }), THERE));
    }

    #[test]
    fn d6_where_nobody_can_be() {
        for cid in [0, 1, 3, u32::MAX] {
            assert!(!is_destination(cid, 3));
        }
        for cid in [CID_HOST, 4, 1 << 31] {
            assert!(is_destination(cid, 3));
        }
    }

    #[test]
    fn d5_any_port_is_none_that_is_reserved() {
        for start in [0, 1, 1023, 1024, u32::MAX - 1, u32::MAX] {
            let mut count = 0;
            for port in Candidates::new(start, start.wrapping_add(5000)) {
                assert!(port > LAST_RESERVED_PORT && port != PORT_ANY);
                count += 1;
            }
            assert_eq!(count, 2 * Candidates::TRIES);
        }
        let mut candidates = Candidates::new(u32::MAX - 1, 0);
        assert_eq!(candidates.next(), Some(u32::MAX - 1));
        assert_eq!(candidates.next(), Some(1024));
        assert_eq!(candidates.next(), Some(1025));
    }

    #[test]
    fn d5_ports_that_are_taken_in_a_row_leave_others() {
        let taken = 5000..5000 + Candidates::TRIES;
        let free = |port: &u32| !taken.contains(port);
        assert_eq!(Candidates::new(5000, 777_777).find(free), Some(777_777));
        // Should chance lead to the same ones, the next call begins behind them.
        assert_eq!(Candidates::new(5000, 5000).find(free), None);
        let last = Candidates::new(5000, 5000).last();
        assert_eq!(last, Some(taken.end - 1));
    }
}
