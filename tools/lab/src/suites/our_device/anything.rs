// SPDX-License-Identifier: GPL-2.0

//! H3: packets of which each field may be anything, from a seed that is always the same.

use std::time::Duration;

use anyhow::Result;

use super::victim::{flood, Bystander, Letterbox, Victim, SEQPACKET, STREAM};
use crate::{session::Session, suites::tried};

/// A generator of numbers: xorshift.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn one_of(&mut self, from: &[u64]) -> u64 {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Values at which something changes.
const EDGES: &[u64] = &[
    0,
    1,
    2,
    3,
    44,
    46,
    4095,
    4096,
    65536,
    65537,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    u64::MAX,
];

/// A packet; its ports are most often some of these pairs.
fn packet(n: &mut Numbers, ports: &[(u32, u32, u16)], datagrams: bool) -> String {
    let (src, dst, kind) = ports[n.below(ports.len() as u64) as usize];
    let queue = if datagrams && n.one_in(4) {
        "dgram-rx"
    } else {
        "rx"
    };
    let payload = match n.below(4) {
        0 => 0,
        1 => n.below(100),
        2 => n.below(4096),
        _ => n.below(9000),
    };
    let mut words = vec![
        format!("inject {queue} zeros={payload}"),
        format!("op={}", n.below(9)),
    ];
    if n.one_in(10) {
        words.push(format!("type={}", n.one_of(EDGES) & 0xffff));
    } else if queue == "rx" {
        words.push(format!("type={kind}"));
    }
    for (name, usual) in [("src_port", src), ("dst_port", dst)] {
        let port = if n.one_in(20) {
            n.one_of(EDGES)
        } else {
            usual.into()
        };
        words.push(format!("{name}={port}"));
    }
    for name in ["src_cid", "dst_cid", "len", "flags", "buf_alloc", "fwd_cnt"] {
        if n.one_in(12) {
            words.push(format!("{name}={}", n.one_of(EDGES)));
        }
    }
    if n.one_in(6) {
        let parts = (0..1 + n.below(4)).map(|_| n.one_of(&[0, 1, 46, 100, 4096, 5000]).to_string());
        // The first one has a header, or the count is lost, which costs a second each time.
        let parts: Vec<_> = std::iter::once("4096".to_owned()).chain(parts).collect();
        words.push(format!("spread={}", parts.join(",")));
    }
    if n.one_in(300) {
        words.push(format!("num_buffers={}", n.one_of(EDGES) & 0xffff));
    }
    if n.one_in(300) {
        words.push(format!("used={}", n.one_of(EDGES) & 0xffff_ffff));
    }
    words.join(" ")
}

fn victims(s: &mut Session) -> Result<[Victim; 4]> {
    Ok([
        Victim::new(s, STREAM)?,
        Victim::new(s, SEQPACKET)?,
        Victim::new(s, STREAM)?,
        Victim::new(s, SEQPACKET)?,
    ])
}

fn run(s: &mut Session, datagrams: bool) -> Result<()> {
    const ROUNDS: u32 = 4;
    const PACKETS: u32 = 800;
    let mut bystander = Bystander::new(s)?;
    let mut letterbox = match datagrams {
        true => Some(Letterbox::new(s, u32::MAX)?),
        false => None,
    };
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for _ in 0..ROUNDS {
        // One that comes late ends them while they are made.
        let victims = tried(s, |s| Ok(victims(s)))?;
        let mut ports: Vec<_> = victims.iter().map(Victim::ports).collect();
        ports.push((77, bystander.port(), STREAM));
        ports.push((78, bystander.port(), STREAM));
        ports.extend(letterbox.as_ref().map(|l| (79, l.port, STREAM)));
        flood(s, PACKETS, |_| packet(&mut numbers, &ports, datagrams))?;
        // A reset that the last packets have earned comes within a second, and would end what is made next.
        std::thread::sleep(Duration::from_millis(1500));
        bystander.takes_new_again(s)?;
        if let Some(letterbox) = &mut letterbox {
            tried(s, |s| Ok(letterbox.gets(s)))?;
        }
    }
    tried(s, |s| {
        bystander.takes_new_again(s)?;
        Ok(bystander.is_well())
    })
}

pub fn all_queues(s: &mut Session) -> Result<()> {
    run(s, true)
}

pub fn three_queues(s: &mut Session) -> Result<()> {
    run(s, false)
}
