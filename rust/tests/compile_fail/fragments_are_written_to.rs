// SPDX-License-Identifier: GPL-2.0

//! They may be the user's, or a file's: pages that are pinned to be read.

use crate::ext::{
    mm::PageBlock,
    net::skbuff::SkBuff, //
};
use kernel::prelude::*;

fn fill(block: &PageBlock) -> Result<SkBuff> {
    SkBuff::alloc_paged(100, GFP_KERNEL, (), |filling| {
        filling.put_block(block, 0, 100)
    })
}

fn change(skb: &mut SkBuff, block: &PageBlock) {
    let _ = skb.write_block(0, block, 0, 1); //~ E0599 no method named `write_block`
}
