// SPDX-License-Identifier: GPL-2.0

//! Listeners: whether a request gets a connection (C3).
//!
//! Source: virtio 1.3, "Socket Device", "Connection Establishment".

use crate::wire::Op;

/// The queue of connections that wait for accept().
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// How many wait (`sk_ack_backlog`).
    pub len: u32,
    /// What listen() was called with (`sk_max_ack_backlog`).
    pub max: u32,
    /// The listener is being closed: what is queued now would never be seen.
    pub shut_down: bool,
}

impl Backlog {
    /// Whether one more may wait. As everywhere in the kernel, one more than listen()'s number may.
    pub const fn has_room(&self) -> bool {
        !self.shut_down && self.len <= self.max
    }
}

/// What to do with a packet for a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Make a connection, queue it for accept(), answer RESPONSE; if that fails, answer RST.
    Accept,
    /// Answer RST.
    Reset,
    /// Do nothing.
    Ignore,
}

/// What to do with a packet for a listener (C3). An RST is never answered by an RST (C2).
pub const fn on_packet(op: Op, backlog: Backlog) -> Admission {
    match op {
        Op::Request if backlog.has_room() => Admission::Accept,
        Op::Rst => Admission::Ignore,
        _ => Admission::Reset,
    }
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_listener))]
mod tests {
    use super::*;

    const fn backlog(len: u32, max: u32) -> Backlog {
        Backlog {
            len,
            max,
            shut_down: false,
        }
    }

    #[test]
    fn c3_request_until_the_backlog_is_full() {
        assert_eq!(on_packet(Op::Request, backlog(0, 0)), Admission::Accept);
        assert_eq!(on_packet(Op::Request, backlog(1, 0)), Admission::Reset);
        assert_eq!(on_packet(Op::Request, backlog(128, 128)), Admission::Accept);
        assert_eq!(on_packet(Op::Request, backlog(129, 128)), Admission::Reset);
        let full = backlog(u32::MAX, u32::MAX);
        assert_eq!(on_packet(Op::Request, full), Admission::Accept);
    }

    #[test]
    fn c3_closing_listener_resets() {
        let mut closing = backlog(0, 128);
        closing.shut_down = true;
        assert_eq!(on_packet(Op::Request, closing), Admission::Reset);
    }

    #[test]
    fn c2_rst_is_never_answered() {
        assert_eq!(on_packet(Op::Rst, backlog(0, 128)), Admission::Ignore);
        assert_eq!(on_packet(Op::Rst, backlog(9, 0)), Admission::Ignore);
    }

    #[test]
    fn c2_anything_else_is_reset() {
        for op in [
            Op::Response,
            Op::Shutdown,
            Op::Rw,
            Op::CreditUpdate,
            Op::CreditRequest,
        ] {
            assert_eq!(on_packet(op, backlog(0, 128)), Admission::Reset);
        }
    }
}
