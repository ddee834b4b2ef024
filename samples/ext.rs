// SPDX-License-Identifier: GPL-2.0

//! What of `rust/ext/` does not have to do with sockets, for drivers of other virtio devices.

#[path = "../rust/ext/alloc.rs"]
mod alloc;
#[path = "../rust/ext/bindings.rs"]
pub(crate) mod bindings;
#[path = "../rust/ext/compat.rs"]
pub(crate) mod compat;
#[path = "../rust/ext/mm/mod.rs"]
pub(crate) mod mm;
#[path = "../rust/ext/module_info.rs"]
pub(crate) mod module_info;
#[path = "../rust/ext/module_param.rs"]
pub(crate) mod module_param;
#[path = "../rust/ext/sync/mod.rs"]
pub(crate) mod sync;
#[path = "../rust/ext/virtio/mod.rs"]
pub(crate) mod virtio;
#[path = "../rust/ext/work.rs"]
pub(crate) mod work;
#[path = "../rust/ext/workqueues.rs"]
mod workqueues;
