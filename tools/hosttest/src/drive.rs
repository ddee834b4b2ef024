// SPDX-License-Identifier: GPL-2.0

//! One connection under a hostile host: what arbitrary bytes do to the rules, as a fuzzer drives them.
//!
//! The bytes are a script of packets, calls and events. The driver's part is played in short: credit
//! is noted, the state machine is asked, its actions are carried out. Whatever the script says, the
//! promises below must hold; a broken one panics, which is what the fuzzer looks for.

use crate::{
    proto::{
        after_no_five_queues,
        first_attempt,
        held_at_most,
        reset_reply,
        store,
        Actions,
        Arrival,
        Assembly,
        Choice,
        Connection,
        Control,
        Credit,
        SockError,
        State,
        Store,
        Used, //
    },
    wire::{
        Config,
        Event,
        Header,
        HeaderMrg,
        Op,
        ShutdownFlags,
        HEADER_LEN,
        HEADER_LEN_MRG, //
    },
};

/// The greatest number of stored buffers that is kept track of: what exceeds it is read at once.
const STORED_MAX: usize = 512;

/// The size of a receive buffer.
const BUFFER: usize = 32 * 1024;

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
struct Stored {
    memory: usize,
    room: usize,
    unread: usize,
}

/// A connection, and what was seen of it since it was last connected.
struct Driven {
    connection: Connection,
    credit: Credit,
    stored: [Stored; STORED_MAX],
    count: usize,
    taken: u64,
    done: bool,
    established: bool,
    failed: bool,
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
    fn new(credit: Credit) -> Self {
        Self {
            connection: Connection::new(),
            credit,
            stored: [Stored::default(); STORED_MAX],
            count: 0,
            taken: 0,
            done: false,
            established: false,
            failed: false,
        }
    }

    fn unread(&self) -> usize {
        self.stored[..self.count].iter().map(|s| s.unread).sum()
    }

    fn memory(&self) -> usize {
        self.stored[..self.count].iter().map(|s| s.memory).sum()
    }

    fn read(&mut self, mut want: usize) {
        while want > 0 && self.count > 0 {
            let first = &mut self.stored[0];
            let len = want.min(first.unread);
            first.unread -= len;
            want -= len;
            self.credit.rx.consume(u32::try_from(len).unwrap());
            if self.stored[0].unread == 0 {
                self.stored.copy_within(1..self.count, 0);
                self.count -= 1;
            }
        }
        assert_eq!(self.credit.rx.unread() as usize, self.unread());
        if self.count == 0 {
            let actions = self.connection.drained();
            self.carry_out(&actions);
        }
    }

    fn store(&mut self, payload: usize) {
        if payload == 0 {
            return;
        }
        if self.count == STORED_MAX {
            self.read(self.stored[0].unread);
        }
        let arrival = Arrival {
            payload,
            buffer: BUFFER,
            tail_room: self.count.checked_sub(1).map_or(0, |i| self.stored[i].room),
            unread: self.unread(),
        };
        match store(&arrival) {
            Store::Append => {
                let last = &mut self.stored[self.count - 1];
                last.room -= payload;
                last.unread += payload;
            }
            Store::Compact { capacity } => {
                assert!(capacity >= payload);
                self.stored[self.count] = Stored {
                    memory: capacity + 1024,
                    room: capacity - payload,
                    unread: payload,
                };
                self.count += 1;
            }
            Store::TakePages => {
                self.stored[self.count] = Stored {
                    memory: BUFFER + 1024,
                    room: 0,
                    unread: payload,
                };
                self.count += 1;
            }
        }
        assert!(self.memory() <= held_at_most(self.unread(), BUFFER));
    }

    /// Every action must be one that was still possible.
    fn carry_out(&mut self, actions: &Actions) {
        if actions.established {
            assert!(!self.established && !self.done);
        }
        self.established |= actions.established;
        if actions.error.is_some() {
            assert!(!self.failed && actions.done);
            self.failed = true;
        }
        if actions.send.is_some() || actions.deliver {
            assert!(!self.done);
        }
        if actions.done {
            assert!(!self.done);
            assert!(actions.unlink);
            self.done = true;
        }
        if actions.start_close_timer {
            assert_eq!(self.connection.state(), State::Closing);
        }
        assert!(!(actions.deliver && actions.discard));
        if let Some(Control::Shutdown(flags)) = actions.send {
            assert_eq!(flags, self.connection.local_shutdown());
            assert!(!flags.is_empty());
        }
        if actions.send.is_some() {
            assert_eq!(
                self.credit.rx.advertise().buf_alloc,
                self.credit.rx.buf_alloc()
            );
        }
        match self.connection.state() {
            State::Connecting | State::Established | State::Closing => assert!(!self.done),
            State::Closed => assert!(self.done && self.connection.peer_shutdown().is_both()),
            State::Idle | State::Draining => {}
        }
        assert!(!self.connection.may_send() || self.connection.state() == State::Established);
    }

    fn packet(&mut self, header: &Header, arrived: usize) {
        assert_eq!(Header::parse(&header.to_bytes()), *header);
        if let Some(reply) = reset_reply(header) {
            assert_eq!(reply.operation(), Ok(Op::Rst));
            assert!(header.operation() != Ok(Op::Rst));
            assert!(reset_reply(&reply).is_none());
        }
        let (Ok(_), Ok(_), Ok(op)) = (header.src(), header.dst(), header.operation()) else {
            return;
        };
        let Some(len) = whole(header, arrived) else {
            return;
        };
        assert!(len <= arrived);
        let state = self.connection.state();
        let _ = self.credit.update(header);
        self.credit_holds();

        let actions = self.connection.packet(op, header.flags, self.count > 0);
        if op == Op::Rst {
            assert!(!actions.reply_rst && actions.send.is_none());
        }
        if matches!(state, State::Idle | State::Closed) {
            let expected = Actions {
                reply_rst: op != Op::Rst,
                ..Actions::NONE
            };
            assert_eq!(actions, expected);
        }
        self.carry_out(&actions);
        if actions.deliver || actions.discard {
            let len32 = u32::try_from(len).unwrap();
            let unread = self.credit.rx.unread();
            if self.credit.rx.receive(len32).is_err() {
                assert_eq!(self.credit.rx.unread(), unread);
                let actions = self.connection.abort(SockError::NoBufs);
                self.carry_out(&actions);
            } else if actions.discard {
                self.credit.rx.consume(len32);
                assert_eq!(self.credit.rx.unread(), unread);
            } else {
                self.store(len);
            }
        }
    }

    fn credit_holds(&self) {
        let tx = &self.credit.tx;
        assert!(tx.free() <= tx.window());
        assert!(u64::from(tx.in_flight()) <= self.taken);
        assert!(tx.free() == 0 || tx.free() == tx.window() - tx.in_flight());
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
                return self.packet(&header, BUFFER);
            }
            5 => self
                .connection
                .shutdown(ShutdownFlags::from_raw(take_u32(script))),
            6 => {
                let state = self.connection.state();
                let actions = self.connection.connect();
                if actions.send == Some(Control::Request) {
                    assert!(matches!(
                        state,
                        State::Idle | State::Connecting | State::Closed
                    ));
                    let buf_alloc = self.credit.rx.buf_alloc();
                    self.credit.reset();
                    *self = Self {
                        connection: self.connection,
                        ..Self::new(self.credit)
                    };
                    assert_eq!(self.credit, Credit::new(buf_alloc));
                }
                actions
            }
            7 => match what >> 4 {
                0 => {
                    self.connection.cancel();
                    Actions::NONE
                }
                1 => self.connection.close(),
                2 => self.connection.close_timeout(),
                3 => self.connection.transport_reset(),
                4 => self.connection.device_leaving(),
                5 => self.connection.device_gone(),
                6 => self.connection.abort(SockError::NoMem),
                7 => {
                    self.connection = Connection::accepted();
                    self.done = false;
                    self.established = false;
                    self.failed = false;
                    Actions::NONE
                }
                8 => {
                    self.connection.claim();
                    Actions::NONE
                }
                9 => self.connection.abandoned_timeout(),
                _ => Actions::NONE,
            },
            8 | 9 => {
                let want = take_u32(script);
                let free = self.credit.tx.free();
                let granted = self.credit.tx.take(want);
                assert_eq!(granted, want.min(free));
                self.taken += u64::from(granted);
                return self.credit_holds();
            }
            10 => {
                self.credit.tx.give_back(take_u32(script));
                return self.credit_holds();
            }
            11 | 12 => {
                self.read(take_u32(script) as usize % (2 * BUFFER));
                let target = take_u32(script) % 1024;
                if self.credit.rx.update_due(target) {
                    let before = self.credit.rx.peer_free();
                    let _ = self.credit.rx.advertise();
                    assert!(self.credit.rx.peer_free() > before);
                    assert!(!self.credit.rx.update_due(u32::MAX));
                }
                return;
            }
            13 => {
                self.credit.set_buf_alloc(take_u32(script));
                return self.credit_holds();
            }
            14 => {
                let _ = self.credit.tx.ask();
                assert!(!self.credit.tx.ask());
                if take::<1>(script)[0] & 1 != 0 {
                    let _ = self.credit.tx.look();
                }
                return self.credit_holds();
            }
            _ => return edges(script),
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
    for choice in [Choice::Auto, Choice::Ratified, Choice::Draft] {
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
    let mut driven = Driven::new(Credit::new(buf_alloc));
    while let Some((&what, rest)) = script.split_first() {
        script = rest;
        driven.step(what, &mut script);
    }
}
