// SPDX-License-Identifier: GPL-2.0

//! What hosts of different kinds do differently, as a value: each habit alone, and by name all that a host has.
//!
//! Where each was read, with the version, stands in Documentation/device.rst.

use anyhow::{bail, Result};
use clap::{Args, ValueEnum};

use crate::features::Feature;

/// A kind of host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// What this device does by itself
    #[default]
    Default,
    Firecracker,
    CloudHypervisor,
    /// Up to 1.18.0, but for the requests for credit, which it ignores
    Libkrun,
    /// From 1.18.1 on
    #[value(name = "libkrun-1.19")]
    LibkrunNew,
    /// The crate of that name
    VhostDeviceVsock,
    /// vhost-vsock before Linux 6.8, under a program with a buffer of 2 MiB
    LinuxOld,
    /// Refused: nothing is published
    Apple,
    /// Refused: too little is published
    Nitro,
}

/// When the guest hears of room that it has not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updates {
    /// Once the room that it knows of has come below so many bytes.
    Below(u32),
    /// Once half of its own buffer's size has gone on to the host.
    HalfOfGuests,
}

/// What the guest is told when the host's program ends its half of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HostEnd {
    /// That nothing more will come
    Half,
    /// That the program has gone
    Close,
    /// A reset
    Reset,
}

/// What tells the device that the driver is done with a reset of the transport; until then nothing goes to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ResetAck {
    /// Nothing is waited for
    None,
    /// The kick of the event queue
    Event,
    /// The read of `guest_cid`
    Config,
}

/// All habits of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Habits {
    pub features: Vec<Feature>,
    pub event_idx: bool,
    pub indirect: bool,
    pub in_order: bool,
    pub packed: bool,
    pub access_platform: bool,
    pub queue_size: u16,
    /// Of each receive buffer so many descriptors are filled.
    pub rx_pieces: usize,
    /// The longest payload of the guest's that is taken, if it must lie in one piece.
    pub contiguous: Option<usize>,
    /// What a connection holds for the host's program, in bytes.
    pub buffer: u32,
    pub updates: Updates,
    /// CREDIT_REQUEST is answered.
    pub answers_requests: bool,
    /// A request for a connection is answered by one for credit, and only then by RESPONSE.
    pub asks_first: bool,
    /// Asks when the guest has no room for what there is.
    pub asks_when_out: bool,
    /// A packet fills half of the room that the guest has, at most.
    pub shrinks: bool,
    /// SHUTDOWN of both halves is answered by RST.
    pub answers_goodbye: bool,
    /// The guest's half-close is passed on to the host's program.
    pub passes_half_close: bool,
    pub host_end: HostEnd,
    /// When a connection has gone, a buffer comes back as if it held a packet, and nothing was written to it.
    pub stale: bool,
    pub reset_ack: ResetAck,
    /// A datagram to nobody is answered by RST.
    pub refuses_dgrams: bool,
    /// Where datagrams share the streams' queues: of one that is longer than the driver's buffer, what fits is sent. It is
    /// dropped otherwise.
    pub cuts_dgrams: bool,
    /// There, too: the CIDs of a datagram to the guest are the wrong way round, and its source has port 0.
    pub swaps_cids: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// Each habit by itself; one that is given goes before the host's own.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Habits")]
pub struct Single {
    /// Behave as this host does; the switches below change single habits
    #[arg(long, value_enum, default_value = "default", value_name = "NAME")]
    pub host: Kind,
    /// Offer VIRTIO_F_EVENT_IDX
    #[arg(long, value_enum, value_name = "ON|OFF", hide_possible_values = true)]
    event_idx: Option<Switch>,
    /// Offer VIRTIO_F_INDIRECT_DESC
    #[arg(long, value_enum, value_name = "ON|OFF", hide_possible_values = true)]
    indirect: Option<Switch>,
    /// Offer VIRTIO_F_IN_ORDER; buffers are used in their order in any case
    #[arg(long, value_enum, value_name = "ON|OFF", hide_possible_values = true)]
    in_order: Option<Switch>,
    /// Offer VIRTIO_F_RING_PACKED
    #[arg(long, value_enum, value_name = "ON|OFF", hide_possible_values = true)]
    packed: Option<Switch>,
    /// Offer VIRTIO_F_ACCESS_PLATFORM: the driver asks its platform which addresses to use
    #[arg(long, value_enum, value_name = "ON|OFF", hide_possible_values = true)]
    access_platform: Option<Switch>,
    /// The greatest size of a queue that is accepted
    #[arg(long, value_parser = size_of_queue)]
    queue_size: Option<u16>,
    /// Of each receive buffer so many descriptors are filled; 0: all
    #[arg(long, value_name = "NUMBER")]
    rx_pieces: Option<usize>,
    /// Reset the connection when a payload is longer, or lies in several descriptors; 0: take all
    #[arg(long, value_name = "BYTES")]
    contiguous: Option<usize>,
    /// What a connection holds for the program on the host, in bytes: the buf_alloc that guests see
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1024..=64 << 20))]
    buffer: Option<u32>,
    /// Tell the guest of room unasked when what it knows of is less; `half`: after half of the guest's own buffer
    #[arg(long, value_name = "BYTES|half", value_parser = updates)]
    update_below: Option<Updates>,
    /// Answer CREDIT_REQUEST
    #[arg(long, value_enum, value_name = "ON|OFF", hide_possible_values = true)]
    answer_requests: Option<Switch>,
    /// Ask for credit before a request for a connection is answered
    #[arg(long, value_enum, value_name = "ON|OFF", hide_possible_values = true)]
    ask_first: Option<Switch>,
    /// Ask for credit when the guest has no room
    #[arg(long, value_enum, value_name = "ON|OFF", hide_possible_values = true)]
    ask_when_out: Option<Switch>,
    /// Fill no more than half of the guest's room with a packet, so that packets get ever smaller
    #[arg(long, value_enum, value_name = "ON|OFF", hide_possible_values = true)]
    shrink: Option<Switch>,
    /// Answer the end of both halves by RST
    #[arg(long, value_enum, value_name = "ON|OFF", hide_possible_values = true)]
    answer_goodbye: Option<Switch>,
    /// Pass the guest's half-close on
    #[arg(long, value_enum, value_name = "ON|OFF", hide_possible_values = true)]
    pass_half_close: Option<Switch>,
    /// What the guest is told when the host's program ends its half
    #[arg(long, value_enum)]
    host_end: Option<HostEnd>,
    /// When a connection has gone, give a buffer back with used length 44 and nothing written
    #[arg(long, value_enum, value_name = "ON|OFF", hide_possible_values = true)]
    stale: Option<Switch>,
    /// After a reset of the transport hold back all that goes to the guest until this
    #[arg(long, value_enum)]
    reset_ack: Option<ResetAck>,
    /// Answer a datagram to nobody by RST
    #[arg(long, value_enum, value_name = "ON|OFF", hide_possible_values = true)]
    refuse_dgrams: Option<Switch>,
    /// Send what fits of a datagram that is longer than the driver's buffer, where they share the streams' queues
    #[arg(long, value_enum, value_name = "ON|OFF", hide_possible_values = true)]
    cut_dgrams: Option<Switch>,
    /// Have datagrams come from the guest's own CID and port 0, to CID 2, where they share the streams' queues
    #[arg(long, value_enum, value_name = "ON|OFF", hide_possible_values = true)]
    swap_cids: Option<Switch>,
}

pub fn size_of_queue(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(n @ 2..=32768) if u16::is_power_of_two(n) => Ok(n),
        _ => Err("a queue's size is a power of two from 2 to 32768".into()),
    }
}

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;

impl Habits {
    /// What this device does by itself.
    fn own() -> Self {
        Self {
            features: vec![Feature::Stream, Feature::Seqpacket],
            event_idx: true,
            indirect: true,
            in_order: false,
            packed: false,
            access_platform: false,
            queue_size: 1024,
            rx_pieces: usize::MAX,
            contiguous: None,
            buffer: 256 * KIB,
            updates: Updates::Below(192 * KIB + 1),
            answers_requests: true,
            asks_first: false,
            asks_when_out: false,
            shrinks: false,
            answers_goodbye: true,
            passes_half_close: true,
            host_end: HostEnd::Half,
            stale: false,
            reset_ack: ResetAck::None,
            refuses_dgrams: true,
            cuts_dgrams: false,
            swaps_cids: false,
        }
    }

    /// The monitors that are of one stock: no seqpackets, a queue of 256, buffers in their order.
    fn monitor() -> Self {
        Self {
            features: vec![Feature::None],
            event_idx: false,
            indirect: false,
            in_order: true,
            queue_size: 256,
            asks_when_out: true,
            ..Self::own()
        }
    }

    /// What a host of this kind does.
    ///
    /// # Errors
    ///
    /// Says so where nothing, or too little, is known of it.
    pub fn of(kind: Kind) -> Result<Self> {
        Ok(match kind {
            Kind::Default => Self::own(),
            Kind::Firecracker => Self {
                event_idx: true,
                rx_pieces: 1,
                buffer: 64 * KIB,
                updates: Updates::Below(4 * KIB),
                passes_half_close: false,
                host_end: HostEnd::Close,
                reset_ack: ResetAck::Event,
                ..Self::monitor()
            },
            Kind::CloudHypervisor => Self {
                rx_pieces: 2,
                buffer: 64 * KIB,
                updates: Updates::Below(4 * KIB),
                ..Self::monitor()
            },
            Kind::Libkrun => Self {
                features: vec![Feature::SharedDgram],
                refuses_dgrams: false,
                cuts_dgrams: true,
                rx_pieces: 2,
                buffer: 8 * MIB,
                updates: Updates::Below(4 * MIB + 1),
                shrinks: true,
                host_end: HostEnd::Reset,
                ..Self::monitor()
            },
            Kind::LibkrunNew => Self {
                updates: Updates::HalfOfGuests,
                answers_requests: false,
                ..Self::of(Kind::Libkrun)?
            },
            Kind::VhostDeviceVsock => Self {
                event_idx: true,
                in_order: false,
                packed: false,
                queue_size: 1024,
                rx_pieces: 2,
                contiguous: Some(32 << 10),
                buffer: 64 * KIB,
                updates: Updates::Below(16 * KIB),
                passes_half_close: false,
                host_end: HostEnd::Close,
                stale: true,
                reset_ack: ResetAck::Config,
                ..Self::monitor()
            },
            Kind::LinuxOld => Self {
                features: vec![Feature::Seqpacket],
                buffer: 2 * MIB,
                updates: Updates::Below(64 * KIB),
                asks_when_out: true,
                ..Self::own()
            },
            Kind::Apple => bail!(
                "--host apple: the device of Apple's Virtualization framework is closed, and its documents \
                 say nothing of credit, packets or features"
            ),
            Kind::Nitro => bail!(
                "--host nitro: of the device of Nitro Enclaves it is published only that it has no \
                 seqpackets and takes payloads in several descriptors wrongly; try --features none --contiguous 32768"
            ),
        })
    }
}

impl Single {
    /// The host's habits, but for those that were given one by one.
    pub fn habits(&self, features: Option<&[Feature]>) -> Result<Habits> {
        let mut habits = Habits::of(self.host)?;
        fn set<T: Copy>(habit: &mut T, given: Option<T>) {
            *habit = given.unwrap_or(*habit);
        }
        let on = |given: Option<Switch>| given.map(|s| s == Switch::On);
        if let Some(features) = features {
            habits.features = features.to_vec();
        }
        set(&mut habits.event_idx, on(self.event_idx));
        set(&mut habits.indirect, on(self.indirect));
        set(&mut habits.access_platform, on(self.access_platform));
        set(&mut habits.in_order, on(self.in_order));
        set(&mut habits.packed, on(self.packed));
        set(&mut habits.queue_size, self.queue_size);
        set(
            &mut habits.rx_pieces,
            self.rx_pieces.map(|n| if n == 0 { usize::MAX } else { n }),
        );
        set(
            &mut habits.contiguous,
            self.contiguous.map(|n| (n > 0).then_some(n)),
        );
        if let Some(buffer) = self.buffer {
            habits.buffer = buffer;
            // Our own device tells of a quarter of it, whatever its size.
            if self.host == Kind::Default {
                habits.updates = Updates::Below(buffer - buffer / 4 + 1);
            }
        }
        set(&mut habits.updates, self.update_below);
        set(&mut habits.answers_requests, on(self.answer_requests));
        set(&mut habits.asks_first, on(self.ask_first));
        set(&mut habits.asks_when_out, on(self.ask_when_out));
        set(&mut habits.shrinks, on(self.shrink));
        set(&mut habits.answers_goodbye, on(self.answer_goodbye));
        set(&mut habits.passes_half_close, on(self.pass_half_close));
        set(&mut habits.host_end, self.host_end);
        set(&mut habits.stale, on(self.stale));
        set(&mut habits.reset_ack, self.reset_ack);
        set(&mut habits.refuses_dgrams, on(self.refuse_dgrams));
        set(&mut habits.cuts_dgrams, on(self.cut_dgrams));
        set(&mut habits.swaps_cids, on(self.swap_cids));
        Ok(habits)
    }
}

fn updates(text: &str) -> Result<Updates, String> {
    match text {
        "half" => Ok(Updates::HalfOfGuests),
        n => n
            .parse()
            .map(Updates::Below)
            .map_err(|_| format!("{n:?} is neither a number of bytes nor `half`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [Kind; 7] = [
        Kind::Default,
        Kind::Firecracker,
        Kind::CloudHypervisor,
        Kind::Libkrun,
        Kind::LibkrunNew,
        Kind::VhostDeviceVsock,
        Kind::LinuxOld,
    ];

    #[test]
    fn no_two_hosts_are_alike() {
        for (i, a) in KNOWN.iter().enumerate() {
            for b in &KNOWN[i + 1..] {
                assert_ne!(Habits::of(*a).unwrap(), Habits::of(*b).unwrap());
            }
        }
    }

    #[test]
    fn what_nobody_published_is_refused() {
        for kind in [Kind::Apple, Kind::Nitro] {
            let why = Habits::of(kind).unwrap_err().to_string();
            assert!(why.contains("published") || why.contains("closed"), "{why}");
        }
    }

    #[test]
    fn a_single_habit_goes_before_the_hosts() {
        let single = Single {
            host: Kind::Firecracker,
            event_idx: Some(Switch::Off),
            contiguous: Some(100),
            update_below: Some(Updates::HalfOfGuests),
            ..Single::default()
        };
        let habits = single.habits(Some(&[Feature::Stream])).unwrap();
        let wanted = Habits {
            features: vec![Feature::Stream],
            event_idx: false,
            contiguous: Some(100),
            updates: Updates::HalfOfGuests,
            ..Habits::of(Kind::Firecracker).unwrap()
        };
        assert_eq!(habits, wanted);
    }

    #[test]
    fn our_own_updates_follow_the_buffer() {
        let single = Single {
            buffer: Some(1000),
            ..Single::default()
        };
        assert_eq!(single.habits(None).unwrap().updates, Updates::Below(751));
        assert_eq!(updates("half"), Ok(Updates::HalfOfGuests));
        assert!(updates("some").is_err());
    }
}
