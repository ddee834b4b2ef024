// SPDX-License-Identifier: GPL-2.0

//! What the control socket can ask of a guest's thread.

use std::time::Duration;

use crate::{
    fault::Queue,
    packet::{kind, op, Header, HEADER, HOST_CID},
};

/// What one guest's thread is to do.
#[derive(Clone, Debug)]
pub enum Command {
    /// Tell the driver that the transport was reset, and forget all connections.
    Reset,
    /// Forget all connections, and tell the driver nothing.
    Become,
    /// Reset the connections of this port of the guest's.
    Abort(u32),
    Pause(Queue, bool),
    Drop(Queue, u64),
    Delay(Queue, Duration),
    /// The time that each packet takes.
    Pace(Queue, Duration),
    /// Look at nothing before a kick, and ask for none.
    Forget(Queue),
    /// Whether the driver is to kick each time.
    Loud(Queue, bool),
    Inject(Queue, Injection),
}

/// A packet as it was asked for.
#[derive(Clone, Debug, Default)]
pub struct Injection {
    /// All bytes, header included; without it the header is made of `fields`.
    pub raw: Option<Vec<u8>>,
    fields: Vec<(String, u64)>,
    data: Vec<u8>,
    /// How many of the bytes go to which buffer; what is left goes to one more.
    pub spread: Vec<usize>,
    /// The lengths in the used ring, where they are to differ from what was written.
    pub used: Vec<u32>,
    /// The head in the used ring, in place of each buffer's own.
    pub head: Option<u16>,
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
    pub fn bytes(&self, cid: u64, size: usize, dgram: bool) -> Vec<u8> {
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

/// A number, decimal or with `0x`.
pub fn number(text: &str) -> Result<u64, String> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .map_err(|_| format!("{text:?} is no number"))
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
