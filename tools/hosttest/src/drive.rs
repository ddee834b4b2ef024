// SPDX-License-Identifier: GPL-2.0

//! One connection under a hostile host: what arbitrary bytes do to the rules, as a fuzzer drives them.
//!
//! The bytes are a script of packets, calls, events and time. What decides is an [`Endpoint`], as in the kernel; here is
//! what surrounds it, in short: where payload is stored, what becomes of packets, who reads. Whatever the script says,
//! the promises below must hold; a broken one panics, which is what the fuzzer looks for.

use crate::{
    proto::{
        after_no_five_queues,
        first_attempt,
        held_at_most,
        reset_reply,
        route,
        store,
        Actions,
        Arrival,
        Assembly,
        Choice,
        Control,
        Credit,
        Empties,
        Endpoint,
        Profile,
        Retry,
        Route,
        SendError,
        SockError,
        State,
        Store,
        Time,
        Used, //
    },
    wire::{
        Config,
        Event,
        Header,
        HeaderMrg,
        Op,
        SeqFlags,
        ShutdownFlags,
        SocketType,
        HEADER_LEN,
        HEADER_LEN_MRG, //
    },
};

/// The greatest number of stored buffers that is kept track of: what exceeds it is read at once.
const STORED_MAX: usize = 512;

/// The same for messages: more than may be without payload.
const MESSAGES_MAX: usize = Empties::MAX as usize + 64;

/// The size of a receive buffer.
const BUFFER: usize = 32 * 1024;

/// A device of streams and messages.
const PROFILE: Profile = first_attempt(3, Choice::Auto).profile();

/// The length of the payload, if all of it is among the `arrived` bytes.
fn whole(header: &Header, arrived: usize) -> Option<usize> {
    let len = HEADER_LEN + arrived;
    let used = Used { len, size: len };
    Assembly::begin(HEADER_LEN, header.len, None, used, 1)
        .ok()?
        .finish()
}

/// A stored buffer: its memory, room, payload, and how much of that is unread.
#[derive(Clone, Copy, Default)]
struct Buffer {
    memory: usize,
    room: usize,
    unread: usize,
}

/// A message that is stored, or the part of it that is.
#[derive(Clone, Copy, Default)]
struct Message {
    len: u32,
    empties: u32,
}

/// What is stored: the memory of it, and the messages in it. All of a stream is the part of a message.
struct Unread {
    buffers: [Buffer; STORED_MAX],
    count: usize,
    messages: [Message; MESSAGES_MAX],
    whole: usize,
    part: Message,
    empties: Empties,
}

impl Unread {
    const NONE: Self = Self {
        buffers: [Buffer {
            memory: 0,
            room: 0,
            unread: 0,
        }; STORED_MAX],
        count: 0,
        messages: [Message { len: 0, empties: 0 }; MESSAGES_MAX],
        whole: 0,
        part: Message { len: 0, empties: 0 },
        empties: Empties::new(),
    };

    fn bytes(&self) -> usize {
        self.buffers[..self.count].iter().map(|b| b.unread).sum()
    }

    fn memory(&self) -> usize {
        self.buffers[..self.count].iter().map(|b| b.memory).sum()
    }

    fn is_full(&self) -> bool {
        self.count == STORED_MAX || self.whole == MESSAGES_MAX
    }

    /// Stores a payload; `message` says what part of a message it is, if it is one.
    fn store(&mut self, payload: usize, message: Option<SeqFlags>) -> Result<(), SockError> {
        if let Some(flags) = message {
            if payload == 0 {
                if !self.empties.store() {
                    return Err(SockError::NoBufs);
                }
                self.part.empties += 1;
            }
            self.part.len += u32::try_from(payload).unwrap();
            if flags.contains(SeqFlags::EOM) {
                self.messages[self.whole] = self.part;
                self.whole += 1;
                self.part = Message::default();
            }
        }
        if payload == 0 {
            return Ok(());
        }
        let arrival = Arrival {
            payload,
            buffer: BUFFER,
            tail_room: self
                .count
                .checked_sub(1)
                .map_or(0, |i| self.buffers[i].room),
            unread: self.bytes(),
        };
        let (memory, room) = match store(&arrival) {
            Store::Append => {
                let last = &mut self.buffers[self.count - 1];
                last.room -= payload;
                last.unread += payload;
                return Ok(());
            }
            Store::Compact { capacity } => {
                assert!(capacity >= payload);
                (capacity + 1024, capacity - payload)
            }
            Store::TakePages => (BUFFER + 1024, 0),
        };
        self.buffers[self.count] = Buffer {
            memory,
            room,
            unread: payload,
        };
        self.count += 1;
        assert!(self.memory() <= held_at_most(self.bytes(), BUFFER));
        Ok(())
    }

    /// Takes up to `want` bytes out; returns how many they are.
    fn take_bytes(&mut self, want: usize) -> u32 {
        let mut left = want;
        while left > 0 && self.count > 0 {
            let first = &mut self.buffers[0];
            let len = left.min(first.unread);
            first.unread -= len;
            left -= len;
            if first.unread == 0 {
                self.buffers.copy_within(1..self.count, 0);
                self.count -= 1;
            }
        }
        u32::try_from(want - left).unwrap()
    }

    /// Takes the first message out; returns its length.
    fn take_message(&mut self) -> u32 {
        let message = self.messages[0];
        self.messages.copy_within(1..self.whole, 0);
        self.whole -= 1;
        for _ in 0..message.empties {
            self.empties.read();
        }
        assert_eq!(self.take_bytes(message.len as usize), message.len);
        message.len
    }
}

/// A connection, and what was seen of it since it was last connected.
struct Driven {
    end: Endpoint,
    unread: Unread,
    now: u64,
    /// Bytes that it was allowed to send.
    taken: u64,
    done: bool,
    established: bool,
    failed: bool,
    /// The socket is released: nobody reads or calls any more.
    released: bool,
    /// on_timeout() will be called.
    timer: bool,
    /// When the last REQUEST was sent, when connect() gave up, and since when it is closing.
    requested: u64,
    given_up: u64,
    closing: Option<u64>,
    /// Bytes that have come, that count as read, and that the peer was ever told it may send.
    received: u64,
    consumed: u64,
    promised: u64,
    /// There is none for control packets.
    no_memory: bool,
    /// Something is owed as there was none; of what ends or half ends the connection, this.
    owes: bool,
    owed: Option<Control>,
    /// There is another connection between the same addresses.
    is_replaced: bool,
}

/// Takes bytes off the script; missing ones are zero.
fn take<const N: usize>(script: &mut &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let len = N.min(script.len());
    bytes[..len].copy_from_slice(&script[..len]);
    *script = &script[len..];
    bytes
}

fn take_u32(script: &mut &[u8]) -> u32 {
    u32::from_le_bytes(take(script))
}

impl Driven {
    fn new(end: Endpoint) -> Self {
        Self {
            end,
            unread: Unread::NONE,
            now: 0,
            taken: 0,
            done: false,
            established: false,
            failed: false,
            released: false,
            timer: false,
            requested: 0,
            given_up: 0,
            closing: None,
            received: 0,
            consumed: 0,
            promised: 0,
            no_memory: false,
            owes: false,
            owed: None,
            is_replaced: false,
        }
    }

    /// Another socket, of the same kind and at the same time.
    fn renew(&mut self) {
        let end = Endpoint::new(self.end.socket_type(), self.end.buf_alloc());
        *self = Self {
            now: self.now,
            ..Self::new(end)
        };
    }

    fn time(&self) -> Time {
        Time::from_millis(self.now)
    }

    fn is_message(&self) -> bool {
        self.end.socket_type() == SocketType::Seqpacket
    }

    /// The user reads up to `want` bytes, or a message.
    fn read(&mut self, want: usize, lowat: u32) {
        if self.end.is_abandoned() || self.released {
            return;
        }
        let (bytes, messages) = if !self.is_message() {
            (self.unread.take_bytes(want), 0)
        } else if self.end.messages() > 0 {
            (self.unread.take_message(), 1)
        } else {
            return;
        };
        self.consumed += u64::from(bytes);
        let before = *self.end.credit();
        let was_draining = self.end.state() == State::Draining;
        let actions = self.end.on_read(bytes, messages, lowat);
        // C4: the peer is answered when all is read.
        if bytes > 0 && self.unread.count == 0 {
            assert!(!was_draining || self.end.state() == State::Closed);
        }
        if actions.update {
            assert!(before != *self.end.credit());
        }
        self.carry_out(&actions);
        // K4, K6: whatever the peer is not told of, the reader does not miss.
        self.reader_misses_nothing();
    }

    /// What the reader waits for can come: the peer has room for it as far as it knows, or there is nothing to tell it.
    fn reader_misses_nothing(&self) {
        let rx = &self.end.credit().rx;
        if self.end.state() == State::Established && !self.no_memory && !self.owes {
            let missing = rx.reachable(self.end.lowat()).saturating_sub(rx.unread());
            let mut told = *rx;
            let _ = told.advertise();
            assert!(
                rx.peer_free() >= missing || told.peer_free() <= rx.peer_free(),
                "{:?} lacks {missing}",
                self.end
            );
        }
    }

    /// Sends what is to be sent, as far as there is memory.
    fn send(&mut self, what: Control) {
        let replaced = self.is_replaced;
        let over = self.end.state() == State::Closed;
        if !self.end.may_send_control(what, || replaced) {
            return;
        }
        if self.no_memory && what != Control::Request {
            let actions = self.end.on_unsent(what);
            assert_eq!(actions.catch_up_soon, what != Control::CreditRequest);
            self.owes |= actions.catch_up_soon;
            if matches!(what, Control::Shutdown(_) | Control::Rst) {
                self.owed = Some(what);
            }
            return;
        }
        let told = self.end.advertise(what == Control::Rst, || replaced);
        // The peer of a successor hears nothing of us.
        assert!(told.is_none() || !(over && replaced));
        if let Some(told) = told {
            assert_eq!(told.buf_alloc, self.end.buf_alloc());
            self.promised = (self.promised).max(self.consumed + u64::from(told.buf_alloc));
            assert_eq!(self.end.credit().rx.peer_free(), {
                let mut rx = self.end.credit().rx;
                let _ = rx.advertise();
                rx.peer_free()
            });
        }
    }

    /// The reader of a stream has what he waits for, or all that can come.
    fn has_enough(&self) -> bool {
        let rx = &self.end.credit().rx;
        !self.is_message() && rx.unread() > 0 && rx.unread() >= rx.reachable(self.end.lowat())
    }

    /// Every action must be one that was still possible.
    fn carry_out(&mut self, actions: &Actions) {
        if actions.established && !actions.silent {
            assert!(!self.established && !self.done);
            self.established = true;
        }
        if actions.error.is_some() {
            assert!(!self.failed && actions.done);
            self.failed = true;
        }
        if actions.packets().next().is_some() || actions.deliver {
            assert!(!self.done);
        }
        assert!(actions.send != Some(Control::CreditUpdate));
        if actions.update || actions.ask {
            assert_eq!(self.end.state(), State::Established);
        }
        if actions.done {
            assert!(!self.done);
            assert!(actions.unlink);
            self.done = true;
        }
        if actions.start_close_timer {
            assert_eq!(self.end.state(), State::Closing);
        }
        assert!(!(actions.deliver && actions.discard));
        if let Some(Control::Shutdown(flags)) = actions.send {
            assert_eq!(flags, self.end.local_shutdown());
            assert!(!flags.is_empty());
        }
        if actions.drop_unread {
            self.unread = Unread::NONE;
        }
        self.timer |= actions.start_timer;
        self.owes |= actions.catch_up_soon;
        for what in actions.packets() {
            self.send(what);
        }
    }

    /// What is true between any two steps.
    fn holds(&self) {
        let end = &self.end;
        match end.state() {
            State::Connecting | State::Established | State::Closing => assert!(!self.done),
            State::Closed => assert!(self.done && end.peer_shutdown().is_both()),
            State::Idle | State::Draining => {}
        }
        let tx = &end.credit().tx;
        assert!(tx.free() <= tx.window());
        assert!(u64::from(tx.in_flight()) <= self.taken);
        assert!(tx.free() == 0 || tx.free() == tx.window() - tx.in_flight());
        if !self.released {
            assert_eq!(end.unread() as usize, self.unread.bytes());
            let messages = u32::try_from(self.unread.whole).unwrap();
            assert!(end.messages() == messages || (end.is_abandoned() && end.messages() == 0));
        }
        assert!(!end.is_abandoned() || (end.readable() == 0 && !end.is_readable(1)));
        // What ends with time has its timer. A writer has it once he waits.
        let ends = end.is_abandoned() || (end.state() == State::Closing && self.closing.is_some());
        assert!(self.timer || !ends);
        let mut clock = *end;
        assert!(!ends || clock.deadline(self.time()).is_some());
    }

    fn packet(&mut self, header: &Header, arrived: usize, fails: Option<SockError>) {
        assert_eq!(Header::parse(&header.to_bytes()), *header);
        if let Some(reply) = reset_reply(header) {
            assert_eq!(reply.operation(), Ok(Op::Rst));
            assert!(header.operation() != Ok(Op::Rst));
            assert!(reset_reply(&reply).is_none());
        }
        let (Ok(src), Ok(dst), Ok(op)) = (header.src(), header.dst(), header.operation()) else {
            assert!(!matches!(
                route(header, header.dst_cid as u32, &PROFILE),
                Route::Connection(_)
            ));
            return;
        };
        if let Route::Connection(to) = route(header, dst.cid, &PROFILE) {
            assert_eq!((to.peer, to.local_port, to.op), (src, dst.port, op));
            assert_eq!(header.socket_type(), Ok(to.ty));
        }
        // C1: nothing that is for another machine gets to a connection of ours.
        let elsewhere = route(header, !dst.cid, &PROFILE);
        assert!(!matches!(elsewhere, Route::Connection(_)));
        let Some(len) = whole(header, arrived) else {
            return;
        };
        assert!(len <= arrived);
        if self.unread.is_full() {
            if self.is_message() && self.unread.whole == 0 {
                return;
            }
            self.read(self.unread.buffers[0].unread, self.end.lowat());
            if self.unread.is_full() {
                return;
            }
        }
        let (state, unread, free) = (self.end.state(), self.end.unread(), self.end.free());
        let had_enough = self.has_enough();
        let damaged = fails == Some(SockError::ConnReset);
        let mut actions = self.end.on_packet(header, op, damaged);
        if op == Op::Rst && !damaged {
            assert!(!actions.reply_rst && actions.packets().next().is_none());
        }
        if matches!(state, State::Idle | State::Closed) && !damaged {
            assert_eq!(actions.reply_rst, op != Op::Rst);
            assert!(!actions.done && actions.packets().next().is_none() && !actions.deliver);
        }
        // C8: only two packets decide.
        if state == State::Connecting && !damaged && !matches!(op, Op::Response | Op::Rst) {
            assert_eq!(self.end.state(), State::Connecting);
        }
        if actions.deliver || actions.discard {
            // K3: no more than it was told, ever.
            self.received += u64::from(header.len);
            assert!(self.received <= self.promised);
        }
        if actions.discard {
            self.consumed += u64::from(header.len);
        }
        assert!(!actions.wake_writer || (free == 0 && self.end.free() > 0));
        if actions.deliver {
            assert_eq!(self.end.unread(), unread + header.len);
            let message = self.is_message().then(|| SeqFlags::from_raw(header.flags));
            let result = match fails {
                Some(error) => Err(error),
                None => self.unread.store(len, message),
            };
            actions = self.end.on_stored(header, actions, result);
            assert_eq!(actions.error.is_some(), result.is_err());
            if result.is_ok() && !self.is_message() {
                assert_eq!(actions.wake_reader, self.has_enough());
            }
        } else if self.end.state() == State::Established {
            assert_eq!(self.end.unread(), unread);
        }
        // K6: also if less can come than before.
        let woken = had_enough || !self.has_enough() || actions.wake_reader;
        assert!(woken || self.done || actions.done);
        self.carry_out(&actions);
    }

    fn begin(&mut self, lowat: u32) {
        let state = self.end.state();
        let actions = self.end.connect(self.time(), lowat);
        if actions.send == Some(Control::Request) {
            assert!(matches!(
                state,
                State::Idle | State::Connecting | State::Closed
            ));
            assert_eq!(*self.end.credit(), Credit::new(self.end.buf_alloc()));
            assert_eq!(self.end.lowat(), lowat);
            *self = Self {
                now: self.now,
                requested: self.now,
                timer: self.timer,
                ..Self::new(self.end)
            };
        }
        self.carry_out(&actions);
    }

    /// connect() is called.
    fn connect(&mut self, same: bool, lowat: u32) {
        if self.released {
            self.renew();
        }
        let (state, was_abandoned) = (self.end.state(), self.end.is_abandoned());
        match self.end.retry(same, self.time()) {
            Retry::GoOn(actions) => {
                assert!(was_abandoned && same && !self.done);
                // C8: what is stale is not waited for.
                assert!(state != State::Connecting || self.now - self.requested < 1000);
                assert!(!actions.silent);
                self.carry_out(&actions);
            }
            Retry::LetGo(actions) => {
                assert!(was_abandoned && actions.silent);
                self.carry_out(&actions);
                assert_eq!(self.end.state(), State::Closed);
                self.begin(lowat);
            }
            Retry::Begin => self.begin(lowat),
        }
    }

    fn timeout(&mut self) {
        let (was_abandoned, state) = (self.end.is_abandoned(), self.end.state());
        self.timer = false;
        let actions = self.end.on_timeout(self.time());
        self.carry_out(&actions);
        let late = |since: u64, limit| self.now - since >= limit;
        if state == State::Closing && self.closing.is_some_and(|since| late(since, 8000)) {
            assert!(self.done);
        }
        if was_abandoned && late(self.given_up, 1000) {
            assert_eq!(self.end.state(), State::Closed);
        }
    }

    fn close(&mut self) {
        let unseen = self.end.is_first_call() && self.no_memory;
        let actions = self.end.close(unseen);
        assert!(!unseen || actions.send.is_none());
        self.released = true;
        self.carry_out(&actions);
    }

    /// Something happens that is no packet.
    fn event(&mut self, what: u8, script: &mut &[u8]) {
        let state = self.end.state();
        let actions = match what {
            0 => {
                self.given_up = self.now;
                // The next call is to hear of it.
                self.established = false;
                self.end.give_up(self.time())
            }
            1 => return self.close(),
            2 => {
                self.now += u64::from(take_u32(script) % 4096);
                return self.timeout();
            }
            3 => self.end.transport_reset(),
            4 => {
                let actions = self.end.device_leaving();
                // C7: it has our SHUTDOWN.
                assert!(state != State::Closing || actions.send.is_none());
                actions
            }
            5 => {
                if self.end.wait_for_close(self.time()) {
                    self.closing = Some(self.now);
                    self.timer = true;
                }
                return;
            }
            6 => self.end.abort(SockError::NoMem),
            7 => {
                self.renew();
                let request = Header::parse(&take::<HEADER_LEN>(script));
                self.end.accept(&request);
                // RESPONSE.
                let told = self.end.advertise(false, || false).unwrap();
                self.promised = told.buf_alloc.into();
                return;
            }
            8 => {
                self.now += u64::from(take::<1>(script)[0]) * 64;
                return;
            }
            9 => {
                self.no_memory = false;
                self.owes = false;
                // Also after the end: it may be the RST.
                let actions = self.end.catch_up();
                assert_eq!(actions.send, self.owed.take());
                for what in actions.packets() {
                    self.send(what);
                }
                assert!(self.end.catch_up().is_empty());
                return;
            }
            10 => {
                self.no_memory = !self.no_memory;
                return;
            }
            11 => {
                self.is_replaced = !self.is_replaced;
                return;
            }
            12 if self.end.is_abandoned() => self.end.on_request_withdrawn(),
            13 => {
                let lowat = take_u32(script).max(1);
                let actions = self.end.on_wait_to_read(lowat);
                assert_eq!(self.end.lowat(), lowat);
                actions
            }
            14 => self.end.on_unsent(Control::CreditRequest),
            _ => return,
        };
        self.carry_out(&actions);
        if what == 13 {
            self.reader_misses_nothing();
        }
    }

    fn step(&mut self, what: u8, script: &mut &[u8]) {
        let actions = match what % 16 {
            0..=4 => {
                let mut header = Header::parse(&take::<HEADER_LEN>(script));
                // Most packets should get past the first checks.
                if what & 0x10 != 0 {
                    header.src_cid &= 0xffff_ffff;
                    header.dst_cid &= 0xffff_ffff;
                    header.op %= 8;
                    header.len %= 2 * BUFFER as u32;
                }
                let fails = match what >> 5 {
                    7 => Some(SockError::ConnReset),
                    6 => Some(SockError::NoMem),
                    _ => None,
                };
                return self.packet(&header, BUFFER, fails);
            }
            5 if !self.released => self.end.shutdown(ShutdownFlags::from_raw(take_u32(script))),
            6 => return self.connect(what & 0x20 == 0, u32::from(what >> 6) * 500 + 1),
            7 => return self.event(what >> 4, script),
            8 | 9 if !self.released => {
                let want = take_u32(script);
                let tx = self.end.credit().tx;
                match self.end.reserve(want) {
                    Ok(granted) => {
                        assert_eq!(self.end.state(), State::Established);
                        assert_eq!(granted, want.min(tx.free()));
                        self.taken += u64::from(granted);
                    }
                    Err(SendError::TooLong) => assert!(self.is_message() && want > tx.window()),
                    Err(SendError::Over) => {}
                }
                return;
            }
            10 => return self.end.give_back(take_u32(script)),
            11 | 12 => {
                let want = take_u32(script) as usize % (2 * BUFFER);
                return self.read(want, take_u32(script) % 1024 + 1);
            }
            13 => {
                let buf_alloc = take_u32(script);
                let changed = buf_alloc != self.end.buf_alloc();
                let had_enough = self.has_enough();
                let actions = self.end.set_buf_alloc(buf_alloc);
                // K6: who has enough by now is woken.
                assert!(had_enough || !self.has_enough() || actions.wake_reader);
                let told = changed && self.end.state() == State::Established;
                assert_eq!(actions.update, told);
                actions
            }
            14 => {
                let actions = self.end.on_wait_to_write();
                assert!(!actions.ask || self.end.free() == 0);
                // It is asked once, and looked after.
                assert!(!self.end.on_wait_to_write().ask);
                assert!(!actions.ask || actions.start_timer);
                actions
            }
            15 => return edges(script),
            _ => return,
        };
        self.carry_out(&actions);
    }
}

/// What is read once, not per connection: the 46-byte header, events, configuration, features.
fn edges(script: &mut &[u8]) {
    let bytes = take::<HEADER_LEN_MRG>(script);
    assert_eq!(HeaderMrg::parse(&bytes).to_bytes(), bytes);
    let event = take(script);
    assert_eq!(Event::parse(&event).is_ok(), event == [0; 4]);
    if let Ok(cid) = Config::parse(&take(script)).cid() {
        assert!(cid > 2 && cid < u32::MAX);
    }
    let offered = u64::from_le_bytes(take(script));
    for choice in [
        Choice::Auto,
        Choice::Ratified,
        Choice::Draft,
        Choice::Shared,
    ] {
        let first = first_attempt(offered, choice);
        for attempt in [Some(first), after_no_five_queues(offered, choice)]
            .into_iter()
            .flatten()
        {
            assert_eq!(attempt.accept & !(offered & 0xf), 0);
            assert!(matches!(attempt.profile().header_len(), 44 | 46));
        }
    }
}

/// Runs a script from its first byte to its last.
///
/// # Panics
///
/// When a promise is broken.
pub fn drive(mut script: &[u8]) {
    let buf_alloc = take_u32(&mut script);
    let ty = if buf_alloc % 2 == 0 {
        SocketType::Stream
    } else {
        SocketType::Seqpacket
    };
    let mut driven = Driven::new(Endpoint::new(ty, buf_alloc));
    while let Some((&what, rest)) = script.split_first() {
        script = rest;
        let was_abandoned = driven.end.is_abandoned();
        driven.step(what, &mut script);
        // What connect() never heard of, nobody finds later.
        if was_abandoned && driven.end.state() == State::Closed {
            assert!(driven.end.unread() == 0 && driven.unread.bytes() == 0);
        }
        driven.holds();
    }
}
