// SPDX-License-Identifier: GPL-2.0

//! What is decided, and not yet carried out.

use super::{
    Conn,
    Inner, //
};
use crate::proto::Actions;
use core::ops::{
    Deref,
    DerefMut, //
};

/// What the rules have decided, for whoever asked them to carry out. While it is of a connection's end, no other begins:
/// what ends the one would end the other as well.
#[must_use]
pub(super) struct Decided<'a> {
    conn: &'a Conn,
    actions: Actions,
    is_end: bool,
}

impl<'a> Decided<'a> {
    /// `actions` for `conn`, decided under its lock, which guards `inner`.
    pub(super) fn new(conn: &'a Conn, inner: &mut Inner, actions: Actions) -> Self {
        let is_end = actions.are_of_an_end();
        if is_end {
            inner.ending = inner.ending.saturating_add(1);
        }
        Self {
            conn,
            actions,
            is_end,
        }
    }
}

impl Deref for Decided<'_> {
    type Target = Actions;

    fn deref(&self) -> &Actions {
        &self.actions
    }
}

impl DerefMut for Decided<'_> {
    fn deref_mut(&mut self) -> &mut Actions {
        &mut self.actions
    }
}

impl Drop for Decided<'_> {
    fn drop(&mut self) {
        if self.is_end {
            let mut inner = self.conn.inner.lock();
            inner.ending = inner.ending.saturating_sub(1);
        }
    }
}
