// SPDX-License-Identifier: GPL-2.0

//! A file system for a guest with little memory, or without PCI: our driver, and what its tests on our device run.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{ensure, Context, Result};

use super::Places;

impl Places {
    /// The guest's file system, as small as it can be. The bus of devices without PCI is there before its devices' drivers.
    pub fn small_guest(&self) -> Result<PathBuf> {
        let mut fs = self.file_system(self.guest.arch, include_str!("init-guest.sh"))?;
        let modules = self.guest_modules();
        let base =
            modules.with_dependencies(&["virtio_mmio", "virtio_net", "vsock", "vsock_diag"])?;
        let order: Vec<_> = base.iter().map(|(name, _)| name.as_str()).collect();
        fs.file("modules/order", 0o644, (order.join("\n") + "\n").as_bytes());
        for (name, bytes) in &base {
            fs.file(&format!("modules/{name}.ko"), 0o644, bytes);
        }
        for (from, name) in [
            (self.driver(), "modules/rvsock.ko"),
            (self.built("rvtest"), "bin/rvtest"),
        ] {
            fs.program(self.stripped(&from)?, name)?;
        }
        let image = self.images()?.join("small-guest.cpio");
        fs.write(&image)?;
        Ok(image)
    }

    /// The same file without what only debuggers read.
    fn stripped(&self, from: &Path) -> Result<PathBuf> {
        let name = from.file_name().context("a program without a name")?;
        let to = self.images()?.join(name);
        let status = Command::new("strip")
            .args(["--strip-debug", "-o"])
            .arg(&to)
            .arg(from)
            .status()
            .context("cannot run strip")?;
        ensure!(
            status.success(),
            "strip {} ended with {status}",
            from.display()
        );
        Ok(to)
    }
}
