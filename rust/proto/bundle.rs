// SPDX-License-Identifier: GPL-2.0

//! Bundles: parts of messages that share a buffer until they are read, each behind two bytes that say how
//! long it is and whether it ends a message (K3, S1).

use crate::wire::SeqFlags;

/// The bits of a mark that are the length.
const LEN_MASK: u16 = (1 << 14) - 1;
const EOM: u16 = 1 << 14;
const EOR: u16 = 1 << 15;

/// What precedes a part of a message in a bundle.
///
/// # Invariants
///
/// `len` is at most [`Mark::GREATEST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    len: u16,
    flags: SeqFlags,
}

impl Mark {
    /// The size of a mark in bytes.
    pub const LEN: usize = 2;

    /// The greatest part that can be in a bundle: its length has 14 bits.
    pub const GREATEST: usize = LEN_MASK as usize;

    /// The mark of a part of `len` bytes; `None` if that is too long for a bundle.
    pub fn new(len: usize, flags: SeqFlags) -> Option<Self> {
        // INVARIANT: what has more than 14 bits is refused.
        u16::try_from(len)
            .ok()
            .filter(|len| *len <= LEN_MASK)
            .map(|len| Self { len, flags })
    }

    /// Reads a mark: any two bytes are one.
    pub fn parse(bytes: [u8; Self::LEN]) -> Self {
        let raw = u16::from_le_bytes(bytes);
        let mut flags = SeqFlags::NONE;
        if raw & EOM != 0 {
            flags = flags.union(SeqFlags::EOM);
        }
        if raw & EOR != 0 {
            flags = flags.union(SeqFlags::EOR);
        }
        // INVARIANT: the mask leaves 14 bits.
        Self {
            len: raw & LEN_MASK,
            flags,
        }
    }

    /// Writes the mark.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut raw = self.len;
        if self.flags.contains(SeqFlags::EOM) {
            raw |= EOM;
        }
        if self.flags.contains(SeqFlags::EOR) {
            raw |= EOR;
        }
        raw.to_le_bytes()
    }

    /// The length of the part behind the mark, in bytes.
    pub fn len(&self) -> usize {
        self.len.into()
    }

    /// Whether the part has no bytes.
    // For tests.
    #[allow(dead_code)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the part ends a message, and how.
    pub fn flags(&self) -> SeqFlags {
        self.flags
    }
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_bundle))]
mod tests {
    use super::*;

    #[test]
    fn s1_every_mark_comes_back() {
        for raw in 0..=u16::MAX {
            let bytes = raw.to_le_bytes();
            let mark = Mark::parse(bytes);
            assert_eq!(mark.to_bytes(), bytes);
            assert!(mark.len() <= Mark::GREATEST);
            assert!(Mark::new(mark.len(), mark.flags()) == Some(mark));
        }
    }

    #[test]
    fn s1_bits_have_their_meaning() {
        let mark = |len, flags| Mark::new(len, SeqFlags::from_raw(flags)).map(Mark::to_bytes);
        assert_eq!(mark(0x1234, 0), Some([0x34, 0x12]));
        assert_eq!(mark(0x1234, 1), Some([0x34, 0x52]));
        assert_eq!(mark(0x1234, 2), Some([0x34, 0x92]));
        assert_eq!(mark(0, 3), Some([0, 0xc0]));
        assert!(Mark::parse([0, 0xc0]).is_empty());
        assert!(!Mark::parse([1, 0]).is_empty());
    }

    #[test]
    fn k3_no_more_than_14_bits() {
        assert_eq!(Mark::GREATEST, 16383);
        assert!(Mark::new(16383, SeqFlags::EOM).is_some());
        assert!(Mark::new(16384, SeqFlags::EOM).is_none());
        assert!(Mark::new(65536, SeqFlags::EOM).is_none());
        assert!(Mark::new(usize::MAX, SeqFlags::EOM).is_none());
    }
}
