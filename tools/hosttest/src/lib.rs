// SPDX-License-Identifier: GPL-2.0

//! The driver's pure code, the very same files as in the module, for tests on the host.
//!
//! `cargo test` runs the unit tests that the files carry, the properties in `tests/`, and a replay of
//! what the fuzzer in `fuzz/` does at length. Clippy sees to it that nothing in the files can panic.
//!
//! - [`wire`], [`proto`]: the driver's.
//! - [`drive`]: one connection under a hostile host, which a script of bytes plays: for the fuzzer and its replay.
//! - `tests/`: a file for each room of the pure code; `replay`; and `arrows`, which reads the sources of the driver and
//!   of the tools, and says which way their modules may use each other.

#![no_std]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unreachable,
        clippy::unwrap_used,
    )
)]

#[cfg(test)]
extern crate std;

// What drives it may panic: that is how it says what is wrong.
#[allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used
)]
pub mod drive;

#[path = "../../../rust/proto/mod.rs"]
pub mod proto;

#[path = "../../../rust/wire/mod.rs"]
pub mod wire;
