// SPDX-License-Identifier: GPL-2.0

//! The kernel's own vsock tests, guest against host or against another guest, in both roles.

use std::{
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context, Result};

use crate::{
    images::Places,
    process::{allowed, tail, Process},
    session::{free_tcp_port, Session, Side, CONTROL, GUEST_CID, HOST_CID, NEIGHBOUR_CID},
};

/// A client of this test gives up connecting again and again. What it sent may reach a slow guest only when the next
/// test listens, and be accepted there: so the next one is a new program's.
const LEAVES_REQUESTS: &str = "SOCK_STREAM transport change null-ptr-deref, lockdep warn";

/// Its client binds to a port again when a line of the control connection has come, which may overtake the RST that lets the
/// port go: then it is told that the port is in use, and is run again.
const RACES: (&str, &str) = (
    "SOCK_STREAM double bind connect",
    "bind: Address already in use",
);
/// So often, in all directions.
const RACES_MAX: u32 = 3;
static RACES_LOST: AtomicU32 = AtomicU32::new(0);

const VSOCK_TEST: &str = "vsock_test";
/// In the kernel's form, and built of its parts, so that it is run in the same way.
const DGRAM_TEST: &str = "vsock_dgram_test";
const DIAG: &str = "vsock_diag_test";
/// A test that says nothing for this long has failed.
const SILENCE: Duration = Duration::from_secs(90);

/// So long one side goes on after the other has ended.
const LAST_WORDS: Duration = Duration::from_secs(15);

/// Where a part of a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Host,
    Guest,
    /// The other guest.
    Neighbour,
}

impl Place {
    fn cid(self) -> u32 {
        match self {
            Place::Host => HOST_CID,
            Place::Guest => GUEST_CID,
            Place::Neighbour => NEIGHBOUR_CID,
        }
    }

    /// The session and its side that stand for it.
    fn find(self, session: &Session) -> Result<(&Session, Side)> {
        Ok(match self {
            Place::Host => (session, Side::Host),
            Place::Guest => (session, Side::Guest),
            Place::Neighbour => (session.neighbour()?, Side::Guest),
        })
    }

    fn spawn(self, session: &Session, argv: &[String]) -> Result<Process> {
        let (session, side) = self.find(session)?;
        session.spawn(side, &argv.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The TCP port that a server here listens on, and the one by which others reach it.
    fn control_ports(self, session: &Session) -> Result<(u16, u16)> {
        Ok(match self.find(session)? {
            (session, Side::Guest) => (CONTROL, session.control_port()),
            (_, Side::Host) => {
                let port = free_tcp_port()?;
                (port, port)
            }
        })
    }
}

/// Who has which role.
#[derive(Debug, PartialEq, Eq)]
pub struct Direction {
    /// What the names of its tests begin with.
    pub prefix: &'static str,
    program: &'static str,
    server: Place,
    client: Place,
}

impl Direction {
    /// Between two guests: the client is the one with CID 3.
    pub const fn to_neighbour(prefix: &'static str) -> Self {
        Self {
            prefix,
            program: VSOCK_TEST,
            server: Place::Neighbour,
            client: Place::Guest,
        }
    }

    /// Between two guests: the client is the one with CID 4.
    pub const fn from_neighbour(prefix: &'static str) -> Self {
        Self {
            prefix,
            program: VSOCK_TEST,
            server: Place::Guest,
            client: Place::Neighbour,
        }
    }

    /// The tests of datagrams instead.
    pub const fn datagrams(self) -> Self {
        Self {
            program: DGRAM_TEST,
            ..self
        }
    }

    /// What runs once, as a test of its own, beside the program with many.
    fn single(&self) -> Option<&'static str> {
        (self.program == VSOCK_TEST).then_some(DIAG)
    }

    pub fn owns(&self, test: &str) -> bool {
        test.starts_with(self.prefix)
    }
}

pub const GUEST_IS_CLIENT: Direction = Direction {
    prefix: "kernel, guest is client: ",
    program: VSOCK_TEST,
    server: Place::Host,
    client: Place::Guest,
};
pub const GUEST_IS_SERVER: Direction = Direction {
    prefix: "kernel, guest is server: ",
    program: VSOCK_TEST,
    server: Place::Guest,
    client: Place::Host,
};
/// Between guest and host.
pub const WITH_HOST: [Direction; 2] = [GUEST_IS_CLIENT, GUEST_IS_SERVER];

/// The names and numbers of a program's tests, as it lists them.
fn list(program: &Path) -> Result<Vec<(u32, String)>> {
    // It ends with an error after listing.
    let output = Command::new(program)
        .arg("--list")
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let tests: Vec<_> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter_map(|(id, name)| Some((id.parse().ok()?, name.to_owned())))
        .collect();
    ensure!(
        !tests.is_empty(),
        "{} --list names no tests",
        program.display()
    );
    Ok(tests)
}

/// Whether the test expects no sockets but its own.
pub fn counts_sockets(test: &str) -> bool {
    test.ends_with(DIAG)
}

/// All tests in these directions by their full names.
pub fn names(places: &Places, directions: &[Direction]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for direction in directions {
        let tests = list(&places.kernel_test(direction.program))?;
        let tests = tests.iter().map(|(_, name)| name.as_str());
        let tests = tests.chain(direction.single());
        names.extend(tests.map(|name| format!("{}{name}", direction.prefix)));
    }
    Ok(names)
}

/// Starts one of the programs on both sides.
pub fn start(
    session: &Session,
    direction: &Direction,
    program: &str,
    extra: &[String],
) -> Result<(Process, Process)> {
    let (server, client) = (direction.server, direction.client);
    let (port, reached) = server.control_ports(session)?;
    let argv = |mode: &str, peer: Place, control: &[String]| -> Vec<String> {
        let words = [
            program.to_owned(),
            format!("--mode={mode}"),
            format!("--peer-cid={}", peer.cid()),
        ];
        words.iter().chain(control).chain(extra).cloned().collect()
    };
    let control = [format!("--control-port={port}")];
    let server_process = server.spawn(session, &argv("server", client, &control))?;
    // The client tries once: the server must listen by then.
    wait_for_listener(session, server, port)?;
    // A guest knows the host by another address.
    let host = if client == Place::Host {
        "127.0.0.1"
    } else {
        "10.0.2.2"
    };
    let control = [
        format!("--control-host={host}"),
        format!("--control-port={reached}"),
    ];
    let client_process = client.spawn(session, &argv("client", server, &control))?;
    Ok((server_process, client_process))
}

/// Waits until both sides have ended well; at the failure of one says what the other has to say.
pub fn both(server: &Process, client: &Process, timeout: Duration) -> Result<()> {
    for (side, other) in [(client, server), (server, client)] {
        if let Err(error) = side.success(timeout) {
            let _ = other.wait(LAST_WORDS);
            bail!("{error:#} || the other side: {}", tail(&other.text()));
        }
    }
    Ok(())
}

/// Waits until a TCP port is listened on, without connecting to it (which the server would take for its client).
fn wait_for_listener(session: &Session, place: Place, port: u16) -> Result<()> {
    let hex = format!(":{port:04X} 00000000:0000 0A");
    for _ in 0..200 {
        let table = match place.find(session)? {
            (session, Side::Guest) => session.guest_sh("cat /proc/net/tcp")?,
            (_, Side::Host) => std::fs::read_to_string("/proc/net/tcp")?,
        };
        if table.contains(&hex) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("nobody listens on the control port {port} at the place {place:?}")
}

/// Runs what is left of one direction's tests, and takes out of `left` what has a result.
pub fn run(session: &mut Session, direction: &Direction, left: &mut Vec<String>) -> Result<()> {
    session.ensure_guest()?;
    let prefix = direction.prefix;
    let diag = format!("{prefix}{DIAG}");
    // First, while no socket of an earlier test is still closing.
    if left.contains(&diag) {
        let begin = Instant::now();
        session.events.start(&diag);
        let outcome = start(session, direction, DIAG, &[])
            .and_then(|(server, client)| both(&server, &client, SILENCE));
        let outcome = session.settle(outcome);
        return finish(session, left, &diag, begin, outcome);
    }

    let numbers = list(&session.config.programs.join(direction.program))?;
    let mut mine: Vec<_> = numbers
        .iter()
        .filter(|(_, name)| left.iter().any(|l| l.strip_prefix(prefix) == Some(name)))
        .collect();
    ensure!(
        !mine.is_empty(),
        "{} has none of the tests {left:?}",
        direction.program
    );
    if let Some(at) = mine.iter().position(|(_, name)| name == LEAVES_REQUESTS) {
        mine.truncate(at + 1);
    }
    let picks: Vec<_> = mine.iter().map(|(id, _)| format!("--pick={id}")).collect();
    let (server, client) = start(session, direction, direction.program, &picks)?;
    let mut begin = Instant::now();
    let mut announced = String::new();
    let silence = SILENCE * session.config.guest.slowness();
    let mut one_ended: Option<Instant> = None;
    loop {
        // Before what they have said is looked at, which is all of it then.
        let ended = [&client, &server].map(|side| side.ended());
        let (one, other) = (results(&client.text()), results(&server.text()));
        for (name, passed) in &one {
            let full = format!("{prefix}{name}");
            if !left.contains(&full) {
                continue;
            }
            if announced != full {
                session.events.start(&full);
                announced.clone_from(&full);
            }
            if *passed && other.iter().any(|(n, p)| n == name && *p) {
                let outcome = session.check_log(Ok(()));
                finish(session, left, &full, begin, outcome)?;
                begin = Instant::now();
            }
        }
        let is_left = |name: &String| left.iter().any(|l| l.strip_prefix(prefix) == Some(name));
        if !mine.iter().any(|(_, name)| is_left(name)) {
            // They say goodbye to each other; a failure there is nobody's test, and still one.
            return both(&server, &client, SILENCE);
        }
        if ended.contains(&true) {
            one_ended.get_or_insert_with(Instant::now);
        }
        // The other may be about to say the same.
        let failed = one_ended.is_some_and(|since| since.elapsed() > allowed(LAST_WORDS));
        if ended == [true; 2] || failed || begin.elapsed() > silence || session.machine().is_err() {
            let current = left
                .iter()
                .find(|l| **l == announced)
                .or(left.first())
                .cloned();
            let (name, why) = RACES;
            if current.as_ref().is_some_and(|c| c.ends_with(name))
                && client.text().contains(why)
                && RACES_LOST.fetch_add(1, Ordering::Relaxed) < RACES_MAX
            {
                client.kill();
                server.kill();
                session.events.note(format!("{name:?} is run again: {why}"));
                session.discard_guest();
                return Ok(());
            }
            let why = anyhow::anyhow!(
                "client: {} || server: {}",
                tail(&client.text()),
                tail(&server.text())
            );
            client.kill();
            server.kill();
            let outcome = session.settle(Err(why));
            session.discard_guest();
            return finish(session, left, &current.unwrap_or(announced), begin, outcome);
        }
        std::thread::sleep(Duration::from_millis(30));
    }
}

fn finish(
    session: &Session,
    left: &mut Vec<String>,
    test: &str,
    begin: Instant,
    outcome: Result<()>,
) -> Result<()> {
    match outcome {
        Err(e) if Session::is_rig_death(&e) => Err(e),
        outcome => {
            left.retain(|l| l != test);
            session.events.end(test, begin.elapsed(), outcome);
            Ok(())
        }
    }
}

/// The tests that the program has begun, and whether it has gone on to the next: at a failure it ends instead.
fn results(text: &str) -> Vec<(String, bool)> {
    let mut tests: Vec<(String, bool)> = Vec::new();
    for line in text.lines() {
        let begun = line
            .split_once(" - ")
            .filter(|(id, _)| id.parse::<u32>().is_ok());
        let begun = begun.and_then(|(_, rest)| rest.split_once("..."));
        if begun.is_some() || line.starts_with("All tests have been executed") {
            if let Some(last) = tests.last_mut() {
                last.1 = true;
            }
        }
        if let Some((name, outcome)) = begun {
            if outcome != "skipped" {
                tests.push((name.to_owned(), false));
            }
        } else if line == "skipped" {
            tests.pop();
        }
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_as_they_come() {
        let text = "Control socket connected\n0 - SOCK_STREAM connection reset...a word\nok\n1 - X...skipped\n2 - SOCK_STREAM MSG_PEEK...";
        let reset = "SOCK_STREAM connection reset".to_owned();
        assert_eq!(
            results(text),
            [
                (reset.clone(), true),
                ("SOCK_STREAM MSG_PEEK".to_owned(), false)
            ]
        );
        assert_eq!(
            results("0 - SOCK_STREAM connection reset...ok\n"),
            [(reset.clone(), false)]
        );
        assert_eq!(
            results("0 - SOCK_STREAM connection reset...ok\nAll tests have been executed."),
            [(reset, true)]
        );
    }
}
