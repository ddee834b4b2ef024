// SPDX-License-Identifier: GPL-2.0

//! What no honest device does: packets of any bytes, over any buffers, with any lengths in the used ring.
//!
//! It is for tests of drivers, which must bear all of it, and happens only when the control socket asks for it.

use std::sync::mpsc::Sender;

use crate::{
    control::number,
    fault::Queue,
    guest::{Guest, DGRAM_RX, RX},
    packet::{kind, op, Header, HEADER, HOST_CID},
    ring::{Memory, Ring, Vring},
};

/// A packet as it was asked for.
#[derive(Clone, Debug, Default)]
pub struct Injection {
    /// All bytes, header included; without it the header is made of `fields`.
    raw: Option<Vec<u8>>,
    fields: Vec<(String, u64)>,
    data: Vec<u8>,
    /// How many of the bytes go to which buffer; what is left goes to one more.
    spread: Vec<usize>,
    /// The lengths in the used ring, where they are to differ from what was written.
    used: Vec<u32>,
    /// The head in the used ring, in place of each buffer's own.
    head: Option<u16>,
}

const FIELDS: [&str; 11] = [
    "src_cid",
    "dst_cid",
    "src_port",
    "dst_port",
    "len",
    "type",
    "op",
    "flags",
    "buf_alloc",
    "fwd_cnt",
    "num_buffers",
];

impl Injection {
    pub fn parse(words: &[(&str, &str)]) -> Result<Self, String> {
        let mut new = Self::default();
        for (name, value) in words {
            match *name {
                "raw" => new.raw = Some(hex(value)?),
                "data" => new.data = hex(value)?,
                "zeros" => new.data = vec![0; number(value)?.min(1 << 20) as usize],
                "spread" => new.spread = list(value)?.iter().map(|n| *n as usize).collect(),
                "used" => new.used = list(value)?.iter().map(|n| *n as u32).collect(),
                "head" => new.head = Some(number(value)? as u16),
                name if FIELDS.contains(&name) => new.fields.push((name.into(), number(value)?)),
                name => return Err(format!("{name:?} is no field of a packet")),
            }
        }
        Ok(new)
    }

    /// The bytes, with defaults that make a plausible packet.
    fn bytes(&self, cid: u64, size: usize, dgram: bool) -> Vec<u8> {
        let mut bytes = match &self.raw {
            Some(raw) => raw.clone(),
            None => {
                let get = |name: &str, or: u64| {
                    let found = self.fields.iter().find(|f| f.0 == name);
                    found.map_or(or, |f| f.1)
                };
                let header = Header {
                    src_cid: get("src_cid", HOST_CID),
                    dst_cid: get("dst_cid", cid),
                    src_port: get("src_port", 1) as u32,
                    dst_port: get("dst_port", 1) as u32,
                    len: get("len", self.data.len() as u64) as u32,
                    kind: get(
                        "type",
                        if dgram { kind::DGRAM } else { kind::STREAM }.into(),
                    ) as u16,
                    op: get("op", op::RW.into()) as u16,
                    flags: get("flags", 0) as u32,
                    buf_alloc: get("buf_alloc", 256 << 10) as u32,
                    fwd_cnt: get("fwd_cnt", 0) as u32,
                };
                let buffers = get("num_buffers", self.spread.len().max(1) as u64) as u16;
                let mut bytes = header.bytes(buffers).to_vec();
                bytes.truncate(size.max(HEADER));
                bytes
            }
        };
        bytes.extend_from_slice(&self.data);
        bytes
    }
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let digits: Option<Vec<u8>> = text.bytes().map(digit).collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => Ok(digits
            .chunks_exact(2)
            .map(|pair| (pair[0] << 4) | pair[1])
            .collect()),
        _ => Err(format!("{text:?} is no even number of hexadecimal digits")),
    }
}

fn list(text: &str) -> Result<Vec<u64>, String> {
    text.split(',').map(number).collect()
}

/// An injection that waits for its thread to come round to the queues, and who waits for it.
pub type Pending = (Queue, Injection, Sender<Result<(), String>>);

impl Guest {
    /// Puts what was asked for on the queues.
    pub fn inject(&mut self, vrings: &[Vring], mem: &Memory) {
        for (queue, injection, answer) in std::mem::take(&mut self.injections) {
            let outcome = self.inject_one(queue, &injection, vrings, mem);
            let _ = answer.send(outcome);
        }
    }

    fn inject_one(
        &mut self,
        queue: Queue,
        injection: &Injection,
        vrings: &[Vring],
        mem: &Memory,
    ) -> Result<(), String> {
        let (index, dgram) = match queue {
            Queue::Rx => (RX, false),
            Queue::DgramRx if self.negotiated(kind::DGRAM) => (DGRAM_RX, true),
            Queue::Event => (self.event_queue(), false),
            _ => return Err("that queue brings nothing to the guest".into()),
        };
        let vring = vrings.get(index).and_then(|v| Ring::open(v, mem));
        let mut ring = vring.ok_or("the queue is not set up")?;
        let bytes = if queue == Queue::Event {
            injection.raw.clone().unwrap_or_default()
        } else {
            injection.bytes(self.shared.cid(), self.header_size(), dgram)
        };
        let mut rest = bytes.as_slice();
        let mut spread = injection.spread.clone();
        if spread.iter().sum::<usize>() < rest.len() || spread.is_empty() {
            spread.push(rest.len().saturating_sub(spread.iter().sum()));
        }
        let mut chains = Vec::new();
        for _ in &spread {
            match ring.pop() {
                Some(chain) => chains.push(chain),
                None => {
                    for _ in &chains {
                        ring.unpop();
                    }
                    return Err(format!(
                        "the driver has only {} buffers there",
                        chains.len()
                    ));
                }
            }
        }
        for (i, (chain, n)) in chains.into_iter().zip(spread).enumerate() {
            let head = chain.head_index();
            let (part, behind) = rest.split_at(n.min(rest.len()));
            let written = ring.write_chain(chain, part);
            rest = behind;
            let len = injection.used.get(i).copied().unwrap_or(written);
            ring.used(injection.head.unwrap_or(head), len);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_of_words() {
        let words = [
            ("op", "1"),
            ("dst_port", "0x10"),
            ("data", "00ff"),
            ("len", "9"),
        ];
        let bytes = Injection::parse(&words).unwrap().bytes(3, 46, false);
        assert_eq!(bytes.len(), 48);
        let header = Header::parse(bytes[..44].try_into().unwrap());
        assert_eq!((header.op, header.dst_port, header.len), (1, 16, 9));
        assert_eq!((header.src_cid, header.dst_cid, header.kind), (2, 3, 1));
        assert_eq!(bytes[44..], [1, 0, 0, 0xff]);
    }

    #[test]
    fn words_that_are_no_packet() {
        for bad in [
            ("raw", "0"),
            ("raw", "0g"),
            ("op", "x"),
            ("used", "1,"),
            ("x", "1"),
        ] {
            assert!(Injection::parse(&[bad]).is_err());
        }
    }
}
