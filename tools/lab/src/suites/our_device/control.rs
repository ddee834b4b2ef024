// SPDX-License-Identifier: GPL-2.0

//! The device's control socket, and what both ends count.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
};

use anyhow::{bail, Context, Result};
use serde_json::Value;

use super::STALL;
use crate::{process::allowed, session::Session};

/// A connection to the control socket.
pub struct Control(BufReader<UnixStream>);

impl Control {
    pub fn new(s: &Session) -> Result<Self> {
        let stream = UnixStream::connect(s.config.vhost_user_control())
            .context("the control socket does not answer")?;
        stream.set_read_timeout(Some(allowed(STALL)))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Gives a command, and what the device says to it.
    pub fn try_say(&mut self, command: &str) -> Result<String> {
        let mut answer = String::new();
        self.0
            .get_mut()
            .write_all(format!("{command}\n").as_bytes())?;
        self.0
            .read_line(&mut answer)
            .with_context(|| format!("waiting for the answer to {command:?}"))?;
        Ok(answer.trim_end().to_owned())
    }

    /// The same; the device must do it.
    pub fn say(&mut self, command: &str) -> Result<String> {
        let answer = self.try_say(command)?;
        match answer.strip_prefix("ok") {
            Some(rest) => Ok(rest.trim_start().to_owned()),
            None => bail!("the device answered {answer:?} to {command:?}"),
        }
    }
}

/// Gives one command.
pub fn say(s: &Session, command: &str) -> Result<String> {
    Control::new(s)?.say(command)
}

/// Runs `body` while the device takes nothing from a queue.
pub fn paused<T>(
    s: &mut Session,
    queue: &str,
    body: impl FnOnce(&mut Session) -> Result<T>,
) -> Result<T> {
    say(s, &format!("pause {queue}"))?;
    let outcome = body(s);
    say(s, &format!("resume {queue}"))?;
    outcome
}

/// What the device has counted, by the guests' CIDs.
pub fn counters(s: &Session) -> Result<Value> {
    let text = say(s, "counters")?;
    serde_json::from_str(&text).with_context(|| format!("the counters {text:?}"))
}

/// What the driver shows of itself: a name and a number in each line.
pub fn stats(s: &Session) -> Result<BTreeMap<String, u64>> {
    let text = s.guest_sh("cat /sys/kernel/debug/rvsock/stats")?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect())
}
