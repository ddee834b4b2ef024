// SPDX-License-Identifier: GPL-2.0

//! What must not compile: programs on `rust/ext` with a misuse in them, each with the compiler's word on it.
//!
//! In rust/tests/compile_fail a line that ends in `//~ CODE text` is a misuse: with the module's own command line the
//! compiler must report that error in that line, with that text in it, and no other. A line that ends in `//+` stands in
//! its place where there is none; without their misuses, all programs must compile.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use crate::{images::Places, report::Report};

const PREFIX: &str = "ext: does not compile: ";
const CONTROL: &str = "ext: compiles: all of that without the misuses";
const FRAGMENTS: &str = "ext: compiles: rvsock.ko for a kernel whose buffers have 45 fragments";

/// What every program has besides its own lines: the library, and the names that its macros want of a module.
const ROOT: &str = r#"
#![deny(unsafe_code)]
#![allow(dead_code, missing_docs, unreachable_pub, unused_imports, unused_variables, non_upper_case_globals)]
#[allow(dead_code, unsafe_code, unused_imports, unused_macros)]
#[path = "EXT/mod.rs"]
mod ext;
const __LOG_PREFIX: &[u8] = b"misuse\0";
"#;

/// A misuse: where it is, and what the compiler says.
struct Misuse {
    line: u64,
    code: String,
    text: String,
}

/// A program: its text, and the misuses in it.
struct Program {
    name: String,
    text: String,
    misuses: Vec<Misuse>,
}

impl Program {
    fn read(path: &Path) -> Result<Self> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let text = fs::read_to_string(path)?;
        let misuses = text
            .lines()
            .zip(1..)
            .filter_map(|(line, number)| {
                let (code, text) = line.split_once("//~ ")?.1.split_once(' ')?;
                Some(Misuse {
                    line: number,
                    code: code.to_owned(),
                    text: text.trim().to_owned(),
                })
            })
            .collect::<Vec<_>>();
        ensure!(
            !misuses.is_empty(),
            "{} has no line with a misuse in it: `//~ CODE text`",
            path.display()
        );
        Ok(Self {
            name: name.replace('_', " "),
            text,
            misuses,
        })
    }

    /// The text with the misuses, or with what stands in their place; lines keep their numbers.
    fn text(&self, with_misuses: bool) -> String {
        let unwanted = if with_misuses { "//+" } else { "//~ " };
        let keep = |line: &str| match line.contains(unwanted) {
            true => "\n".to_owned(),
            false => format!("{line}\n"),
        };
        self.text.lines().map(keep).collect()
    }

    /// Errors of a kind keep the compiler from coming to the next: names, then types, then borrows.
    fn stage(&self) -> usize {
        let code = self.misuses.first().map_or("", |m| m.code.as_str());
        match code {
            "E0425" | "E0432" | "E0433" | "E0603" | "E0407" | "E0412" => 0,
            "E0382" | "E0499" | "E0502" | "E0505" | "E0597" | "E0521" | "E0716" => 2,
            _ => 1,
        }
    }
}

fn programs(places: &Places) -> Result<Vec<Program>> {
    let dir = places.checkout.join("rust/tests/compile_fail");
    let mut paths = fs::read_dir(&dir)
        .with_context(|| format!("cannot list {}", dir.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    paths.iter().map(|path| Program::read(path)).collect()
}

pub fn names(places: &Places) -> Result<Vec<String>> {
    let mut names: Vec<_> = programs(places)?
        .iter()
        .map(|p| format!("{PREFIX}{}", p.name))
        .collect();
    names.extend([CONTROL.to_owned(), FRAGMENTS.to_owned()]);
    Ok(names)
}

/// The command line with which kbuild compiled the driver, for another root file and with other outputs.
fn compiler(places: &Places, root: &Path, emit: &str, bindings: &Path) -> Result<Command> {
    let file = places.checkout.join("rust/.rvsock_main.o.cmd");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("savedcmd_")?.split_once(" := "))
        .context("kbuild has not said how it compiled the driver")?
        .1;
    let mut words = Vec::new();
    let mut all = line.split_whitespace();
    while let Some(word) = all.next() {
        if word == "--out-dir" {
            all.next();
        } else if !word.starts_with("--emit=")
            && word != "-Zbinary_dep_depinfo=y"
            && !word.ends_with("rvsock_main.rs")
        {
            words.push(word);
        }
    }
    let out = root.parent().context("no folder for the outputs")?;
    let line = format!(
        "{} --error-format=json --emit={emit} --out-dir {} {}",
        words.join(" "),
        out.display(),
        root.display()
    );
    let mut command = Command::new("sh");
    command
        .args(["-c", &line])
        .current_dir(&places.checkout)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RVSOCK_BINDINGS", bindings);
    Ok(command)
}

/// An error of the compiler's.
struct Complaint {
    file: String,
    line: u64,
    code: String,
    message: String,
}

/// Compiles, and returns whether that worked, and the errors.
fn compile(mut command: Command) -> Result<(bool, Vec<Complaint>)> {
    let output = command.output().context("cannot run the compiler")?;
    let text = String::from_utf8_lossy(&output.stderr);
    let errors = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|m| m["level"] == "error")
        .map(|m| {
            let spans = m["spans"].as_array().cloned().unwrap_or_default();
            let span = spans.iter().find(|s| s["is_primary"] == true);
            let said = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            Complaint {
                file: span.map(|s| said(&s["file_name"])).unwrap_or_default(),
                line: span.and_then(|s| s["line_start"].as_u64()).unwrap_or(0),
                code: said(&m["code"]["code"]),
                message: said(&m["message"]),
            }
        })
        // At the end it says how many there were.
        .filter(|c| !c.message.starts_with("aborting due to"))
        .collect();
    Ok((output.status.success(), errors))
}

/// Writes a crate of these programs, each a module of it.
fn write(places: &Places, dir: &Path, all: &[&Program], with_misuses: bool) -> Result<PathBuf> {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir)?;
    let ext = places.checkout.join("rust/ext");
    let mut root = ROOT.replace("EXT", &ext.to_string_lossy());
    for program in all {
        let module = program.name.replace(' ', "_");
        fs::write(dir.join(format!("{module}.rs")), program.text(with_misuses))?;
        root += &format!("mod {module};\n");
    }
    let file = dir.join("misuse.rs");
    fs::write(&file, root)?;
    Ok(file)
}

/// What is wrong with the errors that one program got, if anything is.
fn verdict(program: &Program, errors: &[&Complaint]) -> Option<String> {
    let unexpected = errors.iter().find(|e| {
        !program
            .misuses
            .iter()
            .any(|m| m.line == e.line && m.code == e.code && e.message.contains(&m.text))
    });
    if let Some(e) = unexpected {
        return Some(format!(
            "line {}: the compiler says {} {}",
            e.line, e.code, e.message
        ));
    }
    let missing = program
        .misuses
        .iter()
        .find(|m| !errors.iter().any(|e| e.line == m.line));
    missing.map(|m| format!("line {} compiles: the misuse is not refused", m.line))
}

pub fn run(places: &Places, report: &Report, wanted: &[String]) -> Result<()> {
    report.busy("what must not compile ...");
    let programs = programs(places)?;
    let bindings = places.checkout.join("rust/ext/bindings_generated.rs");
    let dir = places.images()?.join("misuse");
    let mut stages: BTreeMap<usize, Vec<&Program>> = BTreeMap::new();
    for program in &programs {
        if wanted.contains(&format!("{PREFIX}{}", program.name)) {
            stages.entry(program.stage()).or_default().push(program);
        }
    }
    for all in stages.values() {
        let start = Instant::now();
        let root = write(places, &dir, all, true)?;
        let (_, errors) = compile(compiler(places, &root, "metadata", &bindings)?)?;
        let elsewhere = errors.iter().find(|e| {
            !all.iter().any(|p| {
                e.file
                    .ends_with(&format!("/{}.rs", p.name.replace(' ', "_")))
            })
        });
        let seconds = start.elapsed().as_secs_f64() / all.len() as f64;
        for program in all {
            let own = format!("/{}.rs", program.name.replace(' ', "_"));
            let errors: Vec<_> = errors.iter().filter(|e| e.file.ends_with(&own)).collect();
            let why = elsewhere
                .map(|e| format!("{}:{}: {} {}", e.file, e.line, e.code, e.message))
                .or_else(|| verdict(program, &errors));
            report.end(&format!("{PREFIX}{}", program.name), seconds, why);
        }
    }
    if wanted.iter().any(|name| name == CONTROL) {
        let start = Instant::now();
        let all: Vec<_> = programs.iter().collect();
        let root = write(places, &dir, &all, false)?;
        let outcome = compile(compiler(places, &root, "metadata", &bindings)?)?;
        report.end(CONTROL, start.elapsed().as_secs_f64(), complaint(outcome));
    }
    if wanted.iter().any(|name| name == FRAGMENTS) {
        let start = Instant::now();
        let outcome = compile(with_45_fragments(places, &dir, &bindings)?)?;
        report.end(FRAGMENTS, start.elapsed().as_secs_f64(), complaint(outcome));
    }
    Ok(())
}

/// The driver, for bindings in which CONFIG_MAX_SKB_FRAGS is as large as can be.
fn with_45_fragments(places: &Places, dir: &Path, bindings: &Path) -> Result<Command> {
    fs::create_dir_all(dir)?;
    let (usual, most) = (
        "pub const MAX_SKB_FRAGS: u32 = 17;",
        "pub const MAX_SKB_FRAGS: u32 = 45;",
    );
    let text = fs::read_to_string(bindings)?;
    ensure!(text.contains(usual), "the bindings have no {usual:?}");
    let changed = dir.join("bindings.rs");
    fs::write(&changed, text.replace(usual, most))?;
    // Kbuild's own name for it: a module's macros ask for it.
    let root = dir.join("rvsock_main.rs");
    let main = places.checkout.join("rust/rvsock_main.rs");
    let rooms = places.checkout.join("rust");
    let mut text = fs::read_to_string(main)?;
    for room in ["driver", "ext", "proto", "wire"] {
        text = text.replace(
            &format!("mod {room};"),
            &format!(
                "#[path = \"{}/{room}/mod.rs\"] mod {room};",
                rooms.display()
            ),
        );
        text = text.replace("pub #[path", "#[path");
    }
    fs::write(&root, text)?;
    // What a type may be is asked as code is made of it.
    compiler(places, &root, "obj", &changed)
}

fn complaint((compiles, errors): (bool, Vec<Complaint>)) -> Option<String> {
    let first = errors
        .first()
        .map(|e| format!("{}:{}: {} {}", e.file, e.line, e.code, e.message));
    (!compiles).then(|| first.unwrap_or_else(|| "the compiler does not say why".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(text: &str) -> Result<Program> {
        let path = std::env::temp_dir().join(format!("misuse-{}.rs", std::process::id()));
        fs::write(&path, text)?;
        let program = Program::read(&path);
        fs::remove_file(path)?;
        program
    }

    fn complaint_in(line: u64, code: &str, message: &str) -> Complaint {
        Complaint {
            file: String::new(),
            line,
            code: code.into(),
            message: message.into(),
        }
    }

    #[test]
    fn an_error_fits_its_line_and_code_and_text() -> Result<()> {
        let p = program("fn f() {\n    bad(); //~ E0425 function `bad`\n    good(); //+\n}\n")?;
        assert!(!p.text(true).contains("good") && !p.text(false).contains("bad"));
        let right = complaint_in(2, "E0425", "cannot find function `bad` in this scope");
        let wrong = complaint_in(2, "E0308", "mismatched types");
        assert_eq!(verdict(&p, &[&right]), None);
        assert!(verdict(&p, &[&right, &wrong]).is_some());
        assert!(verdict(&p, &[]).is_some());
        assert!(program("fn f() {}\n").is_err());
        Ok(())
    }
}
