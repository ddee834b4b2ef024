// SPDX-License-Identifier: GPL-2.0

//! A machine's monitor, and whether the emulator runs the machine's processors at all.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{bail, Context, Result};
use serde_json::{json, Value};

/// How often a watched machine is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// In how many looks in a row a processor must be found unchanged before it is examined.
const LOOKS: u32 = 3;
/// By how much the threads of an emulated machine's processors are nicer than its other threads.
const NICE: i32 = 10;

#[derive(Clone)]
pub struct Monitor {
    socket: PathBuf,
}

/// The registers of each processor, as the monitor prints them.
type Registers = Vec<String>;

impl Monitor {
    pub fn at(socket: PathBuf) -> Self {
        let _ = std::fs::remove_file(&socket);
        Self { socket }
    }

    /// The emulator's argument for this monitor.
    pub fn argument(&self) -> String {
        format!("unix:{},server=on,wait=off", self.socket.display())
    }

    /// Sends one command and gives its answer.
    pub fn ask(&self, command: &str, arguments: Value) -> Result<Value> {
        Self::converse(&self.connect()?, command, arguments)
    }

    fn connect(&self) -> Result<UnixStream> {
        UnixStream::connect(&self.socket).context("the emulator's monitor does not answer")
    }

    fn converse(stream: &UnixStream, command: &str, arguments: Value) -> Result<Value> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        lines.next().context("no greeting from the monitor")??;
        for (name, arguments) in [("qmp_capabilities", json!({})), (command, arguments)] {
            let mut line = serde_json::to_vec(&json!({ "execute": name, "arguments": arguments }))?;
            line.push(b'\n');
            let mut to = stream;
            to.write_all(&line)?;
            loop {
                let answer: Value =
                    serde_json::from_str(&lines.next().context("the monitor hung up")??)?;
                if let Some(error) = answer.get("error") {
                    bail!("monitor command {name}: {error}");
                }
                if let Some(value) = answer.get("return") {
                    if name == command {
                        return Ok(value.clone());
                    }
                    break;
                }
            }
        }
        bail!("the monitor did not answer {command}")
    }

    fn say(&self, line: &str) -> Result<String> {
        let text = self.ask("human-monitor-command", json!({ "command-line": line }))?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    fn registers(&self) -> Result<Registers> {
        let text = self.say("info registers -a")?;
        Ok(text.split("CPU#").skip(1).map(str::to_owned).collect())
    }

    /// The processors that wait for an interrupt, and have one.
    fn deaf(&self) -> Result<Vec<usize>> {
        let mut deaf = Vec::new();
        for (cpu, registers) in self.registers()?.iter().enumerate() {
            if registers.contains("HLT=1")
                && is_interrupted(&self.say(&format!("info lapic {cpu}"))?)
            {
                deaf.push(cpu);
            }
        }
        Ok(deaf)
    }

    /// A processor that hears no interrupts, as happens to one that has run a nested guest: the others wait for it
    /// for ever, and neither an NMI nor a pause of the machine wakes it.
    pub fn deaf_processor(&self) -> Option<usize> {
        let mut still = self.deaf().ok()?;
        for _ in 0..20 {
            if still.is_empty() {
                return None;
            }
            thread::sleep(Duration::from_millis(100));
            let now = self.deaf().ok()?;
            still.retain(|cpu| now.contains(cpu));
        }
        still.first().copied()
    }

    /// A processor that the emulator does not run: it does not wait for anything, none of its registers changes in any
    /// of many looks, nor by an NMI, which takes a processor elsewhere whatever it is at. So it is told from one that
    /// waits for a lock in a short loop.
    pub fn stopped_processor(&self) -> Option<String> {
        let first = self.registers().ok()?;
        let mut still = unchanged(&first, &first);
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(37));
            let now = unchanged(&first, &self.registers().ok()?);
            still.retain(|cpu| now.contains(cpu));
        }
        if still.is_empty() {
            return None;
        }
        self.ask("inject-nmi", json!({})).ok()?;
        let mut looks = 0;
        // The others may end the machine by what they make of it.
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(50));
            let Ok(now) = self.registers() else { break };
            let now = unchanged(&first, &now);
            still.retain(|cpu| now.contains(cpu));
            looks += 1;
        }
        let cpu = still.into_iter().next().filter(|_| looks > 0)?;
        Some(format!("processor {cpu} ({})", place(&first[cpu])))
    }

    /// Has the threads of the machine's processors give way to the emulator's others.
    ///
    /// A try against the deaths of nested guests where virtualisation is emulated: one guest died in six rounds of a test
    /// with the processors' threads at nice 15; in one round each before, two guests and three host VMs did without, and
    /// four and one with the main thread at nice 19. That is too few to say that it helps.
    pub fn be_nice(self) {
        thread::spawn(move || {
            for _ in 0..50 {
                thread::sleep(Duration::from_millis(200));
                let Ok(processors) = self.ask("query-cpus-fast", json!({})) else {
                    continue;
                };
                let threads = processors.as_array().into_iter().flatten();
                for id in threads.filter_map(|p| p["thread-id"].as_u64()) {
                    // SAFETY: A system call without pointers.
                    unsafe { libc::setpriority(libc::PRIO_PROCESS, id as libc::id_t, NICE) };
                }
                return;
            }
        });
    }

    /// Looks at the processors from time to time, until the machine ends or one is found that is not run: then `found`
    /// is told, and the machine is ended.
    pub fn watch(self, found: impl FnOnce(String) + Send + 'static) {
        thread::spawn(move || {
            let (mut before, mut looks) = (Registers::new(), 0);
            loop {
                thread::sleep(LOOK);
                if self.connect().is_err() {
                    return;
                }
                // A machine that sleeps or is saved has every right to stand still.
                let state = self.ask("query-status", json!({})).unwrap_or_default();
                let now = match state["status"].as_str() {
                    Some("running") => self.registers().unwrap_or_default(),
                    _ => Registers::new(),
                };
                looks = match unchanged(&before, &now)[..] {
                    [] => 1,
                    _ => looks + 1,
                };
                before = now;
                if looks >= LOOKS {
                    if let Some(cpu) = self.stopped_processor() {
                        found(cpu);
                        let _ = self.ask("quit", json!({}));
                        return;
                    }
                    looks = 0;
                }
            }
        });
    }
}

/// Whether a local APIC, as the monitor prints it, has an interrupt for its processor.
fn is_interrupted(apic: &str) -> bool {
    apic.lines()
        .filter_map(|line| line.strip_prefix("IRR"))
        .any(|pending| !pending.contains("(none)"))
}

/// The processors that run in both looks, and whose registers are the same.
fn unchanged(before: &Registers, now: &Registers) -> Vec<usize> {
    let pairs = before.iter().zip(now).enumerate();
    pairs
        .filter(|(_, (before, now))| before == now && !now.contains("HLT=1"))
        .map(|(cpu, _)| cpu)
        .collect()
}

/// Where a processor is, out of its registers: the instruction and the page tables.
fn place(registers: &str) -> String {
    let words = registers.split_whitespace();
    let named = words.filter(|w| w.starts_with("RIP=") || w.starts_with("CR3="));
    named.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers(of: &[&str]) -> Registers {
        of.iter().map(|r| (*r).to_owned()).collect()
    }

    #[test]
    fn pending_interrupts() {
        assert!(is_interrupted("ISR\t (none)\nIRR\t 236 251 \n\nAPR 0x00"));
        assert!(!is_interrupted("ISR\t 236\nIRR\t (none)\n"));
        assert!(!is_interrupted(""));
    }

    #[test]
    fn only_a_running_processor_can_stand_still() {
        let before = registers(&["RIP=1 HLT=0 CR3=5", "RIP=2 HLT=1", "RIP=3 HLT=0"]);
        let now = registers(&["RIP=1 HLT=0 CR3=5", "RIP=2 HLT=1", "RIP=4 HLT=0"]);
        assert_eq!(unchanged(&before, &now), [0]);
        assert_eq!(unchanged(&Registers::new(), &now), [0; 0]);
        assert_eq!(place(&now[0]), "RIP=1 CR3=5");
    }
}
