// SPDX-License-Identifier: GPL-2.0

//! A program that a test drives, on the host or in the guest: what it wrote so far, its end, and a way to kill it.

use std::{
    io::{self, BufWriter, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        Arc, Condvar, Mutex, MutexGuard,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, Context, Result};
use guest::frame::{Frame, Request};
use nix::{
    sys::signal::{killpg, Signal},
    unistd::{sysconf, Pid, SysconfVar},
};

/// How many times the time that tests give programs is given to them.
static SLOWNESS: AtomicU32 = AtomicU32::new(1);

/// Gives programs so many times the time that tests give them.
pub fn allow(times: u32) {
    SLOWNESS.store(times, Ordering::Relaxed);
}

/// What such a time is where programs are given more.
pub fn allowed(time: Duration) -> Duration {
    time * SLOWNESS.load(Ordering::Relaxed)
}

#[derive(Default)]
struct State {
    text: String,
    exit: Option<Result<i32, String>>,
}

type Shared = Arc<(Mutex<State>, Condvar)>;

enum Handle {
    Here(Pid),
    Guest(TcpStream),
}

/// A running program. Dropping it kills it.
pub struct Process {
    what: String,
    shared: Shared,
    handle: Handle,
}

fn update(shared: &Shared, change: impl FnOnce(&mut State)) {
    change(&mut shared.0.lock().unwrap_or_else(|e| e.into_inner()));
    shared.1.notify_all();
}

/// The network in front of a guest may come up after it.
fn connected(agent: SocketAddr) -> io::Result<TcpStream> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let start = Instant::now();
    loop {
        match TcpStream::connect_timeout(&agent, PATIENCE) {
            Err(e) if e.kind() == ErrorKind::ConnectionRefused && start.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(50));
            }
            outcome => return outcome,
        }
    }
}

impl Process {
    /// Starts a program on the host.
    pub fn on_host(argv: &[String]) -> Result<Self> {
        let (program, arguments) = argv.split_first().context("an empty command")?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let shared = Shared::default();
        let pid = Pid::from_raw(child.id() as i32);
        let pipes: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|p| Box::new(p) as _),
            child.stderr.take().map(|p| Box::new(p) as _),
        ];
        let readers: Vec<_> = pipes
            .into_iter()
            .flatten()
            .map(|mut pipe| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let mut buffer = [0; 16384];
                    while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                        update(&shared, |s| {
                            s.text.push_str(&String::from_utf8_lossy(&buffer[..n]))
                        });
                    }
                })
            })
            .collect();
        let waiter = shared.clone();
        thread::spawn(move || {
            let status = child.wait();
            for reader in readers {
                let _ = reader.join();
            }
            update(&waiter, |s| {
                s.exit = Some(status.map_err(|e| e.to_string()).map(|status| {
                    status
                        .code()
                        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
                }));
            });
        });
        Ok(Self {
            what: argv.join(" "),
            shared,
            handle: Handle::Here(pid),
        })
    }

    /// The processor time that it has used so far, if it runs on the host.
    pub fn used(&self) -> Result<Duration> {
        let Handle::Here(pid) = &self.handle else {
            bail!("{} runs in the guest", self.what);
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("{} has ended", self.what))?;
        // The fields behind the name, which may hold anything: utime and stime are the 12th and 13th.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|n| n.parse::<u64>().ok())
            .sum();
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
        Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
    }

    /// Starts a program through the guest's agent.
    pub fn in_guest(agent: SocketAddr, argv: &[String]) -> Result<Self> {
        let connection =
            connected(agent).context("the guest's agent does not accept connections")?;
        connection.set_nodelay(true)?;
        let mut request = serde_json::to_vec(&Request {
            argv: argv.to_vec(),
        })?;
        request.push(b'\n');
        BufWriter::new(&connection).write_all(&request)?;
        let shared = Shared::default();
        let (reader, mut stream) = (shared.clone(), connection.try_clone()?);
        thread::spawn(move || loop {
            let end = match Frame::read(&mut stream) {
                Ok(Some(Frame::Output(bytes))) => {
                    update(&reader, |s| {
                        s.text.push_str(&String::from_utf8_lossy(&bytes))
                    });
                    continue;
                }
                Ok(Some(Frame::Exit(code))) => Ok(code),
                Ok(Some(Frame::Failed(why))) => Err(why),
                Ok(None) => Err("the guest's agent hung up".into()),
                Err(e) => Err(format!("control connection: {e}")),
            };
            return update(&reader, |s| s.exit = Some(end));
        });
        Ok(Self {
            what: format!("guest: {}", argv.join(" ")),
            shared,
            handle: Handle::Guest(connection),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn text(&self) -> String {
        self.state().text.clone()
    }

    pub fn ended(&self) -> bool {
        self.state().exit.is_some()
    }

    /// Waits until `done` gives a value, or the program ended, or time is up (the last two: `None`).
    fn until<T>(
        &self,
        timeout: Duration,
        mut done: impl FnMut(&State) -> Option<T>,
    ) -> (Option<T>, bool) {
        let deadline = Instant::now() + allowed(timeout);
        let mut state = self.state();
        loop {
            if let Some(value) = done(&state) {
                return (Some(value), false);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.exit.is_some() || left.is_zero() {
                return (None, state.exit.is_some());
            }
            state = self
                .shared
                .1
                .wait_timeout(state, left)
                .unwrap_or_else(|e| e.into_inner())
                .0;
        }
    }

    /// Waits for a line that starts with `start`, and gives it.
    pub fn expect(&self, start: &str, timeout: Duration) -> Result<String> {
        let (line, ended) = self.until(timeout, |s| {
            let complete = s.text.rfind('\n').map_or("", |end| &s.text[..end]);
            complete
                .lines()
                .find(|l| l.starts_with(start))
                .map(str::to_owned)
        });
        match line {
            Some(line) => Ok(line),
            None if ended => bail!(
                "`{}` ended ({}) without saying {start:?}; it said: {}",
                self.what,
                self.exit_text(),
                tail(&self.text())
            ),
            None => bail!(
                "`{}` did not say {start:?} within {timeout:?}; it said: {}",
                self.what,
                tail(&self.text())
            ),
        }
    }

    /// Waits for the end; gives the exit code and everything that was written.
    pub fn wait(&self, timeout: Duration) -> Result<(i32, String)> {
        self.until(timeout, |s| s.exit.is_some().then_some(()));
        let state = self.state();
        match &state.exit {
            Some(Ok(code)) => Ok((*code, state.text.clone())),
            Some(Err(why)) => bail!("`{}`: {why}", self.what),
            None => bail!(
                "`{}` did not end within {timeout:?}; it said: {}",
                self.what,
                tail(&state.text)
            ),
        }
    }

    /// Waits for an end with exit code 0, and gives what was written.
    pub fn success(&self, timeout: Duration) -> Result<String> {
        match self.wait(timeout)? {
            (0, text) => Ok(text),
            (code, text) => bail!(
                "`{}` failed with exit code {code}: {}",
                self.what,
                tail(&text)
            ),
        }
    }

    fn exit_text(&self) -> String {
        match &self.state().exit {
            Some(Ok(code)) => format!("exit code {code}"),
            Some(Err(why)) => why.clone(),
            None => "still running".into(),
        }
    }

    /// SIGTERM to the program, if it runs on the host.
    pub fn ask_to_end(&self) -> Result<()> {
        match &self.handle {
            Handle::Here(group) if !self.ended() => Ok(killpg(*group, Signal::SIGTERM)?),
            _ => bail!("{} does not run here", self.what),
        }
    }

    /// SIGKILL to the program and its children.
    pub fn kill(&self) {
        match &self.handle {
            Handle::Here(group) if !self.ended() => drop(killpg(*group, Signal::SIGKILL)),
            Handle::Here(_) => {}
            Handle::Guest(connection) => drop(connection.shutdown(Shutdown::Write)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        match &self.handle {
            // What it has, as its sockets, is there until then.
            Handle::Here(_) => drop(self.wait(Duration::from_secs(10))),
            Handle::Guest(connection) => drop(connection.shutdown(Shutdown::Both)),
        }
    }
}

/// The last lines of a text, for an error message.
pub fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(8)..].join(" | ");
    if last.is_empty() {
        "(nothing)".into()
    } else {
        last
    }
}
