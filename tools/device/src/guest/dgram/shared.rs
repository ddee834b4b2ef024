// SPDX-License-Identifier: GPL-2.0

//! Datagrams where they share the streams' queues: a buffer is found first, and then the datagram for it, so that none
//! is lost for want of buffers.

use crate::{
    guest::{receive::Put, Guest},
    packet::{op, Header, HOST_CID, MAX_PAYLOAD},
    ring::Ring,
};

impl Guest {
    /// Whether there may be datagrams for rx.
    pub fn has_shared_datagrams(&self) -> bool {
        self.shares_dgrams() && (self.dgrams.has_something() || self.shared.has_packets(true))
    }

    /// Puts a datagram on rx, if there is one.
    pub fn put_shared_datagram(&mut self, ring: &mut Ring) -> Put {
        if !self.has_shared_datagrams() {
            return Put::Nothing;
        }
        if !self.reserve(ring, MAX_PAYLOAD) {
            return Put::NoBuffers;
        }
        let Some(packet) = self.new_datagram() else {
            ring.release(&mut self.room);
            return Put::Nothing;
        };
        let room = self.room.payload(self.header_size());
        let mut data = packet.data;
        if data.len() > room {
            if !self.limits.habits.cuts_dgrams {
                ring.release(&mut self.room);
                self.counters().dgram_rx_too_big.count();
                return Put::Done;
            }
            data.truncate(room);
        }
        let mut header = Header {
            len: data.len() as u32,
            ..packet.header
        };
        if self.limits.habits.swaps_cids && header.op == op::RW {
            (header.src_cid, header.dst_cid) = (self.shared.cid(), HOST_CID);
            header.src_port = 0;
        }
        self.fill(ring, &header, &data);
        let counters = self.counters();
        counters.dgram_rx_packets.count();
        counters.dgram_rx_bytes.add(data.len() as u64);
        counters.dgram_rx_buffers.count();
        Put::Done
    }

    /// A datagram from tx.
    pub fn shared_datagram(&mut self, header: &Header, data: &[u8]) {
        if data.len() > MAX_PAYLOAD {
            return self.counters().tx_malformed.count();
        }
        self.datagram(header, data);
    }
}
