// SPDX-License-Identifier: GPL-2.0

//! How fast the counter of an emulated processor runs: as the workstation's own, which QEMU shows its guests.
//!
//! A guest would measure it against a timer. On a busy machine that ticks late, so that the guest's clock runs several times
//! too fast from then on, and with it the seconds after which the kernel's tests give up. So it is told.

use std::{
    arch::x86_64::_rdtsc,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

/// What the kernel of an emulated x86 machine is told.
pub fn append() -> String {
    format!("tsc_early_khz={}", khz())
}

fn khz() -> u128 {
    static KHZ: OnceLock<u128> = OnceLock::new();
    *KHZ.get_or_init(|| {
        let (start, from) = reading();
        thread::sleep(Duration::from_millis(100));
        let (end, to) = reading();
        u128::from(to.wrapping_sub(from)) * 1_000_000 / (end - start).as_nanos().max(1)
    })
}

/// A time, and the counter at that time: of several, the one in which the least else ran.
fn reading() -> (Instant, u64) {
    let read = || {
        let time = Instant::now();
        // SAFETY: All processors of this kind have it, and Linux lets programs read it.
        let ticks = unsafe { _rdtsc() };
        (time.elapsed(), time, ticks)
    };
    let (mut least, mut time, mut ticks) = read();
    for _ in 0..20 {
        let other = read();
        if other.0 < least {
            (least, time, ticks) = other;
        }
    }
    (time, ticks)
}
