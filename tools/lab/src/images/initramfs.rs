// SPDX-License-Identifier: GPL-2.0

//! Builds the file systems that the machines boot from: an uncompressed cpio archive ("newc") in memory.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{bail, Context, Result};

#[derive(Default)]
pub struct Initramfs {
    archive: Vec<u8>,
    known: BTreeSet<String>,
}

impl Initramfs {
    /// A file system with this busybox, the folders that every Linux has, and `init` as its first program.
    pub fn new(busybox: &Path, init: &str) -> Result<Self> {
        let mut fs = Self::default();
        for dir in ["dev", "proc", "sys", "tmp", "run", "root", "etc"] {
            fs.dir(dir);
        }
        fs.program(busybox, "bin/busybox")?;
        fs.link("bin/sh", "busybox");
        fs.file("init-common", 0o755, include_bytes!("init-common.sh"));
        fs.file("init", 0o755, init.as_bytes());
        Ok(fs)
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) {
        let inode = self.known.len() + 1;
        let fields = [
            inode,
            mode as usize,
            0,
            0,
            1,
            0,
            data.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        ];
        self.archive.extend(b"070701");
        for field in fields {
            self.archive.extend(format!("{field:08x}").into_bytes());
        }
        self.archive.extend(name.as_bytes());
        self.archive.push(0);
        self.pad();
        self.archive.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.archive
            .resize(self.archive.len().next_multiple_of(4), 0);
    }

    fn parents(&mut self, name: &str) {
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.dir(parent);
        }
    }

    pub fn dir(&mut self, name: &str) {
        if self.known.contains(name) {
            return;
        }
        self.parents(name);
        self.known.insert(name.into());
        self.entry(name, 0o040755, &[]);
    }

    pub fn file(&mut self, name: &str, mode: u32, data: &[u8]) {
        if !self.known.contains(name) {
            self.parents(name);
            self.known.insert(name.into());
            self.entry(name, 0o100000 | mode, data);
        }
    }

    pub fn link(&mut self, name: &str, target: &str) {
        if !self.known.contains(name) {
            self.parents(name);
            self.known.insert(name.into());
            self.entry(name, 0o120777, target.as_bytes());
        }
    }

    /// Copies a program (or any file) of the workstation.
    pub fn program(&mut self, from: impl AsRef<Path>, name: &str) -> Result<()> {
        let from = from.as_ref();
        let data = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(name, 0o755, &data);
        Ok(())
    }

    /// Copies a program with the shared libraries that it is linked to.
    pub fn program_with_libraries(&mut self, program: &str) -> Result<()> {
        self.program(program, program.trim_start_matches('/'))?;
        let output = Command::new("ldd")
            .arg(program)
            .output()
            .context("cannot run ldd")?;
        for word in String::from_utf8_lossy(&output.stdout)
            .split_whitespace()
            .filter(|w| w.starts_with('/'))
        {
            self.program(word, word.trim_start_matches('/'))?;
        }
        Ok(())
    }

    pub fn write(mut self, to: &Path) -> Result<()> {
        self.entry("TRAILER!!!", 0, &[]);
        fs::write(to, &self.archive).with_context(|| format!("cannot write {}", to.display()))
    }
}

/// The kernel's modules on disk, found by name, unpacked, and sorted so that each comes after those that it needs.
pub struct Modules {
    root: PathBuf,
}

impl Modules {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Whether there is such a module.
    pub fn has(&self, name: &str) -> Result<bool> {
        Ok(find(&self.root, name)?.is_some())
    }

    /// Whether what would be this module is in the kernel itself.
    pub fn is_built_in(&self, name: &str) -> bool {
        // The folder may be a link, and the list lies beside what it leads to.
        let list = fs::canonicalize(&self.root)
            .and_then(|root| fs::read_to_string(root.with_file_name("modules.builtin")))
            .unwrap_or_default();
        let file = format!("{}.ko", name.replace('-', "_"));
        list.lines().any(|path| {
            let own = path.rsplit('/').next().unwrap_or_default();
            own.replace('-', "_") == file
        })
    }

    /// The named modules and all that they depend on, as (name, bytes); without those that are built in.
    pub fn with_dependencies(&self, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut done = Vec::new();
        for name in names {
            self.collect(name, &mut done)?;
        }
        Ok(done)
    }

    fn collect(&self, name: &str, done: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        let name = name.replace('-', "_");
        if done.iter().any(|(known, _)| *known == name) {
            return Ok(());
        }
        let found = find(&self.root, &name)?;
        if found.is_none() && self.is_built_in(&name) {
            return Ok(());
        }
        let path =
            found.with_context(|| format!("no module {name} under {}", self.root.display()))?;
        let bytes = match path.extension().and_then(|e| e.to_str()) {
            Some("xz") => {
                let output = Command::new("xz")
                    .arg("-dc")
                    .arg(&path)
                    .output()
                    .context("cannot run xz")?;
                output.stdout
            }
            _ => fs::read(&path)?,
        };
        if !bytes.starts_with(b"\x7fELF") {
            bail!("{} does not unpack to a kernel module", path.display());
        }
        for needed in depends(&bytes) {
            self.collect(&needed, done)?;
        }
        done.push((name, bytes));
        Ok(())
    }
}

/// What the module's own `depends=` says.
fn depends(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|w| w == key) else {
        return Vec::new();
    };
    let value = module[at + key.len()..]
        .split(|b| *b == 0)
        .next()
        .unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect()
}

fn find(dir: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name)? {
                return Ok(Some(found));
            }
        } else if let Some((stem, "ko" | "ko.xz")) = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.split_once('.'))
        {
            if stem.replace('-', "_") == name {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}
