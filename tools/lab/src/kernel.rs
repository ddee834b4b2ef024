// SPDX-License-Identifier: GPL-2.0

//! The kernels that guests run: those of scripts/kernels, where each has a line.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{ensure, Context, Result};
use serde::{Deserialize, Serialize};

const TABLE: &str = include_str!("../../../scripts/kernels");

/// The processor that a guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    X86_64,
    Arm64,
    /// None: User-mode Linux is a process, at the host's own speed, on a vhost-user device.
    Um,
}

impl Arch {
    /// As the kernel's build and scripts/kernels call it.
    pub fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Arm64 => "arm64",
            Arch::Um => "um",
        }
    }

    /// Whether the workstation runs its programs.
    pub fn is_own(self) -> bool {
        self != Arch::Arm64
    }

    pub fn emulator(self) -> &'static str {
        match self {
            Arch::X86_64 | Arch::Um => "qemu-system-x86_64",
            Arch::Arm64 => "qemu-system-aarch64",
        }
    }

    pub fn console(self) -> &'static str {
        match self {
            Arch::X86_64 | Arch::Um => "ttyS0",
            Arch::Arm64 => "ttyAMA0",
        }
    }
}

/// A line of scripts/kernels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    pub name: String,
    pub arch: Arch,
    /// Debian's own, or one that scripts/kernel has built.
    pub is_debians: bool,
    /// The driver is part of its source: it is the one that scripts/series makes.
    pub has_driver: bool,
    version: String,
    flavour: String,
}

impl FromStr for Kernel {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = Self::all()?;
        let names: Vec<_> = all.iter().map(|k| k.name.clone()).collect();
        all.into_iter().find(|k| k.name == name).with_context(|| {
            format!(
                "there is no kernel '{name}': take one of {}",
                names.join(", ")
            )
        })
    }
}

impl Kernel {
    /// In the order of their lines.
    pub fn all() -> Result<Vec<Self>> {
        TABLE
            .lines()
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
            .map(Self::read)
            .collect()
    }

    fn read(line: &str) -> Result<Self> {
        let words: Vec<_> = line.split_whitespace().collect();
        let [name, arch, made, version, flavour] = words[..] else {
            anyhow::bail!("scripts/kernels: not five words: {line}");
        };
        ensure!(
            ["debian", "here", "series"].contains(&made),
            "scripts/kernels: {made} is no way to make a kernel"
        );
        Ok(Self {
            name: name.into(),
            arch: [Arch::X86_64, Arch::Arm64, Arch::Um]
                .into_iter()
                .find(|a| a.name() == arch)
                .with_context(|| format!("scripts/kernels: {arch} is no processor"))?,
            is_debians: made == "debian",
            has_driver: made == "series",
            version: version.into(),
            flavour: flavour.into(),
        })
    }

    /// What runs where nothing else is asked for, and what the host VM runs.
    pub fn first() -> Result<Self> {
        Self::all()?
            .into_iter()
            .next()
            .context("scripts/kernels is empty")
    }

    /// User-mode Linux.
    pub fn uml() -> Result<Self> {
        "uml".parse()
    }

    pub fn is_first(&self) -> bool {
        Self::first().is_ok_and(|k| k == *self)
    }

    /// It watches memory and locks, injects faults, and is slow.
    pub fn is_debug(&self) -> bool {
        self.flavour.split([',', '-']).any(|f| f == "debug")
    }

    /// What the names of tests begin with that run on it besides.
    pub fn prefix(&self) -> String {
        format!("kernel {}: ", self.name)
    }

    /// Its folder in the cache: see scripts/kernel.
    pub fn folder(&self, cache: &Path) -> PathBuf {
        cache.join(format!("kernel-{}", self.name))
    }

    /// What its machine needs of memory, in MiB.
    pub fn memory_mib(&self) -> u32 {
        match self.arch {
            Arch::Um if self.is_debug() => 1024,
            Arch::Um => 512,
            _ if self.is_debug() => 1536,
            // Pages of 16 KiB and more waste more.
            Arch::Arm64 => 1024,
            Arch::X86_64 => 768,
        }
    }

    /// What freed memory its KASAN keeps back at most, in bytes: a 32nd part of all.
    pub fn quarantine(&self) -> i64 {
        if self.is_debug() {
            (i64::from(self.memory_mib()) << 20) / 32
        } else {
            0
        }
    }

    /// What it is told besides.
    pub fn append(&self) -> &'static str {
        match self.arch {
            // While the first processor is identified, its features read as none for a moment; KASAN takes
            // memory beyond the reach of four levels of page tables for none then, if an interrupt comes.
            Arch::X86_64 if self.is_debug() => {
                "apic_extnmi=all tsc=reliable no_timer_check page_poison=1 no5lvl"
            }
            Arch::Um if self.is_debug() => "page_poison=1",
            Arch::X86_64 | Arch::Um => "apic_extnmi=all tsc=reliable no_timer_check",
            Arch::Arm64 => "",
        }
    }

    /// How much longer everything may take.
    pub fn slowness(&self) -> u32 {
        if self.is_debug() {
            4
        } else {
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_a_kernel() {
        let all = Kernel::all().unwrap();
        assert!(all.len() >= 7, "{all:?}");
        for kernel in &all {
            assert_eq!(kernel.name.parse::<Kernel>().unwrap(), *kernel);
        }
        let mut names: Vec<_> = all.iter().map(|k| &k.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all.len(), "a name stands there twice");
        assert!(Kernel::uml().unwrap().arch == Arch::Um && Kernel::first().unwrap().is_debians);
        assert!("series".parse::<Kernel>().unwrap().has_driver);
        assert!("7.1".parse::<Kernel>().is_err());
    }
}
