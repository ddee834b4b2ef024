// SPDX-License-Identifier: GPL-2.0

//! Properties of the wire: reading and writing undo each other, and the table of profiles is whole.

use proptest::prelude::*;
use rvsock_hosttest::{
    proto::{
        after_no_five_queues,
        first_attempt,
        Choice,
        Dialect,
        Profile,
        Queues, //
    },
    wire::{
        Header,
        HeaderMrg,
        Op,
        SocketType,
        HEADER_LEN,
        HEADER_LEN_MRG, //
    },
};

proptest! {
    #[test]
    fn header_survives_both_ways(bytes: [u8; 32], tail: [u8; 12]) {
        let mut all = [0; HEADER_LEN];
        all[..32].copy_from_slice(&bytes);
        all[32..].copy_from_slice(&tail);
        let header = Header::parse(&all);
        prop_assert_eq!(header.to_bytes(), all);
        prop_assert_eq!(Header::parse(&header.to_bytes()), header);
    }

    #[test]
    fn m1_header_of_46_bytes_is_that_of_44_and_a_count(bytes: [u8; 32], tail: [u8; 14]) {
        let mut all = [0; HEADER_LEN_MRG];
        all[..32].copy_from_slice(&bytes);
        all[32..].copy_from_slice(&tail);
        let long = HeaderMrg::parse(&all);
        prop_assert_eq!(long.to_bytes(), all);
        prop_assert_eq!(&long.header.to_bytes()[..], &all[..HEADER_LEN]);
        prop_assert_eq!(long.num_buffers, u16::from_le_bytes([all[44], all[45]]));
    }

    #[test]
    fn c2_reply_goes_back(src_cid: u32, dst_cid: u32, src_port: u32, dst_port: u32, ty: u16, op: u16) {
        let header = Header {
            src_cid: src_cid.into(),
            dst_cid: dst_cid.into(),
            src_port,
            dst_port,
            ty,
            op,
            ..Header::default()
        };
        let reply = header.reply(Op::Rst);
        prop_assert_eq!(reply.src(), header.dst());
        prop_assert_eq!(reply.dst(), header.src());
        prop_assert_eq!(reply.ty, ty);
        prop_assert_eq!(SocketType::try_from(ty).map_or_else(|raw| raw, u16::from), ty);
    }
}

/// A device, played through: what it offers, how many queues it has, what the administrator says.
fn settle(offered: u64, has: Queues, choice: Choice) -> Option<Profile> {
    let first = first_attempt(offered, choice);
    // Three queues are the first three of five, so looking for three finds them anywhere.
    if first.queues == Queues::Three || has == Queues::Five {
        return Some(first.profile());
    }
    let second = after_no_five_queues(offered, choice)?;
    assert_eq!(second.queues, Queues::Three);
    Some(second.profile())
}

const CHOICES: [Choice; 4] = [
    Choice::Auto,
    Choice::Ratified,
    Choice::Draft,
    Choice::Shared,
];

#[test]
fn every_device_under_every_choice() {
    for offered in 0..16u64 {
        let bit = |n: u32| offered & (1 << n) != 0;
        for has in [Queues::Three, Queues::Five] {
            for choice in CHOICES {
                let profile = settle(offered, has, choice);
                let draft = match choice {
                    Choice::Auto => bit(2) && has == Queues::Five,
                    Choice::Ratified | Choice::Shared => false,
                    Choice::Draft => true,
                };
                if choice == Choice::Draft && bit(2) && has == Queues::Three {
                    assert_eq!(profile, None);
                    continue;
                }
                let expected = Profile {
                    dialect: match (choice, draft) {
                        (Choice::Shared, _) => Dialect::Shared,
                        (_, true) => Dialect::Draft,
                        (_, false) => Dialect::Ratified,
                    },
                    stream: draft || bit(0) || !bit(2),
                    seqpacket: bit(1),
                    dgram: draft && bit(2) || choice == Choice::Shared && bit(3),
                    mrg_rxbuf: draft && bit(3),
                    no_implied_stream: !draft && bit(2),
                    queues: if draft && bit(2) {
                        Queues::Five
                    } else {
                        Queues::Three
                    },
                };
                assert_eq!(profile, Some(expected), "{offered:#x} {has:?} {choice:?}");
            }
        }
    }
}
