// SPDX-License-Identifier: GPL-2.0

//! What precedes a packet on a vsockmon device.
//!
//! C header: [`include/uapi/linux/vsockmon.h`].
//!
//! [`include/uapi/linux/vsockmon.h`]: srctree/include/uapi/linux/vsockmon.h

use super::{
    bytes::put,
    Header,
    Op,
    HEADER_LEN, //
};

/// The length of `struct af_vsockmon_hdr` and the transport's header in bytes.
pub const MONITOR_LEN: usize = 32 + HEADER_LEN;

/// `AF_VSOCK_TRANSPORT_VIRTIO`.
const TRANSPORT_VIRTIO: u16 = 2;

/// The length of the transport's header, as [`MONITOR_LEN`] counts it.
// CAST: 44.
const TRANSPORT_LEN: u16 = HEADER_LEN as u16;

/// What monitors know a packet as, `AF_VSOCK_OP_*`.
fn monitor_op(header: &Header) -> u16 {
    match header.operation() {
        Ok(Op::Request | Op::Response) => 1,
        Ok(Op::Rst | Op::Shutdown) => 2,
        Ok(Op::CreditUpdate | Op::CreditRequest) => 3,
        Ok(Op::Rw) => 4,
        Err(_) => 0,
    }
}

/// What a monitor gets before the payload: `struct af_vsockmon_hdr`, and the header, of 44 bytes always.
pub fn monitor_header(header: &Header) -> [u8; MONITOR_LEN] {
    let mut bytes = [0; MONITOR_LEN];
    let rest = put(&mut bytes, header.src_cid.to_le_bytes());
    let rest = put(rest, header.dst_cid.to_le_bytes());
    let rest = put(rest, header.src_port.to_le_bytes());
    let rest = put(rest, header.dst_port.to_le_bytes());
    let rest = put(rest, monitor_op(header).to_le_bytes());
    let rest = put(rest, TRANSPORT_VIRTIO.to_le_bytes());
    let rest = put(rest, TRANSPORT_LEN.to_le_bytes());
    // Reserved.
    let rest = put(rest, [0; 2]);
    let _ = put(rest, header.to_bytes());
    bytes
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_monitor))]
mod tests {
    use super::*;

    #[test]
    fn every_field_at_its_offset() {
        let header = Header {
            src_cid: 0x0706_0504_0302_0100,
            dst_cid: 0x0f0e_0d0c_0b0a_0908,
            src_port: 0x1312_1110,
            dst_port: 0x1716_1514,
            len: 0x2f2e_2d2c,
            ty: 1,
            op: 5,
            ..Header::default()
        };
        let bytes = monitor_header(&header);
        let (addresses, rest) = bytes.split_at(24);
        for (byte, expected) in addresses.iter().zip(0..) {
            assert_eq!(*byte, expected);
        }
        let (fields, rest) = rest.split_at(8);
        assert_eq!(fields, [4, 0, 2, 0, 44, 0, 0, 0]);
        assert_eq!(rest, header.to_bytes());
    }

    #[test]
    fn ops_as_monitors_know_them() {
        for (op, expected) in [
            (0, 0),
            (1, 1),
            (2, 1),
            (3, 2),
            (4, 2),
            (5, 4),
            (6, 3),
            (7, 3),
            (8, 0),
            (u16::MAX, 0),
        ] {
            let header = Header {
                op,
                ..Header::default()
            };
            assert_eq!(monitor_op(&header), expected);
        }
    }
}
