// SPDX-License-Identifier: GPL-2.0

//! Networking: socket buffers, messages, AF_VSOCK.

pub(crate) mod msg;
pub(crate) mod skbuff;
pub(crate) mod vsock;
pub(crate) mod zerocopy;
