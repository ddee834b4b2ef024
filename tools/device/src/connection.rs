// SPDX-License-Identifier: GPL-2.0

//! A connection between a port of the guest's and a unix socket on the host: what it holds, and its calls on that socket.

use std::{
    collections::VecDeque,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    time::Instant,
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{
        recv, recvmsg, send, shutdown, ControlMessageOwned, MsgFlags, Shutdown, UnixAddr,
        UnixCredentials,
    },
};

use crate::{
    credit::Credit,
    habits::Habits,
    packet::{kind, MAX_PAYLOAD, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND},
};

/// Bytes of a stream are kept together up to this size.
const CHUNK: usize = 64 << 10;

/// A read is prepared for so much at least.
const SMALL: usize = 4 << 10;

/// Empty messages cost no credit: so many may wait for the host's program.
const MAX_MESSAGES: usize = 4096;

/// The longest message of the host's that is looked at.
const MAX_MESSAGE: usize = 16 << 20;

/// What the packets of a connection have in common; the CIDs are the guest's and the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub kind: u16,
    pub host_port: u32,
    pub guest_port: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The host's program has connected, and has not said to which port.
    Greeting,
    /// The guest has been asked.
    Requested,
    Established,
    /// The guest has left; the host's program still gets what the guest had sent.
    Flushing,
}

pub struct Connection {
    pub key: Key,
    pub state: State,
    pub credit: Credit,
    habits: Arc<Habits>,
    /// When patience ends: with a greeting, a request, or a goodbye.
    pub deadline: Option<Instant>,
    /// It is in the list of those that have something for the guest.
    pub queued: bool,
    /// An update of its credit is on its way.
    pub updating: bool,
    /// The socket may have something to read.
    pub readable: bool,
    /// The host's program sends no more, behind what may still be there to read.
    pub ending: bool,
    /// Both ends of the socket are closed.
    pub hung_up: bool,
    /// There is something to read, and no credit for it.
    starved: bool,
    /// How much the next read is prepared for.
    hint: usize,
    /// What the guest has said of its end, in the flags of `SHUTDOWN`.
    pub guest_done: u32,
    /// What the guest has been told of the host's end.
    pub host_done: u32,
    /// What of the socket is shut already, as the guest wished.
    shut: u32,
    /// The greeting, as far as it has come.
    pub line: Vec<u8>,
    socket: OwnedFd,
    /// What the socket did not take at once. With seqpackets each is a message.
    backlog: VecDeque<Vec<u8>>,
    /// As much of the first is gone.
    written: usize,
    /// The bytes of all.
    held: usize,
    /// A message of the guest's that has no end yet.
    partial: Vec<u8>,
    /// A message of the host's that is on its way to the guest.
    message: Vec<u8>,
    message_at: usize,
    has_message: bool,
}

/// What the host's end has for the guest.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes, and whether they end a message.
    Data(usize, bool),
    Nothing,
    /// There is something, for which the guest has no room, and it is to be asked for some.
    Starved,
    /// The program will not send any more.
    End,
    /// The program is gone, and with it what it had not read.
    Failed,
    /// A message that the guest can never hold.
    TooLong,
}

/// What became of data for the host's end.
#[derive(Debug, PartialEq, Eq)]
pub enum Write {
    Done,
    /// It reads no more: what it is sent is lost.
    Deaf,
    /// What the guest sent breaks a rule, or cannot be sent on.
    Refused,
}

impl Connection {
    pub fn new(socket: OwnedFd, key: Key, state: State, habits: Arc<Habits>) -> Self {
        Self {
            key,
            state,
            credit: Credit::new(habits.buffer, habits.updates),
            habits,
            deadline: None,
            queued: false,
            updating: false,
            readable: false,
            ending: false,
            hung_up: false,
            starved: false,
            hint: SMALL,
            guest_done: 0,
            host_done: 0,
            shut: 0,
            line: Vec::new(),
            socket,
            backlog: VecDeque::new(),
            written: 0,
            held: 0,
            partial: Vec::new(),
            message: Vec::new(),
            message_at: 0,
            has_message: false,
        }
    }

    pub fn fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    /// How much memory it holds for the host's program.
    pub fn held(&self) -> usize {
        self.held + self.partial.len()
    }

    /// All that the guest has sent is with the host's program.
    pub fn flushed(&self) -> bool {
        self.backlog.is_empty()
    }

    /// The host's program may have something that the guest has room for.
    pub fn has_something(&self) -> bool {
        if self.state != State::Established
            || self.host_done & SHUTDOWN_SEND != 0
            || self.guest_done & SHUTDOWN_RECEIVE != 0
        {
            return false;
        }
        // The end costs no credit, nor does an empty message.
        if self.has_message {
            self.message_at == self.message.len() || self.credit.peer_free() > 0
        } else {
            let looks = self.ending || self.habits.asks_when_out;
            self.readable && (self.credit.peer_free() > 0 || looks && !self.starved)
        }
    }

    /// The guest has sent something: there may be credit in it.
    pub fn heard(&mut self) {
        self.starved = false;
    }

    /// How much room the next read could use.
    pub fn wanted(&self) -> usize {
        let n = if self.has_message {
            self.message.len() - self.message_at
        } else {
            self.hint
        };
        n.min(self.free()).clamp(1, MAX_PAYLOAD)
    }

    /// What the next packet may bring.
    fn free(&self) -> usize {
        let free = self.credit.peer_free();
        if self.habits.shrinks {
            free.div_ceil(2)
        } else {
            free
        }
    }

    /// Reads the next bytes for the guest, at most `room` and no more than it has credit for.
    pub fn read(&mut self, room: usize, buffer: &mut Vec<u8>) -> Read {
        if self.key.kind == kind::SEQPACKET {
            return self.read_message(room, buffer);
        }
        let free = self.free();
        let n = room.min(free).max(1);
        if buffer.len() < n {
            buffer.resize(n, 0);
        }
        // Without credit all that there is to find out is whether there is an end.
        let flags = if free == 0 {
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK
        } else {
            MsgFlags::MSG_DONTWAIT
        };
        match recv(self.fd(), &mut buffer[..n], flags) {
            Ok(0) => Read::End,
            Ok(_) if free == 0 => {
                self.starved = true;
                if self.habits.asks_when_out {
                    Read::Starved
                } else {
                    Read::Nothing
                }
            }
            Ok(got) => {
                self.hint = if got == n {
                    (self.hint * 4).min(MAX_PAYLOAD)
                } else {
                    got.max(SMALL)
                };
                self.credit.send(got);
                Read::Data(got, false)
            }
            Err(Errno::EAGAIN) => {
                self.readable = false;
                Read::Nothing
            }
            Err(Errno::EINTR) => Read::Nothing,
            Err(_) => Read::Failed,
        }
    }

    fn read_message(&mut self, room: usize, buffer: &mut Vec<u8>) -> Read {
        if !self.has_message {
            match self.take_message() {
                Read::Data(..) => {}
                other => return other,
            }
        }
        let left = self.message.len() - self.message_at;
        let n = left.min(room).min(self.free());
        if n == 0 && left > 0 {
            return Read::Nothing;
        }
        if buffer.len() < n {
            buffer.resize(n, 0);
        }
        let end = self.message_at + n;
        buffer[..n].copy_from_slice(&self.message[self.message_at..end]);
        self.message_at = end;
        self.credit.send(n);
        let whole = end == self.message.len();
        if whole {
            self.has_message = false;
            if self.message.capacity() > CHUNK {
                self.message = Vec::new();
            }
        }
        Read::Data(n, whole)
    }

    /// Takes the socket's next message, whatever its length.
    fn take_message(&mut self) -> Read {
        let peek = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
        let len = match recv(self.fd(), &mut [], peek) {
            Ok(len) => len,
            Err(Errno::EAGAIN) => {
                self.readable = false;
                return Read::Nothing;
            }
            Err(Errno::EINTR) => return Read::Nothing,
            Err(_) => return Read::Failed,
        };
        if len > MAX_MESSAGE || len > self.credit.peer_alloc() {
            return Read::TooLong;
        }
        self.message.resize(len, 0);
        let mut credentials = cmsg_space!(UnixCredentials);
        let mut iov = [std::io::IoSliceMut::new(&mut self.message)];
        let got = recvmsg::<UnixAddr>(
            self.socket.as_raw_fd(),
            &mut iov,
            Some(&mut credentials),
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
        );
        // A message brings its sender's credentials along, also an empty one; the end does not.
        let message = match got {
            Ok(m) => m
                .cmsgs()
                .is_ok_and(|mut c| c.any(|c| matches!(c, ControlMessageOwned::ScmCredentials(_))))
                .then_some(m.bytes),
            Err(Errno::EAGAIN | Errno::EINTR) => return Read::Nothing,
            Err(_) => return Read::Failed,
        };
        match message {
            Some(n) => {
                self.message.truncate(n);
                (self.message_at, self.has_message) = (0, true);
                Read::Data(n, false)
            }
            None => Read::End,
        }
    }

    /// Takes what the guest has sent: to the socket as far as it goes, the rest is kept.
    pub fn write(&mut self, data: &[u8], ends: bool) -> Write {
        if !self.credit.receive(data.len()) {
            return Write::Refused;
        }
        if self.shut & SHUTDOWN_SEND != 0 || self.host_done & SHUTDOWN_RECEIVE != 0 {
            self.credit.forward(data.len());
            return Write::Deaf;
        }
        if self.key.kind == kind::SEQPACKET {
            if !ends {
                self.partial.extend_from_slice(data);
                return Write::Done;
            }
            let message = if self.partial.is_empty() {
                data.to_vec()
            } else {
                self.partial.extend_from_slice(data);
                std::mem::take(&mut self.partial)
            };
            if self.backlog.len() >= MAX_MESSAGES && message.is_empty() {
                return Write::Refused;
            }
            self.held += message.len();
            self.backlog.push_back(message);
            return self.flush();
        }
        let mut data = data;
        if self.backlog.is_empty() {
            match self.send(data) {
                Ok(n) => {
                    self.credit.forward(n);
                    data = &data[n..];
                }
                Err(Errno::EAGAIN) => {}
                Err(_) => {
                    self.credit.forward(data.len());
                    return Write::Deaf;
                }
            }
        }
        if !data.is_empty() {
            self.held += data.len();
            match self.backlog.back_mut() {
                Some(last) if last.len() + data.len() <= CHUNK => last.extend_from_slice(data),
                _ => self.backlog.push_back(data.to_vec()),
            }
        }
        Write::Done
    }

    /// Sends on what was kept, as far as it goes.
    pub fn flush(&mut self) -> Write {
        while let Some(first) = self.backlog.front() {
            let (left, messages) = (&first[self.written..], self.key.kind == kind::SEQPACKET);
            match self.send(left) {
                Ok(n) if messages || n == left.len() => {
                    let n = left.len();
                    self.credit.forward(n);
                    (self.held, self.written) = (self.held.saturating_sub(n), 0);
                    self.backlog.pop_front();
                }
                Ok(n) => {
                    self.credit.forward(n);
                    self.held = self.held.saturating_sub(n);
                    self.written += n;
                }
                Err(Errno::EAGAIN) => return Write::Done,
                Err(Errno::EMSGSIZE) => return Write::Refused,
                Err(_) => {
                    self.discard();
                    return Write::Deaf;
                }
            }
        }
        Write::Done
    }

    /// Throws away what nobody will read.
    pub fn discard(&mut self) {
        self.credit.forward(self.held + self.partial.len());
        (self.held, self.written) = (0, 0);
        self.backlog.clear();
        self.partial = Vec::new();
    }

    fn send(&self, data: &[u8]) -> Result<usize, Errno> {
        loop {
            match send(
                self.fd(),
                data,
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            ) {
                Err(Errno::EINTR) => {}
                other => return other,
            }
        }
    }

    /// Shuts what the guest is done with, once it may be.
    pub fn shut(&mut self) {
        let ready = if self.flushed() { SHUTDOWN_SEND } else { 0 } | SHUTDOWN_RECEIVE;
        let mut new = self.guest_done & ready & !self.shut;
        if !self.habits.passes_half_close && self.guest_done != SHUTDOWN_BOTH {
            new = 0;
        }
        if new & SHUTDOWN_SEND != 0 {
            let _ = shutdown(self.fd(), Shutdown::Write);
        }
        if new & SHUTDOWN_RECEIVE != 0 {
            let _ = shutdown(self.fd(), Shutdown::Read);
        }
        self.shut |= new;
    }

    /// Reads more of the greeting, and nothing behind it. True once it is whole.
    pub fn greet(&mut self) -> Result<bool, Errno> {
        const LONGEST: usize = 32;
        let mut bytes = [0; LONGEST];
        let room = LONGEST - self.line.len();
        if self.key.kind == kind::SEQPACKET {
            let n = recv(self.fd(), &mut bytes, MsgFlags::MSG_DONTWAIT)?;
            self.line = bytes.get(..n).unwrap_or_default().to_vec();
            return if n == 0 { Err(Errno::EPIPE) } else { Ok(true) };
        }
        let look = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        let n = recv(self.fd(), &mut bytes[..room], look)?;
        let end = bytes[..n].iter().position(|b| *b == b'\n');
        let n = end.map_or(n, |at| at + 1);
        let n = recv(self.fd(), &mut bytes[..n], MsgFlags::MSG_DONTWAIT)?;
        self.line.extend_from_slice(&bytes[..n]);
        if end.is_none() && (n == 0 || self.line.len() >= LONGEST) {
            return Err(Errno::EPIPE);
        }
        Ok(end.is_some())
    }

    /// Tells the host's program that it is connected.
    pub fn say_ok(&self) -> Result<(), Errno> {
        let line = format!("OK {}\n", self.key.host_port);
        self.send(line.as_bytes()).map(drop)
    }
}
