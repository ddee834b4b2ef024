// SPDX-License-Identifier: GPL-2.0

//! connect(), interrupted by a signal: what becomes of a connection that the peer has accepted meanwhile.

use std::{
    io,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};
use clap::ValueEnum;
use nix::sys::pthread::pthread_self;

use crate::{
    signals,
    socket::{Kind, Peer, Socket, DEFAULT_BUFFER},
};

/// What the client does after connect() was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Then {
    /// Calls it again at once.
    Again,
    /// Calls it again when the peer has long answered.
    Later,
    /// Calls it again for another port of the same server.
    Elsewhere,
    /// Closes the socket.
    Close,
    /// Keeps the socket and does nothing.
    Nothing,
}

/// The peer has surely answered by then.
const LATER: Duration = Duration::from_millis(30);

/// No number of calls that are too few is waited for longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The connections that the server has.
#[derive(Default)]
struct Known {
    accepted: AtomicU64,
    open: AtomicU64,
    /// Ended before the client had said a word.
    silent: AtomicU64,
}

/// Greets whoever connects to `port`, or to the second after it, and answers once; tells on the port between
/// them what became of the others.
pub fn server(port: u32) -> Result<()> {
    let listeners = [0, 1, 2].map(|i| Socket::listening(Kind::Stream, DEFAULT_BUFFER, port + i));
    let [first, asked, second] = listeners;
    let (first, asked, second) = (first?, asked?, second?);
    println!("READY {port}");
    let known = Known::default();
    thread::scope(|scope| -> Result<()> {
        for listener in [first, second] {
            let known = &known;
            scope.spawn(move || loop {
                let Ok(socket) = listener.accept() else {
                    return;
                };
                known.accepted.fetch_add(1, Ordering::SeqCst);
                known.open.fetch_add(1, Ordering::SeqCst);
                scope.spawn(move || {
                    if serve(&socket).is_err() {
                        known.silent.fetch_add(1, Ordering::SeqCst);
                    }
                    known.open.fetch_sub(1, Ordering::SeqCst);
                });
            });
        }
        loop {
            let client = asked.accept()?;
            for count in [&known.accepted, &known.open, &known.silent] {
                client.say(&count.load(Ordering::SeqCst).to_string())?;
            }
        }
    })
}

fn serve(socket: &Socket) -> Result<()> {
    socket.say("hello")?;
    socket.hear("thanks")?;
    socket.say("bye")
}

/// Calls connect() until so many calls were interrupted, and does what is to be done `then`.
///
/// With `lossy` this side's kernel may reset what was interrupted, but must connect anew.
pub fn client(peer: Peer, times: u64, then: Then, lossy: bool) -> Result<()> {
    signals::allow()?;
    let (begin, begun) = mpsc::channel();
    let (end, ended) = mpsc::channel();
    let me = pthread_self();
    thread::scope(|scope| {
        scope.spawn(move || {
            for delay in begun {
                thread::sleep(delay);
                signals::interrupt(me).expect("the main thread lives");
                end.send(()).expect("the main thread waits");
            }
        });
        let mut delays = (0..20).cycle().map(|i| Duration::from_micros(10 * i));
        let interrupted = Interrupted { begin, ended, peer };
        interrupted.run(&mut delays, times, then, lossy)
    })
}

fn is(error: &anyhow::Error, errno: i32) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|e| e.raw_os_error() == Some(errno))
}

struct Interrupted {
    /// Has the calling thread interrupted, after a while.
    begin: Sender<Duration>,
    ended: Receiver<()>,
    peer: Peer,
}

impl Interrupted {
    /// Calls connect(); returns whether it was interrupted.
    fn connect(&self, socket: &Socket, delay: Duration) -> Result<bool> {
        self.begin.send(delay)?;
        let outcome = socket.try_connect(self.peer);
        self.ended.recv()?;
        // A signal that comes only now interrupts nothing that matters.
        thread::yield_now();
        match outcome {
            Ok(()) => Ok(false),
            Err(e) if e.raw_os_error() == Some(libc::EINTR) => Ok(true),
            Err(e) => Err(e).context("connect"),
        }
    }

    fn run(
        &self,
        delays: &mut impl Iterator<Item = Duration>,
        times: u64,
        then: Then,
        lossy: bool,
    ) -> Result<()> {
        let start = Instant::now();
        let (mut interrupted, mut sockets, mut kept) = (0, 0, Vec::new());
        while interrupted < times {
            ensure!(
                start.elapsed() < PATIENCE,
                "{interrupted} calls for {sockets} sockets were interrupted"
            );
            let socket = Socket::plain(Kind::Stream)?;
            sockets += 1;
            let wanted = loop {
                match self.connect(&socket, delays.next().unwrap_or_default()) {
                    Ok(false) => break true,
                    Ok(true) => {}
                    // What was interrupted had been accepted, and its first bytes came before the next answer.
                    Err(e) if lossy && is(&e, libc::EPROTO) => break false,
                    Err(e) => return Err(e),
                }
                interrupted += 1;
                let peer = match then {
                    Then::Again => continue,
                    Then::Close | Then::Nothing => break false,
                    Then::Elsewhere => self.port(2),
                    Then::Later => {
                        thread::sleep(LATER);
                        self.peer
                    }
                };
                socket.try_connect(peer).context("connect, again")?;
                break true;
            };
            if wanted {
                talk(&socket, self.peer)?;
            } else if then == Then::Nothing {
                kept.push(socket);
            }
        }
        let [accepted, silent] = self.settled()?;
        println!(
            "OK sockets={sockets} interrupted={interrupted} accepted={accepted} silent={silent}"
        );
        let kept_all = accepted == sockets && silent == 0;
        ensure!(
            kept_all || lossy || !matches!(then, Then::Again | Then::Later),
            "of {accepted} connections of {sockets} sockets {silent} were lost"
        );
        Ok(())
    }

    fn port(&self, offset: u32) -> Peer {
        Peer {
            port: self.peer.port + offset,
            ..self.peer
        }
    }

    /// Waits until nothing is open on the server; how many it has accepted, and how many ended in silence.
    fn settled(&self) -> Result<[u64; 2]> {
        let start = Instant::now();
        loop {
            let server = Socket::connected(Kind::Stream, DEFAULT_BUFFER, self.port(1))?;
            let mut counts = [0; 3];
            for count in &mut counts {
                *count = server.word()?.parse()?;
            }
            let [accepted, open, silent] = counts;
            if open == 0 {
                return Ok([accepted, silent]);
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "{open} connections are still open on the other side"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// It is connected in every respect.
fn talk(socket: &Socket, peer: Peer) -> Result<()> {
    let again = socket.try_connect(peer).map_err(|e| e.raw_os_error());
    ensure!(
        again == Err(Some(libc::EISCONN)),
        "connect() of a connected socket gives {again:?}"
    );
    socket.hear("hello")?;
    socket.say("thanks")?;
    socket.hear("bye")
}
