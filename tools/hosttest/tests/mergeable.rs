// SPDX-License-Identifier: GPL-2.0

//! M1 and M2 as properties: what a device of good faith merges is a packet; anything else is found out.

mod config;

use proptest::prelude::*;
use rvsock_hosttest::proto::{
    Assembly,
    Fault,
    Used, //
};

const HEADER: usize = 46;
const RING: usize = 256;

/// A packet as a device puts it into buffers: all but the last are full.
fn packet() -> impl Strategy<Value = (u32, Vec<Used>)> {
    (0usize..=70_000, HEADER..=9000).prop_filter_map("more than the ring", |(payload, size)| {
        let mut left = payload + HEADER;
        let mut buffers = Vec::new();
        while left > 0 {
            let len = left.min(size);
            buffers.push(Used { len, size });
            left -= len;
        }
        (buffers.len() <= RING).then_some((u32::try_from(payload).unwrap(), buffers))
    })
}

/// What the driver makes of it.
fn assemble(len: u32, num_buffers: u16, buffers: &[Used]) -> Result<Option<usize>, Fault> {
    let (first, rest) = buffers.split_first().unwrap();
    let mut packet = Assembly::begin(HEADER, len, Some(num_buffers), *first, RING)?;
    let mut rest = rest.iter();
    while packet.left() > 0 {
        // The driver's answer to buffers that are missing.
        packet.add(*rest.next().ok_or(Fault::FramingLost)?);
    }
    Ok(packet.finish())
}

/// What can be wrong with one.
#[derive(Clone, Copy, Debug)]
enum Lie {
    Length(u32),
    Buffers(u16),
    Used(usize, usize),
}

fn lie() -> impl Strategy<Value = Lie> {
    prop_oneof![
        any::<u32>().prop_map(Lie::Length),
        any::<u16>().prop_map(Lie::Buffers),
        (any::<usize>(), 0usize..=9000).prop_map(|(which, len)| Lie::Used(which, len)),
    ]
}

proptest! {
    #![proptest_config(config::cases(512))]

    #[test]
    fn m1_what_was_merged_is_a_packet((len, buffers) in packet()) {
        let num_buffers = u16::try_from(buffers.len()).unwrap();
        prop_assert_eq!(assemble(len, num_buffers, &buffers), Ok(Some(len as usize)));
    }

    #[test]
    fn m2_one_lie_is_never_believed((len, buffers) in packet(), lie in lie()) {
        let num_buffers = u16::try_from(buffers.len()).unwrap();
        let (mut told, mut told_buffers, mut used) = (len, num_buffers, buffers.clone());
        match lie {
            Lie::Length(len) => told = len,
            Lie::Buffers(n) => told_buffers = n,
            Lie::Used(which, len) => {
                let which = which % used.len();
                used[which].len = len.min(used[which].size);
            }
        }
        prop_assume!((told, told_buffers, &used) != (len, num_buffers, &buffers));
        let result = assemble(told, told_buffers, &used);
        prop_assert!(!matches!(result, Ok(Some(_))), "{result:?}");
    }

    #[test]
    fn m2_whatever_comes_no_byte_is_made_up(
        len in any::<u32>(),
        num_buffers in any::<u16>(),
        lens in prop::collection::vec(0usize..=5000, 1..300),
    ) {
        let used: Vec<_> = lens.iter().map(|&len| Used { len, size: 5000 }).collect();
        if let Ok(Some(payload)) = assemble(len, num_buffers, &used) {
            prop_assert!(payload + HEADER <= lens.iter().sum());
        }
    }
}
