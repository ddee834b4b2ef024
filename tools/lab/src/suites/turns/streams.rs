// SPDX-License-Identifier: GPL-2.0

//! Streams of the guest's that go on, what the host reads of them, and how fast.

use std::{
    io::{self, Read},
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc, Mutex, PoisonError,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Result};

use crate::{
    process::{allowed, Process},
    session::{Session, Side},
    suites::{our_device::listen, LONG},
};

/// A port of the host's where everything is read, counted and checked.
pub struct Reader {
    pub port: u32,
    bytes: Arc<AtomicU64>,
    wrong: Arc<Mutex<Option<String>>>,
}

/// What counts as it is read.
struct Counting<R>(R, Arc<AtomicU64>);

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(buffer)?;
        self.1.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl Reader {
    pub fn new(s: &mut Session) -> Result<Self> {
        let (port, listener) = listen(s)?;
        let (bytes, wrong) = (Arc::<AtomicU64>::default(), Arc::<Mutex<_>>::default());
        let reader = Self {
            port,
            bytes: bytes.clone(),
            wrong: wrong.clone(),
        };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (bytes, wrong) = (bytes.clone(), wrong.clone());
                thread::spawn(move || {
                    let outcome = guest::stream::receive_pattern(&mut Counting(stream, bytes), 0);
                    // One that is killed may end by a reset.
                    let Err(e) = outcome else { return };
                    if e.downcast_ref::<io::Error>().is_none() {
                        *wrong.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some(format!("{e:#}"));
                    }
                });
            }
        });
        Ok(reader)
    }

    /// How many bytes have come.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What has come is what was sent.
    pub fn is_right(&self) -> Result<()> {
        match &*self.wrong.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => bail!("port {}: {why}", self.port),
            None => Ok(()),
        }
    }

    /// A program in the guest that sends so many bytes here, with further options of `send`.
    pub fn sender(&self, s: &Session, bytes: u64, options: &str) -> Result<Process> {
        let command = format!(
            "send --cid 2 --port {} --bytes {bytes} {options}",
            self.port
        );
        s.rvtest(Side::Guest, &command)
    }

    /// One that has no end.
    pub fn endless(&self, s: &Session, options: &str) -> Result<Process> {
        self.sender(s, 1 << 40, options)
    }

    /// Waits until nothing has come for a second; how many bytes had come by then.
    pub fn stands_still(&self) -> Result<u64> {
        let deadline = Instant::now() + LONG;
        loop {
            let before = self.bytes();
            thread::sleep(Duration::from_secs(1));
            if self.bytes() == before {
                return Ok(before);
            }
            ensure!(
                Instant::now() < deadline,
                "port {}: bytes come on and on",
                self.port
            );
        }
    }

    /// Waits until more than so many bytes have come.
    pub fn has_more_than(&self, bytes: u64, time: Duration) -> Result<()> {
        let deadline = Instant::now() + allowed(time);
        while self.bytes() <= bytes {
            self.is_right()?;
            ensure!(
                Instant::now() < deadline,
                "port {}: {} bytes came within {time:?}, and more than {bytes} were to",
                self.port,
                self.bytes()
            );
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// How many bytes come in a second, to each, within `time`.
pub fn rates(readers: &[&Reader], time: Duration) -> Result<Vec<f64>> {
    let (start, before) = (
        Instant::now(),
        readers.iter().map(|r| r.bytes()).collect::<Vec<_>>(),
    );
    thread::sleep(time);
    let seconds = start.elapsed().as_secs_f64();
    readers
        .iter()
        .zip(before)
        .map(|(r, before)| {
            r.is_right()?;
            Ok((r.bytes() - before) as f64 / seconds)
        })
        .collect()
}
