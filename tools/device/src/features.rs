// SPDX-License-Identifier: GPL-2.0

//! The feature bits of a socket device, and what they are called on the command line.

use clap::ValueEnum;

pub const STREAM: u64 = 1 << 0;
pub const SEQPACKET: u64 = 1 << 1;
/// With five queues.
pub const DGRAM: u64 = 1 << 2;
/// The same bit with three queues.
pub const NO_IMPLIED_STREAM: u64 = 1 << 2;
pub const MRG_RXBUF: u64 = 1 << 3;
/// The same bit where it stands for datagrams on the streams' queues.
pub const SHARED_DGRAM: u64 = 1 << 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Feature {
    /// Bit 0
    Stream,
    /// Bit 1
    Seqpacket,
    /// Bit 2 of the drafts, which comes with five queues
    Dgram,
    /// Bit 3 of the drafts
    MrgRxbuf,
    /// Bit 2 of the standard, with three queues
    NoImpliedStream,
    /// Bit 3 as libkrun offers it: datagrams on the streams' queues
    SharedDgram,
    /// No bit at all
    None,
}
