// SPDX-License-Identifier: GPL-2.0

//! A machine's serial log: kept whole, streamed on, and searched for everything that a kernel complains about.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::events::Events;

/// Words by which a kernel says that something is wrong. Any of them in any serial log is a failure.
const COMPLAINTS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "kernel BUG at",
    "Oops",
    "Kernel panic",
    "rust_kernel: panicked",
    "panicked at",
    "KASAN",
    "UBSAN",
    "KCSAN",
    "KFENCE",
    "lockdep",
    "possible recursive locking",
    "possible circular locking",
    "inconsistent lock state",
    "suspicious RCU usage",
    "sleeping function called",
    "scheduling while atomic",
    "bad unlock balance",
    "held lock freed",
    "hung_task",
    "blocked for more than",
    "soft lockup",
    "hard LOCKUP",
    "self-detected stall",
    "detected stalls",
    "kmemleak",
    "refcount_t",
    "list_add corruption",
    "list_del corruption",
    "Call Trace",
    "general protection fault",
    "unable to handle",
    "page allocation failure",
    "Out of memory",
    "unregister_netdevice: waiting",
];

/// Lines that hold such a word and mean no harm: what the kernel says of itself at boot.
const HARMLESS: &[&str] = &[
    "kmemleak: Kernel memory leak detector initialized",
    "kmemleak: Automatic memory scanning thread started",
    "KASAN shadow",
    "KernelAddressSanitizer initialized",
    "Lock dependency validator",
    "running lockdep",
    "RCU lockdep checking is enabled",
];

/// Words by which the emulator says that it failed, and not the guest.
const RIG_FAILURES: &[&str] = &[
    "KVM internal error",
    "kvm run failed",
    "qemu: fatal",
    "KVM: entry failed",
    // Whatever code a processor runs, it answers an NMI: this one runs none.
    "still haven't responded to the NMI",
    NOT_RUN,
    NOT_UP,
];

/// What the lab says when it has seen that itself.
pub const NOT_RUN: &str = "is not halted, and yet not run by the emulator";

/// What it says of a guest that stops while it boots.
pub const NOT_UP: &str = "fell silent before a driver was loaded";

/// What it says at the end of the log of an emulated host VM with KVM that died, as one does whose processor goes astray
/// after it has run a nested guest. That kernel's panic is no complaint of the driver's, unless it names vsock.
pub const HOST_DIED: &str = "this host VM died before its job was done";

/// What a kernel says by which the lab asks by NMI where its processors are: a processor that is not run says nothing, and
/// those that wait for it say this.
pub const ASKED: &str = "Kernel panic - not syncing: NMI";

/// What is said when a processor is not run, by the others or by one that waits for it.
const STALLS: &[&str] = &[
    ASKED,
    "detected stalls",
    "self-detected stall",
    "soft lockup",
    "blocked for more than",
];

fn is_rig_failure(line: &str) -> bool {
    RIG_FAILURES.iter().any(|w| line.contains(w))
}

pub fn is_stall(line: &str) -> bool {
    STALLS.iter().any(|w| line.contains(w))
}

/// Where the panic of a host VM that died begins in its log, if nothing that the kernel says of it is of vsock.
fn astray(log: &str) -> Option<usize> {
    let words = log.find("Kernel panic")?;
    let start = log[..words].rfind('\n').map_or(0, |end| end + 1);
    let panic = &log[start..];
    let of_vsock = |l: &str| {
        (l.contains("vhost") || l.contains("vsock") || l.contains("virtio_transport"))
            && !l.contains("Modules linked in")
    };
    (panic.contains(HOST_DIED) && !panic.lines().any(of_vsock)).then_some(start)
}

pub fn is_complaint(line: &str) -> bool {
    COMPLAINTS.iter().any(|word| line.contains(word))
        && !HARMLESS.iter().any(|word| line.contains(word))
}

pub struct Serial {
    lines: Mutex<Vec<String>>,
    arrived: Condvar,
}

impl Serial {
    /// Follows the machine's console (and its emulator's messages) until both end.
    pub fn follow(
        name: &str,
        console: impl Read + Send + 'static,
        emulator: impl Read + Send + 'static,
        events: Arc<Events>,
    ) -> Arc<Self> {
        let serial = Arc::new(Self {
            lines: Mutex::default(),
            arrived: Condvar::new(),
        });
        for (prefix, pipe) in [
            ("", Box::new(console) as Box<dyn Read + Send>),
            ("qemu: ", Box::new(emulator)),
        ] {
            let (serial, events, name) = (serial.clone(), events.clone(), name.to_owned());
            thread::spawn(move || {
                let mut reader = BufReader::new(pipe);
                let mut bytes = Vec::new();
                while let Ok(1..) = reader.read_until(b'\n', &mut bytes) {
                    let line = format!(
                        "{prefix}{}",
                        String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n'])
                    );
                    events.log(&name, &line);
                    serial.lock().push(line);
                    serial.arrived.notify_all();
                    bytes.clear();
                }
            });
        }
        serial
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Adds a line of our own.
    pub fn push(&self, line: String) {
        self.lock().push(line);
    }

    /// A place in the log, for `since`.
    pub fn mark(&self) -> usize {
        self.lock().len()
    }

    pub fn since(&self, mark: usize) -> Vec<String> {
        self.lock()[mark..].to_vec()
    }

    pub fn complaints_since(&self, mark: usize) -> Vec<String> {
        self.since(mark)
            .into_iter()
            .filter(|l| is_complaint(l))
            .collect()
    }

    pub fn rig_failure(&self) -> Option<String> {
        self.lock().iter().find(|l| is_rig_failure(l)).cloned()
    }

    /// Waits for a line with `text` after `mark`.
    pub fn wait_for(&self, mark: usize, text: &str, timeout: Duration) -> Option<String> {
        let deadline = Instant::now() + timeout;
        let mut lines = self.lock();
        loop {
            if let Some(line) = lines[mark..].iter().find(|l| l.contains(text)) {
                return Some(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            lines = self
                .arrived
                .wait_timeout(lines, left)
                .unwrap_or_else(|e| e.into_inner())
                .0;
        }
    }
}

/// Searches every log in a folder: the second look, which misses nothing that came between two tests.
pub fn complaints_in_folder(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(complaints_in_folder(&path)?);
        } else if path.extension().is_some_and(|e| e == "log") {
            let text = fs::read(&path)?;
            let text = String::from_utf8_lossy(&text);
            let text = &text[..astray(&text).unwrap_or(text.len())];
            let rig_failed = text.lines().any(is_rig_failure);
            let mut stalled = false;
            for line in text.lines().filter(|l| !l.starts_with("qemu: ")) {
                // All that follows the first word of a stall follows from it, until the next boot.
                stalled =
                    rig_failed && !line.contains("Linux version") && (stalled || is_stall(line));
                if is_complaint(line) && !stalled {
                    found.push(format!(
                        "{}: {}",
                        path.file_name().unwrap_or_default().to_string_lossy(),
                        line.trim()
                    ));
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_told_from_boot_messages() {
        assert!(is_complaint(
            "[    1.0] WARNING: CPU: 0 PID: 1 at net/core/sock.c:1"
        ));
        assert!(is_complaint(
            "[    1.0] refcount_t: underflow; use-after-free."
        ));
        assert!(!is_complaint(
            "[    1.0] Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., lockdep"
        ));
        assert!(!is_complaint(
            "[    1.0] rvsock: loading out-of-tree module taints kernel."
        ));
    }

    #[test]
    fn a_host_that_died_is_told_from_one_whose_vhost_is_broken() {
        let before = "[   22.0] WARNING: CPU: 0 PID: 1 at net/core/sock.c:1\n";
        let panic =
            "[   23.0] Kernel panic - not syncing: corrupted stack end detected inside scheduler\n";
        let modules = "[   23.1] Modules linked in: vhost_vsock vhost kvm_amd\n";
        let frame = "[   23.1]  vhost_vsock_handle_tx_kick+0x1/0x2 [vhost_vsock]\n";
        let died = format!("lab: {HOST_DIED}\n");
        let log = [before, panic, modules, &died].concat();
        assert_eq!(astray(&log), Some(before.len()));
        assert_eq!(astray(&[panic, frame, &died].concat()), None);
        assert_eq!(astray(&[panic, modules].concat()), None);
        assert_eq!(astray(&[before, &died].concat()), None);
    }

    #[test]
    fn a_stall_is_one_whoever_sees_it() {
        for line in [
            "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "rcu: INFO: rcu_preempt self-detected stall on CPU",
            "[  149.693434] Kernel panic - not syncing: NMI: Not continuing",
        ] {
            assert!(is_complaint(line) && is_stall(line), "{line}");
        }
        assert!(!is_stall("BUG: KASAN: slab-use-after-free"));
    }
}
