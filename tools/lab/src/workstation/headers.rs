// SPDX-License-Identifier: GPL-2.0

//! What distributions ship of a kernel's build folder: scripts/module builds with what is enough, and says of what is not
//! enough what is missing. Documentation/distributions.rst says who ships what.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Instant,
};

use anyhow::{ensure, Context, Result};

use crate::{images::Places, kernel::Kernel, report::Report};

const BUILDS: &str = "headers: rvsock.ko builds with what Arch and Ubuntu ship";

/// What a folder that is refused has instead of what it should have.
#[derive(Clone, Copy)]
enum Lack {
    /// Both files that tell the configuration
    Config,
    Version,
    Rust,
    Vsockets,
    /// `rust/`, as in Debian's and Fedora's headers
    Metadata,
    /// What the link `rust` leads to, as in Ubuntu's headers where their second package is not installed
    Package,
    /// The compiler: the metadata are of another build of the same version
    Build,
}

struct Refusal {
    name: &'static str,
    lack: Lack,
    says: &'static str,
}

const REFUSALS: &[Refusal] = &[
    Refusal {
        name: "headers: without a configuration",
        lack: Lack::Config,
        says: "has neither .config nor include/config/auto.conf",
    },
    Refusal {
        name: "headers: of a kernel that is too old",
        lack: Lack::Version,
        says: "is Linux 6.17.1, and rvsock needs",
    },
    Refusal {
        name: "headers: of a kernel without Rust",
        lack: Lack::Rust,
        says: "is a kernel without CONFIG_RUST=y",
    },
    Refusal {
        name: "headers: of a kernel without AF_VSOCK",
        lack: Lack::Vsockets,
        says: "is a kernel without CONFIG_VSOCKETS",
    },
    Refusal {
        name: "headers: without Rust's metadata",
        lack: Lack::Metadata,
        says: "has no rust/libkernel.rmeta: these are headers without Rust's metadata",
    },
    Refusal {
        name: "headers: whose metadata are in a package that is not installed",
        lack: Lack::Package,
        says: "its rust is a link to ../linux-lib-rust-7.3.0-8-generic/rust, where no libkernel.rmeta is; install that package (Ubuntu's is linux-lib-rust-7.3.0-8-generic)",
    },
    Refusal {
        name: "headers: whose metadata are of another build of the same rustc",
        lack: Lack::Build,
        says: "was built by 'rustc 1.85.1 (4eb161250 2025-03-15) (Arch Linux rust 1:1.85.1-1)'",
    },
];

pub fn names() -> Vec<String> {
    let refusals = REFUSALS.iter().map(|r| r.name);
    refusals.chain([BUILDS]).map(str::to_owned).collect()
}

pub fn run(places: &Places, report: &Report, wanted: &[String]) -> Result<()> {
    let dir = places.images()?.join("headers");
    for refusal in REFUSALS {
        if wanted.iter().any(|name| name == refusal.name) {
            let start = Instant::now();
            let why = is_refused(places, &dir.join("refused"), refusal).err();
            let why = why.map(|e| format!("{e:#}"));
            report.end(refusal.name, start.elapsed().as_secs_f64(), why);
        }
    }
    if wanted.iter().any(|name| name == BUILDS) {
        report.busy(BUILDS);
        let start = Instant::now();
        let why = builds(places, &dir).err().map(|e| format!("{e:#}"));
        report.end(BUILDS, start.elapsed().as_secs_f64(), why);
    }
    Ok(())
}

/// Runs scripts/module for a folder of headers, as `make KDIR=` does.
fn module(places: &Places, kdir: &Path, arguments: &[String]) -> Result<Output> {
    let script = places.checkout.join("scripts/module");
    let mut command = Command::new(&script);
    command.env("KDIR", kdir).args(arguments);
    command
        .output()
        .with_context(|| format!("cannot run {}", script.display()))
}

fn is_refused(places: &Places, kdir: &Path, refusal: &Refusal) -> Result<()> {
    lacking(kdir, refusal.lack)?;
    let output = module(places, kdir, &["--dry-run".to_owned()])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success(),
        "it is not refused; it says: {said}"
    );
    ensure!(
        said.contains(refusal.says),
        "it says: {said:?}, and should say {:?}",
        refusal.says
    );
    Ok(())
}

/// A folder with what scripts/module looks at, but for this.
fn lacking(kdir: &Path, lack: Lack) -> Result<()> {
    let _ = fs::remove_dir_all(kdir);
    fs::create_dir_all(kdir.join("include/config"))?;
    // As the distributions write it: Fedora has its release in it, Arch a suffix, Ubuntu neither.
    let version = match lack {
        Lack::Version => "6.17.1-300.fc43.x86_64",
        Lack::Metadata => "7.3.4-200.fc44.x86_64",
        Lack::Build => "7.3.4-arch1",
        _ => "7.3.0",
    };
    let rust = match lack {
        Lack::Rust => "# CONFIG_RUST is not set",
        _ => "CONFIG_RUST=y",
    };
    let vsockets = match lack {
        Lack::Vsockets => "# CONFIG_VSOCKETS is not set",
        _ => "CONFIG_VSOCKETS=m",
    };
    if !matches!(lack, Lack::Config) {
        let text = format!("#\n# Automatically generated file; DO NOT EDIT.\n# Linux/x86 {version} Kernel Configuration\n#\n{rust}\n{vsockets}\n");
        fs::write(kdir.join(".config"), text)?;
    }
    fs::write(
        kdir.join("include/config/kernel.release"),
        "7.3.0-8-generic\n",
    )?;
    match lack {
        Lack::Metadata => {}
        Lack::Package => symlink("../linux-lib-rust-7.3.0-8-generic/rust", kdir.join("rust"))?,
        _ => {
            let mut crate_ = b"rust\0\0\0\x09\x10\0\0\0\0\0\0\0N".to_vec();
            crate_.extend(
                b"rustc 1.85.1 (4eb161250 2025-03-15) (Arch Linux rust 1:1.85.1-1)\xc1\x02",
            );
            fs::create_dir_all(kdir.join("rust"))?;
            fs::write(kdir.join("rust/libkernel.rmeta"), crate_)?;
        }
    }
    Ok(())
}

/// The module builds with headers, the metadata and the proc macros alone, and without a line of the kernel's Rust.
fn builds(places: &Places, dir: &Path) -> Result<()> {
    let kernel = Kernel::first()?.folder(&places.cache);
    let kdir = distributed(&kernel, dir)?;
    let copy = dir.join("module");
    fs::create_dir_all(&copy)?;
    let filters = ["*.o", ".*", "*.ko", "*.mod", "*.mod.c", "*_generated.rs"];
    let mut rsync = Command::new("rsync");
    rsync.args(["-a", "--delete"]);
    rsync.args(filters.map(|f| format!("--exclude={f}")));
    rsync.args(["Kbuild", "rust"].map(|f| places.checkout.join(f)));
    must(rsync.arg(&copy))?;
    let arguments = [format!("M={}", copy.display()), "modules".to_owned()];
    let output = module(places, &kdir, &arguments)?;
    ensure!(
        output.status.success(),
        "it does not build: {}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    let mut modinfo = Command::new("/usr/sbin/modinfo");
    modinfo.args(["-F", "vermagic"]);
    let magic = must(modinfo.arg(copy.join("rust/rvsock.ko")))?;
    let release = fs::read_to_string(kernel.join("release"))?;
    ensure!(
        magic.starts_with(&format!("{} ", release.trim())),
        "it is a module for {magic:?}"
    );
    Ok(())
}

/// What Arch packs, with `rust` behind a link as Ubuntu has it: no .config is left to be read but kbuild's own.
fn distributed(kernel: &Path, dir: &Path) -> Result<PathBuf> {
    let _ = fs::remove_dir_all(dir);
    let (source, build) = (kernel.join("source/src"), kernel.join("build"));
    let kdir = dir.join("linux-headers");
    let rust = dir.join("linux-lib-rust/rust");
    for folder in ["arch/x86", "tools/objtool"] {
        fs::create_dir_all(kdir.join(folder))?;
    }
    fs::create_dir_all(&rust)?;
    symlink("../linux-lib-rust/rust", kdir.join("rust"))?;
    let copy = |from: PathBuf, to: PathBuf| must(Command::new("cp").arg("-r").args([from, to]));
    for file in ["Makefile", "scripts", "include"] {
        copy(source.join(file), kdir.join(file))?;
    }
    for file in ["arch/x86/Makefile", "arch/x86/include"] {
        copy(source.join(file), kdir.join(file))?;
    }
    // What was built stands beside what was written.
    for file in ["scripts", "include", "arch/x86/include"] {
        copy(build.join(file).join("."), kdir.join(file))?;
    }
    for file in ["Module.symvers", "tools/objtool/objtool"] {
        copy(build.join(file), kdir.join(file))?;
    }
    for file in fs::read_dir(build.join("rust"))? {
        let file = file?.path();
        if file.extension().is_some_and(|e| e == "rmeta" || e == "so") {
            fs::copy(
                &file,
                rust.join(file.file_name().context("a file has no name")?),
            )?;
        }
    }
    Ok(kdir)
}

/// Runs a program that must succeed, and returns what it says.
fn must(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
