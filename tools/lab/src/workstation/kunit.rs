// SPDX-License-Identifier: GPL-2.0

//! The driver's unit tests as KUnit, those of the pure code among them, in User-mode Linux: their names come from the source, so that none can vanish silently.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};

use crate::{
    images::{initramfs::Initramfs, Places},
    kernel::Kernel,
    machine::serial,
    report::Report,
};

const INIT: &str = "#!/bin/sh
/bin/busybox mkdir -p /sbin && /bin/busybox --install -s /bin
mount -t proc proc /proc
for module in $(cat /modules/order) rvsock; do insmod /modules/$module.ko || echo \"insmod of $module failed\"; done
rmmod rvsock
echo rvsock: all loaded and unloaded
poweroff -f
";
const LIMIT: Duration = Duration::from_secs(120);

/// Walks the source for `kunit_tests(SUITE)` and the `#[test]` functions after it.
pub fn names(places: &Places) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for room in ["wire", "proto", "driver"] {
        walk(&places.checkout.join("rust").join(room), &mut names)?;
    }
    ensure!(
        !names.is_empty(),
        "rust/wire, rust/proto and rust/driver have no #[test]"
    );
    Ok(names)
}

fn walk(dir: &Path, names: &mut Vec<String>) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .with_context(|| format!("cannot list {}", dir.display()))?
        .collect::<Result<_, _>>()?;
    entries.sort_by_key(|e| e.path());
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, names)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path)?;
            let found = tests_of(&text);
            let count = text.lines().filter(|l| l.trim() == "#[test]").count();
            ensure!(
                found.len() == count,
                "{}: {count} tests, of which only {} stand below a kunit_tests(...)",
                path.display(),
                found.len()
            );
            names.extend(found);
        }
    }
    Ok(())
}

fn tests_of(text: &str) -> Vec<String> {
    let (mut suite, mut is_test, mut found) = (None, false, Vec::new());
    for line in text.lines().map(str::trim) {
        if let Some(at) = line.find("kunit_tests(") {
            suite = line[at + "kunit_tests(".len()..]
                .split(')')
                .next()
                .map(str::to_owned);
        }
        if line == "#[test]" {
            is_test = true;
        } else if let (true, Some(name), Some(suite)) = (is_test, line.strip_prefix("fn "), &suite)
        {
            found.push(format!(
                "kunit: {suite}: {}",
                name.split('(').next().unwrap_or_default()
            ));
            is_test = false;
        }
    }
    found
}

/// The results in a kernel's log, by name; the value is true for "ok".
fn results(log: &str) -> BTreeMap<String, bool> {
    let (mut suite, mut found) = (String::new(), BTreeMap::new());
    for line in log.lines() {
        // "[    1.0] " stands before what KUnit says.
        let said = line.split_once("] ").map_or(line, |(_, said)| said);
        if let Some(name) = said.trim_start().strip_prefix("# Subtest: ") {
            suite = name.trim().to_owned();
        }
        if !said.starts_with("    ") {
            continue;
        }
        let said = said.trim();
        let (ok, rest) = match (said.strip_prefix("ok "), said.strip_prefix("not ok ")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => continue,
        };
        if let Some((_, name)) = rest.split_once(' ') {
            let skipped = name.contains("# SKIP");
            let name = name.split(" #").next().unwrap_or_default();
            found.insert(format!("kunit: {suite}: {name}"), ok && !skipped);
        }
    }
    found
}

pub fn run(places: &Places, report: &Report, wanted: &[String], logs: &Path) -> Result<()> {
    report.busy("the driver's unit tests as KUnit, in User-mode Linux ...");
    let start = Instant::now();
    let places = places.with_guest(Kernel::uml()?);
    let mut fs = Initramfs::new(Path::new("/bin/busybox"), INIT)?;
    let modules = places.guest_modules().with_dependencies(&["vsock"])?;
    let order: Vec<_> = modules.iter().map(|(name, _)| name.as_str()).collect();
    fs.file("modules/order", 0o644, order.join(" ").as_bytes());
    for (name, bytes) in &modules {
        fs.file(&format!("modules/{name}.ko"), 0o644, bytes);
    }
    fs.program(places.driver(), "modules/rvsock.ko")?;
    let image = places.images()?.join("kunit.cpio");
    fs.write(&image)?;

    let mut child = Command::new(places.guest_kernel())
        .args([
            "mem=256M",
            "rdinit=/init",
            "kunit.enable=1",
            "kunit.autorun=1",
            "con=null",
            "con0=null,fd:1",
            "ssl0=null",
            "panic=-1",
        ])
        .arg(format!("initrd={}", image.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start User-mode Linux")?;
    let pipe = child
        .stdout
        .take()
        .context("no pipe from User-mode Linux")?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = std::io::BufReader::new(pipe).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    while child.try_wait()?.is_none() && start.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    child.wait()?;
    let log = reader.join().unwrap_or_default();
    fs::write(logs.join("kunit.log"), &log)?;

    let found = results(&log);
    let complaint = log.lines().find(|l| serial::is_complaint(l));
    let seconds = start.elapsed().as_secs_f64() / wanted.len().max(1) as f64;
    for name in wanted {
        let why = match found.get(name) {
            Some(true) => None,
            Some(false) => Some(lines_about(&log, name)),
            None => Some(match complaint {
                Some(line) => format!("it did not run; the kernel said: {line}"),
                None => format!("it did not run: see {}/kunit.log", logs.display()),
            }),
        };
        report.end(name, seconds, why);
    }
    Ok(())
}

/// What KUnit says of a failed test: the lines with '#' before its "not ok".
fn lines_about(log: &str, name: &str) -> String {
    let test = name.rsplit(": ").next().unwrap_or_default();
    let lines: Vec<_> = log.lines().map(str::trim).collect();
    let at = lines
        .iter()
        .position(|l| l.contains("not ok ") && l.ends_with(test))
        .unwrap_or(0);
    lines[at.saturating_sub(6)..at].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_and_results_meet() {
        let source =
            "#[kunit_tests(rvsock_credit)]\nmod tests {\n    #[test]\n    fn never_negative() {\n";
        let log = "[    0.1] KTAP version 1\n[    0.1] 1..1\n    KTAP version 1\n[    0.1]     # Subtest: rvsock_credit\n[    0.1]     1..2\n[    0.1]     ok 1 never_negative\n[    0.1]     not ok 2 other\n[    0.1] not ok 1 rvsock_credit\n";
        let name = "kunit: rvsock_credit: never_negative".to_owned();
        assert_eq!(tests_of(source), [name.clone()]);
        let found = results(log);
        assert_eq!(found.len(), 2);
        assert!(found[&name]);
    }
}
