// SPDX-License-Identifier: GPL-2.0

//! Memory management beyond that of [`kernel::mm`] and [`kernel::page`].

mod page_block;

pub(crate) use page_block::PageBlock;
