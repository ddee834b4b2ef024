// SPDX-License-Identifier: GPL-2.0

//! What the tests run on both sides of a virtio socket, and the protocol by which the lab drives it.
//!
//! The program is `rvtest`, in main.rs; each of its subcommands is a function here.
//!
//! # The modules
//!
//! How the lab drives it:
//!
//! - [`agent`]: runs in the guest, and a program for each who connects.
//! - [`frame`]: the protocol of that.
//!
//! The sockets:
//!
//! - [`socket`]: streams and messages, with everything that the calls can say.
//! - [`unix`]: the same peers where the host's side is a unix socket.
//! - [`dgram`]: SOCK_DGRAM, with its sockets and all that is tried with them.
//!
//! What is tried with them:
//!
//! - [`stream`]: echo, bulk, many at once.
//! - [`messages`]: SOCK_SEQPACKET: boundaries, flags, many and parts of them.
//! - [`zerocopy`], [`files`], [`sockmap`]: MSG_ZEROCOPY; sendfile() and splice(); BPF.
//! - [`probe`]: small questions: what connect() says, when a connection ends.
//! - [`uevents`]: what the kernel tells udev.
//! - [`turns`]: what passes the interface whose queues order turns.
//! - [`waits`], [`stuck`], [`interrupted`]: those who wait; who sits in a page fault; whom a signal interrupts.
//! - [`fill`], [`hold`]: what lies unsent, what lies unread, and what it costs.
//! - [`mod@bench`], [`rate`], [`lateness`]: numbers.
//!
//! What they share:
//!
//! - [`pattern`]: bytes that know their place.
//! - [`errno`], [`memory`], [`signals`]: errors by name, what the kernel holds, signals that only interrupt.

pub mod agent;
pub mod bench;
pub mod dgram;
pub mod errno;
pub mod files;
pub mod fill;
pub mod frame;
pub mod hold;
pub mod interrupted;
pub mod lateness;
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
pub mod turns;
pub mod uevents;
pub mod unix;
pub mod waits;
pub mod zerocopy;
