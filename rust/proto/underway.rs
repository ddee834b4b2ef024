// SPDX-License-Identifier: GPL-2.0

//! Packets that the device has and who takes them back: the next call that sends, a timer, or an interrupt.
//!
//! Interrupts cost, so that they are off while no caller waits. A timer runs whenever the device has
//! packets, and so nothing that the device has taken stays for long. What the timer finds the
//! device to be slow with, and what a caller waits for, is left to interrupts; and the timer, now a
//! slow one, only sees that the device moves at all.

/// A timer of [`Underway`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Nothing runs.
    Idle,
    /// It looks for what the device has taken without a word.
    Soon,
    /// It looks whether the device moves.
    Late,
}

/// A timer that is to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Which one: not [`Timer::Idle`].
    pub timer: Timer,
    /// One runs, which it takes the place of.
    pub instead: bool,
}

/// The packets of a transmit queue that are under way.
///
/// Counts run freely; packets are taken back in any order, so that they say how many are under way,
/// and not which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Underway {
    /// Packets that the device was given.
    given: u64,
    /// Packets that were taken back.
    taken: u64,
    /// Interrupts are wanted until so many were taken back.
    awaited: u64,
    /// Of those that a caller waits for some may not have been given: packets that came later may go before them.
    behind: bool,
    timer: Timer,
    /// How many were taken back, and given, when the timer was started.
    taken_before: u64,
    given_before: u64,
}

impl Default for Underway {
    fn default() -> Self {
        Self::new()
    }
}

impl Underway {
    /// None.
    pub const fn new() -> Self {
        Self {
            given: 0,
            taken: 0,
            awaited: 0,
            behind: false,
            timer: Timer::Idle,
            taken_before: 0,
            given_before: 0,
        }
    }

    /// How many packets the device has.
    pub const fn in_flight(&self) -> u64 {
        self.given.saturating_sub(self.taken)
    }

    /// The device was given a packet.
    pub fn give(&mut self) {
        self.given = self.given.saturating_add(1);
        if self.behind {
            self.awaited = self.awaited.max(self.given);
        }
    }

    /// A packet was taken back.
    pub fn take(&mut self) {
        self.taken = self.taken.saturating_add(1).min(self.given);
    }

    /// A caller waits until all that was sent so far is taken back: what the device has, and `waiting`
    /// packets more.
    pub fn wait_for_all(&mut self, waiting: usize) {
        self.awaited = self.given.saturating_add(waiting as u64);
        self.behind = waiting > 0;
    }

    /// Whether the device is to say that it has taken packets; `waits`: some wait for room.
    pub fn wants_interrupt(&mut self, waits: bool) -> bool {
        self.behind &= waits;
        self.in_flight() > 0 && (waits || self.taken < self.awaited)
    }

    /// The timer has fired, and what the device had taken was taken back. Returns whether the device has
    /// not moved since the slow timer was started.
    pub fn timer_fired(&mut self) -> bool {
        let stuck =
            self.timer == Timer::Late && self.in_flight() > 0 && self.taken == self.taken_before;
        self.timer = Timer::Idle;
        if self.taken < self.given_before {
            // The device is slow to take them: it shall say so itself. Some may wait for more than that.
            self.awaited = self.awaited.max(self.given);
        }
        stuck
    }

    /// Which timer must be started now; `waits`: packets wait for room, or for memory.
    pub fn start_timer(&mut self, waits: bool) -> Option<Start> {
        if self.in_flight() == 0 && !waits {
            return None;
        }
        let timer = if self.wants_interrupt(waits) {
            Timer::Late
        } else {
            Timer::Soon
        };
        let instead = match (self.timer, timer) {
            (Timer::Idle, _) => false,
            (Timer::Late, Timer::Soon) => true,
            _ => return None,
        };
        self.timer = timer;
        self.taken_before = self.taken;
        self.given_before = self.given;
        Some(Start { timer, instead })
    }
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_underway))]
mod tests {
    use super::*;

    const SOON: Option<Start> = Some(Start {
        timer: Timer::Soon,
        instead: false,
    });
    const LATE: Option<Start> = Some(Start {
        timer: Timer::Late,
        instead: false,
    });

    fn given(count: u32) -> Underway {
        let mut underway = Underway::new();
        for _ in 0..count {
            underway.give();
        }
        underway
    }

    #[test]
    fn no_timer_without_packets() {
        let mut underway = given(0);
        assert_eq!(underway.start_timer(false), None);
        assert!(!underway.wants_interrupt(true));
        // Those that wait for memory are tried again.
        assert_eq!(underway.start_timer(true), SOON);
    }

    #[test]
    fn a_timer_and_no_interrupt_for_what_nobody_waits_for() {
        let mut underway = given(1);
        assert!(!underway.wants_interrupt(false));
        assert_eq!(underway.start_timer(false), SOON);
        // It runs.
        underway.give();
        assert_eq!(underway.start_timer(false), None);
    }

    #[test]
    fn the_timer_takes_nothing_from_who_waits_for_more() {
        let mut underway = given(10);
        let _ = underway.start_timer(true);
        // A caller waits for those, and for five that find no room.
        underway.wait_for_all(5);
        assert!(underway.timer_fired());
        for _ in 0..5 {
            underway.give();
        }
        for _ in 0..14 {
            underway.take();
            assert!(underway.wants_interrupt(false));
        }
        underway.take();
        assert!(!underway.wants_interrupt(false));
    }

    #[test]
    fn interrupts_for_what_the_timer_finds_and_no_more() {
        let mut underway = given(10);
        let _ = underway.start_timer(false);
        assert!(!underway.timer_fired());
        assert!(underway.wants_interrupt(false));
        assert_eq!(underway.start_timer(false), LATE);
        // More are given while those are taken: the queue is never empty.
        for _ in 0..9 {
            underway.give();
            underway.take();
            assert!(underway.wants_interrupt(false));
        }
        underway.take();
        assert!(!underway.wants_interrupt(false));
        // The slow timer runs: what was given since must not wait for it.
        assert_eq!(
            underway.start_timer(false),
            Some(Start {
                timer: Timer::Soon,
                instead: true,
            })
        );
        assert_eq!(underway.start_timer(false), None);
    }

    #[test]
    fn no_interrupts_for_a_device_that_keeps_up() {
        let mut underway = given(1);
        for _ in 0..3 {
            assert_eq!(underway.start_timer(false), SOON);
            underway.give();
            underway.take();
            // What it has is new.
            assert!(!underway.timer_fired());
            assert!(!underway.wants_interrupt(false));
        }
    }

    #[test]
    fn one_who_waits_gets_interrupts_for_what_was_sent_before() {
        let mut underway = given(2);
        underway.wait_for_all(1);
        underway.give();
        assert!(underway.wants_interrupt(false));
        underway.give();
        for _ in 0..3 {
            assert!(underway.wants_interrupt(false));
            underway.take();
        }
        assert!(!underway.wants_interrupt(false));
        assert!(underway.wants_interrupt(true));
    }

    #[test]
    fn one_who_waits_is_told_though_others_go_before() {
        let mut underway = given(1);
        underway.wait_for_all(1);
        // Others, which came later.
        for _ in 0..3 {
            underway.give();
            assert!(underway.wants_interrupt(true));
            underway.take();
            underway.take();
        }
        underway.give();
        assert!(underway.wants_interrupt(false));
        underway.take();
        assert!(!underway.wants_interrupt(false));
    }

    #[test]
    fn a_device_that_does_not_move_is_found_out() {
        let mut underway = given(2);
        let _ = underway.start_timer(false);
        assert!(!underway.timer_fired());
        assert_eq!(underway.start_timer(false), LATE);
        underway.take();
        assert!(!underway.timer_fired());
        assert_eq!(underway.start_timer(false), LATE);
        assert!(underway.timer_fired());
        assert_eq!(underway.start_timer(false), LATE);
        underway.take();
        assert!(!underway.timer_fired());
        assert_eq!(underway.start_timer(false), None);
    }

    #[test]
    fn h2_more_taken_than_given_is_none_in_flight() {
        let mut underway = given(1);
        underway.take();
        underway.take();
        assert_eq!(underway.in_flight(), 0);
        underway.give();
        assert_eq!(underway.in_flight(), 1);
    }
}
