// SPDX-License-Identifier: GPL-2.0

//! All of it is in ext, as the crate's root says; what ext's own macros expand to counts as ext's.

use kernel::prelude::*;

fn read(from: *const u8) -> u8 {
    let byte = 0; //+
    let byte = unsafe { *from }; //~ unsafe_code usage of an `unsafe` block
    byte
}
