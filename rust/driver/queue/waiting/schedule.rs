// SPDX-License-Identifier: GPL-2.0

//! Packets that wait while a network interface's scheduler gives the turns (N2, N3).

use super::{
    ordered,
    Waiting, //
};
use crate::{
    driver::queue::scheduled::{
        Ended,
        Given, //
    },
    ext::net::{
        device::Turn,
        skbuff::SkBuffQueue, //
    }, //
};
use kernel::prelude::*;

impl Waiting {
    /// An interface's scheduler gives turns from now on, if the interface is up: to what waits for its turn, too.
    pub(in crate::driver::queue) fn begin_schedule(&mut self) {
        self.scheduled.begin();
        if !self.scheduled.is_on() {
            return;
        }
        let mut turns = core::mem::take(&mut self.turns);
        while let Some(packet) = turns.pop_front() {
            let rest = ordered(&packet).map(|sender| sender.backlog().unlist());
            self.list(packet);
            self.list_all(rest.unwrap_or_default());
        }
    }

    /// None gives turns from now on: what waits for its scheduler takes turns here, in its order.
    pub(in crate::driver::queue) fn end_schedule(&mut self) -> Ended {
        self.scheduled.end();
        let mut taken = self.scheduled.take_all();
        taken.for_each(|given| {
            if let Some(packet) = given.take_datagram() {
                self.list(packet);
            } else if let Some(sender) = given.sender() {
                self.list_all(sender.backlog().unhold());
            }
        });
        taken
    }

    /// A turn has come: what it was for is ready.
    pub(in crate::driver::queue) fn spend(&mut self, turn: &Turn) -> Option<Given> {
        let mut given = self.scheduled.spend(turn)?;
        let mut packets = match (given.take_datagram(), given.sender()) {
            (Some(packet), _) => packet.into(),
            (None, Some(sender)) => sender.backlog().release(),
            (None, None) => SkBuffQueue::new(),
        };
        while let Some(mut packet) = packets.pop_front() {
            packet.control_mut().have_turn();
            self.ready.push_back(packet);
        }
        Some(given)
    }

    /// Looks for turns that were dropped. Those that are over are returned, and with them the datagrams that were for them.
    pub(in crate::driver::queue) fn look(&mut self) -> KVec<Given> {
        let over = self.scheduled.look();
        for packet in over.iter().filter_map(Given::datagram) {
            self.count_out(packet);
        }
        over
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(rvsock_schedule)]
mod tests {
    use super::*;
    use crate::{
        driver::queue::packet::{
            testing::{
                datagram,
                number_of,
                TestSender, //
            },
            Cause,
            Packet,
            Sender, //
        },
        ext::net::device::NetDevice, //
    };

    /// None wait, and an interface is up, whose scheduler is the test.
    fn scheduled() -> Result<Waiting> {
        let mut waiting = Waiting::new(true);
        waiting.scheduled.attach(NetDevice::new()?, 0);
        waiting.scheduled.set_up(true);
        waiting.begin_schedule();
        Ok(waiting)
    }

    fn push(waiting: &mut Waiting, packet: Packet) {
        assert!(!waiting.lets_pass(&packet));
        assert!(waiting.push(packet).is_none());
    }

    /// The turns that the scheduler is given.
    fn turns(waiting: &mut Waiting) -> KVec<Turn> {
        let due = waiting.scheduled.take_due();
        due.map_or(KVec::new(), |(_, turns)| turns)
    }

    /// The number of the packet that the device may be given; zero for none.
    fn next(waiting: &mut Waiting) -> u32 {
        let Some(popped) = waiting.pop() else {
            return 0;
        };
        waiting.advance(popped.next);
        number_of(Some(&popped.packet))
    }

    #[test]
    fn n2_turns_in_any_order_keep_a_senders_packets_in_theirs() -> Result {
        let mut waiting = scheduled()?;
        let sender = TestSender::new(1000)?;
        for number in 1..=3 {
            push(&mut waiting, sender.data(number, 5)?);
        }
        assert_eq!(waiting.len(), 3);
        let turns = turns(&mut waiting);
        assert_eq!(turns.len(), 3);
        assert_eq!(next(&mut waiting), 0);
        for (number, turn) in (1..).zip(turns.iter().rev()) {
            assert!(waiting.spend(turn).is_some());
            assert_eq!(next(&mut waiting), number);
            assert_eq!(next(&mut waiting), 0);
            // It is spent.
            assert!(waiting.spend(turn).is_none());
        }
        assert!(waiting.is_empty() && !sender.backlog().has_packets());
        Ok(())
    }

    #[test]
    fn n2_control_packets_need_no_turn_and_keep_their_order() -> Result {
        let mut waiting = scheduled()?;
        let (sender, other) = (TestSender::new(1000)?, TestSender::new(1000)?);
        push(&mut waiting, sender.data(1, 5)?);
        push(&mut waiting, sender.packet(2, Cause::Call)?);
        push(&mut waiting, sender.data(3, 5)?);
        push(&mut waiting, sender.packet(4, Cause::Last)?);
        // One of another, and an update of credit, wait for nothing.
        assert!(waiting.lets_pass(&other.packet(5, Cause::Call)?));
        assert!(waiting.lets_pass(&sender.packet(6, Cause::CreditUpdate)?));
        let turns = turns(&mut waiting);
        assert_eq!(turns.len(), 2);
        for (turn, numbers) in turns.iter().zip([[1, 2], [3, 4]]) {
            assert_eq!(next(&mut waiting), 0);
            assert!(waiting.spend(turn).is_some());
            for number in numbers {
                assert_eq!(next(&mut waiting), number);
            }
        }
        assert!(waiting.is_empty());
        Ok(())
    }

    #[test]
    fn n3_a_turn_that_is_dropped_is_asked_for_again() -> Result {
        let mut waiting = scheduled()?;
        let sender = TestSender::new(1000)?;
        push(&mut waiting, sender.data(1, 5)?);
        for looks in [2, 3, 5] {
            drop(turns(&mut waiting));
            for _ in 0..looks {
                assert!(!waiting.scheduled.has_due());
                assert!(waiting.look().is_empty());
            }
            assert!(waiting.scheduled.has_due());
        }
        assert_eq!(waiting.scheduled.counts().lost, 3);
        let turns = turns(&mut waiting);
        // One that is out is not lost.
        assert!(waiting.look().is_empty() && !waiting.scheduled.has_due());
        for turn in &turns {
            assert!(waiting.spend(turn).is_some());
        }
        assert_eq!(next(&mut waiting), 1);
        Ok(())
    }

    #[test]
    fn n3_a_datagram_is_lost_with_its_turn() -> Result {
        let mut waiting = scheduled()?;
        push(&mut waiting, datagram(1, 5)?);
        push(&mut waiting, datagram(2, 5)?);
        let mut turns = turns(&mut waiting);
        let second = turns.pop().ok_or(EINVAL)?;
        drop(turns);
        let mut over = waiting.look();
        assert_eq!(over.len(), 1);
        for given in over.iter_mut() {
            assert_eq!(number_of(given.take_datagram().as_ref()), 1);
        }
        assert_eq!(waiting.len(), 1);
        assert!(waiting.spend(&second).is_some());
        assert_eq!(next(&mut waiting), 2);
        assert!(waiting.is_empty());
        assert_eq!(waiting.memory(), 0);
        Ok(())
    }

    #[test]
    fn n3_a_turn_of_one_who_waits_for_nothing_is_forgotten() -> Result {
        let mut waiting = scheduled()?;
        let sender = TestSender::new(1000)?;
        push(&mut waiting, sender.data(1, 5)?);
        push(&mut waiting, sender.data(2, 5)?);
        let all = turns(&mut waiting);
        assert_eq!(waiting.extract_of(&*sender).len(), 2);
        assert!(waiting.is_empty());
        // One comes, and one is dropped.
        for turn in all.iter().take(1) {
            assert!(waiting.spend(turn).is_some());
        }
        assert_eq!(next(&mut waiting), 0);
        drop(all);
        assert_eq!(waiting.look().len(), 1);
        // What comes later has turns of its own.
        push(&mut waiting, sender.data(3, 5)?);
        let all = turns(&mut waiting);
        assert_eq!(all.len(), 1);
        for turn in &all {
            assert!(waiting.spend(turn).is_some());
        }
        assert_eq!(next(&mut waiting), 3);
        Ok(())
    }

    #[test]
    fn n5_what_waits_goes_without_a_turn_once_none_is_given() -> Result {
        let mut waiting = scheduled()?;
        let senders = [TestSender::new(1000)?, TestSender::new(1000)?];
        for number in [10, 11, 12] {
            for (sender, more) in senders.iter().zip([0, 10]) {
                push(&mut waiting, sender.data(number + more, 5)?);
            }
        }
        push(&mut waiting, senders[0].packet(13, Cause::Last)?);
        let turns = turns(&mut waiting);
        assert!(waiting.spend(&turns[5]).is_some());
        drop(waiting.end_schedule());
        // Nobody gives those any more.
        assert!(waiting.spend(&turns[0]).is_none());
        // The second sender's had its turn already.
        assert_eq!(next(&mut waiting), 20);
        let mut last = [9, 20];
        for _ in 0..6 {
            let number = next(&mut waiting);
            let of = usize::from(number >= 20);
            assert_eq!(number, last[of] + 1);
            last[of] = number;
        }
        assert_eq!(last, [13, 22]);
        assert!(waiting.is_empty());
        Ok(())
    }

    #[test]
    fn n5_what_waits_has_turns_once_they_are_given() -> Result {
        let mut waiting = Waiting::new(true);
        let sender = TestSender::new(1000)?;
        waiting.scheduled.attach(NetDevice::new()?, 0);
        waiting.begin_schedule();
        // It is down.
        assert!(!waiting.scheduled.is_on());
        let mut first = sender.data(1, 5)?;
        first.control_mut().close();
        for number in 2..=4 {
            let mut packet = sender.data(number, 5)?;
            packet.control_mut().close();
            assert!(waiting.push(packet).is_none());
        }
        waiting.scheduled.set_up(true);
        waiting.begin_schedule();
        assert_eq!(next(&mut waiting), 0);
        let turns = turns(&mut waiting);
        assert_eq!(turns.len(), 3);
        for (number, turn) in (2..).zip(&turns) {
            assert!(waiting.spend(turn).is_some());
            assert_eq!(next(&mut waiting), number);
        }
        drop(first);
        Ok(())
    }

    #[test]
    fn n5_a_device_that_runs_again_is_looked_at_again() -> Result {
        let mut waiting = scheduled()?;
        let sender = TestSender::new(1000)?;
        push(&mut waiting, sender.data(1, 5)?);
        assert!(waiting.scheduled.wants_look());
        assert!(!waiting.scheduled.wants_look());
        // Whoever was to look does not.
        drop(waiting.end());
        assert!(!waiting.scheduled.wants_look());
        waiting.begin_schedule();
        push(&mut waiting, sender.data(2, 5)?);
        assert!(waiting.scheduled.wants_look());
        Ok(())
    }

    #[test]
    fn n5_a_device_that_is_about_to_go_gives_no_turns_whoever_sets_it_up() -> Result {
        let mut waiting = scheduled()?;
        waiting.scheduled.set_bypassed(true);
        drop(waiting.end_schedule());
        waiting.scheduled.set_up(true);
        waiting.begin_schedule();
        assert!(!waiting.scheduled.is_on());
        waiting.scheduled.set_bypassed(false);
        waiting.begin_schedule();
        assert!(waiting.scheduled.is_on());
        Ok(())
    }

    #[test]
    fn n5_what_is_dropped_with_the_device_leaves_nothing_behind() -> Result {
        let mut waiting = scheduled()?;
        let sender = TestSender::new(1000)?;
        push(&mut waiting, sender.data(1, 5)?);
        push(&mut waiting, datagram(2, 5)?);
        let turns = turns(&mut waiting);
        for turn in turns.iter().take(1) {
            assert!(waiting.spend(turn).is_some());
        }
        let (gone, _) = waiting.end();
        assert_eq!(gone.len(), 2);
        assert!(waiting.is_empty() && !sender.backlog().has_packets());
        assert!(!waiting.scheduled.is_on());
        Ok(())
    }
}
