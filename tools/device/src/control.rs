// SPDX-License-Identifier: GPL-2.0

//! The control socket: one command per line, one line as the answer, which begins with `ok` or `error`.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::{channel, RecvTimeoutError},
        Arc,
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use log::warn;
use serde_json::{Map, Value};

use crate::{
    command::{number, Command, Injection},
    fault::Queue,
    host,
    packet::reserved,
    switch::{Shared, Switch},
};

/// A line with a packet of 64 KiB in hexadecimal digits, and room to spare.
const LONGEST_LINE: u64 = 256 << 10;
/// Connections at a time.
const MAX_CLIENTS: usize = 16;
/// How long a guest's thread may take for a command.
const PATIENCE: Duration = Duration::from_secs(5);

const HELP: &str = "counters | reset [cid=N] | become cid=N | abort PORT | pause QUEUE | resume QUEUE | drop QUEUE N | delay QUEUE MS | pace tx MS | loud rx on | forget tx | \
    inject QUEUE [FIELD=N...] [data=HEX | zeros=N] [raw=HEX] [spread=N,N...] [used=N,N...] [head=N] | help; \
    QUEUE is one of rx tx dgram-rx dgram-tx event; guest=CID picks a guest, and without it all are meant";

/// Listens for commands for as long as the process lives.
pub fn start(path: &Path, switch: Arc<Switch>) -> Result<()> {
    host::make_way(path)?;
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let clients = Arc::new(AtomicUsize::new(0));
    thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else {
                    thread::sleep(Duration::from_millis(100));
                    continue;
                };
                if clients.fetch_add(1, Ordering::Relaxed) >= MAX_CLIENTS {
                    clients.fetch_sub(1, Ordering::Relaxed);
                    let _ = (&stream).write_all(b"error too many connections\n");
                    continue;
                }
                let (switch, count) = (switch.clone(), clients.clone());
                let spawned = thread::Builder::new().spawn(move || {
                    let _ = serve(stream, &switch);
                    count.fetch_sub(1, Ordering::Relaxed);
                });
                if let Err(e) = spawned {
                    warn!("control: {e}");
                    clients.fetch_sub(1, Ordering::Relaxed);
                }
            }
        })?;
    Ok(())
}

fn serve(stream: UnixStream, switch: &Switch) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    loop {
        line.clear();
        let n = reader.by_ref().take(LONGEST_LINE).read_line(&mut line)?;
        if n == 0 {
            return Ok(());
        }
        if !line.ends_with('\n') && n as u64 == LONGEST_LINE {
            return (&stream).write_all(b"error the line is too long\n");
        }
        let answer = match obey(line.trim(), switch) {
            Ok(answer) if answer.is_empty() => "ok\n".into(),
            Ok(answer) => format!("ok {answer}\n"),
            Err(e) => format!("error {e}\n"),
        };
        (&stream).write_all(answer.as_bytes())?;
    }
}

/// A command's words: those with `=` by name, the others in their order.
struct Words<'a> {
    plain: Vec<&'a str>,
    named: Vec<(&'a str, &'a str)>,
}

impl<'a> Words<'a> {
    fn new(line: &'a str) -> Self {
        let (mut plain, mut named) = (Vec::new(), Vec::new());
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some(pair) => named.push(pair),
                None => plain.push(word),
            }
        }
        Self { plain, named }
    }

    /// Takes a number by its name.
    fn take(&mut self, name: &str) -> Result<Option<u64>, String> {
        let Some(at) = self.named.iter().position(|n| n.0 == name) else {
            return Ok(None);
        };
        let (_, value) = self.named.remove(at);
        number(value).map(Some)
    }
}

fn queue(name: &str) -> Result<Queue, String> {
    let found = Queue::ALL.iter().find(|q| q.0 == name);
    found
        .map(|q| q.1)
        .ok_or_else(|| format!("{name:?} is none of rx, tx, dgram-rx, dgram-tx, event"))
}

fn obey(line: &str, switch: &Switch) -> Result<String, String> {
    let mut words = Words::new(line);
    let guests = match words.take("guest")? {
        Some(cid) => vec![switch
            .find(cid)
            .ok_or_else(|| format!("no guest has CID {cid}"))?],
        None => switch.guests(),
    };
    let plain = std::mem::take(&mut words.plain);
    let command = match plain.as_slice() {
        ["help"] => return Ok(HELP.into()),
        ["counters"] => return Ok(counters(&guests)),
        ["reset"] => {
            if let Some(cid) = words.take("cid")? {
                renumber(switch, &guests, cid)?;
            }
            Command::Reset
        }
        ["become"] => {
            let cid = words.take("cid")?.ok_or("become needs cid=N")?;
            renumber(switch, &guests, cid)?;
            Command::Become
        }
        ["abort", port] => {
            let port = u32::try_from(number(port)?).map_err(|_| "that is no port")?;
            Command::Abort(port)
        }
        ["pause", q] => Command::Pause(queue(q)?, true),
        ["resume", q] => Command::Pause(queue(q)?, false),
        ["drop", q, n] => Command::Drop(queue(q)?, number(n)?),
        ["delay", q, ms] => {
            Command::Delay(queue(q)?, Duration::from_millis(number(ms)?.min(60_000)))
        }
        ["pace", "tx", ms] => {
            Command::Pace(Queue::Tx, Duration::from_millis(number(ms)?.min(60_000)))
        }
        ["forget", "tx"] => Command::Forget(Queue::Tx),
        ["loud", "rx", on @ ("on" | "off")] => Command::Loud(Queue::Rx, *on == "on"),
        ["inject", q] => Command::Inject(
            queue(q)?,
            Injection::parse(&std::mem::take(&mut words.named))?,
        ),
        [] => return Err("an empty line; try help".into()),
        _ => return Err(format!("{line:?} is no command; try help")),
    };
    if let Some((name, _)) = words.named.first() {
        return Err(format!("{name}= has no meaning here"));
    }
    for guest in guests {
        ask(&guest, command.clone())?;
    }
    Ok(String::new())
}

/// Gives the one guest another CID.
fn renumber(switch: &Switch, guests: &[Arc<Shared>], cid: u64) -> Result<(), String> {
    let [guest] = guests else {
        return Err("cid=N needs guest=CID, since there are several".into());
    };
    if reserved(cid) {
        return Err(format!("CID {cid} is reserved"));
    }
    switch.renumber(guest, cid)
}

/// Has a guest's thread do it, and waits for that.
fn ask(guest: &Shared, command: Command) -> Result<(), String> {
    if !guest.connected() {
        // A driver that comes later finds everything new; only what it would be told now is missing.
        return match command {
            Command::Reset | Command::Become => Ok(()),
            _ => Err(format!("nobody is connected to {}", guest.name)),
        };
    }
    let (answer, wait) = channel();
    guest.command(command, answer);
    match wait.recv_timeout(PATIENCE) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => Err(format!("{} does not answer", guest.name)),
        Err(RecvTimeoutError::Disconnected) => Err(format!("{} has disconnected", guest.name)),
    }
}

fn counters(guests: &[Arc<Shared>]) -> String {
    let mut all = Map::new();
    for guest in guests {
        let mut map = guest.counters.json();
        map.insert("running".into(), guest.running().into());
        map.insert("features".into(), guest.features().into());
        all.insert(guest.cid().to_string(), map.into());
    }
    Value::from(all).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch() -> Switch {
        let switch = Switch::default();
        for cid in [3, 4] {
            switch.add(Arc::new(Shared::new(format!("/run/{cid}"), cid).unwrap()));
        }
        switch
    }

    #[test]
    fn commands_that_are_none() {
        let switch = switch();
        for bad in [
            "",
            "pause",
            "pause all",
            "drop rx",
            "drop rx -1",
            "delay rx soon",
            "pace rx 1",
            "pace tx",
            "forget rx",
            "loud rx",
            "loud tx on",
            "reset cid=9",
            "reset cid=2 guest=3",
            "reset cid=4 guest=3",
            "reset guest=7",
            "reset color=red",
            "become",
            "become cid=2 guest=3",
            "abort",
            "abort 4294967296",
            "counters guest=5",
            "inject rx color=red",
            "pause rx guest=3",
        ] {
            assert!(obey(bad, &switch).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_new_cid() {
        let switch = switch();
        assert_eq!(obey("reset guest=3 cid=0x10", &switch), Ok(String::new()));
        assert!(switch.find(3).is_none() && switch.find(16).is_some());
        let counters = obey("counters guest=16", &switch).unwrap();
        let json: Value = serde_json::from_str(&counters).unwrap();
        assert_eq!(json["16"]["rx_packets"], 0);
    }
}
