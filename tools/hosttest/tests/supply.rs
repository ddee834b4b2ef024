// SPDX-License-Identifier: GPL-2.0

//! No device sleeps for ever for want of receive buffers, and none is told of each.

mod config;

use proptest::prelude::*;
use rvsock_hosttest::proto::Supply;

/// A device that looks for buffers by itself as long as it finds enough for its next packet, and then sleeps until it
/// is told.
#[derive(Clone, Debug)]
struct Device {
    available: usize,
    used: usize,
    /// It waits for so many.
    asleep: Option<usize>,
}

impl Device {
    /// It has a packet that takes so many.
    fn packet(&mut self, buffers: usize) {
        if self.asleep.is_some() {
            return;
        }
        if self.available < buffers {
            self.asleep = Some(buffers);
            return;
        }
        self.available -= buffers;
        self.used += buffers;
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// The device has so many packets, of so many buffers each.
    Packets(u8, u8),
    /// The driver takes as many as this, of which the first some find no memory to be replaced with.
    Receive(u8, u8),
    /// It finds memory for all that are missing.
    Refill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..40u8, 1..18u8).prop_map(|(count, size)| Step::Packets(count, size)),
        4 => (0..80u8, 0..3u8).prop_map(|(count, lost)| Step::Receive(count, lost)),
        1 => Just(Step::Refill),
    ]
}

#[derive(Clone, Debug)]
struct Rig {
    supply: Supply,
    device: Device,
    told: usize,
    taken: usize,
}

impl Rig {
    fn tell_if_due(&mut self) {
        if self.supply.must_tell() {
            self.supply.tell();
            self.told += 1;
            self.device.asleep = None;
        }
    }

    fn post(&mut self) {
        self.supply.post();
        self.device.available += 1;
    }

    /// As `Rx::poll()`.
    fn receive(&mut self, most: usize, mut lost: usize) {
        self.supply.begin_turn();
        for _ in 0..most {
            if self.device.used == 0 {
                break;
            }
            self.device.used -= 1;
            self.supply.take();
            self.taken += 1;
            if lost > 0 {
                lost -= 1;
            } else if self.supply.lacks_some() {
                self.post();
            }
            self.tell_if_due();
        }
    }

    /// As `Rx::refill()`.
    fn refill(&mut self) {
        while self.supply.lacks_some() {
            self.post();
            if self.supply.is_enough_just_now() {
                self.tell_if_due();
            }
        }
        self.tell_if_due();
    }
}

proptest! {
    #![proptest_config(config::cases(4000))]

    #[test]
    fn no_device_starves(
        target in 1..64usize,
        rest in 1..64usize,
        need in 1..18usize,
        steps in prop::collection::vec(step(), 1..80)
    ) {
        let mut rig = Rig {
            supply: Supply::new(rest, target, need),
            device: Device { available: 0, used: 0, asleep: None },
            told: 0,
            taken: 0,
        };
        rig.refill();
        for step in steps {
            match step {
                Step::Packets(count, size) => {
                    for _ in 0..count {
                        rig.device.packet(usize::from(size).min(need).min(rest).min(target));
                    }
                }
                Step::Receive(most, lost) => rig.receive(most.into(), lost.into()),
                Step::Refill => rig.refill(),
            }
            // Once the driver has taken what there is, and found memory if it lacks much, no device sleeps.
            let mut end = rig.clone();
            end.receive(usize::MAX, 0);
            if end.supply.lacks_many() {
                end.refill();
            }
            if let Some(wanted) = end.device.asleep {
                prop_assert!(
                    false,
                    "it sleeps for {wanted} buffers, and there are {}: {:?}", end.device.available, end.supply
                );
            }
        }
    }

    #[test]
    fn a_device_with_buffers_is_seldom_told(target in 4..256usize, packets in 1..2000usize) {
        let mut rig = Rig {
            supply: Supply::new(target, target, 1),
            device: Device { available: 0, used: 0, asleep: None },
            told: 0,
            taken: 0,
        };
        rig.refill();
        let before = rig.told;
        for _ in 0..packets {
            rig.device.packet(1);
            rig.receive(1, 0);
        }
        prop_assert!((rig.told - before) * (target / 2) <= packets);
    }
}
