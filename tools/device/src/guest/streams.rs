// SPDX-License-Identifier: GPL-2.0

//! Connections between the guest and unix sockets on the host: how they begin, go on and end.

use std::time::Duration;

use log::{debug, warn};
use nix::errno::Errno;
use vmm_sys_util::epoll::EventSet;

use super::{transmit::key_of, Guest};
use crate::{
    connection::{Connection, Key, State, Write},
    habits::HostEnd,
    host::wanted_port,
    packet::{op, Header, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND},
};

/// Ports of connections that programs on the host begin.
const FIRST_PORT: u32 = 1 << 30;
const PORTS: u32 = 1 << 30;

/// So long a program may take to say where it wants to go.
const GREETING: Duration = Duration::from_secs(10);
/// So long a guest may take to answer a request.
const REQUEST: Duration = Duration::from_secs(10);
/// So long a guest may take to answer a goodbye. The drivers' own patience is eight seconds.
const GOODBYE: Duration = Duration::from_secs(10);

/// Connections that are accepted in a row.
const ACCEPTS: usize = 64;

impl Guest {
    /// Does something with a connection and keeps count of the memory that it holds.
    pub fn touch<R>(&mut self, index: usize, f: impl FnOnce(&mut Connection) -> R) -> Option<R> {
        let connection = self.connections.get_mut(index)?;
        let before = connection.held();
        let result = f(connection);
        self.held = (self.held + connection.held()).saturating_sub(before);
        Some(result)
    }

    /// Puts a connection in line if it has something for the guest.
    pub fn make_ready(&mut self, index: usize) {
        if let Some(connection) = self.connections.get_mut(index) {
            if !connection.queued && connection.has_something() {
                connection.queued = true;
                self.ready.push_back(index);
            }
        }
    }

    /// Accepts programs of the host's that connect.
    pub fn accept(&mut self, kind: u16) {
        for _ in 0..ACCEPTS {
            let fd = match self.host.accept(kind) {
                Ok(fd) => fd,
                Err(Errno::EAGAIN) => return,
                Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS) => {
                    warn!("{}: no descriptors are left", self.shared.name);
                    self.rest_listeners();
                    return;
                }
                Err(e) => {
                    debug!("{}: accept: {e}", self.shared.name);
                    continue;
                }
            };
            if !self.shared.running()
                || !self.negotiated(kind)
                || self.connections.len() >= self.limits.connections
            {
                self.counters().refused.count();
                continue;
            }
            let key = Key {
                kind,
                host_port: 0,
                guest_port: 0,
            };
            let habits = self.limits.habits.clone();
            let connection = Connection::new(fd, key, State::Greeting, habits);
            if let Some(index) = self.keep(connection) {
                self.set_deadline(index, Some(GREETING));
            }
        }
    }

    /// Keeps a connection and watches its socket.
    fn keep(&mut self, connection: Connection) -> Option<usize> {
        let fd = connection.fd();
        let index = self.connections.insert(connection);
        if let Err(e) = self.watch(fd, index) {
            warn!("{}: epoll: {e}", self.shared.name);
            self.connections.remove(index);
            return None;
        }
        Some(index)
    }

    /// The guest wants a connection with a program on the host.
    pub fn connect(&mut self, header: &Header) {
        let key = key_of(header);
        if self.connections.len() >= self.limits.connections {
            self.counters().refused.count();
            return self.reset(header);
        }
        let fd = match self.host.connect(key.kind, key.host_port) {
            Ok(fd) => fd,
            Err(e) => {
                debug!("{}: port {}: {e}", self.shared.name, key.host_port);
                self.counters().refused.count();
                return self.reset(header);
            }
        };
        let habits = self.limits.habits.clone();
        let mut connection = Connection::new(fd, key, State::Established, habits);
        connection.credit.hear(header);
        if let Some(index) = self.keep(connection) {
            self.keys.insert(key, index);
            self.counters().connections.count();
            if self.limits.habits.asks_first {
                self.reply(key, op::CREDIT_REQUEST, 0);
            }
            self.reply(key, op::RESPONSE, 0);
        } else {
            self.reset(header);
        }
    }

    /// Something happened to a connection's socket.
    pub fn socket_event(&mut self, index: usize, set: EventSet) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        connection.ending |= set.intersects(EventSet::READ_HANG_UP | EventSet::HANG_UP);
        connection.hung_up |= set.contains(EventSet::HANG_UP);
        connection.readable |= set.intersects(
            EventSet::IN | EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR,
        );
        match connection.state {
            State::Greeting => return self.greeting(index),
            State::Requested if connection.hung_up => return self.given_up(index),
            State::Requested => return,
            State::Established | State::Flushing => {}
        }
        if set.intersects(EventSet::OUT | EventSet::ERROR | EventSet::HANG_UP) {
            self.flush(index);
        }
        self.make_ready(index);
    }

    /// Sends on what the host's program had no room for.
    fn flush(&mut self, index: usize) {
        match self.touch(index, Connection::flush) {
            Some(Write::Done) => {}
            Some(Write::Deaf) => self.host_deaf(index),
            Some(Write::Refused) => return self.violation(index),
            None => return,
        }
        self.update_if_due(index);
        self.settle(index);
    }

    /// A program says where it wants to go.
    fn greeting(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        match connection.greet() {
            Ok(true) => {}
            Ok(false) | Err(Errno::EAGAIN | Errno::EINTR) => return,
            Err(_) => return self.remove(index),
        }
        let kind = connection.key.kind;
        let Some(guest_port) = wanted_port(&connection.line) else {
            debug!("{}: a greeting that is none", self.shared.name);
            return self.remove(index);
        };
        let mut key = Key {
            kind,
            host_port: 0,
            guest_port,
        };
        loop {
            key.host_port = FIRST_PORT + self.next_port % PORTS;
            self.next_port = self.next_port.wrapping_add(1);
            if !self.keys.contains_key(&key) {
                break;
            }
        }
        connection.key = key;
        connection.state = State::Requested;
        self.keys.insert(key, index);
        self.set_deadline(index, Some(REQUEST));
        self.reply(key, op::REQUEST, 0);
    }

    /// The guest has accepted.
    pub fn established(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if connection.say_ok().is_err() {
            return self.reset_connection(index);
        }
        connection.state = State::Established;
        self.counters().connections.count();
        self.set_deadline(index, None);
        self.settle(index);
    }

    /// A program left before the guest had answered.
    fn given_up(&mut self, index: usize) {
        self.reset_connection(index);
    }

    /// Acts on what both ends have said of being done.
    pub fn settle(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        connection.shut();
        let flushed = connection.flushed();
        if connection.state == State::Flushing {
            if flushed {
                self.remove(index);
            }
            return;
        }
        if connection.guest_done == SHUTDOWN_BOTH && flushed {
            return self.goodbye(index);
        }
        if connection.hung_up && connection.host_done & SHUTDOWN_SEND != 0 {
            self.tell_done(index, SHUTDOWN_RECEIVE);
        }
    }

    /// Both halves are done with, and the guest waits for the answer to that.
    fn goodbye(&mut self, index: usize) {
        if self.limits.habits.answers_goodbye {
            return self.reset_connection(index);
        }
        let waits = self.connections.get(index).map(|c| c.deadline.is_some());
        if waits == Some(false) {
            self.set_deadline(index, Some(GOODBYE));
        }
    }

    /// The host's program has ended its half: what the guest hears of that is a habit.
    pub fn host_done(&mut self, index: usize) {
        match self.limits.habits.host_end {
            HostEnd::Half => self.tell_done(index, SHUTDOWN_SEND),
            HostEnd::Close => self.tell_done(index, SHUTDOWN_BOTH),
            HostEnd::Reset => self.reset_connection(index),
        }
    }

    /// Tells the guest that the host's program is done, with what it has not heard yet.
    pub fn tell_done(&mut self, index: usize, flags: u32) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let mut done = connection.host_done | flags;
        // A program that has closed its socket will not read either.
        if connection.hung_up && done & SHUTDOWN_SEND != 0 {
            done = SHUTDOWN_BOTH;
        }
        if done == connection.host_done || connection.state != State::Established {
            return;
        }
        connection.host_done = done;
        let key = connection.key;
        if done & SHUTDOWN_RECEIVE != 0 {
            self.touch(index, Connection::discard);
        }
        self.reply(key, op::SHUTDOWN, done);
        if done == SHUTDOWN_BOTH {
            self.set_deadline(index, Some(GOODBYE));
        }
        self.settle(index);
    }

    /// The guest has reset the connection: the host's program gets what came before.
    pub fn left(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let orderly = connection.guest_done & SHUTDOWN_SEND != 0;
        if connection.state == State::Requested {
            self.shared.counters.refused.count();
        }
        if !orderly || connection.flushed() {
            return self.remove(index);
        }
        let key = connection.key;
        connection.state = State::Flushing;
        connection.guest_done = SHUTDOWN_BOTH;
        self.keys.remove(&key);
        self.settle(index);
    }

    /// Ends a connection at once, and tells the guest.
    pub fn reset_connection(&mut self, index: usize) {
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        let (key, known) = (connection.key, connection.state);
        self.remove(index);
        if matches!(known, State::Requested | State::Established) {
            self.reply(key, op::RST, 0);
        }
    }

    /// Forgets a connection; its socket is closed.
    pub fn remove(&mut self, index: usize) {
        let Some(connection) = self.connections.try_remove(index) else {
            return;
        };
        if self.keys.get(&connection.key) == Some(&index) {
            self.keys.remove(&connection.key);
        }
        if self.limits.habits.stale && connection.state == State::Established {
            self.stale += 1;
        }
        self.held = self.held.saturating_sub(connection.held());
        self.drop_deadline(connection.deadline, index);
        if connection.queued {
            self.ready.retain(|i| *i != index);
        }
    }

    /// Patience has ended.
    pub fn timed_out(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        connection.deadline = None;
        if connection.guest_done == SHUTDOWN_BOTH && !self.limits.habits.answers_goodbye {
            return self.remove(index);
        }
        self.reset_connection(index);
    }
}
