// SPDX-License-Identifier: GPL-2.0

//! Memory management beyond that of [`kernel::mm`] and [`kernel::page`].

mod page_block;

pub(crate) use page_block::PageBlock;

use kernel::page::PAGE_SIZE;

/// The order of the smallest block of pages with room for `bytes`, as far as there is such a block.
pub(crate) const fn order_of(bytes: usize) -> u32 {
    order_in(bytes, PAGE_SIZE)
}

/// The same, where a page has `page` bytes.
const fn order_in(bytes: usize, page: usize) -> u32 {
    match bytes.div_ceil(page).checked_next_power_of_two() {
        Some(pages) => pages.ilog2(),
        None => usize::BITS,
    }
}

// With pages of 4, 16 and 64 KiB.
const _: () = {
    const K: usize = 1024;
    assert!(order_in(32 * K, 4 * K) == 3 && order_in(32 * K + 1, 4 * K) == 4);
    assert!(order_in(32 * K, 16 * K) == 1 && order_in(32 * K + 1, 16 * K) == 2);
    assert!(order_in(32 * K, 64 * K) == 0 && order_in(64 * K + 1, 64 * K) == 1);
    assert!(order_in(0, 4 * K) == 0 && order_in(usize::MAX, 4 * K) > 32);
};
