// SPDX-License-Identifier: GPL-2.0

//! The agent's protocol: a request is one line of JSON, the answer a row of frames until the program has ended.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// What the lab asks for: a program to run. Closing the connection kills it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub argv: Vec<String>,
}

/// What the agent answers with.
#[derive(Debug)]
pub enum Frame {
    /// Bytes that the program wrote, to either of its outputs.
    Output(Vec<u8>),
    /// The program's end: its exit code, or 128 and the number of the signal that killed it.
    Exit(i32),
    /// The program could not be started.
    Failed(String),
}

impl Frame {
    /// Sends the frame: a kind, a length, the bytes.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, bytes) = match self {
            Frame::Output(bytes) => (b'o', bytes.clone()),
            Frame::Exit(code) => (b'x', code.to_le_bytes().to_vec()),
            Frame::Failed(why) => (b'f', why.clone().into_bytes()),
        };
        let mut frame = vec![kind];
        frame.extend((bytes.len() as u32).to_le_bytes());
        frame.extend(bytes);
        to.write_all(&frame)
    }

    /// Receives a frame; `None` when the connection ended without an exit.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Frame>> {
        let mut head = [0u8; 5];
        match from.read_exact(&mut head) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut bytes = vec![0; len];
        from.read_exact(&mut bytes)?;
        Ok(Some(match head[0] {
            b'o' => Frame::Output(bytes),
            b'x' => Frame::Exit(i32::from_le_bytes(bytes.try_into().map_err(|_| {
                io::Error::other(format!("an exit frame of {len} bytes, 4 expected"))
            })?)),
            b'f' => Frame::Failed(String::from_utf8_lossy(&bytes).into_owned()),
            other => {
                return Err(io::Error::other(format!(
                    "a frame of unknown kind {other:#x}"
                )))
            }
        }))
    }
}
