// SPDX-License-Identifier: GPL-2.0

//! The driver's pure code, the very same files as in the module, for tests on the host.

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

#[path = "../../../rust/proto/mod.rs"]
pub mod proto;
#[path = "../../../rust/wire/mod.rs"]
pub mod wire;
