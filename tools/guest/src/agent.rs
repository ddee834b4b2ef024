// SPDX-License-Identifier: GPL-2.0

//! The agent in the guest: runs a program per control connection and streams what it writes.

use std::{
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{killpg, Signal},
    unistd::Pid,
};

use crate::frame::{Frame, Request};

/// Serves control connections for ever.
pub fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))
        .with_context(|| format!("cannot listen on TCP port {port}"))?;
    println!("agent: listening on port {port}");
    for connection in listener.incoming() {
        let connection = connection.context("accept of a control connection")?;
        thread::spawn(move || {
            if let Err(e) = run(connection) {
                eprintln!("agent: {e:#}");
            }
        });
    }
    Ok(())
}

fn run(connection: TcpStream) -> Result<()> {
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(());
    }
    let request: Request =
        serde_json::from_str(&line).with_context(|| format!("request {line:?}"))?;
    let to_lab = Arc::new(Mutex::new(connection));
    let mut child = match spawn(&request.argv) {
        Ok(child) => child,
        Err(e) => {
            let told =
                Frame::Failed(format!("{:?}: {e:#}", request.argv)).write(&mut *lock(&to_lab));
            return Ok(told?);
        }
    };

    // When the lab hangs up, the program and its children end.
    let group = Pid::from_raw(child.id() as i32);
    thread::spawn(move || {
        let mut rest = Vec::new();
        let _ = reader.read_to_end(&mut rest);
        let _ = killpg(group, Signal::SIGKILL);
    });

    let outputs = [
        child
            .stdout
            .take()
            .map(|pipe| forward(pipe, to_lab.clone())),
        child
            .stderr
            .take()
            .map(|pipe| forward(pipe, to_lab.clone())),
    ];
    let status = child.wait()?;
    for output in outputs.into_iter().flatten() {
        let _ = output.join();
    }
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    let told = Frame::Exit(code).write(&mut *lock(&to_lab));
    Ok(told?)
}

fn lock(to_lab: &Mutex<TcpStream>) -> std::sync::MutexGuard<'_, TcpStream> {
    to_lab
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn spawn(argv: &[String]) -> Result<Child> {
    let (program, arguments) = argv.split_first().context("an empty command")?;
    Ok(Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?)
}

fn forward(
    mut pipe: impl Read + Send + 'static,
    to_lab: Arc<Mutex<TcpStream>>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 16384];
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            if Frame::Output(buffer[..n].to_vec())
                .write(&mut *lock(&to_lab))
                .is_err()
            {
                return;
            }
        }
    })
}
