// SPDX-License-Identifier: GPL-2.0

//! How large a page is, and what the kernel holds.

use std::time::Duration;

use anyhow::{Context, Result};

/// How many bytes a page of this machine has.
pub fn page_size() -> usize {
    // SAFETY: It asks for a number, and all Linux machines have it.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

/// What the kernel holds beside caches and user memory, in bytes, once it holds still.
///
/// Freed memory may be on its way back still, by RCU.
pub fn kernel() -> Result<i64> {
    const STILL: i64 = 16 << 10;
    let mut before = now()?;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(100));
        let after = now()?;
        if (after - before).abs() <= STILL {
            return Ok(after);
        }
        before = after;
    }
    Ok(before)
}

/// Has the kernel's allocator give back what it keeps for the next ones to ask: else what was freed counts as held, and who
/// asks for it again pays nothing.
fn shrink_slabs() {
    let caches = std::fs::read_dir("/sys/kernel/slab").into_iter().flatten();
    for cache in caches.flatten() {
        let _ = std::fs::write(cache.path().join("shrink"), "1\n");
    }
}

fn now() -> Result<i64> {
    std::fs::write("/proc/sys/vm/drop_caches", "3\n").context("dropping caches")?;
    shrink_slabs();
    let text = std::fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let field = |name: &str| -> Result<i64> {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        let kib: i64 = line
            .and_then(|l| l.split_whitespace().next())
            .and_then(|v| v.parse().ok())
            .with_context(|| format!("no {name} in /proc/meminfo"))?;
        Ok(kib * 1024)
    };
    // The processors' own lists of free pages count as used there.
    let zones = std::fs::read_to_string("/proc/zoneinfo").context("/proc/zoneinfo")?;
    let cached: i64 = zones
        .lines()
        .filter_map(|l| l.trim().strip_prefix("count:")?.trim().parse::<i64>().ok())
        .sum();
    let mut used = field("MemTotal")? - field("MemFree")? - cached * page_size() as i64;
    for other in [
        "Buffers",
        "Cached",
        "AnonPages",
        "PageTables",
        "KernelStack",
    ] {
        used -= field(other)?;
    }
    Ok(used)
}
