// SPDX-License-Identifier: GPL-2.0

//! What the `kernel` crate lacks, under the path that it would have there.

mod alloc;
pub(crate) mod bindings;
pub(crate) mod compat;
pub(crate) mod debugfs;
pub(crate) mod error;
pub(crate) mod mm;
pub(crate) mod module_info;
pub(crate) mod module_param;
pub(crate) mod net;
pub(crate) mod sync;
pub(crate) mod time;
pub(crate) mod trace;
pub(crate) mod virtio;
pub(crate) mod work;
mod workqueues;
