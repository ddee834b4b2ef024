// SPDX-License-Identifier: GPL-2.0

//! How late threads wake that the scheduler prefers to all programs: one on each processor.

use std::{
    thread::{self, available_parallelism},
    time::Duration,
};

use anyhow::{anyhow, Context, Result};
use nix::{
    errno::Errno,
    sched::{sched_setaffinity, CpuSet},
    sys::mman::{mlockall, MlockAllFlags},
    time::{clock_gettime, clock_nanosleep, ClockId, ClockNanosleepFlags},
    unistd::Pid,
};

const NAP: Duration = Duration::from_millis(1);
const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;

/// Naps for `duration` on each processor, and says by how much the latest waking was late.
pub fn measure(priority: i32, duration: Duration) -> Result<()> {
    // A page fault would count as lateness.
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE).context("mlockall()")?;
    let threads: Vec<_> = (0..available_parallelism()?.get())
        .map(|processor| {
            thread::spawn(move || {
                prefer(processor, priority)
                    .with_context(|| format!("on processor {processor}, priority {priority}"))?;
                nap(duration)
            })
        })
        .collect();
    println!("READY");
    let (mut latest, mut naps) = (Duration::ZERO, 0);
    for thread in threads {
        let (late, number) = thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        latest = latest.max(late);
        naps += number;
    }
    println!("OK latest={} naps={naps}", latest.as_micros());
    Ok(())
}

/// By how much the latest waking was late, and how many there were.
fn nap(duration: Duration) -> Result<(Duration, u64)> {
    let now = || clock_gettime(CLOCK).map(Duration::from);
    let mut next = now()?;
    let end = next + duration;
    let (mut latest, mut naps) = (Duration::ZERO, 0);
    while next < end {
        next += NAP;
        clock_nanosleep(CLOCK, ClockNanosleepFlags::TIMER_ABSTIME, &next.into())?;
        let woken = now()?;
        let late = woken.saturating_sub(next);
        latest = latest.max(late);
        naps += 1;
        if late > NAP {
            next = woken;
        }
    }
    Ok((latest, naps))
}

/// Binds the calling thread to a processor, before all that has a lower priority.
fn prefer(processor: usize, priority: i32) -> Result<()> {
    let this = Pid::from_raw(0);
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(this, &set).context("sched_setaffinity()")?;
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: It reads the parameters, which are there.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) };
    Errno::result(result).context("sched_setscheduler()")?;
    Ok(())
}
