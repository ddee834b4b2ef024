// SPDX-License-Identifier: GPL-2.0

//! The folders that runs leave their logs in.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::images::Places;

/// A folder for this run's logs; `latest` points to it.
pub fn folder(places: &Places) -> Result<PathBuf> {
    let stamp = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs();
    forget_old_logs(&places.cache.join("logs"))?;
    let name = format!("run-{stamp}-{}", std::process::id());
    let dir = places.cache.join("logs").join(&name);
    fs::create_dir_all(&dir)?;
    let latest = places.cache.join("logs/latest");
    let _ = fs::remove_file(&latest);
    std::os::unix::fs::symlink(&name, &latest)?;
    Ok(dir)
}

/// The last runs are kept, and no more.
fn forget_old_logs(folder: &Path) -> Result<()> {
    const KEEP: usize = 40;
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    let mut runs: Vec<_> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| {
            p.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("run-"))
        })
        .collect();
    runs.sort();
    for old in runs.iter().rev().skip(KEEP) {
        fs::remove_dir_all(old).with_context(|| format!("cannot remove {}", old.display()))?;
    }
    Ok(())
}
