// SPDX-License-Identifier: GPL-2.0

//! A packet that small writes are put together in, before it is sent.

use super::{
    payload,
    Packet,
    Sender,
    Sent, //
};
use crate::{
    driver::trace,
    ext::net::{
        msg::Msg,
        skbuff::Growing,
        vsock::VsockSock, //
    },
    wire::Header, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// A packet to be sent that more of the user's bytes may be added to.
pub(in crate::driver) type Open = Growing<Sent>;

/// Makes a packet of up to `len` bytes of the user's, charged to `sk`, with room for `room` in all; returns how many
/// they are.
///
/// # Context
///
/// May sleep.
///
/// # Errors
///
/// As [`data`](super::data).
pub(in crate::driver) fn open(
    mut header: Header,
    sender: Arc<dyn Sender>,
    sk: &VsockSock,
    msg: &mut Msg,
    len: usize,
    room: usize,
) -> Result<(Open, usize)> {
    let mut packet = Growing::new(payload(0)?, room)?;
    let len = len.min(packet.room());
    packet.add_msg(msg, len)?;
    packet.charge_to(sk);
    header.len = u32::try_from(len).map_err(|_| EINVAL)?;
    packet.overwrite(0, &header.to_bytes())?;
    trace::made(&header);
    sender.backlog().add_unsent(header.len);
    let sent = packet.control_mut();
    sent.payload = header.len;
    sent.more = msg.more_follows();
    sent.sender = Some(sender);
    Ok((packet, len))
}

/// Adds up to `len` bytes of the user's to the open `packet`; returns how many they are.
///
/// # Context
///
/// May sleep.
///
/// # Errors
///
/// `EFAULT`: the user's memory cannot be read; the packet is as before.
pub(in crate::driver) fn extend(packet: &mut Open, msg: &mut Msg, len: usize) -> Result<usize> {
    let len = len.min(packet.room());
    let added = u32::try_from(len).map_err(|_| EINVAL)?;
    let payload = packet.control().payload.checked_add(added).ok_or(EINVAL)?;
    packet.add_msg(msg, len)?;
    packet.overwrite(Header::LEN_OFFSET, &payload.to_le_bytes())?;
    let sent = packet.control_mut();
    sent.payload = payload;
    sent.more = msg.more_follows();
    if let Some(sender) = &sent.sender {
        sender.backlog().add_unsent(added);
    }
    Ok(len)
}

/// Whether the user has said that more of the bytes follow that `packet` ends with.
pub(in crate::driver::queue) fn more_follows(packet: &Packet) -> bool {
    packet.control().more
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(rvsock_open)]
mod tests {
    use super::{
        super::testing::{
            read_header,
            TestSender,
            OPEN_ROOM, //
        },
        *, //
    };
    use crate::wire::HEADER_LEN;

    #[test]
    fn small_writes_are_put_together_while_there_is_room() -> Result {
        let sender = TestSender::new(1000)?;
        let mut packet = sender.open(1, 5)?;
        let more = Msg::with_data(b"world", |msg| {
            let more = extend(&mut packet, msg, 3)?;
            Ok::<_, Error>((more, msg.left()))
        })?;
        assert_eq!(more, (3, 2));
        assert_eq!(read_header(Some(&packet)).map(|header| header.len), Some(8));
        assert_eq!(sender.backlog().unsent(), 8);
        let mut bytes = [0; 3];
        packet.read(HEADER_LEN + 5, &mut bytes)?;
        assert_eq!(&bytes, b"wor");

        let (room, long) = (
            packet.room(),
            KVec::from_elem(7, 2 * OPEN_ROOM, GFP_KERNEL)?,
        );
        let more = Msg::with_data(&long, |msg| extend(&mut packet, msg, long.len()))?;
        assert_eq!(more, room);
        assert_eq!(packet.room(), 0);
        assert_eq!(sender.backlog().unsent(), 8 + room);
        packet.close().consume();
        assert_eq!((sender.backlog().unsent(), sender.taken()), (0, 1));
        Ok(())
    }

    #[test]
    fn what_is_read_and_not_sent_is_there_for_the_next_packet() -> Result {
        let sender = TestSender::new(1000)?;
        let mut packet = sender.open(1, 0)?;
        Msg::with_data(b"abcdef", |msg| {
            assert_eq!(
                msg.unmoved_on_error(|msg| extend(&mut packet, msg, 2)),
                Ok(2)
            );
            let result = msg.unmoved_on_error(|msg| {
                extend(&mut packet, msg, 3)?;
                assert_eq!(msg.left(), 1);
                Err::<(), _>(ENODEV)
            });
            assert_eq!(result, Err(ENODEV));
            assert_eq!(msg.left(), 4);
            assert_eq!(
                msg.unmoved_on_error(|msg| extend(&mut packet, msg, 4)),
                Ok(4)
            );
            assert_eq!(msg.left(), 0);
        });
        let mut bytes = [0; 9];
        packet.read(HEADER_LEN, &mut bytes)?;
        assert_eq!(&bytes, b"abcdecdef");
        Ok(())
    }

    #[test]
    fn a_write_that_cannot_be_read_changes_nothing() -> Result {
        let sender = TestSender::new(1000)?;
        let mut packet = sender.open(1, 5)?;
        // The user's memory ends early.
        let result = Msg::with_data(b"abc", |msg| extend(&mut packet, msg, 4));
        assert_eq!(result, Err(EFAULT));
        assert_eq!(packet.len(), HEADER_LEN + 5);
        assert_eq!(read_header(Some(&packet)).map(|header| header.len), Some(5));
        assert_eq!(sender.backlog().unsent(), 5);
        Ok(())
    }
}
