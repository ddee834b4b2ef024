// SPDX-License-Identifier: GPL-2.0

//! What the tests run on both sides of a virtio socket, and the protocol by which the lab drives it.

pub mod agent;
pub mod bench;
pub mod dgram;
pub mod errno;
pub mod files;
pub mod fill;
pub mod frame;
pub mod hold;
pub mod interrupted;
pub mod memory;
pub mod messages;
pub mod pattern;
pub mod probe;
pub mod rate;
pub mod signals;
pub mod socket;
pub mod sockmap;
pub mod stream;
pub mod stuck;
pub mod unix;
pub mod waits;
pub mod zerocopy;
