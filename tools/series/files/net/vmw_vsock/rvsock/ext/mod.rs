// SPDX-License-Identifier: GPL-2.0

//! AF_VSOCK as a transport sees it, and what a module needs of the kernel besides. All `unsafe`
//! code of the driver is here.
//!
//! This is not in the `kernel` crate, which is always built in: AF_VSOCK may be a module, and what
//! is here is about the module that it is compiled into.

pub(crate) mod debugfs;
pub(crate) mod module_info;
pub(crate) mod module_param;
pub(crate) mod time;
pub(crate) mod trace;
pub(crate) mod vsock;
pub(crate) mod work;
mod workqueues;
pub(crate) mod zerocopy;
