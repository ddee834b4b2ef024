// SPDX-License-Identifier: GPL-2.0

//! Packets: the header and its numbers, as they are on the wire.
//!
//! They stand here once more, apart from the driver's `rust/wire`, on purpose: the device is an independent witness, and
//! a number that is wrong in the driver does not become right by being wrong on both sides.

/// The host's CID, which is the device's own.
pub const HOST_CID: u64 = 2;

/// CIDs that no guest can have.
pub fn reserved(cid: u64) -> bool {
    cid <= 2 || cid >= 0xffff_ffff
}

/// The header's size.
pub const HEADER: usize = 44;
/// The same with `num_buffers`, which it has on every queue once `VIRTIO_VSOCK_F_MRG_RXBUF` is negotiated.
pub const HEADER_MRG: usize = 46;

/// The most that one packet brings; a datagram's bound too.
pub const MAX_PAYLOAD: usize = 64 << 10;

/// What a packet belongs to, its `type`.
pub mod kind {
    pub const STREAM: u16 = 1;
    pub const SEQPACKET: u16 = 2;
    pub const DGRAM: u16 = 3;
}

/// What a packet does, its `op`.
pub mod op {
    pub const REQUEST: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const RST: u16 = 3;
    pub const SHUTDOWN: u16 = 4;
    pub const RW: u16 = 5;
    pub const CREDIT_UPDATE: u16 = 6;
    pub const CREDIT_REQUEST: u16 = 7;
}

/// The sender of `SHUTDOWN` will not receive any more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// The sender of `SHUTDOWN` will not send any more.
pub const SHUTDOWN_SEND: u32 = 2;
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// `RW` of a seqpacket: the message ends here.
pub const SEQ_EOM: u32 = 1;
/// `RW` of a seqpacket: the record ends here.
pub const SEQ_EOR: u32 = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    pub len: u32,
    pub kind: u16,
    pub op: u16,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

/// A packet that is kept for later.
#[derive(Clone, Debug, Default)]
pub struct Packet {
    pub header: Header,
    pub data: Vec<u8>,
}

impl Header {
    /// Takes the fields out of the bytes.
    pub fn parse(b: &[u8; HEADER]) -> Self {
        Self {
            src_cid: u64::from_le_bytes(part(b, 0)),
            dst_cid: u64::from_le_bytes(part(b, 8)),
            src_port: u32::from_le_bytes(part(b, 16)),
            dst_port: u32::from_le_bytes(part(b, 20)),
            len: u32::from_le_bytes(part(b, 24)),
            kind: u16::from_le_bytes(part(b, 28)),
            op: u16::from_le_bytes(part(b, 30)),
            flags: u32::from_le_bytes(part(b, 32)),
            buf_alloc: u32::from_le_bytes(part(b, 36)),
            fwd_cnt: u32::from_le_bytes(part(b, 40)),
        }
    }

    /// The longer form; without `VIRTIO_VSOCK_F_MRG_RXBUF` only the first [`HEADER`] bytes of it are sent.
    pub fn bytes(&self, num_buffers: u16) -> [u8; HEADER_MRG] {
        let mut b = [0; HEADER_MRG];
        b[0..8].copy_from_slice(&self.src_cid.to_le_bytes());
        b[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        b[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        b[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        b[24..28].copy_from_slice(&self.len.to_le_bytes());
        b[28..30].copy_from_slice(&self.kind.to_le_bytes());
        b[30..32].copy_from_slice(&self.op.to_le_bytes());
        b[32..36].copy_from_slice(&self.flags.to_le_bytes());
        b[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        b[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        b[44..46].copy_from_slice(&num_buffers.to_le_bytes());
        b
    }

    /// The answer that says that nobody is there.
    pub fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: op::RST,
            ..Self::default()
        }
    }
}

/// `N` bytes from `at` on. Both are constants where it is called, and lie within the header.
fn part<const N: usize>(bytes: &[u8; HEADER], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_places() {
        let bytes: [u8; HEADER] = std::array::from_fn(|i| i as u8);
        let header = Header::parse(&bytes);
        assert_eq!(header.src_cid, 0x0706_0504_0302_0100);
        assert_eq!(header.kind, 0x1d1c);
        assert_eq!(header.fwd_cnt, 0x2b2a_2928);
        let back = header.bytes(0x1234);
        assert_eq!(back[..HEADER], bytes);
        assert_eq!(back[HEADER..], [0x34, 0x12]);
    }

    #[test]
    fn a_reset_goes_back() {
        let header = Header {
            src_cid: 3,
            dst_cid: 2,
            src_port: 10,
            dst_port: 20,
            len: 5,
            kind: kind::DGRAM,
            op: op::RW,
            ..Header::default()
        };
        let reset = header.reset();
        assert_eq!((reset.src_cid, reset.dst_cid), (2, 3));
        assert_eq!((reset.src_port, reset.dst_port), (20, 10));
        assert_eq!((reset.len, reset.kind, reset.op), (0, kind::DGRAM, op::RST));
    }
}
