// SPDX-License-Identifier: GPL-2.0

//! Socket types, operations and flags of a packet.
//!
//! Source: virtio 1.3, "Socket Device", "Device Operation"; type 3 from the datagram drafts.

/// The kind of socket that a packet belongs to: the header's `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum SocketType {
    /// A byte stream (SOCK_STREAM).
    Stream = 1,
    /// A stream of messages (SOCK_SEQPACKET).
    Seqpacket = 2,
    /// Datagrams (SOCK_DGRAM), a type of the drafts only.
    Dgram = 3,
}

impl TryFrom<u16> for SocketType {
    type Error = u16;

    fn try_from(raw: u16) -> Result<Self, u16> {
        match raw {
            1 => Ok(Self::Stream),
            2 => Ok(Self::Seqpacket),
            3 => Ok(Self::Dgram),
            _ => Err(raw),
        }
    }
}

impl From<SocketType> for u16 {
    fn from(value: SocketType) -> Self {
        // CAST: `repr(u16)`.
        value as u16
    }
}

/// What a packet does: the header's `op`. Zero is no operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Asks for a connection.
    Request = 1,
    /// Grants a connection.
    Response = 2,
    /// Refuses or ends a connection at once.
    Rst = 3,
    /// The sender will not receive, or not send, any more: see [`ShutdownFlags`].
    Shutdown = 4,
    /// Carries payload.
    Rw = 5,
    /// Carries nothing but the credit fields, which every packet carries.
    CreditUpdate = 6,
    /// Asks for a [`Op::CreditUpdate`].
    CreditRequest = 7,
}

impl TryFrom<u16> for Op {
    type Error = u16;

    fn try_from(raw: u16) -> Result<Self, u16> {
        match raw {
            1 => Ok(Self::Request),
            2 => Ok(Self::Response),
            3 => Ok(Self::Rst),
            4 => Ok(Self::Shutdown),
            5 => Ok(Self::Rw),
            6 => Ok(Self::CreditUpdate),
            7 => Ok(Self::CreditRequest),
            _ => Err(raw),
        }
    }
}

impl From<Op> for u16 {
    fn from(value: Op) -> Self {
        // CAST: `repr(u16)`.
        value as u16
    }
}

/// A set of the flags of [`Op::Shutdown`]: what the packet's sender will not do any more.
///
/// The numbers are those of the kernel's `RCV_SHUTDOWN` and `SEND_SHUTDOWN`. A value holds known
/// bits only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShutdownFlags(u32);

impl ShutdownFlags {
    /// Nothing is shut down.
    pub const NONE: Self = Self(0);
    /// The sender will not receive any more.
    pub const RCV: Self = Self(1);
    /// The sender will not send any more.
    pub const SEND: Self = Self(2);
    /// Both.
    pub const BOTH: Self = Self(3);

    /// The known bits of `raw`; the others are dropped (H4).
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw & Self::BOTH.0)
    }

    /// The flags as they go into a header, or into `sk_shutdown`.
    pub const fn as_raw(self) -> u32 {
        self.0
    }

    /// What is in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether both directions are shut down.
    pub const fn is_both(self) -> bool {
        self.0 == Self::BOTH.0
    }
}

/// A set of the flags of [`Op::Rw`] on a [`SocketType::Seqpacket`] connection.
///
/// A value holds known bits only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeqFlags(u32);

impl SeqFlags {
    /// A message goes on in the next packet.
    pub const NONE: Self = Self(0);
    /// The packet ends a message.
    pub const EOM: Self = Self(1);
    /// The message carries MSG_EOR.
    pub const EOR: Self = Self(2);

    /// The known bits of `raw`; the others are dropped (H4).
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw & (Self::EOM.0 | Self::EOR.0))
    }

    /// The flags as they go into a header.
    pub const fn as_raw(self) -> u32 {
        self.0
    }

    /// What is in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_types))]
mod tests {
    use super::*;

    #[test]
    fn h4_socket_type_both_sides_of_each_end() {
        assert_eq!(SocketType::try_from(0), Err(0));
        assert_eq!(SocketType::try_from(1), Ok(SocketType::Stream));
        assert_eq!(SocketType::try_from(3), Ok(SocketType::Dgram));
        assert_eq!(SocketType::try_from(4), Err(4));
        assert_eq!(SocketType::try_from(u16::MAX), Err(u16::MAX));
    }

    #[test]
    fn h4_op_both_sides_of_each_end() {
        assert_eq!(Op::try_from(0), Err(0));
        assert_eq!(Op::try_from(1), Ok(Op::Request));
        assert_eq!(Op::try_from(7), Ok(Op::CreditRequest));
        assert_eq!(Op::try_from(8), Err(8));
        assert_eq!(Op::try_from(u16::MAX), Err(u16::MAX));
    }

    #[test]
    fn every_known_number_comes_back() {
        for raw in 0..=u16::MAX {
            assert!(SocketType::try_from(raw).map_or_else(|e| e, u16::from) == raw);
            assert!(Op::try_from(raw).map_or_else(|e| e, u16::from) == raw);
        }
    }

    #[test]
    fn h4_unknown_shutdown_flags_are_dropped() {
        assert_eq!(ShutdownFlags::from_raw(0), ShutdownFlags::NONE);
        assert_eq!(ShutdownFlags::from_raw(1), ShutdownFlags::RCV);
        assert_eq!(ShutdownFlags::from_raw(2), ShutdownFlags::SEND);
        assert_eq!(ShutdownFlags::from_raw(u32::MAX), ShutdownFlags::BOTH);
        assert_eq!(ShutdownFlags::from_raw(4), ShutdownFlags::NONE);
    }

    #[test]
    fn shutdown_flags_are_a_set() {
        let both = ShutdownFlags::RCV.union(ShutdownFlags::SEND);
        assert!(both.is_both());
        assert!(both.contains(ShutdownFlags::RCV));
        assert!(!ShutdownFlags::RCV.contains(ShutdownFlags::BOTH));
        assert_eq!(both.as_raw(), 3);
    }

    #[test]
    fn h4_unknown_seq_flags_are_dropped() {
        assert_eq!(SeqFlags::from_raw(1), SeqFlags::EOM);
        assert_eq!(SeqFlags::from_raw(2), SeqFlags::EOR);
        assert_eq!(SeqFlags::from_raw(u32::MAX).as_raw(), 3);
        assert!(SeqFlags::EOM.union(SeqFlags::EOR).contains(SeqFlags::EOM));
        assert!(!SeqFlags::NONE.contains(SeqFlags::EOM));
    }
}
