// SPDX-License-Identifier: GPL-2.0

//! What wakes a guest's thread besides kicks: unix sockets, other guests, commands, and the time.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    time::{Duration, Instant},
};

use log::{debug, warn};
use vmm_sys_util::{
    epoll::{ControlOperation, Epoll, EpollEvent, EventSet},
    timerfd::TimerFd,
};

use super::Guest;
use crate::{fault::Fault, host::Host, switch::Shared};

/// Events that are taken at a time.
const EVENTS: usize = 256;

/// When a driver that has given no buffer for an event is looked at again.
const EVENT_RETRY: Duration = Duration::from_millis(100);
/// How long a listener rests when there are no descriptors for those who connect.
const REST: Duration = Duration::from_millis(200);

const TOKEN_WAKE: u64 = 0;
const TOKEN_TIMER: u64 = 1;
const TOKEN_DGRAM: u64 = 2;
/// Plus the kind of connection.
const TOKEN_LISTENER: u64 = 8;
/// Plus the connection's number.
const TOKEN_CONNECTION: u64 = 1 << 16;
/// Plus the number of the guest's port.
pub const TOKEN_DGRAM_PORT: u64 = 1 << 40;

/// What reports all that is there from the beginning.
pub fn epoll(shared: &Shared, host: &Host, timer: &TimerFd) -> io::Result<Epoll> {
    let epoll = Epoll::new()?;
    let add = |fd: RawFd, token| {
        let event = EpollEvent::new(EventSet::IN, token);
        epoll.ctl(ControlOperation::Add, fd, event)
    };
    add(shared.wake_fd().as_raw_fd(), TOKEN_WAKE)?;
    add(timer.as_raw_fd(), TOKEN_TIMER)?;
    for (kind, fd) in host.listeners() {
        add(fd.as_raw_fd(), TOKEN_LISTENER + u64::from(kind))?;
    }
    if let Some(socket) = &host.dgram {
        let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, TOKEN_DGRAM);
        epoll.ctl(ControlOperation::Add, socket.as_raw_fd(), event)?;
    }
    Ok(epoll)
}

impl Guest {
    /// Looks at what is there besides the queues, without waiting.
    pub fn poll(&mut self) {
        let mut events = [EpollEvent::default(); EVENTS];
        let n = match self.epoll.wait(0, &mut events) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            Err(e) => {
                warn!("{}: epoll: {e}", self.shared.name);
                0
            }
        };
        for event in events.iter().take(n) {
            let (token, set) = (event.data(), event.event_set());
            match token {
                TOKEN_WAKE => {
                    let _ = self.shared.wake_fd().read();
                    self.tx_stalled = false;
                    self.obey_all();
                }
                TOKEN_TIMER => {
                    let _ = self.timer.wait();
                    self.expire();
                }
                TOKEN_DGRAM => self.dgrams.readable(None),
                _ if token >= TOKEN_DGRAM_PORT => {
                    self.dgrams
                        .readable(Some((token - TOKEN_DGRAM_PORT) as u32));
                }
                _ if token >= TOKEN_CONNECTION => {
                    self.socket_event((token - TOKEN_CONNECTION) as usize, set);
                }
                _ => self.accept((token - TOKEN_LISTENER) as u16),
            }
        }
    }

    /// Watches a connection's socket: each change is reported once.
    pub fn watch(&mut self, fd: RawFd, index: usize) -> io::Result<()> {
        self.watch_token(fd, TOKEN_CONNECTION + index as u64)
    }

    pub fn watch_token(&self, fd: RawFd, token: u64) -> io::Result<()> {
        let set = EventSet::IN
            | EventSet::OUT
            | EventSet::READ_HANG_UP
            | EventSet::HANG_UP
            | EventSet::EDGE_TRIGGERED;
        self.epoll
            .ctl(ControlOperation::Add, fd, EpollEvent::new(set, token))
    }

    /// No descriptors are left: those who connect wait a while, and the listeners do not wake us for them.
    pub fn rest_listeners(&mut self) {
        self.set_listeners(EventSet::empty());
        self.deadlines.insert((Instant::now() + REST, usize::MAX));
    }

    fn set_listeners(&self, set: EventSet) {
        for (kind, fd) in self.host.listeners() {
            let event = EpollEvent::new(set, TOKEN_LISTENER + u64::from(kind));
            let _ = self
                .epoll
                .ctl(ControlOperation::Modify, fd.as_raw_fd(), event);
        }
    }

    /// Gives a connection so much time for what comes next, or, with `None`, all the time.
    pub fn set_deadline(&mut self, index: usize, time: Option<Duration>) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let new = time.map(|t| Instant::now() + t);
        if let Some(old) = std::mem::replace(&mut connection.deadline, new) {
            self.deadlines.remove(&(old, index));
        }
        if let Some(new) = new {
            self.deadlines.insert((new, index));
        }
    }

    pub fn drop_deadline(&mut self, at: Option<Instant>, index: usize) {
        if let Some(at) = at {
            self.deadlines.remove(&(at, index));
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while let Some((at, index)) = self.deadlines.first().copied() {
            if at > now {
                break;
            }
            self.deadlines.remove(&(at, index));
            if index == usize::MAX {
                self.set_listeners(EventSet::IN);
                continue;
            }
            debug!("{}: connection {index} took too long", self.shared.name);
            self.timed_out(index);
        }
    }

    /// Sets the timer to what comes next.
    pub fn arm(&mut self) {
        let next = self.deadlines.first().map(|d| d.0);
        let held = self.faults.iter().filter_map(Fault::deadline);
        // A driver that starts has not set up all of its queues at once.
        let event =
            (self.events > 0 && self.shared.running()).then(|| Instant::now() + EVENT_RETRY);
        let next = held
            .chain(next)
            .chain(event)
            .chain(self.dgrams.deadline())
            .min();
        let outcome = match next {
            Some(at) => {
                let time = at.saturating_duration_since(Instant::now());
                self.timer.reset(time.max(Duration::from_millis(1)), None)
            }
            None => self.timer.clear(),
        };
        if let Err(e) = outcome {
            warn!("{}: timer: {e}", self.shared.name);
        }
    }
}
