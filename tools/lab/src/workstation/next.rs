// SPDX-License-Identifier: GPL-2.0

//! The module for the kernel of the next series: scripts/lab builds it, where the archive has that kernel.

use std::{fs, process::Command, time::Instant};

use crate::{
    images::{Places, NEXT},
    report::Report,
};

const SERIES: &str = "7.3";

fn name() -> String {
    format!("ext: builds for Linux {SERIES}")
}

/// None where there is no such kernel to be had.
pub fn names(places: &Places) -> Vec<String> {
    let kernel = places.cache.join(NEXT).join(".complete");
    kernel.exists().then(name).into_iter().collect()
}

pub fn run(places: &Places, report: &mut Report) {
    let start = Instant::now();
    let why = look(places).err().map(|e| format!("{e:#}"));
    report.end(&name(), start.elapsed().as_secs_f64(), why);
}

/// A build that failed has left nothing.
fn look(places: &Places) -> anyhow::Result<()> {
    let module = places.driver_for("next");
    let output = Command::new("/usr/sbin/modinfo")
        .args(["-F", "vermagic"])
        .arg(&module)
        .output()?;
    let magic = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(
        magic.starts_with(&format!("{SERIES}.")),
        "{} is not a module for it ({magic:?}); what scripts/module next says: {}",
        module.display(),
        fs::read_to_string(places.own_file("next.log")).unwrap_or_default()
    );
    Ok(())
}
