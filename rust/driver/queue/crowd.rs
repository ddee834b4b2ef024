// SPDX-License-Identifier: GPL-2.0

//! All datagram sockets as one sender, where their packets share a queue with those of connections.
//!
//! Together they have the share of one connection (G8), however many sockets there are: who has many gets no more by
//! that. Among themselves they are first in, first out, as on a queue of their own.

use super::{
    backlog::Backlog,
    packet::Sender, //
};
use crate::proto::Advertised;
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// Who sends the datagrams of all sockets.
#[pin_data]
pub(in crate::driver) struct Crowd {
    /// What bounds a connection's memory is not asked here: sockets have their send buffers, and all together
    /// [`Bound`](super::bound::Bound).
    #[pin]
    backlog: Backlog,
}

impl Crowd {
    /// Nothing is sent yet.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(in crate::driver) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                backlog <- Backlog::new(0),
            }),
            GFP_KERNEL,
        )
    }
}

impl Sender for Crowd {
    fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// There is no credit for datagrams (G3).
    fn advertise(&self, _last: bool) -> Option<Advertised> {
        Some(Advertised {
            buf_alloc: 0,
            fwd_cnt: 0,
        })
    }

    /// The kernel wakes who waits for room in a socket's send buffer.
    fn taken(&self) {}

    /// One that is lost keeps no other back.
    fn begin_gap(&self) {}

    fn update_left(&self) {}
}
