// SPDX-License-Identifier: GPL-2.0

//! Credit as a property: one side against any peer. Two sides against each other are endpoints.

mod config;

use proptest::prelude::*;
use rvsock_hosttest::proto::{
    Advertised,
    RxCredit,
    TxCredit, //
};

/// Counters that are about to wrap, most of the time.
fn start() -> impl Strategy<Value = u32> {
    prop_oneof![u32::MAX - 5000..=u32::MAX, Just(0), any::<u32>()]
}

/// Sizes of buffers: tiny, ordinary, and the greatest.
fn size() -> impl Strategy<Value = u32> {
    prop_oneof![
        1..5u32,
        1..5000u32,
        Just(65536),
        Just(262_144),
        any::<u32>(),
        Just(u32::MAX)
    ]
}

#[derive(Clone, Debug)]
enum Tx {
    Take(u32),
    GiveBack(u32),
    /// The buffer's size, and a count relative to what was sent: honest, stale or a lie.
    Update(u32, i64),
    Limit(u32),
}

fn tx() -> impl Strategy<Value = Tx> {
    prop_oneof![
        prop_oneof![0..5000u32, any::<u32>()].prop_map(Tx::Take),
        prop_oneof![0..5000u32, any::<u32>()].prop_map(Tx::GiveBack),
        (size(), prop_oneof![-5000..5000i64, any::<i64>()]).prop_map(|(a, f)| Tx::Update(a, f)),
        size().prop_map(Tx::Limit),
    ]
}

proptest! {
    #![proptest_config(config::cases(2000))]

    #[test]
    fn k1_never_negative_nor_over_the_window(
        start in start(), own in size(), steps in prop::collection::vec(tx(), 1..100)
    ) {
        let mut credit = TxCredit::starting_at(own, start);
        // The model counts without wrapping: taken and not given back, and reported as read.
        let (mut own, mut alloc, mut sent, mut read) = (own, 0u32, 0i128, 0i128);
        for step in steps {
            match step {
                Tx::Take(want) => {
                    let free = credit.free();
                    let got = credit.take(want);
                    prop_assert_eq!(got, want.min(free));
                    sent += i128::from(got);
                    // What is taken never exceeds the window.
                    if got > 0 {
                        prop_assert!(sent - read <= i128::from(own.min(alloc)));
                    }
                }
                Tx::GiveBack(unsent) => {
                    credit.give_back(unsent);
                    sent -= i128::from(unsent).min(sent - read);
                }
                Tx::Update(size, behind) => {
                    let fwd_cnt = start.wrapping_add(sent as u32).wrapping_sub(behind as u32);
                    credit.update(size, fwd_cnt);
                    alloc = size;
                    // Modulo 2^32, is it between what was read and what was sent?
                    let claimed = i128::from(behind as u32);
                    if claimed <= sent - read {
                        read = sent - claimed;
                    }
                }
                Tx::Limit(limit) => {
                    credit.set_own_limit(limit);
                    own = limit;
                }
            }
            let window = i128::from(own.min(alloc));
            prop_assert_eq!(i128::from(credit.window()), window);
            prop_assert_eq!(i128::from(credit.in_flight()), sent - read);
            prop_assert_eq!(i128::from(credit.free()), (window - (sent - read)).max(0));
        }
    }
}

#[derive(Clone, Debug)]
enum Rx {
    Receive(u32),
    Consume(u32),
    Advertise,
    Size(u32),
    PeerLimit(u32),
}

fn rx() -> impl Strategy<Value = Rx> {
    prop_oneof![
        3 => prop_oneof![0..5000u32, any::<u32>()].prop_map(Rx::Receive),
        3 => prop_oneof![0..5000u32, any::<u32>()].prop_map(Rx::Consume),
        3 => Just(Rx::Advertise),
        1 => size().prop_map(Rx::Size),
        1 => prop_oneof![Just(0), size()].prop_map(Rx::PeerLimit),
    ]
}

proptest! {
    #![proptest_config(config::cases(2000))]

    #[test]
    fn k3_unread_is_bounded_by_what_was_promised(
        start in start(), size in size(), steps in prop::collection::vec(rx(), 1..100)
    ) {
        let mut credit = RxCredit::starting_at(size, start);
        let (mut received, mut read, mut promised, mut greatest) = (0u128, 0u128, 0u128, 0u32);
        for step in steps {
            match step {
                Rx::Receive(len) => {
                    let fits = received + u128::from(len) <= promised;
                    prop_assert_eq!(credit.receive(len).is_ok(), fits);
                    if fits {
                        received += u128::from(len);
                    }
                }
                Rx::Consume(len) => {
                    credit.consume(len);
                    read += u128::from(len).min(received - read);
                }
                Rx::Advertise => {
                    let Advertised { buf_alloc: alloc, fwd_cnt } = credit.advertise();
                    prop_assert_eq!(fwd_cnt, start.wrapping_add(read as u32));
                    promised = promised.max(read + u128::from(alloc));
                    greatest = greatest.max(alloc);
                }
                Rx::Size(size) => {
                    let changed = credit.buf_alloc() != size;
                    prop_assert_eq!(credit.set_buf_alloc(size), changed);
                }
                Rx::PeerLimit(limit) => { credit.set_peer_limit(limit); }
            }
            prop_assert_eq!(u128::from(credit.unread()), received - read);
            prop_assert!(credit.unread() <= greatest);
            prop_assert!(u128::from(credit.peer_free()) <= promised - received);
            if credit.update_due(1) {
                let mut told = credit;
                let _ = told.advertise();
                prop_assert!(told.peer_free() > credit.peer_free());
                prop_assert!(!told.update_due(u32::MAX));
            }
        }
    }
}
