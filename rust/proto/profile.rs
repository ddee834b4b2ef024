// SPDX-License-Identifier: GPL-2.0

//! Feature bits, which mean different things to different hosts, and what follows from them.
//!
//! Bits 0 and 1 mean the same everywhere. Bit 2 is NO_IMPLIED_STREAM in virtio 1.3 and DGRAM in the
//! drafts of 2021 and 2022; bit 3 is MRG_RXBUF in the draft of 2022, and DGRAM on the streams' queues in
//! Linux's patches of 2023 and 2024 and in libkrun (G1).
//! What a device means is read from the number of its queues, or said by the administrator:
//!
//! 1. [`first_attempt`] says which bits to accept and how many queues to look for.
//! 2. If five queues were looked for and not found: reset the device, and [`after_no_five_queues`].
//! 3. [`Attempt::profile`] of the attempt that went well says what the device then offers.
//!
//! Source: virtio 1.3, "Socket Device", "Feature bits", and the drafts; Documentation/shared.rst.

use crate::wire::{
    SocketType,
    HEADER_LEN,
    HEADER_LEN_MRG, //
};

/// The feature bits of the device, under their names of the drafts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Feature {
    /// Streams.
    Stream = 0,
    /// Seqpackets.
    Seqpacket = 1,
    /// In the drafts: datagrams on their own queues. In virtio 1.3: NO_IMPLIED_STREAM.
    Dgram = 2,
    /// In the draft of 2022: packets over several receive buffers. In the patches of 2023: datagrams on the
    /// streams' queues.
    MrgRxbuf = 3,
}

impl Feature {
    /// All of them, as they stand in the driver's feature table.
    pub const ALL: [Self; 4] = [Self::Stream, Self::Seqpacket, Self::Dgram, Self::MrgRxbuf];

    /// The number of the bit.
    pub const fn bit(self) -> u32 {
        // CAST: lossless; `From` is not const.
        self as u32
    }

    /// The bit in a word of features.
    pub const fn mask(self) -> u64 {
        // OVERFLOW: the greatest bit is 3.
        1 << self.bit()
    }

    /// Whether the bit is in `features`.
    pub const fn is_in(self, features: u64) -> bool {
        features & self.mask() != 0
    }
}

/// The administrator's word on what bits 2 and 3 mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Read it from the number of queues.
    #[default]
    Auto,
    /// Virtio 1.3, whatever is offered.
    Ratified,
    /// The drafts, whatever is found: a device that offers DGRAM must have five queues.
    Draft,
    /// Virtio 1.3, and bit 3 stands for datagrams on the streams' queues.
    Shared,
}

/// Which text gives bits 2 and 3 their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Virtio 1.3.
    Ratified,
    /// The drafts of 2021 and 2022.
    Draft,
    /// Virtio 1.3 with the patches of 2023 and 2024, which libkrun follows.
    Shared,
}

/// The queues of a device, and at which index each is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queues {
    /// rx, tx, event.
    Three,
    /// rx, tx, dgram rx, dgram tx, event.
    Five,
}

impl Queues {
    /// The index of the queue that receives stream and seqpacket packets.
    pub const RX: usize = 0;
    /// The index of the queue that sends stream and seqpacket packets.
    pub const TX: usize = 1;

    /// How many there are.
    pub const fn count(self) -> usize {
        match self {
            Self::Three => 3,
            Self::Five => 5,
        }
    }

    /// The index of the queue that receives datagrams.
    pub const fn dgram_rx(self) -> Option<usize> {
        match self {
            Self::Three => None,
            Self::Five => Some(2),
        }
    }

    /// The index of the queue that sends datagrams.
    pub const fn dgram_tx(self) -> Option<usize> {
        match self {
            Self::Three => None,
            Self::Five => Some(3),
        }
    }
}

/// What to try: the bits to accept, and the queues to look for then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The bits to accept, of the four; all of them were offered.
    pub accept: u64,
    /// How many queues to look for.
    pub queues: Queues,
    /// What bits 2 and 3 are taken to mean if the queues are found.
    pub dialect: Dialect,
}

/// The first attempt with a device that offers `offered`.
///
/// Bits of `offered` beyond the four are ignored: they are the bus's affair. A driver without
/// seqpackets or mergeable buffers may mask bits 1 and 3 before; bit 2 it must leave.
pub const fn first_attempt(offered: u64, choice: Choice) -> Attempt {
    let dgram = Feature::Dgram.is_in(offered);
    let dialect = match choice {
        Choice::Ratified => Dialect::Ratified,
        Choice::Draft => Dialect::Draft,
        Choice::Shared => Dialect::Shared,
        // Bit 3 alone is ambiguous, and bits 0 and 1 need no draft.
        Choice::Auto if dgram => Dialect::Draft,
        Choice::Auto => Dialect::Ratified,
    };
    match dialect {
        Dialect::Ratified => ratified(offered),
        Dialect::Draft => Attempt {
            accept: offered & known(),
            queues: if dgram { Queues::Five } else { Queues::Three },
            dialect,
        },
        Dialect::Shared => Attempt {
            accept: offered & known(),
            queues: Queues::Three,
            dialect,
        },
    }
}

/// The attempt to make when five queues were looked for and not found, after a reset of the device.
///
/// `None` when the administrator insists on the draft: the error of the search is the result then.
/// An attempt for three queues has no successor either.
pub const fn after_no_five_queues(offered: u64, choice: Choice) -> Option<Attempt> {
    match choice {
        Choice::Auto if Feature::Dgram.is_in(offered) => Some(ratified(offered)),
        _ => None,
    }
}

const fn known() -> u64 {
    Feature::Stream.mask()
        | Feature::Seqpacket.mask()
        | Feature::Dgram.mask()
        | Feature::MrgRxbuf.mask()
}

/// Bit 2 is NO_IMPLIED_STREAM here, which a driver should accept; bit 3 has no meaning.
const fn ratified(offered: u64) -> Attempt {
    Attempt {
        accept: offered & known() & !Feature::MrgRxbuf.mask(),
        queues: Queues::Three,
        dialect: Dialect::Ratified,
    }
}

impl Attempt {
    /// What the device offers once its queues were found as the attempt said.
    pub const fn profile(self) -> Profile {
        let bit2 = Feature::Dgram.is_in(self.accept);
        let bit3 = Feature::MrgRxbuf.is_in(self.accept);
        let draft = matches!(self.dialect, Dialect::Draft);
        let shared = matches!(self.dialect, Dialect::Shared);
        let no_implied_stream = bit2 && !draft;
        Profile {
            dialect: self.dialect,
            // Implied without any bit, and with SEQPACKET alone, which is what vhost-vsock offers.
            stream: Feature::Stream.is_in(self.accept) || !no_implied_stream,
            seqpacket: Feature::Seqpacket.is_in(self.accept),
            dgram: (bit2 && draft) || (bit3 && shared),
            mrg_rxbuf: bit3 && draft,
            no_implied_stream,
            queues: self.queues,
        }
    }
}

/// What a device offers, once its features and queues are settled. A value, not scattered `if`s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Which text the device follows.
    pub dialect: Dialect,
    /// SOCK_STREAM works.
    pub stream: bool,
    /// SOCK_SEQPACKET works.
    pub seqpacket: bool,
    /// SOCK_DGRAM works; [on which queues](Self::shares_queues) is another matter.
    pub dgram: bool,
    /// A packet may go over several receive buffers, and headers have 46 bytes (M1).
    pub mrg_rxbuf: bool,
    /// Bit 2 was accepted as NO_IMPLIED_STREAM.
    pub no_implied_stream: bool,
    /// The queues.
    pub queues: Queues,
}

impl Profile {
    /// The length of a header in bytes, on every queue.
    pub const fn header_len(&self) -> usize {
        if self.mrg_rxbuf {
            HEADER_LEN_MRG
        } else {
            HEADER_LEN
        }
    }

    /// Whether sockets of type `ty` work.
    pub const fn serves(&self, ty: SocketType) -> bool {
        match ty {
            SocketType::Stream => self.stream,
            SocketType::Seqpacket => self.seqpacket,
            SocketType::Dgram => self.dgram,
        }
    }

    /// Whether datagrams go over the queues of connections (G1).
    pub const fn shares_queues(&self) -> bool {
        self.dgram && matches!(self.queues, Queues::Three)
    }

    /// Whether no type of socket works at all: NO_IMPLIED_STREAM with nothing beside it.
    pub const fn is_useless(&self) -> bool {
        !self.stream && !self.seqpacket && !self.dgram
    }
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_profile))]
mod tests {
    use super::*;

    /// Bits of the bus, VERSION_1 among them, which are none of ours.
    const BUS: u64 = (1 << 32) | (1 << 29) | (1 << 4);

    fn settled(offered: u64, choice: Choice) -> Profile {
        first_attempt(offered, choice).profile()
    }

    #[test]
    fn the_bits_have_their_numbers() {
        assert_eq!(Feature::Stream.mask(), 1);
        assert_eq!(Feature::Seqpacket.mask(), 2);
        assert_eq!(Feature::Dgram.mask(), 4);
        assert_eq!(Feature::MrgRxbuf.mask(), 8);
        assert_eq!(Feature::MrgRxbuf.bit(), 3);
    }

    #[test]
    fn queue_indices() {
        assert_eq!(Queues::Three.count(), 3);
        assert_eq!(Queues::Three.dgram_rx(), None);
        assert_eq!(Queues::Three.dgram_tx(), None);
        assert_eq!(Queues::Five.count(), 5);
        assert_eq!(Queues::Five.dgram_rx(), Some(2));
        assert_eq!(Queues::Five.dgram_tx(), Some(3));
    }

    #[test]
    fn row_1_no_bit_implies_streams() {
        let attempt = first_attempt(BUS, Choice::Auto);
        assert_eq!(attempt.accept, 0);
        assert_eq!(attempt.queues, Queues::Three);
        let profile = attempt.profile();
        assert!(profile.stream);
        assert!(!profile.seqpacket);
        assert!(!profile.dgram);
        assert_eq!(profile.header_len(), 44);
    }

    #[test]
    fn row_1_seqpacket_alone_implies_streams() {
        let attempt = first_attempt(BUS | 2, Choice::Auto);
        assert_eq!(attempt.accept, 2);
        assert!(attempt.profile().stream);
        assert!(attempt.profile().seqpacket);
        assert!(settled(3, Choice::Auto).stream);
        assert!(!settled(1, Choice::Auto).seqpacket);
    }

    #[test]
    fn row_1_has_no_second_attempt() {
        for offered in [0, 1, 2, 3] {
            assert_eq!(after_no_five_queues(offered, Choice::Auto), None);
        }
    }

    #[test]
    fn row_2_bit_2_with_three_queues_is_no_implied_stream() {
        for offered in [4u64, 5, 6, 7, 12, 13, 14, 15] {
            let attempt = after_no_five_queues(BUS | offered, Choice::Auto);
            assert!(attempt.is_some_and(|attempt| {
                let profile = attempt.profile();
                attempt.accept == offered & 7
                    && profile.dialect == Dialect::Ratified
                    && profile.queues == Queues::Three
                    && profile.no_implied_stream
                    && profile.stream == (offered & 1 != 0)
                    && profile.seqpacket == (offered & 2 != 0)
                    && !profile.dgram
                    && !profile.mrg_rxbuf
                    && profile.header_len() == 44
                    && profile.is_useless() == (offered & 3 == 0)
            }));
        }
    }

    #[test]
    fn row_3_bit_2_with_five_queues_is_the_draft() {
        for offered in [4u64, 5, 6, 7, 12, 13, 14, 15] {
            let attempt = first_attempt(BUS | offered, Choice::Auto);
            assert_eq!(attempt.accept, offered);
            assert_eq!(attempt.queues, Queues::Five);
            let profile = attempt.profile();
            assert_eq!(profile.dialect, Dialect::Draft);
            assert!(profile.dgram);
            assert!(profile.stream);
            assert!(!profile.no_implied_stream);
            assert_eq!(profile.seqpacket, offered & 2 != 0);
            assert_eq!(profile.mrg_rxbuf, offered & 8 != 0);
            assert_eq!(profile.header_len(), if offered & 8 != 0 { 46 } else { 44 });
        }
    }

    #[test]
    fn row_4_bit_3_without_bit_2_is_not_accepted() {
        for offered in [8u64, 9, 10, 11] {
            for choice in [Choice::Auto, Choice::Ratified] {
                let attempt = first_attempt(BUS | offered, choice);
                assert_eq!(attempt.accept, offered & 3);
                assert_eq!(attempt.queues, Queues::Three);
                assert!(!attempt.profile().mrg_rxbuf);
                assert_eq!(after_no_five_queues(offered, choice), None);
            }
        }
    }

    #[test]
    fn row_4_unless_the_draft_is_named() {
        let attempt = first_attempt(BUS | 8, Choice::Draft);
        assert_eq!(attempt.accept, 8);
        assert_eq!(attempt.queues, Queues::Three);
        let profile = attempt.profile();
        assert!(profile.mrg_rxbuf);
        assert!(profile.stream);
        assert!(!profile.dgram);
        assert_eq!(profile.header_len(), 46);
    }

    #[test]
    fn g1_bit_3_is_datagrams_on_three_queues_if_that_is_named() {
        for offered in 0..16u64 {
            let attempt = first_attempt(BUS | offered, Choice::Shared);
            assert_eq!(attempt.accept, offered);
            assert_eq!(attempt.queues, Queues::Three);
            let profile = attempt.profile();
            assert_eq!(profile.dialect, Dialect::Shared);
            assert_eq!(profile.dgram, offered & 8 != 0);
            assert_eq!(profile.shares_queues(), offered & 8 != 0);
            assert_eq!(profile.seqpacket, offered & 2 != 0);
            // Bit 2 is what it is in virtio 1.3.
            assert_eq!(profile.no_implied_stream, offered & 4 != 0);
            assert_eq!(profile.stream, offered & 5 != 4);
            assert!(!profile.mrg_rxbuf);
            assert_eq!(profile.header_len(), 44);
            assert_eq!(after_no_five_queues(offered, Choice::Shared), None);
        }
    }

    #[test]
    fn g1_nobody_shares_queues_unless_that_is_named() {
        for offered in 0..16u64 {
            for choice in [Choice::Auto, Choice::Ratified, Choice::Draft] {
                assert!(!settled(offered, choice).shares_queues());
            }
        }
    }

    #[test]
    fn override_ratified_never_looks_for_five() {
        for offered in 0..16u64 {
            let attempt = first_attempt(BUS | offered, Choice::Ratified);
            assert_eq!(attempt.accept, offered & 7);
            assert_eq!(attempt.queues, Queues::Three);
            assert_eq!(attempt.dialect, Dialect::Ratified);
            assert_eq!(after_no_five_queues(offered, Choice::Ratified), None);
        }
    }

    #[test]
    fn override_draft_insists_on_five() {
        for offered in 0..16u64 {
            let attempt = first_attempt(BUS | offered, Choice::Draft);
            assert_eq!(attempt.accept, offered);
            let looks_for_five = attempt.queues == Queues::Five;
            assert_eq!(looks_for_five, offered & 4 != 0);
            assert_eq!(after_no_five_queues(offered, Choice::Draft), None);
        }
    }
}
