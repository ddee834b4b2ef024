// SPDX-License-Identifier: GPL-2.0

//! Packets to be sent: a socket buffer with the header first, and who it is from.

mod open;

pub(super) use self::open::more_follows;
pub(in crate::driver) use self::open::{
    extend,
    open,
    Open, //
};

use super::backlog::Backlog;
use crate::{
    driver::trace::{
        self,
        Why, //
    },
    ext::net::{
        msg::Msg,
        skbuff::{
            ControlBlock,
            DropReason,
            Growing,
            SkBuff,
            SkBuffQueue, //
        },
        vsock::{
            Sending,
            UserOwned,
            VsockSock, //
        },
        zerocopy::ZeroCopy, //
    },
    proto::{
        Advertised,
        After, //
    },
    wire::{
        Header,
        SeqFlags,
        SocketType,
        HEADER_LEN,
        HEADER_LEN_MRG, //
    }, //
};
use kernel::{
    alloc::Flags,
    prelude::*,
    sync::Arc, //
};

/// The greatest payload of a packet in bytes: more makes some hosts reset the connection.
const MAX_PAYLOAD: usize = 32 * 1024;

/// The greatest payload that stays in the user's pages: of more, vhost takes nothing.
const PINNED_MAX: usize = 64 * 1024;

/// Payload up to this size lies behind the header, in the smallest piece of memory that there is for both; more lies
/// in pages.
const LINEAR_MAX: usize = 256;

/// The same for datagrams, where these have queues of their own.
const DGRAM_LINEAR_MAX: usize = 4096;

/// Who sends packets, as far as a packet asks.
pub(in crate::driver) trait Sender: Send + Sync {
    /// What of its packets waits.
    ///
    /// # Context
    ///
    /// Any.
    fn backlog(&self) -> &Backlog;

    /// What packets say of the sender's buffer; from now on the peer counts as told. None for a packet that
    /// may not go out any more. `last`: it is the one that ends the connection.
    ///
    /// # Context
    ///
    /// Called under `Tx::inner`; does not sleep.
    fn advertise(&self, last: bool) -> Option<Advertised>;

    /// The device has taken a packet, or the driver has dropped one: there may be room.
    ///
    /// # Context
    ///
    /// Called with none of the locks 3 to 6 held; does not sleep.
    fn taken(&self);

    /// The device can never take a packet: none may follow it. [`taken`](Self::taken) is called afterwards.
    ///
    /// # Context
    ///
    /// Called with `Tx::inner` held; does not sleep.
    fn begin_gap(&self);

    /// A credit update does not wait any more: it is sent now, or dropped.
    ///
    /// # Context
    ///
    /// Any.
    fn update_left(&self);
}

/// What a packet carries besides its bytes.
///
/// The sender is kept here, as its socket may by the time belong to another transport, or be gone.
pub(in crate::driver) struct Sent {
    sender: Option<Arc<dyn Sender>>,
    payload: u32,
    cause: Cause,
    /// The user said that more follows.
    more: bool,
    /// The sender's next payload counts it as before it.
    ahead: bool,
    /// Its header is the longer one, of devices that merge receive buffers.
    wide: bool,
    /// Monitors have seen it.
    tapped: bool,
    /// An interface's scheduler has given it its turn.
    has_had_turn: bool,
    /// Why it is dropped, if it is now.
    lost: Option<Why>,
}

/// Why a packet is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) enum Cause {
    /// A call asked for it.
    Call,
    /// It carries a user's bytes.
    Payload,
    /// The same, as a datagram.
    Datagram,
    /// It tells the peer of room.
    CreditUpdate,
    /// It answers a packet: the peer decides how many there are.
    Reply,
    /// It ends its connection.
    Last,
}

impl Cause {
    /// Whether a user's bytes are in it, whose memory counts, and which wait for a turn.
    pub(super) const fn has_bytes(self) -> bool {
        matches!(self, Self::Payload | Self::Datagram)
    }
}

impl ControlBlock for Sent {
    fn header_len(&self) -> usize {
        if self.wide {
            HEADER_LEN_MRG
        } else {
            HEADER_LEN
        }
    }

    fn drop_reason(&self) -> DropReason {
        self.lost.map_or(DropReason::NOT_SPECIFIED, Why::of_buffer)
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.report_update_left();
        let after = self.take_back();
        if let Some(sender) = &self.sender {
            // Where it was not the device that took it, none may follow it.
            if after != After::Waits {
                drop(sender.backlog().take_open());
            }
            sender.backlog().subtract_unsent(self.payload);
            sender.taken();
        }
    }
}

impl Sent {
    fn new(sender: Option<Arc<dyn Sender>>, cause: Cause) -> Self {
        Self {
            sender,
            payload: 0,
            cause,
            more: false,
            ahead: false,
            wide: false,
            tapped: false,
            has_had_turn: false,
            lost: None,
        }
    }

    /// Notes why it will not be sent, if nobody has before.
    pub(super) fn lose(&mut self, why: Why) {
        self.lost.get_or_insert(why);
    }

    /// Notes that the device has it: if it does not give it back, it has gone.
    pub(super) fn give(&mut self) {
        self.lost = Some(Why::NoDevice);
    }

    /// Notes that the device has it no more, or never had.
    pub(super) fn come_back(&mut self) {
        self.lost = None;
    }

    pub(super) fn cause(&self) -> Cause {
        self.cause
    }

    pub(super) fn sender(&self) -> Option<&Arc<dyn Sender>> {
        self.sender.as_ref()
    }

    /// Notes that it is one of the packets of `sender`, with which it keeps its order.
    pub(in crate::driver) fn join(&mut self, sender: Arc<dyn Sender>) {
        self.sender = Some(sender);
    }

    /// Notes that it is not open any more, and before what its sender sends next.
    pub(super) fn close(&mut self) {
        if let (true, false, Some(sender)) = (self.cause.has_bytes(), self.ahead, &self.sender) {
            sender.backlog().send();
            self.ahead = true;
        }
    }

    /// Notes that it is before nothing any more; says what becomes of the sender's open packet.
    pub(super) fn take_back(&mut self) -> After {
        match &self.sender {
            Some(sender) if core::mem::take(&mut self.ahead) => sender.backlog().take(),
            _ => After::Waits,
        }
    }

    /// Tells the sender of a credit update that another one may wait from now on.
    pub(super) fn report_update_left(&self) {
        if let (Cause::CreditUpdate, Some(sender)) = (self.cause, &self.sender) {
            sender.update_left();
        }
    }

    /// Notes that an interface's scheduler has given it its turn.
    pub(super) fn have_turn(&mut self) {
        self.has_had_turn = true;
    }

    /// Whether an interface's scheduler has given it its turn.
    pub(super) fn has_had_turn(&self) -> bool {
        self.has_had_turn
    }

    /// Notes that monitors have seen the packet; returns whether they had.
    pub(super) fn mark_tapped(&mut self) -> bool {
        core::mem::replace(&mut self.tapped, true)
    }
}

/// A packet to be sent.
pub(in crate::driver) type Packet = SkBuff<Sent>;

/// Packets to be sent, in their order.
pub(in crate::driver) type Packets = SkBuffQueue<Sent>;

/// Makes a packet without payload.
///
/// With a `sender`, the fields that speak of credit are filled in when it is sent.
///
/// # Context
///
/// Sleeps if `flags` allow it.
///
/// # Errors
///
/// `ENOMEM`: no memory.
pub(in crate::driver) fn control(
    header: &Header,
    sender: Option<Arc<dyn Sender>>,
    cause: Cause,
    flags: Flags,
) -> Result<Packet> {
    let mut packet = blank(0, flags, Sent::new(sender, cause))?;
    packet.overwrite(0, &header.to_bytes())?;
    trace::made(header);
    Ok(packet)
}

/// The header of a packet.
pub(super) fn header_of(packet: &Packet) -> Option<Header> {
    let mut bytes = [0; HEADER_LEN];
    packet.read(0, &mut bytes).ok()?;
    Some(Header::parse(&bytes))
}

/// Frees packets that are done with: those that are [lost](Sent::lose) are dropped, and counted, the others have
/// reached their end.
///
/// # Context
///
/// Does not sleep; may let sockets go.
pub(super) fn free(mut packets: Packets) {
    while let Some(packet) = packets.pop_front() {
        match packet.control().lost {
            None => packet.consume(),
            Some(why) => {
                trace::dropped_with(|| header_of(&packet).unwrap_or_default(), why);
                drop(packet);
            }
        }
    }
}

/// Drops packets that will not be sent, and counts them.
///
/// # Context
///
/// Does not sleep; may let sockets go.
pub(super) fn drop_all(mut packets: Packets, why: Why) {
    while let Some(mut packet) = packets.pop_front() {
        packet.control_mut().lose(why);
        free(packet.into());
    }
}

/// Makes a packet of up to `len` bytes of the user's, charged to `sk`; returns how many they are.
///
/// The payload lies in one piece, and is of [`MAX_PAYLOAD`] bytes at the most: hosts are in use that cannot
/// take anything else. With `pinned` it stays where it is, in as many pieces as that takes.
///
/// # Context
///
/// May sleep.
///
/// # Errors
///
/// - `ENOMEM`: no memory.
/// - `EFAULT`: the user's memory cannot be read.
pub(in crate::driver) fn data(
    mut header: Header,
    sender: Arc<dyn Sender>,
    sk: &VsockSock,
    msg: &mut Msg,
    len: usize,
    zerocopy: Option<(&ZeroCopy<'_>, Pinned)>,
) -> Result<(Packet, usize)> {
    let (mut packet, len) = match zerocopy {
        Some((notification, Pinned::Yes)) => pin(sk, msg, len, notification)?,
        Some((notification, Pinned::No)) => {
            let (mut packet, len) = copy(sk, msg, len)?;
            notification.attach_copied(&mut packet);
            (packet, len)
        }
        None => copy(sk, msg, len)?,
    };
    header.len = u32::try_from(len).map_err(|_| EINVAL)?;
    if header.socket_type() == Ok(SocketType::Seqpacket) && msg.left() == 0 {
        let eor = if msg.ends_record() {
            SeqFlags::EOR
        } else {
            SeqFlags::NONE
        };
        header.flags = SeqFlags::EOM.union(eor).as_raw();
    }
    packet.overwrite(0, &header.to_bytes())?;
    trace::made(&header);
    sender.backlog().add_unsent(header.len);
    let sent = packet.control_mut();
    sent.payload = header.len;
    sent.sender = Some(sender);
    Ok((packet, len))
}

/// Makes a datagram of `len` bytes of the user's, charged to `sk`'s send buffer. Calls `header` when the
/// waiting is over. `whole`: it lies in one piece, if there is memory for that.
///
/// # Context
///
/// May sleep. Nothing may be locked but the socket, which is let go meanwhile.
///
/// # Errors
///
/// As [`Sending::datagram`].
pub(in crate::driver) fn datagram(
    header: impl FnOnce(&UserOwned<'_>) -> Header,
    sk: Sending<'_>,
    msg: &mut Msg,
    len: usize,
    whole: bool,
) -> Result<Packet> {
    const HEADROOM: usize = HEADER_LEN_MRG - HEADER_LEN;
    let sent = Sent::new(None, Cause::Datagram);
    let linear = if whole { len } else { DGRAM_LINEAR_MAX };
    let header = |sk: &UserOwned<'_>| {
        let header = header(sk);
        trace::made(&header);
        header.to_bytes()
    };
    sk.datagram(HEADROOM, linear, header, msg, len, sent)
}

/// Whether payload stays in the user's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) enum Pinned {
    Yes,
    No,
}

/// A packet of a header of zeroes, with room for `linear` bytes behind it, and for the longer header.
///
/// # Context
///
/// Sleeps if `flags` allow it.
///
/// # Errors
///
/// `ENOMEM`: no memory.
fn blank(linear: usize, flags: Flags, sent: Sent) -> Result<Packet> {
    let mut packet = SkBuff::alloc(HEADER_LEN_MRG.saturating_add(linear), flags, sent)?;
    packet.reserve(HEADER_LEN_MRG - HEADER_LEN)?;
    packet.put_slice(&[0; HEADER_LEN])?;
    Ok(packet)
}

/// A packet for a user's bytes, with room for `linear` of them behind the header. It counts for the user's
/// memory cgroup (K5).
///
/// # Context
///
/// May sleep.
///
/// # Errors
///
/// `ENOMEM`: no memory.
fn payload(linear: usize) -> Result<Packet> {
    blank(linear, GFP_KERNEL_ACCOUNT, Sent::new(None, Cause::Payload))
}

/// Makes the header of `packet` as long as the device has it, that is, `header_len`: as late as can
/// be, since the packet may wait longer than a device lives.
///
/// # Context
///
/// Any.
///
/// # Errors
///
/// `EINVAL`: the packet was made for a device that has gone.
pub(super) fn fit_header(packet: &mut Packet, header_len: usize) -> Result {
    if packet.control().header_len() == header_len {
        return Ok(());
    }
    if packet.control().wide {
        // Made for a device that has gone, whose packets are dropped.
        return Err(EINVAL);
    }
    let mut header = [0; HEADER_LEN];
    packet.read(0, &mut header)?;
    packet.prepend(&[0; HEADER_LEN_MRG - HEADER_LEN])?;
    packet.overwrite(0, &header)?;
    // Unused when transmitting.
    packet.overwrite(HEADER_LEN, &[0; HEADER_LEN_MRG - HEADER_LEN])?;
    packet.control_mut().wide = true;
    Ok(())
}

/// A packet with a copy of up to `len` bytes of the user's, and how many they are.
///
/// # Context
///
/// May sleep.
///
/// # Errors
///
/// - `ENOMEM`: no memory.
/// - `EFAULT`: the user's memory cannot be read.
fn copy(sk: &VsockSock, msg: &mut Msg, len: usize) -> Result<(Packet, usize)> {
    let len = len.min(MAX_PAYLOAD);
    if len <= LINEAR_MAX {
        let mut packet = payload(len)?;
        packet.put_msg(msg, len)?;
        packet.charge_to(sk);
        return Ok((packet, len));
    }
    let mut packet = Growing::new(payload(0)?, len)?;
    // Where memory is in pieces, the payload is, too.
    let len = len.min(packet.room());
    packet.add_msg(msg, len)?;
    packet.charge_to(sk);
    Ok((packet.close(), len))
}

/// A packet that refers to up to `len` bytes of the user's, and how many they are.
///
/// # Context
///
/// May sleep.
///
/// # Errors
///
/// `ENOMEM`: the memory cannot be pinned, for whatever reason.
fn pin(
    sk: &VsockSock,
    msg: &mut Msg,
    len: usize,
    notification: &ZeroCopy<'_>,
) -> Result<(Packet, usize)> {
    let mut packet = payload(0)?;
    // Before, as pinned pages are charged one by one.
    packet.charge_to(sk);
    notification.attach(&mut packet);
    // The C driver's errno for whatever goes wrong here, a bad address included.
    let len = packet
        .add_user_pages(msg, len.min(ZeroCopy::MAX_PAYLOAD).min(PINNED_MAX))
        .map_err(|_| ENOMEM)?;
    if len == 0 {
        return Err(ENOMEM);
    }
    Ok((packet, len))
}

/// Fills in the fields of `packet` that speak of credit, as late as can be.
///
/// # Context
///
/// Called under `Tx::inner`; does not sleep. Takes what [`Sender::advertise`] takes.
///
/// # Errors
///
/// `EINVAL`: its connection is over, and it may not go out any more.
pub(super) fn stamp(packet: &mut Packet) -> Result {
    let Some(sender) = packet.control().sender.clone() else {
        return Ok(());
    };
    let last = packet.control().cause == Cause::Last;
    let Advertised { buf_alloc, fwd_cnt } = sender.advertise(last).ok_or(EINVAL)?;
    packet.overwrite(Header::CREDIT_OFFSET, &buf_alloc.to_le_bytes())?;
    packet.overwrite(Header::CREDIT_OFFSET + 4, &fwd_cnt.to_le_bytes())
}

#[cfg(CONFIG_KUNIT = "y")]
pub(super) mod testing;

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(rvsock_packet)]
mod tests {
    use super::{
        testing::TestSender,
        *, //
    };

    /// The bytes that are not yet sent, and how often the sender was told that a packet has gone, and that a
    /// credit update does not wait any more.
    fn counts(sender: &TestSender) -> (usize, u32, u32) {
        let unsent = sender.backlog().unsent();
        (unsent, sender.taken(), sender.updates_left())
    }

    #[test]
    fn the_sender_is_told_of_each_packet_that_has_gone() -> Result {
        let sender = TestSender::new(1000)?;
        let packet = sender.data(1, 100)?;
        assert_eq!(counts(&sender), (100, 0, 0));
        let update = sender.packet(2, Cause::CreditUpdate)?;
        drop(packet);
        assert_eq!(counts(&sender), (0, 1, 0));
        update.consume();
        assert_eq!(counts(&sender), (0, 2, 1));
        drop(sender.packet(3, Cause::Reply)?);
        assert_eq!(counts(&sender), (0, 3, 1));
        Ok(())
    }
}
