// SPDX-License-Identifier: GPL-2.0

//! The rules: who may send how much, what a packet does to a connection, and what is stored where.
//!
//! Source: virtio 1.3, section "Socket Device", "Device Operation". The rules bear the numbers that
//! Documentation/ gives them: C for connections, K for credit, D for datagrams, M for mergeable
//! buffers, H for the host as an adversary.
//!
//! This room is pure, like [`crate::wire`]: only `core`, no `unsafe`, no panic on any input. It does
//! nothing itself: it is asked under the caller's lock, and answers what is to be done. It has no clock either.
//!
//! What is one connection's is an [`Endpoint`]; whom a packet is for says [`route()`].

#![deny(unsafe_code)]

mod actions;
mod bundle;
mod connection;
mod cork;
mod credit;
mod dgram;
mod endpoint;
mod fair;
mod mergeable;
mod profile;
mod route;
mod storage;
mod supply;
mod turns;
mod underway;

pub use self::actions::{
    Actions,
    Control,
    SockError, //
};
pub use self::bundle::Mark;
pub use self::connection::{
    reset_reply,
    Connection,
    State, //
};
pub use self::cork::{
    After,
    Cork, //
};
pub use self::credit::{
    Advertised,
    Credit, //
};
pub use self::dgram::{
    datagram,
    is_destination,
    takes,
    Candidates,
    Datagram,
    DGRAM_MAX,
    LAST_RESERVED_PORT,
    PORT_ANY, //
};
pub use self::endpoint::{
    Endpoint,
    Retry,
    SendError,
    Time, //
};
pub use self::fair::{
    cost,
    Fair,
    Place,
    Share, //
};
pub use self::mergeable::{
    Assembly,
    Fault,
    Used, //
};
pub use self::profile::{
    after_no_five_queues,
    first_attempt,
    Choice,
    Dialect,
    Feature,
    Profile,
    Queues, //
};
pub use self::route::{
    route,
    Route,
    Stray, //
};
pub use self::storage::{
    may_take_pages,
    smaller,
    store,
    Arrival,
    Empties,
    Store, //
};
pub use self::supply::Supply;
pub use self::turns::{
    flow,
    mix,
    Backoff,
    LOOK_INTERVAL, //
};
pub use self::underway::{
    Start,
    Timer,
    Underway, //
};

// What the tests look into.
#[allow(unused_imports)]
pub use self::{
    credit::{
        Overrun,
        RxCredit,
        TxCredit, //
    },
    profile::Attempt,
    route::Destination,
    storage::held_at_most, //
};
