// SPDX-License-Identifier: GPL-2.0

//! The command line, and what it makes of the device.

use std::{collections::HashMap, path::PathBuf, str::FromStr};

use anyhow::{bail, ensure, Context, Result};
use clap::Parser;

use crate::{
    features::{Feature, DGRAM, MRG_RXBUF, NO_IMPLIED_STREAM, SEQPACKET, SHARED_DGRAM, STREAM},
    habits::{Habits, Single},
    packet::reserved,
};

const INDIRECT: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;
const PROTOCOL_FEATURES: u64 = 1 << 30;
const VERSION_1: u64 = 1 << 32;
pub const ACCESS_PLATFORM: u64 = 1 << 33;
pub const RING_PACKED: u64 = 1 << 34;
const IN_ORDER: u64 = 1 << 35;

/// The longest name that the device derives from `uds=` has so many bytes more: `.dgram_4294967295`.
const SUFFIX: usize = 17;
/// The size of `sun_path`, and its final zero.
const UNIX_PATH: usize = 107;

/// A virtio socket device for guests of QEMU and other users of vhost-user.
///
/// Programs on the host reach a guest by unix sockets: connect to UDS and send "CONNECT port\n", or listen on
/// UDS_PORT for connections from the guest. UDS.seqpacket and UDS.dgram are the same for messages and datagrams.
#[derive(Parser, Debug)]
#[command(version)]
pub struct Options {
    /// A guest: its CID, the socket for its QEMU, and the path of the unix sockets on the host. May be given again
    #[arg(long, value_name = "cid=N,socket=PATH,uds=PATH", required = true)]
    pub guest: Vec<Guest>,
    /// What is offered to the drivers; without it, what the host offers
    #[arg(long, value_enum, value_delimiter = ',')]
    pub features: Option<Vec<Feature>>,
    /// Three queues, or five with the datagrams'; follows from the features if it is not given
    #[arg(long, value_parser = clap::value_parser!(u8).range(3..=5))]
    pub queues: Option<u8>,
    /// The socket for commands
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// What all connections of a guest hold together, in MiB; beyond that connections are reset
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    pub memory: usize,
    /// The most connections that a guest has with the host
    #[arg(long, value_name = "NUMBER", default_value_t = 16384)]
    pub connections: usize,
    /// The most datagram ports of a guest that have a unix socket at a time; the oldest is closed for a new one
    #[arg(long, value_name = "NUMBER", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    pub dgram_ports: u16,
    #[command(flatten)]
    pub habits: Single,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    pub cid: u64,
    pub socket: PathBuf,
    pub uds: PathBuf,
}

/// What is offered to the drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    pub features: u64,
    pub queues: u8,
    pub queue_size: u16,
    /// Bit 3 is offered, and stands for mergeable buffers.
    pub mergeable: bool,
    /// Bit 3 is offered, and stands for datagrams on the streams' queues.
    pub shared_dgram: bool,
}

impl Profile {
    /// There are queues for datagrams.
    pub fn has_dgram_queues(&self) -> bool {
        self.queues == 5
    }

    /// There are datagrams, on whichever queues.
    pub fn has_dgrams(&self) -> bool {
        self.shared_dgram || self.has_dgram_queues() && self.features & DGRAM != 0
    }
}

impl Options {
    pub fn habits(&self) -> Result<Habits> {
        self.habits.habits(self.features.as_deref())
    }

    pub fn profile(&self, habits: &Habits) -> Result<Profile> {
        let has = |f| habits.features.contains(&f);
        ensure!(
            !(has(Feature::Dgram) && has(Feature::NoImpliedStream)),
            "--features: dgram and no-implied-stream are the same bit; the number of queues tells them apart"
        );
        ensure!(
            !(has(Feature::MrgRxbuf) && has(Feature::SharedDgram)),
            "--features: mrg-rxbuf and shared-dgram are the same bit"
        );
        ensure!(
            !(has(Feature::Dgram) && has(Feature::SharedDgram)),
            "--features: dgram and shared-dgram: datagrams have queues of their own, or share the streams'"
        );
        ensure!(
            !has(Feature::None) || habits.features.len() == 1,
            "--features: none goes with nothing else"
        );
        let queues = self
            .queues
            .unwrap_or(if has(Feature::Dgram) { 5 } else { 3 });
        ensure!(
            queues != 4,
            "--queues: a socket device has three queues, or five with datagrams"
        );
        let bits = [
            (has(Feature::Stream), STREAM),
            (has(Feature::Seqpacket), SEQPACKET),
            (has(Feature::Dgram), DGRAM),
            (has(Feature::NoImpliedStream), NO_IMPLIED_STREAM),
            (has(Feature::MrgRxbuf), MRG_RXBUF),
            (has(Feature::SharedDgram), SHARED_DGRAM),
            (habits.indirect, INDIRECT),
            (habits.event_idx, EVENT_IDX),
            (habits.access_platform, ACCESS_PLATFORM),
            (habits.packed, RING_PACKED),
            (habits.in_order, IN_ORDER),
            (true, PROTOCOL_FEATURES | VERSION_1),
        ];
        Ok(Profile {
            features: bits.iter().filter(|b| b.0).map(|b| b.1).sum(),
            queues,
            queue_size: habits.queue_size,
            mergeable: has(Feature::MrgRxbuf),
            shared_dgram: has(Feature::SharedDgram),
        })
    }

    /// What clap cannot see: guests that are in each other's way.
    pub fn check(&self) -> Result<()> {
        let mut paths = HashMap::new();
        let mut cids = HashMap::new();
        for guest in &self.guest {
            if cids.insert(guest.cid, ()).is_some() {
                bail!("two guests have CID {}", guest.cid);
            }
            for path in [&guest.socket, &guest.uds] {
                if paths.insert(path.clone(), ()).is_some() {
                    bail!("{} is given twice", path.display());
                }
            }
        }
        if let Some(control) = &self.control {
            ensure!(
                !paths.contains_key(control),
                "{} is given twice",
                control.display()
            );
        }
        Ok(())
    }
}

impl FromStr for Guest {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (mut cid, mut socket, mut uds) = (None, None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("cid", n)) => {
                    let n: u64 = n.parse().with_context(|| format!("cid={n} is no number"))?;
                    ensure!(
                        !reserved(n),
                        "cid={n} is reserved: a guest's CID is 3 or more"
                    );
                    cid = Some(n);
                }
                Some(("socket", path)) if !path.is_empty() => socket = Some(PathBuf::from(path)),
                Some(("uds", path)) if !path.is_empty() => uds = Some(PathBuf::from(path)),
                _ => bail!("{part:?} is none of cid=N, socket=PATH and uds=PATH"),
            }
        }
        let uds = uds.context("uds=PATH is missing")?;
        ensure!(
            uds.as_os_str().len() + SUFFIX <= UNIX_PATH,
            "uds={}: a unix socket's path has {UNIX_PATH} bytes at most, and the device appends up to {SUFFIX}",
            uds.display()
        );
        Ok(Self {
            cid: cid.context("cid=N is missing")?,
            socket: socket.context("socket=PATH is missing")?,
            uds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<(Options, Profile)> {
        let argv = ["device", "--guest", "cid=3,socket=/s,uds=/u"]
            .into_iter()
            .chain(words.split_whitespace());
        let options = Options::try_parse_from(argv)?;
        options.check()?;
        let profile = options.profile(&options.habits()?)?;
        Ok((options, profile))
    }

    #[test]
    fn profiles() {
        let bits = |words| parse(words).map(|(_, p)| (p.features & 15, p.queues)).ok();
        assert_eq!(bits(""), Some((3, 3)));
        assert_eq!(bits("--features none"), Some((0, 3)));
        assert_eq!(bits("--features stream,dgram"), Some((5, 5)));
        assert_eq!(
            bits("--features stream,seqpacket,dgram,mrg-rxbuf"),
            Some((15, 5))
        );
        assert_eq!(bits("--features seqpacket,no-implied-stream"), Some((6, 3)));
        assert_eq!(bits("--features dgram --queues 3"), Some((4, 3)));
        assert_eq!(bits("--features dgram,no-implied-stream"), None);
        assert_eq!(bits("--queues 4"), None);
        assert_eq!(bits("--queue-size 100"), None);
        assert_eq!(bits("--features mrg-rxbuf,shared-dgram"), None);
        assert_eq!(bits("--features stream,shared-dgram"), Some((9, 3)));
        assert_eq!(bits("--features dgram,shared-dgram"), None);
    }

    #[test]
    fn hosts() {
        let features = |words: &str| parse(words).map(|(_, p)| p.features & !(1 << 30)).ok();
        let (event_idx, indirect, v1, in_order) = (1 << 29, 1 << 28, 1_u64 << 32, 1 << 35);
        for (name, bits) in [
            ("default", 3 | event_idx | indirect | v1),
            ("firecracker", event_idx | v1 | in_order),
            ("cloud-hypervisor", v1 | in_order),
            ("libkrun", 8 | v1 | in_order),
            ("libkrun-1.19", 8 | v1 | in_order),
            ("vhost-device-vsock", event_idx | v1),
            ("linux-old", 2 | event_idx | indirect | v1),
        ] {
            let words = format!("--host {name}");
            assert_eq!(features(&words), Some(bits), "{name}");
        }
        let (_, profile) = parse("--host libkrun-1.19").unwrap();
        assert!(!profile.mergeable && profile.queue_size == 256);
        assert!(parse("--host apple").is_err());
    }

    #[test]
    fn rings() {
        let features = |words| parse(words).map(|(_, p)| p.features >> 28).ok();
        assert_eq!(features(""), Some(0b10111));
        assert_eq!(features("--event-idx off --indirect off"), Some(0b10100));
        assert_eq!(features("--access-platform on"), Some(0b110111));
        assert_eq!(features("--packed on"), Some(0b1010111));
    }

    #[test]
    fn guests_in_each_others_way() {
        assert!(parse("--guest cid=4,socket=/s2,uds=/u2").is_ok());
        assert!(parse("--guest cid=3,socket=/s2,uds=/u2").is_err());
        assert!(parse("--guest cid=4,socket=/s,uds=/u2").is_err());
        assert!(parse("--control /u").is_err());
        for bad in [
            "cid=2,socket=/a,uds=/b",
            "cid=4,uds=/b",
            "cid=4,socket=/a,x",
        ] {
            assert!(bad.parse::<Guest>().is_err());
        }
    }
}
