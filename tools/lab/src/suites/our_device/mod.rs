// SPDX-License-Identifier: GPL-2.0

//! Against the device of tools/device, in each of the profiles that it can offer.

pub(super) mod anything;
pub(super) mod control;
mod guests;
mod hostile;
pub(super) mod memory;
mod merged;
pub(super) mod messages;
mod receive;
pub(super) mod resets;
mod starved;
pub(super) mod streams;
mod transmit;
pub(super) mod victim;
pub(super) mod waits;

pub use streams::little as echoes;

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{anyhow, Context, Result};

use super::{
    dgram::flow,
    kernel::{self, Direction},
    Test,
};
use crate::{
    config::{Bus, Driver, Hardware, VhostUser},
    images::Places,
    process::allowed,
    session::{Session, GUEST_CID, NEIGHBOUR_CID},
};

/// One way to start the device, and the tests that run on it.
pub struct Setup {
    options: &'static [&'static str],
    queues: u8,
    /// How many descriptors each queue has.
    ring: u16,
    pub machine: Machine,
    /// The C driver can be the one under test.
    pub c_driver: bool,
    neighbour: Neighbour,
    /// What our driver is loaded with.
    parameters: &'static str,
    /// What is done then in the guest.
    then: &'static str,
    /// In which the kernel's tests run between the guests.
    pub directions: &'static [Direction],
    pub tests: &'static [Test],
}

/// The guest's machine, as [`Hardware`] describes it.
#[derive(Clone, Copy)]
pub struct Machine {
    pub bus: Bus,
    pub processors: u8,
    pub memory_mib: Option<u32>,
    pub append: &'static str,
    /// The driver reaches the device as its platform says, by the kernel's DMA interface.
    pub dma: bool,
    /// Any machine will do: User-mode Linux stands in for one with the first kernel, as it is quick.
    pub any: bool,
}

impl Machine {
    pub const USUAL: Self = Self {
        bus: Bus::Pci,
        processors: 2,
        memory_mib: None,
        append: "",
        dma: false,
        any: false,
    };

    pub const ANY: Self = Self {
        any: true,
        ..Self::USUAL
    };
}

/// Whether there is another guest on the device.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Neighbour {
    None,
    /// With the same driver.
    Same,
    /// With the C driver.
    C,
}

const RING: u16 = 256;

macro_rules! tests {
    ($setup:literal: $($name:literal => $run:expr,)*) => {
        &[$(Test {
            name: concat!("rvsock-device, ", $setup, ": ", $name),
            run: $run,
        },)*]
    };
}

/// What the names of tests begin with in which memory is asked for in vain.
pub const STARVED: &str = "rvsock-device, no memory: ";

/// All that the drafts have, on five queues. The C driver takes three of them, and of the features what it knows.
pub const ALL: &[&str] = &["--features", "stream,seqpacket,dgram,mrg-rxbuf"];

pub const SETUPS: &[Setup] = &[
    Setup {
        options: &["--features", "stream,seqpacket"],
        queues: 3,
        ring: RING,
        machine: Machine::ANY,
        c_driver: true,
        neighbour: Neighbour::None,
        parameters: "",
        then: "",
        directions: &[],
        tests: tests! { "three queues":
            "64 MiB from the guest and back, with half-closes" => streams::from_guest,
            "64 MiB from the host and back, with half-closes" => streams::from_host,
            "64 connections echo at once, from the guest" => streams::many_from_guest,
            "2000 connections of the host's" => streams::many_from_host,
            "nobody listens, on either side" => streams::nobody_listens,
            "a program on the host that reads nothing stops nobody else" => streams::reads_nothing,
            "the host's program is killed" => streams::host_leaves,
            "messages of 1 byte to 256 KiB from the guest, and back" => messages::from_guest,
            "messages of 1 byte to 256 KiB from the host, and back" => messages::from_host,
            "3000 small messages before one is read" => messages::small,
        },
    },
    Setup {
        options: ALL,
        queues: 5,
        ring: RING,
        machine: Machine::USUAL,
        c_driver: false,
        neighbour: Neighbour::None,
        parameters: "",
        then: "",
        directions: &[],
        tests: tests! { "five queues":
            "64 MiB from the guest and back, with half-closes" => streams::from_guest,
            "64 MiB from the host and back, with half-closes" => streams::from_host,
            "64 connections echo at once, from the guest" => streams::many_from_guest,
            "2000 connections of the host's" => streams::many_from_host,
            "nobody listens, on either side" => streams::nobody_listens,
            "a program on the host that reads nothing stops nobody else" => streams::reads_nothing,
            "the host's program is killed" => streams::host_leaves,
            "messages of 1 byte to 256 KiB from the guest, and back" => messages::from_guest,
            "messages of 1 byte to 256 KiB from the host, and back" => messages::from_host,
            "3000 small messages before one is read" => messages::small,
            "a flood of datagrams holds no processor" => flow::lets_go,
            "the device ends when it is asked to" => streams::ends,
        },
    },
    Setup {
        options: &[
            "--features",
            "none",
            "--event-idx",
            "off",
            "--indirect",
            "off",
        ],
        queues: 3,
        ring: RING,
        machine: Machine::ANY,
        c_driver: true,
        neighbour: Neighbour::None,
        parameters: "",
        then: "",
        directions: &[],
        tests: tests! { "no features":
            "64 MiB from the guest and back, with half-closes" => streams::from_guest,
            "64 MiB from the host and back, with half-closes" => streams::from_host,
        },
    },
    Setup {
        options: ALL,
        queues: 5,
        ring: RING,
        machine: Machine::USUAL,
        c_driver: true,
        neighbour: Neighbour::Same,
        parameters: "",
        then: "",
        directions: &[
            Direction::to_neighbour("rvsock-device, two guests: kernel, 3 is client: "),
            Direction::from_neighbour("rvsock-device, two guests: kernel, 4 is client: "),
        ],
        tests: tests! { "two guests":
            "echoes in both directions" => guests::echo,
            "C8 connect() interrupted by a signal and called again" => guests::interrupted,
        },
    },
    Setup {
        options: ALL,
        queues: 5,
        ring: RING,
        machine: Machine::USUAL,
        c_driver: false,
        neighbour: Neighbour::C,
        parameters: "",
        then: "",
        directions: &[
            Direction::to_neighbour("rvsock-device, two drivers: kernel, rvsock is client: "),
            Direction::from_neighbour(
                "rvsock-device, two drivers: kernel, the C driver is client: ",
            ),
        ],
        tests: tests! { "two drivers":
            "echoes in both directions" => guests::echo,
        },
    },
    // What resets the device: in User-mode Linux none can be.
    Setup::alone(
        ALL,
        5,
        tests! { "hostile":
            "M2 the device is reset when its buffers cannot be counted, on streams" => merged::lost_count_of_streams,
            "M2 the device is reset when its buffers cannot be counted, on seqpackets" => merged::lost_count_of_messages,
            "M2 the device is reset when its buffers cannot be counted, on datagrams" => merged::lost_count_of_datagrams,
            "M2 a device that loses count for ever is reset once a second" => merged::lost_count_for_ever,
            "H3 3200 packets in which anything may be" => anything::all_queues,
        },
    ),
    Setup::alone(
        ALL,
        5,
        tests! { "hostile":
            "M2 a stream that lost bytes is reset, and no other" => merged::damaged_streams,
            "M2 a seqpacket connection that lost bytes is reset, and no other" => merged::damaged_messages,
            "M2 a datagram that lost bytes is dropped, and no other" => merged::damaged_datagrams,
            "H1 addresses that are none, and others'" => hostile::addresses,
            "H2 a used element that names no buffer" => hostile::foreign_head,
            "H3 2000 requests to a listener, and to nobody" => hostile::requests,
            "H4 unknown ops, and ops that make no sense" => hostile::unknown_ops,
            "H4 unknown types" => hostile::unknown_types,
            "H4 unknown flags" => hostile::unknown_flags,
            "H4 the same as datagrams, and packets on the wrong queue" => hostile::datagrams,
            "H4 unknown events" => hostile::events,
            "K3 a packet beyond the credit resets its connection, and no other" => hostile::beyond_credit,
            "C2 RST to all that there is" => hostile::resets,
            "C2 packets of others than the peer are refused" => hostile::strangers,
            "H1 buffers that nothing was written to" => |s| receive::unwritten(s, 46),
            "C5 the transport is reset" => resets::same_cid_with_datagrams,
            "C5 the transport is reset, and the CID is another" => resets::other_cid_with_datagrams,
            "C6 4000 packets to answer while the device takes nothing" => hostile::deaf,
        },
    )
    .on(Machine::ANY),
    Setup::alone(
        &["--features", "stream,seqpacket"],
        3,
        tests! { "hostile, three queues":
            "H1 addresses that are none, and others'" => hostile::addresses,
            "H2 used lengths that lie" => hostile::lengths,
            "H2 a used element that names no buffer" => hostile::foreign_head,
            "H3 2000 requests to a listener, and to nobody" => hostile::requests,
            "H3 3200 packets in which anything may be" => anything::three_queues,
            "H4 unknown ops, and ops that make no sense" => hostile::unknown_ops,
            "H4 unknown types" => hostile::unknown_types,
            "H4 unknown flags" => hostile::unknown_flags,
            "H4 unknown events" => hostile::events,
            "K3 a packet beyond the credit resets its connection, and no other" => hostile::beyond_credit,
            "C2 RST to all that there is" => hostile::resets,
            "C2 packets of others than the peer are refused" => hostile::strangers,
            "H1 buffers that nothing was written to" => |s| receive::unwritten(s, 44),
            "C5 the transport is reset" => resets::same_cid,
            "C5 the transport is reset, and the CID is another" => resets::other_cid,
            "C6 4000 packets to answer while the device takes nothing" => hostile::deaf,
        },
    )
    .on(Machine::ANY),
    Setup::alone(
        &["--features", "stream,seqpacket", "--buffer", "2097152"],
        3,
        tests! { "waiting":
            "K6 a reader waits for SO_RCVLOWAT above the threshold of updates" => waits::lowat,
            "K6 a blocking writer, and a host that reports by its larger buffer" => waits::blocking_writer,
            "K6 a polling writer, and a host that reports by its larger buffer" => waits::polling_writer,
            "K6 one thread takes the error, and the other's recv() ends" => waits::error_taken,
            "C8 what came to a connect() given up is not there to be read" => waits::late_answer,
            "C8 what came and went before connect() woke was a connection" => waits::came_and_went,
            "C8 what waits of a connection does not reach its successor" => waits::successor,
            "C7 what waits when the device is unbound goes first" => waits::last_words_of_a_connection,
            "C7 what waits of a closed socket when the device is unbound goes first" => waits::last_words_of_a_closed_socket,
            "C7 what was put together when the device is unbound goes, too" => waits::last_words_together,
            "K7 small writes are put together while the device is behind, and wait for nothing else" => waits::cork,
            "K7 what was put together goes when the device goes on, though its writer does nothing more" => waits::left_alone,
            "K8 who writes little waits for what the device has, and not for all that others wrote" => waits::turns,
            "C3 a stuck listener has its own backlog wait, and no more" => waits::stuck_listener,
            "C5 another CID without an event" => waits::silent_renumbering,
            "H3 a hundred resets are a few lines of the log" => waits::quiet,
        },
    )
    .on(Machine::ANY),
    Setup::alone(
        &["--features", "stream,seqpacket,dgram"],
        5,
        tests! { "slow":
            "packets that are used one by one are taken back though nobody sends" => transmit::reclaimed,
            "a device that has lost its place is told of what waits for a second" => transmit::forgotten,
            "K5 single bytes that wait hold a bounded memory, and come in order" => memory::single_bytes,
            "K5 a writer of small messages waits for memory, and goes on" => messages::small_behind,
            "S1 a long message is whole though too much waits" => messages::whole_behind,
            "K5 connections that are begun and given up leave nothing" => memory::given_up,
            "K5 datagrams of closed sockets hold a bounded memory" => memory::closed_datagram_sockets,
            "a module that cannot be loaded leaves no memory behind" => memory::not_loaded,
        },
    )
    .on(Machine::ANY),
    Setup {
        machine: Machine {
            dma: true,
            ..Machine::USUAL
        },
        ..Setup::alone(
            &["--features", "stream,seqpacket"],
            3,
            tests! { "DMA":
                "streams of either side" => echoes,
                "C5 the transport is reset" => resets::same_cid,
                "64 MiB from the host and back, with half-closes" => streams::from_host,
            },
        )
    },
    Setup {
        ring: 16,
        ..Setup::alone(
            &["--features", "stream,seqpacket"],
            3,
            tests! { "small rings":
                "C7 connections end in time though much waits at a slow device" => waits::farewell,
            },
        )
    },
    Setup {
        ring: 1,
        ..Setup::alone(
            &["--features", "stream,seqpacket", "--indirect", "off"],
            3,
            tests! { "rings of one":
                "a packet of two pieces ends its connection" => waits::too_long,
            },
        )
    },
    Setup::alone(
        &["--features", "stream,seqpacket"],
        3,
        tests! { "no memory":
            "C4 the end of a half is told later" => starved::half_close,
            "C4 the end of both halves is answered later" => starved::answer,
            "C3 a caller whom nobody can answer is refused, and not accepted" => starved::refusal,
            "K3 small messages hold little where memory is in pieces" => starved::bytes_in_pieces,
        },
    ),
    Setup::alone(
        &[
            "--features",
            "stream,seqpacket",
            "--event-idx",
            "off",
            "--indirect",
            "off",
        ],
        3,
        tests! { "no EVENT_IDX":
            "the device is told of receive buffers when it may want them" => receive::kicks,
            "the device is told of packets, and of nothing else" => transmit::kicks,
            "64 MiB there and back with two receive buffers" => receive::two_buffers,
        },
    )
    .on(Machine::ANY),
];

impl Setup {
    /// For one guest with our driver.
    pub const fn alone(
        options: &'static [&'static str],
        queues: u8,
        tests: &'static [Test],
    ) -> Self {
        Self {
            options,
            queues,
            ring: RING,
            machine: Machine::USUAL,
            c_driver: false,
            neighbour: Neighbour::None,
            parameters: "",
            then: "",
            directions: &[],
            tests,
        }
    }

    /// The same with the driver loaded with these parameters.
    pub const fn given(self, parameters: &'static str) -> Self {
        Self { parameters, ..self }
    }

    /// The same with this done in the guests when the driver is loaded.
    pub const fn then(self, then: &'static str) -> Self {
        Self { then, ..self }
    }

    /// The same in another machine.
    pub const fn on(self, machine: Machine) -> Self {
        Self { machine, ..self }
    }

    /// The same, and the C driver can be in its place.
    pub const fn with_either(options: &'static [&'static str], tests: &'static [Test]) -> Self {
        Self {
            c_driver: true,
            ..Self::alone(options, 3, tests)
        }
    }

    /// For two guests, both with our driver.
    pub const fn pair(
        options: &'static [&'static str],
        queues: u8,
        directions: &'static [Direction],
        tests: &'static [Test],
    ) -> Self {
        Self {
            neighbour: Neighbour::Same,
            directions,
            ..Self::alone(options, queues, tests)
        }
    }

    /// Whether User-mode Linux will do, which has neither rings nor devices of another kind, and cannot reset one.
    pub fn fits_user_mode(&self) -> bool {
        self.machine.any || self.neighbour != Neighbour::None
    }

    pub fn names(&self, places: &Places) -> Result<Vec<String>> {
        let mut names = kernel::names(places, self.directions)?;
        names.extend(self.tests.iter().map(|t| t.name.to_owned()));
        Ok(names)
    }

    pub fn device(&self, program: &Path, driver: Driver) -> VhostUser {
        let neighbour = match self.neighbour {
            Neighbour::None => None,
            Neighbour::Same => Some(driver),
            Neighbour::C => Some(Driver::C),
        };
        let cids = [Some(GUEST_CID), neighbour.map(|_| NEIGHBOUR_CID)];
        let mut command = vec![program.to_string_lossy().into_owned()];
        for cid in cids.into_iter().flatten() {
            command.push("--guest".into());
            command.push(format!("cid={cid},socket=SOCKET-{cid},uds=UDS-{cid}"));
        }
        let options = ["--control", "CONTROL"].iter().chain(self.options);
        command.extend(options.map(|s| s.to_string()));
        let machine = self.machine;
        if machine.dma {
            command.extend(["--access-platform", "on"].map(str::to_owned));
        }
        VhostUser {
            command,
            qemu: format!(
                "vhost-user-test-device{},id=vsock,virtio-id=19,num_vqs={},config_size=8,vq_size={},iommu_platform={}",
                if machine.bus == Bus::Pci { "-pci" } else { "" },
                self.queues,
                self.ring,
                if machine.dma { "on" } else { "off" }
            ),
            neighbour,
            parameters: self.parameters.into(),
            then: self.then.into(),
            hardware: Hardware {
                bus: machine.bus,
                processors: machine.processors,
                memory_mib: machine.memory_mib,
                append: machine.append.into(),
            },
        }
    }
}

/// A peer that stands still for so long has failed.
pub(super) const STALL: Duration = Duration::from_secs(30);

pub(super) fn uds(s: &Session) -> Result<PathBuf> {
    s.config
        .vhost_user_uds()
        .context("this session has no vhost-user device")
}

/// A socket of a program on the host that connections to a new port arrive at.
pub fn listen(s: &mut Session) -> Result<(u32, UnixListener)> {
    let port = s.fresh_port();
    let path = format!("{}_{port}", uds(s)?.display());
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {path}"))?;
    Ok((port, listener))
}

/// A connection to a port of the guest's, and the port that it has at the host's end.
pub fn connect(s: &Session, port: u32) -> Result<(UnixStream, u32)> {
    let path = uds(s)?;
    let mut stream = UnixStream::connect(&path)
        .with_context(|| format!("cannot connect to {}", path.display()))?;
    stream.set_read_timeout(Some(allowed(STALL)))?;
    stream.set_write_timeout(Some(allowed(STALL)))?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut line = String::new();
    // A reader of its own must not take what comes behind the line.
    BufReader::with_capacity(1, &stream)
        .read_line(&mut line)
        .context("waiting for the device's OK")?;
    let host_port = line
        .strip_prefix("OK ")
        .and_then(|n| n.trim().parse().ok())
        .with_context(|| format!("the device answered {line:?} to CONNECT {port}"))?;
    Ok((stream, host_port))
}

pub(super) fn joined<T>(thread: thread::JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}
