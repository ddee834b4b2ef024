// SPDX-License-Identifier: GPL-2.0

//! For tests: a sender that counts what packets ask of it, and packets as it sends them.

use super::*;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// Room for payload in an open packet.
pub(in crate::driver::queue) const OPEN_ROOM: usize = 1000;

/// Who sends in tests.
#[pin_data]
pub(in crate::driver::queue) struct TestSender {
    #[pin]
    backlog: Backlog,
    taken: Atomic<u32>,
    updates_left: Atomic<u32>,
}

impl TestSender {
    /// Has sent nothing, with a buffer of `buf_alloc` bytes.
    pub(in crate::driver::queue) fn new(buf_alloc: u32) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                backlog <- Backlog::new(buf_alloc),
                taken: Atomic::new(0),
                updates_left: Atomic::new(0),
            }),
            GFP_KERNEL,
        )
    }

    /// How many packets have gone.
    pub(in crate::driver::queue) fn taken(&self) -> u32 {
        self.taken.load(Relaxed)
    }

    /// How many credit updates do not wait any more.
    pub(in crate::driver::queue) fn updates_left(&self) -> u32 {
        self.updates_left.load(Relaxed)
    }

    /// Packet `number`, without payload.
    pub(in crate::driver::queue) fn packet(
        self: &Arc<Self>,
        number: u32,
        cause: Cause,
    ) -> Result<Packet> {
        control(&header(number, 0), Some(self.clone()), cause, GFP_KERNEL)
    }

    /// Packet `number`, of `len` bytes of payload, to be added to.
    pub(in crate::driver::queue) fn open(self: &Arc<Self>, number: u32, len: u32) -> Result<Open> {
        let mut packet = Growing::new(payload(0)?, OPEN_ROOM)?;
        packet.overwrite(0, &header(number, len).to_bytes())?;
        let bytes = KVec::from_elem(0, len as usize, GFP_KERNEL)?;
        Msg::with_data(&bytes, |msg| packet.add_msg(msg, bytes.len()))?;
        self.own(packet.control_mut(), len);
        Ok(packet)
    }

    fn own(self: &Arc<Self>, sent: &mut Sent, len: u32) {
        self.backlog.add_unsent(len);
        sent.payload = len;
        sent.sender = Some(self.clone());
    }

    /// Packet `number`, of `len` bytes of payload.
    pub(in crate::driver::queue) fn data(
        self: &Arc<Self>,
        number: u32,
        len: u32,
    ) -> Result<Packet> {
        let bytes = KVec::from_elem(0, len as usize, GFP_KERNEL)?;
        let mut packet = payload(bytes.len())?;
        packet.overwrite(0, &header(number, len).to_bytes())?;
        packet.put_slice(&bytes)?;
        self.own(packet.control_mut(), len);
        Ok(packet)
    }
}

/// Datagram `number`, of `len` bytes, which nobody has sent.
pub(in crate::driver::queue) fn datagram(number: u32, len: u32) -> Result<Packet> {
    let bytes = KVec::from_elem(0, len as usize, GFP_KERNEL)?;
    let mut packet = blank(bytes.len(), GFP_KERNEL, Sent::new(None, Cause::Datagram))?;
    packet.overwrite(0, &header(number, len).to_bytes())?;
    packet.put_slice(&bytes)?;
    Ok(packet)
}

impl Sender for TestSender {
    fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    fn advertise(&self, _last: bool) -> Option<Advertised> {
        None
    }

    fn taken(&self) {
        self.taken.add(1u32, Relaxed);
    }

    fn begin_gap(&self) {}

    fn update_left(&self) {
        self.updates_left.add(1u32, Relaxed);
    }
}

fn header(number: u32, len: u32) -> Header {
    Header {
        src_port: number,
        len,
        ..Header::default()
    }
}

/// Which packet it is, by its header; zero for none.
pub(in crate::driver::queue) fn number_of(packet: Option<&Packet>) -> u32 {
    read_header(packet).map_or(0, |header| header.src_port)
}

/// The header of a packet.
pub(in crate::driver::queue) fn read_header(packet: Option<&Packet>) -> Option<Header> {
    header_of(packet?)
}
