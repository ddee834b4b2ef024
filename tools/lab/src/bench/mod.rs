// SPDX-License-Identifier: GPL-2.0

//! Measuring: the two drivers on vhost-vsock and hosts of other kinds, what our device alone has, the table of it, and
//! plots.

pub mod device;
pub mod drivers;
pub mod plot;
mod probes;
pub mod table;
