// SPDX-License-Identifier: GPL-2.0

//! The event queue's events, and the configuration space.
//!
//! Source: virtio 1.3, "Socket Device", "Device configuration layout" and "Device Events".

/// What the device reports on its event queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    /// The host has lost the connections, and guest_cid may have changed (C5).
    TransportReset = 0,
}

impl Event {
    /// The size of an event in bytes.
    pub const LEN: usize = 4;

    /// Reads an event; the error is an id that means nothing, to be counted (H4).
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, u32> {
        match u32::from_le_bytes(*bytes) {
            0 => Ok(Self::TransportReset),
            raw => Err(raw),
        }
    }
}

/// The configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The guest's CID, as it was read: 64 bits, of which the upper half must be zero.
    pub guest_cid: u64,
}

impl Config {
    /// The size of the configuration space in bytes.
    pub const LEN: usize = 8;

    /// Reads the configuration space; every content is a value.
    // For tests.
    #[allow(dead_code)]
    pub const fn parse(bytes: &[u8; Self::LEN]) -> Self {
        Self {
            guest_cid: u64::from_le_bytes(*bytes),
        }
    }

    /// The guest's CID; the error is the number that cannot be one: reserved, or over 32 bits.
    pub fn cid(self) -> Result<u32, u64> {
        match u32::try_from(self.guest_cid) {
            Ok(cid) if !is_reserved_cid(self.guest_cid) => Ok(cid),
            _ => Err(self.guest_cid),
        }
    }
}

/// Whether `cid` can never be a guest's: 0, 1, 2 (the host), 0xffffffff and 2^64-1.
pub const fn is_reserved_cid(cid: u64) -> bool {
    matches!(cid, 0..=2 | 0xffff_ffff | u64::MAX)
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_event))]
mod tests {
    use super::*;

    #[test]
    fn c5_transport_reset_is_zero() {
        assert_eq!(Event::parse(&[0, 0, 0, 0]), Ok(Event::TransportReset));
    }

    #[test]
    fn h4_unknown_event_is_the_raw_id() {
        assert_eq!(Event::parse(&[1, 0, 0, 0]), Err(1));
        assert_eq!(Event::parse(&[0, 0, 0, 0x80]), Err(0x8000_0000));
    }

    #[test]
    fn reserved_cids_both_sides() {
        assert!(is_reserved_cid(0));
        assert!(is_reserved_cid(2));
        assert!(!is_reserved_cid(3));
        assert!(!is_reserved_cid(0xffff_fffe));
        assert!(is_reserved_cid(0xffff_ffff));
        assert!(!is_reserved_cid(0x1_0000_0000));
        assert!(!is_reserved_cid(u64::MAX - 1));
        assert!(is_reserved_cid(u64::MAX));
    }

    #[test]
    fn config_cid_is_32_bits_and_not_reserved() {
        assert_eq!(Config::parse(&[3, 0, 0, 0, 0, 0, 0, 0]).cid(), Ok(3));
        assert_eq!(Config { guest_cid: 2 }.cid(), Err(2));
        assert_eq!(
            Config {
                guest_cid: 0xffff_fffe
            }
            .cid(),
            Ok(0xffff_fffe)
        );
        assert_eq!(
            Config {
                guest_cid: 0xffff_ffff
            }
            .cid(),
            Err(0xffff_ffff)
        );
        assert_eq!(
            Config::parse(&[3, 0, 0, 0, 1, 0, 0, 0]).cid(),
            Err(0x1_0000_0003)
        );
    }
}
