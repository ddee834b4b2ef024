// SPDX-License-Identifier: GPL-2.0

//! Receive buffers to packets: one buffer is a packet, or, once MRG_RXBUF is negotiated, as many as
//! the first one says (M1, M2).
//!
//! The header lies in the first buffer; all buffers of a packet but its last are full. What disagrees
//! with this loses bytes, and how many packets that hurts depends on what is still known: if where
//! the next packet begins is known, the packet is damaged, and nothing else; if not, the device has
//! to be reset.
//!
//! Source: the draft "mergeable rx buffers" of 2022.

/// A receive buffer that the device has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// How many bytes the device says to have written, clamped to `size` (H2).
    pub len: usize,
    /// How many bytes the buffer has room for.
    pub size: usize,
}

impl Used {
    fn is_full(&self) -> bool {
        self.len == self.size
    }
}

/// Why a used buffer begins no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is shorter than a header. The next buffer begins another packet.
    Short,
    /// Nobody knows how many buffers the packet has, so that the next one may be anything.
    FramingLost,
}

/// A packet whose buffers are being collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assembly {
    merges: bool,
    /// Bytes of payload that the header speaks of.
    wanted: usize,
    /// Bytes of payload in the buffers so far.
    arrived: usize,
    /// How many buffers are to come.
    left: usize,
    damaged: bool,
}

impl Assembly {
    /// Begins with the packet's first buffer.
    ///
    /// `header_len` is the length of headers on this device, and `len` what the header says of the
    /// payload. `num_buffers` is none unless MRG_RXBUF is negotiated; a packet of more buffers than
    /// `most`, which is how many the device can have, cannot be.
    ///
    /// # Errors
    ///
    /// See [`Fault`].
    pub fn begin(
        header_len: usize,
        len: u32,
        num_buffers: Option<u16>,
        first: Used,
        most: usize,
    ) -> Result<Self, Fault> {
        let arrived = first.len.checked_sub(header_len);
        let wanted = usize::try_from(len).unwrap_or(usize::MAX);
        let Some(num_buffers) = num_buffers else {
            return Ok(Self {
                merges: false,
                wanted,
                arrived: arrived.ok_or(Fault::Short)?,
                left: 0,
                damaged: false,
            });
        };
        let buffers = usize::from(num_buffers);
        match (arrived, buffers.checked_sub(1)) {
            (Some(arrived), Some(left)) if buffers <= most => Ok(Self {
                merges: true,
                wanted,
                arrived,
                left,
                damaged: left > 0 && !first.is_full(),
            }),
            _ => Err(Fault::FramingLost),
        }
    }

    /// How many buffers are to come.
    pub fn left(&self) -> usize {
        self.left
    }

    /// How many bytes of payload there are so far.
    pub fn arrived(&self) -> usize {
        self.arrived
    }

    /// Goes on with the next buffer, which is nothing but payload.
    pub fn add(&mut self, next: Used) {
        self.left = self.left.saturating_sub(1);
        self.arrived = self.arrived.saturating_add(next.len);
        self.damaged |= next.len == 0 || (self.left > 0 && !next.is_full());
    }

    /// Ends with the last buffer: the number of bytes of payload, or none if bytes were lost.
    ///
    /// A single buffer may have more bytes than the header speaks of: they are ignored, as always.
    pub fn finish(&self) -> Option<usize> {
        let complete = if self.merges {
            self.arrived == self.wanted
        } else {
            self.arrived >= self.wanted
        };
        (complete && self.left == 0 && !self.damaged).then_some(self.wanted)
    }
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_mergeable))]
mod tests {
    use super::*;

    const SIZE: usize = 4096;
    const RING: usize = 256;
    const FULL: Used = Used {
        len: SIZE,
        size: SIZE,
    };

    fn used(len: usize) -> Used {
        Used { len, size: SIZE }
    }

    fn merged(len: u32, num_buffers: u16, first: Used) -> Result<Assembly, Fault> {
        Assembly::begin(46, len, Some(num_buffers), first, RING)
    }

    #[test]
    fn m1_a_packet_of_one_buffer() {
        for (len, first) in [(0, 46), (1, 47), (4050, 4096)] {
            let packet = merged(len, 1, used(first));
            assert!(packet.is_ok_and(|p| p.left() == 0 && p.finish() == Some(len as usize)));
        }
    }

    #[test]
    fn m1_a_packet_of_many_buffers() {
        // 64 KiB: 4050 bytes, 15 times 4096, and 46.
        let packet = merged(65536, 17, FULL);
        assert!(packet.is_ok_and(|mut packet| {
            assert_eq!(packet.left(), 16);
            for _ in 0..15 {
                assert_eq!(packet.finish(), None);
                packet.add(FULL);
            }
            packet.add(used(46));
            packet.left() == 0 && packet.finish() == Some(65536)
        }));
    }

    #[test]
    fn m1_as_many_buffers_as_the_ring_has() {
        assert!(merged(1, 256, FULL).is_ok());
        assert_eq!(merged(1, 257, FULL), Err(Fault::FramingLost));
        assert_eq!(merged(1, u16::MAX, FULL), Err(Fault::FramingLost));
    }

    #[test]
    fn m2_no_buffers_at_all_loses_the_framing() {
        assert_eq!(merged(1, 0, FULL), Err(Fault::FramingLost));
    }

    #[test]
    fn m2_less_than_a_header_loses_the_framing() {
        for len in 0..46 {
            assert_eq!(merged(0, 1, used(len)), Err(Fault::FramingLost));
        }
    }

    #[test]
    fn m2_a_first_buffer_that_is_not_full_is_damage() {
        let packet = merged(4050, 2, used(4095));
        assert!(packet.is_ok_and(|mut p| {
            p.add(used(1));
            p.left() == 0 && p.finish().is_none()
        }));
    }

    #[test]
    fn m2_a_middle_buffer_that_is_not_full_is_damage() {
        let packet = merged(4050 + 4095 + 5, 3, FULL);
        assert!(packet.is_ok_and(|mut p| {
            p.add(used(4095));
            p.add(used(5));
            p.left() == 0 && p.finish().is_none()
        }));
    }

    #[test]
    fn m2_an_empty_last_buffer_is_damage() {
        let packet = merged(4050, 2, FULL);
        assert!(packet.is_ok_and(|mut p| {
            p.add(used(0));
            p.finish().is_none()
        }));
    }

    #[test]
    fn m2_a_length_that_disagrees_is_damage() {
        for len in [0, 4049, 4051, u32::MAX] {
            assert!(merged(len, 1, FULL).is_ok_and(|p| p.finish().is_none()));
        }
    }

    #[test]
    fn m2_without_merging_a_length_beyond_what_arrived_is_damage() {
        let single = |len, first| Assembly::begin(44, len, None, used(first), RING);
        assert_eq!(single(0, 43), Err(Fault::Short));
        assert!(single(0, 44).is_ok_and(|p| p.finish() == Some(0)));
        assert!(single(1, 44).is_ok_and(|p| p.finish().is_none()));
        assert!(single(u32::MAX, SIZE).is_ok_and(|p| p.finish().is_none()));
        // What is behind the payload is ignored.
        assert!(single(1, 100).is_ok_and(|p| p.finish() == Some(1)));
    }
}
