// SPDX-License-Identifier: GPL-2.0

//! Signals that do nothing but interrupt a call.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use nix::sys::{
    pthread::{pthread_kill, pthread_self, Pthread},
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

/// Makes a call, and interrupts it after a while, and again until it has returned: who is late may not have begun.
pub fn interrupted<T>(call: impl FnOnce() -> T) -> Result<T> {
    let (caller, returned) = (pthread_self(), AtomicBool::new(false));
    thread::scope(|scope| {
        let other = scope.spawn(|| -> Result<()> {
            loop {
                thread::sleep(Duration::from_millis(200));
                if returned.load(Ordering::SeqCst) {
                    return Ok(());
                }
                interrupt(caller)?;
            }
        });
        let outcome = call();
        returned.store(true, Ordering::SeqCst);
        other.join().expect("a thread")?;
        Ok(outcome)
    })
}
