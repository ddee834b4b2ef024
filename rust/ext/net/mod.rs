// SPDX-License-Identifier: GPL-2.0

//! Networking: socket buffers, messages, network devices, AF_VSOCK.

pub(crate) mod device;
pub(crate) mod msg;
pub(crate) mod skbuff;
pub(crate) mod sock;
pub(crate) mod vsock;
pub(crate) mod zerocopy;

use super::bindings;

/// Whether one more message about what others send may go to the log: some in five seconds, of all
/// networking. Any context.
pub(crate) fn net_ratelimit() -> bool {
    // SAFETY: An FFI call with no requirements.
    unsafe { bindings::net_ratelimit() != 0 }
}
