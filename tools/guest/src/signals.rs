// SPDX-License-Identifier: GPL-2.0

//! Signals that do nothing but interrupt a call.

use anyhow::Result;
use nix::sys::{
    pthread::{pthread_kill, Pthread},
    signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal},
};

extern "C" fn nothing(_signal: i32) {}

/// From now on [`interrupt`] ends a call with EINTR, and nothing else.
pub fn allow() -> Result<()> {
    let action = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: The handler does nothing.
    unsafe { sigaction(Signal::SIGUSR1, &action) }?;
    Ok(())
}

/// Interrupts a thread.
pub fn interrupt(thread: Pthread) -> Result<()> {
    Ok(pthread_kill(thread, Signal::SIGUSR1)?)
}
