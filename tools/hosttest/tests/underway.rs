// SPDX-License-Identifier: GPL-2.0

//! What a device takes is taken back soon, whoever sends and however it interrupts; and interrupts are for those who
//! wait.

mod config;

use proptest::prelude::*;
use rvsock_hosttest::proto::{
    Start,
    Timer,
    Underway, //
};

/// In milliseconds, as the driver has them.
const SOON: u64 = 20;
const LATE: u64 = 1000;

/// The driver's part around the rule, and a device.
#[derive(Debug, Default)]
struct Queue {
    now: u64,
    underway: Option<Underway>,
    /// When a timer fires.
    timer: Option<u64>,
    /// Interrupts are on: the next packet that the device uses gives one.
    interrupts: bool,
    /// Packets that the device has used, and nobody has looked at.
    used: u64,
    count: u64,
}

impl Queue {
    fn underway(&mut self) -> &mut Underway {
        self.underway.get_or_insert(Underway::new())
    }

    /// Takes back what is used, and does what follows; as `settle()` and `follow()`.
    fn look(&mut self) {
        for _ in 0..std::mem::take(&mut self.used) {
            self.underway().take();
        }
    }

    fn settle(&mut self) {
        if self.underway().wants_interrupt(false) {
            self.interrupts = true;
        }
        let now = self.now;
        if let Some(Start { timer, instead }) = self.underway().start_timer(false) {
            let delay = if timer == Timer::Late { LATE } else { SOON };
            assert_eq!(self.timer.is_some(), instead);
            self.timer = Some(now + delay);
        }
    }

    fn send(&mut self) {
        self.look();
        self.underway().give();
        self.settle();
    }

    fn wait(&mut self) {
        self.look();
        self.underway().wait_for_all(0);
        self.settle();
    }

    /// The device uses so many at once.
    fn uses(&mut self, count: u64) {
        let in_flight = self.underway().in_flight();
        self.used = (self.used + count).min(in_flight);
        if count > 0 && self.used > 0 && std::mem::take(&mut self.interrupts) {
            self.count += 1;
            self.look();
            self.settle();
        }
    }

    fn advance(&mut self, time: u64) {
        let end = self.now + time;
        while let Some(at) = self.timer.filter(|at| *at <= end) {
            self.now = at;
            self.timer = None;
            self.interrupts = false;
            self.look();
            let _ = self.underway().timer_fired();
            self.settle();
        }
        self.now = end;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send(u8),
    Uses(u8),
    Wait,
    Advance(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..20u8).prop_map(Step::Send),
        4 => (0..20u8).prop_map(Step::Uses),
        1 => Just(Step::Wait),
        2 => (0..60u16).prop_map(Step::Advance),
        1 => (0..3000u16).prop_map(Step::Advance),
    ]
}

proptest! {
    #![proptest_config(config::cases(2000))]

    #[test]
    fn what_the_device_has_taken_is_taken_back_soon(steps in prop::collection::vec(step(), 1..60)) {
        let mut queue = Queue::default();
        for step in steps {
            match step {
                Step::Send(count) => (0..count).for_each(|_| queue.send()),
                Step::Uses(count) => queue.uses(count.into()),
                Step::Wait => queue.wait(),
                Step::Advance(time) => queue.advance(time.into()),
            }
            // Whenever something is under way, somebody will look.
            let in_flight = queue.underway().in_flight();
            prop_assert!(in_flight == 0 || queue.timer.is_some());
            // From here on nobody sends, and the device uses all that it has, without a word if it may: in the time
            // of the quick timer all of it was taken back.
            let mut idle = Queue { ..queue_of(&queue) };
            idle.uses(u64::MAX / 2);
            idle.advance(SOON + 1);
            prop_assert_eq!(idle.underway().in_flight(), 0);
            // One by one, with pauses, it takes no longer than the last of them.
            let mut slow = Queue { ..queue_of(&queue) };
            while slow.underway().in_flight() > slow.used {
                slow.advance(30);
                slow.uses(1);
            }
            slow.advance(SOON + 1);
            prop_assert_eq!(slow.underway().in_flight(), 0);
        }
    }

    #[test]
    fn a_device_that_keeps_up_does_not_interrupt(steps in prop::collection::vec((1..20u8, 0..15u16), 1..200)) {
        let mut queue = Queue::default();
        for (count, time) in steps {
            for _ in 0..count {
                queue.send();
            }
            // It is behind by the last of them, always.
            let done = queue.underway().in_flight().saturating_sub(1 + queue.used);
            queue.uses(done);
            queue.advance(time.into());
        }
        prop_assert_eq!(queue.count, 0);
    }

    #[test]
    fn one_who_waits_has_interrupts_on_for_himself_alone(ahead in 1..15u64) {
        let mut queue = Queue::default();
        for _ in 0..ahead {
            queue.send();
        }
        queue.wait();
        // A steady load: the queue is never empty.
        for _ in 0..1000 {
            queue.send();
            queue.uses(1);
            queue.advance(1);
        }
        prop_assert!(queue.count <= ahead, "{} interrupts for {ahead} packets", queue.count);
    }
}

fn queue_of(queue: &Queue) -> Queue {
    Queue { ..*queue }
}
