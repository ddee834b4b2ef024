// SPDX-License-Identifier: GPL-2.0

//! What debugfs shows of a connection: a line.

use super::{
    Conn,
    Key, //
};
use crate::{
    proto::{
        Endpoint,
        State, //
    },
    wire::SocketType, //
};
use kernel::{
    fmt,
    sync::atomic::Relaxed, //
};

/// A connection at one moment: what follows from it is formatted with nothing locked.
struct Moment {
    end: Endpoint,
    addresses: Key,
}

/// The type of a connection's socket, as it is shown.
fn type_name(ty: SocketType) -> &'static str {
    match ty {
        SocketType::Stream => "stream",
        SocketType::Seqpacket => "seqpacket",
        SocketType::Dgram => "dgram",
    }
}

/// Where a connection stands, as it is shown.
fn state_name(end: &Endpoint) -> &'static str {
    match end.state() {
        _ if end.is_abandoned() => "given-up",
        State::Idle => "idle",
        State::Connecting => "connecting",
        State::Established => "established",
        State::Draining => "draining",
        State::Closing => "closing",
        State::Closed => "closed",
    }
}

impl Conn {
    /// Counts a packet of the peer's that was dropped.
    ///
    /// # Context
    ///
    /// Any.
    pub(super) fn count_drop(&self) {
        self.dropped.add(1u32, Relaxed);
    }

    /// Shows the connection as a line of names and values, of which sizes are bytes of payload if nothing else is
    /// said. `cid` is this machine's.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Conn::inner`, and nothing while it formats.
    ///
    /// # Errors
    ///
    /// What `f` returns.
    pub(in crate::driver) fn show(&self, cid: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Moment { end, addresses } = {
            let inner = self.inner.lock();
            Moment {
                end: inner.end,
                addresses: inner.addresses(),
            }
        };
        let Key { peer, local_port } = addresses;
        let (tx, rx) = (&end.credit().tx, &end.credit().rx);
        let (waiting, memory) = self.backlog.waiting();
        write!(
            f,
            "local={cid}:{local_port} peer={}:{}",
            peer.cid, peer.port
        )?;
        write!(f, " type={} state={}", type_name(self.ty), state_name(&end))?;
        let (own, peers) = (end.local_shutdown(), end.peer_shutdown());
        write!(f, " shut={} peer_shut={}", own.as_raw(), peers.as_raw())?;
        write!(f, " may_send={} in_flight={}", tx.free(), tx.in_flight())?;
        let (peer_free, buf_alloc) = (rx.peer_free(), rx.buf_alloc());
        write!(f, " peer_may_send={peer_free} buf_alloc={buf_alloc}")?;
        write!(f, " unread={} messages={}", end.unread(), end.messages())?;
        let unsent = self.backlog.unsent();
        write!(
            f,
            " unsent={unsent} waiting={waiting} waiting_memory={memory}"
        )?;
        writeln!(f, " dropped={}", self.dropped.load(Relaxed))
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(rvsock_conn_show)]
mod tests {
    use super::*;
    use crate::{
        ext::net::vsock::Addr,
        wire::{
            Header,
            Op,
            ShutdownFlags, //
        },
    };
    use kernel::{
        prelude::*,
        str::CString, //
    };

    /// The line of a connection.
    struct Line<'a>(&'a Conn);

    impl fmt::Display for Line<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.show(3, f)
        }
    }

    #[test]
    fn t4_a_line_says_all_of_a_connection() -> Result {
        let conn = Conn::of_nobody()?;
        {
            let mut inner = conn.inner.lock();
            inner.local_port = 1024;
            inner.peer = Addr { cid: 2, port: 80 };
            let request = Header {
                op: Op::Request.into(),
                buf_alloc: 700,
                ..Header::default()
            };
            inner.end.accept(&request);
            let _ = inner.end.advertise(false, || false);
            assert_eq!(inner.end.reserve(200).ok(), Some(200));
            let payload = Header {
                op: Op::Rw.into(),
                len: 50,
                ..request
            };
            assert!(inner.end.on_packet(&payload, Op::Rw, false).deliver);
            let _ = inner.end.shutdown(ShutdownFlags::SEND);
        }
        conn.count_drop();
        let line = CString::try_from_fmt(fmt!("{}", Line(&conn)))?;
        let wanted = c"local=3:1024 peer=2:80 type=stream state=established shut=2 peer_shut=0 \
            may_send=500 in_flight=200 peer_may_send=650 buf_alloc=1000 unread=50 messages=0 \
            unsent=0 waiting=0 waiting_memory=0 dropped=1\n";
        assert!(*line == *wanted);
        Ok(())
    }
}
