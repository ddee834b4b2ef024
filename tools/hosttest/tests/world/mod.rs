// SPDX-License-Identifier: GPL-2.0

//! Two ends that talk to each other over a wire that loses nothing, with their users: each of them sleeps until it is
//! woken, as in the kernel, so that a wake-up that is missing is seen.

use std::collections::VecDeque;

use rvsock_hosttest::{
    proto::{
        Actions,
        Control,
        Endpoint,
        SendError,
        State,
        Time, //
    },
    wire::{
        Header,
        Op,
        SeqFlags,
        SocketType, //
    },
};

/// A part of what is unread, and whether it ends a message.
type Part = (u32, bool);

/// One end, its users, and what is on its way to it.
#[derive(Clone)]
pub(crate) struct Side {
    pub(crate) end: Endpoint,
    pub(crate) inbox: VecDeque<Header>,
    store: VecDeque<Part>,
    /// What its writer is about to write, call by call, or message by message.
    pub(crate) to_write: VecDeque<u32>,
    /// How long the first of them is in all, if it has begun it.
    begun: Option<u32>,
    writer_sleeps: bool,
    reader_sleeps: bool,
    /// How many bytes its reader waits for.
    lowat: u32,
    /// Its reader waits in poll(), and says so to nobody.
    pub(crate) polls: bool,
    /// There is none for control packets.
    pub(crate) no_memory: bool,
    catch_up_soon: bool,
    timer: Option<Time>,
    /// How many updates it has sent.
    pub(crate) updates: u32,
    /// A message can never be ended, as the buffers are too small by now.
    pub(crate) too_long: bool,
    /// How often it was told of the end, and of an error.
    pub(crate) ends: u32,
    pub(crate) errors: u32,
}

impl Side {
    pub(crate) fn new(end: Endpoint) -> Self {
        Self {
            end,
            inbox: VecDeque::new(),
            store: VecDeque::new(),
            to_write: VecDeque::new(),
            begun: None,
            writer_sleeps: false,
            reader_sleeps: false,
            lowat: 1,
            polls: false,
            no_memory: false,
            catch_up_soon: false,
            timer: None,
            updates: 0,
            too_long: false,
            ends: 0,
            errors: 0,
        }
    }

    /// Takes up to `want` bytes out of the store, or the first message; returns how many they are.
    fn take(&mut self, mut want: u32) -> u32 {
        let message = self.end.socket_type() == SocketType::Seqpacket;
        let mut taken = 0;
        while let Some((len, ends)) = self.store.pop_front() {
            let part = if message { len } else { len.min(want) };
            taken += part;
            want = want.saturating_sub(part);
            if part < len {
                self.store.push_front((len - part, ends));
            }
            if if message { ends } else { want == 0 } {
                break;
            }
        }
        taken
    }

    fn stored(&self) -> u32 {
        self.store.iter().map(|(len, _)| len).sum()
    }
}

/// Both ends; index 0 has connected, index 1 was accepted.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) sides: [Side; 2],
    pub(crate) now: u64,
}

impl World {
    /// A connection between buffers of these sizes; RESPONSE is on its way.
    pub(crate) fn new(ty: SocketType, sizes: [u32; 2]) -> Self {
        let mut world = Self {
            sides: sizes.map(|size| Side::new(Endpoint::new(ty, size))),
            now: 0,
        };
        let actions = world.sides[0].end.connect(Time::from_millis(0), 1);
        world.carry_out(0, actions);
        let request = world.sides[1].inbox.pop_front().unwrap();
        assert_eq!(request.operation(), Ok(Op::Request));
        world.sides[1].end.accept(&request);
        world.push(1, Op::Response, 0, 0);
        world
    }

    fn time(&self) -> Time {
        Time::from_millis(self.now)
    }

    /// Sends a packet, with what it says of our buffer filled in.
    fn push(&mut self, who: usize, op: Op, len: u32, flags: u32) {
        let Some(told) = self.sides[who].end.advertise(op == Op::Rst, || false) else {
            return;
        };
        self.sides[1 - who].inbox.push_back(Header {
            len,
            op: op.into(),
            flags,
            buf_alloc: told.buf_alloc,
            fwd_cnt: told.fwd_cnt,
            ..Header::default()
        });
    }

    fn send(&mut self, who: usize, what: Control) {
        let side = &mut self.sides[who];
        if !side.end.may_send_control(what, || false) {
            return;
        }
        if side.no_memory && what != Control::Request {
            let actions = side.end.on_unsent(what);
            return self.carry_out(who, actions);
        }
        let (op, flags) = match what {
            Control::Request => (Op::Request, 0),
            Control::Shutdown(flags) => (Op::Shutdown, flags.as_raw()),
            Control::Rst => (Op::Rst, 0),
            Control::CreditUpdate => (Op::CreditUpdate, 0),
            Control::CreditRequest => (Op::CreditRequest, 0),
        };
        side.updates += u32::from(op == Op::CreditUpdate);
        self.push(who, op, 0, flags);
    }

    pub(crate) fn carry_out(&mut self, who: usize, actions: Actions) {
        assert!(!actions.count_bad_op, "two honest ends offend each other");
        for what in actions.packets() {
            self.send(who, what);
        }
        let now = self.time();
        if actions.reply_rst {
            self.sides[1 - who].inbox.push_back(Header {
                op: Op::Rst.into(),
                ..Header::default()
            });
        }
        let side = &mut self.sides[who];
        if actions.drop_unread {
            side.store.clear();
        }
        side.ends += u32::from(actions.done);
        side.errors += u32::from(actions.error.is_some());
        let news = actions.established || actions.peer_shutdown_changed || actions.done;
        if actions.wake_reader || news {
            side.reader_sleeps = false;
        }
        if actions.wake_writer || news {
            side.writer_sleeps = false;
        }
        side.catch_up_soon |= actions.catch_up_soon;
        if actions.start_timer {
            side.timer = side.end.deadline(now);
        }
    }

    /// The next packet comes to `who`; false if there is none.
    pub(crate) fn deliver(&mut self, who: usize) -> bool {
        let side = &mut self.sides[who];
        let Some(header) = side.inbox.pop_front() else {
            return false;
        };
        let op = header.operation().unwrap();
        let mut actions = side.end.on_packet(&header, op, false);
        if actions.deliver {
            let ends = SeqFlags::from_raw(header.flags).contains(SeqFlags::EOM);
            side.store.push_back((header.len, ends));
            actions = side.end.on_stored(&header, actions, Ok(()));
            assert_eq!(side.end.unread(), side.stored());
        }
        // K3: a peer within its credit is never reset.
        assert_eq!(actions.error, None);
        self.carry_out(who, actions);
        true
    }

    /// The writer of `who` writes what it can; false if that is nothing.
    pub(crate) fn write(&mut self, who: usize) -> bool {
        let side = &mut self.sides[who];
        let Some(want) = side.to_write.front_mut().filter(|_| !side.writer_sleeps) else {
            return false;
        };
        let mut flags = 0;
        let granted = match side.end.reserve(*want) {
            Ok(0) => {
                let actions = side.end.on_wait_to_write();
                side.writer_sleeps = true;
                self.carry_out(who, actions);
                return false;
            }
            Ok(granted) => granted,
            Err(SendError::TooLong) => {
                side.too_long |= side.begun.take().is_some();
                side.to_write.pop_front();
                return true;
            }
            Err(SendError::Over) => {
                side.to_write.clear();
                return false;
            }
        };
        let len = side.begun.unwrap_or(*want);
        *want -= granted;
        side.begun = (*want > 0).then_some(len);
        if *want == 0 {
            side.to_write.pop_front();
            flags = SeqFlags::EOM.as_raw();
        }
        self.push(who, Op::Rw, granted, flags);
        true
    }

    /// The reader of `who` reads up to `want` bytes, or a message; false if there is not what he waits for.
    pub(crate) fn read(&mut self, who: usize, want: u32) -> bool {
        let side = &mut self.sides[who];
        if side.reader_sleeps {
            return false;
        }
        let messages = match side.end.socket_type() {
            SocketType::Seqpacket => side.end.messages().min(1),
            _ => 0,
        };
        let lowat = side.lowat;
        let there = match side.end.socket_type() {
            SocketType::Seqpacket => messages > 0,
            _ => side.end.is_readable(lowat),
        };
        let actions = if there {
            let bytes = side.take(want.max(1));
            side.end.on_read(bytes, messages, lowat)
        } else {
            side.reader_sleeps = true;
            if side.polls {
                Actions::NONE
            } else {
                side.end.on_wait_to_read(lowat)
            }
        };
        self.carry_out(who, actions);
        there
    }

    /// setsockopt(SO_RCVLOWAT), by which nobody is woken.
    pub(crate) fn set_lowat(&mut self, who: usize, lowat: u32) {
        let side = &mut self.sides[who];
        side.lowat = lowat.max(1);
        let actions = side.end.on_wait_to_read(side.lowat);
        side.reader_sleeps = false;
        self.carry_out(who, actions);
    }

    pub(crate) fn set_size(&mut self, who: usize, size: u32) {
        let actions = self.sides[who].end.set_buf_alloc(size);
        self.carry_out(who, actions);
    }

    /// There is memory again.
    pub(crate) fn catch_up(&mut self, who: usize) -> bool {
        let side = &mut self.sides[who];
        let again = !side.no_memory && std::mem::take(&mut side.catch_up_soon);
        if again {
            let actions = side.end.catch_up();
            self.carry_out(who, actions);
        }
        again
    }

    /// Time passes until the next timer fires; false if there is none.
    pub(crate) fn wait(&mut self) -> bool {
        let timers = self.sides.iter().filter_map(|side| side.timer);
        let Some(at) = timers.min() else {
            return false;
        };
        self.now = at.since(Time::from_millis(0)).max(self.now);
        let now = self.time();
        for who in 0..2 {
            if self.sides[who].timer.is_some_and(|at| at <= now) {
                self.sides[who].timer = None;
                let actions = self.sides[who].end.on_timeout(now);
                self.carry_out(who, actions);
            }
        }
        true
    }

    /// All go on until nobody can. Returns after how many milliseconds.
    pub(crate) fn settle(&mut self, read: u32) -> u64 {
        let start = self.now;
        for side in &mut self.sides {
            side.no_memory = false;
        }
        let mut idle = 0;
        // Time alone is no progress, nor are questions and answers.
        while idle < 12 && self.now - start < 60_000 {
            let mut moved = false;
            for who in 0..2 {
                moved |= self.deliver(who);
                moved |= self.write(who);
                moved |= self.read(who, read);
                moved |= self.catch_up(who);
            }
            if moved {
                idle = 0;
            } else if self.wait() {
                idle += 1;
            } else {
                break;
            }
        }
        self.now - start
    }

    /// Whether `who` has begun a message that can never be ended, since a buffer was made too small for it meanwhile.
    fn is_hopeless(&self, who: usize) -> bool {
        let side = &self.sides[who];
        let sizes = self.sides.each_ref().map(|side| side.end.buf_alloc());
        let longest = sizes.into_iter().min().unwrap();
        let begun = side.begun.is_some_and(|len| len > longest);
        side.end.socket_type() == SocketType::Seqpacket && (side.too_long || begun)
    }

    /// Both can go on, or have nothing to do: nobody sleeps for what is there, or for what cannot come.
    pub(crate) fn is_at_rest(&self) -> Result<(), String> {
        for (who, side) in self.sides.iter().enumerate() {
            let peer = &self.sides[1 - who];
            let stand = [side, peer].map(|side| side.end.state());
            if stand != [State::Established; 2] {
                continue;
            }
            if !side.to_write.is_empty() && !self.is_hopeless(who) {
                return Err(format!("the writer sleeps for ever: {side:?} {peer:?}"));
            }
            let there = match side.end.socket_type() {
                SocketType::Seqpacket => {
                    let begun = side.end.unread() > 0 && !self.is_hopeless(1 - who);
                    side.end.messages() > 0 || begun
                }
                _ => side.end.is_readable(side.lowat),
            };
            if there {
                return Err(format!("the reader sleeps for ever: {side:?} {peer:?}"));
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}, to write {:?}", self.end, self.to_write)
    }
}
