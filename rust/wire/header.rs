// SPDX-License-Identifier: GPL-2.0

//! The header that every packet begins with, 44 bytes long, or 46 with mergeable receive buffers.
//!
//! Source: virtio 1.3, "Socket Device", "Device Operation"; `num_buffers` from the draft
//! "mergeable rx buffers" of 2022. C header: [`include/uapi/linux/virtio_vsock.h`].
//!
//! [`include/uapi/linux/virtio_vsock.h`]: srctree/include/uapi/linux/virtio_vsock.h

use super::{
    bytes::{
        put,
        take,
        take_u16,
        take_u32,
        take_u64, //
    },
    Op,
    SocketType, //
};

/// The length of a header in bytes.
pub const HEADER_LEN: usize = 44;

/// The length of a header in bytes, on every queue, once MRG_RXBUF is negotiated.
pub const HEADER_LEN_MRG: usize = 46;

/// One end of a connection, or of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The context: a guest's CID, or the host's, 2.
    pub cid: u32,
    /// The port within the context.
    pub port: u32,
}

/// A header, in host byte order; `ty` and `op` as they came.
///
/// It is a copy of what was in the receive buffer, to be made once, and then checked and used (H1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The CID that the packet comes from; its upper half must be zero.
    pub src_cid: u64,
    /// The CID that the packet goes to; its upper half must be zero.
    pub dst_cid: u64,
    /// The port that the packet comes from.
    pub src_port: u32,
    /// The port that the packet goes to.
    pub dst_port: u32,
    /// Bytes of payload behind the header.
    pub len: u32,
    /// The socket's type: see [`Header::socket_type`].
    pub ty: u16,
    /// What the packet does: see [`Header::operation`].
    pub op: u16,
    /// [`ShutdownFlags`](super::ShutdownFlags) or [`SeqFlags`](super::SeqFlags), by `op`.
    pub flags: u32,
    /// The size of the sender's receive buffer in bytes.
    pub buf_alloc: u32,
    /// How many bytes the sender has taken out of that buffer, free-running.
    pub fwd_cnt: u32,
}

impl Header {
    /// Where the length of the payload is, in bytes from the beginning.
    pub const LEN_OFFSET: usize = 24;

    /// Where the header speaks of credit, `buf_alloc` and then `fwd_cnt`, in bytes from the beginning.
    pub const CREDIT_OFFSET: usize = 36;

    /// A packet without payload, flags and credit from `src` to `dst`.
    pub const fn new(src: Address, dst: Address, ty: SocketType, op: Op) -> Self {
        // CAST: lossless; `From` is not const.
        Self {
            src_cid: src.cid as u64,
            dst_cid: dst.cid as u64,
            src_port: src.port,
            dst_port: dst.port,
            len: 0,
            ty: ty as u16,
            op: op as u16,
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }

    /// Reads a header. This is about layout alone: every content is a value.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut rest: &[u8] = bytes;
        // Fields are evaluated in the order in which they are written, which is that of the wire.
        Self {
            src_cid: take_u64(&mut rest),
            dst_cid: take_u64(&mut rest),
            src_port: take_u32(&mut rest),
            dst_port: take_u32(&mut rest),
            len: take_u32(&mut rest),
            ty: take_u16(&mut rest),
            op: take_u16(&mut rest),
            flags: take_u32(&mut rest),
            buf_alloc: take_u32(&mut rest),
            fwd_cnt: take_u32(&mut rest),
        }
    }

    /// Writes the header.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let rest = put(&mut bytes, self.src_cid.to_le_bytes());
        let rest = put(rest, self.dst_cid.to_le_bytes());
        let rest = put(rest, self.src_port.to_le_bytes());
        let rest = put(rest, self.dst_port.to_le_bytes());
        let rest = put(rest, self.len.to_le_bytes());
        let rest = put(rest, self.ty.to_le_bytes());
        let rest = put(rest, self.op.to_le_bytes());
        let rest = put(rest, self.flags.to_le_bytes());
        let rest = put(rest, self.buf_alloc.to_le_bytes());
        let _ = put(rest, self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The socket's type; the error is a number that means nothing (C2: answered by RST).
    pub fn socket_type(&self) -> Result<SocketType, u16> {
        SocketType::try_from(self.ty)
    }

    /// What the packet does; the error is a number that means nothing (H4: dropped and counted).
    pub fn operation(&self) -> Result<Op, u16> {
        Op::try_from(self.op)
    }

    /// Where the packet comes from; the error is a CID whose upper half is not zero (H4).
    pub fn src(&self) -> Result<Address, u64> {
        address(self.src_cid, self.src_port)
    }

    /// Where the packet goes to; the error is a CID whose upper half is not zero (H4).
    pub fn dst(&self) -> Result<Address, u64> {
        address(self.dst_cid, self.dst_port)
    }

    /// The header of an answer: addresses swapped, the same type even if unknown, without payload,
    /// flags and credit.
    #[must_use]
    pub const fn reply(&self, op: Op) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            len: 0,
            ty: self.ty,
            // CAST: `repr(u16)`.
            op: op as u16,
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }
}

fn address(cid: u64, port: u32) -> Result<Address, u64> {
    match u32::try_from(cid) {
        Ok(cid) => Ok(Address { cid, port }),
        Err(_) => Err(cid),
    }
}

/// A header as it is once MRG_RXBUF is negotiated (M1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderMrg {
    /// The 44 bytes that all headers have.
    pub header: Header,
    /// Over how many receive buffers the packet goes, this one included; unused when transmitting.
    pub num_buffers: u16,
}

impl HeaderMrg {
    /// Reads a header. This is about layout alone: every content is a value.
    pub fn parse(bytes: &[u8; HEADER_LEN_MRG]) -> Self {
        let mut rest: &[u8] = bytes;
        Self {
            header: Header::parse(&take(&mut rest)),
            num_buffers: take_u16(&mut rest),
        }
    }

    /// Writes the header.
    // For tests.
    #[allow(dead_code)]
    pub fn to_bytes(self) -> [u8; HEADER_LEN_MRG] {
        let mut bytes = [0; HEADER_LEN_MRG];
        let rest = put(&mut bytes, self.header.to_bytes());
        let _ = put(rest, self.num_buffers.to_le_bytes());
        bytes
    }
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_header))]
mod tests {
    use super::*;

    const HERE: Address = Address { cid: 3, port: 1024 };
    const THERE: Address = Address { cid: 2, port: 80 };

    /// Each field's value spells the positions of its bytes.
    const COUNTED: Header = Header {
        src_cid: 0x0706_0504_0302_0100,
        dst_cid: 0x0f0e_0d0c_0b0a_0908,
        src_port: 0x1312_1110,
        dst_port: 0x1716_1514,
        len: 0x1b1a_1918,
        ty: 0x1d1c,
        op: 0x1f1e,
        flags: 0x2322_2120,
        buf_alloc: 0x2726_2524,
        fwd_cnt: 0x2b2a_2928,
    };

    fn counting<const N: usize>() -> [u8; N] {
        let mut bytes = [0; N];
        let mut next = 0u8;
        for byte in bytes.iter_mut() {
            *byte = next;
            next = next.wrapping_add(1);
        }
        bytes
    }

    #[test]
    fn every_field_at_its_offset() {
        assert_eq!(Header::parse(&counting()), COUNTED);
        assert_eq!(COUNTED.to_bytes(), counting::<HEADER_LEN>());
    }

    #[test]
    fn length_and_credit_are_where_they_are_said_to_be() {
        let mut bytes = [0; HEADER_LEN];
        for (at, byte) in (Header::LEN_OFFSET..).zip([1, 2, 3, 4]) {
            bytes[at] = byte;
        }
        for (at, byte) in (Header::CREDIT_OFFSET..).zip([5, 6, 7, 8, 9, 10, 11, 12]) {
            bytes[at] = byte;
        }
        let expected = Header {
            len: 0x0403_0201,
            buf_alloc: 0x0807_0605,
            fwd_cnt: 0x0c0b_0a09,
            ..Header::default()
        };
        assert_eq!(Header::parse(&bytes), expected);
    }

    #[test]
    fn m1_num_buffers_comes_last() {
        let counted = HeaderMrg {
            header: COUNTED,
            num_buffers: 0x2d2c,
        };
        assert_eq!(HeaderMrg::parse(&counting()), counted);
        assert_eq!(counted.to_bytes(), counting::<HEADER_LEN_MRG>());
    }

    #[test]
    fn the_ends_of_every_field_survive() {
        let full = Header::parse(&[0xff; HEADER_LEN]);
        assert_eq!(full.src_cid, u64::MAX);
        assert_eq!(full.fwd_cnt, u32::MAX);
        assert_eq!(full.to_bytes(), [0xff; HEADER_LEN]);
        assert_eq!(Header::parse(&[0; HEADER_LEN]), Header::default());
    }

    #[test]
    fn new_says_who_and_what() {
        let header = Header::new(HERE, THERE, SocketType::Stream, Op::Request);
        assert_eq!(header.src(), Ok(HERE));
        assert_eq!(header.dst(), Ok(THERE));
        assert_eq!(header.socket_type(), Ok(SocketType::Stream));
        assert_eq!(header.operation(), Ok(Op::Request));
        assert_eq!(header.len, 0);
    }

    #[test]
    fn h4_upper_half_of_a_cid_is_refused() {
        let mut header = Header::new(HERE, THERE, SocketType::Stream, Op::Rw);
        header.src_cid = 0xffff_ffff;
        assert!(header.src().is_ok());
        header.src_cid = 0x1_0000_0000;
        assert_eq!(header.src(), Err(0x1_0000_0000));
        assert!(header.dst().is_ok());
        header.dst_cid = u64::MAX;
        assert_eq!(header.dst(), Err(u64::MAX));
    }

    #[test]
    fn c2_reply_swaps_and_keeps_an_unknown_type() {
        let mut header = Header::new(HERE, THERE, SocketType::Stream, Op::Rw);
        header.ty = 77;
        header.len = 5;
        header.flags = 1;
        header.buf_alloc = 6;
        header.fwd_cnt = 7;
        let reply = header.reply(Op::Rst);
        assert_eq!(reply.src(), Ok(THERE));
        assert_eq!(reply.dst(), Ok(HERE));
        assert_eq!(reply.socket_type(), Err(77));
        assert_eq!(reply.operation(), Ok(Op::Rst));
        assert_eq!(reply.len, 0);
        assert_eq!(reply.flags, 0);
        assert_eq!(reply.buf_alloc, 0);
        assert_eq!(reply.fwd_cnt, 0);
    }
}
