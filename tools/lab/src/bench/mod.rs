// SPDX-License-Identifier: GPL-2.0

//! Measuring: the two drivers on vhost-vsock, what our device alone has, and the table of both.

pub mod device;
pub mod drivers;
pub mod table;
