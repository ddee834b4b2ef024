// SPDX-License-Identifier: GPL-2.0

//! Turns: what a network interface's scheduler orders in place of packets (N2).
//!
//! The scheduler is given one turn for each packet with payload, and may keep it for as long as it likes, give it back in
//! any order, or drop it. The packets stay in their order with their connection; a turn that comes out has its
//! next one sent. So whatever a scheduler does costs a stream time, and never a byte.
//!
//! A turn that was dropped is asked for again after a while, which is the longer the more often it was: the scheduler
//! has no room, and is not to be asked all the time.

use crate::wire::Header;

/// How often it is looked for turns that were dropped, in milliseconds.
pub const LOOK_INTERVAL: u32 = 10;

/// So many looks a turn waits at the most that was dropped again and again: with [`LOOK_INTERVAL`], for 640 ms.
const WAIT_MAX: u8 = 64;

/// When a turn that was dropped is asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// So many looks it waits if it is dropped.
    wait: u8,
    /// So many it waits still; zero if it is not known to be dropped.
    left: u8,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

impl Backoff {
    /// Never dropped.
    pub const fn new() -> Self {
        Self { wait: 1, left: 0 }
    }

    /// Whether it is known to be dropped, and waits.
    pub const fn waits(&self) -> bool {
        self.left > 0
    }

    /// A look has found it dropped; returns whether it is to be asked for now.
    pub fn look(&mut self) -> bool {
        if self.left == 0 {
            self.left = self.wait;
            self.wait = self.wait.saturating_mul(2).min(WAIT_MAX);
            return false;
        }
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }
}

/// The number of the flow that a packet belongs to, as schedulers tell flows apart (N4): of its type and both addresses,
/// mixed well. Never zero, which is none.
///
/// Source: G. Steele, D. Lea and C. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, for the
/// mixing.
pub fn flow(header: &Header) -> u32 {
    let ports = (u64::from(header.src_port) << 32) | u64::from(header.dst_port);
    let mut mixed = mix(u64::from(header.ty));
    for part in [header.src_cid, header.dst_cid, ports] {
        mixed = mix(mixed ^ part);
    }
    // The upper half; what is cut off is mixed into it.
    ((mixed >> 32) as u32).max(1)
}

/// Each bit of `x` decides about each bit of the result; different numbers give different ones.
pub fn mix(x: u64) -> u64 {
    let mut x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_turns))]
mod tests {
    use super::*;

    /// After how many looks a turn is asked for that they find dropped.
    fn looks(backoff: &mut Backoff) -> u32 {
        let mut looks = 1;
        while !backoff.look() {
            assert!(backoff.waits());
            looks += 1;
        }
        assert!(!backoff.waits());
        looks
    }

    #[test]
    fn n3_a_turn_is_asked_for_later_each_time() {
        let mut backoff = Backoff::new();
        assert!(!backoff.waits());
        for wait in [1, 2, 4, 8, 16, 32, 64, 64, 64] {
            // The first look finds it.
            assert_eq!(looks(&mut backoff), wait + 1);
        }
    }

    fn between(cids: (u64, u64), ports: (u32, u32), ty: u16) -> u32 {
        flow(&Header {
            src_cid: cids.0,
            dst_cid: cids.1,
            src_port: ports.0,
            dst_port: ports.1,
            ty,
            ..Header::default()
        })
    }

    #[test]
    fn n4_what_differs_in_an_address_or_type_is_another_flow() {
        let flow = between((3, 2), (1024, 5000), 1);
        for other in [
            between((4, 2), (1024, 5000), 1),
            between((3, 3), (1024, 5000), 1),
            between((3, 2), (1025, 5000), 1),
            between((3, 2), (1024, 5001), 1),
            between((3, 2), (5000, 1024), 1),
            between((2, 3), (1024, 5000), 1),
            between((3, 2), (1024, 5000), 2),
        ] {
            assert_ne!(flow, other);
        }
        let same = Header {
            src_cid: 3,
            dst_cid: 2,
            src_port: 1024,
            dst_port: 5000,
            ty: 1,
            len: 7,
            flags: 3,
            buf_alloc: 9,
            fwd_cnt: 8,
            ..Header::default()
        };
        assert_eq!(flow, super::flow(&same));
    }

    #[test]
    fn n4_flows_spread_over_a_few_places() {
        // As many as a scheduler has by default, and connections as a program makes them.
        let mut places = [0u32; 128];
        for port in 0..4096 {
            let flow = between((3, 2), (0x4000_0000 + port, 5000), 1);
            places[((u64::from(flow) * 128) >> 32) as usize] += 1;
        }
        assert!(places.iter().all(|&count| (8..=72).contains(&count)));
    }
}
