// SPDX-License-Identifier: GPL-2.0

//! What was in that memory is nobody's to read.

use crate::ext::net::skbuff::SkBuff;
use kernel::prelude::*;

fn make() {
    let _: Result<SkBuff> = SkBuff::alloc_paged(100, GFP_KERNEL, (), |_| Ok(())); //+
    let _: Result<SkBuff> = SkBuff::alloc_paged(100, GFP_KERNEL, ()); //~ E0061 this function takes 4 arguments
}
