// SPDX-License-Identifier: GPL-2.0

//! Commands, as they come over the control socket.

/// What one guest's thread is to do.
#[derive(Debug)]
pub enum Command {
    /// Nothing yet.
    Nop,
}
